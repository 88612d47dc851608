//! Which transaction count of the wallet is believed. Pure.
//!
//! A count is the word of one node and may be wrong, for seconds or for good. A count that is too low
//! does little harm: a transaction with a used nonce is refused. A count that is too high leaves a gap
//! that the chain never passes. So a count is believed
//!
//! - at once, as far as it only confirms our own nonces;
//! - beyond that (somebody else must have used the wallet) once every sound node has reported it twice,
//!   at least [`SECOND_READING`] apart, and only for a few nonces. More of them are **held** until the
//!   count stays the same for ten minutes or the instance restarts;
//! - below the believed one, once every sound node has reported it for a while, at a head not below the
//!   block of the believed count, and no receipt contradicts it.

use std::{collections::VecDeque, fmt, time::Duration};

use tokio::time::Instant;

use super::mined_window::{BELOW_FOR, GONE_AFTER};

/// Minimum time between two readings that have to agree.
pub(super) const SECOND_READING: Duration = Duration::from_secs(5);
/// Most nonces used by somebody else within [`FOREIGN_WITHIN`] that are accepted without holding
/// answers.
pub(super) const MOST_FOREIGN: u64 = 3;
pub(super) const FOREIGN_WITHIN: Duration = Duration::from_mins(10);

/// The count that each sound node reported at one block, by host. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Votes(pub Vec<(String, u64)>);

impl Votes {
    pub(super) fn lowest(&self) -> u64 {
        self.0.iter().map(|(_, count)| *count).min().unwrap_or(0)
    }

    pub(super) fn highest(&self) -> u64 {
        self.0.iter().map(|(_, count)| *count).max().unwrap_or(0)
    }

    pub(super) fn agree(&self) -> bool {
        self.lowest() == self.highest()
    }
}

impl fmt::Display for Votes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (host, count)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{host} says {count}")?;
        }
        Ok(())
    }
}

/// One reading of the count.
#[derive(Clone, Debug)]
pub(super) struct CountReading {
    /// From the node that is read from.
    pub count: u64,
    /// Newest block of that node, if it was asked.
    pub head: Option<u64>,
    /// The newest block known from head notifications.
    pub newest_head: u64,
    /// From all sound nodes, if they were asked.
    pub votes: Option<Votes>,
}

/// What the lane knows without asking a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownNonces<F> {
    /// Every nonce below is ours or used.
    pub up_to: u64,
    /// Every nonce below is used: a receipt proves it.
    pub mined: u64,
    /// How many nonces below a count somebody else must have used.
    pub foreign_below: F,
}

/// Effect of a reading on the believed count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountChange {
    Unchanged,
    /// This many nonces are used.
    Risen(u64),
    /// At most this many nonces are used.
    Fallen(u64),
}

/// Nodes report nonces that somebody else must have used.
#[derive(Clone, Copy, Debug)]
struct Rise {
    since: Instant,
    /// The lowest such count since then.
    lowest: u64,
    /// The last reported count, and since when it has not changed.
    last: u64,
    last_since: Instant,
    /// Every node has reported it once.
    is_confirmed_once: bool,
    /// The number of foreign nonces, if it is too high to be accepted.
    held: Option<u64>,
}

/// The believed count, and what contradicts it.
#[derive(Debug)]
pub(super) struct CountBelief {
    count: u64,
    /// The highest block at which the count was read.
    block: u64,
    /// Since when nodes report less, and whether one of them still reports the believed count.
    fallen_since: Option<(Instant, bool)>,
    rise: Option<Rise>,
    /// Nonces used by somebody else, and when that was found.
    foreign: VecDeque<(Instant, u64)>,
    everyone_asked_at: Option<Instant>,
    /// A nonce of ours seems to be used by somebody else.
    is_vote_wanted: bool,
    /// When all nodes were last asked, and the highest count that they reported.
    at_most: Option<(Instant, u64)>,
}

impl CountBelief {
    pub(super) fn new(count: u64) -> Self {
        Self {
            count,
            block: 0,
            fallen_since: None,
            rise: None,
            foreign: VecDeque::new(),
            everyone_asked_at: None,
            is_vote_wanted: false,
            at_most: None,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A receipt proves that this many nonces are used.
    pub(super) fn raise_to(&mut self, count: u64) {
        self.count = self.count.max(count);
    }

    pub(super) fn apply(
        &mut self,
        reading: &CountReading,
        ours: KnownNonces<impl Fn(u64) -> u64>,
        now: Instant,
    ) -> CountChange {
        let CountReading { count, newest_head: told, ref votes, .. } = *reading;
        if let Some(votes) = votes {
            self.at_most = Some((now, votes.highest()));
        }
        // Of nodes that differ, the lowest count is taken.
        let reported = votes.as_ref().map_or(count, Votes::lowest);
        if reported > ours.up_to {
            return self.apply_higher(reported, reading, ours.foreign_below, now);
        }
        self.rise = None;
        if reported >= self.count {
            self.fallen_since = None;
            self.block = self.block.max(told);
            let risen = reported > self.count;
            self.count = reported;
            return if risen { CountChange::Risen(reported) } else { CountChange::Unchanged };
        }
        self.apply_lower(reading, ours.mined, now)
    }

    fn apply_higher(
        &mut self,
        said: u64,
        &CountReading { newest_head: told, ref votes, .. }: &CountReading,
        foreign_below: impl Fn(u64) -> u64,
        now: Instant,
    ) -> CountChange {
        self.fallen_since = None;
        let rise = self.rise.get_or_insert(Rise {
            since: now,
            lowest: said,
            last: said,
            last_since: now,
            is_confirmed_once: false,
            held: None,
        });
        if votes.is_none() {
            return CountChange::Unchanged;
        }
        if said != rise.last {
            (rise.last, rise.last_since) = (said, now);
        }
        rise.lowest = rise.lowest.min(said);
        let heard = std::mem::replace(&mut rise.is_confirmed_once, true);
        let (since, lowest, last_since) = (rise.since, rise.lowest, rise.last_since);
        if !heard || now.saturating_duration_since(since) < SECOND_READING {
            return CountChange::Unchanged;
        }
        let foreign = foreign_below(lowest);
        let is_quiet = now.saturating_duration_since(last_since) >= FOREIGN_WITHIN;
        if !is_quiet && self.foreign_lately(now).saturating_add(foreign) > MOST_FOREIGN {
            if let Some(rise) = &mut self.rise {
                rise.held = Some(foreign);
            }
            return CountChange::Unchanged;
        }
        if is_quiet {
            self.foreign.clear();
        } else {
            self.foreign.push_back((now, foreign));
        }
        (self.count, self.rise) = (lowest, None);
        self.block = self.block.max(told);
        CountChange::Risen(lowest)
    }

    fn apply_lower(&mut self, reading: &CountReading, mined: u64, now: Instant) -> CountChange {
        let (since, denied) = self.fallen_since.get_or_insert((now, false));
        let lower_for = now.saturating_duration_since(*since);
        let Some(votes) = &reading.votes else { return CountChange::Unchanged };
        let count = votes.highest().max(mined);
        *denied = votes.highest() >= self.count;
        // A node whose head is below the block of the believed count lags, unless this lasts so long
        // that the chain itself went back.
        let lags = reading.head.is_none_or(|head| head < self.block) && lower_for < BELOW_FOR;
        if lags || lower_for < GONE_AFTER || count >= self.count {
            return CountChange::Unchanged;
        }
        (self.count, self.fallen_since) = (count, None);
        self.block = reading.head.unwrap_or(0);
        CountChange::Fallen(count)
    }

    /// Somebody else used this many nonces that were taken for ours.
    pub(super) fn record_foreign(&mut self, nonces: u64, now: Instant) {
        self.foreign.push_back((now, nonces));
    }

    /// One of them turned out to be ours.
    pub(super) fn unrecord_foreign(&mut self) {
        let one = self.foreign.iter().rposition(|(_, nonces)| *nonces == 1);
        one.and_then(|place| self.foreign.remove(place));
    }

    fn foreign_lately(&mut self, now: Instant) -> u64 {
        let old = |at: Instant| now.saturating_duration_since(at) >= FOREIGN_WITHIN;
        while self.foreign.front().is_some_and(|(at, _)| old(*at)) {
            self.foreign.pop_front();
        }
        self.foreign.iter().fold(0, |sum, (_, nonces)| sum.saturating_add(*nonces))
    }

    /// How many nonces somebody else used lately, if they are too many to continue.
    pub(super) fn used_elsewhere(&mut self, now: Instant) -> Option<u64> {
        let lately = self.foreign_lately(now);
        let held = self.rise.and_then(|rise| rise.held);
        let all = held.map_or(lately, |held| lately.saturating_add(held));
        (held.is_some() || lately > MOST_FOREIGN).then_some(all)
    }

    /// A nonce of ours seems to be used by somebody else: ask every node.
    pub(super) fn want_vote(&mut self) {
        self.is_vote_wanted = true;
    }

    /// Returns whether every node has to be asked now, and remembers that it was. `open`: a decision
    /// depends on the answer.
    pub(super) fn vote_due(&mut self, open: bool, now: Instant) -> bool {
        if !(open || self.is_vote_wanted || self.is_in_doubt()) {
            return false;
        }
        let just_asked = |at: Instant| now.saturating_duration_since(at) < SECOND_READING;
        let asks = !self.everyone_asked_at.is_some_and(just_asked);
        if asks {
            (self.everyone_asked_at, self.is_vote_wanted) = (Some(now), false);
        }
        asks
    }

    /// Whether nodes report another count than the believed one.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.rise.is_some() || self.fallen_since.is_some()
    }

    /// Whether the count seems to have fallen within the last seconds.
    pub(super) fn may_have_fallen(&self, now: Instant) -> bool {
        let recent = |since: Instant| now.saturating_duration_since(since) < GONE_AFTER;
        self.fallen_since.is_some_and(|(since, denied)| !denied && recent(since))
    }

    /// When all nodes last reported a count of at most `count`. `None`: their last reports were higher,
    /// or there are none.
    pub(super) fn at_most(&self, count: u64) -> Option<Instant> {
        self.at_most.filter(|(_, highest)| *highest <= count).map(|(at, _)| at)
    }
}
