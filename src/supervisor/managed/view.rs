//! How an instance is shown: its state, a summary line, its status.

use super::{
    ManagedInstance,
    lifecycle::{Intent, RunState},
};
use crate::{
    admin::status::{Gauges, InstanceState, InstanceStatus, Phase, StoppedBy},
    time::clock,
};

/// A state, and since when (Unix ms) it and its reason are shown.
#[derive(Debug)]
pub(super) struct ShownState {
    state: InstanceState,
    since_ms: u64,
    /// `None`: as long as the state.
    reason_since_ms: Option<u64>,
}

impl ShownState {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { state: InstanceState::Starting, since_ms: now_ms, reason_since_ms: None }
    }

    /// Returns whether it is another state than before.
    fn update(&mut self, state: InstanceState, now_ms: u64) -> bool {
        let is_other = self.state.word() != state.word();
        if is_other {
            (self.since_ms, self.reason_since_ms) = (now_ms, None);
        } else if self.state.reason() != state.reason() {
            self.reason_since_ms = Some(now_ms);
        }
        self.state = state;
        is_other
    }
}

impl<E> ManagedInstance<E> {
    fn state(&self) -> InstanceState {
        match &self.lifecycle.state {
            RunState::Up { run, .. } => match run.handles.phase.borrow().clone() {
                Phase::Starting => InstanceState::Starting,
                Phase::Waiting { on, why } => InstanceState::Waiting { on, why },
                Phase::Running => InstanceState::Running,
            },
            RunState::Stopping { .. } => InstanceState::Draining,
            RunState::BackingOff { until, .. } => {
                InstanceState::BackingOff { until_ms: until.unix_ms }
            }
            RunState::Parked { why, until, .. } => {
                InstanceState::Parked { why: why.clone(), retry_at_ms: Some(until.unix_ms) }
            }
            RunState::Down { .. } => match (&self.lifecycle.intent, &self.lifecycle.refused) {
                (Intent::Stopped(_), _) => InstanceState::Stopped { by: StoppedBy::Operator },
                (Intent::Disabled, _) => InstanceState::Stopped { by: StoppedBy::File },
                (Intent::Nothing, Some(why)) => {
                    InstanceState::Parked { why: why.clone(), retry_at_ms: None }
                }
                (Intent::Nothing, None) | (Intent::Run(_), _) => InstanceState::Starting,
            },
        }
    }

    /// Updates the shown state. Returns whether it is another state than before.
    pub fn refresh_state(&mut self) -> bool {
        let state = self.state();
        let is_amiss = self.has_fixable_problem(&state);
        if self.trouble.0 && !is_amiss {
            self.trouble.1 = clock::unix_millis();
        }
        self.trouble.0 = is_amiss;
        self.shown.update(state, clock::unix_millis())
    }

    /// Returns whether a fault is present that an operator may fix. Warnings logged meanwhile are
    /// over when this becomes false.
    fn has_fixable_problem(&self, state: &InstanceState) -> bool {
        let is_down = matches!(
            state,
            InstanceState::Waiting { .. }
                | InstanceState::BackingOff { .. }
                | InstanceState::Parked { .. }
        );
        let doubted = self.run().is_some_and(|run| {
            let gauges = run.gauges.borrow();
            gauges.hold_counts().is_some() || gauges.chain_warnings().next().is_some()
        });
        is_down || doubted || self.problem().is_some()
    }

    /// When the last fault was fixed (Unix ms); 0: there was none.
    pub fn recovered_at_ms(&self) -> u64 {
        self.trouble.1
    }

    /// Records the counters in the instance's history.
    pub fn record_history(&mut self, now_ms: u64) {
        let gauges = self.run().map(|run| run.gauges.borrow().clone());
        self.last_hour.record(now_ms, &self.metrics, gauges.as_ref());
    }

    /// The state as of the last [`Self::refresh_state`].
    pub fn shown_state(&self) -> &InstanceState {
        &self.shown.state
    }

    /// Returns whether it waits for something outside.
    pub fn is_waiting(&self) -> bool {
        matches!(self.shown.state, InstanceState::Waiting { .. })
    }

    /// Returns whether it is ending.
    pub fn is_draining(&self) -> bool {
        matches!(self.lifecycle.state, RunState::Stopping { .. })
    }

    /// Returns whether an operator should act.
    pub fn needs_attention(&self) -> bool {
        let is_down = matches!(
            self.shown.state,
            InstanceState::Parked { .. } | InstanceState::BackingOff { .. }
        );
        is_down || self.problem().is_some()
    }

    /// The state in one line.
    pub fn summary_line(&self) -> String {
        self.summary_line_with("")
    }

    /// The same with a note about the state.
    pub fn summary_line_with(&self, note: &str) -> String {
        let generation =
            self.run().map(|_| format!(", generation {}", self.generation)).unwrap_or_default();
        let complaint = match (self.problem(), &self.shown.state) {
            // The state of a parked instance already contains the reason.
            (None, _) | (_, InstanceState::Parked { .. }) => String::new(),
            (Some(why), _) if self.is_waiting_to_apply() => {
                format!("; its new configuration waits and is retried by itself: {why}")
            }
            (Some(why), _) => format!("; reload failed: {why}"),
        };
        format!("{}: {}{generation}{note}{complaint}", self.name, self.describe_state())
    }

    /// The state in a few words; `None`: it runs as its file describes.
    pub fn brief(&self) -> Option<String> {
        match (&self.shown.state, self.problem()) {
            (InstanceState::Running, None) => None,
            (InstanceState::Running, Some(_)) if self.is_waiting_to_apply() => {
                Some(format!("{} waits to change", self.name))
            }
            (InstanceState::Running, Some(_)) => Some(format!("{} reload failed", self.name)),
            (_, _) => Some(format!("{} {}", self.name, self.describe_state())),
        }
    }

    fn describe_state(&self) -> String {
        let state = &self.shown.state;
        let detail = match state {
            InstanceState::Waiting { on, why } => format!(" for {on} ({why})"),
            InstanceState::Parked { why, .. } => format!(" ({why})"),
            InstanceState::Stopped { by } => format!(" by {}", by.as_str()),
            InstanceState::Starting | InstanceState::Running | InstanceState::Draining => {
                String::new()
            }
            InstanceState::BackingOff { .. } => self
                .last_error
                .as_ref()
                .map_or_else(String::new, |error| format!(" ({})", error.text)),
        };
        format!("{}{detail}", state.word())
    }

    /// Why the file is not applied.
    pub fn problem(&self) -> Option<&str> {
        let of_change = self.lifecycle.apply_failure().map(|unapplied| unapplied.why.as_str());
        self.lifecycle.refused.as_deref().or(of_change)
    }

    /// Returns whether the file is not applied only because a dependency does not answer.
    fn is_waiting_to_apply(&self) -> bool {
        self.lifecycle.refused.is_none()
            && self.lifecycle.apply_failure().is_some_and(|it| it.is_waiting)
    }

    pub fn status(&self) -> InstanceStatus {
        let run = self.lifecycle.state.run();
        let target = run.map(|run| &run.target).or_else(|| self.lifecycle.target());
        let config = target.map(|target| &target.config);
        InstanceStatus {
            name: self.name.clone(),
            file: self.file.clone(),
            state: self.shown.state.clone(),
            since_ms: self.shown.since_ms,
            reason_since_ms: self.shown.reason_since_ms,
            generation: self.generation,
            restarts: self.restarts,
            last_error: self.last_error.clone(),
            last_warnings: Vec::new(),
            reload_failed: self.problem().map(str::to_owned),
            reload_waits: self.is_waiting_to_apply(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_since() {
        let waiting =
            |on: &str, why: &str| InstanceState::Waiting { on: on.into(), why: why.into() };
        let mut shown = ShownState::new(1);
        assert!(shown.update(waiting("the node", "refused"), 2));
        assert!(!shown.update(waiting("the node", "timed out"), 3));
        assert_eq!((shown.since_ms, shown.reason_since_ms), (2, None), "it is the same outage");
        assert!(!shown.update(waiting("the Core", "refused"), 4));
        assert_eq!((shown.since_ms, shown.reason_since_ms), (2, Some(4)));
        assert!(!shown.update(waiting("the Core", "timed out"), 5));
        assert_eq!((shown.since_ms, shown.reason_since_ms), (2, Some(4)));
        assert!(shown.update(InstanceState::Running, 6));
        assert_eq!((shown.since_ms, shown.reason_since_ms), (6, None));
    }
}
