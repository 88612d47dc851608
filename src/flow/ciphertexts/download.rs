//! One GET from one bucket, bounded in size, in time and in slowness. The result has the requested digest, or
//! is a [`BucketError`].

use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use alloy::primitives::keccak256;
use reqwest::StatusCode;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::domain::{B256, Bytes, UntrustedText};
use crate::net::tls;

use super::BucketLookupError;
use super::bucket::{Bucket, Call, UnusableUrl};
use super::format::{self, Format};
use super::http::BucketClient;
use super::memory::{LARGEST_CIPHERTEXT, MemoryGuard};
use super::s3_error::{S3Error, S3ErrorKind};

/// Larger bodies are hashed on a blocking thread: hashing (about 400 MB/s) would delay other tasks.
const HASHED_IN_PLACE: usize = 256 * 1024;

/// How long each step of a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct DownloadTimeouts {
    /// From the start of the call, connecting included, to the response's headers.
    pub headers: Duration,
    /// Between two pieces of the body.
    pub stall: Duration,
    /// The body, unless it is fast enough to be complete within `longest_body`.
    pub body: Duration,
    /// The body, whatever its speed.
    pub longest_body: Duration,
    /// Without headers for this long, the next bucket is asked as well.
    pub hedge: Duration,
}

impl Default for DownloadTimeouts {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(5),
            stall: Duration::from_secs(5),
            body: Duration::from_secs(20),
            longest_body: Duration::from_mins(2),
            hedge: Duration::from_millis(300),
        }
    }
}

/// Why a bucket did not deliver a ciphertext. Contains no URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    #[error("no bucket URL is registered")]
    NoUrl,
    #[error("not a registered coprocessor")]
    Unregistered,
    #[error("the bucket URL could not be looked up: {0}")]
    Lookup(#[source] BucketLookupError),
    #[error("the bucket URL could not be looked up: no answer in time")]
    LookupLate,
    #[error(transparent)]
    UnusableUrl(#[from] UnusableUrl),
    #[error("{0}")]
    Unsignable(&'static str),
    #[error("cannot connect: {0}")]
    Connect(UntrustedText),
    #[error("no answer in time")]
    Silent,
    /// The bucket answered, but not with an object.
    #[error(transparent)]
    Refused(#[from] S3Error),
    #[error("{bytes} bytes or more, above the protocol's limit of {LARGEST_CIPHERTEXT}")]
    TooLarge { bytes: u64 },
    /// Larger than its share of the reserved memory. `bytes`: the announced size, or an estimate.
    #[error("{bytes} bytes, more than there is memory for")]
    LargerThanShare { bytes: u64 },
    #[error("stalled after {received} bytes")]
    Stalled { received: u64 },
    #[error("too slow: {received} bytes in {seconds} s")]
    TooSlow { received: u64, seconds: u64 },
    #[error("cut after {received} bytes: {why}")]
    Cut { received: u64, why: UntrustedText },
    #[error("wrong bytes: {received} of them, with another digest")]
    WrongBytes { received: u64 },
}

impl BucketError {
    /// Stable, for metrics and log throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoUrl => "no_url",
            Self::Unregistered => "unregistered",
            Self::Lookup(error) => error.code,
            Self::LookupLate => "lookup_late",
            Self::UnusableUrl(_) => "unusable_url",
            Self::Unsignable(_) => "unsignable",
            Self::Connect(_) => "connect",
            Self::Silent => "silent",
            Self::Refused(error) => error.code(),
            Self::TooLarge { .. } => "too_large",
            Self::LargerThanShare { .. } => "outgrown",
            Self::Stalled { .. } => "stalled",
            Self::TooSlow { .. } => "too_slow",
            Self::Cut { .. } => "cut",
            Self::WrongBytes { .. } => "wrong_digest",
        }
    }

    /// Returns whether the bucket as a whole is at fault, and not just this object missing.
    pub(super) fn is_bucket_fault(&self) -> bool {
        match self {
            Self::Refused(error) => error.kind() != S3ErrorKind::Missing,
            Self::LargerThanShare { .. }
            | Self::NoUrl
            | Self::Unregistered
            | Self::Lookup(_)
            | Self::LookupLate => false,
            Self::UnusableUrl(_)
            | Self::Unsignable(_)
            | Self::Connect(_)
            | Self::Silent
            | Self::TooLarge { .. }
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::Cut { .. }
            | Self::WrongBytes { .. } => true,
        }
    }

    /// What an operator can do, if anything. `own`: it is the bucket of `[s3_config]`. `proxy`: the proxy
    /// that the call went through.
    #[must_use]
    pub fn remedy(&self, own: bool, proxy: Option<&str>) -> Option<String> {
        match (self, proxy) {
            (Self::Refused(error), Some(proxy)) if error.status == 407 => {
                Some(format!("correct user name and password of the proxy {proxy}"))
            }
            (Self::Connect(_) | Self::Silent, Some(proxy)) => {
                Some(format!("look at the proxy {proxy}, and whether it may go there"))
            }
            (Self::Connect(_) | Self::Silent, None) if own => {
                Some("look at the way to that bucket, and at [s3_config]".to_owned())
            }
            (Self::Connect(_) | Self::Silent, None) => {
                Some("look at the way to that bucket, or tell its coprocessor".to_owned())
            }
            (Self::Refused(error), _) => error.remedy(own),
            (Self::WrongBytes { .. }, _) => {
                Some("have its coprocessor store the right bytes again".to_owned())
            }
            (
                Self::NoUrl
                | Self::Unregistered
                | Self::Lookup(_)
                | Self::LookupLate
                | Self::UnusableUrl(_)
                | Self::Unsignable(_)
                | Self::TooLarge { .. }
                | Self::LargerThanShare { .. }
                | Self::Stalled { .. }
                | Self::TooSlow { .. }
                | Self::Cut { .. },
                _,
            ) => None,
        }
    }
}

/// The progress of a call, read by the code that decides whether to start another one.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Phase>);

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No headers yet.
    Waiting {
        since: Instant,
    },
    Body {
        since: Instant,
        received: u64,
        expected: u64,
    },
}

impl Progress {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Phase::Waiting { since: Instant::now() }))
    }

    /// Called when the call starts.
    pub(super) fn restart(&self) {
        self.set(Phase::Waiting { since: Instant::now() });
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Returns whether another bucket should be asked as well.
    pub(super) fn is_slow(&self, patience: &DownloadTimeouts) -> bool {
        let phase = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match phase {
            Phase::Waiting { since } => since.elapsed() >= patience.hedge,
            Phase::Body { since, received, expected } => {
                let elapsed = since.elapsed();
                elapsed >= patience.hedge.saturating_mul(3)
                    && !keeps_up(received, expected, elapsed, patience.body)
            }
        }
    }
}

/// Returns whether `expected` bytes will be complete within `limit` at the average speed so far.
fn keeps_up(received: u64, expected: u64, elapsed: Duration, limit: Duration) -> bool {
    u128::from(received) * limit.as_millis() >= u128::from(expected) * elapsed.as_millis()
}

/// What to fetch, and the memory for it.
pub(super) struct WantedLogs<'a> {
    pub digest: B256,
    /// Bytes of memory reserved for one body.
    pub share: u64,
    /// One permit for each body that fits into the reservation.
    pub body_permits: &'a Semaphore,
    /// The reservation.
    pub held: &'a MemoryGuard,
}

/// Fetches and verifies a ciphertext. Dropping the future closes the connection and frees the bytes.
pub(super) async fn download(
    http: &BucketClient,
    bucket: &Bucket,
    turns: &Semaphore,
    wanted: &WantedLogs<'_>,
    patience: &DownloadTimeouts,
    progress: &Progress,
) -> Result<(Format, Bytes), BucketError> {
    let Call { url, headers, signed } =
        bucket.call(wanted.digest).await.map_err(BucketError::Unsignable)?;
    // Neither semaphore is ever closed. No timeout here: every holder has one.
    let _turn = turns.acquire().await;
    let call = http.get(url, headers);
    let response = match timeout(patience.headers, call).await {
        Err(_) => return Err(BucketError::Silent),
        Ok(Err(error)) if error.is_connect() => {
            return Err(BucketError::Connect(innermost_cause(error)));
        }
        Ok(Err(error)) => {
            return Err(BucketError::Cut { received: 0, why: innermost_cause(error) });
        }
        Ok(Ok(response)) => response,
    };
    if response.status() != StatusCode::OK {
        return Err(bucket.read_error(response, signed).await.into());
    }
    let headers = response.headers().clone();
    let announced = response.content_length();
    match announced {
        Some(bytes) if bytes > LARGEST_CIPHERTEXT => return Err(BucketError::TooLarge { bytes }),
        Some(bytes) if bytes > wanted.share => return Err(BucketError::LargerThanShare { bytes }),
        Some(_) | None => {}
    }
    let expected = announced.unwrap_or(wanted.share);
    progress.set(Phase::Body { since: Instant::now(), received: 0, expected });
    let _room = wanted.body_permits.acquire().await;
    let body = read(response, expected, wanted, patience, progress).await?;
    let received = body.len() as u64;
    if digest(&body, wanted.held).await? != wanted.digest {
        return Err(BucketError::WrongBytes { received });
    }
    Ok((format::detect(&headers, &body), body))
}

async fn digest(body: &Bytes, held: &MemoryGuard) -> Result<B256, BucketError> {
    if body.len() <= HASHED_IN_PLACE {
        return Ok(keccak256(body));
    }
    // A running hash cannot be cancelled, so it keeps the memory of its bytes reserved.
    let (hashed, held) = (body.clone(), MemoryGuard::clone(held));
    let hashing = tokio::task::spawn_blocking(move || {
        let digest = keccak256(&hashed);
        drop(hashed);
        drop(held);
        digest
    });
    hashing.await.map_err(|_| BucketError::Cut {
        received: body.len() as u64,
        why: "hashing was interrupted".into(),
    })
}

/// Reads the body into one buffer.
async fn read(
    mut response: reqwest::Response,
    expected: u64,
    wanted: &WantedLogs<'_>,
    patience: &DownloadTimeouts,
    progress: &Progress,
) -> Result<Bytes, BucketError> {
    // The announced length is within the share, so this allocates at most what is reserved.
    let mut body = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
    let mut received = 0_u64;
    let since = Instant::now();
    loop {
        let piece = match timeout(patience.stall, response.chunk()).await {
            Err(_) => return Err(BucketError::Stalled { received }),
            Ok(Err(error)) => {
                return Err(BucketError::Cut { received, why: innermost_cause(error) });
            }
            Ok(Ok(None)) => break,
            Ok(Ok(Some(piece))) => piece,
        };
        received += piece.len() as u64;
        if received > LARGEST_CIPHERTEXT {
            return Err(BucketError::TooLarge { bytes: received });
        }
        if received > wanted.share {
            // No size was announced: ask for twice as much.
            let bytes = wanted.share.saturating_mul(2).clamp(received, LARGEST_CIPHERTEXT);
            return Err(BucketError::LargerThanShare { bytes });
        }
        body.extend_from_slice(&piece);
        progress.set(Phase::Body { since, received, expected });
        let elapsed = since.elapsed();
        if elapsed > patience.longest_body
            || elapsed > patience.body
                && !keeps_up(received, expected, elapsed, patience.longest_body)
        {
            return Err(BucketError::TooSlow { received, seconds: elapsed.as_secs() });
        }
    }
    Ok(Bytes::from(body))
}

/// The innermost cause: it names the failure, while the outer errors name the URL.
pub(super) fn innermost_cause(error: reqwest::Error) -> UntrustedText {
    let error = error.without_url();
    let mut innermost: &(dyn StdError + 'static) = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    UntrustedText::of(format_args!("{innermost}{}", tls::advice(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_judged_by_where_it_leads() {
        let seconds = Duration::from_secs;
        assert!(keeps_up(50, 100, seconds(10), seconds(20)));
        assert!(!keeps_up(49, 100, seconds(10), seconds(20)));
        assert!(keeps_up(0, 0, seconds(10), seconds(20)));
        assert!(keeps_up(LARGEST_CIPHERTEXT / 4, LARGEST_CIPHERTEXT, seconds(30), seconds(120)));
        assert!(!keeps_up(1, LARGEST_CIPHERTEXT, seconds(1), seconds(120)));
    }
}
