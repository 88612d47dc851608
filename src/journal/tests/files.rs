//! The files: their names and owners, and the errors for unusable ones.

use super::*;

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_journal() {
    let dir = TempDir::new().unwrap();
    let first = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let error = Journal::open(dir.path(), identity(), CONTRACT).unwrap_err();
    let OpenError::Locked { path, pid } = &error else { panic!("{error}") };
    assert_eq!(path, first.0.path());
    assert_eq!(*pid, Some(std::process::id()));
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())));
    drop(first);
    let (journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    drop(writer);
    // A handle that outlives its writer holds no lock, and reports why it fails.
    let error = journal.store_batch(batch([1], None)).await.unwrap_err();
    assert!(error.to_string().contains("is closed"), "{error}");
    assert!(matches!(journal.ask(Query::Cursor).await, Err(JournalError::Closed { .. })));
    let running = Running::open(dir.path());
    running.close().await.unwrap();
    Journal::open(dir.path(), identity(), CONTRACT).unwrap();
}

#[test]
fn files_are_private_and_readable_by_name() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("a/state");
    let (journal, _writer) = Journal::open(&state, identity(), CONTRACT).unwrap();
    let name = "31337-9e9e9e9e9e9e9e9e-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    assert_eq!(journal.path(), state.join(format!("{name}.sqlite3")));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&dir.path().join("a")), 0o700);
    for ending in ["sqlite3", "sqlite3-wal", "sqlite3-shm", "lock"] {
        assert_eq!(mode(&state.join(format!("{name}.{ending}"))), 0o600, "{ending}");
    }
}

#[test]
fn b12_a_journal_that_is_a_link_or_has_linked_files_is_not_written_through() {
    for ending in [".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ".lock"] {
        let dir = TempDir::new().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "").unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let name = state.join(identity().file_stem() + ending);
        std::os::unix::fs::symlink(&precious, name).unwrap();
        let error = Journal::open(&state, identity(), CONTRACT).unwrap_err();
        assert!(error.is_transient(), "{ending}: {error}");
        assert_eq!(fs::read(&precious).unwrap(), b"", "{ending}");
    }
    // Also in an existing directory.
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("state");
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
    Journal::open(&link, identity(), CONTRACT).unwrap();
}

/// The log that the crash tests cut shows what was written, not what was synced: that depends on this
/// setting.
#[test]
fn commits_are_synced() {
    let dir = TempDir::new().unwrap();
    let (_journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let pragma = |name| -> String {
        let value = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
        format!("{:?}", writer.store().connection().pragma_query_value(None, name, value).unwrap())
    };
    assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
}

#[tokio::test]
async fn an_operator_reads_while_we_write() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch([1], None)).await.unwrap();
    let operator = Connection::open(journal.path()).unwrap();
    let count = || -> i64 {
        let sql = "SELECT count(*) FROM requests WHERE stage = 'arrived'";
        operator.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    operator.execute_batch("BEGIN").unwrap();
    assert_eq!(count(), 1);
    journal.store_batch(batch([2], None)).await.unwrap();
    assert_eq!(count(), 1, "a snapshot");
    operator.execute_batch("COMMIT").unwrap();
    assert_eq!(count(), 2);
    journal.close().await.unwrap();
}

#[test]
fn a_reset_chain_is_said_and_its_journal_left_alone() {
    let dir = TempDir::new().unwrap();
    let (old, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    assert!(old.warnings().is_empty());
    let reset = Identity { genesis: B256::repeat_byte(0x11), ..identity() };
    let (new, _writer) = Journal::open(dir.path(), reset, CONTRACT).unwrap();
    let older = old.path().to_owned();
    assert_eq!(new.warnings(), [OpenWarning::ChainReset { older: older.clone() }]);
    assert!(new.warnings()[0].to_string().contains(older.to_str().unwrap()));
    for unrelated in [
        Identity { wallet: Address::repeat_byte(1), ..identity() },
        Identity { chain_id: 1, ..identity() },
        Identity { chain_id: 3133, ..identity() },
    ] {
        let (journal, _writer) = Journal::open(dir.path(), unrelated, CONTRACT).unwrap();
        assert!(journal.warnings().is_empty(), "{unrelated:?}");
    }
    drop(writer);
}

#[tokio::test]
async fn requests_of_another_contract_that_stay_behind_are_said() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    running.journal.store_batch(batch([1, 2, 3], Some(5))).await.unwrap();
    running.journal.note(key(3), Step::Settled(Outcome::Expired)).await.unwrap();
    running.close().await.unwrap();
    let other = Address::repeat_byte(0x77);
    let (journal, writer) = Journal::open(dir.path(), identity(), other).unwrap();
    assert_eq!(journal.warnings(), [OpenWarning::OtherContracts { requests: 2 }]);
    let content = inspect(dir.path(), identity(), other).unwrap().content.unwrap();
    assert_eq!((content.elsewhere, content.counts.unfinished.len()), (2, 0));
    drop((journal, writer));
    assert!(Running::open(dir.path()).journal.warnings().is_empty(), "they are in hand again");
}

#[test]
fn files_that_are_not_this_journal_are_refused_with_advice() {
    let path =
        |dir: &TempDir, identity: Identity| dir.path().join(identity.file_stem() + ".sqlite3");
    let open = |dir: &TempDir| Journal::open(dir.path(), identity(), CONTRACT).unwrap_err();

    let dir = TempDir::new().unwrap();
    drop(Journal::open(dir.path(), identity(), CONTRACT).unwrap());
    Connection::open(path(&dir, identity()))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = open(&dir);
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");

    let dir = TempDir::new().unwrap();
    Connection::open(path(&dir, identity())).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let error = open(&dir);
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");

    let dir = TempDir::new().unwrap();
    let other = Identity { wallet: Address::repeat_byte(1), ..identity() };
    drop(Journal::open(dir.path(), other, CONTRACT).unwrap());
    fs::rename(path(&dir, other), path(&dir, identity())).unwrap();
    let error = open(&dir);
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
    assert!(error.to_string().contains(&other.wallet.to_string()), "{error}");

    let dir = TempDir::new().unwrap();
    fs::write(path(&dir, identity()), vec![0x42; 9000]).unwrap();
    let error = open(&dir);
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(path(&dir, identity()).to_str().unwrap()), "{error}");

    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("state"), "a file").unwrap();
    let error = Journal::open(&dir.path().join("state"), identity(), CONTRACT).unwrap_err();
    assert!(matches!(error, OpenError::Store { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_page_is_found_when_opening() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch(0..400, Some(1))).await.unwrap();
    let path = journal.path().to_owned();
    journal.close().await.unwrap();
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    let mut found = 0;
    for page in 1..pages {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xee);
        fs::write(&path, damaged).unwrap();
        match Journal::open(dir.path(), identity(), CONTRACT) {
            Err(OpenError::Corrupt { path: named, .. }) if named == path => found += 1,
            Err(error) => panic!("page {page}: {error}"),
            Ok(_) => {}
        }
    }
    assert_eq!(found, pages - 1, "every page but the first, which holds the header");
}
