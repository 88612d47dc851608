//! What the chain is asked about the lane's transactions: one count tells which nonces are mined, and
//! only their receipts are asked for, some in each message.
//!
//! What was heard before a question failed counts: a slow node answers a few at a time, and a lane
//! with hundreds of transactions under way would never see one of them mined if it wanted all or
//! nothing.

use std::collections::BTreeSet;

use super::{
    MinedTransaction,
    book::{Look, Seen},
    votes,
};
use crate::{
    domain::{Address, B256},
    gateway::provider::{At, Provider, Receipt, RpcError},
};

/// Receipts asked for in one message, at most.
pub(super) const MOST_AT_ONCE: usize = 100;
/// And of a node that fails on more.
const LEAST_AT_ONCE: usize = 5;

/// What came of a look.
#[derive(Debug)]
pub(super) struct Looked {
    /// `None`: not even the count.
    pub seen: Option<Seen>,
    /// What ended the look early.
    pub failed: Option<RpcError>,
    /// How many receipts to ask for in a message the next time.
    pub at_once: usize,
}

/// Asks for as much as the node answers. `at_once`: receipts in one message.
pub(super) async fn ask_chain(
    provider: &impl Provider,
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

async fn ask(provider: &impl Provider, sender: Address, look: Look, at_once: usize) -> Looked {
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
    provider: &impl Provider,
    look: Look,
    at_once: usize,
    seen: &mut Seen,
) -> Result<(), RpcError> {
    let count = seen.count;
    if !look.mined.is_empty() || count < look.believed {
        // Before the receipts: a node that is behind them knows nothing of them.
        seen.head = provider.header(At::Latest).await?.map(|head| head.block.number);
    }
    let below = maybe_mined(&look, count);
    for asked in below.chunks(at_once) {
        let hashes: Vec<B256> = asked.iter().map(|(_, hash)| *hash).collect();
        let mut receipts = match provider.receipts(&hashes).await {
            Ok(receipts) => receipts,
            Err(error) => {
                // Of a nonce with several transactions all are known, or none.
                seen.open.retain(|(nonce, _)| *nonce != asked[0].0);
                return Err(error);
            }
        };
        if look.everyone {
            seen.is_silent |= fill_in(provider, asked, &mut receipts).await;
        }
        seen.open.extend(asked.iter().map(|(nonce, _)| *nonce).zip(receipts));
    }
    for asked in look.lost.chunks(at_once) {
        let hashes: Vec<B256> = asked.iter().map(|(_, hash)| *hash).collect();
        let mut receipts = provider.receipts(&hashes).await?;
        fill_in(provider, asked, &mut receipts).await;
        let found = asked.iter().map(|(nonce, _)| *nonce).zip(receipts);
        seen.lost.extend(found.filter_map(|(nonce, receipt)| Some((nonce, receipt?))));
    }
    for asked in look.mined.chunks(at_once) {
        let these: Vec<(u64, B256)> = asked.iter().map(|one| (one.nonce, one.hash)).collect();
        let hashes: Vec<B256> = asked.iter().map(|one| one.hash).collect();
        let mut receipts = provider.receipts(&hashes).await?;
        fill_in(provider, &these, &mut receipts).await;
        let unchanged =
            asked.iter().zip(&receipts).all(|(one, receipt)| is_where(one, receipt.as_ref()));
        seen.mined.extend(asked.iter().map(|one| one.nonce).zip(receipts));
        // What is older is deeper in the chain.
        if unchanged {
            break;
        }
    }
    Ok(())
}

/// What the node that is read from does not show of a nonce, as another one has it. Whether one of them
/// did not answer.
async fn fill_in(
    provider: &impl Provider,
    asked: &[(u64, B256)],
    receipts: &mut [Option<Receipt>],
) -> bool {
    let shown = asked.iter().zip(&*receipts).filter(|(_, receipt)| receipt.is_some());
    let shown: BTreeSet<u64> = shown.map(|((nonce, _), _)| *nonce).collect();
    let missing = |place: &usize| !shown.contains(&asked[*place].0);
    let missing: Vec<usize> = (0..asked.len()).filter(missing).collect();
    if missing.is_empty() {
        return false;
    }
    let hashes: Vec<B256> = missing.iter().map(|place| asked[*place].1).collect();
    let others = votes::ask_others(provider, &hashes).await;
    for (place, receipt) in missing.into_iter().zip(others.receipts) {
        receipts[place] = receipt;
    }
    others.is_silent
}

/// Which of the open ones may be mined where the count is this.
pub(super) fn maybe_mined(look: &Look, count: u64) -> Vec<(u64, B256)> {
    // A count that does not tell of what is mined must not hide it.
    let (all, some) = (count < look.believed, if look.waits { LEAST_AT_ONCE } else { 0 });
    let open = look.open.iter().copied().enumerate();
    let below = open.take_while(|(place, (nonce, _))| *nonce < count || all || *place < some);
    below.map(|(_, one)| one).collect()
}

fn is_where(mined: &MinedTransaction, receipt: Option<&Receipt>) -> bool {
    receipt.is_some_and(|receipt| receipt.block == mined.block)
}
