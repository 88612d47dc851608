//! Signed transactions and their results.

use super::*;

#[tokio::test]
async fn transactions_are_followed_by_nonce() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), None);
    let first = signed(4, 0, Some(key(1)));
    let bumped = signed(4, 1, Some(key(1)));
    let filler = signed(6, 0, None);
    journal.record_signed(vec![filler.clone(), first.clone()]).await.unwrap();
    journal.record_signed(vec![bumped.clone(), first.clone()]).await.unwrap();
    let open = journal.ask(Query::OpenTransactions).await.unwrap();
    assert_eq!(open, [first.clone(), bumped.clone(), filler.clone()]);
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), Some(6));

    journal.record_mined(bumped.id(), block(50)).await.unwrap();
    journal.record_mined(TransactionId { nonce: 1, hash: hash(123_456) }, block(50)).await.unwrap();
    journal.close().await.unwrap();

    let journal = Running::open(dir.path());
    assert_eq!(
        journal.ask(Query::OpenTransactions).await.unwrap(),
        [filler],
        "a mined nonce is closed"
    );
    let of = journal.ask(|slot| Query::TransactionsOf(key(1), slot)).await.unwrap();
    assert_eq!(of.iter().map(|one| one.mined).collect::<Vec<_>>(), [None, Some(block(50))]);
    assert_eq!([&of[0].transaction, &of[1].transaction], [&first, &bumped]);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn another_contract_shares_the_lane_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch([1], Some(7))).await.unwrap();
    journal.record_signed(vec![signed(0, 0, Some(key(1)))]).await.unwrap();
    journal.close().await.unwrap();

    let other = RequestSource { contract: Address::repeat_byte(0xdd), ..SOURCE };
    let journal = Running::start(Journal::open(dir.path(), identity(), other.contract).unwrap());
    assert_eq!(journal.ask(Query::Cursor).await.unwrap(), None);
    assert!(records(&journal, RequestFilter::Unfinished).await.is_empty());
    assert_eq!(journal.store_batch(of(other, batch([1], None))).await.unwrap().new, [0]);
    let open = journal.ask(Query::OpenTransactions).await.unwrap();
    assert_eq!(open[0].request, Some(key(1)), "it is still the other contract's");
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), Some(0));
    assert!(!journal.ask(Query::IsEmpty).await.unwrap());
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_transaction_mined_for_a_request_without_outcome_is_looked_at_again() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch([1, 2], Some(1))).await.unwrap();
    let (first, second, other) =
        (signed(0, 0, Some(key(1))), signed(1, 0, Some(key(1))), signed(2, 0, Some(key(2))));
    journal.record_signed(vec![first.clone(), second.clone(), other.clone()]).await.unwrap();
    for transaction in [&first, &second, &other] {
        journal.record_mined(transaction.id(), block(3)).await.unwrap();
    }
    journal.note(key(2), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.ask(Query::UnsettledTransactions).await.unwrap(), [second]);
    assert_eq!(journal.ask(Query::OpenTransactions).await.unwrap(), []);
}

/// A fee bump beside the mined transaction: another version may be mined after a reorganisation.
#[tokio::test]
async fn what_is_mined_and_not_confirmed_is_followed_in_all_its_versions() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    let journal = &running.journal;
    journal.store_batch(batch([1, 2, 3], Some(1))).await.unwrap();
    let (settled, old) = (signed(0, 0, Some(key(2))), signed(1, 0, Some(key(1))));
    let (first, bumped) = (signed(2, 0, Some(key(1))), signed(2, 1, Some(key(1))));
    let (refused, displaced) = (signed(2, 2, None), signed(3, 0, Some(key(3))));
    let (noop, open) = (signed(3, 1, None), signed(4, 0, None));
    // It was tried first: every node refused it.
    let tried = signed(5, 0, Some(key(1)));
    let all = [&tried, &settled, &old, &first, &bumped, &refused, &displaced, &noop, &open];
    journal.record_signed(all.map(Clone::clone).to_vec()).await.unwrap();
    for mined in [&settled, &old, &first, &noop] {
        journal.record_mined(mined.id(), block(3)).await.unwrap();
    }
    let rejected = vec![refused.id(), tried.id()];
    journal.record_given_up(rejected, GiveUpReason::Rejected).await.unwrap();
    journal.note(key(2), Step::Settled(Outcome::AlreadyAnswered)).await.unwrap();
    journal.flush().await.unwrap();
    let followed = async |nonces| {
        journal.ask(|slot| Query::UnconfirmedTransactions(nonces, slot)).await.unwrap()
    };
    // Nonce 1 was used before the request got another one.
    assert_eq!(followed(4096).await, [first, bumped, displaced.clone(), noop.clone()]);
    assert_eq!(followed(1).await, [displaced, noop]);
}

/// A node's wrong count had caused one to be signed far above the others.
#[tokio::test]
async fn a9_what_was_mined_is_followed_whatever_was_signed_far_beyond() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let (mined, stranded) = (signed(11, 0, None), signed(1 << 40, 0, None));
    journal.record_signed(vec![mined.clone(), stranded.clone()]).await.unwrap();
    journal.record_mined(mined.id(), block(3)).await.unwrap();
    journal.flush().await.unwrap();
    let followed = journal.recently_mined(4096).await.unwrap();
    assert_eq!(followed.iter().map(|one| one.nonce).collect::<Vec<_>>(), [11]);
    journal.record_given_up(vec![stranded.id()], GiveUpReason::Stranded).await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.recently_mined(4096).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_reorganisation_drops_is_open_again_and_so_is_its_request() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    journal.store_batch(batch([1, 2], Some(1))).await.unwrap();
    let first = signed(0, 0, Some(key(1)));
    let bumped = signed(0, 1, Some(key(1)));
    let other = signed(1, 0, Some(key(2)));
    journal.record_signed(vec![first.clone(), bumped.clone(), other.clone()]).await.unwrap();
    for (transaction, id) in [(&bumped, 1), (&other, 2)] {
        journal.note(key(id), Step::Answered(answer(id, "yes"))).await.unwrap();
        journal.record_mined(transaction.id(), block(3)).await.unwrap();
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
    assert_eq!(journal.ask(Query::OpenTransactions).await.unwrap(), [first, bumped.clone()]);
    let held = records(&journal, RequestFilter::Held).await;
    assert_eq!(held.iter().map(|one| one.key).collect::<Vec<_>>(), [key(1)]);
    assert_eq!(held[0].progress.held.as_ref().unwrap().hold.reason, HoldReason::AnswerDropped);
    let standing = journal.request_state(key(1)).await.unwrap().expect("open");
    assert_eq!(standing.stage, Stage::Answered(answer(1, "yes")), "nobody is asked again");
    assert!(journal.request_state(key(2)).await.unwrap().is_none(), "the other one stands");
    journal.close().await.unwrap();
}

/// Found by the lane's model: the same bytes have the same signature.
#[tokio::test]
async fn what_is_given_up_is_not_followed_until_it_is_signed_again() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let (kept, rejected) = (signed(0, 0, Some(key(1))), signed(1, 0, Some(key(2))));
    let displaced = signed(0, 1, None);
    let all = vec![kept.clone(), rejected.clone(), displaced.clone()];
    journal.record_signed(all).await.unwrap();
    journal.record_given_up(vec![rejected.id()], GiveUpReason::Rejected).await.unwrap();
    journal.record_given_up(vec![displaced.id()], GiveUpReason::Displaced).await.unwrap();
    journal.flush().await.unwrap();
    assert_eq!(journal.ask(Query::OpenTransactions).await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), Some(0), "nonce 1 is free");
    journal.record_signed(vec![rejected.clone()]).await.unwrap();
    assert_eq!(journal.ask(Query::OpenTransactions).await.unwrap(), [kept, rejected]);
    assert_eq!(journal.ask(Query::HighestNonce).await.unwrap(), Some(1));
    journal.close().await.unwrap();
}

/// A wallet has the same nonces on two chains, and requests on both have the same ids.
#[tokio::test]
async fn each_chain_has_its_own_cursor_requests_and_nonces() {
    let dir = TempDir::new().unwrap();
    let home = Running::open(dir.path());
    let elsewhere = RequestSource { chain_id: 1, contract: CONTRACT };
    let other = |home: &Journal| home.for_source(elsewhere);
    let abroad = |id| RequestKey { source: elsewhere, ..key(id) };
    let (here, there) = (signed(5, 0, Some(key(1))), signed(5, 1, Some(abroad(1))));
    home.store_batch(batch([1], Some(7))).await.unwrap();
    home.record_signed(vec![here.clone()]).await.unwrap();
    home.record_mined(here.id(), block(7)).await.unwrap();
    let away = other(&home);
    away.store_batch(of(elsewhere, batch([1, 2], Some(3)))).await.unwrap();
    let late = signed(9, 1, None);
    away.record_signed(vec![there.clone(), late.clone()]).await.unwrap();
    away.record_mined(there.id(), block(3)).await.unwrap();
    for _ in 0..2 {
        // A final block of one chain says nothing about the other.
        home.prune(u64::MAX, 6).await.unwrap();
        away.prune(u64::MAX, 2).await.unwrap();
    }
    home.close().await.unwrap();

    let home = Running::open(dir.path());
    let away = other(&home);
    assert_eq!(home.ask(Query::Cursor).await.unwrap(), Some(block(7)));
    assert_eq!(away.ask(Query::Cursor).await.unwrap(), Some(block(3)));
    assert_eq!(keys(&home, RequestFilter::Unfinished).await, [1]);
    assert_eq!(keys(&away, RequestFilter::Unfinished).await, [1, 2]);
    assert_eq!(home.ask(Query::HighestNonce).await.unwrap(), Some(5));
    assert_eq!(away.ask(Query::HighestNonce).await.unwrap(), Some(9));
    assert_eq!(home.ask(Query::OpenTransactions).await.unwrap(), []);
    assert_eq!(away.ask(Query::OpenTransactions).await.unwrap(), [late]);
    let mined = async |journal: &Journal| journal.recently_mined(9).await.unwrap()[0].hash;
    assert_eq!((mined(&home).await, mined(&away).await), (here.hash, there.hash));
    let unsettled = home.ask(Query::UnsettledTransactions).await.unwrap();
    assert_eq!(unsettled, std::slice::from_ref(&here));
    let unsettled = away.ask(Query::UnsettledTransactions).await.unwrap();
    assert_eq!(unsettled, std::slice::from_ref(&there), "with its own key");
    assert_eq!(away.request(abroad(1)).await.unwrap().unwrap().key, abroad(1));

    home.note(key(1), Step::Settled(Outcome::Expired)).await.unwrap();
    let pruned = away.prune(u64::MAX, 100).await.unwrap();
    assert_eq!((pruned.requests, pruned.transactions), (0, 0), "it is of another chain, or open");
    let pruned = home.prune(u64::MAX, 100).await.unwrap();
    assert_eq!((pruned.requests, pruned.transactions), (1, 0), "the highest nonce stays");
    assert_eq!(keys(&away, RequestFilter::Unfinished).await, [1, 2]);
    assert_eq!(home.reopen(vec![here.id()]).await.unwrap(), [here], "with the nonce on its chain");
    home.close().await.unwrap();
}
