//! Fetches every ciphertext of a request once, within the request's share of the memory, each from the first
//! bucket that returns the right bytes.

use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{
    BucketRegistry, Ciphertexts, HANDLES_AT_ONCE,
    bucket::Bucket,
    bucket_error::BucketError,
    download::{Progress, Wanted, download},
    error::{BucketFailure, FetchError},
    format::Format,
    memory::Reservation,
    s3_error::S3ErrorKind,
    targets::{Names, Target},
};
use crate::domain::{Bytes, Ciphertext};

/// Buckets tried at the same time for one ciphertext.
const BUCKETS_AT_ONCE: usize = 3;

/// Why one ciphertext was not fetched.
struct FetchMiss {
    failures: Vec<BucketFailure>,
    /// Announced sizes that exceed its share.
    announced_sizes: Vec<u64>,
}

impl<B: BucketRegistry> Ciphertexts<B> {
    /// One round: fetches every ciphertext within its share.
    pub(super) async fn fetch_all(
        &self,
        targets: &[Target],
        shares: &[u64],
        reservation: &Reservation,
    ) -> Result<Vec<Ciphertext>, RoundError> {
        let mut fetching = stream::iter(0..targets.len())
            .map(|index| async move {
                (index, self.fetch_one(&targets[index], shares[index], reservation).await)
            })
            .buffer_unordered(HANDLES_AT_ONCE);
        let mut brought: Vec<Option<Ciphertext>> = targets.iter().map(|_| None).collect();
        let mut sizes = Vec::new();
        let mut first_larger = None;
        while let Some((index, result)) = fetching.next().await {
            match result {
                Ok(ciphertext) => brought[index] = Some(ciphertext),
                Err(FetchMiss { failures, announced_sizes: larger }) => {
                    let handle = targets[index].handle;
                    let error = FetchError::Unavailable { handle, failures };
                    if larger.is_empty() {
                        return Err(RoundError::Failed(error));
                    }
                    // The others continue: whether more of them are larger decides the shares of the
                    // next round.
                    sizes.push((index, larger));
                    first_larger.get_or_insert(error);
                }
            }
        }
        match first_larger {
            Some(error) => Err(RoundError::Larger { sizes, error }),
            // Every index was filled, or the loop returned or recorded an error.
            None => Ok(brought.into_iter().flatten().collect()),
        }
    }

    /// Fetches one ciphertext from the first bucket that returns the right bytes.
    async fn fetch_one(
        &self,
        target: &Target,
        share: u64,
        reservation: &Reservation,
    ) -> Result<Ciphertext, FetchMiss> {
        let mut failures = target.failures.clone();
        let buckets = self.calls.health.healthy_first(target.buckets.clone(), Instant::now());
        let room = Semaphore::new(reservation.copies());
        let held = reservation.guard();
        let (digest, format) = (target.digest, target.format);
        let wanted = Wanted { digest, format, share, body_permits: &room, held: &held };
        let progress: Vec<Progress> = buckets.iter().map(|_| Progress::new()).collect();
        let call = |index: usize| {
            let (bucket, wanted, progress) = (&buckets[index], &wanted, &progress[index]);
            progress.restart();
            async move { (index, self.fetch_from(bucket, target, wanted, progress).await) }
        };
        let mut calls = FuturesUnordered::new();
        let mut overtaken = vec![false; buckets.len()];
        let mut larger = Vec::new();
        let mut next = 0;
        loop {
            if calls.is_empty() {
                if next == buckets.len() {
                    return Err(FetchMiss { failures, announced_sizes: larger });
                }
                calls.push(call(next));
                next += 1;
            }
            let may_hedge = next < buckets.len() && calls.len() < BUCKETS_AT_ONCE;
            tokio::select! {
                biased;
                Some((index, result)) = calls.next() => match result {
                    Ok((format, body)) => {
                        if !overtaken[index] {
                            self.calls.health.record_success(&buckets[index]);
                        }
                        let handle = target.handle;
                        if format.header_is_wrong {
                            self.calls.record_wrong_format(&buckets[index], handle, format);
                        }
                        return Ok(Ciphertext { handle, format: format.actual, body });
                    }
                    Err(error) => {
                        let bucket = &buckets[index];
                        self.calls.record_failure(bucket, target.handle, &error);
                        if let BucketError::LargerThanShare { bytes } = error {
                            larger.push(bytes);
                        }
                        failures.push(self.calls.failure(bucket, error));
                        if next < buckets.len() {
                            calls.push(call(next));
                            next += 1;
                        }
                    }
                },
                () = sleep(self.patience.hedge), if may_hedge => {
                    // Only the newest call is checked: older ones were found slow before it was started.
                    if progress[next - 1].is_slow(&self.patience) {
                        self.calls.health.record_failure(&buckets[next - 1], Instant::now());
                        overtaken[next - 1] = true;
                        calls.push(call(next));
                        next += 1;
                    }
                }
            }
        }
    }

    /// Fetches one ciphertext from one bucket, under each name that it may have there.
    async fn fetch_from(
        &self,
        bucket: &Bucket,
        target: &Target,
        wanted: &Wanted<'_>,
        progress: &Progress,
    ) -> Result<(Format, Bytes), BucketError> {
        let turns = self.calls.health.host_permits(bucket);
        let mut names = target.names.in_bucket(bucket, &self.spellings).into_iter().peekable();
        loop {
            // There is at least one name, and the loop ends at the last.
            let Some(name) = names.next() else { return Err(BucketError::NoUrl) };
            let key = name.key(target.handle, target.digest);
            let http = &self.calls.http;
            let result =
                download(http, bucket, &key, &turns, wanted, &self.patience, progress).await;
            self.calls.count(bucket, &result);
            match result {
                Err(error) if names.peek().is_some() && may_have_another_name(&error) => {
                    progress.restart();
                }
                Err(error) => return Err(error),
                Ok(fetched) => {
                    if target.names == Names::Learned {
                        self.spellings.record(bucket, name);
                    }
                    return Ok(fetched);
                }
            }
        }
    }
}

/// Whether the bucket may keep the right bytes under another name.
fn may_have_another_name(error: &BucketError) -> bool {
    match error {
        BucketError::Refused(error) => {
            // S3 denies access to what is not there, where listing is not allowed.
            matches!(error.kind(), S3ErrorKind::Missing | S3ErrorKind::Denied)
        }
        BucketError::WrongBytes { .. } => true,
        BucketError::NoUrl
        | BucketError::Unregistered
        | BucketError::Lookup(_)
        | BucketError::LookupLate
        | BucketError::UnusableUrl(_)
        | BucketError::Unsignable(_)
        | BucketError::Connect(_)
        | BucketError::Silent
        | BucketError::TooLarge { .. }
        | BucketError::LargerThanShare { .. }
        | BucketError::Stalled { .. }
        | BucketError::TooSlow { .. }
        | BucketError::Cut { .. }
        | BucketError::Attestation(_) => false,
    }
}

/// Why a round ended early.
pub(super) enum RoundError {
    Failed(FetchError),
    /// Some ciphertexts need more memory than their share. `error`: the result if they cannot get it.
    Larger {
        sizes: Vec<(usize, Vec<u64>)>,
        error: FetchError,
    },
}
