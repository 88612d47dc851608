//! What other nodes answered to a key operation: their events, in the blocks after the request
//! (gateway-abi 6.2, 7.1). Only v0.9 shows nothing before the vote is decided.

use super::RequestContract;
use crate::{
    chain::{
        log_pages::logs_of_blocks,
        reader::{BlockId, ChainReader},
        rpc_error::RpcError,
    },
    contracts::abi::{self, Vote},
    domain::{Event, Request},
};

/// What was found of others' votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Votes {
    /// All that there are up to the head.
    All(Vec<Vote>),
    /// There are too many blocks to read.
    TooManyBlocks,
}

impl<P: ChainReader> RequestContract<P> {
    /// The votes on this request that are on chain now.
    pub async fn votes_on(&self, request: &Request) -> Result<Votes, RpcError> {
        let Some(head) = self.provider.header(BlockId::Latest).await? else {
            return Ok(Votes::All(Vec::new()));
        };
        let blocks = (request.block.number, head.block.number);
        let filter = self.of(&abi::VOTE_TOPICS, &[]);
        let found = logs_of_blocks(&self.provider, filter, blocks).await?;
        Ok(found.map_or(Votes::TooManyBlocks, |events| Votes::All(votes(&events, request))))
    }
}

fn votes(events: &[Event], request: &Request) -> Vec<Vote> {
    let votes = events.iter().filter_map(abi::parse_vote);
    votes.filter(|vote| vote.id == request.key.id).collect()
}
