//! Inspects a journal that may belong to another process: creates, locks and repairs nothing. The other
//! process may have it open and does not notice.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{
    aside,
    columns::SourceColumn,
    create::read_identity,
    files,
    lock::LockNote,
    reader::Rows,
    schema::{self, Version},
};
use crate::{
    domain::{Address, BlockRef},
    journal::{Counts, Identity, OpenError, StoreError},
};

/// The process that has a journal open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    Process(u32),
    /// The lock is held, but names no process.
    Somebody,
}

/// The result of an inspection.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub path: PathBuf,
    pub holder: Holder,
    /// `None`: there is no journal yet.
    pub content: Option<JournalContents>,
}

/// The contents of a journal for one contract.
#[derive(Clone, Debug)]
pub struct JournalContents {
    pub cursor: Option<BlockRef>,
    pub counts: Counts,
    /// Unfinished requests of other contracts.
    pub elsewhere: u64,
    pub bytes: u64,
}

/// Inspects the journal of `identity` in `dir`. A journal that was set aside or that this program cannot use
/// is an error, as it would be at opening. Blocking.
pub fn inspect(dir: &Path, identity: Identity, contract: Address) -> Result<Inspection, OpenError> {
    let stem = identity.file_stem();
    let path = dir.join(format!("{stem}.sqlite3"));
    let io = |doing| OpenError::io(&path, doing);
    let holder =
        lock_holder(&dir.join(format!("{stem}.lock"))).map_err(io("looking at its lock"))?;
    let there = path.try_exists().map_err(io("looking for it"))?;
    if !there {
        let has_directory = dir.try_exists().map_err(io("looking for its directory"))?;
        if has_directory
            && let Some(aside) = files::latest_set_aside(&path).map_err(io("looking for it"))?
        {
            return Err(aside::set_aside_error(&path, aside, contract));
        }
        if files::has_log(&path).map_err(io("looking for its log"))? {
            let cause = StoreError::damaged(aside::NO_DATABASE);
            return Err(OpenError::Corrupt { path, cause });
        }
        return Ok(Inspection { path, holder, content: None });
    }
    let content = read(&path, identity, contract)?;
    Ok(Inspection { path, holder, content: Some(content) })
}

fn read(path: &Path, identity: Identity, contract: Address) -> Result<JournalContents, OpenError> {
    let sqlite = |cause| OpenError::sqlite(path, cause);
    let connection = schema::connect_read_only(path, schema::BUSY_TIMEOUT).map_err(sqlite)?;
    let path_buf = path.to_owned();
    match schema::version(&connection, schema::MIGRATIONS).map_err(sqlite)? {
        Version::Known(_) => {}
        Version::Empty => {
            let cause = StoreError::damaged(schema::EMPTIED);
            return Err(OpenError::Corrupt { path: path_buf, cause });
        }
        Version::Newer(found) => {
            let known = schema::MIGRATIONS.len();
            return Err(OpenError::Newer { path: path_buf, found, known });
        }
        Version::NotOurs => return Err(OpenError::NotOurs { path: path_buf, of: None }),
    }
    let of = read_identity(&connection).map_err(sqlite)?;
    if of.is_some_and(|found| found != identity) {
        return Err(OpenError::NotOurs { path: path_buf, of });
    }
    let rows = Rows { db: &connection, of: SourceColumn::home(contract) };
    let (cursor, counts) = (rows.cursor().map_err(sqlite)?, rows.counts().map_err(sqlite)?);
    let elsewhere = rows.unfinished_elsewhere().map_err(sqlite)?;
    let bytes = fs::metadata(path).map_err(OpenError::io(path, "measuring it"))?.len();
    Ok(JournalContents { cursor, counts, elsewhere, bytes })
}

/// Returns the holder of the lock. Takes a shared lock for a moment, and only if no process holds it.
fn lock_holder(path: &Path) -> io::Result<Holder> {
    let mut file = match files::open_private(path, OFlags::RDONLY) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Holder::Nobody),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = LockNote::read(&mut file)?.and_then(|note| note.pid);
            Ok(pid.map_or(Holder::Somebody, Holder::Process))
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::B256,
        journal::{Journal, sqlite::lock::Lock},
    };

    fn identity() -> Identity {
        Identity { chain_id: 7, genesis: B256::repeat_byte(1), wallet: Address::repeat_byte(2) }
    }

    #[test]
    fn a_look_makes_nothing_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let contract = Address::repeat_byte(3);
        let look = || inspect(dir.path(), identity(), contract).unwrap();
        assert!(look().content.is_none() && look().holder == Holder::Nobody);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let open = Journal::open(dir.path(), identity(), contract).unwrap();
        assert_eq!(look().holder, Holder::Process(std::process::id()));
        assert!(look().content.is_some_and(|content| content.cursor.is_none()));
        drop(open);
        assert_eq!(look().holder, Holder::Nobody);
        let path = dir.path().join(format!("{}.lock", identity().file_stem()));
        Lock::take(&path).unwrap();
    }

    #[test]
    fn another_programs_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{}.sqlite3", identity().file_stem()));
        fs::write(&path, "nonsense, and long enough to be taken for a database file").unwrap();
        let error = inspect(dir.path(), identity(), Address::ZERO).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    }
}
