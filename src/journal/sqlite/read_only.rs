//! Reads a journal without its lock and without changing it, for commands of an operator. The journal is
//! found by the name of the instance that kept it, because nobody asks the chain for its identity.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    columns::{Fixed, Number},
    create::read_identity,
    errors::is_corrupt,
    files,
    keepers::keeper_of,
    schema::{self, Version},
    statements as sql,
    store::Reader,
    succession::written_ms,
};
use crate::{
    domain::{Address, RequestSource},
    journal::{Identity, Journal, OpenError, Queries, StoreError, StoreFault, Writer},
};

/// How long a read waits for a writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why no journal can be read.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("{}", of_directory(dir, cause))]
    Directory {
        dir: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(
        "no journal in {} was kept by an instance {keeper}{}; is that its state directory? Name it \
         with --state-dir",
        dir.display(), others(keepers)
    )]
    None { dir: PathBuf, keeper: String, keepers: Vec<String> },
    /// It is damaged, or was set aside.
    #[error(transparent)]
    Damaged(#[from] OpenError),
    #[error("{}", of_journal(path, cause))]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: StoreError,
    },
    #[error(
        "{} was written by another version of this program (schema {found}, this one has {known}): \
         use that version's command, or start the instance once",
        path.display()
    )]
    OtherVersion { path: PathBuf, found: i64, known: usize },
}

impl FindError {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "state_directory_unreadable",
            Self::None { .. } => "journal_not_found",
            Self::Damaged(cause) => cause.code(),
            Self::Unreadable { cause, .. } => cause.code(),
            Self::OtherVersion { .. } => "journal_of_other_version",
        }
    }
}

/// For who may not read what the service's user wrote.
const AS_ITS_USER: &str = "run this command as the service's user, or as root";

fn of_directory(dir: &Path, cause: &io::Error) -> String {
    let dir = dir.display();
    if cause.kind() == io::ErrorKind::PermissionDenied {
        return format!("this user may not read the state directory {dir}: {AS_ITS_USER}");
    }
    format!("{dir}: {cause}; is that the state directory? Name it with --state-dir")
}

fn of_journal(path: &Path, cause: &StoreError) -> String {
    let path = path.display();
    match cause.fault {
        // SQLite's own words name the path once more.
        StoreFault::Denied => format!("this user may not open {path}: {AS_ITS_USER}"),
        StoreFault::Full
        | StoreFault::Locked
        | StoreFault::Damaged
        | StoreFault::Unmounted
        | StoreFault::Failing
        | StoreFault::Other => format!("{path}: {cause}"),
    }
}

fn others(keepers: &[String]) -> String {
    if keepers.is_empty() { String::new() } else { format!(" (only by {})", keepers.join(", ")) }
}

/// A journal that is open for reading.
#[derive(Debug)]
pub struct ReadOnly {
    reader: Reader,
    identity: Identity,
    source: RequestSource,
}

impl ReadOnly {
    /// Opens the journal that the instance `keeper` kept last in one of `dirs`. Only the first directory must
    /// exist. Blocking.
    pub fn find(dirs: &[PathBuf], keeper: &str) -> Result<Self, FindError> {
        let mut newest: Option<(u64, PathBuf)> = None;
        let (mut keepers, mut trouble) = (Vec::new(), None);
        // When it was last written, and the error to report.
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
                // Opening a pipe would block for ever.
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
                        if is_corrupt(&cause) && keeper_of(&path).as_deref() == Some(keeper) =>
                    {
                        let at = written_ms(&path).unwrap_or_default();
                        let error = OpenError::sqlite(&path, cause);
                        damaged = damaged.filter(|(known, _)| *known > at).or(Some((at, error)));
                    }
                    // It may belong to another instance.
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
        let known = schema::MIGRATIONS.len();
        if schema::version(&connection, schema::MIGRATIONS).map_err(failed)?
            != Version::Known(known)
        {
            let found = connection.pragma_query_value(None, "user_version", |row| row.get(0));
            return Err(FindError::OtherVersion { found: found.map_err(failed)?, path, known });
        }
        let identity = read_identity(&connection).map_err(failed)?;
        let contract = connection
            .query_row(sql::LATEST_CONTRACT, [], |row| row.get::<_, Fixed<Address>>(0))
            .optional()
            .map_err(failed)?;
        let identity = identity.ok_or_else(|| failed(rusqlite::Error::QueryReturnedNoRows))?;
        // A journal without any cursor has no requests either.
        let contract = contract.map_or(Address::ZERO, |contract| contract.0);
        let source = RequestSource { chain_id: identity.chain_id, contract };
        Ok(Self { reader: Reader { connection, home: identity.chain_id, path }, identity, source })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.reader.path
    }

    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.identity.chain_id
    }

    /// Queries about the Decryption contract that was served last. Blocking.
    #[must_use]
    pub fn queries(&self) -> Queries<'_> {
        Queries::new(&self.reader, self.source)
    }

    /// Opens it for writing. Blocking, as [`Journal::open`].
    pub fn open_to_write(&self) -> Result<(Journal, Writer), OpenError> {
        let dir = self.path().parent().unwrap_or(Path::new("."));
        Journal::open(dir, self.identity, self.source.contract)
    }
}

/// If `aside` is a journal that was set aside and not replaced since: the instance that kept it, and the
/// error to report.
fn set_aside(dir: &Path, aside: &Path) -> Option<(Option<String>, OpenError)> {
    let stem = files::stem_of_aside(aside.file_name()?.to_str()?)?;
    let path = dir.join(format!("{stem}{}", files::ENDING));
    if path.exists() {
        return None;
    }
    let keeper = keeper_of(&path);
    let of = keeper.clone();
    Some((of, OpenError::SetAside { path, aside: aside.to_owned(), at_most: None, keeper }))
}

fn unreadable(path: &Path, cause: rusqlite::Error) -> FindError {
    FindError::Unreadable { path: path.to_owned(), cause: StoreError::of(path, cause) }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    schema::connect_read_only(path, BUSY_TIMEOUT)
}

/// The instance that keeps it, and since when. `None`: nobody yet, or it is no journal.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_read_is_told_as_whom_to_ask() {
        let path = Path::new("/state/a.sqlite3");
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        let said = format!("unable to open database file: {}", path.display());
        let journal =
            unreadable(path, rusqlite::Error::SqliteFailure(code, Some(said))).to_string();
        let cause = io::ErrorKind::PermissionDenied.into();
        let directory = FindError::Directory { dir: "/state".into(), cause }.to_string();
        for told in [journal, directory] {
            assert!(told.matches("/state").count() == 1 && told.contains(AS_ITS_USER), "{told}");
        }
    }
}
