//! The loop above the instances: event -> decide -> act.
//!
//! ```text
//! signals ------\
//! files --------+-> the loop: compares what should run (plan) with what runs, slot by slot
//! control ------+      |
//! exits, phases-/      +-> check, start, replace, drain, back off (restart), park
//! ```
//!
//! Instances share nothing. Each runs in its own task with its own cancellation tokens, and its
//! exit is a value that returns to this loop. The loop never waits for the outside world: reading
//! files, checking a configuration and running an instance are tasks whose results are events.
//! `start` is the same loop with one file that is not watched; a failure of its first start ends
//! it.

mod startup;
pub mod lifecycle;
pub mod service_manager;
pub mod directory;
pub mod watcher;
pub mod control;
pub mod plan;
pub mod restart;
mod slot;
mod event_loop;
mod acts;
mod reload;
mod operator;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub use self::startup::{Options, RunError, run};
use self::{
    directory::Unlisted, operator::Pending, plan::WalletClaim, service_manager::ServiceManager,
    slot::Slot,
};
use crate::{
    clock,
    config::Config,
    dice::Dice,
    instance::{self, CheckError, Ended, Estate, Exit, Supervision},
    journal::Keeper,
    observe::{
        board::Board,
        errors::LastErrors,
        status::{Phase, Reload},
    },
};

/// How long the check of a changed configuration may take before its dependencies count as
/// unreachable.
const CHECK_LIMIT: Duration = Duration::from_secs(20);

/// What a supervisor runs: [`Connectors`], or a fake in tests.
pub trait Instances: Send + Sync + 'static {
    /// What one generation leaves to the next: an open, locked journal.
    type Estate: Send + 'static;

    /// Checks whether an instance of this configuration could run. Opens nothing exclusive.
    fn check(
        &self,
        config: Arc<Config>,
    ) -> impl Future<Output = Result<(), CheckError>> + Send + 'static;

    /// Builds one generation and runs it until it exits.
    fn run(
        &self,
        config: Arc<Config>,
        supervision: Supervision,
        estate: Option<Self::Estate>,
    ) -> impl Future<Output = (Exit, Option<Self::Estate>)> + Send + 'static;

    /// Releases what a generation left, when no next generation can use it.
    fn close(estate: Self::Estate) -> impl Future<Output = ()> + Send + 'static;
}

/// The production implementation.
#[derive(Clone, Copy, Debug)]
pub struct Connectors;

impl Instances for Connectors {
    type Estate = Estate;

    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow self for its whole run")]
    fn check(
        &self,
        config: Arc<Config>,
    ) -> impl Future<Output = Result<(), CheckError>> + Send + 'static {
        async move { instance::check(&config).await }
    }

    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow self for its whole run")]
    fn run(
        &self,
        config: Arc<Config>,
        supervision: Supervision,
        estate: Option<Estate>,
    ) -> impl Future<Output = (Exit, Option<Estate>)> + Send + 'static {
        async move {
            let Ended { exit, estate } = instance::run_real(config, supervision, estate).await;
            (exit, estate)
        }
    }

    fn close(estate: Estate) -> impl Future<Output = ()> + Send + 'static {
        estate.close()
    }
}

type Ran<E> = (Exit, Option<E>);
type Checked = (String, Arc<Config>, Result<(), CheckError>);

/// What the service manager was told, and what it still has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// READY has to be sent once nothing is changing: startup.
    Due,
    Told,
    /// RELOADING was sent; the reading with this number has not been applied yet.
    Rereading(u64),
    /// READY has to be sent once nothing is changing: the end of a reload.
    DueAgain,
}

/// Where the status is published, with the listener's address.
struct Showing {
    address: SocketAddr,
    board: Board,
    errors: LastErrors,
}

/// A run that has not ended.
struct UnderWay {
    run: u64,
    /// Reserved for this run until it ends.
    claim: WalletClaim,
    abort: CancellationToken,
}

/// What an ended run left, while it is being closed.
struct Closing {
    /// The slot's number: its name may change.
    slot: u64,
    claim: WalletClaim,
}

struct Supervisor<I: Instances> {
    instances: I,
    state_dir: PathBuf,
    /// `None` under `start`.
    directory: Option<PathBuf>,
    manager: ServiceManager,
    started_at_ms: u64,
    /// `None` without an HTTP listener.
    board: Option<Showing>,
    /// Who kept the journals, as read at startup.
    keepers: Vec<Keeper>,
    slots: BTreeMap<String, Slot<I::Estate>>,
    dice: Dice,
    last_slot: u64,
    runs: JoinSet<Ran<I::Estate>>,
    /// Every run that has not ended, even if its slot is gone.
    under_way: HashMap<Id, UnderWay>,
    last_run: u64,
    checks: JoinSet<Checked>,
    /// Tasks that close what ended runs left.
    closing: JoinSet<()>,
    closings: HashMap<Id, Closing>,
    phases: JoinSet<Option<(u64, watch::Receiver<Phase>)>>,
    directory_problem: Option<Unlisted>,
    reload: Reload,
    pending: Vec<Pending>,
    readiness: Readiness,
    /// The process was told to end.
    stopping: bool,
    /// The exit of `start` if its instance caused it.
    outcome: Option<Exit>,
}

impl<I: Instances> Supervisor<I> {
    fn new(
        instances: I,
        state_dir: PathBuf,
        directory: Option<PathBuf>,
        manager: ServiceManager,
    ) -> Self {
        Self {
            instances,
            state_dir,
            directory,
            manager,
            started_at_ms: clock::unix_millis(),
            board: None,
            keepers: Vec::new(),
            slots: BTreeMap::new(),
            dice: Dice::default(),
            last_slot: 0,
            runs: JoinSet::new(),
            under_way: HashMap::new(),
            last_run: 0,
            checks: JoinSet::new(),
            closing: JoinSet::new(),
            closings: HashMap::new(),
            phases: JoinSet::new(),
            directory_problem: None,
            reload: Reload::default(),
            pending: Vec::new(),
            readiness: Readiness::Due,
            stopping: false,
            outcome: None,
        }
    }
}
