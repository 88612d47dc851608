//! One GET from one bucket, bounded in size, in time and in slowness. The result has the requested digest, or
//! is a [`BucketError`].

use std::{
    error::Error as StdError,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use alloy::primitives::keccak256;
use reqwest::StatusCode;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    attestation,
    bucket::{Bucket, Call},
    bucket_error::BucketError,
    format::{self, Format},
    http::BucketClient,
    memory::{LARGEST_CIPHERTEXT, MemoryGuard},
    object_key::ObjectKey,
};
use crate::{
    domain::{B256, Bytes, CiphertextFormat, UntrustedText},
    net::tls,
};

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
pub(super) struct Wanted<'a> {
    pub digest: B256,
    /// As the coprocessors agreed. `None`: the bucket's headers say it.
    pub format: Option<CiphertextFormat>,
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
    key: &ObjectKey,
    turns: &Semaphore,
    wanted: &Wanted<'_>,
    patience: &DownloadTimeouts,
    progress: &Progress,
) -> Result<(Format, Bytes), BucketError> {
    let Call { url, headers, signed } = bucket.call(key).await.map_err(BucketError::Unsignable)?;
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
    let declared = wanted.format.unwrap_or_else(|| {
        attestation::format_in(&headers).unwrap_or_else(|| format::from_header(&headers))
    });
    Ok((format::detect(declared, &body), body))
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
    wanted: &Wanted<'_>,
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
