//! One round: every ciphertext of a request within its share of the memory, each from the first bucket that
//! returns the right bytes.

use std::collections::HashMap;

use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{
    BucketRegistry, Ciphertexts, HANDLES_AT_ONCE,
    bucket::Bucket,
    bucket_error::BucketError,
    download::{Progress, WantedLogs, download},
    error::{BucketFailure, FetchError},
    format::Format,
    lookup::BucketLookup,
    memory::Reservation,
};
use crate::domain::{Address, Bytes, Ciphertext, Material};

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
        materials: &[Material],
        shares: &[u64],
        places: &HashMap<Address, BucketLookup>,
        reservation: &Reservation,
    ) -> Result<Vec<Ciphertext>, RoundError> {
        let mut fetching = stream::iter(0..materials.len())
            .map(|index| async move {
                (index, self.fetch_one(&materials[index], shares[index], places, reservation).await)
            })
            .buffer_unordered(HANDLES_AT_ONCE);
        let mut brought: Vec<Option<Ciphertext>> = materials.iter().map(|_| None).collect();
        let mut sizes = Vec::new();
        let mut first_larger = None;
        while let Some((index, result)) = fetching.next().await {
            match result {
                Ok(ciphertext) => brought[index] = Some(ciphertext),
                Err(FetchMiss { failures, announced_sizes: larger }) => {
                    let handle = materials[index].handle;
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
        material: &Material,
        share: u64,
        places: &HashMap<Address, BucketLookup>,
        reservation: &Reservation,
    ) -> Result<Ciphertext, FetchMiss> {
        let (buckets, mut failures) = self.candidates(material, places);
        let room = Semaphore::new(reservation.copies());
        let held = reservation.guard();
        let wanted =
            WantedLogs { digest: material.digest, share, body_permits: &room, held: &held };
        let progress: Vec<Progress> = buckets.iter().map(|_| Progress::new()).collect();
        let call = |index: usize| {
            let (bucket, wanted) = (&buckets[index], &wanted);
            let progress = &progress[index];
            let turns = self.health.host_permits(bucket);
            progress.restart();
            async move {
                let result =
                    download(&self.http, bucket, &turns, wanted, &self.patience, progress).await;
                self.count(bucket, &result);
                (index, result)
            }
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
                            self.health.record_success(&buckets[index]);
                        }
                        if format.header_is_wrong {
                            self.record_wrong_header(&buckets[index], material, format);
                        }
                        return Ok(Ciphertext { handle: material.handle, format: format.actual, body });
                    }
                    Err(error) => {
                        self.record_failure(&buckets[index], material, &error);
                        if let BucketError::LargerThanShare { bytes } = error {
                            larger.push(bytes);
                        }
                        let bucket = &buckets[index];
                        failures.push(BucketFailure {
                            bucket: bucket.display_name.clone(),
                            is_fallback: bucket.is_fallback(),
                            proxy: self.http.proxy_for(bucket),
                            error,
                        });
                        if next < buckets.len() {
                            calls.push(call(next));
                            next += 1;
                        }
                    }
                },
                () = sleep(self.patience.hedge), if may_hedge => {
                    // Only the newest call is checked: older ones were found slow before it was started.
                    if progress[next - 1].is_slow(&self.patience) {
                        self.health.record_failure(&buckets[next - 1], Instant::now());
                        overtaken[next - 1] = true;
                        calls.push(call(next));
                        next += 1;
                    }
                }
            }
        }
    }

    fn count(&self, bucket: &Bucket, result: &Result<(Format, Bytes), BucketError>) {
        let code = result.as_ref().map_or_else(BucketError::code, |_| "ok");
        self.metrics.fetched(bucket.host(), code);
        match result {
            Ok((_, body)) => self.metrics.ciphertext_bytes(body.len() as u64),
            Err(BucketError::WrongBytes { .. }) => self.metrics.digest_mismatch(),
            Err(_) => {}
        }
    }

    /// The bytes are right but their format header is wrong: the format is detected from the bytes.
    fn record_wrong_header(&self, bucket: &Bucket, material: &Material, format: Format) {
        self.metrics.wrong_format_header(bucket.host());
        let (shown, is) = (&bucket.display_name, format.actual);
        let times_to_log = self.health.should_log(bucket, "wrong_format_header", Instant::now());
        if let Some(times) = times_to_log {
            let handle = material.handle;
            tracing::warn!(bucket = %shown, %handle, ?is, times, "bucket misstates the format of a ciphertext");
        } else {
            tracing::debug!(bucket = %shown, handle = %material.handle, ?is, "wrong format header");
        }
    }

    /// Records a bucket's error. Log throttle per bucket and error, not per ciphertext.
    fn record_failure(&self, bucket: &Bucket, material: &Material, trouble: &BucketError) {
        let now = Instant::now();
        let times = if trouble.is_bucket_fault() {
            self.health.record_failure(bucket, now);
            self.health.should_log(bucket, trouble.code(), now)
        } else {
            None
        };
        if let Some(times) = times {
            let proxy = self.http.proxy_for(bucket);
            let to_do = trouble.remedy(bucket.is_fallback(), proxy.as_deref());
            tracing::warn!(bucket = %bucket.display_name, proxy, %trouble, to_do, times, "bucket in trouble");
        } else {
            tracing::debug!(bucket = %bucket.display_name, handle = %material.handle, %trouble, "not brought");
        }
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
