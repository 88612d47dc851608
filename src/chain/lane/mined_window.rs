//! The latest mined transactions, for as long as a reorganisation may remove them. Pure.
//!
//! Only numbers and hashes: if one has to be sent again, its bytes are in the journal.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{MINED_FOLLOWED, MinedTransaction, TransactionId};
use crate::{
    chain::reader::Receipt,
    domain::{B256, BlockRef},
};

/// How long the chain must not show a transaction before it counts as gone: a mined transaction without
/// a receipt has left the chain; a used nonce without a receipt of ours was used by somebody else. Not
/// sooner: behind one URL the node with the receipts may lag, and a second send costs gas.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(15);
/// A node whose head is below a block knows nothing of it. If that lasts this long, the chain itself
/// went back.
pub(super) const BELOW_FOR: Duration = Duration::from_mins(10);

/// No node lags by this many blocks: it is a century of the fastest chain.
const FARTHEST: u64 = 1 << 35;

#[derive(Clone, Copy, Debug)]
struct MinedRecord {
    hash: B256,
    block: BlockRef,
    /// Since when the chain shows no receipt although it has a block of that height.
    missing_since: Option<Instant>,
    /// Since when the chain has no block of that height.
    below_since: Option<Instant>,
}

impl MinedRecord {
    fn mark_present(&mut self) {
        (self.missing_since, self.below_since) = (None, None);
    }
}

/// Whether a node with this head may simply not have reached `block`. A block further above was never
/// made: an earlier version believed in such blocks.
fn lags(head: u64, block: u64) -> bool {
    head < block && block - head <= FARTHEST
}

/// By nonce.
#[derive(Debug, Default)]
pub(super) struct MinedWindow {
    mined: BTreeMap<u64, MinedRecord>,
}

/// Result of a check of mined transactions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReorganisationCheck {
    /// Mined in another block than before.
    pub moved: Vec<(TransactionId, BlockRef)>,
    /// Removed from the chain for good, or executed with another result: to be sent or judged again.
    pub dropped: Vec<TransactionId>,
    /// Some are missing, but not for long enough to count as removed.
    pub has_missing: bool,
    /// Some were mined above the node's head: it lags, or the chain goes back.
    pub is_node_behind: bool,
}

impl MinedWindow {
    pub(super) fn add(&mut self, MinedTransaction { nonce, hash, block }: MinedTransaction) {
        self.mined
            .insert(nonce, MinedRecord { hash, block, missing_since: None, below_since: None });
        while self.mined.len() as u64 > MINED_FOLLOWED {
            self.mined.pop_first();
        }
    }

    pub(super) fn nonces(&self) -> impl Iterator<Item = u64> {
        self.mined.keys().copied()
    }

    /// The nonce after the highest one.
    pub(super) fn after_last(&self) -> u64 {
        self.mined.last_key_value().map_or(0, |(last, _)| last.saturating_add(1))
    }

    /// Newest first: after a few unchanged ones in a row the older ones are unchanged, too.
    pub(super) fn newest_first(&self) -> Vec<MinedTransaction> {
        let known = |(nonce, mined): (&u64, &MinedRecord)| MinedTransaction {
            nonce: *nonce,
            hash: mined.hash,
            block: mined.block,
        };
        self.mined.iter().rev().map(known).collect()
    }

    /// Takes in receipts from a node with this head. A transaction that fails now had succeeded before
    /// (failed ones are not checked again), so it is reported as dropped and judged again. `patience`: how
    /// long one may be missing.
    pub(super) fn apply_receipts(
        &mut self,
        shown: Vec<(u64, Option<Receipt>)>,
        head: Option<u64>,
        patience: impl Fn(u64) -> Duration,
        now: Instant,
    ) -> ReorganisationCheck {
        let long = |since, patience| now.saturating_duration_since(since) >= patience;
        let mut check = ReorganisationCheck::default();
        for (nonce, receipt) in shown {
            let Some(known) = self.mined.get_mut(&nonce) else { continue };
            let id = TransactionId { nonce, hash: known.hash };
            match receipt {
                Some(receipt) if receipt.hash != known.hash => {}
                Some(receipt) if receipt.block == known.block => known.mark_present(),
                Some(receipt) if receipt.success => {
                    known.mark_present();
                    known.block = receipt.block;
                    check.moved.push((id, receipt.block));
                }
                Some(_) => check.dropped.push(id),
                None if head.is_none_or(|head| lags(head, known.block.number))
                    && !long(*known.below_since.get_or_insert(now), BELOW_FOR) =>
                {
                    check.is_node_behind = true;
                }
                None => {
                    let since = *known.missing_since.get_or_insert(now);
                    if long(since, patience(nonce)) {
                        check.dropped.push(id);
                    } else {
                        check.has_missing = true;
                    }
                }
            }
        }
        for dropped in &check.dropped {
            self.mined.remove(&dropped.nonce);
        }
        check
    }
}
