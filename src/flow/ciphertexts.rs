//! Ciphertexts: handles -> buckets -> fetch -> verified bytes, or a typed refusal.
//!
//! ```text
//! handles ─> sizes by FHE type, digests and buckets
//!                │
//!                └─> memory, all at once ─> per handle: buckets, healthy first
//!                         ^                     │ first ─ silent 300 ms ─> next too
//!                         │                     │       └ failed ────────> next
//!                         └── turned out larger ┘ first with the digest wins
//! ```
//!
//! Who says which digest a handle has depends on the deployment ([`targets`]): the event's materials up to
//! v0.14, from v0.15 on the coprocessors, if enough of them attest the same ([`attesters`]).
//!
//! Invariants:
//! - Bytes leave this module only if their keccak256 is that digest, and only together with all other
//!   ciphertexts of the request.
//! - Memory is reserved before bytes are fetched. What a bucket announces or sends beyond the
//!   reservation is not read.
//! - Nothing that a bucket says is trusted: neither sizes, nor speed, nor redirects.
//!
//! Deliberately absent: retries over time. A request that cannot be served now gets a [`Remedy`]; its
//! walk decides when to try again.
//!
//! [`Remedy`]: crate::domain::Remedy

mod targets;
mod lookup;
mod attesters;
mod consensus;
mod attestation;
mod shadow;
mod fetch;
mod bucket;
mod object_key;
mod spellings;
mod bucket_calls;
mod bucket_health;
mod download;
mod bucket_error;
mod error;
mod fallback;
mod format;
mod http;
mod memory;
mod probe;
mod s3_error;
mod signer;
#[cfg(test)]
mod scripted;

use std::{fmt, sync::Arc};

pub use self::{
    attestation::AttestationError,
    bucket::UnusableUrl,
    bucket_error::BucketError,
    consensus::{Coprocessor, Coprocessors},
    error::{BucketFailure, FetchError, NoConsensus, RefusalTimer},
    fallback::FallbackStore,
    http::{BucketClient, HttpCall},
    memory::{LARGEST_CIPHERTEXT, MemoryUse, Reservation, SMALLEST_MEMORY_MIB},
    probe::{ProbeAnswer, ProbeResult, probe, probe_fallback},
    s3_error::S3Error,
    shadow::AttestationShadow,
};
use self::{
    bucket::Bucket, bucket_calls::BucketCalls, download::DownloadTimeouts, fetch::RoundError,
    memory::MemoryBudget, shadow::ShadowQueue, spellings::LearnedSpellings, targets::Targets,
};
use crate::{
    contracts::abi::CiphertextSource,
    domain::{Address, B256, Ciphertext, Request, U256, fhe_type},
    telemetry::metrics::Metrics,
};

/// Ciphertexts of one request fetched at the same time.
const HANDLES_AT_ONCE: usize = 16;
/// Most rounds of fetching; a new round starts when ciphertexts turn out larger than reserved.
const MOST_ROUNDS: usize = 4;

/// The port through which this module learns of coprocessors and their buckets. The GatewayConfig adapter
/// implements it and caches answers, except empty ones.
pub trait BucketRegistry: Send + Sync + 'static {
    /// The base URL of the coprocessor's bucket. `None`: it has none, or it is unknown.
    fn bucket_url_of(
        &self,
        coprocessor: Address,
    ) -> impl Future<Output = Result<Option<String>, BucketLookupError>> + Send;

    /// Whether the contract knows the coprocessor. Called only with `verify_coprocessors`.
    fn is_known_coprocessor(
        &self,
        coprocessor: Address,
    ) -> impl Future<Output = Result<bool, BucketLookupError>> + Send;

    /// All registered coprocessors: those that attest.
    fn coprocessors(
        &self,
    ) -> impl Future<Output = Result<Arc<Coprocessors>, BucketLookupError>> + Send;
}

/// The contract could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{source}")]
pub struct BucketLookupError {
    /// Stable, for throttling.
    pub code: &'static str,
    /// Its text contains no URLs or keys.
    pub source: Arc<dyn std::error::Error + Send + Sync>,
}

impl PartialEq for BucketLookupError {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code && self.to_string() == other.to_string()
    }
}

impl Eq for BucketLookupError {}

/// Parameters of [`Ciphertexts`].
pub struct CiphertextsOptions<B> {
    pub buckets: Arc<B>,
    /// Used if no coprocessor of a request has a usable bucket.
    pub fallback: Option<FallbackStore>,
    /// Memory for all ciphertexts of the instance, in MiB; at least [`SMALLEST_MEMORY_MIB`] to serve
    /// every legal request.
    pub memory_mib: u32,
    /// Skip the buckets of coprocessors that the contract does not know.
    pub verify_coprocessors: bool,
    pub http: BucketClient,
    pub metrics: Metrics,
}

impl<B> fmt::Debug for CiphertextsOptions<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CiphertextsOptions")
            .field("fallback", &self.fallback)
            .field("memory_mib", &self.memory_mib)
            .field("verify_coprocessors", &self.verify_coprocessors)
            .finish_non_exhaustive()
    }
}

/// All ciphertexts of a request, verified, and the memory they occupy.
#[derive(Debug)]
pub struct Fetched {
    /// The key that encrypted all of them.
    pub key_id: U256,
    /// In the order of the handles.
    pub ciphertexts: Vec<Ciphertext>,
    /// Drop it together with the bytes, once the Core has them. Must be the last field: fields are
    /// dropped in order, so the bytes are freed before the memory is given away again.
    pub reservation: Reservation,
}

/// Fetches the ciphertexts of one instance.
pub struct Ciphertexts<B> {
    buckets: Arc<B>,
    fallback: Option<Arc<Bucket>>,
    verify_coprocessors: bool,
    calls: Arc<BucketCalls>,
    spellings: LearnedSpellings,
    memory: MemoryBudget,
    patience: DownloadTimeouts,
    shadow: Option<ShadowQueue>,
}

impl<B> fmt::Debug for Ciphertexts<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ciphertexts").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl<B: BucketRegistry> Ciphertexts<B> {
    #[must_use]
    pub fn new(options: CiphertextsOptions<B>) -> Self {
        Self {
            buckets: options.buckets,
            fallback: options.fallback.map(|store| store.bucket),
            verify_coprocessors: options.verify_coprocessors,
            calls: Arc::new(BucketCalls::new(options.http, options.metrics)),
            spellings: LearnedSpellings::default(),
            memory: MemoryBudget::new(options.memory_mib),
            patience: DownloadTimeouts::default(),
            shadow: None,
        }
    }

    /// The same, with a task that compares attestations with the chain as long as the chain decides
    /// ([`shadow`]).
    #[must_use]
    pub fn shadowed(self) -> (Self, AttestationShadow<B>) {
        let (queue, task) = shadow::shadow(Arc::clone(&self.buckets), Arc::clone(&self.calls));
        (Self { shadow: Some(queue), ..self }, task)
    }

    /// The present use of the memory budget.
    #[must_use]
    pub fn memory_use(&self) -> MemoryUse {
        self.memory.usage()
    }

    /// Memory reserved by all requests now, in KiB.
    #[must_use]
    pub fn reserved_kib(&self) -> usize {
        self.memory.reserved_kib()
    }

    /// Fetches and verifies all ciphertexts of a request. Waits for memory while other requests hold it.
    /// Dropping the future cancels all calls and returns the memory.
    pub async fn fetch(
        &self,
        request: &Request,
        source: CiphertextSource,
    ) -> Result<Fetched, FetchError> {
        let mut shares = expected_sizes(request.handles())?;
        let Targets { mut key_id, ciphertexts: mut targets } =
            self.targets(request, source).await?;
        let mut rounds_left = MOST_ROUNDS;
        let mut may_ask_again = source == CiphertextSource::Attestation;
        loop {
            rounds_left -= 1;
            let reservation =
                self.memory.reserve(&shares).await.ok_or_else(|| self.too_large(&shares))?;
            match self.fetch_all(&targets, &shares, &reservation).await {
                Ok(ciphertexts) => {
                    if let (Some(shadow), CiphertextSource::HandleThenDigest) =
                        (&self.shadow, source)
                    {
                        shadow.offer(request.materials().unwrap_or_default());
                    }
                    return Ok(Fetched { key_id, ciphertexts, reservation });
                }
                // Those who agreed first do not have the bytes. They have failed now, so the next decision
                // waits for others who agree.
                Err(RoundError::Failed(FetchError::Unavailable { .. })) if may_ask_again => {
                    drop(reservation);
                    may_ask_again = false;
                    Targets { key_id, ciphertexts: targets } =
                        self.targets(request, source).await?;
                }
                Err(RoundError::Failed(error)) => return Err(error),
                Err(RoundError::Larger { sizes, error }) => {
                    // Returned before more is asked for: waiting for more while holding some could
                    // deadlock.
                    drop(reservation);
                    let grown =
                        memory::grow_shares(&shares, &sizes, |bodies| self.memory.fits(bodies));
                    match grown {
                        Some(grown) if rounds_left > 0 => shares = grown,
                        Some(_) | None => return Err(error),
                    }
                }
            }
        }
    }

    fn too_large(&self, shares: &[u64]) -> FetchError {
        let bytes = shares.iter().sum::<u64>();
        FetchError::TooLarge {
            mib: bytes.div_ceil(1024 * 1024),
            budget_mib: self.memory.total_mib(),
        }
    }
}

/// The sizes of the ciphertexts of these handles, as far as their types tell.
fn expected_sizes(handles: &[B256]) -> Result<Vec<u64>, FetchError> {
    let size = |&handle: &B256| {
        let fhe_type = fhe_type(&handle);
        memory::expected_bytes(fhe_type).ok_or(FetchError::UnsupportedType { handle, fhe_type })
    };
    handles.iter().map(size).collect()
}

#[cfg(test)]
mod tests;
