//! Log throttle: logs the first occurrence of an error, then again after 1, 2, 4 … minutes, at most once an
//! hour, with the number of occurrences in between. Pure: the caller passes the time.
//!
//! A hundred requests that fail for one reason are one event to log. The cause is an error's code
//! ([`should_log`](LogThrottle::should_log)), and also its subject where that matters
//! ([`should_log_for`](LogThrottle::should_log_for)); the error's text may differ each time. A cause
//! that has not occurred for as long as its current interval is logged at once when it occurs again.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// The first interval between two log lines of a cause.
const FIRST: Duration = Duration::from_mins(1);
/// The longest one.
const LONGEST: Duration = Duration::from_hours(1);
/// The number of causes remembered. A new cause replaces the one that has not occurred for longest.
const MAX_CAUSES: usize = 64;

/// `warn_rarely!(heard, "message", fields)`: logs at WARN, with the number of occurrences, if `heard`
/// (returned by [`LogThrottle`]) is `Some`; at DEBUG otherwise.
macro_rules! warn_rarely {
    ($heard:expr, $message:literal, $($fields:tt)*) => {
        match $heard {
            Some(times) => tracing::warn!(times, $($fields)*, $message),
            None => tracing::debug!($($fields)*, $message),
        }
    };
}
pub(crate) use warn_rarely;

/// The causes that occurred lately.
#[derive(Clone, Debug, Default)]
pub struct LogThrottle {
    causes: HashMap<CauseKey, CauseState>,
}

/// The code of an error, and its subject.
type CauseKey = (&'static str, Box<str>);

#[derive(Clone, Debug)]
struct CauseState {
    logged_at: Instant,
    last_seen_at: Instant,
    /// How long after the last log line the cause is logged again.
    interval: Duration,
    /// Occurrences since it was last logged.
    unlogged: u64,
}

impl LogThrottle {
    /// Records an occurrence. `Some`: log it, with the number of occurrences since the last time.
    pub fn should_log(&mut self, code: &'static str, now: Instant) -> Option<u64> {
        self.should_log_for("", code, now)
    }

    /// Like [`Self::should_log`], for one subject (a host, a stage): each subject has causes of its
    /// own.
    pub fn should_log_for(&mut self, whose: &str, code: &'static str, now: Instant) -> Option<u64> {
        let cause: CauseKey = (code, whose.into());
        if let Some(known) = self.causes.get_mut(&cause) {
            let silence = now.saturating_duration_since(known.last_seen_at);
            known.last_seen_at = now;
            if silence < known.interval {
                known.unlogged = known.unlogged.saturating_add(1);
                if now.saturating_duration_since(known.logged_at) < known.interval {
                    return None;
                }
                known.logged_at = now;
                known.interval = known.interval.saturating_mul(2).min(LONGEST);
                return Some(std::mem::take(&mut known.unlogged));
            }
        } else if self.causes.len() >= MAX_CAUSES {
            let oldest = self.causes.iter().min_by_key(|(_, known)| known.last_seen_at);
            if let Some(oldest) = oldest.map(|(cause, _)| cause.clone()) {
                self.causes.remove(&oldest);
            }
        }
        self.causes.insert(
            cause,
            CauseState { logged_at: now, last_seen_at: now, interval: FIRST, unlogged: 0 },
        );
        Some(1)
    }

    /// Forgets all causes: the next occurrence is logged at once.
    pub fn reset(&mut self) {
        self.causes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times (in seconds) at which an error is logged that occurs every `every` seconds until
    /// `end`, with the counts.
    fn said(repeats: &mut LogThrottle, from: Instant, every: u64, end: u64) -> Vec<(u64, u64)> {
        let mut said = Vec::new();
        for second in (0..end).step_by(usize::try_from(every).unwrap()) {
            if let Some(times) = repeats.should_log("no answer", from + Duration::from_secs(second))
            {
                said.push((second, times));
            }
        }
        said
    }

    /// T53.
    #[test]
    fn it_is_said_at_once_and_then_ever_more_rarely() {
        let mut repeats = LogThrottle::default();
        let (begin, minute) = (Instant::now(), 60);
        let expected = [
            (0, 1),
            (minute, 60),
            (3 * minute, 120),
            (7 * minute, 240),
            (15 * minute, 480),
            (31 * minute, 960),
            (63 * minute, 1_920),
            (123 * minute, 3_600),
            (183 * minute, 3_600),
        ];
        assert_eq!(said(&mut repeats, begin, 1, 200 * minute), expected);
        // An error that occurs a thousand times at once is logged once.
        assert_eq!((0..1_000).filter_map(|_| repeats.should_log("another", begin)).count(), 1);
    }

    #[test]
    fn what_comes_again_after_a_while_is_news() {
        let mut repeats = LogThrottle::default();
        let begin = Instant::now();
        assert_eq!(said(&mut repeats, begin, 1, 100), [(0, 1), (60, 60)]);
        let later = begin + Duration::from_mins(10);
        assert_eq!(said(&mut repeats, later, 1, 100), [(0, 1), (60, 60)]);
        repeats.reset();
        assert_eq!(said(&mut repeats, later + Duration::from_secs(101), 1, 10), [(0, 1)]);
        // If it occurs less than once a minute, each occurrence is logged.
        let mut repeats = LogThrottle::default();
        assert_eq!(said(&mut repeats, begin, 61, 200).len(), 4);
    }

    #[test]
    fn each_has_causes_of_its_own() {
        let mut repeats = LogThrottle::default();
        let now = Instant::now();
        let whose = ["bucket-1", "bucket-2", "bucket-1"];
        let said = whose.map(|whose| repeats.should_log_for(whose, "status 503", now).is_some());
        assert_eq!(said, [true, true, false]);
    }

    #[test]
    fn it_remembers_so_many_causes() {
        let mut repeats = LogThrottle::default();
        let now = Instant::now();
        for seed in 0..10 * MAX_CAUSES {
            let (whose, now) = (seed.to_string(), now + Duration::from_millis(seed as u64));
            assert_eq!(repeats.should_log_for(&whose, "no answer", now), Some(1));
        }
        assert_eq!(repeats.causes.len(), MAX_CAUSES);
    }
}
