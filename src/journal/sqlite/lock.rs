//! One process per journal: `flock` on a file beside the journal, not on the journal itself, so that an
//! operator's `sqlite3` can read while the connector runs.
//!
//! The kernel releases the lock when the process ends, so a lock file left by `kill -9` blocks nobody. The
//! file is never removed: otherwise two processes could lock two different files of one name. Where somebody
//! else removes it, the process that has it gives up within seconds. It contains a
//! [`LockNote`]: the process that holds the lock, and the instance that kept the journal last. The note still
//! tells the instance when the journal itself can no longer be read.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt as _},
    path::Path,
};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::files::{FileId, give_to_owner, open_private};

/// The longest possible note: a process id and an instance's name.
const LONGEST_NOTE: u64 = 1024;

/// The lock. Dropping it releases it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    note: LockNote,
}

/// The contents of a lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LockNote {
    pub pid: Option<u32>,
    /// The instance that kept the journal last. Older versions wrote none.
    pub keeper: Option<String>,
}

/// Why the lock was not acquired.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another process holds it. The process id, if the file contains one.
    #[error("someone else holds it")]
    Taken(Option<u32>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LockNote {
    /// Reads the note of the lock file at `path`, also while another process holds the lock.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let mut file = open_private(path, OFlags::RDONLY)?;
        Ok(Self::read(&mut file)?.unwrap_or_default())
    }

    /// `None`: the contents are no note.
    pub(super) fn read(file: &mut File) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        file.take(LONGEST_NOTE + 1).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text =
            std::str::from_utf8(bytes).ok().filter(|_| bytes.len() as u64 <= LONGEST_NOTE)?;
        let mut lines = text.lines();
        // Empty if the process crashed before it wrote the note.
        let pid = match lines.next() {
            None | Some("") => None,
            Some(pid) => Some(pid.trim().parse().ok()?),
        };
        let keeper = lines.next().filter(|keeper| !keeper.is_empty()).map(str::to_owned);
        lines.next().is_none().then_some(Self { pid, keeper })
    }
}

impl Lock {
    /// Acquires the lock without waiting, and writes this process's id into the file. A file whose contents
    /// are no note of ours is left unchanged: it belongs to another program.
    pub(super) fn take(path: &Path) -> Result<Self, LockError> {
        let mut file = open_private(path, OFlags::RDWR | OFlags::CREATE)?;
        let note = LockNote::read(&mut file)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(LockError::Io(error.into()));
            }
            return Err(LockError::Taken(note.and_then(|note| note.pid)));
        }
        // The last holder may have written after the first read.
        file.seek(SeekFrom::Start(0))?;
        let Some(note) = LockNote::read(&mut file)? else {
            let why = "its lock file has unexpected content: move that file away";
            return Err(LockError::Io(io::Error::new(io::ErrorKind::InvalidData, why)));
        };
        give_to_owner(&file, path)?;
        let mut lock = Self { file, note };
        lock.note.pid = Some(std::process::id());
        lock.write()?;
        Ok(lock)
    }

    /// The locked file, whatever its name.
    pub(super) fn file_id(&self) -> io::Result<FileId> {
        self.file.metadata().map(|found| (found.dev(), found.ino()))
    }

    /// Records the instance that keeps the journal.
    pub(super) fn set_keeper(&mut self, keeper: &str) -> io::Result<()> {
        if self.note.keeper.as_deref() == Some(keeper) {
            return Ok(());
        }
        self.note.keeper = Some(keeper.to_owned());
        self.write()
    }

    /// Writes the whole note in one write, so that the file never lacks its keeper, even if it is read after
    /// a crash. Spaces after the process id overwrite the rest of a longer note.
    fn write(&self) -> io::Result<()> {
        let pid = self.note.pid.map_or_else(String::new, |pid| pid.to_string());
        let keeper = self.note.keeper.as_deref();
        let keeper = keeper.map_or_else(String::new, |keeper| format!("{keeper}\n"));
        let before = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        let width = before.saturating_sub(keeper.len() + 1);
        self.file.write_all_at(format!("{pid:<width$}\n{keeper}").as_bytes(), 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, Mode};

    use super::*;

    #[test]
    fn b12_a_lock_that_is_a_link_or_somebody_elses_file_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let refused = |name: &str| match Lock::take(&path(name)) {
            Err(LockError::Io(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        fs::write(path("precious"), "17 lines that matter\n").unwrap();
        symlink(path("precious"), path("a.lock")).unwrap();
        fs::hard_link(path("precious"), path("b.lock")).unwrap();
        symlink(path("nowhere"), path("c.lock")).unwrap();
        fs::create_dir(path("d.lock")).unwrap();
        rustix::fs::mkfifoat(CWD, path("e.lock"), Mode::RUSR | Mode::WUSR).unwrap();
        assert!(refused("b.lock").contains("move"), "{}", refused("b.lock"));
        for name in ["a.lock", "c.lock", "e.lock"] {
            assert!(refused(name).contains("link"), "{}", refused(name));
        }
        refused("d.lock");
        assert_eq!(fs::read(path("precious")).unwrap(), b"17 lines that matter\n");
        assert!(!path("nowhere").exists());
    }

    #[test]
    fn the_keeper_outlives_who_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        // As an older version left it, or a crash.
        for before in ["4711\n", ""] {
            fs::write(&path, before).unwrap();
            let mut lock = Lock::take(&path).unwrap();
            let ours = LockNote { pid: Some(std::process::id()), keeper: None };
            assert_eq!(LockNote::at(&path).unwrap(), ours);
            lock.set_keeper("node 1").unwrap();
            assert!(matches!(Lock::take(&path), Err(LockError::Taken(pid)) if pid == ours.pid));
            drop(lock);
            drop(Lock::take(&path).unwrap());
            let keeper = Some("node 1".to_owned());
            assert_eq!(LockNote::at(&path).unwrap(), LockNote { keeper, ..ours });
        }
    }

    /// If the file were truncated before the write, a crash could leave it empty.
    #[test]
    fn a_note_is_never_made_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let mut lock = Lock::take(&path).unwrap();
        let mut length = 0;
        for name in ["a", "a much longer name", "b", "ab"] {
            lock.set_keeper(name).unwrap();
            let (pid, keeper) = (Some(std::process::id()), Some(name.to_owned()));
            assert_eq!(LockNote::at(&path).unwrap(), LockNote { pid, keeper });
            let now = fs::metadata(&path).unwrap().len();
            assert!(now >= length && now <= LONGEST_NOTE, "{length} to {now}");
            length = now;
        }
    }

    #[test]
    fn what_is_no_note_is_told_from_one() {
        for text in ["7", "7\n", "7\na b\n", "\n", "\na\n", ""] {
            assert!(LockNote::parse(text.as_bytes()).is_some(), "{text:?}");
        }
        let long = format!("7\n{}", "x".repeat(2000));
        for text in ["seven", "7 7", "7\na\nb\n", "-1", "\u{fffd}", &long] {
            assert_eq!(LockNote::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(LockNote::parse(b"7\n\xff"), None);
    }
}
