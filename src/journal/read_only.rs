//! A journal that nobody has open, read as an operator would: without its lock, changing nothing. It
//! is found by the instance that kept it, since nobody asks the chain which one it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{
    Identity, Look, QueryError, read_identity,
    record::{Fixed, Number},
    schema::{self, Version},
    statements as sql,
};
use crate::domain::Address;

/// How long a read waits for a writer that comes in between.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("{}: {cause}; is that the state directory? Name it with --state-dir", dir.display())]
    Directory { dir: PathBuf, cause: io::Error },
    #[error(
        "no journal in {} was kept by an instance {keeper}{}; is that its state directory? Name it \
         with --state-dir",
        dir.display(), others(keepers)
    )]
    None { dir: PathBuf, keeper: String, keepers: Vec<String> },
    #[error("{}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: QueryError },
    #[error(
        "{} was written by another version of this program (schema {found}, this one has {known}): \
         use that version's command, or start the instance once",
        path.display()
    )]
    OtherVersion { path: PathBuf, found: i64, known: usize },
}

fn others(keepers: &[String]) -> String {
    if keepers.is_empty() { String::new() } else { format!(" (only by {})", keepers.join(", ")) }
}

/// The journal, open for reading.
#[derive(Debug)]
pub struct ReadOnly {
    connection: Connection,
    path: PathBuf,
    identity: Identity,
    contract: Address,
}

impl ReadOnly {
    /// The journal that the instance `keeper` kept last in one of `dirs`; those that are not there
    /// are passed over, but for the first. Blocking.
    pub fn find(dirs: &[PathBuf], keeper: &str) -> Result<Self, FindError> {
        let mut newest: Option<(u64, PathBuf)> = None;
        let (mut keepers, mut trouble) = (Vec::new(), None);
        for (index, dir) in dirs.iter().enumerate() {
            let entries = match fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(_) if index > 0 => continue,
                Err(cause) => return Err(FindError::Directory { dir: dir.clone(), cause }),
            };
            for entry in entries {
                let entry =
                    entry.map_err(|cause| FindError::Directory { dir: dir.clone(), cause })?;
                let path = entry.path();
                // Of a pipe one would wait for ever.
                let is_journal = path.extension().is_some_and(|extension| extension == "sqlite3");
                if !is_journal || !path.is_file() {
                    continue;
                }
                match kept_by(&path) {
                    Ok(Some((name, at))) if name == keeper => {
                        if newest.as_ref().is_none_or(|(newest, _)| at > *newest) {
                            newest = Some((at, path));
                        }
                    }
                    Ok(Some((name, _))) => keepers.push(name),
                    Ok(None) => {}
                    // It may be another instance's.
                    Err(cause) => trouble = Some(unreadable(&path, cause)),
                }
            }
        }
        let Some((_, path)) = newest else {
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
            keepers.sort();
            keepers.dedup();
            let dir = dirs.first().cloned().unwrap_or_default();
            return Err(FindError::None { dir, keeper: keeper.to_owned(), keepers });
        };
        Self::open(path)
    }

    fn open(path: PathBuf) -> Result<Self, FindError> {
        let failed = |cause| unreadable(&path, cause);
        let connection = connect(&path).map_err(failed)?;
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(failed)?;
        let known = schema::MIGRATIONS.len();
        let version = schema::version(&connection, schema::MIGRATIONS).map_err(failed)?;
        if version != Version::Known || usize::try_from(found) != Ok(known) {
            return Err(FindError::OtherVersion { path, found, known });
        }
        let identity = read_identity(&connection).map_err(failed)?;
        let contract = connection
            .query_row(sql::LATEST_CONTRACT, [], |row| row.get::<_, Fixed<Address>>(0))
            .optional()
            .map_err(failed)?;
        let identity = identity.ok_or_else(|| failed(rusqlite::Error::QueryReturnedNoRows))?;
        // Without any cursor there are no requests either.
        let contract = contract.map_or(Address::ZERO, |contract| contract.0);
        Ok(Self { connection, path, identity, contract })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The Decryption contract that was served last.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    /// What there is in it. Blocking.
    #[must_use]
    pub fn look(&self) -> Look<'_> {
        Look::new(&self.connection, self.contract)
    }
}

fn unreadable(path: &Path, cause: QueryError) -> FindError {
    FindError::Unreadable { path: path.to_owned(), cause }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Who kept it, and when. `None`: nobody yet, or it is no journal.
fn kept_by(path: &Path) -> rusqlite::Result<Option<(String, u64)>> {
    let connection = connect(path)?;
    if !schema::has_keepers(&connection)? {
        return Ok(None);
    }
    let kept = connection.query_row(sql::SELECT_KEEPER, [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Number>(1)?.0))
    });
    kept.optional()
}
