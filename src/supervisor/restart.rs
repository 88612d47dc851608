//! From a history of exits to the next step: a delay, or parking. Pure.
//!
//! ```text
//! exit -> 1 s -> exit -> 2 s -> exit -> 4 s -> exit -> 8 s -> exit: parked, tried every 5 min
//!                  60 s of healthy running anywhere: back to the beginning
//! ```

use std::time::Duration;

/// The first delay; each further one is twice as long.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
pub const MAX_DELAY: Duration = Duration::from_mins(1);
/// An instance that ran this long without waiting for anything was healthy: earlier exits are
/// forgotten.
pub const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// An instance is parked after this many exits without a healthy run in between.
pub const PARK_AFTER: u32 = 5;
/// A parked instance is tried again after this, because nobody may be watching at night.
pub const PARKED_RETRY: Duration = Duration::from_mins(5);

/// The step that follows an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    /// Build the instance again after this delay.
    RestartAfter(Duration),
    /// Give up for now, and log it as an error.
    Park,
}

/// The exits of one instance since it was last healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitHistory {
    exits: u32,
}

impl ExitHistory {
    /// Records a failure after a healthy run of `healthy_for`. `jitter`, from 0 to 1, spreads the
    /// restarts of instances that failed together.
    pub fn failed(&mut self, healthy_for: Duration, jitter: f64) -> RestartDecision {
        if healthy_for >= HEALTHY_AFTER {
            self.forget();
        }
        self.exits = self.exits.saturating_add(1);
        if self.exits >= PARK_AFTER {
            return RestartDecision::Park;
        }
        let pause = FIRST_DELAY * 2u32.saturating_pow(self.exits - 1);
        RestartDecision::RestartAfter(
            pause.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0).min(MAX_DELAY),
        )
    }

    /// Forgets earlier exits: the file changed, or an operator restarted the instance.
    pub fn forget(&mut self) {
        self.exits = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_and_the_fifth_exit_parks() {
        let mut history = ExitHistory::default();
        let verdicts: Vec<_> = (0..6).map(|_| history.failed(Duration::ZERO, 0.0)).collect();
        let again = |secs| RestartDecision::RestartAfter(Duration::from_secs(secs));
        assert_eq!(
            verdicts,
            [again(1), again(2), again(4), again(8), RestartDecision::Park, RestartDecision::Park]
        );
        history.forget();
        assert_eq!(history.failed(Duration::ZERO, 0.0), again(1));
    }

    #[test]
    fn only_a_whole_minute_of_health_is_health() {
        let mut history = ExitHistory::default();
        for _ in 0..4 {
            history.failed(Duration::from_secs(59), 0.0);
        }
        assert_eq!(history.clone().failed(Duration::from_secs(59), 0.0), RestartDecision::Park);
        let again = RestartDecision::RestartAfter(FIRST_DELAY);
        assert_eq!(history.failed(HEALTHY_AFTER, 0.0), again);
    }

    proptest! {
        #[test]
        fn pauses_stay_within_their_bounds(
            exits in prop::collection::vec((0u64..120, 0.0f64..=1.0), 1..40),
        ) {
            let mut history = ExitHistory::default();
            let mut in_a_row = 0;
            for (healthy, jitter) in exits {
                in_a_row = if healthy >= 60 { 1 } else { in_a_row + 1 };
                match history.failed(Duration::from_secs(healthy), jitter) {
                    RestartDecision::RestartAfter(pause) => {
                        prop_assert!(in_a_row < PARK_AFTER);
                        prop_assert!((FIRST_DELAY..=MAX_DELAY).contains(&pause));
                    }
                    RestartDecision::Park => prop_assert!(in_a_row >= PARK_AFTER),
                }
            }
        }
    }
}
