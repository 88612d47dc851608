//! Requests of one channel that wait before their walk: because their block is not final, or because
//! their block already has its share of the permits. They hold no permits. Pure.
//!
//! ```text
//! channel -> above the final height? -> not final --the height rises--\
//!         -> its block has its share of the permits? ----------------> deferred, by block -> walk
//!         -> walk
//! ```
//!
//! An attacker who forges one log can forge thousands in one block, and each of them would hold a
//! permit for seconds. So the requests of one block never hold all permits.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{Wanted, not_final::NotFinal};
use crate::{
    domain::BlockRef,
    flow::{QueuedRequest, finality::rule::FinalHeight},
};

/// The most deferred requests. Further ones take permits like any other request, so that those behind
/// them are not blocked.
const MAX_DEFERRED: usize = 8192;

/// Walks of one block's requests.
#[derive(Debug, Default)]
struct Walking {
    count: usize,
    share: Wanted,
}

/// The walks and the waiting requests of one channel.
#[derive(Debug, Default)]
pub(super) struct WaitingQueue {
    /// Permits that requests of one block may hold.
    share: usize,
    walking: HashMap<BlockRef, Walking>,
    not_final: NotFinal,
    /// By block, in the order of their arrival.
    deferred: BTreeMap<BlockRef, VecDeque<QueuedRequest>>,
    deferred_count: usize,
}

impl WaitingQueue {
    /// `share`: permits for the requests of one block.
    pub(super) fn new(share: usize) -> Self {
        Self { share, ..Self::default() }
    }

    /// Returns the request if it may be processed now; otherwise it waits here.
    pub(super) fn admit(
        &mut self,
        queued: QueuedRequest,
        final_height: FinalHeight,
    ) -> Option<QueuedRequest> {
        let block = queued.request.block;
        if !queued.is_final && !final_height.covers(queued.request.kind(), block.number) {
            self.not_final.push(queued);
            return None;
        }
        let is_next = self.has_free_share(&block) && !self.deferred.contains_key(&block);
        if is_next || self.deferred_count >= MAX_DEFERRED {
            return Some(queued);
        }
        self.defer(queued);
        None
    }

    /// Admits it once its block is final.
    pub(super) fn wait_until_final(&mut self, queued: QueuedRequest) {
        self.not_final.push(queued);
    }

    /// Moves the requests that are final now.
    pub(super) fn release_final(&mut self, final_height: FinalHeight) {
        for queued in self.not_final.take_final(final_height) {
            self.defer(queued);
        }
    }

    /// Returns whether there is no room for another request that is not final.
    pub(super) fn is_full(&self) -> bool {
        self.not_final.is_full()
    }

    /// Returns whether a waiting request may be processed now.
    pub(super) fn has_ready(&self) -> bool {
        self.deferred.keys().any(|block| self.has_free_share(block))
    }

    /// Removes the next one.
    pub(super) fn pop_ready(&mut self) -> Option<QueuedRequest> {
        let block = *self.deferred.keys().find(|block| self.has_free_share(block))?;
        let of_block = self.deferred.get_mut(&block)?;
        let next = of_block.pop_front();
        if of_block.is_empty() {
            self.deferred.remove(&block);
        }
        self.deferred_count -= 1;
        self.tell(&block);
        next
    }

    /// Records that a request of this block is being processed. Returns its block's share.
    pub(super) fn walk_began(&mut self, block: BlockRef) -> Wanted {
        let walking = self.walking.entry(block).or_default();
        walking.count += 1;
        let share = walking.share.clone();
        self.tell(&block);
        share
    }

    pub(super) fn walk_ended(&mut self, block: BlockRef) {
        if let Some(walking) = self.walking.get_mut(&block) {
            walking.count -= 1;
            if walking.count == 0 {
                self.walking.remove(&block);
            }
        }
        self.tell(&block);
    }

    /// Lets it wait for a permit.
    pub(super) fn defer(&mut self, queued: QueuedRequest) {
        let block = queued.request.block;
        self.deferred.entry(block).or_default().push_back(queued);
        self.deferred_count += 1;
        self.tell(&block);
    }

    /// Signals the walks of this block whether another request of it waits for a permit.
    fn tell(&self, block: &BlockRef) {
        if let Some(walking) = self.walking.get(block) {
            walking.share.set(!self.has_free_share(block) && self.deferred.contains_key(block));
        }
    }

    fn has_free_share(&self, block: &BlockRef) -> bool {
        self.walking.get(block).is_none_or(|walking| walking.count < self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_event},
        contracts::abi,
        domain::{B256, Event, PerKind, RequestKey},
    };

    fn intake(block: u64, id: u64) -> QueuedRequest {
        let block = BlockRef { number: block, hash: B256::left_padding_from(&block.to_be_bytes()) };
        QueuedRequest::alone(
            abi::decode(SOURCE, &Event { block, ..request_event(id) }).unwrap(),
            false,
        )
    }

    fn key(id: u64) -> RequestKey {
        intake(0, id).request.key
    }

    #[test]
    fn m5_a_block_full_of_requests_leaves_places_for_those_of_others() {
        let mut waiting = WaitingQueue::new(6);
        for id in 0..100 {
            match waiting.admit(intake(7, id), FinalHeight::EVERYTHING) {
                Some(intake) => drop(waiting.walk_began(intake.request.block)),
                None => assert!(id >= 6, "{id}"),
            }
        }
        assert_eq!((waiting.walking.len(), waiting.deferred_count), (1, 94));
        let share = waiting.walking[&intake(7, 0).request.block].share.clone();
        assert!(share.is_one());
        assert!(!waiting.has_ready() && waiting.pop_ready().is_none());
        // A request of another block starts at once.
        let other = waiting.admit(intake(8, 200), FinalHeight::EVERYTHING).unwrap();
        assert!(!waiting.walk_began(other.request.block).is_one());
        // As each one ends, the next of its block starts, in the order of arrival.
        for id in 6..100 {
            waiting.walk_ended(intake(7, 0).request.block);
            assert!(!share.is_one(), "there is room");
            let next = waiting.pop_ready().unwrap();
            assert_eq!(next.request.key, key(id));
            waiting.walk_began(next.request.block);
            assert!(waiting.pop_ready().is_none());
        }
        assert!(waiting.deferred.is_empty() && waiting.deferred_count == 0);
        assert!(!share.is_one());
    }

    #[test]
    fn m5_what_waits_has_a_bound_and_nothing_is_lost() {
        let mut waiting = WaitingQueue::new(3);
        let ids = 0..MAX_DEFERRED as u64 + 10;
        let mut admitted = 0_u64;
        for id in ids.clone() {
            if let Some(intake) = waiting.admit(intake(7, id), FinalHeight::EVERYTHING) {
                waiting.walk_began(intake.request.block);
                admitted += 1;
            }
        }
        assert_eq!((admitted, waiting.deferred_count), (10, MAX_DEFERRED));
        for _ in 0..admitted {
            waiting.walk_ended(intake(7, 0).request.block);
        }
        while waiting.pop_ready().is_some() {
            admitted += 1;
        }
        assert_eq!(admitted, ids.end);
    }

    #[test]
    fn one_place_is_one_blocks() {
        let mut waiting = WaitingQueue::new(1);
        let first = waiting.admit(intake(7, 1), FinalHeight::EVERYTHING).unwrap();
        waiting.walk_began(first.request.block);
        assert!(waiting.admit(intake(7, 2), FinalHeight::EVERYTHING).is_none());
        waiting.walk_ended(first.request.block);
        assert!(waiting.has_ready() && waiting.pop_ready().is_some());
    }

    /// Far behind the head all but the last blocks are final.
    #[test]
    fn what_is_not_deep_enough_waits_for_the_line_and_takes_no_place() {
        let mut waiting = WaitingQueue::new(1000);
        let line = |block| FinalHeight(PerKind::all(Some(block)));
        for block in 0..500 {
            let is_walked = waiting.admit(intake(block, block), line(400)).is_some();
            assert_eq!(is_walked, block <= 400);
        }
        assert!(!waiting.has_ready());
        let share = waiting.walk_began(intake(401, 0).request.block);
        waiting.release_final(line(402));
        assert!(!share.is_one(), "there is room for those that ripen");
        let next: Vec<_> =
            std::iter::from_fn(|| waiting.pop_ready().map(|next| next.request.key)).collect();
        assert_eq!(next, [key(401), key(402)]);
        // Its block was final before.
        let mut ripe = intake(600, 1);
        ripe.is_final = true;
        assert!(waiting.admit(ripe, FinalHeight::NOTHING).is_some());
        for id in 0..20_000 {
            assert_eq!(waiting.is_full(), id >= 19_903);
            if !waiting.is_full() {
                waiting.admit(intake(700, id), FinalHeight::NOTHING);
            }
        }
    }
}
