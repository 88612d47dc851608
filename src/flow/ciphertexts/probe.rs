//! Whether a bucket answers at all: one GET of an object that nobody has. For whoever checks a
//! configuration; no request is concerned.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap};
use tokio::time::timeout;

use super::{
    FallbackStore, Trouble,
    bucket::Bucket,
    download::{accept, cause},
};
use crate::domain::B256;

/// From connecting to the end of what is read.
const PROBE_DEADLINE: Duration = Duration::from_secs(6);
/// An error's body is no longer, where it is of interest.
const READ: usize = 4096;
/// The digest of nothing that is ever stored.
const NOBODYS: B256 = B256::ZERO;

/// What one bucket answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Scheme, host and port.
    pub shown: String,
    /// The status, if it is one of a bucket that works.
    pub found: Result<u16, Trouble>,
    /// The server's clock: its header `date`.
    pub date: Option<String>,
}

/// Asks the bucket of this URL.
pub async fn probe(http: &reqwest::Client, base: &str) -> Probed {
    match Bucket::new(base) {
        Ok(bucket) => ask(http, &bucket).await,
        Err(unusable) => {
            Probed { shown: "a bucket".to_owned(), found: Err(unusable.into()), date: None }
        }
    }
}

/// Asks `[s3_config]`'s bucket, signed if there are credentials.
pub async fn probe_fallback(http: &reqwest::Client, store: &FallbackStore) -> Probed {
    ask(http, &store.bucket).await
}

async fn ask(http: &reqwest::Client, bucket: &Bucket) -> Probed {
    let mut date = None;
    let found = timeout(PROBE_DEADLINE, get(http, bucket, &mut date)).await;
    let found = found.unwrap_or(Err(Trouble::Silent));
    Probed { shown: bucket.shown.clone(), found, date }
}

async fn get(
    http: &reqwest::Client,
    bucket: &Bucket,
    date: &mut Option<String>,
) -> Result<u16, Trouble> {
    let url = bucket.object(NOBODYS);
    let signature = match &bucket.signer {
        Some(signer) => signer.headers(&url).await.map_err(Trouble::Unsignable)?,
        None => HeaderMap::new(),
    };
    let mut response = match http.get(url).headers(signature).send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Err(Trouble::Connect(cause(error))),
        Err(error) => return Err(Trouble::Cut { received: 0, why: cause(error) }),
    };
    *date = response.headers().get(DATE).and_then(|date| Some(date.to_str().ok()?.to_owned()));
    let status = response.status();
    match accept(status) {
        // 403: where listing is not allowed, S3 says so of whatever is not there.
        Ok(()) | Err(Trouble::AccessDenied(403)) => Ok(status.as_u16()),
        Err(Trouble::Missing) => {
            let mut body = Vec::new();
            while body.len() < READ
                && let Ok(Some(piece)) = response.chunk().await
            {
                body.extend_from_slice(&piece);
            }
            if String::from_utf8_lossy(&body).contains("NoSuchBucket") {
                return Err(Trouble::NoBucket);
            }
            Ok(status.as_u16())
        }
        Err(trouble) => Err(trouble),
    }
}
