//! The ids of one counter: runs of known ones, the holes between them, and what the contract is ahead.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{HIDDEN_AFTER, MissingIds};
use crate::contracts::abi::Counter;

/// The longest pause between two readings of the blocks of one hole.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// Ids of a counter whose blocks are remembered individually.
const MAX_RECENT: usize = 4096;
/// Runs of a counter. Beyond that, two holes are merged with the known ids between them.
pub(super) const MAX_RUNS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct CounterIds {
    /// By first id. Never empty.
    pub(super) runs: BTreeMap<u64, IdSpan>,
    /// The blocks of the highest ids.
    pub(super) recent: BTreeMap<u64, u64>,
    pub(super) ahead: Option<Ahead>,
    /// At this block the contract knew no id above the last known one.
    pub(super) ends_with: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct IdSpan {
    pub(super) last: u64,
    pub(super) first_block: u64,
    pub(super) last_block: u64,
    /// The hole below.
    pub(super) below: Option<Hole>,
}

/// An id above the last known one that is on chain at this block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    pub(super) number: u64,
    pub(super) block: u64,
    pub(super) hole: Hole,
}

/// The state of a hole's handling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub(super) since: Instant,
    /// When it is next reported and its blocks are read again.
    pub(super) next: Instant,
    pub(super) pause: Duration,
    pub(super) is_reported: bool,
}

impl Hole {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, next: now + HIDDEN_AFTER, pause: HIDDEN_AFTER, is_reported: false }
    }

    /// If it is due now: whether for the first time.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<bool> {
        if now < self.next {
            return None;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(!std::mem::replace(&mut self.is_reported, true))
    }
}

impl CounterIds {
    pub(super) fn last(&self) -> Option<u64> {
        self.runs.last_key_value().map(|(_, span)| span.last)
    }

    /// The counter stands where it stood before the contract's first request.
    pub(super) fn is_unused(&self) -> bool {
        self.runs.len() == 1 && self.last() == Some(0)
    }

    pub(super) fn record(&mut self, number: u64, block: u64, now: Instant) -> bool {
        let here = IdSpan { last: number, first_block: block, last_block: block, below: None };
        let Some((lowest, _)) = self.runs.first_key_value() else {
            self.runs.insert(number, here);
            self.recent.insert(number, block);
            return true;
        };
        if number < *lowest {
            return false;
        }
        self.remember(number, block);
        // Exists, because the lowest run is not above.
        let Some((first, below)) = self.runs.range_mut(..=number).next_back() else { return false };
        let first = *first;
        if number <= below.last {
            let before = (below.first_block, below.last_block);
            if number == first {
                below.first_block = block;
            }
            if number == below.last {
                below.last_block = block;
            }
            return before != (below.first_block, below.last_block);
        }
        let joins = below.last + 1 == number;
        if joins {
            (below.last, below.last_block) = (number, block);
        }
        let above = self.runs.range(number + 1..).next().map(|(first, span)| (*first, *span));
        let ahead = self.ahead.map(|ahead| ahead.hole);
        match above {
            Some((next, span)) if next == number + 1 => {
                self.runs.remove(&next);
                if let Some(below) = self.runs.get_mut(&first).filter(|_| joins) {
                    (below.last, below.last_block) = (span.last, span.last_block);
                } else {
                    self.runs.insert(number, IdSpan { first_block: block, ..span });
                }
            }
            Some(_) | None if joins => {}
            // It splits the hole it was in.
            Some((_, span)) => {
                self.runs.insert(number, IdSpan { below: span.below, ..here });
            }
            None => {
                let hole = ahead.unwrap_or_else(|| Hole::new(now));
                self.runs.insert(number, IdSpan { below: Some(hole), ..here });
            }
        }
        if self.ahead.is_some_and(|ahead| Some(ahead.number) <= self.last()) {
            self.ahead = None;
        }
        self.enforce_limit();
        true
    }

    fn enforce_limit(&mut self) {
        while self.runs.len() > MAX_RUNS {
            let Some(second) = self.runs.keys().nth(1).copied() else { break };
            self.forget(second);
        }
    }

    pub(super) fn remember(&mut self, number: u64, block: u64) {
        self.recent.insert(number, block);
        while self.recent.len() > MAX_RECENT {
            self.recent.pop_first();
        }
    }

    /// Splits its run, with a hole in between.
    pub(super) fn remove(&mut self, number: u64, block: u64, now: Instant) -> bool {
        if self.recent.get(&number).is_some_and(|at| *at != block) {
            return false;
        }
        let Some((first, span)) = self.runs.range(..=number).next_back() else { return false };
        let (first, span) = (*first, *span);
        if number > span.last {
            return false;
        }
        self.runs.remove(&first);
        self.recent.remove(&number);
        self.ends_with = None;
        let at = |number: u64| self.recent.get(&number).copied();
        let (below, above) = (number.saturating_sub(1), number + 1);
        let hole = (first < number || self.runs.range(..first).next().is_some())
            .then(|| span.below.filter(|_| first == number).unwrap_or_else(|| Hole::new(now)));
        // Their block is not always known: then it is bounded by those of the run.
        let parts = (at(below).unwrap_or(span.first_block), at(above).unwrap_or(span.last_block));
        if first < number {
            self.runs.insert(first, IdSpan { last: below, last_block: parts.0, ..span });
        }
        if number < span.last {
            self.runs.insert(above, IdSpan { first_block: parts.1, below: hole, ..span });
        } else if first == number
            && let Some((_, next)) = self.runs.range_mut(above..).next()
        {
            next.below = span.below;
        }
        self.enforce_limit();
        true
    }

    /// The holes below and above it become one.
    pub(super) fn forget(&mut self, first: u64) -> bool {
        let Some(span) = self.runs.remove(&first) else { return false };
        let above = self.runs.range_mut(first..).next();
        if let Some((_, above)) = above {
            above.below = span.below.or(above.below);
        }
        self.recent.retain(|number, _| !(first..=span.last).contains(number));
        true
    }

    pub(super) fn set_beginning(&mut self, count: u64, block: u64, now: Instant) -> bool {
        let base = IdSpan { last: count, first_block: block, last_block: block, below: None };
        let Some((lowest, span)) = self.runs.first_key_value() else {
            self.runs.insert(count, base);
            return true;
        };
        let (lowest, span) = (*lowest, *span);
        if lowest <= count || block > span.first_block {
            return false;
        }
        if lowest == count + 1 {
            self.runs.remove(&lowest);
            self.runs.insert(count, IdSpan { first_block: block, ..span });
        } else {
            self.runs.insert(lowest, IdSpan { below: Some(Hole::new(now)), ..span });
            self.runs.insert(count, base);
        }
        true
    }

    pub(super) fn rewind_to(&mut self, block: u64) -> bool {
        self.ahead = None;
        self.ends_with = self.ends_with.min(Some(block));
        let gone = self.recent.iter().find(|(_, at)| **at > block).map(|(number, _)| *number);
        let Some(gone) = gone else { return self.clamp_last_block(block) };
        self.recent.split_off(&gone);
        self.runs.split_off(&gone);
        let left = gone.saturating_sub(1);
        let at = self.recent.get(&left).copied();
        // Nothing may be left of the counter: then it begins anew, and ids below may be hidden.
        if let Some(mut top) = self.runs.last_entry() {
            let top = top.get_mut();
            if top.last >= gone {
                top.last = left;
                top.last_block = at.unwrap_or(top.last_block.min(block));
            }
        }
        self.clamp_last_block(block);
        true
    }

    /// The last id's block is at most this one: its exact block is not always known, and a bound from
    /// before an earlier reorganisation may be higher. Returns whether it was.
    fn clamp_last_block(&mut self, block: u64) -> bool {
        let Some(mut top) = self.runs.last_entry() else { return false };
        let top = top.get_mut();
        let was_above = top.last_block > block;
        top.last_block = top.last_block.min(block);
        was_above
    }

    pub(super) fn record_existing(&mut self, number: u64, block: u64, now: Instant) {
        if Some(number) <= self.last() {
            return;
        }
        let ahead = self.ahead.get_or_insert(Ahead { number, block, hole: Hole::new(now) });
        ahead.number = ahead.number.max(number);
        ahead.block = ahead.block.max(block);
    }

    pub(super) fn missing(&self, counter: Counter, cursor: u64) -> Vec<MissingIds> {
        let pairs = self.runs.iter().zip(self.runs.iter().skip(1));
        let holes = pairs.filter_map(|((_, below), (above, span))| {
            let hole = span.below?;
            // The two may be of different forks for a moment.
            let (from, to) = (below.last_block, span.first_block);
            Some(MissingIds {
                counter,
                first: below.last + 1,
                last: above - 1,
                from: from.min(to),
                to: from.max(to),
                since: hole.since,
                above: Some(*above),
            })
        });
        let top = self.runs.last_key_value().map(|(_, span)| *span);
        let ahead = self.ahead.filter(|ahead| ahead.block <= cursor).zip(top);
        let ahead =
            ahead.filter(|(ahead, top)| ahead.number > top.last).map(|(ahead, top)| MissingIds {
                counter,
                first: top.last + 1,
                last: ahead.number,
                from: top.last_block.min(ahead.block),
                to: ahead.block,
                since: ahead.hole.since,
                above: None,
            });
        holes.chain(ahead).collect()
    }

    /// Known without a hole from before this block to after it.
    pub(super) fn is_complete(&self, block: u64) -> bool {
        let begun = self.runs.first_key_value().is_some_and(|(_, span)| span.first_block < block);
        let top = self.runs.last_key_value().map_or(0, |(_, span)| span.last_block);
        let ended = top > block || self.ends_with.is_some_and(|at| at >= block);
        let touches = |one: &MissingIds| one.from <= block && block <= one.to;
        begun && ended && !self.missing(Counter::Common, u64::MAX).iter().any(touches)
    }
}
