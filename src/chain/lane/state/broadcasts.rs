//! Sends open transactions, and reacts to how the nodes answer.

use std::time::Duration;

use tokio::time::Instant;

use super::{Effect, LaneState, MOST_AHEAD};
use crate::{
    chain::{
        lane::{SubmissionUpdate, events::LaneEvent, nonce_slot::BroadcastStatus},
        quirks,
        rpc_error::RpcError,
        sender::Acceptance,
    },
    domain::{B256, Hold, HoldReason},
};

/// Broadcasts in flight at the same time.
const BROADCASTING_AT_ONCE: usize = 256;
/// Above this number of open nonces, and for [`CROWDED_FOR`] after, broadcasts do not wait for their
/// receipt: a node searches every block for each waiting call, while one count and batches of receipts
/// give the same result for less.
const CROWDED_ABOVE: usize = 64;
const CROWDED_FOR: Duration = Duration::from_secs(2);
/// The caller is notified after this many unknown refusals in a row.
const NOTIFIED_AFTER: u32 = 5;

impl LaneState {
    /// The result of a broadcast. `dice`: random, 0 to 1, for the pause before the next one.
    pub fn apply_broadcast(
        &mut self,
        nonce: u64,
        hash: B256,
        result: Result<Acceptance, RpcError>,
        now: Instant,
        dice: f64,
    ) {
        self.broadcasting -= 1;
        let newest = self.newest_position();
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        slot.end_broadcast();
        let (error, refusal) = match result {
            // A receipt in a block far above the head proves nothing: the next query of the chain
            // decides.
            Ok(Acceptance::Mined(receipt))
                if receipt.block.number > newest.saturating_add(MOST_AHEAD) =>
            {
                (None, quirks::PoolError::AlreadyKnown)
            }
            Ok(Acceptance::Mined(receipt)) => {
                if slot.versions().iter().any(|version| version.hash == receipt.hash) {
                    return self.mark_mined(nonce, &receipt, now);
                }
                (None, quirks::PoolError::AlreadyKnown)
            }
            Ok(Acceptance::Accepted) => (None, quirks::PoolError::AlreadyKnown),
            Err(error) => {
                let refusal = match &error {
                    RpcError::Refused { code, message, .. } => quirks::pool_error(*code, message),
                    RpcError::Unavailable { .. }
                    | RpcError::WrongChain { .. }
                    | RpcError::WrongGenesis { .. }
                    | RpcError::Unreadable { .. }
                    | RpcError::RateLimited { .. }
                    | RpcError::TooLarge { .. } => quirks::PoolError::Unknown,
                };
                (Some(error), refusal)
            }
        };
        if slot.current().hash != hash {
            slot.mark_maybe_accepted();
            return;
        }
        let pools = self.options.kind.mempool().map(|_| newest);
        let (answer, is_news) = slot.apply_broadcast(error.as_ref(), refusal, pools, now, dice);
        if let Some(error) = error.as_ref().filter(|_| is_news) {
            self.log(LaneEvent::NotAccepted { nonce, transaction: hash, error: error.clone() });
        }
        self.react(nonce, answer, refusal, error.as_ref(), now);
    }

    fn react(
        &mut self,
        nonce: u64,
        answer: BroadcastStatus,
        refusal: quirks::PoolError,
        error: Option<&RpcError>,
        now: Instant,
    ) {
        let Some(slot) = self.open.get(&nonce) else { return };
        let (request, hash) = (slot.current().request, slot.current().hash);
        match answer {
            BroadcastStatus::Accepted => {
                self.stalled_since = Some(now);
                self.notify(request, SubmissionUpdate::Broadcast { transaction: hash });
                self.wake_behind(nonce, now);
            }
            BroadcastStatus::AlreadyAccepted => {}
            BroadcastStatus::NonceUsed => self.has_news = true,
            BroadcastStatus::RetryLater => {
                if let Some(error @ RpcError::Refused { .. }) = error
                    && refusal == quirks::PoolError::Unknown
                    && slot.attempts() == NOTIFIED_AFTER
                {
                    let what = format!("the node does not take the transaction: {error}");
                    let hold = Hold::new(HoldReason::ContractRejected, what);
                    self.notify(request, SubmissionUpdate::Waiting(hold));
                }
            }
            BroadcastStatus::NoFunds if self.is_overpriced(slot) && self.may_reprice(slot) => {
                self.reprice(&[nonce]);
            }
            BroadcastStatus::NoFunds => {
                let hold = self.no_funds_hold(slot);
                self.notify(request, SubmissionUpdate::Waiting(hold));
            }
            // Where there are pools, the believed base fee decides.
            BroadcastStatus::FeeTooLow if self.options.kind.mempool().is_some() => {}
            BroadcastStatus::FeeTooLow => self.raise_fee(nonce, 1),
            BroadcastStatus::Rejected if self.is_excessive(slot) && self.may_reprice(slot) => {
                self.reprice(&[nonce]);
            }
            BroadcastStatus::Rejected => {
                if let Some(error) = error {
                    self.reject(nonce, refusal, error, now);
                }
            }
        }
    }

    pub(super) fn broadcast_due(&mut self, now: Instant) {
        // The nonce the chain executes next, if other open nonces wait behind it.
        let mut ahead = self.open.range(self.count_belief.count()..).map(|(nonce, _)| *nonce);
        let first = ahead.next().filter(|_| ahead.next().is_some());
        let mut room = BROADCASTING_AT_ONCE.saturating_sub(self.broadcasting);
        if self.open.len() > CROWDED_ABOVE {
            self.crowded_until = now + CROWDED_FOR;
        }
        for (nonce, slot) in &mut self.open {
            let is_first = Some(*nonce) == first;
            // It may have to be replaced by cheaper bytes before it is sent.
            if slot.is_unchecked {
                continue;
            }
            // The nonce that all others wait behind is sent even when no broadcast is free.
            if room == 0 && !is_first {
                break;
            }
            if slot.is_due(is_first, now) {
                room = room.saturating_sub(1);
                self.broadcasting += 1;
                // Where there are pools, a block takes longer than any node waits.
                let waits = slot.begin_broadcast(now)
                    && now >= self.crowded_until
                    && self.options.kind.mempool().is_none();
                let transaction = slot.current().clone();
                self.effects.push(Effect::Broadcast { transaction, awaits_receipt: waits });
            }
        }
    }
}
