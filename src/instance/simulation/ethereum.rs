//! Ethereum, where contracts from G13 on ask for key operations: a chain of the same make as the gateway, with nodes
//! and faults of its own, and with a mempool.
//!
//! The contract for KMS contexts is the host chain's: the nodes that tell of contexts stand at other blocks than
//! those that ask for keys.

pub(super) mod blocks;

use super::{chain::Chain, deployment::HOST_ID, lies::Endpoint, plan::Plan};
use crate::{contracts::abi::Generation, domain::Address};

/// The chain that is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Gateway,
    Ethereum,
}

/// The chain and its nodes' behaviour.
#[derive(Debug)]
pub(super) struct Ethereum {
    chain: Chain,
    endpoints: Vec<Endpoint>,
}

impl Ethereum {
    /// `None`: the story has none. `who`: signer and wallet.
    pub fn of(plan: &Plan, who: (Address, Address)) -> Option<Self> {
        let rules = plan.keys.rules.filter(|rules| rules.is_ethereum)?;
        let chain = Chain::new((HOST_ID, plan.nodes), who, Generation::Head, Some(rules));
        Some(Self { chain, endpoints: (0..plan.urls).map(|_| Endpoint::default()).collect() })
    }
}
