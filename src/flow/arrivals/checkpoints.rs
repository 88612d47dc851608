//! Hashes of some blocks read long ago, to find where a chain forked however deep, without remembering
//! every block. Pure.

use std::collections::BTreeMap;

use crate::domain::{B256, BlockRef};

/// The smallest distance between two checkpoints, in blocks.
const MIN_DISTANCE: u64 = 512;
/// Beyond this number every second one is forgotten, so that older ones lie farther apart.
const MAX_CHECKPOINTS: usize = 1024;

/// By number.
#[derive(Debug, Default)]
pub(super) struct Checkpoints(BTreeMap<u64, B256>);

impl Checkpoints {
    /// Everything up to this block was read.
    pub(super) fn record(&mut self, block: BlockRef) {
        let last = self.0.last_key_value().map(|(number, _)| *number);
        if last.is_some_and(|last| block.number < last.saturating_add(MIN_DISTANCE)) {
            return;
        }
        self.0.insert(block.number, block.hash);
        if self.0.len() > MAX_CHECKPOINTS {
            let mut index = 0;
            self.0.retain(|_, _| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// This block and those above are read again.
    pub(super) fn rewind_to(&mut self, number: u64) {
        self.0.split_off(&number);
    }

    pub(super) fn hash(&self, number: u64) -> Option<B256> {
        self.0.get(&number).copied()
    }

    /// The highest checkpoint below.
    pub(super) fn highest_below(&self, number: u64) -> Option<u64> {
        self.0.range(..number).next_back().map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_the_first_block_stays_known_however_many_are_read() {
        let mut marks = Checkpoints::default();
        let block = |number: u64| BlockRef {
            number,
            hash: B256::from(alloy::primitives::U256::from(number)),
        };
        (100..3_000_000).step_by(7).for_each(|number| marks.record(block(number)));
        assert!(marks.0.len() <= MAX_CHECKPOINTS);
        assert_eq!(marks.hash(100), Some(block(100).hash));
        assert_eq!(marks.highest_below(101), Some(100));
        let below = marks.highest_below(2_000_000).unwrap();
        assert!(2_000_000 - below < 8192, "{below}");
        marks.rewind_to(2_000_000);
        assert_eq!(marks.highest_below(u64::MAX), Some(below));
        marks.record(block(2_000_000));
        assert_eq!(marks.hash(2_000_000), Some(block(2_000_000).hash));
    }
}
