//! Measures how far the instance has caught up with the blocks produced while it was down. Pure: time
//! is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin::status::CatchUp;

/// A lag of fewer blocks is normal operation, not a catch-up.
const CATCH_UP_ABOVE: u64 = 32;

/// Tracks catch-ups, one after the other.
#[derive(Debug, Default)]
pub(super) struct CatchUpTracker {
    start: Option<CatchUpStart>,
}

#[derive(Clone, Copy, Debug)]
struct CatchUpStart {
    cursor: u64,
    at: Instant,
}

/// Position of the cursor relative to the head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum CatchUpState {
    Near,
    Behind(CatchUp),
    /// It was behind at the previous update.
    CaughtUp {
        blocks: u64,
        took: Duration,
    },
}

impl CatchUpTracker {
    pub(super) fn update(&mut self, cursor: u64, head: u64, now: Instant) -> CatchUpState {
        let to_do = head.saturating_sub(cursor);
        if to_do <= CATCH_UP_ABOVE {
            return self.start.take().map_or(CatchUpState::Near, |begun| CatchUpState::CaughtUp {
                blocks: cursor.saturating_sub(begun.cursor),
                took: now.duration_since(begun.at),
            });
        }
        let begun = *self.start.get_or_insert(CatchUpStart { cursor, at: now });
        let done = cursor.saturating_sub(begun.cursor);
        let seconds = now.duration_since(begun.at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "block counts are far below 2^52")]
        let blocks_per_second = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate; the cast saturates"
        )]
        let seconds_left =
            (blocks_per_second > 0.0).then(|| (to_do as f64 / blocks_per_second).ceil() as u64);
        CatchUpState::Behind(CatchUp { done, to_do, blocks_per_second, seconds_left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_where_the_cursor_is_first_seen_behind_and_ends_near_the_head() {
        let begin = Instant::now();
        let mut tracker = CatchUpTracker::default();
        let mut look = |cursor, head, seconds| {
            tracker.update(cursor, head, begin + Duration::from_secs(seconds))
        };
        assert_eq!(look(100, 132, 0), CatchUpState::Near);
        let first = CatchUp { done: 0, to_do: 900, blocks_per_second: 0.0, seconds_left: None };
        assert_eq!(look(100, 1000, 1), CatchUpState::Behind(first));
        let later =
            CatchUp { done: 300, to_do: 601, blocks_per_second: 30.0, seconds_left: Some(21) };
        assert_eq!(look(400, 1001, 11), CatchUpState::Behind(later));
        let took = Duration::from_secs(30);
        assert_eq!(look(1000, 1010, 31), CatchUpState::CaughtUp { blocks: 900, took });
        assert_eq!(look(1010, 1010, 32), CatchUpState::Near);
        // A reorganisation may move the cursor back.
        assert!(matches!(look(900, 1010, 33), CatchUpState::Behind(CatchUp { done: 0, .. })));
        assert!(matches!(look(880, 1010, 34), CatchUpState::Behind(CatchUp { done: 0, .. })));
    }
}
