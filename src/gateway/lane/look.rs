//! What the chain is asked about the lane's transactions: one count tells which nonces are mined, and
//! only their receipts are asked for, some in each message.
//!
//! What was heard before a question failed counts: a slow node answers a few at a time, and a lane
//! with hundreds of transactions under way would never see one of them mined if it wanted all or
//! nothing.

use std::collections::BTreeSet;

use tracing::debug;

use super::{
    MinedTransaction,
    book::{AHEAD, Look, Seen},
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
        match shown(provider, asked, look.everyone).await {
            Ok(Shown { receipts, is_silent }) => {
                seen.is_silent |= is_silent;
                seen.open.extend(receipts);
            }
            Err(error) => {
                // Of a nonce with several transactions all are known, or none.
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
        // What is older is deeper in the chain.
        if unchanged {
            break;
        }
    }
    Ok(())
}

/// Receipts of transactions of these nonces.
#[derive(Debug)]
struct Shown {
    /// `None`: there is none. What is left out, nobody has said anything sensible of.
    receipts: Vec<(u64, Option<Receipt>)>,
    /// One of several nodes did not answer.
    is_silent: bool,
}

/// `others`: they are asked for what the node that is read from does not show. They are in any case for
/// what it shows in a block that is not made yet.
async fn shown(
    provider: &impl Provider,
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

/// Whether there is a block of this height, or may be in a moment. Heads may come late: the node is
/// asked for its newest one before it is not believed.
async fn is_made(provider: &impl Provider, block: u64) -> Result<bool, RpcError> {
    let told = provider.heads().borrow().map_or(0, |head| head.block.number);
    if block <= told.saturating_add(AHEAD) {
        return Ok(true);
    }
    let newest = provider.header(At::Latest).await?.map_or(0, |head| head.block.number);
    Ok(block <= newest.saturating_add(AHEAD))
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
