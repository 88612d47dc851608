//! How a nonce ends or starts again: mined, displaced, rejected, or replaced by other bytes. And what
//! the waiting callers are told.

use tokio::time::Instant;

use super::{Effect, LaneState, fees::MOST_FEE_MULTIPLE};
use crate::{
    chain::{
        lane::{
            GiveUpReason, Inclusion, MinedTransaction, SignedTransaction, SubmissionUpdate,
            SubmitError, TransactionId,
            confirmations::Unconfirmed,
            events::LaneEvent,
            fee_market::Bump,
            unsigned::{Noop, UnsignedTransaction, fees_and_gas_of, gas_limit_of},
        },
        quirks,
        reader::Receipt,
        rpc_error::RpcError,
    },
    domain::{Hold, HoldReason, RequestKey},
    telemetry::metrics::Mined,
};

impl LaneState {
    /// Every node rejected these bytes: the nonce is free again, unless an earlier broadcast may have
    /// been accepted.
    pub(super) fn reject(
        &mut self,
        nonce: u64,
        refusal: quirks::PoolError,
        error: &RpcError,
        now: Instant,
    ) {
        if self.open.get(&nonce).is_some_and(|slot| !slot.is_surely_rejected()) {
            self.replace_by_noop(nonce);
            return;
        }
        let Some(slot) = self.open.remove(&nonce) else { return };
        self.nonces.give_back(nonce, now);
        let current = slot.current().request;
        let versions = slot.into_versions();
        let ids = versions.iter().map(SignedTransaction::id).collect();
        self.effects.push(Effect::GiveUp(ids, GiveUpReason::Rejected));
        for other in versions.iter().filter_map(|version| version.request) {
            if self.by_request.get(&other) == Some(&nonce) {
                self.by_request.remove(&other);
                if Some(other) != current {
                    self.requeue(other);
                }
            }
        }
        let Some(key) = current else { return };
        let error = if refusal == quirks::PoolError::Reverted {
            SubmitError::WouldRevert { data: error.revert_data().unwrap_or_default() }
        } else {
            SubmitError::NotTaken(error.clone())
        };
        self.fail(key, error);
    }

    /// An earlier broadcast of these bytes may have been accepted. A no-op is sent under the same nonce;
    /// the payload gets a new nonce only after one of the two is mined.
    pub(super) fn replace_by_noop(&mut self, nonce: u64) {
        let Some(fees) = self.fees() else { return };
        let noop = self.noop();
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        if slot.current().request.is_none() || slot.is_replacing {
            return;
        }
        let draft = if self.options.kind.mempool().is_some() {
            let signed = fees_and_gas_of(slot.current()).map(|(fees, _)| fees);
            let Some(Bump::To(fees)) = signed.map(|signed| self.fee_market.bump(signed)) else {
                return;
            };
            UnsignedTransaction::noop_with_fees(slot.current(), noop, fees)
        } else {
            let most = fees.max.saturating_mul(MOST_FEE_MULTIPLE).min(self.fee_market.cap());
            UnsignedTransaction::noop_replacing(slot.current(), noop, (fees, most))
        };
        slot.is_replacing = true;
        self.replacements += 1;
        self.log(LaneEvent::NoopInstead { nonce });
        self.sign(vec![draft]);
    }

    /// Transactions that were refused because this nonce was missing are sent again at once.
    pub(super) fn wake_behind(&mut self, nonce: u64, now: Instant) {
        for (_, slot) in self.open.range_mut(nonce + 1..) {
            slot.retry_now(now);
        }
    }

    pub(super) fn mark_mined(&mut self, nonce: u64, receipt: &Receipt, now: Instant) {
        let Some(slot) = self.open.remove(&nonce) else { return };
        self.stalled_since = Some(now);
        let used = nonce.saturating_add(1);
        self.count_belief.raise_to(used);
        let foreign = self.apply_count(used);
        if foreign > 0 {
            self.count_belief.record_foreign(foreign, now);
        }
        self.conclude(nonce, &slot.into_versions(), receipt, now);
    }

    /// A nonce that was counted as displaced was ours after all.
    pub(super) fn reclaim(&mut self, nonce: u64, receipt: &Receipt, now: Instant) {
        if self.open.contains_key(&nonce) {
            return;
        }
        let Some((_, versions)) = self.displaced.remove(&nonce) else { return };
        self.count_belief.unrecord_foreign();
        let mined = versions.iter().find(|version| version.hash == receipt.hash);
        let request = mined.and_then(|version| version.request);
        self.log(LaneEvent::MinedAfterAll { nonce, transaction: receipt.hash });
        self.waiting.retain(|payload| Some(payload.request) != request);
        self.conclude(nonce, &versions, receipt, now);
    }

    /// What the lane's no-ops have in common.
    pub(super) fn noop(&self) -> Noop {
        let gas_limit = self.options.kind.noop_gas();
        Noop { chain_id: self.options.chain_id, sender: self.sender, gas_limit }
    }

    /// One of the versions of a nonce is mined. That ends their submissions now, or once its block is deep
    /// enough.
    fn conclude(
        &mut self,
        nonce: u64,
        versions: &[SignedTransaction],
        receipt: &Receipt,
        now: Instant,
    ) {
        let Receipt { success, gas_used, gas_price, .. } = *receipt;
        self.tally.mined.push(Mined { success, gas_used, gas_price });
        let id = TransactionId { nonce, hash: receipt.hash };
        self.effects.push(Effect::Mined(id, receipt.block));
        self.mined_window.add(MinedTransaction { nonce, hash: receipt.hash, block: receipt.block });
        self.wake_behind(nonce, now);
        if self.confirmations.are_required() {
            self.confirmations.add(nonce, versions.to_vec(), receipt.clone());
        } else {
            self.end_submissions(nonce, versions, receipt);
        }
    }

    /// The block of a mined transaction is deep enough.
    pub(super) fn confirm(&mut self, nonce: u64, Unconfirmed { versions, receipt }: &Unconfirmed) {
        self.end_submissions(nonce, versions, receipt);
    }

    /// Tells the callers of a used nonce: one of its versions is mined for good, and what other versions
    /// carried gets another nonce.
    fn end_submissions(&mut self, nonce: u64, versions: &[SignedTransaction], receipt: &Receipt) {
        let mined = versions.iter().find(|version| version.hash == receipt.hash);
        let landed = mined.and_then(|version| version.request);
        for version in versions {
            let Some(key) = version.request else { continue };
            if self.by_request.get(&key) == Some(&nonce) {
                self.by_request.remove(&key);
            }
            if version.hash == receipt.hash {
                self.payloads.remove(&key);
                let landing = Inclusion {
                    transaction: receipt.hash,
                    block: receipt.block,
                    success: receipt.success,
                    gas_used: receipt.gas_used,
                    gas_limit: gas_limit_of(version),
                };
                self.effects.push(Effect::NotifyIncluded(key, landing));
            } else if landed != Some(key)
                && !self.unclaimed_inclusions.contains_key(&key)
                && !self.by_request.contains_key(&key)
            {
                // Other bytes used its nonce. Only now may it get a new one.
                self.requeue(key);
            }
        }
    }

    /// A transaction that is not ours used the nonce.
    pub(super) fn displace(&mut self, nonce: u64, now: Instant) {
        let Some(slot) = self.open.remove(&nonce) else { return };
        self.count_belief.record_foreign(1, now);
        self.tally.foreign += 1;
        self.log(LaneEvent::Displaced { nonce, transaction: slot.current().hash });
        let versions = slot.into_versions();
        let ids = versions.iter().map(SignedTransaction::id).collect();
        self.effects.push(Effect::GiveUp(ids, GiveUpReason::Displaced));
        for key in versions.iter().filter_map(|version| version.request) {
            if self.by_request.get(&key) == Some(&nonce) {
                self.by_request.remove(&key);
                self.requeue(key);
            }
        }
        self.displaced.insert(nonce, (now, versions));
    }

    /// Puts the payload back at the front of the queue if a caller waits for it. Once, even if several
    /// versions of it were displaced.
    pub(super) fn requeue(&mut self, key: RequestKey) {
        if self.waiting.iter().any(|payload| payload.request == key) {
            return;
        }
        if let Some(payload) = self.payloads.get(&key) {
            self.waiting.push_front(payload.clone());
        }
    }

    pub(super) fn fail(&mut self, key: RequestKey, error: SubmitError) {
        self.payloads.remove(&key);
        self.effects.push(Effect::NotifyFailed(key, error));
    }

    pub(super) fn notify(&mut self, request: Option<RequestKey>, notice: SubmissionUpdate) {
        if let Some(key) = request {
            self.effects.push(Effect::Notify(key, notice));
        }
    }

    pub(super) fn elsewhere_hold(&self, nonces: u64) -> Hold {
        let sender = self.sender;
        Hold::new(
            HoldReason::WalletUsedElsewhere,
            format!(
                "another program sends from wallet {sender}: {nonces} of its nonces were used by \
                 transactions that the journal does not know; stop that program, then restart the \
                 instance; without a restart it continues after ten minutes without such \
                 transactions"
            ),
        )
    }

    /// Notifies every caller without a nonce, once per reason.
    pub(super) fn notify_waiting(&mut self, hold: &Hold) {
        let (reason, notified) =
            std::mem::replace(&mut self.announced, (Some(hold.reason), self.waiting.len()));
        let notified = if reason == Some(hold.reason) { notified } else { 0 };
        if notified >= self.waiting.len() {
            return;
        }
        self.log(LaneEvent::AnswersWait(hold.clone()));
        for payload in self.waiting.iter().skip(notified) {
            let notice = SubmissionUpdate::Waiting(hold.clone());
            self.effects.push(Effect::Notify(payload.request, notice));
        }
    }
}

pub(super) fn rejected_error(why: String) -> SubmitError {
    SubmitError::Held(Hold::new(HoldReason::ContractRejected, why))
}
