//! Why a request's ciphertexts were not fetched, and what to do about it.

use std::{fmt, num::NonZeroUsize, time::Duration};

use tokio::time::Instant;

use super::{BucketLookupError, bucket_error::BucketError};
use crate::domain::{Address, B256, Hold, HoldReason, Refusal, Remedy, U256};

/// If all buckets of a request refuse, or the coprocessors do not agree, the request is retried for this
/// long before it is held.
const REFUSALS_RETRIED_FOR: Duration = Duration::from_mins(2);

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
    /// A coprocessor without a usable bucket.
    pub(super) fn of_coprocessor(coprocessor: Address, error: BucketError) -> Self {
        let bucket = format!("coprocessor {coprocessor}");
        Self { bucket, is_fallback: false, proxy: None, error }
    }

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
    /// Where the chain says which ciphertexts they are, this request's event does not.
    #[error("its event does not say which ciphertexts its handles have")]
    NoMaterials,
    #[error("the request names ciphertexts of different keys ({first:#066x} and {other:#066x})")]
    DifferentKeys { first: U256, other: U256 },
    /// The same, as the coprocessors attest it.
    #[error(
        "the ciphertexts of the request are attested for different keys ({first:#066x} and {other:#066x})"
    )]
    AttestedForDifferentKeys { first: U256, other: U256 },
    #[error("the registered coprocessors are unknown: {0}")]
    Registry(#[source] BucketLookupError),
    #[error("the registered coprocessors are unknown: no answer in time")]
    RegistryLate,
    #[error(transparent)]
    NoConsensus(#[from] NoConsensus),
}

/// Too few coprocessors agree about a ciphertext.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NoConsensus {
    pub handle: B256,
    /// Those who agree, in the largest group.
    pub agreed: usize,
    pub registered: usize,
    /// `None`: the contract's threshold is impossible.
    pub threshold: Option<NonZeroUsize>,
    /// What kept the others out, by bucket.
    pub failures: Vec<BucketFailure>,
}

impl NoConsensus {
    /// Whether those who were not heard could have made it one.
    fn is_outage(&self) -> bool {
        let silent = self.failures.iter().filter(|failure| failure.error.is_silence()).count();
        self.threshold.is_some_and(|threshold| self.agreed + silent >= threshold.get())
    }
}

impl fmt::Display for NoConsensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handle, agreed, registered, threshold, failures } = self;
        write!(f, "{agreed} of {registered} coprocessors agree about handle {handle}, ")?;
        match threshold {
            Some(threshold) => write!(f, "{threshold} must")?,
            None => f.write_str("and the threshold of the contract is zero or too large")?,
        }
        for (index, failure) in failures.iter().enumerate() {
            write!(f, "{}{failure}", if index == 0 { ": " } else { "; " })?;
        }
        f.write_str(&advice(failures))
    }
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
            Self::NoMaterials => "without_materials",
            Self::DifferentKeys { .. } | Self::AttestedForDifferentKeys { .. } => {
                "different_key_ids"
            }
            Self::Registry(error) => error.code,
            Self::RegistryLate => "lookup_late",
            Self::NoConsensus(_) => "no_attestation_consensus",
        }
    }

    /// Retry, unless every bucket that was asked needs an operator. A refusal by S3 may also mean an
    /// object that is not there yet, or a clock or session that will be fixed soon, and coprocessors may
    /// differ for a while; so that is held only after it has lasted (`lasted`).
    #[must_use]
    pub fn remedy(&self, lasted: Duration) -> Remedy {
        if let Some(reason) = self.held_if_it_lasts() {
            return if lasted >= REFUSALS_RETRIED_FOR { self.hold(reason) } else { Remedy::Retry };
        }
        match self {
            Self::UnsupportedType { .. } => self.hold(HoldReason::UnsupportedType),
            Self::TooLarge { .. } => self.hold(HoldReason::CiphertextTooLarge),
            Self::NoMaterials => self.hold(HoldReason::UnsupportedGeneration),
            Self::DifferentKeys { .. } => Remedy::Refuse(Refusal::Malformed(self.to_string())),
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
            Self::AttestedForDifferentKeys { .. }
            | Self::Registry(_)
            | Self::RegistryLate
            | Self::NoConsensus(_) => Remedy::Retry,
        }
    }

    /// The reason for which a request is held if this error lasts.
    fn held_if_it_lasts(&self) -> Option<HoldReason> {
        match self {
            Self::NoConsensus(missed) if !missed.is_outage() => {
                Some(HoldReason::NoAttestationConsensus)
            }
            Self::AttestedForDifferentKeys { .. } => Some(HoldReason::NoAttestationConsensus),
            Self::Unavailable { .. } if self.is_refused() => Some(HoldReason::AccessDenied),
            Self::Unavailable { .. }
            | Self::UnsupportedType { .. }
            | Self::TooLarge { .. }
            | Self::NoMaterials
            | Self::DifferentKeys { .. }
            | Self::Registry(_)
            | Self::RegistryLate
            | Self::NoConsensus(_) => None,
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

/// For how long the buckets of one request have been refusing, or the coprocessors have not agreed.
#[derive(Clone, Copy, Debug)]
pub struct RefusalTimer {
    held: Option<HoldReason>,
    since: Option<Instant>,
}

impl RefusalTimer {
    /// `held`: why the request was held when its walk began.
    #[must_use]
    pub fn new(held: Option<HoldReason>) -> Self {
        Self { held, since: None }
    }

    /// The remedy for an error. A request that was held for it before is held again at once.
    pub fn remedy(&mut self, error: &FetchError, now: Instant) -> Remedy {
        let lasted = match error.held_if_it_lasts() {
            None => Duration::ZERO,
            reason if reason == self.held => Duration::MAX,
            Some(_) => now.saturating_duration_since(*self.since.get_or_insert(now)),
        };
        error.remedy(lasted)
    }
}
