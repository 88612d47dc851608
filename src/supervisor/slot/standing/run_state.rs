//! The state of an instance's generations: which one is under way, how it is ended, and a change that is being
//! tried.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{config::Config, supervisor::slot::Target};

/// How a generation is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Ending {
    /// Finish what is answered, within the drain limit.
    Drain,
    /// Stop at the next stored step and pass the journal to the next generation.
    HandOver,
}

/// A generation under way.
#[derive(Debug)]
pub(in crate::supervisor::slot) struct Run<H> {
    pub target: Target,
    pub handles: H,
    pub(super) started: Instant,
    pub(super) health: Health,
    /// What this run replaced, until it has reached its running phase.
    pub(super) replaced: Option<Target>,
}

/// How long a run was running without waiting for anything.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// It has been in its running phase at least once.
    pub(super) has_been: bool,
    pub(super) since: Option<Instant>,
    pub(super) longest: Duration,
}

/// A point in time, for decisions (`at`) and for display (Unix ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor::slot) struct Moment {
    pub(super) at: Instant,
    pub ms: u64,
}

impl Moment {
    pub fn new(at: Instant, ms: u64) -> Self {
        Self { at, ms }
    }

    pub(super) fn after(self, pause: Duration) -> Self {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Self { at: self.at + pause, ms: self.ms.saturating_add(ms) }
    }
}

/// The state of the instance's generations.
#[derive(Debug)]
pub(in crate::supervisor::slot) enum Life<H> {
    Down {
        /// What the next generation replaces; it comes back if that one fails.
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

/// A change of the configuration while another one runs.
#[derive(Debug)]
pub(in crate::supervisor::slot) enum Trial {
    None,
    Checking(Arc<Config>),
    /// The check passed: it may replace what runs.
    Approved(Arc<Config>),
}

impl<H> Life<H> {
    pub fn run(&self) -> Option<&Run<H>> {
        match self {
            Self::Up { run, .. } | Self::Ending { run, .. } => Some(run),
            Self::Down { .. } | Self::BackingOff { .. } | Self::Parked { .. } => None,
        }
    }

    pub(super) fn run_mut(&mut self) -> Option<&mut Run<H>> {
        match self {
            Self::Up { run, .. } | Self::Ending { run, .. } => Some(run),
            Self::Down { .. } | Self::BackingOff { .. } | Self::Parked { .. } => None,
        }
    }

    /// Gives up a change under way.
    pub(super) fn try_nothing(&mut self) {
        if let Self::Up { trial, .. } = self {
            *trial = Trial::None;
        }
    }

    /// The next generation will have nothing to fall back to.
    pub(super) fn replace_nothing(&mut self) {
        if let Self::Down { replaces } | Self::Ending { replaces, .. } = self {
            *replaces = None;
        }
    }
}
