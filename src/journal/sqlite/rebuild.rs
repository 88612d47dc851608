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

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

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
    domain::{Address, BlockRef, Generation, RequestSource},
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
        /// What is known to have stood at the contract's address, as far as the damaged file still tells.
        generation: Option<Generation>,
        /// The first block that must be read again, as far as the damaged file still tells.
        at_most: Option<u64>,
    },
    /// The journal was intact: only its cursor was moved back, from `before`.
    CursorMovedBack { before: Option<BlockRef> },
    /// The journal was intact, and its cursor is still below the given one: nothing was changed.
    CursorNotReached { before: BlockRef },
}

/// The contracts of a chain that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadContracts {
    /// It names the requests of all.
    pub first: Address,
    /// Those that are read beside it, each with a cursor of its own.
    pub beside: Vec<Address>,
}

/// Builds the journal of `identity` with this cursor of each contract. An intact journal keeps its contents; only its cursor
/// moves back. Fails if a process has the journal open. Blocking.
pub fn rebuild(
    dir: &Path,
    identity: Identity,
    contracts: &ReadContracts,
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
                let way = move_cursors_back(&mut connection, contracts, cursor);
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
    let first = contracts.first;
    let found = aside.as_deref().map(|aside| salvage::salvage(aside, identity, first));
    let found = found.unwrap_or_default();
    create_journal(&path, identity, |connection| {
        fill(connection, identity.chain_id, contracts, cursor, &found)
    })?;
    Ok(rebuilt(match aside {
        None => RebuildKind::Anew,
        Some(aside) => RebuildKind::Salvaged {
            requests: found.requests.len(),
            transactions: found.transactions.len(),
            generation: found.generation,
            at_most: salvage::first_block(&aside, first),
            aside,
        },
    }))
}

/// Writes the cursors and the salvaged rows.
fn fill(
    connection: &mut Connection,
    chain_id: u64,
    contracts: &ReadContracts,
    cursor: BlockRef,
    found: &salvage::Salvage,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now_ms = clock::unix_millis();
    let source = RequestSource { chain_id, contract: contracts.first };
    let tables = Tables { transaction: &transaction, of: SourceColumn::of(source, chain_id) };
    let batch =
        Batch { arrivals: found.requests.clone(), cursor: Some(cursor), ..Batch::default() };
    tables.arrive(&batch, now_ms)?;
    for signed in &found.transactions {
        tables.sign(signed, now_ms)?;
    }
    if let Some(generation) = found.generation {
        tables.note_generation(generation, cursor.number)?;
    }
    for contract in &contracts.beside {
        stand_beside(&transaction, *contract, contracts.first)?;
        set_cursor(&transaction, *contract, cursor)?;
    }
    transaction.commit()
}

/// Moves the cursors of an intact journal back to `cursor`. One that is below it stays, and tells nothing of the
/// others. A contract beside that was never read is read from where the first one is.
fn move_cursors_back(
    connection: &mut Connection,
    contracts: &ReadContracts,
    cursor: BlockRef,
) -> rusqlite::Result<RebuildKind> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let read = |contract| Rows { db: &transaction, of: SourceColumn::home(contract) }.cursor();
    let first = read(contracts.first)?;
    let is_passed = |before: Option<BlockRef>| before.is_none_or(|at| at.number >= cursor.number);
    let mut moved = Vec::new();
    if is_passed(first) {
        moved.push(contracts.first);
    }
    let mut highest = first;
    for contract in &contracts.beside {
        let before = read(*contract)?;
        if before.map_or_else(|| is_passed(first), |_| is_passed(before)) {
            moved.push(*contract);
        }
        highest = [highest, before].into_iter().flatten().max_by_key(|block| block.number);
    }
    if let (true, Some(before)) = (moved.is_empty(), highest) {
        return Ok(RebuildKind::CursorNotReached { before });
    }
    for contract in moved {
        if contract != contracts.first {
            stand_beside(&transaction, contract, contracts.first)?;
        }
        set_cursor(&transaction, contract, cursor)?;
    }
    transaction.commit()?;
    Ok(RebuildKind::CursorMovedBack { before: highest })
}

fn set_cursor(
    transaction: &Transaction<'_>,
    contract: Address,
    cursor: BlockRef,
) -> rusqlite::Result<()> {
    let (of, number) = (SourceColumn::home(contract), Number(cursor.number));
    let moved_at = Number(clock::unix_millis());
    transaction.execute(
        sql::SET_CURSOR,
        params![of, number, Fixed(cursor.hash), moved_at, None::<Number>],
    )?;
    transaction.execute(sql::BEGIN_EARLIER, params![of, number])?;
    Ok(())
}

/// Its cursor does not tell which contract the journal is of.
fn stand_beside(
    transaction: &Transaction<'_>,
    contract: Address,
    first: Address,
) -> rusqlite::Result<()> {
    let both = params![SourceColumn::home(contract), SourceColumn::home(first)];
    transaction.execute(sql::PUT_BESIDE, both).map(drop)
}
