use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Environment, Mode, Source, load_bytes},
    instance::Failure,
    supervisor::{
        directory::Wanted,
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
            mode: Mode::Supervise,
        };
        let loaded = load_bytes(&source, content(wallet, version).as_bytes()).unwrap();
        Arc::new(Wanted {
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
    standing: Standing<()>,
    now: Instant,
    /// The run was told to end.
    told: bool,
    is_running: bool,
    removed: bool,
}

impl Play {
    fn new() -> Self {
        let standing = Standing::default();
        Self { standing, now: Instant::now(), told: false, is_running: false, removed: false }
    }

    /// Performs actions until there is none.
    fn settle(&mut self) {
        for _ in 0..20 {
            let (act, wake) = self.standing.next(self.now, false);
            match act {
                Act::Nothing => {
                    assert!(wake.is_none_or(|wake| wake > self.now), "it would turn for ever");
                    return;
                }
                Act::Start(target) => {
                    assert!(self.standing.life.run().is_none(), "one generation at a time");
                    self.standing.started(target, (), self.now);
                    (self.told, self.is_running) = (false, false);
                }
                Act::Check(target) => {
                    let run = self.standing.life.run().unwrap();
                    assert!(run.health.has_been && run.target.config != target.config);
                }
                Act::End(how) => {
                    self.standing.ending(how, self.now);
                    self.told = true;
                }
                Act::Abort | Act::Kill => assert!(self.told),
                Act::Remove => {
                    assert!(self.standing.target().is_none() && self.standing.life.run().is_none());
                    self.removed = true;
                    return;
                }
            }
        }
        panic!("it never settles: {:?}", self.standing);
    }

    fn phase(&mut self, is_running: bool) {
        if self.standing.life.run().is_some() {
            self.is_running = is_running;
            self.standing.phase_changed(is_running, self.now);
        }
    }

    fn checked(&mut self, result: Result<(), CheckError>) -> Option<Unapplied> {
        let config = self.standing.checking()?;
        self.standing.checked(&config, result, self.is_running, self.now)
    }

    fn ended(&mut self, exit: &Exit) -> Aftermath {
        self.standing.ended(exit, Moment::new(self.now, 1), 0.0)
    }

    fn want(&mut self, version: usize) {
        self.standing.want(target(version));
        self.settle();
    }

    /// The running configuration, unless it was told to end.
    fn runs(&self) -> Option<&Arc<Config>> {
        let run = self.standing.life.run().filter(|_| !self.told)?;
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
        assert_eq!(self.ended(&Exit::Stopped), Aftermath::AsTold);
        self.settle();
    }
}

/// Its node was down at the first check. Once the change is applied, no failure is left.
#[test]
fn a_change_that_is_applied_at_last_is_not_complained_of() {
    let mut play = Play::running(0);
    play.want(1);
    let why = play.checked(Err(CheckError::Late(Duration::ZERO))).unwrap();
    assert!(why.waits && play.standing.unapplied().is_some());
    play.settle();
    assert_eq!(play.runs(), Some(&target(0).config));
    play.now += CHECK_AGAIN;
    play.settle();
    assert!(play.standing.unapplied().is_some(), "it is only being tried again");
    play.hand_over();
    assert_eq!(play.runs(), Some(&target(1).config));
    assert_eq!(play.standing.unapplied(), None);
}

#[test]
fn what_fails_before_it_ever_ran_gives_way_to_what_it_replaced() {
    let mut play = Play::running(0);
    play.want(1);
    play.hand_over();
    // A configuration that never ran is no fallback.
    play.want(2);
    assert_eq!(play.ended(&Exit::Stopped), Aftermath::AsTold);
    play.settle();
    assert_eq!(play.runs(), Some(&target(2).config));
    assert_eq!(play.ended(&failed()), Aftermath::RolledBack);
    play.settle();
    assert_eq!(play.runs(), Some(&target(0).config));
    // The same fault is not new, and the same file is no change.
    assert!(!play.standing.want(target(2)));
    play.phase(true);
    play.standing.try_again();
    play.settle();
    play.hand_over();
    play.phase(true);
    assert_eq!(play.ended(&failed()), Aftermath::Again(Duration::from_secs(1)));
}

#[test]
fn a_restart_that_a_stop_overtook_is_not_made_up_for() {
    let mut play = Play::running(0);
    assert!(play.standing.restart() && play.standing.hold());
    play.settle();
    play.ended(&Exit::Stopped);
    play.settle();
    assert_eq!(play.standing.stopped(), Some(&target(0).config));
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
                self.standing.want(target(*version));
            }
            Op::Keep => {
                self.standing.keep("bad".to_owned());
            }
            Op::Unwant(disabled) => self.standing.unwant(*disabled),
            Op::Displace => self.standing.displace(),
            Op::Rename => self.standing.rename(),
            Op::Hold => {
                self.standing.hold();
            }
            Op::Restart => {
                self.standing.restart();
            }
            Op::TryAgain => self.standing.try_again(),
            Op::Phase(is_running) => self.phase(*is_running),
            Op::Checked(kind) => {
                self.checked(match kind {
                    0 => Ok(()),
                    1 => Err(CheckError::Late(Duration::ZERO)),
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
            let course = standing.intent.course();
            if course.is_some_and(|course| play.runs() == Some(&course.wanted.config)) {
                prop_assert_eq!(standing.unapplied(), None, "what is applied is not complained of");
            }
        }
    }
}
