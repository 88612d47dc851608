//! Tracks which blocks were read only once, by which node and when. Pure.
//!
//! A node may show the logs of any block late. So every block is read twice, at least
//! [`READINGS_APART`] apart, and the second time at another node if there is one. The last blocks are
//! read again even after that, because the chain may be about to be reorganised.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::gap::NEAR;
use crate::chain::reader::NodeId;

/// The shortest time between the two readings of a block.
pub const READINGS_APART: Duration = Duration::from_secs(8);
/// How far below the cursor a regular second reading reaches. Blocks farther below are read in between.
const REGULAR_REACH: u64 = 1024;
/// The most stretches remembered. Beyond that the two oldest are merged.
const MAX_STRETCHES: usize = 1024;
/// First readings by one node within this time form one stretch.
const MERGE_WITHIN: Duration = Duration::from_secs(1);

/// Blocks that were read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    to: u64,
    /// The time of the first of these readings,
    first_read_at: Instant,
    /// and of the last.
    last_read_at: Instant,
    /// The node that read them, if it was a single one.
    by: Option<NodeId>,
}

/// The stretches of blocks that were read once, by first block.
#[derive(Clone, Debug, Default)]
pub struct ReadOnceBlocks(BTreeMap<u64, Stretch>);

impl ReadOnceBlocks {
    /// These blocks were read for the first time, or again after a rewind.
    pub fn record_first_reading(&mut self, from: u64, to: u64, by: Option<NodeId>, now: Instant) {
        if from > to {
            return;
        }
        self.remove(from, to, |_| true);
        let before = self.0.range_mut(..from).next_back();
        match before {
            Some((_, before))
                if before.to + 1 == from
                    && before.by == by
                    && now.duration_since(before.first_read_at) < MERGE_WITHIN =>
            {
                (before.to, before.last_read_at) = (to, now);
            }
            _ => {
                self.0.insert(from, Stretch { to, first_read_at: now, last_read_at: now, by });
            }
        }
        while self.0.len() > MAX_STRETCHES {
            self.join_the_oldest();
        }
    }

    /// These blocks were read again, with a call made at `asked`. Those that had not waited long enough by
    /// then are read once more.
    pub fn record_second_reading(&mut self, from: u64, to: u64, asked: Instant) {
        self.remove(from, to, |once| asked.duration_since(once.last_read_at) >= READINGS_APART);
    }

    /// The chain above `number` is read again.
    pub fn rewind_to(&mut self, number: u64) {
        self.remove(number.saturating_add(1), u64::MAX, |_| true);
    }

    /// Every block up to the returned one was read twice, given the cursor.
    #[must_use]
    pub fn read_twice_up_to(&self, cursor: u64) -> u64 {
        self.0.first_key_value().map_or(cursor, |(first, _)| first.saturating_sub(1).min(cursor))
    }

    /// The first block of the stretch that has waited longest, and since when.
    #[must_use]
    pub fn longest_waiting(&self) -> Option<(u64, Instant)> {
        let longest = self.0.iter().min_by_key(|(_, once)| once.first_read_at)?;
        Some((*longest.0, longest.1.first_read_at))
    }

    /// The blocks of a regular second reading once everything up to `cursor` is read: none below `floor`.
    #[must_use]
    pub fn next_regular(&self, cursor: u64, floor: u64) -> Option<(u64, u64)> {
        let reach = cursor.saturating_sub(REGULAR_REACH);
        let first = self.0.range(..=cursor).find(|(_, once)| once.to >= reach);
        let first = first.map_or(cursor, |(first, _)| *first).max(reach);
        let from = first.min(last_blocks(cursor)).max(floor);
        (from <= cursor).then_some((from, cursor))
    }

    /// The first blocks out of reach of a regular reading that have waited long enough.
    #[must_use]
    pub fn next_overdue(&self, cursor: u64, now: Instant) -> Option<(u64, u64)> {
        let reach = cursor.saturating_sub(REGULAR_REACH);
        let waited = |once: &Stretch| now.duration_since(once.last_read_at) >= READINGS_APART;
        let mut due = self.0.range(..reach).filter(|(_, once)| waited(once));
        let (first, Stretch { to, .. }) = due.next()?;
        let mut last = *to;
        // And the adjacent stretches above, in one go.
        for (from, once) in due {
            if last + 1 != *from {
                break;
            }
            last = once.to;
        }
        Some((*first, last.min(reach.saturating_sub(1))))
    }

    /// The node that read this block first, and up to which block.
    #[must_use]
    pub fn first_reader(&self, block: u64) -> Option<NodeId> {
        let (_, once) = self.0.range(..=block).next_back()?;
        once.by.filter(|_| once.to >= block)
    }

    /// Removes these blocks from the stretches that `meant` selects.
    fn remove(&mut self, from: u64, to: u64, meant: impl Fn(&Stretch) -> bool) {
        let touched: Vec<u64> = self
            .0
            .range(..=to)
            .rev()
            .take_while(|(_, once)| once.to >= from)
            .filter(|(_, once)| meant(once))
            .map(|(first, _)| *first)
            .collect();
        for first in touched {
            let Some(once) = self.0.remove(&first) else { continue };
            if first < from {
                self.0.insert(first, Stretch { to: from - 1, ..once });
            }
            if once.to > to {
                self.0.insert(to + 1, once);
            }
        }
    }

    fn join_the_oldest(&mut self) {
        let Some((first, one)) = self.0.pop_first() else { return };
        let Some((_, two)) = self.0.pop_first() else { return };
        let by = one.by.filter(|_| one.by == two.by);
        let joined = Stretch {
            to: two.to,
            first_read_at: one.first_read_at.min(two.first_read_at),
            last_read_at: one.last_read_at.max(two.last_read_at),
            by,
        };
        self.0.insert(first, joined);
    }
}

/// The first of the last [`NEAR`] blocks up to `number`.
fn last_blocks(number: u64) -> u64 {
    number.saturating_sub(NEAR - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Option<NodeId> = Some(NodeId(0));
    const B: Option<NodeId> = Some(NodeId(1));

    #[test]
    fn a_regular_reading_reaches_all_that_waits_and_the_last_blocks() {
        let now = Instant::now();
        let mut twice = ReadOnceBlocks::default();
        assert_eq!(twice.next_regular(100, 0), Some((69, 100)));
        assert_eq!(twice.next_regular(100, 90), Some((90, 100)), "not before the first block");
        assert_eq!(twice.next_regular(99, 100), None);
        assert_eq!(twice.next_regular(3, 0), Some((0, 3)));
        twice.record_first_reading(50, 220, A, now);
        assert_eq!(twice.next_regular(220, 0), Some((50, 220)));
        assert_eq!(twice.next_regular(1100, 0), Some((76, 1100)));
        assert_eq!(twice.next_regular(2000, 0), Some((1969, 2000)), "that is too far away");
        assert_eq!(twice.read_twice_up_to(220), 49);
    }

    #[test]
    fn a_second_reading_counts_only_some_time_after_the_first() {
        let begun = Instant::now();
        let mut twice = ReadOnceBlocks::default();
        twice.record_first_reading(1, 100, A, begun);
        twice.record_second_reading(1, 100, begun + READINGS_APART / 2);
        assert_eq!(twice.read_twice_up_to(100), 0, "too soon");
        twice.record_first_reading(101, 200, A, begun + READINGS_APART / 2);
        twice.record_second_reading(1, 200, begun + READINGS_APART);
        assert_eq!(twice.read_twice_up_to(200), 100, "what had been read by then");
        twice.rewind_to(90);
        twice.record_first_reading(91, 200, B, begun + READINGS_APART);
        twice.record_second_reading(1, 200, begun + READINGS_APART * 3 / 2);
        assert_eq!(twice.read_twice_up_to(200), 90, "read anew");
        assert_eq!(
            (twice.first_reader(90), twice.first_reader(91), twice.first_reader(201)),
            (None, B, None)
        );
        twice.record_second_reading(100, 150, begun + READINGS_APART * 2);
        assert_eq!(twice.read_twice_up_to(200), 90);
        assert_eq!(
            (twice.first_reader(99), twice.first_reader(100), twice.first_reader(151)),
            (B, None, B)
        );
        twice.record_second_reading(80, 99, begun + READINGS_APART * 2);
        assert_eq!(twice.read_twice_up_to(200), 150);
        assert_eq!(twice.longest_waiting(), Some((151, begun + READINGS_APART)));
    }

    #[test]
    fn what_is_far_below_has_its_turn_once_it_has_waited() {
        let begun = Instant::now();
        let mut twice = ReadOnceBlocks::default();
        twice.record_first_reading(1, 3000, A, begun);
        twice.record_first_reading(3001, 9000, B, begun);
        assert_eq!(twice.next_overdue(9000, begun), None);
        let later = begun + READINGS_APART;
        assert_eq!(twice.next_overdue(9000, later), Some((1, 9000 - REGULAR_REACH - 1)));
        twice.record_second_reading(1, 2000, later);
        assert_eq!(twice.next_overdue(9000, later), Some((2001, 9000 - REGULAR_REACH - 1)));
        assert_eq!(twice.next_regular(9000, 0), Some((9000 - REGULAR_REACH, 9000)));
    }

    #[test]
    fn readings_of_one_second_are_one_stretch() {
        let begun = Instant::now();
        let mut twice = ReadOnceBlocks::default();
        for block in 0..40 {
            twice.record_first_reading(
                block,
                block,
                A,
                begun + Duration::from_millis(250) * u32::try_from(block).unwrap(),
            );
        }
        assert_eq!(twice.0.len(), 10);
    }

    proptest! {
        /// In whatever portions blocks are read and read again: no block counts as read twice without a
        /// second reading after enough time, and in the end all are read twice.
        #[test]
        fn every_block_is_read_twice(
            steps in prop::collection::vec((0u64..3000, 0u64..40, 1u64..2000, any::<bool>(), 0u64..60), 1..40),
        ) {
            let (mut now, mut twice, mut cursor) = (Instant::now(), ReadOnceBlocks::default(), 0_u64);
            let mut first: Vec<Instant> = Vec::new();
            let mut again: Vec<bool> = Vec::new();
            let rest = (0, 31, u64::MAX, false, 0);
            for (blocks, seconds, portion, regular, back) in steps.into_iter().chain([rest; 99]) {
                now += Duration::from_secs(seconds);
                if back > 50 {
                    cursor = cursor.saturating_sub(back);
                    twice.rewind_to(cursor);
                    first.truncate(usize::try_from(cursor).unwrap());
                    again.truncate(first.len());
                }
                twice.record_first_reading(cursor + 1, cursor + blocks, (blocks % 2 == 0).then_some(NodeId(0)), now);
                cursor += blocks;
                first.resize(usize::try_from(cursor).unwrap(), now);
                again.resize(first.len(), false);
                let range = if regular { None } else { twice.next_overdue(cursor, now) };
                let Some((from, to)) = range.or_else(|| twice.next_regular(cursor, 1)) else { continue };
                let end = to.min(from.saturating_add(portion - 1));
                prop_assert!(from >= 1 && end <= cursor);
                for block in from..=end {
                    let index = usize::try_from(block - 1).unwrap();
                    again[index] |= now.duration_since(first[index]) >= READINGS_APART;
                }
                twice.record_second_reading(from, end, now);
                let done = usize::try_from(twice.read_twice_up_to(cursor)).unwrap();
                prop_assert!(again[..done].iter().all(|again| *again));
                prop_assert!(twice.0.len() <= MAX_STRETCHES);
            }
            prop_assert_eq!(twice.read_twice_up_to(cursor), cursor, "{:?}", twice);
        }
    }
}
