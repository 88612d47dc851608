//! Translates errors of `SQLite` and the file system into the journal's errors.

use std::{io, path::Path};

use rusqlite::ErrorCode;
use rustix::io::Errno;

use super::file_system::FileDiagnosis;
use crate::journal::{OpenError, StoreError, StoreFault};

/// Advice for a file system that was unmounted.
const UNMOUNTED: &str = "mount it again, the instance goes on by itself; what was stored is in it";

impl StoreError {
    pub(super) fn unmounted() -> Self {
        let said = "its file system was unmounted while the journal was open";
        Self::new(StoreFault::Unmounted, said, UNMOUNTED)
    }

    /// The error of the journal at `path`.
    pub(super) fn of(path: &Path, cause: rusqlite::Error) -> Self {
        let fault = cause.sqlite_error_code().map_or(StoreFault::Other, fault);
        let advice = match fault {
            StoreFault::Locked => {
                return Self::new(fault, cause, FileDiagnosis::of(path).lock_advice());
            }
            StoreFault::Failing => {
                return Self::new(fault, cause, FileDiagnosis::of(path).failure_advice());
            }
            StoreFault::Full => "free space on its filesystem",
            StoreFault::Denied => "make the file and its directory writable for this user",
            StoreFault::Damaged => "the file is damaged",
            StoreFault::Unmounted => UNMOUNTED,
            StoreFault::Other => "if it comes again, keep a copy of the file and report it",
        };
        Self::new(fault, cause, advice)
    }

    pub(super) fn of_io(path: &Path, cause: io::Error) -> Self {
        if has_no_locks(&cause) {
            return Self::new(
                StoreFault::Failing,
                cause,
                FileDiagnosis::of(path).no_locks_advice(),
            );
        }
        let is = |kinds: &[io::ErrorKind]| kinds.contains(&cause.kind());
        let fault = if is(&[io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded]) {
            StoreFault::Full
        } else if is(&[io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem]) {
            StoreFault::Denied
        } else {
            StoreFault::Failing
        };
        Self::new(
            fault,
            cause,
            "check the state directory (KMS_CONNECTOR_STATE_DIR or --state-dir), its owner and its \
             space",
        )
    }
}

impl OpenError {
    pub(super) fn io(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| {
            let cause = StoreError::of_io(&path, cause);
            Self::Store { path: path.clone(), doing, cause }
        }
    }

    pub(super) fn sqlite(path: &Path, cause: rusqlite::Error) -> Self {
        let (path, cause) = (path.to_owned(), StoreError::of(path, cause));
        match cause.fault {
            StoreFault::Damaged => Self::Corrupt { path, cause },
            StoreFault::Full
            | StoreFault::Locked
            | StoreFault::Denied
            | StoreFault::Unmounted
            | StoreFault::Failing
            | StoreFault::Other => Self::Store { path, doing: "opening it", cause },
        }
    }
}

fn fault(code: ErrorCode) -> StoreFault {
    let known = [
        (ErrorCode::DiskFull, StoreFault::Full),
        (ErrorCode::DatabaseBusy, StoreFault::Locked),
        (ErrorCode::DatabaseLocked, StoreFault::Locked),
        (ErrorCode::FileLockingProtocolFailed, StoreFault::Locked),
        (ErrorCode::ReadOnly, StoreFault::Denied),
        (ErrorCode::PermissionDenied, StoreFault::Denied),
        (ErrorCode::CannotOpen, StoreFault::Denied),
        (ErrorCode::SystemIoFailure, StoreFault::Failing),
        (ErrorCode::DatabaseCorrupt, StoreFault::Damaged),
        (ErrorCode::NotADatabase, StoreFault::Damaged),
    ];
    known.into_iter().find(|(of, _)| *of == code).map_or(StoreFault::Other, |(_, fault)| fault)
}

pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code().map(fault) == Some(StoreFault::Damaged)
}

/// Returns whether the error says that the file system does not support locks.
fn has_no_locks(error: &io::Error) -> bool {
    let none = [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS];
    Errno::from_io_error(error).is_some_and(|code| none.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::JournalError;

    /// `SQLite` reports ENOLCK as "busy".
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
        assert!(nobody.is_transient());
        let said = nobody.to_string();
        assert!(!said.contains("another program holds") && !said.contains("process "), "{said}");

        let cause = io::Error::from(Errno::NOLCK);
        let said = OpenError::io(&path, "locking it")(cause).to_string();
        assert!(said.contains("cannot lock files") && said.contains("local disk"), "{said}");
        let cause = io::Error::from(Errno::ACCESS);
        let said = OpenError::io(&path, "locking it")(cause).to_string();
        assert!(said.contains("its owner"), "{said}");
    }

    /// The remedy depends on the kind of error alone; its cause is kept as the source.
    #[test]
    fn each_fault_has_its_consequence_its_code_and_its_cause() {
        use rusqlite::ffi;
        let path = Path::new("/nowhere/a.sqlite3");
        for (code, fault, opens_later, commits_later) in [
            (ffi::SQLITE_FULL, StoreFault::Full, true, true),
            (ffi::SQLITE_BUSY, StoreFault::Locked, true, true),
            (ffi::SQLITE_LOCKED, StoreFault::Locked, true, true),
            (ffi::SQLITE_PROTOCOL, StoreFault::Locked, true, true),
            (ffi::SQLITE_READONLY, StoreFault::Denied, true, false),
            (ffi::SQLITE_CANTOPEN, StoreFault::Denied, true, false),
            (ffi::SQLITE_IOERR_FSYNC, StoreFault::Failing, true, false),
            (ffi::SQLITE_CORRUPT, StoreFault::Damaged, false, false),
            (ffi::SQLITE_NOTADB, StoreFault::Damaged, false, false),
            (ffi::SQLITE_MISUSE, StoreFault::Other, false, false),
        ] {
            let sqlite = || rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let cause = std::sync::Arc::new(StoreError::of(path, sqlite()));
            assert_eq!(cause.fault, fault);
            let error = JournalError::Store { path: path.into(), doing: "a commit", cause };
            assert_eq!(error.is_transient(), commits_later, "{error}");
            assert_eq!(OpenError::sqlite(path, sqlite()).is_transient(), opens_later, "{error}");
            let ledger = crate::domain::LedgerError::from(error);
            assert_eq!(ledger.code(), fault.code());
            let mut behind: Option<&dyn std::error::Error> = Some(&ledger);
            while let Some(next) = behind.and_then(std::error::Error::source) {
                behind = Some(next);
            }
            // The chain of sources ends with `SQLite`'s own message.
            let last = behind.map(ToString::to_string);
            assert_eq!(last, Some(ffi::Error::new(code).to_string()));
        }
    }
}
