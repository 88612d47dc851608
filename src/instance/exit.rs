//! How an instance ended. Only the supervisor reads it.

use std::{fmt, sync::Arc};

use super::{BuildError, Failure, START_TASK};

/// The end of one instance.
#[derive(Clone, Debug)]
pub enum Exit {
    /// Stopped on request; work in hand is finished or in the journal.
    Stopped,
    /// It contradicts its environment: restarting unchanged cannot help.
    Refused { cause: Arc<Failure> },
    /// An error; a rebuild may help.
    Failed { task: &'static str, cause: Arc<Failure> },
    /// A bug; a rebuild may help.
    Panicked { task: &'static str },
    /// A task hangs: its heartbeat stopped while it was at work; a rebuild may help.
    Hung { task: &'static str },
}

impl Exit {
    pub fn failed(task: &'static str, cause: impl Into<Failure>) -> Self {
        Self::Failed { task, cause: Arc::new(cause.into()) }
    }

    pub fn refused(cause: impl Into<Failure>) -> Self {
        Self::Refused { cause: Arc::new(cause.into()) }
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self, Self::Stopped)
    }

    /// Stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Refused { cause } | Self::Failed { cause, .. } => cause.code(),
            Self::Panicked { .. } => "panicked",
            Self::Hung { .. } => "hung",
        }
    }
}

impl From<BuildError> for Exit {
    fn from(error: BuildError) -> Self {
        if error.is_refusal() { Self::refused(error) } else { Self::failed(START_TASK, error) }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Refused { cause } => write!(f, "refused: {cause}"),
            Self::Failed { task, cause } => write!(f, "{task} failed: {cause}"),
            Self::Panicked { task } => write!(f, "{task} panicked"),
            Self::Hung { task } => write!(f, "{task} hangs"),
        }
    }
}
