//! Requests whose user's signature is not valid yet, and when it will be. Pure.
//!
//! They are held in the journal and take no permits. What finds no room here is tried again with all other
//! held requests, and a restart finds it.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use crate::{domain::RequestKey, flow::walk_queue::QueuedRequest};

/// Beyond this many only the soonest are looked at in time.
const MAX_WAITING: usize = 1_024;
/// Nothing is waited for longer: the chain by whose time it is valid may run ahead of this machine's clock.
const LONGEST: Duration = Duration::from_secs(30);

/// By the time when they are looked at again, then in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct NotYetValid {
    waiting: BTreeMap<(Instant, u64), QueuedRequest>,
    positions: HashMap<RequestKey, (Instant, u64)>,
    last_number: u64,
}

impl NotYetValid {
    /// `after`: how long from now until it is valid. Replaces what was known of the request.
    pub(super) fn push(&mut self, queued: QueuedRequest, after: Duration, now: Instant) {
        let key = queued.request.key;
        if let Some(before) = self.positions.remove(&key) {
            self.waiting.remove(&before);
        }
        self.last_number += 1;
        let position = (now + after.min(LONGEST), self.last_number);
        self.waiting.insert(position, queued);
        self.positions.insert(key, position);
        if self.waiting.len() > MAX_WAITING
            && let Some((_, last)) = self.waiting.pop_last()
        {
            self.positions.remove(&last.request.key);
        }
    }

    /// When the next one is valid.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes those that are valid now.
    pub(super) fn take_valid(&mut self, now: Instant) -> Vec<QueuedRequest> {
        let mut taken = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= now) {
            let queued = first.remove();
            self.positions.remove(&queued.request.key);
            taken.push(queued);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::fake_chain::{SOURCE, request_event},
        contracts::abi,
    };

    fn queued(id: u64) -> QueuedRequest {
        QueuedRequest::alone(abi::decode(SOURCE, &request_event(id)).unwrap(), true)
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn taken(waiting: &mut NotYetValid, now: Instant) -> Vec<RequestKey> {
        waiting.take_valid(now).into_iter().map(|queued| queued.request.key).collect()
    }

    #[test]
    fn each_is_taken_once_when_it_is_valid() {
        let (mut waiting, now) = (NotYetValid::default(), Instant::now());
        let key = |id| queued(id).request.key;
        assert_eq!(waiting.next(), None);
        for (id, after) in [(1, 30), (2, 10), (3, 10), (4, 20)] {
            waiting.push(queued(id), secs(after), now);
        }
        assert_eq!(waiting.next(), Some(now + secs(10)));
        assert!(taken(&mut waiting, now + secs(9)).is_empty());
        assert_eq!(taken(&mut waiting, now + secs(10)), [key(2), key(3)]);
        // It was looked at in between.
        waiting.push(queued(4), secs(30), now + secs(10));
        assert_eq!(taken(&mut waiting, now + secs(39)), [key(1)]);
        assert_eq!(taken(&mut waiting, now + secs(40)), [key(4)]);
        assert_eq!((waiting.next(), waiting.positions.len()), (None, 0));
    }

    #[test]
    fn they_have_a_bound_and_the_soonest_stay() {
        let (mut waiting, now) = (NotYetValid::default(), Instant::now());
        for id in 0..2 * MAX_WAITING as u64 {
            waiting.push(queued(id), Duration::from_millis(10_000 - id), now);
        }
        assert_eq!((waiting.waiting.len(), waiting.positions.len()), (MAX_WAITING, MAX_WAITING));
        let soonest = Duration::from_millis(10_001 - 2 * MAX_WAITING as u64);
        assert_eq!(waiting.next(), Some(now + soonest));
        // Never, by its own account.
        let mut waiting = NotYetValid::default();
        waiting.push(queued(1), Duration::MAX, now);
        assert_eq!(waiting.next(), Some(now + LONGEST));
    }
}
