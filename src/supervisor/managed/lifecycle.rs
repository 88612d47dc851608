//! The desired state of an instance, its current state, and the next action. Pure: times are arguments,
//! and the handles of a generation (`H`) are not used for decisions.
//!
//! ```text
//!            start                    exits by itself
//!   down ------------> up ---------------------------------> backing off | parked
//!    ^                 |  drain | hand over                       |  time, a change, an operator
//!    |                 v                                          |
//!    +------------- ending                        start <---------+
//! ```
//!
//! [`Lifecycle::next_action`] compares and returns one action; the loop performs it and reports back. A
//! changed configuration is checked while the old one runs (a [`PendingChange`]), then replaces it. Until
//! the new one has reached its running phase it is on probation: if it fails, the old one comes
//! back.

mod intent;
mod run_state;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub(in crate::supervisor) use self::{intent::ApplyFailure, run_state::StopMode};
pub(super) use self::{
    intent::Intent,
    run_state::{Moment, RunState},
};
use self::{
    intent::{ApplyStatus, DesiredConfig},
    run_state::{HealthyTime, PendingChange, Run},
};
use super::Target;
use crate::{
    config::Config,
    instance::{Exit, PreflightError},
    supervisor::{
        claims::WalletClaim,
        restart::{ExitHistory, PARKED_RETRY, RestartDecision},
        signals::DRAIN_LIMIT,
    },
};

/// How long an aborted instance may take to close its journal before its task is dropped.
const ABORT_LIMIT: Duration = Duration::from_secs(15);
/// How soon a changed configuration with an unreachable dependency is checked again.
pub(in crate::supervisor) const PREFLIGHT_RETRY: Duration = Duration::from_secs(30);
/// A new configuration that has been waiting this long is accepted: the operator wants it.
const PROBATION: Duration = Duration::from_mins(2);

/// What the loop should do for a managed instance.
#[derive(Debug)]
pub(in crate::supervisor) enum Action {
    Nothing,
    Start(Target),
    /// Check whether this configuration could run.
    Check(Target),
    Stop(StopMode),
    /// Cancel the run's abort token.
    Abort,
    /// Drop the run's task: it does not end by itself.
    Kill,
    /// Nothing is left to manage.
    Remove,
}

/// What follows the end of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum AfterExit {
    /// The generation was asked to end.
    AsRequested,
    /// A new configuration failed before it ran: the previous one comes back.
    RolledBack,
    RestartAfter(Duration),
    Parked,
}

/// Decides what happens with an instance.
#[derive(Debug)]
pub(in crate::supervisor) struct Lifecycle<H> {
    pub(super) intent: Intent,
    /// Why its file cannot be applied: it is invalid, or collides with another one.
    pub(super) refused: Option<String>,
    pub(super) state: RunState<H>,
    history: ExitHistory,
}

impl<H> Default for Lifecycle<H> {
    fn default() -> Self {
        Self {
            intent: Intent::default(),
            refused: None,
            state: RunState::default(),
            history: ExitHistory::default(),
        }
    }
}

impl<H> Lifecycle<H> {
    // ---- requests of files and operators

    /// Sets the configuration to run. Returns whether it is new.
    pub fn set_target(&mut self, target: Target) -> bool {
        self.refused = None;
        if let Some(run) = self.state.run_mut()
            && run.target.config == target.config
        {
            // The same values, possibly in another text.
            run.target = target.clone();
        }
        if let Some(wanted) = self.intent.config_mut()
            && wanted.desired.config == target.config
        {
            wanted.desired = target;
            return false;
        }
        self.history.forget();
        self.state.cancel_change();
        self.intent = Intent::Run(DesiredConfig::new(target));
        true
    }

    /// The file exists and cannot be applied: what runs continues. Returns whether the reason is
    /// new.
    pub fn reject_file(&mut self, why: String) -> bool {
        let news = self.refused.as_ref() != Some(&why);
        self.refused = Some(why);
        news
    }

    /// Nothing should run: the file was removed, or is disabled.
    pub fn clear_target(&mut self, is_disabled: bool) {
        self.refused = None;
        self.displace();
        if is_disabled {
            self.intent = Intent::Disabled;
        }
    }

    /// The instance may not even continue: its wallet was granted to another one.
    pub fn displace(&mut self) {
        self.intent = Intent::Nothing;
        self.state.cancel_change();
        self.state.drop_fallback();
    }

    /// The running generation hands over to one of another name.
    pub fn rename(&mut self) {
        if let RunState::Up { change, is_restart_requested, .. } = &mut self.state {
            *is_restart_requested = true;
            // The result of a check under way would arrive under the old name.
            if let PendingChange::Checking(_) = change {
                *change = PendingChange::None;
            }
        }
    }

    /// Handles an operator's `stop`. Returns whether there is anything to stop.
    pub fn stop(&mut self) -> bool {
        match std::mem::take(&mut self.intent) {
            Intent::Run(wanted) | Intent::Stopped(wanted) => self.intent = Intent::Stopped(wanted),
            other @ (Intent::Nothing | Intent::Disabled) => {
                self.intent = other;
                return false;
            }
        }
        self.state.drop_fallback();
        true
    }

    /// Handles an operator's `restart`. Returns whether there is anything to start.
    pub fn restart(&mut self) -> bool {
        self.history.forget();
        match &mut self.state {
            RunState::Up { is_restart_requested, .. } => *is_restart_requested = true,
            RunState::BackingOff { .. } | RunState::Parked { .. } => {
                self.state = RunState::default();
            }
            RunState::Down { .. } | RunState::Stopping { .. } => {}
        }
        match std::mem::take(&mut self.intent) {
            Intent::Run(wanted) | Intent::Stopped(wanted) => {
                self.intent = Intent::Run(wanted);
                true
            }
            other @ (Intent::Nothing | Intent::Disabled) => {
                self.intent = other;
                false
            }
        }
    }

    /// Handles an operator's `reload`: a rejected configuration is tried again.
    pub fn retry_rejected(&mut self) {
        if let Some(wanted) = self.intent.config_mut() {
            wanted.retry();
        }
    }

    // ---- desired and current state

    /// What should run now.
    pub fn target(&self) -> Option<&Target> {
        match &self.intent {
            Intent::Run(wanted) => Some(wanted.target()),
            Intent::Nothing | Intent::Disabled | Intent::Stopped(_) => None,
        }
    }

    /// The configuration that holds claims: the running one, or the one about to start.
    pub fn current(&self) -> Option<&Target> {
        let target = self.target()?;
        Some(self.state.run().map_or(target, |run| &run.target))
    }

    /// The configuration that an operator's `stop` keeps from running.
    pub fn stopped_config(&self) -> Option<&Arc<Config>> {
        match &self.intent {
            Intent::Stopped(wanted) => Some(&wanted.desired.config),
            Intent::Nothing | Intent::Disabled | Intent::Run(_) => None,
        }
    }

    /// Why a valid file is not applied.
    pub fn apply_failure(&self) -> Option<&ApplyFailure> {
        self.intent.config().and_then(DesiredConfig::apply_failure)
    }

    /// Returns whether the state will change by itself. `is_starting`: the current run is starting.
    pub fn is_changing(&self, is_starting: bool) -> bool {
        match &self.state {
            RunState::Up {
                change: PendingChange::Checking(_) | PendingChange::Approved(_),
                ..
            } => true,
            RunState::Up { run, change: PendingChange::None, .. } => {
                run.fallback.is_some() || is_starting
            }
            RunState::Down { .. } | RunState::Stopping { .. } => self.target().is_some(),
            RunState::BackingOff { .. } | RunState::Parked { .. } => false,
        }
    }

    /// The next action, and when to ask again at the latest. `stopping`: the process is stopping.
    pub fn next_action(&mut self, now: Instant, stopping: bool) -> (Action, Option<Instant>) {
        let target = if stopping { None } else { self.target().cloned() };
        match &mut self.state {
            RunState::Up { .. } => self.next_action_while_up(target, now),
            RunState::Stopping { deadline, is_aborted: aborted, .. } => {
                if now < *deadline {
                    return (Action::Nothing, Some(*deadline));
                }
                let act = if *aborted { Action::Kill } else { Action::Abort };
                *aborted = true;
                *deadline = now + ABORT_LIMIT;
                (act, Some(*deadline))
            }
            RunState::BackingOff { failed, until } | RunState::Parked { failed, until, .. } => {
                match target {
                    Some(target) if target.config == failed.config && now < until.at => {
                        (Action::Nothing, Some(until.at))
                    }
                    Some(target) => (Action::Start(target), None),
                    None => {
                        self.state = RunState::default();
                        self.next_action(now, stopping)
                    }
                }
            }
            RunState::Down { .. } => match (target, &self.intent) {
                (Some(target), _) => (Action::Start(target), None),
                (None, Intent::Nothing) if self.refused.is_none() => (Action::Remove, None),
                (None, _) => (Action::Nothing, None),
            },
        }
    }

    fn next_action_while_up(
        &mut self,
        target: Option<Target>,
        now: Instant,
    ) -> (Action, Option<Instant>) {
        let RunState::Up { run, change, is_restart_requested } = &mut self.state else {
            return (Action::Nothing, None);
        };
        let Some(target) = target else { return (Action::Stop(StopMode::Drain), None) };
        if std::mem::take(is_restart_requested) {
            return (Action::Stop(StopMode::HandOver), None);
        }
        let accepted_at = run.started + PROBATION;
        if now >= accepted_at {
            run.fallback = None;
        }
        let mut wake = run.fallback.is_some().then_some(accepted_at);
        if target.config == run.target.config {
            if let Some(wanted) = self.intent.config_mut()
                && let ApplyStatus::Rejected { retry_at: Some(again_at), .. } = wanted.status
            {
                if now >= again_at {
                    wanted.retry();
                    return self.next_action(now, false);
                }
                wake = wake.into_iter().chain([again_at]).min();
            }
            return (Action::Nothing, wake);
        }
        let is_of = |config: &Arc<Config>| *config == target.config;
        match change {
            PendingChange::Checking(config) if is_of(config) => return (Action::Nothing, wake),
            PendingChange::Approved(config) if is_of(config) => {}
            // Also beside a run that only waits: it reads the chain, and a contradiction would end it.
            PendingChange::None | PendingChange::Checking(_) | PendingChange::Approved(_) => {
                *change = PendingChange::Checking(target.config.clone());
                return (Action::Check(target), wake);
            }
        }
        let same_wallet = WalletClaim::of(&run.target.config) == WalletClaim::of(&target.config);
        // With another wallet, the transactions of the old one are finished first.
        (Action::Stop(if same_wallet { StopMode::HandOver } else { StopMode::Drain }), wake)
    }

    // ---- events

    /// A generation was started.
    pub fn started(&mut self, target: Target, handles: H, now: Instant) {
        let before =
            if let RunState::Down { fallback } = &mut self.state { fallback.take() } else { None };
        let wanted = self.intent.config_mut();
        let wanted = wanted.filter(|wanted| wanted.desired.config == target.config);
        let replaced = before.filter(|_| wanted.is_some());
        if let Some(wanted) = wanted {
            // The file is applied.
            wanted.status = ApplyStatus::NoObjection;
        }
        let run = Run {
            target,
            handles,
            started: now,
            health: HealthyTime::default(),
            fallback: replaced,
        };
        self.state = RunState::Up { run, change: PendingChange::None, is_restart_requested: false };
    }

    /// The run was asked to end.
    pub fn stop_requested(&mut self, how: StopMode, now: Instant) {
        let (run, change) = match std::mem::take(&mut self.state) {
            RunState::Up { run, change, .. } => (run, change),
            other @ (RunState::Down { .. }
            | RunState::Stopping { .. }
            | RunState::BackingOff { .. }
            | RunState::Parked { .. }) => {
                self.state = other;
                return;
            }
        };
        let (limit, aborted) = match how {
            StopMode::Drain => (DRAIN_LIMIT, false),
            StopMode::HandOver => (ABORT_LIMIT, true),
        };
        let fallback = match change {
            // A configuration that never ran must not become the fallback of a further change.
            PendingChange::Approved(config)
                if run.health.has_run && self.target().is_some_and(|of| of.config == config) =>
            {
                Some(run.target.clone())
            }
            PendingChange::None | PendingChange::Checking(_) | PendingChange::Approved(_) => {
                run.fallback.clone()
            }
        };
        self.state =
            RunState::Stopping { run, deadline: now + limit, is_aborted: aborted, fallback };
    }

    /// The run entered its running phase (`is_running`), or left it.
    pub fn phase_changed(&mut self, is_running: bool, now: Instant) {
        let Some(run) = self.state.run_mut() else { return };
        if is_running {
            run.health.has_run = true;
            run.fallback = None;
            run.health.since.get_or_insert(now);
        } else if let Some(since) = run.health.since.take() {
            run.health.longest = run.health.longest.max(now.saturating_duration_since(since));
        }
    }

    /// The configuration that is being checked.
    pub fn config_under_check(&self) -> Option<Arc<Config>> {
        match &self.state {
            RunState::Up { change: PendingChange::Checking(config), .. } => Some(config.clone()),
            RunState::Up { .. }
            | RunState::Down { .. }
            | RunState::Stopping { .. }
            | RunState::BackingOff { .. }
            | RunState::Parked { .. } => None,
        }
    }

    /// The result of checking a changed configuration. `is_running`: the current run waits for
    /// nothing. Returns why the change is not applied, if that reason is new.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), PreflightError>,
        is_running: bool,
        now: Instant,
    ) -> Option<ApplyFailure> {
        let RunState::Up { run, change, .. } = &mut self.state else { return None };
        if !matches!(change, PendingChange::Checking(checking) if checking == config) {
            return None; // The files have changed since.
        }
        let error = match result {
            Err(error) if error.is_refusal() || is_running => error,
            // An unreachable dependency is no reason to keep a run that is waiting itself.
            Ok(()) | Err(_) => {
                *change = PendingChange::Approved(config.clone());
                return None;
            }
        };
        *change = PendingChange::None;
        let waits = !error.is_refusal();
        let again_at = now + if waits { PREFLIGHT_RETRY } else { PARKED_RETRY };
        let why = format!("{error}; the previous configuration continues");
        let why = ApplyFailure { code: error.code(), why, is_waiting: waits };
        let before = run.target.clone();
        self.intent.config_mut()?.reject(why, before, Some(again_at))
    }

    /// A generation ended. `jitter`: a number from 0 to 1.
    pub(super) fn ended(&mut self, exit: &Exit, now: Moment, jitter: f64) -> AfterExit {
        let run = match std::mem::take(&mut self.state) {
            RunState::Up { run, .. } => run,
            RunState::Stopping { fallback, .. } => {
                self.state = RunState::Down { fallback };
                return AfterExit::AsRequested;
            }
            other @ (RunState::Down { .. }
            | RunState::BackingOff { .. }
            | RunState::Parked { .. }) => {
                self.state = other;
                return AfterExit::AsRequested;
            }
        };
        if let Some(before) = run.fallback
            && let Some(wanted) = self.intent.config_mut()
            && wanted.desired.config == run.target.config
        {
            let why = format!("{exit}; the previous configuration runs again");
            wanted.reject(ApplyFailure { code: exit.code(), why, is_waiting: false }, before, None);
            return AfterExit::RolledBack;
        }
        let HealthyTime { since, longest, .. } = run.health;
        let current = since.map_or(Duration::ZERO, |since| now.at.saturating_duration_since(since));
        let verdict = match exit {
            Exit::Refused { .. } => RestartDecision::Park,
            Exit::Stopped | Exit::Failed { .. } | Exit::Panicked { .. } | Exit::Hung { .. } => {
                self.history.failed(current.max(longest), jitter)
            }
        };
        let failed = run.target;
        match verdict {
            RestartDecision::RestartAfter(pause) => {
                self.state = RunState::BackingOff { failed, until: now.after(pause) };
                AfterExit::RestartAfter(pause)
            }
            RestartDecision::Park => {
                let (why, until) = (exit.to_string(), now.after(PARKED_RETRY));
                self.state = RunState::Parked { failed, why, until };
                AfterExit::Parked
            }
        }
    }
}

#[cfg(test)]
mod tests;
