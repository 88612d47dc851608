//! A contract that is read beside the Decryption contract, whose requests that one names; and approvals.

use super::*;
use crate::domain::KeyRepresentation;

const KEYS: RequestSource = RequestSource { contract: Address::repeat_byte(0xee), ..SOURCE };

fn wallet(byte: u8) -> Identity {
    Identity { wallet: Address::repeat_byte(byte), ..identity() }
}

/// A key operation arrives.
async fn fill(journal: &Journal) {
    journal.store_batch(batch([1], Some(7))).await.unwrap();
    let beside = journal.for_source(KEYS);
    beside.stand_beside(SOURCE).await.unwrap();
    let arrived = Arrival { kind: Kind::Keygen, ..arrival(2) };
    let batch = Batch { arrivals: vec![arrived], cursor: Some(block(9)), ..Batch::default() };
    beside.store_batch(batch).await.unwrap();
}

#[tokio::test]
async fn each_contract_has_a_cursor_and_the_requests_are_one_list() {
    let dir = TempDir::new().unwrap();
    let opened =
        open_as(&Machine::default(), dir.path(), identity(), CONTRACT, "one", None).unwrap();
    let running = Running::start((opened.journal, opened.writer));
    fill(&running).await;
    assert_eq!(running.ask(Query::Cursor).await.unwrap(), Some(block(7)));
    let beside = running.for_source(KEYS);
    assert_eq!(beside.ask(Query::Cursor).await.unwrap(), Some(block(9)));
    assert_eq!(keys(&running, RequestFilter::Unfinished).await, [1, 2]);
    assert_eq!(keys(&beside, RequestFilter::Unfinished).await, [0_u64; 0]);
    // The longest wait is one of a decryption: a key operation takes hours.
    running.note(key(1), Step::Settled(Outcome::Expired)).await.unwrap();
    running.flush().await.unwrap();
    assert_eq!(running.ask(Query::Oldest).await.unwrap(), None);
    running.close().await.unwrap();
    // Its cursor moved last, and the journal is still the Decryption contract's.
    let found = ReadOnly::find(&[dir.path().to_owned()], "one").unwrap();
    let listed = found.queries().ask(|slot| Query::WithId(U256::from(2), slot)).unwrap();
    assert_eq!(listed.iter().map(|one| one.kind).collect::<Vec<_>>(), [Kind::Keygen]);
}

#[tokio::test]
async fn the_first_approval_stays() {
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    fill(&running).await;
    assert!(!running.request_state(key(2)).await.unwrap().unwrap().is_approved);
    for by in ["uid 7", "uid 8"] {
        running.approve(key(2), by.to_owned()).await.unwrap();
    }
    running.approve(key(99), "uid 7".to_owned()).await.unwrap();
    let record = running.request(key(2)).await.unwrap().unwrap();
    let approval = record.approval.unwrap();
    assert!(approval.by == "uid 7" && approval.at_ms > 0, "{approval:?}");
    assert!(running.request_state(key(2)).await.unwrap().unwrap().is_approved);
    assert!(!running.request_state(key(1)).await.unwrap().unwrap().is_approved);
}

/// Kept across a start; and what is done without an answer is told by its id.
#[tokio::test]
async fn the_first_kind_of_key_stays_and_what_is_done_is_told() {
    use KeyRepresentation::{Compressed, Uncompressed};
    let dir = TempDir::new().unwrap();
    let running = Running::open(dir.path());
    fill(&running).await;
    let id = U256::from(2);
    assert_eq!(running.representation_of(id).await.unwrap(), None);
    for wanted in [Compressed, Uncompressed] {
        let chosen = running.choose_representation(key(2), wanted).await.unwrap();
        assert_eq!(chosen, Compressed);
    }
    assert!(!running.is_done(id).await.unwrap());
    assert!(running.is_unasked(id).await.unwrap());
    running.close().await.unwrap();
    let running = Running::open(dir.path());
    assert_eq!(running.representation_of(id).await.unwrap(), Some(Compressed));
    // What is held for another key operation goes on when that one ends.
    running.note(key(2), Step::Settled(Outcome::NoAnswerDue)).await.unwrap();
    running.reopened().await;
    assert!(running.is_done(id).await.unwrap());
    assert!(!running.is_unasked(id).await.unwrap());
    assert!(!running.is_done(U256::from(1)).await.unwrap());
}

#[tokio::test]
async fn another_wallet_takes_over_both_cursors_and_approvals() {
    let dir = TempDir::new().unwrap();
    let open = |identity| {
        let opened =
            open_as(&Machine::default(), dir.path(), identity, CONTRACT, "one", None).unwrap();
        Running::start((opened.journal, opened.writer))
    };
    let old = open(wallet(1));
    fill(&old).await;
    old.approve(key(2), "uid 7".to_owned()).await.unwrap();
    old.choose_representation(key(2), KeyRepresentation::Compressed).await.unwrap();
    old.close().await.unwrap();
    let new = open(wallet(2));
    assert_eq!(new.for_source(KEYS).ask(Query::Cursor).await.unwrap(), Some(block(9)));
    assert!(new.request_state(key(2)).await.unwrap().unwrap().is_approved);
    let kept = new.representation_of(U256::from(2)).await.unwrap();
    assert_eq!(kept, Some(KeyRepresentation::Compressed));
    new.close().await.unwrap();
    let found = ReadOnly::find(&[dir.path().to_owned()], "one").unwrap();
    assert_eq!(found.queries().ask(|slot| Query::WithId(U256::from(2), slot)).unwrap().len(), 1);
}

fn both() -> ReadContracts {
    ReadContracts { first: CONTRACT, beside: vec![KEYS.contract] }
}

async fn cursors(journal: &Journal) -> [Option<u64>; 2] {
    let mut found = [None; 2];
    for (found, source) in found.iter_mut().zip([SOURCE, KEYS]) {
        let cursor = journal.for_source(source).ask(Query::Cursor).await.unwrap();
        *found = cursor.map(|block| block.number);
    }
    found
}

#[tokio::test]
async fn a_rebuild_has_every_contract_read_from_the_block() {
    let dir = TempDir::new().unwrap();
    // There is none.
    let rebuilt = rebuild(dir.path(), wallet(1), &both(), block(20)).unwrap();
    assert_eq!(rebuilt.kind, RebuildKind::Anew);
    let open = || {
        let opened =
            open_as(&Machine::default(), dir.path(), wallet(1), CONTRACT, "one", None).unwrap();
        Running::start((opened.journal, opened.writer))
    };
    let journal = open();
    assert_eq!(cursors(&journal).await, [Some(20), Some(20)]);
    // It is in order: one of them was read further than the other.
    fill(&journal).await;
    let on = Batch { cursor: Some(block(30)), ..Batch::default() };
    journal.store_batch(on).await.unwrap();
    assert_eq!(cursors(&journal).await, [Some(30), Some(9)]);
    journal.close().await.unwrap();
    let not_reached = rebuild(dir.path(), wallet(1), &both(), block(31)).unwrap();
    assert_eq!(not_reached.kind, RebuildKind::CursorNotReached { before: block(30) });
    let back = rebuild(dir.path(), wallet(1), &both(), block(15)).unwrap();
    assert_eq!(back.kind, RebuildKind::CursorMovedBack { before: Some(block(30)) });
    let journal = open();
    assert_eq!(cursors(&journal).await, [Some(15), Some(9)], "what was not read stays unread");
    journal.close().await.unwrap();
    rebuild(dir.path(), wallet(1), &both(), block(5)).unwrap();
    let journal = open();
    assert_eq!(cursors(&journal).await, [Some(5), Some(5)]);
    assert_eq!(keys(&journal, RequestFilter::Unfinished).await, [1, 2], "nothing is lost");
    journal.close().await.unwrap();
    // The journal is the Decryption contract's still.
    let found = ReadOnly::find(&[dir.path().to_owned()], "one").unwrap();
    assert_eq!(found.queries().ask(|slot| Query::WithId(U256::from(2), slot)).unwrap().len(), 1);
}

/// A contract that is named for the first time is read from where the other one is.
#[tokio::test]
async fn a_rebuild_begins_no_contract_that_was_never_read_before_the_first_one() {
    let dir = TempDir::new().unwrap();
    rebuild(dir.path(), wallet(1), &alone(), block(20)).unwrap();
    let not_reached = rebuild(dir.path(), wallet(1), &both(), block(25)).unwrap();
    assert_eq!(not_reached.kind, RebuildKind::CursorNotReached { before: block(20) });
    rebuild(dir.path(), wallet(1), &both(), block(10)).unwrap();
    let opened = Journal::open(dir.path(), wallet(1), CONTRACT).unwrap();
    let journal = Running::start(opened);
    assert_eq!(cursors(&journal).await, [Some(10), Some(10)]);
    journal.close().await.unwrap();
}
