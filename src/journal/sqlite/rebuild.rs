//! Builds a journal anew from the chain, in place of one that is damaged or gone.
//!
//! ```text
//! damaged -> set aside (renamed) -> no new one is created -> rebuild: cursor before a block,
//!                                                            and the rows that prove themselves
//! ```
//!
//! Only the cursor is chosen by the operator. The instance then reads the chain from there as always,
//! and learns from the contract which requests were answered before: the contract accepts one answer
//! per signer.
//!
//! Transactions that the new journal does not know may still be pending. Their nonces are then used
//! again. Of two transactions with one nonce only one is mined: it delivers an answer that the contract
//! accepts, or rejects as already known. The other request's answer is sent again. So what is salvaged
//! saves gas and time; nothing depends on it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    aside::finish_set_aside,
    columns::{Fixed, Number, SourceColumn},
    create::create_journal,
    files,
    open::open_file,
    reader::Rows,
    salvage, statements as sql,
    tables::Tables,
    tenure::Tenure,
};
use crate::{
    domain::{Address, BlockRef, RequestSource},
    flow::ledger::Batch,
    journal::{Identity, OpenError},
    machine::Machine,
    time::clock,
};

/// The result of a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    pub path: PathBuf,
    /// The block before the first one that will be read.
    pub cursor: BlockRef,
    pub kind: RebuildKind,
}

/// How the journal was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RebuildKind {
    /// There was none.
    Anew,
    /// It replaces a damaged one.
    Salvaged {
        aside: PathBuf,
        /// Without an outcome.
        requests: usize,
        /// Signed, not known to be mined.
        transactions: usize,
        /// The first block that must be read again, as far as the damaged file still tells.
        at_most: Option<u64>,
    },
    /// The journal was intact: only its cursor was moved back, from `before`.
    CursorMovedBack { before: Option<BlockRef> },
    /// The journal was intact, and its cursor is still below the given one: nothing was changed.
    CursorNotReached { before: BlockRef },
}

/// Builds the journal of `identity` with this cursor. An intact journal keeps its contents; only its cursor
/// moves back. Fails if a process has the journal open. Blocking.
pub fn rebuild(
    dir: &Path,
    identity: Identity,
    contract: Address,
    cursor: BlockRef,
) -> Result<Rebuilt, OpenError> {
    let tenure = Tenure::acquire(dir, identity)?;
    let path = tenure.path.clone();
    let io = |doing| OpenError::io(&path, doing);
    let rebuilt = |way| Rebuilt { path: path.clone(), cursor, kind: way };
    let is_there = path.try_exists().map_err(io("looking for it"))?;
    let aside = if is_there {
        match open_file(&Machine::default(), dir, identity, &path) {
            Ok((mut connection, _)) => {
                let way = move_cursor_back(&mut connection, contract, cursor);
                return way.map(rebuilt).map_err(|cause| OpenError::sqlite(&path, cause));
            }
            Err(OpenError::Corrupt { .. }) => {
                Some(files::set_aside(&path).map_err(io("setting it aside"))?)
            }
            Err(error) => return Err(error),
        }
    } else {
        finish_set_aside(&path).map_err(io("setting it aside"))?
    };
    let found = aside.as_deref().map(|aside| salvage::salvage(aside, identity, contract));
    let found = found.unwrap_or_default();
    let source = RequestSource { chain_id: identity.chain_id, contract };
    create_journal(&path, identity, |connection| fill(connection, source, cursor, &found))?;
    Ok(rebuilt(match aside {
        None => RebuildKind::Anew,
        Some(aside) => RebuildKind::Salvaged {
            requests: found.requests.len(),
            transactions: found.transactions.len(),
            at_most: salvage::first_block(&aside, contract),
            aside,
        },
    }))
}

/// Writes the cursor and the salvaged rows.
fn fill(
    connection: &mut Connection,
    source: RequestSource,
    cursor: BlockRef,
    found: &salvage::Salvage,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now_ms = clock::unix_millis();
    let tables =
        Tables { transaction: &transaction, of: SourceColumn::of(source, source.chain_id) };
    let batch =
        Batch { arrivals: found.requests.clone(), cursor: Some(cursor), ..Batch::default() };
    tables.arrive(&batch, now_ms)?;
    for signed in &found.transactions {
        tables.sign(signed, now_ms)?;
    }
    transaction.commit()
}

/// Moves the cursor of an intact journal back to `cursor`.
fn move_cursor_back(
    connection: &mut Connection,
    contract: Address,
    cursor: BlockRef,
) -> rusqlite::Result<RebuildKind> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = Rows { db: &transaction, of: SourceColumn::home(contract) }.cursor()?;
    if let Some(before) = before.filter(|before| before.number < cursor.number) {
        return Ok(RebuildKind::CursorNotReached { before });
    }
    let (number, now) = (Number(cursor.number), Number(clock::unix_millis()));
    transaction.execute(
        sql::SET_CURSOR,
        params![SourceColumn::home(contract), number, Fixed(cursor.hash), now, None::<Number>],
    )?;
    transaction.execute(sql::BEGIN_EARLIER, params![SourceColumn::home(contract), number])?;
    transaction.commit()?;
    Ok(RebuildKind::CursorMovedBack { before })
}
