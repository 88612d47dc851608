//! What goes wrong again and again is said when it is news, and then after 1, 2, 4 … minutes, at most
//! every hour, with how often it happened since. Pure: it is told when.
//!
//! A hundred requests that fail for one reason are one thing to say: a cause is the code of an error
//! ([`heard`](Repeats::heard)), and whose it is where that matters ([`heard_of`](Repeats::heard_of)); its
//! text may differ each time. A cause that was not heard for as long as one would have waited to say it
//! again is news.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// The first interval.
const FIRST: Duration = Duration::from_mins(1);
/// The longest one.
const LONGEST: Duration = Duration::from_hours(1);
/// Causes remembered; the one not heard for longest is forgotten for a new one.
const CAUSES: usize = 64;

/// `warn_rarely!(heard, "message", fields)`: at WARN, with how often it happened, where `heard` (of
/// [`Repeats`]) is so; at DEBUG otherwise.
macro_rules! warn_rarely {
    ($heard:expr, $message:literal, $($fields:tt)*) => {
        match $heard {
            Some(times) => tracing::warn!(times, $($fields)*, $message),
            None => tracing::debug!($($fields)*, $message),
        }
    };
}
pub(crate) use warn_rarely;

/// Causes, and when each was last said.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    known: HashMap<Cause, Known>,
}

/// A code, and whose.
type Cause = (&'static str, Box<str>);

#[derive(Clone, Debug)]
struct Known {
    said: Instant,
    heard: Instant,
    /// Said again after this.
    interval: Duration,
    /// Since it was last said.
    times: u64,
}

impl Repeats {
    /// It happened. Whether to say so, and then how often it happened since it was last said.
    pub fn heard(&mut self, code: &'static str, now: Instant) -> Option<u64> {
        self.heard_of("", code, now)
    }

    /// [`Self::heard`] of somebody: each has causes of its own.
    pub fn heard_of(&mut self, whose: &str, code: &'static str, now: Instant) -> Option<u64> {
        let cause: Cause = (code, whose.into());
        if let Some(known) = self.known.get_mut(&cause) {
            let silence = now.saturating_duration_since(known.heard);
            known.heard = now;
            if silence < known.interval {
                known.times = known.times.saturating_add(1);
                if now.saturating_duration_since(known.said) < known.interval {
                    return None;
                }
                known.said = now;
                known.interval = known.interval.saturating_mul(2).min(LONGEST);
                return Some(std::mem::take(&mut known.times));
            }
        } else if self.known.len() >= CAUSES {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.heard);
            if let Some(oldest) = oldest.map(|(cause, _)| cause.clone()) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(cause, Known { said: now, heard: now, interval: FIRST, times: 0 });
        Some(1)
    }

    /// All is well again: whatever comes next is news.
    pub fn over(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it is said, in seconds, of something that happens every `every` seconds until `end`.
    fn said(repeats: &mut Repeats, from: Instant, every: u64, end: u64) -> Vec<(u64, u64)> {
        let mut said = Vec::new();
        for second in (0..end).step_by(usize::try_from(every).unwrap()) {
            if let Some(times) = repeats.heard("no answer", from + Duration::from_secs(second)) {
                said.push((second, times));
            }
        }
        said
    }

    /// T53.
    #[test]
    fn it_is_said_at_once_and_then_ever_more_rarely() {
        let mut repeats = Repeats::default();
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
        // A thousand times a second is no more.
        assert_eq!((0..1_000).filter_map(|_| repeats.heard("another", begin)).count(), 1);
    }

    #[test]
    fn what_comes_again_after_a_while_is_news() {
        let mut repeats = Repeats::default();
        let begin = Instant::now();
        assert_eq!(said(&mut repeats, begin, 1, 100), [(0, 1), (60, 60)]);
        let later = begin + Duration::from_mins(10);
        assert_eq!(said(&mut repeats, later, 1, 100), [(0, 1), (60, 60)]);
        repeats.over();
        assert_eq!(said(&mut repeats, later + Duration::from_secs(101), 1, 10), [(0, 1)]);
        // Rarer than a minute: each time is one of its own.
        let mut repeats = Repeats::default();
        assert_eq!(said(&mut repeats, begin, 61, 200).len(), 4);
    }

    #[test]
    fn each_has_causes_of_its_own() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        let whose = ["bucket-1", "bucket-2", "bucket-1"];
        let said = whose.map(|whose| repeats.heard_of(whose, "status 503", now).is_some());
        assert_eq!(said, [true, true, false]);
    }

    #[test]
    fn it_remembers_so_many_causes() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        for seed in 0..10 * CAUSES {
            let (whose, now) = (seed.to_string(), now + Duration::from_millis(seed as u64));
            assert_eq!(repeats.heard_of(&whose, "no answer", now), Some(1));
        }
        assert_eq!(repeats.known.len(), CAUSES);
    }
}
