//! Where a request is on the chain now: a reorganisation may have replaced its block, and its id, which
//! is a counter value, may belong to another request now.
//!
//! A transaction that moves to another block may get another id there, so the transaction alone proves
//! nothing: the request is where its event is. No single node ends a request: that it is gone must be
//! reported twice, seconds apart, and by every node ([`super::agreed`]).

use std::time::Duration;

use tokio::time::sleep;

use super::{Agreed, DecryptionAdapter, Ending};
use crate::{
    domain::{BlockRef, Event, Request},
    gateway::provider::{At, ChainReader, Emitted, RpcError},
};

/// A block replaced by another one under this many others does not come back.
pub const ORPHANED_AFTER: u64 = 64;
/// Time between the first and the second report that a request is gone.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Number of other requests with the same id that are checked.
const NAMESAKES: usize = 8;

/// Whether the chain has a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In this block, which may differ from the one it arrived in.
    In(BlockRef),
    /// The node lags, the chain is being reorganised, or nodes contradict each other.
    Unknown,
    Gone,
}

/// What one node shows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// It has no block of that height.
    NotThere,
    /// The block it arrived in, or another one with its event.
    In(BlockRef),
    /// Another block has that height, and its event is nowhere.
    Replaced {
        /// The id belongs to another request in a block of this chain.
        id_taken: bool,
        /// Blocks from that height to the head.
        under: u64,
    },
}

impl Sight {
    fn says(self) -> Whereabouts {
        match self {
            Self::In(block) => Whereabouts::In(block),
            Self::Replaced { id_taken, under } if id_taken || under >= ORPHANED_AFTER => {
                Whereabouts::Gone
            }
            Self::NotThere | Self::Replaced { .. } => Whereabouts::Unknown,
        }
    }
}

impl<P: ChainReader> DecryptionAdapter<P> {
    /// Where a request is now. `namesakes`: known events of other requests with its id. An id belongs to
    /// one request at a time, so finding one of them proves at once that this request is gone.
    pub async fn whereabouts(
        &self,
        request: &Request,
        namesakes: &[Event],
    ) -> Result<Whereabouts, RpcError> {
        let first = self.sight(request, namesakes).await?.says();
        if first != Whereabouts::Gone {
            return Ok(first);
        }
        sleep(AGAIN_AFTER).await;
        let says = |one: Self| async move {
            Ok(one.sight(request, namesakes).await?.says() == Whereabouts::Gone)
        };
        let agreed = self.agreed(Ending::Gone, request.key, says).await;
        Ok(if let Ok(Agreed::Yes) = agreed { Whereabouts::Gone } else { Whereabouts::Unknown })
    }

    async fn sight(&self, request: &Request, namesakes: &[Event]) -> Result<Sight, RpcError> {
        let (provider, was) = (&self.provider, request.block);
        // By number, not by hash: nodes also return blocks by hash that have left the chain.
        let Some(now) = provider.header(At::Number(was.number)).await? else {
            return Ok(Sight::NotThere);
        };
        if now.block.hash == was.hash {
            return Ok(Sight::In(was));
        }
        // A receipt contains its logs, even if the node's log index has lost them.
        let emitted = provider.emitted_by(request.transaction).await?.unwrap_or_default();
        let is_it = |one: &&Emitted| {
            one.address == self.address()
                && self.decode(&one.event).is_ok_and(|found| found.key == request.key)
        };
        if let Some(here) = emitted.iter().find(is_it) {
            return Ok(Sight::In(here.event.block));
        }
        let mut id_taken = false;
        for namesake in namesakes.iter().take(NAMESAKES) {
            let there = provider.header(At::Number(namesake.block.number)).await?;
            id_taken |= there.is_some_and(|head| head.block.hash == namesake.block.hash);
        }
        let head = provider.header(At::Latest).await?.map_or(0, |head| head.block.number);
        Ok(Sight::Replaced { id_taken, under: head.saturating_sub(was.number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::abi;
    use crate::gateway::fake_chain::{ADDRESSES, FakeChain, Lies, SOURCE, request_event};

    /// A chain of 120 blocks, a request in block 101, and the adapter.
    fn scene() -> (FakeChain, Request, DecryptionAdapter<FakeChain>) {
        let chain = FakeChain::new(100);
        chain.mine(vec![request_event(7)]);
        let event = Event { block: chain.block(101), ..request_event(7) };
        chain.mine_empty(19);
        let adapter = DecryptionAdapter::new(chain.clone(), ADDRESSES);
        (chain, abi::decode(SOURCE, &event).unwrap(), adapter)
    }

    /// The same id with other content.
    fn namesake() -> Event {
        let transaction = crate::domain::B256::repeat_byte(1);
        Event { data: vec![1].into(), transaction, ..request_event(7) }
    }

    #[tokio::test(start_paused = true)]
    async fn a14_a_request_is_gone_as_soon_as_its_id_is_another_ones() {
        let (chain, request, adapter) = scene();
        let block = request.block;
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::In(block));
        chain.reorganise(20, vec![]);
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Unknown);
        chain.mine(vec![namesake()]);
        let known = Event { block: chain.block(chain.height()), ..namesake() };
        let at_once = adapter.whereabouts(&request, std::slice::from_ref(&known)).await;
        assert_eq!(at_once.unwrap(), Whereabouts::Gone);
        // A namesake that has itself left the chain proves nothing.
        chain.reorganise(1, vec![]);
        let none = adapter.whereabouts(&request, &[known]).await.unwrap();
        assert_eq!(none, Whereabouts::Unknown);
        chain.mine_empty(70);
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Gone);
    }

    /// Mined behind another request, its transaction gets another id.
    #[tokio::test(start_paused = true)]
    async fn a14_a_transaction_that_emits_another_id_now_is_not_the_request() {
        let (chain, request, adapter) = scene();
        let moved = Event { transaction: request.transaction, ..request_event(8) };
        chain.reorganise(20, vec![vec![], vec![moved.clone()]]);
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Unknown);
        chain.mine_empty(70);
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Gone);
        // Nor is one whose event is another contract's now.
        let (chain, request, adapter) = scene();
        chain.reorganise(20, vec![]);
        let elsewhere = crate::domain::Address::repeat_byte(1);
        chain.mine_with(vec![], vec![(elsewhere, request_event(7))]);
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Unknown);
        // The request itself, in another block.
        let (chain, request, adapter) = scene();
        chain.reorganise(20, vec![vec![], vec![request_event(7)]]);
        let there = Whereabouts::In(chain.block(102));
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), there);
    }

    /// A node without logs for a while still has receipts.
    #[tokio::test(start_paused = true)]
    async fn a14_a_request_whose_logs_are_hidden_is_not_gone() {
        let (chain, request, adapter) = scene();
        chain.reorganise(20, vec![vec![], vec![request_event(7)]]);
        chain.mine_empty(70);
        chain.node().lies[0].blind = true;
        let there = Whereabouts::In(chain.block(102));
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), there);
    }

    #[tokio::test(start_paused = true)]
    async fn a14_no_one_node_makes_a_request_go() {
        let (chain, request, adapter) = scene();
        let other = BlockRef { hash: crate::domain::B256::repeat_byte(9), ..request.block };
        chain.mine_empty(70);
        chain.node().hide_receipts = true;
        // Its only node, for a moment.
        chain.node().lies[0].shows = Some(other);
        let asking = adapter.whereabouts(&request, &[]);
        let healing = async {
            sleep(AGAIN_AFTER / 2).await;
            chain.node().lies[0].shows = None;
        };
        let (said, ()) = tokio::join!(asking, healing);
        assert_eq!(said.unwrap(), Whereabouts::Unknown);
        // One of two, for ever.
        chain.node().lies[0].shows = Some(other);
        chain.node().lies.push(Lies::default());
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Unknown);
        // The other one agrees.
        chain.node().lies[1].shows = Some(other);
        assert_eq!(adapter.whereabouts(&request, &[]).await.unwrap(), Whereabouts::Gone);
    }

    /// The correct node is away or silent for seconds: it may know better.
    #[tokio::test(start_paused = true)]
    async fn a14_who_is_away_for_a_moment_is_waited_for() {
        let away = Lies { away: true, ..Lies::default() };
        for absent in [away, Lies { mute: true, ..Lies::default() }] {
            let (chain, request, adapter) = scene();
            chain.mine_empty(70);
            let other = BlockRef { hash: crate::domain::B256::repeat_byte(9), ..request.block };
            chain.node().hide_receipts = true;
            chain.node().lies[0].shows = Some(other);
            chain.node().lies.push(absent);
            let where_it_is = async || adapter.whereabouts(&request, &[]).await.unwrap();
            assert_eq!(where_it_is().await, Whereabouts::Unknown);
            sleep(Duration::from_secs(30)).await;
            assert_eq!(where_it_is().await, Whereabouts::Unknown);
            // The longest time a missing node is waited for; a contradiction would restart it.
            sleep(Duration::from_secs(30)).await;
            assert_eq!(where_it_is().await, Whereabouts::Gone);
        }
    }
}
