//! Detects tasks that hang. Each task of an instance (a *room*) calls [`Heart::beat`] whenever it begins a
//! piece of work, and [`Heart::rest`] before it waits for work. A task that neither rests nor beats for two
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
//! In tests a [`Listener`] is told of each beat. In production there is none.

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
pub const LANE: &str = "lane";
pub const WALK: &str = "walk";
pub const ARRIVALS: &str = "arrivals";
pub const RECOVERY: &str = "recovery";
pub const HOUSEKEEPING: &str = "housekeeping";
pub const REPORT: &str = "report";

/// The tasks of an instance that have a heartbeat. Those that others wait for stand first.
pub const ROOMS: [&str; 8] =
    [JOURNAL, GATEWAY_CONNECTION, LANE, WALK, ARRIVALS, RECOVERY, HOUSEKEEPING, REPORT];

/// How long a task may be at work without a beat.
const HANGS_AFTER: Duration = Duration::from_mins(2);
/// The longest interval between two checks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The smallest number of checks within the limit.
const LOOKS: u32 = 16;

/// Is told of every beat. The task continues when [`hear`](Self::hear) completes, so a test can make it fail
/// there.
pub trait Listener: fmt::Debug + Send + Sync {
    /// `room` begins a piece of work. Runs in that task.
    fn hear(&self, room: &'static str) -> BoxFuture<'_, ()>;
}

/// The heartbeats of one instance. Clones share them.
#[derive(Clone, Debug)]
pub struct Hearts {
    all: Arc<Mutex<Vec<Arc<Pulse>>>>,
    hangs_after: Duration,
    listener: Option<Arc<dyn Listener>>,
}

/// Without a listener.
impl Default for Hearts {
    fn default() -> Self {
        Self { all: Arc::default(), hangs_after: HANGS_AFTER, listener: None }
    }
}

#[derive(Debug)]
struct Pulse {
    room: &'static str,
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
pub struct Heart {
    pulse: Arc<Pulse>,
    listener: Option<Arc<dyn Listener>>,
}

impl Heart {
    /// Begins a piece of work.
    pub async fn beat(&self) {
        self.pulse.set(true);
        if let Some(listener) = &self.listener {
            listener.hear(self.pulse.room).await;
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

impl Drop for Heart {
    fn drop(&mut self) {
        self.rest();
    }
}

/// A heartbeat that nobody checks.
impl Default for Heart {
    fn default() -> Self {
        Hearts::default().heart("nowhere")
    }
}

impl Hearts {
    /// Hearts with a listener, and another limit.
    #[must_use]
    pub fn heard_by(listener: Arc<dyn Listener>, hangs_after: Duration) -> Self {
        Self { all: Arc::default(), hangs_after, listener: Some(listener) }
    }

    /// Creates the heartbeat of a task, one of [`ROOMS`].
    #[must_use]
    pub fn heart(&self, room: &'static str) -> Heart {
        let pulse = Arc::new(Pulse { room, count: AtomicU64::new(0) });
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(pulse.clone());
        Heart { pulse, listener: self.listener.clone() }
    }

    /// Waits until a task has been at work without a beat for too long, and returns its name. If several
    /// hang, returns the one that the others wait for.
    pub async fn stopped(&self) -> &'static str {
        let limit = self.hangs_after;
        let pause = (limit / LOOKS).clamp(Duration::from_millis(5), LOOK_EVERY);
        let most =
            u32::try_from(limit.as_nanos().div_ceil(pause.as_nanos().max(1))).unwrap_or(u32::MAX);
        // The last count of each task, and for how many checks it has stayed the same.
        let mut seen: Vec<(u64, u32)> = Vec::new();
        loop {
            sleep(pause).await;
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
            // Tasks that wait for the hanging one may have begun a little earlier than it did.
            let late = all.iter().zip(&seen).filter(|(_, (_, looks))| *looks + 2 >= most);
            let first = late
                .map(|(pulse, _)| pulse.room)
                .min_by_key(|room| ROOMS.iter().position(|known| known == room));
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
            stopped = hearts.stopped() => stopped,
            () = beating => unreachable!(),
        };
        assert_eq!(stopped, WALK);
        assert!(begun.elapsed() >= HANGS_AFTER && begun.elapsed() < HANGS_AFTER * 2);
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
        timeout(HANGS_AFTER * 100, hearts.stopped()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_that_others_wait_for_is_the_one_that_hangs() {
        let hearts = Hearts::default();
        let (arrivals, journal) = (hearts.heart(ARRIVALS), hearts.heart(JOURNAL));
        arrivals.beat().await;
        sleep(Duration::from_millis(1)).await;
        journal.beat().await;
        assert_eq!(hearts.stopped().await, JOURNAL);
    }

    /// Two tasks fail at their first beat.
    #[derive(Debug)]
    struct Ill;

    impl Listener for Ill {
        fn hear(&self, room: &'static str) -> BoxFuture<'_, ()> {
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
        let hearts = Hearts::heard_by(Arc::new(Ill), Duration::from_millis(80));
        let mut rooms = JoinSet::new();
        for room in [ARRIVALS, WALK, LANE] {
            let heart = hearts.heart(room);
            rooms.spawn(async move { heart.beat().await });
        }
        let begun = Instant::now();
        assert_eq!(hearts.stopped().await, LANE);
        assert!(begun.elapsed() < Duration::from_secs(1));
        let (mut ended, mut panicked) = (0, 0);
        while let Some(end) = rooms.try_join_next() {
            ended += 1;
            panicked += u32::from(end.is_err_and(|error| error.is_panic()));
        }
        assert_eq!((ended, panicked), (2, 1));
    }
}
