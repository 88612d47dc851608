//! The state of the reading that is stored beside its cursor.

use super::*;

/// A1.
#[tokio::test]
async fn a1_blocks_in_doubt_are_kept_with_the_cursor() {
    let dir = TempDir::new().unwrap();
    let journal = Running::open(dir.path());
    let single = UnprovenRange { first: 5, last: 5, hash: Some(hash(5)), since_ms: 7 };
    let range = UnprovenRange { first: 8, last: 9, hash: None, since_ms: 8 };
    let listed = |cursor, read_twice, unproven| Batch {
        cursor: Some(block(cursor)),
        read_twice,
        unproven,
        ..Batch::default()
    };
    journal.store_batch(listed(10, Some(3), Some(vec![single, range]))).await.unwrap();
    journal.store_batch(listed(11, Some(4), None)).await.unwrap();
    journal.close().await.unwrap();
    let journal = Running::open(dir.path());
    assert_eq!(
        journal.ask(Query::Unproven).await.unwrap(),
        [single, range],
        "no word of it changes nothing"
    );
    assert_eq!(journal.ask(Query::ReadTwice).await.unwrap(), Some(4));
    let proven = Batch { unproven: Some(vec![range]), ..batch([1], None) };
    journal.store_batch(proven).await.unwrap();
    assert_eq!(journal.ask(Query::Unproven).await.unwrap(), [range]);
    journal.store_batch(listed(12, None, Some(Vec::new()))).await.unwrap();
    assert_eq!(journal.ask(Query::Unproven).await.unwrap(), []);
    assert_eq!(journal.ask(Query::ReadTwice).await.unwrap(), None);
    journal.close().await.unwrap();
}
