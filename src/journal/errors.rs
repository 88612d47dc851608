//! Errors of a journal, in an operator's words.

use std::{borrow::Cow, error::Error, fmt, path::PathBuf, sync::Arc, time::Duration};

use super::Identity;
use crate::domain::LedgerError;

/// The kind of a store's error, which alone decides the consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// No space is left. Nothing was stored.
    Full,
    /// Another process has it locked. Nothing was stored.
    Locked,
    /// It may not be opened or written to.
    Denied,
    /// Its file system was unmounted or replaced. Nothing was stored; what was stored before is intact
    /// there.
    Unmounted,
    /// The disk fails: writes that were not synced may be lost, whatever happens next.
    Failing,
    /// It is not a journal, or damaged inside.
    Damaged,
    /// None of these.
    Other,
}

impl StoreFault {
    /// The stable name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::Locked => "store_locked",
            Self::Denied => "store_denied",
            Self::Unmounted => "store_away",
            Self::Failing => "store_failing",
            Self::Damaged => "store_damaged",
            Self::Other => "store_failed",
        }
    }
}

/// A store's error.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct StoreError {
    pub fault: StoreFault,
    #[source]
    cause: Box<dyn Error + Send + Sync>,
    /// What an operator can do about it.
    advice: Cow<'static, str>,
}

impl StoreError {
    pub(super) fn new(
        fault: StoreFault,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { fault, cause: cause.into(), advice: advice.into() }
    }

    /// A check found damage.
    pub(super) fn damaged(said: impl Into<String>) -> Self {
        Self::new(StoreFault::Damaged, said.into(), "the file is damaged")
    }

    /// It returned no result at all.
    pub(super) fn no_answer() -> Self {
        Self::new(StoreFault::Other, "no answer", "report it")
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        self.fault.code()
    }
}

/// Why a journal cannot be opened. The text names the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another instance of this one, has it open.
    #[error(
        "journal {} is in use by {}: one wallet is served by one instance; stop the other, or give \
         this one another wallet",
        path.display(), holder(*pid)
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "journal {} was written by a newer version (schema {found}, this program knows {known}): \
         run that version or a later one",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: usize },
    /// It is not a journal, or damaged inside.
    #[error(
        "journal {} is damaged ({cause}): {}",
        path.display(), rebuild_advice(None, None)
    )]
    Corrupt {
        path: PathBuf,
        #[source]
        cause: StoreError,
    },
    /// It was damaged and has not been rebuilt since.
    #[error(
        "journal {} was found damaged and is kept as {}: {}",
        path.display(), aside.display(), rebuild_advice(*at_most, keeper.as_deref())
    )]
    SetAside {
        path: PathBuf,
        aside: PathBuf,
        /// The first block that has to be read again, as far as the damaged file shows.
        at_most: Option<u64>,
        /// The instance that used it, as far as its lock shows.
        keeper: Option<String>,
    },
    /// A database of another program, or a journal that was copied to another identity's name.
    #[error(
        "{} is not the journal of this chain and wallet ({}): move it away",
        path.display(), owner(of.as_ref())
    )]
    NotOurs {
        path: PathBuf,
        /// The journal's identity, if it is one.
        of: Option<Identity>,
    },
    /// It, or a file beside it, cannot be created, opened, read or locked.
    #[error("journal {}: {doing} failed: {cause}; {}", path.display(), cause.advice)]
    Store {
        path: PathBuf,
        doing: &'static str,
        #[source]
        cause: StoreError,
    },
    /// A new journal cannot be created: the one that it continues from cannot be read.
    #[error(
        "the journal of an earlier wallet of this instance has, or may have, unanswered requests: \
         {cause}; if it is another instance's, move it to a directory of its own"
    )]
    Predecessor {
        #[source]
        cause: Box<OpenError>,
    },
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => {
            format!("another instance of this process (pid {pid})")
        }
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

fn owner(of: Option<&Identity>) -> String {
    let Some(Identity { chain_id, genesis, wallet }) = of else {
        return "another program's database".to_owned();
    };
    format!("it is of chain {chain_id}, genesis {genesis}, wallet {wallet}")
}

/// The whole command, as far as block and instance are known.
fn rebuild_advice(at_most: Option<u64>, keeper: Option<&str>) -> String {
    let (name, whose) = keeper.map_or(("NAME", "NAME is the instance's name; "), |name| (name, ""));
    let (from, which) = match at_most {
        Some(block) => (
            block.to_string(),
            format!("{block} is what can still be read of it; an earlier block works too"),
        ),
        None => {
            ("BLOCK".to_owned(), "BLOCK is one before the oldest unanswered request".to_owned())
        }
    };
    format!(
        "`kms-connector journal rebuild --from {from} --instance {name}` (under `start`: -c FILE \
         instead of --instance) rebuilds it from the chain; {whose}{which}; what was answered is not \
         answered again"
    )
}

impl OpenError {
    /// The error for the instance that opened it: names the instance where the journal does not.
    #[must_use]
    pub(super) fn of_instance(mut self, name: &str) -> Self {
        if let Self::SetAside { keeper: keeper @ None, .. } = &mut self {
            *keeper = Some(name.to_owned());
        }
        self
    }

    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "journal_in_use",
            Self::Newer { .. } => "journal_newer",
            Self::SetAside { .. } => "journal_set_aside",
            Self::NotOurs { .. } => "journal_not_ours",
            Self::Corrupt { cause, .. } | Self::Store { cause, .. } => cause.code(),
            Self::Predecessor { cause } => cause.code(),
        }
    }

    /// Returns whether it may end without any change here: the disk is full, read-only or failing, or
    /// another process holds the file locked for a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store { cause, .. } => match cause.fault {
                StoreFault::Full
                | StoreFault::Locked
                | StoreFault::Denied
                | StoreFault::Unmounted
                | StoreFault::Failing => true,
                StoreFault::Damaged | StoreFault::Other => false,
            },
            Self::Predecessor { cause } => cause.is_transient(),
            Self::Locked { .. }
            | Self::Newer { .. }
            | Self::Corrupt { .. }
            | Self::SetAside { .. }
            | Self::NotOurs { .. } => false,
        }
    }

    /// Returns whether it can be fixed only by somebody who decides from which block the chain is read
    /// again.
    #[must_use]
    pub fn needs_rebuild(&self) -> bool {
        match self {
            Self::SetAside { .. } => true,
            // Another wallet's journal is never set aside.
            Self::Predecessor { cause } => {
                matches!(**cause, Self::SetAside { .. } | Self::Corrupt { .. })
            }
            Self::Corrupt { .. }
            | Self::Locked { .. }
            | Self::Newer { .. }
            | Self::NotOurs { .. }
            | Self::Store { .. } => false,
        }
    }

    /// The same error about the journal that a new one continues from. "In use" stays as it is: its user is
    /// waited for, or stopped.
    pub(super) fn of_predecessor(self) -> Self {
        match self {
            Self::Locked { .. } | Self::Predecessor { .. } => self,
            Self::Newer { .. }
            | Self::Corrupt { .. }
            | Self::SetAside { .. }
            | Self::NotOurs { .. }
            | Self::Store { .. } => Self::Predecessor { cause: Box::new(self) },
        }
    }
}

/// Findings at opening that deserve a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenWarning {
    /// The directory holds a journal of the same chain id and wallet on another genesis.
    ChainReset { older: PathBuf },
    /// Unfinished requests of other contracts are in this journal. Nobody works on them.
    OtherContracts { requests: u64 },
}

impl fmt::Display for OpenWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainReset { older } => write!(
                f,
                "the chain was reset: {} is of the same chain id and wallet with another genesis \
                 block and is left alone; delete it when that chain is gone for good",
                older.display()
            ),
            Self::OtherContracts { requests } => write!(
                f,
                "{requests} unfinished requests of another Decryption contract stay in this journal: they \
                 go on once decryption_address names that contract again"
            ),
        }
    }
}

/// An open journal failed. The instance ends and is rebuilt from what was stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: {doing} failed: {cause}; {}", path.display(), cause.advice)]
    Store {
        path: PathBuf,
        doing: &'static str,
        #[source]
        cause: Arc<StoreError>,
    },
    /// It may still respond: nothing is lost.
    #[error(
        "{}: no answer for {since:?}: its file system hangs (a network mount?), or another program holds it \
         locked (lslocks); fix that, the instance goes on by itself",
        path.display()
    )]
    Silent { path: PathBuf, since: Duration },
    /// The writer has ended or was dropped.
    #[error("{} is closed", path.display())]
    Closed { path: PathBuf },
    /// Its files were deleted, and nothing is lost.
    #[error(
        "{}: the journal was deleted while it was open; nothing is lost: it is written again as it was, \
         and the instance is built again with it. Leave it alone while the connector runs",
        path.display()
    )]
    Deleted { path: PathBuf },
    /// Its files were deleted, and could not be written again.
    #[error(
        "{}: the journal was deleted while it was open, and cannot be written again ({cause}): what \
         was stored in it is lost; {}",
        path.display(), rebuild_advice(None, keeper.as_deref())
    )]
    Lost {
        path: PathBuf,
        /// The instance that used it, as far as its lock shows.
        keeper: Option<String>,
        #[source]
        cause: Arc<StoreError>,
    },
    /// Another process may have locked a new file of that name.
    #[error(
        "{}: the journal's lock file was deleted while it was in use; nothing is lost, and the instance is \
         built again with a lock of its own. Leave lock files alone: a process that ends releases its lock",
        path.display()
    )]
    LockLost { path: PathBuf },
    /// For example, an operator restored a backup over it.
    #[error(
        "{}: the journal's file was replaced while it was open: the new file is used from now on, \
         and may lack what was stored last",
        path.display()
    )]
    Replaced { path: PathBuf },
    /// The writer has ended with an error.
    #[error("the journal stopped after: {cause}")]
    Ended {
        #[source]
        cause: Arc<JournalError>,
    },
}

impl JournalError {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store { cause, .. } => cause.code(),
            Self::Silent { .. } => "store_silent",
            Self::Closed { .. } => "journal_closed",
            Self::Deleted { .. } => "journal_deleted",
            Self::Lost { .. } => "journal_lost",
            Self::LockLost { .. } => "journal_lock_lost",
            Self::Replaced { .. } => "journal_replaced",
            Self::Ended { cause } => cause.code(),
        }
    }

    /// Returns whether the same commit may be repeated: nothing of it was stored, and the file is intact.
    /// Not after a disk error: writes lost in a failed fsync are not repeated by the next one.
    pub(super) fn is_transient(&self) -> bool {
        let Self::Store { cause, .. } = self else { return false };
        matches!(cause.fault, StoreFault::Full | StoreFault::Locked | StoreFault::Unmounted)
    }
}

impl From<JournalError> for LedgerError {
    fn from(error: JournalError) -> Self {
        Self::new(error.code(), error)
    }
}
