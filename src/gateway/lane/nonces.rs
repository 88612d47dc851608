//! Which nonce comes next. Pure: the lane acts on what this decides.
//!
//! Nonces are counted here, not asked for: on Arbitrum the node's "pending" count equals "latest".
//! A nonce is in one of three states: *mined* (below the chain's count), *taken*, or free. Free
//! nonces below a taken one are **holes**: the chain executes nothing behind them, so they are
//! always handed out first, and filled with a no-op when nobody needs them in time.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

/// How long a hole may wait for a payload. A Nitro sequencer keeps what is behind it for about 1 s.
pub(super) const HOLE_PATIENCE: Duration = Duration::from_millis(500);

/// The nonces of one wallet on one chain.
#[derive(Clone, Debug)]
pub(super) struct Nonces {
    /// Every nonce from here on is free.
    next: u64,
    /// Free nonces below `next`, since when.
    holes: BTreeMap<u64, Instant>,
}

impl Nonces {
    /// From the chain's count of mined transactions and the nonces taken and not known to be mined.
    /// `highest` is the highest nonce the journal ever recorded.
    pub(super) fn new(
        mined: u64,
        taken: impl IntoIterator<Item = u64>,
        highest: Option<u64>,
        now: Instant,
    ) -> Self {
        let taken: std::collections::BTreeSet<u64> = taken.into_iter().collect();
        let recorded = highest.max(taken.last().copied()).map_or(0, |nonce| nonce + 1);
        let next = mined.max(recorded);
        let holes = (mined..next)
            .filter(|nonce| !taken.contains(nonce))
            .map(|nonce| (nonce, now))
            .collect();
        Self { next, holes }
    }

    /// The lowest free nonce; it is taken now.
    pub(super) fn take(&mut self) -> u64 {
        if let Some((hole, _)) = self.holes.pop_first() {
            return hole;
        }
        self.next += 1;
        self.next - 1
    }

    /// The nonce was not used, provably.
    pub(super) fn give_back(&mut self, nonce: u64, now: Instant) {
        if nonce >= self.next {
            return;
        }
        self.holes.insert(nonce, now);
        // Free nonces at the end are no holes: nothing waits behind them.
        while self.next > 0 && self.holes.remove(&(self.next - 1)).is_some() {
            self.next -= 1;
        }
    }

    /// The chain has executed `mined` transactions of the wallet. Answers the nonces that were used
    /// by somebody else: free here, yet mined there.
    pub(super) fn observe_mined(&mut self, mined: u64) -> Option<RangeInclusive<u64>> {
        let foreign_hole = self.holes.range(..mined).next().map(|(nonce, _)| *nonce);
        self.holes = self.holes.split_off(&mined);
        let beyond = (mined > self.next).then_some(self.next);
        self.next = self.next.max(mined);
        foreign_hole.or(beyond).map(|first| first..=mined - 1)
    }

    /// The lowest hole that has waited too long.
    pub(super) fn overdue(&self, now: Instant) -> Option<u64> {
        let (nonce, since) = self.holes.first_key_value()?;
        (now.saturating_duration_since(*since) >= HOLE_PATIENCE).then_some(*nonce)
    }

    pub(super) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
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
        assert_eq!(nonces.observe_mined(5), Some(3..=4));
        assert_eq!(nonces.take(), 5);
        assert_eq!(nonces.observe_mined(6), None, "our own");
    }

    proptest! {
        /// Whatever happens, a nonce in use is never handed out again, and none is skipped.
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
                        // The chain mines in order, only what is used.
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
