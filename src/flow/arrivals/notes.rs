//! What the loops of this room know of each other's reading.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    blooms::Trust,
    pages::Pages,
    twice::Twice,
    unproven::{List, Unclear},
};
use crate::clock::Clock;

/// A second reading comes within this, where nothing hinders it.
const SECOND_WITHIN: Duration = Duration::from_mins(2);

/// Shared by the loops; held for no call.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    open: Arc<Mutex<Open>>,
    listed: Arc<Notify>,
    clock: Clock,
}

/// What is noted.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Nothing up to this block is ever read.
    pub begun_after: u64,
    pub twice: Twice,
    pub pages: Pages,
    pub trust: Trust,
    pub list: List,
}

/// What is not certain of what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncertain {
    /// Blocks that no node could prove within a minute.
    pub unclear: Unclear,
    /// The first block that waits for its second reading, and since when (Unix ms), if that is longer
    /// than it should be.
    pub read_once: Option<(u64, u64)>,
}

impl Uncertain {
    /// Since when (Unix ms) the first of these blocks waits.
    #[must_use]
    pub fn since_ms(&self) -> Option<u64> {
        let unclear = (self.unclear.blocks > 0).then_some(self.unclear.since_ms);
        unclear.into_iter().chain(self.read_once.map(|(_, since_ms)| since_ms)).min()
    }
}

impl Notes {
    pub(super) fn new(begun_after: u64) -> Self {
        let notes = Self::default();
        notes.open().begun_after = begun_after;
        notes
    }

    /// By this clock.
    pub(super) fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The time, in Unix milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.unix_millis()
    }

    pub(super) fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block was put on the list.
    pub(super) fn listed(&self) {
        self.listed.notify_one();
    }

    /// Waits until one is.
    pub(super) async fn wait_listed(&self) {
        self.listed.notified().await;
    }

    /// Somebody knows that none of these blocks holds a request that is not stored: their logs need no
    /// proof.
    pub fn hold_nothing(&self, first: u64, last: u64) {
        self.open().list.drop_range(first, last);
    }

    /// What operators should hear of.
    #[must_use]
    pub fn uncertain(&self) -> Uncertain {
        let now_ms = self.now_ms();
        let notes = self.open();
        let waits = notes.twice.waiting().map(|(block, since)| (block, Instant::now() - since));
        let late = waits.filter(|(_, waited)| *waited > SECOND_WITHIN);
        let since = |waited: Duration| {
            now_ms.saturating_sub(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX))
        };
        Uncertain {
            unclear: notes.list.unclear(now_ms),
            read_once: late.map(|(block, waited)| (block, since(waited))),
        }
    }
}
