//! Questions to every sound node: the wallet's count at one block, receipts that the first node does not
//! have, the tip, the base fee of a block.

use std::{collections::HashMap, time::Duration};

use tokio::time::timeout;

use super::{count::Votes, fee_market::median};
use crate::{
    chain::{
        reader::{BlockId, Receipt},
        rpc_error::RpcError,
        sender::TransactionSender,
        survey::Survey,
    },
    domain::{Address, B256, BlockRef},
};

/// A node that does not answer within this time has no vote.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks every sound node for the count at the newest block. If no node can tell it there, the counts at
/// their own newest blocks are taken. Returns one of their errors if no node answers.
pub(super) async fn read_counts<P: TransactionSender>(
    provider: &P,
    wallet: Address,
) -> Result<Votes, RpcError> {
    let block = provider.heads().borrow().map(|head| head.block);
    let mut counts = Vec::new();
    if let Some(block) = block {
        let ask = |one: P| async move { read_count_at(&one, wallet, block).await };
        let replies = Survey::run(provider, PATIENCE, ask).await.by_node(provider)?;
        counts.extend(replies.into_iter().filter_map(|(node, count)| Some((node, count?))));
    }
    if counts.is_empty() {
        let ask = |one: P| async move { one.transaction_count(wallet, BlockId::Latest).await };
        counts = Survey::run(provider, PATIENCE, ask).await.by_node(provider)?;
    }
    Ok(Votes(counts.into_iter().map(|(node, count)| (provider.host(node), count)).collect()))
}

/// `None`: the node does not know the block, or has dropped its state.
async fn read_count_at(
    one: &impl TransactionSender,
    wallet: Address,
    block: BlockRef,
) -> Result<Option<u64>, RpcError> {
    // Not every node accepts a block hash here (EIP-1898).
    for at in [BlockId::Hash(block.hash), BlockId::Number(block.number)] {
        match one.transaction_count(wallet, at).await {
            Ok(count) => return Ok(Some(count)),
            Err(RpcError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Receipts from the other nodes.
#[derive(Debug)]
pub(super) struct OtherReceipts {
    /// In the order asked.
    pub receipts: Vec<Option<Receipt>>,
    /// A node did not answer: it may have more.
    pub is_silent: bool,
}

/// Asks all sound nodes except the first for receipts. A receipt counts only if its block is in the
/// first node's chain: this excludes forks and invented blocks.
pub(super) async fn read_other_receipts(
    provider: &impl TransactionSender,
    hashes: &[B256],
) -> OtherReceipts {
    let mut found = OtherReceipts { receipts: vec![None; hashes.len()], is_silent: false };
    let mut blocks: HashMap<u64, Option<B256>> = HashMap::new();
    for node in provider.sound_nodes().into_iter().skip(1) {
        let is_missing = |place: &usize| found.receipts[*place].is_none();
        let wanted: Vec<usize> = (0..hashes.len()).filter(is_missing).collect();
        if wanted.is_empty() {
            break;
        }
        let missing: Vec<B256> = wanted.iter().map(|place| hashes[*place]).collect();
        let only = provider.for_node(node);
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
            } else if let Ok(head) = provider.header(BlockId::Number(number)).await {
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

/// Whether a sound node has this block in its chain, and none has another one in its place. A node that is
/// behind or silent has no say.
pub(super) async fn agree_on_block<P: TransactionSender>(provider: &P, block: BlockRef) -> bool {
    let ask = |one: P| async move { one.header(BlockId::Number(block.number)).await };
    let shown = Survey::run(provider, PATIENCE, ask).await.replies.into_iter();
    let mut hashes = shown.filter_map(|(_, head)| Some(head?.block.hash)).peekable();
    hashes.peek().is_some() && hashes.all(|hash| hash == block.hash)
}

/// The lower median of the tips that the sound nodes suggest; `None` if none suggests one.
pub(super) async fn read_median_tip<P: TransactionSender>(provider: &P) -> Option<u128> {
    let ask = |one: P| async move { one.priority_fee().await };
    median(Survey::run(provider, PATIENCE, ask).await.into_answers(provider).ok()?)
}

/// The base fee of a block, from each sound node that knows the block.
pub(super) async fn read_base_fees<P: TransactionSender>(provider: &P, block: B256) -> Vec<u128> {
    let ask = |one: P| async move { one.header(BlockId::Hash(block)).await };
    let heads = Survey::run(provider, PATIENCE, ask).await.replies.into_iter();
    heads.filter_map(|(_, head)| head?.base_fee).collect()
}
