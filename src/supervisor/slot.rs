//! One instance as its supervisor sees it: its name, its generations, and what they count and leave
//! behind. A generation is one build and run of the instance. [`Standing`] decides what to do next,
//! [`view`] how the instance is shown.

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
        errors::LastError,
        history::LastHour,
        requests::Desk,
        status::{Gauges, Phase, State},
    },
};

/// A configuration to run, with its file.
pub(super) type Target = Arc<Wanted>;

/// Controls a generation under way.
#[derive(Debug)]
pub(super) struct Handles {
    /// Unique in the process.
    pub id: u64,
    pub stop: CancellationToken,
    pub abort: CancellationToken,
    pub task: AbortHandle,
    pub phase: watch::Receiver<Phase>,
    pub gauges: watch::Receiver<Gauges>,
    /// The channel for questions about its requests; `None` until it can answer.
    pub desk: watch::Receiver<Option<Desk>>,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Slot<E> {
    pub name: String,
    /// Unique in the process: a name may move to another slot.
    pub number: u64,
    file: Option<PathBuf>,
    /// Target, current state and the next action.
    pub standing: Standing<Handles>,
    /// What the last generation left, and of which wallet.
    estate: Option<(WalletClaim, E)>,
    pub generation: u64,
    /// The metrics of all generations.
    pub metrics: Metrics,
    /// The same over the last hour.
    pub last_hour: LastHour,
    restarts: u64,
    last_error: Option<LastError>,
    /// The state as last shown, and since when (Unix ms).
    shown: (State, u64),
    /// Whether something needs attention, and when that ended last (Unix ms).
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

    /// Sets the configuration to run. Returns whether it is new.
    pub fn want(&mut self, target: Target) -> bool {
        self.file.clone_from(&target.file);
        self.standing.want(target)
    }

    /// The file exists and cannot be applied: what runs continues. Returns whether the reason is
    /// new.
    pub fn keep(&mut self, file: Option<PathBuf>, why: String) -> bool {
        self.file = file;
        self.standing.keep(why)
    }

    /// Nothing should run under this name: its file is gone, or `disabled`.
    pub fn unwant(&mut self, disabled: Option<PathBuf>) {
        self.standing.unwant(disabled.is_some());
        self.file = disabled;
    }

    /// Renames the instance: what runs hands over to a generation of the new name.
    pub fn rename(&mut self, name: String) {
        self.name = name;
        self.standing.rename();
    }

    // ---- what should be, and what is

    /// The generation that runs or drains.
    pub fn run(&self) -> Option<&Handles> {
        self.standing.life.run().map(|run| &run.handles)
    }

    fn phase(&self) -> Option<Phase> {
        self.run().map(|run| run.phase.borrow().clone())
    }

    /// Returns whether the state will change by itself. A reload or a startup is complete when this
    /// is false for all instances.
    pub fn is_changing(&self) -> bool {
        self.standing.is_changing(self.phase() == Some(Phase::Starting))
    }

    /// Returns whether the next generation cannot use what the last one left; it must be closed
    /// first.
    pub fn has_foreign_estate(&self, config: &Config) -> bool {
        self.estate.as_ref().is_some_and(|(claim, _)| *claim != WalletClaim::of(config))
    }

    pub fn take_estate(&mut self) -> Option<(WalletClaim, E)> {
        self.estate.take()
    }

    // ---- what happened

    /// The running generation entered another phase.
    pub fn phase_changed(&mut self, now: Instant) {
        self.standing.phase_changed(self.phase() == Some(Phase::Running), now);
    }

    /// The result of checking a changed configuration beside the running one. Returns why it is not
    /// applied, if that reason is new.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), CheckError>,
        now: Instant,
    ) -> Option<Unapplied> {
        let is_running = self.phase() == Some(Phase::Running);
        self.standing.checked(config, result, is_running, now)
    }

    /// A generation ended. `jitter`: a number from 0 to 1.
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
        if !exit.is_stopped() {
            self.last_error = Some(LastError { at_ms: now.ms, text: exit.to_string() });
        }
        let aftermath = self.standing.ended(exit, now, jitter);
        if matches!(aftermath, Aftermath::Again(_) | Aftermath::Parked) {
            self.restarts += 1;
        }
        aftermath
    }
}
