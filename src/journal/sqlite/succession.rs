//! An instance whose wallet was changed: its new journal continues where the old one stopped.
//!
//! Each journal records the instance that keeps it. A journal without a cursor for its contract looks in its
//! directory for the journal that the same instance kept last, for the same chain and contract and with
//! another wallet. It takes over the cursor and every request without an outcome, with answers, and the
//! requests settled in the last blocks, which are read again. That is one transaction of the new journal;
//! until it is on disk, the next start does it again. The old journal is only read, so going back to the old
//! wallet loses nothing either.
//!
//! A journal that cannot be read, or that was set aside as damaged, may be the one to continue. To begin
//! without it would silently lose its requests, so the new journal does not open until it can be read. Its
//! lock file may still tell that it belongs to another instance. It is also ignored if it was last written
//! before this instance opened its last known journal.
//!
//! What the old wallet signed stays in its journal: [`OpenedJournal::earlier`] lists the journals whose
//! transactions must be followed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{
    aside,
    columns::{Number, SourceColumn},
    contents,
    create::read_identity,
    errors::is_corrupt,
    files,
    keepers::keeper_of,
    open::OpenFile,
    reader::Rows,
    schema, statements as sql,
};
use crate::{
    domain::{Address, BlockRef},
    journal::{Identity, IdleStore, Journal, OpenError, Writer},
    machine::Machine,
};

/// How many of the last blocks are taken over with their settled requests: twice the number that is always
/// read again.
const YOUNG: u64 = 64;
/// How long an inspection of another journal waits for its writer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The open journal of an instance, and what an earlier wallet left.
#[derive(Debug)]
pub struct OpenedJournal {
    pub journal: Journal,
    pub writer: Writer,
    /// The wallet whose requests were taken over by this opening.
    pub predecessor: Option<Predecessor>,
    /// Journals of this instance's earlier wallets with transactions that are not known to be mined.
    pub earlier: Vec<Result<EarlierJournal, OpenError>>,
}

/// What was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    pub wallet: Address,
    pub cursor: BlockRef,
    /// Without an outcome.
    pub requests: u64,
}

/// The open journal of an earlier wallet.
#[derive(Debug)]
pub struct EarlierJournal {
    pub wallet: Address,
    pub journal: Journal,
    pub writer: Writer,
}

/// Opens the journal of `identity` as the instance named `keeper`. A new journal takes over from that
/// instance's earlier wallet. `kept` is the same journal as an earlier writer left it. Blocking, as
/// [`Journal::open`]; the journal's later work runs on `machine`.
pub fn open_as(
    machine: &Machine,
    dir: &Path,
    identity: Identity,
    contract: Address,
    keeper: &str,
    kept: Option<IdleStore>,
) -> Result<OpenedJournal, OpenError> {
    let mut own = match kept {
        Some(kept) => OpenFile::from_idle_store(kept)?,
        None => OpenFile::open_own(machine, dir, identity, contract)
            .map_err(|error| error.of_instance(keeper))?,
    };
    let (path, now_ms) = (own.store.path().to_owned(), machine.clock.unix_millis());
    let sqlite = |cause| OpenError::sqlite(&path, cause);
    let siblings = siblings(dir, identity, keeper, contract)
        .map_err(OpenError::io(&path, "looking for the journals beside it"))?;
    let fresh = Rows { db: &own.store.connection, of: SourceColumn::home(contract) }
        .cursor()
        .map_err(sqlite)?
        .is_none();
    let (mut predecessor, mut left) = (None, Vec::new());
    let Siblings { known, unreadable: dark } = siblings;
    let heir_since = known.iter().find(|sibling| sibling.has_cursor).map(|known| known.kept_at_ms);
    for UnreadableSibling { error, written_ms } in dark {
        let may_be_last = heir_since.is_none_or(|since| written_ms.is_none_or(|at| at >= since));
        if fresh && may_be_last {
            return Err(error.of_predecessor());
        }
        tracing::warn!(%error, "a journal beside this instance's own cannot be read");
    }
    for sibling in known {
        let inherits = fresh && predecessor.is_none() && sibling.has_cursor;
        if !inherits && !sibling.has_open_transactions {
            continue;
        }
        let other = match OpenFile::open(machine, dir, sibling.identity) {
            Ok(other) => other,
            // Also while another instance serves that wallet: to begin without its requests would lose them.
            Err(error) if inherits => return Err(error.of_predecessor()),
            // The instance that serves that wallet follows its transactions.
            Err(OpenError::Locked { .. }) => continue,
            Err(error) => {
                left.push(Err(error));
                continue;
            }
        };
        let wallet = sibling.identity.wallet;
        if inherits {
            let old = other.store.path();
            let inherited = inherit(&mut own.store.connection, old, contract, now_ms);
            let (cursor, requests) = inherited.map_err(|cause| {
                if is_corrupt(&cause) {
                    return OpenError::sqlite(old, cause).of_predecessor();
                }
                OpenError::sqlite(&path, cause)
            })?;
            predecessor = Some(Predecessor { wallet, cursor, requests });
        }
        if sibling.has_open_transactions {
            let (journal, writer) = other.assemble(machine, contract);
            left.push(Ok(EarlierJournal { wallet, journal, writer }));
        }
    }
    let noted = own.store.tenure.set_keeper(keeper);
    noted.map_err(OpenError::io(&path, "noting its owner"))?;
    set_keeper(&mut own.store.connection, keeper, now_ms).map_err(sqlite)?;
    let (journal, writer) = own.assemble(machine, contract);
    Ok(OpenedJournal { journal, writer, predecessor, earlier: left })
}

/// The other journals in the directory that are, or may be, of the same instance.
#[derive(Default)]
struct Siblings {
    /// Those that `keeper` kept last, newest first.
    known: Vec<Sibling>,
    /// Those that cannot be read and may be this instance's.
    unreadable: Vec<UnreadableSibling>,
}

/// What an inspection of another journal shows.
struct Sibling {
    identity: Identity,
    kept_at_ms: u64,
    has_cursor: bool,
    has_open_transactions: bool,
}

/// A journal that cannot be read.
struct UnreadableSibling {
    error: OpenError,
    /// When its file was last written.
    written_ms: Option<u64>,
}

/// Finds the journals of the same chain with other wallets.
fn siblings(
    dir: &Path,
    identity: Identity,
    keeper: &str,
    contract: Address,
) -> io::Result<Siblings> {
    let own = identity.file_stem();
    let mut found = Siblings::default();
    let mut aside = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_of_chain = |stem: &str| stem != own && identity.shares_chain_with(stem);
        if let Some(stem) = files::stem_of_aside(name).filter(|stem| is_of_chain(stem)) {
            aside.insert(stem.to_owned());
        }
        if !name.strip_suffix(files::ENDING).is_some_and(is_of_chain) {
            continue;
        }
        let path = entry.path();
        let looked = if entry.file_type()?.is_file() {
            inspect_sibling(&path, keeper_of(&path).as_deref(), keeper, contract)
        } else {
            Err(OpenError::io(&path, "looking into it")(files::no_file()))
        };
        match looked {
            Ok(Some(sibling))
                if Identity { wallet: identity.wallet, ..sibling.identity } == identity =>
            {
                found.known.push(sibling);
            }
            Ok(_) => {}
            // It was removed since the directory was listed.
            Err(_) if matches!(path.try_exists(), Ok(false)) => {}
            Err(error) if may_be_of(keeper, &path) => {
                let written_ms = written_ms(&path);
                found.unreadable.push(UnreadableSibling { error, written_ms });
            }
            Err(error) => {
                tracing::warn!(%error, "a journal beside this instance's own cannot be read");
            }
        }
    }
    for stem in aside {
        let path = dir.join(format!("{stem}{}", files::ENDING));
        // If it was replaced, the new journal decides.
        if path.try_exists()? || !may_be_of(keeper, &path) {
            continue;
        }
        let Some(aside) = files::latest_set_aside(&path)? else { continue };
        // It may still show that it belongs to another instance.
        if matches!(inspect_sibling(&aside, None, keeper, contract), Ok(None)) {
            continue;
        }
        let written_ms = written_ms(&aside);
        found.unreadable.push(UnreadableSibling {
            error: aside::set_aside_error(&path, aside, contract),
            written_ms,
        });
    }
    found.known.sort_by_key(|sibling| std::cmp::Reverse(sibling.kept_at_ms));
    Ok(found)
}

/// Returns whether the journal may be this instance's: no lock file names another keeper.
fn may_be_of(keeper: &str, path: &Path) -> bool {
    keeper_of(path).is_none_or(|known| known == keeper)
}

/// When the file or its log was last written, in Unix milliseconds.
pub(super) fn written_ms(path: &Path) -> Option<u64> {
    let newest = [path.to_owned(), files::with_suffix(path, "-wal")]
        .iter()
        .filter_map(|file| fs::metadata(file).ok()?.modified().ok())
        .max()?;
    u64::try_from(newest.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Reads without the lock: another instance may be writing it. `by_lock` is the keeper according to the lock
/// file, for a journal that names none (a rebuilt one). `None`: not kept by `keeper`.
fn inspect_sibling(
    path: &Path,
    by_lock: Option<&str>,
    keeper: &str,
    contract: Address,
) -> Result<Option<Sibling>, OpenError> {
    let looking = || -> rusqlite::Result<Option<Sibling>> {
        let connection = schema::connect_read_only(path, LOOK_TIMEOUT)?;
        if !schema::has_keepers(&connection)? {
            return Ok(None);
        }
        let kept = connection
            .query_row(sql::SELECT_KEEPER, [], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
            .optional()?;
        let unsaid = || Some((by_lock?.to_owned(), Number(written_ms(path)?)));
        let Some((name, Number(kept_at_ms))) = kept.or_else(unsaid) else { return Ok(None) };
        if name != keeper {
            return Ok(None);
        }
        let Some(identity) = read_identity(&connection)? else { return Ok(None) };
        let newer = connection.prepare(sql::HAS_OPEN_TRANSACTIONS);
        let has_open = newer.map_or(sql::HAS_OPEN_TRANSACTIONS_V3, |_| sql::HAS_OPEN_TRANSACTIONS);
        Ok(Some(Sibling {
            identity,
            kept_at_ms,
            has_cursor: Rows { db: &connection, of: SourceColumn::home(contract) }
                .cursor()?
                .is_some(),
            has_open_transactions: connection.query_row(has_open, [], |row| row.get(0))?,
        }))
    };
    looking().map_err(|cause| OpenError::sqlite(path, cause))
}

/// Takes over cursor and unfinished requests from the journal at `old`, all or nothing.
fn inherit(
    connection: &mut Connection,
    old: &Path,
    contract: Address,
    now_ms: u64,
) -> rusqlite::Result<(BlockRef, u64)> {
    let old = old.to_str().ok_or_else(|| rusqlite::Error::InvalidPath(old.to_owned()))?;
    connection.execute("ATTACH DATABASE ?1 AS old", [old])?;
    let inherited = copy(connection, contract, now_ms);
    let detached = connection.execute_batch("DETACH DATABASE old");
    let inherited = inherited?;
    detached?;
    Ok(inherited)
}

fn copy(
    connection: &mut Connection,
    contract: Address,
    now_ms: u64,
) -> rusqlite::Result<(BlockRef, u64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let of = params![SourceColumn::home(contract)];
    let now = Number(now_ms);
    transaction.execute(sql::inherit::CURSOR, params![SourceColumn::home(contract), now])?;
    transaction.execute(sql::inherit::UNPROVEN, of)?;
    let rows = Rows { db: &transaction, of: SourceColumn::home(contract) };
    let cursor = rows.cursor()?;
    let cursor = cursor.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let young = Number(cursor.number.saturating_sub(YOUNG));
    transaction.execute(sql::inherit::REQUESTS, params![SourceColumn::home(contract), young])?;
    transaction.execute(sql::inherit::EVENTS, of)?;
    transaction.execute(sql::inherit::ANSWERS, of)?;
    transaction.execute(sql::inherit::ACCESS, of)?;
    let version: i64 = transaction.query_row("PRAGMA old.user_version", [], |row| row.get(0))?;
    if version < schema::RENEWED_CONTENTS {
        contents::renew(&transaction)?;
    }
    transaction.execute(sql::inherit::SEEN_IDS, of)?;
    if version >= schema::KNOWS_BESIDE {
        transaction.execute(sql::inherit::APPROVALS, of)?;
        transaction.execute(sql::inherit::BESIDE, of)?;
        let with_time = params![SourceColumn::home(contract), now];
        transaction.execute(sql::inherit::CURSORS_BESIDE, with_time)?;
        transaction.execute(sql::inherit::UNPROVEN_BESIDE, of)?;
    }
    if version >= schema::KNOWS_REPRESENTATIONS {
        transaction.execute(sql::inherit::REPRESENTATIONS, of)?;
    }
    if version >= schema::KNOWS_GENERATIONS {
        transaction.execute(sql::inherit::GENERATIONS, of)?;
    }
    let requests = rows.in_hand()?;
    transaction.commit()?;
    Ok((cursor, requests))
}

/// Records the instance that keeps this journal.
fn set_keeper(connection: &mut Connection, keeper: &str, now_ms: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(sql::DELETE_KEEPER, [])?;
    transaction.execute(sql::INSERT_KEEPER, params![keeper, Number(now_ms)])?;
    transaction.commit()
}
