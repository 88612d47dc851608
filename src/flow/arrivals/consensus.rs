//! Tracks requests that enough other nodes have answered and this one has not. Pure: its inputs are the
//! chain's logs with their time, and the journal's records.
//!
//! This check does not rely on our own records of the request: if others reach consensus on it and it
//! was not answered here, something is wrong here. Being a little later than the others is normal: a
//! request gets one minute from the moment its consensus was seen.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{domain::U256, flow::ledger::AnsweredHere};

/// How much later than the others an answer may be.
const LATE_AFTER: Duration = Duration::from_mins(1);
/// After this long an unanswered request is reported only in the counter.
const REPORTED_FOR: Duration = Duration::from_hours(24);
/// The most requests whose minute is not over.
const MOST_WAITING: usize = 10_000;
/// The most requests reported as not answered.
const MOST_LATE: usize = 1_000;
/// The most requests looked up at a time.
const MAX_LOOKUPS: usize = 500;

/// Requests on which consensus was seen.
#[derive(Debug, Default)]
pub struct ConsensusTracker {
    waiting: BTreeMap<U256, SeenConsensus>,
    late: BTreeMap<U256, SeenConsensus>,
    /// The last one of the late requests that was looked up.
    last_checked: Option<U256>,
}

#[derive(Clone, Copy, Debug)]
struct SeenConsensus {
    at: Instant,
    block: u64,
}

/// Requests that others have answered and this node has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissedConsensus {
    pub requests: usize,
    /// The one that others answered longest ago, its block, and how long ago.
    pub id: U256,
    pub block: u64,
    pub since: Instant,
}

impl ConsensusTracker {
    /// Consensus on this request was seen in this block.
    pub fn record(&mut self, id: U256, block: u64, now: Instant) {
        let known = self.waiting.contains_key(&id) || self.late.contains_key(&id);
        if !known && self.waiting.len() < MOST_WAITING {
            self.waiting.insert(id, SeenConsensus { at: now, block });
        }
    }

    /// Requests whose answer must be looked up now.
    pub fn due(&mut self, now: Instant) -> Vec<U256> {
        let old = |heard: &SeenConsensus| now.saturating_duration_since(heard.at) >= REPORTED_FOR;
        self.late.retain(|_, heard| !old(heard));
        let due = |heard: &SeenConsensus| now.saturating_duration_since(heard.at) >= LATE_AFTER;
        let waiting = self.waiting.iter().filter(|(_, heard)| due(heard)).map(|(id, _)| *id);
        let mut asked: Vec<U256> = waiting.take(MAX_LOOKUPS).collect();
        // Late requests take turns.
        let after = self.last_checked.map_or(U256::ZERO, |looked| looked.saturating_add(U256::ONE));
        let late = self.late.range(after..).map(|(id, _)| *id);
        let late: Vec<U256> = late.take(MAX_LOOKUPS - asked.len()).collect();
        self.last_checked = late.last().copied();
        asked.extend(late);
        asked
    }

    /// Applies the journal's answer for a request. `hidden`: no node has shown it. Returns whether it is a
    /// newly missed one.
    pub fn resolve(&mut self, id: U256, answered: AnsweredHere, hidden: bool) -> bool {
        // A request that is not in the journal any more was answered long ago, or is not ours.
        let missing = answered == AnsweredHere::No || (answered == AnsweredHere::Unknown && hidden);
        if !missing {
            self.late.remove(&id);
        }
        let Some(heard) = self.waiting.remove(&id).filter(|_| missing) else { return false };
        self.late.insert(id, heard);
        while self.late.len() > MOST_LATE {
            let oldest = self.late.iter().min_by_key(|(_, heard)| heard.at).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            self.late.remove(&oldest);
        }
        true
    }

    /// Requests not answered yet; `None`: all are answered.
    #[must_use]
    pub fn unanswered(&self) -> Option<MissedConsensus> {
        let (id, heard) = self.late.iter().min_by_key(|(id, heard)| (heard.at, **id))?;
        let requests = self.late.len();
        Some(MissedConsensus { requests, id: *id, block: heard.block, since: heard.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> U256 {
        U256::from(number)
    }

    #[test]
    fn c0_what_others_have_answered_and_this_node_has_not_is_told_until_it_has() {
        let now = Instant::now();
        let mut consensus = ConsensusTracker::default();
        for number in 1..=5 {
            consensus.record(id(number), 100, now);
        }
        assert!(consensus.due(now + LATE_AFTER - Duration::from_secs(1)).is_empty());
        let later = now + LATE_AFTER;
        assert_eq!(consensus.due(later).len(), 5);
        assert!(!consensus.resolve(id(1), AnsweredHere::Yes, false));
        assert!(consensus.resolve(id(2), AnsweredHere::No, false));
        assert!(consensus.resolve(id(3), AnsweredHere::Unknown, true), "it was never shown");
        assert!(
            !consensus.resolve(id(4), AnsweredHere::Unknown, false),
            "the journal has it no more"
        );
        assert!(consensus.resolve(id(5), AnsweredHere::No, false));
        let told = consensus.unanswered().unwrap();
        assert_eq!((told.requests, told.id, told.block, told.since), (3, id(2), 100, now));
        // Another node reports the same consensus.
        consensus.record(id(2), 100, later);
        assert_eq!(consensus.due(later), [id(2), id(3), id(5)]);
        assert!(!consensus.resolve(id(2), AnsweredHere::No, false), "counted once");
        assert!(!consensus.resolve(id(2), AnsweredHere::Yes, false));
        assert!(!consensus.resolve(id(5), AnsweredHere::Yes, false));
        assert_eq!(consensus.unanswered().unwrap().id, id(3));
        assert!(consensus.due(now + REPORTED_FOR).is_empty());
        assert_eq!(consensus.unanswered(), None);
    }

    #[test]
    fn c0_books_are_bounded_and_everything_has_its_turn() {
        let now = Instant::now();
        let mut consensus = ConsensusTracker::default();
        for number in 0..MOST_WAITING + 10 {
            consensus.record(id(number), 1, now);
        }
        assert_eq!(consensus.waiting.len(), MOST_WAITING);
        let later = now + LATE_AFTER;
        while !consensus.waiting.is_empty() {
            for id in consensus.due(later) {
                consensus.resolve(id, AnsweredHere::No, false);
            }
        }
        assert_eq!(consensus.unanswered().unwrap().requests, MOST_LATE);
        let mut seen: Vec<U256> = Vec::new();
        for _ in 0..3 {
            seen.extend(consensus.due(later));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), MOST_LATE);
    }
}
