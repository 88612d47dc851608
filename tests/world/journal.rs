//! The journal as an operator reads it: with plain SQL, while the connector writes; and as an earlier
//! version left it. The one place of the test world that names its columns.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::{Address, B256, U256};
use rusqlite::{Connection, OpenFlags, Row, params, types::FromSqlError};

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

/// The journal of `wallet` of this chain there, once there is one.
pub fn of_chain(state_dir: &Path, chain_id: u64, wallet: Address) -> Option<PathBuf> {
    let (beginning, ending) = (format!("{chain_id}-"), format!("-{wallet:x}"));
    files(state_dir).find(|path| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        stem.is_some_and(|stem| stem.starts_with(&beginning) && stem.ends_with(&ending))
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

/// Sequence number and bytes of every recorded transaction, in the order in which they were signed.
pub fn signed(file: &Path) -> Result<Vec<(i64, Vec<u8>)>> {
    query(file, "SELECT seq, raw FROM transactions ORDER BY seq", |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Puts other bytes into the row of a recorded transaction: nonce, hash, and the bytes.
pub fn sign_instead(file: &Path, seq: i64, (nonce, hash, raw): (u64, B256, &[u8])) -> Result<()> {
    let put = || -> rusqlite::Result<usize> {
        let sql = "UPDATE transactions SET nonce = ?2, hash = ?3, raw = ?4 WHERE seq = ?1";
        let nonce = nonce.cast_signed();
        Connection::open(file)?.execute(sql, params![seq, nonce, hash.as_slice(), raw])
    };
    let put = put().map_err(|error| Error::other(format!("other bytes: {error}")))?;
    if put == 1 { Ok(()) } else { Err(Error::other("no such transaction")) }
}

/// A journal of schema version 6 as the program of that version left it, in SQL.
pub const VERSION_6: &str = include_str!("journal-version-6.sql");
/// The same of schema version 7.
pub const VERSION_7: &str = include_str!("journal-version-7.sql");
/// The same of schema version 8.
pub const VERSION_8: &str = include_str!("journal-version-8.sql");
/// The last line of each before the rows.
const ROWS: &str = "-- Its rows.";

/// Makes of the journal `file`, which nobody has open, one of schema version 6 with the same rows.
pub fn into_version_6(file: &Path) -> Result<()> {
    let old = file.with_extension("version-6");
    let copy = || -> rusqlite::Result<()> {
        // The last one who closes it leaves all in the file itself.
        Connection::open(file)?.pragma_update(None, "journal_mode", "DELETE")?;
        let connection = Connection::open(&old)?;
        connection.execute_batch(VERSION_6.split(ROWS).next().unwrap_or_default())?;
        connection.execute("ATTACH DATABASE ?1 AS now", [file.to_str()])?;
        let sql = "SELECT m.name, group_concat(c.name) FROM sqlite_master m, \
                   pragma_table_info(m.name) c WHERE m.type = 'table' GROUP BY m.name";
        let mut tables = connection.prepare(sql)?;
        let tables = tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (table, columns) in tables.collect::<rusqlite::Result<Vec<(String, String)>>>()? {
            let sql = format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM now.{table}");
            connection.execute(&sql, [])?;
        }
        Ok(())
    };
    copy().map_err(|error| Error::other(format!("an old journal: {error}")))?;
    std::fs::rename(&old, file).map_err(|error| Error::Io("an old journal".into(), error))
}
