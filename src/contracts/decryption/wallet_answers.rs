//! Whether a wallet's answers are already on chain, as one node shows it (gateway-abi 4.1 to 4.3).
//!
//! The contract refuses a second answer per signer, not per wallet, so it does not protect a connector
//! that has lost its memory of what the wallet sent. Cheapest source first, each only for what is still
//! open:
//!
//! ```text
//! the contract's list of who formed the consensus      v0.8.0-1 on, once there is one
//!   -> response events by id, in the blocks after      G9 on (public ones v0.10 on); KMS contexts, epochs
//!     -> the wallet's own transactions in the next     where no event tells
//!        blocks
//! ```
//!
//! An answer in one of the last blocks may leave the chain, so it is reported as such. Everything is
//! bounded: if a bound ends the search, an answer that was not found counts as not given.

mod block_windows;
mod listing;
mod events;
mod transactions;

use std::collections::BTreeSet;

use self::{
    block_windows::{BlockWindow, windows},
    listing::Listed,
};
use super::RequestContract;
use crate::{
    chain::{
        reader::{BlockId, ChainReader},
        rpc_error::RpcError,
    },
    domain::{Address, B256, Kind, Request, U256},
};

/// An answer under this many blocks stays.
pub const SETTLED_AFTER: u64 = 12;
/// Senders of transactions per call.
const SENDERS_AT_ONCE: usize = 100;

/// A request whose answer is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerQuery {
    pub id: U256,
    pub kind: Kind,
    pub block: u64,
}

impl From<&Request> for AnswerQuery {
    fn from(request: &Request) -> Self {
        Self { id: request.key.id, kind: request.kind(), block: request.block.number }
    }
}

/// What a node shows of a wallet's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerStatus {
    NotFound,
    /// In one of the last blocks.
    Recent,
    Settled,
    /// Too much to read now: search again later.
    Undetermined,
}

/// A search: what is open, and what was found.
struct AnswerSearch<'s> {
    queries: &'s [AnswerQuery],
    found: Vec<Option<AnswerStatus>>,
    /// Up to this block an answer stays.
    settled: u64,
    head: u64,
}

impl AnswerSearch<'_> {
    fn open(&self) -> Vec<usize> {
        (0..self.found.len()).filter(|index| self.found[*index].is_none()).collect()
    }

    /// Windows of blocks that may contain answers to open requests selected by `are`.
    fn windows(&self, are: impl Fn(&AnswerQuery) -> bool, within: u64) -> Vec<BlockWindow> {
        let open = self.open().into_iter().filter(|index| are(&self.queries[*index]));
        windows(open.map(|index| (index, self.queries[index].block)).collect(), within, self.head)
    }

    /// The open ids of a window, as topics.
    fn ids_of(&self, window: &BlockWindow) -> Vec<B256> {
        let open = window.queries.iter().filter(|index| self.found[**index].is_none());
        open.map(|index| B256::from(self.queries[*index].id)).collect()
    }

    /// Postpones the open requests of a window whose block satisfies `is`.
    fn postpone(&mut self, window: &BlockWindow, is: impl Fn(u64) -> bool) {
        for index in &window.queries {
            if is(self.queries[*index].block) {
                self.found[*index].get_or_insert(AnswerStatus::Undetermined);
            }
        }
    }

    /// Records an answer to this id in this block.
    fn record(&mut self, id: U256, block: u64) {
        let shown =
            if block <= self.settled { AnswerStatus::Settled } else { AnswerStatus::Recent };
        for (sought, found) in self.queries.iter().zip(&mut self.found) {
            if sought.id == id && *found != Some(AnswerStatus::Settled) {
                *found = Some(shown);
            }
        }
    }
}

impl<P: ChainReader> RequestContract<P> {
    /// What the node shows of this wallet's answers, in the order of `sought`.
    pub async fn find_answers(
        &self,
        wallet: Address,
        sought: &[AnswerQuery],
    ) -> Result<Vec<AnswerStatus>, RpcError> {
        let head = self.provider.header(BlockId::Latest).await?.map_or(0, |head| head.block.number);
        let settled = head.saturating_sub(SETTLED_AFTER);
        // The node has not reached its block yet.
        let ahead = |one: &AnswerQuery| (one.block > head).then_some(AnswerStatus::Undetermined);
        let found = sought.iter().map(ahead).collect();
        let mut look = AnswerSearch { queries: sought, found, settled, head };
        let mut ours = Vec::new();
        for (index, listed) in
            self.consensus_listing(wallet, &look, &look.open(), BlockId::Latest).await?
        {
            match listed {
                Listed::Ours => ours.push(index),
                // A user decryption lists all who answered, a public one only those who agree.
                Listed::Others if sought[index].kind == Kind::UserDecryption => {
                    look.found[index] = Some(AnswerStatus::NotFound);
                }
                Listed::Others | Listed::Nobody | Listed::Unavailable => {}
            }
        }
        // The state of an earlier block is read only for these: nodes keep it for few blocks, some not
        // at all.
        let mut undated = BTreeSet::new();
        for (index, listed) in
            self.consensus_listing(wallet, &look, &ours, BlockId::Number(settled)).await?
        {
            match listed {
                Listed::Ours => look.found[index] = Some(AnswerStatus::Settled),
                Listed::Others | Listed::Nobody => look.found[index] = Some(AnswerStatus::Recent),
                // Its event may tell its block.
                Listed::Unavailable => {
                    undated.insert(index);
                }
            }
        }
        self.find_events(wallet, &mut look).await?;
        self.find_transactions(wallet, &mut look).await?;
        let found = look.found.into_iter().enumerate();
        let or_else = |index| {
            if undated.contains(&index) { AnswerStatus::Recent } else { AnswerStatus::NotFound }
        };
        Ok(found.map(|(index, found)| found.unwrap_or_else(|| or_else(index))).collect())
    }
}

#[cfg(test)]
mod tests;
