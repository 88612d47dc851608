//! What follows where a request gets no further: the one table of the walk's decisions. Pure: it is told
//! where the request stands, what stands in its way, what happened to it before, and the time.
//!
//! ```text
//! in its way           it stands at         and                                 then
//! -----------------------------------------------------------------------------------------------------
//! refused              anywhere                                                 refuse
//! held for its answer  answered, submitted  out of the journal, the first time  ask the Core for another
//! held                 anywhere             it has worked for `request_expiry`  expire
//! held                 anywhere                                                 hold
//! trouble of its own   anywhere             for 20 s (3 s: a node denies it),   give way (no_progress)
//!                                           and its place is wanted
//! trouble              anywhere                                                 retry after a pause
//! ```
//!
//! The first line that fits counts ([`decide`]). Work is time in which everyone answered: in which the
//! Core had the request, and not that spent waiting for memory or gas. An outage is no part of it.
//!
//! What stands in the way is most often said by a room. The rest is said here:
//!
//! ```text
//! the Core has no answer yet            20 s, and its place is wanted   held (core_silent)
//!                                       its timeout is over             held (core_silent)
//! the Core has none but a rejected one  it gives that, fails, or holds  held, as the contract said
//! the walk panicked                     the third time                  hold (panicked)
//!                                       before that                     retry after 100 ms
//! the Core contradicts itself                                           see [`core_history`]
//! the contract does not take an answer                                  see `submission::policy`, [`blame`]
//! ```

pub(in crate::flow) mod blame;
pub(in crate::flow) mod core_history;
pub(in crate::flow) mod setback;

use std::time::Duration;

use tokio::time::Instant;

use self::{blame::blames_answer, core_history::CoreHistory, setback::Setback};
use crate::{
    domain::{Answer, Hold, HoldReason, Refusal, Remedy, stage::Stage},
    flow::{RequestState, ciphertexts::RefusalTimer, submission::PriorAnswer},
    time::backoff::Backoff,
};

/// A walk that got nowhere for so long, by trouble of its own, gives its place to who waits for
/// one. So does one whose answer the Core does not have for so long; of these one after the other,
/// since a Core may also be slow.
pub(in crate::flow) const GIVE_WAY_AFTER: Duration = Duration::from_secs(20);
/// So soon one does whose request a node denies: whoever forges one forges thousands.
const DENIED_GIVES_WAY_AFTER: Duration = Duration::from_secs(3);
/// The first pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Panics of one request's walk before it is held.
const MAX_PANICS: u32 = 3;
/// The pause after a panic.
const PANIC_PAUSE: Duration = Duration::from_millis(100);

/// What happened to a request so far.
#[derive(Clone, Debug)]
pub(in crate::flow) struct History {
    /// It came out of the journal.
    pub recovered: bool,
    /// It was here before, and the chain went on.
    pub maybe_asked: bool,
    /// What may have become of an answer to it.
    pub prior_answer: PriorAnswer,
    /// Why it was held when this walk began: that was said.
    pub held: Option<HoldReason>,
    /// A node denied it when they were asked last, or none showed it.
    pub doubted: bool,
    /// Of the buckets.
    pub refusals: RefusalTimer,
    /// What the Core said of it.
    pub core: CoreHistory,
    /// What earlier walks had worked.
    worked: Duration,
    /// An answer the contract did not take, and what it said.
    rejected: Option<(Answer, Hold)>,
    pause: Backoff,
    /// Why the last attempt failed, by its code.
    last_code: Option<&'static str>,
    /// Since when it got nowhere.
    stuck_since: Option<Instant>,
}

impl History {
    /// As a walk begins. `standing`: by the ledger, of one that comes out of the journal;
    /// `maybe_forgotten`: an earlier life may have answered it that the ledger does not know of;
    /// `longest_pause`: between two attempts.
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
            refusals: RefusalTimer::new(held),
            core: CoreHistory::begin(held),
            worked: standing.map_or(Duration::ZERO, |standing| standing.worked),
            rejected: None,
            pause: Backoff::new(FIRST_PAUSE, longest_pause),
            last_code: None,
            stuck_since: None,
        }
    }

    /// It was in the room of this stage.
    pub fn visited(&mut self, stage: &Stage) {
        self.maybe_asked = true;
        if stage.answer().is_some() && self.prior_answer == PriorAnswer::Impossible {
            self.prior_answer = PriorAnswer::MaybeSent;
        }
    }

    /// No earlier life has answered it.
    pub fn no_forgotten_answer(&mut self) {
        self.prior_answer = PriorAnswer::MaybeSent;
    }

    /// It got on. An answer that is sent, and one that comes back, did not yet.
    pub fn advanced(&mut self, from: &Stage, stage: &Stage) {
        if from.answer().is_some() {
            return;
        }
        self.stuck_since = None;
        if stage.answer().is_some() {
            self.pause.reset();
        }
    }

    /// It goes back to the Core, after this pause: not in a hot loop. `dice`: from 0 to 1.
    pub fn pause_before_core(&mut self, dice: f64) -> Duration {
        self.stuck_since = None;
        self.pause.next_delay(dice)
    }

    /// Whether it is the answer that the contract did not take.
    pub fn was_rejected(&self, answer: &Answer) -> bool {
        self.rejected.as_ref().is_some_and(|(known, _)| known == answer)
    }

    /// Held before for the answer it has: the Core may have a better one by now.
    fn may_get_better_answer(&self, hold: &Hold) -> bool {
        self.recovered && self.rejected.is_none() && blames_answer(hold.reason)
    }
}

/// When an attempt was made, and how things are now that it failed.
#[derive(Clone, Copy, Debug)]
pub(in crate::flow) struct FailedAttempt {
    pub begun: Instant,
    pub now: Instant,
    /// Another request waits for the place of this one.
    pub is_recalled: bool,
    /// From 0 to 1.
    pub dice: f64,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::flow) enum WalkDecision {
    /// It ends.
    Refuse(Refusal),
    /// It ends: it was tried for as long as the operator wants. `worked`: in this attempt.
    Expire { worked: Duration },
    /// It is set aside.
    Hold { hold: Hold, worked: Duration },
    /// So it is, because another request needs the place.
    GiveWay(Hold),
    /// It has an answer that was not taken: the Core is polled for another.
    AskForBetterAnswer,
    /// The same again. `news`: the reason is not that of the attempt before.
    Retry { after: Duration, is_new_cause: bool },
}

/// The table. `expiry`: work after which it ends.
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
        (Remedy::Hold(hold), _) => WalkDecision::Hold { hold: hold.clone(), worked },
        (Remedy::Retry, _) => {
            let since = *history.stuck_since.get_or_insert(at.begun);
            let patience = if history.doubted { DENIED_GIVES_WAY_AFTER } else { GIVE_WAY_AFTER };
            let is_stuck = at.now.saturating_duration_since(since) >= patience;
            if setback.is_own && is_stuck && at.is_recalled {
                return WalkDecision::GiveWay(Hold::new(
                    HoldReason::NoProgress,
                    setback.cause.to_string(),
                ));
            }
            let code = Some(setback.cause.code());
            let news = std::mem::replace(&mut history.last_code, code) != code;
            WalkDecision::Retry { after: history.pause.next_delay(at.dice), is_new_cause: news }
        }
    }
}

/// A request's walk panicked so often: the pause after which it is walked again, or why it is held.
pub(in crate::flow) fn after_panic(times: u32) -> Result<Duration, Hold> {
    if times < MAX_PANICS {
        return Ok(PANIC_PAUSE);
    }
    let detail = format!("its walk panicked {times} times; please report the log of this request");
    Err(Hold::new(HoldReason::Panicked, detail))
}

#[cfg(test)]
mod tests;
