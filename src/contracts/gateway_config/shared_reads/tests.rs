//! A contract that counts how often it is read.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::{chain::rpc_error::RpcError, contracts::decryption::ViewError};

const HEAD: Option<B256> = Some(B256::repeat_byte(1));
const NEXT: Option<B256> = Some(B256::repeat_byte(2));
/// How long a read takes.
const TAKES: Duration = Duration::from_secs(1);

fn question(number: usize) -> Question {
    Question { at: None, calldata: number.to_be_bytes().to_vec().into() }
}

#[derive(Clone, Default)]
struct World {
    shared: SharedReads,
    reads: Arc<AtomicUsize>,
}

impl World {
    /// What a read that begins now returns: how many there were. The node is silent for every read but
    /// `fails`' ones.
    fn reading(&self, fails: bool) -> Reading {
        let number = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            sleep(TAKES).await;
            if fails {
                let (host, what) = ("a".to_owned(), "away".to_owned().into());
                return Err(RegistryError(ViewError::Rpc(RpcError::Unavailable { host, what })));
            }
            Ok(Some(number.to_be_bytes().to_vec().into()))
        })
    }

    /// The number of the read whose answer this asker gets. `None`: it failed.
    async fn ask(&self, head: Option<B256>, of: usize, fails: bool) -> Option<usize> {
        let told = self.shared.get(head, question(of), || self.reading(fails)).await.ok()??;
        Some(usize::from_be_bytes(told.as_ref().try_into().unwrap()))
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_under_one_head_shares_one_read() {
    let world = World::default();
    let together = join_all((0..50).map(|_| world.ask(HEAD, 0, false))).await;
    assert_eq!((together, world.reads()), (vec![Some(1); 50], 1));
    assert_eq!(world.ask(HEAD, 0, false).await, Some(1), "later too");
    assert_eq!(world.ask(HEAD, 1, false).await, Some(2), "another question");
    assert_eq!(world.ask(NEXT, 0, false).await, Some(3), "another head");
    assert_eq!(world.ask(HEAD, 0, false).await, Some(4), "and back: nothing of it is known");
    // Without a head nothing is shared.
    let alone = join_all((0..3).map(|_| world.ask(None, 0, false))).await;
    assert_eq!(alone, [Some(5), Some(6), Some(7)]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_an_earlier_head_is_not_kept_for_the_next() {
    let world = World::default();
    let late = async {
        sleep(TAKES / 2).await;
        world.ask(NEXT, 0, false).await
    };
    let (early, late) = tokio::join!(world.ask(HEAD, 0, false), late);
    assert_eq!((early, late), (Some(1), Some(2)));
    assert_eq!(world.ask(NEXT, 0, false).await, Some(2));
    // Under a head that stands still: the same, after a while.
    advance(BELIEVED_FOR).await;
    assert_eq!(world.ask(NEXT, 0, false).await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_nobodys_answer_but_of_those_who_waited_for_it() {
    let world = World::default();
    let together = join_all((0..50).map(|_| world.ask(HEAD, 0, true))).await;
    assert_eq!((together, world.reads()), (vec![None; 50], 1), "they do not wait in turn");
    assert_eq!(world.ask(HEAD, 0, false).await, Some(2));
    assert_eq!(world.ask(HEAD, 0, false).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn who_asked_first_may_leave() {
    let world = World::default();
    let second = async {
        sleep(TAKES / 4).await;
        world.ask(HEAD, 0, false).await
    };
    let (left, second) = tokio::join!(timeout(TAKES / 2, world.ask(HEAD, 0, false)), second);
    assert!(left.is_err());
    assert_eq!((second, world.reads()), (Some(1), 1));
    // All left: what they began is not resumed.
    assert!(timeout(TAKES / 2, world.ask(HEAD, 1, false)).await.is_err());
    advance(TAKES).await;
    assert_eq!(world.ask(HEAD, 1, false).await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn however_many_contexts_requests_name_few_answers_are_kept() {
    let world = World::default();
    join_all((0..2 * MOST_READS).map(|of| world.ask(HEAD, of, false))).await;
    assert_eq!(world.shared.lock().reads.len(), MOST_READS);
    assert_eq!(world.ask(HEAD, 0, false).await, Some(1));
    let unknown = world.ask(HEAD, MOST_READS, false).await;
    assert_eq!(unknown, Some(2 * MOST_READS + 1), "it found no room, and is read all the same");
}
