//! The pool of the chain in memory where it is one of Ethereum's kind: it keeps what nobody mines, takes a
//! replacement only for more of both fees, has a lowest tip and a size, and may forget.

use super::{FakeChain, FakeChainState, Pooled};

/// Rules of the pool and of who builds blocks from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolRules {
    /// A replacement pays so many percent more of both fees.
    pub bump_percent: u128,
    /// Lower tips are refused, in wei per gas.
    pub least_tip: u128,
    /// No block contains a transaction that pays less above the base fee, in wei per gas.
    pub builders_tip: u128,
    /// It takes replacements only.
    pub is_full: bool,
    /// What a reorganisation removes from the chain comes back into it.
    pub takes_back: bool,
}

impl Default for PoolRules {
    fn default() -> Self {
        let (least_tip, builders_tip) = (1, 1);
        Self { bump_percent: 10, least_tip, builders_tip, is_full: false, takes_back: false }
    }
}

impl FakeChainState {
    /// Why the pool does not take a transaction.
    pub(super) fn pool_refuses(&self, nonce: u64, new: Pooled) -> Option<&'static str> {
        let rules = self.pool_rules?;
        let pays_more = |new: u128, old: u128| new * 100 >= old * (100 + rules.bump_percent);
        match self.pool.get(&nonce) {
            _ if new.tip < rules.least_tip => Some("transaction underpriced"),
            None => rules.is_full.then_some("txpool is full"),
            Some(old) => {
                let is_replacement =
                    pays_more(new.max_fee, old.max_fee) && pays_more(new.tip, old.tip);
                (!is_replacement).then_some("replacement transaction underpriced")
            }
        }
    }

    pub(super) fn is_worth_mining(&self, one: Pooled) -> bool {
        let tip = one.tip.min(one.max_fee.saturating_sub(self.base_fee));
        self.pool_rules.is_none_or(|rules| tip >= rules.builders_tip)
    }

    /// Transactions from the present nonce on are not mined any more.
    pub(super) fn pool_reorganised(&mut self) {
        let removed = self.mined.split_off(&self.nonce);
        if self.pool_rules.is_some_and(|rules| rules.takes_back) {
            self.pool.extend(removed);
        }
    }
}

impl FakeChain {
    /// The pool forgets all transactions.
    pub fn forget_pool(&self) {
        self.state().pool.clear();
    }

    /// The maximum fee of the transaction in the pool with this nonce, in wei per gas.
    pub fn pooled_fee(&self, nonce: u64) -> Option<u128> {
        self.state().pool.get(&nonce).map(|one| one.max_fee)
    }
}
