//! Mined transactions whose blocks are not deep enough yet to end a submission. Pure.
//!
//! ```text
//! receipt --block deep enough, and still there--> the caller is told
//!    │  └── in another block: counted from there
//!    └───── no receipt any more: open again, with everything recorded for the nonce
//! ```
//!
//! On a chain without confirmations nothing is kept here: a receipt ends a submission.

use std::{collections::BTreeMap, time::Duration};

use super::{MinedTransaction, SignedTransaction};
use crate::{chain::reader::Receipt, domain::BlockRef};

/// How long the chain must not show an unconfirmed transaction before it is sent again. Sooner than what
/// has counted as mined: nobody was told of it, and the same bytes again cost nothing.
pub(super) const UNCONFIRMED_GONE_AFTER: Duration = Duration::from_secs(5);

/// A nonce whose transaction is mined and not deep enough.
#[derive(Clone, Debug)]
pub(super) struct Unconfirmed {
    /// Everything recorded for the nonce.
    pub versions: Vec<SignedTransaction>,
    /// That of the version that is mined.
    pub receipt: Receipt,
}

/// By nonce.
#[derive(Debug)]
pub(super) struct Confirmations {
    /// Blocks on top of a receipt's block.
    depth: u64,
    unconfirmed: BTreeMap<u64, Unconfirmed>,
}

/// What follows from receipts of deep blocks.
#[derive(Debug, Default)]
pub(super) struct ConfirmationCheck {
    pub confirmed: Vec<(u64, Unconfirmed)>,
    /// One of them is not where it was.
    pub is_moved: bool,
}

impl Confirmations {
    pub(super) fn new(depth: u64) -> Self {
        Self { depth, unconfirmed: BTreeMap::new() }
    }

    /// Whether a receipt is not enough on this chain.
    pub(super) fn are_required(&self) -> bool {
        self.depth > 0
    }

    pub(super) fn add(&mut self, nonce: u64, versions: Vec<SignedTransaction>, receipt: Receipt) {
        self.unconfirmed.insert(nonce, Unconfirmed { versions, receipt });
    }

    pub(super) fn get(&self, nonce: u64) -> Option<&Unconfirmed> {
        self.unconfirmed.get(&nonce)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    /// Takes in the present receipt of a transaction: its block may be another one, and its result.
    pub(super) fn update(&mut self, nonce: u64, receipt: &Receipt) {
        let known = self.unconfirmed.get_mut(&nonce);
        if let Some(known) = known.filter(|known| known.receipt.hash == receipt.hash) {
            known.receipt = receipt.clone();
        }
    }

    /// The transaction left the chain.
    pub(super) fn remove(&mut self, nonce: u64) {
        self.unconfirmed.remove(&nonce);
    }

    fn is_deep(&self, block: BlockRef, head: u64) -> bool {
        block.number.saturating_add(self.depth) <= head
    }

    /// Those that are deep enough below this head, if they are still where they were: their receipts have
    /// to be read.
    pub(super) fn due(&self, head: u64) -> Vec<MinedTransaction> {
        let deep = self.unconfirmed.iter().filter(|(_, one)| self.is_deep(one.receipt.block, head));
        let read = |(nonce, one): (&u64, &Unconfirmed)| MinedTransaction {
            nonce: *nonce,
            hash: one.receipt.hash,
            block: one.receipt.block,
        };
        deep.map(read).collect()
    }

    /// Takes in their receipts, as of a node with this head.
    pub(super) fn apply(
        &mut self,
        shown: &[(u64, Option<Receipt>)],
        head: Option<u64>,
    ) -> ConfirmationCheck {
        let mut check = ConfirmationCheck::default();
        for (nonce, receipt) in shown {
            let Some(known) = self.unconfirmed.get(nonce) else { continue };
            let expected = (known.receipt.hash, known.receipt.block);
            if receipt.as_ref().map(|receipt| (receipt.hash, receipt.block)) != Some(expected) {
                check.is_moved = true;
                continue;
            }
            if head.is_some_and(|head| self.is_deep(expected.1, head))
                && let Some(known) = self.unconfirmed.remove(nonce)
            {
                check.confirmed.push((*nonce, known));
            }
        }
        check
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::B256;

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::from(crate::domain::U256::from(number)) }
    }

    fn receipt(number: u64) -> Receipt {
        let hash = B256::repeat_byte(1);
        Receipt { hash, block: block(number), success: true, gas_used: 1, gas_price: 1 }
    }

    #[test]
    fn a_receipt_counts_with_so_many_blocks_on_top_and_while_it_is_there() {
        let mut confirmations = Confirmations::new(64);
        confirmations.add(7, Vec::new(), receipt(100));
        assert!(confirmations.due(163).is_empty());
        assert_eq!(confirmations.due(164).len(), 1);
        // The node that is asked for the receipt is behind the one that told of the head.
        let shown = [(7, Some(receipt(100)))];
        for head in [None, Some(163)] {
            assert!(confirmations.apply(&shown, head).confirmed.is_empty());
        }
        for other in [None, Some(receipt(101))] {
            let check = confirmations.apply(&[(7, other)], Some(200));
            assert!(check.confirmed.is_empty() && check.is_moved);
        }
        confirmations.update(7, &receipt(130));
        assert!(confirmations.due(193).is_empty());
        let check = confirmations.apply(&[(7, Some(receipt(130)))], Some(194));
        assert_eq!((check.confirmed.len(), check.is_moved), (1, false));
        assert!(confirmations.is_empty());
    }
}
