//! The loop above the instances: event -> decide -> act.
//!
//! ```text
//! signals ------\
//! files --------+-> the loop: compares what should run (claims) with what runs, per instance
//! control ------+      |
//! exits, phases-/      +-> check, start, replace, drain, back off (restart), park
//! ```
//!
//! Instances share nothing. Each runs in its own task with its own cancellation tokens, and its exit is
//! a value that returns to this loop. The loop never waits for anything external: reading files,
//! checking a configuration and running an instance are tasks whose results are events. `start` is the
//! same loop with one file that is not watched; a failure of its first start ends it.

mod startup;
pub mod signals;
pub mod systemd;
pub mod config_dir;
pub mod control;
pub mod claims;
pub mod restart;
mod managed;
mod event_loop;
mod actions;
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
    claims::{Collision, WalletClaim},
    managed::ManagedInstance,
    operator::PendingReply,
    systemd::ServiceManager,
};
use crate::supervisor::config_dir::snapshot::Unlisted;
use crate::{
    admin::{
        snapshot::SnapshotSender,
        status::{Phase, ReloadStatus},
    },
    config::Config,
    dice::Dice,
    instance::{self, EndedInstance, Exit, JournalTenure, PreflightError, Supervision},
    journal::Keeper,
    telemetry::errors::LastErrors,
    time::clock,
};

/// How long the check of a changed configuration may take before its dependencies count as
/// unreachable.
const PREFLIGHT_DEADLINE: Duration = Duration::from_secs(20);

/// What a supervisor runs: [`ConnectorRunner`], or a fake in tests.
pub trait InstanceRunner: Send + Sync + 'static {
    /// What one generation leaves to the next: an open, locked journal.
    type Tenure: Send + 'static;

    /// Checks whether an instance of this configuration could run in the place of the `running` one. Opens
    /// nothing exclusive.
    fn preflight(
        &self,
        config: Arc<Config>,
        running: Option<Arc<Config>>,
    ) -> impl Future<Output = Result<(), PreflightError>> + Send + 'static;

    /// Builds one generation and runs it until it exits.
    fn run(
        &self,
        config: Arc<Config>,
        supervision: Supervision,
        tenure: Option<Self::Tenure>,
    ) -> impl Future<Output = (Exit, Option<Self::Tenure>)> + Send + 'static;

    /// Releases what a generation left, when no next generation can use it.
    fn close_tenure(tenure: Self::Tenure) -> impl Future<Output = ()> + Send + 'static;
}

/// The production implementation.
#[derive(Clone, Copy, Debug)]
pub struct ConnectorRunner;

impl InstanceRunner for ConnectorRunner {
    type Tenure = JournalTenure;

    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow self for its whole run")]
    fn preflight(
        &self,
        config: Arc<Config>,
        running: Option<Arc<Config>>,
    ) -> impl Future<Output = Result<(), PreflightError>> + Send + 'static {
        async move { instance::preflight(&config, running.as_deref()).await }
    }

    #[expect(clippy::manual_async_fn, reason = "an async fn would borrow self for its whole run")]
    fn run(
        &self,
        config: Arc<Config>,
        supervision: Supervision,
        tenure: Option<JournalTenure>,
    ) -> impl Future<Output = (Exit, Option<JournalTenure>)> + Send + 'static {
        async move {
            let EndedInstance { exit, tenure } =
                instance::run_with_real_edges(config, supervision, tenure).await;
            (exit, tenure)
        }
    }

    fn close_tenure(tenure: JournalTenure) -> impl Future<Output = ()> + Send + 'static {
        tenure.close()
    }
}

type RunResult<E> = (Exit, Option<E>);
type PreflightResult = (String, Arc<Config>, Result<(), PreflightError>);

/// What was sent to the service manager, and what still has to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotifyState {
    /// READY has to be sent once nothing is changing: startup.
    StartupPending,
    Ready,
    /// RELOADING was sent; the reading with this number has not been applied yet.
    ReloadPending(u64),
    /// READY has to be sent once nothing is changing: the end of a reload.
    ReadyPending,
}

/// Where the status is published, with the listener's address.
struct Publisher {
    address: SocketAddr,
    sender: SnapshotSender,
    errors: LastErrors,
}

/// A run that has not ended.
struct ActiveRun {
    run: u64,
    /// Reserved for this run until it ends.
    claim: WalletClaim,
    abort: CancellationToken,
}

/// What an ended run left, while it is being closed.
struct ClosingTenure {
    /// The managed instance's number: its name may change.
    managed: u64,
    claim: WalletClaim,
}

struct Supervisor<I: InstanceRunner> {
    runner: I,
    state_dir: PathBuf,
    /// `None` under `start`.
    directory: Option<PathBuf>,
    manager: ServiceManager,
    started_at_ms: u64,
    /// `None` without an HTTP listener.
    publisher: Option<Publisher>,
    /// The instances that last wrote the journals, as read at startup.
    keepers: Vec<Keeper>,
    managed: BTreeMap<String, ManagedInstance<I::Tenure>>,
    dice: Dice,
    last_number: u64,
    runs: JoinSet<RunResult<I::Tenure>>,
    /// Every run that has not ended, even if its instance is no longer managed.
    active_runs: HashMap<Id, ActiveRun>,
    last_run: u64,
    preflights: JoinSet<PreflightResult>,
    /// Tasks that close what ended runs left.
    closing_tasks: JoinSet<()>,
    closings: HashMap<Id, ClosingTenure>,
    phases: JoinSet<Option<(u64, watch::Receiver<Phase>)>>,
    directory_problem: Option<Unlisted>,
    /// Instances whose KMS Core another one has too, as far as that was logged.
    shared_cores: BTreeMap<String, Collision>,
    reload: ReloadStatus,
    pending: Vec<PendingReply>,
    notify_state: NotifyState,
    /// The process was asked to end.
    is_stopping: bool,
    /// The exit of `start` if its instance caused it.
    final_exit: Option<Exit>,
}

impl<I: InstanceRunner> Supervisor<I> {
    fn new(
        runner: I,
        state_dir: PathBuf,
        directory: Option<PathBuf>,
        manager: ServiceManager,
    ) -> Self {
        Self {
            runner,
            state_dir,
            directory,
            manager,
            started_at_ms: clock::unix_millis(),
            publisher: None,
            keepers: Vec::new(),
            managed: BTreeMap::new(),
            dice: Dice::default(),
            last_number: 0,
            runs: JoinSet::new(),
            active_runs: HashMap::new(),
            last_run: 0,
            preflights: JoinSet::new(),
            closing_tasks: JoinSet::new(),
            closings: HashMap::new(),
            phases: JoinSet::new(),
            directory_problem: None,
            shared_cores: BTreeMap::new(),
            reload: ReloadStatus::default(),
            pending: Vec::new(),
            notify_state: NotifyState::StartupPending,
            is_stopping: false,
            final_exit: None,
        }
    }
}
