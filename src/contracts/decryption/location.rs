//! Where a request is on the chain now: a reorganisation may have replaced its block, and its id, which
//! is a counter value, may belong to another request now.
//!
//! A transaction that moves to another block may get another id there, so the transaction alone proves
//! nothing: the request is where its event is. What an event says of the ciphertexts does not matter here:
//! before anything is asked, [`super::witness`] compares that. No single node ends a request: that it is gone
//! must be reported twice, seconds apart, and by every node ([`super::agreement`]).

use std::time::Duration;

use tokio::time::sleep;

use super::{Agreement, EndClaim, RequestContract};
use crate::{
    chain::{
        reader::{BlockId, ChainReader, EmittedLog},
        rpc_error::RpcError,
    },
    domain::{BlockRef, Event, Kind, Request},
};

/// A block replaced by another one under this many others does not come back.
pub const ORPHANED_AFTER: u64 = 64;
/// Time between the first and the second report that a request is gone.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Number of other requests with the same id that are checked. A node that invents more hides for whom the id
/// is now: then a request that is gone counts as gone only after [`ORPHANED_AFTER`] blocks.
const NAMESAKES: usize = 8;

/// Whether the chain has a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestLocation {
    /// In this block, which may differ from the one it arrived in.
    In(BlockRef),
    /// The node lags, the chain is being reorganised, or nodes contradict each other.
    Unknown,
    Gone,
}

/// What one node shows of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LocationSighting {
    /// It has no block of that height.
    NoBlock,
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

impl LocationSighting {
    fn into_location(self) -> RequestLocation {
        match self {
            Self::In(block) => RequestLocation::In(block),
            Self::Replaced { id_taken, under } if id_taken || under >= ORPHANED_AFTER => {
                RequestLocation::Gone
            }
            Self::NoBlock | Self::Replaced { .. } => RequestLocation::Unknown,
        }
    }
}

impl<P: ChainReader> RequestContract<P> {
    /// Where a request is now. `namesakes`: known events of other requests with its id. An id belongs to
    /// one request at a time, so finding one of them proves at once that this request is gone.
    pub async fn locate(
        &self,
        request: &Request,
        namesakes: &[Event],
    ) -> Result<RequestLocation, RpcError> {
        let first = self.sighting(request, namesakes).await?.into_location();
        if first != RequestLocation::Gone {
            return Ok(first);
        }
        sleep(AGAIN_AFTER).await;
        let says = |one: Self| async move {
            Ok(one.sighting(request, namesakes).await?.into_location() == RequestLocation::Gone)
        };
        let agreed = self.agreement_on(EndClaim::Gone, request.key, says).await;
        Ok(if let Ok(Agreement::Yes) = agreed {
            RequestLocation::Gone
        } else {
            RequestLocation::Unknown
        })
    }

    async fn sighting(
        &self,
        request: &Request,
        namesakes: &[Event],
    ) -> Result<LocationSighting, RpcError> {
        let (provider, was) = (&self.provider, request.block);
        // By number, not by hash: nodes also return blocks by hash that have left the chain.
        let Some(now) = provider.header(BlockId::Number(was.number)).await? else {
            return Ok(LocationSighting::NoBlock);
        };
        if now.block.hash == was.hash {
            return Ok(LocationSighting::In(was));
        }
        // A receipt contains its logs, even if the node's log index has lost them.
        let emitted = provider.receipt_logs(request.transaction).await?.unwrap_or_default();
        // One that nobody knows may be another contract's that is read whole; its key is all that it says.
        let is_of_any = request.kind() == Kind::UnsupportedEvent;
        let is_it = |one: &&EmittedLog| {
            (one.address == self.address() || is_of_any)
                && self.decode(&one.event).is_ok_and(|found| found.key == request.key)
        };
        if let Some(here) = emitted.iter().find(is_it) {
            return Ok(LocationSighting::In(here.event.block));
        }
        let mut id_taken = false;
        for namesake in namesakes.iter().take(NAMESAKES) {
            let there = provider.header(BlockId::Number(namesake.block.number)).await?;
            id_taken |= there.is_some_and(|head| head.block.hash == namesake.block.hash);
        }
        let head = provider.header(BlockId::Latest).await?.map_or(0, |head| head.block.number);
        Ok(LocationSighting::Replaced { id_taken, under: head.saturating_sub(was.number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake_chain::{
        ADDRESSES, FakeChain, NodeFaults, SOURCE, request_data, request_event,
    };
    use crate::contracts::abi;

    /// A chain of 120 blocks, a request in block 101, and the adapter.
    fn scene() -> (FakeChain, Request, RequestContract<FakeChain>) {
        let chain = FakeChain::new(100);
        chain.mine(vec![request_event(7)]);
        let event = Event { block: chain.block(101), ..request_event(7) };
        chain.mine_empty(19);
        let adapter = RequestContract::new(chain.clone(), ADDRESSES);
        (chain, abi::decode(SOURCE, &event).unwrap(), adapter)
    }

    /// The same id with other content.
    fn namesake() -> Event {
        let transaction = crate::domain::B256::repeat_byte(1);
        Event { data: request_data(1), transaction, ..request_event(7) }
    }

    #[tokio::test(start_paused = true)]
    async fn a14_a_request_is_gone_as_soon_as_its_id_is_another_ones() {
        let (chain, request, adapter) = scene();
        let block = request.block;
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::In(block));
        chain.reorganise(20, vec![]);
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Unknown);
        chain.mine(vec![namesake()]);
        let known = Event { block: chain.block(chain.height()), ..namesake() };
        let at_once = adapter.locate(&request, std::slice::from_ref(&known)).await;
        assert_eq!(at_once.unwrap(), RequestLocation::Gone);
        // A namesake that has itself left the chain proves nothing.
        chain.reorganise(1, vec![]);
        let none = adapter.locate(&request, &[known]).await.unwrap();
        assert_eq!(none, RequestLocation::Unknown);
        chain.mine_empty(70);
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Gone);
    }

    /// Mined behind another request, its transaction gets another id.
    #[tokio::test(start_paused = true)]
    async fn a14_a_transaction_that_emits_another_id_now_is_not_the_request() {
        let (chain, request, adapter) = scene();
        let moved = Event { transaction: request.transaction, ..request_event(8) };
        chain.reorganise(20, vec![vec![], vec![moved.clone()]]);
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Unknown);
        chain.mine_empty(70);
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Gone);
        // Nor is one whose event is another contract's now.
        let (chain, request, adapter) = scene();
        chain.reorganise(20, vec![]);
        let elsewhere = crate::domain::Address::repeat_byte(1);
        chain.mine_with(vec![], vec![(elsewhere, request_event(7))]);
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Unknown);
        // The request itself, in another block.
        let (chain, request, adapter) = scene();
        chain.reorganise(20, vec![vec![], vec![request_event(7)]]);
        let there = RequestLocation::In(chain.block(102));
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), there);
    }

    /// A node without logs for a while still has receipts.
    #[tokio::test(start_paused = true)]
    async fn a14_a_request_whose_logs_are_hidden_is_not_gone() {
        let (chain, request, adapter) = scene();
        chain.reorganise(20, vec![vec![], vec![request_event(7)]]);
        chain.mine_empty(70);
        chain.state().faults[0].hides_logs = true;
        let there = RequestLocation::In(chain.block(102));
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), there);
    }

    #[tokio::test(start_paused = true)]
    async fn a14_no_one_node_makes_a_request_go() {
        let (chain, request, adapter) = scene();
        let other = BlockRef { hash: crate::domain::B256::repeat_byte(9), ..request.block };
        chain.mine_empty(70);
        chain.state().hide_receipts = true;
        // Its only node, for a moment.
        chain.state().faults[0].shows_block = Some(other);
        let asking = adapter.locate(&request, &[]);
        let healing = async {
            sleep(AGAIN_AFTER / 2).await;
            chain.state().faults[0].shows_block = None;
        };
        let (said, ()) = tokio::join!(asking, healing);
        assert_eq!(said.unwrap(), RequestLocation::Unknown);
        // One of two, for ever.
        chain.state().faults[0].shows_block = Some(other);
        chain.state().faults.push(NodeFaults::default());
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Unknown);
        // The other one agrees.
        chain.state().faults[1].shows_block = Some(other);
        assert_eq!(adapter.locate(&request, &[]).await.unwrap(), RequestLocation::Gone);
    }

    /// The correct node is away or silent for seconds: it may know better.
    #[tokio::test(start_paused = true)]
    async fn a14_who_is_away_for_a_moment_is_waited_for() {
        let away = NodeFaults { is_disconnected: true, ..NodeFaults::default() };
        for absent in [away, NodeFaults { is_silent: true, ..NodeFaults::default() }] {
            let (chain, request, adapter) = scene();
            chain.mine_empty(70);
            let other = BlockRef { hash: crate::domain::B256::repeat_byte(9), ..request.block };
            chain.state().hide_receipts = true;
            chain.state().faults[0].shows_block = Some(other);
            chain.state().faults.push(absent);
            let where_it_is = async || adapter.locate(&request, &[]).await.unwrap();
            assert_eq!(where_it_is().await, RequestLocation::Unknown);
            sleep(Duration::from_secs(30)).await;
            assert_eq!(where_it_is().await, RequestLocation::Unknown);
            // The longest time a missing node is waited for; a contradiction would restart it.
            sleep(Duration::from_secs(30)).await;
            assert_eq!(where_it_is().await, RequestLocation::Gone);
        }
    }
}
