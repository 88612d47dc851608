//! The legal steps of a stored request. Pure.
//!
//! ```text
//!         Asked         Answered            Submitted            Settled
//! arrived ─────> asked ──────────> answered ─────────> submitted ───────> ended
//!    ^             │               ^      ^                │                │
//!    └─ Forgotten ─┘        Answered      └──── Returned ──┘                │
//!    any stage <────────────────────── SeenAgain, AnswerDropped ────────────┤
//!    arrived   <─────────────────────────────────── RetryAsked ─────────────┘
//! ```
//!
//! A request is open ([`OpenProgress`]) or ended ([`EndedProgress`]), and each has methods for its
//! legal steps. So nothing ends twice, and only [`EndedProgress::open_again`] leads back from an end,
//! for the reasons in its table. Every step of a stored request passes here, and an [`IllegalStep`] is
//! not written.
//!
//! An answer is never given up: only a newer one replaces it. *Held* is a flag beside the stage and
//! never changes it. Settling is legal at every stage, because the end of a request may be found out at
//! any time.

use std::time::Duration;

use crate::{
    domain::{
        Answer, B256, CoreAddress, Hold, HoldReason, Outcome, Refusal, excerpt, stage::Stage,
    },
    flow::ledger::{Sighting, Step},
};

/// Errors of requests are stored up to this many characters.
pub(super) const LONGEST_ERROR: usize = 500;

/// The stage of an unfinished request without the answer's bytes, which are in a table of their own so
/// that scans do not read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StageName {
    Arrived,
    Asked,
    Answered,
    Submitted,
}

impl StageName {
    pub const ALL: [Self; 4] = [Self::Arrived, Self::Asked, Self::Answered, Self::Submitted];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Asked => "asked",
            Self::Answered => "answered",
            Self::Submitted => "submitted",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }

    /// The domain's stage. If the answer is missing (a damaged or edited file), an answered request is
    /// asked again: that costs a repeated call, never an outcome.
    pub(super) fn with_answer(self, answer: Option<Answer>) -> Stage {
        match (self, answer) {
            (Self::Arrived, _) | (Self::Answered | Self::Submitted, None) => Stage::Arrived,
            (Self::Asked, _) => Stage::Asked,
            (Self::Answered, Some(answer)) => Stage::Answered(answer),
            (Self::Submitted, Some(answer)) => Stage::Submitted(answer),
        }
    }

    fn has_answer(self) -> bool {
        match self {
            Self::Arrived | Self::Asked => false,
            Self::Answered | Self::Submitted => true,
        }
    }
}

/// A hold, and since when (Unix ms) it lasts for this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHold {
    pub hold: Hold,
    pub since_ms: u64,
}

/// The part of a stored request that steps change. Times are Unix milliseconds; that of a stage is its
/// last entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub stage: StageName,
    pub held: Option<StoredHold>,
    /// Failed attempts so far.
    pub attempts: u32,
    pub last_error: Option<String>,
    /// Time that counts towards the expiry, in milliseconds.
    pub worked_ms: u64,
    /// The last broadcast transaction with the answer.
    pub transaction: Option<B256>,
    pub arrived_at_ms: u64,
    pub asked_at_ms: Option<u64>,
    /// The Core that was asked last.
    pub asked_core: Option<CoreAddress>,
    pub answered_at_ms: Option<u64>,
    pub submitted_at_ms: Option<u64>,
    pub settled_at_ms: Option<u64>,
    pub outcome: Option<Outcome>,
}

/// Why a step is illegal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IllegalStep {
    #[error("the request has ended")]
    HasEnded,
    /// Taking it would leave a restart without an answer to send.
    #[error("the request has no answer")]
    NoAnswer,
    #[error("the request has not ended")]
    IsOpen,
    #[error("what ended the request is not undone by this")]
    CannotReopen,
}

impl IllegalStep {
    /// The stable name in logs.
    pub fn code(self) -> &'static str {
        match self {
            Self::HasEnded => "request_has_ended",
            Self::NoAnswer => "request_has_no_answer",
            Self::IsOpen => "request_is_open",
            Self::CannotReopen => "end_stays",
        }
    }
}

/// Why an ended request is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reopening {
    /// After a reorganisation its event was seen in another block, or again.
    SeenAgain,
    /// The transaction with its answer has left the chain.
    AnswerDropped,
    /// An operator asked for a retry.
    RetryAsked,
}

/// How a stored request's event is seen again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resighting {
    pub seen: Sighting,
    /// In another block than the stored one.
    pub elsewhere: bool,
    /// The chain took an answer to another request of its id, so that this one is not on it.
    pub id_taken: bool,
}

/// What becomes of a stored request whose event is seen again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SeenAgain {
    Unchanged,
    /// Its event is in that block now.
    Moved,
    /// The same, and it is open again.
    Reopened(Box<OpenProgress>),
}

/// A stored request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredRequest {
    Open(OpenProgress),
    Ended(EndedProgress),
}

/// Without an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenProgress(Progress);

/// With an answer.
struct AnsweredProgress(Progress);

/// With an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndedProgress {
    progress: Progress,
    pub outcome: Outcome,
    pub at_ms: u64,
}

impl From<Progress> for StoredRequest {
    fn from(mut stored: Progress) -> Self {
        let at_ms = stored.settled_at_ms.take().unwrap_or_default();
        match stored.outcome.take() {
            None => Self::Open(OpenProgress(stored)),
            Some(outcome) => Self::Ended(EndedProgress { progress: stored, outcome, at_ms }),
        }
    }
}

impl StoredRequest {
    /// Takes a step of the walk at `now_ms`. The answer of [`Step::Answered`] is stored separately.
    pub fn step(self, step: &Step, now_ms: u64) -> Result<Self, IllegalStep> {
        let Self::Open(open) = self else { return Err(IllegalStep::HasEnded) };
        Ok(Self::Open(match step {
            Step::Asked { core } => open.asked(core.clone(), now_ms),
            Step::Forgotten => open.forgotten(),
            Step::Answered(_) => open.answered(now_ms),
            Step::Submitted { transaction } => open.answering()?.submitted(*transaction, now_ms),
            Step::Returned { why } => open.answering()?.returned(why),
            Step::Failed { why } => open.failed(why),
            Step::Held(hold) => open.held(hold, now_ms),
            Step::WorkTime(time) => open.worked(*time),
            Step::AccessChecked(_) => open,
            Step::Settled(outcome) => return Ok(Self::Ended(open.end(outcome.clone(), now_ms))),
        }))
    }

    pub fn open_again(self, by: Reopening, now_ms: u64) -> Result<OpenProgress, IllegalStep> {
        match self {
            Self::Open(_) => Err(IllegalStep::IsOpen),
            Self::Ended(ended) => ended.open_again(by, now_ms),
        }
    }

    /// Whether no Core has been asked.
    pub fn is_unasked(&self) -> bool {
        matches!(self, Self::Open(open) if open.progress().stage == StageName::Arrived)
    }

    pub fn is_orphan(&self) -> bool {
        matches!(self, Self::Ended(EndedProgress { outcome: Outcome::Orphaned, .. }))
    }

    /// Its event is seen again.
    pub fn seen_again(self, again: Resighting, now_ms: u64) -> SeenAgain {
        let Resighting { seen, elsewhere, id_taken } = again;
        let is_orphan = self.is_orphan();
        match (seen, self.open_again(Reopening::SeenAgain, now_ms)) {
            // One node's word against what the chain has settled.
            (Sighting::Found, _) if is_orphan && id_taken => SeenAgain::Unchanged,
            // Also in its old block: the chain returned to that fork. It ended because no node had its block,
            // so one that shows it is reason enough to ask them all again.
            (Sighting::Joined | Sighting::Found, Ok(open)) if is_orphan => {
                SeenAgain::Reopened(Box::new(open))
            }
            (Sighting::Joined | Sighting::Found, _) if !elsewhere => SeenAgain::Unchanged,
            (Sighting::Joined, Ok(open)) => SeenAgain::Reopened(Box::new(open)),
            (Sighting::Joined | Sighting::Found, Err(_)) => SeenAgain::Moved,
            // What the chain has settled is not undone by the word of one node, and nothing by a stale block.
            (Sighting::Found, Ok(_)) | (Sighting::Stale, _) => SeenAgain::Unchanged,
        }
    }
}

impl OpenProgress {
    pub fn progress(&self) -> &Progress {
        &self.0
    }

    fn answering(self) -> Result<AnsweredProgress, IllegalStep> {
        if self.0.stage.has_answer() {
            Ok(AnsweredProgress(self.0))
        } else {
            Err(IllegalStep::NoAnswer)
        }
    }

    fn asked(self, core: CoreAddress, now_ms: u64) -> Self {
        let mut after = Progress { held: None, asked_core: Some(core), ..self.0 };
        if after.stage == StageName::Arrived {
            after.stage = StageName::Asked;
            after.asked_at_ms = Some(now_ms);
        }
        Self(after)
    }

    fn forgotten(mut self) -> Self {
        if !self.0.stage.has_answer() {
            self.0.stage = StageName::Arrived;
        }
        self
    }

    fn answered(self, now_ms: u64) -> Self {
        let (stage, answered_at_ms) = (StageName::Answered, Some(now_ms));
        Self(Progress { held: None, stage, answered_at_ms, ..self.0 })
    }

    fn failed(self, why: &str) -> Self {
        let attempts = self.0.attempts.saturating_add(1);
        Self(Progress { attempts, last_error: Some(excerpt(LONGEST_ERROR, why)), ..self.0 })
    }

    fn held(self, hold: &Hold, now_ms: u64) -> Self {
        let same = self.0.held.as_ref().filter(|held| held.hold.reason == hold.reason);
        let since_ms = same.map_or(now_ms, |held| held.since_ms);
        let hold = Hold::new(hold.reason, excerpt(LONGEST_ERROR, &hold.detail));
        Self(Progress { held: Some(StoredHold { hold, since_ms }), ..self.0 })
    }

    fn worked(self, time: Duration) -> Self {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self(Progress { worked_ms: self.0.worked_ms.saturating_add(time_ms), ..self.0 })
    }

    fn end(self, outcome: Outcome, now_ms: u64) -> EndedProgress {
        EndedProgress { progress: Progress { held: None, ..self.0 }, outcome, at_ms: now_ms }
    }
}

impl AnsweredProgress {
    fn submitted(self, transaction: B256, now_ms: u64) -> OpenProgress {
        let (stage, submitted_at_ms) = (StageName::Submitted, Some(now_ms));
        let transaction = Some(transaction);
        OpenProgress(Progress { held: None, stage, submitted_at_ms, transaction, ..self.0 })
    }

    fn returned(self, why: &str) -> OpenProgress {
        let last_error = Some(excerpt(LONGEST_ERROR, why));
        OpenProgress(Progress { stage: StageName::Answered, last_error, ..self.0 })
    }
}

impl EndedProgress {
    /// Since its event was first stored.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(self.at_ms.saturating_sub(self.progress.arrived_at_ms))
    }

    fn open_again(self, by: Reopening, now_ms: u64) -> Result<OpenProgress, IllegalStep> {
        if !self.is_undone_by(by) {
            return Err(IllegalStep::CannotReopen);
        }
        let Self { progress: was, outcome, .. } = self;
        let held =
            |reason, detail| Some(StoredHold { hold: Hold::new(reason, detail), since_ms: now_ms });
        Ok(OpenProgress(match by {
            Reopening::SeenAgain => was,
            Reopening::AnswerDropped => {
                let detail = "its answer's block has left the chain; it is sent again";
                Progress { held: held(HoldReason::AnswerDropped, detail), ..was }
            }
            // Held, so that the retry of held requests finds it whatever happens in the meantime. Its working
            // time starts at zero, because otherwise an expired request would expire again at once.
            Reopening::RetryAsked => Progress {
                stage: StageName::Arrived,
                held: held(HoldReason::RetryAsked, "an operator asked for a retry"),
                last_error: Some(excerpt(LONGEST_ERROR, outcome_text(&outcome))),
                worked_ms: 0,
                ..was
            },
        }))
    }

    /// A reorganisation undoes facts of the chain; an operator any outcome that may still be answered.
    fn is_undone_by(&self, by: Reopening) -> bool {
        use Reopening::{AnswerDropped, RetryAsked, SeenAgain};
        match (&self.outcome, by) {
            (Outcome::Accepted { .. }, SeenAgain | AnswerDropped)
            | (Outcome::AlreadyAnswered, SeenAgain | AnswerDropped | RetryAsked)
            | (
                Outcome::Orphaned | Outcome::Refused(Refusal::NotRequested) | Outcome::NoAnswerDue,
                SeenAgain | RetryAsked,
            )
            // That it was taken back is a fact of the chain.
            | (Outcome::Aborted, SeenAgain)
            | (
                Outcome::Expired
                | Outcome::Refused(Refusal::Malformed(_) | Refusal::AccessRefused(_)),
                RetryAsked,
            ) => true,
            (Outcome::Accepted { .. }, RetryAsked)
            | (
                Outcome::Orphaned | Outcome::Refused(Refusal::NotRequested) | Outcome::NoAnswerDue,
                AnswerDropped,
            )
            | (Outcome::Aborted, AnswerDropped | RetryAsked)
            | (
                Outcome::Expired
                | Outcome::Refused(Refusal::Malformed(_) | Refusal::AccessRefused(_)),
                SeenAgain | AnswerDropped,
            )
            | (Outcome::Observed | Outcome::Recorded, SeenAgain | AnswerDropped | RetryAsked) => false,
        }
    }
}

fn outcome_text(outcome: &Outcome) -> String {
    let name = outcome.as_str();
    match outcome {
        Outcome::Refused(Refusal::Malformed(what)) => format!("it had ended as {name} ({what})"),
        Outcome::Refused(Refusal::NotRequested) => {
            format!("it had ended as {name} (not_requested)")
        }
        Outcome::Refused(Refusal::AccessRefused(why)) => format!("it had ended as {name} ({why})"),
        Outcome::Accepted { .. }
        | Outcome::AlreadyAnswered
        | Outcome::Expired
        | Outcome::Orphaned
        | Outcome::Observed
        | Outcome::Aborted
        | Outcome::NoAnswerDue
        | Outcome::Recorded => format!("it had ended as {name}"),
    }
}

#[cfg(test)]
mod tests;
