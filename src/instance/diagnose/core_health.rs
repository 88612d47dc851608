//! Probes the KMS Core: its health, and where it tells none whether it is one.

use super::Finding;
use crate::{
    flow::kms_core::{CoreHealth, KmsCore},
    instance::report,
};

pub(super) async fn diagnose_core(core: &KmsCore) -> Finding {
    const SUBJECT: &str = "KMS Core";
    let name = report::core_name(core);
    let remedy = "check the Core; correct kms_core_endpoint if it is wrong";
    match core.health().await {
        // The Core has no call for its version; its first answer shows the result encoding.
        Ok(CoreHealth::Serving) => Finding::ok(SUBJECT, format!("{name} is serving")),
        Ok(CoreHealth::Unknown) => match core.knows_decryptions().await {
            Ok(true) => Finding::warn(
                SUBJECT,
                format!("{name} answers, and does not report its health"),
                "nothing if it is an old Core without a health service",
            ),
            Ok(false) => Finding::fail(
                SUBJECT,
                format!("{name} answers and is no KMS Core: it knows no decryptions"),
                "correct kms_core_endpoint",
            ),
            Err(error) => Finding::fail(SUBJECT, format!("{name}: {error}"), remedy),
        },
        Ok(CoreHealth::NotServing) => {
            Finding::fail(SUBJECT, format!("{name} says that it is not serving"), remedy)
        }
        Err(error) => Finding::fail(SUBJECT, format!("{name}: {error}"), remedy),
    }
}
