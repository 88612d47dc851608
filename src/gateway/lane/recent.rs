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

/// A mined transaction without a receipt left the chain, or the node that was asked lags.
pub(super) const DROPPED_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Mined {
    hash: B256,
    block: BlockRef,
    /// Since when the chain does not show its receipt.
    missing_since: Option<Instant>,
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
}

impl Recent {
    pub(super) fn add(&mut self, MinedTransaction { nonce, hash, block }: MinedTransaction) {
        self.mined.insert(nonce, Mined { hash, block, missing_since: None });
        while self.mined.len() as u64 > FOLLOWED {
            self.mined.pop_first();
        }
    }

    pub(super) fn contains(&self, nonce: u64) -> bool {
        self.mined.contains_key(&nonce)
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

    /// Takes in receipts. What failed had succeeded before, or it would not be looked at twice:
    /// somebody has to judge it anew, as what was dropped.
    pub(super) fn look(&mut self, shown: Vec<(u64, Option<Receipt>)>, now: Instant) -> Looked {
        let mut looked = Looked::default();
        for (nonce, receipt) in shown {
            let Some(known) = self.mined.get_mut(&nonce) else { continue };
            let id = TransactionId { nonce, hash: known.hash };
            match receipt {
                Some(receipt) if receipt.hash != known.hash => {}
                Some(receipt) if receipt.block == known.block => known.missing_since = None,
                Some(receipt) if receipt.success => {
                    known.missing_since = None;
                    known.block = receipt.block;
                    looked.moved.push((id, receipt.block));
                }
                Some(_) => looked.dropped.push(id),
                None => {
                    let since = *known.missing_since.get_or_insert(now);
                    if now.saturating_duration_since(since) >= DROPPED_AFTER {
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
