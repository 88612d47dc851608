//! cursor x head -> what to read next. Pure.

use alloy::primitives::{Bloom, BloomInput};

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

/// Which known blocks are read again: the last [`NEAR`] ones, and all from `since` on, which were
/// read only once; none below `floor`.
#[must_use]
pub fn reread(cursor: u64, since: u64, floor: u64) -> Option<(u64, u64)> {
    let from = last_blocks(cursor).min(since).max(floor);
    (from <= cursor).then_some((from, cursor))
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

/// Whether a block with this bloom may hold a log of `address` with one of `topics` first.
#[must_use]
pub fn may_contain(bloom: &Bloom, address: Address, topics: &[B256]) -> bool {
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
    fn nothing_is_read_only_once_near_the_head() {
        assert_eq!(reread(100, 69, 0), Some((69, 100)));
        assert_eq!(
            reread(220, 69, 0),
            Some((69, 220)),
            "more blocks than NEAR since the last time"
        );
        assert_eq!(reread(220, 300, 0), Some((189, 220)));
        assert_eq!(reread(100, 69, 90), Some((90, 100)), "not before the first block");
        assert_eq!(reread(99, 100, 100), None);
        assert_eq!(reread(3, 0, 0), Some((0, 3)));
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
    }
}
