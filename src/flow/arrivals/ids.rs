//! Tracks which ids of requests are known and which are missing. Pure: its inputs are what is seen, and
//! when.
//!
//! Ids are dense (`abi::Counter`). So an id between two known ones that no node shows is a hidden
//! request, and so is an id above the last known one that the contract itself knows.
//!
//! ```text
//! id     1000 ... 1041         1044 ... 1050
//!        known (a run)  hole   known           ahead: the contract knows 1052
//! block  300      380          381      400    410
//! ```
//!
//! Ids grow with blocks: a missing id is in a block between those of its neighbours. Each counter
//! begins where the contract's counter stood when reading began, or, as long as that is unknown, with
//! the first id seen.
//!
//! Ids of blocks that leave the chain are forgotten and may come back in other blocks; an id that the
//! new chain does not have is no hole. If a reorganisation reaches farther back than is remembered
//! ([`MAX_RECENT`]), ids stay known although they may belong to other requests now.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    contracts::abi::{self, Counter},
    domain::{Event, U256},
    flow::ledger::IdRange,
};

/// A node may show logs late, and the second reading finds them: an id that is missing for longer is
/// hidden.
pub const HIDDEN_AFTER: Duration = Duration::from_secs(10);
/// The longest pause between two readings of the blocks of one hole.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);
/// Ids of a counter whose blocks are remembered individually.
const MAX_RECENT: usize = 4096;
/// Runs of a counter. Beyond that, two holes are merged with the known ids between them.
const MAX_RUNS: usize = 64;

/// Ids that no node shows: all from `first` to `last`, in blocks from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingIds {
    pub counter: Counter,
    pub first: u64,
    pub last: u64,
    pub from: u64,
    pub to: u64,
    /// When they were found to be missing.
    pub since: Instant,
    /// The known id above them that proves their existence. `None`: the contract reports them.
    pub above: Option<u64>,
}

impl MissingIds {
    /// The number of ids.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// The known ids of all counters of a contract.
#[derive(Debug, Default)]
pub struct KnownIds {
    counters: BTreeMap<Counter, CounterIds>,
    /// The last block that need not be read.
    origin: Option<u64>,
    /// Since the last [`KnownIds::take_changed`].
    changed: bool,
}

/// [`KnownIds`] shared by several tasks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SharedIds(Arc<Mutex<KnownIds>>);

impl SharedIds {
    #[must_use]
    pub fn new(ids: KnownIds) -> Self {
        Self(Arc::new(Mutex::new(ids)))
    }

    /// Locked briefly, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, KnownIds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct CounterIds {
    /// By first id. Never empty.
    runs: BTreeMap<u64, IdSpan>,
    /// The blocks of the highest ids.
    recent: BTreeMap<u64, u64>,
    ahead: Option<Ahead>,
    /// At this block the contract knew no id above the last known one.
    ends_with: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct IdSpan {
    last: u64,
    first_block: u64,
    last_block: u64,
    /// The hole below.
    below: Option<Hole>,
}

/// An id above the last known one that is on chain at this block.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    number: u64,
    block: u64,
    hole: Hole,
}

/// The state of a hole's handling.
#[derive(Clone, Copy, Debug)]
struct Hole {
    since: Instant,
    /// When it is next reported and its blocks are read again.
    next: Instant,
    pause: Duration,
    is_reported: bool,
}

impl Hole {
    fn new(now: Instant) -> Self {
        Self { since: now, next: now + HIDDEN_AFTER, pause: HIDDEN_AFTER, is_reported: false }
    }

    /// If it is due now: whether for the first time.
    fn poll_due(&mut self, now: Instant) -> Option<bool> {
        if now < self.next {
            return None;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Some(!std::mem::replace(&mut self.is_reported, true))
    }
}

impl KnownIds {
    /// From the stored form. Rows that contradict each other are left out.
    #[must_use]
    pub fn from_stored(runs: &[IdRange], now: Instant) -> Self {
        let mut ids = Self::default();
        let mut runs: Vec<&IdRange> = runs.iter().filter(|run| run.first <= run.last).collect();
        runs.sort_unstable_by_key(|run| (run.counter, run.first, run.last));
        for IdRange { counter, first, last, first_block, last_block } in runs.into_iter().copied() {
            let line = ids.counters.entry(counter).or_default();
            let top = line.runs.last_key_value().map(|(_, span)| span.last);
            // Adjacent runs would be one.
            if top.is_some_and(|top| first <= top.saturating_add(1)) {
                continue;
            }
            let below = top.map(|_| Hole::new(now));
            line.runs.insert(first, IdSpan { last, first_block, last_block, below });
        }
        ids
    }

    /// Adds the blocks of the newest ids, from the oldest to the newest, so that they can be forgotten if
    /// their blocks leave the chain.
    #[must_use]
    pub fn with_blocks(mut self, newest: &[(U256, u64)]) -> Self {
        for (id, block) in newest {
            let Some((counter, number)) = Counter::of(*id) else { continue };
            let Some(line) = self.counters.get_mut(&counter) else { continue };
            let run = line.runs.range(..=number).next_back();
            if run.is_some_and(|(_, span)| number <= span.last) {
                line.remember(number, *block);
            }
        }
        self
    }

    /// The stored form.
    pub fn runs(&self) -> impl Iterator<Item = IdRange> {
        self.counters.iter().flat_map(|(counter, line)| {
            line.runs.iter().map(|(first, span)| IdRange {
                counter: *counter,
                first: *first,
                last: span.last,
                first_block: span.first_block,
                last_block: span.last_block,
            })
        })
    }

    /// [`Self::runs`], if they have changed since the last call.
    pub fn take_changed(&mut self) -> Option<Vec<IdRange>> {
        std::mem::take(&mut self.changed).then(|| self.runs().collect())
    }

    /// A log with this id was shown in this block.
    pub fn record(&mut self, counter: Counter, number: u64, block: u64, now: Instant) {
        self.drop_unused_counters(counter);
        let line = self.counters.entry(counter).or_default();
        self.changed |= line.record(number, block, now);
    }

    /// Logs of any event of the contract.
    pub fn record_events(&mut self, events: &[Event], now: Instant) {
        for event in events {
            if let Some((counter, number)) = abi::request_event_id(event).and_then(Counter::of) {
                self.record(counter, number, event.block.number, now);
            }
        }
    }

    /// At this block the contract had counted up to `count`, before any of its ids was seen.
    pub fn set_beginning(&mut self, counter: Counter, count: u64, block: u64, now: Instant) {
        if count > 0 {
            self.drop_unused_counters(counter);
        }
        let line = self.counters.entry(counter).or_default();
        self.changed |= line.set_beginning(count, block, now);
    }

    /// A contract that counts by kind has no common counter, and the other way round. A counter that starts
    /// anew with an upgrade may start at any number.
    fn drop_unused_counters(&mut self, counter: Counter) {
        self.counters.retain(|other, line| share_contract(*other, counter) || !line.is_unused());
    }

    /// This block is the last one that need not be read.
    pub fn set_origin(&mut self, block: u64) {
        self.origin.get_or_insert(block);
    }

    #[must_use]
    pub fn origin(&self) -> Option<u64> {
        self.origin
    }

    /// Counters that may be in use and whose position when reading began is unknown, each with its first
    /// known id and that id's block, if any. Requests below it may be hidden.
    #[must_use]
    pub fn without_beginning(&self) -> Vec<(Counter, Option<(u64, u64)>)> {
        let used =
            |counter: &Counter| self.counters.get(counter).is_some_and(|line| !line.is_unused());
        let others = |counter: Counter| {
            Counter::ALL.into_iter().filter(move |other| !share_contract(*other, counter))
        };
        let origin = self.origin.unwrap_or(u64::MAX);
        let open = |counter: Counter| match self.counters.get(&counter) {
            None => Some((counter, None)),
            Some(line) => {
                let (first, span) = line.runs.first_key_value()?;
                let first = (*first, span.first_block);
                (span.first_block > origin).then_some((counter, Some(first)))
            }
        };
        let all = Counter::ALL.into_iter().filter_map(open);
        all.filter(|(counter, _)| !others(*counter).any(|other| used(&other))).collect()
    }

    /// The chain above this block is read again.
    pub fn rewind_to(&mut self, block: u64) {
        for line in self.counters.values_mut() {
            self.changed |= line.rewind_to(block);
        }
        self.counters.retain(|_, line| !line.runs.is_empty());
    }

    /// This id is on chain, at this block or an earlier one.
    pub fn record_existing(&mut self, counter: Counter, number: u64, block: u64, now: Instant) {
        if let Some(line) = self.counters.get_mut(&counter) {
            line.record_existing(number, block, now);
        }
    }

    /// At this block the contract knew no id above `last`.
    pub fn set_end(&mut self, counter: Counter, last: u64, block: u64) {
        let Some(line) = self.counters.get_mut(&counter) else { return };
        if line.last() == Some(last) {
            line.ends_with = line.ends_with.max(Some(block));
            if line.ahead.is_some_and(|ahead| ahead.block <= block) {
                line.ahead = None;
            }
        }
    }

    /// The contract does not know this id, although it was shown: forgets it, and the run that begins with
    /// it.
    pub fn forget(&mut self, counter: Counter, first: u64) {
        let Some(line) = self.counters.get_mut(&counter) else { return };
        if line.runs.len() > 1 && line.forget(first) {
            self.changed = true;
        }
    }

    /// The request with this id that was shown in this block is not on chain: unless another one was shown
    /// since, the id is not known any more.
    pub fn remove(&mut self, id: U256, block: u64, now: Instant) {
        let Some((counter, number)) = Counter::of(id) else { return };
        let Some(line) = self.counters.get_mut(&counter) else { return };
        self.changed |= line.remove(number, block, now);
        self.counters.retain(|_, line| !line.runs.is_empty());
    }

    /// The counters in use, each with its last known id.
    #[must_use]
    pub fn last_known(&self) -> Vec<(Counter, u64)> {
        let tagged = self
            .counters
            .iter()
            .any(|(counter, line)| *counter != Counter::Common && !line.is_unused());
        let at_work = |counter: &Counter| *counter != Counter::Common || !tagged;
        let lines = self.counters.iter().filter(|(counter, _)| at_work(counter));
        lines.filter_map(|(counter, line)| Some((*counter, line.last()?))).collect()
    }

    /// Returns whether an id is above the first known one.
    #[must_use]
    pub fn is_after_first(&self, counter: Counter, number: u64) -> bool {
        let first = self.counters.get(&counter).and_then(|line| line.runs.keys().next());
        first.is_some_and(|first| number > *first)
    }

    /// Returns whether an id was shown, or is older than anything that was read.
    #[must_use]
    pub fn is_known(&self, counter: Counter, number: u64) -> bool {
        let Some(line) = self.counters.get(&counter) else { return true };
        match line.runs.range(..=number).next_back() {
            Some((_, span)) => number <= span.last,
            None => true,
        }
    }

    /// Ids missing for at least [`HIDDEN_AFTER`], given that all blocks up to `cursor` were read.
    #[must_use]
    pub fn missing(&self, cursor: u64, now: Instant) -> Vec<MissingIds> {
        let all = self.counters.iter().flat_map(|(counter, line)| line.missing(*counter, cursor));
        all.filter(|one| now.saturating_duration_since(one.since) >= HIDDEN_AFTER).collect()
    }

    /// Those of [`Self::missing`] whose blocks are to be read again now, and whether it is the first time.
    pub fn due(&mut self, cursor: u64, now: Instant) -> Vec<(MissingIds, bool)> {
        let mut due = Vec::new();
        for (counter, line) in &mut self.counters {
            if let Some(ahead) = line.ahead.as_mut().filter(|ahead| ahead.block > cursor) {
                // It may be in a block that was not read yet.
                ahead.hole = Hole::new(now);
            }
            for one in line.missing(*counter, cursor) {
                let hole = match one.above {
                    Some(above) => line.runs.get_mut(&above).and_then(|span| span.below.as_mut()),
                    None => line.ahead.as_mut().map(|ahead| &mut ahead.hole),
                };
                if let Some(first) = hole.and_then(|hole| hole.poll_due(now)) {
                    due.push((one, first));
                }
            }
        }
        due
    }

    /// Returns whether the ids alone prove that no request of this block is missing.
    #[must_use]
    pub fn is_complete(&self, block: u64) -> bool {
        let whole = |counter: Counter| {
            self.counters.get(&counter).is_some_and(|line| line.is_complete(block))
        };
        let unknown = |counter: Counter| !self.counters.contains_key(&counter);
        let tagged = whole(Counter::Public) && whole(Counter::User);
        let common = whole(Counter::Common);
        // A counter that was never seen may have begun there, unless the others are in use.
        (tagged && (common || unknown(Counter::Common)))
            || (common && unknown(Counter::Public) && unknown(Counter::User))
    }
}

/// Returns whether one contract counts with both.
fn share_contract(one: Counter, other: Counter) -> bool {
    (one == Counter::Common) == (other == Counter::Common)
}

impl CounterIds {
    fn last(&self) -> Option<u64> {
        self.runs.last_key_value().map(|(_, span)| span.last)
    }

    /// The counter stands where it stood before the contract's first request.
    fn is_unused(&self) -> bool {
        self.runs.len() == 1 && self.last() == Some(0)
    }

    fn record(&mut self, number: u64, block: u64, now: Instant) -> bool {
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

    fn remember(&mut self, number: u64, block: u64) {
        self.recent.insert(number, block);
        while self.recent.len() > MAX_RECENT {
            self.recent.pop_first();
        }
    }

    /// Splits its run, with a hole in between.
    fn remove(&mut self, number: u64, block: u64, now: Instant) -> bool {
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
    fn forget(&mut self, first: u64) -> bool {
        let Some(span) = self.runs.remove(&first) else { return false };
        let above = self.runs.range_mut(first..).next();
        if let Some((_, above)) = above {
            above.below = span.below.or(above.below);
        }
        self.recent.retain(|number, _| !(first..=span.last).contains(number));
        true
    }

    fn set_beginning(&mut self, count: u64, block: u64, now: Instant) -> bool {
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

    fn rewind_to(&mut self, block: u64) -> bool {
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

    fn record_existing(&mut self, number: u64, block: u64, now: Instant) {
        if Some(number) <= self.last() {
            return;
        }
        let ahead = self.ahead.get_or_insert(Ahead { number, block, hole: Hole::new(now) });
        ahead.number = ahead.number.max(number);
        ahead.block = ahead.block.max(block);
    }

    fn missing(&self, counter: Counter, cursor: u64) -> Vec<MissingIds> {
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
    fn is_complete(&self, block: u64) -> bool {
        let begun = self.runs.first_key_value().is_some_and(|(_, span)| span.first_block < block);
        let top = self.runs.last_key_value().map_or(0, |(_, span)| span.last_block);
        let ended = top > block || self.ends_with.is_some_and(|at| at >= block);
        let touches = |one: &MissingIds| one.from <= block && block <= one.to;
        begun && ended && !self.missing(Counter::Common, u64::MAX).iter().any(touches)
    }
}

#[cfg(test)]
mod tests;
