//! One instance as its supervisor sees it: what should run, what does, and what to do next.
//!
//! ```text
//!            start                    ends by itself
//!   down ------------> up ---------------------------------> backing off | parked
//!    ^                 |  drain | hand over                       |  time, a change, an operator
//!    |                 v                                          |
//!    +------------- ending                        start <---------+
//! ```
//!
//! [`Slot::next`] compares and answers one act; the loop carries it out and tells the slot. A change
//! is checked while the old configuration runs, then replaces it; until the new one has run it is on
//! probation, and its failure brings the old one back.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    directory::Wanted,
    lifecycle::DRAIN_LIMIT,
    plan::WalletClaim,
    restart::{History, PARKED_RETRY, Verdict},
};
use crate::{
    clock,
    config::Config,
    instance::{CheckError, Exit},
    metrics::Metrics,
    observe::{
        history::LastHour,
        requests::Desk,
        status::{Gauges, InstanceStatus, LastError, Phase, State, StoppedBy},
    },
};

/// How long an aborted instance may take to close its journal before its task is dropped.
const ABORT_LIMIT: Duration = Duration::from_secs(15);
/// An unreachable dependency of a changed configuration is tried again after this.
pub(super) const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// A new configuration that waits this long is taken for what the operator wants.
const PROBATION: Duration = Duration::from_mins(2);

/// A configuration to run, with where it came from.
pub(super) type Target = Arc<Wanted>;

/// One generation under way.
#[derive(Debug)]
pub(super) struct Run {
    /// Unique in the process.
    pub id: u64,
    pub target: Target,
    pub stop: CancellationToken,
    pub abort: CancellationToken,
    pub task: AbortHandle,
    pub phase: watch::Receiver<Phase>,
    pub gauges: watch::Receiver<Gauges>,
    /// Where it can be asked for its requests.
    pub desk: watch::Receiver<Option<Desk>>,
    pub started: Instant,
    /// Since when it runs and waits for nothing.
    pub running_since: Option<Instant>,
    /// Its longest time in health.
    pub longest_health: Duration,
    /// It has run, if only for a moment.
    pub has_been_up: bool,
    /// What it replaced, until it has run.
    pub replaced: Option<Target>,
}

impl Run {
    fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }
}

/// How a generation is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is answered is finished, for at most the drain limit.
    Drain,
    /// At the next door: the journal goes to the next generation.
    HandOver,
}

#[derive(Debug)]
enum Life {
    Down,
    Up(Run),
    Ending { run: Run, deadline: Instant, aborted: bool },
    BackingOff { failed: Target, until: Instant, until_ms: u64 },
    Parked { failed: Target, why: String, until: Instant, until_ms: u64 },
}

/// Where a change of the configuration stands, while another one runs.
#[derive(Debug, Default)]
enum Change {
    #[default]
    None,
    Checking(Arc<Config>),
    /// It may replace what runs.
    Approved(Arc<Config>),
    /// It could not; tried again at a time, or only when asked.
    Rejected {
        config: Arc<Config>,
        again_at: Option<Instant>,
    },
}

/// What the loop should do for a slot.
#[derive(Debug)]
pub(super) enum Act {
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
pub(super) enum Aftermath {
    /// It was told to end.
    AsTold,
    /// A new configuration failed before it ever ran: the one before it comes back.
    RolledBack,
    Again(Duration),
    Parked,
}

/// Why the files do not say what runs.
#[derive(Debug, Default)]
struct Complaints {
    /// The file is wrong, or collides with another.
    file: Option<String>,
    /// The new configuration could not replace the old one.
    change: Option<Unapplied>,
}

/// Why a new configuration did not replace the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unapplied {
    pub why: String,
    /// Nothing is known against it: what it needs does not answer, and it is tried again by itself.
    pub waits: bool,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Slot<E> {
    pub name: String,
    /// Unique in the process: a name goes from one slot to another.
    pub number: u64,
    file: Option<PathBuf>,
    /// What should run by the files, if anything.
    wanted: Option<Target>,
    complaints: Complaints,
    /// `enabled = false`.
    disabled: bool,
    /// What an operator's `stop` stopped: a change of it starts the instance again.
    stopped: Option<Arc<Config>>,
    change: Change,
    /// What runs while `change` is rejected.
    fallback: Option<Target>,
    /// What the next generation replaces, and takes the place of again if that fails.
    replaced: Option<Target>,
    restart_asked: bool,
    life: Life,
    /// What the last generation left, and of which wallet.
    estate: Option<(WalletClaim, E)>,
    history: History,
    pub generation: u64,
    /// What all generations counted.
    pub metrics: Metrics,
    /// And when, lately.
    pub last_hour: LastHour,
    restarts: u64,
    last_error: Option<LastError>,
    /// The state as last shown, and since when.
    shown: (State, u64),
    /// Whether something is amiss, and when that was over last (UNIX ms).
    troubled: (bool, u64),
}

impl<E> Slot<E> {
    pub fn new(name: String, number: u64) -> Self {
        Self {
            name,
            number,
            file: None,
            wanted: None,
            complaints: Complaints::default(),
            disabled: false,
            stopped: None,
            change: Change::None,
            fallback: None,
            replaced: None,
            restart_asked: false,
            life: Life::Down,
            estate: None,
            history: History::default(),
            generation: 0,
            metrics: Metrics::new(),
            last_hour: LastHour::default(),
            restarts: 0,
            last_error: None,
            shown: (State::Starting, clock::unix_millis()),
            troubled: (false, 0),
        }
    }

    // ---- what the files and operators say

    /// This should run. Answers whether that is news.
    pub fn want(&mut self, target: Target) -> bool {
        let news = self.wanted.as_ref().is_none_or(|wanted| wanted.config != target.config);
        self.file.clone_from(&target.file);
        self.complaints.file = None;
        self.disabled = false;
        if news {
            self.history.forget();
            self.change = Change::None;
            self.complaints.change = None;
        }
        if self.stopped.as_ref().is_some_and(|stopped| *stopped != target.config) {
            self.stopped = None;
        }
        if let Some(run) = self.run_mut()
            && run.target.config == target.config
        {
            // The same values, perhaps in another text.
            run.target = target.clone();
        }
        self.wanted = Some(target);
        news
    }

    /// The file is there and cannot be applied: what ran goes on. Answers whether that is news.
    pub fn keep(&mut self, file: Option<PathBuf>, why: String) -> bool {
        self.file = file;
        let news = self.complaints.file.as_ref() != Some(&why);
        self.complaints.file = Some(why);
        news
    }

    /// Nothing should run under this name: its file is gone, or `disabled`.
    pub fn unwant(&mut self, disabled: Option<PathBuf>) {
        self.disabled = disabled.is_some();
        self.file = disabled;
        self.complaints = Complaints::default();
        self.stopped = None;
        self.displace();
    }

    /// It may not even go on as it is: its wallet is granted to another instance.
    pub fn displace(&mut self) {
        self.wanted = None;
        self.change = Change::None;
        self.fallback = None;
        self.replaced = None;
    }

    /// The same instance under a new name: what runs hands over to a generation of that name.
    pub fn rename(&mut self, name: String) {
        self.name = name;
        // A check under way answers to the old name.
        if let Change::Checking(_) = self.change {
            self.change = Change::None;
        }
        self.restart_asked = matches!(self.life, Life::Up(_));
    }

    /// An operator's `stop`. Answers whether there is anything to stop.
    pub fn hold(&mut self) -> bool {
        self.replaced = None;
        self.restart_asked = false;
        self.stopped = self.wanted.as_ref().map(|wanted| wanted.config.clone());
        self.stopped.is_some()
    }

    /// An operator's `restart`. Answers whether there is anything to start.
    pub fn restart(&mut self) -> bool {
        self.stopped = None;
        self.history.forget();
        match self.life {
            Life::Up(_) => self.restart_asked = true,
            Life::BackingOff { .. } | Life::Parked { .. } => self.life = Life::Down,
            Life::Down | Life::Ending { .. } => {}
        }
        self.wanted.is_some()
    }

    /// An operator's `reload`: what was rejected is tried again.
    pub fn try_again(&mut self) {
        if let Change::Rejected { .. } = self.change {
            self.change = Change::None;
        }
    }

    // ---- what should be, and what is

    /// What should run now.
    fn target(&self) -> Option<&Target> {
        let wanted = self.wanted.as_ref().filter(|_| self.stopped.is_none())?;
        match &self.change {
            Change::Rejected { config, .. } if *config == wanted.config => {
                self.fallback.as_ref().or(Some(wanted))
            }
            Change::None | Change::Checking(_) | Change::Approved(_) | Change::Rejected { .. } => {
                Some(wanted)
            }
        }
    }

    /// What holds claims: what runs and may go on, or is about to.
    pub fn current(&self) -> Option<&Target> {
        let target = self.target()?;
        Some(self.run().map_or(target, |run| &run.target))
    }

    /// What an operator's `stop` keeps from running.
    pub fn stopped(&self) -> Option<&Arc<Config>> {
        self.stopped.as_ref()
    }

    pub fn run(&self) -> Option<&Run> {
        match &self.life {
            Life::Up(run) | Life::Ending { run, .. } => Some(run),
            Life::Down | Life::BackingOff { .. } | Life::Parked { .. } => None,
        }
    }

    pub fn run_mut(&mut self) -> Option<&mut Run> {
        match &mut self.life {
            Life::Up(run) | Life::Ending { run, .. } => Some(run),
            Life::Down | Life::BackingOff { .. } | Life::Parked { .. } => None,
        }
    }

    /// Whether it is on its way to another state by itself: a reload or a start is over when none
    /// of them is.
    pub fn is_changing(&self) -> bool {
        if matches!(self.change, Change::Checking(_) | Change::Approved(_)) {
            return true;
        }
        match &self.life {
            Life::Up(run) => run.replaced.is_some() || run.phase() == Phase::Starting,
            Life::Down | Life::Ending { .. } => self.target().is_some(),
            Life::BackingOff { .. } | Life::Parked { .. } => false,
        }
    }

    /// What to do now, and when to ask again at the latest. `stopping`: the process is.
    pub fn next(&mut self, now: Instant, stopping: bool) -> (Act, Option<Instant>) {
        let target = if stopping { None } else { self.target().cloned() };
        match &mut self.life {
            Life::Up(_) => self.next_of_run(target, now),
            Life::Ending { deadline, aborted, .. } => {
                if now < *deadline {
                    return (Act::Nothing, Some(*deadline));
                }
                let act = if *aborted { Act::Kill } else { Act::Abort };
                *aborted = true;
                *deadline = now + ABORT_LIMIT;
                (act, Some(*deadline))
            }
            Life::BackingOff { failed, until, .. } | Life::Parked { failed, until, .. } => {
                match target {
                    Some(target) if target.config == failed.config && now < *until => {
                        (Act::Nothing, Some(*until))
                    }
                    Some(target) => (Act::Start(target), None),
                    None => {
                        self.life = Life::Down;
                        self.next(now, stopping)
                    }
                }
            }
            Life::Down => match target {
                Some(target) => (Act::Start(target), None),
                None if self.is_nothing() => (Act::Remove, None),
                None => (Act::Nothing, None),
            },
        }
    }

    fn next_of_run(&mut self, target: Option<Target>, now: Instant) -> (Act, Option<Instant>) {
        let Life::Up(run) = &mut self.life else { return (Act::Nothing, None) };
        let Some(target) = target else { return (Act::End(Ending::Drain), None) };
        if std::mem::take(&mut self.restart_asked) {
            return (Act::End(Ending::HandOver), None);
        }
        let mut wake = None;
        if run.replaced.is_some() {
            let accepted_at = run.started + PROBATION;
            if now >= accepted_at {
                run.replaced = None;
            } else {
                wake = Some(accepted_at);
            }
        }
        if target.config == run.target.config {
            if let Change::Rejected { again_at: Some(again_at), .. } = self.change {
                if now >= again_at {
                    self.change = Change::None;
                    return self.next(now, false);
                }
                wake = wake.into_iter().chain([again_at]).min();
            }
            return (Act::Nothing, wake);
        }
        let same_wallet = WalletClaim::of(&run.target.config) == WalletClaim::of(&target.config);
        // Another wallet: the old one's transactions are finished first.
        let how = if same_wallet { Ending::HandOver } else { Ending::Drain };
        match &self.change {
            Change::Checking(config) if *config == target.config => (Act::Nothing, wake),
            Change::Approved(config) if *config == target.config => {
                self.replaced = Some(run.target.clone());
                self.change = Change::None;
                (Act::End(how), wake)
            }
            // It never got as far as running: there is nothing to protect.
            Change::None | Change::Checking(_) | Change::Approved(_) | Change::Rejected { .. }
                if !run.has_been_up =>
            {
                (Act::End(how), wake)
            }
            Change::None | Change::Checking(_) | Change::Approved(_) | Change::Rejected { .. } => {
                self.change = Change::Checking(target.config.clone());
                (Act::Check(target), wake)
            }
        }
    }

    fn is_nothing(&self) -> bool {
        self.wanted.is_none() && !self.disabled && self.complaints.file.is_none()
    }

    // ---- what happened

    /// Whether what the last generation left is of no use to this configuration: then it has to be
    /// closed before.
    pub fn has_foreign_estate(&self, config: &Config) -> bool {
        self.estate.as_ref().is_some_and(|(claim, _)| *claim != WalletClaim::of(config))
    }

    pub fn take_estate(&mut self) -> Option<(WalletClaim, E)> {
        self.estate.take()
    }

    pub fn started(&mut self, mut run: Run) {
        let is_wanted =
            self.wanted.as_ref().is_some_and(|wanted| wanted.config == run.target.config);
        run.replaced = self.replaced.take().filter(|_| is_wanted);
        if is_wanted {
            // Also where what ran failed by itself while this was being checked.
            self.change = Change::None;
        }
        self.life = Life::Up(run);
    }

    /// The run was told to end.
    pub fn ending(&mut self, how: Ending, now: Instant) {
        self.life = match std::mem::replace(&mut self.life, Life::Down) {
            Life::Up(run) => {
                let (limit, aborted) = match how {
                    Ending::Drain => (DRAIN_LIMIT, false),
                    Ending::HandOver => (ABORT_LIMIT, true),
                };
                Life::Ending { run, deadline: now + limit, aborted }
            }
            other @ (Life::Down
            | Life::Ending { .. }
            | Life::BackingOff { .. }
            | Life::Parked { .. }) => other,
        };
    }

    /// What runs tells another phase.
    pub fn phase_changed(&mut self, now: Instant) {
        let Some(run) = self.run_mut() else { return };
        if run.phase() == Phase::Running {
            run.has_been_up = true;
            run.replaced = None;
            run.running_since.get_or_insert(now);
        } else if let Some(since) = run.running_since.take() {
            run.longest_health = run.longest_health.max(now - since);
        }
    }

    /// What is being checked beside the one that runs.
    pub fn checking(&self) -> Option<Arc<Config>> {
        match &self.change {
            Change::Checking(config) => Some(config.clone()),
            Change::None | Change::Approved(_) | Change::Rejected { .. } => None,
        }
    }

    /// What came of checking a changed configuration beside the one that runs. Answers why it is
    /// not applied, if that is news.
    pub fn checked(
        &mut self,
        config: &Arc<Config>,
        result: Result<(), CheckError>,
        now: Instant,
    ) -> Option<Unapplied> {
        if !matches!(&self.change, Change::Checking(checking) if checking == config) {
            return None; // The files say something else by now.
        }
        self.change = Change::None;
        let Life::Up(run) = &self.life else { return None };
        let Err(error) = result else {
            self.change = Change::Approved(config.clone());
            return None;
        };
        let again_at = match &error {
            // What runs gets nothing done either.
            CheckError::Unreachable(_) if run.phase() != Phase::Running => {
                self.change = Change::Approved(config.clone());
                return None;
            }
            CheckError::Unreachable(_) => now + CHECK_AGAIN,
            CheckError::Refused(_) => now + PARKED_RETRY,
        };
        self.fallback = Some(run.target.clone());
        self.change = Change::Rejected { config: config.clone(), again_at: Some(again_at) };
        let waits = matches!(error, CheckError::Unreachable(_));
        self.complain(format!("{error}; the configuration from before runs on"), waits)
    }

    fn complain(&mut self, why: String, waits: bool) -> Option<Unapplied> {
        let unapplied = Unapplied { why, waits };
        let news = self.complaints.change.as_ref() != Some(&unapplied);
        self.complaints.change = Some(unapplied.clone());
        news.then_some(unapplied)
    }

    /// A generation is over. `jitter`: a number from 0 to 1.
    pub fn ended(
        &mut self,
        exit: &Exit,
        estate: Option<E>,
        now: Instant,
        jitter: f64,
    ) -> Aftermath {
        let (run, told) = match std::mem::replace(&mut self.life, Life::Down) {
            Life::Up(run) => (run, false),
            Life::Ending { run, .. } => (run, true),
            other @ (Life::Down | Life::BackingOff { .. } | Life::Parked { .. }) => {
                self.life = other;
                return Aftermath::AsTold;
            }
        };
        self.estate = estate.map(|estate| (WalletClaim::of(&run.target.config), estate));
        if *exit != Exit::Stopped {
            self.last_error =
                Some(LastError { at_ms: clock::unix_millis(), text: exit.to_string() });
        }
        if told {
            // What never ran does not become what a further change would fall back to.
            self.replaced = self.replaced.take().or(run.replaced);
            return Aftermath::AsTold;
        }
        if let Some(previous) = run.replaced {
            self.complain(format!("{exit}; the configuration from before runs again"), false);
            self.fallback = Some(previous);
            self.change = Change::Rejected { config: run.target.config.clone(), again_at: None };
            return Aftermath::RolledBack;
        }
        self.restarts += 1;
        let current = run.running_since.map_or(Duration::ZERO, |since| now - since);
        let verdict = match exit {
            Exit::Refused { .. } => Verdict::Park,
            Exit::Stopped | Exit::Failed { .. } | Exit::Panicked { .. } | Exit::Hung { .. } => {
                self.history.failed(current.max(run.longest_health), jitter)
            }
        };
        let failed = run.target;
        match verdict {
            Verdict::Again(pause) => {
                let (until, until_ms) = (now + pause, in_ms(pause));
                self.life = Life::BackingOff { failed, until, until_ms };
                Aftermath::Again(pause)
            }
            Verdict::Park => {
                let (until, until_ms) = (now + PARKED_RETRY, in_ms(PARKED_RETRY));
                self.life = Life::Parked { failed, why: exit.to_string(), until, until_ms };
                Aftermath::Parked
            }
        }
    }

    // ---- what is shown

    fn state(&self) -> State {
        match &self.life {
            Life::Up(run) => match run.phase() {
                Phase::Starting => State::Starting,
                Phase::Waiting { on, why } => State::Waiting { on, why },
                Phase::Running => State::Running,
            },
            Life::Ending { .. } => State::Draining,
            Life::BackingOff { until_ms, .. } => State::BackingOff { until_ms: *until_ms },
            Life::Parked { why, until_ms, .. } => {
                State::Parked { why: why.clone(), retry_at_ms: Some(*until_ms) }
            }
            Life::Down if self.stopped.is_some() => State::Stopped { by: StoppedBy::Operator },
            Life::Down if self.disabled => State::Stopped { by: StoppedBy::File },
            Life::Down => match &self.complaints.file {
                Some(why) if self.wanted.is_none() => {
                    State::Parked { why: why.clone(), retry_at_ms: None }
                }
                Some(_) | None => State::Starting,
            },
        }
    }

    /// Brings what is shown up to date. Answers whether it is another state.
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

    /// Whether there is something that may be mended: what is warned of meanwhile is over then.
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

    /// When what was amiss was mended last (UNIX ms); 0: nothing was amiss yet.
    pub fn mended_at_ms(&self) -> u64 {
        self.troubled.1
    }

    /// Notes what it counts for its history.
    pub fn look(&mut self, now_ms: u64) {
        let gauges = self.run().map(|run| run.gauges.borrow().clone());
        self.last_hour.look(now_ms, &self.metrics, gauges.as_ref());
    }

    /// The state as of the last [`Self::show`].
    pub fn shown(&self) -> &State {
        &self.shown.0
    }

    /// Whether it is ending.
    pub fn is_draining(&self) -> bool {
        matches!(self.life, Life::Ending { .. })
    }

    /// Whether it is not as an operator wants it.
    pub fn is_amiss(&self) -> bool {
        let is_down = matches!(self.shown.0, State::Parked { .. } | State::BackingOff { .. });
        is_down || self.complaint().is_some()
    }

    /// How it is, in one line.
    pub fn line(&self) -> String {
        let generation =
            self.run().map(|_| format!(", generation {}", self.generation)).unwrap_or_default();
        let complaint = match (self.complaint(), &self.shown.0) {
            // A parked one's reason is told already.
            (None, _) | (_, State::Parked { .. }) => String::new(),
            (Some(why), _) if self.is_waiting_to_change() => {
                format!("; its new configuration waits, and is tried again by itself: {why}")
            }
            (Some(why), _) => format!("; reload failed: {why}"),
        };
        format!("{}: {}{generation}{complaint}", self.name, self.described())
    }

    /// How it is, in a few words, if there is anything to say: it runs as its file says otherwise.
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

    /// Why the files do not say what runs.
    pub fn complaint(&self) -> Option<&str> {
        let of_change = self.complaints.change.as_ref().map(|unapplied| unapplied.why.as_str());
        self.complaints.file.as_deref().or(of_change)
    }

    /// Whether that is only because what its new configuration needs does not answer.
    fn is_waiting_to_change(&self) -> bool {
        self.complaints.file.is_none() && self.complaints.change.as_ref().is_some_and(|it| it.waits)
    }

    pub fn status(&self) -> InstanceStatus {
        let target = self.run().map(|run| &run.target).or_else(|| self.target());
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

fn in_ms(pause: Duration) -> u64 {
    clock::unix_millis() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}
