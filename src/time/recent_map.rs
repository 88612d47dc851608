//! A map of limited size whose entries expire: each entry is kept for a fixed time after it was last touched.
//! When the map is full, a new entry replaces the one that was touched the longest ago. Pure: the caller
//! passes the time.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

/// Recently touched values, by key.
#[derive(Debug)]
pub struct RecentMap<K, V> {
    entries: HashMap<K, RecentEntry<V>>,
    /// The keys, ordered by their last touch.
    order: BTreeMap<u64, K>,
    turn: u64,
    capacity: usize,
    time_to_live: Duration,
}

#[derive(Debug)]
struct RecentEntry<V> {
    turn: u64,
    last: Instant,
    value: V,
}

impl<K: Copy + Eq + Hash, V> RecentMap<K, V> {
    /// A map of at most `capacity` entries (at least one), each kept for `time_to_live` after its last touch.
    #[must_use]
    pub fn new(capacity: usize, time_to_live: Duration) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), turn: 0, capacity, time_to_live }
    }

    /// Touches the entry of `key`, and creates it with `first` if there is none.
    pub fn touch(&mut self, key: K, now: Instant, first: impl FnOnce() -> V) -> &mut V {
        self.drop_old(now);
        let known = self.remove(&key);
        if self.entries.len() >= self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.turn += 1;
        self.order.insert(self.turn, key);
        let said = RecentEntry { turn: self.turn, last: now, value: known.unwrap_or_else(first) };
        &mut self.entries.entry(key).insert_entry(said).into_mut().value
    }

    /// Returns the value, if it has not expired.
    pub fn get(&self, key: &K, now: Instant) -> Option<&V> {
        let said = self.entries.get(key)?;
        self.is_fresh(said, now).then_some(&said.value)
    }

    /// All values that have not expired, in no order.
    pub fn values(&self, now: Instant) -> impl Iterator<Item = &V> {
        self.entries.values().filter(move |said| self.is_fresh(said, now)).map(|said| &said.value)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let said = self.entries.remove(key)?;
        self.order.remove(&said.turn);
        Some(said.value)
    }

    /// Returns whether `key` can be touched without another entry being dropped for it.
    pub fn has_room_for(&mut self, key: &K, now: Instant) -> bool {
        self.drop_old(now);
        self.entries.len() < self.capacity || self.entries.contains_key(key)
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.order.first_key_value()
            && self.get(oldest, now).is_none()
        {
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    fn is_fresh(&self, said: &RecentEntry<V>, now: Instant) -> bool {
        now.saturating_duration_since(said.last) < self.time_to_live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let mut lately = RecentMap::new(10, Duration::from_secs(10));
        *lately.touch(1, at(0), || 0) += 1;
        *lately.touch(2, at(5), || 0) += 1;
        *lately.touch(1, at(9), || 0) += 1;
        assert_eq!((lately.get(&1, at(18)), lately.get(&2, at(14))), (Some(&2), Some(&1)));
        assert_eq!((lately.get(&1, at(19)), lately.get(&2, at(15))), (None, None));
        assert_eq!(lately.values(at(15)).collect::<Vec<_>>(), [&2]);
        assert_eq!(*lately.touch(2, at(15), || 7), 7, "it begins anew");
        assert_eq!((lately.remove(&2), lately.get(&2, at(15))), (Some(7), None));
    }

    #[test]
    fn of_too_much_the_oldest_is_forgotten() {
        let now = Instant::now();
        let mut lately = RecentMap::new(3, Duration::MAX);
        for key in [1, 2, 3, 1] {
            lately.touch(key, now, || key);
        }
        assert!(lately.has_room_for(&2, now) && !lately.has_room_for(&4, now));
        lately.touch(4, now, || 4);
        let known = [1, 2, 3, 4].map(|key| lately.get(&key, now).is_some());
        assert_eq!(known, [true, false, true, true]);
        for key in 0..10_000 {
            lately.touch(key % 7, now, || key);
        }
        assert_eq!((lately.entries.len(), lately.order.len()), (3, 3));
    }
}
