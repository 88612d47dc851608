//! All decisions of a walk after a setback, as one table. Pure: its inputs are the request's stage, the
//! setback, the request's history, and the time.
//!
//! ```text
//! setback              stage                condition                           decision
//! -----------------------------------------------------------------------------------------------------
//! refused              any                                                      refuse
//! held for its answer  answered, submitted  first time since recovery           ask the Core for another
//! held                 any                  worked for `request_expiry`         expire
//! held                 any                                                      hold
//! its own, transient   any                  for 20 s (3 s: a node denies it,    give way (no_progress,
//!                                           or its access), permit is wanted    or why access is denied)
//! transient            any                                                      retry after a pause
//! ```
//!
//! What is held or gives way only because the user's signature is not valid yet is looked at again when it
//! is, and not only with the other held ones.
//!
//! The first matching row applies ([`decide`]). Working time is time in which every dependency answered
//! and the Core had the request. Outages and waiting for memory or gas do not count.
//!
//! Most setbacks come from a stage. The others are decided here:
//!
//! ```text
//! the Core has no answer yet            20 s, and its permit is wanted  held (core_silent)
//!                                       its timeout has passed          held (core_silent)
//! the Core has only a rejected answer   it repeats it, fails, or holds  held, with the contract's reason
//! the walk panicked                     the third time                  hold (panicked)
//!                                       before that                     retry after 100 ms
//! the access check gives no pass                                        see [`access_history`]
//! a refusal is not certain              it is not confirmed             held (unconfirmed), see [`refusals`]
//! the Core contradicts itself                                           see [`core_history`]
//! a key operation may not be asked for yet                              see [`key_operations`], [`lifecycle`]
//! the contract rejects an answer                                        see `submission::decisions`, [`blame`]
//! ```

pub(in crate::flow) mod access_history;
pub(in crate::flow) mod refusals;
pub(in crate::flow) mod blame;
pub(in crate::flow) mod core_history;
pub(in crate::flow) mod key_operations;
pub(in crate::flow) mod lifecycle;
pub(in crate::flow) mod overloads;
pub(in crate::flow) mod representation;
pub(in crate::flow) mod setback;

use std::time::Duration;

use tokio::time::Instant;

use self::{
    access_history::AccessHistory, blame::blames_answer, core_history::CoreHistory,
    setback::Setback,
};
use crate::{
    domain::{Answer, Hold, HoldReason, Refusal, Remedy, stage::Stage},
    flow::{RequestState, ciphertexts::RefusalTimer, submission::PriorAnswer},
    time::backoff::Backoff,
};

/// A walk that made no progress for this long, for a reason of its own, gives its permit to a request
/// that waits. So does one for whose answer the Core takes this long; of these only one at a time,
/// because the Core may just be slow.
pub(in crate::flow) const GIVE_WAY_AFTER: Duration = Duration::from_secs(20);
/// The same for a request that a node denies, or whose access check gives no pass: forged requests come by
/// the thousand.
const DENIED_GIVES_WAY_AFTER: Duration = Duration::from_secs(3);
/// The first pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Panics of one request's walk before it is held.
const MAX_PANICS: u32 = 3;
/// The pause after a panic.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// An operator's approval of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Approval {
    Missing,
    Given,
}

/// What has happened to a request so far.
#[derive(Clone, Debug)]
pub(in crate::flow) struct History {
    /// It was read back from the journal.
    pub recovered: bool,
    /// It may have been asked before, and the chain has moved on.
    pub maybe_asked: bool,
    /// Whether an earlier answer to it may exist.
    pub prior_answer: PriorAnswer,
    /// The reason for which it was held when this walk began: already logged.
    pub held: Option<HoldReason>,
    /// At the last check a node denied it, or no node showed it.
    pub doubted: bool,
    /// Whether an operator has approved it.
    pub approval: Approval,
    /// How its access checks went.
    pub access: AccessHistory,
    /// When buckets refused its ciphertexts.
    pub refusals: RefusalTimer,
    /// What the Core has answered about it.
    pub core: CoreHistory,
    /// Working time of earlier walks.
    worked: Duration,
    /// An answer that the contract rejected, and the reason.
    rejected: Option<(Answer, Hold)>,
    pause: Backoff,
    /// The code of the last attempt's failure.
    last_code: Option<&'static str>,
    /// When the first attempt without progress began. `None`: it made progress since.
    stuck_since: Option<Instant>,
}

impl History {
    /// The history at the start of a walk. `standing`: the ledger's state of a recovered request.
    /// `maybe_forgotten`: an earlier run may have answered it without the ledger knowing. `longest_pause`:
    /// the longest pause between two attempts.
    pub fn begin(
        standing: Option<&RequestState>,
        maybe_forgotten: bool,
        longest_pause: Duration,
    ) -> Self {
        let recovered = standing.is_some();
        let held = standing.and_then(|standing| standing.held);
        Self {
            recovered,
            maybe_asked: recovered,
            prior_answer: match (maybe_forgotten, recovered) {
                (true, _) => PriorAnswer::MaybeForgotten,
                (false, true) => PriorAnswer::MaybeSent,
                (false, false) => PriorAnswer::Impossible,
            },
            held,
            doubted: held == Some(HoldReason::NoProgress),
            approval: if standing.is_some_and(|standing| standing.is_approved) {
                Approval::Given
            } else {
                Approval::Missing
            },
            access: AccessHistory::begin(
                held,
                standing.and_then(|standing| standing.bound_context),
            ),
            refusals: RefusalTimer::new(held),
            core: CoreHistory::begin(held),
            worked: standing.map_or(Duration::ZERO, |standing| standing.worked),
            rejected: None,
            pause: Backoff::new(FIRST_PAUSE, longest_pause),
            last_code: None,
            stuck_since: None,
        }
    }

    /// Records that this stage was run.
    pub fn visited(&mut self, stage: &Stage) {
        self.maybe_asked = true;
        if stage.answer().is_some() && self.prior_answer == PriorAnswer::Impossible {
            self.prior_answer = PriorAnswer::MaybeSent;
        }
    }

    /// Gas is spent on its answer only after a node's simulation has accepted it.
    pub fn simulate_first(&mut self) {
        if self.prior_answer == PriorAnswer::Impossible {
            self.prior_answer = PriorAnswer::MaybeSent;
        }
    }

    /// No earlier run has answered it.
    pub fn no_forgotten_answer(&mut self) {
        self.prior_answer = PriorAnswer::MaybeSent;
    }

    /// Records progress. Sending an answer, and having it returned, are not progress yet.
    pub fn advanced(&mut self, from: &Stage, stage: &Stage) {
        if from.answer().is_some() {
            return;
        }
        self.stuck_since = None;
        if stage.answer().is_some() {
            self.pause.reset();
        }
    }

    /// The pause before the Core is called again, so that this is no hot loop. `dice`: from 0 to 1.
    pub fn pause_before_core(&mut self, dice: f64) -> Duration {
        self.stuck_since = None;
        self.pause.next_delay(dice)
    }

    /// Returns whether the contract has already rejected this answer.
    pub fn was_rejected(&self, answer: &Answer) -> bool {
        self.rejected.as_ref().is_some_and(|(known, _)| known == answer)
    }

    /// Returns whether the request was held before for its answer: the Core may have a better one by now.
    fn may_get_better_answer(&self, hold: &Hold) -> bool {
        self.recovered && self.rejected.is_none() && blames_answer(hold.reason)
    }
}

/// When a failed attempt was made, and the circumstances now.
#[derive(Clone, Copy, Debug)]
pub(in crate::flow) struct FailedAttempt {
    pub begun: Instant,
    pub now: Instant,
    /// Another request waits for this one's permit.
    pub is_recalled: bool,
    /// From 0 to 1.
    pub dice: f64,
}

/// What follows from a setback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::flow) enum WalkDecision {
    /// It ends.
    Refuse(Refusal),
    /// It ends, because its working time is over. `worked`: in this attempt.
    Expire { worked: Duration },
    /// It is set aside. `valid_after`: how long until the user's signature is valid, if that is the reason.
    Hold { hold: Hold, worked: Duration, valid_after: Option<Duration> },
    /// It is set aside because another request needs the permit.
    GiveWay { hold: Hold, valid_after: Option<Duration> },
    /// Its answer was rejected: poll the Core for another one.
    AskForBetterAnswer,
    /// Try again. `is_new_cause`: the previous attempt failed for another reason.
    Retry { after: Duration, is_new_cause: bool },
}

/// The decision table. `expiry`: working time after which a request ends.
pub(in crate::flow) fn decide(
    stage: &Stage,
    setback: &Setback,
    history: &mut History,
    at: FailedAttempt,
    expiry: Duration,
) -> WalkDecision {
    let worked = match stage {
        Stage::Asked => at.now.saturating_duration_since(at.begun),
        Stage::Arrived | Stage::Answered(_) | Stage::Submitted(_) => Duration::ZERO,
    };
    let expires = history.worked.saturating_add(worked) >= expiry;
    match (&setback.remedy, stage.answer()) {
        (Remedy::Refuse(refusal), _) => WalkDecision::Refuse(refusal.clone()),
        (Remedy::Hold(hold), Some(answer)) if history.may_get_better_answer(hold) => {
            history.rejected = Some((answer.clone(), hold.clone()));
            WalkDecision::AskForBetterAnswer
        }
        (Remedy::Hold(_), _) if expires => WalkDecision::Expire { worked },
        (Remedy::Hold(hold), _) => {
            let valid_after = setback.valid_after();
            WalkDecision::Hold { hold: hold.clone(), worked, valid_after }
        }
        (Remedy::Retry, _) => {
            let since = *history.stuck_since.get_or_insert(at.begun);
            let is_denied = history.doubted || history.access.is_troubled();
            let patience = if is_denied { DENIED_GIVES_WAY_AFTER } else { GIVE_WAY_AFTER };
            let is_stuck = at.now.saturating_duration_since(since) >= patience;
            if setback.is_own && is_stuck && at.is_recalled {
                let hold = setback.cause.hold_to_give_way();
                return WalkDecision::GiveWay { hold, valid_after: setback.valid_after() };
            }
            let code = Some(setback.cause.code());
            let news = std::mem::replace(&mut history.last_code, code) != code;
            WalkDecision::Retry { after: history.pause.next_delay(at.dice), is_new_cause: news }
        }
    }
}

/// What follows from this many panics of one request's walk: the pause before the next attempt, or a
/// hold.
pub(in crate::flow) fn after_panic(times: u32) -> Result<Duration, Hold> {
    if times < MAX_PANICS {
        return Ok(PANIC_PAUSE);
    }
    let detail = format!("its walk panicked {times} times; please report the log of this request");
    Err(Hold::new(HoldReason::Panicked, detail))
}

#[cfg(test)]
mod tests;
