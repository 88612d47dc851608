//! The tables, their versions, and the settings of each connection.
//!
//! `PRAGMA user_version` counts the migrations that a file has seen. Migrations only go forward; a file of a
//! newer version is refused. A new name in a name column (a kind, an outcome) that an older program could not
//! read needs a new version too, even if no table changes.
//!
//! Layout: `requests` contains the columns that change and that scans read. The immutable event and the
//! answer's bytes have tables of their own under the same `seq`. So a step rewrites a few hundred bytes, and
//! scans do not read blobs. `seq` grows in the order of arrival.

use std::{fs, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::contents;

/// "KMSJ": identifies our files among other databases (`file`, `PRAGMA application_id`).
pub(super) const APPLICATION_ID: i32 = 0x4b4d_534a;

/// One entry per schema version, oldest first. Released entries never change.
pub(super) const MIGRATIONS: &[&str] =
    &[V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12, V13, V14];

/// The generation that is known to have stood at a contract's address, and the block in which it did.
const V14: &str = "
CREATE TABLE generations (
    contract BLOB PRIMARY KEY,
    generation TEXT NOT NULL,
    block INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";
/// Its number.
pub(super) const KNOWS_GENERATIONS: i64 = 14;

/// The kind of key that a preparation is made for. Older versions cannot read the outcomes of key operations that
/// get no answer, nor all of their kinds.
const V13: &str = "
CREATE TABLE representations (
    seq INTEGER PRIMARY KEY,
    representation TEXT NOT NULL,
    chosen_at INTEGER NOT NULL
) STRICT;
";
/// Its number.
pub(super) const KNOWS_REPRESENTATIONS: i64 = 13;

/// Which contracts stood at an address: a row for each change.
const V12: &str = "
CREATE TABLE deployments (
    seq INTEGER PRIMARY KEY,
    contract BLOB NOT NULL,
    seen_at INTEGER NOT NULL,
    deployment TEXT NOT NULL
) STRICT;
";

/// `beside`: contracts with a cursor of their own whose requests are named by the Decryption contract that
/// they stand beside. `approvals`: who approved a request, and when. Older versions cannot read the kinds of
/// key operations.
const V11: &str = "
CREATE TABLE beside (
    contract BLOB PRIMARY KEY,
    decryption BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE approvals (
    seq INTEGER PRIMARY KEY,
    approved_by TEXT NOT NULL,
    approved_at INTEGER NOT NULL
) STRICT;
";
/// Its number.
pub(super) const KNOWS_BESIDE: i64 = 11;

/// A request is identified by what it asks for, no more by the bytes of its event: [`contents::renew`] does
/// that beside the SQL.
const V10: &str = "";
/// Its number.
pub(super) const RENEWED_CONTENTS: i64 = 10;

/// The Core that was asked last, as host and port; and the last access check of a request: in lines what was
/// asked of whom, and the KMS context that was current when a request was made that names none. No released
/// program knows this version yet: until one does, what a request needs is added here and not in a version
/// of its own.
const V9: &str = "
ALTER TABLE requests ADD COLUMN asked_core TEXT;
CREATE TABLE access (
    seq INTEGER PRIMARY KEY,
    bound_context BLOB,
    record TEXT NOT NULL
) STRICT;
";

/// A wallet has nonces on each chain. Before, there was one chain only.
const V8: &str = "
ALTER TABLE transactions ADD COLUMN chain INTEGER NOT NULL DEFAULT 0;
UPDATE transactions SET chain = coalesce((SELECT chain_id FROM identity), 0);
DROP INDEX transactions_by_nonce;
DROP INDEX transactions_open;
CREATE INDEX transactions_by_nonce ON transactions (chain, nonce, mined_block_number);
CREATE INDEX transactions_open ON transactions (chain, nonce)
    WHERE mined_block_number IS NULL AND given_up IS NULL;
";

/// `unproven`, `read_twice`: blocks up to the cursor whose logs no node could prove, and the block up to
/// which all were read twice. `seen_ids`: the known ids of requests; a gap is a request that a node hides.
/// `forgotten`: the block up to which answers may have been given that this journal does not know: before it
/// began, and before it was found to lack some.
const V7: &str = "
ALTER TABLE cursors ADD COLUMN read_twice INTEGER;
CREATE TABLE unproven (
    contract BLOB NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    hash BLOB,
    since INTEGER NOT NULL,
    PRIMARY KEY (contract, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE seen_ids (
    contract BLOB NOT NULL,
    counter INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    first_block INTEGER NOT NULL,
    last_block INTEGER NOT NULL,
    PRIMARY KEY (contract, counter, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE forgotten (
    contract BLOB PRIMARY KEY,
    up_to INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO forgotten SELECT contract, begun_after FROM cursors;
CREATE INDEX skipped_by_age ON skipped_logs (skipped_at);
";

/// Transactions are found by nonce and hash. An index by hash alone is rewritten all over at every commit,
/// and costs more the larger it is.
const V6: &str = "
CREATE TABLE moved (
    seq INTEGER PRIMARY KEY,
    nonce INTEGER NOT NULL,
    hash BLOB NOT NULL,
    contract BLOB NOT NULL,
    request_id BLOB,
    request_content BLOB,
    signed_at INTEGER NOT NULL,
    mined_at INTEGER,
    mined_block_number INTEGER,
    mined_block_hash BLOB,
    given_up TEXT,
    raw BLOB NOT NULL,
    UNIQUE (nonce, hash)
) STRICT;
INSERT INTO moved SELECT seq, nonce, hash, contract, request_id, request_content, signed_at, mined_at,
    mined_block_number, mined_block_hash, given_up, raw FROM transactions;
DROP TABLE transactions;
ALTER TABLE moved RENAME TO transactions;
CREATE INDEX transactions_by_nonce ON transactions (nonce, mined_block_number);
CREATE INDEX transactions_open ON transactions (nonce)
    WHERE mined_block_number IS NULL AND given_up IS NULL;
CREATE INDEX transactions_by_request ON transactions (request_id, request_content)
    WHERE request_id IS NOT NULL;
CREATE INDEX transactions_by_age ON transactions (signed_at);
";

/// No table changes: `observed` is an outcome that older versions cannot read.
const V5: &str = "";

/// Why a transaction will not be mined. Such a transaction is not followed any more.
const V4: &str = "
ALTER TABLE transactions ADD COLUMN given_up TEXT;
DROP INDEX transactions_open;
CREATE INDEX transactions_open ON transactions (nonce)
    WHERE mined_block_number IS NULL AND given_up IS NULL;
";

/// The instance that keeps the journal: at most one row.
const V3: &str = "
CREATE TABLE keeper (
    name TEXT NOT NULL,
    kept_at INTEGER NOT NULL
) STRICT;
";

/// Time that counts towards a request's expiry, in milliseconds.
const V2: &str = "ALTER TABLE requests ADD COLUMN worked INTEGER NOT NULL DEFAULT 0;";

const V1: &str = "
CREATE TABLE identity (
    chain_id INTEGER NOT NULL,
    genesis BLOB NOT NULL,
    wallet BLOB NOT NULL
) STRICT;

CREATE TABLE cursors (
    contract BLOB PRIMARY KEY,
    begun_after INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hash BLOB NOT NULL,
    moved_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    seq INTEGER PRIMARY KEY,
    contract BLOB NOT NULL,
    id BLOB NOT NULL,
    content BLOB NOT NULL,
    kind TEXT NOT NULL,
    stage TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    hold_reason TEXT,
    hold_detail TEXT,
    held_since INTEGER,
    submitted_transaction BLOB,
    arrived_at INTEGER NOT NULL,
    asked_at INTEGER,
    answered_at INTEGER,
    submitted_at INTEGER,
    settled_at INTEGER,
    outcome TEXT,
    refusal TEXT,
    outcome_detail TEXT,
    outcome_transaction BLOB,
    outcome_block_number INTEGER,
    outcome_block_hash BLOB
) STRICT;
CREATE UNIQUE INDEX requests_by_key ON requests (contract, id, content);
CREATE INDEX requests_unfinished ON requests (contract, seq) WHERE outcome IS NULL;
CREATE INDEX requests_held ON requests (contract, seq) WHERE hold_reason IS NOT NULL;
CREATE INDEX requests_settled ON requests (settled_at, contract, outcome) WHERE outcome IS NOT NULL;

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    block_number INTEGER NOT NULL,
    block_hash BLOB NOT NULL,
    transaction_hash BLOB NOT NULL,
    log_index INTEGER NOT NULL,
    topics BLOB NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE answers (
    seq INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    signature BLOB NOT NULL,
    extra_data BLOB NOT NULL
) STRICT;

CREATE TABLE transactions (
    seq INTEGER PRIMARY KEY,
    nonce INTEGER NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    contract BLOB NOT NULL,
    request_id BLOB,
    request_content BLOB,
    signed_at INTEGER NOT NULL,
    mined_at INTEGER,
    mined_block_number INTEGER,
    mined_block_hash BLOB,
    raw BLOB NOT NULL
) STRICT;
CREATE INDEX transactions_by_nonce ON transactions (nonce, mined_block_number);
CREATE INDEX transactions_open ON transactions (nonce) WHERE mined_block_number IS NULL;
CREATE INDEX transactions_by_request ON transactions (request_id, request_content)
    WHERE request_id IS NOT NULL;
CREATE INDEX transactions_by_age ON transactions (signed_at);

CREATE TABLE skipped_logs (
    seq INTEGER PRIMARY KEY,
    contract BLOB NOT NULL,
    reason TEXT NOT NULL,
    skipped_at INTEGER NOT NULL,
    block_number INTEGER NOT NULL,
    block_hash BLOB NOT NULL,
    transaction_hash BLOB NOT NULL,
    log_index INTEGER NOT NULL,
    topics BLOB NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (contract, block_hash, log_index)
) STRICT;
";

/// How long a write waits for an operator's `sqlite3` that has the file locked.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What `PRAGMA user_version` and `application_id` tell about a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// One of our files, not newer than this program: the number of migrations it has seen.
    Known(usize),
    /// A database without tables. A journal never is one under its final name: it gets its tables before that
    /// name.
    Empty,
    /// Written by a newer program: its version.
    Newer(i64),
    /// A database of another program.
    NotOurs,
}

/// The writing connection to a new, empty file. Never used under the final name: after a crash, a journal in
/// the making could not be told from one that lost its contents.
pub(super) fn connect_new(path: &Path) -> rusqlite::Result<Connection> {
    set_up_writer(Connection::open_with_flags(path, READ_WRITE)?)
}

/// The writing connection. There is one.
pub(super) fn connect_writer(path: &Path) -> rusqlite::Result<Connection> {
    set_up_writer(connect(path, READ_WRITE)?)
}

fn set_up_writer(connection: Connection) -> rusqlite::Result<Connection> {
    set_up(&connection)?;
    // FULL: every commit is on disk (fsync of the WAL) before it counts.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -1536)?; // KiB
    connection.pragma_update(None, "wal_autocheckpoint", 1000)?; // pages: about 4 MiB
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?; // after a burst
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Commits count without an fsync: for a simulated machine that never fails as a whole.
pub(super) fn never_sync(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "OFF")
}

/// The reading connection. Opened read-write with `query_only`, so that whichever connection closes last can
/// checkpoint the WAL.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, READ_WRITE)?;
    set_up(&connection)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -512)?; // KiB
    Ok(connection)
}

/// A read-only connection for inspection, which waits for a writer up to `patience`.
pub(super) fn connect_read_only(path: &Path, patience: Duration) -> rusqlite::Result<Connection> {
    let connection = connect(path, READ_ONLY)?;
    connection.busy_timeout(patience)?;
    Ok(connection)
}

// NO_MUTEX: one thread at a time owns a connection. No CREATE: files are created elsewhere, with their mode.
const READ_WRITE: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);
const READ_ONLY: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_ONLY.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// Opens a file that has contents. `SQLite` takes an empty file for a new database, even read-only, and
/// removes the log beside it, which may be all that is left of a journal that somebody emptied. A pipe is
/// refused, because opening one would block.
fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(no_file()),
        Ok(found) if found.len() == 0 => Err(emptied()),
        Ok(_) | Err(_) => Connection::open_with_flags(path, flags),
    }
}

fn no_file() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    rusqlite::Error::SqliteFailure(code, Some("it is no regular file".to_owned()))
}

fn emptied() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
    rusqlite::Error::SqliteFailure(code, Some(EMPTIED.to_owned()))
}

/// The damage reported for a file without contents.
pub(super) const EMPTIED: &str = "it is empty: its content is lost";

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Reads the version without changing the file.
pub(super) fn version(connection: &Connection, known: &[&str]) -> rusqlite::Result<Version> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == i64::from(APPLICATION_ID) {
        let seen = usize::try_from(version).ok().filter(|seen| *seen <= known.len());
        return Ok(seen.map_or(Version::Newer(version), Version::Known));
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = application == 0 && version == 0 && tables == 0;
    Ok(if empty { Version::Empty } else { Version::NotOurs })
}

/// Returns whether this is one of our files, of a version that records its keeper. A file without contents is
/// an error, because it may have been one.
pub(super) fn has_keepers(connection: &Connection) -> rusqlite::Result<bool> {
    if version(connection, MIGRATIONS)? == Version::Empty {
        return Err(emptied());
    }
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(pragma("application_id")? == i64::from(APPLICATION_ID) && pragma("user_version")? >= 3)
}

/// Switches to WAL and applies the missing migrations, all or none.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        // One fsync per commit, and readers beside the writer, depend on WAL.
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!("the filesystem cannot hold a write-ahead log (mode is {mode})")),
        ));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seen: usize = transaction.pragma_query_value(None, "user_version", |row| {
        row.get::<_, i64>(0).map(|version| usize::try_from(version).unwrap_or(usize::MAX))
    })?;
    for (version, migration) in (1_i64..).zip(migrations).skip(seen) {
        transaction.execute_batch(migration)?;
        if version == RENEWED_CONTENTS {
            contents::renew(&transaction)?;
        }
    }
    if seen < migrations.len() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(
            None,
            "user_version",
            i64::try_from(migrations.len()).unwrap_or(i64::MAX),
        )?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path) -> rusqlite::Result<Connection> {
        fs::File::create(path).unwrap();
        connect_new(path)
    }

    /// Field failure T49.
    #[test]
    fn a_file_of_an_older_version_moves_forward_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.sqlite3");
        let add = "ALTER TABLE requests ADD COLUMN note TEXT;";
        migrate(&mut create(&path).unwrap(), &[V1]).unwrap();
        for _ in 0..2 {
            let mut connection = connect_writer(&path).unwrap();
            let Version::Known(_) = version(&connection, &[V1, add]).unwrap() else { panic!() };
            migrate(&mut connection, &[V1, add]).unwrap();
            connection.prepare("SELECT note FROM requests").unwrap();
        }
        let connection = connect_writer(&path).unwrap();
        assert_eq!(version(&connection, &[V1]).unwrap(), Version::Newer(2));
    }

    #[test]
    fn transactions_of_version_5_are_all_there_in_version_6() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.sqlite3");
        let mut connection = create(&path).unwrap();
        migrate(&mut connection, &MIGRATIONS[..5]).unwrap();
        let rows = "
            (3, 7, x'01', x'dc', x'0a', x'0b', 100, NULL, NULL, NULL, x'f1', 'displaced'),
            (5, 7, x'02', x'dc', NULL, NULL, 110, 120, 9, x'99', x'f2', NULL),
            (6, 8, x'03', x'dc', x'0c', x'0d', 130, NULL, NULL, NULL, x'f3', NULL)";
        let columns = "seq, nonce, hash, contract, request_id, request_content, signed_at, \
                       mined_at, mined_block_number, mined_block_hash, raw, given_up";
        let insert = format!("INSERT INTO transactions ({columns}) VALUES {rows}");
        connection.execute_batch(&insert).unwrap();
        let read = |connection: &Connection| -> Vec<String> {
            let row = columns.replace(", ", ") || ' ' || quote(");
            let all = format!("SELECT quote({row}) FROM transactions ORDER BY seq");
            let mut statement = connection.prepare(&all).unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<rusqlite::Result<_>>().unwrap()
        };
        let before = read(&connection);
        assert_eq!(before.len(), 3);
        migrate(&mut connection, MIGRATIONS).unwrap();
        assert_eq!(read(&connection), before);
        // Both schemas refuse a duplicate.
        connection.execute_batch(&insert.replace("(3, ", "(13, ")).unwrap_err();
        assert_eq!(read(&connection), before);
    }

    /// Field failure T49.
    #[test]
    fn a_failing_migration_leaves_the_old_version_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.sqlite3");
        let broken = "CREATE TABLE half (a); CREATE TABLE half (a);";
        let mut connection = create(&path).unwrap();
        migrate(&mut connection, &[V1]).unwrap();
        migrate(&mut connection, &[V1, broken]).unwrap_err();
        assert_eq!(version(&connection, &[V1]).unwrap(), Version::Known(1));
        connection.prepare("SELECT a FROM half").unwrap_err();
    }

    #[test]
    fn every_scan_uses_its_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.sqlite3");
        let mut connection = create(&path).unwrap();
        migrate(&mut connection, MIGRATIONS).unwrap();
        for (sql, index) in super::super::statements::SCANS {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines: Vec<String> =
                plan.raw_query().mapped(|row| row.get(3)).collect::<rusqlite::Result<_>>().unwrap();
            let text = lines.join("; ");
            assert!(text.contains(index), "{sql}\n{text}");
            assert!(!text.contains("USE TEMP B-TREE"), "{sql}\n{text}");
        }
    }

    #[test]
    fn the_documented_query_fits_the_tables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("readme.sqlite3");
        let mut connection = create(&path).unwrap();
        migrate(&mut connection, MIGRATIONS).unwrap();
        let readme = include_str!("../../../config/troubleshooting.md");
        let after = readme.split("sqlite3 -readonly \"$journal\" \"").nth(1).unwrap();
        connection.prepare(after.split('"').next().unwrap()).unwrap();
    }
}
