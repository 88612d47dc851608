//! The actions of the loop: starts, stops and closes what slots ask for.

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span, info, warn};

use super::{
    CHECK_LIMIT, Closing, Instances, Supervisor, UnderWay,
    plan::WalletClaim,
    slot::{Act, Ending, Handles, Slot, Target},
};
use crate::{
    heart::Hearts,
    instance::{CheckError, Supervision},
    observe::status::Reporter,
};

impl<I: Instances> Supervisor<I> {
    /// Performs the next action of every slot until no slot has one. Returns when to call again at
    /// the latest.
    pub(super) fn drive(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let wake = loop {
            let mut progress = false;
            let mut wake: Option<Instant> = None;
            let names: Vec<String> = self.slots.keys().cloned().collect();
            for name in names {
                let Some(slot) = self.slots.get_mut(&name) else { continue };
                let (act, again) = slot.standing.next(now, self.stopping);
                wake = [wake, again].into_iter().flatten().min();
                progress |= self.act(&name, act, now);
            }
            if !progress {
                break wake;
            }
        };
        // Close journals that no run takes over at once: an operator or another process may want
        // them.
        let idle: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.run().is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in idle {
            self.close(&name);
        }
        wake
    }

    /// Closes what the last generation of this instance left.
    fn close(&mut self, name: &str) {
        let Some(slot) = self.slots.get_mut(name) else { return };
        if let Some((claim, estate)) = slot.take_estate() {
            let slot = slot.number;
            let closing = self.closing.spawn(I::close(estate));
            self.closings.insert(closing.id(), Closing { slot, claim });
        }
    }

    /// Returns whether the action changed anything.
    fn act(&mut self, name: &str, act: Act, now: Instant) -> bool {
        match act {
            Act::Nothing => return false,
            Act::Start(target) => return self.start(name, target, now),
            Act::Check(target) => {
                info!(instance = name, "configuration changed: checking it");
                let config = target.config.clone();
                let checking = self.instances.check(config.clone());
                let name = name.to_owned();
                self.checks.spawn(
                    async move {
                        let late = |_| Err(CheckError::Late(CHECK_LIMIT));
                        let result = timeout(CHECK_LIMIT, checking).await.unwrap_or_else(late);
                        (name, config, result)
                    }
                    .in_current_span(),
                );
            }
            Act::End(how) => {
                let Some(slot) = self.slots.get_mut(name) else { return false };
                if let Some(run) = slot.run() {
                    match how {
                        Ending::Drain => run.stop.cancel(),
                        Ending::HandOver => run.abort.cancel(),
                    }
                }
                slot.standing.ending(how, now);
            }
            Act::Abort => {
                warn!(
                    instance = name,
                    "the drain limit has passed: what is in hand stays in the journal"
                );
                if let Some(run) = self.slots.get(name).and_then(Slot::run) {
                    run.abort.cancel();
                }
            }
            Act::Kill => {
                error!(instance = name, "the instance does not end: its task is dropped");
                if let Some(run) = self.slots.get(name).and_then(Slot::run) {
                    run.task.abort();
                }
            }
            Act::Remove => {
                self.close(name);
                self.slots.remove(name);
            }
        }
        true
    }

    fn start(&mut self, name: &str, target: Target, now: Instant) -> bool {
        let claim = WalletClaim::of(&target.config);
        let is_same = |other: &WalletClaim| claim.is_exclusive() && *other == claim;
        if self.under_way.values().any(|run| is_same(&run.claim)) {
            // The other run is ending; its end drives all slots again.
            return false;
        }
        let Some(slot) = self.slots.get_mut(name) else { return false };
        let number = slot.number;
        let is_closing = |one: &Closing| one.slot == number || is_same(&one.claim);
        if self.closings.values().any(is_closing) || slot.has_foreign_estate(&target.config) {
            // The end of the closing drives all slots again.
            return false;
        }
        slot.generation += 1;
        self.last_run += 1;
        if slot.generation == 1 && target.config.s3.is_none() {
            warn!(
                instance = name,
                "no [s3_config]: ciphertexts come from registered buckets alone"
            );
        }
        let (id, generation) = (self.last_run, slot.generation);
        let abort = CancellationToken::new();
        let stop = abort.child_token();
        let reporter = Reporter::new(slot.metrics.clone());
        let (phase, gauges) = (reporter.phase.subscribe(), reporter.gauges.subscribe());
        let desk = reporter.desk.subscribe();
        let supervision = Supervision {
            name: name.to_owned(),
            state_dir: self.state_dir.clone(),
            reporter,
            hearts: Hearts::default(),
            stop: stop.clone(),
            abort: abort.clone(),
        };
        let config = target.config.clone();
        let estate = slot.take_estate().map(|(_, estate)| estate);
        // At ERROR so that no filter disables it: every event inside must name its instance.
        let span = error_span!("instance", instance = name, generation);
        let running = self.instances.run(config, supervision, estate).instrument(span);
        let task = self.runs.spawn(running);
        let under_way = UnderWay { run: id, claim, abort: abort.clone() };
        self.under_way.insert(task.id(), under_way);
        let handles = Handles { id, stop, abort, task, phase: phase.clone(), gauges, desk };
        slot.standing.started(target, handles, now);
        self.follow(id, phase);
        true
    }
}
