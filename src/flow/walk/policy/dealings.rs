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
    flow::{Standing, kms_core::Asked},
};

/// So often the Core may not know a request that it was asked for.
const ROUNDS: u32 = 5;
/// A Core that takes what it forgets may be starting again and again: it has so long for that.
const STARTING: Duration = Duration::from_secs(20);

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
pub(in crate::flow) struct Dealings {
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
pub(in crate::flow) enum Next {
    Poll,
    Ask,
    Hold(Hold),
}

impl Dealings {
    pub fn begin(held: Option<HoldReason>) -> Self {
        // What was found out before need not be found out again: it is asked once.
        let rounds = if held == Some(HoldReason::CoreForgets) { ROUNDS - 2 } else { 0 };
        let (failed_before_ask, failed, since) = (false, false, None);
        Self { held, ask: LastAsk::Earlier, failed_before_ask, failed, rounds, since }
    }

    pub fn asked(&mut self, asked: Asked) {
        self.ask_ended(match asked {
            Asked::Accepted => LastAsk::Taken,
            Asked::AlreadyKnown => LastAsk::Known,
        });
    }

    /// The ask was cut off by a Core that answers others.
    pub fn cut_off(&mut self) {
        self.ask_ended(LastAsk::CutOff);
    }

    fn ask_ended(&mut self, how: LastAsk) {
        self.ask = how;
        self.failed_before_ask = self.failed;
        self.failed = false;
    }

    /// A poll says that the Core does not know the request. And what is odd in that, if anything is.
    pub fn unknown(&mut self, now: Instant) -> (Next, Option<&'static str>) {
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
            ROUNDS.. if contradicts || lasts >= STARTING => Next::Hold(Hold::new(reason, odd)),
            rounds if contradicts && rounds < ROUNDS - 1 => Next::Poll,
            _ => Next::Ask,
        };
        // Once is a restart, and in order.
        let restarted = first && matches!(self.ask, LastAsk::Earlier | LastAsk::Taken);
        (next, Some(odd).filter(|_| !restarted))
    }

    /// A poll says that the Core failed on the request.
    pub fn failed(&mut self, hold: Hold) -> Next {
        self.failed = true;
        let kept = |hold: Hold| {
            Next::Hold(Hold::new(HoldReason::CoreStuck, format!("{}, {KEPT}", hold.detail)))
        };
        match (self.ask, self.held) {
            // One from v0.14 on does it again, an earlier one says that it knows it.
            (LastAsk::Earlier, Some(HoldReason::CoreFailed)) => Next::Ask,
            (LastAsk::Earlier, Some(HoldReason::CoreStuck)) => kept(hold),
            (LastAsk::Known, _) if self.failed_before_ask => kept(hold),
            (LastAsk::Earlier | LastAsk::Taken | LastAsk::Known | LastAsk::CutOff, _) => {
                Next::Hold(hold)
            }
        }
    }
}

/// Where a walk goes on.
pub(in crate::flow) fn resume(standing: Standing) -> Stage {
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

    fn reason(next: &Next) -> Option<HoldReason> {
        match next {
            Next::Hold(hold) => Some(hold.reason),
            Next::Poll | Next::Ask => None,
        }
    }

    #[test]
    fn a7_a_core_that_contradicts_itself_is_asked_twice_and_believed_no_more() {
        let now = Instant::now();
        let mut dealings = Dealings::begin(None);
        dealings.asked(Asked::AlreadyKnown);
        let rounds: Vec<Next> = (0..4).map(|_| dealings.unknown(now).0).collect();
        assert_eq!(rounds, [Next::Poll, Next::Poll, Next::Poll, Next::Ask]);
        dealings.asked(Asked::AlreadyKnown);
        assert_eq!(reason(&dealings.unknown(now).0), Some(HoldReason::CoreForgets));
        // At the next try it is asked once.
        let mut dealings = Dealings::begin(Some(HoldReason::CoreForgets));
        assert_eq!(dealings.unknown(now).0, Next::Ask);
        dealings.asked(Asked::AlreadyKnown);
        assert_eq!(reason(&dealings.unknown(now).0), Some(HoldReason::CoreForgets));
    }

    #[test]
    fn one_that_restarts_is_asked_again_and_one_that_goes_on_restarting_is_left_alone() {
        let begun = Instant::now();
        let mut dealings = Dealings::begin(None);
        for round in 0..10 {
            dealings.asked(Asked::Accepted);
            let (next, odd) = dealings.unknown(begun + Duration::from_secs(round));
            assert_eq!((next, odd.is_some()), (Next::Ask, round > 0));
        }
        let (next, _) = dealings.unknown(begun + STARTING);
        assert_eq!(reason(&next), Some(HoldReason::CoreForgets));
    }

    #[test]
    fn b2_what_it_failed_on_is_polled_before_it_is_asked() {
        // One that does it again.
        let mut dealings = Dealings::begin(None);
        dealings.asked(Asked::Accepted);
        assert_eq!(reason(&dealings.failed(failed())), Some(HoldReason::CoreFailed));
        let mut dealings = Dealings::begin(Some(HoldReason::CoreFailed));
        assert_eq!(dealings.failed(failed()), Next::Ask);
        dealings.asked(Asked::Accepted);
        assert_eq!(reason(&dealings.failed(failed())), Some(HoldReason::CoreFailed));
        // One that keeps it is not asked any more, until it has forgotten.
        let mut dealings = Dealings::begin(Some(HoldReason::CoreFailed));
        assert_eq!(dealings.failed(failed()), Next::Ask);
        dealings.asked(Asked::AlreadyKnown);
        assert_eq!(reason(&dealings.failed(failed())), Some(HoldReason::CoreStuck));
        let mut dealings = Dealings::begin(Some(HoldReason::CoreStuck));
        assert_eq!(reason(&dealings.failed(failed())), Some(HoldReason::CoreStuck));
        let mut dealings = Dealings::begin(Some(HoldReason::CoreStuck));
        assert_eq!(dealings.unknown(Instant::now()).0, Next::Ask);
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
            let mut dealings = Dealings::begin(held);
            for (ask, fails) in answers {
                // The pause between two rounds, at its longest.
                now += Duration::from_secs(5);
                let next = if fails { dealings.failed(failed()) } else { dealings.unknown(now).0 };
                match next {
                    Next::Hold(_) => break,
                    Next::Poll => {}
                    Next::Ask => {
                        asks += 1;
                        match ask {
                            0 => dealings.asked(Asked::Accepted),
                            1 => dealings.asked(Asked::AlreadyKnown),
                            _ => dealings.cut_off(),
                        }
                    }
                }
                prop_assert!(asks <= ROUNDS + 1, "{dealings:?}");
            }
        }
    }
}
