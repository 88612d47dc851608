//! What the lane has to know of the kind of chain it sends on. Pure.

use std::time::Duration;

use super::nonces::HOLE_PATIENCE;

/// Gas limit of a no-op on an Arbitrum chain: a plain transfer, and the charge for the parent chain.
const SEQUENCER_NOOP_GAS: u64 = 500_000;
/// The same on Ethereum, with room for a wallet that is delegated to code (EIP-7702).
const MEMPOOL_NOOP_GAS: u64 = 60_000;
/// A hole in a pool's queue harms nobody for a block or two, and a no-op costs gas.
const MEMPOOL_HOLE_PATIENCE: Duration = Duration::from_secs(15);
/// The lowest tip, in wei per gas (0.1 gwei): block builders leave out what pays none, and a tip of zero
/// cannot be raised by a share of itself.
const LEAST_TIP: u128 = 100_000_000;
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

impl ChainKind {
    pub(super) fn mempool(self) -> Option<MempoolRules> {
        match self {
            Self::Sequencer => None,
            Self::Mempool(rules) => Some(rules),
        }
    }

    pub(super) fn confirmations(self) -> u64 {
        self.mempool().map_or(0, |rules| rules.confirmations)
    }

    /// In wei per gas.
    pub(super) fn least_tip(self) -> u128 {
        if self.mempool().is_some() { LEAST_TIP } else { 0 }
    }

    pub(super) fn noop_gas(self) -> u64 {
        if self.mempool().is_some() { MEMPOOL_NOOP_GAS } else { SEQUENCER_NOOP_GAS }
    }

    /// How long a hole waits for a payload.
    pub(super) fn hole_patience(self) -> Duration {
        if self.mempool().is_some() { MEMPOOL_HOLE_PATIENCE } else { HOLE_PATIENCE }
    }

    /// The operator's key of the fee cap, for messages.
    pub(super) fn fee_cap_key(self) -> &'static str {
        match self {
            Self::Sequencer => "max_fee_per_gas_gwei",
            Self::Mempool(_) => "ethereum_max_fee_per_gas_gwei",
        }
    }
}
