//! Opens a journal's file under its lock, or creates it.

use std::{fs, io, path::Path};

use rusqlite::Connection;

use super::{
    aside,
    create::{self, claim_identity},
    files::{self, sync_names},
    schema::{self, Version},
    store::SqliteStore,
    tenure::Tenure,
    upgrade,
};
use crate::{
    domain::{Address, RequestSource},
    journal::{
        Damage, Identity, IdleStore, Journal, OpenError, OpenWarning, StoreError, Writer,
        store::{StoreId, StoreReader},
        writer::{JournalParts, assemble},
    },
    machine::Machine,
};

/// Files up to this size are checked completely when they are opened (well below a second). Larger ones are
/// only checked where they are read.
const CHECKED_IN_FULL: u64 = 64 * 1024 * 1024;

impl Journal {
    /// Opens the journal of `identity` in `dir` and acquires its tenure. Creates directory (0700) and file
    /// (0600) if needed. Blocking: call it in `spawn_blocking`.
    ///
    /// The tenure is held until the [`Writer`] is gone and its last commit has ended.
    pub fn open(
        dir: &Path,
        identity: Identity,
        contract: Address,
    ) -> Result<(Self, Writer), OpenError> {
        let open = OpenFile::open(&Machine::default(), dir, identity)?;
        Ok(open.assemble(&Machine::default(), contract))
    }
}

/// An open file, and the warnings found while opening it.
pub(super) struct OpenFile {
    // Fields are dropped in this order.
    reads: Box<dyn StoreReader>,
    pub store: SqliteStore,
    identity: Identity,
    warnings: Vec<OpenWarning>,
}

impl OpenFile {
    /// Acquires the tenure and opens or creates the file.
    pub fn open(machine: &Machine, dir: &Path, identity: Identity) -> Result<Self, OpenError> {
        let tenure = Tenure::acquire(dir, identity)?;
        let (connection, warnings) = open_file(machine, dir, identity, &tenure.path)?;
        Self::of(connection, warnings, tenure, identity)
    }

    /// Like [`open`](Self::open), for the instance that owns the journal: a damaged journal is set aside, and
    /// none is created where one was set aside.
    pub fn open_own(
        machine: &Machine,
        dir: &Path,
        identity: Identity,
        contract: Address,
    ) -> Result<Self, OpenError> {
        let tenure = Tenure::acquire(dir, identity)?;
        if let Some(error) = aside::check_none_set_aside(&tenure.path, contract)? {
            return Err(error);
        }
        match open_file(machine, dir, identity, &tenure.path) {
            Ok((connection, warnings)) => Self::of(connection, warnings, tenure, identity),
            Err(OpenError::Corrupt { cause, .. }) => {
                Err(aside::set_aside(&tenure.path, contract, &cause.to_string())?)
            }
            Err(error) => Err(error),
        }
    }

    fn of(
        connection: Connection,
        warnings: Vec<OpenWarning>,
        tenure: Tenure,
        identity: Identity,
    ) -> Result<Self, OpenError> {
        let store = SqliteStore::new(connection, identity.chain_id, tenure);
        let reads = store.reader()?;
        Ok(Self { reads, store, identity, warnings })
    }

    /// Continues with the store that an earlier writer left open.
    pub fn from_idle_store(kept: IdleStore) -> Result<Self, OpenError> {
        let (store, identity) = kept.into_store();
        let reads = store.reader()?;
        Ok(Self { store, reads, identity, warnings: Vec::new() })
    }

    /// Returns a handle for this contract on the journal's own chain, and a writer.
    pub fn assemble(self, machine: &Machine, contract: Address) -> (Journal, Writer) {
        let Self { store, reads, identity, mut warnings } = self;
        let path = store.path().to_owned();
        let (machine, source) =
            (machine.clone(), RequestSource { chain_id: identity.chain_id, contract });
        // A read that fails is reported by the first query of the instance.
        let requests = store.unfinished_elsewhere(source).unwrap_or_default();
        if requests > 0 {
            warnings.push(OpenWarning::OtherContracts { requests });
        }
        assemble(store, reads, JournalParts { path, identity, source, machine, warnings })
    }
}

/// Opens or creates the file. The caller holds its lock.
pub(super) fn open_file(
    machine: &Machine,
    dir: &Path,
    identity: Identity,
    path: &Path,
) -> Result<(Connection, Vec<OpenWarning>), OpenError> {
    let io = |doing| OpenError::io(path, doing);
    let sqlite = |cause| OpenError::sqlite(path, cause);
    if !files::exists(path).map_err(io("looking for it"))? {
        for ending in ["-wal", "-shm"] {
            let log = files::with_suffix(path, ending);
            files::exists(&log).map_err(io("looking for its log"))?;
        }
        create::create_journal(path, identity, |_| Ok(()))?;
    }
    let mut connection = schema::connect_writer(path).map_err(sqlite)?;
    if !machine.may_lose_power() {
        schema::never_sync(&connection).map_err(sqlite)?;
    }
    let path = path.to_owned();
    let seen = match schema::version(&connection, schema::MIGRATIONS).map_err(sqlite)? {
        Version::Known(seen) => seen,
        Version::Empty => {
            return Err(OpenError::Corrupt { path, cause: StoreError::damaged(schema::EMPTIED) });
        }
        Version::Newer(found) => {
            return Err(OpenError::Newer { path, found, known: schema::MIGRATIONS.len() });
        }
        Version::NotOurs => return Err(OpenError::NotOurs { path, of: None }),
    };
    let size = fs::metadata(&path).map_err(io("measuring it"))?.len();
    if size <= CHECKED_IN_FULL {
        quick_check(&connection, &path)?;
    }
    if seen < schema::MIGRATIONS.len() {
        upgrade::keep_copy(&connection, &path, seen)?;
    }
    schema::migrate(&mut connection, schema::MIGRATIONS).map_err(sqlite)?;
    let found = claim_identity(&connection, identity).map_err(sqlite)?;
    if found != identity {
        return Err(OpenError::NotOurs { path, of: Some(found) });
    }
    sync_names(dir).map_err(io("syncing its directory"))?;
    let warnings = find_resets(dir, identity).map_err(io("listing its directory"))?;
    Ok((connection, warnings))
}

/// Sets a journal aside that was found damaged while it was open. It must be closed by now. Returns the error
/// to report. Blocking.
pub fn set_aside(
    damage: &Damage,
    dir: &Path,
    identity: Identity,
    contract: Address,
) -> Result<OpenError, OpenError> {
    let tenure = Tenure::acquire(dir, identity)?;
    let path = tenure.path.clone();
    let found = files::file_id(&path).map_err(OpenError::io(&path, "looking for it"))?;
    if StoreId(found) != damage.store_id {
        // Somebody has created a new one since.
        let cause = StoreError::damaged(damage.cause.to_string());
        return Err(OpenError::Corrupt { path, cause });
    }
    aside::set_aside(&path, contract, &damage.cause.to_string())
}

/// `SQLite`'s own check of structure and cell order.
fn quick_check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|cause| OpenError::sqlite(path, cause))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(OpenError::Corrupt { path: path.to_owned(), cause: StoreError::damaged(verdict) })
}

/// Finds journals of the same chain id and wallet with another genesis block.
fn find_resets(dir: &Path, identity: Identity) -> io::Result<Vec<OpenWarning>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let is_journal = path.extension().is_some_and(|extension| extension == "sqlite3");
        if is_journal && stem.is_some_and(|stem| identity.is_reset_of(stem)) {
            found.push(OpenWarning::ChainReset { older: path });
        }
    }
    Ok(found)
}
