//! How commands are grouped and committed, and how a full disk is handled.

use super::*;

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
                assert_eq!(journal.store_batch(batch([id], None)).await.unwrap().new, [0]);
                journal.note(key(id), asked()).await.unwrap();
                journal.record_signed(vec![signed(id, 0, Some(key(id)))]).await.unwrap();
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let Statistics { commits, commands, durable, .. } = journal.statistics();
    assert_eq!((commands, durable), (64 * 30, 64 * 20));
    assert!(commits * 4 <= durable, "{commits} commits for {durable} durable commands");
    assert_eq!(journal.ask(Query::Counts).await.unwrap().unfinished[&StageName::Asked], 640);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn steps_alone_share_commits_and_arrive_without_a_durable_command() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch(0..500, None)).await.unwrap();
    for id in 0..500 {
        journal.note(key(id), asked()).await.unwrap();
    }
    while journal.ask(Query::Counts).await.unwrap().unfinished.get(&StageName::Asked) != Some(&500)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let commits = journal.statistics().commits;
    assert!(commits <= 100, "{commits} commits for 500 steps");
    journal.close().await.unwrap();
}

#[tokio::test]
async fn what_is_queued_when_the_stop_comes_is_stored() {
    let dir = TempDir::new().unwrap();
    let (journal, writer) = Journal::open(dir.path(), identity(), CONTRACT).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let caller = {
        let journal = journal.clone();
        async move { journal.store_batch(batch([1, 2], Some(3))).await }
    };
    // The caller is polled first: its command is in the queue when the writer sees the stop.
    let writing = writer.run(Heartbeat::default(), Metrics::default(), stop);
    let (arrived, ended) = tokio::join!(biased; caller, writing);
    assert_eq!(arrived.unwrap().new, [0, 1]);
    ended.unwrap();
    journal.note(key(1), asked()).await.unwrap_err();
    let journal = Running::open(dir.path());
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2]);
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
            calls.spawn(async move { (id, journal.store_batch(batch([id], None)).await.is_ok()) });
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
        // The commit that ran when the task was dropped may hold the lock a little longer.
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

/// A journal whose file cannot grow, as on a full disk, until [`make_room`].
async fn without_room(dir: &Path) -> Running {
    let (journal, writer) = Journal::open(dir, identity(), CONTRACT).unwrap();
    let ballast =
        "CREATE TABLE ballast (bytes BLOB); INSERT INTO ballast VALUES (zeroblob(2000000))";
    writer.store().connection().execute_batch(ballast).unwrap();
    // The present number of pages.
    writer.store().connection().pragma_update(None, "max_page_count", 1).unwrap();
    let running = Running::start((journal, writer));
    running.store_batch(batch([1], Some(1))).await.unwrap();
    running
}

/// Frees the pages of the ballast.
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
    callers.spawn(async move { journal.store_batch(large).await.unwrap().new });
    let condition = running.condition();
    while condition.waiting_reason().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let why = condition.waiting_reason().unwrap().to_string();
    assert!(why.contains(".sqlite3") && why.contains("free space"), "{why}");
    // Later commands wait; reads continue.
    running.note(key(1), asked()).await.unwrap();
    assert_eq!(running.ask(Query::Cursor).await.unwrap(), Some(block(1)));
    assert_eq!(running.request(key(3)).await.unwrap(), None, "all of a commit or nothing");
    assert!(callers.try_join_next().is_none(), "nobody is told of what is not stored");

    make_room(&running);
    assert_eq!(callers.join_next().await.unwrap().unwrap(), [0, 1]);
    running.flush().await.unwrap();
    assert!(condition.waiting_reason().is_none());
    assert_eq!(running.ask(Query::Cursor).await.unwrap(), Some(block(2)));
    let first = running.request(key(1)).await.unwrap().unwrap();
    assert_eq!(first.progress.stage, StageName::Asked, "in the order it was said");
    running.close().await.unwrap();
}

/// Another process's lock, which a commit waits for, simulates a hanging network mount: as long as the
/// cause is unknown, there is no result.
#[tokio::test]
async fn d1_a_disk_that_hangs_is_told_within_seconds_and_goes_on_by_itself() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    running.store_batch(batch([1], Some(1))).await.unwrap();
    let other = Connection::open(running.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut callers = JoinSet::new();
    let journal = running.journal.clone();
    callers.spawn(async move { journal.store_batch(batch([2], Some(2))).await.unwrap().new });
    let condition = running.condition();
    let begun = std::time::Instant::now();
    while condition.waiting_reason().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let why = condition.waiting_reason().unwrap().to_string();
    assert!(why.contains(".sqlite3") && why.contains("no answer"), "{why}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(callers.join_next().await.unwrap().unwrap(), [0]);
    running.flush().await.unwrap();
    assert!(condition.waiting_reason().is_none());
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
        journal.store_batch(Batch { arrivals: vec![large], ..Batch::default() }).await
    });
    let condition = running.condition();
    while condition.waiting_reason().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = running.close().await.unwrap_err();
    assert!(error.to_string().contains("free space"), "{error}");
    let told = callers.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(told.to_string().contains("free space"), "{told}");
    let again = Running::open(dir.path());
    assert_eq!(keys(&again, RequestFilter::Unfinished).await, [1]);
    again.close().await.unwrap();
}

/// Not a test: prints the throughput of this machine. `cargo test --release --lib
/// journal::tests::throughput -- --ignored --nocapture`
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
        assert_eq!(journal.store_batch(batch).await.unwrap().new.len(), 2000);
    }
    let rate = |count: u32, start: Instant| f64::from(count) / start.elapsed().as_secs_f64();
    println!("requests stored per second, batches of 2000: {:.0}", rate(100_000, start));

    let start = Instant::now();
    for nonce in 0..500 {
        journal.record_signed(vec![signed(nonce, 0, None)]).await.unwrap();
    }
    println!("durable commits per second, one caller: {:.0}", rate(500, start));

    let (start, before) = (Instant::now(), journal.statistics());
    let mut callers = JoinSet::new();
    for caller in 0..256_u64 {
        let journal = journal.journal.clone();
        callers.spawn(async move {
            for turn in 0..40 {
                let nonce = 1000 + caller * 40 + turn;
                journal.record_signed(vec![signed(nonce, 0, Some(key(nonce)))]).await.unwrap();
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
        journal.note(key(id), asked()).await.unwrap();
        journal.note(key(id), Step::Answered(answer(id, &"x".repeat(2000)))).await.unwrap();
        journal.note(key(id), Step::Submitted { transaction: hash(id) }).await.unwrap();
        journal.note(key(id), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    }
    journal.flush().await.unwrap();
    println!("steps per second: {:.0}", rate(80_000, start));

    let start = Instant::now();
    let mut after = None;
    let mut pages = 0;
    loop {
        let listing = RequestPage { filter: RequestFilter::Unfinished, after, limit: 1000 };
        let page = journal.ask(|slot| Query::Records(listing, slot)).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        pages += 1;
    }
    println!("unfinished read per second: {:.0} ({pages} pages)", rate(80_000, start));
    let start = Instant::now();
    journal.ask(Query::Counts).await.unwrap();
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

/// What one contract was is known of it alone, and outlasts the process.
#[tokio::test]
async fn the_generation_that_stood_there_is_remembered() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.ask(Query::Generation).await.unwrap(), None);
    for generation in [Generation::G12, Generation::G14] {
        journal.note_generation(generation, 7).await.unwrap();
        assert_eq!(journal.ask(Query::Generation).await.unwrap(), Some(generation));
    }
    let other = RequestSource { contract: Address::repeat_byte(9), ..SOURCE };
    assert_eq!(journal.for_source(other).ask(Query::Generation).await.unwrap(), None);
    journal.close().await.unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.ask(Query::Generation).await.unwrap(), Some(Generation::G14));
    journal.close().await.unwrap();
}

/// For operators: which contracts stood there, and since when.
#[tokio::test]
async fn each_change_of_the_deployment_is_noted_once() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.ask(Query::Deployment).await.unwrap(), None);
    let note = async |journal: &Journal, deployment: &str| {
        journal.note_deployment(deployment.to_owned()).await.unwrap();
        journal.flush().await.unwrap();
        journal.ask(Query::Deployment).await.unwrap().unwrap()
    };
    let first = note(&journal, "G13").await;
    assert_eq!(first.0, "G13");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(note(&journal, "G13").await, first, "since then");
    let other = RequestSource { contract: Address::repeat_byte(9), ..SOURCE };
    assert_eq!(note(&journal.for_source(other), "HEAD").await.0, "HEAD");
    assert_eq!(journal.ask(Query::Deployment).await.unwrap(), Some(first), "another contract");
    for turn in 0..300 {
        let deployment = if turn % 2 == 0 { "G14" } else { "G13" };
        journal.note_deployment(deployment.to_owned()).await.unwrap();
    }
    journal.close().await.unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.ask(Query::Deployment).await.unwrap().unwrap().0, "G13");
    let connection = Connection::open(journal.path()).unwrap();
    let kept = connection.query_row("SELECT count(*) FROM deployments", [], |row| row.get(0));
    assert_eq!(kept, Ok(101), "the newest hundred, and the other contract's");
    journal.close().await.unwrap();
}
