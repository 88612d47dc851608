//! Why a request's ciphertexts were not fetched, and what to do about it.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::bucket_error::BucketError;
use crate::domain::{B256, Hold, HoldReason, Remedy};

/// If all buckets of a request refuse, it is retried for this long before it is held.
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
