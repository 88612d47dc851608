//! Reads the state of the lane's transactions from the chain: one transaction count tells which nonces
//! are mined, and only their receipts are asked for, in batches.
//!
//! A partial answer counts: a slow node may answer a few receipts at a time, and a lane with hundreds of
//! open transactions must not need all of them at once.

use std::collections::{BTreeMap, BTreeSet};

use tracing::debug;

use super::{
    MinedTransaction, ask_all,
    state::{ChainReport, MOST_AHEAD, ReceiptQuery},
};
use crate::{
    chain::{
        reader::{BlockId, Receipt},
        rpc_error::RpcError,
        sender::TransactionSender,
    },
    domain::{Address, B256},
};

/// Most receipts in one batch.
pub(super) const MOST_AT_ONCE: usize = 100;
/// Batch size that is never reduced further, for a node that fails on larger ones.
const LEAST_AT_ONCE: usize = 5;

/// Result of a query of the chain.
#[derive(Debug)]
pub(super) struct ReceiptRead {
    /// `None`: not even the count could be read.
    pub report: Option<ChainReport>,
    /// The error that ended the query early.
    pub failed: Option<RpcError>,
    /// Batch size of the next query.
    pub at_once: usize,
}

/// Asks as much as the node answers. `at_once`: receipts in one batch.
pub(super) async fn read_chain(
    provider: &impl TransactionSender,
    sender: Address,
    look: ReceiptQuery,
    at_once: usize,
) -> ReceiptRead {
    let everyone = async {
        if look.asks_all_nodes { ask_all::read_counts(provider, sender).await.ok() } else { None }
    };
    let asked =
        futures_util::future::join(read_report(provider, sender, look.clone(), at_once), everyone);
    let (read, votes) = Box::pin(asked).await;
    let seen = read.report.map(|seen| ChainReport { votes, ..seen });
    ReceiptRead { report: seen, ..read }
}

async fn read_report(
    provider: &impl TransactionSender,
    sender: Address,
    look: ReceiptQuery,
    at_once: usize,
) -> ReceiptRead {
    let count = match provider.transaction_count(sender, BlockId::Latest).await {
        Ok(count) => count,
        Err(error) => return ReceiptRead { report: None, failed: Some(error), at_once },
    };
    let mut seen = ChainReport { count, ..ChainReport::default() };
    let failed = read_receipts(provider, look, at_once, &mut seen).await.err();
    seen.is_complete = failed.is_none();
    let at_once = match failed {
        Some(_) => (at_once / 2).max(LEAST_AT_ONCE),
        None => (at_once * 2).min(MOST_AT_ONCE),
    };
    ReceiptRead { report: Some(seen), failed, at_once }
}

async fn read_receipts(
    provider: &impl TransactionSender,
    look: ReceiptQuery,
    at_once: usize,
    seen: &mut ChainReport,
) -> Result<(), RpcError> {
    let count = seen.count;
    if !look.mined.is_empty() || !look.deep.is_empty() || count < look.believed_count {
        // Read before the receipts: a node whose head is below their blocks does not know them.
        seen.head = provider.header(BlockId::Latest).await?.map(|head| head.block.number);
    }
    let below = maybe_mined(&look, count);
    for asked in below.chunks(at_once) {
        match node_receipts(provider, asked, look.asks_all_nodes).await {
            Ok(NodeReceipts { receipts, is_silent }) => {
                seen.is_silent |= is_silent;
                seen.open.extend(receipts);
            }
            Err(error) => {
                // Keep the rule: for each nonce either all its transactions or none.
                seen.open.retain(|(nonce, _)| *nonce != asked[0].0);
                return Err(error);
            }
        }
    }
    for asked in look.displaced.chunks(at_once) {
        let found = node_receipts(provider, asked, true).await?.receipts.into_iter();
        seen.displaced.extend(found.filter_map(|(nonce, receipt)| Some((nonce, receipt?))));
    }
    read_deep(provider, &look.deep, at_once, seen).await?;
    for asked in look.mined.chunks(at_once) {
        let these: Vec<(u64, B256)> = asked.iter().map(|one| (one.nonce, one.hash)).collect();
        let receipts = node_receipts(provider, &these, true).await?.receipts;
        let is_there = |(one, (_, receipt)): (&MinedTransaction, &(u64, Option<Receipt>))| {
            is_unmoved(one, receipt.as_ref())
        };
        let unchanged = receipts.len() == asked.len() && asked.iter().zip(&receipts).all(is_there);
        seen.mined.extend(receipts);
        // Older transactions are deeper in the chain.
        if unchanged {
            break;
        }
    }
    Ok(())
}

/// Reads the receipts of deep blocks, and whether the nodes agree on each block.
async fn read_deep(
    provider: &impl TransactionSender,
    deep: &[MinedTransaction],
    at_once: usize,
    seen: &mut ChainReport,
) -> Result<(), RpcError> {
    let mut agreed: BTreeMap<B256, bool> = BTreeMap::new();
    for asked in deep.chunks(at_once) {
        let these: Vec<(u64, B256)> = asked.iter().map(|one| (one.nonce, one.hash)).collect();
        for (nonce, receipt) in node_receipts(provider, &these, false).await?.receipts {
            if let Some(block) = receipt.as_ref().map(|receipt| receipt.block) {
                let is_agreed = match agreed.get(&block.hash) {
                    Some(known) => *known,
                    None => ask_all::agree_on_block(provider, block).await,
                };
                agreed.insert(block.hash, is_agreed);
                if !is_agreed {
                    continue;
                }
            }
            seen.deep.push((nonce, receipt));
        }
    }
    Ok(())
}

/// Receipts by nonce.
#[derive(Debug)]
struct NodeReceipts {
    /// `None`: there is no receipt. Missing entries: no node gave a plausible answer.
    receipts: Vec<(u64, Option<Receipt>)>,
    /// One of several nodes did not answer.
    is_silent: bool,
}

/// `others`: ask the other nodes for receipts that the first node does not have. They are always asked
/// where the first node shows a receipt in a block that does not exist yet.
async fn node_receipts(
    provider: &impl TransactionSender,
    asked: &[(u64, B256)],
    others: bool,
) -> Result<NodeReceipts, RpcError> {
    let hashes: Vec<B256> = asked.iter().map(|(_, hash)| *hash).collect();
    let mut receipts = provider.receipts(&hashes).await?;
    let mut implausible = BTreeSet::new();
    for ((nonce, _), receipt) in asked.iter().zip(&mut receipts) {
        if let Some(of) = receipt.as_ref()
            && !may_exist(provider, of.block.number).await?
        {
            debug!(nonce, block = of.block.number, "a receipt of a block that is not made yet");
            implausible.insert(*nonce);
            *receipt = None;
        }
    }
    let known = |receipts: &[Option<Receipt>]| -> BTreeSet<u64> {
        let known = asked.iter().zip(receipts).filter(|(_, receipt)| receipt.is_some());
        known.map(|((nonce, _), _)| *nonce).collect()
    };
    let there = known(&receipts);
    let missing = |place: &usize| {
        let nonce = asked[*place].0;
        !there.contains(&nonce) && (others || implausible.contains(&nonce))
    };
    let missing: Vec<usize> = (0..asked.len()).filter(missing).collect();
    let mut is_silent = false;
    if !missing.is_empty() {
        let hashes: Vec<B256> = missing.iter().map(|place| asked[*place].1).collect();
        let elsewhere = ask_all::read_other_receipts(provider, &hashes).await;
        is_silent = elsewhere.is_silent;
        for (place, receipt) in missing.into_iter().zip(elsewhere.receipts) {
            receipts[place] = receipt;
        }
    }
    let there = known(&receipts);
    let all = asked.iter().map(|(nonce, _)| *nonce).zip(receipts);
    let receipts = all.filter(|(nonce, _)| there.contains(nonce) || !implausible.contains(nonce));
    Ok(NodeReceipts { receipts: receipts.collect(), is_silent })
}

/// Returns whether a block of this height exists or may exist in a moment. Head notifications may be
/// late, so the node is asked for its newest block before the answer is "no".
async fn may_exist(provider: &impl TransactionSender, block: u64) -> Result<bool, RpcError> {
    let newest_head = provider.heads().borrow().map_or(0, |head| head.block.number);
    if block <= newest_head.saturating_add(MOST_AHEAD) {
        return Ok(true);
    }
    let newest = provider.header(BlockId::Latest).await?.map_or(0, |head| head.block.number);
    Ok(block <= newest.saturating_add(MOST_AHEAD))
}

/// The open transactions that may be mined at this count.
pub(super) fn maybe_mined(look: &ReceiptQuery, count: u64) -> Vec<(u64, B256)> {
    // A count below the believed one must not hide mined transactions.
    let (all, some) =
        (count < look.believed_count, if look.is_lowest_overdue { LEAST_AT_ONCE } else { 0 });
    let open = look.open.iter().copied().enumerate();
    let below = open.take_while(|(place, (nonce, _))| *nonce < count || all || *place < some);
    below.map(|(_, one)| one).collect()
}

fn is_unmoved(mined: &MinedTransaction, receipt: Option<&Receipt>) -> bool {
    receipt.is_some_and(|receipt| receipt.block == mined.block)
}
