//! A journal that nobody has open, read as an operator would: without its lock, changing nothing. It
//! is found by the instance that kept it, since nobody asks the chain which one it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    Identity, Look, OpenError, QueryError,
    errors::is_corrupt,
    names, read_identity,
    record::{Fixed, Number},
    schema::{self, Version},
    statements as sql,
    succession::{keeper_by_lock, written_ms},
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
    /// It cannot be read by anybody, or was set aside.
    #[error(transparent)]
    Damaged(#[from] OpenError),
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
        // When it was last written, and what is wrong with it.
        let mut damaged: Option<(u64, OpenError)> = None;
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
                if let Some((of, error)) = set_aside(dir, &path) {
                    if of.as_deref() == Some(keeper) {
                        let at = written_ms(&path).unwrap_or_default();
                        damaged = damaged.filter(|(known, _)| *known > at).or(Some((at, error)));
                    }
                    continue;
                }
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
                    Err(cause)
                        if is_corrupt(&cause)
                            && keeper_of(dir, &path).as_deref() == Some(keeper) =>
                    {
                        let at = written_ms(&path).unwrap_or_default();
                        let error = OpenError::sqlite(&path, cause);
                        damaged = damaged.filter(|(known, _)| *known > at).or(Some((at, error)));
                    }
                    // It may be another instance's.
                    Err(cause) => trouble = Some(unreadable(&path, cause)),
                }
            }
        }
        if let Some((at, error)) = damaged
            && newest.as_ref().is_none_or(|(newest, _)| *newest < at)
        {
            return Err(error.into());
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

/// Who kept the journal at `path` last, as far as its lock tells.
fn keeper_of(dir: &Path, path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    keeper_by_lock(dir, name.strip_suffix(names::ENDING)?)
}

/// Whose journal was set aside as `aside`, where nobody has made it anew, and what to tell of it.
fn set_aside(dir: &Path, aside: &Path) -> Option<(Option<String>, OpenError)> {
    let stem = names::stem_of_aside(aside.file_name()?.to_str()?)?;
    let path = dir.join(format!("{stem}{}", names::ENDING));
    if path.exists() {
        return None;
    }
    let error = OpenError::SetAside { path, aside: aside.to_owned(), at_most: None };
    Some((keeper_by_lock(dir, stem), error))
}

fn unreadable(path: &Path, cause: QueryError) -> FindError {
    FindError::Unreadable { path: path.to_owned(), cause }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    schema::connect_to_look(path, BUSY_TIMEOUT)
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
