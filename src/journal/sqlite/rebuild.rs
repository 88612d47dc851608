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
    aside::interrupted,
    begin::make,
    names,
    open::open_file,
    reader,
    record::{Fixed, Number, Origin},
    salvage, statements as sql,
    tables::Tables,
    tenure::Tenure,
};
use crate::{
    clock,
    domain::{Address, BlockRef, Source},
    flow::ledger::Batch,
    journal::{Identity, OpenError},
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
    let tenure = Tenure::acquire(dir, identity)?;
    let path = tenure.path.clone();
    let io = |doing| OpenError::io(&path, doing);
    let rebuilt = |way| Rebuilt { path: path.clone(), cursor, way };
    let is_there = path.try_exists().map_err(io("looking for it"))?;
    let aside = if is_there {
        match open_file(&Machine::default(), dir, identity, &path) {
            Ok((mut connection, _)) => {
                let way = go_back(&mut connection, contract, cursor);
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
    let source = Source { chain_id: identity.chain_id, contract };
    make(&path, identity, |connection| fill(connection, source, cursor, &found))?;
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

/// Writes the cursor and what was salvaged.
fn fill(
    connection: &mut Connection,
    Source { chain_id: chain, contract }: Source,
    cursor: BlockRef,
    found: &salvage::Salvage,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now_ms = clock::unix_millis();
    let contract = Origin::home(contract);
    let tables = Tables { transaction: &transaction, chain, contract };
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
    let before = reader::cursor(&transaction, Origin::home(contract))?;
    if let Some(before) = before.filter(|before| before.number < cursor.number) {
        return Ok(Way::NotThere { before });
    }
    let (number, now) = (Number(cursor.number), Number(clock::unix_millis()));
    transaction.execute(
        sql::SET_CURSOR,
        params![Origin::home(contract), number, Fixed(cursor.hash), now, None::<Number>],
    )?;
    transaction.execute(sql::BEGIN_EARLIER, params![Origin::home(contract), number])?;
    transaction.commit()?;
    Ok(Way::ReadAgain { before })
}
