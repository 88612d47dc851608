//! Requests, steps, cursor and ids: what is stored, and what is read back.

use super::*;

/// Field failure T10.
#[tokio::test]
async fn requests_and_cursor_come_back_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    assert!(journal.ask(Query::IsEmpty).await.unwrap());
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), None);
    assert_eq!(journal.ask(Query::BegunAfter).await.unwrap(), None);
    assert_eq!(journal.store_batch(batch([5, 3, 9], Some(10))).await.unwrap().new, [0, 1, 2]);
    assert_eq!(journal.ask(Query::BegunAfter).await.unwrap(), Some(10));
    assert_eq!(journal.store_batch(batch([3, 4, 4, 5], None)).await.unwrap().new, [1]);
    assert_eq!(journal.store_batch(batch([], Some(12))).await.unwrap().new, [0; 0]);
    assert_eq!(journal.store_batch(batch([], Some(10))).await.unwrap().new, [0; 0]);
    assert_eq!(
        journal.ask(Query::BegunAfter).await.unwrap(),
        Some(10),
        "later cursors do not move it"
    );
    assert!(!journal.ask(Query::IsEmpty).await.unwrap());
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), Some(block(10)));
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [5, 3, 9, 4]);
    let page = records(&journal, RequestFilter::Unfinished).await;
    assert_eq!((&page[0].event, page[0].kind), (&event(5, 100), Kind::UserDecryption));
    let first = &page[0].progress;
    assert_eq!((page[0].stage(), &first.held, first.attempts), (Stage::Arrived, &None, 0));
    assert!(first.arrived_at_ms > 0);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn the_same_id_with_other_content_is_another_request() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let mut reorged = arrival(5);
    reorged.key.content = B256::repeat_byte(0xc1);
    let both = Batch { arrivals: vec![arrival(5), reorged], ..Batch::default() };
    assert_eq!(journal.store_batch(both).await.unwrap().new, [0, 1]);
    journal.close().await.unwrap();
}

/// Nodes tell of other ciphertexts of one request: the last word is stored until the Core is asked.
/// A node that lies may have invented any number of others, in transactions that it chooses.
#[tokio::test]
async fn g9_events_of_the_same_transaction_are_found_among_any_number_of_others() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let other = |content: u8, transaction| Arrival {
        key: RequestKey { content: B256::repeat_byte(content), ..key(1) },
        event: Event { transaction, ..event(1, 100) },
        ..arrival(1)
    };
    let here = event(1, 100).transaction;
    let mut arrivals = vec![arrival(1)];
    arrivals.extend((0..20).map(|content| other(content, hash(5))));
    arrivals.extend([0xd0, 0xd1, 0xd2].map(|content| other(content, here)));
    journal.store_batch(Batch { arrivals, ..Batch::default() }).await.unwrap();
    let gone = other(0xd1, here).key;
    journal.note(gone, Step::Settled(Outcome::Orphaned)).await.unwrap();
    journal.flush().await.unwrap();
    let found =
        async |limit| journal.events_of_same_transaction(key(1), here, limit).await.unwrap();
    assert_eq!(found(9).await.len(), 2, "neither itself nor one that has left the chain");
    assert!(found(9).await.iter().all(|event| event.transaction == here));
    assert_eq!(found(1).await.len(), 1);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn g7_what_is_said_of_the_ciphertexts_may_change_until_it_is_asked() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let told = |data, topic0| {
        let mut one = arrival(5);
        one.event.data = Bytes::from(vec![data; 9]);
        one.event.topics[0] = topic0;
        Batch { arrivals: vec![one], ..Batch::default() }
    };
    let named = B256::repeat_byte(1);
    let overload = crate::contracts::abi::request_topics()[6];
    for (data, topic0, new, stored) in [
        (1, named, 1, 1),
        (2, named, 0, 2),
        // It says nothing of the ciphertexts.
        (3, overload, 0, 2),
        (1, named, 0, 1),
    ] {
        let taken = journal.store_batch(told(data, topic0)).await.unwrap();
        assert_eq!((taken.new.len(), taken.reopened.len()), (new, 0));
        let page = records(&journal, RequestFilter::Unfinished).await;
        assert_eq!(page.iter().map(|one| one.event.data[0]).collect::<Vec<_>>(), [stored]);
    }
    journal.note(key(5), asked()).await.unwrap();
    journal.store_batch(told(2, named)).await.unwrap();
    assert_eq!(records(&journal, RequestFilter::Unfinished).await[0].event.data[0], 1);
    // In another block it is as that block has it.
    let mut moved = told(2, named);
    moved.arrivals[0].event.block = block(6);
    journal.store_batch(moved).await.unwrap();
    let page = records(&journal, RequestFilter::Unfinished).await;
    assert_eq!((page[0].event.data[0], page[0].event.block), (2, block(6)));
    journal.close().await.unwrap();
}

#[tokio::test]
async fn steps_are_stored_and_survive() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch(1..=5, Some(1))).await.unwrap();
    let tx = hash(77);
    let steps = [
        (1, asked()),
        (2, asked()),
        (2, Step::Answered(answer(2, "two"))),
        (3, Step::Answered(answer(3, "three"))),
        (3, Step::Submitted { transaction: tx }),
        (4, Step::Failed { why: "no bucket".into() }),
        (4, hold(HoldReason::AccessDenied)),
        (5, Step::Settled(Outcome::Refused(Refusal::Malformed("no materials".into())))),
        (5, asked()),
        (99, asked()),
    ];
    for (id, step) in steps {
        journal.note(key(id), step).await.unwrap();
    }
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    let all = records(&journal, RequestFilter::Unfinished).await;
    let stages: Vec<_> = all.iter().map(RequestRecord::stage).collect();
    let expected = [
        Stage::Asked,
        Stage::Answered(answer(2, "two")),
        Stage::Submitted(answer(3, "three")),
        Stage::Arrived,
    ];
    assert_eq!(stages, expected);
    let cores: Vec<_> = all.iter().map(|one| one.progress.asked_core.clone()).collect();
    assert_eq!(cores, [Some("core:50051".into()), Some("core:50051".into()), None, None]);
    let fourth = &all[3].progress;
    let why = fourth.held.as_ref().map(|held| &held.hold);
    assert_eq!(why, Some(&Hold::new(HoldReason::AccessDenied, "do something")));
    assert_eq!(fourth.attempts, 1);
    let third = journal.request(key(3)).await.unwrap().unwrap().progress;
    assert_eq!(third.transaction, Some(tx));
    assert!(third.submitted_at_ms >= third.answered_at_ms && third.answered_at_ms.is_some());
    let fifth = journal.request(key(5)).await.unwrap().unwrap();
    let refused = Outcome::Refused(Refusal::Malformed("no materials".into()));
    assert_eq!(fifth.progress.outcome, Some(refused));
    assert!(fifth.progress.asked_at_ms.is_none(), "a settled request never changes");
    assert_eq!(journal.request(key(99)).await.unwrap(), None);

    assert_eq!(keys(&journal, RequestFilter::Held).await, [4]);
    let held = records(&journal, RequestFilter::Held).await;
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].progress.held.as_ref().unwrap().hold.reason, HoldReason::AccessDenied);
    assert_eq!(held[0].progress.last_error.as_deref(), Some("no bucket"));

    let counts = journal.ask(Query::Counts).await.unwrap();
    let stages = [StageName::Arrived, StageName::Asked, StageName::Answered, StageName::Submitted];
    assert_eq!(counts.unfinished, BTreeMap::from(stages.map(|stage| (stage, 1))));
    assert_eq!(counts.held, BTreeMap::from([("access_denied", 1)]));
    assert_eq!(counts.settled, BTreeMap::from([("refused".to_owned(), 1)]));
    assert!(counts.oldest_unfinished_ms.is_some());
    assert_eq!(counts.oldest_failing, None, "what is held is told by its reason");
    journal.note(key(1), Step::Failed { why: "no answer".into() }).await.unwrap();
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    let failing = journal.ask(Query::Counts).await.unwrap().oldest_failing;
    assert_eq!(failing.map(|failing| failing.last_error).as_deref(), Some("no answer"));
    journal.close().await.unwrap();
}

/// The metrics count what is stored: a step without effect counts nothing.
#[tokio::test]
async fn what_settles_is_counted_once() {
    let dir = TempDir::new().unwrap();
    let (journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let metrics = Metrics::new();
    let journal = Running::counting((journal, writer), metrics.clone());
    journal.store_batch(batch(1..=3, Some(1))).await.unwrap();
    let accepted = Outcome::Accepted { transaction: hash(9), block: block(6) };
    for _ in 0..3 {
        journal.note(key(1), Step::Settled(accepted.clone())).await.unwrap();
        journal.note(key(9), Step::Settled(accepted.clone())).await.unwrap();
    }
    journal.note(key(2), Step::Settled(Outcome::Expired)).await.unwrap();
    journal.note(key(3), asked()).await.unwrap();
    journal.flush().await.unwrap();
    let ended = metrics.ended();
    assert_eq!((ended.answered, ended.otherwise), (1, 1));
    assert!(ended.quantile(0.5).is_some());
    journal.close().await.unwrap();
}

#[tokio::test]
async fn c11_skipped_logs_are_stored_once_and_pruned() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let batch = |count: u64| {
        let log = |log_index| Event { log_index, ..event(8, 40) };
        let skipped = (0..count).map(|index| (log(index), "too short".to_owned()));
        Batch { skipped: skipped.collect(), cursor: Some(block(8)), ..Batch::default() }
    };
    for (count, new) in [(1, vec![0]), (1, vec![]), (1500, (1..1500).collect::<Vec<usize>>())] {
        let taken = journal.store_batch(batch(count)).await.unwrap();
        assert_eq!((taken.new.len(), taken.skipped), (0, new));
    }
    assert_eq!(journal.ask(Query::Counts).await.unwrap().skipped_logs, 1500);
    for (before, final_block, gone) in [(0, 8, 0), (u64::MAX, 7, 0), (u64::MAX, 8, 1500)] {
        let pruned = journal.prune(before, final_block).await.unwrap();
        assert_eq!(pruned, Pruned { skipped_logs: gone, ..Pruned::default() });
    }
    assert_eq!(journal.ask(Query::Counts).await.unwrap().skipped_logs, 0);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn pruning_takes_what_is_old_settled_and_final() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let accepted =
        |number| Step::Settled(Outcome::Accepted { transaction: hash(1), block: block(number) });
    journal.store_batch(batch(1..=1500, Some(1))).await.unwrap();
    for id in 1..=1200 {
        journal.note(key(id), Step::Answered(answer(id, "bytes"))).await.unwrap();
        journal.note(key(id), accepted(if id > 1100 { 900 } else { 50 })).await.unwrap();
    }
    let transactions = vec![
        signed(0, 0, Some(key(1))),    // mined, final, settled: goes
        signed(0, 1, Some(key(1))),    // lost its nonce to the above: goes
        signed(1, 0, Some(key(1300))), // its request is open: stays
        signed(2, 0, None),            // a filler, mined and final: goes
        signed(3, 0, None),            // lost its nonce to a stranger below a final nonce: goes
        signed(4, 0, Some(key(2))),    // mined, final: goes
        signed(5, 0, Some(key(3))),    // mined, not final: stays
        signed(6, 0, Some(key(4))),    // open: stays
        signed(7, 0, Some(key(5))),    // the highest nonce: stays though mined and final
    ];
    journal.record_signed(transactions).await.unwrap();
    for (nonce, number) in [(0, 50), (1, 50), (2, 51), (4, 52), (5, 900)] {
        journal.record_mined(signed(nonce, 0, None).id(), block(number)).await.unwrap();
    }
    assert_eq!(journal.prune(0, u64::MAX).await.unwrap(), Pruned::default(), "nothing is old yet");

    let commits = journal.statistics().commits;
    let pruned = journal.prune(u64::MAX, 100).await.unwrap();
    assert_eq!(pruned, Pruned { requests: 1100, transactions: 5, skipped_logs: 0 });
    assert!(journal.statistics().commits >= commits + 3, "in chunks");
    assert_eq!(journal.prune(u64::MAX, 100).await.unwrap(), Pruned::default());
    let nonces =
        |open: Vec<SignedTransaction>| -> Vec<u64> { open.iter().map(|one| one.nonce).collect() };
    assert_eq!(nonces(journal.ask(Query::OpenTransactions).await.unwrap()), [6, 7]);
    let counts = journal.ask(Query::Counts).await.unwrap();
    assert_eq!(counts.unfinished, BTreeMap::from([(StageName::Arrived, 300)]));
    assert_eq!(counts.settled, BTreeMap::from([("accepted".to_owned(), 100)]));

    journal.record_mined(signed(6, 0, None).id(), block(901)).await.unwrap();
    journal.record_mined(signed(7, 0, None).id(), block(902)).await.unwrap();
    let pruned = journal.prune(u64::MAX, 1000).await.unwrap();
    assert_eq!(pruned, Pruned { requests: 100, transactions: 2, skipped_logs: 0 });
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), Some(7));
    assert!(journal.ask(|slot| Query::TransactionsOf(key(1300), slot)).await.unwrap().len() == 1);
    journal.close().await.unwrap();

    let connection =
        Connection::open(dir.path().join(identity().file_stem() + ".sqlite3")).unwrap();
    for (table, rows) in [("requests", 300), ("events", 300), ("answers", 0), ("transactions", 2)] {
        let sql = format!("SELECT count(*) FROM {table}");
        let count: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(count, rows, "{table}");
    }
}

#[tokio::test]
async fn standing_sees_what_was_noted_just_before() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch([1], Some(1))).await.unwrap();
    assert_eq!(journal.request_state(key(2)).await.unwrap(), None, "not known");
    journal.note(key(1), Step::Answered(answer(1, "a"))).await.unwrap();
    journal.note(key(1), Step::WorkTime(Duration::from_millis(70))).await.unwrap();
    journal.note(key(1), hold(HoldReason::CoreFailed)).await.unwrap();
    journal.note(key(1), Step::WorkTime(Duration::from_millis(30))).await.unwrap();
    let note = AccessNote { bound_context: Some(U256::from(7)), record: "one\n  two".to_owned() };
    journal.note(key(1), Step::AccessChecked(AccessNote::default())).await.unwrap();
    journal.note(key(1), Step::AccessChecked(note.clone())).await.unwrap();
    let standing = journal.request_state(key(1)).await.unwrap().unwrap();
    assert_eq!(
        standing,
        RequestState {
            stage: Stage::Answered(answer(1, "a")),
            held: Some(HoldReason::CoreFailed),
            worked: Duration::from_millis(100),
            bound_context: note.bound_context,
            is_approved: false,
        }
    );
    assert_eq!(journal.request(key(1)).await.unwrap().unwrap().access, Some(note));
    journal.note(key(1), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    assert_eq!(journal.request_state(key(1)).await.unwrap(), None, "settled");
}

#[tokio::test]
async fn a_request_of_a_reorganised_chain_takes_over_its_new_block() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch([1, 2, 3], Some(5))).await.unwrap();
    journal.note(key(1), Step::Answered(answer(1, "a"))).await.unwrap();
    let settled = Outcome::Accepted { transaction: hash(9), block: block(6) };
    journal.note(key(2), Step::Settled(settled.clone())).await.unwrap();
    journal.note(key(3), Step::Settled(Outcome::Expired)).await.unwrap();
    let moved = |cursor: Option<u64>| {
        let mut moved = batch([1, 2, 3], cursor);
        for arrival in &mut moved.arrivals {
            arrival.event.block = BlockRef { number: 7, hash: B256::repeat_byte(0x77) };
            arrival.event.log_index = 9;
        }
        moved
    };
    // From a single node: an unsettled request moves, a settled one stays.
    assert_eq!(journal.store_batch(moved(None)).await.unwrap(), StoredBatch::default());
    assert_eq!(journal.request(key(2)).await.unwrap().unwrap().progress.outcome, Some(settled));
    let first = journal.request(key(1)).await.unwrap().unwrap();
    assert_eq!((first.event.block.number, first.event.log_index), (7, 9));
    assert_eq!(first.answer, Some(answer(1, "a")), "the answer stays");
    // Read block by block: requests that the chain had settled are open again, those that we gave up are
    // not.
    let taken = journal.store_batch(moved(Some(7))).await.unwrap();
    assert_eq!(taken, StoredBatch { reopened: vec![1], ..StoredBatch::default() });
    assert!(journal.request_state(key(2)).await.unwrap().is_some());
    assert_eq!(journal.request_state(key(3)).await.unwrap(), None);
    assert_eq!(
        journal.store_batch(moved(Some(7))).await.unwrap(),
        StoredBatch::default(),
        "only once"
    );
}

#[tokio::test]
async fn a0_known_ids_are_stored_with_the_batch_that_showed_them() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let run = |counter, first| IdRange { counter, first, last: 9, first_block: 3, last_block: 5 };
    let of_both = vec![run(Counter::Public, 1), run(Counter::User, 4)];
    let known = Batch { ids: Some(of_both.clone()), ..batch([1, 2], Some(5)) };
    running.journal.store_batch(known).await.unwrap();
    running.journal.store_batch(batch([3], Some(6))).await.unwrap();
    assert_eq!(
        running.journal.ask(Query::SeenIds).await.unwrap(),
        of_both,
        "they have not changed"
    );
    let fewer = vec![run(Counter::Common, 2)];
    let known = Batch { ids: Some(fewer.clone()), ..Batch::default() };
    running.journal.store_batch(known).await.unwrap();
    running.close().await.unwrap();
    assert_eq!(Running::open(dir.path()).ask(Query::SeenIds).await.unwrap(), fewer);
}

/// They are needed to forget ids of a reorganisation after a restart.
#[tokio::test]
async fn a0_the_newest_requests_are_told_with_their_blocks() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    running.journal.store_batch(batch([7, 2], Some(8))).await.unwrap();
    running.journal.store_batch(batch([5], Some(9))).await.unwrap();
    let newest = running.journal.newest_ids().await.unwrap();
    assert_eq!(newest, [7, 2, 5].map(|id| (U256::from(id), id)));
}

#[tokio::test]
async fn c0_whether_a_request_was_answered_is_told_by_its_id() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch(1..=5, Some(5))).await.unwrap();
    journal.note(key(2), Step::Answered(answer(2, "two"))).await.unwrap();
    journal.note(key(3), Step::Answered(answer(3, "three"))).await.unwrap();
    journal.note(key(3), Step::Submitted { transaction: hash(3) }).await.unwrap();
    journal.note(key(4), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.note(key(5), Step::Settled(Outcome::Expired)).await.unwrap();
    journal.flush().await.unwrap();
    let ids = (1..=6).map(U256::from).collect();
    let (yes, no) = (AnsweredHere::Yes, AnsweredHere::No);
    let expected = [no, no, yes, yes, no, AnsweredHere::Unknown];
    assert_eq!(journal.answered_here(ids).await.unwrap(), expected);
}

/// The chain went to another fork and came back: the request is in its first block again.
#[tokio::test]
async fn a14_an_orphan_is_open_again_where_the_chain_is_what_it_was() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    journal.note(key(1), Step::Settled(Outcome::Orphaned)).await.unwrap();
    journal.note(key(2), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    // Read block by block, or found later in a block whose logs a node had hidden.
    for cursor in [Some(5), None] {
        let back = journal.store_batch(batch([1, 2], cursor)).await.unwrap();
        assert_eq!(back, StoredBatch { reopened: vec![0], ..StoredBatch::default() });
        assert!(journal.request_state(key(1)).await.unwrap().is_some());
        let again = journal.store_batch(batch([1, 2], cursor)).await.unwrap();
        assert_eq!(again, StoredBatch::default(), "only once");
        journal.note(key(1), Step::Settled(Outcome::Orphaned)).await.unwrap();
    }
}

/// A node goes on showing blocks that have left the chain.
#[tokio::test]
async fn a14_a_log_of_a_block_that_left_the_chain_neither_opens_nor_moves_a_request() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch([1, 2], Some(5))).await.unwrap();
    journal.note(key(1), Step::Settled(Outcome::Orphaned)).await.unwrap();
    let stale = |id| {
        let event = Event { block: block(77), ..event(id, 100) };
        Arrival { event, seen: Sighting::Stale, ..arrival(id) }
    };
    let shown = Batch { arrivals: vec![stale(1), stale(2), stale(3)], ..Batch::default() };
    let stored = journal.store_batch(shown).await.unwrap();
    // Whether what is new was ever on chain is found out by its walk.
    assert_eq!(stored, StoredBatch { new: vec![2], ..StoredBatch::default() });
    assert!(journal.request_state(key(1)).await.unwrap().is_none());
    assert_eq!(journal.request(key(2)).await.unwrap().unwrap().event, event(2, 100));
    journal.close().await.unwrap();
}

/// The same after a restart, when nobody remembers which blocks were read: the journal knows to whom the id
/// belongs by now.
#[tokio::test]
async fn a14_an_orphan_whose_id_was_answered_as_another_ones_stays_one() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let other = RequestKey { content: hash(77), ..key(1) };
    let of_other = || Arrival { key: other, event: event(1, 101), ..arrival(1) };
    journal.store_batch(batch([1], Some(5))).await.unwrap();
    journal.note(key(1), Step::Settled(Outcome::Orphaned)).await.unwrap();
    let arrivals = vec![of_other()];
    journal.store_batch(Batch { arrivals, ..Batch::default() }).await.unwrap();
    let shown = |seen| Batch { arrivals: vec![Arrival { seen, ..arrival(1) }], ..Batch::default() };
    // Nobody was answered: it may be back.
    let stored = journal.store_batch(shown(Sighting::Found)).await.unwrap();
    assert_eq!(stored.reopened, [0]);
    journal.note(key(1), Step::Settled(Outcome::Orphaned)).await.unwrap();
    let accepted = Outcome::Accepted { transaction: hash(9), block: block(6) };
    journal.note(other, Step::Settled(accepted)).await.unwrap();
    let stored = journal.store_batch(shown(Sighting::Found)).await.unwrap();
    assert_eq!(stored, StoredBatch::default());
    assert!(journal.request_state(key(1)).await.unwrap().is_none());
    // The chain itself is back there.
    let stored = journal.store_batch(shown(Sighting::Joined)).await.unwrap();
    assert_eq!(stored.reopened, [0]);
    journal.close().await.unwrap();
}
