//! The loop over a real directory, with simulated instances and a paused clock.
//!
//! Instances register with the [`Stage`] when they start and end.

mod operators;
mod renames;
mod wallets;
mod watchdog;
mod whatever;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    InstanceRunner, Supervisor,
    claims::WalletClaim,
    control::{self, LoopReply, PendingRequest, Request, Response},
    event_loop::{Inputs, SignalSource},
    signals::Signal,
    systemd::ServiceManager,
};
use crate::supervisor::config_dir::{
    snapshot::{ConfigFiles, SettledFiles},
    watch::{ReloadRequests, Watcher},
};
use crate::{
    admin::status::{InstanceState, InstanceStatus, Phase, Status, StoppedBy},
    chain::rpc_error::RpcError,
    config::{Config, Environment},
    instance::{Exit, Failure, PreflightError, Supervision, Unready},
};

// ---- instances that pretend

/// One generation that a supervisor started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RunningInstance {
    name: String,
    /// Counts starts of all instances.
    number: u64,
    version: u64,
}

/// Where instances register.
#[derive(Clone, Debug, Default)]
struct Stage(Arc<Mutex<StageState>>);

#[derive(Debug, Default)]
struct StageState {
    starts: u64,
    playing: Vec<(WalletClaim, RunningInstance)>,
    /// What instances left and nobody has taken over or closed.
    left: usize,
    violations: Vec<String>,
}

/// What an instance leaves: its open journal.
#[derive(Debug)]
struct LeftTenure {
    claim: WalletClaim,
    version: u64,
    stage: Stage,
}

impl Drop for LeftTenure {
    fn drop(&mut self) {
        self.stage.0.lock().unwrap().left -= 1;
    }
}

/// Unregisters the instance, also when its future is dropped.
struct StageEntry {
    stage: Stage,
    number: u64,
}

impl Drop for StageEntry {
    fn drop(&mut self) {
        self.stage.0.lock().unwrap().playing.retain(|(_, playing)| playing.number != self.number);
    }
}

/// Behaviour by version number; all other versions are healthy.
const REFUSED: u64 = 101;
const UNREACHABLE: u64 = 102;
const FAILS_AT_START: u64 = 103;
const FAILS_LATER: u64 = 104;
/// Finishes nothing before it is aborted.
const DRAINS_LONG: u64 = 105;
/// A dependency does not answer at all.
const BLACK_HOLE: u64 = 106;
/// Closing its journal hangs.
const CLOSES_NEVER: u64 = 107;
/// Its node connects some seconds after its start.
const WAITS_A_MOMENT: u64 = 108;

fn version(config: &Config) -> u64 {
    config.retry_interval.as_secs()
}

impl Stage {
    fn enter(&self, name: &str, config: &Config, left: Option<LeftTenure>) -> StageEntry {
        let claim = WalletClaim::of(config);
        let mut board = self.0.lock().unwrap();
        board.starts += 1;
        let number = board.starts;
        if let Some((_, other)) = board.playing.iter().find(|(held, _)| *held == claim) {
            let wrong = format!("{name} started while {} had its wallet", other.name);
            board.violations.push(wrong);
        }
        if let Some(left) = left {
            if left.claim != claim {
                board.violations.push(format!("{name} was given another wallet's journal"));
            }
            drop(board);
            drop(left);
            board = self.0.lock().unwrap();
        }
        let playing = RunningInstance { name: name.to_owned(), number, version: version(config) };
        board.playing.push((claim, playing));
        StageEntry { stage: self.clone(), number }
    }

    fn playing(&self) -> BTreeMap<String, RunningInstance> {
        let board = self.0.lock().unwrap();
        board.playing.iter().map(|(_, one)| (one.name.clone(), one.clone())).collect()
    }

    fn check(&self) {
        let board = self.0.lock().unwrap();
        assert!(board.violations.is_empty(), "{:?}", board.violations);
        assert_eq!(board.left, 0, "journals are open and nobody's");
    }
}

impl InstanceRunner for Stage {
    type Tenure = LeftTenure;

    #[expect(clippy::manual_async_fn, reason = "as in the trait")]
    fn preflight(
        &self,
        config: Arc<Config>,
        _: Option<Arc<Config>>,
    ) -> impl Future<Output = Result<(), PreflightError>> + Send + 'static {
        async move {
            sleep(Duration::from_millis(300)).await;
            match version(&config) {
                REFUSED => Err(refusal()),
                UNREACHABLE => Err(PreflightError::TimedOut(Duration::ZERO)),
                BLACK_HOLE => std::future::pending().await,
                _ => Ok(()),
            }
        }
    }

    fn run(
        &self,
        config: Arc<Config>,
        supervision: Supervision,
        left: Option<LeftTenure>,
    ) -> impl Future<Output = (Exit, Option<LeftTenure>)> + Send + 'static {
        let stage = self.clone();
        async move {
            let claim = WalletClaim::of(&config);
            let part = stage.enter(&supervision.name, &config, left);
            sleep(Duration::from_millis(50)).await;
            let failed = || Exit::failed("start", Failure::Untold);
            match version(&config) {
                FAILS_AT_START => return (failed(), None),
                REFUSED => return (Exit::refused(Failure::Untold), None),
                UNREACHABLE | WAITS_A_MOMENT => {
                    let (on, why) = ("the node".into(), "no answer".into());
                    supervision.reporter.phase.send_replace(Phase::Waiting { on, why });
                    if version(&config) == WAITS_A_MOMENT {
                        supervision.abort.run_until_cancelled(sleep(Duration::from_secs(3))).await;
                        supervision.reporter.phase.send_replace(Phase::Running);
                    }
                }
                _ => {
                    supervision.reporter.phase.send_replace(Phase::Running);
                }
            }
            let fails_in = if version(&config) == FAILS_LATER { 10 } else { 1_000_000 };
            tokio::select! {
                () = supervision.abort.cancelled() => {}
                () = supervision.stop.cancelled() => {
                    let long = version(&config) == DRAINS_LONG;
                    let draining = sleep(Duration::from_millis(if long { 1_000_000 } else { 700 }));
                    supervision.abort.run_until_cancelled(draining).await;
                }
                () = sleep(Duration::from_secs(fails_in)) => return (failed(), None),
            }
            drop(part);
            let left = LeftTenure { claim, version: version(&config), stage: stage.clone() };
            stage.0.lock().unwrap().left += 1;
            (Exit::Stopped, Some(left))
        }
    }

    async fn close_tenure(left: LeftTenure) {
        if left.version == CLOSES_NEVER {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(200)).await;
        drop(left);
    }
}

// ---- a supervisor of them

/// Signals sent by a test.
struct Script(mpsc::Receiver<Signal>);

impl SignalSource for Script {
    async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

struct Harness {
    _home: tempfile::TempDir,
    /// The configuration directory.
    dir: PathBuf,
    stage: Stage,
    wake: Arc<Notify>,
    signals: mpsc::Sender<Signal>,
    commands: mpsc::Sender<PendingRequest>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Harness {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("configs");
        fs::create_dir(&dir).unwrap();
        Self::over(home, dir)
    }

    fn over(home: tempfile::TempDir, dir: PathBuf) -> Self {
        let (stage, wake, stop) =
            (Stage::default(), Arc::new(Notify::new()), CancellationToken::new());
        let (signals, script) = mpsc::channel(8);
        let (commands, asked) = mpsc::channel(8);
        let (nudges, towards_watcher) = watch::channel(ReloadRequests::default());
        let (sender, looks) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let environment = Environment::default();
        let watcher = Watcher::with_wake(
            ConfigFiles::Directory(dir.clone()),
            environment.clone(),
            SettledFiles::default(),
            wake.clone(),
        );
        tasks.spawn(watcher.run(towards_watcher, sender, stop.clone()));
        let manager = ServiceManager::from_environment(&environment);
        let mut supervisor =
            Supervisor::new(stage.clone(), PathBuf::from("state"), Some(dir.clone()), manager);
        let inputs = Inputs {
            signals: Script(script),
            snapshots: looks,
            control_requests: asked,
            reload_requests: nudges,
        };
        tasks.spawn(async move {
            supervisor.run(inputs).await;
        });
        wake.notify_one();
        Self { _home: home, dir, stage, wake, signals, commands, stop, tasks }
    }

    async fn ask(&self, request: Request) -> Response {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.commands.send(PendingRequest { request, reply }).await.unwrap();
        match answer.await.unwrap() {
            LoopReply::Now(answer) => answer,
            LoopReply::Later(_) => panic!("no instance here answers"),
        }
    }

    async fn status(&self) -> Status {
        match self.ask(Request::Status).await {
            Response::Status { status } => *status,
            other @ (Response::Done { .. }
            | Response::Told { .. }
            | Response::Absent { .. }
            | Response::Refused { .. }
            | Response::Silent { .. }) => panic!("{other:?}"),
        }
    }

    async fn instance(&self, name: &str) -> InstanceStatus {
        let status = self.status().await;
        let found = status.instances.iter().find(|instance| instance.name == name);
        found.cloned().unwrap_or_else(|| panic!("no {name} in {status:?}"))
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.join(file), text).unwrap();
        self.wake.notify_one();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.join(file)).unwrap();
        self.wake.notify_one();
    }

    /// Ends the supervisor and waits until everything has drained.
    async fn end(mut self) {
        self.signals.send(Signal::Terminate("SIGTERM")).await.unwrap();
        sleep(Duration::from_secs(40)).await;
        assert!(self.stage.playing().is_empty(), "something runs after the end");
        self.stage.check();
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

pub(super) fn refusal() -> PreflightError {
    let (host, expected, found) = ("node".to_owned(), 1, 2);
    let cause = Unready::WrongChain(RpcError::WrongChain { host, expected, found });
    PreflightError::Outside { on: "node".to_owned(), cause }
}

/// A file with this wallet; `version` makes the content differ.
pub(super) fn content(wallet: usize, version: u64) -> String {
    format!(
        "gateway_url = \"ws://127.0.0.1:8545\"\nkms_core_endpoint = \"http://127.0.0.1:{}\"\n\
         chain_id = 31337\ndecryption_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"\n\
         gateway_config_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa4\"\n\
         private_key = \"{:064x}\"\nretry_interval_secs = {version}\n",
        50000 + wallet,
        0x1000 + wallet,
    )
}

/// Longer than debounce, settling, checks, drains and a rescan.
const QUIET: Duration = Duration::from_secs(75);

async fn quiet() {
    sleep(QUIET).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_starts_changes_and_ends_its_instance() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    quiet().await;
    let (a, b) = (rig.instance("a").await, rig.instance("b").await);
    assert_eq!((a.state, a.generation), (InstanceState::Running, 1));

    rig.write("a.toml", &content(1, 2));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.state, a.generation, a.restarts), (InstanceState::Running, 2, 0));
    assert_eq!(rig.stage.playing()["a"].version, 2);
    assert_eq!(rig.instance("b").await, b);

    rig.remove("a.toml");
    quiet().await;
    assert_eq!(rig.stage.playing().into_keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(rig.status().await.instances.len(), 1);
    rig.end().await;
}

/// The shipped example has no wallet either.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_disabled_file_is_of_no_account() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("base.toml", "enabled = false\n");
    quiet().await;
    let status = rig.status().await;
    assert!(status.reload.problems.is_empty(), "{:?}", status.reload);
    let base = rig.instance("base").await;
    assert_eq!(base.state, InstanceState::Stopped { by: StoppedBy::File });
    assert_eq!(base.reload_failed, None);
    // The running instance ends, whatever else its file says now.
    rig.write("a.toml", "enabled = false\n");
    quiet().await;
    assert_eq!(rig.instance("a").await.state, InstanceState::Stopped { by: StoppedBy::File });
    assert!(rig.stage.playing().is_empty());
    // An unreadable file does not say that it is disabled.
    rig.write("a.toml", "nonsense");
    quiet().await;
    assert!(rig.instance("a").await.reload_failed.is_some());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_leaves_or_brings_back_what_ran() {
    for (bad, generation) in [(REFUSED, 1), (UNREACHABLE, 1), (FAILS_AT_START, 3)] {
        let rig = Harness::new();
        rig.write("a.toml", &content(1, 1));
        quiet().await;
        rig.write("a.toml", &content(1, bad));
        quiet().await;
        let a = rig.instance("a").await;
        assert_eq!((a.state, a.generation), (InstanceState::Running, generation), "{bad}");
        assert!(a.reload_failed.is_some(), "{bad}");
        assert_eq!(rig.stage.playing()["a"].version, 1, "{bad}");
        assert!(!rig.status().await.reload.problems.is_empty());

        rig.write("a.toml", &content(1, 3));
        quiet().await;
        let a = rig.instance("a").await;
        assert_eq!((a.state, a.reload_failed), (InstanceState::Running, None), "{bad}");
        assert_eq!(rig.stage.playing()["a"].version, 3, "{bad}");
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_its_change_is_checked_is_changed_all_the_same() {
    // It fails ten seconds after its start. The check takes 300 ms and begins about 1.5 s after the
    // write.
    for write_after in (8000..9500).step_by(100) {
        let rig = Harness::new();
        rig.write("a.toml", &content(1, FAILS_LATER));
        sleep(Duration::from_millis(write_after)).await;
        rig.write("a.toml", &content(1, 2));
        quiet().await;
        let a = rig.instance("a").await;
        assert_eq!((a.state, a.changing), (InstanceState::Running, false), "{write_after}");
        assert_eq!(rig.stage.playing()["a"].version, 2);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_run_is_switched_at_once() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, FAILS_AT_START));
    rig.write("b.toml", &content(2, UNREACHABLE));
    quiet().await;
    assert!(matches!(rig.instance("a").await.state, InstanceState::Parked { .. }));
    assert!(matches!(rig.instance("b").await.state, InstanceState::Waiting { .. }));
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.instance("a").await.state, InstanceState::Running);
    assert_eq!(rig.instance("b").await.state, InstanceState::Running);
    rig.end().await;
}

/// An instance that waits for its node or Core has its journal and reads the chain where it can: a file
/// that cannot run does not end it, whatever is wrong with that file.
#[tokio::test(start_paused = true)]
async fn what_waits_goes_on_while_its_file_is_bad_or_contradicts() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, UNREACHABLE));
    quiet().await;
    let before = rig.instance("a").await;
    assert!(matches!(before.state, InstanceState::Waiting { .. }), "{before:?}");
    for bad in ["nonsense", "chain_id = 0", "", &content(1, REFUSED)] {
        rig.write("a.toml", bad);
        quiet().await;
        let a = rig.instance("a").await;
        assert!(a.reload_failed.is_some() && !a.changing, "{bad}: {a:?}");
        assert_eq!((a.state, a.generation), (before.state.clone(), before.generation), "{bad}");
        assert_eq!(rig.stage.playing()["a"].version, UNREACHABLE, "{bad}");
    }
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.state, a.reload_failed), (InstanceState::Running, None));
    rig.end().await;
}

/// The same while it is being built, while it pauses after a failure, and while it is parked.
#[tokio::test(start_paused = true)]
async fn a_bad_file_ends_nothing_in_whatever_phase() {
    // Two fail, and are built again: after 5 s one pauses, after a minute it is parked.
    for (version, after_ms) in [(1, 1_530), (FAILS_AT_START, 5_000), (FAILS_AT_START, 60_000)] {
        let rig = Harness::new();
        rig.write("a.toml", &content(1, version));
        sleep(Duration::from_millis(after_ms)).await;
        let before = rig.instance("a").await;
        rig.write("a.toml", "nonsense");
        quiet().await;
        let a = rig.instance("a").await;
        assert!(a.generation >= before.generation && a.reload_failed.is_some(), "{a:?}");
        match version {
            1 => assert_eq!((a.state, a.generation), (InstanceState::Running, 1)),
            _ => assert!(
                matches!(a.state, InstanceState::Parked { retry_at_ms: Some(_), .. }),
                "{a:?}"
            ),
        }
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn exits_back_off_park_and_are_tried_again_slowly() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, FAILS_AT_START));
    quiet().await;
    let a = rig.instance("a").await;
    assert!(matches!(a.state, InstanceState::Parked { retry_at_ms: Some(_), .. }), "{a:?}");
    assert_eq!((a.generation, a.restarts), (5, 5));
    assert!(a.last_error.is_some());
    sleep(Duration::from_mins(5)).await;
    assert_eq!(rig.instance("a").await.generation, 6);

    // A restart does not wait, and resets the count of exits.
    let answer = rig.ask(Request::Restart { name: "a".into() }).await;
    assert!(matches!(answer, Response::Done { failed: true, .. }), "{answer:?}");
    assert!(matches!(rig.instance("a").await.state, InstanceState::BackingOff { .. }));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_the_same_instance() {
    let rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    fs::rename(rig.dir.join("a.toml"), rig.dir.join("z.toml")).unwrap();
    rig.wake.notify_one();
    quiet().await;
    let status = rig.status().await;
    let [z] = status.instances.as_slice() else { panic!("{status:?}") };
    assert_eq!((z.name.as_str(), z.generation, &z.state), ("z", 2, &InstanceState::Running));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn d1_the_end_waits_for_no_disk_that_hangs() {
    let mut rig = Harness::new();
    rig.write("a.toml", &content(1, CLOSES_NEVER));
    quiet().await;
    rig.signals.send(Signal::Terminate("SIGTERM")).await.unwrap();
    rig.stop.cancel();
    let ending = async { while rig.tasks.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), ending).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_at_once() {
    let mut rig = Harness::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    rig.signals.send(Signal::Terminate("SIGINT")).await.unwrap();
    rig.signals.send(Signal::Terminate("SIGINT")).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(rig.stage.playing().is_empty());
    rig.stop.cancel();
    while let Some(ended) = rig.tasks.join_next().await {
        ended.unwrap();
    }
}
