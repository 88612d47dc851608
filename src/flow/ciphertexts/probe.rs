//! Checks whether a bucket answers: one GET of an object that does not exist. Used by `check`; no request
//! depends on it.

use std::time::Duration;

use reqwest::header::DATE;
use tokio::time::timeout;

use super::{
    BucketClient, FallbackStore, S3Error, Trouble,
    bucket::{Bucket, Call},
    download::cause,
    s3_error::{Code, Meaning},
};
use crate::domain::B256;

/// From connecting to the end of the response.
const PROBE_DEADLINE: Duration = Duration::from_secs(6);
/// A digest that no stored object has.
const NOBODYS: B256 = B256::ZERO;

/// The result of probing one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Scheme, host and port.
    pub shown: String,
    /// Host and port of the proxy on the way.
    pub proxy: Option<String>,
    pub found: Result<Answer, Trouble>,
    /// What to do about it, if the bucket's answer tells.
    pub remedy: Option<String>,
    /// The server's clock: its header `date`.
    pub date: Option<String>,
}

/// The answer of a bucket that may well work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// `AccessDenied`: S3's answer for a missing object, where listing is not allowed. As expected, if
    /// objects are delivered.
    Denied(S3Error),
    /// A refusal that is not S3's `AccessDenied`, or of a call without the signature that it may need.
    Doubtful(S3Error),
}

/// Probes the bucket with this URL.
pub async fn probe(http: &BucketClient, base: &str) -> Probed {
    match Bucket::new(base) {
        Ok(bucket) => ask(http, &bucket).await,
        Err(unusable) => {
            let (shown, found) = ("a bucket".to_owned(), Err(unusable.into()));
            Probed { shown, proxy: None, found, remedy: None, date: None }
        }
    }
}

/// Probes the bucket of `[s3_config]`, signed if there are credentials.
pub async fn probe_fallback(http: &BucketClient, store: &FallbackStore) -> Probed {
    ask(http, &store.bucket).await
}

async fn ask(http: &BucketClient, bucket: &Bucket) -> Probed {
    let mut date = None;
    let found = timeout(PROBE_DEADLINE, get(http, bucket, &mut date)).await;
    let found = found.unwrap_or(Err(Trouble::Silent));
    let proxy = http.proxy(bucket);
    let remedy = match &found {
        Ok(Answer::Status(_) | Answer::Denied(_)) => None,
        Ok(Answer::Doubtful(error)) => error.remedy(bucket.is_own()),
        Err(trouble) => trouble.remedy(bucket.is_own(), proxy.as_deref()),
    };
    let shown = bucket.shown.clone();
    Probed { shown, proxy, found, remedy, date }
}

async fn get(
    http: &BucketClient,
    bucket: &Bucket,
    date: &mut Option<String>,
) -> Result<Answer, Trouble> {
    let Call { url, headers, signed } = bucket.call(NOBODYS).await.map_err(Trouble::Unsignable)?;
    let response = match http.get(url, headers).await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Err(Trouble::Connect(cause(error))),
        Err(error) => return Err(Trouble::Cut { received: 0, why: cause(error) }),
    };
    *date = response.headers().get(DATE).and_then(|date| Some(date.to_str().ok()?.to_owned()));
    let status = response.status().as_u16();
    if status == 200 {
        return Ok(Answer::Status(status));
    }
    let error = bucket.refused(response, signed).await;
    match error.meaning() {
        Meaning::Missing => Ok(Answer::Status(status)),
        Meaning::Denied if error.code != Some(Code::AccessDenied) => Ok(Answer::Doubtful(error)),
        Meaning::Denied if bucket.is_own() && !signed => Ok(Answer::Doubtful(error)),
        Meaning::Denied => Ok(Answer::Denied(error)),
        Meaning::NoBucket
        | Meaning::OtherRegion
        | Meaning::Redirect
        | Meaning::Credentials
        | Meaning::Clock
        | Meaning::Status => Err(error.into()),
    }
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
        scripted::{Act, Server},
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
            let act = Act::Refuse { status, header: "x-amz-id: 1", body: body(code, "") };
            let server = Server::always(act).await;
            let probed = probe(&plain_http(), &server.url()).await;
            let trouble = probed.found.unwrap_err().to_string();
            assert!(trouble.contains(code), "{trouble}");
            assert!(probed.remedy.is_some(), "{code}");
        }
        let denied = Act::Refuse { status: 403, header: "a: b", body: body("AccessDenied", "") };
        let server = Server::always(denied).await;
        let probed = probe(&plain_http(), &server.url()).await;
        assert!(matches!(probed.found, Ok(Answer::Denied(_))), "{probed:?}");

        // A bucket that may need a signature: with one and without.
        let endpoint = format!("http://{}", server.address);
        let given = SharedCredentialsProvider::new(Credentials::new("a", "b", None, None, "test"));
        let store =
            FallbackStore::with_credentials("r", "b", Some(&endpoint), Some(given)).unwrap();
        let probed = probe_fallback(&plain_http(), &store).await;
        assert!(matches!(probed.found, Ok(Answer::Denied(_))), "{probed:?}");
        let none = SharedCredentialsProvider::new(Nobody);
        let store = FallbackStore::with_credentials("r", "b", Some(&endpoint), Some(none)).unwrap();
        let probed = probe_fallback(&plain_http(), &store).await;
        assert!(matches!(probed.found, Ok(Answer::Doubtful(_))), "{probed:?}");
        assert!(probed.remedy.unwrap().contains("no AWS credentials"));

        // The error of a proxy.
        let away = crate::proxy::parse("127.0.0.1:1").ok();
        let proxies = crate::proxy::Proxies::new(None, away, "");
        let roots = crate::tls::TlsRoots::load(None).unwrap();
        let client = BucketClient::new(roots.client_config(), &proxies).unwrap();
        let probed = probe(&client, "http://bucket.example").await;
        assert_eq!(probed.proxy.as_deref(), Some("127.0.0.1:1"));
        assert!(probed.remedy.unwrap().contains("proxy 127.0.0.1:1"));

        // A 403 without S3's error body: it may be no bucket at all.
        let server = Server::always(Act::Status(403)).await;
        let probed = probe(&plain_http(), &server.url()).await;
        assert!(matches!(probed.found, Ok(Answer::Doubtful(_))), "{probed:?}");
    }
}
