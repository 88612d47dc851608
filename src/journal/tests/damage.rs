//! Damaged, deleted, replaced and rebuilt journals.

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::Encodable2718,
    primitives::TxKind,
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolValue,
};

use super::*;
use crate::{chain::lane::GiveUpReason, contracts::abi};

fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap()
}

/// With a wallet whose key is known here.
fn own() -> Identity {
    Identity { wallet: signer().address(), ..identity() }
}

/// Another file of the journal at `path`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn shown(topic: B256, number: u64) -> Event {
    let data = (Vec::<U256>::new(), Bytes::from_static(&[0])).abi_encode_params();
    Event {
        block: block(number),
        transaction: hash(number + 1_000_000),
        log_index: 0,
        topics: vec![topic, B256::from(U256::from(number))],
        data: data.into(),
    }
}

/// A request as on chain: the content in its key is the hash of its event.
fn real(number: u64) -> Arrival {
    let topic = abi::request_topics()
        .into_iter()
        .find(|topic| {
            let event = shown(*topic, number);
            abi::decode(SOURCE, &event).is_ok()
        })
        .expect("a kind of event that this data fits");
    let event = shown(topic, number);
    let request = abi::decode(SOURCE, &event).unwrap();
    Arrival { key: request.key, kind: request.kind(), event, seen: Sighting::Joined }
}

/// A transaction of our wallet with an answer for `request`.
fn sent(nonce: u64, request: RequestKey) -> SignedTransaction {
    let mut input = vec![1, 2, 3, 4];
    input.extend(request.id.to_be_bytes::<32>());
    let transaction = TxEip1559 {
        chain_id: own().chain_id,
        nonce,
        gas_limit: 100_000,
        to: TxKind::Call(CONTRACT),
        input: input.into(),
        ..TxEip1559::default()
    };
    let signature = signer().sign_hash_sync(&transaction.signature_hash()).unwrap();
    let signed = transaction.into_signed(signature);
    let hash = *signed.hash();
    let raw = TxEnvelope::from(signed).encoded_2718();
    SignedTransaction { nonce, hash, raw: raw.into(), request: Some(request) }
}

fn file(dir: &Path) -> PathBuf {
    dir.join(own().file_stem() + ".sqlite3")
}

fn open(dir: &Path) -> Result<OpenedJournal, OpenError> {
    open_as(&Machine::default(), dir, own(), CONTRACT, "one", None)
}

fn running(dir: &Path) -> Running {
    let OpenedJournal { journal, writer, .. } = open(dir).unwrap();
    Running::start((journal, writer))
}

async fn ended_by_itself(journal: &mut Running) -> JournalError {
    let ended = tokio::time::timeout(Duration::from_secs(20), journal.writer.join_next()).await;
    ended.expect("the writer ends").unwrap().unwrap().unwrap_err()
}

/// The databases and logs in the directory.
fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(".sqlite3"))
        .collect();
    names.sort();
    names
}

/// Overwrites these pages of the file with garbage.
fn damage(file: &Path, pages: std::ops::Range<usize>) {
    let mut bytes = fs::read(file).unwrap();
    let end = (pages.end * 4096).min(bytes.len());
    bytes[pages.start * 4096..end].fill(0xee);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_journal_is_set_aside_and_no_other_one_begun() {
    let dir = TempDir::new().unwrap();
    fs::write(file(dir.path()), vec![0x42; 9000]).unwrap();
    let error = open(dir.path()).unwrap_err();
    let OpenError::SetAside { path, aside, at_most: None, keeper: Some(keeper) } = &error else {
        panic!("{error}")
    };
    assert_eq!(keeper, "one", "whoever opens it, where its lock names nobody");
    assert_eq!(*path, file(dir.path()));
    assert_eq!(fs::read(aside).unwrap(), vec![0x42; 9000], "as it was");
    assert!(error.to_string().contains("--from BLOCK --instance one`"), "{error}");
    assert!(!error.is_transient());
    let before = names_in(dir.path());
    assert_eq!(before.len(), 1, "{before:?}");
    for _ in 0..2 {
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::SetAside { aside: known, .. } if known == aside));
    }
    assert_eq!(names_in(dir.path()), before);

    // Another wallet has another journal.
    Journal::open(dir.path(), identity(), CONTRACT).unwrap();
}

/// The files as kill -9 leaves them, with an accidentally removed database: the last rows are in the
/// log.
async fn killed(dir: &Path) -> Vec<u8> {
    let elsewhere = TempDir::new().unwrap();
    let journal = running(elsewhere.path());
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    for entry in fs::read_dir(elsewhere.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    journal.close().await.unwrap();
    let log = fs::read(beside(&file(dir), "-wal")).unwrap();
    assert!(!log.is_empty());
    log
}

#[tokio::test]
async fn c8_a_journal_that_was_emptied_or_removed_is_set_aside_with_its_log() {
    let empty = |file: &Path| fs::write(file, "").unwrap();
    let remove = |file: &Path| fs::remove_file(file).unwrap();
    let slips: [&dyn Fn(&Path); 2] = [&empty, &remove];
    for slip in slips {
        let dir = TempDir::new().unwrap();
        let log = killed(dir.path()).await;
        slip(&file(dir.path()));
        // An inspection does not remove the log.
        inspect(dir.path(), own(), CONTRACT).unwrap_err();
        journal_chains(dir.path(), own().chain_id, own().wallet, "one").unwrap();
        ReadOnly::find(&[dir.path().to_owned()], "one").unwrap_err();
        for _ in 0..2 {
            let error = open(dir.path()).unwrap_err();
            let OpenError::SetAside { aside, .. } = &error else { panic!("{error}") };
            assert_eq!(fs::read(beside(aside, "-wal")).unwrap(), log, "as it was");
            assert!(!file(dir.path()).exists());
        }
        rebuild(dir.path(), own(), &alone(), block(1)).unwrap();
        running(dir.path()).close().await.unwrap();
    }
}

#[tokio::test]
async fn c8_who_asks_for_the_requests_of_a_damaged_journal_is_told_to_rebuild_it() {
    let dir = TempDir::new().unwrap();
    let ask = |keeper: &str| {
        let found = ReadOnly::find(&[dir.path().to_owned()], keeper);
        found.unwrap_err().to_string()
    };
    running(dir.path()).close().await.unwrap();
    damage(&file(dir.path()), 0..1);
    assert!(ask("one").contains("journal rebuild"), "{}", ask("one"));
    open(dir.path()).unwrap_err();
    assert!(ask("one").contains("journal rebuild"), "{}", ask("one"));
    assert!(ask("two").contains("no journal"), "{}", ask("two"));
    rebuild(dir.path(), own(), &alone(), block(1)).unwrap();
    running(dir.path()).close().await.unwrap();
    ReadOnly::find(&[dir.path().to_owned()], "one").unwrap();
}

#[tokio::test]
async fn c8_an_emptied_journal_of_an_earlier_wallet_is_waited_for() {
    let dir = TempDir::new().unwrap();
    killed(dir.path()).await;
    fs::write(file(dir.path()), "").unwrap();
    let machine = Machine::default();
    let error = open_as(&machine, dir.path(), identity(), CONTRACT, "one", None).unwrap_err();
    assert!(error.needs_rebuild(), "{error}");
}

#[tokio::test]
async fn c8_a_start_that_was_killed_before_there_were_tables_is_begun_again() {
    let dir = TempDir::new().unwrap();
    let new = beside(&file(dir.path()), ".new");
    fs::write(&new, "").unwrap();
    fs::write(beside(&new, "-wal"), "half a log").unwrap();
    running(dir.path()).close().await.unwrap();
    assert_eq!(names_in(dir.path()).len(), 1);
}

/// The process dies between renaming the database and renaming its log.
#[test]
fn a_setting_aside_that_was_interrupted_is_ended() {
    let dir = TempDir::new().unwrap();
    let aside = beside(&file(dir.path()), ".damaged-20260914T160512Z");
    fs::write(beside(&file(dir.path()), "-wal"), "its log").unwrap();
    fs::write(&aside, "a database").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(&error, OpenError::SetAside { aside: found, .. } if *found == aside));
    assert_eq!(fs::read(beside(&aside, "-wal")).unwrap(), b"its log");
    assert!(!beside(&file(dir.path()), "-wal").exists());
}

/// The journal was rebuilt in the meantime, and its database was removed.
#[tokio::test]
async fn a_second_damage_has_a_time_of_its_own() {
    let dir = TempDir::new().unwrap();
    running(dir.path()).close().await.unwrap();
    damage(&file(dir.path()), 0..1);
    let OpenError::SetAside { aside: first, .. } = open(dir.path()).unwrap_err() else { panic!() };
    rebuild(dir.path(), own(), &alone(), block(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let log = killed(dir.path()).await;
    fs::remove_file(file(dir.path())).unwrap();
    for _ in 0..2 {
        let error = open(dir.path()).unwrap_err();
        let OpenError::SetAside { aside, .. } = &error else { panic!("{error}") };
        assert_ne!(*aside, first, "of another damage");
        assert_eq!(fs::read(beside(aside, "-wal")).unwrap(), log);
        assert!(first.exists() && !beside(&first, "-wal").exists());
    }
}

/// Damages an index in the middle of the file: the tables can be read.
fn damage_an_index(dir: &Path) {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'requests_unfinished'";
    let connection = Connection::open(file(dir)).unwrap();
    let page: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(connection);
    let page = usize::try_from(page).unwrap() - 1;
    damage(&file(dir), page..page + 1);
}

#[tokio::test]
async fn a_rebuild_takes_over_what_proves_itself() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    let arrivals: Vec<Arrival> = (10..16).map(real).collect();
    let keys: Vec<RequestKey> = arrivals.iter().map(|arrival| arrival.key).collect();
    let mut forged = real(16);
    forged.key.content = B256::repeat_byte(0xbb);
    let mut all = arrivals.clone();
    all.push(forged);
    let stored = Batch { arrivals: all, cursor: Some(block(20)), ..Batch::default() };
    journal.store_batch(stored).await.unwrap();
    journal.note(keys[0], Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.note(keys[1], Step::Answered(answer(1, "a"))).await.unwrap();
    journal.note_generation(Generation::G14, 9).await.unwrap();
    let good = sent(7, keys[1]);
    let mined = sent(6, keys[0]);
    let others = SignedTransaction { request: Some(keys[2]), ..sent(8, keys[3]) };
    let unsigned = signed(9, 0, Some(keys[3]));
    let displaced = sent(5, keys[4]);
    let all = vec![displaced.clone(), mined.clone(), good.clone(), others, unsigned];
    journal.record_signed(all).await.unwrap();
    journal.record_given_up(vec![displaced.id()], GiveUpReason::Displaced).await.unwrap();
    journal.record_mined(mined.id(), block(18)).await.unwrap();
    journal.close().await.unwrap();
    damage_an_index(dir.path());
    let error = open(dir.path()).unwrap_err();
    let OpenError::SetAside { aside, at_most, .. } = &error else { panic!("{error}") };
    assert_eq!(*at_most, Some(11), "the oldest one without an outcome");
    let command = "`kms-connector journal rebuild --from 11 --instance one`";
    assert!(error.to_string().contains(command), "{error}");

    let rebuilt = rebuild(dir.path(), own(), &alone(), block(13)).unwrap();
    let RebuildKind::Salvaged { aside: from, requests, transactions, generation, at_most } =
        &rebuilt.kind
    else {
        panic!("{rebuilt:?}")
    };
    assert_eq!((from, *requests, *transactions, *at_most), (aside, 5, 1, Some(11)));
    assert_eq!(*generation, Some(Generation::G14));
    let journal = running(dir.path());
    assert_eq!(journal.ask(Query::Generation).await.unwrap(), Some(Generation::G14));
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), Some(block(13)));
    assert_eq!(journal.ask(Query::BegunAfter).await.unwrap(), Some(13));
    let open = records(&journal, RequestFilter::Unfinished).await;
    let found: Vec<_> = open.iter().map(|request| (request.key, request.stage())).collect();
    let wanted: Vec<_> = keys[1..].iter().map(|key| (*key, Stage::Arrived)).collect();
    assert_eq!(found, wanted, "answers prove nothing");
    assert_eq!(open[0].event, arrivals[1].event);
    assert_eq!(journal.ask(Query::OpenTransactions).await.unwrap(), [good]);
    assert!(aside.exists(), "kept");
    let mode = fs::metadata(file(dir.path())).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    journal.close().await.unwrap();
}

/// A contract that is read beside the first one may be behind.
#[tokio::test]
async fn a_damaged_journal_tells_of_the_lowest_of_its_cursors() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    let arrivals = (10..200).map(real).collect();
    let stored = Batch { arrivals, cursor: Some(block(200)), ..Batch::default() };
    journal.store_batch(stored).await.unwrap();
    for number in 10..200 {
        journal.note(real(number).key, Step::Settled(Outcome::Expired)).await.unwrap();
    }
    let source = RequestSource { contract: Address::repeat_byte(0xee), ..SOURCE };
    let beside = journal.for_source(source);
    beside.stand_beside(SOURCE).await.unwrap();
    let read = Batch { cursor: Some(block(90)), ..Batch::default() };
    beside.store_batch(read).await.unwrap();
    journal.close().await.unwrap();
    damage_an_index(dir.path());
    let error = open(dir.path()).unwrap_err();
    let OpenError::SetAside { at_most, .. } = &error else { panic!("{error}") };
    assert_eq!(*at_most, Some(91));
}

/// Whatever page is damaged: the rebuild succeeds, and the blocks from the given one on are read again.
#[tokio::test]
async fn every_damaged_page_can_be_rebuilt_from() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    for first in (0..60).step_by(20) {
        let arrivals = (first..first + 20).map(|number| real(100 + number)).collect();
        let cursor = Some(block(100 + first + 19));
        journal.store_batch(Batch { arrivals, cursor, ..Batch::default() }).await.unwrap();
        let sent = (first..first + 20).map(|nonce| sent(nonce, real(100 + nonce).key)).collect();
        journal.record_signed(sent).await.unwrap();
    }
    journal.close().await.unwrap();
    let whole = fs::read(file(dir.path())).unwrap();
    let (mut most, mut least) = (0, usize::MAX);
    for page in 0..whole.len() / 4096 {
        let dir = TempDir::new().unwrap();
        fs::write(file(dir.path()), &whole).unwrap();
        damage(&file(dir.path()), page..page + 1);
        let Err(OpenError::SetAside { .. }) = open(dir.path()) else { panic!("page {page}") };
        let rebuilt = rebuild(dir.path(), own(), &alone(), block(120)).unwrap();
        let RebuildKind::Salvaged { requests, transactions, .. } = rebuilt.kind else { panic!() };
        most = most.max(requests + transactions);
        least = least.min(requests + transactions);
        let journal = running(dir.path());
        assert_eq!(journal.ask(Query::Cursor).await.unwrap(), Some(block(120)));
        for found in records(&journal, RequestFilter::Unfinished).await {
            assert_eq!(found.event, real(found.event.block.number).event, "page {page}");
        }
        for found in journal.ask(Query::OpenTransactions).await.unwrap() {
            assert_eq!(found, sent(found.nonce, real(100 + found.nonce).key), "page {page}");
        }
        journal.close().await.unwrap();
    }
    assert_eq!((most, least), (120, 0), "an index costs nothing, the first page all");
}

#[tokio::test]
async fn a_rebuild_where_nothing_is_begins_at_the_block() {
    let dir = TempDir::new().unwrap();
    let rebuilt = rebuild(dir.path(), own(), &alone(), block(41)).unwrap();
    assert_eq!(rebuilt.kind, RebuildKind::Anew);
    let journal = running(dir.path());
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), Some(block(41)));
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_journal_in_order_keeps_all_and_is_read_again_from_the_block() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    journal.store_batch(batch([], Some(30))).await.unwrap();
    journal.store_batch(batch([31, 32], Some(40))).await.unwrap();
    journal.note(key(31), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    let error = rebuild(dir.path(), own(), &alone(), block(20)).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    journal.close().await.unwrap();

    let forward = rebuild(dir.path(), own(), &alone(), block(41)).unwrap();
    assert_eq!(forward.kind, RebuildKind::CursorNotReached { before: block(40) });
    let back = rebuild(dir.path(), own(), &alone(), block(20)).unwrap();
    assert_eq!(back.kind, RebuildKind::CursorMovedBack { before: Some(block(40)) });
    let journal = running(dir.path());
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), Some(block(20)));
    assert_eq!(journal.ask(Query::BegunAfter).await.unwrap(), Some(20));
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [32]);
    assert!(journal.request(key(31)).await.unwrap().is_some(), "settled, and known");
    journal.close().await.unwrap();
}

#[tokio::test]
async fn damage_found_while_it_is_open_is_told_and_set_aside() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    journal.store_batch(batch(0..400, Some(1))).await.unwrap();
    journal.close().await.unwrap();
    let journal = running(dir.path());
    let condition = journal.condition();
    // Unnoticed by the open connection, which has read hardly anything yet.
    let pages = usize::try_from(fs::metadata(file(dir.path())).unwrap().len()).unwrap() / 4096;
    let mut bytes = fs::read(file(dir.path())).unwrap();
    bytes[4096..pages * 4096].fill(0xee);
    let open = fs::OpenOptions::new().write(true).open(file(dir.path())).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, &bytes, 0).unwrap();
    let listing = RequestPage { filter: RequestFilter::Unfinished, after: None, limit: 10 };
    let failed = journal.ask(|slot| Query::Records(listing, slot)).await.unwrap_err();
    assert!(failed.to_string().contains("damaged"), "{failed}");
    let damage = condition.wait_damaged().await;
    drop(journal.close().await);
    let told = set_aside(&damage, dir.path(), own(), CONTRACT).unwrap();
    assert!(matches!(told, OpenError::SetAside { .. }), "{told}");
    // A late report about a file that was rebuilt has no effect.
    rebuild(dir.path(), own(), &alone(), block(1)).unwrap();
    set_aside(&damage, dir.path(), own(), CONTRACT).unwrap_err();
    running(dir.path()).close().await.unwrap();
}

#[tokio::test]
async fn a_journal_deleted_while_it_is_open_is_written_again() {
    for deleted in [&["", "-wal", "-shm"][..], &["-wal"], &[""]] {
        let dir = TempDir::new().unwrap();
        let mut journal = running(dir.path());
        journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
        for ending in deleted {
            fs::remove_file(beside(&file(dir.path()), ending)).unwrap();
        }
        // The next commit notices it and is stored as well.
        let taken = journal.store_batch(batch([3], Some(6))).await.unwrap();
        assert_eq!(taken.new, [0]);
        let ended = ended_by_itself(&mut journal).await;
        assert!(matches!(ended, JournalError::Deleted { .. }), "{ended}");
        let journal = running(dir.path());
        assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2, 3], "{deleted:?}");
        assert_eq!(journal.ask(Query::Cursor).await.unwrap(), Some(block(6)));
        journal.close().await.unwrap();
    }
}

/// A symbolic link to another file system simulates the mount: its target disappears and comes back
/// intact.
#[tokio::test]
async fn d8_a_journal_whose_file_system_is_unmounted_is_waited_for_and_not_written_elsewhere() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new_in("/dev/shm").unwrap());
    let device = |dir: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(dir).unwrap());
    assert_ne!(device(here.path()), device(there.path()), "two file systems");
    let (mount, below) = (here.path().join("state"), here.path().join("below"));
    fs::create_dir(&below).unwrap();
    let lead_to = |dir: &Path| {
        let _ = fs::remove_file(&mount);
        std::os::unix::fs::symlink(dir, &mount).unwrap();
    };
    lead_to(there.path());
    let running = running(&mount);
    running.store_batch(batch([1], Some(5))).await.unwrap();
    lead_to(&below);
    let mut callers = JoinSet::new();
    let journal = running.journal.clone();
    callers.spawn(async move { journal.store_batch(batch([2], Some(6))).await.unwrap().new });
    let condition = running.condition();
    while condition.waiting_reason().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let why = condition.waiting_reason().unwrap().to_string();
    assert!(why.contains("unmounted") && !why.contains("deleted"), "{why}");
    assert!(names_in(&below).is_empty(), "{:?}", names_in(&below));
    lead_to(there.path());
    assert_eq!(callers.join_next().await.unwrap().unwrap(), [0]);
    running.flush().await.unwrap();
    assert!(condition.waiting_reason().is_none());
    assert_eq!(keys(&running, RequestFilter::Unfinished).await, [1, 2]);
    running.close().await.unwrap();
}

/// `rm`, and then `stop` before anything else was stored.
#[tokio::test]
async fn a_journal_deleted_before_it_is_closed_is_written_again() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    fs::remove_file(file(dir.path())).unwrap();
    let ended = journal.close().await.unwrap_err();
    assert!(matches!(ended, JournalError::Deleted { .. }), "{ended}");
    let journal = running(dir.path());
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2]);
    journal.close().await.unwrap();
}

/// Nothing arrives, because the instance waits for a node.
#[tokio::test(start_paused = true)]
async fn d8_a_journal_deleted_while_nothing_is_written_is_written_again() {
    let dir = TempDir::new().unwrap();
    let mut journal = running(dir.path());
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    let before = journal.statistics().commits;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(journal.statistics().commits, before, "looking is no commit");
    let deleted = tokio::time::Instant::now();
    fs::remove_file(file(dir.path())).unwrap();
    let ended = ended_by_itself(&mut journal).await;
    assert!(matches!(ended, JournalError::Deleted { .. }), "{ended}");
    assert!(deleted.elapsed() < Duration::from_secs(3), "noticed after {:?}", deleted.elapsed());
    // What an operator reads: which file, that nothing is lost, what happens next.
    let told = ended.to_string();
    let path = file(dir.path()).display().to_string();
    for part in [path.as_str(), "nothing is lost", "written again", "built again"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let journal = running(dir.path());
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2]);
    journal.close().await.unwrap();
}

/// As somebody does who takes it for one that a dead process left: another process could lock a new one.
#[tokio::test(start_paused = true)]
async fn d8_whoever_loses_the_lock_file_gives_up_and_stores_nothing_more() {
    for writes in [true, false] {
        let dir = TempDir::new().unwrap();
        let mut journal = running(dir.path());
        journal.store_batch(batch([1], Some(5))).await.unwrap();
        fs::remove_file(dir.path().join(own().file_stem() + ".lock")).unwrap();
        let other = (!writes).then(|| running(dir.path()));
        if writes {
            let error = journal.store_batch(batch([2], Some(6))).await.unwrap_err();
            assert!(error.to_string().contains("lock file was deleted"), "{error}");
        }
        let ended = ended_by_itself(&mut journal).await;
        assert!(matches!(ended, JournalError::LockLost { .. }), "{ended}");
        if let Some(other) = other {
            let taken = open(dir.path()).unwrap_err();
            assert!(matches!(taken, OpenError::Locked { .. }), "the other one has it: {taken}");
            other.close().await.unwrap();
        }
        running(dir.path()).close().await.unwrap();
    }
}

/// The next generation is built, and waits for a node before it opens the journal.
#[tokio::test(start_paused = true)]
async fn d8_a_journal_deleted_between_two_writers_is_written_again() {
    let dir = TempDir::new().unwrap();
    let journal = running(dir.path());
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    let kept = journal.keep().await.unwrap();
    let stop = CancellationToken::new();
    let mut keeping = JoinSet::new();
    keeping.spawn(kept.keep(Machine::default(), stop.clone()));
    tokio::time::sleep(Duration::from_mins(1)).await;
    stop.cancel();
    let kept = keeping.join_next().await.unwrap().unwrap().expect("it is as it was");
    keeping.spawn(kept.keep(Machine::default(), CancellationToken::new()));
    fs::remove_dir_all(dir.path()).unwrap();
    let lost = keeping.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(lost, JournalError::Deleted { .. }), "{lost}");
    let journal = running(dir.path());
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2]);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_deleted_under_a_journal_is_made_again() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    let mut journal = running(&state);
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    fs::remove_dir_all(&state).unwrap();
    journal.note(key(1), asked()).await.unwrap();
    let ended = ended_by_itself(&mut journal).await;
    assert!(matches!(ended, JournalError::Deleted { .. }), "{ended}");
    let journal = running(&state);
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2]);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_file_put_in_the_place_of_an_open_journal_is_left_alone_and_said() {
    let dir = TempDir::new().unwrap();
    let mut journal = running(dir.path());
    journal.store_batch(batch([1], Some(5))).await.unwrap();
    let elsewhere = TempDir::new().unwrap();
    running(elsewhere.path()).close().await.unwrap();
    fs::rename(file(elsewhere.path()), file(dir.path())).unwrap();
    let before = fs::read(file(dir.path())).unwrap();
    // It is not stored in the journal, so the caller gets an error.
    let error = journal.store_batch(batch([2], Some(6))).await.unwrap_err();
    assert!(error.to_string().contains("was replaced while"), "{error}");
    let ended = ended_by_itself(&mut journal).await;
    assert!(matches!(ended, JournalError::Replaced { .. }), "{ended}");
    assert_eq!(fs::read(file(dir.path())).unwrap(), before);
}
