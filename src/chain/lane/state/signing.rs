//! From a waiting payload to an open transaction: assigns nonces, and takes in what was signed and recorded.

use tokio::time::Instant;

use super::{Effect, LaneState, endings::rejected_error};
use crate::{
    chain::{
        lane::{
            GiveUpReason, SignedTransaction, SubmitError, events::LaneEvent, nonce_slot::NonceSlot,
            unsigned::UnsignedTransaction,
        },
        wallet::WalletError,
    },
    domain::{Remedy, RequestKey},
};

impl LaneState {
    /// The signed transactions have to be recorded; the failed drafts free their nonces. `dice`: random,
    /// 0 to 1, for the pause after a failure.
    pub fn apply_signed(
        &mut self,
        signed: Vec<SignedTransaction>,
        failed: Vec<(UnsignedTransaction, WalletError)>,
        now: Instant,
        dice: f64,
    ) {
        for (draft, error) in failed.into_iter().rev() {
            let nonce = draft.nonce();
            if draft.is_replacement {
                self.replacements -= 1;
                self.sign_after = now + self.sign_pause.next_delay(dice);
                if let Some(slot) = self.open.get_mut(&nonce) {
                    slot.is_replacing = false;
                }
                continue;
            }
            self.signing.remove(&nonce);
            self.nonces.give_back(nonce, now);
            let Some(key) = draft.request else { continue };
            match error.remedy() {
                Remedy::Retry => {
                    self.log(LaneEvent::NotSigned { request: key, error });
                    self.requeue(key);
                    self.sign_after = now + self.sign_pause.next_delay(dice);
                }
                Remedy::Hold(hold) => self.fail(key, SubmitError::Held(hold)),
                Remedy::Refuse(refusal) => self.fail(key, rejected_error(refusal.to_string())),
            }
        }
        if !signed.is_empty() {
            self.sign_pause.reset();
        }
        // The nonce of a late one ended meanwhile: it is not recorded.
        let (signed, late): (Vec<_>, Vec<_>) =
            signed.into_iter().partition(|transaction| self.is_expected(transaction));
        self.replacements = self.replacements.saturating_sub(late.len());
        if !signed.is_empty() {
            self.effects.push(Effect::Record(signed));
        }
    }

    /// These are recorded, so they may be broadcast.
    pub fn apply_recorded(&mut self, transactions: Vec<SignedTransaction>, now: Instant) {
        for transaction in transactions {
            let has_place = self.is_expected(&transaction);
            if !self.signing.remove(&transaction.nonce) {
                self.replacements = self.replacements.saturating_sub(1);
            }
            if has_place {
                self.open_slot(transaction, now);
            } else {
                self.effects.push(Effect::GiveUp(vec![transaction.id()], GiveUpReason::Rejected));
            }
        }
    }

    /// Whether the transaction's nonce is still reserved for it or open.
    fn is_expected(&self, transaction: &SignedTransaction) -> bool {
        self.signing.contains(&transaction.nonce) || self.open.contains_key(&transaction.nonce)
    }

    /// Opens a slot for a recorded transaction, or adds it to the slot of its nonce.
    pub(super) fn open_slot(&mut self, transaction: SignedTransaction, now: Instant) {
        if let Some(key) = transaction.request {
            self.by_request.insert(key, transaction.nonce);
        }
        let nonce = transaction.nonce;
        if let Some(slot) = self.open.get_mut(&nonce) {
            return slot.replace(transaction, now);
        }
        // A node may still have transactions that were given up under this nonce.
        let stranded = self.stranded.remove(&nonce).unwrap_or_default();
        let mut versions = stranded.into_iter().chain([transaction]);
        let Some(first) = versions.next() else { return };
        let mut slot = NonceSlot::new(first, now);
        for version in versions {
            slot.replace(version, now);
            slot.mark_maybe_accepted();
        }
        self.open.insert(nonce, slot);
    }

    pub(super) fn assign_nonces(&mut self, wanted: impl Fn(RequestKey) -> bool, now: Instant) {
        // One batch at a time, so that broadcasts happen in nonce order.
        if !self.signing.is_empty() || self.replacements > 0 || now < self.sign_after {
            return;
        }
        // Fees are unknown until the first head and tip.
        if !self.fee_market.is_known() {
            return;
        }
        // Holes are filled even when the lane is full, because open transactions wait behind them.
        // Callers learn that the chain is too expensive even when the lane is full.
        let is_full = self.open.len() >= self.options.max_in_flight && !self.nonces.has_holes();
        if is_full && self.fees().is_some() {
            self.announced = (None, 0);
            return;
        }
        // A payload without a caller (its walk was stopped) is dropped; the next walk submits it again.
        let all = std::mem::take(&mut self.waiting);
        for payload in all {
            if wanted(payload.request) {
                self.waiting.push_back(payload);
            } else {
                self.fail(payload.request, SubmitError::Stopped);
            }
        }
        let elsewhere = self.count_belief.used_elsewhere(now);
        if let Some(nonces) = elsewhere {
            self.notify_waiting(&self.elsewhere_hold(nonces));
        }
        let fills = self.waiting.is_empty() || elsewhere.is_some();
        let overdue = fills && self.should_fill(now);
        if !overdue && (self.waiting.is_empty() || elsewhere.is_some()) {
            return;
        }
        let Some(fees) = self.fees() else {
            self.notify_waiting(&self.fee_hold());
            return;
        };
        let chain_id = self.options.chain_id;
        let mut drafts = Vec::new();
        if overdue {
            let nonce = self.nonces.take();
            self.log(LaneEvent::FillsHole { nonce });
            self.noops.spend(now);
            drafts.push(UnsignedTransaction::noop(self.noop(), nonce, fees));
        }
        while elsewhere.is_none()
            && (self.open.len() + drafts.len() < self.options.max_in_flight
                || self.nonces.has_holes())
        {
            self.announced = (None, 0);
            let Some(payload) = self.waiting.pop_front() else { break };
            let nonce = self.nonces.take();
            drafts.push(UnsignedTransaction::from_payload(chain_id, nonce, fees, &payload));
        }
        self.signing.extend(drafts.iter().map(UnsignedTransaction::nonce));
        self.sign(drafts);
    }

    pub(super) fn sign(&mut self, drafts: Vec<UnsignedTransaction>) {
        if !drafts.is_empty() {
            self.effects.push(Effect::Sign(drafts));
        }
    }
}
