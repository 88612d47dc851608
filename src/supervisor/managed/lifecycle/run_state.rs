//! The state of an instance's generations: which one is under way, how it is ended, and a change that is being
//! tried.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{config::Config, supervisor::managed::Target};

/// How a generation is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum StopMode {
    /// Finish what is answered, within the drain limit.
    Drain,
    /// Stop at the next stored step and pass the journal to the next generation.
    HandOver,
}

/// A generation under way.
#[derive(Debug)]
pub(in crate::supervisor::managed) struct Run<H> {
    pub target: Target,
    pub handles: H,
    pub(super) started: Instant,
    pub(super) health: HealthyTime,
    /// What this run replaced, until it has reached its running phase.
    pub(super) fallback: Option<Target>,
}

/// How long a run was running without waiting for anything.
#[derive(Debug, Default)]
pub(super) struct HealthyTime {
    /// It has been in its running phase at least once.
    pub(super) has_run: bool,
    pub(super) since: Option<Instant>,
    pub(super) longest: Duration,
}

/// A point in time, for decisions (`at`) and for display (Unix ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor::managed) struct Moment {
    pub(super) at: Instant,
    pub unix_ms: u64,
}

impl Moment {
    pub fn new(at: Instant, unix_ms: u64) -> Self {
        Self { at, unix_ms }
    }

    pub(super) fn after(self, pause: Duration) -> Self {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Self { at: self.at + pause, unix_ms: self.unix_ms.saturating_add(ms) }
    }
}

/// The state of the instance's generations.
#[derive(Debug)]
pub(in crate::supervisor::managed) enum RunState<H> {
    Down {
        /// What the next generation replaces; it comes back if that one fails.
        fallback: Option<Target>,
    },
    Up {
        run: Run<H>,
        change: PendingChange,
        is_restart_requested: bool,
    },
    Stopping {
        run: Run<H>,
        deadline: Instant,
        is_aborted: bool,
        fallback: Option<Target>,
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

impl<H> Default for RunState<H> {
    fn default() -> Self {
        Self::Down { fallback: None }
    }
}

/// A change of the configuration while another one runs.
#[derive(Debug)]
pub(in crate::supervisor::managed) enum PendingChange {
    None,
    Checking(Arc<Config>),
    /// The check passed: it may replace what runs.
    Approved(Arc<Config>),
}

impl<H> RunState<H> {
    pub fn run(&self) -> Option<&Run<H>> {
        match self {
            Self::Up { run, .. } | Self::Stopping { run, .. } => Some(run),
            Self::Down { .. } | Self::BackingOff { .. } | Self::Parked { .. } => None,
        }
    }

    pub(super) fn run_mut(&mut self) -> Option<&mut Run<H>> {
        match self {
            Self::Up { run, .. } | Self::Stopping { run, .. } => Some(run),
            Self::Down { .. } | Self::BackingOff { .. } | Self::Parked { .. } => None,
        }
    }

    /// Gives up a change under way.
    pub(super) fn cancel_change(&mut self) {
        if let Self::Up { change, .. } = self {
            *change = PendingChange::None;
        }
    }

    /// The next generation will have nothing to fall back to.
    pub(super) fn drop_fallback(&mut self) {
        if let Self::Down { fallback } | Self::Stopping { fallback, .. } = self {
            *fallback = None;
        }
    }
}
