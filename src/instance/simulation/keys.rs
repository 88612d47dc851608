//! Key operations of a simulated world: who asks for them and when, what other nodes vote, what the Core makes, and
//! what must have come of it.
//!
//! ```text
//! owner ──> contract ──> connector ──> Core        others vote too, some days something else
//!              └── votes, of all nodes <──┘         oracle: each once, none wrong, none before its turn
//! ```
//!
//! Up to G12 the contract stands on the gateway, beside the one for decryptions; from G13 on on Ethereum, where what
//! was asked for may be taken back.

pub(super) mod contract;
pub(super) mod core;
pub(super) mod events;
pub(super) mod oracle;
mod orders;

use std::{collections::BTreeSet, time::Duration};

use fastrand::Rng;

use self::contract::{KeyState, Rules};
use super::deployment::{CHAIN_ID, HOST_ID};
use crate::{
    contracts::abi::Generation,
    domain::{B256, Event, RequestKey, U256},
};

/// Which key operations there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyPlan {
    /// `None`: there is no such contract.
    pub rules: Option<Rules>,
    /// Number of things that the owner does.
    pub orders: u64,
    /// Of Ethereum.
    pub block_time: Duration,
    /// A Core that restarts forgets its preparations too.
    pub forgets_preparations: bool,
    /// Likelihood of a restart of the Core right after it has finished something, in thousandths.
    pub restarts: u64,
}

impl KeyPlan {
    pub const NONE: Self = Self {
        rules: None,
        orders: 0,
        block_time: Duration::from_secs(1),
        forgets_preparations: false,
        restarts: 0,
    };

    /// For contracts of this path.
    pub fn of(path: &[Generation], dice: &mut Rng) -> Self {
        let is_gateway = path.last() <= Some(&Generation::G12);
        // Before G12 the gateway knows no KMS contexts, which are named on Ethereum.
        let is_ethereum = !is_gateway && path.first() >= Some(&Generation::G12);
        let has_any = (is_gateway && dice.u8(..3) == 0) || (is_ethereum && dice.bool());
        let rules = Rules {
            chain_id: if is_ethereum { HOST_ID } else { CHAIN_ID },
            is_ethereum,
            others: dice.u8(0..=3),
            diverging: if dice.u8(..3) == 0 { 400 } else { 0 },
        };
        Self {
            rules: has_any.then_some(rules),
            orders: dice.u64(1..=6),
            block_time: Duration::from_secs(*dice.choice(&[1, 2, 4]).unwrap()),
            forgets_preparations: dice.u8(..4) == 0,
            restarts: if dice.bool() { dice.u64(1..=600) } else { 0 },
        }
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct KeyProgress {
    ordered: u64,
    /// Requests of whose votes it was decided when they come.
    scheduled: Vec<RequestKey>,
    /// The Core has restarted right after it had made something. Once per story.
    core_restarted: bool,
    /// What this node has sent a vote for.
    offered: BTreeSet<U256>,
}

/// The contract whose event this is, if it is not the one for decryptions.
pub(super) fn is_of_keys(event: &Event) -> bool {
    event.topics.first().is_some_and(events::is_emitted)
}

/// What votes and requests of a block are about, for the trace.
pub(super) fn shown(state: &KeyState, hash: B256) -> Vec<String> {
    let of_block = state.asked().filter(|asked| asked.request.block.hash == hash);
    of_block.map(|asked| format!("{:?} {:#x}", asked.what, short(asked.request.key.id))).collect()
}

/// An id without its zeros.
pub(super) fn short(id: U256) -> U256 {
    (id >> 240) | (id & U256::from(u32::MAX))
}
