//! What goes wrong with a journal's file, in an operator's words.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;
use rustix::io::Errno;

use super::footing::{Footing, is_locked};
use crate::domain::LedgerError;

/// Why a journal does not open. The text says which file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another instance of this one, has it open.
    #[error(
        "journal {} is in use by {}: one wallet is served by one instance; stop the other, or give \
         this one another wallet or state directory",
        path.display(), holder(*pid)
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error(
        "journal {} was written by a newer version (schema {found}, this program knows {known}): \
         run that version or a later one",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: usize },
    /// Not readable as a database, or damaged inside.
    #[error(
        "journal {} is damaged ({detail}): {}",
        path.display(), rebuild_advice(None)
    )]
    Corrupt { path: PathBuf, detail: String },
    /// It was damaged, and nobody has made it anew since.
    #[error(
        "journal {} was found damaged and is kept as {}: {}",
        path.display(), aside.display(), rebuild_advice(*at_most)
    )]
    SetAside {
        path: PathBuf,
        aside: PathBuf,
        /// The first block that has to be read again, as far as the damaged file still tells.
        at_most: Option<u64>,
    },
    /// A database of another program, or a journal that was copied to another identity's name.
    #[error("{} is not the journal of this chain and wallet ({detail}): move it away", path.display())]
    NotOurs { path: PathBuf, detail: String },
    /// The state directory or a file in it cannot be made, read or locked.
    #[error("journal {}: {doing} failed: {cause}; {}", path.display(), io_advice(cause, footing))]
    Io { path: PathBuf, doing: &'static str, cause: io::Error, footing: Box<Footing> },
    #[error("journal {} does not open: {cause}; {}", path.display(), advice(cause, footing))]
    Sqlite { path: PathBuf, cause: rusqlite::Error, footing: Box<Footing> },
    /// A new journal cannot begin: what it would go on from cannot be read.
    #[error(
        "the journal of an earlier wallet of this instance has, or may have, unanswered requests: \
         {cause}; if it is another instance's, move it to a directory of its own"
    )]
    Predecessor { cause: Box<OpenError> },
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

fn rebuild_advice(at_most: Option<u64>) -> String {
    let block = match at_most {
        Some(block) => format!("{block} by what can still be read of it, or a block before that"),
        None => "a block before the oldest unanswered request".to_owned(),
    };
    format!(
        "`kms-connector journal rebuild --from BLOCK` makes it anew from the chain; BLOCK is {block}; \
         what was answered already is not answered again"
    )
}

impl OpenError {
    /// Whether it may end without any change here: a disk that is full, read-only or failing, a file
    /// that somebody else keeps locked for a moment.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Sqlite { cause, .. } => {
                let passing = [
                    ErrorCode::DiskFull,
                    ErrorCode::ReadOnly,
                    ErrorCode::PermissionDenied,
                    ErrorCode::CannotOpen,
                    ErrorCode::SystemIoFailure,
                    ErrorCode::DatabaseBusy,
                    ErrorCode::DatabaseLocked,
                    ErrorCode::FileLockingProtocolFailed,
                ];
                cause.sqlite_error_code().is_some_and(|code| passing.contains(&code))
            }
            Self::Predecessor { cause } => cause.may_pass(),
            Self::Locked { .. }
            | Self::Newer { .. }
            | Self::Corrupt { .. }
            | Self::SetAside { .. }
            | Self::NotOurs { .. } => false,
        }
    }

    /// Whether only somebody who decides where the chain is read again can mend it.
    #[must_use]
    pub fn needs_rebuild(&self) -> bool {
        match self {
            Self::SetAside { .. } => true,
            // Nobody sets another wallet's journal aside.
            Self::Predecessor { cause } => {
                matches!(**cause, Self::SetAside { .. } | Self::Corrupt { .. })
            }
            Self::Corrupt { .. }
            | Self::Locked { .. }
            | Self::Newer { .. }
            | Self::NotOurs { .. }
            | Self::Io { .. }
            | Self::Sqlite { .. } => false,
        }
    }

    /// The same about the journal that a new one would go on from. Who has that one open is told as it
    /// is: it is waited for, or stopped.
    pub(super) fn of_predecessor(self) -> Self {
        match self {
            Self::Locked { .. } | Self::Predecessor { .. } => self,
            Self::Newer { .. }
            | Self::Corrupt { .. }
            | Self::SetAside { .. }
            | Self::NotOurs { .. }
            | Self::Io { .. }
            | Self::Sqlite { .. } => Self::Predecessor { cause: Box::new(self) },
        }
    }

    pub(super) fn io(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| {
            let footing =
                if has_no_locks(&cause) { Footing::of(&path) } else { Footing::default() };
            Self::Io { path: path.clone(), doing, cause, footing: footing.into() }
        }
    }

    pub(super) fn sqlite(path: &Path, cause: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if is_corrupt(&cause) {
            return Self::Corrupt { path, detail: cause.to_string() };
        }
        let footing = Footing::behind(&path, &cause).into();
        Self::Sqlite { path, cause, footing }
    }
}

/// Worth saying loudly when a journal opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenWarning {
    /// The directory holds a journal of the same chain id and wallet on another genesis.
    ChainReset { older: PathBuf },
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
        }
    }
}

/// A journal that was open and fails. The instance ends and is rebuilt from what was stored.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{}: {doing} failed: {cause}; {}", path.display(), advice(cause, footing))]
    Sqlite { path: PathBuf, doing: &'static str, cause: rusqlite::Error, footing: Box<Footing> },
    /// The writer has ended or was dropped.
    #[error("{} is closed", path.display())]
    Closed { path: PathBuf },
    /// Its files were deleted, and nothing is lost.
    #[error(
        "{}: the journal was deleted while it was open, and is written again as it was; leave it \
         alone while the connector runs",
        path.display()
    )]
    Deleted { path: PathBuf },
    /// Its files were deleted, and could not be written again.
    #[error(
        "{}: the journal was deleted while it was open, and cannot be written again ({why}): what was \
         stored in it is lost; `kms-connector journal rebuild --from BLOCK` reads the chain again",
        path.display()
    )]
    Lost { path: PathBuf, why: String },
    /// Its file system is not there any more, or another one is in its place.
    #[error(
        "{}: its file system was unmounted while the journal was open: mount it again, the instance goes \
         on by itself; what was stored is in it",
        path.display()
    )]
    Unmounted { path: PathBuf },
    /// An operator restored a backup under it, say.
    #[error(
        "{}: another file was put in the journal's place while it was open: that one counts from now \
         on, and may lack what was stored last",
        path.display()
    )]
    Replaced { path: PathBuf },
    /// The writer has ended with an error.
    #[error("the journal stopped after: {0}")]
    Ended(String),
}

impl JournalError {
    /// Whether the same commit may be tried again: nothing of it was stored, and the file is whole.
    /// Not after an error of the disk: what a failed fsync has lost is not written by the next one.
    pub(super) fn may_pass(&self) -> bool {
        let passing = [ErrorCode::DiskFull, ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
        match self {
            Self::Sqlite { cause, .. } => {
                cause.sqlite_error_code().is_some_and(|code| passing.contains(&code))
            }
            Self::Unmounted { .. } => true,
            Self::Closed { .. }
            | Self::Deleted { .. }
            | Self::Lost { .. }
            | Self::Replaced { .. }
            | Self::Ended(_) => false,
        }
    }
}

impl From<JournalError> for LedgerError {
    fn from(error: JournalError) -> Self {
        Self(error.to_string())
    }
}

pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    code == Some(ErrorCode::DatabaseCorrupt) || code == Some(ErrorCode::NotADatabase)
}

/// Whether a file system says that it cannot lock.
fn has_no_locks(error: &io::Error) -> bool {
    let none = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS];
    Errno::from_io_error(error).is_some_and(|code| none.contains(&code))
}

fn io_advice(error: &io::Error, footing: &Footing) -> String {
    if has_no_locks(error) {
        footing.of_no_locks()
    } else {
        "check the state directory, its owner and its space".to_owned()
    }
}

/// What an operator does about it.
fn advice(error: &rusqlite::Error, footing: &Footing) -> String {
    let code = error.sqlite_error_code();
    let is = |one| code == Some(one);
    let what = if code.is_some_and(is_locked) {
        return footing.of_lock();
    } else if is(ErrorCode::SystemIoFailure) {
        return footing.of_failure();
    } else if is(ErrorCode::DiskFull) {
        "free space on its filesystem"
    } else if is(ErrorCode::ReadOnly)
        || is(ErrorCode::PermissionDenied)
        || is(ErrorCode::CannotOpen)
    {
        "make the file and its directory writable for this user"
    } else if is_corrupt(error) {
        "the file is damaged"
    } else {
        "if it comes again, keep a copy of the file and report it"
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `SQLite` makes of ENOLCK.
    #[test]
    fn c8_a_lock_that_is_not_got_is_not_blamed_on_a_program() {
        let dir = tempfile::tempdir().unwrap();
        let busy = || {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
            rusqlite::Error::SqliteFailure(code, Some("database is locked".to_owned()))
        };
        let path = dir.path().join("a.sqlite3");
        std::fs::write(&path, "").unwrap();
        let nobody = OpenError::sqlite(&path, busy());
        assert!(nobody.may_pass());
        let said = nobody.to_string();
        assert!(!said.contains("another program holds") && !said.contains("process "), "{said}");

        let cause = io::Error::from(Errno::NOLCK);
        let said = OpenError::io(&path, "locking it")(cause).to_string();
        assert!(said.contains("cannot lock files") && said.contains("local disk"), "{said}");
        let cause = io::Error::from(Errno::ACCESS);
        let said = OpenError::io(&path, "locking it")(cause).to_string();
        assert!(said.contains("its owner"), "{said}");
    }
}
