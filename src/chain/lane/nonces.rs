//! Which nonce comes next. Pure.
//!
//! Nonces are counted here and not read from a node: on Arbitrum the "pending" count equals "latest". A
//! nonce is *mined* (below the chain's count), *taken* or *free*. Free nonces below a taken one are
//! **holes**: the chain executes nothing behind them. So holes are handed out first, and filled with a
//! no-op if no payload needs them in time. They are stored as ranges, so that a wide gap costs no
//! memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// How long a hole may wait for a payload. A Nitro sequencer keeps transactions behind it for about 1 s.
pub(super) const HOLE_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub(super) struct Nonces {
    /// Every nonce from here on is free.
    next: u64,
    /// Free nonces below `next`, as ranges by their first nonce. They do not overlap.
    holes: BTreeMap<u64, Hole>,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    /// Its last nonce.
    last: u64,
    since: Instant,
}

/// Nonces that are free here and used on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ForeignNonces {
    pub first: u64,
    pub count: u64,
}

impl Nonces {
    /// `mined`: the chain's transaction count. `taken`: nonces that are recorded and not known to be
    /// mined. `highest`: the highest nonce the journal ever recorded.
    pub(super) fn new(
        mined: u64,
        taken: impl IntoIterator<Item = u64>,
        highest: Option<u64>,
        now: Instant,
    ) -> Self {
        let taken: BTreeSet<u64> = taken.into_iter().collect();
        let recorded =
            highest.max(taken.last().copied()).map_or(0, |nonce| nonce.saturating_add(1));
        let mut nonces = Self { next: mined.max(recorded), holes: BTreeMap::new() };
        nonces.free_but(mined, taken, now);
        nonces
    }

    /// Marks all nonces from `from` up to the next one as free, except `taken`.
    pub(super) fn free_but(
        &mut self,
        from: u64,
        taken: impl IntoIterator<Item = u64>,
        now: Instant,
    ) {
        self.forget_holes_from(from);
        let taken: BTreeSet<u64> = taken.into_iter().collect();
        let mut first = from;
        for nonce in taken.range(from..).copied().chain([self.next]).take_while(|n| *n <= self.next)
        {
            if nonce > first {
                self.holes.insert(first, Hole { last: nonce - 1, since: now });
            }
            first = nonce.saturating_add(1);
        }
        self.trim();
    }

    /// Takes the lowest free nonce.
    pub(super) fn take(&mut self) -> u64 {
        if let Some((first, hole)) = self.holes.pop_first() {
            if first < hole.last {
                self.holes.insert(first + 1, hole);
            }
            return first;
        }
        let nonce = self.next;
        self.next = self.next.saturating_add(1);
        nonce
    }

    /// Frees a nonce that was provably not used.
    pub(super) fn give_back(&mut self, nonce: u64, now: Instant) {
        if nonce >= self.next {
            return;
        }
        self.holes.insert(nonce, Hole { last: nonce, since: now });
        self.trim();
    }

    /// Free nonces at the end are not holes: nothing waits behind them.
    fn trim(&mut self) {
        while let Some((first, hole)) = self.holes.last_key_value()
            && hole.last.saturating_add(1) >= self.next
        {
            self.next = *first;
            self.holes.pop_last();
        }
    }

    fn forget_holes_from(&mut self, from: u64) {
        self.holes.split_off(&from);
        if let Some((_, hole)) = self.holes.iter_mut().next_back() {
            // The range starts below `from`, so `from` is not 0. It may end beyond it.
            hole.last = hole.last.min(from.saturating_sub(1));
        }
    }

    /// The nonces below `count` that are free here: somebody else used them.
    pub(super) fn foreign_below(&self, count: u64) -> Option<ForeignNonces> {
        let holes = self.holes.range(..count);
        let within =
            holes.map(|(first, hole)| (*first, hole.last.min(count - 1).saturating_add(1) - first));
        let beyond = (count > self.next).then(|| (self.next, count - self.next));
        within.chain(beyond).fold(None, |sum: Option<ForeignNonces>, (first, nonces)| {
            let known = sum.map_or(0, |sum| sum.count);
            let first = sum.map_or(first, |sum| sum.first);
            Some(ForeignNonces { first, count: nonces.saturating_add(known) })
        })
    }

    /// The chain has executed `mined` transactions of the wallet. Returns the nonces that somebody else
    /// used.
    pub(super) fn observe_mined(&mut self, mined: u64) -> Option<ForeignNonces> {
        let foreign = self.foreign_below(mined);
        let above = self.holes.split_off(&mined);
        if let Some((_, hole)) = self.holes.pop_last()
            && hole.last >= mined
        {
            self.holes.insert(mined, hole);
        }
        self.holes.retain(|first, _| *first >= mined);
        self.holes.extend(above);
        self.next = self.next.max(mined);
        foreign
    }

    /// The lowest free nonce. A chain count up to this one involves only our own nonces.
    pub(super) fn first_free(&self) -> u64 {
        self.holes.first_key_value().map_or(self.next, |(first, _)| *first)
    }

    /// The lowest hole, if it has waited too long.
    pub(super) fn overdue(&self, patience: Duration, now: Instant) -> Option<u64> {
        let (nonce, hole) = self.holes.first_key_value()?;
        (now.saturating_duration_since(hole.since) >= patience).then_some(*nonce)
    }

    pub(super) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
    }

    /// First nonce of the lowest hole that is wider than `wider_than`.
    pub(super) fn wide_hole(&self, wider_than: u64) -> Option<u64> {
        let wide = |(first, hole): &(&u64, &Hole)| hole.last - **first >= wider_than;
        self.holes.iter().find(wide).map(|(first, _)| *first)
    }

    /// Marks every nonce from `first` on as free.
    pub(super) fn free_from(&mut self, first: u64) {
        self.forget_holes_from(first);
        self.next = self.next.min(first);
        self.trim();
    }

    pub(super) fn peek_next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn restart_finds_the_holes_between_recorded_nonces() {
        let now = Instant::now();
        let mut nonces = Nonces::new(5, [7, 9], Some(9), now);
        assert_eq!((nonces.take(), nonces.take(), nonces.take(), nonces.take()), (5, 6, 8, 10));
    }

    #[test]
    fn a_nonce_given_back_at_the_end_leaves_no_hole() {
        let now = Instant::now();
        let mut nonces = Nonces::new(0, [], None, now);
        let (a, b) = (nonces.take(), nonces.take());
        nonces.give_back(a, now);
        assert!(nonces.has_holes());
        nonces.give_back(b, now);
        assert!(!nonces.has_holes());
        assert_eq!(nonces.take(), 0);
    }

    #[test]
    fn foreign_use_is_noticed() {
        let mut nonces = Nonces::new(3, [], None, Instant::now());
        assert_eq!(nonces.observe_mined(3), None);
        assert_eq!(nonces.observe_mined(5), Some(ForeignNonces { first: 3, count: 2 }));
        assert_eq!(nonces.take(), 5);
        assert_eq!(nonces.observe_mined(6), None, "our own");
    }

    #[test]
    fn a9_holes_without_end_cost_nothing() {
        let now = Instant::now();
        let far = 1 << 40;
        let mut nonces = Nonces::new(3, [far, far + 2, u64::MAX - 1], Some(u64::MAX), now);
        assert_eq!((nonces.first_free(), nonces.peek_next()), (3, u64::MAX));
        assert_eq!(
            (nonces.wide_hole(64), nonces.take(), nonces.wide_hole(64)),
            (Some(3), 3, Some(4))
        );
        let foreign = ForeignNonces { first: 4, count: far - 4 + 1 };
        assert_eq!(nonces.foreign_below(far + 3), Some(foreign));
        nonces.free_from(4);
        assert_eq!((nonces.has_holes(), nonces.take(), nonces.take()), (false, 4, 5));
        let mut last = Nonces::new(u64::MAX, [u64::MAX], None, now);
        last.give_back(u64::MAX, now);
        assert_eq!((last.take(), last.take(), last.peek_next()), (u64::MAX, u64::MAX, u64::MAX));
    }

    proptest! {
        /// Ranges of holes behave as single nonces would.
        #[test]
        fn holes_are_what_is_free(
            taken in prop::collection::btree_set(0u64..60, 0..20),
            mined in 0u64..60,
            steps in prop::collection::vec((0u8..5, 0u64..70), 0..40),
        ) {
            let now = Instant::now();
            let mut nonces = Nonces::new(mined, taken.iter().copied(), None, now);
            // Used on the chain or here.
            let mut used: BTreeSet<u64> = (0..mined).chain(taken).collect();
            let next = |used: &BTreeSet<u64>| used.last().map_or(0, |last| last + 1);
            for (step, number) in steps {
                match step {
                    0 => {
                        let free = (0..200).find(|nonce| !used.contains(nonce)).expect("some is");
                        prop_assert_eq!(nonces.first_free(), free);
                        prop_assert_eq!(nonces.take(), free);
                        used.insert(free);
                    }
                    1 if used.contains(&number) => {
                        nonces.give_back(number, now);
                        used.remove(&number);
                    }
                    2 => {
                        let foreign: Vec<u64> =
                            (0..number).filter(|nonce| !used.contains(nonce)).collect();
                        let told = nonces.observe_mined(number);
                        prop_assert_eq!(told.map_or(0, |told| told.count), foreign.len() as u64);
                        prop_assert_eq!(told.map(|told| told.first), foreign.first().copied());
                        used.extend(foreign);
                    }
                    3 => {
                        nonces.free_but(number, used.iter().copied(), now);
                    }
                    4 => {
                        if let Some(first) = nonces.wide_hole(number) {
                            used.split_off(&first);
                            nonces.free_from(first);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(nonces.peek_next(), next(&used));
                let free = (0..nonces.peek_next()).filter(|nonce| !used.contains(nonce));
                let listed = nonces.holes.iter().flat_map(|(first, hole)| *first..=hole.last);
                prop_assert_eq!(free.collect::<Vec<_>>(), listed.collect::<Vec<_>>());
            }
        }

        /// A nonce in use is never handed out again, and none is skipped.
        ///
        /// Field failure T39.
        #[test]
        fn never_hands_out_a_nonce_in_use(steps in prop::collection::vec((0u8..4, 0usize..8), 1..200)) {
            let now = Instant::now();
            let mut nonces = Nonces::new(0, [], None, now);
            let mut used = BTreeSet::new();
            let mut mined = 0u64;
            for (step, pick) in steps {
                match step {
                    0 | 1 => {
                        let nonce = nonces.take();
                        prop_assert!(nonce >= mined);
                        prop_assert!(used.insert(nonce), "nonce {nonce} handed out twice");
                    }
                    2 => {
                        let open: Vec<u64> = used.range(mined..).copied().collect();
                        if let Some(&nonce) = open.get(pick) {
                            used.remove(&nonce);
                            nonces.give_back(nonce, now);
                        }
                    }
                    _ => {
                        // The chain mines in nonce order, and only used nonces.
                        while used.contains(&mined) && pick % 2 == 0 {
                            mined += 1;
                        }
                        prop_assert_eq!(nonces.observe_mined(mined), None);
                    }
                }
            }
            // Filling every hole makes the used nonces contiguous.
            while nonces.has_holes() {
                used.insert(nonces.take());
            }
            let open: Vec<u64> = used.range(mined..).copied().collect();
            for (offset, nonce) in open.iter().enumerate() {
                prop_assert_eq!(*nonce, mined + offset as u64);
            }
        }
    }
}
