//! cursor x head -> what to read next. Pure.

use std::time::Duration;

use alloy::primitives::{Bloom, BloomInput};
use tokio::time::Instant;

use crate::domain::{Address, B256};

/// Within so many blocks of the head every block is read by its hash; farther away by ranges.
/// Also how many blocks are read again after a reconnect and every now and then.
pub const NEAR: u64 = 32;

/// What to read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing new.
    Idle,
    /// Block by block, joined by parent hash. Both ends included.
    Near { from: u64, to: u64 },
    /// By number ranges, ended well below the head so that a node lagging behind knows them too.
    Far { from: u64, to: u64 },
}

/// Plans the next read after `cursor` when the chain's head is `head`.
#[must_use]
pub fn plan(cursor: u64, head: u64) -> Plan {
    if head <= cursor {
        Plan::Idle
    } else if head - cursor > NEAR {
        Plan::Far { from: cursor + 1, to: head - NEAR }
    } else {
        Plan::Near { from: cursor + 1, to: head }
    }
}

/// Which known blocks were read only once. A node may show its logs late, wherever in the chain it is
/// asked: so every block is read twice, with [`APART`] in between.
#[derive(Clone, Copy, Debug)]
pub struct ReadOnce {
    /// All from this block on.
    from: u64,
    /// Those up to this block had been read by that moment.
    by: Option<(u64, Instant)>,
}

/// Between two readings of a block, at least.
pub const APART: Duration = Duration::from_secs(8);
/// So many blocks are read again up to the last one; of more, those that have waited long enough.
const ALL_OF: u64 = 1024;

impl ReadOnce {
    /// All from `from` on.
    #[must_use]
    pub fn since(from: u64) -> Self {
        Self { from, by: None }
    }

    /// The chain behind `number` is read anew.
    pub fn back_to(&mut self, number: u64) {
        self.from = self.from.min(number + 1);
        if let Some((by, _)) = &mut self.by {
            *by = number.min(*by);
        }
    }

    /// The blocks to be read again, after everything up to `cursor` was read: none below `floor`.
    #[must_use]
    pub fn range(&self, cursor: u64, floor: u64, now: Instant) -> Option<(u64, u64)> {
        let last = last_blocks(cursor).max(floor);
        let from = last_blocks(cursor).min(self.from).max(floor);
        let range = match self.waited(now) {
            _ if cursor.saturating_sub(from) <= ALL_OF => (from, cursor),
            Some(by) if by >= from => (from, by),
            Some(_) | None => (last, cursor),
        };
        (range.0 <= range.1).then_some(range)
    }

    /// Up to this block everything was read long enough ago.
    fn waited(&self, now: Instant) -> Option<u64> {
        self.by.filter(|(_, at)| now.duration_since(*at) >= APART).map(|(by, _)| by)
    }

    /// Of that range, the blocks up to `to` were read again. `whole`: that is all of it.
    pub fn read_again(&mut self, to: u64, whole: bool, cursor: u64, now: Instant) {
        let Some(by) = self.waited(now) else {
            self.by.get_or_insert((cursor, now));
            return;
        };
        self.from = self.from.max(to.min(by) + 1);
        if whole {
            // The last ones also because the chain may be about to change.
            self.from = self.from.min(last_blocks(cursor));
            self.by = Some((cursor, now));
        }
    }
}

/// The first of the last [`NEAR`] blocks up to `number`.
#[must_use]
pub fn last_blocks(number: u64) -> u64 {
    number.saturating_sub(NEAR - 1)
}

/// How many blocks one `eth_getLogs` asks for: halved on "too many results", grown back slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u64);

impl PageSize {
    const LARGEST: u64 = 2000;

    #[must_use]
    pub fn new() -> Self {
        Self(500)
    }

    /// The page that starts at `from`, not beyond `to`.
    #[must_use]
    pub fn page(self, from: u64, to: u64) -> (u64, u64) {
        (from, to.min(from.saturating_add(self.0 - 1)))
    }

    /// Answers whether a smaller page is possible.
    pub fn shrink(&mut self) -> bool {
        let smaller = (self.0 / 2).max(1);
        let shrunk = smaller < self.0;
        self.0 = smaller;
        shrunk
    }

    pub fn grow(&mut self) {
        self.0 = (self.0 + self.0 / 4 + 1).min(Self::LARGEST);
    }
}

impl Default for PageSize {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a block with this bloom may hold a log of `address` with one of `topics` first. Where the
/// node tells no bloom, anything may be in it.
#[must_use]
pub fn may_contain(bloom: Option<&Bloom>, address: Address, topics: &[B256]) -> bool {
    let Some(bloom) = bloom else { return true };
    bloom.contains_input(BloomInput::Raw(address.as_slice()))
        && topics.iter().any(|topic| bloom.contains_input(BloomInput::Raw(topic.as_slice())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn near_and_far_meet() {
        assert_eq!(plan(10, 10), Plan::Idle);
        assert_eq!(plan(10, 9), Plan::Idle);
        assert_eq!(plan(10, 11), Plan::Near { from: 11, to: 11 });
        assert_eq!(plan(10, 42), Plan::Near { from: 11, to: 42 });
        assert_eq!(plan(10, 43), Plan::Far { from: 11, to: 11 });
        assert_eq!(plan(0, 1000), Plan::Far { from: 1, to: 968 });
    }

    #[test]
    fn the_last_blocks_and_all_that_were_read_once_are_read_again() {
        let now = Instant::now();
        let range = |cursor, since, floor| ReadOnce::since(since).range(cursor, floor, now);
        assert_eq!(range(100, 69, 0), Some((69, 100)));
        assert_eq!(range(220, 69, 0), Some((69, 220)), "more blocks than NEAR since the last time");
        assert_eq!(range(220, 300, 0), Some((189, 220)));
        assert_eq!(range(100, 69, 90), Some((90, 100)), "not before the first block");
        assert_eq!(range(99, 100, 100), None);
        assert_eq!(range(3, 0, 0), Some((0, 3)));
    }

    #[test]
    fn a_second_reading_counts_only_some_time_after_the_first() {
        let begun = Instant::now();
        let mut once = ReadOnce::since(1);
        once.read_again(100, true, 100, begun);
        assert_eq!(once.range(100, 0, begun), Some((1, 100)), "read just now");
        once.read_again(200, true, 200, begun + APART / 2);
        assert_eq!(once.range(200, 0, begun + APART), Some((1, 200)), "too soon");
        once.read_again(200, true, 200, begun + APART);
        assert_eq!(
            once.range(200, 0, begun + APART),
            Some((101, 200)),
            "what had been read by then"
        );
        once.back_to(90);
        assert_eq!(once.range(200, 0, begun + APART), Some((91, 200)), "read anew");
        once.read_again(200, true, 200, begun + APART * 2);
        assert_eq!(once.range(200, 0, begun + APART * 2), Some((91, 200)), "nothing of it before");
    }

    #[test]
    fn of_a_long_way_only_what_has_waited_is_read_again_and_in_portions() {
        let begun = Instant::now();
        let mut once = ReadOnce::since(1);
        assert_eq!(once.range(5000, 0, begun), Some((4969, 5000)), "nothing has waited");
        once.read_again(5000, true, 5000, begun);
        let later = begun + APART;
        assert_eq!(once.range(9000, 0, later), Some((1, 5000)));
        once.read_again(3000, false, 9000, later);
        assert_eq!(once.range(9100, 0, later), Some((3001, 5000)));
        once.read_again(5000, true, 9100, later);
        assert_eq!(once.range(9200, 0, later + APART), Some((5001, 9100)));
    }

    proptest! {
        /// Reading plan after plan reaches the head and skips no block.
        ///
        /// Field failure T11.
        #[test]
        fn no_block_is_skipped(start in 0u64..10_000, ahead in 0u64..10_000, failures in prop::collection::vec(any::<bool>(), 0..64)) {
            let head = start + ahead;
            let mut cursor = start;
            let mut size = PageSize::new();
            let mut failures = failures.into_iter();
            loop {
                let (from, to) = match plan(cursor, head) {
                    Plan::Idle => break,
                    Plan::Near { from, to } => (from, to),
                    Plan::Far { from, to } => size.page(from, to),
                };
                prop_assert_eq!(from, cursor + 1);
                prop_assert!(to >= from && to <= head);
                if failures.next().unwrap_or(false) {
                    size.shrink();
                    continue;
                }
                size.grow();
                cursor = to;
            }
            prop_assert_eq!(cursor, head);
        }

        /// However reading gets on, and whatever is read again in which portions: in the end every
        /// block was read twice, with time in between.
        #[test]
        fn every_block_is_read_twice(
            steps in prop::collection::vec((0u64..3000, 0u64..40, 1u64..2000), 1..30),
        ) {
            let (mut now, mut once, mut cursor) = (Instant::now(), ReadOnce::since(1), 0);
            let mut first: Vec<Instant> = Vec::new();
            let mut twice: Vec<bool> = Vec::new();
            let rest = (0, 31, u64::MAX);
            for (blocks, seconds, portion) in steps.into_iter().chain([rest, rest, rest]) {
                now += Duration::from_secs(seconds);
                cursor += blocks;
                first.resize(usize::try_from(cursor).unwrap(), now);
                twice.resize(first.len(), false);
                let Some((from, to)) = once.range(cursor, 1, now) else { continue };
                let end = to.min(from.saturating_add(portion - 1));
                for block in from..=end {
                    let index = usize::try_from(block - 1).unwrap();
                    twice[index] |= now.duration_since(first[index]) >= APART;
                }
                once.read_again(end, end == to, cursor, now);
            }
            prop_assert!(twice.iter().all(|twice| *twice), "{:?}", once);
        }
    }
}
