//! Questions to every sound node: the wallet's count at one block, receipts that the first node does not
//! have, the tip, the base fee of a block.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{count::Votes, market::median};
use crate::{
    domain::{Address, B256, BlockRef},
    gateway::provider::{At, NodeId, Receipt, RpcError, TransactionSender},
};

/// A node that does not answer within this time has no vote.
const PATIENCE: Duration = Duration::from_secs(5);

/// One node's answer.
enum Said {
    Count(u64),
    /// It does not know the block, or has dropped its state.
    NotAtBlock(RpcError),
    Nothing(RpcError),
}

/// Asks every sound node for the count at the newest block. If no node can tell it there, the counts at
/// their own newest blocks are taken. Returns one of their errors if no node answers.
pub(super) async fn ask_everyone(
    provider: &impl TransactionSender,
    wallet: Address,
) -> Result<Votes, RpcError> {
    let nodes = provider.sound_nodes();
    let block = provider.heads().borrow().map(|head| head.block);
    let mut votes = Vec::new();
    let (mut failed, mut able) = (None, false);
    if let Some(block) = block {
        let said = nodes.iter().map(|node| ask_at(provider, *node, wallet, block));
        for (node, said) in nodes.iter().zip(join_all(said).await) {
            match said {
                Said::Count(count) => votes.push((provider.host(*node), count)),
                Said::NotAtBlock(error) => {
                    able = true;
                    failed = Some(error);
                }
                Said::Nothing(error) => failed = Some(error),
            }
        }
    }
    if votes.is_empty() && (able || block.is_none()) {
        let said = nodes.iter().map(|node| ask(provider, *node, wallet, At::Latest));
        for (node, said) in nodes.iter().zip(join_all(said).await) {
            match said {
                Ok(count) => votes.push((provider.host(*node), count)),
                Err(error) => failed = Some(error),
            }
        }
    }
    if votes.is_empty() {
        let host = "the gateway".to_owned();
        let nobody = || RpcError::Unavailable { host, what: "no node is connected".into() };
        return Err(failed.unwrap_or_else(nobody));
    }
    Ok(Votes(votes))
}

async fn ask_at(
    provider: &impl TransactionSender,
    node: NodeId,
    wallet: Address,
    block: BlockRef,
) -> Said {
    let mut answer = ask(provider, node, wallet, At::Hash(block.hash)).await;
    // Not every node accepts a block hash here (EIP-1898).
    if let Err(RpcError::Refused { .. }) = answer {
        answer = ask(provider, node, wallet, At::Number(block.number)).await;
    }
    match answer {
        Ok(count) => Said::Count(count),
        Err(error @ RpcError::Refused { .. }) => Said::NotAtBlock(error),
        Err(error) => Said::Nothing(error),
    }
}

async fn ask(
    provider: &impl TransactionSender,
    node: NodeId,
    wallet: Address,
    at: At,
) -> Result<u64, RpcError> {
    let only = provider.only(node);
    let asked = timeout(PATIENCE, only.transaction_count(wallet, at)).await;
    asked.unwrap_or_else(|_| {
        let what = format!("no transaction count within {PATIENCE:?}");
        Err(RpcError::Unavailable { host: provider.host(node), what: what.into() })
    })
}

/// Receipts from the other nodes.
#[derive(Debug)]
pub(super) struct Elsewhere {
    /// In the order asked.
    pub receipts: Vec<Option<Receipt>>,
    /// A node did not answer: it may have more.
    pub is_silent: bool,
}

/// Asks all sound nodes except the first for receipts. A receipt counts only if its block is in the
/// first node's chain: this excludes forks and invented blocks.
pub(super) async fn ask_others(provider: &impl TransactionSender, hashes: &[B256]) -> Elsewhere {
    let mut found = Elsewhere { receipts: vec![None; hashes.len()], is_silent: false };
    let mut blocks: HashMap<u64, Option<B256>> = HashMap::new();
    for node in provider.sound_nodes().into_iter().skip(1) {
        let is_missing = |place: &usize| found.receipts[*place].is_none();
        let wanted: Vec<usize> = (0..hashes.len()).filter(is_missing).collect();
        if wanted.is_empty() {
            break;
        }
        let missing: Vec<B256> = wanted.iter().map(|place| hashes[*place]).collect();
        let only = provider.only(node);
        let Ok(Ok(shown)) = timeout(PATIENCE, only.receipts(&missing)).await else {
            found.is_silent = true;
            continue;
        };
        for (place, receipt) in wanted.into_iter().zip(shown) {
            let Some(receipt) = receipt else { continue };
            let BlockRef { number, hash } = receipt.block;
            let known = blocks.get(&number).copied();
            let there = if let Some(there) = known {
                there
            } else if let Ok(head) = provider.header(At::Number(number)).await {
                head.map(|head| head.block.hash)
            } else {
                found.is_silent = true;
                continue;
            };
            blocks.insert(number, there);
            if there == Some(hash) {
                found.receipts[place] = Some(receipt);
            }
        }
    }
    found
}

/// The lower median of the tips that the sound nodes suggest; `None` if none suggests one.
pub(super) async fn ask_tips(provider: &impl TransactionSender) -> Option<u128> {
    let nodes = provider.sound_nodes();
    let asked = nodes.iter().map(|node| {
        let only = provider.only(*node);
        async move { timeout(PATIENCE, only.priority_fee()).await }
    });
    let tips: Vec<u128> = join_all(asked).await.into_iter().flatten().flatten().collect();
    median(tips)
}

/// The base fee of a block, from each sound node that knows the block.
pub(super) async fn ask_bases(provider: &impl TransactionSender, block: B256) -> Vec<u128> {
    let nodes = provider.sound_nodes();
    let asked = nodes.iter().map(|node| {
        let only = provider.only(*node);
        async move { timeout(PATIENCE, only.header(At::Hash(block))).await }
    });
    let heads = join_all(asked).await.into_iter().flatten().flatten().flatten();
    heads.filter_map(|head| head.base_fee).collect()
}
