//! The loop: waits for the next event and handles it. [`acts`](super::acts) carries out what follows.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Checked, Instances, Ran, Readiness, Supervisor, UnderWay,
    control::Asked,
    directory::Look,
    lifecycle::{DRAIN_LIMIT, Signal, Signals},
    restart,
    slot::{self, Aftermath, Unapplied},
    watcher::Nudges,
};
use crate::{
    clock,
    instance::{self, CheckError, Exit},
    observe::status::Phase,
};

/// How long shutdown waits for journals to close: their disk may hang.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);
/// The longest time between two turns of the loop.
const TURN: Duration = Duration::from_secs(10);
/// The same while the HTTP listener shows the loop's state.
const SHOW_EVERY: Duration = Duration::from_secs(1);

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

impl<I: Instances> Supervisor<I> {
    /// Runs until told to end and everything has ended.
    pub(super) async fn run(&mut self, mut inputs: Inputs<impl SignalSource>) -> Exit {
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
    pub(super) fn nudge(&mut self, nudges: &watch::Sender<Nudges>, whole: bool) -> u64 {
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

    pub(super) fn ended(&mut self, ended: Result<(Id, Ran<I::Estate>), JoinError>) {
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
        let aftermath = slot.ended(&exit, estate, Instant::now(), self.dice.roll());
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

    pub(super) fn checked(&mut self, checked: Result<Checked, JoinError>) {
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
            Some(Unapplied { code, why, waits }) => {
                if waits {
                    warn!(instance = name, code, why, again_in = ?slot::CHECK_AGAIN,
                        "a new configuration waits for what it needs");
                } else {
                    error!(instance = name, code, why, "reload failed");
                }
                self.reload.at_ms = clock::unix_millis();
            }
            None if result_is_good => {
                info!(instance = name, "configuration changed: replacing the instance");
            }
            None => {}
        }
    }

    pub(super) fn phase_changed(
        &mut self,
        changed: Result<Option<(u64, watch::Receiver<Phase>)>, JoinError>,
    ) {
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

    pub(super) fn follow(&mut self, id: u64, mut phase: watch::Receiver<Phase>) {
        self.phases.spawn(async move { phase.changed().await.ok().map(|()| (id, phase)) });
    }
}
