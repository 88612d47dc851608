//! Ciphertexts: handles -> buckets -> fetch -> verified bytes, or a typed refusal.
//!
//! ```text
//! materials ─> sizes by FHE type ─> memory, all at once ─> per handle: buckets, healthy first
//!                                        ^                     │ first ─ silent 300 ms ─> next too
//!                                        │                     │       └ failed ────────> next
//!                                        └── turned out larger ┘ first with the digest wins
//! ```
//!
//! Invariants:
//! - Bytes leave this module only if their keccak256 is the digest on chain, and only together with all
//!   other ciphertexts of the request.
//! - Memory is reserved before bytes are fetched. What a bucket announces or sends beyond the
//!   reservation is not read.
//! - Nothing that a bucket says is trusted: neither sizes, nor speed, nor redirects.
//!
//! Deliberately absent: retries over time. A request that cannot be served now gets a [`Remedy`]; its
//! walk decides when to try again.

mod bucket;
mod download;
mod fallback;
mod format;
mod http;
mod memory;
mod probe;
mod s3_error;
mod signer;
#[cfg(test)]
mod scripted;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::domain::{Address, B256, Bytes, Ciphertext, Hold, HoldReason, Material, Remedy};
use crate::telemetry::metrics::Metrics;

pub use bucket::UnusableUrl;
pub use download::BucketError;
pub use fallback::FallbackStore;
pub use http::{BucketClient, HttpGet};
pub use memory::{LARGEST_CIPHERTEXT, MemoryUse, Reservation, SMALLEST_MEMORY_MIB};
pub use probe::{ProbeAnswer, ProbeResult, probe, probe_fallback};
pub use s3_error::S3Error;

use bucket::{Bucket, BucketHealth};
use download::{DownloadTimeouts, Progress, WantedLogs, download};
use format::Format;
use memory::MemoryBudget;

/// Ciphertexts of one request fetched at the same time.
const HANDLES_AT_ONCE: usize = 16;
/// Buckets tried at the same time for one ciphertext.
const BUCKETS_AT_ONCE: usize = 3;
/// Coprocessors looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;
/// Deadline of one question to the GatewayConfig contract.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(10);
/// Most rounds of fetching; a new round starts when ciphertexts turn out larger than reserved.
const MOST_ROUNDS: usize = 4;
/// If all buckets of a request refuse, it is retried for this long before it is held.
const REFUSALS_RETRIED_FOR: Duration = Duration::from_mins(2);

/// The port through which this module learns the bucket of a coprocessor. The GatewayConfig adapter
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
    /// In the order of the materials.
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
    http: BucketClient,
    memory: MemoryBudget,
    health: BucketHealth,
    patience: DownloadTimeouts,
    metrics: Metrics,
}

impl<B> fmt::Debug for Ciphertexts<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ciphertexts").field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// The bucket of one coprocessor, or why there is none.
type BucketLookup = Result<Arc<Bucket>, BucketError>;

/// Why one ciphertext was not fetched.
struct FetchMiss {
    failures: Vec<BucketFailure>,
    /// Announced sizes that exceed its share.
    announced_sizes: Vec<u64>,
}

impl<B: BucketRegistry> Ciphertexts<B> {
    #[must_use]
    pub fn new(options: CiphertextsOptions<B>) -> Self {
        Self {
            buckets: options.buckets,
            fallback: options.fallback.map(|store| store.bucket),
            verify_coprocessors: options.verify_coprocessors,
            http: options.http,
            memory: MemoryBudget::new(options.memory_mib),
            health: BucketHealth::default(),
            patience: DownloadTimeouts::default(),
            metrics: options.metrics,
        }
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
    pub async fn fetch(&self, materials: &[Material]) -> Result<Fetched, FetchError> {
        let mut shares = Vec::with_capacity(materials.len());
        for material in materials {
            let fhe_type = material.fhe_type();
            shares.push(
                memory::expected_bytes(fhe_type)
                    .ok_or(FetchError::UnsupportedType { handle: material.handle, fhe_type })?,
            );
        }
        let lookups = self.look_up_buckets(materials).await;
        let mut rounds_left = MOST_ROUNDS;
        loop {
            rounds_left -= 1;
            let reservation =
                self.memory.reserve(&shares).await.ok_or_else(|| self.too_large(&shares))?;
            match self.fetch_all(materials, &shares, &lookups, &reservation).await {
                Ok(ciphertexts) => return Ok(Fetched { ciphertexts, reservation }),
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

    /// Looks up the bucket of each coprocessor of the request.
    async fn look_up_buckets(&self, materials: &[Material]) -> HashMap<Address, BucketLookup> {
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
    fn candidates(
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
                Some(Err(trouble)) => failures.push(BucketFailure {
                    bucket: format!("coprocessor {coprocessor}"),
                    is_fallback: false,
                    proxy: None,
                    error: trouble.clone(),
                }),
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
        (self.health.healthy_first(buckets, Instant::now()), failures)
    }

    /// One round: fetches every ciphertext within its share.
    async fn fetch_all(
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
enum RoundError {
    Failed(FetchError),
    /// Some ciphertexts need more memory than their share. `error`: the result if they cannot get it.
    Larger {
        sizes: Vec<(usize, Vec<u64>)>,
        error: FetchError,
    },
}

/// A bucket, or a coprocessor without one, and its error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketFailure {
    /// Scheme, host and port; or the coprocessor's address.
    pub bucket: String,
    /// It is the bucket of `[s3_config]`.
    pub is_fallback: bool,
    /// Host and port of the proxy in use.
    pub proxy: Option<String>,
    pub error: BucketError,
}

impl BucketFailure {
    fn remedy(&self) -> Option<String> {
        self.error.remedy(self.is_fallback, self.proxy.as_deref())
    }
}

impl fmt::Display for BucketFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proxy {
            Some(proxy) => {
                write!(f, "{} through the proxy {proxy}: {}", self.bucket, self.error)
            }
            None => write!(f, "{}: {}", self.bucket, self.error),
        }
    }
}

/// Why a request's ciphertexts were not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("handle {handle} is of FHE type {fhe_type}, which this connector does not know")]
    UnsupportedType { handle: B256, fhe_type: u8 },
    #[error(
        "the ciphertexts take {mib} MiB, which ciphertext_memory_mib = {budget_mib} does not allow"
    )]
    TooLarge { mib: u64, budget_mib: u32 },
    /// No bucket returned it. Empty `failures`: there is no bucket at all.
    #[error("no bucket has handle {handle}: {}{}", listed(failures), advice(failures))]
    Unavailable { handle: B256, failures: Vec<BucketFailure> },
}

fn listed(failures: &[BucketFailure]) -> String {
    if failures.is_empty() {
        return "none is known, and no [s3_config] is set".to_owned();
    }
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The remedies of all failures, each once.
fn advice(failures: &[BucketFailure]) -> String {
    let mut remedies: Vec<String> = failures.iter().filter_map(BucketFailure::remedy).collect();
    remedies.sort_unstable();
    remedies.dedup();
    remedies.iter().fold(String::new(), |all, remedy| all + "; " + remedy)
}

impl FetchError {
    /// Stable, for throttling; with several buckets the error of the last one.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedType { .. } => "unsupported_type",
            Self::TooLarge { .. } => "too_large",
            Self::Unavailable { failures, .. } => {
                failures.last().map_or("no_bucket", |failure| failure.error.code())
            }
        }
    }

    /// Retry, unless every bucket that was asked needs an operator. A refusal by S3 may also mean an
    /// object that is not there yet, or a clock or session that will be fixed soon; so it is held only
    /// after it has lasted (`refused_for`).
    #[must_use]
    pub fn remedy(&self, refused_for: Duration) -> Remedy {
        match self {
            Self::UnsupportedType { .. } => self.hold(HoldReason::UnsupportedType),
            Self::TooLarge { .. } => self.hold(HoldReason::CiphertextTooLarge),
            Self::Unavailable { .. } if self.is_refused() => {
                if refused_for >= REFUSALS_RETRIED_FOR {
                    self.hold(HoldReason::AccessDenied)
                } else {
                    Remedy::Retry
                }
            }
            Self::Unavailable { .. } => {
                let too_large = |trouble: &BucketError| {
                    matches!(
                        trouble,
                        BucketError::TooLarge { .. } | BucketError::LargerThanShare { .. }
                    )
                };
                if self.all_asked(too_large) {
                    self.hold(HoldReason::CiphertextTooLarge)
                } else {
                    Remedy::Retry
                }
            }
        }
    }

    /// Whether every bucket that was asked refuses.
    fn is_refused(&self) -> bool {
        self.all_asked(
            |trouble| matches!(trouble, BucketError::Refused(error) if error.needs_operator()),
        )
    }

    /// Whether at least one bucket was asked and `is` holds for all of them.
    fn all_asked(&self, is: impl Fn(&BucketError) -> bool) -> bool {
        let Self::Unavailable { failures, .. } = self else { return false };
        let mut asked = failures
            .iter()
            .map(|failure| &failure.error)
            .filter(|trouble| !matches!(trouble, BucketError::NoUrl | BucketError::Unregistered))
            .peekable();
        asked.peek().is_some() && asked.all(is)
    }

    fn hold(&self, reason: HoldReason) -> Remedy {
        Remedy::Hold(Hold::new(reason, self.to_string()))
    }
}

/// How long the buckets of one request have been refusing.
#[derive(Clone, Copy, Debug)]
pub struct RefusalTimer {
    held: bool,
    since: Option<Instant>,
}

impl RefusalTimer {
    /// `held`: why the request was held when its walk began.
    #[must_use]
    pub fn new(held: Option<HoldReason>) -> Self {
        Self { held: held == Some(HoldReason::AccessDenied), since: None }
    }

    /// The remedy for an error. A request that was held for a refusal before is held again at once.
    pub fn remedy(&mut self, error: &FetchError, now: Instant) -> Remedy {
        let refused_for = match (error.is_refused(), self.held) {
            (false, _) => Duration::ZERO,
            (true, true) => Duration::MAX,
            (true, false) => now.saturating_duration_since(*self.since.get_or_insert(now)),
        };
        error.remedy(refused_for)
    }
}

#[cfg(test)]
mod tests;
