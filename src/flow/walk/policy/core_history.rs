//! What the Core's answers to one request mean together. Pure.
//!
//! Each answer by itself is valid: the Core knows the id, does not know it, or failed. A Core that
//! alternates between them would be asked forever, each time with all ciphertexts. So every round
//! without a result is counted, nothing is fetched where a poll is enough, and after some rounds the
//! request is held:
//!
//! ```text
//! ask            poll        possible cause                                reaction
//! accepted       not known   restarted, or two Cores behind one address    asked again, later held
//! already known  not known   it deleted the id (v0.15), or as above        polled, asked once more, held
//! cut off        not known   the request breaks it                         asked again, later held
//! any            failed      see the Core's log                            held; at the retry polled first
//! known, after   failed      it keeps a failed request (up to v0.13)       held; from then on only polled
//! it had failed
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    domain::{Hold, HoldReason, stage::Stage},
    flow::{RequestState, kms_core::AskResult},
};

/// How often the Core may not know a request that it was asked before the request is held.
const MAX_ROUNDS: u32 = 5;
/// A Core that accepts requests and forgets them may be restarting repeatedly: it gets this long.
const RESTARTING_FOR: Duration = Duration::from_secs(20);

const DELETED: &str = "the KMS Core says both that it has this id and that it does not know it: it \
                       has deleted it, or there are two Cores behind one address";
const FORGETFUL: &str = "the KMS Core forgets the request repeatedly; are there two Cores behind \
                         one address?";
const BREAKING: &str = "the KMS Core breaks off the call for this request, and answers others: \
                        check its log";
const KEPT: &str = "and says so until it is restarted";

/// The result of a walk's last ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastAsk {
    /// There was none: an earlier walk asked.
    Earlier,
    Taken,
    Known,
    /// Unknown whether the Core has the request.
    CutOff,
}

/// What the Core answered about one request in one walk.
#[derive(Clone, Copy, Debug)]
pub(in crate::flow) struct CoreHistory {
    /// The reason for which it was held when the walk began.
    held: Option<HoldReason>,
    ask: LastAsk,
    /// It had already failed before the last ask.
    failed_before_ask: bool,
    failed: bool,
    /// Rounds that ended with "not known", and the time of the first.
    rounds: u32,
    since: Option<Instant>,
}

/// The next call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::flow) enum NextCall {
    Poll,
    Ask,
    Hold(Hold),
}

impl CoreHistory {
    pub fn begin(held: Option<HoldReason>) -> Self {
        // This was found out before: one more ask is enough.
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

    /// Whether the Core has forgotten the result of what it had taken.
    pub fn has_lost_a_result(&self) -> bool {
        self.rounds > 0 || self.held == Some(HoldReason::EpochResultLost)
    }

    /// A poll returned "not known". Also returns what is inconsistent about that, if anything.
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
        // The first time it is probably a restart, and no inconsistency.
        let restarted = first && matches!(self.ask, LastAsk::Earlier | LastAsk::Taken);
        (next, Some(odd).filter(|_| !restarted))
    }

    /// A poll returned that the Core failed on the request.
    pub fn on_failed(&mut self, hold: Hold) -> NextCall {
        self.failed = true;
        let kept = |hold: Hold| {
            NextCall::Hold(Hold::new(HoldReason::CoreStuck, format!("{}, {KEPT}", hold.detail)))
        };
        match (self.ask, self.held) {
            // A Core from v0.14 on computes it again; an earlier one answers that it knows the request.
            (LastAsk::Earlier, Some(HoldReason::CoreFailed)) => NextCall::Ask,
            (LastAsk::Earlier, Some(HoldReason::CoreStuck)) => kept(hold),
            (LastAsk::Known, _) if self.failed_before_ask => kept(hold),
            (LastAsk::Earlier | LastAsk::Taken | LastAsk::Known | LastAsk::CutOff, _) => {
                NextCall::Hold(hold)
            }
        }
    }
}

/// Where a walk resumes.
pub(in crate::flow) fn stage_to_resume(standing: RequestState) -> Stage {
    match (standing.stage, standing.held) {
        // The Core is polled before anything is fetched: it knows best what it has.
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
        // At the next retry it is asked once.
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
        // A Core that computes it again.
        let mut dealings = CoreHistory::begin(None);
        dealings.on_asked(AskResult::Accepted);
        assert_eq!(reason(&dealings.on_failed(failed())), Some(HoldReason::CoreFailed));
        let mut dealings = CoreHistory::begin(Some(HoldReason::CoreFailed));
        assert_eq!(dealings.on_failed(failed()), NextCall::Ask);
        dealings.on_asked(AskResult::Accepted);
        assert_eq!(reason(&dealings.on_failed(failed())), Some(HoldReason::CoreFailed));
        // A Core that keeps a failed request is not asked again until it has forgotten it.
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
        /// Whatever the Core answers, the number of asks before the request is held is bounded, and no ask is
        /// made where a poll is enough.
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
                // The longest pause between two rounds.
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
