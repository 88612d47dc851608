//! What the Core's answers to one request mean together. Pure.
//!
//! One by one each of them is in order: that it knows the id, that it does not, that it failed. A Core
//! that says them in turn would be asked for ever, each time with all ciphertexts. So every round that
//! leads nowhere counts, nothing is fetched where a poll can tell, and after some rounds the request is
//! held:
//!
//! ```text
//! ask            poll        it may be that
//! taken          not known   it restarted, or two are behind one address   asked again, later held
//! known already  not known   it has deleted the id (v0.15), or as above    polled, asked once more, held
//! cut off        not known   it breaks at this request                     asked again, later held
//! any            failed      whatever its log says                         held; then polled first
//! known, though  failed      it keeps a failed request (up to v0.13)       held; only polled from then on
//! it had failed
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    domain::{Hold, HoldReason, stage::Stage},
    flow::{RequestState, kms_core::AskResult},
};

/// So often the Core may not know a request that it was asked for.
const MAX_ROUNDS: u32 = 5;
/// A Core that takes what it forgets may be starting again and again: it has so long for that.
const RESTARTING_FOR: Duration = Duration::from_secs(20);

const DELETED: &str = "the KMS Core says that it has this id already, and that it does not know it: it \
                       has deleted it, or there are two behind one address";
const FORGETFUL: &str = "the KMS Core forgets the request again and again; are there two behind one \
                         address?";
const BREAKING: &str = "the KMS Core breaks the call when it is asked for this request, and answers \
                        others: look at its log";
const KEPT: &str = "and says so until it is restarted";

/// How the last ask of a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastAsk {
    /// There was none: an earlier walk asked.
    Earlier,
    Taken,
    Known,
    /// Whether the Core has it is not known.
    CutOff,
}

/// What the Core said of one request in one walk.
#[derive(Clone, Copy, Debug)]
pub(in crate::flow) struct CoreHistory {
    /// Why it was held when the walk began.
    held: Option<HoldReason>,
    ask: LastAsk,
    /// It had said that it failed when it was asked last.
    failed_before_ask: bool,
    failed: bool,
    /// Rounds that ended with a request that it does not know, and since when.
    rounds: u32,
    since: Option<Instant>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::flow) enum NextCall {
    Poll,
    Ask,
    Hold(Hold),
}

impl CoreHistory {
    pub fn begin(held: Option<HoldReason>) -> Self {
        // What was found out before need not be found out again: it is asked once.
        let rounds = if held == Some(HoldReason::CoreForgets) { MAX_ROUNDS - 2 } else { 0 };
        let (failed_before_ask, failed, since) = (false, false, None);
        Self { held, ask: LastAsk::Earlier, failed_before_ask, failed, rounds, since }
    }

    pub fn on_asked(&mut self, asked: AskResult) {
        self.set_last_ask(match asked {
            AskResult::Accepted => LastAsk::Taken,
            AskResult::AlreadyKnown => LastAsk::Known,
        });
    }

    /// The ask was cut off by a Core that answers others.
    pub fn on_cut_off(&mut self) {
        self.set_last_ask(LastAsk::CutOff);
    }

    fn set_last_ask(&mut self, how: LastAsk) {
        self.ask = how;
        self.failed_before_ask = self.failed;
        self.failed = false;
    }

    /// A poll says that the Core does not know the request. And what is odd in that, if anything is.
    pub fn on_unknown(&mut self, now: Instant) -> (NextCall, Option<&'static str>) {
        self.rounds = self.rounds.saturating_add(1);
        let first = self.since.is_none();
        let lasts = now.saturating_duration_since(*self.since.get_or_insert(now));
        let (odd, reason) = match self.ask {
            LastAsk::Known => (DELETED, HoldReason::CoreForgets),
            LastAsk::CutOff => (BREAKING, HoldReason::NoProgress),
            LastAsk::Earlier | LastAsk::Taken => (FORGETFUL, HoldReason::CoreForgets),
        };
        let contradicts = self.ask == LastAsk::Known;
        let next = match self.rounds {
            MAX_ROUNDS.. if contradicts || lasts >= RESTARTING_FOR => {
                NextCall::Hold(Hold::new(reason, odd))
            }
            rounds if contradicts && rounds < MAX_ROUNDS - 1 => NextCall::Poll,
            _ => NextCall::Ask,
        };
        // Once is a restart, and in order.
        let restarted = first && matches!(self.ask, LastAsk::Earlier | LastAsk::Taken);
        (next, Some(odd).filter(|_| !restarted))
    }

    /// A poll says that the Core failed on the request.
    pub fn on_failed(&mut self, hold: Hold) -> NextCall {
        self.failed = true;
        let kept = |hold: Hold| {
            NextCall::Hold(Hold::new(HoldReason::CoreStuck, format!("{}, {KEPT}", hold.detail)))
        };
        match (self.ask, self.held) {
            // One from v0.14 on does it again, an earlier one says that it knows it.
            (LastAsk::Earlier, Some(HoldReason::CoreFailed)) => NextCall::Ask,
            (LastAsk::Earlier, Some(HoldReason::CoreStuck)) => kept(hold),
            (LastAsk::Known, _) if self.failed_before_ask => kept(hold),
            (LastAsk::Earlier | LastAsk::Taken | LastAsk::Known | LastAsk::CutOff, _) => {
                NextCall::Hold(hold)
            }
        }
    }
}

/// Where a walk goes on.
pub(in crate::flow) fn stage_to_resume(standing: RequestState) -> Stage {
    match (standing.stage, standing.held) {
        // The Core knows best what it has of it, and is polled before anything is fetched.
        (
            Stage::Arrived,
            Some(HoldReason::CoreFailed | HoldReason::CoreStuck | HoldReason::CoreForgets),
        ) => Stage::Asked,
        (stage, _) => stage,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failed() -> Hold {
        Hold::new(HoldReason::CoreFailed, "failed")
    }

    fn reason(next: &NextCall) -> Option<HoldReason> {
        match next {
            NextCall::Hold(hold) => Some(hold.reason),
            NextCall::Poll | NextCall::Ask => None,
        }
    }

    #[test]
    fn a7_a_core_that_contradicts_itself_is_asked_twice_and_believed_no_more() {
        let now = Instant::now();
        let mut dealings = CoreHistory::begin(None);
        dealings.on_asked(AskResult::AlreadyKnown);
        let rounds: Vec<NextCall> = (0..4).map(|_| dealings.on_unknown(now).0).collect();
        assert_eq!(rounds, [NextCall::Poll, NextCall::Poll, NextCall::Poll, NextCall::Ask]);
        dealings.on_asked(AskResult::AlreadyKnown);
        assert_eq!(reason(&dealings.on_unknown(now).0), Some(HoldReason::CoreForgets));
        // At the next try it is asked once.
        let mut dealings = CoreHistory::begin(Some(HoldReason::CoreForgets));
        assert_eq!(dealings.on_unknown(now).0, NextCall::Ask);
        dealings.on_asked(AskResult::AlreadyKnown);
        assert_eq!(reason(&dealings.on_unknown(now).0), Some(HoldReason::CoreForgets));
    }

    #[test]
    fn one_that_restarts_is_asked_again_and_one_that_goes_on_restarting_is_left_alone() {
        let begun = Instant::now();
        let mut dealings = CoreHistory::begin(None);
        for round in 0..10 {
            dealings.on_asked(AskResult::Accepted);
            let (next, odd) = dealings.on_unknown(begun + Duration::from_secs(round));
            assert_eq!((next, odd.is_some()), (NextCall::Ask, round > 0));
        }
        let (next, _) = dealings.on_unknown(begun + RESTARTING_FOR);
        assert_eq!(reason(&next), Some(HoldReason::CoreForgets));
    }

    #[test]
    fn b2_what_it_failed_on_is_polled_before_it_is_asked() {
        // One that does it again.
        let mut dealings = CoreHistory::begin(None);
        dealings.on_asked(AskResult::Accepted);
        assert_eq!(reason(&dealings.on_failed(failed())), Some(HoldReason::CoreFailed));
        let mut dealings = CoreHistory::begin(Some(HoldReason::CoreFailed));
        assert_eq!(dealings.on_failed(failed()), NextCall::Ask);
        dealings.on_asked(AskResult::Accepted);
        assert_eq!(reason(&dealings.on_failed(failed())), Some(HoldReason::CoreFailed));
        // One that keeps it is not asked any more, until it has forgotten.
        let mut dealings = CoreHistory::begin(Some(HoldReason::CoreFailed));
        assert_eq!(dealings.on_failed(failed()), NextCall::Ask);
        dealings.on_asked(AskResult::AlreadyKnown);
        assert_eq!(reason(&dealings.on_failed(failed())), Some(HoldReason::CoreStuck));
        let mut dealings = CoreHistory::begin(Some(HoldReason::CoreStuck));
        assert_eq!(reason(&dealings.on_failed(failed())), Some(HoldReason::CoreStuck));
        let mut dealings = CoreHistory::begin(Some(HoldReason::CoreStuck));
        assert_eq!(dealings.on_unknown(Instant::now()).0, NextCall::Ask);
    }

    proptest! {
        /// Whatever the Core says, it is asked at most so often before the request is held, and never
        /// because of a poll that could be made without asking.
        #[test]
        fn a7_no_core_is_asked_for_ever(
            held in prop::sample::select(vec![
                None,
                Some(HoldReason::CoreFailed),
                Some(HoldReason::CoreStuck),
                Some(HoldReason::CoreForgets),
                Some(HoldReason::NoFunds),
            ]),
            answers in prop::collection::vec((0..3_u8, any::<bool>()), 40),
        ) {
            let (mut now, mut asks) = (Instant::now(), 0);
            let mut dealings = CoreHistory::begin(held);
            for (ask, fails) in answers {
                // The pause between two rounds, at its longest.
                now += Duration::from_secs(5);
                let next = if fails { dealings.on_failed(failed()) } else { dealings.on_unknown(now).0 };
                match next {
                    NextCall::Hold(_) => break,
                    NextCall::Poll => {}
                    NextCall::Ask => {
                        asks += 1;
                        match ask {
                            0 => dealings.on_asked(AskResult::Accepted),
                            1 => dealings.on_asked(AskResult::AlreadyKnown),
                            _ => dealings.on_cut_off(),
                        }
                    }
                }
                prop_assert!(asks <= MAX_ROUNDS + 1, "{dealings:?}");
            }
        }
    }
}
