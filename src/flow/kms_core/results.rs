//! What an ask, a poll and a health check of a Core come to, and why a call has no result.

use super::{
    answer_error::AnswerError,
    wire::{CiphertextMismatch, RequestError},
};
use crate::domain::{Answer, Hold, Remedy, UntrustedText};

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// No answer, or an incomplete one. Whether an ask was accepted is unknown; asking or polling again
    /// is safe.
    #[error("no answer from the KMS Core: {cause}")]
    Unreachable { cause: UntrustedText },
    /// The Core's rate limit.
    #[error("the KMS Core is busy: {message}")]
    Busy { message: UntrustedText },
    /// Only time or an operator can fix it.
    #[error("{0}")]
    Held(Hold),
    /// The Core's answer is not accepted.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// No Core can be asked this.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A mistake of the caller.
    #[error(transparent)]
    Ciphertexts(#[from] CiphertextMismatch),
}

impl CoreError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "core_unreachable",
            Self::Busy { .. } => "core_busy",
            Self::Held(hold) => hold.reason.as_str(),
            Self::Answer(error) => error.code(),
            Self::Request(error) => error.code(),
            Self::Ciphertexts(_) => "ciphertext_mismatch",
        }
    }

    /// What to do with the request.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Ciphertexts(_) => Remedy::Retry,
            Self::Held(hold) => Remedy::Hold(hold.clone()),
            Self::Answer(error) => Remedy::Hold(error.hold()),
            Self::Request(error) => error.remedy(),
        }
    }
}

/// Result of an ask: the Core has the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskResult {
    Accepted,
    /// It had it before: from an earlier attempt, or an earlier run of this process.
    AlreadyKnown,
}

/// Result of one poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollResult {
    /// Its signature is checked ([`signature`](super::signature)).
    Answer(Answer),
    Pending,
    /// The Core does not know the request: ask again.
    Forgotten,
}

/// How polling ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollingEnd {
    /// Its signature is checked ([`signature`](super::signature)).
    Answer(Answer),
    /// The Core does not know the request: ask again.
    Forgotten,
    /// No answer within the deadline. The Core still has the request.
    TimedOut,
}

/// The Core's report about itself. A threshold Core reports `NotServing` until it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreHealth {
    Serving,
    NotServing,
    /// It answers, but has no health service or does not say.
    Unknown,
}
