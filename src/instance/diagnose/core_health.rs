//! Probes the KMS Core: its health only.

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
        Ok(CoreHealth::Unknown) => Finding::warn(
            SUBJECT,
            format!("{name} answers, and does not report its health"),
            "nothing if it is an old Core without a health service; else correct kms_core_endpoint",
        ),
        Ok(CoreHealth::NotServing) => {
            Finding::fail(SUBJECT, format!("{name} says that it is not serving"), remedy)
        }
        Err(error) => Finding::fail(SUBJECT, format!("{name}: {error}"), remedy),
    }
}
