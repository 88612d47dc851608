//! Recovers what a damaged journal still proves. Reads a file that was set aside; never writes to it.
//!
//! Nothing is believed because the file says it. A signed transaction proves itself: its bytes hash to its
//! hash and carry the wallet's signature over its nonce and calldata. A request proves itself: its event
//! hashes to its key, or to the one that earlier versions gave it. Stages, answers and outcomes prove nothing and are not recovered: the Core and the
//! contract are asked again.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    time::Duration,
};

use alloy::{
    consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable},
    eips::Decodable2718,
    primitives::keccak256,
};
use rusqlite::{Connection, Row, params};

use super::{
    columns::{Number, SourceColumn, key_from_columns},
    reader::{read_event, read_transaction},
    schema, statements as sql,
};
use crate::{
    chain::lane::SignedTransaction,
    contracts::abi,
    domain::{Address, Generation, RequestKey, RequestSource},
    flow::ledger::{Arrival, Sighting},
    journal::Identity,
};

/// What could be recovered.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// Signed and not known to be mined, oldest first.
    pub transactions: Vec<SignedTransaction>,
    /// Without an outcome, oldest first.
    pub requests: Vec<Arrival>,
    /// What has stood at the contract's address. It proves nothing either; but a wrong one has requests held, and
    /// none at all may have them asked unchecked.
    pub generation: Option<Generation>,
}

/// Recovers the rows of the damaged `file` that prove themselves.
pub(super) fn salvage(file: &Path, identity: Identity, contract: Address) -> Salvage {
    let Ok(connection) = open(file) else { return Salvage::default() };
    let source = RequestSource { chain_id: identity.chain_id, contract };
    let mined: BTreeSet<u64> = rows(&connection, sql::salvage::MINED, contract, |row| {
        row.get::<_, Number>(0).map(|nonce| nonce.0)
    })
    .into_iter()
    .collect();
    let mut hashes = BTreeSet::new();
    let signed = match connection.prepare(sql::salvage::TRANSACTIONS) {
        Ok(_) => sql::salvage::TRANSACTIONS,
        Err(_) => sql::salvage::TRANSACTIONS_V1,
    };
    let mut transactions = rows(&connection, signed, contract, |row| {
        Ok((row.get::<_, i64>(5)?, read_transaction(row, identity.chain_id)?))
    });
    transactions.retain(|(_, transaction)| {
        !mined.contains(&transaction.nonce)
            && proves_itself(transaction, identity)
            && hashes.insert(transaction.hash)
    });
    transactions.sort_by_key(|(seq, _)| *seq);
    let mut keys = BTreeSet::new();
    let mut requests = rows(&connection, sql::salvage::REQUESTS, contract, |row| {
        Ok((
            row.get::<_, i64>(0)?,
            key_from_columns(source, row.get(1)?, row.get(2)?),
            read_event(row, 3)?,
        ))
    });
    requests.sort_by_key(|(seq, ..)| *seq);
    let mut renewed = HashMap::new();
    let requests = requests.into_iter().filter_map(|(_, stored, event)| {
        let (stored, request) = (stored?, abi::decode(source, &event).ok()?);
        let key = request.key;
        if stored != key {
            let early = abi::early_content(&event).map(|content| RequestKey { content, ..key });
            if early != Some(stored) {
                return None;
            }
            renewed.insert(stored, key);
        }
        let (kind, seen) = (request.kind(), Sighting::Found);
        keys.insert(key).then_some(Arrival { key, kind, event, seen })
    });
    let requests = requests.collect();
    let transactions = transactions.into_iter().map(|(_, transaction)| {
        let request = transaction.request.map(|key| *renewed.get(&key).unwrap_or(&key));
        SignedTransaction { request, ..transaction }
    });
    let generations = rows(&connection, sql::salvage::GENERATIONS, contract, |row| {
        row.get::<_, String>(0).map(|name| Generation::from_name(&name))
    });
    let generation = generations.into_iter().flatten().max();
    Salvage { requests, transactions: transactions.collect(), generation }
}

/// The first block that must be read again, as far as the damaged `file` can be read: the block of its oldest
/// unanswered request, or the block after the lowest cursor of this contract and those beside it.
pub(super) fn first_block(file: &Path, contract: Address) -> Option<u64> {
    let connection = open(file).ok()?;
    let number = |statement| -> rusqlite::Result<Option<Number>> {
        connection.query_row(statement, params![SourceColumn::home(contract)], |row| row.get(0))
    };
    let lowest = match connection.prepare(sql::salvage::LOWEST_CURSOR) {
        Ok(_) => sql::salvage::LOWEST_CURSOR,
        Err(_) => sql::SELECT_CURSOR,
    };
    let cursor = number(lowest).ok()??;
    let oldest = number(sql::OLDEST_UNFINISHED).ok()?;
    let next = cursor.0.saturating_add(1);
    Some(oldest.map_or(next, |oldest| oldest.0.min(next)))
}

fn open(file: &Path) -> rusqlite::Result<Connection> {
    schema::connect_read_only(file, Duration::ZERO)
}

/// All rows that can be read: forwards up to the first damage, then backwards from the end.
fn rows<T>(
    connection: &Connection,
    statement: &str,
    contract: Address,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for order in ["ASC", "DESC"] {
        let Ok(mut statement) = connection.prepare(&format!("{statement} {order}")) else {
            continue;
        };
        let wants = statement.parameter_count();
        let all = params![SourceColumn::home(contract)];
        let Ok(mut rows) = statement.query(if wants == 0 { &[] } else { all }) else { continue };
        let whole = loop {
            match rows.next() {
                // Skip a row that makes no sense: later rows may be readable.
                Ok(Some(row)) => found.extend(read(row).ok()),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if whole {
            break;
        }
    }
    found
}

/// Returns whether the wallet signed these bytes, for this nonce and this request.
fn proves_itself(transaction: &SignedTransaction, identity: Identity) -> bool {
    if keccak256(&transaction.raw) != transaction.hash {
        return false;
    }
    let Ok(decoded) = TxEnvelope::decode_2718(&mut transaction.raw.as_ref()) else { return false };
    let is_signed = decoded.recover_signer().is_ok_and(|signer| signer == identity.wallet);
    // The calldata of an answer is a selector, then the request's id. With another id it would settle another
    // request.
    let answers = transaction.request.is_none_or(|request| {
        decoded.input().get(4..36).is_some_and(|id| id == request.id.to_be_bytes::<32>())
    });
    is_signed
        && answers
        && decoded.nonce() == transaction.nonce
        && decoded.chain_id() == Some(identity.chain_id)
}
