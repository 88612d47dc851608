//! Blocks that are suspected to hide a request: they are read again at every sound node. If that does
//! not help, the caller reports them again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::domain::{BlockRef, RequestKey};

/// The most ranges remembered. Beyond that the two closest are merged: more is read, and nothing is
/// left out.
const MAX_RANGES: usize = 64;
/// The most orphaned requests that wait for a check. For further ones it is not noticed that their ids
/// may belong to other requests.
const MAX_ORPHANS: usize = 4096;

/// The set. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SuspectBlocks {
    ranges: Arc<Mutex<Ranges>>,
    orphans: Arc<Mutex<Vec<(RequestKey, BlockRef)>>>,
    added: Arc<Notify>,
}

impl SuspectBlocks {
    /// Has `from` to `to` (both included) read again soon at every sound node. Unknown requests are stored
    /// and processed as usual. Blocks above the cursor are not read: they are new anyway.
    pub fn reread_everywhere(&self, from: u64, to: u64) {
        self.ranges().add(from, to);
        self.added.notify_one();
    }

    /// A request that was shown in this block is not on chain: its id may belong to another one that no
    /// node has shown.
    pub fn report_orphan(&self, key: RequestKey, block: BlockRef) {
        let mut gone = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.len() < MAX_ORPHANS {
            gone.push((key, block));
        }
    }

    /// Takes the orphans reported since the last call.
    pub(super) fn take_orphans(&self) -> Vec<(RequestKey, BlockRef)> {
        std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether any of these blocks still waits to be read again.
    #[must_use]
    pub fn is_waiting(&self, from: u64, to: u64) -> bool {
        self.ranges().0.range(..=to).next_back().is_some_and(|(_, last)| *last >= from)
    }

    /// Waits until blocks are added.
    pub(super) async fn wait_added(&self) {
        self.added.notified().await;
    }

    /// The first waiting range.
    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.ranges().0.first_key_value().map(|(from, to)| (*from, *to))
    }

    /// Everything up to `to` was read.
    pub(super) fn remove_up_to(&self, to: u64) {
        self.ranges().drop_up_to(to);
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// First block to last block; no two ranges touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn add(&mut self, mut from: u64, mut to: u64) {
        if from > to {
            return;
        }
        let touching: Vec<u64> = self
            .0
            .range(..=to.saturating_add(1))
            .filter(|(_, last)| last.saturating_add(1) >= from)
            .map(|(first, _)| *first)
            .collect();
        for first in touching {
            let last = self.0.remove(&first).unwrap_or(first);
            (from, to) = (from.min(first), to.max(last));
        }
        self.0.insert(from, to);
        while self.0.len() > MAX_RANGES {
            self.join_the_closest();
        }
    }

    fn join_the_closest(&mut self) {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        let closest = pairs.min_by_key(|((_, last), (next, _))| **next - **last);
        let Some((first, next)) = closest.map(|((first, _), (next, _))| (*first, *next)) else {
            return;
        };
        if let Some(last) = self.0.remove(&next) {
            self.0.insert(first, last);
        }
    }

    fn drop_up_to(&mut self, to: u64) {
        let later = self.0.split_off(&to.saturating_add(1));
        let cut = self.0.last_key_value().map(|(_, last)| *last).filter(|last| *last > to);
        self.0 = later;
        if let Some(last) = cut {
            self.0.insert(to + 1, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_read_waits_no_more() {
        let suspects = SuspectBlocks::default();
        suspects.reread_everywhere(10, 20);
        suspects.reread_everywhere(21, 25);
        suspects.reread_everywhere(40, 40);
        assert_eq!(suspects.first(), Some((10, 25)));
        suspects.remove_up_to(15);
        assert_eq!(suspects.first(), Some((16, 25)));
        assert!(suspects.is_waiting(0, 16) && !suspects.is_waiting(0, 15));
        assert!(suspects.is_waiting(20, 30) && !suspects.is_waiting(26, 39));
        suspects.remove_up_to(25);
        assert_eq!(suspects.first(), Some((40, 40)));
        suspects.remove_up_to(u64::MAX);
        assert_eq!(suspects.first(), None);
    }

    proptest! {
        /// However many blocks are added, the set is bounded and leaves no block out.
        #[test]
        fn no_block_is_left_out(
            asked in prop::collection::vec((0u64..5000, 0u64..4), 1..200), read in 0u64..5000,
        ) {
            let suspects = SuspectBlocks::default();
            for (from, more) in &asked {
                suspects.reread_everywhere(*from, from + more);
            }
            let ranges = suspects.ranges().0.clone();
            prop_assert!(ranges.len() <= MAX_RANGES);
            for (from, more) in &asked {
                for block in *from..=from + more {
                    prop_assert!(suspects.is_waiting(block, block));
                }
            }
            suspects.remove_up_to(read);
            for (from, more) in &asked {
                for block in *from..=from + more {
                    prop_assert!(block <= read || suspects.is_waiting(block, block));
                }
            }
            prop_assert!(!suspects.is_waiting(0, read));
        }
    }
}
