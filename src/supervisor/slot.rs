//! One instance as its supervisor sees it: its name, its generations, and what they count and leave behind.
//! What to do next is decided by its [`Standing`], how it is shown by [`view`].

mod standing;
mod view;

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::standing::Moment;
pub(super) use self::standing::{Act, Aftermath, CHECK_AGAIN, Ending, Standing, Unapplied};
use super::{directory::Wanted, plan::WalletClaim};
use crate::{
    clock,
    config::Config,
    instance::{CheckError, Exit},
    metrics::Metrics,
    observe::{
        history::LastHour,
        requests::Desk,
        status::{Gauges, LastError, Phase, State},
    },
};

/// A configuration to run, with where it came from.
pub(super) type Target = Arc<Wanted>;

/// What a generation under way is held by.
#[derive(Debug)]
pub(super) struct Handles {
    /// Unique in the process.
    pub id: u64,
    pub stop: CancellationToken,
    pub abort: CancellationToken,
    pub task: AbortHandle,
    pub phase: watch::Receiver<Phase>,
    pub gauges: watch::Receiver<Gauges>,
    /// Where it can be asked for its requests.
    pub desk: watch::Receiver<Option<Desk>>,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Slot<E> {
    pub name: String,
    /// Unique in the process: a name goes from one slot to another.
    pub number: u64,
    file: Option<PathBuf>,
    /// What it should be and what it is, and what to do next.
    pub standing: Standing<Handles>,
    /// What the last generation left, and of which wallet.
    estate: Option<(WalletClaim, E)>,
    pub generation: u64,
    /// What all generations counted.
    pub metrics: Metrics,
    /// And when, lately.
    pub last_hour: LastHour,
    restarts: u64,
    last_error: Option<LastError>,
    /// The state as last shown, and since when.
    shown: (State, u64),
    /// Whether something is amiss, and when that was over last (UNIX ms).
    troubled: (bool, u64),
}

impl<E> Slot<E> {
    pub fn new(name: String, number: u64) -> Self {
        Self {
            name,
            number,
            file: None,
            standing: Standing::default(),
            estate: None,
            generation: 0,
            metrics: Metrics::new(),
            last_hour: LastHour::default(),
            restarts: 0,
            last_error: None,
            shown: (State::Starting, clock::unix_millis()),
            troubled: (false, 0),
        }
    }

    // ---- what the files and operators say

    /// This should run. Answers whether that is news.
    pub fn want(&mut self, target: Target) -> bool {
        self.file.clone_from(&target.file);
        self.standing.want(target)
    }

    /// The file is there and cannot be applied: what ran goes on. Answers whether that is news.
    pub fn keep(&mut self, file: Option<PathBuf>, why: String) -> bool {
        self.file = file;
        self.standing.keep(why)
    }

    /// Nothing should run under this name: its file is gone, or `disabled`.
    pub fn unwant(&mut self, disabled: Option<PathBuf>) {
        self.standing.unwant(disabled.is_some());
        self.file = disabled;
    }

    /// The same instance under a new name: what runs hands over to a generation of that name.
    pub fn rename(&mut self, name: String) {
        self.name = name;
        self.standing.rename();
    }

    // ---- what should be, and what is

    /// What runs, or drains.
    pub fn run(&self) -> Option<&Handles> {
        self.standing.life.run().map(|run| &run.handles)
    }

    fn phase(&self) -> Option<Phase> {
        self.run().map(|run| run.phase.borrow().clone())
    }

    /// Whether it is on its way to another state by itself: a reload or a start is over when none
    /// of them is.
    pub fn is_changing(&self) -> bool {
        self.standing.is_changing(self.phase() == Some(Phase::Starting))
    }

    /// Whether what the last generation left is of no use to this configuration: then it has to be
    /// closed before.
    pub fn has_foreign_estate(&self, config: &Config) -> bool {
        self.estate.as_ref().is_some_and(|(claim, _)| *claim != WalletClaim::of(config))
    }

    pub fn take_estate(&mut self) -> Option<(WalletClaim, E)> {
        self.estate.take()
    }

    // ---- what happened

    /// What runs tells another phase.
    pub fn phase_changed(&mut self, now: Instant) {
        self.standing.phase_changed(self.phase() == Some(Phase::Running), now);
    }

    /// What came of checking a changed configuration beside the one that runs. Answers why it is
    /// not applied, if that is news.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), CheckError>,
        now: Instant,
    ) -> Option<Unapplied> {
        let is_running = self.phase() == Some(Phase::Running);
        self.standing.checked(config, result, is_running, now)
    }

    /// A generation is over. `jitter`: a number from 0 to 1.
    pub fn ended(
        &mut self,
        exit: &Exit,
        estate: Option<E>,
        now: Instant,
        jitter: f64,
    ) -> Aftermath {
        let Some(run) = self.standing.life.run() else { return Aftermath::AsTold };
        self.estate = estate.map(|estate| (WalletClaim::of(&run.target.config), estate));
        let now = Moment::new(now, clock::unix_millis());
        if *exit != Exit::Stopped {
            self.last_error = Some(LastError { at_ms: now.ms, text: exit.to_string() });
        }
        let aftermath = self.standing.ended(exit, now, jitter);
        if matches!(aftermath, Aftermath::Again(_) | Aftermath::Parked) {
            self.restarts += 1;
        }
        aftermath
    }
}
