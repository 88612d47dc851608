//! What other nodes answered to a key operation: their events, in the blocks after the request
//! (gateway-abi 6.2). Only v0.9 shows nothing before the vote is decided.

use super::RequestContract;
use crate::{
    chain::{
        quirks::RangeRefusal,
        reader::{BlockId, ChainReader, LogRange},
        rpc_error::RpcError,
    },
    contracts::abi::{self, Vote},
    domain::{Event, Request},
};

/// Blocks per call, if the node accepts that. The contract emits a few events a month.
const PAGE: u64 = 50_000;
/// Calls of one search: at the smallest page that nodes accept, more than a day of the gateway's blocks.
const MOST_CALLS: usize = 400;

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
        let (mut next, end, mut page) = (request.block.number, head.block.number, PAGE);
        let mut found = Vec::new();
        for _ in 0..MOST_CALLS {
            if next > end {
                return Ok(Votes::All(found));
            }
            let to = end.min(next.saturating_add(page - 1));
            let range = LogRange::Numbers { from: next, to };
            match self.provider.logs(self.of(&abi::VOTE_TOPICS, &[]), range).await {
                Ok(told) => {
                    found.extend(votes(told.value, request));
                    next = to + 1;
                }
                Err(error) if page > 1 => {
                    let wished = match error.range_refusal() {
                        Some(RangeRefusal::Blocks { limit }) => limit,
                        Some(RangeRefusal::Results) => None,
                        None => return Err(error),
                    };
                    page = wished.unwrap_or(page).clamp(1, page / 2);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(if next > end { Votes::All(found) } else { Votes::TooManyBlocks })
    }
}

fn votes(events: Vec<Event>, request: &Request) -> impl Iterator<Item = Vote> {
    let id = request.key.id;
    events.into_iter().filter_map(|event| abi::parse_vote(&event)).filter(move |vote| vote.id == id)
}
