//! Detects a cursor above every head, on a block that no node has: the blocks read there never belonged
//! to the chain. Pure.
//!
//! This happens when a node announces blocks that never existed, or when a whole chain is rolled back.
//! Its heads stay below the cursor then, and without this check nothing below the cursor would ever be
//! read again.

use std::time::Duration;

use tokio::time::Instant;

/// A node that was restored, or replaced under the same name, may be this far behind for a while.
const LOST_AFTER: Duration = Duration::from_mins(1);
/// How often the nodes are asked for the cursor's block.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How many blocks before the head are read again: more than were made since, on a chain with ten
/// blocks a second.
pub(super) const REREAD_BLOCKS: u64 = 4096;

/// Since when heads are below the cursor.
#[derive(Debug, Default)]
pub(super) struct LostCursor {
    since: Option<Instant>,
    asked: Option<Instant>,
}

impl LostCursor {
    /// For a new head: returns whether to ask the nodes for the cursor's block now.
    pub(super) fn should_ask(&mut self, cursor: u64, head: u64, now: Instant) -> bool {
        if head >= cursor {
            *self = Self::default();
            return false;
        }
        let over = |since: Option<Instant>, time: Duration| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= time)
        };
        let since = *self.since.get_or_insert(now);
        let asks = over(Some(since), LOST_AFTER) && over(self.asked, CHECK_INTERVAL);
        if asks {
            self.asked = Some(now);
        }
        asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_heads_below_the_cursor_are_doubted_after_a_while_and_now_and_then() {
        let (mut astray, begun) = (LostCursor::default(), Instant::now());
        let mut hears = |second: u64, head: u64| {
            astray.should_ask(100, head, begun + Duration::from_secs(second))
        };
        assert_eq!([hears(0, 100), hears(1, 99), hears(60, 99)], [false; 3]);
        assert_eq!([hears(61, 99), hears(62, 99), hears(71, 98)], [true, false, true]);
        assert_eq!(
            [hears(72, 100), hears(73, 50), hears(132, 60), hears(133, 70)],
            [false, false, false, true]
        );
    }
}
