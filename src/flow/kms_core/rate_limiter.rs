//! Limits the rate at which the Core is asked. There is no limit until the Core says that it is busy.
//!
//! Each "busy" halves the rate, and it doubles by itself every two seconds. So the rate swings below what the
//! Core takes, and the limit is gone soon after the Core takes everything. Turns are taken before the
//! ciphertexts are fetched: waiting costs no memory, and a refusal wastes no download. Turns are given in the
//! order in which they were asked for. Each client has a pace of its own.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The time in which the rate doubles.
const DOUBLES_IN: Duration = Duration::from_secs(2);
/// Turns taken up to this long after a halving do not halve again: a Core that counts by the second stays
/// busy for the rest of it, which tells little about the new rate.
const SETTLES_IN: Duration = Duration::from_millis(200);
/// The lowest rate, in turns per second, however often the Core says that it is busy: one ask in two seconds
/// finds out whether it still is.
const LOWEST_RATE: f64 = 0.5;
/// The lowest rate after the first "busy": a single one need not mean much.
const LOWEST_FIRST_RATE: f64 = 4.0;
/// From this rate on there is no limit.
const HIGHEST_RATE: f64 = 1000.0;

/// The right to ask once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskPermit {
    taken: Instant,
}

/// Hands out the turns of one client.
#[derive(Debug, Default)]
pub(super) struct RateLimiter {
    rate: Mutex<RateState>,
    /// Held by the caller that waits for the next turn.
    first: tokio::sync::Mutex<()>,
}

impl RateLimiter {
    /// Waits for the next turn. Dropping the future passes the turn to the next caller in line.
    pub async fn acquire(&self) -> AskPermit {
        let _first = self.first.lock().await;
        loop {
            let now = Instant::now();
            let Err(not_before) = self.rate().take(now) else { return AskPermit { taken: now } };
            sleep_until(not_before).await;
        }
    }

    /// The Core answered "busy" to what was asked in this turn.
    pub fn record_busy(&self, turn: AskPermit) {
        self.rate().record_busy(turn, Instant::now());
    }

    fn rate(&self) -> MutexGuard<'_, RateState> {
        // Whatever panicked, the numbers are consistent.
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current rate limit, if there is one.
#[derive(Debug, Default)]
struct RateState {
    bound: Option<RateBound>,
    /// Turns taken lately, from which the first limit is derived.
    counted: Option<PermitCounts>,
}

#[derive(Clone, Copy, Debug)]
struct RateBound {
    /// Turns per second at `since`.
    rate: f64,
    since: Instant,
    /// When the next turn may be taken.
    next: Instant,
}

impl RateBound {
    fn rate_at(&self, now: Instant) -> f64 {
        let doublings = now.saturating_duration_since(self.since).div_duration_f64(DOUBLES_IN);
        self.rate * doublings.exp2()
    }
}

/// The number of turns in the second that began at `since`, and in the one before.
#[derive(Clone, Copy, Debug)]
struct PermitCounts {
    since: Instant,
    now: u32,
    before: u32,
}

impl RateState {
    /// Takes a turn. An error is the time of the next attempt.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(bound) = &mut self.bound {
            let rate = bound.rate_at(now);
            if rate >= HIGHEST_RATE {
                self.bound = None;
            } else if now < bound.next {
                return Err(bound.next);
            } else {
                bound.next = now + Duration::from_secs_f64(rate.recip());
            }
        }
        self.count(now);
        Ok(())
    }

    fn count(&mut self, now: Instant) {
        const SECOND: Duration = Duration::from_secs(1);
        let counted = self.counted.get_or_insert(PermitCounts { since: now, now: 0, before: 0 });
        let age = now.saturating_duration_since(counted.since);
        if age >= SECOND {
            let before = if age < 2 * SECOND { counted.now } else { 0 };
            *counted = PermitCounts { since: now, now: 0, before };
        }
        counted.now = counted.now.saturating_add(1);
    }

    /// Halves the rate, once for all turns that were taken before the last halving took effect.
    fn record_busy(&mut self, turn: AskPermit, now: Instant) {
        let (rate, slowest) = match self.bound {
            Some(bound) if turn.taken <= bound.since + SETTLES_IN => return,
            Some(bound) => (bound.rate_at(now), LOWEST_RATE),
            None => {
                let turns = self.counted.map_or(0, |counted| counted.now.max(counted.before));
                (f64::from(turns), LOWEST_FIRST_RATE)
            }
        };
        let rate = (rate / 2.0).clamp(slowest, HIGHEST_RATE / 2.0);
        let next = now + Duration::from_secs_f64(rate.recip());
        self.bound = Some(RateBound { rate, since: now, next });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::task::JoinSet;

    use super::*;

    /// A Core that takes `limit` asks per second and says "busy" to the others.
    #[derive(Debug)]
    struct Limited {
        limit: u32,
        second: Instant,
        taken: u32,
        refused: u32,
    }

    impl Limited {
        fn ask(&mut self, now: Instant) -> bool {
            if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
                self.second = now;
                self.taken = 0;
            }
            let room = self.taken < self.limit;
            *(if room { &mut self.taken } else { &mut self.refused }) += 1;
            room
        }
    }

    /// How long a Core that takes `limit` asks per second needs for `count` of them, and how often it says
    /// "busy".
    async fn asks(pace: &Arc<RateLimiter>, count: u32, limit: u32) -> (Duration, u32) {
        let begun = Instant::now();
        let core = Limited { limit, second: begun, taken: 0, refused: 0 };
        let core = Arc::new(Mutex::new(core));
        let mut asks = JoinSet::new();
        for _ in 0..count {
            let (pace, core) = (pace.clone(), core.clone());
            asks.spawn(async move {
                loop {
                    let turn = pace.acquire().await;
                    if core.lock().unwrap().ask(Instant::now()) {
                        break;
                    }
                    pace.record_busy(turn);
                }
            });
        }
        while asks.join_next().await.is_some() {}
        let refused = core.lock().unwrap().refused;
        (begun.elapsed(), refused)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_core_that_takes_all() {
        let pace = Arc::new(RateLimiter::default());
        assert_eq!(asks(&pace, 10_000, u32::MAX).await, (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_core_is_asked_at_about_the_rate_it_takes() {
        for limit in [2, 20, 200] {
            let pace = Arc::new(RateLimiter::default());
            // The first burst finds the rate.
            let burst = asks(&pace, 50, limit).await.1;
            assert!(burst <= 50);
            let count = limit * 30;
            let (took, refused) = asks(&pace, count, limit).await;
            assert!(took < Duration::from_mins(1), "{limit}: {took:?} is less than half of it");
            assert!(refused <= count / 4 + 20, "{limit}: {refused} of {count} refused");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_gone_soon_after_the_core_takes_all_again() {
        let pace = Arc::new(RateLimiter::default());
        for _ in 0..20 {
            let turn = pace.acquire().await;
            pace.record_busy(turn);
        }
        let slow = Instant::now();
        pace.acquire().await;
        assert!(slow.elapsed() > Duration::from_secs(1), "one in two seconds");
        let (took, _) = asks(&pace, 5000, u32::MAX).await;
        assert!(took > Duration::from_secs(10), "not at once");
        assert!(took < Duration::from_secs(30), "{took:?}");
        assert_eq!(asks(&pace, 10_000, u32::MAX).await, (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_burst_is_one_refusal() {
        let pace = RateLimiter::default();
        let mut turns = Vec::new();
        for _ in 0..100 {
            turns.push(pace.acquire().await);
        }
        tokio::time::advance(Duration::from_millis(5)).await;
        for turn in turns {
            pace.record_busy(turn);
        }
        let bound = pace.rate().bound.unwrap();
        assert!((bound.rate - 50.0).abs() < f64::EPSILON, "{}", bound.rate);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_delays_nobody() {
        let pace = RateLimiter::default();
        for _ in 0..10 {
            let turn = pace.acquire().await;
            pace.record_busy(turn);
        }
        let gone = tokio::time::timeout(Duration::from_millis(10), pace.acquire()).await;
        assert!(gone.is_err());
        let begun = Instant::now();
        pace.acquire().await;
        assert!(begun.elapsed() <= Duration::from_secs_f64(LOWEST_RATE.recip()));
    }

    proptest! {
        /// Whatever happens when, the next turn is never further away than the lowest rate allows.
        #[test]
        fn a_turn_is_never_far(
            steps in prop::collection::vec((0..5000_u64, 0..4_u8), 0..200),
        ) {
            let begun = Instant::now();
            let (mut rate, mut now) = (RateState::default(), begun);
            let mut turns = vec![AskPermit { taken: begun }];
            for (millis, step) in steps {
                now += Duration::from_millis(millis);
                if step == 0 {
                    let turn = turns[usize::try_from(millis).unwrap() % turns.len()];
                    rate.record_busy(turn, now);
                } else {
                    match rate.take(now) {
                        Ok(()) => turns.push(AskPermit { taken: now }),
                        Err(next) => prop_assert!(
                            next > now && next - now <= Duration::from_secs_f64(LOWEST_RATE.recip())
                        ),
                    }
                }
            }
        }
    }
}
