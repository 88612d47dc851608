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
//! (`counter_ids::MAX_RECENT`), ids stay known although they may belong to other requests now.

mod counter_ids;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use self::counter_ids::{CounterIds, Hole, IdSpan};
use crate::{
    contracts::abi::{self, Counter},
    domain::{Event, U256},
    flow::ledger::IdRange,
};

/// A node may show logs late, and the second reading finds them: an id that is missing for longer is
/// hidden.
pub const HIDDEN_AFTER: Duration = Duration::from_secs(10);

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

#[cfg(test)]
mod tests;
