//! Tells nodes of another chain apart: by block 0, and by blocks that two nodes named. Pure, except for
//! the calls to a node.
//!
//! Nodes of other chains may have the same chain id (test chains), and a URL may lead to another chain
//! tomorrow. A node that has pruned block 0 is no contradiction. A node may also report blocks that it
//! does not have.
//!
//! A block that was read is the word of one node, which may be wrong, so it does not speak against other
//! nodes. It **settles** once it is deep and a second node names it. If nodes differ instead, that is a
//! dispute, in which no node counts as right.

use alloy::primitives::{B256, U64};
use serde_json::json;

use super::{client::Client, head::RawHead, selection::ChainMatch};
use crate::{
    chain::{reader::NodeId, rpc_error::RpcError},
    domain::BlockRef,
};

/// A block under this many others does not leave the chain.
const DEEP: u64 = 64;

/// What is known of a node's block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenesisStatus {
    /// Not connected yet, or so far only rate limited.
    NotAsked,
    /// Not connected.
    Disconnected,
    /// It has another chain id.
    WrongChainId,
    /// It has pruned block 0 or does not return it.
    Undisclosed,
    Hash(B256),
}

/// What is known of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownChain {
    /// The hash of block 0.
    pub genesis: Option<B256>,
    /// A block that was read, is deep, and was named by two nodes (or by the only one): a node with
    /// another block there is of another chain.
    pub settled: Option<BlockRef>,
    /// A block that was read and may still leave the chain.
    pub recent: Option<BlockRef>,
}

impl KnownChain {
    /// An earlier run has read everything up to this block.
    pub(super) fn resume_after(&mut self, block: BlockRef) {
        (self.settled, self.recent) = (None, Some(block));
    }

    /// Everything up to this block was read. Returns the recent block once it is deep: it settles after
    /// the nodes have named it.
    pub(super) fn note_read_up_to(&mut self, block: BlockRef) -> Option<BlockRef> {
        let is_behind = |known: Option<BlockRef>| known.is_some_and(|it| block.number < it.number);
        if is_behind(self.settled) {
            self.settled = None;
        }
        if is_behind(self.recent) || self.recent.is_none() {
            // The chain went back below it.
            self.recent = Some(block);
        }
        self.recent.filter(|recent| block.number >= recent.number.saturating_add(DEEP))
    }

    /// Takes in what the nodes say of the recent block; `read` becomes the recent one.
    pub(super) fn record_agreement(
        &mut self,
        was_recent: BlockRef,
        said: BlockAgreement,
        read: BlockRef,
    ) {
        if self.recent != Some(was_recent) {
            return;
        }
        match said {
            BlockAgreement::Confirmed => self.settled = Some(was_recent),
            BlockAgreement::Undecided | BlockAgreement::Disputed(..) => {}
            BlockAgreement::Gone => self.settled = None,
        }
        self.recent = Some(read);
    }

    /// The highest known block.
    pub(super) fn highest(&self) -> u64 {
        self.recent.or(self.settled).map_or(0, |block| block.number)
    }
}

/// What the nodes together say of a block that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockAgreement {
    /// At least two name it, and more than name another one.
    Confirmed,
    /// Only one names it, or none.
    Undecided,
    /// These two differ, and no third one decides.
    Disputed(NodeId, NodeId),
    /// No node has it any more.
    Gone,
}

/// Compares what each node names at the height of a block that was read. `only_one`: there is no other
/// node.
pub(super) fn block_agreement(
    read: BlockRef,
    named: &[(NodeId, B256)],
    only_one: bool,
) -> BlockAgreement {
    let (same, other): (Vec<_>, Vec<_>) = named.iter().partition(|(_, hash)| *hash == read.hash);
    match (same.first(), other.first()) {
        (Some(_), _) if same.len() > other.len() && (same.len() > 1 || only_one) => {
            BlockAgreement::Confirmed
        }
        (Some((one, _)), Some((another, _))) => BlockAgreement::Disputed(*one, *another),
        (None, Some(_)) => BlockAgreement::Gone,
        (_, None) => BlockAgreement::Undecided,
    }
}

/// What a node was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeIdentity {
    /// Its block 0. `None`: it was not asked. `Some(None)`: it does not have or return it.
    #[expect(clippy::option_option, reason = "not asked, and asked in vain, are two things")]
    pub genesis: Option<Option<B256>>,
    pub chain_match: ChainMatch,
    /// Why it is of another chain.
    pub why: String,
}

impl NodeIdentity {
    fn different(genesis: Option<B256>, why: String) -> Self {
        Self { genesis: Some(genesis), chain_match: ChainMatch::Different, why }
    }

    pub(super) fn has_other_genesis(&self, known: &KnownChain) -> bool {
        let both = known.genesis.zip(self.genesis.flatten());
        both.is_some_and(|(expected, found)| expected != found)
    }

    /// The match by what is known now, which may be more than when the node was asked.
    pub(super) fn chain_match_given(&self, known: &KnownChain) -> ChainMatch {
        match (known.genesis, self.genesis.flatten()) {
            _ if self.has_other_genesis(known) => ChainMatch::Different,
            (Some(_), Some(_)) if self.chain_match == ChainMatch::Unknown => ChainMatch::Same,
            _ => self.chain_match,
        }
    }
}

pub(super) const HEADER: &str = "eth_getBlockByNumber";

/// Block 0, if the node returns it. An error: it does not answer.
pub(super) async fn genesis(client: &Client) -> Result<Option<B256>, RpcError> {
    hash_of(client, 0).await
}

/// The hash of a block, if the node returns it: a pruned block may be an error.
async fn hash_of(client: &Client, number: u64) -> Result<Option<B256>, RpcError> {
    match client.call::<Option<RawHead>>(HEADER, &json!([U64::from(number), false])).await {
        Ok(head) => Ok(head.map(|head| head.block().hash)),
        Err(error) if error.is_busy() => Err(error),
        Err(RpcError::Refused { .. } | RpcError::Unreadable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares a node with what is known. `claimed`: a block that it reported and did not have the last
/// time.
pub(super) async fn identify(
    client: &Client,
    known: KnownChain,
    genesis: Option<B256>,
    claimed: Option<u64>,
) -> Result<NodeIdentity, RpcError> {
    let mut kin = match (known.genesis, genesis) {
        (Some(expected), Some(found)) if expected == found => ChainMatch::Same,
        _ => ChainMatch::Unknown,
    };
    if let Some(BlockRef { number, hash }) = known.settled
        && let Some(found) = hash_of(client, number).await?
    {
        if found != hash {
            let why = format!("its block {number} is {found}, and {hash} was read before");
            return Ok(NodeIdentity::different(genesis, why));
        }
        kin = ChainMatch::Same;
    }
    // Another hash proves nothing here: the block may have left the chain, or never existed.
    if let Some(BlockRef { number, hash }) = known.recent.filter(|_| kin == ChainMatch::Unknown)
        && hash_of(client, number).await? == Some(hash)
    {
        kin = ChainMatch::Same;
    }
    if let Some(number) = claimed
        && !has_block(client, number).await?
    {
        return Ok(NodeIdentity::different(genesis, missing_block_reason(number)));
    }
    Ok(NodeIdentity { genesis: Some(genesis), chain_match: kin, why: String::new() })
}

/// Whether a node has a block below the head that it reports.
pub(super) async fn has_block(client: &Client, number: u64) -> Result<bool, RpcError> {
    let head: Option<RawHead> = client.call(HEADER, &json!([U64::from(number), false])).await?;
    Ok(head.is_some())
}

pub(super) fn missing_block_reason(number: u64) -> String {
    format!("it does not have block {number}, but announced it or a later one")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::with_last_byte(u8::try_from(number % 251).unwrap()) }
    }

    #[test]
    fn b1_a_block_settles_when_it_is_deep_and_still_there() {
        let mut known = KnownChain::default();
        assert_eq!(known.note_read_up_to(block(100)), None);
        assert_eq!(known.note_read_up_to(block(163)), None, "it may leave the chain");
        assert_eq!((known.settled, known.recent), (None, Some(block(100))));
        assert_eq!(known.note_read_up_to(block(164)), Some(block(100)));
        known.record_agreement(block(100), BlockAgreement::Confirmed, block(164));
        assert_eq!((known.settled, known.recent), (Some(block(100)), Some(block(164))));
        // It left the chain, and reading has not gone back yet.
        assert_eq!(known.note_read_up_to(block(228)), Some(block(164)));
        known.record_agreement(block(164), BlockAgreement::Gone, block(228));
        assert_eq!((known.settled, known.recent), (None, Some(block(228))));
        known.resume_after(block(50));
        assert_eq!((known.settled, known.recent), (None, Some(block(50))), "it may have left");
        known.record_agreement(block(228), BlockAgreement::Confirmed, block(300));
        assert_eq!(known.settled, None, "an answer to what was asked before");
    }

    /// The node that is read from may have invented it.
    #[test]
    fn b1_a_block_settles_by_two_nodes_and_a_dispute_settles_nothing() {
        let (read, other) = (block(100), B256::repeat_byte(9));
        let said = |named: &[B256]| {
            let named: Vec<_> =
                named.iter().enumerate().map(|(i, one)| (NodeId(i), *one)).collect();
            block_agreement(read, &named, false)
        };
        assert_eq!([said(&[]), said(&[read.hash])], [BlockAgreement::Undecided; 2]);
        assert_eq!(said(&[read.hash, read.hash]), BlockAgreement::Confirmed);
        assert_eq!(said(&[other, read.hash, read.hash]), BlockAgreement::Confirmed);
        assert_eq!(said(&[read.hash, other]), BlockAgreement::Disputed(NodeId(0), NodeId(1)));
        let even = [other, read.hash, other, read.hash];
        assert_eq!(said(&even), BlockAgreement::Disputed(NodeId(1), NodeId(0)));
        assert_eq!(said(&[other, other]), BlockAgreement::Gone);
        assert_eq!(
            block_agreement(read, &[(NodeId(0), read.hash)], true),
            BlockAgreement::Confirmed,
            "there is no other"
        );
        let settled = Some(block(30));
        let mut known = KnownChain { settled, recent: Some(read), ..KnownChain::default() };
        known.record_agreement(read, BlockAgreement::Disputed(NodeId(0), NodeId(1)), block(164));
        assert_eq!((known.settled, known.recent), (settled, Some(block(164))));
    }

    #[test]
    fn b1_a_missing_block_0_is_no_contradiction() {
        let known = |genesis| KnownChain { genesis, ..KnownChain::default() };
        let found = |genesis| NodeIdentity { genesis: Some(genesis), ..NodeIdentity::default() };
        let (one, other) = (Some(B256::repeat_byte(1)), Some(B256::repeat_byte(2)));
        assert_eq!(found(None).chain_match_given(&known(one)), ChainMatch::Unknown);
        assert_eq!(found(one).chain_match_given(&known(None)), ChainMatch::Unknown);
        assert_eq!(found(one).chain_match_given(&known(one)), ChainMatch::Same);
        assert_eq!(found(other).chain_match_given(&known(one)), ChainMatch::Different);
    }

    proptest! {
        /// However reading goes forward and back: what is known was read, and what is settled was deep.
        #[test]
        fn b1_the_known_blocks_are_below_what_is_read(
            begun in prop::option::of(0u64..500),
            steps in prop::collection::vec((0u64..1000, 0..4usize), 1..60),
        ) {
            let mut known = KnownChain::default();
            if let Some(begun) = begun {
                known.resume_after(block(begun));
            }
            let dispute = BlockAgreement::Disputed(NodeId(0), NodeId(1));
            for (read, said) in steps {
                let said = [BlockAgreement::Confirmed, BlockAgreement::Undecided, dispute, BlockAgreement::Gone][said];
                if let Some(ripe) = known.note_read_up_to(block(read)) {
                    prop_assert!(ripe.number + DEEP <= read);
                    known.record_agreement(ripe, said, block(read));
                }
                prop_assert!(known.highest() <= read);
                prop_assert!(known.recent.is_some());
                prop_assert!(known.settled.is_none_or(|settled| settled.number <= read));
            }
        }
    }
}
