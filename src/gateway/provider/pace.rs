//! How long a node that says it is asked too often is left alone. Pure.
//!
//! As long as it wishes (`Retry-After`), within bounds: a wish of hours would be an outage of hours. Where
//! it names no time, a moment, and twice as long each time it says so again.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(250);
/// Where it names no time.
const LONGEST: Duration = Duration::from_secs(8);
/// Whatever it names.
const LONGEST_WISH: Duration = Duration::from_secs(30);

/// What is remembered of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    until: Option<Instant>,
    /// The last pause that it did not name.
    step: Duration,
}

impl Pace {
    /// It was asked too often. `wish`: when to come back, if it says so.
    pub(super) fn asked_too_often(&mut self, wish: Option<Duration>, now: Instant) {
        let paused = !self.left(now).is_zero();
        // What was under way already is the same thing once more.
        if !paused {
            self.step = (self.step * 2).clamp(FIRST, LONGEST);
        }
        let pause = match wish {
            Some(wish) => wish.clamp(FIRST, LONGEST_WISH),
            None if paused => return,
            None => self.step,
        };
        self.until = self.until.max(Some(now + pause));
    }

    /// It answers.
    pub(super) fn answered(&mut self, now: Instant) {
        if self.left(now).is_zero() {
            self.step = Duration::ZERO;
        }
    }

    /// For how long it is left alone from now on.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c1_a_node_is_left_alone_as_long_as_it_wishes_within_bounds() {
        let now = Instant::now();
        for (wish, pause) in [
            (None, FIRST),
            (Some(0), FIRST),
            (Some(3), Duration::from_secs(3)),
            (Some(86_400), LONGEST_WISH),
        ] {
            let mut pace = Pace::default();
            assert!(pace.left(now).is_zero());
            pace.asked_too_often(wish.map(Duration::from_secs), now);
            assert_eq!(pace.left(now), pause, "{wish:?}");
            // Of those under way nobody makes it longer, and nobody shorter.
            pace.asked_too_often(None, now);
            pace.asked_too_often(Some(Duration::ZERO), now);
            pace.answered(now);
            assert_eq!(pace.left(now), pause, "{wish:?}");
            assert!(pace.left(now + pause).is_zero());
        }
    }

    #[test]
    fn c1_pauses_grow_until_it_answers() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pace.asked_too_often(None, now);
            pauses.push(pace.left(now).as_millis());
            now += pace.left(now);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000]);
        pace.answered(now);
        pace.asked_too_often(None, now);
        assert_eq!(pace.left(now), FIRST);
    }
}
