//! Every registered coprocessor's bucket, and the one of `[s3_config]`.

use std::collections::BTreeSet;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::{DEADLINE, Finding, Severity};
use crate::{
    chain::reader::ChainReader,
    contracts::{abi::CiphertextSource, gateway_config::GatewayConfigAdapter},
    flow::ciphertexts::{
        BucketClient, FallbackStore, ProbeAnswer, ProbeResult, probe, probe_fallback,
    },
    time::clock,
};

const SUBJECT: &str = "bucket";
const CONCURRENCY: usize = 16;

/// The time in a server's `Date` header, and our time when it came.
#[derive(Clone, Debug)]
pub(super) struct ServerDate {
    pub host: String,
    /// Unix seconds.
    pub date: u64,
    pub at_ms: u64,
}

/// One finding per bucket. A failing bucket is a warning as long as another one works, because every
/// bucket holds the same ciphertexts.
pub(super) async fn diagnose_buckets<P: ChainReader>(
    registry: &GatewayConfigAdapter<P>,
    http: &BucketClient,
    source: CiphertextSource,
) -> (Vec<Finding>, Vec<ServerDate>) {
    if !registry.is_deployed() {
        return Default::default();
    }
    let urls = match timeout(DEADLINE, urls(registry)).await {
        Ok(Ok(urls)) => urls,
        Ok(Err(finding)) => return (vec![finding], Vec::new()),
        Err(_) => {
            let found = "the coprocessors could not be asked for in time";
            return (vec![Finding::fail(SUBJECT, found, "try again")], Vec::new());
        }
    };
    if urls.is_empty() {
        let found = "no coprocessor is registered with a bucket";
        let remedy = "correct gateway_config_address, or set [s3_config]";
        return (vec![Finding::warn(SUBJECT, found, remedy)], Vec::new());
    }
    // Collected first: otherwise the stream would have to name the closure's lifetime.
    let probes: Vec<_> = urls.iter().map(|url| ask(http, url, source)).collect();
    let probes: Vec<(ProbeResult, Option<ServerDate>)> =
        stream::iter(probes).buffered(CONCURRENCY).collect().await;
    let answering = probes.iter().filter(|(probed, _)| probed.outcome.is_ok()).count();
    let (probes, dates): (Vec<_>, Vec<_>) = probes.into_iter().unzip();
    let findings = probes.iter().map(|probed| judge(SUBJECT, probed, answering > 0));
    let mut findings: Vec<Finding> = findings.collect();
    if source == CiphertextSource::Attestation {
        findings.push(diagnose_consensus(registry, answering).await);
    }
    (findings, dates.into_iter().flatten().collect())
}

/// Whether enough coprocessors can agree about a ciphertext.
async fn diagnose_consensus<P: ChainReader>(
    registry: &GatewayConfigAdapter<P>,
    answering: usize,
) -> Finding {
    const SUBJECT: &str = "attestations";
    let registry = match timeout(DEADLINE, registry.coprocessor_registry()).await {
        Ok(Ok(registry)) => registry,
        Ok(Err(error)) => return Finding::fail(SUBJECT, error.to_string(), "try again"),
        Err(_) => {
            let found = "the coprocessors could not be asked for in time";
            return Finding::fail(SUBJECT, found, "try again");
        }
    };
    let registered = registry.members.len();
    let Some(threshold) = registry.threshold else {
        let found = format!(
            "the threshold of GatewayConfig is impossible for {registered} coprocessors: no \
             ciphertext is taken"
        );
        return Finding::fail(SUBJECT, found, "tell the owner of GatewayConfig");
    };
    let found = format!(
        "{threshold} of {registered} coprocessors must agree; {answering} of their buckets answer"
    );
    if answering < threshold.get() {
        return Finding::fail(SUBJECT, found, "see the buckets; tell the coprocessors' operators");
    }
    Finding::ok(SUBJECT, found)
}

async fn ask(
    http: &BucketClient,
    url: &str,
    source: CiphertextSource,
) -> (ProbeResult, Option<ServerDate>) {
    let probed = probe(http, url, source).await;
    let date = server_date(&probed);
    (probed, date)
}

/// Distinct bucket URLs.
async fn urls<P: ChainReader>(registry: &GatewayConfigAdapter<P>) -> Result<Vec<String>, Finding> {
    let failed = |error: String| {
        Finding::fail(SUBJECT, error, "try again; another gateway_url if it stays so")
    };
    let coprocessors = registry.coprocessors().await.map_err(|error| failed(error.to_string()))?;
    let mut urls = BTreeSet::new();
    for coprocessor in coprocessors {
        let url = registry.bucket_url(coprocessor).await;
        urls.extend(url.map_err(|error| failed(error.to_string()))?);
    }
    Ok(urls.into_iter().collect())
}

/// Probes the bucket of `[s3_config]`, if configured.
pub(super) async fn diagnose_fallback(
    http: &BucketClient,
    store: Option<&FallbackStore>,
) -> Option<(Finding, Option<ServerDate>)> {
    let probed = probe_fallback(http, store?).await;
    let date = server_date(&probed);
    Some((judge("s3_config", &probed, false), date))
}

fn judge(subject: &'static str, probed: &ProbeResult, others_work: bool) -> Finding {
    let shown = match &probed.proxy {
        Some(proxy) => format!("{} through the proxy {proxy}", probed.bucket),
        None => probed.bucket.clone(),
    };
    match &probed.outcome {
        Ok(ProbeAnswer::Status(status)) => {
            Finding::ok(subject, format!("{shown} answers (status {status})"))
        }
        Ok(ProbeAnswer::Denied(error)) => Finding::ok(
            subject,
            format!(
                "{shown} answers ({error}: as S3 does of an object that is not there, without \
                     s3:ListBucket)"
            ),
        ),
        Ok(ProbeAnswer::Doubtful(error)) => Finding::warn(
            subject,
            format!("{shown} answers: {error}"),
            probed.remedy.clone().unwrap_or_default(),
        ),
        Err(trouble) => Finding {
            verdict: if others_work { Severity::Warn } else { Severity::Fail },
            subject,
            found: format!("{shown}: {trouble}"),
            remedy: if let Some(remedy) = &probed.remedy {
                remedy.clone()
            } else if others_work {
                "other buckets have the same ciphertexts: tell the coprocessor's operator"
                    .to_owned()
            } else if subject == SUBJECT {
                "check the network and the proxy; tell the coprocessors' operators".to_owned()
            } else {
                "correct [s3_config], or check the network and the proxy".to_owned()
            },
        },
    }
}

fn server_date(probed: &ProbeResult) -> Option<ServerDate> {
    let date = httpdate::parse_http_date(probed.date.as_deref()?).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    let (host, at_ms) = (probed.bucket.clone(), clock::unix_millis());
    Some(ServerDate { host, date: since.as_secs(), at_ms })
}
