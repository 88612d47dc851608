//! Whose turn it is among the requests from the chain: those of one block do not take all places. Whoever
//! forges one log forges thousands in a block, and each of them has a place for seconds. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{domain::BlockRef, flow::Intake};

/// Requests that wait here. What is more takes places like any other: those behind it wait for it.
const ASIDE: usize = 8192;

/// Who walks, and who waits here because too many of the same block do.
#[derive(Debug, Default)]
pub(in crate::flow) struct Turns {
    /// Places that requests of one block may have.
    share: usize,
    walking: HashMap<BlockRef, usize>,
    /// Of each block in the order in which they came.
    aside: BTreeMap<BlockRef, VecDeque<Intake>>,
    waiting: usize,
}

impl Turns {
    /// Of so many places each block may have three quarters.
    pub(in crate::flow) fn new(places: usize) -> Self {
        Self { share: places - places / 4, ..Self::default() }
    }

    /// The request, if it may be walked now. If not, it waits here.
    pub(super) fn admit(&mut self, intake: Intake) -> Option<Intake> {
        let block = intake.request.block;
        if self.has_room(&block) && !self.aside.contains_key(&block) || self.waiting >= ASIDE {
            return Some(intake);
        }
        self.aside.entry(block).or_default().push_back(intake);
        self.waiting += 1;
        None
    }

    /// Whether one that waits here may be walked now.
    pub(super) fn is_anyones(&self) -> bool {
        self.aside.keys().any(|block| self.has_room(block))
    }

    /// The one whose turn it is.
    pub(super) fn next(&mut self) -> Option<Intake> {
        let block = *self.aside.keys().find(|block| self.has_room(block))?;
        let of_block = self.aside.get_mut(&block)?;
        let next = of_block.pop_front();
        if of_block.is_empty() {
            self.aside.remove(&block);
        }
        self.waiting -= 1;
        next
    }

    pub(in crate::flow) fn begun(&mut self, block: BlockRef) {
        *self.walking.entry(block).or_default() += 1;
    }

    pub(in crate::flow) fn ended(&mut self, block: BlockRef) {
        if let Some(walking) = self.walking.get_mut(&block) {
            *walking -= 1;
            if *walking == 0 {
                self.walking.remove(&block);
            }
        }
    }

    fn has_room(&self, block: &BlockRef) -> bool {
        self.walking.get(block).is_none_or(|walking| *walking < self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{B256, Event, RequestKey},
        gateway::{abi, fake_chain::request_event},
    };

    fn intake(block: u64, id: u64) -> Intake {
        let block = BlockRef { number: block, hash: B256::left_padding_from(&block.to_be_bytes()) };
        Intake::alone(abi::decode(&Event { block, ..request_event(id) }).unwrap(), false)
    }

    fn key(id: u64) -> RequestKey {
        intake(0, id).request.key
    }

    #[test]
    fn m5_a_block_full_of_requests_leaves_places_for_those_of_others() {
        let mut turns = Turns::new(8);
        for id in 0..100 {
            match turns.admit(intake(7, id)) {
                Some(intake) => turns.begun(intake.request.block),
                None => assert!(id >= 6, "{id}"),
            }
        }
        assert_eq!((turns.walking.len(), turns.waiting), (1, 94));
        assert!(!turns.is_anyones() && turns.next().is_none());
        // Another block's is walked at once.
        let other = turns.admit(intake(8, 200)).unwrap();
        turns.begun(other.request.block);
        // One ends, and the next of its block begins, in the order in which they came.
        for id in 6..100 {
            turns.ended(intake(7, 0).request.block);
            let next = turns.next().unwrap();
            assert_eq!(next.request.key, key(id));
            turns.begun(next.request.block);
            assert!(turns.next().is_none());
        }
        assert!(turns.aside.is_empty() && turns.waiting == 0);
    }

    #[test]
    fn m5_what_waits_has_a_bound_and_nothing_is_lost() {
        let mut turns = Turns::new(4);
        let ids = 0..ASIDE as u64 + 10;
        let mut admitted = 0_u64;
        for id in ids.clone() {
            if let Some(intake) = turns.admit(intake(7, id)) {
                turns.begun(intake.request.block);
                admitted += 1;
            }
        }
        assert_eq!((admitted, turns.waiting), (10, ASIDE));
        for _ in 0..admitted {
            turns.ended(intake(7, 0).request.block);
        }
        while turns.next().is_some() {
            admitted += 1;
        }
        assert_eq!(admitted, ids.end);
    }

    #[test]
    fn one_place_is_one_blocks() {
        let mut turns = Turns::new(1);
        let first = turns.admit(intake(7, 1)).unwrap();
        turns.begun(first.request.block);
        assert!(turns.admit(intake(7, 2)).is_none());
        turns.ended(first.request.block);
        assert!(turns.is_anyones() && turns.next().is_some());
    }
}
