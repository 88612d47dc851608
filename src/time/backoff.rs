//! Exponential back-off with jitter and an upper bound.

use std::time::Duration;

/// A growing pause: `first`, doubled at each call up to `ceiling`. Each pause is drawn from the upper half of
/// its interval, so that many waiters do not retry at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    attempt: u32,
}

impl Backoff {
    #[must_use]
    pub fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first: first.min(ceiling), ceiling, attempt: 0 }
    }

    /// The next pause. `dice`: a random number between 0 and 1 that the caller provides.
    pub fn next_delay(&mut self, dice: f64) -> Duration {
        let full = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.ceiling);
        self.attempt = self.attempt.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * dice)
    }

    /// The number of pauses since the last reset.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Starts again with the first pause, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays_below_the_ceiling() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));
        let mut last_floor = Duration::ZERO;
        for dice in (0..100).map(|roll| f64::from(roll % 11) / 10.0) {
            let delay = backoff.next_delay(dice);
            assert!(delay <= Duration::from_secs(5));
            assert!(delay >= last_floor / 4);
            last_floor = delay;
        }
        assert!(last_floor >= Duration::from_millis(2500));
        backoff.reset();
        assert!(backoff.next_delay(1.0) <= Duration::from_millis(10));
    }
}
