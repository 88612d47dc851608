//! One instance as its supervisor sees it: its name, its generations, their counters, and the journal
//! they leave. A generation is one build and run of the instance. [`Lifecycle`] decides what to do
//! next, [`view`] how the instance is shown.

mod lifecycle;
mod view;

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::watch, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

pub(super) use self::lifecycle::{
    Action, AfterExit, ApplyFailure, Lifecycle, PREFLIGHT_RETRY, StopMode,
};
use self::{lifecycle::Moment, view::ShownState};
use super::claims::WalletClaim;
use crate::supervisor::config_dir::snapshot::DesiredInstance;
use crate::{
    admin::{
        history::LastHour,
        requests::Inbox,
        status::{Gauges, Phase},
    },
    config::Config,
    instance::{Exit, PreflightError},
    telemetry::{errors::LastError, metrics::Metrics},
    time::clock,
};

/// A configuration to run, with its file.
pub(super) type Target = Arc<DesiredInstance>;

/// Controls a generation under way.
#[derive(Debug)]
pub(super) struct RunHandles {
    /// Unique in the process.
    pub id: u64,
    pub stop: CancellationToken,
    pub abort: CancellationToken,
    pub task: AbortHandle,
    pub phase: watch::Receiver<Phase>,
    pub gauges: watch::Receiver<Gauges>,
    /// The channel for questions about its requests; `None` until it can answer.
    pub inbox: watch::Receiver<Option<Inbox>>,
}

/// One instance.
#[derive(Debug)]
pub(super) struct ManagedInstance<E> {
    pub name: String,
    /// Unique in the process: a name may move to another managed instance.
    pub number: u64,
    file: Option<PathBuf>,
    /// Target, current state and the next action.
    pub lifecycle: Lifecycle<RunHandles>,
    /// What the last generation left, and of which wallet.
    tenure: Option<(WalletClaim, E)>,
    pub generation: u64,
    /// The metrics of all generations.
    pub metrics: Metrics,
    /// The same over the last hour.
    pub last_hour: LastHour,
    restarts: u64,
    last_error: Option<LastError>,
    /// The state as last shown.
    shown: ShownState,
    /// Whether something needs attention, and when that ended last (Unix ms).
    trouble: (bool, u64),
}

impl<E> ManagedInstance<E> {
    pub fn new(name: String, number: u64) -> Self {
        Self {
            name,
            number,
            file: None,
            lifecycle: Lifecycle::default(),
            tenure: None,
            generation: 0,
            metrics: Metrics::new(),
            last_hour: LastHour::default(),
            restarts: 0,
            last_error: None,
            shown: ShownState::new(clock::unix_millis()),
            trouble: (false, 0),
        }
    }

    // ---- requests of files and operators

    /// Sets the configuration to run. Returns whether it is new.
    pub fn set_target(&mut self, target: Target) -> bool {
        self.file.clone_from(&target.file);
        self.lifecycle.set_target(target)
    }

    /// The file exists and cannot be applied: what runs continues. Returns whether the reason is
    /// new.
    pub fn reject_file(&mut self, file: Option<PathBuf>, why: String) -> bool {
        self.file = file;
        self.lifecycle.reject_file(why)
    }

    /// Nothing should run under this name: its file is gone, or `disabled`.
    pub fn clear_target(&mut self, disabled: Option<PathBuf>) {
        self.lifecycle.clear_target(disabled.is_some());
        self.file = disabled;
    }

    /// Renames the instance: what runs hands over to a generation of the new name.
    pub fn rename(&mut self, name: String) {
        self.name = name;
        self.lifecycle.rename();
    }

    // ---- desired and current state

    /// The generation that runs or drains.
    pub fn run(&self) -> Option<&RunHandles> {
        self.lifecycle.state.run().map(|run| &run.handles)
    }

    fn phase(&self) -> Option<Phase> {
        self.run().map(|run| run.phase.borrow().clone())
    }

    /// Returns whether the state will change by itself. A reload or a startup is complete when this
    /// is false for all instances.
    pub fn is_changing(&self) -> bool {
        self.lifecycle.is_changing(self.phase() == Some(Phase::Starting))
    }

    /// Returns whether the next generation cannot use what the last one left; it must be closed
    /// first.
    pub fn has_foreign_tenure(&self, config: &Config) -> bool {
        self.tenure.as_ref().is_some_and(|(claim, _)| *claim != WalletClaim::of(config))
    }

    pub fn take_tenure(&mut self) -> Option<(WalletClaim, E)> {
        self.tenure.take()
    }

    // ---- events

    /// The running generation entered another phase.
    pub fn phase_changed(&mut self, now: Instant) {
        self.lifecycle.phase_changed(self.phase() == Some(Phase::Running), now);
    }

    /// The result of checking a changed configuration beside the running one. Returns why it is not
    /// applied, if that reason is new.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), PreflightError>,
        now: Instant,
    ) -> Option<ApplyFailure> {
        let is_running = self.phase() == Some(Phase::Running);
        self.lifecycle.checked(config, result, is_running, now)
    }

    /// A generation ended. `jitter`: a number from 0 to 1.
    pub fn ended(
        &mut self,
        exit: &Exit,
        tenure: Option<E>,
        now: Instant,
        jitter: f64,
    ) -> AfterExit {
        let Some(run) = self.lifecycle.state.run() else { return AfterExit::AsRequested };
        self.tenure = tenure.map(|tenure| (WalletClaim::of(&run.target.config), tenure));
        let now = Moment::new(now, clock::unix_millis());
        if !exit.is_stopped() {
            self.last_error = Some(LastError { at_ms: now.unix_ms, text: exit.to_string() });
        }
        let after = self.lifecycle.ended(exit, now, jitter);
        if matches!(after, AfterExit::RestartAfter(_) | AfterExit::Parked) {
            self.restarts += 1;
        }
        after
    }
}
