//! What an instance should be, what it is, and what to do about the difference. Pure: moments come in as
//! values, and what a generation is made of (`H`) decides nothing.
//!
//! ```text
//!            start                    ends by itself
//!   down ------------> up ---------------------------------> backing off | parked
//!    ^                 |  drain | hand over                       |  time, a change, an operator
//!    |                 v                                          |
//!    +------------- ending                        start <---------+
//! ```
//!
//! [`Standing::next`] compares and answers one act; the loop carries it out and tells. A change is checked
//! while the old configuration runs (a [`Trial`]), then replaces it; until the new one has run it is on
//! probation, and its failure brings the old one back.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    super::{
        lifecycle::DRAIN_LIMIT,
        plan::WalletClaim,
        restart::{History, PARKED_RETRY, Verdict},
    },
    Target,
};
use crate::{
    config::Config,
    instance::{CheckError, Exit},
};

/// How long an aborted instance may take to close its journal before its task is dropped.
const ABORT_LIMIT: Duration = Duration::from_secs(15);
/// An unreachable dependency of a changed configuration is tried again after this.
pub(in crate::supervisor) const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// A new configuration that waits this long is taken for what the operator wants.
const PROBATION: Duration = Duration::from_mins(2);

/// How a generation is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Ending {
    /// What is answered is finished, for at most the drain limit.
    Drain,
    /// At the next door: the journal goes to the next generation.
    HandOver,
}

/// What the loop should do for a slot.
#[derive(Debug)]
pub(in crate::supervisor) enum Act {
    Nothing,
    Start(Target),
    /// Find out whether this configuration could run.
    Check(Target),
    End(Ending),
    /// Cancel the run's abort token.
    Abort,
    /// Drop the run's task: it does not end by itself.
    Kill,
    /// There is nothing left to be.
    Remove,
}

/// What follows the end of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Aftermath {
    /// It was told to end.
    AsTold,
    /// A new configuration failed before it ever ran: the one before it comes back.
    RolledBack,
    Again(Duration),
    Parked,
}

/// Why a new configuration did not replace the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::supervisor) struct Unapplied {
    pub why: String,
    /// Nothing is known against it: what it needs does not answer, and it is tried again by itself.
    pub waits: bool,
}

/// What the files and operators want.
#[derive(Debug, Default)]
pub(super) enum Intent {
    /// Nothing: there is no file, none that was ever in order, or its wallet is another's.
    #[default]
    Nothing,
    /// `enabled = false`.
    Disabled,
    Run(Course),
    /// An operator's `stop`: a change of the configuration starts it again.
    Stopped(Course),
}

/// A configuration, and what is known against it.
#[derive(Debug)]
pub(super) struct Course {
    /// What the files say.
    wanted: Target,
    tried: Tried,
}

#[derive(Debug)]
enum Tried {
    /// Nothing is known against it.
    Fine,
    /// It could not be applied, and is tried again now.
    Again(Unapplied),
    /// It could not be applied, and `before` runs in its place; tried again at a time, or only when asked.
    Rejected { why: Unapplied, before: Target, again_at: Option<Instant> },
}

impl Course {
    fn new(wanted: Target) -> Self {
        Self { wanted, tried: Tried::Fine }
    }

    fn target(&self) -> &Target {
        match &self.tried {
            Tried::Rejected { before, .. } => before,
            Tried::Fine | Tried::Again(_) => &self.wanted,
        }
    }

    fn unapplied(&self) -> Option<&Unapplied> {
        match &self.tried {
            Tried::Again(why) | Tried::Rejected { why, .. } => Some(why),
            Tried::Fine => None,
        }
    }

    /// Answers why, if that is news.
    fn reject(
        &mut self,
        why: Unapplied,
        before: Target,
        again_at: Option<Instant>,
    ) -> Option<Unapplied> {
        let news = (self.unapplied() != Some(&why)).then(|| why.clone());
        self.tried = Tried::Rejected { why, before, again_at };
        news
    }

    fn try_again(&mut self) {
        if let Tried::Rejected { why, .. } = &self.tried {
            self.tried = Tried::Again(why.clone());
        }
    }
}

impl Intent {
    fn course(&self) -> Option<&Course> {
        match self {
            Self::Run(course) | Self::Stopped(course) => Some(course),
            Self::Nothing | Self::Disabled => None,
        }
    }

    fn course_mut(&mut self) -> Option<&mut Course> {
        match self {
            Self::Run(course) | Self::Stopped(course) => Some(course),
            Self::Nothing | Self::Disabled => None,
        }
    }
}

/// One generation under way.
#[derive(Debug)]
pub(super) struct Run<H> {
    pub target: Target,
    pub handles: H,
    started: Instant,
    health: Health,
    /// What it replaced, until it has run.
    replaced: Option<Target>,
}

/// How long a run waited for nothing.
#[derive(Debug, Default)]
struct Health {
    /// It has run, if only for a moment.
    has_been: bool,
    since: Option<Instant>,
    longest: Duration,
}

/// A moment, as it decides and as it is shown (UNIX ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    at: Instant,
    pub ms: u64,
}

impl Moment {
    pub fn new(at: Instant, ms: u64) -> Self {
        Self { at, ms }
    }

    fn after(self, pause: Duration) -> Self {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Self { at: self.at + pause, ms: self.ms.saturating_add(ms) }
    }
}

/// Where its generations stand.
#[derive(Debug)]
pub(super) enum Life<H> {
    Down {
        /// What the next generation replaces, and takes the place of again if that fails.
        replaces: Option<Target>,
    },
    Up {
        run: Run<H>,
        trial: Trial,
        restart_asked: bool,
    },
    Ending {
        run: Run<H>,
        deadline: Instant,
        aborted: bool,
        replaces: Option<Target>,
    },
    BackingOff {
        failed: Target,
        until: Moment,
    },
    Parked {
        failed: Target,
        why: String,
        until: Moment,
    },
}

impl<H> Default for Life<H> {
    fn default() -> Self {
        Self::Down { replaces: None }
    }
}

/// Where a change of the configuration stands, while another one runs.
#[derive(Debug)]
pub(super) enum Trial {
    None,
    Checking(Arc<Config>),
    /// It may replace what runs.
    Approved(Arc<Config>),
}

impl<H> Life<H> {
    pub fn run(&self) -> Option<&Run<H>> {
        match self {
            Self::Up { run, .. } | Self::Ending { run, .. } => Some(run),
            Self::Down { .. } | Self::BackingOff { .. } | Self::Parked { .. } => None,
        }
    }

    fn run_mut(&mut self) -> Option<&mut Run<H>> {
        match self {
            Self::Up { run, .. } | Self::Ending { run, .. } => Some(run),
            Self::Down { .. } | Self::BackingOff { .. } | Self::Parked { .. } => None,
        }
    }

    /// Whatever is being tried is of no use any more.
    fn try_nothing(&mut self) {
        if let Self::Up { trial, .. } = self {
            *trial = Trial::None;
        }
    }

    /// What comes next has nothing to fall back to.
    fn replace_nothing(&mut self) {
        if let Self::Down { replaces } | Self::Ending { replaces, .. } = self {
            *replaces = None;
        }
    }
}

/// One instance, as far as it decides anything.
#[derive(Debug)]
pub(in crate::supervisor) struct Standing<H> {
    pub(super) intent: Intent,
    /// Why its file cannot be applied: it is wrong, or collides with another.
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

    /// This should run. Answers whether that is news.
    pub fn want(&mut self, target: Target) -> bool {
        self.refused = None;
        if let Some(run) = self.life.run_mut()
            && run.target.config == target.config
        {
            // The same values, perhaps in another text.
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

    /// The file is there and cannot be applied: what ran goes on. Answers whether that is news.
    pub fn keep(&mut self, why: String) -> bool {
        let news = self.refused.as_ref() != Some(&why);
        self.refused = Some(why);
        news
    }

    /// Nothing should run: its file is gone, or says so.
    pub fn unwant(&mut self, is_disabled: bool) {
        self.refused = None;
        self.displace();
        if is_disabled {
            self.intent = Intent::Disabled;
        }
    }

    /// It may not even go on as it is: its wallet is granted to another instance.
    pub fn displace(&mut self) {
        self.intent = Intent::Nothing;
        self.life.try_nothing();
        self.life.replace_nothing();
    }

    /// What runs hands over to a generation of another name.
    pub fn rename(&mut self) {
        if let Life::Up { trial, restart_asked, .. } = &mut self.life {
            *restart_asked = true;
            // A check under way answers to the old name.
            if let Trial::Checking(_) = trial {
                *trial = Trial::None;
            }
        }
    }

    /// An operator's `stop`. Answers whether there is anything to stop.
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

    /// An operator's `restart`. Answers whether there is anything to start.
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

    /// An operator's `reload`: what was rejected is tried again.
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

    /// What holds claims: what runs and may go on, or is about to.
    pub fn current(&self) -> Option<&Target> {
        let target = self.target()?;
        Some(self.life.run().map_or(target, |run| &run.target))
    }

    /// What an operator's `stop` keeps from running.
    pub fn stopped(&self) -> Option<&Arc<Config>> {
        match &self.intent {
            Intent::Stopped(course) => Some(&course.wanted.config),
            Intent::Nothing | Intent::Disabled | Intent::Run(_) => None,
        }
    }

    /// Why the files do not say what runs, where the files are in order.
    pub fn unapplied(&self) -> Option<&Unapplied> {
        self.intent.course().and_then(Course::unapplied)
    }

    /// Whether it is on its way to another state by itself. `is_starting`: what runs is.
    pub fn is_changing(&self, is_starting: bool) -> bool {
        match &self.life {
            Life::Up { trial: Trial::Checking(_) | Trial::Approved(_), .. } => true,
            Life::Up { run, trial: Trial::None, .. } => run.replaced.is_some() || is_starting,
            Life::Down { .. } | Life::Ending { .. } => self.target().is_some(),
            Life::BackingOff { .. } | Life::Parked { .. } => false,
        }
    }

    /// What to do now, and when to ask again at the latest. `stopping`: the process is.
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
            // One that never got as far as running is not worth protecting.
            Trial::None | Trial::Checking(_) | Trial::Approved(_) if !run.health.has_been => {}
            Trial::None | Trial::Checking(_) | Trial::Approved(_) => {
                *trial = Trial::Checking(target.config.clone());
                return (Act::Check(target), wake);
            }
        }
        let same_wallet = WalletClaim::of(&run.target.config) == WalletClaim::of(&target.config);
        // Another wallet: the old one's transactions are finished first.
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
            // It is applied.
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
            // What never ran does not become what a further change would fall back to.
            Trial::None | Trial::Checking(_) | Trial::Approved(_) => run.replaced.clone(),
        };
        self.life = Life::Ending { run, deadline: now + limit, aborted, replaces };
    }

    /// What runs waits for nothing, or does again.
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

    /// What is being checked beside the one that runs.
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

    /// What came of checking a changed configuration beside the one that runs (`is_running`: and waits for
    /// nothing). Answers why it is not applied, if that is news.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), CheckError>,
        is_running: bool,
        now: Instant,
    ) -> Option<Unapplied> {
        let Life::Up { run, trial, .. } = &mut self.life else { return None };
        if !matches!(trial, Trial::Checking(checking) if checking == config) {
            return None; // The files say something else by now.
        }
        let error = match result {
            Err(error) if error.is_refusal() || is_running => error,
            // Also where what runs gets nothing done either.
            Ok(()) | Err(_) => {
                *trial = Trial::Approved(config.clone());
                return None;
            }
        };
        *trial = Trial::None;
        let waits = !error.is_refusal();
        let again_at = now + if waits { CHECK_AGAIN } else { PARKED_RETRY };
        let why =
            Unapplied { why: format!("{error}; the configuration from before runs on"), waits };
        let before = run.target.clone();
        self.intent.course_mut()?.reject(why, before, Some(again_at))
    }

    /// A generation is over. `jitter`: a number from 0 to 1.
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
            course.reject(Unapplied { why, waits: false }, before, None);
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
