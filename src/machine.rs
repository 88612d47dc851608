//! The machine that an instance runs on, as far as it is used directly and not through a port: its clock, dice,
//! threads for blocking work, and the result of a commit on its disk. Passed in like the other edges, so that
//! a simulation can replace it and make runs reproducible: blocking work then runs in place when the
//! [`MachineSimulator`] allows it, and commits fail when the player says so.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

use crate::{dice::Dice, time::clock::Clock};

/// The result of a commit on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFate {
    Stored,
    /// No space was left.
    NotStored,
    /// Stored, but the disk reported an error.
    StoredButReportedFailed,
}

/// Simulates a machine.
pub trait MachineSimulator: Send + Sync {
    /// Awaited before a piece of blocking work. Never completes for a process that was killed.
    fn before_work(&self) -> BoxFuture<'static, ()>;
    /// Awaited after it.
    fn after_work(&self) -> BoxFuture<'static, ()>;
    /// Called once for each commit.
    fn commit_fate(&self) -> CommitFate;
}

/// A machine. Cheap to clone. The default is the one this process runs on.
#[derive(Clone, Default)]
pub struct Machine {
    pub clock: Clock,
    pub dice: Dice,
    simulator: Option<Arc<dyn MachineSimulator>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Machine {
    #[must_use]
    pub fn simulated_by(player: Arc<dyn MachineSimulator>, clock: Clock, dice: Dice) -> Self {
        Self { clock, dice, simulator: Some(player) }
    }

    /// Runs `work`, which may block. A panic in it continues in the caller. `None`: the runtime is shutting
    /// down and did not start it. Dropping the future does not stop work that has begun.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if let Some(player) = &self.simulator {
            player.before_work().await;
            let done = work();
            player.after_work().await;
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

    /// The simulated result of the next commit. On a real machine always [`CommitFate::Stored`]: there the disk
    /// itself reports errors.
    #[must_use]
    pub fn commit_fate(&self) -> CommitFate {
        self.simulator.as_ref().map_or(CommitFate::Stored, |player| player.commit_fate())
    }

    /// Returns whether the machine may lose data that was not synced. A simulated machine loses processes,
    /// never power.
    #[must_use]
    pub fn may_lose_power(&self) -> bool {
        self.simulator.is_none()
    }
}
