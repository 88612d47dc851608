//! Which buckets are tried for a ciphertext: those of its coprocessors, as the contract knows them, or the
//! fallback.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::stream::{self, StreamExt};
use tokio::time::timeout;

use super::{
    BucketRegistry, Ciphertexts, bucket::Bucket, bucket_error::BucketError, error::BucketFailure,
};
use crate::domain::{Address, Material};

/// Coprocessors looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;
/// Deadline of one question to the GatewayConfig contract.
pub(super) const LOOKUP_DEADLINE: Duration = Duration::from_secs(10);

/// The bucket of one coprocessor, or why there is none.
pub(super) type BucketLookup = Result<Arc<Bucket>, BucketError>;

impl<B: BucketRegistry> Ciphertexts<B> {
    /// Looks up the bucket of each coprocessor of the request.
    pub(super) async fn look_up_buckets(
        &self,
        materials: &[Material],
    ) -> HashMap<Address, BucketLookup> {
        let mut coprocessors: Vec<Address> =
            materials.iter().flat_map(|material| material.coprocessors.iter().copied()).collect();
        coprocessors.sort_unstable();
        coprocessors.dedup();
        stream::iter(coprocessors)
            .map(|coprocessor| async move { (coprocessor, self.look_up_bucket(coprocessor).await) })
            .buffer_unordered(LOOKUPS_AT_ONCE)
            .collect()
            .await
    }

    async fn look_up_bucket(&self, coprocessor: Address) -> BucketLookup {
        let answer = timeout(LOOKUP_DEADLINE, async {
            if self.verify_coprocessors && !self.buckets.is_known_coprocessor(coprocessor).await? {
                return Ok(Err(BucketError::Unregistered));
            }
            Ok(Ok(self.buckets.bucket_url_of(coprocessor).await?))
        });
        match answer.await {
            Err(_) => Err(BucketError::LookupLate),
            Ok(Err(error)) => Err(BucketError::Lookup(error)),
            Ok(Ok(Err(trouble))) => Err(trouble),
            Ok(Ok(Ok(url))) => match url.as_deref().map(str::trim) {
                None | Some("") => Err(BucketError::NoUrl),
                Some(url) => Ok(Arc::new(Bucket::new(url)?)),
            },
        }
    }

    /// The buckets to try for one ciphertext, and the errors of coprocessors without a usable one.
    pub(super) fn candidates(
        &self,
        material: &Material,
        places: &HashMap<Address, BucketLookup>,
    ) -> (Vec<Arc<Bucket>>, Vec<BucketFailure>) {
        let mut buckets: Vec<Arc<Bucket>> = Vec::new();
        let mut failures = Vec::new();
        for coprocessor in &material.coprocessors {
            match places.get(coprocessor) {
                Some(Ok(bucket)) if !buckets.iter().any(|known| known.contains(bucket)) => {
                    buckets.push(Arc::clone(bucket));
                }
                Some(Err(trouble)) => {
                    failures.push(BucketFailure::of_coprocessor(*coprocessor, trouble.clone()));
                }
                // Another coprocessor has the same bucket.
                Some(Ok(_)) | None => {}
            }
        }
        if buckets.is_empty() {
            // An unregistered coprocessor must not get the fallback bucket used by being the only one
            // named.
            let none_trusted = !failures.is_empty()
                && failures.iter().all(|failure| failure.error == BucketError::Unregistered);
            if !none_trusted {
                buckets.extend(self.fallback.clone());
            }
        }
        (buckets, failures)
    }
}
