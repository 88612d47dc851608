//! What is believed of the chain's count of the wallet's transactions. Pure.
//!
//! A count is one node's word, and may be wrong for seconds or for good. Too low a one costs little:
//! what is signed under a used nonce is refused. Too high a one leaves a gap that the chain never
//! passes. So it is believed
//!
//! - at once, as far as it tells of nonces that are all ours;
//! - beyond that, where somebody else must have used the wallet, once every sound node has said so
//!   twice, seconds apart, and as long as it is a few nonces: more of them are **held** until nothing
//!   new was told for ten minutes, or the instance starts anew;
//! - below what was believed, once every sound node has said so for a while, at the height of what
//!   was believed, and no receipt says otherwise.

use std::{collections::VecDeque, fmt, time::Duration};

use tokio::time::Instant;

use super::recent::{BELOW_FOR, GONE_AFTER};

/// Between two readings that have to agree.
pub(super) const SECOND_READING: Duration = Duration::from_secs(5);
/// Nonces used by somebody else within [`FOREIGN_WITHIN`] that are taken as they come.
pub(super) const MOST_FOREIGN: u64 = 3;
pub(super) const FOREIGN_WITHIN: Duration = Duration::from_mins(10);

/// What each sound node that knows a block said of the count at that block. Never empty.
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

/// One look at the count.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Of the node that is read from.
    pub count: u64,
    /// Its newest block, where that was asked.
    pub head: Option<u64>,
    /// The newest block that was told.
    pub told: u64,
    /// Of all, where they were asked.
    pub votes: Option<Votes>,
}

/// What is known without asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<F> {
    /// Every nonce below is ours, or used.
    pub up_to: u64,
    /// Below this count all is used: a receipt says so.
    pub mined: u64,
    /// How many nonces somebody else must have used below a count.
    pub foreign_below: F,
}

/// What a reading changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// So many are used.
    Risen(u64),
    /// No more than so many are.
    Fallen(u64),
}

/// Somebody else used the wallet, it is said.
#[derive(Clone, Copy, Debug)]
struct Rise {
    since: Instant,
    /// The lowest count that was said since, beyond what is ours.
    lowest: u64,
    /// The last one, and since when it has been that.
    last: u64,
    last_since: Instant,
    /// Every node has said so once.
    heard: bool,
    /// Nonces that are too many to be taken as they come.
    held: Option<u64>,
}

/// The count, and what is said against it.
#[derive(Debug)]
pub(super) struct CountBelief {
    count: u64,
    /// The highest block at which it was read.
    block: u64,
    /// Since when less is said, and whether a node denies it.
    lower: Option<(Instant, bool)>,
    rise: Option<Rise>,
    /// Nonces used by somebody else, and when that was found out.
    foreign: VecDeque<(Instant, u64)>,
    everyone_asked_at: Option<Instant>,
    /// A nonce of ours seems to be used by somebody else.
    doubted: bool,
    /// When all nodes last said that it is no more than this.
    at_most: Option<(Instant, u64)>,
}

impl CountBelief {
    pub(super) fn new(count: u64) -> Self {
        Self {
            count,
            block: 0,
            lower: None,
            rise: None,
            foreign: VecDeque::new(),
            everyone_asked_at: None,
            doubted: false,
            at_most: None,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A receipt says that so many are used.
    pub(super) fn proven(&mut self, count: u64) {
        self.count = self.count.max(count);
    }

    pub(super) fn hear(
        &mut self,
        reading: &Reading,
        ours: Ours<impl Fn(u64) -> u64>,
        now: Instant,
    ) -> News {
        let Reading { count, told, ref votes, .. } = *reading;
        if let Some(votes) = votes {
            self.at_most = Some((now, votes.highest()));
        }
        // Who says less than others is not overruled.
        let said = votes.as_ref().map_or(count, Votes::lowest);
        if said > ours.up_to {
            return self.beyond(said, reading, ours.foreign_below, now);
        }
        self.rise = None;
        if said >= self.count {
            self.lower = None;
            self.block = self.block.max(told);
            let risen = said > self.count;
            self.count = said;
            return if risen { News::Risen(said) } else { News::Nothing };
        }
        self.lower(reading, ours.mined, now)
    }

    fn beyond(
        &mut self,
        said: u64,
        &Reading { told, ref votes, .. }: &Reading,
        foreign_below: impl Fn(u64) -> u64,
        now: Instant,
    ) -> News {
        self.lower = None;
        let rise = self.rise.get_or_insert(Rise {
            since: now,
            lowest: said,
            last: said,
            last_since: now,
            heard: false,
            held: None,
        });
        if votes.is_none() {
            return News::Nothing;
        }
        if said != rise.last {
            (rise.last, rise.last_since) = (said, now);
        }
        rise.lowest = rise.lowest.min(said);
        let heard = std::mem::replace(&mut rise.heard, true);
        let (since, lowest, last_since) = (rise.since, rise.lowest, rise.last_since);
        if !heard || now.saturating_duration_since(since) < SECOND_READING {
            return News::Nothing;
        }
        let foreign = foreign_below(lowest);
        let is_quiet = now.saturating_duration_since(last_since) >= FOREIGN_WITHIN;
        if !is_quiet && self.foreign_lately(now).saturating_add(foreign) > MOST_FOREIGN {
            if let Some(rise) = &mut self.rise {
                rise.held = Some(foreign);
            }
            return News::Nothing;
        }
        if is_quiet {
            self.foreign.clear();
        } else {
            self.foreign.push_back((now, foreign));
        }
        (self.count, self.rise) = (lowest, None);
        self.block = self.block.max(told);
        News::Risen(lowest)
    }

    fn lower(&mut self, reading: &Reading, mined: u64, now: Instant) -> News {
        let (since, denied) = self.lower.get_or_insert((now, false));
        let lower_for = now.saturating_duration_since(*since);
        let Some(votes) = &reading.votes else { return News::Nothing };
        let count = votes.highest().max(mined);
        *denied = votes.highest() >= self.count;
        // A node below the block of what it is to know lags, unless the chain itself went back.
        let lags = reading.head.is_none_or(|head| head < self.block) && lower_for < BELOW_FOR;
        if lags || lower_for < GONE_AFTER || count >= self.count {
            return News::Nothing;
        }
        (self.count, self.lower) = (count, None);
        self.block = reading.head.unwrap_or(0);
        News::Fallen(count)
    }

    /// So many nonces that we counted with were used by somebody else.
    pub(super) fn displaced(&mut self, nonces: u64, now: Instant) {
        self.foreign.push_back((now, nonces));
    }

    /// One of them was not.
    pub(super) fn reclaimed(&mut self) {
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

    /// How many nonces somebody else used lately, if they are too many to go on.
    pub(super) fn used_elsewhere(&mut self, now: Instant) -> Option<u64> {
        let lately = self.foreign_lately(now);
        let held = self.rise.and_then(|rise| rise.held);
        let all = held.map_or(lately, |held| lately.saturating_add(held));
        (held.is_some() || lately > MOST_FOREIGN).then_some(all)
    }

    /// A nonce of ours seems to be used by somebody else: every node is to be asked.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether every node is to be asked now. `open`: something hangs on what they say.
    pub(super) fn asks_everyone(&mut self, open: bool, now: Instant) -> bool {
        if !(open || self.doubted || self.is_in_doubt()) {
            return false;
        }
        let just_asked = |at: Instant| now.saturating_duration_since(at) < SECOND_READING;
        let asks = !self.everyone_asked_at.is_some_and(just_asked);
        if asks {
            (self.everyone_asked_at, self.doubted) = (Some(now), false);
        }
        asks
    }

    /// Whether another count is told than the one that is believed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.rise.is_some() || self.lower.is_some()
    }

    /// Whether it seems to have fallen, since not long ago.
    pub(super) fn may_have_fallen(&self, now: Instant) -> bool {
        let recent = |since: Instant| now.saturating_duration_since(since) < GONE_AFTER;
        self.lower.is_some_and(|(since, denied)| !denied && recent(since))
    }

    /// When all nodes last said that it is not above `count`; `None`: they do not.
    pub(super) fn at_most(&self, count: u64) -> Option<Instant> {
        self.at_most.filter(|(_, highest)| *highest <= count).map(|(at, _)| at)
    }
}
