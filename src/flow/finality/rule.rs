//! How final the block of a request has to be before the Core is asked. Pure.
//!
//! Requests are journaled when they are read; only processing waits. After the wait the chain is
//! checked again, because the block may have left it.

use std::{fmt, time::Duration};

use crate::{
    chain::reader::BlockId,
    domain::{Kind, PerKind},
    time::clock,
};

/// The node's tag that a block has to be at or below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalityTag {
    Latest,
    Safe,
    Finalized,
}

impl FinalityTag {
    /// The tag's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Safe => "safe",
            Self::Finalized => "finalized",
        }
    }
}

/// What is required of a block: the tag, and the number of blocks on top of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalityRule {
    pub finality: FinalityTag,
    pub confirmations: PerKind<u64>,
}

impl FinalityRule {
    /// No requirement.
    pub const NONE: Self = Self { finality: FinalityTag::Latest, confirmations: PerKind::all(0) };

    /// The tag to ask the node for, if any.
    #[must_use]
    pub fn node_tag(self) -> Option<BlockId> {
        match self.finality {
            FinalityTag::Latest => None,
            FinalityTag::Safe => Some(BlockId::Safe),
            FinalityTag::Finalized => Some(BlockId::Finalized),
        }
    }

    /// Why a request of this block is not processed yet, given the current head and tag; `None`: it may be.
    #[must_use]
    pub fn waiting_reason(
        self,
        kind: Kind,
        block: u64,
        final_height: FinalHeight,
        tag: Option<TagPosition>,
    ) -> Option<String> {
        if final_height.covers(kind, block) {
            return None;
        }
        let confirmations = self.confirmations[kind];
        let of_tag = tag.filter(|tag| tag.at.is_none_or(|at| at < block));
        Some(match of_tag {
            Some(tag) => format!("waits for its block to be {}: {tag}", tag.finality.as_str()),
            None => format!("waits for {confirmations} blocks on top of its own"),
        })
    }

    /// The final height for this head, with the node's tag at block `tagged`. A missing tag holds
    /// everything back.
    #[must_use]
    pub fn final_height(self, head: u64, tagged: Option<u64>) -> FinalHeight {
        if self == Self::NONE {
            return FinalHeight::EVERYTHING;
        }
        let ceiling = if self.node_tag().is_some() { tagged } else { Some(u64::MAX) };
        let under = |confirmations| Some(head.checked_sub(confirmations)?.min(ceiling?));
        FinalHeight(self.confirmations.map(under))
    }
}

/// A tag that has not moved for three epochs is stale. On a rollup it moves with the epochs of the
/// chain below: 6.4 minutes on Ethereum.
const STALE_AFTER: Duration = Duration::from_mins(20);
/// A node that supports the tag reports it at once.
const MISSING_AFTER: Duration = Duration::from_mins(1);

/// The finality tag as a node reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagPosition {
    pub finality: FinalityTag,
    /// Its block; `None`: the node has not reported it.
    pub at: Option<u64>,
    /// Since when (Unix ms) it has not risen, or is missing.
    pub since_ms: u64,
    /// The highest block it was at, and the chain's head then.
    highest: u64,
    head: u64,
    /// Blocks added to the chain since then.
    blocks_since: u64,
}

impl TagPosition {
    #[must_use]
    pub fn new(finality: FinalityTag, head: u64, now_ms: u64) -> Self {
        Self { finality, at: None, since_ms: now_ms, highest: 0, head, blocks_since: 0 }
    }

    /// Takes a node's report under this head. `None`: no report. A tag beyond the head is ignored.
    pub fn update(&mut self, told: Option<u64>, head: u64, now_ms: u64) {
        if let Some(at) = told.filter(|at| *at <= head) {
            if self.at.is_none() || at > self.highest {
                (self.highest, self.head, self.since_ms) = (at, head, now_ms);
            }
            self.at = Some(at);
        }
        self.blocks_since = head.saturating_sub(self.head);
    }

    /// The lowest of the nodes' recent tags, so that a node which calls blocks final too early has no
    /// effect. A tag that stands still is ignored while another one moves.
    #[must_use]
    pub fn lowest(told: &[Self], now_ms: u64) -> Option<Self> {
        let lowest = |stuck: bool| {
            let told = told.iter().filter(|tag| tag.at.is_some());
            told.filter(|tag| stuck || !tag.is_stale(now_ms)).min_by_key(|tag| tag.at)
        };
        lowest(false).or_else(|| lowest(true)).copied()
    }

    /// How long it has not moved while the chain has.
    #[must_use]
    pub fn unmoved_for(&self, now_ms: u64) -> Duration {
        let goes_on = self.at.is_none() || self.blocks_since > 0;
        let time = if goes_on { now_ms.saturating_sub(self.since_ms) } else { 0 };
        Duration::from_millis(time)
    }

    /// Returns whether that is longer than for any working tag.
    #[must_use]
    pub fn is_stale(&self, now_ms: u64) -> bool {
        let after = if self.at.is_some() { STALE_AFTER } else { MISSING_AFTER };
        self.unmoved_for(now_ms) >= after
    }
}

/// `finalized stands at block 7 since 2026-09-14 16:05:12 UTC`
impl fmt::Display for TagPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tag, since) = (self.finality.as_str(), clock::utc(self.since_ms));
        match self.at {
            Some(at) => write!(f, "{tag} stands at block {at} since {since}"),
            None => write!(f, "the node has not reported the tag {tag} since {since}"),
        }
    }
}

/// The highest block whose requests may be processed, by kind. `None`: none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalHeight(pub PerKind<Option<u64>>);

impl FinalHeight {
    /// All blocks are final.
    pub const EVERYTHING: Self = Self(PerKind::all(Some(u64::MAX)));
    /// No block is final.
    pub const NOTHING: Self = Self(PerKind::all(None));

    #[must_use]
    pub fn of(self, kind: Kind) -> Option<u64> {
        self.0[kind]
    }

    #[must_use]
    pub fn covers(self, kind: Kind, block: u64) -> bool {
        self.of(kind).is_some_and(|line| block <= line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: PerKind<u64> =
        PerKind { public_decryption: 0, user_decryption: 5, key_operation: 5 };

    #[test]
    fn a_block_is_deep_enough_with_so_many_on_top() {
        let depth = FinalityRule {
            confirmations: PerKind { public_decryption: 3, user_decryption: 1, key_operation: 3 },
            ..FinalityRule::NONE
        };
        let line = depth.final_height(10, None);
        assert!(line.covers(Kind::PublicDecryption, 7) && !line.covers(Kind::PublicDecryption, 8));
        assert!(line.covers(Kind::UserDecryption, 9) && !line.covers(Kind::UserDecryption, 10));
        assert_eq!(depth.final_height(2, None).of(Kind::PublicDecryption), None);
        assert_eq!(FinalityRule::NONE.final_height(0, None), FinalHeight::EVERYTHING);
    }

    #[test]
    fn tag_and_confirmations_both_count() {
        let depth = FinalityRule { finality: FinalityTag::Safe, confirmations: FIVE };
        assert_eq!(depth.final_height(100, None), FinalHeight::NOTHING, "a tag that is not told");
        let line = depth.final_height(100, Some(97));
        let (public_decryption, rest) = (Some(97), Some(95));
        let expected = PerKind { public_decryption, user_decryption: rest, key_operation: rest };
        assert_eq!(line.0, expected);
    }

    #[test]
    fn a8_a_tag_that_stands_still_while_the_chain_goes_on_is_told() {
        let minute = 60_000;
        let mut tag = TagPosition::new(FinalityTag::Finalized, 100, 0);
        assert!(!tag.is_stale(minute - 1));
        tag.update(None, 101, minute);
        assert!(tag.is_stale(minute), "it is not told");
        tag.update(Some(90), 102, minute);
        assert!(!tag.is_stale(minute));
        // A quiet chain has nothing to finalise.
        tag.update(Some(90), 102, 60 * minute);
        assert!(!tag.is_stale(60 * minute));
        tag.update(Some(90), 103, 60 * minute);
        assert!(tag.is_stale(60 * minute));
        assert_eq!(tag.unmoved_for(60 * minute), Duration::from_mins(59));
        tag.update(Some(91), 104, 60 * minute);
        assert!(!tag.is_stale(60 * minute));
        // Two nodes behind one URL whose tags stand still at different blocks.
        for round in 61..82 {
            tag.update(Some(90 + round % 2), 200, round * minute);
        }
        assert!(tag.is_stale(82 * minute));
        // A tag beyond the head is ignored.
        tag.update(Some(u64::MAX), 200, 82 * minute);
        assert!(tag.is_stale(82 * minute) && tag.at < Some(200));
    }

    #[test]
    fn b5_the_lowest_tag_counts_unless_it_stands_still() {
        let minute = 60_000;
        let tag = |at, now_ms| {
            let mut tag = TagPosition::new(FinalityTag::Finalized, 100, 0);
            tag.update(Some(at), 100, now_ms);
            tag
        };
        let at =
            |told: &[TagPosition], now_ms| TagPosition::lowest(told, now_ms).and_then(|tag| tag.at);
        assert_eq!(at(&[], 0), None);
        assert_eq!(at(&[tag(100, 0), tag(90, 0)], 0), Some(90));
        // A tag beyond the head is ignored.
        assert_eq!(at(&[tag(u64::MAX, 0), tag(90, 0)], 0), Some(90));
        assert_eq!(at(&[tag(u64::MAX, 0)], 0), None);
        let (mut stuck, mut moves) = (tag(80, 0), tag(90, 0));
        stuck.update(Some(80), 200, 60 * minute);
        moves.update(Some(150), 200, 60 * minute);
        assert_eq!(at(&[stuck, moves], 60 * minute), Some(150));
        assert_eq!(at(&[stuck], 60 * minute), Some(80));
    }

    #[test]
    fn a8_every_request_that_waits_says_for_what() {
        let depth = FinalityRule { finality: FinalityTag::Finalized, confirmations: FIVE };
        let mut tag = TagPosition::new(FinalityTag::Finalized, 100, 1_000);
        let why = |tag: TagPosition, kind, block| {
            depth.waiting_reason(kind, block, depth.final_height(100, tag.at), Some(tag))
        };
        let untold = why(tag, Kind::PublicDecryption, 50).unwrap();
        assert!(untold.contains("not reported the tag finalized since 1970-01-01"), "{untold}");
        tag.update(Some(98), 100, 2_000);
        assert_eq!(why(tag, Kind::PublicDecryption, 98), None);
        let tagged = why(tag, Kind::PublicDecryption, 99).unwrap();
        assert!(
            tagged.contains("finalized stands at block 98 since 1970-01-01 00:00:02"),
            "{tagged}"
        );
        assert_eq!(why(tag, Kind::UserDecryption, 95), None);
        let buried = why(tag, Kind::UserDecryption, 96).unwrap();
        assert!(buried.contains("waits for 5 blocks on top"), "{buried}");
    }
}
