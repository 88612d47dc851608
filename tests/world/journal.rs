//! The journal as an operator reads it: with plain SQL, while the connector writes. The one place
//! of the test world that names its columns.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::{Address, B256, U256};
use rusqlite::{Connection, OpenFlags, Row, types::FromSqlError};

use super::{Error, Result};

/// A request as the journal has it. Times are Unix milliseconds.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: U256,
    /// The block and transaction of its event.
    pub block: u64,
    pub event_transaction: B256,
    pub stage: String,
    pub attempts: u32,
    /// Why it is held, if it is: reason and detail.
    pub held: Option<(String, String)>,
    pub last_error: Option<String>,
    pub arrived_at: i64,
    pub asked_at: Option<i64>,
    pub answered_at: Option<i64>,
    pub settled_at: Option<i64>,
    pub outcome: Option<String>,
    pub refusal: Option<String>,
    /// The transaction that brought an accepted answer.
    pub transaction: Option<B256>,
}

const ENTRIES: &str = "
SELECT id, block_number, transaction_hash, stage, attempts, hold_reason, hold_detail, last_error,
    arrived_at, asked_at, answered_at, settled_at, outcome, refusal,
    outcome_transaction
FROM requests JOIN events USING (seq) ORDER BY seq";

/// The journal's file in the state directory of one instance, once there is one.
pub fn file(state_dir: &Path) -> Option<PathBuf> {
    files(state_dir).next()
}

/// The journal of `wallet` in the state directory of several instances, once there is one.
pub fn of(state_dir: &Path, wallet: Address) -> Option<PathBuf> {
    let ending = format!("-{wallet:x}");
    files(state_dir).find(|path| {
        path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with(&ending))
    })
}

fn files(state_dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(state_dir).into_iter().flatten();
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sqlite3"))
}

/// Every request in the journal `file`, in the order of arrival.
pub fn entries(file: &Path) -> Result<Vec<Entry>> {
    query(file, ENTRIES, |row| {
        let bytes = |column| -> rusqlite::Result<Option<B256>> {
            let bytes: Option<[u8; 32]> = row.get(column)?;
            Ok(bytes.map(B256::from))
        };
        let id = bytes("id")?.ok_or(FromSqlError::InvalidType)?;
        let reason: Option<String> = row.get("hold_reason")?;
        let detail: Option<String> = row.get("hold_detail")?;
        Ok(Entry {
            id: id.into(),
            block: row.get::<_, i64>("block_number")?.unsigned_abs(),
            event_transaction: bytes("transaction_hash")?.ok_or(FromSqlError::InvalidType)?,
            stage: row.get("stage")?,
            attempts: row.get("attempts")?,
            held: reason.map(|reason| (reason, detail.unwrap_or_default())),
            last_error: row.get("last_error")?,
            arrived_at: row.get("arrived_at")?,
            asked_at: row.get("asked_at")?,
            answered_at: row.get("answered_at")?,
            settled_at: row.get("settled_at")?,
            outcome: row.get("outcome")?,
            refusal: row.get("refusal")?,
            transaction: bytes("outcome_transaction")?,
        })
    })
}

/// Any query on the journal `file`, read-only.
pub fn query<T>(
    file: &Path,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let query = || {
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let mut statement = connection.prepare(sql)?;
        statement.query_map([], read)?.collect::<rusqlite::Result<Vec<T>>>()
    };
    query().map_err(|error| Error::other(format!("{sql}: {error}")))
}
