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

use super::{NodeId, RpcError, choice::Kin, client::Client, head::RawHead};
use crate::domain::BlockRef;

/// A block under this many others does not leave the chain.
const DEEP: u64 = 64;

/// What is known of a node's block 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Not connected yet, or so far only rate limited.
    Untried,
    /// Not connected.
    Away,
    /// It has another chain id.
    OfAnotherId,
    /// It has pruned block 0 or does not return it.
    Untold,
    Is(B256),
}

/// What is known of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The hash of block 0.
    pub genesis: Option<B256>,
    /// A block that was read, is deep, and was named by two nodes (or by the only one): a node with
    /// another block there is of another chain.
    pub settled: Option<BlockRef>,
    /// A block that was read and may still leave the chain.
    pub recent: Option<BlockRef>,
}

impl Known {
    /// An earlier run has read everything up to this block.
    pub(super) fn begin_after(&mut self, block: BlockRef) {
        (self.settled, self.recent) = (None, Some(block));
    }

    /// Everything up to this block was read. Returns the recent block once it is deep: it settles after
    /// the nodes have named it.
    pub(super) fn read_up_to(&mut self, block: BlockRef) -> Option<BlockRef> {
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
    pub(super) fn looked_at(&mut self, was_recent: BlockRef, said: Said, read: BlockRef) {
        if self.recent != Some(was_recent) {
            return;
        }
        match said {
            Said::Same => self.settled = Some(was_recent),
            Said::Open | Said::Disputed(..) => {}
            Said::Gone => self.settled = None,
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
pub(super) enum Said {
    /// At least two name it, and more than name another one.
    Same,
    /// Only one names it, or none.
    Open,
    /// These two differ, and no third one decides.
    Disputed(NodeId, NodeId),
    /// No node has it any more.
    Gone,
}

/// Compares what each node names at the height of a block that was read. `only_one`: there is no other
/// node.
pub(super) fn together(read: BlockRef, named: &[(NodeId, B256)], only_one: bool) -> Said {
    let (same, other): (Vec<_>, Vec<_>) = named.iter().partition(|(_, hash)| *hash == read.hash);
    match (same.first(), other.first()) {
        (Some(_), _) if same.len() > other.len() && (same.len() > 1 || only_one) => Said::Same,
        (Some((one, _)), Some((another, _))) => Said::Disputed(*one, *another),
        (None, Some(_)) => Said::Gone,
        (_, None) => Said::Open,
    }
}

/// What a node was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Its block 0. `None`: it was not asked. `Some(None)`: it does not have or return it.
    #[expect(clippy::option_option, reason = "not asked, and asked in vain, are two things")]
    pub genesis: Option<Option<B256>>,
    pub kin: Kin,
    /// Why it is of another chain.
    pub why: String,
}

impl Found {
    fn another(genesis: Option<B256>, why: String) -> Self {
        Self { genesis: Some(genesis), kin: Kin::Another, why }
    }

    pub(super) fn is_of_another_block_0(&self, known: &Known) -> bool {
        let told = known.genesis.zip(self.genesis.flatten());
        told.is_some_and(|(expected, found)| expected != found)
    }

    /// The match by what is known now, which may be more than when the node was asked.
    pub(super) fn kin_by(&self, known: &Known) -> Kin {
        match (known.genesis, self.genesis.flatten()) {
            _ if self.is_of_another_block_0(known) => Kin::Another,
            (Some(_), Some(_)) if self.kin == Kin::Unknown => Kin::Ours,
            _ => self.kin,
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
    match client.ask::<Option<RawHead>>(HEADER, &json!([U64::from(number), false])).await {
        Ok(head) => Ok(head.map(|head| head.block().hash)),
        Err(error) if error.is_busy() => Err(error),
        Err(RpcError::Refused { .. } | RpcError::Unreadable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Compares a node with what is known. `claimed`: a block that it reported and did not have the last
/// time.
pub(super) async fn look(
    client: &Client,
    known: Known,
    genesis: Option<B256>,
    claimed: Option<u64>,
) -> Result<Found, RpcError> {
    let mut kin = match (known.genesis, genesis) {
        (Some(expected), Some(found)) if expected == found => Kin::Ours,
        _ => Kin::Unknown,
    };
    if let Some(BlockRef { number, hash }) = known.settled
        && let Some(found) = hash_of(client, number).await?
    {
        if found != hash {
            let why = format!("its block {number} is {found}, and {hash} was read before");
            return Ok(Found::another(genesis, why));
        }
        kin = Kin::Ours;
    }
    // Another hash proves nothing here: the block may have left the chain, or never existed.
    if let Some(BlockRef { number, hash }) = known.recent.filter(|_| kin == Kin::Unknown)
        && hash_of(client, number).await? == Some(hash)
    {
        kin = Kin::Ours;
    }
    if let Some(number) = claimed
        && !has(client, number).await?
    {
        return Ok(Found::another(genesis, lacks(number)));
    }
    Ok(Found { genesis: Some(genesis), kin, why: String::new() })
}

/// Whether a node has a block below the head that it reports.
pub(super) async fn has(client: &Client, number: u64) -> Result<bool, RpcError> {
    let head: Option<RawHead> = client.ask(HEADER, &json!([U64::from(number), false])).await?;
    Ok(head.is_some())
}

pub(super) fn lacks(number: u64) -> String {
    format!("it does not have block {number}, and tells of it or of later ones")
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
        let mut known = Known::default();
        assert_eq!(known.read_up_to(block(100)), None);
        assert_eq!(known.read_up_to(block(163)), None, "it may leave the chain");
        assert_eq!((known.settled, known.recent), (None, Some(block(100))));
        assert_eq!(known.read_up_to(block(164)), Some(block(100)));
        known.looked_at(block(100), Said::Same, block(164));
        assert_eq!((known.settled, known.recent), (Some(block(100)), Some(block(164))));
        // It left the chain, and reading has not gone back yet.
        assert_eq!(known.read_up_to(block(228)), Some(block(164)));
        known.looked_at(block(164), Said::Gone, block(228));
        assert_eq!((known.settled, known.recent), (None, Some(block(228))));
        known.begin_after(block(50));
        assert_eq!((known.settled, known.recent), (None, Some(block(50))), "it may have left");
        known.looked_at(block(228), Said::Same, block(300));
        assert_eq!(known.settled, None, "an answer to what was asked before");
    }

    /// The node that is read from may have invented it.
    #[test]
    fn b1_a_block_settles_by_two_nodes_and_a_dispute_settles_nothing() {
        let (read, other) = (block(100), B256::repeat_byte(9));
        let said = |named: &[B256]| {
            let named: Vec<_> =
                named.iter().enumerate().map(|(i, one)| (NodeId(i), *one)).collect();
            together(read, &named, false)
        };
        assert_eq!([said(&[]), said(&[read.hash])], [Said::Open; 2]);
        assert_eq!(said(&[read.hash, read.hash]), Said::Same);
        assert_eq!(said(&[other, read.hash, read.hash]), Said::Same);
        assert_eq!(said(&[read.hash, other]), Said::Disputed(NodeId(0), NodeId(1)));
        let even = [other, read.hash, other, read.hash];
        assert_eq!(said(&even), Said::Disputed(NodeId(1), NodeId(0)));
        assert_eq!(said(&[other, other]), Said::Gone);
        assert_eq!(
            together(read, &[(NodeId(0), read.hash)], true),
            Said::Same,
            "there is no other"
        );
        let settled = Some(block(30));
        let mut known = Known { settled, recent: Some(read), ..Known::default() };
        known.looked_at(read, Said::Disputed(NodeId(0), NodeId(1)), block(164));
        assert_eq!((known.settled, known.recent), (settled, Some(block(164))));
    }

    #[test]
    fn b1_a_missing_block_0_is_no_contradiction() {
        let known = |genesis| Known { genesis, ..Known::default() };
        let found = |genesis| Found { genesis: Some(genesis), ..Found::default() };
        let (one, other) = (Some(B256::repeat_byte(1)), Some(B256::repeat_byte(2)));
        assert_eq!(found(None).kin_by(&known(one)), Kin::Unknown);
        assert_eq!(found(one).kin_by(&known(None)), Kin::Unknown);
        assert_eq!(found(one).kin_by(&known(one)), Kin::Ours);
        assert_eq!(found(other).kin_by(&known(one)), Kin::Another);
    }

    proptest! {
        /// However reading goes forward and back: what is known was read, and what is settled was deep.
        #[test]
        fn b1_the_known_blocks_are_below_what_is_read(
            begun in prop::option::of(0u64..500),
            steps in prop::collection::vec((0u64..1000, 0..4usize), 1..60),
        ) {
            let mut known = Known::default();
            if let Some(begun) = begun {
                known.begin_after(block(begun));
            }
            let dispute = Said::Disputed(NodeId(0), NodeId(1));
            for (read, said) in steps {
                let said = [Said::Same, Said::Open, dispute, Said::Gone][said];
                if let Some(ripe) = known.read_up_to(block(read)) {
                    prop_assert!(ripe.number + DEEP <= read);
                    known.looked_at(ripe, said, block(read));
                }
                prop_assert!(known.highest() <= read);
                prop_assert!(known.recent.is_some());
                prop_assert!(known.settled.is_none_or(|settled| settled.number <= read));
            }
        }
    }
}
