//! How an instance ended, read in one place: the supervisor.

use std::fmt;

/// The end of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was told to stop, and what was in hand is finished or in the journal.
    Stopped,
    /// It contradicts the world: to start it again unchanged cannot help.
    Refused { why: String },
    /// An error; a rebuild may help.
    Failed { task: &'static str, error: String },
    /// A bug; a rebuild may help.
    Panicked { task: &'static str },
    /// A room began a turn and did not end it; a rebuild may help.
    Hung { task: &'static str },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Refused { why } => write!(f, "refused: {why}"),
            Self::Failed { task, error } => write!(f, "{task} failed: {error}"),
            Self::Panicked { task } => write!(f, "{task} panicked"),
            Self::Hung { task } => write!(f, "{task} hangs"),
        }
    }
}
