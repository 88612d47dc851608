//! The loop above the instances: event -> decide -> act.
//!
//! ```text
//! signals ------\
//! files --------+-> the loop: what should run (plan) against what does, slot by slot
//! control ------+      |
//! exits, phases-/      +-> check, start, replace, drain, back off (restart), park
//! ```
//!
//! Instances share nothing: each runs in a task of its own under its own tokens, and its end is a
//! value that comes back here. The loop never waits on the outside world: reading files, checking a
//! configuration and running an instance are tasks whose results are events. `start` is the same
//! loop with one file that is not watched, and whose first failure ends it.

pub mod lifecycle;
pub mod service_manager;
pub mod directory;
pub mod watcher;
pub mod control;
pub mod plan;
pub mod restart;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use self::{
    control::{Answer, Asked, Listener, Request},
    directory::{Files, Look, Settled, Wanted},
    lifecycle::{DRAIN_LIMIT, Signal, Signals},
    plan::{Configs, Desired, WalletClaim},
    service_manager::ServiceManager,
    slot::{Act, Aftermath, Ending, Run, Slot, Target},
    watcher::Watcher,
};
use crate::{
    clock,
    config::{self, Config, Environment, Problem, Problems},
    heart::Hearts,
    instance::{self, CheckError, Edges, Ended, Estate, Exit},
    observe::status::{Phase, Reload, Reporter, State, Status},
};

/// How long a changed configuration is tried before it counts as unreachable.
const CHECK_LIMIT: Duration = Duration::from_secs(20);
/// Control requests that wait for the loop.
const ASKED: usize = 32;
/// The loop turns at least this often.
const TURN: Duration = Duration::from_secs(10);

/// What to supervise.
#[derive(Clone, Debug)]
pub struct Options {
    pub files: Files,
    /// Directory of the journals.
    pub state_dir: PathBuf,
    /// The control socket, unless it is where it usually is.
    pub socket: Option<PathBuf>,
    pub environment: Environment,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Configuration(#[from] Problems),
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot open the control socket: {0}")]
    Control(#[from] control::ListenError),
}

/// What a supervisor runs: [`Connectors`], or a test's.
pub trait Instances: Send + Sync + 'static {
    /// What one generation leaves to the next.
    type Estate: Send + 'static;

    /// Whether this configuration could run. Opens nothing exclusive.
    fn check(
        &self,
        config: Arc<Config>,
    ) -> impl Future<Output = Result<(), CheckError>> + Send + 'static;

    /// Builds and runs one generation to its end.
    fn run(
        &self,
        config: Arc<Config>,
        edges: Edges,
        estate: Option<Self::Estate>,
    ) -> impl Future<Output = (Exit, Option<Self::Estate>)> + Send + 'static;
}

/// The real instances.
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
        edges: Edges,
        estate: Option<Estate>,
    ) -> impl Future<Output = (Exit, Option<Estate>)> + Send + 'static {
        async move {
            let Ended { exit, estate } = instance::run(config, edges, estate).await;
            (exit, estate)
        }
    }
}

/// Supervises until a signal; under [`Files::One`] also until an end that no rebuild mends, or a
/// failure of the first start, when somebody is looking.
pub async fn run(options: Options) -> Result<Exit, RunError> {
    let Options { files, state_dir, socket, environment } = options;
    let signals = Signals::catch().map_err(RunError::Signals)?;
    let manager = ServiceManager::of(&environment);
    let (first, settled) = look(&files, &environment).await?;
    let candidates = control::candidates(socket.as_deref(), &environment, &state_dir);
    let listener = match (Listener::bind(&candidates).await, &files) {
        (Ok(listener), _) => Some(listener),
        (Err(error), Files::Directory(_)) => return Err(error.into()),
        (Err(error), Files::One { .. }) => {
            warn!(%error, "no control socket: status and the other commands cannot ask this process");
            None
        }
    };

    let stop = CancellationToken::new();
    let (nudges, nudged) = mpsc::channel(1);
    let (looks_sender, looks) = mpsc::channel(1);
    let (commands, asked) = mpsc::channel(ASKED);
    let mut beside = JoinSet::new();
    let watcher = Watcher::new(files.clone(), environment, settled);
    beside.spawn(watcher.run(nudged, looks_sender, stop.clone()).in_current_span());
    if let Some(listener) = listener {
        info!(path = %listener.path().display(), "control socket open");
        beside.spawn(listener.serve(commands, stop.clone()).in_current_span());
    }
    let directory = match files {
        Files::Directory(directory) => Some(directory),
        Files::One { .. } => None,
    };
    let mut supervisor = Supervisor::new(Connectors, state_dir, directory, manager);
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

/// The first reading. Fails where the process cannot do anything.
async fn look(files: &Files, environment: &Environment) -> Result<(Look, Settled), Problems> {
    if let Files::Directory(_) = files {
        config::check_environment(environment)?;
    }
    let (of, with) = (files.clone(), environment.clone());
    let reading = tokio::task::spawn_blocking(move || directory::look_first(&of, &with)).await;
    let (mut look, settled) = match reading {
        Ok(first) => first,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match files {
        Files::Directory(path) => match look.problem {
            Some(problem) => Err(config::unusable_directory(path, problem)),
            None => Ok((look, settled)),
        },
        Files::One { .. } => {
            let bad = look.files.iter().find(|(_, file)| file.is_err());
            match bad.map(|(name, _)| name.clone()).and_then(|name| look.files.remove(&name)) {
                Some(Err(problems)) => Err(problems),
                Some(Ok(_)) | None => Ok((look, settled)),
            }
        }
    }
}

/// What makes the loop turn.
pub(crate) struct Inputs<S> {
    pub signals: S,
    pub looks: mpsc::Receiver<Look>,
    pub asked: mpsc::Receiver<Asked>,
    /// Towards the watcher: look now.
    pub nudges: mpsc::Sender<()>,
}

/// Where signals come from: the process, or a test.
pub(crate) trait SignalSource: Send {
    /// The next signal. Dropping the future loses none.
    fn next(&mut self) -> impl Future<Output = Signal> + Send;
}

impl SignalSource for Signals {
    async fn next(&mut self) -> Signal {
        Signals::next(self).await
    }
}

/// What an asker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The next reading of the files is applied.
    Reread,
    /// No change is under way.
    Settled,
}

#[derive(Debug)]
struct Pending {
    reply: oneshot::Sender<Answer>,
    /// One instance, or all.
    name: Option<String>,
    until: Until,
}

type Ran<E> = (u64, Exit, Option<E>);
type Checked = (String, Arc<Config>, Result<(), CheckError>);

struct Supervisor<I: Instances> {
    instances: I,
    state_dir: PathBuf,
    /// `None` under `start`.
    directory: Option<PathBuf>,
    manager: ServiceManager,
    started_at_ms: u64,
    slots: BTreeMap<String, Slot<I::Estate>>,
    runs: JoinSet<Ran<I::Estate>>,
    run_of_task: HashMap<Id, u64>,
    last_run: u64,
    checks: JoinSet<Checked>,
    phases: JoinSet<Option<(u64, watch::Receiver<Phase>)>>,
    directory_problem: Option<String>,
    reload: Reload,
    pending: Vec<Pending>,
    /// READY is due once nothing is changing.
    ready_due: bool,
    has_been_ready: bool,
    /// Told to end; past that time everything is dropped.
    stopping: Option<Instant>,
    /// How `start` ends, if by its instance.
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
            slots: BTreeMap::new(),
            runs: JoinSet::new(),
            run_of_task: HashMap::new(),
            last_run: 0,
            checks: JoinSet::new(),
            phases: JoinSet::new(),
            directory_problem: None,
            reload: Reload::default(),
            pending: Vec::new(),
            ready_due: true,
            has_been_ready: false,
            stopping: None,
            outcome: None,
        }
    }

    fn say_hello(&self, look: &Look) {
        let version = env!("CARGO_PKG_VERSION");
        match &self.directory {
            Some(directory) => info!(
                version,
                config_dir = %directory.display(),
                state_dir = %self.state_dir.display(),
                files = look.files.len(),
                "supervising"
            ),
            None => info!(version, state_dir = %self.state_dir.display(), "starting"),
        }
        if look.files.is_empty() {
            warn!("there is no configuration: nothing runs until a *.toml file appears");
        }
    }

    /// Turns until told to end, and everything has.
    async fn run(&mut self, mut inputs: Inputs<impl SignalSource>) -> Exit {
        let feed_every = self.manager.watchdog_interval().unwrap_or(TURN).min(TURN);
        let mut feeding = interval(feed_every);
        feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = self.drive();
            self.show();
            if self.stopping.is_some() && self.runs.is_empty() {
                info!("stopped");
                return self.outcome.take().unwrap_or(Exit::Stopped);
            }
            tokio::select! {
                signal = inputs.signals.next() => self.signalled(signal, &inputs.nudges),
                Some(look) = inputs.looks.recv(), if self.stopping.is_none() => self.apply(look),
                Some(asked) = inputs.asked.recv() => self.asked(asked, &inputs.nudges),
                Some(ended) = self.runs.join_next_with_id() => self.ended(ended),
                Some(checked) = self.checks.join_next() => self.checked(checked),
                Some(changed) = self.phases.join_next() => self.phase_changed(changed),
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + TURN)) => {}
                // Fed from within the loop: one that does not turn starves.
                _ = feeding.tick() => self.manager.feed(),
            }
        }
    }

    // ---- events

    fn signalled(&mut self, signal: Signal, nudges: &mpsc::Sender<()>) {
        match (signal, self.stopping) {
            (Signal::Reload, None) => {
                info!("SIGHUP: reading the configuration again");
                self.nudge(nudges);
            }
            (Signal::Reload, Some(_)) => {}
            (Signal::Terminate(signal), None) => {
                info!(signal, limit = ?DRAIN_LIMIT, "stopping: finishing what is in hand");
                self.stopping = Some(Instant::now());
                self.manager.stopping("finishing what is in hand");
            }
            (Signal::Terminate(signal), Some(_)) => {
                warn!(signal, "aborting: what is in hand stays in the journal");
                for run in self.slots.values().filter_map(Slot::run) {
                    run.abort.cancel();
                }
            }
        }
    }

    fn nudge(&mut self, nudges: &mpsc::Sender<()>) {
        if self.has_been_ready && !self.ready_due {
            self.manager.reloading();
            self.ready_due = true;
        }
        // A full channel holds a nudge that is as good.
        let _ = nudges.try_send(());
    }

    /// The files were read: makes slots want what they say.
    fn apply(&mut self, look: Look) {
        let Look { files, problem, asked } = look;
        if let Some(problem) = problem {
            if self.directory_problem.as_ref() != Some(&problem) {
                let directory = self.directory.as_deref().unwrap_or(Path::new("."));
                error!(directory = %directory.display(), problem,
                    "reload failed: what runs goes on as it is");
                self.reload.at_ms = clock::unix_millis();
            }
            self.directory_problem = Some(problem);
            self.reread(asked);
            return;
        }
        if self.directory_problem.take().is_some() {
            info!("the configuration directory is readable again");
            self.reload.at_ms = clock::unix_millis();
        }
        let planned = plan::plan(&self.current(), &self.desired(&files));
        for (old, new) in planned.renamed {
            self.rename(&old, new);
        }
        let mut collisions = planned.refused;
        let mut names: BTreeSet<String> = self.slots.keys().cloned().collect();
        for (name, file) in files {
            names.remove(&name);
            let collision = collisions.remove(&name);
            self.apply_file(&name, file, collision);
        }
        for name in planned.displaced {
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.displace();
            }
        }
        for name in names {
            if let Some(slot) = self.slots.get_mut(&name) {
                if slot.current().is_some() || slot.complaint().is_some() {
                    info!(instance = name, "its file is gone: the instance ends");
                    self.reload.at_ms = clock::unix_millis();
                }
                slot.unwant(None);
            }
        }
        self.reread(asked);
    }

    fn apply_file(
        &mut self,
        name: &str,
        file: Result<Wanted, Problems>,
        collision: Option<String>,
    ) {
        let path = match &file {
            Ok(wanted) => wanted.file.clone(),
            Err(_) => self.directory.as_ref().map(|dir| dir.join(format!("{name}.toml"))),
        };
        let slot =
            self.slots.entry(name.to_owned()).or_insert_with(|| Slot::new(name.to_owned()));
        let news = match (file, collision) {
            (Err(problems), _) => {
                let news = slot.keep(path, problems.to_string());
                if news {
                    log_problems(name, &problems);
                }
                news
            }
            (Ok(wanted), _) if !wanted.config.enabled && self.directory.is_some() => {
                let news = slot.current().is_some();
                if news {
                    info!(instance = name, "enabled = false: the instance ends");
                }
                slot.unwant(wanted.file);
                news
            }
            (Ok(_), Some(collision)) => {
                let news = slot.keep(path, collision.clone());
                if news {
                    error!(instance = name, why = collision, "configuration refused");
                }
                news
            }
            (Ok(wanted), None) => {
                let warnings = wanted.warnings.clone();
                let news = slot.want(Arc::new(wanted));
                if news {
                    log_warnings(name, &warnings);
                }
                news
            }
        };
        if news {
            self.reload.at_ms = clock::unix_millis();
        }
    }

    fn current(&self) -> Configs {
        let configs = self.slots.iter().filter_map(|(name, slot)| {
            slot.current().map(|target| (name.clone(), target.config.clone()))
        });
        configs.collect()
    }

    /// What the files want; where one is wrong, what runs in its place.
    fn desired(&self, files: &BTreeMap<String, Result<Wanted, Problems>>) -> Desired {
        let mut desired = Desired::default();
        for (name, file) in files {
            match file {
                Ok(wanted) if wanted.config.enabled || self.directory.is_none() => {
                    desired.files.insert(name.clone(), wanted.config.clone());
                }
                Ok(_disabled) => {}
                Err(_) => {
                    let current = self.slots.get(name).and_then(Slot::current);
                    desired.kept.extend(current.map(|target| (name.clone(), target.config.clone())));
                }
            }
        }
        desired
    }

    fn rename(&mut self, old: &str, new: String) {
        if let Some(mut slot) = self.slots.remove(old) {
            info!(instance = old, to = new, "its file was renamed: so is the instance");
            slot.rename(new.clone());
            self.slots.insert(new, slot);
        }
    }

    /// The reading that askers waited for is applied.
    fn reread(&mut self, asked: bool) {
        if asked {
            for pending in &mut self.pending {
                pending.until = Until::Settled;
            }
        }
    }

    fn asked(&mut self, asked: Asked, nudges: &mpsc::Sender<()>) {
        let Asked { request, reply } = asked;
        // Who asked may be gone by now.
        let refuse = |reply: oneshot::Sender<Answer>, why: String| {
            let _ = reply.send(Answer::Refused { why });
        };
        let name = match &request {
            Request::Status => {
                let _ = reply.send(Answer::Status { status: Box::new(self.status()) });
                return;
            }
            #[cfg(debug_assertions)]
            Request::Fault { instance, room, kind } => {
                let answer = self.sicken(instance.as_deref(), room, *kind);
                let _ = reply.send(answer);
                return;
            }
            Request::Reload { name } => name.clone(),
            Request::Restart { name } | Request::Stop { name } => Some(name.clone()),
        };
        if self.stopping.is_some() {
            return refuse(reply, "the supervisor is stopping".to_owned());
        }
        if let Some(name) = &name {
            let known: Vec<_> = self.slots.keys().cloned().collect();
            let Some(slot) = self.slots.get_mut(name) else {
                let known = known.join(", ");
                return refuse(reply, format!("there is no instance {name}; there are: {known}"));
            };
            let done = match &request {
                Request::Restart { .. } => slot.restart(),
                Request::Stop { .. } => slot.hold(),
                _ => {
                    slot.try_again();
                    true
                }
            };
            if !done {
                let why = slot.complaint().unwrap_or("it is not enabled").to_owned();
                return refuse(reply, format!("{name} has no configuration to run: {why}"));
            }
        }
        info!(?request, "asked by an operator");
        let until = if let Request::Reload { .. } = request {
            self.nudge(nudges);
            Until::Reread
        } else {
            Until::Settled
        };
        self.pending.push(Pending { reply, name, until });
    }

    #[cfg(debug_assertions)]
    fn sicken(&self, instance: Option<&str>, room: &str, kind: control::FaultKind) -> Answer {
        let Some(name) = instance else {
            // On purpose: nothing else shows that a loop that does not turn is noticed.
            std::thread::sleep(Duration::from_mins(1));
            return Answer::Done { lines: vec!["the loop turns again".to_owned()], failed: false };
        };
        match self.slots.get(name).and_then(Slot::run) {
            Some(run) => {
                let fault = match kind {
                    control::FaultKind::Panic => crate::heart::Fault::Panic,
                    control::FaultKind::Hang => crate::heart::Fault::Hang,
                };
                run.hearts.sicken(room, fault);
                Answer::Done { lines: vec![format!("{name}: {room} is sick")], failed: false }
            }
            None => Answer::Refused { why: format!("{name} does not run") },
        }
    }

    fn ended(&mut self, ended: Result<(Id, Ran<I::Estate>), JoinError>) {
        let (id, exit, estate) = match ended {
            Ok((task, ran)) => {
                self.run_of_task.remove(&task);
                ran
            }
            Err(error) => {
                let Some(id) = self.run_of_task.remove(&error.id()) else { return };
                let exit = if error.is_panic() {
                    Exit::Panicked { task: "instance" }
                } else {
                    Exit::Failed { task: "instance", error: "it did not end and was dropped".into() }
                };
                (id, exit, None)
            }
        };
        let is_only = self.directory.is_none();
        let Some(slot) = self.slots.values_mut().find(|slot| slot.run().is_some_and(|run| run.id == id))
        else {
            return;
        };
        let name = slot.name.clone();
        let aftermath = slot.ended(&exit, estate, Instant::now(), fastrand::f64());
        match aftermath {
            Aftermath::AsTold if exit == Exit::Stopped => info!(instance = name, "instance ended"),
            Aftermath::AsTold => warn!(instance = name, %exit, "instance ended, and not in order"),
            Aftermath::RolledBack => {
                error!(instance = name, %exit, "reload failed: the configuration from before runs again");
            }
            // At the first start somebody is looking; later it is an instance to be kept alive.
            Aftermath::Again(_) | Aftermath::Parked
                if is_only
                    && (matches!(exit, Exit::Refused { .. })
                        || (slot.generation == 1
                            && matches!(exit, Exit::Failed { task: instance::STARTING, .. }))) =>
            {
                error!(instance = name, %exit, "instance ended");
                self.outcome = Some(exit);
                self.stopping = Some(Instant::now());
            }
            Aftermath::Again(pause) => {
                error!(instance = name, %exit, restart_in = ?pause, "instance ended, building it again");
            }
            Aftermath::Parked => error!(
                instance = name,
                %exit,
                retry_in = ?restart::PARKED_RETRY,
                "instance parked: it is tried again slowly, or when its file changes, or by restart"
            ),
        }
    }

    fn checked(&mut self, checked: Result<Checked, JoinError>) {
        // Nothing in a check is meant to panic; if one does, it is as good as unreachable.
        let Ok((name, config, result)) = checked else { return };
        let Some(slot) = self.slots.get_mut(&name) else { return };
        let result_is_good = result.is_ok();
        match slot.checked(&config, result, Instant::now()) {
            Some(why) => {
                error!(instance = name, why, "reload failed");
                self.reload.at_ms = clock::unix_millis();
            }
            None if result_is_good => info!(instance = name, "configuration changed: replacing the instance"),
            None => {}
        }
    }

    fn phase_changed(
        &mut self,
        changed: Result<Option<(u64, watch::Receiver<Phase>)>, JoinError>,
    ) {
        let Ok(Some((id, phase))) = changed else { return };
        if let Some(slot) = self.slots.values_mut().find(|slot| slot.run().is_some_and(|run| run.id == id)) {
            slot.phase_changed(Instant::now());
            self.follow(id, phase);
        }
    }

    fn follow(&mut self, id: u64, mut phase: watch::Receiver<Phase>) {
        self.phases.spawn(async move { phase.changed().await.ok().map(|()| (id, phase)) });
    }

    // ---- acts

    /// Does for every slot what it needs, until none needs anything more now. Answers when to come
    /// back at the latest.
    fn drive(&mut self) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let mut progress = false;
            let mut wake: Option<Instant> = None;
            let names: Vec<String> = self.slots.keys().cloned().collect();
            for name in names {
                let Some(slot) = self.slots.get_mut(&name) else { continue };
                let (act, again) = slot.next(now, self.stopping.is_some());
                wake = [wake, again].into_iter().flatten().min();
                progress |= self.act(&name, act, now);
            }
            if !progress {
                return wake;
            }
        }
    }

    /// Answers whether something was done.
    fn act(&mut self, name: &str, act: Act, now: Instant) -> bool {
        match act {
            Act::Nothing => return false,
            Act::Start(target) => return self.start(name, target, now),
            Act::Check(target) => {
                info!(instance = name, "configuration changed: checking it");
                let config = target.config.clone();
                let checking = self.instances.check(config.clone());
                let name = name.to_owned();
                self.checks.spawn(
                    async move {
                        let result = timeout(CHECK_LIMIT, checking).await.unwrap_or_else(|_| {
                            Err(CheckError::Unreachable(format!("no answer in {CHECK_LIMIT:?}")))
                        });
                        (name, config, result)
                    }
                    .in_current_span(),
                );
            }
            Act::End(how) => {
                let Some(slot) = self.slots.get_mut(name) else { return false };
                if let Some(run) = slot.run() {
                    match how {
                        Ending::Drain => run.stop.cancel(),
                        Ending::HandOver => run.abort.cancel(),
                    }
                }
                slot.ending(how, now);
            }
            Act::Abort => {
                warn!(instance = name, "the drain limit has passed: what is in hand stays in the journal");
                if let Some(run) = self.slots.get(name).and_then(Slot::run) {
                    run.abort.cancel();
                }
            }
            Act::Kill => {
                error!(instance = name, "the instance does not end: its task is dropped");
                if let Some(run) = self.slots.get(name).and_then(Slot::run) {
                    run.task.abort();
                }
            }
            Act::Remove => {
                self.slots.remove(name);
            }
        }
        true
    }

    fn start(&mut self, name: &str, target: Target, now: Instant) -> bool {
        let claim = WalletClaim::of(&target.config);
        let is_taken = |(other, slot): (&String, &Slot<I::Estate>)| {
            other != name
                && slot.run().is_some_and(|run| WalletClaim::of(&run.target.config) == claim)
        };
        if self.slots.iter().any(is_taken) {
            // It is ending; its end drives all slots again.
            return false;
        }
        let Some(slot) = self.slots.get_mut(name) else { return false };
        slot.generation += 1;
        self.last_run += 1;
        let (id, generation) = (self.last_run, slot.generation);
        let abort = CancellationToken::new();
        let stop = abort.child_token();
        let reporter = Reporter::new();
        let (phase, gauges) = (reporter.phase.subscribe(), reporter.gauges.subscribe());
        let hearts = Hearts::default();
        let edges = Edges {
            name: name.to_owned(),
            state_dir: self.state_dir.clone(),
            reporter,
            hearts: hearts.clone(),
            stop: stop.clone(),
            abort: abort.clone(),
        };
        let config = target.config.clone();
        let estate = slot.inherit(&config);
        let span = info_span!("instance", name, generation);
        let running = self.instances.run(config, edges, estate).instrument(span);
        let task = self.runs.spawn(async move {
            let (exit, estate) = running.await;
            (id, exit, estate)
        });
        self.run_of_task.insert(task.id(), id);
        slot.started(Run {
            id,
            target,
            stop,
            abort,
            task,
            phase: phase.clone(),
            gauges,
            hearts,
            started: now,
            running_since: None,
            longest_health: Duration::ZERO,
            has_run: false,
            replaced: None,
        });
        self.follow(id, phase);
        true
    }

    // ---- what is told

    /// Brings everybody who looks up to date.
    fn show(&mut self) {
        for slot in self.slots.values_mut() {
            if slot.show() {
                debug!(instance = slot.name, state = slot.shown().word(), "instance state");
            }
        }
        let is_changing = self.slots.values().any(Slot::is_changing);
        if !is_changing {
            self.note_reload();
        }
        let line = self.line();
        if self.stopping.is_none() {
            if self.ready_due && !is_changing {
                self.ready_due = false;
                self.has_been_ready = true;
                self.manager.ready(&line);
            }
            self.manager.status(&line);
        }
        self.reply();
    }

    fn note_reload(&mut self) {
        self.reload.problems = self.problems();
        if self.reload.problems.is_empty() && self.reload.succeeded_at_ms.is_none_or(|at| at < self.reload.at_ms) {
            self.reload.succeeded_at_ms = Some(clock::unix_millis());
        }
    }

    fn problems(&self) -> Vec<String> {
        let complaints = self.slots.values().filter_map(|slot| {
            slot.complaint().map(|complaint| format!("{}: {complaint}", slot.name))
        });
        self.directory_problem.iter().cloned().chain(complaints).collect()
    }

    /// Answers those whose wait is over.
    fn reply(&mut self) {
        let mut waiting = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            let mut concerned = self
                .slots
                .values()
                .filter(|slot| pending.name.as_ref().is_none_or(|name| *name == slot.name));
            let settled = !concerned.clone().any(|slot| slot.is_changing() || slot.is_draining());
            if pending.until == Until::Reread || !settled {
                if !pending.reply.is_closed() {
                    waiting.push(pending);
                }
                continue;
            }
            let mut lines: Vec<String> = concerned.clone().map(Slot::line).collect();
            let mut failed = concerned.any(Slot::is_amiss);
            if let Some(problem) = &self.directory_problem {
                lines.push(problem.clone());
                failed = true;
            }
            // Who asked may be gone by now.
            let _ = pending.reply.send(Answer::Done { lines, failed });
        }
        self.pending = waiting;
    }

    /// `4 running, 1 parked: config-3 (why)`.
    fn line(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for slot in self.slots.values() {
            *counts.entry(slot.shown().word()).or_default() += 1;
        }
        let order = ["running", "waiting", "starting", "draining", "backing-off", "parked", "stopped"];
        let mut parts: Vec<String> = order
            .iter()
            .filter_map(|word| counts.get(word).map(|count| format!("{count} {word}")))
            .collect();
        if parts.is_empty() {
            parts.push("no instance".to_owned());
        }
        let amiss: Vec<&str> = self
            .slots
            .values()
            .filter(|slot| matches!(slot.shown(), State::Parked { .. } | State::BackingOff { .. }))
            .map(|slot| slot.name.as_str())
            .collect();
        let mut line = parts.join(", ");
        if !amiss.is_empty() {
            line = format!("{line}: {}", amiss.join(", "));
        }
        let problems = self.problems().len();
        if problems > 0 {
            line = format!("{line}; {problems} reload problems");
        }
        line
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_ms: self.started_at_ms,
            config_dir: self.directory.clone(),
            reload: Reload { problems: self.problems(), ..self.reload.clone() },
            instances: self.slots.values().map(Slot::status).collect(),
        }
    }
}

fn log_problems(instance: &str, problems: &Problems) {
    for problem in problems.as_slice() {
        let Problem { place, key, found, allowed, advice } = problem;
        error!(instance, %place, key, found, allowed, advice, "configuration problem");
    }
}

fn log_warnings(instance: &str, warnings: &[config::Warning]) {
    for warning in warnings {
        let config::Warning { place, key, message } = warning;
        warn!(instance, %place, key, warning = message, "configuration warning");
    }
}
