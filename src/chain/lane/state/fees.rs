//! What transactions pay: more if they are passed over in a pool, less if they were signed for more than
//! the chain asks now. And what the waiting callers are told.

use alloy::primitives::utils::{format_ether, format_units};
use tokio::time::Instant;

use super::{Effect, LaneState};
use crate::{
    chain::lane::{
        SubmissionUpdate,
        events::LaneEvent,
        fee_market::{Bump, Fees},
        nonce_slot::NonceSlot,
        unsigned::{UnsignedTransaction, fees_and_gas_of, is_too_much_gas},
    },
    domain::{Hold, HoldReason, U256},
};

/// A fee bump of a starving transaction pays at most this many times what a new transaction pays.
pub(super) const MOST_FEE_MULTIPLE: u128 = 3;

impl LaneState {
    /// Fees of a transaction that is signed now. `None`: nothing is signed, because the chain costs more
    /// than the cap or there is no key.
    pub(super) fn fees(&self) -> Option<Fees> {
        if self.is_draining() { None } else { self.fee_market.fees() }
    }

    /// Replaces a transaction by the same payload with a higher fee, up to `times` what a new
    /// transaction pays.
    pub(super) fn raise_fee(&mut self, nonce: u64, times: u128) {
        let (fees, cap) = (self.fees(), self.fee_market.cap());
        let Some(slot) = self.open.get_mut(&nonce).filter(|slot| !slot.is_replacing) else {
            return;
        };
        let draft =
            fees.and_then(|fees| UnsignedTransaction::fee_bump(slot.current(), fees, times, cap));
        if let Some(draft) = draft {
            slot.is_replacing = true;
            self.replacements += 1;
            self.effects.push(Effect::Sign(vec![draft]));
        } else if fees.is_none_or(|fees| fees.max >= cap) {
            let request = slot.current().request;
            self.notify(request, SubmissionUpdate::Waiting(self.fee_hold()));
        }
    }

    /// Raises the fee of the lowest nonce if it has been in a pool for long: others may pay more.
    pub(super) fn raise_starving(&mut self, now: Instant) {
        if self.options.kind.mempool().is_some() {
            return;
        }
        let Some((nonce, slot)) = self.open.iter_mut().next() else { return };
        if *nonce != self.count_belief.count() || !slot.is_starving(now) {
            return;
        }
        slot.restart_starvation(now);
        let nonce = *nonce;
        self.log(LaneEvent::FeeRaised { nonce });
        self.raise_fee(nonce, MOST_FEE_MULTIPLE);
    }

    /// Replaces what the pools pass over: transactions whose maximum the base fee has outgrown, and the one
    /// that the chain executes next if it has waited for too many blocks. Nothing happens where there are no
    /// pools.
    pub(super) fn raise_passed_over(&mut self, now: Instant) {
        let Some(rules) = self.options.kind.mempool() else { return };
        if self.is_draining() || !self.fee_market.is_known() || now < self.sign_after {
            return;
        }
        // Whatever is mined in the newest block is known first: many heads may come at once.
        if self.has_news || self.query_under_way.is_some() {
            return;
        }
        let (newest, next) = (self.newest_position(), self.count_belief.count());
        let mut drafts = Vec::new();
        let mut news = Vec::new();
        let mut dear = Vec::new();
        for (nonce, slot) in &mut self.open {
            if slot.is_replacing || *nonce < next {
                continue;
            }
            let Some((signed, _)) = fees_and_gas_of(slot.current()) else { continue };
            let has_outgrown = self.fee_market.has_outgrown(signed);
            let is_passed_over =
                *nonce == next && slot.is_passed_over(rules.unmined_blocks, newest);
            if !has_outgrown && std::mem::take(&mut slot.is_cap_told) && slot.is_accepted() {
                let transaction = slot.current().hash;
                news.extend(slot.current().request.map(|request| {
                    Effect::Notify(request, SubmissionUpdate::Broadcast { transaction })
                }));
            }
            if !has_outgrown && !is_passed_over {
                continue;
            }
            match self.fee_market.bump(signed) {
                Bump::To(fees) => {
                    let draft = UnsignedTransaction::with_fees(slot.current(), fees);
                    slot.is_replacing |= draft.is_some();
                    drafts.extend(draft);
                }
                // It waits for the base fee to fall.
                Bump::AboveCap if has_outgrown => {
                    if !std::mem::replace(&mut slot.is_cap_told, true) {
                        dear.extend(slot.current().request);
                    }
                }
                Bump::AboveCap | Bump::Enough => slot.restart_waiting(newest),
            }
        }
        self.effects.extend(news);
        if !dear.is_empty() {
            let hold = self.fee_hold();
            self.log(LaneEvent::AnswersWait(hold.clone()));
            for request in dear {
                self.notify(Some(request), SubmissionUpdate::Waiting(hold.clone()));
            }
        }
        for draft in &drafts {
            self.effects.push(Effect::Log(LaneEvent::FeeRaised { nonce: draft.nonce() }));
        }
        self.replacements += drafts.len();
        self.sign(drafts);
    }

    /// Whether a transaction may be replaced by a cheaper one: not where a pool may have it, which would
    /// refuse that.
    pub(super) fn may_reprice(&self, slot: &NonceSlot) -> bool {
        self.options.kind.mempool().is_none() || slot.is_surely_rejected()
    }

    /// Whether a transaction asks for more than would be signed now: excessive fees, or more gas than
    /// any answer needs.
    pub(super) fn is_excessive(&self, slot: &NonceSlot) -> bool {
        let current = slot.current();
        let absurd =
            fees_and_gas_of(current).is_some_and(|(fees, _)| self.fee_market.is_excessive(fees));
        absurd || is_too_much_gas(current)
    }

    /// Whether it asks for more than twice the present fees: the wallet may be able to pay for a cheaper
    /// one.
    pub(super) fn is_overpriced(&self, slot: &NonceSlot) -> bool {
        let (Some(fees), Some((signed, _))) = (self.fees(), fees_and_gas_of(slot.current())) else {
            return false;
        };
        signed.max > fees.max.saturating_mul(2) || self.is_excessive(slot)
    }

    /// Signs the same payloads again under the same nonces at present fees. Either version may be mined:
    /// both carry the same answer. A node that has the old one may keep it.
    pub(super) fn reprice(&mut self, nonces: &[u64]) {
        let Some(fees) = self.fees() else {
            let hold = self.fee_hold();
            for request in nonces.iter().filter_map(|nonce| self.open.get(nonce)?.current().request)
            {
                self.effects.push(Effect::Notify(request, SubmissionUpdate::Waiting(hold.clone())));
            }
            return;
        };
        let mut drafts = Vec::new();
        for nonce in nonces {
            let Some(slot) = self.open.get_mut(nonce).filter(|slot| !slot.is_replacing) else {
                continue;
            };
            let Some(draft) = UnsignedTransaction::repriced(
                slot.current(),
                fees,
                self.fee_market.block_gas_limit(),
            ) else {
                continue;
            };
            slot.is_replacing = true;
            drafts.push(draft);
        }
        if !drafts.is_empty() {
            self.log(LaneEvent::ExcessiveRepriced { transactions: drafts.len() });
        }
        self.replacements += drafts.len();
        self.sign(drafts);
    }

    /// Checks the fees of transactions from an earlier run before they are sent.
    pub(super) fn check_recovered(&mut self, now: Instant) {
        if !self.fee_market.is_known() || now < self.sign_after {
            return;
        }
        let unchecked =
            self.open.iter().filter(|(_, slot)| slot.is_unchecked && !slot.is_replacing);
        let (odd, fine): (Vec<_>, Vec<_>) =
            unchecked.partition(|(_, slot)| self.is_excessive(slot));
        let nonces =
            |of: Vec<(&u64, &NonceSlot)>| of.into_iter().map(|(nonce, _)| *nonce).collect();
        let (odd, fine): (Vec<u64>, Vec<u64>) = (nonces(odd), nonces(fine));
        for nonce in fine {
            if let Some(slot) = self.open.get_mut(&nonce) {
                slot.is_unchecked = false;
            }
        }
        if !odd.is_empty() {
            self.reprice(&odd);
        }
    }

    pub(super) fn fee_hold(&self) -> Hold {
        let (base, cap) = (gwei(self.fee_market.base()), gwei(self.fee_market.cap()));
        let key = self.options.kind.fee_cap_key();
        let chain_id = self.options.chain_id;
        let detail = format!(
            "the base fee of chain {chain_id} is {base} gwei, above {key} = {cap}; raise it if the chain is \
             that dear, or wait"
        );
        Hold::new(HoldReason::FeeCap, detail)
    }

    /// Names the amount, so that an operator sees whether it is plausible.
    pub(super) fn no_funds_hold(&self, slot: &NonceSlot) -> Hold {
        let cost = fees_and_gas_of(slot.current()).map_or_else(String::new, |(fees, gas)| {
            let most = U256::from(fees.max).saturating_mul(U256::from(gas));
            let (most, fee) = (format_ether(most), gwei(fees.max));
            format!(" ({gas} gas for at most {fee} gwei each: it has to have {most})")
        });
        let (wallet, chain_id) = (self.sender, self.options.chain_id);
        let detail = format!(
            "wallet {wallet} cannot pay for gas on chain {chain_id}{cost}; send it funds there, nothing else \
             is needed"
        );
        Hold::new(HoldReason::NoFunds, detail)
    }
}

fn gwei(wei: u128) -> String {
    let text = format_units(wei, "gwei").unwrap_or_else(|_| format!("{wei} wei/1e9"));
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text.is_empty() { "0".to_owned() } else { text.to_owned() }
}
