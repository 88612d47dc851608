//! How long a rate-limiting node is left alone. Pure.
//!
//! As long as it asks for (`Retry-After`), within bounds: obeying a wish of hours would be an outage of
//! hours. Without a time: a moment, doubled at each repetition.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(250);
/// Longest pause if the node names no time.
const LONGEST: Duration = Duration::from_secs(8);
/// Longest pause whatever the node names.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// State of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimitBackoff {
    until: Option<Instant>,
    /// The last pause that the node did not name.
    step: Duration,
}

impl RateLimitBackoff {
    /// The node is rate limiting. `wish`: when to come back, if it says so.
    pub(super) fn record_rate_limited(&mut self, wish: Option<Duration>, now: Instant) {
        let paused = !self.remaining(now).is_zero();
        // Answers to calls already in flight belong to the same incident.
        if !paused {
            self.step = (self.step * 2).clamp(FIRST, LONGEST);
        }
        let pause = match wish {
            Some(wish) => wish.clamp(FIRST, LONGEST_RETRY_AFTER),
            None if paused => return,
            None => self.step,
        };
        self.until = self.until.max(Some(now + pause));
    }

    /// The node answered.
    pub(super) fn record_answer(&mut self, now: Instant) {
        if self.remaining(now).is_zero() {
            self.step = Duration::ZERO;
        }
    }

    /// How long it is still left alone.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
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
            (Some(86_400), LONGEST_RETRY_AFTER),
        ] {
            let mut pace = RateLimitBackoff::default();
            assert!(pace.remaining(now).is_zero());
            pace.record_rate_limited(wish.map(Duration::from_secs), now);
            assert_eq!(pace.remaining(now), pause, "{wish:?}");
            // Calls in flight make it neither longer nor shorter.
            pace.record_rate_limited(None, now);
            pace.record_rate_limited(Some(Duration::ZERO), now);
            pace.record_answer(now);
            assert_eq!(pace.remaining(now), pause, "{wish:?}");
            assert!(pace.remaining(now + pause).is_zero());
        }
    }

    #[test]
    fn c1_pauses_grow_until_it_answers() {
        let (mut pace, mut now) = (RateLimitBackoff::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            pace.record_rate_limited(None, now);
            pauses.push(pace.remaining(now).as_millis());
            now += pace.remaining(now);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000]);
        pace.record_answer(now);
        pace.record_rate_limited(None, now);
        assert_eq!(pace.remaining(now), FIRST);
    }
}
