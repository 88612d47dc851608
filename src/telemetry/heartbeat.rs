//! Detects tasks that hang. Each task of an instance (a *room*) calls [`Heartbeat::beat`] whenever it begins a
//! piece of work, and [`Heartbeat::rest`] before it waits for work. A task that neither rests nor beats for two
//! minutes hangs.
//!
//! ```text
//!            beat                        beat: the next piece of work
//! at rest ----------> at work ----------------------------\
//!    ^                   |  ^------------------------------/
//!    \------- rest ------/
//! ```
//!
//! Waiting for another task counts as rest: that task has a heartbeat of its own. Every call to the outside
//! has a deadline far below the limit, so that a task beats between two calls. Time is measured by counting
//! checks, not with a clock: a process that was suspended as a whole has no hanging tasks.
//!
//! In tests a [`BeatListener`] receives each beat. In production there is none.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::sleep;

pub const JOURNAL: &str = "journal";
pub const GATEWAY_CONNECTION: &str = "gateway connection";
/// Only instances with host chains have it.
pub const HOST_CONNECTION: &str = "host chain connection";
pub const LANE: &str = "lane";
pub const WALK: &str = "walk";
pub const ARRIVALS: &str = "arrivals";
/// Only instances that serve key operations have it.
pub const KEY_ARRIVALS: &str = "key arrivals";
pub const RECOVERY: &str = "recovery";
pub const HOUSEKEEPING: &str = "housekeeping";
pub const REPORT: &str = "report";

/// The tasks of every instance that have a heartbeat; a task stands before those that wait for it.
pub const COMPONENTS: [&str; 8] =
    [JOURNAL, GATEWAY_CONNECTION, LANE, WALK, ARRIVALS, RECOVERY, HOUSEKEEPING, REPORT];

/// How long a task may be at work without a beat.
const STALLED_AFTER: Duration = Duration::from_mins(2);
/// The longest interval between two checks.
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The smallest number of checks within the limit.
const MIN_CHECKS: u32 = 16;

/// Receives every beat. The task continues when [`on_beat`](Self::on_beat) completes, so a test can
/// make it fail there.
pub trait BeatListener: fmt::Debug + Send + Sync {
    /// `room` begins a piece of work. Runs in that task.
    fn on_beat(&self, room: &'static str) -> BoxFuture<'_, ()>;
}

/// The heartbeats of one instance. Clones share them.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    pulses: Arc<Mutex<Vec<Arc<Pulse>>>>,
    stalled_after: Duration,
    listener: Option<Arc<dyn BeatListener>>,
}

/// Without a listener.
impl Default for Heartbeats {
    fn default() -> Self {
        Self { pulses: Arc::default(), stalled_after: STALLED_AFTER, listener: None }
    }
}

#[derive(Debug)]
struct Pulse {
    component: &'static str,
    /// Incremented at every change. Odd: at work.
    count: AtomicU64,
}

impl Pulse {
    /// Only one task sets it, so nothing is lost between load and store.
    fn set(&self, at_work: bool) {
        let count = self.count.load(Ordering::Relaxed);
        let next = if at_work { (count + 1) | 1 } else { (count | 1) + 1 };
        self.count.store(next, Ordering::Relaxed);
    }
}

/// The heartbeat of one task. At rest until its first beat, and once it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    pulse: Arc<Pulse>,
    listener: Option<Arc<dyn BeatListener>>,
}

impl Heartbeat {
    /// Begins a piece of work.
    pub async fn beat(&self) {
        self.pulse.set(true);
        if let Some(listener) = &self.listener {
            listener.on_beat(self.pulse.component).await;
        }
    }

    /// Before waiting, for work or for another task.
    pub fn rest(&self) {
        self.pulse.set(false);
    }

    /// Rests until `other`, the work of another task, is done; then works again.
    pub async fn rest_while<T>(&self, other: impl Future<Output = T>) -> T {
        self.rest();
        let done = other.await;
        self.beat().await;
        done
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.rest();
    }
}

/// A heartbeat that nobody checks.
impl Default for Heartbeat {
    fn default() -> Self {
        Heartbeats::default().heartbeat("nowhere")
    }
}

impl Heartbeats {
    /// Heartbeats with a listener, and another limit.
    #[must_use]
    pub fn with_listener(listener: Arc<dyn BeatListener>, stalled_after: Duration) -> Self {
        Self { pulses: Arc::default(), stalled_after, listener: Some(listener) }
    }

    /// Creates the heartbeat of a task, one of [`COMPONENTS`] or [`HOST_CONNECTION`].
    #[must_use]
    pub fn heartbeat(&self, room: &'static str) -> Heartbeat {
        let pulse = Arc::new(Pulse { component: room, count: AtomicU64::new(0) });
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        Heartbeat { pulse, listener: self.listener.clone() }
    }

    /// Waits until a task has been at work without a beat for too long, and returns its name. If several
    /// hang, returns the one that the others wait for.
    pub async fn wait_stalled(&self) -> &'static str {
        let limit = self.stalled_after;
        let pause = (limit / MIN_CHECKS).clamp(Duration::from_millis(5), MAX_CHECK_INTERVAL);
        let most =
            u32::try_from(limit.as_nanos().div_ceil(pause.as_nanos().max(1))).unwrap_or(u32::MAX);
        // The last count of each task, and for how many checks it has stayed the same.
        let mut seen: Vec<(u64, u32)> = Vec::new();
        loop {
            sleep(pause).await;
            let all = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
            seen.resize(all.len(), (0, 0));
            for (pulse, (count, looks)) in all.iter().zip(&mut seen) {
                let now = pulse.count.load(Ordering::Relaxed);
                let same = now == *count && now % 2 == 1;
                (*count, *looks) = (now, if same { *looks + 1 } else { 0 });
            }
            if seen.iter().all(|(_, looks)| *looks < most) {
                continue;
            }
            // Tasks that wait for the hanging one may have begun a little earlier than it did.
            let late = all.iter().zip(&seen).filter(|(_, (_, looks))| *looks + 2 >= most);
            let first = late
                .map(|(pulse, _)| pulse.component)
                .min_by_key(|room| COMPONENTS.iter().position(|known| known == room));
            if let Some(room) = first {
                return room;
            }
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

    /// Field failure T05.
    #[tokio::test(start_paused = true)]
    async fn a_room_that_begins_a_turn_and_does_not_end_it_is_named() {
        let hearts = Heartbeats::default();
        let (walk, lane) = (hearts.heartbeat(WALK), hearts.heartbeat(LANE));
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
            stopped = hearts.wait_stalled() => stopped,
            () = beating => unreachable!(),
        };
        assert_eq!(stopped, WALK);
        assert!(begun.elapsed() >= STALLED_AFTER && begun.elapsed() < STALLED_AFTER * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn rest_and_an_end_are_no_hanging() {
        let hearts = Heartbeats::default();
        let (walk, lane, arrivals) =
            (hearts.heartbeat(WALK), hearts.heartbeat(LANE), hearts.heartbeat(ARRIVALS));
        walk.beat().await;
        walk.rest();
        lane.beat().await;
        drop(lane);
        arrivals.beat().await;
        arrivals.rest_while(async {}).await;
        arrivals.rest();
        timeout(STALLED_AFTER * 100, hearts.wait_stalled()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_that_others_wait_for_is_the_one_that_hangs() {
        let hearts = Heartbeats::default();
        let (arrivals, journal) = (hearts.heartbeat(ARRIVALS), hearts.heartbeat(JOURNAL));
        arrivals.beat().await;
        sleep(Duration::from_millis(1)).await;
        journal.beat().await;
        assert_eq!(hearts.wait_stalled().await, JOURNAL);
    }

    /// Two tasks fail at their first beat.
    #[derive(Debug)]
    struct Ill;

    impl BeatListener for Ill {
        fn on_beat(&self, room: &'static str) -> BoxFuture<'_, ()> {
            Box::pin(async move {
                match room {
                    WALK => panic!("a test asked for it"),
                    LANE => std::future::pending().await,
                    _ => {}
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_fails_by_its_listener_and_no_other() {
        let hearts = Heartbeats::with_listener(Arc::new(Ill), Duration::from_millis(80));
        let mut rooms = JoinSet::new();
        for room in [ARRIVALS, WALK, LANE] {
            let heart = hearts.heartbeat(room);
            rooms.spawn(async move { heart.beat().await });
        }
        let begun = Instant::now();
        assert_eq!(hearts.wait_stalled().await, LANE);
        assert!(begun.elapsed() < Duration::from_secs(1));
        let (mut ended, mut panicked) = (0, 0);
        while let Some(end) = rooms.try_join_next() {
            ended += 1;
            panicked += u32::from(end.is_err_and(|error| error.is_panic()));
        }
        assert_eq!((ended, panicked), (2, 1));
    }
}
