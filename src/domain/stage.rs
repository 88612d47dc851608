//! Where a request stands. Pure.
//!
//! ```text
//! arrived ──ask──> asked ──poll──> answered ──send──> submitted ──receipt──> settled
//!    ^                │                                   │
//!    └── NotFound ────┘          (reverted, displaced) ───┴──> answered
//! ```
//!
//! *Held* is a flag beside the stage, not a stage: a held request resumes where it stood.

use super::Answer;

/// Where a request stands, as written in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Stored; the Core has not been asked, or must be asked again.
    Arrived,
    /// The Core has taken the request.
    Asked,
    /// The Core's checked answer is in hand.
    Answered(Answer),
    /// A transaction with the answer is on its way.
    Submitted(Answer),
}

impl Stage {
    /// The answer in hand, if there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Arrived | Self::Asked => None,
            Self::Answered(answer) | Self::Submitted(answer) => Some(answer),
        }
    }

    /// The name in logs, metrics and the journal. `settled` is the name of having an outcome.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Asked => "asked",
            Self::Answered(_) => "answered",
            Self::Submitted(_) => "submitted",
        }
    }
}
