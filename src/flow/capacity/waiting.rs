//! Who waits before its walk: requests whose block is not deep enough, and those of a block that has many.
//! Neither takes a place. Pure.
//!
//! ```text
//! channel -> above the line? -> unripe --the line moves--\
//!         -> its block has its share of the places? ------+-> aside, by block -> walk
//!         -> walk
//! ```
//!
//! Whoever forges one log forges thousands in a block, and each of them has a place for seconds: those of
//! one block never take all places.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Wanted, unripe::Unripe};
use crate::{
    domain::BlockRef,
    flow::{Intake, depth::Line},
};

/// Requests that wait aside. What is more takes places like any other: those behind it wait for it.
const ASIDE: usize = 8192;

/// Those of one block that walk.
#[derive(Debug, Default)]
struct Walking {
    count: usize,
    share: Wanted,
}

/// Of one channel: who walks, and who waits here.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Places that requests of one block may have.
    share: usize,
    walking: HashMap<BlockRef, Walking>,
    unripe: Unripe,
    /// Of each block in the order in which they came.
    aside: BTreeMap<BlockRef, VecDeque<Intake>>,
    set_aside: usize,
}

impl Waiting {
    /// Each block may have so many places.
    pub(super) fn new(share: usize) -> Self {
        Self { share, ..Self::default() }
    }

    /// The request, if it may be walked now. If not, it waits here.
    pub(super) fn admit(&mut self, intake: Intake, line: Line) -> Option<Intake> {
        let block = intake.request.block;
        if !intake.is_ripe && !line.covers(intake.request.kind(), block.number) {
            self.unripe.put(intake);
            return None;
        }
        let is_next = self.has_room(&block) && !self.aside.contains_key(&block);
        if is_next || self.set_aside >= ASIDE {
            return Some(intake);
        }
        self.put_aside(intake);
        None
    }

    /// The line is here now.
    pub(super) fn ripen(&mut self, line: Line) {
        for intake in self.unripe.take(line) {
            self.put_aside(intake);
        }
    }

    /// Whether there is no room for one that is not ripe.
    pub(super) fn is_full(&self) -> bool {
        self.unripe.is_full()
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
        self.set_aside -= 1;
        self.tell(&block);
        next
    }

    /// One of this block walks. The share that it is in.
    pub(super) fn begun(&mut self, block: BlockRef) -> Wanted {
        let walking = self.walking.entry(block).or_default();
        walking.count += 1;
        let share = walking.share.clone();
        self.tell(&block);
        share
    }

    pub(super) fn ended(&mut self, block: BlockRef) {
        if let Some(walking) = self.walking.get_mut(&block) {
            walking.count -= 1;
            if walking.count == 0 {
                self.walking.remove(&block);
            }
        }
        self.tell(&block);
    }

    fn put_aside(&mut self, intake: Intake) {
        let block = intake.request.block;
        self.aside.entry(block).or_default().push_back(intake);
        self.set_aside += 1;
        self.tell(&block);
    }

    /// Tells those of the block that walk whether another one waits for one of their places.
    fn tell(&self, block: &BlockRef) {
        if let Some(walking) = self.walking.get(block) {
            walking.share.set(!self.has_room(block) && self.aside.contains_key(block));
        }
    }

    fn has_room(&self, block: &BlockRef) -> bool {
        self.walking.get(block).is_none_or(|walking| walking.count < self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{B256, Event, PerKind, RequestKey},
        gateway::{
            abi,
            fake_chain::{SOURCE, request_event},
        },
    };

    fn intake(block: u64, id: u64) -> Intake {
        let block = BlockRef { number: block, hash: B256::left_padding_from(&block.to_be_bytes()) };
        Intake::alone(abi::decode(SOURCE, &Event { block, ..request_event(id) }).unwrap(), false)
    }

    fn key(id: u64) -> RequestKey {
        intake(0, id).request.key
    }

    #[test]
    fn m5_a_block_full_of_requests_leaves_places_for_those_of_others() {
        let mut waiting = Waiting::new(6);
        for id in 0..100 {
            match waiting.admit(intake(7, id), Line::OPEN) {
                Some(intake) => drop(waiting.begun(intake.request.block)),
                None => assert!(id >= 6, "{id}"),
            }
        }
        assert_eq!((waiting.walking.len(), waiting.set_aside), (1, 94));
        let share = waiting.walking[&intake(7, 0).request.block].share.clone();
        assert!(share.is_one());
        assert!(!waiting.is_anyones() && waiting.next().is_none());
        // Another block's is walked at once.
        let other = waiting.admit(intake(8, 200), Line::OPEN).unwrap();
        assert!(!waiting.begun(other.request.block).is_one());
        // One ends, and the next of its block begins, in the order in which they came.
        for id in 6..100 {
            waiting.ended(intake(7, 0).request.block);
            assert!(!share.is_one(), "there is room");
            let next = waiting.next().unwrap();
            assert_eq!(next.request.key, key(id));
            waiting.begun(next.request.block);
            assert!(waiting.next().is_none());
        }
        assert!(waiting.aside.is_empty() && waiting.set_aside == 0);
        assert!(!share.is_one());
    }

    #[test]
    fn m5_what_waits_has_a_bound_and_nothing_is_lost() {
        let mut waiting = Waiting::new(3);
        let ids = 0..ASIDE as u64 + 10;
        let mut admitted = 0_u64;
        for id in ids.clone() {
            if let Some(intake) = waiting.admit(intake(7, id), Line::OPEN) {
                waiting.begun(intake.request.block);
                admitted += 1;
            }
        }
        assert_eq!((admitted, waiting.set_aside), (10, ASIDE));
        for _ in 0..admitted {
            waiting.ended(intake(7, 0).request.block);
        }
        while waiting.next().is_some() {
            admitted += 1;
        }
        assert_eq!(admitted, ids.end);
    }

    #[test]
    fn one_place_is_one_blocks() {
        let mut waiting = Waiting::new(1);
        let first = waiting.admit(intake(7, 1), Line::OPEN).unwrap();
        waiting.begun(first.request.block);
        assert!(waiting.admit(intake(7, 2), Line::OPEN).is_none());
        waiting.ended(first.request.block);
        assert!(waiting.is_anyones() && waiting.next().is_some());
    }

    /// Far behind the head everything but the last blocks is deep enough.
    #[test]
    fn what_is_not_deep_enough_waits_for_the_line_and_takes_no_place() {
        let mut waiting = Waiting::new(1000);
        let line = |block| Line(PerKind::all(Some(block)));
        for block in 0..500 {
            let is_walked = waiting.admit(intake(block, block), line(400)).is_some();
            assert_eq!(is_walked, block <= 400);
        }
        assert!(!waiting.is_anyones());
        let share = waiting.begun(intake(401, 0).request.block);
        waiting.ripen(line(402));
        assert!(!share.is_one(), "there is room for those that ripen");
        let next: Vec<_> =
            std::iter::from_fn(|| waiting.next().map(|next| next.request.key)).collect();
        assert_eq!(next, [key(401), key(402)]);
        // One that was deep enough before.
        let mut ripe = intake(600, 1);
        ripe.is_ripe = true;
        assert!(waiting.admit(ripe, Line::SHUT).is_some());
        for id in 0..20_000 {
            assert_eq!(waiting.is_full(), id >= 19_903);
            if !waiting.is_full() {
                waiting.admit(intake(700, id), Line::SHUT);
            }
        }
    }
}
