//! A journal made anew from the chain, in place of one that is damaged or gone.
//!
//! ```text
//! damaged -> set aside (renamed) -> nobody begins a new one -> rebuild: cursor before a block,
//!                                                              and what the damaged one proves
//! ```
//!
//! Nothing but the cursor is invented: the instance reads the chain from there on by its usual way,
//! and what was answered before is found out at the contract, which takes each answer once.
//!
//! Transactions that the new journal does not know may still be on their way. Their nonces are given
//! out again then; of two transactions with one nonce one is mined, and whichever it is, it brings an
//! answer that the contract wants or refuses as known. The other's request is sent again. So what is
//! salvaged saves gas and time, and nothing rests on it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    Identity, OpenError, claim,
    footing::Footing,
    names, open_file, prepare, reader,
    record::{Fixed, Number},
    salvage, schema, statements as sql,
    tables::Tables,
};
use crate::{
    clock,
    domain::{Address, BlockRef},
    flow::ledger::Batch,
    machine::Machine,
};

/// What a rebuild did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    pub path: PathBuf,
    /// The block before the first one that is read.
    pub cursor: BlockRef,
    pub way: Way,
}

/// How it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// There was none.
    Anew,
    /// In place of a damaged one.
    Salvaged {
        aside: PathBuf,
        /// Without an outcome.
        requests: usize,
        /// Signed, not known to be mined.
        transactions: usize,
        /// The first block that has to be read again, as far as the damaged file tells.
        at_most: Option<u64>,
    },
    /// It was in order: only its cursor went back, from here.
    ReadAgain { before: Option<BlockRef> },
    /// It was in order, and does not stand that far yet.
    NotThere { before: BlockRef },
}

/// Makes the journal of `identity` anew, with this cursor. One that is in order keeps all it has and
/// goes back to the cursor. Never one that somebody has open. Blocking.
pub fn rebuild(
    dir: &Path,
    identity: Identity,
    contract: Address,
    cursor: BlockRef,
) -> Result<Rebuilt, OpenError> {
    let (path, _lock) = prepare(dir, identity)?;
    let io = |doing| OpenError::io(&path, doing);
    let rebuilt = |way| Rebuilt { path: path.clone(), cursor, way };
    let is_there = path.try_exists().map_err(io("looking for it"))?;
    let aside = if is_there {
        match open_file(&Machine::default(), dir, identity, &path) {
            Ok(mut open) => {
                let way = go_back(&mut open.connection, contract, cursor);
                return way.map(rebuilt).map_err(|cause| OpenError::sqlite(&path, cause));
            }
            Err(OpenError::Corrupt { .. }) => {
                Some(names::set_aside(&path).map_err(io("setting it aside"))?)
            }
            Err(error) => return Err(error),
        }
    } else {
        interrupted(&path).map_err(io("setting it aside"))?
    };
    let found = aside.as_deref().map(|aside| salvage::salvage(aside, identity, contract));
    let found = found.unwrap_or_default();
    make(&path, identity, |connection| fill(connection, contract, cursor, &found))?;
    Ok(rebuilt(match aside {
        None => Way::Anew,
        Some(aside) => Way::Salvaged {
            requests: found.requests.len(),
            transactions: found.transactions.len(),
            at_most: salvage::first_block(&aside, contract),
            aside,
        },
    }))
}

/// Makes the journal at `path`, where there is none: under another name until it has its tables, its
/// identity and what `fill` writes. So no crash leaves one that is empty under its own name.
pub(super) fn make(
    path: &Path,
    identity: Identity,
    fill: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
) -> Result<(), OpenError> {
    let io = |doing| OpenError::io(path, doing);
    let new = names::beside(path, ".new");
    names::remove(&new).map_err(io("removing what was never put in place"))?;
    names::create_new(&new).map_err(io("creating it"))?;
    let filled = || {
        let mut connection = schema::connect_to_begin(&new)?;
        schema::migrate(&mut connection, schema::MIGRATIONS)?;
        claim(&connection, identity)?;
        fill(&mut connection)?;
        // The only connection: its end folds the log.
        connection.close().map_err(|(_, cause)| cause)
    };
    filled().map_err(|cause| OpenError::Sqlite {
        footing: Footing::behind(&new, &cause).into(),
        path: path.to_owned(),
        cause,
    })?;
    names::put_in_place(&new, path).map_err(io("putting it in place"))
}

/// Writes the cursor and what was salvaged.
fn fill(
    connection: &mut Connection,
    contract: Address,
    cursor: BlockRef,
    found: &salvage::Salvage,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now_ms = clock::unix_millis();
    let tables = Tables { transaction: &transaction, contract };
    let batch =
        Batch { arrivals: found.requests.clone(), cursor: Some(cursor), ..Batch::default() };
    tables.arrive(&batch, now_ms)?;
    for signed in &found.transactions {
        tables.sign(signed, now_ms)?;
    }
    transaction.commit()
}

/// The cursor of a journal that is in order, back to `cursor`.
fn go_back(
    connection: &mut Connection,
    contract: Address,
    cursor: BlockRef,
) -> rusqlite::Result<Way> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = reader::cursor(&transaction, contract)?;
    if let Some(before) = before.filter(|before| before.number < cursor.number) {
        return Ok(Way::NotThere { before });
    }
    let (number, now) = (Number(cursor.number), Number(clock::unix_millis()));
    transaction.execute(
        sql::SET_CURSOR,
        params![Fixed(contract), number, Fixed(cursor.hash), now, None::<Number>],
    )?;
    transaction.execute(sql::BEGIN_EARLIER, params![Fixed(contract), number])?;
    transaction.commit()?;
    Ok(Way::ReadAgain { before })
}

/// Sets the closed journal at `path`, whose lock the caller has, aside. Answers what to tell about it.
pub(super) fn set_aside(
    path: &Path,
    contract: Address,
    detail: &str,
) -> Result<OpenError, OpenError> {
    let aside = names::set_aside(path).map_err(OpenError::io(path, "setting it aside"))?;
    log_set_aside(path, &aside, detail);
    Ok(error(path, aside, contract))
}

fn log_set_aside(path: &Path, aside: &Path, detail: &str) {
    let (path, aside) = (path.display(), aside.display());
    tracing::error!(%path, %aside, detail, "the journal is damaged and set aside");
}

/// What keeps a new journal from being begun at `path`: a damaged one that nobody has rebuilt.
pub(super) fn missing(path: &Path, contract: Address) -> Result<Option<OpenError>, OpenError> {
    let io = OpenError::io(path, "looking for it");
    if path.try_exists().map_err(&io)? {
        return Ok(None);
    }
    let aside = interrupted(path).map_err(&io)?;
    Ok(aside.map(|aside| error(path, aside, contract)))
}

/// What is told of a log whose database is gone.
pub(super) const NO_DATABASE: &str = "its log is there, and the file itself is gone";

/// The journal that was set aside last, where there is none at `path`. A log without its database is set
/// aside here: what it holds was stored, and the next database would not have it.
fn interrupted(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let aside = names::aside_of(path)?;
    let is_anothers = match &aside {
        Some(aside) => names::has_log(path)? && !names::is_log_of(path, aside)?,
        None => names::has_log(path)?,
    };
    if is_anothers {
        let aside = names::set_aside(path)?;
        log_set_aside(path, &aside, NO_DATABASE);
        return Ok(Some(aside));
    }
    if let Some(aside) = &aside {
        names::move_log(path, aside)?;
    }
    Ok(aside)
}

/// What to tell of a journal that was set aside.
pub(super) fn error(path: &Path, aside: PathBuf, contract: Address) -> OpenError {
    let at_most = salvage::first_block(&aside, contract);
    OpenError::SetAside { path: path.to_owned(), aside, at_most }
}
