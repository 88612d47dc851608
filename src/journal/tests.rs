//! The journal from outside: what is stored, what comes back, what an operator is told.

mod reading;
mod crash;
mod damage;
mod listing;
mod model;
mod succession;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    domain::{Bytes, HoldReason, Outcome, Refusal, U256},
    flow::ledger::{Answered, Arrival, IdRun},
    gateway::abi::Counter,
    heart::Heart,
    metrics::Metrics,
};

const CONTRACT: Address = Address::repeat_byte(0xdc);

fn identity() -> Identity {
    Identity {
        chain_id: 31337,
        genesis: B256::repeat_byte(0x9e),
        wallet: Address::repeat_byte(0xaa),
    }
}

fn block(number: u64) -> BlockRef {
    BlockRef { number, hash: hash(number) }
}

fn hash(number: u64) -> B256 {
    B256::from(U256::from(number) << 8)
}

fn key(id: u64) -> RequestKey {
    RequestKey { id: U256::from(id), content: B256::repeat_byte(0xc0) }
}

fn event(number: u64, data: usize) -> Event {
    Event {
        block: block(number),
        transaction: hash(number + 1_000_000),
        log_index: 3,
        topics: vec![B256::repeat_byte(1), hash(number)],
        data: Bytes::from(vec![0x5a; data]),
    }
}

fn arrival(id: u64) -> Arrival {
    let kind = if id.is_multiple_of(2) { Kind::PublicDecryption } else { Kind::UserDecryption };
    Arrival { key: key(id), kind, event: event(id, 100) }
}

fn batch(ids: impl IntoIterator<Item = u64>, cursor: Option<u64>) -> Batch {
    Batch {
        arrivals: ids.into_iter().map(arrival).collect(),
        cursor: cursor.map(block),
        ..Batch::default()
    }
}

fn answer(text: &str) -> Answer {
    Answer {
        payload: Bytes::from(text.as_bytes().to_vec()),
        signature: Bytes::from(vec![7; 65]),
        extra_data: Bytes::from_static(&[0]),
    }
}

fn signed(nonce: u64, variant: u64, request: Option<RequestKey>) -> SignedTransaction {
    let raw = Bytes::from(vec![2; 200]);
    SignedTransaction { nonce, hash: hash(nonce * 100 + variant), raw, request }
}

fn hold(reason: HoldReason) -> Step {
    Step::Held(Hold::new(reason, "do something"))
}

/// A journal with its writer running.
struct Running {
    journal: Journal,
    stop: CancellationToken,
    writer: JoinSet<Result<Kept, JournalError>>,
}

impl Running {
    fn open(dir: &Path) -> Self {
        Self::start(Journal::open(dir, identity(), CONTRACT).unwrap())
    }

    fn start(opened: (Journal, Writer)) -> Self {
        Self::counting(opened, Metrics::default())
    }

    fn counting((journal, writer): (Journal, Writer), metrics: Metrics) -> Self {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(writer.run(Heart::default(), metrics, stop.clone()));
        Self { journal, stop, writer: tasks }
    }

    async fn close(self) -> Result<(), JournalError> {
        self.keep().await.map(drop)
    }

    async fn keep(mut self) -> Result<Kept, JournalError> {
        self.stop.cancel();
        self.writer.join_next().await.unwrap().unwrap()
    }
}

impl std::ops::Deref for Running {
    type Target = Journal;
    fn deref(&self) -> &Journal {
        &self.journal
    }
}

async fn keys(journal: &Journal, holds: Holds) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = journal.unfinished(after, 3, holds).await.unwrap();
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { return found };
        after = Some(last.position);
        found.extend(page.iter().map(|request| request.key.id.to::<u64>()));
    }
}

/// Field failure T10.
#[tokio::test]
async fn requests_and_cursor_come_back_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    assert!(journal.is_empty().await.unwrap());
    assert_eq!(journal.cursor().await.unwrap(), None);
    assert_eq!(journal.begun_after().await.unwrap(), None);
    assert_eq!(journal.arrive(batch([5, 3, 9], Some(10))).await.unwrap().new, [0, 1, 2]);
    assert_eq!(journal.begun_after().await.unwrap(), Some(10));
    assert_eq!(journal.arrive(batch([3, 4, 4, 5], None)).await.unwrap().new, [1]);
    assert_eq!(journal.arrive(batch([], Some(12))).await.unwrap().new, [0; 0]);
    assert_eq!(journal.arrive(batch([], Some(10))).await.unwrap().new, [0; 0]);
    assert_eq!(journal.begun_after().await.unwrap(), Some(10), "later cursors do not move it");
    assert!(!journal.is_empty().await.unwrap());
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    assert_eq!(journal.cursor().await.unwrap(), Some(block(10)));
    assert_eq!(keys(&journal, Holds::Included).await, [5, 3, 9, 4]);
    let page = journal.unfinished(None, 1, Holds::Included).await.unwrap();
    assert_eq!((&page[0].event, page[0].kind), (&event(5, 100), Kind::UserDecryption));
    assert_eq!((&page[0].stage, &page[0].held, page[0].attempts), (&Stage::Arrived, &None, 0));
    assert!(page[0].arrived_at_ms > 0);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn the_same_id_with_other_content_is_another_request() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let mut reorged = arrival(5);
    reorged.key.content = B256::repeat_byte(0xc1);
    let both = Batch { arrivals: vec![arrival(5), reorged], ..Batch::default() };
    assert_eq!(journal.arrive(both).await.unwrap().new, [0, 1]);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn steps_are_stored_and_survive() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.arrive(batch(1..=5, Some(1))).await.unwrap();
    let tx = hash(77);
    let steps = [
        (1, Step::Asked),
        (2, Step::Asked),
        (2, Step::Answered(answer("two"))),
        (3, Step::Answered(answer("three"))),
        (3, Step::Submitted { transaction: tx }),
        (4, Step::Failed { why: "no bucket".into() }),
        (4, hold(HoldReason::AccessDenied)),
        (5, Step::Settled(Outcome::Refused(Refusal::Malformed("no materials".into())))),
        (5, Step::Asked),
        (99, Step::Asked),
    ];
    for (id, step) in steps {
        journal.note(key(id), step).await.unwrap();
    }
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    let all = journal.unfinished(None, 10, Holds::Included).await.unwrap();
    let stages: Vec<_> = all.iter().map(|request| request.stage.clone()).collect();
    let expected = [
        Stage::Asked,
        Stage::Answered(answer("two")),
        Stage::Submitted(answer("three")),
        Stage::Arrived,
    ];
    assert_eq!(stages, expected);
    assert_eq!(all[3].held, Some(Hold::new(HoldReason::AccessDenied, "do something")));
    assert_eq!(all[3].attempts, 1);
    let third = journal.request(key(3)).await.unwrap().unwrap().progress;
    assert_eq!(third.transaction, Some(tx));
    assert!(third.submitted_at_ms >= third.answered_at_ms && third.answered_at_ms.is_some());
    let fifth = journal.request(key(5)).await.unwrap().unwrap();
    let refused = Outcome::Refused(Refusal::Malformed("no materials".into()));
    assert_eq!(fifth.progress.outcome, Some(refused));
    assert!(fifth.progress.asked_at_ms.is_none(), "a settled request never changes");
    assert_eq!(journal.request(key(99)).await.unwrap(), None);

    assert_eq!(keys(&journal, Holds::Excluded).await, [1, 2, 3]);
    assert_eq!(keys(&journal, Holds::Only).await, [4]);
    let held = journal.held(None, 10).await.unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].held.hold.reason, HoldReason::AccessDenied);
    assert_eq!(held[0].progress.last_error.as_deref(), Some("no bucket"));

    let counts = journal.counts().await.unwrap();
    let stages = [StageName::Arrived, StageName::Asked, StageName::Answered, StageName::Submitted];
    assert_eq!(counts.unfinished, BTreeMap::from(stages.map(|stage| (stage, 1))));
    assert_eq!(counts.held, BTreeMap::from([("access_denied", 1)]));
    assert_eq!(counts.settled, BTreeMap::from([("refused".to_owned(), 1)]));
    assert!(counts.oldest_unfinished_ms.is_some());
    assert_eq!(counts.oldest_failing, None, "what is held is told by its reason");
    journal.note(key(1), Step::Failed { why: "no answer".into() }).await.unwrap();
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    let failing = journal.counts().await.unwrap().oldest_failing;
    assert_eq!(failing.map(|failing| failing.last_error).as_deref(), Some("no answer"));
    journal.close().await.unwrap();
}

/// What the metrics say is what is stored: a step that changes nothing counts nothing.
#[tokio::test]
async fn what_settles_is_counted_once() {
    let dir = TempDir::new().unwrap();
    let (journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let metrics = Metrics::new();
    let journal = Running::counting((journal, writer), metrics.clone());
    journal.arrive(batch(1..=3, Some(1))).await.unwrap();
    let accepted = Outcome::Accepted { transaction: hash(9), block: block(6) };
    for _ in 0..3 {
        journal.note(key(1), Step::Settled(accepted.clone())).await.unwrap();
        journal.note(key(9), Step::Settled(accepted.clone())).await.unwrap();
    }
    journal.note(key(2), Step::Settled(Outcome::Expired)).await.unwrap();
    journal.note(key(3), Step::Asked).await.unwrap();
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
        let taken = journal.arrive(batch(count)).await.unwrap();
        assert_eq!((taken.new.len(), taken.skipped), (0, new));
    }
    assert_eq!(journal.counts().await.unwrap().skipped_logs, 1500);
    for (before, final_block, gone) in [(0, 8, 0), (u64::MAX, 7, 0), (u64::MAX, 8, 1500)] {
        let pruned = journal.prune(before, final_block).await.unwrap();
        assert_eq!(pruned, Pruned { skipped_logs: gone, ..Pruned::default() });
    }
    assert_eq!(journal.counts().await.unwrap().skipped_logs, 0);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn transactions_are_followed_by_nonce() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.highest_nonce().await.unwrap(), None);
    let first = signed(4, 0, Some(key(1)));
    let bumped = signed(4, 1, Some(key(1)));
    let filler = signed(6, 0, None);
    journal.signed(vec![filler.clone(), first.clone()]).await.unwrap();
    journal.signed(vec![bumped.clone(), first.clone()]).await.unwrap();
    let open = journal.open_transactions().await.unwrap();
    assert_eq!(open, [first.clone(), bumped.clone(), filler.clone()]);
    assert_eq!(journal.highest_nonce().await.unwrap(), Some(6));

    journal.mined(bumped.id(), block(50)).await.unwrap();
    journal.mined(TransactionId { nonce: 1, hash: hash(123_456) }, block(50)).await.unwrap();
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    assert_eq!(journal.open_transactions().await.unwrap(), [filler], "a mined nonce is closed");
    let of = journal.transactions_of(key(1)).await.unwrap();
    assert_eq!(of.iter().map(|one| one.mined).collect::<Vec<_>>(), [None, Some(block(50))]);
    assert_eq!([&of[0].transaction, &of[1].transaction], [&first, &bumped]);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn another_contract_shares_the_lane_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.arrive(batch([1], Some(7))).await.unwrap();
    journal.signed(vec![signed(0, 0, Some(key(1)))]).await.unwrap();
    journal.close().await.unwrap();

    let other = Address::repeat_byte(0xdd);
    let journal = Running::start(Journal::open(dir.path(), identity(), other).unwrap());
    assert_eq!(journal.cursor().await.unwrap(), None);
    assert!(journal.unfinished(None, 10, Holds::Included).await.unwrap().is_empty());
    assert_eq!(journal.arrive(batch([1], None)).await.unwrap().new, [0]);
    assert_eq!(journal.open_transactions().await.unwrap().len(), 1);
    assert_eq!(journal.highest_nonce().await.unwrap(), Some(0));
    assert!(!journal.is_empty().await.unwrap());
    journal.close().await.unwrap();
}

#[tokio::test]
async fn pruning_takes_what_is_old_settled_and_final() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let accepted =
        |number| Step::Settled(Outcome::Accepted { transaction: hash(1), block: block(number) });
    journal.arrive(batch(1..=1500, Some(1))).await.unwrap();
    for id in 1..=1200 {
        journal.note(key(id), Step::Answered(answer("bytes"))).await.unwrap();
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
    journal.signed(transactions).await.unwrap();
    for (nonce, number) in [(0, 50), (1, 50), (2, 51), (4, 52), (5, 900)] {
        journal.mined(signed(nonce, 0, None).id(), block(number)).await.unwrap();
    }
    assert_eq!(journal.prune(0, u64::MAX).await.unwrap(), Pruned::default(), "nothing is old yet");

    let commits = journal.statistics().commits;
    let pruned = journal.prune(u64::MAX, 100).await.unwrap();
    assert_eq!(pruned, Pruned { requests: 1100, transactions: 5, skipped_logs: 0 });
    assert!(journal.statistics().commits >= commits + 3, "in chunks");
    assert_eq!(journal.prune(u64::MAX, 100).await.unwrap(), Pruned::default());
    let nonces =
        |open: Vec<SignedTransaction>| -> Vec<u64> { open.iter().map(|one| one.nonce).collect() };
    assert_eq!(nonces(journal.open_transactions().await.unwrap()), [6, 7]);
    let counts = journal.counts().await.unwrap();
    assert_eq!(counts.unfinished, BTreeMap::from([(StageName::Arrived, 300)]));
    assert_eq!(counts.settled, BTreeMap::from([("accepted".to_owned(), 100)]));

    journal.mined(signed(6, 0, None).id(), block(901)).await.unwrap();
    journal.mined(signed(7, 0, None).id(), block(902)).await.unwrap();
    let pruned = journal.prune(u64::MAX, 1000).await.unwrap();
    assert_eq!(pruned, Pruned { requests: 100, transactions: 2, skipped_logs: 0 });
    assert_eq!(journal.highest_nonce().await.unwrap(), Some(7));
    assert!(journal.transactions_of(key(1300)).await.unwrap().len() == 1);
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
async fn many_callers_share_few_commits() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let journal = journal.journal.clone();
        callers.spawn(async move {
            for turn in 0..10 {
                let id = caller * 100 + turn;
                assert_eq!(journal.arrive(batch([id], None)).await.unwrap().new, [0]);
                journal.note(key(id), Step::Asked).await.unwrap();
                journal.signed(vec![signed(id, 0, Some(key(id)))]).await.unwrap();
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let Statistics { commits, commands, durable, .. } = journal.statistics();
    assert_eq!((commands, durable), (64 * 30, 64 * 20));
    assert!(commits * 4 <= durable, "{commits} commits for {durable} durable commands");
    assert_eq!(journal.counts().await.unwrap().unfinished[&StageName::Asked], 640);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn steps_alone_share_commits_and_arrive_without_a_durable_command() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.arrive(batch(0..500, None)).await.unwrap();
    for id in 0..500 {
        journal.note(key(id), Step::Asked).await.unwrap();
    }
    while journal.counts().await.unwrap().unfinished.get(&StageName::Asked) != Some(&500) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let commits = journal.statistics().commits;
    assert!(commits <= 100, "{commits} commits for 500 steps");
    journal.close().await.unwrap();
}

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
    // A handle that outlives its writer keeps nobody out, and says what happened.
    let error = journal.arrive(batch([1], None)).await.unwrap_err();
    assert!(error.to_string().contains("is closed"), "{error}");
    assert!(matches!(journal.cursor().await, Err(JournalError::Closed { .. })));
    let running = Running::open(dir.path());
    running.close().await.unwrap();
    Journal::open(dir.path(), identity(), CONTRACT).unwrap();
}

#[tokio::test]
async fn what_is_queued_when_the_stop_comes_is_stored() {
    let dir = TempDir::new().unwrap();
    let (journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let caller = {
        let journal = journal.clone();
        async move { journal.arrive(batch([1, 2], Some(3))).await }
    };
    // The caller is polled first: its command is in the queue when the writer sees the stop.
    let writing = writer.run(Heart::default(), Metrics::default(), stop);
    let (arrived, ended) = tokio::join!(biased; caller, writing);
    assert_eq!(arrived.unwrap().new, [0, 1]);
    ended.unwrap();
    journal.note(key(1), Step::Asked).await.unwrap_err();
    let journal = Running::open(dir.path());
    assert_eq!(keys(&journal, Holds::Included).await, [1, 2]);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_writer_dropped_in_mid_commit_loses_nothing_it_answered() {
    let dir = TempDir::new().unwrap();
    let mut next = 0;
    for _ in 0..20 {
        let mut running = Running::open(dir.path());
        let mut calls = JoinSet::new();
        for id in next..next + 8 {
            let journal = running.journal.clone();
            calls.spawn(async move { (id, journal.arrive(batch([id], None)).await.is_ok()) });
        }
        next += 8;
        let mut stored = Vec::new();
        while let Some(call) = calls.join_next().await {
            let (id, ok) = call.unwrap();
            stored.extend(ok.then_some(id));
            running.writer.abort_all();
        }
        running.writer.join_next().await;
        drop(running);
        // The commit under way when the task was dropped may hold the lock a little longer.
        let reopened = loop {
            match Journal::open(dir.path(), identity(), CONTRACT) {
                Ok(open) => break Running::start(open),
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        };
        for id in stored {
            assert!(reopened.request(key(id)).await.unwrap().is_some(), "{id}");
        }
        reopened.close().await.unwrap();
    }
}

/// A journal whose file cannot grow: its disk is full, until [`make_room`].
async fn without_room(dir: &Path) -> Running {
    let (journal, writer) = Journal::open(dir, identity(), CONTRACT).unwrap();
    let ballast =
        "CREATE TABLE ballast (bytes BLOB); INSERT INTO ballast VALUES (zeroblob(2000000))";
    writer.connection().execute_batch(ballast).unwrap();
    // As many as there are.
    writer.connection().pragma_update(None, "max_page_count", 1).unwrap();
    let running = Running::start((journal, writer));
    running.arrive(batch([1], Some(1))).await.unwrap();
    running
}

/// The pages of the ballast are free.
fn make_room(journal: &Journal) {
    let other = Connection::open(journal.path()).unwrap();
    other.execute_batch("DROP TABLE ballast").unwrap();
}

/// Field failures T12, T48.
#[tokio::test]
async fn a_full_disk_makes_everybody_wait_and_goes_on_by_itself() {
    let dir = TempDir::new().unwrap();
    let running = without_room(dir.path()).await;
    let large = Arrival { event: event(2, 500_000), ..arrival(2) };
    let large =
        Batch { arrivals: vec![arrival(3), large], cursor: Some(block(2)), ..Batch::default() };
    let mut callers = JoinSet::new();
    let journal = running.journal.clone();
    callers.spawn(async move { journal.arrive(large).await.unwrap().new });
    let condition = running.condition();
    while condition.waits().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let why = condition.waits().unwrap();
    assert!(why.contains(".sqlite3") && why.contains("free space"), "{why}");
    // What comes meanwhile waits its turn; reads go on.
    running.note(key(1), Step::Asked).await.unwrap();
    assert_eq!(running.cursor().await.unwrap(), Some(block(1)));
    assert_eq!(running.request(key(3)).await.unwrap(), None, "all of a commit or nothing");
    assert!(callers.try_join_next().is_none(), "nobody is told of what is not stored");

    make_room(&running);
    assert_eq!(callers.join_next().await.unwrap().unwrap(), [0, 1]);
    running.flush().await.unwrap();
    assert_eq!(condition.waits(), None);
    assert_eq!(running.cursor().await.unwrap(), Some(block(2)));
    let first = running.request(key(1)).await.unwrap().unwrap();
    assert_eq!(first.progress.stage, StageName::Asked, "in the order it was said");
    running.close().await.unwrap();
}

/// Somebody's lock, which a commit waits for, plays a network mount that hangs: as long as nothing is
/// known of it, there is no answer.
#[tokio::test]
async fn d1_a_disk_that_hangs_is_told_within_seconds_and_goes_on_by_itself() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    running.arrive(batch([1], Some(1))).await.unwrap();
    let other = Connection::open(running.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut callers = JoinSet::new();
    let journal = running.journal.clone();
    callers.spawn(async move { journal.arrive(batch([2], Some(2))).await.unwrap().new });
    let condition = running.condition();
    let begun = std::time::Instant::now();
    while condition.waits().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() < schema::BUSY_TIMEOUT, "{:?}", begun.elapsed());
    let why = condition.waits().unwrap();
    assert!(why.contains(".sqlite3") && why.contains("no answer"), "{why}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(callers.join_next().await.unwrap().unwrap(), [0]);
    running.flush().await.unwrap();
    assert_eq!(condition.waits(), None);
    running.close().await.unwrap();
}

#[tokio::test]
async fn a_journal_that_finds_no_room_can_be_stopped() {
    let dir = TempDir::new().unwrap();
    let running = without_room(dir.path()).await;
    let journal = running.journal.clone();
    let mut callers = JoinSet::new();
    callers.spawn(async move {
        let large = Arrival { event: event(2, 500_000), ..arrival(2) };
        journal.arrive(Batch { arrivals: vec![large], ..Batch::default() }).await
    });
    let condition = running.condition();
    while condition.waits().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = running.close().await.unwrap_err();
    assert!(error.to_string().contains("free space"), "{error}");
    let told = callers.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(told.to_string().contains("free space"), "{told}");
    let again = Running::open(dir.path());
    assert_eq!(keys(&again, Holds::Included).await, [1]);
    again.close().await.unwrap();
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
        assert!(error.may_pass(), "{ending}: {error}");
        assert_eq!(fs::read(&precious).unwrap(), b"", "{ending}");
    }
    // The directory may well be one.
    let dir = TempDir::new().unwrap();
    let link = dir.path().join("state");
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
    Journal::open(&link, identity(), CONTRACT).unwrap();
}

/// A cut log shows what was written, not what was synced: that rests on this setting.
#[test]
fn commits_are_synced() {
    let dir = TempDir::new().unwrap();
    let (_journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let pragma = |name| -> String {
        let value = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
        format!("{:?}", writer.connection().pragma_query_value(None, name, value).unwrap())
    };
    assert_eq!(pragma("synchronous"), "Integer(2)", "FULL");
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
}

#[tokio::test]
async fn an_operator_reads_while_we_write() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.arrive(batch([1], None)).await.unwrap();
    let operator = Connection::open(journal.path()).unwrap();
    let count = || -> i64 {
        let sql = "SELECT count(*) FROM requests WHERE stage = 'arrived'";
        operator.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    operator.execute_batch("BEGIN").unwrap();
    assert_eq!(count(), 1);
    journal.arrive(batch([2], None)).await.unwrap();
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
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_page_is_found_when_opening() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.arrive(batch(0..400, Some(1))).await.unwrap();
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

/// Not a test of anything: prints what this machine does.
/// `cargo test --release --lib journal::tests::throughput -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let journal = Running::open(dir.path());
    let total = 100_000;
    let start = Instant::now();
    for first in (0..total).step_by(2000) {
        let arrivals = (first..first + 2000)
            .map(|id| Arrival { event: event(id, 1000), ..arrival(id) })
            .collect();
        let batch = Batch { arrivals, cursor: Some(block(first)), ..Batch::default() };
        assert_eq!(journal.arrive(batch).await.unwrap().new.len(), 2000);
    }
    let rate = |count: u32, start: Instant| f64::from(count) / start.elapsed().as_secs_f64();
    println!("requests stored per second, batches of 2000: {:.0}", rate(100_000, start));

    let start = Instant::now();
    for nonce in 0..500 {
        journal.signed(vec![signed(nonce, 0, None)]).await.unwrap();
    }
    println!("durable commits per second, one caller: {:.0}", rate(500, start));

    let (start, before) = (Instant::now(), journal.statistics());
    let mut callers = JoinSet::new();
    for caller in 0..256_u64 {
        let journal = journal.journal.clone();
        callers.spawn(async move {
            for turn in 0..40 {
                let nonce = 1000 + caller * 40 + turn;
                journal.signed(vec![signed(nonce, 0, Some(key(nonce)))]).await.unwrap();
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    println!("durable calls per second, 256 callers: {:.0}", rate(256 * 40, start));
    println!("commits for them: {}", journal.statistics().commits - before.commits);

    let start = Instant::now();
    for id in 0..20_000 {
        journal.note(key(id), Step::Asked).await.unwrap();
        journal.note(key(id), Step::Answered(answer(&"x".repeat(2000)))).await.unwrap();
        journal.note(key(id), Step::Submitted { transaction: hash(id) }).await.unwrap();
        journal.note(key(id), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    }
    journal.flush().await.unwrap();
    println!("steps per second: {:.0}", rate(80_000, start));

    let start = Instant::now();
    let mut after = None;
    let mut pages = 0;
    while let Some(last) = journal
        .unfinished(after, 1000, Holds::Included)
        .await
        .unwrap()
        .last()
        .map(|last| last.position)
    {
        after = Some(last);
        pages += 1;
    }
    println!("unfinished read per second: {:.0} ({pages} pages)", rate(80_000, start));
    let start = Instant::now();
    journal.counts().await.unwrap();
    println!("counts over 100,000 requests: {:?}", start.elapsed());
    let start = Instant::now();
    println!(
        "pruned {:?} in {:?}",
        journal.prune(u64::MAX, u64::MAX).await.unwrap(),
        start.elapsed()
    );
    println!("file: {} MiB", fs::metadata(journal.path()).unwrap().len() / 1024 / 1024);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn standing_sees_what_was_noted_just_before() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.arrive(batch([1], Some(1))).await.unwrap();
    assert_eq!(journal.standing(key(2)).await.unwrap(), None, "not known");
    journal.note(key(1), Step::Answered(answer("a"))).await.unwrap();
    journal.note(key(1), Step::Worked(Duration::from_millis(70))).await.unwrap();
    journal.note(key(1), hold(HoldReason::CoreFailed)).await.unwrap();
    journal.note(key(1), Step::Worked(Duration::from_millis(30))).await.unwrap();
    let standing = journal.standing(key(1)).await.unwrap().unwrap();
    assert_eq!(
        standing,
        Standing {
            stage: Stage::Answered(answer("a")),
            held: Some(HoldReason::CoreFailed),
            worked: Duration::from_millis(100),
        }
    );
    journal.note(key(1), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    assert_eq!(journal.standing(key(1)).await.unwrap(), None, "settled");
}

#[tokio::test]
async fn a_request_of_a_reorganised_chain_takes_over_its_new_block() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.arrive(batch([1, 2, 3], Some(5))).await.unwrap();
    journal.note(key(1), Step::Answered(answer("a"))).await.unwrap();
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
    // The word of one node only: an unsettled request moves, a settled one stays.
    assert_eq!(journal.arrive(moved(None)).await.unwrap(), Taken::default());
    assert_eq!(journal.request(key(2)).await.unwrap().unwrap().progress.outcome, Some(settled));
    let first = journal.request(key(1)).await.unwrap().unwrap();
    assert_eq!((first.event.block.number, first.event.log_index), (7, 9));
    assert_eq!(first.answer, Some(answer("a")), "the answer stays");
    // Read block by block: what the chain had settled is open again, what we gave up is not.
    let taken = journal.arrive(moved(Some(7))).await.unwrap();
    assert_eq!(taken, Taken { reopened: vec![1], ..Taken::default() });
    assert!(journal.standing(key(2)).await.unwrap().is_some());
    assert_eq!(journal.standing(key(3)).await.unwrap(), None);
    assert_eq!(journal.arrive(moved(Some(7))).await.unwrap(), Taken::default(), "only once");
}

#[tokio::test]
async fn a0_known_ids_are_stored_with_the_batch_that_showed_them() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let run = |counter, first| IdRun { counter, first, last: 9, first_block: 3, last_block: 5 };
    let of_both = vec![run(Counter::Public, 1), run(Counter::User, 4)];
    let known = Batch { ids: Some(of_both.clone()), ..batch([1, 2], Some(5)) };
    running.journal.arrive(known).await.unwrap();
    running.journal.arrive(batch([3], Some(6))).await.unwrap();
    assert_eq!(running.journal.seen_ids().await.unwrap(), of_both, "they have not changed");
    let fewer = vec![run(Counter::Common, 2)];
    let known = Batch { ids: Some(fewer.clone()), ..Batch::default() };
    running.journal.arrive(known).await.unwrap();
    running.close().await.unwrap();
    assert_eq!(Running::open(dir.path()).seen_ids().await.unwrap(), fewer);
}

/// So that a reorganisation after a restart takes ids along.
#[tokio::test]
async fn a0_the_newest_requests_are_told_with_their_blocks() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    running.journal.arrive(batch([7, 2], Some(8))).await.unwrap();
    running.journal.arrive(batch([5], Some(9))).await.unwrap();
    let newest = running.journal.newest_ids().await.unwrap();
    assert_eq!(newest, [7, 2, 5].map(|id| (U256::from(id), id)));
}

#[tokio::test]
async fn c0_whether_a_request_was_answered_is_told_by_its_id() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.arrive(batch(1..=5, Some(5))).await.unwrap();
    journal.note(key(2), Step::Answered(answer("two"))).await.unwrap();
    journal.note(key(3), Step::Answered(answer("three"))).await.unwrap();
    journal.note(key(3), Step::Submitted { transaction: hash(3) }).await.unwrap();
    journal.note(key(4), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.note(key(5), Step::Settled(Outcome::Expired)).await.unwrap();
    journal.flush().await.unwrap();
    let ids = (1..=6).map(U256::from).collect();
    let (yes, no) = (Answered::Yes, Answered::No);
    let expected = [no, no, yes, yes, no, Answered::Unknown];
    assert_eq!(journal.answered(ids).await.unwrap(), expected);
}

/// The chain went to another fork and came back: the request is in the block it was in.
#[tokio::test]
async fn a14_an_orphan_is_open_again_where_the_chain_is_what_it_was() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.arrive(batch([1, 2], Some(5))).await.unwrap();
    journal.note(key(1), Step::Settled(Outcome::Orphaned)).await.unwrap();
    journal.note(key(2), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    assert_eq!(journal.arrive(batch([1, 2], None)).await.unwrap(), Taken::default());
    let back = journal.arrive(batch([1, 2], Some(5))).await.unwrap();
    assert_eq!(back, Taken { reopened: vec![0], ..Taken::default() });
    assert!(journal.standing(key(1)).await.unwrap().is_some());
    assert_eq!(journal.arrive(batch([1, 2], Some(5))).await.unwrap(), Taken::default());
}

#[tokio::test]
async fn a_transaction_mined_for_a_request_without_outcome_is_looked_at_again() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.arrive(batch([1, 2], Some(1))).await.unwrap();
    let (first, second, other) =
        (signed(0, 0, Some(key(1))), signed(1, 0, Some(key(1))), signed(2, 0, Some(key(2))));
    journal.signed(vec![first.clone(), second.clone(), other.clone()]).await.unwrap();
    for transaction in [&first, &second, &other] {
        journal.mined(transaction.id(), block(3)).await.unwrap();
    }
    journal.note(key(2), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.unsettled_transactions().await.unwrap(), [second]);
    assert_eq!(journal.open_transactions().await.unwrap(), []);
}

/// A wrong count had one signed far beyond the others.
#[tokio::test]
async fn a9_what_was_mined_is_followed_whatever_was_signed_far_beyond() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let (mined, stranded) = (signed(11, 0, None), signed(1 << 40, 0, None));
    journal.signed(vec![mined.clone(), stranded.clone()]).await.unwrap();
    journal.mined(mined.id(), block(3)).await.unwrap();
    journal.flush().await.unwrap();
    let followed = journal.recently_mined(4096).await.unwrap();
    assert_eq!(followed.iter().map(|one| one.nonce).collect::<Vec<_>>(), [11]);
    journal.gave_up(vec![stranded.id()], GivenUp::Stranded).await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.recently_mined(4096).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_reorganisation_drops_is_open_again_and_so_is_its_request() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.arrive(batch([1, 2], Some(1))).await.unwrap();
    let first = signed(0, 0, Some(key(1)));
    let bumped = signed(0, 1, Some(key(1)));
    let other = signed(1, 0, Some(key(2)));
    journal.signed(vec![first.clone(), bumped.clone(), other.clone()]).await.unwrap();
    for (transaction, id) in [(&bumped, 1), (&other, 2)] {
        journal.note(key(id), Step::Answered(answer("yes"))).await.unwrap();
        journal.mined(transaction.id(), block(3)).await.unwrap();
        let outcome = Outcome::Accepted { transaction: transaction.hash, block: block(3) };
        journal.note(key(id), Step::Settled(outcome)).await.unwrap();
    }
    journal.flush().await.unwrap();
    let known = |one: &SignedTransaction| MinedTransaction {
        nonce: one.nonce,
        hash: one.hash,
        block: block(3),
    };
    let mined = journal.recently_mined(10).await.unwrap();
    assert_eq!(mined, [known(&bumped), known(&other)]);
    assert_eq!(journal.recently_mined(1).await.unwrap(), [known(&other)]);

    let open = journal.reopen(vec![bumped.id()]).await.unwrap();
    assert_eq!(open, [first.clone(), bumped.clone()], "all bytes of its nonce");
    tokio::time::timeout(Duration::from_secs(10), journal.reopened()).await.unwrap();
    journal.close().await.unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.open_transactions().await.unwrap(), [first, bumped.clone()]);
    let held = journal.held(None, 10).await.unwrap();
    assert_eq!(held.iter().map(|one| one.key).collect::<Vec<_>>(), [key(1)]);
    assert_eq!(held[0].held.hold.reason, HoldReason::AnswerDropped);
    let standing = journal.standing(key(1)).await.unwrap().expect("open");
    assert_eq!(standing.stage, Stage::Answered(answer("yes")), "nobody is asked again");
    assert!(journal.standing(key(2)).await.unwrap().is_none(), "the other one stands");
    journal.close().await.unwrap();
}

/// Found by the model of the lane: signatures are the same for the same bytes.
#[tokio::test]
async fn what_is_given_up_is_not_followed_until_it_is_signed_again() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let (kept, rejected) = (signed(0, 0, Some(key(1))), signed(1, 0, Some(key(2))));
    let displaced = signed(0, 1, None);
    let all = vec![kept.clone(), rejected.clone(), displaced.clone()];
    journal.signed(all).await.unwrap();
    journal.gave_up(vec![rejected.id()], GivenUp::Rejected).await.unwrap();
    journal.gave_up(vec![displaced.id()], GivenUp::Displaced).await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.open_transactions().await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(journal.highest_nonce().await.unwrap(), Some(0), "nonce 1 is free");
    journal.signed(vec![rejected.clone()]).await.unwrap();
    assert_eq!(journal.open_transactions().await.unwrap(), [kept, rejected]);
    assert_eq!(journal.highest_nonce().await.unwrap(), Some(1));
    journal.close().await.unwrap();
}
