//! The loop over a real directory, with instances that only pretend and a clock that jumps.
//!
//! Instances tell the [`Stage`] when they start and end. What a file says is judged by a model that
//! knows nothing of plans and slots: after a quiet while each valid file's content runs (or waits for a
//! bad one's instance that has its wallet), a broken one's last good content does, and who was not
//! touched was not disturbed.

mod watchdog;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::prelude::*;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Inputs, Instances, SignalSource, Supervisor,
    control::{self, Answer, Asked, Request},
    directory::{Files, Settled},
    lifecycle::Signal,
    plan::WalletClaim,
    service_manager::ServiceManager,
    watcher::{Nudges, Watcher},
};
use crate::{
    config::{Config, Environment},
    instance::{CheckError, Exit, Supervision},
    observe::status::{InstanceStatus, Phase, State, Status, StoppedBy},
};

// ---- instances that pretend

/// One generation that a supervisor started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Playing {
    name: String,
    /// Counts starts of all instances.
    number: u64,
    version: u64,
}

/// Where instances tell that they are up.
#[derive(Clone, Debug, Default)]
struct Stage(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    starts: u64,
    playing: Vec<(WalletClaim, Playing)>,
    /// Estates that nobody has taken over or closed.
    left: usize,
    wrongs: Vec<String>,
}

/// What an instance leaves: the journal it had open.
#[derive(Debug)]
struct Left {
    claim: WalletClaim,
    stage: Stage,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.stage.0.lock().unwrap().left -= 1;
    }
}

/// Ends a part when the instance's future is dropped, too.
struct Part {
    stage: Stage,
    number: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.stage.0.lock().unwrap().playing.retain(|(_, playing)| playing.number != self.number);
    }
}

/// Contents by their version: most are healthy.
const REFUSED: u64 = 101;
const UNREACHABLE: u64 = 102;
const FAILS_AT_START: u64 = 103;
const FAILS_LATER: u64 = 104;
/// Finishes nothing of what is in hand before it is aborted.
const DRAINS_LONG: u64 = 105;
/// What it needs does not answer at all.
const BLACK_HOLE: u64 = 106;

fn version(config: &Config) -> u64 {
    config.retry_interval.as_secs()
}

impl Stage {
    fn enter(&self, name: &str, config: &Config, left: Option<Left>) -> Part {
        let claim = WalletClaim::of(config);
        let mut board = self.0.lock().unwrap();
        board.starts += 1;
        let number = board.starts;
        if let Some((_, other)) = board.playing.iter().find(|(held, _)| *held == claim) {
            let wrong = format!("{name} started while {} had its wallet", other.name);
            board.wrongs.push(wrong);
        }
        if let Some(left) = left {
            if left.claim != claim {
                board.wrongs.push(format!("{name} was given another wallet's journal"));
            }
            drop(board);
            drop(left);
            board = self.0.lock().unwrap();
        }
        let playing = Playing { name: name.to_owned(), number, version: version(config) };
        board.playing.push((claim, playing));
        Part { stage: self.clone(), number }
    }

    fn playing(&self) -> BTreeMap<String, Playing> {
        let board = self.0.lock().unwrap();
        board.playing.iter().map(|(_, one)| (one.name.clone(), one.clone())).collect()
    }

    fn check(&self) {
        let board = self.0.lock().unwrap();
        assert!(board.wrongs.is_empty(), "{:?}", board.wrongs);
        assert_eq!(board.left, 0, "journals are open and nobody's");
    }
}

impl Instances for Stage {
    type Estate = Left;

    #[expect(clippy::manual_async_fn, reason = "as in the trait")]
    fn check(
        &self,
        config: Arc<Config>,
    ) -> impl Future<Output = Result<(), CheckError>> + Send + 'static {
        async move {
            sleep(Duration::from_millis(300)).await;
            match version(&config) {
                REFUSED => Err(CheckError::Refused("wrong chain".into())),
                UNREACHABLE => Err(CheckError::Unreachable("no answer".into())),
                BLACK_HOLE => std::future::pending().await,
                _ => Ok(()),
            }
        }
    }

    fn run(
        &self,
        config: Arc<Config>,
        supervision: Supervision,
        left: Option<Left>,
    ) -> impl Future<Output = (Exit, Option<Left>)> + Send + 'static {
        let stage = self.clone();
        async move {
            let claim = WalletClaim::of(&config);
            let part = stage.enter(&supervision.name, &config, left);
            sleep(Duration::from_millis(50)).await;
            let failed = || Exit::Failed { task: "start", error: "it fails".into() };
            match version(&config) {
                FAILS_AT_START => return (failed(), None),
                REFUSED => return (Exit::Refused { why: "wrong chain".into() }, None),
                UNREACHABLE => {
                    let (on, why) = ("the node".into(), "no answer".into());
                    supervision.reporter.phase.send_replace(Phase::Waiting { on, why });
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
            let left = Left { claim, stage: stage.clone() };
            stage.0.lock().unwrap().left += 1;
            (Exit::Stopped, Some(left))
        }
    }

    async fn close(left: Left) {
        sleep(Duration::from_millis(200)).await;
        drop(left);
    }
}

// ---- a supervisor of them

/// Signals of a test.
struct Script(mpsc::Receiver<Signal>);

impl SignalSource for Script {
    async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

struct Rig {
    _home: tempfile::TempDir,
    /// The configuration directory.
    dir: PathBuf,
    stage: Stage,
    wake: Arc<Notify>,
    signals: mpsc::Sender<Signal>,
    commands: mpsc::Sender<Asked>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Rig {
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
        let (nudges, towards_watcher) = watch::channel(Nudges::default());
        let (sender, looks) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let environment = Environment::default();
        let watcher = Watcher::woken_by(
            Files::Directory(dir.clone()),
            environment.clone(),
            Settled::default(),
            wake.clone(),
        );
        tasks.spawn(watcher.run(towards_watcher, sender, stop.clone()));
        let manager = ServiceManager::of(&environment);
        let mut supervisor =
            Supervisor::new(stage.clone(), PathBuf::from("state"), Some(dir.clone()), manager);
        let inputs = Inputs { signals: Script(script), looks, asked, nudges };
        tasks.spawn(async move {
            supervisor.run(inputs).await;
        });
        wake.notify_one();
        Self { _home: home, dir, stage, wake, signals, commands, stop, tasks }
    }

    async fn ask(&self, request: Request) -> Answer {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.commands.send(Asked { request, reply }).await.unwrap();
        answer.await.unwrap()
    }

    async fn status(&self) -> Status {
        match self.ask(Request::Status).await {
            Answer::Status { status } => *status,
            other @ (Answer::Done { .. }
            | Answer::Told { .. }
            | Answer::Absent { .. }
            | Answer::Refused { .. }
            | Answer::Silent { .. }) => panic!("{other:?}"),
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

    /// Ends the supervisor and lets everything drain.
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

/// A file of this wallet; `version` makes it another content.
fn content(wallet: usize, version: u64) -> String {
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
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    quiet().await;
    let (a, b) = (rig.instance("a").await, rig.instance("b").await);
    assert_eq!((a.state, a.generation), (State::Running, 1));

    rig.write("a.toml", &content(1, 2));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.state, a.generation, a.restarts), (State::Running, 2, 0));
    assert_eq!(rig.stage.playing()["a"].version, 2);
    assert_eq!(rig.instance("b").await, b);

    rig.remove("a.toml");
    quiet().await;
    assert_eq!(rig.stage.playing().into_keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(rig.status().await.instances.len(), 1);
    rig.end().await;
}

/// As the example is that is shipped: it has no wallet either.
#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_disabled_file_is_of_no_account() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("base.toml", "enabled = false\n");
    quiet().await;
    let status = rig.status().await;
    assert!(status.reload.problems.is_empty(), "{:?}", status.reload);
    let base = rig.instance("base").await;
    assert_eq!(base.state, State::Stopped { by: StoppedBy::File });
    assert_eq!(base.reload_failed, None);
    // What ran ends, whatever else its file says now.
    rig.write("a.toml", "enabled = false\n");
    quiet().await;
    assert_eq!(rig.instance("a").await.state, State::Stopped { by: StoppedBy::File });
    assert!(rig.stage.playing().is_empty());
    // Who says nothing that can be read does not say that it is disabled.
    rig.write("a.toml", "nonsense");
    quiet().await;
    assert!(rig.instance("a").await.reload_failed.is_some());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_leaves_or_brings_back_what_ran() {
    for (bad, generation) in [(REFUSED, 1), (UNREACHABLE, 1), (FAILS_AT_START, 3)] {
        let rig = Rig::new();
        rig.write("a.toml", &content(1, 1));
        quiet().await;
        rig.write("a.toml", &content(1, bad));
        quiet().await;
        let a = rig.instance("a").await;
        assert_eq!((a.state, a.generation), (State::Running, generation), "{bad}");
        assert!(a.reload_failed.is_some(), "{bad}");
        assert_eq!(rig.stage.playing()["a"].version, 1, "{bad}");
        assert!(!rig.status().await.reload.problems.is_empty());

        rig.write("a.toml", &content(1, 3));
        quiet().await;
        let a = rig.instance("a").await;
        assert_eq!((a.state, a.reload_failed), (State::Running, None), "{bad}");
        assert_eq!(rig.stage.playing()["a"].version, 3, "{bad}");
        rig.end().await;
    }
}

/// Half of them for all, half for the one whose new configuration is tried for twenty seconds.
#[tokio::test(start_paused = true)]
async fn d6_fifty_reloads_at_once_all_end_and_a_good_file_is_not_blamed() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    rig.write("a.toml", &content(1, BLACK_HOLE));
    let path = rig.dir.with_file_name("control.sock");
    let candidates = control::candidates(Some(&path), &Environment::default(), &rig.dir);
    let listener = control::Listener::bind(&candidates).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(listener.serve(rig.commands.clone(), rig.stop.clone()));
    let mut asking = JoinSet::new();
    for number in 0..50 {
        let request = Request::Reload { name: (number % 2 == 0).then(|| "a".to_owned()) };
        let candidates = candidates.clone();
        asking.spawn(async move {
            control::ask(&candidates, &request, Duration::from_secs(30)).await.unwrap()
        });
    }
    for answer in asking.join_all().await {
        let Answer::Done { lines, failed } = answer else { panic!("{answer:?}") };
        assert!(failed && lines[0].contains("waits") && !lines[0].contains("failed"), "{lines:?}");
    }
    let a = rig.instance("a").await;
    assert!(a.state == State::Running && a.reload_failed.is_some() && a.reload_waits, "{a:?}");
    // What is wrong in a file is its own matter.
    rig.write("a.toml", "nonsense");
    quiet().await;
    let a = rig.instance("a").await;
    assert!(a.reload_failed.is_some() && !a.reload_waits, "{a:?}");
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.reload_failed, a.reload_waits, a.generation), (None, false, 2));
    rig.end().await;
    tasks.join_all().await;
}

/// An unmounted directory; `reload` of one instance, SIGHUP, and then of all.
#[tokio::test(start_paused = true)]
async fn d2_only_a_whole_reload_ends_what_a_vanished_directory_had_and_says_whom() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    quiet().await;
    fs::remove_dir_all(&rig.dir).unwrap();
    fs::create_dir(&rig.dir).unwrap();
    let reload = async |name: Option<&str>| {
        let name = name.map(str::to_owned);
        match rig.ask(Request::Reload { name }).await {
            Answer::Done { lines, failed } => (lines.join("\n"), failed),
            other @ (Answer::Status { .. }
            | Answer::Told { .. }
            | Answer::Absent { .. }
            | Answer::Refused { .. }
            | Answer::Silent { .. }) => panic!("{other:?}"),
        }
    };
    for name in [Some("b"), None, Some("a")] {
        if name.is_none() {
            rig.signals.send(Signal::Reload).await.unwrap();
            quiet().await;
            continue;
        }
        let (told, failed) = reload(name).await;
        assert!(failed && told.contains("another directory"), "{told}");
        assert_eq!(rig.status().await.instances.len(), 2);
        assert_eq!(rig.instance("a").await.state, State::Running);
    }
    let (told, failed) = reload(None).await;
    assert!(!failed && told.contains("a has ended") && told.contains("b has ended"), "{told}");
    assert!(rig.status().await.instances.is_empty());
    rig.end().await;
}

/// A slip in one file, and a forgotten copy of it with another Core.
#[tokio::test(start_paused = true)]
async fn d3_a_slip_gives_no_wallet_to_a_forgotten_copy() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    rig.write("old-a.toml", &content(1, 2).replace("50001", "50009"));
    quiet().await;
    rig.write("a.toml", &(content(1, 1) + "x = "));
    quiet().await;
    let a = rig.instance("a").await;
    assert!(a.state == State::Running && a.reload_failed.is_some(), "{a:?}");
    assert!(rig.instance("old-a").await.reload_failed.unwrap().contains("instance a"));
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    let a = rig.instance("a").await;
    assert_eq!((a.state, a.reload_failed, a.generation), (State::Running, None, 1));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_its_change_is_checked_is_changed_all_the_same() {
    // It fails ten seconds after its start; the check takes 300 ms, and begins about 1.5 s after
    // the write.
    for write_after in (8000..9500).step_by(100) {
        let rig = Rig::new();
        rig.write("a.toml", &content(1, FAILS_LATER));
        sleep(Duration::from_millis(write_after)).await;
        rig.write("a.toml", &content(1, 2));
        quiet().await;
        let a = rig.instance("a").await;
        assert_eq!((a.state, a.changing), (State::Running, false), "{write_after}");
        assert_eq!(rig.stage.playing()["a"].version, 2);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_run_is_switched_at_once() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, FAILS_AT_START));
    rig.write("b.toml", &content(2, UNREACHABLE));
    quiet().await;
    assert!(matches!(rig.instance("a").await.state, State::Parked { .. }));
    assert!(matches!(rig.instance("b").await.state, State::Waiting { .. }));
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.instance("a").await.state, State::Running);
    assert_eq!(rig.instance("b").await.state, State::Running);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn exits_back_off_park_and_are_tried_again_slowly() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, FAILS_AT_START));
    quiet().await;
    let a = rig.instance("a").await;
    assert!(matches!(a.state, State::Parked { retry_at_ms: Some(_), .. }), "{a:?}");
    assert_eq!((a.generation, a.restarts), (5, 5));
    assert!(a.last_error.is_some());
    sleep(Duration::from_mins(5)).await;
    assert_eq!(rig.instance("a").await.generation, 6);

    // An operator does not wait, and the count begins anew.
    let answer = rig.ask(Request::Restart { name: "a".into() }).await;
    assert!(matches!(answer, Answer::Done { failed: true, .. }), "{answer:?}");
    assert!(matches!(rig.instance("a").await.state, State::BackingOff { .. }));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_stops_and_restarts() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    rig.write("b.toml", &content(2, 1));
    quiet().await;
    let stop = |name: &str| Request::Stop { name: name.to_owned() };
    let answer = rig.ask(stop("a")).await;
    let lines = vec!["a: stopped by operator".to_owned()];
    assert_eq!(answer, Answer::Done { lines, failed: false });
    // Rewritten unchanged it stays down; a restart, or a change, brings it up.
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    assert_eq!(rig.instance("a").await.state, State::Stopped { by: StoppedBy::Operator });
    let answer = rig.ask(Request::Restart { name: "a".into() }).await;
    let lines = vec!["a: running, generation 2".to_owned()];
    assert_eq!(answer, Answer::Done { lines, failed: false });
    rig.ask(stop("a")).await;
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    assert_eq!(rig.instance("a").await.state, State::Running);
    let answer = rig.ask(stop("c")).await;
    assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
    assert_eq!(rig.instance("b").await.generation, 1);
    rig.end().await;
}

/// Two operators at once: who lost hears it.
#[tokio::test(start_paused = true)]
async fn d6_a_restart_beaten_by_a_stop_says_so_and_the_other_way_round() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    let restart = || Request::Restart { name: "a".into() };
    let stop = || Request::Stop { name: "a".into() };
    let (restarted, stopped) = tokio::join!(rig.ask(restart()), rig.ask(stop()));
    let lines = vec!["a: stopped by operator".to_owned()];
    assert_eq!(stopped, Answer::Done { lines, failed: false });
    let Answer::Done { lines, failed: true } = restarted else { panic!("{restarted:?}") };
    assert!(lines[0].contains("`stop` came after"), "{lines:?}");
    // And the restart that was overtaken is not made up for later.
    rig.ask(restart()).await;
    quiet().await;
    assert_eq!(rig.instance("a").await.generation, 2);

    let (stopped, restarted) = tokio::join!(rig.ask(stop()), rig.ask(restart()));
    assert!(matches!(restarted, Answer::Done { failed: false, .. }), "{restarted:?}");
    let Answer::Done { lines, failed: true } = stopped else { panic!("{stopped:?}") };
    assert!(lines[0].contains("`restart`"), "{lines:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn reload_answers_when_everything_is_applied() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    fs::write(rig.dir.join("a.toml"), content(1, 2)).unwrap();
    fs::write(rig.dir.join("b.toml"), "nonsense").unwrap();
    let answer = rig.ask(Request::Reload { name: None }).await;
    let Answer::Done { lines, failed: true } = answer else { panic!("{answer:?}") };
    assert_eq!(lines[0], "a: running, generation 2");
    assert!(lines[1].starts_with("b: parked"), "{lines:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_wallet_has_one_owner() {
    let rig = Rig::new();
    rig.write("b.toml", &content(1, 1));
    quiet().await;
    rig.write("a.toml", &content(1, 2));
    quiet().await;
    assert_eq!(rig.stage.playing()["b"].version, 1);
    let a = rig.instance("a").await;
    assert!(matches!(a.state, State::Parked { .. }), "{a:?}");
    assert!(a.reload_failed.unwrap().contains("instance b"));

    // Swapped wallets wait for each other.
    rig.write("a.toml", &content(2, 1));
    quiet().await;
    rig.write("a.toml", &content(1, 3));
    rig.write("b.toml", &content(2, 3));
    quiet().await;
    let playing = rig.stage.playing();
    assert_eq!((playing["a"].version, playing["b"].version), (3, 3));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_renamed_file_is_the_same_instance() {
    let rig = Rig::new();
    rig.write("a.toml", &content(1, 1));
    quiet().await;
    fs::rename(rig.dir.join("a.toml"), rig.dir.join("z.toml")).unwrap();
    rig.wake.notify_one();
    quiet().await;
    let status = rig.status().await;
    let [z] = status.instances.as_slice() else { panic!("{status:?}") };
    assert_eq!((z.name.as_str(), z.generation, &z.state), ("z", 2, &State::Running));
    rig.end().await;
}

mod renames;

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_at_once() {
    let mut rig = Rig::new();
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

// ---- whatever is done to the directory

#[derive(Clone, Debug)]
enum Op {
    /// Writes the file in place.
    Write {
        file: usize,
        version: u64,
    },
    /// Writes beside it and renames over it.
    Replace {
        file: usize,
        version: u64,
    },
    /// Removes it, and creates it a moment later.
    Recreate {
        file: usize,
        version: u64,
    },
    /// Half of it, a moment, the rest.
    WriteSlowly {
        file: usize,
        version: u64,
    },
    Break {
        file: usize,
    },
    /// The same bytes again.
    Touch {
        file: usize,
    },
    Remove {
        file: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    /// The whole directory is gone for a while.
    Vanish,
    /// Nothing for so long that everything has come to rest.
    Rest,
}

const FILES: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    let file = 0..FILES;
    let edit = || (0..FILES, prop_oneof![6 => 1u64..50, 1 => Just(DRAINS_LONG)]);
    prop_oneof![
        4 => edit().prop_map(|(file, version)| Op::Write { file, version }),
        3 => edit().prop_map(|(file, version)| Op::Replace { file, version }),
        2 => edit().prop_map(|(file, version)| Op::Recreate { file, version }),
        2 => edit().prop_map(|(file, version)| Op::WriteSlowly { file, version }),
        2 => file.clone().prop_map(|file| Op::Break { file }),
        1 => file.clone().prop_map(|file| Op::Touch { file }),
        2 => file.clone().prop_map(|file| Op::Remove { file }),
        2 => (file.clone(), file).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => Just(Op::Vanish),
        3 => Just(Op::Rest),
    ]
}

/// What the model knows of a file: whose wallet it has, and what it says if it is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Paper {
    wallet: usize,
    version: Option<u64>,
}

/// The files as they are, and what may run for them.
#[derive(Debug, Default)]
struct Model {
    /// Handed out so far; never twice.
    wallets: usize,
    papers: BTreeMap<usize, Paper>,
    /// What each file may have been seen saying, at the last rest and since.
    seen: BTreeMap<usize, BTreeSet<u64>>,
    /// Changed since the last rest.
    touched: BTreeSet<usize>,
    /// There all the time since the last rest, when its instance ran.
    kept: BTreeSet<usize>,
    rested: BTreeMap<usize, (Playing, InstanceStatus)>,
}

fn name(file: usize) -> String {
    format!("config-{file}")
}

impl Model {
    /// The text of a file that says `version`, or nonsense.
    fn write(&mut self, file: usize, version: Option<u64>) -> String {
        let known = self.papers.get(&file).map(|paper| paper.wallet);
        let wallet = known.unwrap_or_else(|| {
            self.wallets += 1;
            self.wallets
        });
        let paper = Paper { wallet, version };
        if self.papers.insert(file, paper.clone()) != Some(paper) {
            self.touched.insert(file);
        }
        self.seen.entry(file).or_default().extend(version);
        version.map_or_else(|| "gateway_url = ".to_owned(), |version| content(wallet, version))
    }

    fn remove(&mut self, file: usize) {
        self.papers.remove(&file);
        self.touched.insert(file);
        self.kept.remove(&file);
    }

    fn rename(&mut self, from: usize, to: usize) {
        let Some(paper) = self.papers.get(&from).cloned() else { return };
        let mut seen = self.seen.get(&from).cloned().unwrap_or_default();
        seen.extend(self.seen.get(&to).into_iter().flatten());
        self.remove(from);
        self.papers.insert(to, paper);
        self.seen.insert(to, seen);
        self.touched.insert(to);
        // Its wallet is another one now, and its own may turn up under another name.
        self.kept.remove(&to);
    }

    /// Holds what runs against what the files say.
    fn rest(&mut self, playing: &BTreeMap<String, Playing>, status: &Status) {
        let mut left = playing.clone();
        let instance = |file| status.instances.iter().find(|one| one.name == name(file));
        let mut rested = BTreeMap::new();
        for (&file, paper) in &self.papers {
            let plays = left.remove(&name(file));
            match (&plays, paper.version) {
                (None, Some(_)) if waits_for_bad(&name(file), status) => {}
                (Some(plays), Some(version)) if !waits_for_bad(&name(file), status) => {
                    assert_eq!(plays.version, version, "{status:?}");
                }
                (None, Some(_)) => panic!("{} does not run: {status:?}", name(file)),
                (Some(plays), None | Some(_)) => {
                    let seen = &self.seen[&file];
                    assert!(seen.contains(&plays.version), "{plays:?} was never {seen:?}");
                }
                (None, None) => {
                    assert!(!self.kept.contains(&file), "{} was ended: {status:?}", name(file));
                }
            }
            let now = instance(file).expect("every file has its line").clone();
            let is_amiss = paper.version.is_none() || waits_for_bad(&name(file), status);
            assert_eq!(now.reload_failed.is_some(), is_amiss, "{now:?}");
            let Some(plays) = plays else { continue };
            if let Some((before, was)) = self.rested.get(&file)
                && !self.touched.contains(&file)
            {
                assert_eq!(&plays, before, "it was disturbed");
                assert_eq!((now.generation, now.since_ms), (was.generation, was.since_ms));
            }
            rested.insert(file, (plays, now));
        }
        assert!(left.is_empty(), "{left:?} run without a file");
        assert!(status.instances.len() == self.papers.len(), "{status:?}");
        self.seen =
            rested.iter().map(|(file, (plays, _))| (*file, [plays.version].into())).collect();
        for (file, paper) in &self.papers {
            self.seen.entry(*file).or_default().extend(paper.version);
        }
        self.kept = rested.keys().copied().collect();
        self.touched.clear();
        self.rested = rested;
    }
}

/// Whether an instance has to wait for the wallet that its file says, because one whose own file cannot be
/// applied has it, and keeps it.
fn waits_for_bad(name: &str, status: &Status) -> bool {
    let why_not = |name: &str| {
        let found = status.instances.iter().find(|one| one.name == name);
        found.and_then(|one| one.reload_failed.as_deref())
    };
    let holder = why_not(name).and_then(|why| why.split_once("that of instance "));
    let holder = holder.and_then(|(_, rest)| rest.split(':').next());
    holder.is_some_and(|holder| why_not(holder).is_some())
}

/// The directory as an editor or a Kubernetes volume writes it.
struct Desk {
    dir: PathBuf,
    wake: Arc<Notify>,
    /// Files are links into `..data`, which is itself a link and swapped as a whole.
    config_map: bool,
    swaps: u64,
}

impl Desk {
    fn file(file: usize) -> String {
        format!("{}.toml", name(file))
    }

    /// Changes the files of the directory, and tells the watcher of it, perhaps.
    fn change(&mut self, wakes: bool, change: impl FnOnce(&Path)) {
        if self.config_map {
            self.swap(change);
        } else {
            change(&self.dir);
        }
        if wakes {
            self.wake.notify_one();
        }
    }

    fn swap(&mut self, change: impl FnOnce(&Path)) {
        let old = self.dir.join(format!("..{}", self.swaps));
        self.swaps += 1;
        let target = format!("..{}", self.swaps);
        let new = self.dir.join(&target);
        fs::create_dir(&new).unwrap();
        if old.exists() {
            for entry in fs::read_dir(&old).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), new.join(entry.file_name())).unwrap();
            }
        }
        change(&new);
        symlink(&target, self.dir.join("..swap")).unwrap();
        fs::rename(self.dir.join("..swap"), self.dir.join("..data")).unwrap();
        for file in (0..FILES).map(Self::file) {
            let link = self.dir.join(&file);
            let is_linked = fs::symlink_metadata(&link).is_ok();
            match (new.join(&file).exists(), is_linked) {
                (true, false) => symlink(format!("..data/{file}"), &link).unwrap(),
                (false, true) => fs::remove_file(&link).unwrap(),
                (true, true) | (false, false) => {}
            }
        }
        let _first_time = fs::remove_dir_all(&old);
    }

    async fn carry_out(&mut self, op: Op, wakes: bool, model: &mut Model) {
        let moment = Duration::from_millis(fastrand::u64(10..400));
        match op {
            Op::Write { file, version } => {
                let text = model.write(file, Some(version));
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Replace { file, version } => {
                let text = model.write(file, Some(version));
                self.change(wakes, |dir| {
                    fs::write(dir.join(".draft"), text).unwrap();
                    fs::rename(dir.join(".draft"), dir.join(Self::file(file))).unwrap();
                });
            }
            Op::Recreate { file, version } => {
                let text = model.write(file, Some(version));
                if !self.config_map {
                    let _new = fs::remove_file(self.dir.join(Self::file(file)));
                    self.wake.notify_one();
                    sleep(moment).await;
                }
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::WriteSlowly { file, version } => {
                let text = model.write(file, Some(version));
                if !self.config_map {
                    let half = &text[..text.len() / 2];
                    fs::write(self.dir.join(Self::file(file)), half).unwrap();
                    self.wake.notify_one();
                    sleep(moment).await;
                }
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Break { file } => {
                let text = model.write(file, None);
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Touch { file } => {
                let Some(version) = model.papers.get(&file).map(|paper| paper.version) else {
                    return;
                };
                let text = model.write(file, version);
                self.change(wakes, |dir| fs::write(dir.join(Self::file(file)), text).unwrap());
            }
            Op::Remove { file } => {
                model.remove(file);
                self.change(wakes, |dir| {
                    let _none = fs::remove_file(dir.join(Self::file(file)));
                });
            }
            Op::Rename { from, to } => {
                if from != to && model.papers.contains_key(&from) {
                    model.rename(from, to);
                    self.change(wakes, |dir| {
                        fs::rename(dir.join(Self::file(from)), dir.join(Self::file(to))).unwrap();
                    });
                }
            }
            Op::Vanish => {
                let away = self.dir.with_extension("away");
                fs::rename(&self.dir, &away).unwrap();
                self.wake.notify_one();
                sleep(Duration::from_secs(fastrand::u64(1..50))).await;
                fs::rename(&away, &self.dir).unwrap();
                self.change(wakes, |_| {});
            }
            Op::Rest => {}
        }
    }
}

async fn whatever_is_done(config_map: bool, ops: Vec<(Op, u64, bool)>) {
    let rig = Rig::new();
    let mut desk = Desk { dir: rig.dir.clone(), wake: rig.wake.clone(), config_map, swaps: 0 };
    let mut model = Model::default();
    for (op, pause, wakes) in ops {
        let rests = matches!(op, Op::Rest);
        desk.carry_out(op, wakes, &mut model).await;
        sleep(Duration::from_millis(pause)).await;
        if rests {
            quiet().await;
            model.rest(&rig.stage.playing(), &rig.status().await);
        }
    }
    quiet().await;
    model.rest(&rig.stage.playing(), &rig.status().await);
    rig.stage.check();
    rig.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_runs_is_what_the_files_say(
        config_map in any::<bool>(),
        ops in prop::collection::vec((op(), 0u64..3000, prop::bool::weighted(0.8)), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(whatever_is_done(config_map, ops));
    }
}
