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

pub mod lifecycle;
pub mod service_manager;
pub mod directory;
pub mod watcher;
pub mod control;
pub mod plan;
pub mod restart;
mod slot;
mod acts;
mod reload;
mod operator;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    fs::read_dir,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, warn};

use self::{
    control::{Asked, Candidates, ListenError, Listener},
    directory::{Files, Late, Look, Patience, Settled, Unlisted, Work},
    lifecycle::{DRAIN_LIMIT, Signal, Signals},
    operator::Pending,
    plan::WalletClaim,
    service_manager::ServiceManager,
    slot::{Aftermath, Slot, Unapplied},
    watcher::{Nudges, Watcher},
};
use crate::{
    clock,
    config::{self, Config, Environment, Problems},
    instance::{self, CheckError, Ended, Estate, Exit, Supervision},
    journal::{self, Keeper},
    observe::{
        board::Board,
        errors::LastErrors,
        http::{BindError, Http},
        logging::Kept,
        status::{Phase, Reload},
    },
};

/// How long the check of a changed configuration may take before its dependencies count as
/// unreachable.
const CHECK_LIMIT: Duration = Duration::from_secs(20);
/// How long startup waits for the names of the instances that kept the journals of the state
/// directory.
const KEEPERS_LIMIT: Duration = Duration::from_secs(5);
/// How long startup waits for the control socket to be bound.
const BIND_LIMIT: Duration = Duration::from_secs(5);
/// How long shutdown waits for journals to close: their disk may hang.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);
/// Capacity of the queue of control requests.
const ASKED: usize = 32;
/// The longest time between two turns of the loop.
const TURN: Duration = Duration::from_secs(10);
/// The same while the HTTP listener shows the loop's state.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// What to supervise.
#[derive(Debug)]
pub struct Options {
    pub files: Files,
    /// Directory of the journals.
    pub state_dir: PathBuf,
    /// The control socket's path; `None`: the default candidates.
    pub socket: Option<PathBuf>,
    /// The address of the HTTP listener; `None`: no listener.
    pub listen: Option<SocketAddr>,
    /// Host names that browsers may use for the listener.
    pub listen_names: Vec<String>,
    pub environment: Environment,
    /// The recent errors and the trace exporter of the process's log.
    pub kept: Kept,
}

/// Why the supervisor could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Configuration(#[from] Problems),
    #[error("{}: {late}", path.display())]
    Late { path: PathBuf, late: Late },
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot open the control socket: {0}")]
    Control(#[from] control::ListenError),
    #[error(transparent)]
    Http(#[from] BindError),
}

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

/// Supervises until a signal ends it. Under [`Files::One`] it also ends on an exit that no rebuild
/// can fix, and on a failure of the first start: somebody is watching the command then.
pub async fn run<I: Instances>(instances: I, options: Options) -> Result<Exit, RunError> {
    let Options { files, state_dir, socket, listen, listen_names, environment, kept } = options;
    let Kept { errors, traces } = kept;
    let mut signals = Signals::catch().map_err(RunError::Signals)?;
    let manager = ServiceManager::of(&environment);
    let candidates = control::candidates(socket.as_deref(), &environment, &state_dir);
    let prepared = {
        // File systems may block this for some seconds.
        let told_to_end = async { while signals.next().await == Signal::Reload {} };
        let preparing = async {
            let keepers = match &files {
                Files::Directory(_) => keepers_of(&state_dir).await,
                Files::One { .. } => Vec::new(),
            };
            let looked = look(&files, &environment, &keepers).await?;
            let socket = Socket::bind(candidates, matches!(files, Files::Directory(_))).await?;
            Ok::<_, RunError>((keepers, looked, socket))
        };
        tokio::select! {
            prepared = preparing => prepared,
            () = told_to_end => return Ok(Exit::Stopped),
        }
    };
    let (keepers, (first, settled), socket) = prepared?;
    let http = match listen {
        Some(address) => Some(Http::bind(address, listen_names).await?),
        None => None,
    };

    let stop = CancellationToken::new();
    let (nudges, towards_watcher) = watch::channel(Nudges::default());
    let (looks_sender, looks) = mpsc::channel(1);
    let (commands, asked) = mpsc::channel(ASKED);
    let mut beside = JoinSet::new();
    let watcher = Watcher::new(files.clone(), environment, settled);
    beside.spawn(watcher.run(towards_watcher, looks_sender, stop.clone()).in_current_span());
    if let Some(traces) = traces {
        beside.spawn(traces.run(stop.clone()));
    }
    beside.spawn(socket.serve(commands, stop.clone()).in_current_span());
    let directory = match files {
        Files::Directory(directory) => Some(directory),
        Files::One { .. } => None,
    };
    let mut supervisor = Supervisor::new(instances, state_dir, directory, manager);
    supervisor.keepers = keepers;
    if let Some(http) = http {
        info!(address = %http.address(), "HTTP listener open");
        let view = supervisor.put_up_board(http.address(), errors);
        beside.spawn(http.serve(view, stop.clone()).in_current_span());
    }
    supervisor.say_hello(&first);
    supervisor.apply(first);
    let inputs = Inputs { signals, looks, asked, nudges };
    let exit = supervisor.run(inputs).await;
    stop.cancel();
    let ending = async { while beside.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(5), ending).await.is_err() {
        debug!("a task beside the loop did not end in time and is dropped");
    }
    Ok(exit)
}

/// The control socket, bound or still being bound.
enum Socket {
    Bound(Box<Listener>),
    /// Its file system has not answered yet.
    Late(JoinSet<Result<Listener, ListenError>>),
    None,
}

impl Socket {
    /// Waits [`BIND_LIMIT`] for the socket. `is_needed`: an error aborts startup. A file system
    /// that does not answer never does.
    async fn bind(candidates: Candidates, is_needed: bool) -> Result<Self, ListenError> {
        let mut binding = JoinSet::new();
        binding.spawn(async move { Listener::bind(&candidates).await });
        match timeout(BIND_LIMIT, binding.join_next()).await {
            Ok(Some(Ok(Ok(listener)))) => Ok(Self::Bound(Box::new(listener))),
            Ok(Some(Ok(Err(error)))) if is_needed => Err(error),
            Ok(Some(Ok(Err(error)))) => {
                no_socket(&error);
                Ok(Self::None)
            }
            Ok(Some(Err(panic))) => std::panic::resume_unwind(panic.into_panic()),
            Ok(None) | Err(_) => {
                let path = "its directory does not answer (a network mount that hangs?)";
                no_socket(&path);
                Ok(Self::Late(binding))
            }
        }
    }

    /// Serves requests until `stop`, as soon as the socket is bound.
    async fn serve(self, commands: mpsc::Sender<Asked>, stop: CancellationToken) {
        let listener = match self {
            Self::Bound(listener) => *listener,
            Self::Late(mut binding) => match stop.run_until_cancelled(binding.join_next()).await {
                Some(Some(Ok(Ok(listener)))) => listener,
                Some(Some(Ok(Err(error)))) => return no_socket(&error),
                Some(Some(Err(_)) | None) | None => return,
            },
            Self::None => return,
        };
        info!(path = %listener.path().display(), "control socket open");
        listener.serve(commands, stop).await;
    }
}

fn no_socket(why: &dyn fmt::Display) {
    warn!(%why, "no control socket: status and the other commands cannot ask this process");
}

/// The instances that kept the journals before this start. Empty if the disk does not answer: each
/// instance reports that itself.
async fn keepers_of(state_dir: &Path) -> Vec<Keeper> {
    let dir = state_dir.to_owned();
    let reading = spawn_blocking(move || journal::keepers(&dir));
    timeout(KEEPERS_LIMIT, reading).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Reads the files for the first time. Fails where nothing could run at all.
async fn look(
    files: &Files,
    environment: &Environment,
    keepers: &[Keeper],
) -> Result<(Look, Settled), RunError> {
    if let Files::Directory(path) = files {
        config::check_environment(environment)?;
        // A hanging mount is not a configuration error (exit 78): a restart helps once the mount is
        // back.
        let at = path.clone();
        let list = |directory: &Path| read_dir(directory).map(drop);
        let listing = spawn_blocking(move || Patience::default().one(Work::List, &at, list));
        if let Ok(Err(late)) = listing.await {
            return Err(RunError::Late { path: path.clone(), late });
        }
    }
    let (of, with, known) = (files.clone(), environment.clone(), keepers.to_vec());
    let reading = spawn_blocking(move || directory::look_first(&of, &with, &known)).await;
    let (mut look, settled) = match reading {
        Ok(first) => first,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match files {
        Files::Directory(path) => match look.problem {
            Some(problem) => Err(config::unusable_directory(path, problem.to_string()).into()),
            None => Ok((look, settled)),
        },
        Files::One { .. } => {
            let bad = look.files.iter().find(|(_, file)| file.is_err());
            match bad.map(|(name, _)| name.clone()).and_then(|name| look.files.remove(&name)) {
                Some(Err(problems)) => Err(problems.into()),
                Some(Ok(_)) | None => Ok((look, settled)),
            }
        }
    }
}

/// The sources of the loop's events.
pub(crate) struct Inputs<S> {
    pub signals: S,
    pub looks: mpsc::Receiver<Look>,
    pub asked: mpsc::Receiver<Asked>,
    /// Asks the watcher to read the files now.
    pub nudges: watch::Sender<Nudges>,
}

/// Where signals come from: the process, or a test.
pub(crate) trait SignalSource: Send {
    /// The next signal. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Signal> + Send;
}

impl SignalSource for Signals {
    async fn next(&mut self) -> Signal {
        Signals::next(self).await
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

    fn say_hello(&self, look: &Look) {
        let version = env!("CARGO_PKG_VERSION");
        let state_dir = std::path::absolute(&self.state_dir);
        let state_dir = state_dir.as_deref().unwrap_or(&self.state_dir).display();
        if let Some(directory) = &self.directory {
            let config_dir = directory.display();
            let files = look.files.len();
            info!(version, %config_dir, %state_dir, files, "supervising");
        }
        for (instance, wanted) in &look.files {
            if let (None, Ok(wanted)) = (&self.directory, wanted) {
                let config = &wanted.config;
                info!(
                    instance,
                    version,
                    chain_id = config.chain_id,
                    decryption = %config.decryption_address,
                    "starting"
                );
            }
        }
        if look.files.is_empty() {
            warn!("there is no configuration: nothing runs until a *.toml file appears");
        }
    }

    /// Runs until told to end and everything has ended.
    async fn run(&mut self, mut inputs: Inputs<impl SignalSource>) -> Exit {
        let turn = if self.board.is_some() { SHOW_EVERY } else { TURN };
        let feed_every = self.manager.watchdog_interval().unwrap_or(turn).min(turn);
        let mut feeding = interval(feed_every);
        feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut close_by: Option<Instant> = None;
        loop {
            let mut wake = self.drive();
            self.show();
            if self.stopping && self.runs.is_empty() {
                let close_by = *close_by.get_or_insert_with(|| Instant::now() + CLOSE_LIMIT);
                if self.closing.is_empty() || Instant::now() >= close_by {
                    if !self.closing.is_empty() {
                        warn!(
                            "the disk of a journal does not answer: nobody waits for it any more"
                        );
                    }
                    info!("stopped");
                    return self.outcome.take().unwrap_or(Exit::Stopped);
                }
                wake = wake.into_iter().chain([close_by]).min();
            }
            tokio::select! {
                signal = inputs.signals.next() => self.signalled(signal, &inputs.nudges),
                Some(look) = inputs.looks.recv(), if !self.stopping => self.apply(look),
                Some(asked) = inputs.asked.recv() => self.asked(asked, &inputs.nudges),
                Some(ended) = self.runs.join_next_with_id() => self.ended(ended),
                Some(checked) = self.checks.join_next() => self.checked(checked),
                Some(changed) = self.phases.join_next() => self.phase_changed(changed),
                Some(closed) = self.closing.join_next_with_id() => self.closed(&closed),
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + TURN)) => {}
                // Fed inside the loop on purpose: a blocked loop must starve the watchdog.
                _ = feeding.tick() => self.manager.feed(),
            }
        }
    }

    // ---- events

    fn signalled(&mut self, signal: Signal, nudges: &watch::Sender<Nudges>) {
        match (signal, self.stopping) {
            (Signal::Reload, false) => {
                info!("SIGHUP: reading the configuration again");
                let _number = self.nudge(nudges, false);
            }
            (Signal::Reload, true) => {}
            (Signal::Terminate(signal), false) => {
                info!(signal, limit = ?DRAIN_LIMIT, "stopping: finishing what is in hand");
                self.stopping = true;
                self.manager.stopping("finishing what is in hand");
            }
            (Signal::Terminate(signal), true) => {
                warn!(signal, "aborting: what is in hand stays in the journal");
                for run in self.under_way.values() {
                    run.abort.cancel();
                }
            }
        }
    }

    /// Asks for a reading of all files now and returns its number. `whole`: a reload without a
    /// name. If the operator knew that the directory had vanished, such a reload confirms that this
    /// is intended.
    fn nudge(&mut self, nudges: &watch::Sender<Nudges>, whole: bool) -> u64 {
        let meant = whole && self.directory_problem.is_some();
        nudges.send_modify(|nudges| {
            nudges.count += 1;
            if meant {
                nudges.meant = Some(nudges.count);
            }
        });
        let number = nudges.borrow().count;
        if self.readiness != Readiness::Due {
            if !matches!(self.readiness, Readiness::Rereading(_)) {
                self.manager.reloading();
            }
            self.readiness = Readiness::Rereading(number);
        }
        number
    }

    fn ended(&mut self, ended: Result<(Id, Ran<I::Estate>), JoinError>) {
        let (task, exit, estate) = match ended {
            Ok((task, (exit, estate))) => (task, exit, estate),
            Err(error) => {
                let exit = if error.is_panic() {
                    Exit::Panicked { task: "instance" }
                } else {
                    Exit::failed("instance", instance::Failure::Dropped)
                };
                (error.id(), exit, None)
            }
        };
        let Some(UnderWay { run: id, .. }) = self.under_way.remove(&task) else { return };
        let is_only = self.directory.is_none();
        let Some(slot) =
            self.slots.values_mut().find(|slot| slot.run().is_some_and(|run| run.id == id))
        else {
            return;
        };
        let name = slot.name.clone();
        let aftermath = slot.ended(&exit, estate, Instant::now(), fastrand::f64());
        let code = exit.code();
        match aftermath {
            Aftermath::AsTold if exit.is_stopped() => {
                info!(instance = name, "instance stopped");
            }
            Aftermath::AsTold => {
                warn!(instance = name, %exit, code, "instance ended, and not in order");
            }
            Aftermath::RolledBack => {
                error!(instance = name, %exit, code, "reload failed: the configuration from before runs again");
            }
            // At the first start an operator is watching the command; later the instance has to be
            // kept alive.
            Aftermath::Again(_) | Aftermath::Parked
                if is_only
                    && (matches!(exit, Exit::Refused { .. })
                        || (slot.generation == 1
                            && matches!(exit, Exit::Failed { task: instance::STARTING, .. }))) =>
            {
                error!(instance = name, %exit, code, "instance ended");
                self.outcome = Some(exit);
                self.stopping = true;
            }
            Aftermath::Again(pause) => {
                error!(instance = name, %exit, code, restart_in = ?pause, "instance ended, building it again");
            }
            Aftermath::Parked => error!(
                instance = name,
                %exit,
                code,
                retry_in = ?restart::PARKED_RETRY,
                "instance parked: it is tried again slowly, or when its file changes, or by restart"
            ),
        }
    }

    fn checked(&mut self, checked: Result<Checked, JoinError>) {
        let Ok((name, config, result)) = checked else {
            // A panic loses the name of the instance that was checked. Treat every check under way
            // as unreachable: each is tried again.
            for slot in self.slots.values_mut() {
                if let Some(config) = slot.standing.checking() {
                    slot.checked(&config, Err(CheckError::Panicked), Instant::now());
                }
            }
            return;
        };
        let Some(slot) = self.slots.get_mut(&name) else { return };
        let result_is_good = result.is_ok();
        match slot.checked(&config, result, Instant::now()) {
            Some(Unapplied { why, waits }) => {
                if waits {
                    warn!(instance = name, why, again_in = ?slot::CHECK_AGAIN,
                        "a new configuration waits for what it needs");
                } else {
                    error!(instance = name, why, "reload failed");
                }
                self.reload.at_ms = clock::unix_millis();
            }
            None if result_is_good => {
                info!(instance = name, "configuration changed: replacing the instance");
            }
            None => {}
        }
    }

    fn phase_changed(&mut self, changed: Result<Option<(u64, watch::Receiver<Phase>)>, JoinError>) {
        let Ok(Some((id, phase))) = changed else { return };
        if let Some(slot) =
            self.slots.values_mut().find(|slot| slot.run().is_some_and(|run| run.id == id))
        {
            slot.phase_changed(Instant::now());
            self.follow(id, phase);
        }
    }

    fn closed(&mut self, closed: &Result<(Id, ()), JoinError>) {
        let task = match closed {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        self.closings.remove(&task);
    }

    fn follow(&mut self, id: u64, mut phase: watch::Receiver<Phase>) {
        self.phases.spawn(async move { phase.changed().await.ok().map(|()| (id, phase)) });
    }
}
