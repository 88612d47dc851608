//! Reads the state of the lane's transactions from the chain: one transaction count tells which nonces
//! are mined, and only their receipts are asked for, in batches.
//!
//! A partial answer counts: a slow node may answer a few receipts at a time, and a lane with hundreds of
//! open transactions must not need all of them at once.

use std::collections::BTreeSet;

use tracing::debug;

use super::{
    MinedTransaction,
    book::{AHEAD, Look, Seen},
    votes,
};
use crate::{
    domain::{Address, B256},
    gateway::provider::{At, Receipt, RpcError, TransactionSender},
};

/// Most receipts in one batch.
pub(super) const MOST_AT_ONCE: usize = 100;
/// Batch size that is never reduced further, for a node that fails on larger ones.
const LEAST_AT_ONCE: usize = 5;

/// Result of a query of the chain.
#[derive(Debug)]
pub(super) struct Looked {
    /// `None`: not even the count could be read.
    pub seen: Option<Seen>,
    /// The error that ended the query early.
    pub failed: Option<RpcError>,
    /// Batch size of the next query.
    pub at_once: usize,
}

/// Asks as much as the node answers. `at_once`: receipts in one batch.
pub(super) async fn ask_chain(
    provider: &impl TransactionSender,
    sender: Address,
    look: Look,
    at_once: usize,
) -> Looked {
    let everyone = async {
        if look.everyone { votes::ask_everyone(provider, sender).await.ok() } else { None }
    };
    let asked = futures_util::future::join(ask(provider, sender, look.clone(), at_once), everyone);
    let (looked, votes) = Box::pin(asked).await;
    let seen = looked.seen.map(|seen| Seen { votes, ..seen });
    Looked { seen, ..looked }
}

async fn ask(
    provider: &impl TransactionSender,
    sender: Address,
    look: Look,
    at_once: usize,
) -> Looked {
    let count = match provider.transaction_count(sender, At::Latest).await {
        Ok(count) => count,
        Err(error) => return Looked { seen: None, failed: Some(error), at_once },
    };
    let mut seen = Seen { count, ..Seen::default() };
    let failed = ask_receipts(provider, look, at_once, &mut seen).await.err();
    seen.is_whole = failed.is_none();
    let at_once = match failed {
        Some(_) => (at_once / 2).max(LEAST_AT_ONCE),
        None => (at_once * 2).min(MOST_AT_ONCE),
    };
    Looked { seen: Some(seen), failed, at_once }
}

async fn ask_receipts(
    provider: &impl TransactionSender,
    look: Look,
    at_once: usize,
    seen: &mut Seen,
) -> Result<(), RpcError> {
    let count = seen.count;
    if !look.mined.is_empty() || count < look.believed {
        // Read before the receipts: a node whose head is below their blocks does not know them.
        seen.head = provider.header(At::Latest).await?.map(|head| head.block.number);
    }
    let below = maybe_mined(&look, count);
    for asked in below.chunks(at_once) {
        match shown(provider, asked, look.everyone).await {
            Ok(Shown { receipts, is_silent }) => {
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
    for asked in look.lost.chunks(at_once) {
        let found = shown(provider, asked, true).await?.receipts.into_iter();
        seen.lost.extend(found.filter_map(|(nonce, receipt)| Some((nonce, receipt?))));
    }
    for asked in look.mined.chunks(at_once) {
        let these: Vec<(u64, B256)> = asked.iter().map(|one| (one.nonce, one.hash)).collect();
        let receipts = shown(provider, &these, true).await?.receipts;
        let is_there = |(one, (_, receipt)): (&MinedTransaction, &(u64, Option<Receipt>))| {
            is_where(one, receipt.as_ref())
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

/// Receipts by nonce.
#[derive(Debug)]
struct Shown {
    /// `None`: there is no receipt. Missing entries: no node gave a plausible answer.
    receipts: Vec<(u64, Option<Receipt>)>,
    /// One of several nodes did not answer.
    is_silent: bool,
}

/// `others`: ask the other nodes for receipts that the first node does not have. They are always asked
/// where the first node shows a receipt in a block that does not exist yet.
async fn shown(
    provider: &impl TransactionSender,
    asked: &[(u64, B256)],
    others: bool,
) -> Result<Shown, RpcError> {
    let hashes: Vec<B256> = asked.iter().map(|(_, hash)| *hash).collect();
    let mut receipts = provider.receipts(&hashes).await?;
    let mut odd = BTreeSet::new();
    for ((nonce, _), receipt) in asked.iter().zip(&mut receipts) {
        if let Some(of) = receipt.as_ref()
            && !is_made(provider, of.block.number).await?
        {
            debug!(nonce, block = of.block.number, "a receipt of a block that is not made yet");
            odd.insert(*nonce);
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
        !there.contains(&nonce) && (others || odd.contains(&nonce))
    };
    let missing: Vec<usize> = (0..asked.len()).filter(missing).collect();
    let mut is_silent = false;
    if !missing.is_empty() {
        let hashes: Vec<B256> = missing.iter().map(|place| asked[*place].1).collect();
        let elsewhere = votes::ask_others(provider, &hashes).await;
        is_silent = elsewhere.is_silent;
        for (place, receipt) in missing.into_iter().zip(elsewhere.receipts) {
            receipts[place] = receipt;
        }
    }
    let there = known(&receipts);
    let all = asked.iter().map(|(nonce, _)| *nonce).zip(receipts);
    let receipts = all.filter(|(nonce, _)| there.contains(nonce) || !odd.contains(nonce));
    Ok(Shown { receipts: receipts.collect(), is_silent })
}

/// Returns whether a block of this height exists or may exist in a moment. Head notifications may be
/// late, so the node is asked for its newest block before the answer is "no".
async fn is_made(provider: &impl TransactionSender, block: u64) -> Result<bool, RpcError> {
    let told = provider.heads().borrow().map_or(0, |head| head.block.number);
    if block <= told.saturating_add(AHEAD) {
        return Ok(true);
    }
    let newest = provider.header(At::Latest).await?.map_or(0, |head| head.block.number);
    Ok(block <= newest.saturating_add(AHEAD))
}

/// The open transactions that may be mined at this count.
pub(super) fn maybe_mined(look: &Look, count: u64) -> Vec<(u64, B256)> {
    // A count below the believed one must not hide mined transactions.
    let (all, some) = (count < look.believed, if look.waits { LEAST_AT_ONCE } else { 0 });
    let open = look.open.iter().copied().enumerate();
    let below = open.take_while(|(place, (nonce, _))| *nonce < count || all || *place < some);
    below.map(|(_, one)| one).collect()
}

fn is_where(mined: &MinedTransaction, receipt: Option<&Receipt>) -> bool {
    receipt.is_some_and(|receipt| receipt.block == mined.block)
}
