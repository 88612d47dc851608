//! What transactions pay: more if they are passed over in a pool, less if they were signed for more than
//! the chain asks now. And what the waiting callers are told.

use alloy::primitives::utils::{format_ether, format_units};
use tokio::time::Instant;

use super::{Book, Effect};
use crate::{
    domain::{Hold, HoldReason, U256},
    gateway::lane::{
        Notice,
        draft::{Draft, cost_of, is_too_much_gas},
        market::Fees,
        news::News,
        slot::Slot,
    },
};

/// A fee bump of a starving transaction pays at most this many times what a new transaction pays.
pub(super) const MOST_TIMES: u128 = 3;

impl Book {
    /// Fees of a transaction that is signed now. `None`: nothing is signed, because the chain costs more
    /// than the cap or there is no key.
    pub(super) fn fees(&self) -> Option<Fees> {
        if self.drains() { None } else { self.market.fees() }
    }

    /// Replaces a transaction by the same payload with a higher fee, up to `times` what a new
    /// transaction pays.
    pub(super) fn raise_fee(&mut self, nonce: u64, times: u128) {
        let (fees, cap) = (self.fees(), self.market.cap());
        let Some(slot) = self.open.get_mut(&nonce).filter(|slot| !slot.replacing) else { return };
        let draft = fees.and_then(|fees| Draft::bump_of(slot.current(), fees, times, cap));
        if let Some(draft) = draft {
            slot.replacing = true;
            self.replacing += 1;
            self.effects.push(Effect::Sign(vec![draft]));
        } else if fees.is_none_or(|fees| fees.max >= cap) {
            let request = slot.current().request;
            self.notify(request, Notice::Waiting(self.fee_hold()));
        }
    }

    /// Raises the fee of the lowest nonce if it has been in a pool for long: others may pay more.
    pub(super) fn raise_starving(&mut self, now: Instant) {
        let Some((nonce, slot)) = self.open.iter_mut().next() else { return };
        if *nonce != self.belief.count() || !slot.is_starving(now) {
            return;
        }
        slot.starve_on(now);
        let nonce = *nonce;
        self.tell(News::PaysMore { nonce });
        self.raise_fee(nonce, MOST_TIMES);
    }

    /// Whether a transaction asks for more than would be signed now: excessive fees, or more gas than
    /// any answer needs.
    pub(super) fn is_odd(&self, slot: &Slot) -> bool {
        let current = slot.current();
        let absurd = cost_of(current).is_some_and(|(fees, _)| self.market.is_absurd(fees));
        absurd || is_too_much_gas(current)
    }

    /// Whether it asks for more than twice the present fees: the wallet may be able to pay for a cheaper
    /// one.
    pub(super) fn is_dear(&self, slot: &Slot) -> bool {
        let (Some(fees), Some((signed, _))) = (self.fees(), cost_of(slot.current())) else {
            return false;
        };
        signed.max > fees.max.saturating_mul(2) || self.is_odd(slot)
    }

    /// Signs the same payloads again under the same nonces at present fees. Either version may be mined:
    /// both carry the same answer. A node that has the old one may keep it.
    pub(super) fn sign_anew(&mut self, nonces: &[u64]) {
        let Some(fees) = self.fees() else {
            let hold = self.fee_hold();
            for request in nonces.iter().filter_map(|nonce| self.open.get(nonce)?.current().request)
            {
                self.effects.push(Effect::Notify(request, Notice::Waiting(hold.clone())));
            }
            return;
        };
        let mut drafts = Vec::new();
        for nonce in nonces {
            let Some(slot) = self.open.get_mut(nonce).filter(|slot| !slot.replacing) else {
                continue;
            };
            let Some(draft) = Draft::anew(slot.current(), fees, self.market.block_gas()) else {
                continue;
            };
            slot.replacing = true;
            drafts.push(draft);
        }
        if !drafts.is_empty() {
            self.tell(News::SignedForTooMuch { transactions: drafts.len() });
        }
        self.replacing += drafts.len();
        self.sign(drafts);
    }

    /// Checks the fees of transactions from an earlier run before they are sent.
    pub(super) fn look_through(&mut self, now: Instant) {
        if !self.market.is_known() || now < self.sign_after {
            return;
        }
        let unchecked = self.open.iter().filter(|(_, slot)| slot.unchecked && !slot.replacing);
        let (odd, fine): (Vec<_>, Vec<_>) = unchecked.partition(|(_, slot)| self.is_odd(slot));
        let nonces = |of: Vec<(&u64, &Slot)>| of.into_iter().map(|(nonce, _)| *nonce).collect();
        let (odd, fine): (Vec<u64>, Vec<u64>) = (nonces(odd), nonces(fine));
        for nonce in fine {
            if let Some(slot) = self.open.get_mut(&nonce) {
                slot.unchecked = false;
            }
        }
        if !odd.is_empty() {
            self.sign_anew(&odd);
        }
    }

    pub(super) fn fee_hold(&self) -> Hold {
        let (base, cap) = (gwei(self.market.base()), gwei(self.market.cap()));
        let detail = format!(
            "the chain's base fee is {base} gwei, above max_fee_per_gas_gwei = {cap}; raise it if the \
             chain is that dear, or wait"
        );
        Hold::new(HoldReason::FeeCap, detail)
    }

    /// Names the amount, so that an operator sees whether it is plausible.
    pub(super) fn no_funds_hold(&self, slot: &Slot) -> Hold {
        let cost = cost_of(slot.current()).map_or_else(String::new, |(fees, gas)| {
            let most = U256::from(fees.max).saturating_mul(U256::from(gas));
            let (most, fee) = (format_ether(most), gwei(fees.max));
            format!(" ({gas} gas for at most {fee} gwei each: it has to have {most})")
        });
        let wallet = self.sender;
        let detail = format!(
            "wallet {wallet} cannot pay for gas{cost}; send it funds, nothing else is needed"
        );
        Hold::new(HoldReason::NoFunds, detail)
    }
}

fn gwei(wei: u128) -> String {
    let text = format_units(wei, "gwei").unwrap_or_else(|_| format!("{wei} wei/1e9"));
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() { "0".to_owned() } else { text.to_owned() }
}
