//! What an instance should be, what it is, and the next action. Pure: times come in as values, and
//! the handles of a generation (`H`) decide nothing.
//!
//! ```text
//!            start                    exits by itself
//!   down ------------> up ---------------------------------> backing off | parked
//!    ^                 |  drain | hand over                       |  time, a change, an operator
//!    |                 v                                          |
//!    +------------- ending                        start <---------+
//! ```
//!
//! [`Standing::next`] compares and returns one action; the loop performs it and reports back. A
//! changed configuration is checked while the old one runs (a [`Trial`]), then replaces it. Until
//! the new one has reached its running phase it is on probation: if it fails, the old one comes
//! back.

mod intent;
mod run_state;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub(super) use self::{
    intent::Intent,
    run_state::{Life, Moment},
};
pub(in crate::supervisor) use self::{intent::Unapplied, run_state::Ending};
use self::{
    intent::{Course, Tried},
    run_state::{Health, Run, Trial},
};
use super::Target;
use crate::{
    config::Config,
    instance::{CheckError, Exit},
    supervisor::{
        lifecycle::DRAIN_LIMIT,
        plan::WalletClaim,
        restart::{History, PARKED_RETRY, Verdict},
    },
};

/// How long an aborted instance may take to close its journal before its task is dropped.
const ABORT_LIMIT: Duration = Duration::from_secs(15);
/// How soon a changed configuration with an unreachable dependency is checked again.
pub(in crate::supervisor) const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// A new configuration that has been waiting this long is accepted: the operator wants it.
const PROBATION: Duration = Duration::from_mins(2);

/// What the loop should do for a slot.
#[derive(Debug)]
pub(in crate::supervisor) enum Act {
    Nothing,
    Start(Target),
    /// Check whether this configuration could run.
    Check(Target),
    End(Ending),
    /// Cancel the run's abort token.
    Abort,
    /// Drop the run's task: it does not end by itself.
    Kill,
    /// Nothing is left to manage.
    Remove,
}

/// What follows the end of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Aftermath {
    /// The generation was told to end.
    AsTold,
    /// A new configuration failed before it ran: the previous one comes back.
    RolledBack,
    Again(Duration),
    Parked,
}

/// The part of an instance that decides.
#[derive(Debug)]
pub(in crate::supervisor) struct Standing<H> {
    pub(super) intent: Intent,
    /// Why its file cannot be applied: it is invalid, or collides with another one.
    pub(super) refused: Option<String>,
    pub(super) life: Life<H>,
    history: History,
}

impl<H> Default for Standing<H> {
    fn default() -> Self {
        Self {
            intent: Intent::default(),
            refused: None,
            life: Life::default(),
            history: History::default(),
        }
    }
}

impl<H> Standing<H> {
    // ---- what the files and operators say

    /// Sets the configuration to run. Returns whether it is new.
    pub fn want(&mut self, target: Target) -> bool {
        self.refused = None;
        if let Some(run) = self.life.run_mut()
            && run.target.config == target.config
        {
            // The same values, possibly in another text.
            run.target = target.clone();
        }
        if let Some(course) = self.intent.course_mut()
            && course.wanted.config == target.config
        {
            course.wanted = target;
            return false;
        }
        self.history.forget();
        self.life.try_nothing();
        self.intent = Intent::Run(Course::new(target));
        true
    }

    /// The file exists and cannot be applied: what runs continues. Returns whether the reason is
    /// new.
    pub fn keep(&mut self, why: String) -> bool {
        let news = self.refused.as_ref() != Some(&why);
        self.refused = Some(why);
        news
    }

    /// Nothing should run: the file is gone or says so.
    pub fn unwant(&mut self, is_disabled: bool) {
        self.refused = None;
        self.displace();
        if is_disabled {
            self.intent = Intent::Disabled;
        }
    }

    /// The instance may not even continue: its wallet was granted to another one.
    pub fn displace(&mut self) {
        self.intent = Intent::Nothing;
        self.life.try_nothing();
        self.life.replace_nothing();
    }

    /// The running generation hands over to one of another name.
    pub fn rename(&mut self) {
        if let Life::Up { trial, restart_asked, .. } = &mut self.life {
            *restart_asked = true;
            // The result of a check under way would arrive under the old name.
            if let Trial::Checking(_) = trial {
                *trial = Trial::None;
            }
        }
    }

    /// Handles an operator's `stop`. Returns whether there is anything to stop.
    pub fn hold(&mut self) -> bool {
        match std::mem::take(&mut self.intent) {
            Intent::Run(course) | Intent::Stopped(course) => self.intent = Intent::Stopped(course),
            other @ (Intent::Nothing | Intent::Disabled) => {
                self.intent = other;
                return false;
            }
        }
        self.life.replace_nothing();
        true
    }

    /// Handles an operator's `restart`. Returns whether there is anything to start.
    pub fn restart(&mut self) -> bool {
        self.history.forget();
        match &mut self.life {
            Life::Up { restart_asked, .. } => *restart_asked = true,
            Life::BackingOff { .. } | Life::Parked { .. } => self.life = Life::default(),
            Life::Down { .. } | Life::Ending { .. } => {}
        }
        match std::mem::take(&mut self.intent) {
            Intent::Run(course) | Intent::Stopped(course) => {
                self.intent = Intent::Run(course);
                true
            }
            other @ (Intent::Nothing | Intent::Disabled) => {
                self.intent = other;
                false
            }
        }
    }

    /// Handles an operator's `reload`: a rejected configuration is tried again.
    pub fn try_again(&mut self) {
        if let Some(course) = self.intent.course_mut() {
            course.try_again();
        }
    }

    // ---- what should be, and what is

    /// What should run now.
    pub fn target(&self) -> Option<&Target> {
        match &self.intent {
            Intent::Run(course) => Some(course.target()),
            Intent::Nothing | Intent::Disabled | Intent::Stopped(_) => None,
        }
    }

    /// The configuration that holds claims: the running one, or the one about to start.
    pub fn current(&self) -> Option<&Target> {
        let target = self.target()?;
        Some(self.life.run().map_or(target, |run| &run.target))
    }

    /// The configuration that an operator's `stop` keeps from running.
    pub fn stopped(&self) -> Option<&Arc<Config>> {
        match &self.intent {
            Intent::Stopped(course) => Some(&course.wanted.config),
            Intent::Nothing | Intent::Disabled | Intent::Run(_) => None,
        }
    }

    /// Why a valid file is not applied.
    pub fn unapplied(&self) -> Option<&Unapplied> {
        self.intent.course().and_then(Course::unapplied)
    }

    /// Returns whether the state will change by itself. `is_starting`: the current run is starting.
    pub fn is_changing(&self, is_starting: bool) -> bool {
        match &self.life {
            Life::Up { trial: Trial::Checking(_) | Trial::Approved(_), .. } => true,
            Life::Up { run, trial: Trial::None, .. } => run.replaced.is_some() || is_starting,
            Life::Down { .. } | Life::Ending { .. } => self.target().is_some(),
            Life::BackingOff { .. } | Life::Parked { .. } => false,
        }
    }

    /// The next action, and when to ask again at the latest. `stopping`: the process is stopping.
    pub fn next(&mut self, now: Instant, stopping: bool) -> (Act, Option<Instant>) {
        let target = if stopping { None } else { self.target().cloned() };
        match &mut self.life {
            Life::Up { .. } => self.next_of_run(target, now),
            Life::Ending { deadline, aborted, .. } => {
                if now < *deadline {
                    return (Act::Nothing, Some(*deadline));
                }
                let act = if *aborted { Act::Kill } else { Act::Abort };
                *aborted = true;
                *deadline = now + ABORT_LIMIT;
                (act, Some(*deadline))
            }
            Life::BackingOff { failed, until } | Life::Parked { failed, until, .. } => match target
            {
                Some(target) if target.config == failed.config && now < until.at => {
                    (Act::Nothing, Some(until.at))
                }
                Some(target) => (Act::Start(target), None),
                None => {
                    self.life = Life::default();
                    self.next(now, stopping)
                }
            },
            Life::Down { .. } => match (target, &self.intent) {
                (Some(target), _) => (Act::Start(target), None),
                (None, Intent::Nothing) if self.refused.is_none() => (Act::Remove, None),
                (None, _) => (Act::Nothing, None),
            },
        }
    }

    fn next_of_run(&mut self, target: Option<Target>, now: Instant) -> (Act, Option<Instant>) {
        let Life::Up { run, trial, restart_asked } = &mut self.life else {
            return (Act::Nothing, None);
        };
        let Some(target) = target else { return (Act::End(Ending::Drain), None) };
        if std::mem::take(restart_asked) {
            return (Act::End(Ending::HandOver), None);
        }
        let accepted_at = run.started + PROBATION;
        if now >= accepted_at {
            run.replaced = None;
        }
        let mut wake = run.replaced.is_some().then_some(accepted_at);
        if target.config == run.target.config {
            if let Some(course) = self.intent.course_mut()
                && let Tried::Rejected { again_at: Some(again_at), .. } = course.tried
            {
                if now >= again_at {
                    course.try_again();
                    return self.next(now, false);
                }
                wake = wake.into_iter().chain([again_at]).min();
            }
            return (Act::Nothing, wake);
        }
        let is_of = |config: &Arc<Config>| *config == target.config;
        match trial {
            Trial::Checking(config) if is_of(config) => return (Act::Nothing, wake),
            Trial::Approved(config) if is_of(config) => {}
            // A run that never reached its running phase is not worth protecting.
            Trial::None | Trial::Checking(_) | Trial::Approved(_) if !run.health.has_been => {}
            Trial::None | Trial::Checking(_) | Trial::Approved(_) => {
                *trial = Trial::Checking(target.config.clone());
                return (Act::Check(target), wake);
            }
        }
        let same_wallet = WalletClaim::of(&run.target.config) == WalletClaim::of(&target.config);
        // With another wallet, the transactions of the old one are finished first.
        (Act::End(if same_wallet { Ending::HandOver } else { Ending::Drain }), wake)
    }

    // ---- what happened

    /// A generation was started.
    pub fn started(&mut self, target: Target, handles: H, now: Instant) {
        let before =
            if let Life::Down { replaces } = &mut self.life { replaces.take() } else { None };
        let course = self.intent.course_mut();
        let course = course.filter(|course| course.wanted.config == target.config);
        let replaced = before.filter(|_| course.is_some());
        if let Some(course) = course {
            // The file is applied.
            course.tried = Tried::Fine;
        }
        let run = Run { target, handles, started: now, health: Health::default(), replaced };
        self.life = Life::Up { run, trial: Trial::None, restart_asked: false };
    }

    /// The run was told to end.
    pub fn ending(&mut self, how: Ending, now: Instant) {
        let (run, trial) = match std::mem::take(&mut self.life) {
            Life::Up { run, trial, .. } => (run, trial),
            other @ (Life::Down { .. }
            | Life::Ending { .. }
            | Life::BackingOff { .. }
            | Life::Parked { .. }) => {
                self.life = other;
                return;
            }
        };
        let (limit, aborted) = match how {
            Ending::Drain => (DRAIN_LIMIT, false),
            Ending::HandOver => (ABORT_LIMIT, true),
        };
        let replaces = match trial {
            Trial::Approved(config) if self.target().is_some_and(|of| of.config == config) => {
                Some(run.target.clone())
            }
            // A configuration that never ran must not become the fallback of a further change.
            Trial::None | Trial::Checking(_) | Trial::Approved(_) => run.replaced.clone(),
        };
        self.life = Life::Ending { run, deadline: now + limit, aborted, replaces };
    }

    /// The run entered its running phase (`is_running`), or left it.
    pub fn phase_changed(&mut self, is_running: bool, now: Instant) {
        let Some(run) = self.life.run_mut() else { return };
        if is_running {
            run.health.has_been = true;
            run.replaced = None;
            run.health.since.get_or_insert(now);
        } else if let Some(since) = run.health.since.take() {
            run.health.longest = run.health.longest.max(now.saturating_duration_since(since));
        }
    }

    /// The configuration that is being checked.
    pub fn checking(&self) -> Option<Arc<Config>> {
        match &self.life {
            Life::Up { trial: Trial::Checking(config), .. } => Some(config.clone()),
            Life::Up { .. }
            | Life::Down { .. }
            | Life::Ending { .. }
            | Life::BackingOff { .. }
            | Life::Parked { .. } => None,
        }
    }

    /// The result of checking a changed configuration. `is_running`: the current run waits for
    /// nothing. Returns why the change is not applied, if that reason is new.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), CheckError>,
        is_running: bool,
        now: Instant,
    ) -> Option<Unapplied> {
        let Life::Up { run, trial, .. } = &mut self.life else { return None };
        if !matches!(trial, Trial::Checking(checking) if checking == config) {
            return None; // The files have changed since.
        }
        let error = match result {
            Err(error) if error.is_refusal() || is_running => error,
            // An unreachable dependency is no reason to keep a run that is waiting itself.
            Ok(()) | Err(_) => {
                *trial = Trial::Approved(config.clone());
                return None;
            }
        };
        *trial = Trial::None;
        let waits = !error.is_refusal();
        let again_at = now + if waits { CHECK_AGAIN } else { PARKED_RETRY };
        let why = format!("{error}; the configuration from before runs on");
        let why = Unapplied { code: error.code(), why, waits };
        let before = run.target.clone();
        self.intent.course_mut()?.reject(why, before, Some(again_at))
    }

    /// A generation ended. `jitter`: a number from 0 to 1.
    pub(super) fn ended(&mut self, exit: &Exit, now: Moment, jitter: f64) -> Aftermath {
        let run = match std::mem::take(&mut self.life) {
            Life::Up { run, .. } => run,
            Life::Ending { replaces, .. } => {
                self.life = Life::Down { replaces };
                return Aftermath::AsTold;
            }
            other @ (Life::Down { .. } | Life::BackingOff { .. } | Life::Parked { .. }) => {
                self.life = other;
                return Aftermath::AsTold;
            }
        };
        if let Some(before) = run.replaced
            && let Some(course) = self.intent.course_mut()
            && course.wanted.config == run.target.config
        {
            let why = format!("{exit}; the configuration from before runs again");
            course.reject(Unapplied { code: exit.code(), why, waits: false }, before, None);
            return Aftermath::RolledBack;
        }
        let Health { since, longest, .. } = run.health;
        let current = since.map_or(Duration::ZERO, |since| now.at.saturating_duration_since(since));
        let verdict = match exit {
            Exit::Refused { .. } => Verdict::Park,
            Exit::Stopped | Exit::Failed { .. } | Exit::Panicked { .. } | Exit::Hung { .. } => {
                self.history.failed(current.max(longest), jitter)
            }
        };
        let failed = run.target;
        match verdict {
            Verdict::Again(pause) => {
                self.life = Life::BackingOff { failed, until: now.after(pause) };
                Aftermath::Again(pause)
            }
            Verdict::Park => {
                let (why, until) = (exit.to_string(), now.after(PARKED_RETRY));
                self.life = Life::Parked { failed, why, until };
                Aftermath::Parked
            }
        }
    }
}

#[cfg(test)]
mod tests;
