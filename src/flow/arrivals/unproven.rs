//! Blocks that no node could prove complete: their headers' blooms contain events of ours that no node
//! shows. Pure; the journal stores the list with the cursor that passed the blocks.
//!
//! ```text
//! a header's bloom is contradicted -> listed, the cursor moves on -> nodes are asked again and again
//!                                                                -> proven, or the ids have no hole
//! ```
//!
//! The list is bounded. When it is full, the two closest entries become one range: the blocks between
//! them are proven again, and none is left out.

use std::time::Duration;

use crate::{
    domain::{B256, BlockRef},
    flow::ledger::UnprovenRange,
};

/// The most entries.
const MAX_ENTRIES: usize = 256;
/// A node may show its logs late: a block is reported only after this long on the list.
pub(super) const GRACE: Duration = Duration::from_mins(1);

/// A summary of the list for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnprovenSummary {
    pub blocks: u64,
    /// The lowest block.
    pub first: u64,
    /// Since when (Unix ms) the longest-waiting one is on the list.
    pub since_ms: u64,
}

/// The list, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct UnprovenList {
    entries: Vec<UnprovenRange>,
    /// Blocks that no node was asked about yet.
    unasked: Vec<u64>,
    /// The block asked about last, for taking turns.
    last: u64,
    /// It differs from the journal's copy.
    is_changed: bool,
}

impl UnprovenList {
    /// From the journal.
    pub(super) fn from_stored(entries: Vec<UnprovenRange>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// The list to be stored, if it changed.
    pub(super) fn take_changed(&mut self) -> Option<Vec<UnprovenRange>> {
        std::mem::take(&mut self.is_changed).then(|| self.entries.clone())
    }

    /// Adds a block that no node could prove.
    pub(super) fn add(&mut self, block: BlockRef, now_ms: u64) {
        if self.unasked.len() < MAX_ENTRIES {
            self.unasked.push(block.number);
        }
        if self.contains(block.number) {
            return;
        }
        let hash = Some(block.hash);
        self.insert(UnprovenRange {
            first: block.number,
            last: block.number,
            hash,
            since_ms: now_ms,
        });
    }

    /// Adds a range of which one block may hide something.
    pub(super) fn add_range(&mut self, first: u64, last: u64, now_ms: u64) {
        if first > last {
            return;
        }
        let mut joined = UnprovenRange { first, last, hash: None, since_ms: now_ms };
        self.entries.retain(|entry| {
            let overlaps = entry.first <= last && entry.last >= first;
            if overlaps {
                joined = join(*entry, joined);
            }
            !overlaps
        });
        self.insert(joined);
    }

    fn insert(&mut self, entry: UnprovenRange) {
        let place = self.entries.partition_point(|other| other.first < entry.first);
        self.entries.insert(place, entry);
        self.is_changed = true;
        self.enforce_limit();
    }

    fn enforce_limit(&mut self) {
        while self.entries.len() > MAX_ENTRIES {
            let gap = |place: &usize| self.entries[*place + 1].first - self.entries[*place].last;
            let Some(place) = (0..self.entries.len() - 1).min_by_key(gap) else { return };
            let next = self.entries.remove(place + 1);
            self.entries[place] = join(self.entries[place], next);
        }
    }

    /// Every request of this block is stored.
    pub(super) fn remove(&mut self, number: u64) {
        self.remove_range(number, number);
    }

    /// The same for a range.
    pub(super) fn remove_range(&mut self, first: u64, last: u64) {
        let mut left = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            if entry.last < first || entry.first > last {
                left.push(entry);
                continue;
            }
            self.is_changed = true;
            if entry.first < first {
                left.push(UnprovenRange { last: first - 1, ..entry });
            }
            if entry.last > last {
                left.push(UnprovenRange { first: last + 1, ..entry });
            }
        }
        self.entries = left;
        self.enforce_limit();
    }

    /// The chain above `number` is read again.
    pub(super) fn rewind_to(&mut self, number: u64) {
        self.remove_range(number.saturating_add(1), u64::MAX);
    }

    /// The next block to ask about, and its hash if known: one that no node was asked about yet, else the
    /// first block of each entry in turn.
    pub(super) fn next(&mut self) -> Option<(u64, Option<B256>)> {
        while let Some(number) = self.unasked.pop() {
            if let Some(entry) = self.entry_of(number) {
                return Some((number, entry.hash));
            }
        }
        let after = self.entries.iter().find(|entry| entry.first > self.last);
        let entry = after.or(self.entries.first())?;
        self.last = entry.first;
        Some((entry.first, entry.hash))
    }

    /// Returns whether there is a block that no node was asked about yet.
    pub(super) fn has_unasked(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Blocks that have been on the list longer than [`GRACE`].
    pub(super) fn summary(&self, now_ms: u64) -> UnprovenSummary {
        let grace = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
        let mut unclear = UnprovenSummary::default();
        for entry in &self.entries {
            if now_ms.saturating_sub(entry.since_ms) < grace {
                continue;
            }
            if unclear.blocks == 0 {
                unclear =
                    UnprovenSummary { blocks: 0, first: entry.first, since_ms: entry.since_ms };
            }
            let blocks = entry.last.saturating_sub(entry.first).saturating_add(1);
            unclear.blocks = unclear.blocks.saturating_add(blocks);
            unclear.since_ms = unclear.since_ms.min(entry.since_ms);
        }
        unclear
    }

    fn contains(&self, number: u64) -> bool {
        self.entry_of(number).is_some()
    }

    fn entry_of(&self, number: u64) -> Option<&UnprovenRange> {
        self.entries.iter().find(|entry| (entry.first..=entry.last).contains(&number))
    }
}

fn join(one: UnprovenRange, other: UnprovenRange) -> UnprovenRange {
    UnprovenRange {
        first: one.first.min(other.first),
        last: one.last.max(other.last),
        hash: None,
        since_ms: one.since_ms.min(other.since_ms),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::repeat_byte(1) }
    }

    #[test]
    fn what_is_new_is_asked_about_first_and_then_each_in_turn() {
        let hash = Some(block(0).hash);
        let mut list = UnprovenList::from_stored(vec![UnprovenRange {
            first: 3,
            last: 5,
            hash: None,
            since_ms: 1,
        }]);
        assert_eq!(list.take_changed(), None);
        list.add(block(9), 2);
        list.add(block(9), 3);
        assert_eq!(list.take_changed().unwrap().len(), 2);
        assert_eq!(list.next(), Some((9, hash)));
        assert_eq!(list.next(), Some((9, hash)), "it was shown once more");
        assert_eq!([list.next(), list.next(), list.next()].map(|next| next.unwrap().0), [3, 9, 3]);
        list.remove(3);
        assert_eq!([list.next(), list.next()].map(|next| next.unwrap().0), [4, 9]);
        list.rewind_to(8);
        assert_eq!(
            list.take_changed().unwrap(),
            [UnprovenRange { first: 4, last: 5, hash: None, since_ms: 1 }]
        );
        list.remove_range(0, 100);
        assert_eq!(list.next(), None);
    }

    #[test]
    fn it_is_nobodys_business_for_a_minute() {
        let mut list = UnprovenList::default();
        list.add(block(9), 1_000);
        list.add_range(20, 29, 5_000);
        assert_eq!(list.summary(60_999), UnprovenSummary::default());
        assert_eq!(list.summary(61_000), UnprovenSummary { blocks: 1, first: 9, since_ms: 1_000 });
        assert_eq!(list.summary(65_000), UnprovenSummary { blocks: 11, first: 9, since_ms: 1_000 });
    }

    proptest! {
        /// However many are added, the list is bounded and sorted, and leaves out no unproven block.
        #[test]
        fn no_block_is_left_out(
            steps in prop::collection::vec((0u8..8, 0u64..4000, 0u64..5), 1..900),
        ) {
            let mut list = UnprovenList::default();
            let mut open = std::collections::BTreeSet::new();
            for (step, number, more) in steps {
                match step {
                    0 => {
                        list.remove_range(number, number + more);
                        open.retain(|open| !(number..=number + more).contains(open));
                    }
                    1 => {
                        list.add_range(number, number + more, number);
                        open.extend(number..=number + more);
                    }
                    _ => {
                        list.add(block(number), number);
                        open.insert(number);
                    }
                }
                prop_assert!(list.entries.len() <= MAX_ENTRIES);
            }
            let ordered = list.entries.iter().zip(list.entries.iter().skip(1));
            prop_assert!(ordered.clone().all(|(one, next)| one.last < next.first));
            prop_assert!(open.iter().all(|number| list.contains(*number)));
            // Once each is proven, nothing is left.
            let mut asked = 0;
            while let Some((number, _)) = list.next() {
                list.remove(number);
                asked += 1;
                prop_assert!(asked < 10_000);
            }
            prop_assert!(list.entries.is_empty());
        }
    }
}
