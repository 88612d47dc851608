//! The state that the loops of arrivals share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    blooms::BloomTrust,
    pages::PageSizes,
    read_once::ReadOnceBlocks,
    unproven::{UnprovenList, UnprovenSummary},
};
use crate::time::clock::Clock;

/// The longest normal time until the second reading.
const SECOND_READING_WITHIN: Duration = Duration::from_mins(2);

/// Shared by the loops. Never locked during a call.
#[derive(Clone, Debug, Default)]
pub struct ReadingState {
    inner: Arc<Mutex<ReadingStateInner>>,
    listed: Arc<Notify>,
    clock: Clock,
}

/// The state.
#[derive(Debug, Default)]
pub(super) struct ReadingStateInner {
    /// Blocks up to this one are never read.
    pub began_after: u64,
    pub read_once: ReadOnceBlocks,
    pub pages: PageSizes,
    pub bloom_trust: BloomTrust,
    pub unproven: UnprovenList,
}

/// What is uncertain about the blocks read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UncertainBlocks {
    /// Blocks that no node could prove within a minute.
    pub unproven: UnprovenSummary,
    /// The first block that waits for its second reading, and since when (Unix ms), if it is late.
    pub read_once: Option<(u64, u64)>,
}

impl UncertainBlocks {
    /// Since when (Unix ms) the first of these blocks waits.
    #[must_use]
    pub fn since_ms(&self) -> Option<u64> {
        let unclear = (self.unproven.blocks > 0).then_some(self.unproven.since_ms);
        unclear.into_iter().chain(self.read_once.map(|(_, since_ms)| since_ms)).min()
    }

    /// These, and those of another contract of the same chain.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let unproven = match (self.unproven, other.unproven) {
            (own, UnprovenSummary { blocks: 0, .. }) => own,
            (UnprovenSummary { blocks: 0, .. }, others) => others,
            (own, others) => UnprovenSummary {
                blocks: own.blocks.saturating_add(others.blocks),
                first: own.first.min(others.first),
                since_ms: own.since_ms.min(others.since_ms),
            },
        };
        let read_once = self.read_once.into_iter().chain(other.read_once).min();
        Self { unproven, read_once }
    }
}

impl ReadingState {
    pub(super) fn new(began_after: u64) -> Self {
        let notes = Self::default();
        notes.lock().began_after = began_after;
        notes
    }

    /// Uses this clock.
    pub(super) fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The time in Unix milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.unix_millis()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReadingStateInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was added to the list.
    pub(super) fn notify_listed(&self) {
        self.listed.notify_one();
    }

    /// Waits until a block is added to the list.
    pub(super) async fn wait_listed(&self) {
        self.listed.notified().await;
    }

    /// It is known otherwise that every request of these blocks is stored: their logs need no proof.
    pub fn mark_proven(&self, first: u64, last: u64) {
        self.lock().unproven.remove_range(first, last);
    }

    /// The uncertainties that are reported to operators.
    #[must_use]
    pub fn uncertain(&self) -> UncertainBlocks {
        let now_ms = self.now_ms();
        let notes = self.lock();
        let waits =
            notes.read_once.longest_waiting().map(|(block, since)| (block, Instant::now() - since));
        let late = waits.filter(|(_, waited)| *waited > SECOND_READING_WITHIN);
        let since = |waited: Duration| {
            now_ms.saturating_sub(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX))
        };
        UncertainBlocks {
            unproven: notes.unproven.summary(now_ms),
            read_once: late.map(|(block, waited)| (block, since(waited))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_uncertain_of_two_contracts_is_one_list() {
        let of = |blocks, first, since_ms, read_once| UncertainBlocks {
            unproven: UnprovenSummary { blocks, first, since_ms },
            read_once,
        };
        let none = UncertainBlocks::default();
        let one = of(2, 30, 500, Some((7, 400)));
        assert_eq!((none.and(one), one.and(none)), (one, one));
        let other = of(1, 20, 600, Some((9, 100)));
        assert_eq!(one.and(other), of(3, 20, 500, Some((7, 400))));
        assert_eq!(of(0, 0, 0, None).and(of(0, 0, 0, Some((9, 100)))), of(0, 0, 0, Some((9, 100))));
    }
}
