//! The third source: the wallet's own transactions, for requests that no event tells of. Where the wallet's
//! transaction count grows, whole blocks are read.

use std::collections::BTreeMap;

use tracing::debug;

use super::{AnswerQuery, AnswerSearch, SENDERS_AT_ONCE};
use crate::{
    chain::{
        reader::{ChainReader, Transaction},
        rpc_error::RpcError,
    },
    contracts::{abi, decryption::RequestContract},
    domain::{Address, B256, U256},
};

/// Own transactions are searched in this many blocks after a request.
pub(super) const OWN_WITHIN: u64 = 1_000;
/// The transaction count is read every `STEP` blocks, `SPAN` blocks per call, with at most `MOST_SPANS`
/// calls per search.
const STEP: u64 = 50;
pub(super) const SPAN: u64 = 1_000;
const MOST_SPANS: usize = 10;
/// No further span is started after this many whole blocks were read; they are read in batches of this
/// size.
pub(super) const MOST_BLOCKS: usize = 2_000;
pub(super) const BLOCKS_AT_ONCE: usize = 10;
/// The version text of a deployment with the most response events.
const NEWEST: Option<&str> = Some("Decryption v0.3.0");

impl<P: ChainReader> RequestContract<P> {
    pub(super) async fn find_transactions(
        &self,
        wallet: Address,
        look: &mut AnswerSearch<'_>,
    ) -> Result<(), RpcError> {
        let depends = |one: &AnswerQuery| {
            abi::has_answer_events(one.kind, one.id, None)
                != abi::has_answer_events(one.kind, one.id, NEWEST)
        };
        let version = if look.open().iter().any(|index| depends(&look.queries[*index])) {
            self.optional_view(self.address(), abi::contract_version()).await?
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
