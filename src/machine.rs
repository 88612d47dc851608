//! The machine under an instance, as far as the instance meets it by itself and through no port: its
//! clock, threads for work that blocks, and what its disk makes of a commit. A value that comes in with the other
//! edges, so that a world may be played in which no run differs from the next one: there blocking work
//! is done in place when the [`Player`] lets it, and a commit fails when the player says so.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use crate::clock::Clock;

/// What a disk makes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stored,
    /// There was no room for it.
    NotStored,
    /// It is stored, and the disk failed when it was to say so.
    StoredUnsaid,
}

/// Who plays a machine.
pub trait Player: Send + Sync {
    /// Waited for before a piece of blocking work. It never ends for a process that is dead.
    fn turn(&self) -> BoxFuture<'static, ()>;
    /// Waited for after it.
    fn done(&self) -> BoxFuture<'static, ()>;
    /// Asked once at each commit.
    fn commit(&self) -> Fate;
}

/// A machine. Cheap to clone. The default is the one this process runs on.
#[derive(Clone, Default)]
pub struct Machine {
    pub clock: Clock,
    player: Option<Arc<dyn Player>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Machine {
    #[must_use]
    pub fn played_by(player: Arc<dyn Player>, clock: Clock) -> Self {
        Self { clock, player: Some(player) }
    }

    /// Does `work`, which may block; a panic in it goes on here. `None`: the runtime is shutting down
    /// and did not start it. Dropping the future does not stop work that has begun.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if let Some(player) = &self.player {
            player.turn().await;
            let done = work();
            player.done().await;
            return Some(done);
        }
        match spawn_blocking(work).await {
            Ok(done) => Some(done),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => None,
            },
        }
    }

    /// What becomes of the next commit, unless the disk itself knows better.
    #[must_use]
    pub fn commit(&self) -> Fate {
        self.player.as_ref().map_or(Fate::Stored, |player| player.commit())
    }

    /// Whether it may lose what was not synced: a played machine loses its processes, never itself.
    #[must_use]
    pub fn may_lose_power(&self) -> bool {
        self.player.is_none()
    }
}
