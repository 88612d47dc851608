//! Whether a wallet's answers are already on chain, as one node shows it (gateway-abi 4.1 to 4.3).
//!
//! The contract refuses a second answer per signer, not per wallet, so it does not protect a connector
//! that has lost its memory of what the wallet sent. Cheapest source first, each only for what is still
//! open:
//!
//! ```text
//! the contract's list of who formed the consensus      v0.8.0-1 on, once there is one
//!   -> response events by id, in the blocks after      G9 on (public ones v0.10 on)
//!     -> the wallet's own transactions in the next     where no event tells
//!        blocks
//! ```
//!
//! An answer in one of the last blocks may leave the chain, so it is reported as such. Everything is
//! bounded: if a bound ends the search, an answer that was not found counts as not given.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tracing::debug;

use super::DecryptionAdapter;
use crate::{
    chain::provider::{
        BlockId, ChainReader, EthCall, LogRange, RpcError, Transaction, quirks::RangeRefusal,
    },
    contracts::abi::{self, Responder},
    domain::{Address, B256, Event, Kind, Request, U256},
};

/// An answer under this many blocks stays.
pub const SETTLED_AFTER: u64 = 12;
/// Events are searched in this many blocks after a request: more than an hour.
const EVENTS_WITHIN: u64 = 20_000;
/// Blocks per call for events, if the node accepts that, and most calls of one search.
const PAGE: u64 = 2_000;
const MOST_PAGES: usize = 64;
/// Own transactions are searched in this many blocks after a request.
const OWN_WITHIN: u64 = 1_000;
/// The transaction count is read every `STEP` blocks, `SPAN` blocks per call, with at most `MOST_SPANS`
/// calls per search.
const STEP: u64 = 50;
const SPAN: u64 = 1_000;
const MOST_SPANS: usize = 10;
/// No further span is started after this many whole blocks were read; they are read in batches of this
/// size.
const MOST_BLOCKS: usize = 2_000;
const BLOCKS_AT_ONCE: usize = 10;
/// The version text of a deployment with the most response events.
const NEWEST: Option<&str> = Some("Decryption v0.3.0");
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

/// Whose answers a contract lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Ours,
    Others,
    /// There is no consensus yet, or no such list.
    Nobody,
    /// The node does not have the contract's state of that block.
    Unavailable,
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

/// A range of blocks, and the requests (by index) whose answers may be in it.
#[derive(Debug, PartialEq, Eq)]
struct BlockWindow {
    from: u64,
    to: u64,
    queries: Vec<usize>,
}

/// Merges the blocks in which answers may be, so that each block is read once. `of`: index and block of
/// each request.
fn windows(mut of: Vec<(usize, u64)>, within: u64, head: u64) -> Vec<BlockWindow> {
    of.sort_by_key(|(index, block)| (*block, *index));
    let mut windows: Vec<BlockWindow> = Vec::new();
    for (index, block) in of.into_iter().filter(|(_, block)| *block <= head) {
        let to = block.saturating_add(within).min(head);
        match windows.last_mut().filter(|last| block <= last.to) {
            Some(last) => {
                last.to = to;
                last.queries.push(index);
            }
            None => windows.push(BlockWindow { from: block, to, queries: vec![index] }),
        }
    }
    windows
}

impl<P: ChainReader> DecryptionAdapter<P> {
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

    /// Whom the contract lists for each of these.
    async fn consensus_listing(
        &self,
        wallet: Address,
        look: &AnswerSearch<'_>,
        of: &[usize],
        at: BlockId,
    ) -> Result<Vec<(usize, Listed)>, RpcError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let views: Vec<_> = of
            .iter()
            .map(|index| abi::decryption_consensus_tx_senders(look.queries[*index].id))
            .collect();
        let to = self.address();
        let calls: Vec<EthCall> =
            views.iter().map(|view| EthCall { from: None, to, data: view.calldata() }).collect();
        // Nodes drop the state of earlier blocks, some after seconds.
        let untold = |error: &RpcError| at != BlockId::Latest && error.is_state_pruned();
        let results = match self.provider.calls(&calls, at).await {
            Err(error) if untold(&error) => {
                return Ok(of.iter().map(|index| (*index, Listed::Unavailable)).collect());
            }
            said => said?,
        };
        let mut listed = Vec::with_capacity(of.len());
        for ((index, view), said) in of.iter().zip(&views).zip(results) {
            let senders = match said {
                Ok(returned) => view.decode(&returned).unwrap_or_default(),
                // The contract has no such function.
                Err(error) if error.revert_data().is_some() => Vec::new(),
                Err(error) if untold(&error) => {
                    debug!(?at, %error, "the node does not have the state of an earlier block");
                    listed.push((*index, Listed::Unavailable));
                    continue;
                }
                Err(error) => return Err(error),
            };
            listed.push((
                *index,
                match senders.as_slice() {
                    [] => Listed::Nobody,
                    senders if senders.contains(&wallet) => Listed::Ours,
                    _ => Listed::Others,
                },
            ));
        }
        Ok(listed)
    }

    async fn find_events(
        &self,
        wallet: Address,
        look: &mut AnswerSearch<'_>,
    ) -> Result<(), RpcError> {
        let has_events = |one: &AnswerQuery| !(one.id >> 248_usize).is_zero();
        let (mut left, mut page) = (MOST_PAGES, PAGE);
        for window in look.windows(has_events, EVENTS_WITHIN) {
            let mut next = window.from;
            while next <= window.to && left > 0 {
                let ids = look.ids_of(&window);
                if ids.is_empty() {
                    break;
                }
                left -= 1;
                let to = window.to.min(next.saturating_add(page - 1));
                let filter = self.of(&abi::RESPONSE_TOPICS, &ids);
                match self.provider.logs(filter, LogRange::Numbers { from: next, to }).await {
                    Ok(told) => {
                        for (id, block) in self.own_response_events(wallet, told.value).await? {
                            look.record(id, block);
                        }
                        next = to + 1;
                    }
                    Err(error) if page > 1 => {
                        let wished = match error.range_refusal() {
                            Some(RangeRefusal::Blocks { limit: most }) => most,
                            Some(RangeRefusal::Results) => None,
                            None => return Err(error),
                        };
                        page = wished.unwrap_or(page).clamp(1, page / 2);
                    }
                    Err(error) => return Err(error),
                }
            }
            // What was started counts as read: a node that returns so little at once is not asked for
            // more.
            look.postpone(&window, |block| block >= next && next <= window.to);
        }
        Ok(())
    }

    /// Ids and blocks of the response events that report this wallet's answers.
    async fn own_response_events(
        &self,
        wallet: Address,
        events: Vec<Event>,
    ) -> Result<Vec<(U256, u64)>, RpcError> {
        let (mut own, mut nameless) = (Vec::new(), Vec::new());
        for event in events {
            match abi::parse_response_event(&event) {
                Some((id, Responder::Named(sender))) if sender == wallet => {
                    own.push((id, event.block.number));
                }
                Some((id, Responder::TransactionSender)) => {
                    nameless.push((event.transaction, id, event.block.number));
                }
                Some(_) | None => {}
            }
        }
        let transactions: BTreeSet<B256> = nameless.iter().map(|(hash, ..)| *hash).collect();
        let transactions: Vec<B256> = transactions.into_iter().collect();
        let mut ours = HashSet::new();
        for asked in transactions.chunks(SENDERS_AT_ONCE) {
            let senders = self.provider.senders(asked).await?;
            let asked = asked.iter().zip(senders);
            ours.extend(asked.filter(|(_, sender)| *sender == Some(wallet)).map(|(hash, _)| *hash));
        }
        let nameless = nameless.into_iter().filter(|(hash, ..)| ours.contains(hash));
        own.extend(nameless.map(|(_, id, block)| (id, block)));
        Ok(own)
    }

    async fn find_transactions(
        &self,
        wallet: Address,
        look: &mut AnswerSearch<'_>,
    ) -> Result<(), RpcError> {
        let depends = |one: &AnswerQuery| {
            abi::has_answer_events(one.kind, one.id, None)
                != abi::has_answer_events(one.kind, one.id, NEWEST)
        };
        let version = if look.open().iter().any(|index| depends(&look.queries[*index])) {
            self.optional_view(self.address(), abi::decryption_version()).await?
        } else {
            None
        };
        let silent =
            |one: &AnswerQuery| !abi::has_answer_events(one.kind, one.id, version.as_deref());
        let (mut spans, mut blocks) = (MOST_SPANS, MOST_BLOCKS);
        for window in look.windows(silent, OWN_WITHIN) {
            let mut read_to = window.from;
            while read_to < window.to && spans > 0 && blocks > 0 {
                let to = window.to.min(read_to.saturating_add(SPAN));
                let these = self.blocks_with_own_transactions(wallet, read_to, to).await?;
                spans -= 1;
                blocks = blocks.saturating_sub(these.len());
                for (id, block) in self.own_response_transactions(wallet, &these).await? {
                    look.record(id, block);
                }
                read_to = to;
            }
            look.postpone(&window, |block| {
                block.saturating_add(OWN_WITHIN) > read_to && read_to < window.to
            });
        }
        Ok(())
    }

    /// The blocks after `from` up to `to` that may contain transactions of the wallet.
    async fn blocks_with_own_transactions(
        &self,
        wallet: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<u64>, RpcError> {
        let mut edges: Vec<u64> = Vec::new();
        let mut edge = from;
        while edge < to {
            edges.push(edge);
            edge = edge.saturating_add(STEP);
        }
        edges.push(to);
        let counts = self.provider.transaction_counts_at(wallet, &edges).await?;
        let mut blocks = Vec::new();
        for (edges, counts) in edges.windows(2).zip(counts.windows(2)) {
            let none = matches!(counts, [Some(before), Some(after)] if before == after);
            if !none {
                blocks.extend(edges[0] + 1..=edges[1]);
            }
        }
        Ok(blocks)
    }

    /// Skips a block that is too large to read.
    async fn transactions_of(
        &self,
        wallet: Address,
        blocks: &[u64],
    ) -> Result<Vec<Transaction>, RpcError> {
        match self.provider.transactions_from(wallet, blocks).await {
            Err(error) if error.range_refusal().is_some() => debug!(%error, "read one by one"),
            read => return read,
        }
        let mut own = Vec::new();
        for block in blocks {
            match self.provider.transactions_from(wallet, &[*block]).await {
                Ok(more) => own.extend(more),
                Err(error) if error.range_refusal().is_some() => {
                    debug!(block, %error, "own transactions of this block are not read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(own)
    }

    /// Ids and blocks of the answers that the wallet delivered in these blocks.
    async fn own_response_transactions(
        &self,
        wallet: Address,
        blocks: &[u64],
    ) -> Result<Vec<(U256, u64)>, RpcError> {
        let mut answers = BTreeMap::new();
        for these in blocks.chunks(BLOCKS_AT_ONCE) {
            for transaction in self.transactions_of(wallet, these).await? {
                if transaction.to == Some(self.address())
                    && let Some(id) = abi::response_calldata_id(&transaction.input)
                {
                    answers.insert(transaction.hash, id);
                }
            }
        }
        let hashes: Vec<B256> = answers.keys().copied().collect();
        let mut found = Vec::new();
        for asked in hashes.chunks(SENDERS_AT_ONCE) {
            // A reverted transaction delivered nothing.
            for receipt in self.provider.receipts(asked).await?.into_iter().flatten() {
                if receipt.success
                    && let Some(id) = answers.get(&receipt.hash)
                {
                    found.push((*id, receipt.block.number));
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
