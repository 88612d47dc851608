//! The wall clock, read in this one place. An instance tells the time with its [`Clock`].

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Milliseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the clock the others ask")]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How an instance tells the time.
#[derive(Clone, Copy, Debug, Default)]
pub enum Clock {
    /// The machine's wall clock.
    #[default]
    Wall,
    /// The runtime's clock, which tests may pause. At the instant `at` it was `unix_ms` (Unix milliseconds).
    Runtime { at: Instant, unix_ms: u64 },
}

impl Clock {
    /// Time since the machine started, with the time it slept, which nobody sets back. The runtime's clock
    /// counts from its own beginning.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        match self {
            Self::Wall => {
                let now = clock_gettime(ClockId::Boottime);
                let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
                Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
            }
            Self::Runtime { at, .. } => at.elapsed(),
        }
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_millis(self) -> u64 {
        match self {
            Self::Wall => unix_millis(),
            Self::Runtime { at, unix_ms } => {
                let since = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                unix_ms.saturating_add(since)
            }
        }
    }
}

/// A date and time of day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    date: (u64, u64, u64),
    time: (u64, u64, u64),
}

/// Converts Unix milliseconds.
#[must_use]
pub fn utc(millis: u64) -> Utc {
    let seconds = millis / 1_000;
    // Years begin in March here, so that the leap day comes last. An era has 400 years.
    let days = seconds / 86_400 + 719_468; // since 0000-03-01
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    Utc { date: (year, month, day), time: (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) }
}

impl Utc {
    /// `20260914T160512Z`: sorts by time, and can be part of a file's name.
    #[must_use]
    pub fn compact(self) -> String {
        let ((year, month, day), (hour, minute, second)) = (self.date, self.time);
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }
}

/// `2026-09-14 16:05:12 UTC`
impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((year, month, day), (hour, minute, second)) = (self.date, self.time);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_of_the_runtime_goes_with_it() {
        let clock = Clock::Runtime { at: Instant::now(), unix_ms: 1_000 };
        assert_eq!(clock.unix_millis(), 1_000);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.unix_millis(), 91_000);
    }
}
