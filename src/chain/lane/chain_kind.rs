//! What the lane has to know of the kind of chain it sends on. Pure.

/// Blocks of Ethereum (12 s each) after which a transaction that is not mined pays more.
const UNMINED_BLOCKS: u64 = 5;

/// The kind of chain that a lane sends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// One sequencer executes transactions in the order in which they come (Arbitrum): there is no pool in
    /// which a fee buys a place, and a receipt ends a submission.
    Sequencer,
    /// Transactions wait in the pools of many nodes until a block takes them (Ethereum).
    Mempool(MempoolRules),
}

/// Rules for a chain with pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolRules {
    /// A receipt ends a submission once so many blocks are on top of its block.
    pub confirmations: u64,
    /// A transaction that a pool has had for so many blocks and that is not mined pays more.
    pub unmined_blocks: u64,
}

impl MempoolRules {
    /// Those of Ethereum. `confirmations`: the operator's.
    #[must_use]
    pub fn ethereum(confirmations: u64) -> Self {
        Self { confirmations, unmined_blocks: UNMINED_BLOCKS }
    }
}
