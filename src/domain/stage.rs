//! The stages of a request. Pure.
//!
//! ```text
//! arrived ──ask──> asked ──poll──> answered ──send──> submitted ──receipt──> settled
//!    ^                │                                   │
//!    └── NotFound ────┘          (reverted, displaced) ───┴──> answered
//! ```
//!
//! *Held* is a flag beside the stage, not a stage: a held request resumes at its stage.

use super::Answer;

/// The stage of a request, as stored in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Stored; the Core has not been asked, or must be asked again.
    Arrived,
    /// The Core has accepted the request.
    Asked,
    /// The Core has answered, and the answer passed our checks.
    Answered(Answer),
    /// A transaction with the answer was broadcast.
    Submitted(Answer),
}

impl Stage {
    /// The Core's answer, if there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Arrived | Self::Asked => None,
            Self::Answered(answer) | Self::Submitted(answer) => Some(answer),
        }
    }

    /// The name in logs, metrics and the journal. A request with an outcome is `settled` there.
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
