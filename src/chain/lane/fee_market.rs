//! Which fees a new transaction pays. Pure.
//!
//! Base fee and tip are the word of one node, and the wallet may have to pay what is signed. So
//!
//! - the **tip** is the lower median of what the sound nodes suggest, at most twice the base fee (or
//!   [`SMALL_TIP`] if that is more), and never above [`HIGHEST_TIP`];
//! - the **base fee** is believed at once unless it leaps. A leap is believed once another node's header
//!   of the same block confirms it, or after it has lasted for some seconds;
//! - nothing is ever signed above the operator's cap, which has a default.
//!
//! Where transactions wait in pools, the tip has a lower bound, too, and a transaction that is passed over is
//! replaced by one with higher fees ([`FeeMarket::bump`]).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{ChainKind, HIGHEST_FEE, count::SECOND_READING};

const GWEI: u128 = 1_000_000_000;
/// The highest tip, in wei per gas. Sequencers need none.
pub(super) const HIGHEST_TIP: u128 = 100 * GWEI;
/// A tip that is always allowed, in wei per gas: 3 gwei, because pools may refuse lower ones.
const SMALL_TIP: u128 = 3 * GWEI;
/// A base fee up to this is no leap, in wei per gas.
const SMALL_BASE: u128 = 10 * GWEI;
/// A base fee up to this multiple of the lowest one of the last minute is no leap.
const LEAP_MULTIPLE: u128 = 8;
const LEAP_WITHIN: Duration = Duration::from_mins(1);
/// Resolution of the remembered lowest base fees.
const LOW_RESOLUTION: Duration = Duration::from_secs(1);
/// A transaction signed for more than this multiple of present fees is overpriced.
const EXCESSIVE_MULTIPLE: u128 = 8;

/// Fees of a transaction, in wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fees {
    pub(super) max: u128,
    pub(super) tip: u128,
}

impl Fees {
    /// Leaves room for the base fee to double (on Ethereum six blocks of the steepest growth). `None` if
    /// the base fee and the `least` tip are above `cap`.
    fn for_base_fee(base: u128, tip: u128, least: u128, cap: u128) -> Option<Self> {
        if base.saturating_add(least) > cap {
            return None;
        }
        let max = base.saturating_mul(2).saturating_add(tip).min(cap);
        Some(Self { max, tip: tip.min(max) })
    }

    /// The lowest fees with which every pool accepts a replacement: pools ask for 10 % more of both, some
    /// for more; this is 12.5 % more.
    fn raised(self) -> Self {
        Self { max: raised(self.max), tip: raised(self.tip) }
    }
}

fn raised(fee: u128) -> u128 {
    fee.saturating_add((fee / 8).saturating_add(1))
}

/// What can be done for a transaction that is passed over in the pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bump {
    /// Replace it by the same payload with these fees.
    To(Fees),
    /// A replacement, or the chain itself, costs more than the operator allows.
    AboveCap,
    /// Its maximum is enough and its tip is as high as tips get: more would not help.
    Enough,
}

/// A base fee that leapt and is not believed yet.
#[derive(Clone, Copy, Debug)]
struct Leap {
    since: Instant,
    /// The lowest base fee since the leap.
    lowest: u128,
    /// When the other nodes were asked.
    asked_at: Option<Instant>,
    /// Another node reports a lower base fee for the block: then the leap is not believed by lasting.
    denied: bool,
}

/// The fees that the chain asks for.
#[derive(Debug)]
pub(super) struct FeeMarket {
    /// The operator's cap, in wei per gas.
    cap: u128,
    /// The lowest tip that is paid, in wei per gas.
    least_tip: u128,
    /// Wei per gas; `None` before the first believed head.
    base: Option<u128>,
    leap: Option<Leap>,
    /// The lowest base fee of each second of the last minute.
    lows: VecDeque<(Instant, u128)>,
    /// Wei per gas. `None` before the nodes were asked; zero if they suggest none.
    tip: Option<u128>,
    /// Gas limit of the newest block.
    block_gas_limit: Option<u64>,
}

impl FeeMarket {
    pub(super) fn new(cap: u128, kind: ChainKind) -> Self {
        Self {
            cap,
            least_tip: kind.least_tip(),
            base: None,
            leap: None,
            lows: VecDeque::new(),
            tip: None,
            block_gas_limit: None,
        }
    }

    pub(super) fn cap(&self) -> u128 {
        self.cap
    }

    /// Gas limit of the newest block, if plausible.
    pub(super) fn block_gas_limit(&self) -> Option<u64> {
        self.block_gas_limit
    }

    /// The believed base fee, in wei per gas.
    pub(super) fn base(&self) -> u128 {
        self.base.unwrap_or(0)
    }

    /// Gas limit of a new head, if plausible.
    pub(super) fn set_block_gas_limit(&mut self, gas: Option<u64>) {
        self.block_gas_limit = gas.or(self.block_gas_limit);
    }

    /// Base fee of a new head. A head without one is ignored, unless no head ever had one: then it is
    /// zero.
    pub(super) fn apply_base_fee(&mut self, base: Option<u128>, now: Instant) {
        let Some(base) = base.or_else(|| self.base.is_none().then_some(0)) else { return };
        if self.is_ordinary(base, now) {
            self.leap = None;
            return self.accept_base_fee(base, now);
        }
        let new = Leap { since: now, lowest: base, asked_at: None, denied: false };
        let leap = self.leap.get_or_insert(new);
        leap.lowest = leap.lowest.min(base);
        if !leap.denied && now.saturating_duration_since(leap.since) >= SECOND_READING {
            self.accept_leap(now);
        }
    }

    /// Returns whether the other nodes have to be asked for the newest head's base fee now, and
    /// remembers that.
    pub(super) fn base_fees_due(&mut self, now: Instant) -> bool {
        let Some(leap) = &mut self.leap else { return false };
        let just = |at: Instant| now.saturating_duration_since(at) < SECOND_READING;
        let asks = !leap.asked_at.is_some_and(just);
        if asks {
            leap.asked_at = Some(now);
        }
        asks
    }

    /// Takes in the base fee of one block as reported by several nodes: the lowest is believed.
    pub(super) fn apply_base_fees(&mut self, bases: &[u128], now: Instant) {
        let (Some(lowest), Some(leap)) = (bases.iter().min().copied(), &mut self.leap) else {
            return;
        };
        if bases.len() < 2 {
            if leap.denied {
                // The node that denied the leap does not answer: from now on the leap may be believed by
                // lasting.
                *leap = Leap { since: now, denied: false, ..*leap };
            }
            return;
        }
        let leap = Leap { denied: true, lowest, ..*leap };
        self.leap = Some(leap);
        self.accept_leap(now);
        if bases.iter().any(|base| *base > lowest) {
            // The higher value stays in doubt.
            self.leap = Some(Leap { since: now, lowest: u128::MAX, ..leap });
        }
    }

    /// Takes in the tip that the sound nodes suggest. `None`: no node suggests one, and the known tip
    /// stays.
    pub(super) fn set_tip(&mut self, tip: Option<u128>) {
        self.tip = tip.or(self.tip).or(Some(0));
    }

    /// Whether base fee and tip are known.
    pub(super) fn is_known(&self) -> bool {
        self.base.is_some() && self.tip.is_some()
    }

    fn highest_tip(&self) -> u128 {
        self.base().saturating_mul(2).clamp(SMALL_TIP, HIGHEST_TIP)
    }

    /// The suggested tip and the highest one that is paid, if the suggestion is higher.
    pub(super) fn excessive_tip(&self) -> Option<(u128, u128)> {
        self.tip.map(|tip| (tip, self.highest_tip())).filter(|(tip, highest)| tip > highest)
    }

    /// `None` while the base fee is above the cap.
    pub(super) fn fees(&self) -> Option<Fees> {
        let tip = self.tip.unwrap_or(0).max(self.least_tip).min(self.highest_tip());
        let fees = Fees::for_base_fee(self.base(), tip, self.least_tip, self.cap)?;
        Some(Fees { max: self.toward_cap(fees.max), ..fees })
    }

    /// Where there are pools: the cap in place of a maximum that no replacement could follow below the cap.
    /// What is paid does not depend on it.
    fn toward_cap(&self, max: u128) -> u128 {
        let has_pools = self.least_tip > 0;
        if has_pools && raised(max) > self.cap { max.max(self.cap) } else { max }
    }

    /// Whether no block takes a transaction with these fees while the base fee is what it is.
    pub(super) fn has_outgrown(&self, signed: Fees) -> bool {
        self.base().saturating_add(self.least_tip) > signed.max
    }

    /// The fees of a replacement for a transaction with these fees that is not mined.
    pub(super) fn bump(&self, signed: Fees) -> Bump {
        let Some(present) = self.fees() else { return Bump::AboveCap };
        let raised = signed.raised();
        let tip = raised.tip.max(present.tip);
        let max = raised.max.max(present.max).max(tip);
        if max > self.cap {
            return Bump::AboveCap;
        }
        if tip > self.highest_tip() && !self.has_outgrown(signed) {
            return Bump::Enough;
        }
        Bump::To(Fees { max: self.toward_cap(max), tip })
    }

    /// Whether a transaction with these fees would never be signed now.
    pub(super) fn is_excessive(&self, signed: Fees) -> bool {
        let out = |fee: u128, now: u128| fee > now.saturating_mul(EXCESSIVE_MULTIPLE);
        let now = self.fees().unwrap_or(Fees { max: self.cap, tip: HIGHEST_TIP });
        signed.max > self.cap.max(HIGHEST_FEE)
            || signed.tip > HIGHEST_TIP
            || (out(signed.tip, self.highest_tip()) && out(signed.max, now.max))
    }

    fn is_ordinary(&self, base: u128, now: Instant) -> bool {
        let young = |at: Instant| now.saturating_duration_since(at) < LEAP_WITHIN;
        let lows = self.lows.iter().filter(|(at, _)| young(*at));
        let low = lows.map(|(_, low)| *low).min().or(self.base);
        base <= SMALL_BASE || low.is_some_and(|low| base <= low.saturating_mul(LEAP_MULTIPLE))
    }

    fn accept_leap(&mut self, now: Instant) {
        let Some(leap) = self.leap.take() else { return };
        self.lows.clear();
        self.accept_base_fee(leap.lowest, now);
    }

    fn accept_base_fee(&mut self, base: u128, now: Instant) {
        self.base = Some(base);
        match self.lows.back_mut() {
            Some((at, low)) if now.saturating_duration_since(*at) < LOW_RESOLUTION => {
                *low = base.min(*low);
            }
            Some(_) | None => self.lows.push_back((now, base)),
        }
        let old = |at: Instant| now.saturating_duration_since(at) >= LEAP_WITHIN;
        while self.lows.front().is_some_and(|(at, _)| old(*at)) && self.lows.len() > 1 {
            self.lows.pop_front();
        }
    }
}

/// The lower median: of two values the lower one.
pub(super) fn median(mut tips: Vec<u128>) -> Option<u128> {
    tips.sort_unstable();
    let middle = tips.len().checked_sub(1)? / 2;
    tips.get(middle).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Watch(FeeMarket, Instant);

    impl Watch {
        fn new(cap: u128) -> Self {
            Self(FeeMarket::new(cap, ChainKind::Sequencer), Instant::now())
        }

        fn at(&self, seconds: u64) -> Instant {
            self.1 + Duration::from_secs(seconds)
        }

        fn head(&mut self, seconds: u64, gwei: u128) -> u128 {
            self.0.apply_base_fee(Some(gwei * GWEI), self.at(seconds));
            self.0.base() / GWEI
        }
    }

    #[test]
    fn a9b_a_tip_is_bounded_by_the_base_fee_and_a_ceiling() {
        let mut watch = Watch::new(HIGHEST_FEE);
        watch.head(0, 1);
        for (suggested, paid) in [(0, 0), (2, 2), (100_000, 3), (u128::MAX / GWEI, 3)] {
            watch.0.set_tip(Some(suggested * GWEI));
            assert_eq!(watch.0.fees().map(|fees| fees.tip), Some(paid * GWEI));
        }
        watch.head(1, 8);
        watch.0.set_tip(Some(15 * GWEI));
        assert_eq!(watch.0.fees(), Some(Fees { max: 31 * GWEI, tip: 15 * GWEI }));
        let mut dear = Watch::new(HIGHEST_FEE);
        dear.head(0, 400);
        assert_eq!(dear.head(5, 400), 400);
        dear.0.set_tip(Some(u128::MAX));
        assert_eq!(dear.0.fees(), Some(Fees { max: 900 * GWEI, tip: 100 * GWEI }));
    }

    #[test]
    fn a9b_nothing_is_signed_above_the_operators_bound_or_the_default() {
        let mut watch = Watch::new(5 * GWEI);
        watch.0.set_tip(Some(u128::MAX));
        watch.head(0, 4);
        assert_eq!(watch.0.fees(), Some(Fees { max: 5 * GWEI, tip: 5 * GWEI }));
        watch.head(1, 6);
        assert_eq!(watch.0.fees(), None);
        let mut watch = Watch::new(HIGHEST_FEE);
        watch.0.set_tip(Some(0));
        for second in 0..6 {
            watch.head(second, 900);
        }
        assert_eq!(watch.0.fees(), Some(Fees { max: 1000 * GWEI, tip: 0 }));
        watch.head(6, 1001);
        assert_eq!(watch.0.fees(), None);
    }

    #[test]
    fn a9b_a_leap_of_the_base_fee_counts_once_it_has_stood() {
        let mut watch = Watch::new(HIGHEST_FEE);
        assert_eq!((watch.head(0, 2), watch.head(1, 9)), (2, 9));
        assert_eq!(watch.head(2, 1_000_000), 9);
        assert_eq!(watch.head(6, 1_000_000), 9);
        assert_eq!(watch.head(7, 12), 12, "it is over");
        assert_eq!(watch.head(8, 500), 12);
        assert_eq!((watch.head(12, 700), watch.head(13, 600)), (12, 500));
        assert_eq!((watch.head(14, 3900), watch.head(15, 4000)), (3900, 4000));
        watch.0.apply_base_fee(None, watch.at(16));
        assert_eq!(watch.0.base() / GWEI, 4000, "a header without one tells nothing");
        let mut never = Watch::new(HIGHEST_FEE);
        never.0.apply_base_fee(None, never.1);
        assert_eq!(never.0.base, Some(0), "a chain without one");
    }

    #[test]
    fn a9b_another_nodes_header_tells_at_once() {
        let mut watch = Watch::new(HIGHEST_FEE);
        watch.head(0, 1);
        watch.head(1, 100);
        assert!(watch.0.base_fees_due(watch.at(1)) && !watch.0.base_fees_due(watch.at(2)));
        watch.0.apply_base_fees(&[100 * GWEI], watch.at(1));
        assert_eq!(watch.0.base(), GWEI, "its own word");
        watch.0.apply_base_fees(&[100 * GWEI, 99 * GWEI], watch.at(1));
        assert_eq!(watch.0.base(), 99 * GWEI);
        // Without another node, asking again changes nothing and delays nothing.
        let mut alone = Watch::new(HIGHEST_FEE);
        alone.head(0, 1);
        for quarter in 0..24u64 {
            let at = alone.1 + Duration::from_millis(quarter * 250);
            alone.0.apply_base_fee(Some(100 * GWEI), at);
            if alone.0.base_fees_due(at) {
                alone.0.apply_base_fees(&[100 * GWEI], at + Duration::from_millis(3));
            }
        }
        assert_eq!(alone.0.base(), 100 * GWEI);
        // A node that lies for long is not believed because its leap lasts.
        let mut liar = Watch::new(HIGHEST_FEE);
        liar.head(0, 1);
        for second in 1..60 {
            assert!(liar.head(second, 1_000_000) < 3);
            if liar.0.base_fees_due(liar.at(second)) {
                liar.0.apply_base_fees(&[1_000_000 * GWEI, 2 * GWEI], liar.at(second));
            }
        }
        assert_eq!(liar.0.base(), 2 * GWEI);
    }

    #[test]
    fn a9b_what_would_never_be_signed_now_is_absurd() {
        let mut watch = Watch::new(HIGHEST_FEE);
        watch.head(0, 1);
        watch.0.set_tip(Some(0));
        let fees = |max: u128, tip: u128| Fees { max: max * GWEI, tip: tip * GWEI };
        let absurd = [fees(2, 2), fees(100, 24), fees(900, 3), fees(1, 0)];
        assert_eq!(absurd.map(|signed| watch.0.is_excessive(signed)), [false; 4]);
        let absurd = [fees(1001, 0), fees(200_000, 100_000), fees(30, 25), fees(101, 101)];
        assert_eq!(absurd.map(|signed| watch.0.is_excessive(signed)), [true; 4]);
    }

    fn pools(cap: u128, base: u128, tip: u128) -> FeeMarket {
        let rules = crate::chain::lane::MempoolRules::ethereum(64);
        let mut market = FeeMarket::new(cap, ChainKind::Mempool(rules));
        let now = Instant::now();
        market.apply_base_fee(Some(base), now);
        market.apply_base_fee(Some(base), now + SECOND_READING);
        market.set_tip(Some(tip));
        market
    }

    #[test]
    fn pools_are_paid_a_tip_although_no_node_suggests_one() {
        let tip = |market: FeeMarket| market.fees().map(|fees| fees.tip);
        assert_eq!(tip(pools(HIGHEST_FEE, GWEI, 0)), Some(GWEI / 10));
        assert_eq!(tip(pools(HIGHEST_FEE, GWEI, 2 * GWEI)), Some(2 * GWEI));
        assert_eq!(tip(pools(HIGHEST_FEE, GWEI, u128::MAX)), Some(3 * GWEI));
        // What is left below the cap would be no tip.
        assert_eq!(pools(5 * GWEI, 5 * GWEI, GWEI).fees(), None);
        assert_eq!(tip(pools(6 * GWEI, 5 * GWEI, GWEI)), Some(GWEI));
    }

    /// Else it could not be raised by an eighth any more, and the last part below the cap were of no use.
    #[test]
    fn close_to_the_cap_the_cap_is_signed() {
        for (base, max) in [(3, 7), (4, 10)] {
            let fees = pools(10 * GWEI, base * GWEI, GWEI).fees();
            assert_eq!(fees, Some(Fees { max: max * GWEI, tip: GWEI }));
        }
        let signed = Fees { max: 8 * GWEI, tip: GWEI };
        let bump = pools(10 * GWEI, 4 * GWEI, GWEI).bump(signed);
        assert!(matches!(bump, Bump::To(Fees { max, .. }) if max == 10 * GWEI), "{bump:?}");
    }

    #[test]
    fn what_is_passed_over_pays_at_least_an_eighth_more_and_what_the_chain_asks_now() {
        let signed = Fees { max: 3 * GWEI, tip: GWEI };
        let more = Fees { max: 3_375_000_001, tip: 1_125_000_001 };
        assert_eq!(pools(HIGHEST_FEE, GWEI, GWEI).bump(signed), Bump::To(more));
        // The base fee is ten times as high.
        let spike = pools(HIGHEST_FEE, 10 * GWEI, 2 * GWEI);
        assert!(spike.has_outgrown(signed));
        assert_eq!(spike.bump(signed), Bump::To(Fees { max: 22 * GWEI, tip: 2 * GWEI }));
    }

    #[test]
    fn no_replacement_exceeds_the_cap_and_a_tip_ends_somewhere() {
        let signed = Fees { max: 9 * GWEI, tip: GWEI };
        assert_eq!(pools(10 * GWEI, GWEI, GWEI).bump(signed), Bump::AboveCap);
        assert_eq!(pools(10 * GWEI, 11 * GWEI, GWEI).bump(signed), Bump::AboveCap);
        let generous = Fees { max: 9 * GWEI, tip: 3 * GWEI };
        assert_eq!(pools(HIGHEST_FEE, GWEI, GWEI).bump(generous), Bump::Enough);
        // A base fee above the maximum needs a replacement whatever its tip.
        let dear = Fees { max: 150 * GWEI, tip: 99 * GWEI };
        assert!(matches!(pools(HIGHEST_FEE, 200 * GWEI, GWEI).bump(dear), Bump::To(_)));
    }

    #[test]
    fn the_median_is_the_lower_one() {
        let median = |tips: &[u128]| median(tips.to_vec());
        assert_eq!((median(&[]), median(&[7]), median(&[9, 1])), (None, Some(7), Some(1)));
        assert_eq!((median(&[9, 1, 5]), median(&[9, 1, 5, 6])), (Some(5), Some(5)));
    }

    proptest! {
        /// Whatever nodes report: nothing is signed above the bounds, and what is signed can be included
        /// while the believed base fee lasts.
        #[test]
        fn a9b_no_fee_leaves_its_bounds(
            cap in prop_oneof![Just(HIGHEST_FEE), 1u128..u128::MAX],
            told in prop::collection::vec((0u64..20, prop::option::of(any::<u128>()), any::<u128>()), 1..40),
        ) {
            let mut watch = Watch::new(cap);
            let mut seconds = 0;
            for (pause, base, tip) in told {
                seconds += pause;
                watch.0.apply_base_fee(base, watch.at(seconds));
                watch.0.set_tip(Some(tip));
                let Some(fees) = watch.0.fees() else { continue };
                prop_assert!(fees.max <= cap);
                prop_assert!(fees.tip <= HIGHEST_TIP && fees.tip <= fees.max);
                prop_assert!(fees.tip <= (watch.0.base().saturating_mul(2)).max(SMALL_TIP));
                prop_assert!(fees.max >= watch.0.base());
                prop_assert!(!watch.0.is_excessive(fees));
            }
        }

        /// Whatever was signed and whatever the chain asks: a replacement is one for every pool, and stays
        /// below the cap.
        #[test]
        fn a_bump_is_a_replacement_for_every_pool(
            cap in 1u128..u128::MAX,
            base in any::<u128>(),
            suggested in any::<u128>(),
            max in any::<u128>(),
            tip in any::<u128>(),
        ) {
            let signed = Fees { max, tip: tip.min(max) };
            if let Bump::To(fees) = pools(cap, base, suggested).bump(signed) {
                let eighth = |fee: u128| fee / 8 + u128::from(!fee.is_multiple_of(8));
                prop_assert!(fees.max >= signed.max.saturating_add(eighth(signed.max)));
                prop_assert!(fees.tip >= signed.tip.saturating_add(eighth(signed.tip)));
                prop_assert!(fees.tip <= fees.max && fees.max <= cap);
            }
        }
    }
}
