//! How an instance is shown: its state, a summary line, its status.

use super::{
    Slot,
    standing::{Intent, Life},
};
use crate::{
    clock,
    observe::status::{Gauges, InstanceStatus, Phase, State, StoppedBy},
};

impl<E> Slot<E> {
    fn state(&self) -> State {
        match &self.standing.life {
            Life::Up { run, .. } => match run.handles.phase.borrow().clone() {
                Phase::Starting => State::Starting,
                Phase::Waiting { on, why } => State::Waiting { on, why },
                Phase::Running => State::Running,
            },
            Life::Ending { .. } => State::Draining,
            Life::BackingOff { until, .. } => State::BackingOff { until_ms: until.ms },
            Life::Parked { why, until, .. } => {
                State::Parked { why: why.clone(), retry_at_ms: Some(until.ms) }
            }
            Life::Down { .. } => match (&self.standing.intent, &self.standing.refused) {
                (Intent::Stopped(_), _) => State::Stopped { by: StoppedBy::Operator },
                (Intent::Disabled, _) => State::Stopped { by: StoppedBy::File },
                (Intent::Nothing, Some(why)) => {
                    State::Parked { why: why.clone(), retry_at_ms: None }
                }
                (Intent::Nothing, None) | (Intent::Run(_), _) => State::Starting,
            },
        }
    }

    /// Updates the shown state. Returns whether it is another state than before.
    pub fn show(&mut self) -> bool {
        let state = self.state();
        let is_amiss = self.is_troubled(&state);
        if self.troubled.0 && !is_amiss {
            self.troubled.1 = clock::unix_millis();
        }
        self.troubled.0 = is_amiss;
        let is_other = self.shown.0.word() != state.word();
        if is_other {
            self.shown.1 = clock::unix_millis();
        }
        self.shown.0 = state;
        is_other
    }

    /// Returns whether a fault is present that an operator may fix. Warnings logged meanwhile are
    /// over when this becomes false.
    fn is_troubled(&self, state: &State) -> bool {
        let is_down = matches!(
            state,
            State::Waiting { .. } | State::BackingOff { .. } | State::Parked { .. }
        );
        let doubted = self.run().is_some_and(|run| {
            let gauges = run.gauges.borrow();
            gauges.reasons().is_some() || gauges.doubts().next().is_some()
        });
        is_down || doubted || self.complaint().is_some()
    }

    /// When the last fault was fixed (Unix ms); 0: there was none.
    pub fn mended_at_ms(&self) -> u64 {
        self.troubled.1
    }

    /// Records the counters in the instance's history.
    pub fn look(&mut self, now_ms: u64) {
        let gauges = self.run().map(|run| run.gauges.borrow().clone());
        self.last_hour.look(now_ms, &self.metrics, gauges.as_ref());
    }

    /// The state as of the last [`Self::show`].
    pub fn shown(&self) -> &State {
        &self.shown.0
    }

    /// Returns whether it is ending.
    pub fn is_draining(&self) -> bool {
        matches!(self.standing.life, Life::Ending { .. })
    }

    /// Returns whether an operator should look at it.
    pub fn is_amiss(&self) -> bool {
        let is_down = matches!(self.shown.0, State::Parked { .. } | State::BackingOff { .. });
        is_down || self.complaint().is_some()
    }

    /// The state in one line.
    pub fn line(&self) -> String {
        let generation =
            self.run().map(|_| format!(", generation {}", self.generation)).unwrap_or_default();
        let complaint = match (self.complaint(), &self.shown.0) {
            // The state of a parked instance already contains the reason.
            (None, _) | (_, State::Parked { .. }) => String::new(),
            (Some(why), _) if self.is_waiting_to_change() => {
                format!("; its new configuration waits, and is tried again by itself: {why}")
            }
            (Some(why), _) => format!("; reload failed: {why}"),
        };
        format!("{}: {}{generation}{complaint}", self.name, self.described())
    }

    /// The state in a few words; `None`: it runs as its file says.
    pub fn in_short(&self) -> Option<String> {
        match (&self.shown.0, self.complaint()) {
            (State::Running, None) => None,
            (State::Running, Some(_)) if self.is_waiting_to_change() => {
                Some(format!("{} waits to change", self.name))
            }
            (State::Running, Some(_)) => Some(format!("{} reload failed", self.name)),
            (_, _) => Some(format!("{} {}", self.name, self.described())),
        }
    }

    fn described(&self) -> String {
        let state = &self.shown.0;
        let detail = match state {
            State::Waiting { on, why } => format!(" for {on} ({why})"),
            State::Parked { why, .. } => format!(" ({why})"),
            State::Stopped { by } => format!(" by {}", by.as_str()),
            State::Starting | State::Running | State::Draining | State::BackingOff { .. } => {
                String::new()
            }
        };
        format!("{}{detail}", state.word())
    }

    /// Why the file is not applied.
    pub fn complaint(&self) -> Option<&str> {
        let of_change = self.standing.unapplied().map(|unapplied| unapplied.why.as_str());
        self.standing.refused.as_deref().or(of_change)
    }

    /// Returns whether the file is not applied only because a dependency does not answer.
    fn is_waiting_to_change(&self) -> bool {
        self.standing.refused.is_none() && self.standing.unapplied().is_some_and(|it| it.waits)
    }

    pub fn status(&self) -> InstanceStatus {
        let run = self.standing.life.run();
        let target = run.map(|run| &run.target).or_else(|| self.standing.target());
        let config = target.map(|target| &target.config);
        InstanceStatus {
            name: self.name.clone(),
            file: self.file.clone(),
            state: self.shown.0.clone(),
            since_ms: self.shown.1,
            generation: self.generation,
            restarts: self.restarts,
            last_error: self.last_error.clone(),
            last_warnings: Vec::new(),
            reload_failed: self.complaint().map(str::to_owned),
            reload_waits: self.is_waiting_to_change(),
            changing: self.is_changing(),
            config_hash: target
                .and_then(|target| target.hash.as_ref())
                .map(|hash| hash.chars().take(12).collect()),
            chain_id: config.map(|config| config.chain_id),
            decryption: config.map(|config| config.decryption_address.to_string()),
            gateway: config.map(|config| config.gateways()),
            kms_core: config
                .filter(|config| !config.observes())
                .map(|config| config.kms_core_endpoint.to_string()),
            gauges: self.run().map_or_else(Gauges::default, |run| run.gauges.borrow().clone()),
        }
    }
}
