//! Compares a header's bloom with the logs of its block, to find out whether the logs that a node
//! showed are complete. Pure.
//!
//! A header's bloom is made of the address and the topics of every log of the block. If a bloom
//! contains one of our events that no shown log has, that is either a coincidence (the bloom is small,
//! and a full block fills a third of it) or a log that is not shown. All logs of the block, from
//! whatever contract, decide: their bloom is the header's, or it is not.
//!
//! A bloom is as trustworthy as the node that reports it. Nothing here proves that a header has the
//! hash that names it, because that would need all its fields: headers are only joined by the hashes of
//! their parents. A bloom that is missing or has every bit set is ignored, and so are those of a node
//! that has reported a wrong one.

use std::collections::BTreeSet;

use alloy::primitives::{Bloom, BloomInput};

use crate::{
    chain::reader::{EmittedLog, Head, LogFilter, NodeId},
    domain::{B256, Event},
};

/// Nodes whose blooms were wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct BloomTrust(BTreeSet<NodeId>);

impl BloomTrust {
    /// The bloom of this header, if it is usable.
    pub(super) fn bloom<'h>(&self, head: &'h Head) -> Option<&'h Bloom> {
        let full = |bloom: &Bloom| bloom.iter().all(|byte| *byte == u8::MAX);
        head.bloom.as_ref().filter(|bloom| !full(bloom) && !self.0.contains(&head.node))
    }

    /// The node reported a wrong bloom. Returns whether that is new.
    pub(super) fn revoke(&mut self, node: NodeId) -> bool {
        self.0.insert(node)
    }
}

/// The logs that are looked for.
impl LogFilter<'_> {
    /// Returns whether a block may hold any of them. `None`: its header has no usable bloom.
    pub(super) fn may_match(self, bloom: Option<&Bloom>) -> bool {
        bloom.is_none_or(|bloom| self.may_hide(bloom, &[]))
    }

    /// Returns whether the bloom contains one that is not among those shown.
    pub(super) fn may_hide(self, bloom: &Bloom, shown: &[Event]) -> bool {
        let is_shown = |topic: &B256| shown.iter().any(|event| event.topics.first() == Some(topic));
        let may_hide_topic =
            |topic: &B256| bloom_contains(bloom, topic.as_slice()) && !is_shown(topic);
        // Without topics, the contract alone can be looked for, and one log explains it.
        self.addresses.iter().any(|address| bloom_contains(bloom, address.as_slice()))
            && match self.topic0 {
                [] => shown.is_empty(),
                topics => topics.iter().any(may_hide_topic),
            }
    }

    /// Those among all logs of a block, in its order.
    pub(super) fn select(self, all: &[EmittedLog]) -> Vec<Event> {
        let is_wanted = |one: &&EmittedLog| {
            self.addresses.contains(&one.address) && self.wants(one.event.topics.first())
        };
        let mut events: Vec<Event> =
            all.iter().filter(is_wanted).map(|one| one.event.clone()).collect();
        events.sort_by_key(|event| event.log_index);
        events
    }
}

fn bloom_contains(bloom: &Bloom, bytes: &[u8]) -> bool {
    bloom.contains_input(BloomInput::Raw(bytes))
}

/// The result of comparing a bloom with logs of the same block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BloomComparison {
    /// These are all logs.
    Complete,
    /// A log is missing.
    LogsMissing,
    /// A log is not in the bloom: the header's bloom is wrong.
    WrongBloom,
}

/// Checks whether these logs are all of the block that has this bloom.
#[must_use]
pub fn compare(bloom: &Bloom, logs: &[EmittedLog]) -> BloomComparison {
    let made = bloom_of(logs);
    if made == *bloom {
        BloomComparison::Complete
    } else if bloom.contains(&made) {
        BloomComparison::LogsMissing
    } else {
        BloomComparison::WrongBloom
    }
}

fn bloom_of(logs: &[EmittedLog]) -> Bloom {
    let mut bloom = Bloom::ZERO;
    for EmittedLog { address, event } in logs {
        bloom.accrue(BloomInput::Raw(address.as_slice()));
        for topic in &event.topics {
            bloom.accrue(BloomInput::Raw(topic.as_slice()));
        }
    }
    bloom
}

/// One node's data of a block.
#[derive(Clone, Debug)]
pub(super) struct NodeLogs {
    pub head: Head,
    /// All logs of the block, once for each way in which the node returned them.
    pub logs: Vec<Vec<EmittedLog>>,
}

/// The conclusion from the data of all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BlockProof {
    /// The wanted events of the block, proven complete; or no bloom is usable and no node contradicts.
    Proven(Vec<Event>),
    /// There may be more than these.
    Unproven(Vec<Event>),
}

/// Decides about one block, which all nodes know by the same hash. Also returns the nodes whose blooms
/// are proven wrong and lose their trust.
///
/// Logs are complete if their bloom equals that of every usable header: where two headers differ, one
/// of their nodes may hide a log and adapt its bloom.
pub(super) fn prove_block(
    witnesses: &[NodeLogs],
    wanted: LogFilter<'_>,
    trust: &mut BloomTrust,
) -> (BlockProof, Vec<NodeId>) {
    let mut liars = Vec::new();
    for NodeLogs { head, logs } in witnesses {
        let Some(bloom) = trust.bloom(head) else { continue };
        if logs.iter().any(|logs| compare(bloom, logs) == BloomComparison::WrongBloom) {
            trust.revoke(head.node);
            liars.push(head.node);
        }
    }
    let told = || witnesses.iter().flat_map(|one| &one.logs);
    let says = |trust: &BloomTrust, made: &Bloom, one: &NodeLogs| {
        trust.bloom(&one.head).map(|bloom| bloom == made)
    };
    let whole = told().find(|logs| {
        let made = bloom_of(logs);
        witnesses.iter().any(|one| says(trust, &made, one) == Some(true))
    });
    if let Some(whole) = whole {
        let made = bloom_of(whole);
        if witnesses.iter().all(|one| says(trust, &made, one) != Some(false)) {
            return (BlockProof::Proven(wanted.select(whole)), liars);
        }
    }
    let mut union: Vec<Event> = told().flat_map(|logs| wanted.select(logs)).collect();
    union.sort_by(|one, other| {
        (one.log_index, &one.topics, &one.data).cmp(&(other.log_index, &other.topics, &other.data))
    });
    union.dedup();
    let agreed = told().all(|logs| wanted.select(logs).len() == union.len());
    let nothing_said = witnesses.iter().all(|one| trust.bloom(&one.head).is_none());
    let verdict = if nothing_said && agreed && told().next().is_some() {
        BlockProof::Proven(union)
    } else {
        BlockProof::Unproven(union)
    };
    (verdict, liars)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Address;
    use crate::domain::{BlockRef, Bytes};

    const OURS: Address = Address::repeat_byte(0xdc);
    const BLOCK: BlockRef = BlockRef { number: 7, hash: B256::repeat_byte(7) };

    fn topic(number: u64) -> B256 {
        keccak256(number.to_be_bytes())
    }

    fn log(address: Address, index: u64, topics: &[u64]) -> EmittedLog {
        let event = Event {
            block: BLOCK,
            transaction: topic(1000 + index),
            log_index: index,
            topics: topics.iter().copied().map(topic).collect(),
            data: Bytes::new(),
        };
        EmittedLog { address, event }
    }

    fn head(by: usize, bloom: Option<&Bloom>) -> Head {
        let (parent, bloom) = (B256::ZERO, bloom.copied());
        let by = NodeId(by);
        Head {
            block: BLOCK,
            parent,
            bloom,
            base_fee: None,
            gas_limit: None,
            timestamp: None,
            connection: 1,
            node: by,
        }
    }

    /// First topics 1 and 2 are wanted.
    fn with_wanted<T>(then: impl FnOnce(LogFilter<'_>) -> T) -> T {
        then(LogFilter { addresses: &[OURS], topic0: &[topic(1), topic(2)], topic1: &[] })
    }

    #[test]
    fn a_bloom_speaks_of_what_is_not_shown() {
        let (one, two) = (log(OURS, 0, &[1, 50]), log(OURS, 1, &[2, 51]));
        let bloom = bloom_of(&[one.clone(), two.clone()]);
        with_wanted(|wanted| {
            assert!(wanted.may_match(Some(&bloom)) && wanted.may_match(None));
            assert!(!wanted.may_match(Some(&Bloom::ZERO)));
            assert!(wanted.may_hide(&bloom, &[]));
            assert!(wanted.may_hide(&bloom, std::slice::from_ref(&one.event)));
            assert!(!wanted.may_hide(&bloom, &[one.event.clone(), two.event]));
        });
        // Every log of the contract is wanted.
        let all = LogFilter { addresses: &[OURS], topic0: &[], topic1: &[] };
        assert!(all.may_match(Some(&bloom)) && !all.may_match(Some(&Bloom::ZERO)));
        assert!(all.may_hide(&bloom, &[]));
        assert!(!all.may_hide(&bloom, std::slice::from_ref(&one.event)));
        let odd = [log(OURS, 1, &[77]), log(OURS, 0, &[]), log(Address::ZERO, 2, &[1])];
        assert_eq!(all.select(&odd), [odd[1].event.clone(), odd[0].event.clone()]);
    }

    #[test]
    fn a_bloom_that_says_nothing_proves_nothing() {
        let mut trust = BloomTrust::default();
        let bloom = bloom_of(&[log(OURS, 0, &[1])]);
        assert_eq!(trust.bloom(&head(0, Some(&bloom))), Some(&bloom));
        assert_eq!(trust.bloom(&head(0, None)), None);
        assert_eq!(trust.bloom(&head(0, Some(&Bloom::repeat_byte(0xff)))), None);
        assert!(trust.revoke(NodeId(0)) && !trust.revoke(NodeId(0)));
        assert_eq!(trust.bloom(&head(0, Some(&bloom))), None);
        assert_eq!(trust.bloom(&head(1, Some(&bloom))), Some(&bloom), "trust is each node's");
    }

    #[test]
    fn the_block_is_proven_by_whoever_shows_all_of_it() {
        let all = vec![log(OURS, 0, &[1, 50]), log(Address::ZERO, 1, &[9])];
        let bloom = bloom_of(&all);
        let shown = vec![all[0].event.clone()];
        let mut trust = BloomTrust::default();
        let mut judged = |witnesses: &[NodeLogs]| {
            with_wanted(|wanted| prove_block(witnesses, wanted, &mut trust))
        };
        let says = |by, bloom: Option<&Bloom>, logs: &[&[EmittedLog]]| NodeLogs {
            head: head(by, bloom),
            logs: logs.iter().map(|logs| logs.to_vec()).collect(),
        };
        let blind = says(0, Some(&bloom), &[&[]]);
        assert_eq!(judged(std::slice::from_ref(&blind)).0, BlockProof::Unproven(Vec::new()));
        // Complete by the node's own receipts, or by another node, whose header may have no bloom.
        let receipts = says(0, Some(&bloom), &[&[], &all]);
        assert_eq!(judged(&[receipts]).0, BlockProof::Proven(shown.clone()));
        let other = says(1, None, &[&all]);
        assert_eq!(judged(&[blind.clone(), other]).0, BlockProof::Proven(shown.clone()));
        // No node shows all of it.
        let part = says(1, None, &[&all[..1]]);
        assert_eq!(judged(&[blind, part]).0, BlockProof::Unproven(shown.clone()));
        // A bloom without a log that the node itself shows.
        let wrong = says(2, Some(&Bloom::ZERO), &[&all]);
        let fine = says(1, Some(&bloom), &[&all]);
        assert_eq!(
            judged(&[wrong.clone(), fine]),
            (BlockProof::Proven(shown.clone()), vec![NodeId(2)])
        );
        // It is not trusted any more: nothing is left to prove with.
        assert_eq!(
            judged(std::slice::from_ref(&wrong)),
            (BlockProof::Proven(shown.clone()), Vec::new())
        );
        // One node has none of our events and a consistent bloom; another one contradicts it.
        let empty = says(5, Some(&Bloom::ZERO), &[&[]]);
        let blind = says(0, Some(&bloom), &[&[]]);
        assert_eq!(judged(&[empty, blind.clone()]), (BlockProof::Unproven(Vec::new()), Vec::new()));
        let silent = says(3, None, &[&[]]);
        assert_eq!(judged(&[wrong, silent]).0, BlockProof::Unproven(shown));
        assert_eq!(judged(&[]).0, BlockProof::Unproven(Vec::new()));
    }

    proptest! {
        /// All logs of a block are complete. Without one of them they are complete only if the bloom is the
        /// same by coincidence; with one too many the bloom is wrong or cannot tell.
        #[test]
        fn what_is_hidden_is_seen_unless_it_leaves_no_trace(
            logs in prop::collection::vec((0u8..4, 0u64..8, 0u64..1000), 1..30),
            hidden in any::<prop::sample::Index>(),
        ) {
            let all: Vec<EmittedLog> = logs
                .iter()
                .zip(0..)
                .map(|((address, first, second), index)| {
                    log(Address::repeat_byte(*address), index, &[*first, *second])
                })
                .collect();
            let bloom = bloom_of(&all);
            prop_assert_eq!(compare(&bloom, &all), BloomComparison::Complete);
            let mut part = all.clone();
            part.remove(hidden.index(all.len()));
            let same = bloom_of(&part) == bloom;
            prop_assert_eq!(compare(&bloom, &part), if same { BloomComparison::Complete } else { BloomComparison::LogsMissing });
            let fewer = bloom_of(&part);
            let expected = if same { BloomComparison::Complete } else { BloomComparison::WrongBloom };
            prop_assert_eq!(compare(&fewer, &all), expected);
        }
    }
}
