//! What the loops of this room know of each other's reading.

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

/// A second reading comes within this, where nothing hinders it.
const SECOND_READING_WITHIN: Duration = Duration::from_mins(2);

/// Shared by the loops; held for no call.
#[derive(Clone, Debug, Default)]
pub struct ReadingState {
    inner: Arc<Mutex<ReadingStateInner>>,
    listed: Arc<Notify>,
    clock: Clock,
}

/// What is noted.
#[derive(Debug, Default)]
pub(super) struct ReadingStateInner {
    /// Nothing up to this block is ever read.
    pub began_after: u64,
    pub read_once: ReadOnceBlocks,
    pub pages: PageSizes,
    pub bloom_trust: BloomTrust,
    pub unproven: UnprovenList,
}

/// What is not certain of what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UncertainBlocks {
    /// Blocks that no node could prove within a minute.
    pub unproven: UnprovenSummary,
    /// The first block that waits for its second reading, and since when (Unix ms), if that is longer
    /// than it should be.
    pub read_once: Option<(u64, u64)>,
}

impl UncertainBlocks {
    /// Since when (Unix ms) the first of these blocks waits.
    #[must_use]
    pub fn since_ms(&self) -> Option<u64> {
        let unclear = (self.unproven.blocks > 0).then_some(self.unproven.since_ms);
        unclear.into_iter().chain(self.read_once.map(|(_, since_ms)| since_ms)).min()
    }
}

impl ReadingState {
    pub(super) fn new(began_after: u64) -> Self {
        let notes = Self::default();
        notes.lock().began_after = began_after;
        notes
    }

    /// By this clock.
    pub(super) fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The time, in Unix milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.unix_millis()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReadingStateInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was put on the list.
    pub(super) fn notify_listed(&self) {
        self.listed.notify_one();
    }

    /// Waits until one is.
    pub(super) async fn wait_listed(&self) {
        self.listed.notified().await;
    }

    /// Somebody knows that none of these blocks holds a request that is not stored: their logs need no
    /// proof.
    pub fn mark_proven(&self, first: u64, last: u64) {
        self.lock().unproven.remove_range(first, last);
    }

    /// What operators should hear of.
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
