//! Queries of operators: pages, all requests of one id, and a journal that no process has open.

use super::*;

async fn numbers(journal: &Journal, which: RequestFilter, limit: u32) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let listing = RequestPage { filter: which, after, limit };
        let page = journal.query(move |look| {
            Ok((
                look.ask(|slot| Query::Summaries(listing, slot))?,
                look.ask(|slot| Query::Records(listing, slot))?,
            ))
        });
        let (page, records) = page.await.unwrap();
        let same = page.iter().map(|one| one.key).eq(records.iter().map(|one| one.key));
        assert!(same, "{page:?} {records:?}");
        let Some(last) = page.last() else { return found };
        after = Some(Position::from_number(last.position.number()));
        assert!(page.len() <= limit as usize);
        found.extend(page.iter().map(|one| u64::try_from(one.key.id).unwrap()));
    }
}

#[tokio::test]
async fn pages_of_any_size_tell_each_once_in_the_order_of_arrival() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch(1..=7, Some(7))).await.unwrap();
    let before = crate::time::clock::unix_millis();
    journal.note(key(2), hold(HoldReason::NoFunds)).await.unwrap();
    journal.note(key(3), Step::Settled(Outcome::Expired)).await.unwrap();
    journal.note(key(4), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.note(key(5), Step::Settled(Outcome::Refused(Refusal::NotRequested))).await.unwrap();
    journal.note(key(6), hold(HoldReason::FeeCap)).await.unwrap();
    journal.flush().await.unwrap();
    for limit in [1, 2, 3, 100] {
        assert_eq!(numbers(journal, RequestFilter::All, limit).await, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(numbers(journal, RequestFilter::Unfinished, limit).await, [1, 2, 6, 7]);
        assert_eq!(numbers(journal, RequestFilter::Held, limit).await, [2, 6]);
        let ended = RequestFilter::Ended { since_ms: before };
        assert_eq!(numbers(journal, ended, limit).await, [3, 5]);
        let later = RequestFilter::Ended { since_ms: before + 3_600_000 };
        assert_eq!(numbers(journal, later, limit).await, [0_u64; 0]);
    }
    let page = RequestPage { filter: RequestFilter::Held, after: None, limit: 1 };
    let held =
        journal.query(move |look| look.ask(|slot| Query::Summaries(page, slot))).await.unwrap();
    assert_eq!((held[0].block, held[0].kind), (2, Kind::PublicDecryption));
    running.close().await.unwrap();
}

#[tokio::test]
async fn only_what_is_not_known_to_be_answered_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch(1..=5, Some(5))).await.unwrap();
    journal.note(key(1), Step::Answered(answer(1, "one"))).await.unwrap();
    journal.note(key(1), Step::Failed { why: "late".into() }).await.unwrap();
    journal.note(key(1), Step::WorkTime(Duration::from_hours(25))).await.unwrap();
    journal.note(key(1), Step::Settled(Outcome::Expired)).await.unwrap();
    let malformed = Refusal::Malformed("no materials".into());
    journal.note(key(2), Step::Settled(Outcome::Refused(malformed))).await.unwrap();
    journal.note(key(3), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.note(key(4), Step::Settled(Outcome::Observed)).await.unwrap();
    for (id, opened) in [(1, true), (2, true), (3, true), (4, false), (5, false), (9, false)] {
        assert_eq!(journal.open_again(key(id)).await.unwrap(), opened, "{id}");
    }
    assert!(!journal.open_again(key(1)).await.unwrap(), "it is open");
    let one = journal.request(key(1)).await.unwrap().unwrap().progress;
    assert_eq!((one.stage, one.attempts, one.worked_ms), (StageName::Arrived, 1, 0));
    assert_eq!((one.outcome, one.settled_at_ms), (None, None));
    assert_eq!(one.last_error.as_deref(), Some("it had ended as expired"));
    assert_eq!(one.held.unwrap().hold.reason, HoldReason::RetryAsked);
    let two = journal.request(key(2)).await.unwrap().unwrap().progress;
    assert_eq!(two.last_error.as_deref(), Some("it had ended as refused (no materials)"));
    // The state in which a walk begins.
    let standing = journal.request_state(key(1)).await.unwrap().unwrap();
    assert_eq!((standing.stage, standing.worked), (Stage::Arrived, Duration::ZERO));
    running.close().await.unwrap();
}

#[tokio::test]
async fn a_journal_that_nobody_has_open_is_found_by_who_kept_it() {
    let dir = tempfile::tempdir().unwrap();
    let (elsewhere, nowhere) = (dir.path().join("elsewhere"), dir.path().join("nowhere"));
    let dirs = [dir.path().to_owned(), elsewhere, nowhere.clone()];
    let find = |keeper: &str| ReadOnly::find(&dirs, keeper);
    assert!(matches!(find("one"), Err(FindError::None { .. })));
    let opened =
        open_as(&Machine::default(), dir.path(), identity(), CONTRACT, "one", None).unwrap();
    let running = Running::start((opened.journal, opened.writer));
    let twin = RequestKey { content: B256::repeat_byte(0xd0), ..key(1) };
    let mut arrivals = batch(1..=2, Some(2));
    arrivals.arrivals.push(Arrival { key: twin, ..arrival(1) });
    running.journal.store_batch(arrivals).await.unwrap();
    running.journal.record_signed(vec![signed(0, 0, Some(twin))]).await.unwrap();

    // While it is being written, and afterwards.
    let known = |found: &ReadOnly| {
        let (look, path) = (found.queries(), found.path().to_owned());
        let twins = look.ask(|slot| Query::WithId(U256::from(1), slot)).unwrap();
        assert_eq!(twins.iter().map(|one| one.key).collect::<Vec<_>>(), [key(1), twin]);
        assert_eq!(look.ask(|slot| Query::TransactionsOf(twin, slot)).unwrap().len(), 1);
        assert_eq!(look.ask(|slot| Query::WithId(U256::from(9), slot)).unwrap(), []);
        path
    };
    let path = known(&find("one").unwrap());
    running.close().await.unwrap();
    let found = find("one").unwrap();
    known(&found);
    // The reader holds no lock.
    Running::open(dir.path()).close().await.unwrap();

    let others = find("two").unwrap_err().to_string();
    assert!(others.contains("only by one") && others.contains("--state-dir"), "{others}");
    let missing = ReadOnly::find(&[nowhere], "one").unwrap_err().to_string();
    assert!(missing.contains("nowhere") && missing.contains("--state-dir"), "{missing}");
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let newer = find("one").unwrap_err().to_string();
    assert!(newer.contains("schema 99"), "{newer}");
}
