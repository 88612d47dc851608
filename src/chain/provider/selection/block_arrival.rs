//! Whether a node goes on: blocks arrive, and they are recent by their own timestamps.

use std::time::Duration;

use tokio::time::Instant;

use super::{NodeObservation, NodeRecord, NodeSelector, STALE_AFTER};

/// An advancing node is level with the others if the next block has been known for less than this.
const LEVEL_WITHIN: Duration = Duration::from_secs(1);
/// How long the delay measured while a node was level is used: it bounds the error of the clock.
const LATE_COUNTS_FOR: Duration = Duration::from_mins(10);
/// Longest block interval that counts for advancing; [`STALE_AFTER`] is added.
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// When a node's newest block arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockArrival {
    pub at: Instant,
    /// Age of the block at that time, by its timestamp and this machine's clock.
    pub age: Duration,
}

impl NodeSelector {
    /// Records a new block of a node, if there is one.
    pub(super) fn record_arrival(
        &mut self,
        index: usize,
        sights: &[NodeObservation],
        now: Instant,
    ) {
        let NodeObservation { head: Some(head), last_block: Some(arrived), .. } = sights[index]
        else {
            return;
        };
        let mut others = sights.iter().enumerate().filter(|(other, _)| *other != index);
        let with_another = others.any(|(_, other)| other.is_connected && other.head >= Some(head));
        let level = with_another && self.lag_of(head, now) < LEVEL_WITHIN;
        let standing = &mut self.records[index];
        // The first block may be of any age: it existed before.
        if let Some(before) = standing.last_block.filter(|before| *before != arrived) {
            let gap = arrived.at.saturating_duration_since(before.at);
            standing.gap = gap.min(LONGEST_GAP);
        }
        if level && !standing.gap.is_zero() {
            standing.late = Some((arrived.age, now));
        }
        standing.last_block = Some(arrived);
    }

    /// Whether a node advances: blocks arrive, and they are recent.
    pub(super) fn is_advancing(&self, index: usize, now: Instant) -> bool {
        let NodeRecord { last_block: Some(arrived), gap, late, .. } = self.records[index] else {
            return false;
        };
        let since = |then| now.saturating_duration_since(then);
        let late = late.filter(|(_, at)| since(*at) < LATE_COUNTS_FOR);
        let late = late.map_or(Duration::ZERO, |(late, _)| late);
        arrived.age <= late + STALE_AFTER && since(arrived.at) < gap + STALE_AFTER
    }
}
