//! The transactions mined last, for as long as a reorganisation might drop them. Pure.
//!
//! Numbers and hashes only: the bytes are in the journal, should one have to be sent again.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{FOLLOWED, MinedTransaction, TransactionId};
use crate::{
    domain::{B256, BlockRef},
    gateway::provider::Receipt,
};

/// What the chain does not show for so long is not in it: a mined transaction without a receipt left
/// it, a used nonce without a receipt of ours is somebody else's. Behind one URL the node with the
/// receipts may lag for a while, and sent twice costs gas.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(15);
/// A node whose head is below a block knows nothing of it; a chain that stays below for so long has
/// gone back.
pub(super) const BELOW_FOR: Duration = Duration::from_mins(10);

/// No node is so many blocks behind: a century of the fastest chain.
const FARTHEST: u64 = 1 << 35;

#[derive(Clone, Copy, Debug)]
struct Mined {
    hash: B256,
    block: BlockRef,
    /// Since when the chain does not show its receipt, though it has a block of that height.
    missing_since: Option<Instant>,
    /// Since when it has none.
    below_since: Option<Instant>,
}

impl Mined {
    fn is_there(&mut self) {
        (self.missing_since, self.below_since) = (None, None);
    }
}

/// Whether a node with this newest block may not have come to another one. A block that is further
/// above was never made: a version before believed in it.
fn lags(head: u64, block: u64) -> bool {
    head < block && block - head <= FARTHEST
}

/// By nonce.
#[derive(Debug, Default)]
pub(super) struct Recent {
    mined: BTreeMap<u64, Mined>,
}

/// What a look at the chain showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Mined in other blocks than before.
    pub moved: Vec<(TransactionId, BlockRef)>,
    /// Out of the chain for good, or executed with another result: to be sent, or judged, again.
    pub dropped: Vec<TransactionId>,
    /// Some are missing, and not for long yet.
    pub unsure: bool,
    /// Some were mined above the head of the node that was asked: it lags, or the chain goes back.
    pub below: bool,
}

impl Recent {
    pub(super) fn add(&mut self, MinedTransaction { nonce, hash, block }: MinedTransaction) {
        self.mined.insert(nonce, Mined { hash, block, missing_since: None, below_since: None });
        while self.mined.len() as u64 > FOLLOWED {
            self.mined.pop_first();
        }
    }

    pub(super) fn nonces(&self) -> impl Iterator<Item = u64> {
        self.mined.keys().copied()
    }

    /// The nonce after the last of them.
    pub(super) fn after_last(&self) -> u64 {
        self.mined.last_key_value().map_or(0, |(last, _)| last.saturating_add(1))
    }

    /// The newest first: who finds a few unchanged in a row need not look further.
    pub(super) fn newest_first(&self) -> Vec<MinedTransaction> {
        let known = |(nonce, mined): (&u64, &Mined)| MinedTransaction {
            nonce: *nonce,
            hash: mined.hash,
            block: mined.block,
        };
        self.mined.iter().rev().map(known).collect()
    }

    /// Takes in receipts, of a node with this newest block. What failed had succeeded before, or it
    /// would not be looked at twice: somebody has to judge it anew, as what was dropped.
    pub(super) fn look(
        &mut self,
        shown: Vec<(u64, Option<Receipt>)>,
        head: Option<u64>,
        now: Instant,
    ) -> Looked {
        let long = |since, patience| now.saturating_duration_since(since) >= patience;
        let mut looked = Looked::default();
        for (nonce, receipt) in shown {
            let Some(known) = self.mined.get_mut(&nonce) else { continue };
            let id = TransactionId { nonce, hash: known.hash };
            match receipt {
                Some(receipt) if receipt.hash != known.hash => {}
                Some(receipt) if receipt.block == known.block => known.is_there(),
                Some(receipt) if receipt.success => {
                    known.is_there();
                    known.block = receipt.block;
                    looked.moved.push((id, receipt.block));
                }
                Some(_) => looked.dropped.push(id),
                None if head.is_none_or(|head| lags(head, known.block.number))
                    && !long(*known.below_since.get_or_insert(now), BELOW_FOR) =>
                {
                    looked.below = true;
                }
                None => {
                    let since = *known.missing_since.get_or_insert(now);
                    if long(since, GONE_AFTER) {
                        looked.dropped.push(id);
                    } else {
                        looked.unsure = true;
                    }
                }
            }
        }
        for dropped in &looked.dropped {
            self.mined.remove(&dropped.nonce);
        }
        looked
    }
}
