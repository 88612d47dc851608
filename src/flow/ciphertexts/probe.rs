//! Checks whether a bucket answers: one GET of an object that does not exist, and a HEAD where coprocessors
//! are asked for attestations. Used by `check`; no request depends on it.

use std::time::Duration;

use reqwest::{StatusCode, header::DATE};
use tokio::time::timeout;

use super::{
    BucketClient, BucketError, FallbackStore, S3Error,
    bucket::{Bucket, Call},
    download::innermost_cause,
    object_key::Spelling,
    s3_error::{Code, S3ErrorKind},
};
use crate::{contracts::abi::CiphertextSource, domain::B256};

/// From connecting to the end of the response.
const PROBE_DEADLINE: Duration = Duration::from_secs(6);
/// A handle or digest that no stored object has.
const ABSENT: B256 = B256::ZERO;

/// The remedy for an answer that any web server may give.
const NO_BUCKET_AT_ALL: &str = "check that the URL is that of a bucket: S3 says NoSuchKey of an object \
                                that is not there";

/// The result of probing one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// Scheme, host and port.
    pub bucket: String,
    /// Host and port of the proxy on the way.
    pub proxy: Option<String>,
    pub outcome: Result<ProbeAnswer, BucketError>,
    /// What to do about it, if the bucket's answer tells.
    pub remedy: Option<String>,
    /// The server's clock: its header `date`.
    pub date: Option<String>,
}

/// The answer of a bucket that may well work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    Status(u16),
    /// `AccessDenied`: S3's answer for a missing object, where listing is not allowed. As expected, if
    /// objects are delivered.
    Denied(S3Error),
    /// A refusal that is not S3's `AccessDenied`, or of a call without the signature that it may need; or
    /// "not found" without S3's code, which any web server says.
    Doubtful(S3Error),
}

/// Probes the bucket with this URL, by the calls that fetches from this source make.
pub async fn probe(http: &BucketClient, base: &str, source: CiphertextSource) -> ProbeResult {
    match Bucket::new(base) {
        Ok(bucket) => probe_bucket(http, &bucket, source).await,
        Err(unusable) => {
            let (shown, found) = ("a bucket".to_owned(), Err(unusable.into()));
            ProbeResult { bucket: shown, proxy: None, outcome: found, remedy: None, date: None }
        }
    }
}

/// Probes the bucket of `[s3_config]`, signed if there are credentials.
pub async fn probe_fallback(http: &BucketClient, store: &FallbackStore) -> ProbeResult {
    probe_bucket(http, &store.bucket, CiphertextSource::Digest).await
}

async fn probe_bucket(
    http: &BucketClient,
    bucket: &Bucket,
    source: CiphertextSource,
) -> ProbeResult {
    let mut date = None;
    let found = timeout(PROBE_DEADLINE, call(http, bucket, source, &mut date)).await;
    let found = found.unwrap_or(Err(BucketError::Silent));
    let proxy = http.proxy_for(bucket);
    let remedy = match &found {
        Ok(ProbeAnswer::Status(_) | ProbeAnswer::Denied(_)) => None,
        Ok(ProbeAnswer::Doubtful(error)) => {
            error.remedy(bucket.is_fallback()).or_else(|| Some(NO_BUCKET_AT_ALL.to_owned()))
        }
        Err(trouble) => trouble.remedy(bucket.is_fallback(), proxy.as_deref()),
    };
    let shown = bucket.display_name.clone();
    ProbeResult { bucket: shown, proxy, outcome: found, remedy, date }
}

async fn call(
    http: &BucketClient,
    bucket: &Bucket,
    source: CiphertextSource,
    date: &mut Option<String>,
) -> Result<ProbeAnswer, BucketError> {
    if source == CiphertextSource::Attestation {
        try_head(http, bucket).await?;
    }
    let key = Spelling::Digest.key(ABSENT, ABSENT);
    let Call { url, headers, signed } = bucket.call(&key).await.map_err(BucketError::Unsignable)?;
    let response = http.get(url, headers).await.map_err(no_response)?;
    *date = response.headers().get(DATE).and_then(|date| Some(date.to_str().ok()?.to_owned()));
    let status = response.status().as_u16();
    if status == 200 {
        return Ok(ProbeAnswer::Status(status));
    }
    let error = bucket.read_error(response, signed).await;
    match error.kind() {
        S3ErrorKind::Missing if error.code.is_some() => Ok(ProbeAnswer::Status(status)),
        // Any web server says so.
        S3ErrorKind::Missing => Ok(ProbeAnswer::Doubtful(error)),
        S3ErrorKind::Denied if error.code != Some(Code::AccessDenied) => {
            Ok(ProbeAnswer::Doubtful(error))
        }
        S3ErrorKind::Denied if bucket.is_fallback() && !signed => Ok(ProbeAnswer::Doubtful(error)),
        S3ErrorKind::Denied => Ok(ProbeAnswer::Denied(error)),
        S3ErrorKind::NoBucket
        | S3ErrorKind::OtherRegion
        | S3ErrorKind::Redirect
        | S3ErrorKind::Credentials
        | S3ErrorKind::Clock
        | S3ErrorKind::Status => Err(error.into()),
    }
}

/// Whether the bucket answers a HEAD, as of an object that is not there: without a body, so that only the
/// status tells.
async fn try_head(http: &BucketClient, bucket: &Bucket) -> Result<(), BucketError> {
    let key = Spelling::PrefixedHandle.key(ABSENT, ABSENT);
    let response = http.head(bucket.object(&key)).await.map_err(no_response)?;
    match response.status() {
        StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(()),
        _ => Err(bucket.read_error(response, false).await.into()),
    }
}

fn no_response(error: reqwest::Error) -> BucketError {
    if error.is_connect() {
        return BucketError::Connect(innermost_cause(error));
    }
    BucketError::Cut { received: 0, why: innermost_cause(error) }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::{
        Credentials,
        provider::{
            ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future,
        },
    };

    use super::*;
    use crate::flow::ciphertexts::{
        s3_error::tests::body,
        scripted::{Server, ServerAction},
        tests::plain_http,
    };

    #[derive(Debug)]
    struct Nobody;

    impl ProvideCredentials for Nobody {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(Err(CredentialsError::not_loaded_no_source()))
        }
    }

    /// Only S3's answer for a missing object may be as expected; every other refusal has a remedy.
    #[tokio::test]
    async fn c4_a_check_tells_refusals_apart() {
        for (status, code) in [
            (403, "RequestTimeTooSkewed"),
            (400, "ExpiredToken"),
            (403, "SignatureDoesNotMatch"),
            (403, "InvalidAccessKeyId"),
            (400, "AuthorizationHeaderMalformed"),
            (301, "PermanentRedirect"),
            (404, "NoSuchBucket"),
        ] {
            let act = ServerAction::Refuse { status, header: "x-amz-id: 1", body: body(code, "") };
            let server = Server::always(act).await;
            let probed = probe(&plain_http(), &server.url(), CiphertextSource::Digest).await;
            let trouble = probed.outcome.unwrap_err().to_string();
            assert!(trouble.contains(code), "{trouble}");
            assert!(probed.remedy.is_some(), "{code}");
        }
        let denied =
            ServerAction::Refuse { status: 403, header: "a: b", body: body("AccessDenied", "") };
        let server = Server::always(denied).await;
        let probed = probe(&plain_http(), &server.url(), CiphertextSource::Digest).await;
        assert!(matches!(probed.outcome, Ok(ProbeAnswer::Denied(_))), "{probed:?}");

        // A bucket that may need a signature: with one and without.
        let endpoint = format!("http://{}", server.address);
        let given = SharedCredentialsProvider::new(Credentials::new("a", "b", None, None, "test"));
        let store =
            FallbackStore::with_credentials("r", "b", Some(&endpoint), Some(given)).unwrap();
        let probed = probe_fallback(&plain_http(), &store).await;
        assert!(matches!(probed.outcome, Ok(ProbeAnswer::Denied(_))), "{probed:?}");
        let none = SharedCredentialsProvider::new(Nobody);
        let store = FallbackStore::with_credentials("r", "b", Some(&endpoint), Some(none)).unwrap();
        let probed = probe_fallback(&plain_http(), &store).await;
        assert!(matches!(probed.outcome, Ok(ProbeAnswer::Doubtful(_))), "{probed:?}");
        assert!(probed.remedy.unwrap().contains("no AWS credentials"));

        // The error of a proxy.
        let away = crate::net::proxy::parse("127.0.0.1:1").ok();
        let proxies = crate::net::proxy::Proxies::new(None, away, "");
        let roots = crate::net::tls::TlsRoots::load(None).unwrap();
        let client = BucketClient::new(roots.client_config(), &proxies).unwrap();
        let probed = probe(&client, "http://bucket.example", CiphertextSource::Digest).await;
        assert_eq!(probed.proxy.as_deref(), Some("127.0.0.1:1"));
        assert!(probed.remedy.unwrap().contains("proxy 127.0.0.1:1"));

        // A 403 or 404 without S3's error body: it may be no bucket at all.
        for status in [403, 404] {
            let server = Server::always(ServerAction::Status(status)).await;
            let probed = probe(&plain_http(), &server.url(), CiphertextSource::Digest).await;
            assert!(matches!(probed.outcome, Ok(ProbeAnswer::Doubtful(_))), "{probed:?}");
            assert!(probed.remedy.is_some(), "{probed:?}");
        }
        let absent =
            ServerAction::Refuse { status: 404, header: "a: b", body: body("NoSuchKey", "") };
        let server = Server::always(absent).await;
        let probed = probe(&plain_http(), &server.url(), CiphertextSource::Digest).await;
        assert_eq!(probed.outcome, Ok(ProbeAnswer::Status(404)));

        // A bucket that serves objects and takes no HEAD has no attestation for us.
        for (answer, takes) in [(405, false), (501, false), (403, true), (404, true)] {
            let server = Server::always(ServerAction::Status(answer)).await;
            let probed = probe(&plain_http(), &server.url(), CiphertextSource::Attestation).await;
            assert_eq!(probed.outcome.is_ok(), takes, "{probed:?}");
            assert_eq!(server.calls("HEAD"), 1);
        }
    }
}
