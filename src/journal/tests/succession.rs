//! From one run of an instance to the next, and from one wallet to the next.

use super::*;

const NAME: &str = "main";

fn wallet(byte: u8) -> Identity {
    Identity { wallet: Address::repeat_byte(byte), ..identity() }
}

fn open_for(dir: &Path, identity: Identity, name: &str) -> OpenedJournal {
    open_as(&Machine::default(), dir, identity, CONTRACT, name, None).unwrap()
}

/// Opens the journal and runs its writer.
fn run_for(dir: &Path, identity: Identity, name: &str) -> (Running, Option<Predecessor>) {
    let OpenedJournal { journal, writer, predecessor, earlier: left } =
        open_for(dir, identity, name);
    assert_eq!(left.len(), 0);
    (Running::start((journal, writer)), predecessor)
}

#[tokio::test]
async fn what_a_writer_leaves_goes_on_under_the_same_lock() {
    let dir = TempDir::new().unwrap();
    let old = Running::open(dir.path());
    old.store_batch(batch([1, 2], Some(7))).await.unwrap();
    old.note(key(1), asked()).await.unwrap();
    let handle = old.journal.clone();
    let kept = old.keep().await.unwrap();
    assert_eq!(kept.identity(), identity());
    let locked = Journal::open(dir.path(), identity(), CONTRACT).unwrap_err();
    assert!(matches!(locked, OpenError::Locked { .. }), "{locked}");

    // Handles of the old run can neither write nor read.
    let late = handle.store_batch(batch([3], Some(8))).await.unwrap_err();
    assert!(late.to_string().contains("closed"), "{late}");
    handle.note(key(2), asked()).await.unwrap_err();
    handle.ask(Query::Cursor).await.unwrap_err();

    let new = Running::start(reopen(dir.path(), kept, CONTRACT));
    handle.note(key(2), asked()).await.unwrap_err();
    assert_eq!(new.ask(Query::Cursor).await.unwrap(), Some(block(7)));
    let stages: Vec<_> = records(&new, RequestFilter::Unfinished).await;
    let stages: Vec<_> = stages.iter().map(RequestRecord::stage).collect();
    assert_eq!(stages, [Stage::Asked, Stage::Arrived]);
    new.store_batch(batch([3], Some(8))).await.unwrap();

    // Another contract in the same file; then it is closed, and any process may open it.
    let other = Address::repeat_byte(0xdd);
    let new = Running::start(reopen(dir.path(), new.keep().await.unwrap(), other));
    assert_eq!(new.ask(Query::Cursor).await.unwrap(), None);
    new.close().await.unwrap();
    let again = Running::open(dir.path());
    assert_eq!(keys(&again, RequestFilter::Unfinished).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_writer_that_never_ran_leaves_its_journal_too() {
    let dir = TempDir::new().unwrap();
    let (_journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let kept = tokio::task::spawn_blocking(move || writer.into_idle_store()).await.unwrap();
    let journal = Running::start(reopen(dir.path(), kept, CONTRACT));
    journal.store_batch(batch([1], Some(7))).await.unwrap();
}

#[tokio::test]
async fn requests_in_hand_are_counted_as_they_move() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let moves = journal.statistics().moves;
    journal.store_batch(batch([], Some(7))).await.unwrap();
    assert_eq!(journal.statistics().moves, moves, "a cursor alone moves no request");
    journal.store_batch(batch(1..=5, Some(8))).await.unwrap();
    assert!(journal.statistics().moves > moves);
    journal.note(key(1), hold(HoldReason::NoFunds)).await.unwrap();
    journal.note(key(2), hold(HoldReason::NoFunds)).await.unwrap();
    journal.note(key(2), Step::Settled(Outcome::Expired)).await.unwrap();
    journal.flush().await.unwrap();
    journal.note(key(3), asked()).await.unwrap();
    journal.flush().await.unwrap();
    let standings = journal.ask(Query::RequestGauges).await.unwrap();
    // Of both kinds.
    let mut counted = BTreeMap::new();
    for one in &standings {
        *counted.entry((one.stage, one.held.map(HoldReason::as_str))).or_default() += one.requests;
        assert!(one.oldest_ms > 0);
    }
    let wanted = [(("arrived", None), 2), (("arrived", Some("no_funds")), 1), (("asked", None), 1)];
    assert_eq!(counted, BTreeMap::from(wanted));
}

const DOUBT: UnprovenRange = UnprovenRange { first: 180, last: 181, hash: None, since_ms: 1 };
fn known() -> IdRange {
    IdRange { counter: Counter::Public, first: 1, last: 8, first_block: 100, last_block: 150 }
}

/// Requests in every stage, one settled.
async fn fill(journal: &Journal) {
    journal.store_batch(batch([], Some(3))).await.unwrap();
    // The id of each request is its block's number here.
    let mut settled_young = arrival(8);
    settled_young.event = event(150, 100);
    let more =
        Batch { arrivals: vec![settled_young], ids: Some(vec![known()]), ..Batch::default() };
    journal.store_batch(more).await.unwrap();
    journal.note(key(8), Step::Answered(answer(8, "eight"))).await.unwrap();
    journal.note(key(8), Step::Settled(Outcome::Expired)).await.unwrap();
    let unproven = Some(vec![DOUBT]);
    let arrived = Batch { read_twice: Some(150), unproven, ..batch([9, 1, 2, 3, 4, 5], Some(200)) };
    journal.store_batch(arrived).await.unwrap();
    let steps = [
        (1, asked()),
        (2, Step::Answered(answer(2, "two"))),
        (3, Step::Answered(answer(3, "three"))),
        (3, Step::Submitted { transaction: hash(300) }),
        (4, Step::Failed { why: "no bucket".into() }),
        (4, Step::WorkTime(Duration::from_millis(1500))),
        (4, hold(HoldReason::AccessDenied)),
        (5, Step::Settled(Outcome::AlreadyAnswered)),
    ];
    for (id, step) in steps {
        journal.note(key(id), step).await.unwrap();
    }
    journal.flush().await.unwrap();
}

#[tokio::test]
async fn a_new_wallet_takes_over_cursor_and_unfinished_requests() {
    let dir = TempDir::new().unwrap();
    let (old, none) = run_for(dir.path(), wallet(1), NAME);
    assert_eq!(none, None);
    fill(&old).await;
    old.close().await.unwrap();

    let (new, predecessor) = run_for(dir.path(), wallet(2), NAME);
    let expected = Predecessor { wallet: Address::repeat_byte(1), cursor: block(200), requests: 5 };
    assert_eq!(predecessor, Some(expected));
    assert_eq!(new.ask(Query::Cursor).await.unwrap(), Some(block(200)));
    assert_eq!(new.ask(Query::BegunAfter).await.unwrap(), Some(3));
    assert_eq!(new.ask(Query::ReadTwice).await.unwrap(), Some(150));
    assert_eq!(new.ask(Query::Unproven).await.unwrap(), [DOUBT]);
    assert_eq!(new.ask(Query::SeenIds).await.unwrap(), [known()]);
    let requests = records(&new, RequestFilter::Unfinished).await;
    let found: Vec<_> =
        requests.iter().map(|request| (request.key.id.to::<u64>(), request.stage())).collect();
    let stages = [
        (9, Stage::Arrived),
        (1, Stage::Asked),
        (2, Stage::Answered(answer(2, "two"))),
        (3, Stage::Answered(answer(3, "three"))),
        (4, Stage::Arrived),
    ];
    assert_eq!(found, stages, "in the order of their arrival; what was sent is to be sent anew");
    assert!(requests.iter().all(|request| request.event == event(request.key.id.to(), 100)));
    assert_eq!(requests[1].progress.asked_core, Some("core:50051".into()));
    let held = new.request(key(4)).await.unwrap().unwrap().progress;
    assert_eq!(held.held.unwrap().hold.reason, HoldReason::AccessDenied);
    assert_eq!((held.attempts, held.worked_ms), (1, 1500));
    assert_eq!(new.request(key(3)).await.unwrap().unwrap().progress.transaction, None);
    assert_eq!(new.request(key(5)).await.unwrap(), None, "settled long ago");
    let young = new.request(key(8)).await.unwrap().unwrap();
    assert_eq!(
        (young.progress.outcome, young.answer),
        (Some(Outcome::Expired), Some(answer(8, "eight")))
    );
    new.store_batch(batch([6], Some(230))).await.unwrap();
    new.note(key(1), Step::Settled(Outcome::Expired)).await.unwrap();
    new.close().await.unwrap();

    // Only once; and back to the old wallet without a loss.
    let (new, none) = run_for(dir.path(), wallet(2), NAME);
    assert_eq!(none, None);
    assert_eq!(keys(&new, RequestFilter::Unfinished).await, [9, 2, 3, 4, 6]);
    new.close().await.unwrap();
    let (old, none) = run_for(dir.path(), wallet(1), NAME);
    assert_eq!(none, None);
    assert_eq!(old.ask(Query::Cursor).await.unwrap(), Some(block(200)));
    assert_eq!(keys(&old, RequestFilter::Unfinished).await, [9, 1, 2, 3, 4]);
    old.close().await.unwrap();
}

#[tokio::test]
async fn until_the_new_journal_has_a_cursor_the_next_start_takes_over() {
    let dir = TempDir::new().unwrap();
    let (old, _) = run_for(dir.path(), wallet(1), NAME);
    fill(&old).await;
    old.close().await.unwrap();
    // Killed halfway: the new file exists, and the copied rows were not committed.
    let (journal, writer) = Journal::open(dir.path(), wallet(2), CONTRACT).unwrap();
    let killed = Connection::open(journal.path()).unwrap();
    killed.execute_batch("BEGIN IMMEDIATE; DELETE FROM requests;").unwrap();
    drop((killed, journal, writer));
    let (new, predecessor) = run_for(dir.path(), wallet(2), NAME);
    assert_eq!(predecessor.unwrap().requests, 5);
    new.close().await.unwrap();
}

#[tokio::test]
async fn only_what_this_instance_kept_last_is_taken_over() {
    let dir = TempDir::new().unwrap();
    let fill_as = async |identity: Identity, name, contract, cursor| {
        let opened =
            open_as(&Machine::default(), dir.path(), identity, contract, name, None).unwrap();
        let journal = Running::start((opened.journal, opened.writer));
        let source = RequestSource { chain_id: identity.chain_id, contract };
        journal.store_batch(of(source, batch([cursor], Some(cursor)))).await.unwrap();
        journal.close().await.unwrap();
        // Times have a resolution of a millisecond: the last one must differ.
        tokio::time::sleep(Duration::from_millis(3)).await;
    };
    let reset = Identity { genesis: B256::repeat_byte(0x9f), ..wallet(3) };
    let other_chain = Identity { chain_id: 31338, ..wallet(4) };
    fill_as(wallet(1), NAME, CONTRACT, 11).await;
    fill_as(wallet(2), NAME, CONTRACT, 12).await;
    fill_as(wallet(5), "another", CONTRACT, 15).await;
    fill_as(reset, NAME, CONTRACT, 13).await;
    fill_as(other_chain, NAME, CONTRACT, 14).await;
    fill_as(wallet(6), NAME, Address::repeat_byte(0xdd), 16).await;

    // While the predecessor is in use nothing is taken over, and no new journal is created without it.
    let serving = open_for(dir.path(), wallet(2), NAME);
    let refused =
        open_as(&Machine::default(), dir.path(), wallet(8), CONTRACT, NAME, None).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    drop(serving);
    let (new, predecessor) = run_for(dir.path(), wallet(8), NAME);
    let predecessor = predecessor.unwrap();
    assert_eq!((predecessor.wallet, predecessor.cursor.number), (Address::repeat_byte(2), 12));
    assert_eq!(
        keys(&new, RequestFilter::Unfinished).await,
        [11, 12],
        "from the one before, it from its own"
    );
    new.close().await.unwrap();
    let (fresh, none) = run_for(dir.path(), wallet(9), "unheard of");
    assert_eq!(none, None);
    assert!(fresh.ask(Query::IsEmpty).await.unwrap());
}

#[tokio::test]
async fn what_the_earlier_wallet_signed_is_left_to_be_followed_at_every_start() {
    let dir = TempDir::new().unwrap();
    let (old, _) = run_for(dir.path(), wallet(1), NAME);
    fill(&old).await;
    old.record_signed(vec![signed(0, 0, Some(key(3))), signed(1, 0, Some(key(2)))]).await.unwrap();
    old.record_mined(signed(0, 0, None).id(), block(21)).await.unwrap();
    old.close().await.unwrap();

    for first in [true, false] {
        let mut opened = open_for(dir.path(), wallet(2), NAME);
        assert_eq!(opened.predecessor.is_some(), first);
        let EarlierJournal { wallet: whose, journal, writer } = opened.earlier.remove(0).unwrap();
        assert!(opened.earlier.is_empty());
        assert_eq!(whose, Address::repeat_byte(1));
        let locked = Journal::open(dir.path(), wallet(1), CONTRACT).unwrap_err();
        assert!(matches!(locked, OpenError::Locked { .. }), "{locked}");
        let left = Running::start((journal, writer));
        assert_eq!(left.ask(Query::OpenTransactions).await.unwrap(), [signed(1, 0, Some(key(2)))]);
        if !first {
            left.record_mined(signed(1, 0, None).id(), block(22)).await.unwrap();
        }
        left.close().await.unwrap();
    }
    let (_new, none) = run_for(dir.path(), wallet(2), NAME);
    assert_eq!(none, None);
}

/// An earlier wallet's journal with five unfinished requests, closed. Returns its file.
async fn earlier(dir: &Path, byte: u8, name: &str) -> PathBuf {
    let (old, _) = run_for(dir, wallet(byte), name);
    fill(&old).await;
    let path = old.path().to_owned();
    old.close().await.unwrap();
    // Times have a resolution of a millisecond: the last one must differ.
    tokio::time::sleep(Duration::from_millis(3)).await;
    path
}

fn damage_header(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 100], 0).unwrap();
}

fn refused(dir: &Path, byte: u8) -> OpenError {
    open_as(&Machine::default(), dir, wallet(byte), CONTRACT, NAME, None).unwrap_err()
}

#[tokio::test]
async fn a11_a_new_wallet_does_not_begin_without_a_journal_that_cannot_be_read() {
    let dir = TempDir::new().unwrap();
    let old = earlier(dir.path(), 1, NAME).await;
    let whole = fs::read(&old).unwrap();
    damage_header(&old);
    // As for its own journal: only a rebuild fixes it.
    let error = refused(dir.path(), 2);
    assert!(error.to_string().contains(old.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("journal rebuild"), "{error}");
    assert!(error.needs_rebuild() && !error.is_transient(), "{error}");

    // Set aside by the instance itself, before its wallet was changed.
    assert!(refused(dir.path(), 1).to_string().contains("kept as"));
    let error = refused(dir.path(), 2);
    assert!(error.to_string().contains(".damaged-"), "{error}");
    assert!(error.needs_rebuild(), "{error}");

    // Anything that is not a file is waited for: it may be corrected.
    fs::create_dir(&old).unwrap();
    let error = refused(dir.path(), 2);
    assert!(error.is_transient() && !error.needs_rebuild(), "{error}");
    fs::remove_dir(&old).unwrap();

    fs::write(&old, whole).unwrap();
    let (_new, predecessor) = run_for(dir.path(), wallet(2), NAME);
    assert_eq!(predecessor.unwrap().requests, 5);
}

#[tokio::test]
async fn a11_a_journal_that_is_locked_for_a_while_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let old = earlier(dir.path(), 1, NAME).await;
    let operator = Connection::open(&old).unwrap();
    operator.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
    operator.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = refused(dir.path(), 2);
    assert!(error.is_transient(), "{error}");
    drop(operator);
    let (_new, predecessor) = run_for(dir.path(), wallet(2), NAME);
    assert_eq!(predecessor.unwrap().requests, 5);
}

#[tokio::test]
async fn a11_a_rebuild_says_where_reading_begins_and_ends_the_wait() {
    let dir = TempDir::new().unwrap();
    damage_header(&earlier(dir.path(), 1, NAME).await);
    refused(dir.path(), 2);
    rebuild(dir.path(), wallet(2), &alone(), block(150)).unwrap();
    let (new, predecessor) = run_for(dir.path(), wallet(2), NAME);
    assert_eq!((predecessor, new.ask(Query::Cursor).await.unwrap()), (None, Some(block(150))));
    new.close().await.unwrap();

    // The newest journal of this instance counts: a damaged one before it does not matter.
    let (_newer, predecessor) = run_for(dir.path(), wallet(3), NAME);
    assert_eq!(predecessor.unwrap().wallet, Address::repeat_byte(2));
}

#[tokio::test]
async fn a11_a_journal_that_was_rebuilt_and_not_opened_since_is_taken_over() {
    let dir = TempDir::new().unwrap();
    fs::remove_file(earlier(dir.path(), 1, NAME).await).unwrap();
    rebuild(dir.path(), wallet(1), &alone(), block(150)).unwrap();
    let (_new, predecessor) = run_for(dir.path(), wallet(2), NAME);
    let expected = Predecessor { wallet: Address::repeat_byte(1), cursor: block(150), requests: 0 };
    assert_eq!(predecessor, Some(expected));
}

#[tokio::test]
async fn a11_what_ails_another_instances_journal_keeps_nobody_out() {
    let dir = TempDir::new().unwrap();
    damage_header(&earlier(dir.path(), 1, "another").await);
    damage_header(&earlier(dir.path(), 2, "a third").await);
    let set_aside =
        open_as(&Machine::default(), dir.path(), wallet(2), CONTRACT, "a third", None).unwrap_err();
    assert!(matches!(set_aside, OpenError::SetAside { .. }), "{set_aside}");
    let (new, predecessor) = run_for(dir.path(), wallet(3), NAME);
    assert_eq!(predecessor, None);
    new.close().await.unwrap();

    // Older versions wrote no note beside the journal: then it may belong to any instance.
    let lock = dir.path().join(wallet(1).file_stem() + ".lock");
    fs::write(lock, "4711\n").unwrap();
    assert!(refused(dir.path(), 4).needs_rebuild());
}
