//! What one node says of a request: of its block, as far as needed, and of its transaction's receipt.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::{
    cache::{BlockAnswer, BlockKnowledge},
    shown_request::{ShownRequest, shown_request, shown_requests},
};
use crate::{
    chain::reader::{BlockId, ChainReader, LogRange, NodeId},
    contracts::decryption::RequestContract,
    domain::{B256, BlockRef, Request},
};

/// Receipts of a block remembered per node.
const RECEIPTS: usize = 64;

/// One node's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeStatement {
    Shows,
    /// Certain: the block has no such event.
    Absent,
    /// Another block has that height, or the block's logs have no such event and nothing makes it
    /// certain.
    Denies,
    /// It has no block of that height.
    NoBlock,
    /// It is behind or does not answer.
    Unknown,
}

impl<P: ChainReader> RequestContract<P> {
    /// One answer of one node, before `until`.
    pub(super) async fn check_node(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> NodeStatement {
        let of_block = self.witness_cache.block(block.hash, node);
        let looking = async {
            let mut of_block = of_block.lock().await;
            self.check_block(node, &mut of_block, request, (block, fresh)).await
        };
        timeout_at(until, looking).await.unwrap_or(NodeStatement::Unknown)
    }

    /// Asks for what is not known of the block yet, as far as needed.
    async fn check_block(
        &self,
        node: NodeId,
        known: &mut BlockKnowledge,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
    ) -> NodeStatement {
        let (asked, transaction) = (shown_request(request), request.transaction);
        if known.excludes(&asked, &transaction) {
            return NodeStatement::Absent;
        }
        if !known.answer.as_ref().is_some_and(|told| told.answers(&asked, fresh)) {
            let within = self.witness_cache.logs_within(node);
            let logs = self.provider.logs(self.filter(), LogRange::Block(block.hash));
            let asking = timeout(within, logs).await;
            if asking.is_err() {
                self.witness_cache.record_slow(node);
            }
            let shown = asking
                .ok()
                .and_then(Result::ok)
                .map(|shown| shown_requests(self.source(), &shown.value));
            known.answer = Some(BlockAnswer { at: Instant::now(), shown, block_at_height: None });
        }
        let Some(told) = known.answer.as_mut() else { return NodeStatement::Unknown };
        if told.shown.as_ref().is_some_and(|shown| shown.contains(&asked)) {
            return NodeStatement::Shows;
        }
        let uncertain =
            if told.shown.is_some() { NodeStatement::Denies } else { NodeStatement::Unknown };
        let here = if let Some(here) = told.block_at_height {
            here
        } else {
            let here = self.provider.header(BlockId::Number(block.number)).await;
            *told.block_at_height.insert(here.map(|head| head.map(|head| head.block)).map_err(drop))
        };
        match here {
            Ok(Some(here)) if here.hash != block.hash => return NodeStatement::Denies,
            Ok(Some(_)) => {}
            Ok(None) => return NodeStatement::NoBlock,
            Err(()) => return uncertain,
        }
        if known.transactions.is_none() {
            let transactions = self.provider.block_transactions(block.hash).await;
            known.transactions = transactions.ok().flatten().map(HashSet::from_iter);
        }
        if known.excludes(&asked, &transaction) {
            return NodeStatement::Absent;
        }
        let is_listed = known.transactions.as_ref().is_none_or(|all| all.contains(&transaction));
        if !is_listed {
            // Without logs: it may be there by another transaction.
            return NodeStatement::Denies;
        }
        if !known.receipt_requests.contains_key(&transaction)
            && let Some(emitted) = self.requests_in_receipt(transaction, block).await
        {
            if known.receipt_requests.len() >= RECEIPTS {
                known.receipt_requests.clear();
            }
            known.receipt_requests.insert(transaction, emitted);
        }
        match known.receipt_requests.get(&transaction).map(|emitted| emitted.contains(&asked)) {
            Some(true) => NodeStatement::Shows,
            Some(false) => NodeStatement::Absent,
            None => uncertain,
        }
    }

    /// The requests in the receipt of a transaction of this block. `None`: no receipt yet, or of another
    /// block.
    async fn requests_in_receipt(
        &self,
        transaction: B256,
        block: BlockRef,
    ) -> Option<HashSet<ShownRequest>> {
        let emitted = self.provider.receipt_logs(transaction).await.ok()??;
        if emitted.iter().any(|emitted| emitted.event.block.hash != block.hash) {
            return None;
        }
        let own = emitted.iter().filter(|emitted| emitted.address == self.address());
        let decoded = own.filter_map(|emitted| self.decode(&emitted.event).ok());
        Some(decoded.map(|request| shown_request(&request)).collect())
    }
}
