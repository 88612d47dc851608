use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Environment, LoadMode, Source, load_bytes},
    instance::Failure,
    supervisor::{
        config_dir::snapshot::DesiredInstance,
        tests::{content, refusal},
    },
};

/// Configurations of one instance. The last one has another wallet.
static TARGETS: LazyLock<[Target; 4]> = LazyLock::new(|| {
    [(1, 1), (1, 2), (1, 3), (2, 4)].map(|(wallet, version)| {
        let source = Source {
            file: Some("a.toml".into()),
            environment: Environment::default(),
            credentials_directory: None,
            mode: LoadMode::Supervise,
        };
        let loaded = load_bytes(&source, content(wallet, version).as_bytes()).unwrap();
        Arc::new(DesiredInstance {
            name: "a".to_owned(),
            file: source.file,
            config: Arc::new(loaded.config),
            hash: None,
            warnings: Vec::new(),
        })
    })
});

fn target(version: usize) -> Target {
    TARGETS[version].clone()
}

fn failed() -> Exit {
    Exit::failed("start", Failure::Untold)
}

/// An instance whose actions are performed at once.
struct Play {
    standing: Lifecycle<()>,
    now: Instant,
    /// The run was asked to end.
    told: bool,
    is_running: bool,
    removed: bool,
}

impl Play {
    fn new() -> Self {
        let standing = Lifecycle::default();
        Self { standing, now: Instant::now(), told: false, is_running: false, removed: false }
    }

    /// Performs actions until there is none.
    fn settle(&mut self) {
        for _ in 0..20 {
            let (act, wake) = self.standing.next_action(self.now, false);
            match act {
                Action::Nothing => {
                    assert!(wake.is_none_or(|wake| wake > self.now), "it would turn for ever");
                    return;
                }
                Action::Start(target) => {
                    assert!(self.standing.state.run().is_none(), "one generation at a time");
                    self.standing.started(target, (), self.now);
                    (self.told, self.is_running) = (false, false);
                }
                Action::Check(target) => {
                    let run = self.standing.state.run().unwrap();
                    assert!(run.target.config != target.config);
                }
                Action::Stop(how) => {
                    self.standing.stop_requested(how, self.now);
                    self.told = true;
                }
                Action::Abort | Action::Kill => assert!(self.told),
                Action::Remove => {
                    assert!(
                        self.standing.target().is_none() && self.standing.state.run().is_none()
                    );
                    self.removed = true;
                    return;
                }
            }
        }
        panic!("it never settles: {:?}", self.standing);
    }

    fn phase(&mut self, is_running: bool) {
        if self.standing.state.run().is_some() {
            self.is_running = is_running;
            self.standing.phase_changed(is_running, self.now);
        }
    }

    fn checked(&mut self, result: Result<(), PreflightError>) -> Option<ApplyFailure> {
        let config = self.standing.config_under_check()?;
        self.standing.checked(&config, result, self.is_running, self.now)
    }

    fn ended(&mut self, exit: &Exit) -> AfterExit {
        self.standing.ended(exit, Moment::new(self.now, 1), 0.0)
    }

    fn want(&mut self, version: usize) {
        self.standing.set_target(target(version));
        self.settle();
    }

    /// The running configuration, unless it was asked to end.
    fn runs(&self) -> Option<&Arc<Config>> {
        let run = self.standing.state.run().filter(|_| !self.told)?;
        Some(&run.target.config)
    }

    /// An instance that runs `version`.
    fn running(version: usize) -> Self {
        let mut play = Self::new();
        play.want(version);
        play.phase(true);
        play
    }

    /// The running generation hands over to the approved change.
    fn hand_over(&mut self) {
        assert_eq!(self.checked(Ok(())), None);
        self.settle();
        assert_eq!(self.ended(&Exit::Stopped), AfterExit::AsRequested);
        self.settle();
    }
}

/// Its node was down at the first check. Once the change is applied, no failure is shown.
#[test]
fn a_change_that_is_applied_at_last_is_not_complained_of() {
    let mut play = Play::running(0);
    play.want(1);
    let why = play.checked(Err(PreflightError::TimedOut(Duration::ZERO))).unwrap();
    assert!(why.is_waiting && play.standing.apply_failure().is_some());
    play.settle();
    assert_eq!(play.runs(), Some(&target(0).config));
    play.now += PREFLIGHT_RETRY;
    play.settle();
    assert!(play.standing.apply_failure().is_some(), "it is only being tried again");
    play.hand_over();
    assert_eq!(play.runs(), Some(&target(1).config));
    assert_eq!(play.standing.apply_failure(), None);
}

#[test]
fn what_fails_before_it_ever_ran_gives_way_to_what_it_replaced() {
    let mut play = Play::running(0);
    play.want(1);
    play.hand_over();
    // A configuration that never ran is no fallback.
    play.want(2);
    play.hand_over();
    assert_eq!(play.runs(), Some(&target(2).config));
    assert_eq!(play.ended(&failed()), AfterExit::RolledBack);
    play.settle();
    assert_eq!(play.runs(), Some(&target(0).config));
    // The same fault is not new, and the same file is no change.
    assert!(!play.standing.set_target(target(2)));
    play.phase(true);
    play.standing.retry_rejected();
    play.settle();
    play.hand_over();
    play.phase(true);
    assert_eq!(play.ended(&failed()), AfterExit::RestartAfter(Duration::from_secs(1)));
}

/// It takes in requests, and its own configuration may be the right one.
#[test]
fn what_waits_is_ended_by_no_contradiction_but_by_a_change_that_may_run() {
    let unanswered = || Err(PreflightError::TimedOut(Duration::ZERO));
    let mut play = Play::new();
    play.want(0);
    play.want(1);
    assert!(!play.checked(Err(refusal())).unwrap().is_waiting);
    play.settle();
    assert_eq!(play.runs(), Some(&target(0).config));
    play.want(2);
    assert_eq!(play.checked(unanswered()), None, "both wait: the newer one is meant");
    play.settle();
    assert!(play.told);
    play.ended(&Exit::Stopped);
    play.settle();
    assert_eq!(play.runs(), Some(&target(2).config));
}

#[test]
fn a_restart_that_a_stop_overtook_is_not_made_up_for() {
    let mut play = Play::running(0);
    assert!(play.standing.restart() && play.standing.stop());
    play.settle();
    play.ended(&Exit::Stopped);
    play.settle();
    assert_eq!(play.standing.stopped_config(), Some(&target(0).config));
    assert!(play.standing.restart());
    play.settle();
    assert_eq!(play.runs(), Some(&target(0).config), "and it is not ended again");
}

#[derive(Clone, Debug)]
enum Op {
    Want(usize),
    Keep,
    Unwant(bool),
    Displace,
    Rename,
    Hold,
    Restart,
    TryAgain,
    Phase(bool),
    Checked(u8),
    Ended(u8),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4usize).prop_map(Op::Want),
        1 => Just(Op::Keep),
        1 => any::<bool>().prop_map(Op::Unwant),
        1 => Just(Op::Displace),
        1 => Just(Op::Rename),
        1 => Just(Op::Hold),
        2 => Just(Op::Restart),
        1 => Just(Op::TryAgain),
        4 => any::<bool>().prop_map(Op::Phase),
        3 => (0..3u8).prop_map(Op::Checked),
        3 => (0..3u8).prop_map(Op::Ended),
        2 => (0..400u64).prop_map(Op::Wait),
    ]
}

impl Play {
    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Want(version) => {
                self.standing.set_target(target(*version));
            }
            Op::Keep => {
                self.standing.reject_file("bad".to_owned());
            }
            Op::Unwant(disabled) => self.standing.clear_target(*disabled),
            Op::Displace => self.standing.displace(),
            Op::Rename => self.standing.rename(),
            Op::Hold => {
                self.standing.stop();
            }
            Op::Restart => {
                self.standing.restart();
            }
            Op::TryAgain => self.standing.retry_rejected(),
            Op::Phase(is_running) => self.phase(*is_running),
            Op::Checked(kind) => {
                self.checked(match kind {
                    0 => Ok(()),
                    1 => Err(PreflightError::TimedOut(Duration::ZERO)),
                    _ => Err(refusal()),
                });
            }
            Op::Ended(kind) => {
                self.ended(&match kind {
                    0 => Exit::Stopped,
                    1 => failed(),
                    _ => Exit::refused(Failure::Untold),
                });
            }
            Op::Wait(secs) => self.now += Duration::from_secs(*secs),
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_what_runs_is_what_should_or_is_on_its_way(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut play = Play::new();
        for op in ops {
            play.carry_out(&op);
            play.settle();
            if play.removed {
                play = Play::new();
                continue;
            }
            let standing = &play.standing;
            prop_assert_eq!(standing.current().is_some(), standing.target().is_some());
            match (play.runs(), standing.target()) {
                (Some(runs), Some(target)) => {
                    prop_assert!(*runs == target.config || standing.is_changing(false));
                }
                (Some(_), None) => prop_assert!(false, "it runs, and nobody wants it: {:?}", standing),
                (None, _) => {}
            }
            let wanted = standing.intent.config();
            if wanted.is_some_and(|wanted| play.runs() == Some(&wanted.desired.config)) {
                prop_assert_eq!(standing.apply_failure(), None, "what is applied is not complained of");
            }
        }
    }
}
