//! Sends open transactions, and reacts to how the nodes answer.

use std::time::Duration;

use tokio::time::Instant;

use super::{AHEAD, Book, Effect};
use crate::{
    domain::{B256, Hold, HoldReason},
    gateway::{
        lane::{Notice, news::News, slot::Answer},
        provider::{RpcError, Sent, quirks},
    },
};

/// Broadcasts in flight at the same time.
const BROADCASTING_AT_ONCE: usize = 256;
/// Above this number of open nonces, and for [`CROWDED_FOR`] after, broadcasts do not wait for their
/// receipt: a node searches every block for each waiting call, while one count and batches of receipts
/// give the same result for less.
const CROWD: usize = 64;
const CROWDED_FOR: Duration = Duration::from_secs(2);
/// The caller is notified after this many unknown refusals in a row.
const SAID_AFTER: u32 = 5;

impl Book {
    /// The result of a broadcast. `dice`: random, 0 to 1, for the pause before the next one.
    pub fn answered(
        &mut self,
        nonce: u64,
        hash: B256,
        result: Result<Sent, RpcError>,
        now: Instant,
        dice: f64,
    ) {
        self.broadcasting -= 1;
        let newest = self.newest();
        let Some(slot) = self.open.get_mut(&nonce) else { return };
        slot.landed_flight();
        let (error, refusal) = match result {
            // A receipt in a block far above the head proves nothing: the next query of the chain
            // decides.
            Ok(Sent::Mined(receipt)) if receipt.block.number > newest.saturating_add(AHEAD) => {
                (None, quirks::Refusal::AlreadyKnown)
            }
            Ok(Sent::Mined(receipt)) => {
                if slot.versions().iter().any(|version| version.hash == receipt.hash) {
                    return self.land(nonce, &receipt, now);
                }
                (None, quirks::Refusal::AlreadyKnown)
            }
            Ok(Sent::Accepted) => (None, quirks::Refusal::AlreadyKnown),
            Err(error) => {
                let refusal = match &error {
                    RpcError::Refused { code, message, .. } => quirks::refusal(*code, message),
                    RpcError::Unavailable { .. }
                    | RpcError::WrongChain { .. }
                    | RpcError::WrongGenesis { .. }
                    | RpcError::Unreadable { .. }
                    | RpcError::Busy { .. }
                    | RpcError::TooLarge { .. } => quirks::Refusal::Unknown,
                };
                (Some(error), refusal)
            }
        };
        if slot.current().hash != hash {
            slot.doubt();
            return;
        }
        let (answer, is_news) = slot.answered(error.as_ref(), refusal, now, dice);
        if let Some(error) = error.as_ref().filter(|_| is_news) {
            self.tell(News::NotAccepted { nonce, transaction: hash, error: error.clone() });
        }
        self.follow(nonce, answer, refusal, error.as_ref(), now);
    }

    fn follow(
        &mut self,
        nonce: u64,
        answer: Answer,
        refusal: quirks::Refusal,
        error: Option<&RpcError>,
        now: Instant,
    ) {
        let Some(slot) = self.open.get(&nonce) else { return };
        let (request, hash) = (slot.current().request, slot.current().hash);
        match answer {
            Answer::Accepted => {
                self.still_since = Some(now);
                self.notify(request, Notice::Broadcast { transaction: hash });
                self.wake_behind(nonce, now);
            }
            Answer::StillThere => {}
            Answer::Used => self.look_again = true,
            Answer::Again => {
                if let Some(error @ RpcError::Refused { .. }) = error
                    && refusal == quirks::Refusal::Unknown
                    && slot.attempts() == SAID_AFTER
                {
                    let what = format!("the node does not take the transaction: {error}");
                    let hold = Hold::new(HoldReason::ContractRejected, what);
                    self.notify(request, Notice::Waiting(hold));
                }
            }
            Answer::NoFunds if self.is_dear(slot) => self.sign_anew(&[nonce]),
            Answer::NoFunds => {
                let hold = self.no_funds_hold(slot);
                self.notify(request, Notice::Waiting(hold));
            }
            Answer::TooCheap => self.raise_fee(nonce, 1),
            Answer::Rejected if self.is_odd(slot) => self.sign_anew(&[nonce]),
            Answer::Rejected => {
                if let Some(error) = error {
                    self.reject(nonce, refusal, error, now);
                }
            }
        }
    }

    pub(super) fn broadcast(&mut self, now: Instant) {
        // The nonce the chain executes next, if other open nonces wait behind it.
        let mut ahead = self.open.range(self.belief.count()..).map(|(nonce, _)| *nonce);
        let first = ahead.next().filter(|_| ahead.next().is_some());
        let mut room = BROADCASTING_AT_ONCE.saturating_sub(self.broadcasting);
        if self.open.len() > CROWD {
            self.crowded_until = now + CROWDED_FOR;
        }
        for (nonce, slot) in &mut self.open {
            let is_first = Some(*nonce) == first;
            // It may have to be replaced by cheaper bytes before it is sent.
            if slot.unchecked {
                continue;
            }
            // The nonce that all others wait behind is sent even when no broadcast is free.
            if room == 0 && !is_first {
                break;
            }
            if slot.is_due(is_first, now) {
                room = room.saturating_sub(1);
                self.broadcasting += 1;
                let waits = slot.send(now) && now >= self.crowded_until;
                let transaction = slot.current().clone();
                self.effects.push(Effect::Broadcast { transaction, waits });
            }
        }
    }
}
