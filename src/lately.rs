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
pub struct Lately<K, V> {
    said: HashMap<K, Said<V>>,
    /// The keys, ordered by their last touch.
    order: BTreeMap<u64, K>,
    turn: u64,
    most: usize,
    lasts: Duration,
}

#[derive(Debug)]
struct Said<V> {
    turn: u64,
    last: Instant,
    what: V,
}

impl<K: Copy + Eq + Hash, V> Lately<K, V> {
    /// A map of at most `most` entries (at least one), each kept for `lasts` after its last touch.
    #[must_use]
    pub fn new(most: usize, lasts: Duration) -> Self {
        Self { said: HashMap::new(), order: BTreeMap::new(), turn: 0, most, lasts }
    }

    /// Touches the entry of `key`, and creates it with `first` if there is none.
    pub fn say(&mut self, key: K, now: Instant, first: impl FnOnce() -> V) -> &mut V {
        self.drop_old(now);
        let known = self.forget(&key);
        if self.said.len() >= self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.said.remove(&oldest);
        }
        self.turn += 1;
        self.order.insert(self.turn, key);
        let said = Said { turn: self.turn, last: now, what: known.unwrap_or_else(first) };
        &mut self.said.entry(key).insert_entry(said).into_mut().what
    }

    /// Returns the value, if it has not expired.
    pub fn of(&self, key: &K, now: Instant) -> Option<&V> {
        let said = self.said.get(key)?;
        self.is_fresh(said, now).then_some(&said.what)
    }

    /// All values that have not expired, in no order.
    pub fn all(&self, now: Instant) -> impl Iterator<Item = &V> {
        self.said.values().filter(move |said| self.is_fresh(said, now)).map(|said| &said.what)
    }

    pub fn forget(&mut self, key: &K) -> Option<V> {
        let said = self.said.remove(key)?;
        self.order.remove(&said.turn);
        Some(said.what)
    }

    /// Returns whether `key` can be touched without another entry being dropped for it.
    pub fn has_room_for(&mut self, key: &K, now: Instant) -> bool {
        self.drop_old(now);
        self.said.len() < self.most || self.said.contains_key(key)
    }

    fn drop_old(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.order.first_key_value()
            && self.of(oldest, now).is_none()
        {
            let oldest = *oldest;
            self.forget(&oldest);
        }
    }

    fn is_fresh(&self, said: &Said<V>, now: Instant) -> bool {
        now.saturating_duration_since(said.last) < self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_again_is_forgotten() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let mut lately = Lately::new(10, Duration::from_secs(10));
        *lately.say(1, at(0), || 0) += 1;
        *lately.say(2, at(5), || 0) += 1;
        *lately.say(1, at(9), || 0) += 1;
        assert_eq!((lately.of(&1, at(18)), lately.of(&2, at(14))), (Some(&2), Some(&1)));
        assert_eq!((lately.of(&1, at(19)), lately.of(&2, at(15))), (None, None));
        assert_eq!(lately.all(at(15)).collect::<Vec<_>>(), [&2]);
        assert_eq!(*lately.say(2, at(15), || 7), 7, "it begins anew");
        assert_eq!((lately.forget(&2), lately.of(&2, at(15))), (Some(7), None));
    }

    #[test]
    fn of_too_much_the_oldest_is_forgotten() {
        let now = Instant::now();
        let mut lately = Lately::new(3, Duration::MAX);
        for key in [1, 2, 3, 1] {
            lately.say(key, now, || key);
        }
        assert!(lately.has_room_for(&2, now) && !lately.has_room_for(&4, now));
        lately.say(4, now, || 4);
        let known = [1, 2, 3, 4].map(|key| lately.of(&key, now).is_some());
        assert_eq!(known, [true, false, true, true]);
        for key in 0..10_000 {
            lately.say(key % 7, now, || key);
        }
        assert_eq!((lately.said.len(), lately.order.len()), (3, 3));
    }
}
