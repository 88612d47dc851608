//! Asks all registered coprocessors what they attest about a ciphertext, until enough of them agree.
//!
//! ```text
//! handle ─> HEAD to every bucket at once ─> attestations ─> consensus ─> digest, key, format, buckets
//! ```
//!
//! A decision ends the other calls. Whatever one bucket says or does not say costs its own answer only.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::StatusCode;
use tokio::time::{Instant, timeout};

use super::{
    BucketRegistry,
    attestation::{self, Attestation, AttestedMaterial},
    bucket::Bucket,
    bucket_calls::BucketCalls,
    bucket_error::BucketError,
    consensus::{Coprocessors, Poll},
    download::innermost_cause,
    error::{BucketFailure, FetchError, NoConsensus},
    lookup::LOOKUP_DEADLINE,
    object_key::Spelling,
};
use crate::domain::{Address, B256};

/// From the start of a HEAD, connecting included, to the response.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);

/// What was agreed about one ciphertext, and the buckets of those who agree.
pub(super) struct Agreed {
    pub material: AttestedMaterial,
    pub buckets: Vec<Arc<Bucket>>,
}

/// A registered coprocessor's bucket.
pub(super) struct AttestingBucket {
    coprocessor: Address,
    bucket: Arc<Bucket>,
}

/// The registered coprocessors and their buckets, for all handles of one request.
pub(super) struct Attesters {
    coprocessors: Arc<Coprocessors>,
    /// Each bucket once.
    buckets: Vec<AttestingBucket>,
    /// Coprocessors without a usable bucket.
    without_bucket: Vec<BucketFailure>,
    calls: Arc<BucketCalls>,
    deadline: Duration,
}

impl fmt::Debug for Attesters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attesters")
            .field("coprocessors", &self.coprocessors)
            .finish_non_exhaustive()
    }
}

impl Attesters {
    /// Reads the registry. It answers from its snapshot, except at first.
    pub async fn find(
        registry: &impl BucketRegistry,
        calls: &Arc<BucketCalls>,
    ) -> Result<Self, FetchError> {
        let coprocessors = match timeout(LOOKUP_DEADLINE, registry.coprocessors()).await {
            Ok(read) => read.map_err(FetchError::Registry)?,
            Err(_) => return Err(FetchError::RegistryLate),
        };
        let (mut buckets, mut without_bucket) = (Vec::<AttestingBucket>::new(), Vec::new());
        for member in &coprocessors.members {
            let coprocessor = member.tx_sender;
            let found = match member.url.trim() {
                "" => Err(BucketError::NoUrl),
                url => Bucket::new(url).map_err(BucketError::from),
            };
            match found {
                // Another coprocessor has the same bucket: one object has one attestation.
                Ok(bucket) if buckets.iter().any(|known| known.bucket.contains(&bucket)) => {}
                Ok(bucket) => buckets.push(AttestingBucket { coprocessor, bucket: bucket.into() }),
                Err(error) => {
                    without_bucket.push(BucketFailure::of_coprocessor(coprocessor, error));
                }
            }
        }
        let (calls, deadline) = (Arc::clone(calls), HEAD_DEADLINE);
        Ok(Self { coprocessors, buckets, without_bucket, calls, deadline })
    }

    /// Decides about one ciphertext as soon as enough coprocessors agree and one of their buckets did not
    /// fail lately; at the latest when all have answered.
    pub async fn agree(&self, handle: B256) -> Result<Agreed, FetchError> {
        let mut poll = Poll::new(&self.coprocessors);
        let mut failures = self.without_bucket.clone();
        let mut fail = |index: usize, error: BucketError| {
            let AttestingBucket { coprocessor, bucket } = &self.buckets[index];
            self.calls.record_failure(bucket, handle, &error);
            if let BucketError::Attestation(fault) = &error {
                self.calls.metrics.attestation_fault(bucket.host(), fault.code());
            }
            let mut failure = self.calls.failure(bucket, error);
            failure.bucket = format!("{} of coprocessor {coprocessor}", failure.bucket);
            failures.push(failure);
        };
        let mut asking: FuturesUnordered<_> =
            (0..self.buckets.len()).map(|index| self.ask(index, handle)).collect();
        while let Some((index, said)) = asking.next().await {
            let counted = said.and_then(|said| Ok(poll.count(index, said)?));
            let bucket = &self.buckets[index].bucket;
            let code = counted.as_ref().map_or_else(BucketError::code, |()| "attested");
            self.calls.metrics.fetched(bucket.host(), code);
            if let Err(error) = counted {
                fail(index, error);
            }
            if let Some((_, group)) = poll.winner() {
                let now = Instant::now();
                let is_sound = |index: &usize| {
                    !self.calls.health.is_failing(&self.buckets[*index].bucket, now)
                };
                if group.buckets.iter().any(is_sound) {
                    break;
                }
            }
        }
        for (index, error) in poll.outvoted() {
            fail(index, error.into());
        }
        let Some((material, group)) = poll.winner() else {
            return Err(FetchError::NoConsensus(NoConsensus {
                handle,
                agreed: poll.largest().map_or(0, |(_, group)| group.signers()),
                registered: self.coprocessors.members.len(),
                threshold: self.coprocessors.threshold,
                failures,
            }));
        };
        let bucket = |index: &usize| Arc::clone(&self.buckets[*index].bucket);
        Ok(Agreed { material: *material, buckets: group.buckets.iter().map(bucket).collect() })
    }

    async fn ask(&self, index: usize, handle: B256) -> (usize, Result<Attestation, BucketError>) {
        (index, self.attestation(&self.buckets[index].bucket, handle).await)
    }

    async fn attestation(&self, bucket: &Bucket, handle: B256) -> Result<Attestation, BucketError> {
        let key = Spelling::PrefixedHandle.key(handle, B256::ZERO);
        let turns = self.calls.health.host_permits(bucket);
        // The semaphore is never closed. No timeout here: every holder has one.
        let _turn = turns.acquire().await;
        let response = match timeout(self.deadline, self.calls.http.head(bucket.object(&key))).await
        {
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
            return Err(bucket.read_error(response, false).await.into());
        }
        Ok(attestation::read(response.headers(), &handle)?)
    }
}
