//! Requests whose block is not final yet. Pure.
//!
//! They hold no permits: with a finality of minutes there are thousands of them. A restart finds them
//! in the journal.

use std::collections::BTreeMap;

use crate::{
    domain::{Kind, PerKind},
    flow::{finality::rule::FinalHeight, walk_queue::QueuedRequest},
};

/// Once this many wait, further requests stay in their channel; nothing is lost.
const MAX_WAITING: usize = 20_000;

/// By block, then in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct NotFinal {
    waiting: PerKind<BTreeMap<(u64, u64), QueuedRequest>>,
    last_number: u64,
}

impl NotFinal {
    pub(super) fn push(&mut self, queued: QueuedRequest) {
        self.last_number += 1;
        let position = (queued.request.block.number, self.last_number);
        self.waiting[queued.request.kind()].insert(position, queued);
    }

    /// Removes the requests that are final now, the oldest block of each kind first.
    pub(super) fn take_final(&mut self, final_height: FinalHeight) -> Vec<QueuedRequest> {
        let mut released = Vec::new();
        for kind in Kind::ALL {
            let (Some(height), waiting) = (final_height.of(kind), &mut self.waiting[kind]) else {
                continue;
            };
            while let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= height) {
                released.push(first.remove());
            }
        }
        released
    }

    pub(super) fn is_full(&self) -> bool {
        let PerKind { public_decryption, user_decryption, key_operation } = &self.waiting;
        let all = [public_decryption, user_decryption, key_operation];
        all.map(BTreeMap::len).iter().sum::<usize>() >= MAX_WAITING
    }
}
