//! Attestations compared with the chain where the chain decides (v0.14): shows before the upgrade to HEAD
//! whether the coprocessors will agree then. Its results are counted, and have no influence.
//!
//! A task of its own takes what the fetches hand over. It is never waited for: what it cannot take at once
//! is skipped.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::{
    BucketRegistry, attestation::AttestedMaterial, attesters::Attesters, bucket_calls::BucketCalls,
    error::FetchError,
};
use crate::{
    domain::{B256, Material, U256},
    telemetry::metrics::Metrics,
};

/// Ciphertexts that wait to be compared.
const WAITING: usize = 64;
/// Ciphertexts compared at the same time.
const AT_ONCE: usize = 4;

/// What the chain says of one ciphertext.
#[derive(Clone, Copy, Debug)]
struct OnChain {
    handle: B256,
    key_id: U256,
    digest: B256,
}

impl OnChain {
    fn agrees_with(&self, attested: &AttestedMaterial) -> bool {
        (self.key_id, self.digest) == (attested.key_id, attested.sns_ciphertext_digest)
    }
}

/// The end at which fetches hand ciphertexts over.
#[derive(Clone, Debug)]
pub(super) struct ShadowQueue {
    queue: mpsc::Sender<OnChain>,
    metrics: Metrics,
}

impl ShadowQueue {
    /// Hands these over, as far as there is room.
    pub fn offer(&self, materials: &[Material]) {
        for Material { handle, key_id, digest, .. } in materials {
            let one = OnChain { handle: *handle, key_id: *key_id, digest: *digest };
            if self.queue.try_send(one).is_err() {
                self.metrics.attestation_shadow("skipped");
            }
        }
    }
}

/// The task that compares.
#[derive(Debug)]
pub struct AttestationShadow<B> {
    queue: mpsc::Receiver<OnChain>,
    registry: Arc<B>,
    calls: Arc<BucketCalls>,
}

/// Both ends.
pub(super) fn shadow<B>(
    registry: Arc<B>,
    calls: Arc<BucketCalls>,
) -> (ShadowQueue, AttestationShadow<B>) {
    let (sender, queue) = mpsc::channel(WAITING);
    let metrics = calls.metrics.clone();
    (ShadowQueue { queue: sender, metrics }, AttestationShadow { queue, registry, calls })
}

impl<B: BucketRegistry> AttestationShadow<B> {
    /// Compares what is handed over. Never ends by itself.
    pub async fn run(mut self) {
        let mut comparing = FuturesUnordered::new();
        let (registry, calls) = (&self.registry, &self.calls);
        loop {
            tokio::select! {
                biased;
                Some(()) = comparing.next() => {}
                Some(one) = self.queue.recv(), if comparing.len() < AT_ONCE => {
                    comparing.push(compare(registry, calls, one));
                }
                // Nobody can hand anything over any more.
                else => std::future::pending::<()>().await,
            }
        }
    }
}

async fn compare<B: BucketRegistry>(registry: &Arc<B>, calls: &Arc<BucketCalls>, one: OnChain) {
    let agreed = async { Attesters::find(&**registry, calls).await?.agree(one.handle).await }.await;
    let result = match agreed {
        Ok(agreed) if one.agrees_with(&agreed.material) => "agrees",
        Ok(_) => {
            tracing::debug!(handle = %one.handle, "coprocessors attest another ciphertext than the chain");
            "differs"
        }
        Err(FetchError::NoConsensus(_)) => "no_consensus",
        Err(error) => {
            tracing::debug!(%error, "attestations were not compared");
            "unreadable"
        }
    };
    calls.metrics.attestation_shadow(result);
}
