//! The right to write a journal's file: its lock, held as long as this process has the journal open.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    files::{self, make_directory},
    lock::{Lock, LockError},
};
use crate::journal::{Identity, OpenError};

/// Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct Tenure {
    /// The journal's file, whether it exists or not.
    pub path: PathBuf,
    lock_path: PathBuf,
    lock: Lock,
}

impl Tenure {
    /// Creates the directory (0700) if needed, and acquires the journal's lock without waiting.
    pub fn acquire(dir: &Path, identity: Identity) -> Result<Self, OpenError> {
        let stem = identity.file_stem();
        let path = dir.join(format!("{stem}{}", files::ENDING));
        make_directory(dir).map_err(OpenError::io(&path, "making its directory"))?;
        let lock_path = dir.join(format!("{stem}.lock"));
        match Lock::take(&lock_path) {
            Ok(lock) => Ok(Self { path, lock_path, lock }),
            Err(LockError::Taken(pid)) => Err(OpenError::Locked { path, pid }),
            Err(LockError::Io(cause)) => Err(OpenError::io(&path, "locking it")(cause)),
        }
    }

    /// Returns whether the lock file's name still refers to the locked file: if not, another process can lock
    /// the file that has the name. One that cannot be looked at counts as unchanged.
    pub fn has_its_name(&self) -> bool {
        let (Ok(named), Ok(locked)) = (files::file_id(&self.lock_path), self.lock.file_id()) else {
            return true;
        };
        named == Some(locked)
    }

    /// Records the instance that keeps the journal.
    pub fn set_keeper(&mut self, keeper: &str) -> io::Result<()> {
        self.lock.set_keeper(keeper)
    }
}
