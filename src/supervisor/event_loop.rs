//! The loop: waits for the next event and handles it. [`actions`](super::actions) carries out what
//! follows.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    ActiveRun, InstanceRunner, NotifyState, PreflightResult, RunResult, Supervisor,
    control::PendingRequest,
    managed::{self, AfterExit, ApplyFailure},
    restart,
    signals::{DRAIN_LIMIT, Signal, Signals},
};
use crate::supervisor::config_dir::{snapshot::ConfigSnapshot, watch::ReloadRequests};
use crate::{
    admin::status::Phase,
    instance::{self, Exit, PreflightError},
    telemetry::errors::UNAPPLIED,
    time::clock,
};

/// How long shutdown waits for journals to close: their disk may hang.
const CLOSE_DEADLINE: Duration = Duration::from_secs(15);
/// The longest time between two turns of the loop.
const TICK: Duration = Duration::from_secs(10);
/// The same while the HTTP listener shows the loop's state.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// The sources of the loop's events.
pub(crate) struct Inputs<S> {
    pub signals: S,
    pub snapshots: mpsc::Receiver<ConfigSnapshot>,
    pub control_requests: mpsc::Receiver<PendingRequest>,
    /// Asks the watcher to read the files now.
    pub reload_requests: watch::Sender<ReloadRequests>,
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

impl<I: InstanceRunner> Supervisor<I> {
    /// Runs until a signal asks it to end and every run has ended.
    pub(super) async fn run(&mut self, mut inputs: Inputs<impl SignalSource>) -> Exit {
        let turn = if self.publisher.is_some() { PUBLISH_INTERVAL } else { TICK };
        let feed_every = self.manager.watchdog_interval().unwrap_or(turn).min(turn);
        let mut feeding = interval(feed_every);
        feeding.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut close_by: Option<Instant> = None;
        loop {
            let mut wake = self.drive();
            self.publish();
            wake = wake.into_iter().chain(self.next_reply_at()).min();
            if self.is_stopping && self.runs.is_empty() {
                let close_by = *close_by.get_or_insert_with(|| Instant::now() + CLOSE_DEADLINE);
                if self.closing_tasks.is_empty() || Instant::now() >= close_by {
                    if !self.closing_tasks.is_empty() {
                        warn!("the disk of a journal does not answer: the process ends without it");
                    }
                    info!("stopped");
                    return self.final_exit.take().unwrap_or(Exit::Stopped);
                }
                wake = wake.into_iter().chain([close_by]).min();
            }
            tokio::select! {
                signal = inputs.signals.next() => self.on_signal(signal, &inputs.reload_requests),
                Some(look) = inputs.snapshots.recv(), if !self.is_stopping => self.apply(look),
                Some(asked) = inputs.control_requests.recv() => self.on_request(asked, &inputs.reload_requests),
                Some(ended) = self.runs.join_next_with_id() => self.on_ended(ended),
                Some(checked) = self.preflights.join_next() => self.on_preflight(checked),
                Some(changed) = self.phases.join_next() => self.on_phase_changed(changed),
                Some(closed) = self.closing_tasks.join_next_with_id() => self.on_closed(&closed),
                () = sleep_until(wake.unwrap_or_else(|| Instant::now() + TICK)) => {}
                // Fed inside the loop on purpose: a blocked loop must starve the watchdog.
                _ = feeding.tick() => self.manager.feed_watchdog(),
            }
        }
    }

    fn on_signal(&mut self, signal: Signal, nudges: &watch::Sender<ReloadRequests>) {
        match (signal, self.is_stopping) {
            (Signal::Reload, false) => {
                info!("SIGHUP: reading the configuration again");
                let _number = self.request_reload(nudges, false);
            }
            (Signal::Reload, true) => {}
            (Signal::Terminate(signal), false) => {
                info!(signal, limit = ?DRAIN_LIMIT, "stopping: finishing what is in hand");
                self.is_stopping = true;
                self.manager.stopping("finishing what is in hand");
            }
            (Signal::Terminate(signal), true) => {
                warn!(signal, "aborting: what is in hand stays in the journal");
                for run in self.active_runs.values() {
                    run.abort.cancel();
                }
            }
        }
    }

    /// Asks for a reading of all files now and returns its number. `whole`: a reload without a
    /// name. If the operator knew that the directory had vanished, such a reload confirms that this
    /// is intended.
    pub(super) fn request_reload(
        &mut self,
        nudges: &watch::Sender<ReloadRequests>,
        whole: bool,
    ) -> u64 {
        let meant = whole && self.directory_problem.is_some();
        nudges.send_modify(|nudges| {
            nudges.count += 1;
            if meant {
                nudges.vanish_confirmed = Some(nudges.count);
            }
        });
        let number = nudges.borrow().count;
        if self.notify_state != NotifyState::StartupPending {
            if !matches!(self.notify_state, NotifyState::ReloadPending(_)) {
                self.manager.reloading();
            }
            self.notify_state = NotifyState::ReloadPending(number);
        }
        number
    }

    pub(super) fn on_ended(&mut self, ended: Result<(Id, RunResult<I::Tenure>), JoinError>) {
        let (task, exit, tenure) = match ended {
            Ok((task, (exit, tenure))) => (task, exit, tenure),
            Err(error) => {
                let exit = if error.is_panic() {
                    Exit::Panicked { task: "instance" }
                } else {
                    Exit::failed("instance", instance::Failure::Dropped)
                };
                (error.id(), exit, None)
            }
        };
        let Some(ActiveRun { run: id, .. }) = self.active_runs.remove(&task) else { return };
        let is_only = self.directory.is_none();
        let Some(slot) =
            self.managed.values_mut().find(|slot| slot.run().is_some_and(|run| run.id == id))
        else {
            return;
        };
        let name = slot.name.clone();
        let after = slot.ended(&exit, tenure, Instant::now(), self.dice.roll());
        let code = exit.code();
        match after {
            AfterExit::AsRequested if exit.is_stopped() => {
                info!(instance = name, "instance stopped");
            }
            AfterExit::AsRequested => {
                warn!(instance = name, %exit, code, "instance ended with an error");
            }
            AfterExit::RolledBack => {
                error!(target: UNAPPLIED, instance = name, %exit, code,
                    "reload failed: the previous configuration runs again");
            }
            // At the first start an operator is watching the command; later the instance has to be
            // kept alive.
            AfterExit::RestartAfter(_) | AfterExit::Parked
                if is_only
                    && (matches!(exit, Exit::Refused { .. })
                        || (slot.generation == 1
                            && matches!(
                                exit,
                                Exit::Failed { task: instance::START_TASK, .. }
                            ))) =>
            {
                error!(instance = name, %exit, code, "instance ended");
                self.final_exit = Some(exit);
                self.is_stopping = true;
            }
            AfterExit::RestartAfter(pause) => {
                error!(instance = name, %exit, code, restart_in = ?pause, "instance ended, building it again");
            }
            AfterExit::Parked => error!(
                instance = name,
                %exit,
                code,
                retry_in = ?restart::PARKED_RETRY,
                "instance parked: it is retried slowly, when its file changes, or by restart"
            ),
        }
    }

    pub(super) fn on_preflight(&mut self, checked: Result<PreflightResult, JoinError>) {
        let Ok((name, config, result)) = checked else {
            // A panic loses the name of the instance that was checked. Treat every check under way
            // as unreachable: each is tried again.
            for slot in self.managed.values_mut() {
                if let Some(config) = slot.lifecycle.config_under_check() {
                    slot.checked(&config, Err(PreflightError::Panicked), Instant::now());
                }
            }
            return;
        };
        let Some(slot) = self.managed.get_mut(&name) else { return };
        let result_is_good = result.is_ok();
        match slot.checked(&config, result, Instant::now()) {
            Some(ApplyFailure { code, why, is_waiting: waits }) => {
                if waits {
                    warn!(target: UNAPPLIED, instance = name, code, why,
                        again_in = ?managed::PREFLIGHT_RETRY,
                        "a new configuration waits for its nodes or its Core");
                } else {
                    error!(target: UNAPPLIED, instance = name, code, why, "reload failed");
                }
                self.reload.at_ms = clock::unix_millis();
            }
            None if result_is_good => {
                info!(instance = name, "configuration changed: replacing the instance");
            }
            None => {}
        }
    }

    pub(super) fn on_phase_changed(
        &mut self,
        changed: Result<Option<(u64, watch::Receiver<Phase>)>, JoinError>,
    ) {
        let Ok(Some((id, phase))) = changed else { return };
        if let Some(slot) =
            self.managed.values_mut().find(|slot| slot.run().is_some_and(|run| run.id == id))
        {
            slot.phase_changed(Instant::now());
            self.follow_phase(id, phase);
        }
    }

    fn on_closed(&mut self, closed: &Result<(Id, ()), JoinError>) {
        let task = match closed {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        self.closings.remove(&task);
    }

    pub(super) fn follow_phase(&mut self, id: u64, mut phase: watch::Receiver<Phase>) {
        self.phases.spawn(async move { phase.changed().await.ok().map(|()| (id, phase)) });
    }
}
