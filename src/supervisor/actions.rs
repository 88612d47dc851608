//! The actions of the loop: starts, stops and closes what managed instances ask for.

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span, info, warn};

use super::{
    ActiveRun, ClosingTenure, InstanceRunner, PREFLIGHT_DEADLINE, Supervisor,
    claims::WalletClaim,
    managed::{Action, ManagedInstance, RunHandles, StopMode, Target},
};
use crate::{
    admin::status::Reporter,
    instance::{PreflightError, Supervision},
    telemetry::{errors::ADVICE, heartbeat::Heartbeats},
};

impl<I: InstanceRunner> Supervisor<I> {
    /// Performs the next action of every managed instance until none has one. Returns the latest time
    /// for the next call.
    pub(super) fn drive(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let wake = loop {
            let mut progress = false;
            let mut wake: Option<Instant> = None;
            let names: Vec<String> = self.managed.keys().cloned().collect();
            for name in names {
                let Some(slot) = self.managed.get_mut(&name) else { continue };
                let (act, again) = slot.lifecycle.next_action(now, self.is_stopping);
                wake = [wake, again].into_iter().flatten().min();
                progress |= self.perform(&name, act, now);
            }
            if !progress {
                break wake;
            }
        };
        // Close journals that no run takes over at once: an operator or another process may want
        // them.
        let idle: Vec<String> = self
            .managed
            .iter()
            .filter(|(_, slot)| slot.run().is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in idle {
            self.close_tenure(&name);
        }
        wake
    }

    /// Closes what the last generation of this instance left.
    fn close_tenure(&mut self, name: &str) {
        let Some(slot) = self.managed.get_mut(name) else { return };
        if let Some((claim, tenure)) = slot.take_tenure() {
            let slot = slot.number;
            let closing = self.closing_tasks.spawn(I::close_tenure(tenure));
            self.closings.insert(closing.id(), ClosingTenure { managed: slot, claim });
        }
    }

    /// Returns whether the action changed anything.
    fn perform(&mut self, name: &str, act: Action, now: Instant) -> bool {
        match act {
            Action::Nothing => return false,
            Action::Start(target) => return self.start(name, target, now),
            Action::Check(target) => {
                info!(instance = name, "configuration changed: checking it");
                let config = target.config.clone();
                let running = self.managed.get(name).and_then(|slot| slot.lifecycle.current());
                let running = running.map(|running| running.config.clone());
                let checking = self.runner.preflight(config.clone(), running);
                let name = name.to_owned();
                self.preflights.spawn(
                    async move {
                        let late = |_| Err(PreflightError::TimedOut(PREFLIGHT_DEADLINE));
                        let result =
                            timeout(PREFLIGHT_DEADLINE, checking).await.unwrap_or_else(late);
                        (name, config, result)
                    }
                    .in_current_span(),
                );
            }
            Action::Stop(how) => {
                let Some(slot) = self.managed.get_mut(name) else { return false };
                if let Some(run) = slot.run() {
                    match how {
                        StopMode::Drain => run.stop.cancel(),
                        StopMode::HandOver => run.abort.cancel(),
                    }
                }
                slot.lifecycle.stop_requested(how, now);
            }
            Action::Abort => {
                warn!(
                    instance = name,
                    "the drain limit has passed: what is in hand stays in the journal"
                );
                if let Some(run) = self.managed.get(name).and_then(ManagedInstance::run) {
                    run.abort.cancel();
                }
            }
            Action::Kill => {
                error!(instance = name, "the instance does not end: its task is dropped");
                if let Some(run) = self.managed.get(name).and_then(ManagedInstance::run) {
                    run.task.abort();
                }
            }
            Action::Remove => {
                self.close_tenure(name);
                self.managed.remove(name);
            }
        }
        true
    }

    fn start(&mut self, name: &str, target: Target, now: Instant) -> bool {
        let claim = WalletClaim::of(&target.config);
        let is_same = |other: &WalletClaim| claim.is_exclusive() && *other == claim;
        if self.active_runs.values().any(|run| is_same(&run.claim)) {
            // The other run is ending; its end makes the loop call this again.
            return false;
        }
        let Some(slot) = self.managed.get_mut(name) else { return false };
        let number = slot.number;
        let is_closing = |one: &ClosingTenure| one.managed == number || is_same(&one.claim);
        if self.closings.values().any(is_closing) || slot.has_foreign_tenure(&target.config) {
            // The end of the closing makes the loop call this again.
            return false;
        }
        slot.generation += 1;
        self.last_run += 1;
        if slot.generation == 1 && target.config.s3.is_none() {
            warn!(
                target: ADVICE,
                instance = name,
                "no [s3_config]: ciphertexts come from registered buckets alone"
            );
        }
        let (id, generation) = (self.last_run, slot.generation);
        let abort = CancellationToken::new();
        let stop = abort.child_token();
        let reporter = Reporter::new(slot.metrics.clone());
        let (phase, gauges) = (reporter.phase.subscribe(), reporter.gauges.subscribe());
        let inbox = reporter.inbox.subscribe();
        let supervision = Supervision {
            name: name.to_owned(),
            state_dir: self.state_dir.clone(),
            reporter,
            heartbeats: Heartbeats::default(),
            stop: stop.clone(),
            abort: abort.clone(),
        };
        let config = target.config.clone();
        let tenure = slot.take_tenure().map(|(_, tenure)| tenure);
        // At ERROR so that no filter disables it: every event inside must name its instance.
        let span = error_span!("instance", instance = name, generation);
        let running = self.runner.run(config, supervision, tenure).instrument(span);
        let task = self.runs.spawn(running);
        let under_way = ActiveRun { run: id, claim, abort: abort.clone() };
        self.active_runs.insert(task.id(), under_way);
        let handles = RunHandles { id, stop, abort, task, phase: phase.clone(), gauges, inbox };
        slot.lifecycle.started(target, handles, now);
        self.follow_phase(id, phase);
        true
    }
}
