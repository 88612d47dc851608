//! Whether a room still turns. A room beats its [`Heart`] each time it begins a turn of work and rests
//! it while it waits for something to do; one that is neither at rest nor beating hangs.
//!
//! ```text
//!            beat                        beat: the next turn
//! at rest ----------> at work ----------------------------\
//!    ^                   |  ^------------------------------/
//!    \------- rest ------/
//! ```
//!
//! Waiting for another room is rest too: the other's heart tells of it. Every call to the outside has
//! a deadline far below the limit, so that beats come between calls. Time is counted in looks and not
//! on a clock: a process that was paused as a whole is no process of hanging rooms.
//!
//! In debug builds a test can make a room fail ([`Hearts::sicken`]); release builds hold none of it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;

pub const JOURNAL: &str = "journal";
pub const GATEWAY_CONNECTION: &str = "gateway connection";
pub const LANE: &str = "lane";
pub const WALK: &str = "walk";
pub const ARRIVALS: &str = "arrivals";
pub const RECOVERY: &str = "recovery";
pub const HOUSEKEEPING: &str = "housekeeping";
pub const REPORT: &str = "report";

/// The rooms of an instance that have a heart; those that others wait for stand first.
pub const ROOMS: [&str; 8] =
    [JOURNAL, GATEWAY_CONNECTION, LANE, WALK, ARRIVALS, RECOVERY, HOUSEKEEPING, REPORT];

/// Not a room: the next walk of a request. For [`Hearts::sicken`].
#[cfg(debug_assertions)]
pub const REQUEST_WALK: &str = "request walk";

/// Between two looks at all hearts, at most.
const LOOK_EVERY: Duration = if cfg!(debug_assertions) {
    // A test may shorten the limit while the last look is waited for.
    Duration::from_millis(250)
} else {
    Duration::from_secs(5)
};
/// Looks within the limit, at least.
const LOOKS: u32 = 16;

/// The hearts of one instance. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Hearts {
    all: Arc<Mutex<Vec<Arc<Pulse>>>>,
    #[cfg(debug_assertions)]
    sickness: Arc<Mutex<Sickness>>,
    #[cfg(debug_assertions)]
    sickened: Arc<tokio::sync::Notify>,
}

#[derive(Debug)]
struct Pulse {
    room: &'static str,
    /// Grows with every change; odd: at work.
    count: AtomicU64,
}

impl Pulse {
    /// One task owns a heart, so nothing is lost between load and store.
    fn set(&self, at_work: bool) {
        let count = self.count.load(Ordering::Relaxed);
        let next = if at_work { (count + 1) | 1 } else { (count | 1) + 1 };
        self.count.store(next, Ordering::Relaxed);
    }
}

/// One room's. At rest until its first beat, and when it is dropped.
#[derive(Debug)]
pub struct Heart {
    pulse: Arc<Pulse>,
    #[cfg(debug_assertions)]
    hearts: Hearts,
}

impl Heart {
    /// A turn of work begins.
    pub async fn beat(&self) {
        self.pulse.set(true);
        #[cfg(debug_assertions)]
        self.hearts.fall_ill(self.pulse.room).await;
    }

    /// Nothing to do but wait, for work or for another room.
    pub fn rest(&self) {
        self.pulse.set(false);
    }

    /// At rest until `other`, another room's work, is done; then at work again.
    pub async fn rest_while<T>(&self, other: impl Future<Output = T>) -> T {
        self.rest();
        let done = other.await;
        self.beat().await;
        done
    }

    /// In debug builds, resolves when a test wants this room to fail: for rooms that may rest for
    /// minutes. Otherwise never.
    pub async fn called(&self) {
        #[cfg(debug_assertions)]
        self.hearts.ill(self.pulse.room).await;
        #[cfg(not(debug_assertions))]
        std::future::pending::<()>().await;
    }

    /// The hearts of the same instance.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn siblings(&self) -> Hearts {
        self.hearts.clone()
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.rest();
    }
}

/// A heart nobody listens to.
impl Default for Heart {
    fn default() -> Self {
        Hearts::default().heart("nowhere")
    }
}

impl Hearts {
    /// The heart of a room, one of [`ROOMS`].
    #[must_use]
    pub fn heart(&self, room: &'static str) -> Heart {
        let pulse = Arc::new(Pulse { room, count: AtomicU64::new(0) });
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        Heart {
            pulse,
            #[cfg(debug_assertions)]
            hearts: self.clone(),
        }
    }

    /// Waits until a room has been at work without a beat for `limit`, and names it. Of several the
    /// one that others wait for.
    pub async fn stopped(&self, limit: Duration) -> &'static str {
        // What each heart showed last, and for how many looks.
        let mut seen: Vec<(u64, u32)> = Vec::new();
        loop {
            let limit = self.limit(limit);
            let pause = (limit / LOOKS).clamp(Duration::from_millis(5), LOOK_EVERY);
            sleep(pause).await;
            let most = u32::try_from(limit.as_nanos().div_ceil(pause.as_nanos().max(1)))
                .unwrap_or(u32::MAX);
            let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            seen.resize(all.len(), (0, 0));
            for (pulse, (count, looks)) in all.iter().zip(&mut seen) {
                let now = pulse.count.load(Ordering::Relaxed);
                let same = now == *count && now % 2 == 1;
                (*count, *looks) = (now, if same { *looks + 1 } else { 0 });
            }
            if seen.iter().all(|(_, looks)| *looks < most) {
                continue;
            }
            // Those that wait for it may have begun to a little before it did.
            let late = all.iter().zip(&seen).filter(|(_, (_, looks))| *looks + 2 >= most);
            let first = late
                .map(|(pulse, _)| pulse.room)
                .min_by_key(|room| ROOMS.iter().position(|known| known == room));
            if let Some(room) = first {
                return room;
            }
        }
    }

    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_self, reason = "in debug builds a test may set it")]
    fn limit(&self, limit: Duration) -> Duration {
        limit
    }
}

/// How a room fails.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Panic,
    /// Its turn never ends.
    Hang,
}

/// What tests have asked for.
#[cfg(debug_assertions)]
#[derive(Debug, Default)]
struct Sickness {
    faults: Vec<(String, Fault)>,
    limit: Option<Duration>,
}

#[cfg(debug_assertions)]
impl Hearts {
    /// The next turn of `room`, one of [`ROOMS`] or [`REQUEST_WALK`], fails in this way.
    pub fn sicken(&self, room: &str, fault: Fault) {
        self.sickness().faults.push((room.to_owned(), fault));
        self.sickened.notify_waiters();
    }

    fn sickness(&self) -> std::sync::MutexGuard<'_, Sickness> {
        self.sickness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ill(&self, room: &'static str) {
        loop {
            let sickened = self.sickened.notified();
            if self.sickness().faults.iter().any(|(sick, _)| sick == room) {
                return;
            }
            sickened.await;
        }
    }

    /// From now on this counts as hanging, whatever limit the caller of [`Self::stopped`] gave.
    pub fn shorten(&self, limit: Duration) {
        self.sickness().limit = Some(limit);
    }

    fn limit(&self, limit: Duration) -> Duration {
        self.sickness().limit.unwrap_or(limit)
    }

    /// Fails, if that was asked for.
    pub async fn fall_ill(&self, room: &'static str) {
        let fault = {
            let mut sickness = self.sickness();
            let position = sickness.faults.iter().position(|(sick, _)| sick == room);
            position.map(|position| sickness.faults.swap_remove(position).1)
        };
        match fault {
            None => {}
            Some(Fault::Panic) => panic!("a test asked for it"),
            Some(Fault::Hang) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        task::JoinSet,
        time::{Instant, timeout},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_mins(2);

    /// Field failure T05.
    #[tokio::test(start_paused = true)]
    async fn a_room_that_begins_a_turn_and_does_not_end_it_is_named() {
        let hearts = Hearts::default();
        let (walk, lane) = (hearts.heart(WALK), hearts.heart(LANE));
        walk.beat().await;
        lane.beat().await;
        let begun = Instant::now();
        let beating = async {
            loop {
                sleep(Duration::from_secs(30)).await;
                lane.beat().await;
            }
        };
        let stopped = tokio::select! {
            stopped = hearts.stopped(LIMIT) => stopped,
            () = beating => unreachable!(),
        };
        assert_eq!(stopped, WALK);
        assert!(begun.elapsed() >= LIMIT && begun.elapsed() < LIMIT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn rest_and_an_end_are_no_hanging() {
        let hearts = Hearts::default();
        let (walk, lane, arrivals) =
            (hearts.heart(WALK), hearts.heart(LANE), hearts.heart(ARRIVALS));
        walk.beat().await;
        walk.rest();
        lane.beat().await;
        drop(lane);
        arrivals.beat().await;
        arrivals.rest_while(async {}).await;
        arrivals.rest();
        timeout(LIMIT * 100, hearts.stopped(LIMIT)).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_that_others_wait_for_is_the_one_that_hangs() {
        let hearts = Hearts::default();
        let (arrivals, journal) = (hearts.heart(ARRIVALS), hearts.heart(JOURNAL));
        arrivals.beat().await;
        sleep(Duration::from_millis(1)).await;
        journal.beat().await;
        assert_eq!(hearts.stopped(LIMIT).await, JOURNAL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sick_room_fails_at_its_next_beat_and_no_other() {
        let hearts = Hearts::default();
        hearts.shorten(Duration::from_millis(80));
        hearts.sicken(WALK, Fault::Panic);
        hearts.sicken(LANE, Fault::Hang);
        let mut rooms = JoinSet::new();
        for room in [ARRIVALS, WALK, LANE] {
            let heart = hearts.heart(room);
            rooms.spawn(async move { heart.beat().await });
        }
        assert_eq!(hearts.stopped(LIMIT).await, LANE);
        let (mut ended, mut panicked) = (0, 0);
        while let Some(end) = rooms.try_join_next() {
            ended += 1;
            panicked += u32::from(end.is_err_and(|error| error.is_panic()));
        }
        assert_eq!((ended, panicked), (2, 1));
        let cured = hearts.heart(WALK);
        cured.beat().await;
    }
}
