//! One taken nonce: its recorded bytes, when they are broadcast, and what the answer means. Pure.
//!
//! ```text
//! new --sent--> in flight --accepted--> waits to be mined --not mined--> sent again
//!                   │ refused, or no answer
//!                   └--> sent again after a pause, replaced, or given up: see `BroadcastStatus`
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::SignedTransaction;
use crate::{
    chain::{quirks::PoolError, rpc_error::RpcError},
    domain::RequestKey,
    time::backoff::Backoff,
};

/// An accepted transaction that is not mined after this time is broadcast again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(3);
/// A broadcast without an answer is repeated beside the first one after this time: a node buffers
/// transactions behind a missing nonce for about a second only.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// Broadcasts of one nonce in flight at the same time.
const MOST_IN_FLIGHT: u8 = 3;
/// The same for the nonce that all others wait behind: one a second until the first one times out.
const MOST_IN_FLIGHT_OF_FIRST: u8 = 10;
/// The nonce that others wait behind is sent again at least this often until it is accepted.
const FIRST_RESENT_AFTER: Duration = Duration::from_secs(1);
/// The fee is raised after this time in a node's pool.
const STARVING_AFTER: Duration = Duration::from_secs(12);

/// Meaning of a broadcast's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BroadcastStatus {
    /// A node has the bytes.
    Accepted,
    /// A node has them and had them before.
    AlreadyAccepted,
    /// The nonce is used; receipts tell by which transaction.
    NonceUsed,
    /// Try again after a pause.
    RetryLater,
    /// The wallet cannot pay.
    NoFunds,
    /// The fee is below what the chain asks.
    FeeTooLow,
    /// Every node proved that it will not take these bytes.
    Rejected,
}

/// One taken nonce.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is known or not by itself")]
pub(super) struct NonceSlot {
    /// Bytes recorded for this nonce, oldest first. The last ones are broadcast.
    versions: Vec<SignedTransaction>,
    due_at: Instant,
    pause: Backoff,
    /// Broadcasts in flight.
    in_flight: u8,
    /// When the last broadcast began.
    sent_at: Option<Instant>,
    /// Since when a node has the current bytes.
    accepted_at: Option<Instant>,
    /// A node reported that the current bytes are in its pool: there is a pool, so fees matter.
    is_pooled: bool,
    /// A node may have one of the versions: then a rejection does not free the nonce.
    maybe_accepted: bool,
    /// A replacement is being signed.
    pub is_replacing: bool,
    /// The fees of its bytes are not checked yet; it is not broadcast before.
    pub is_unchecked: bool,
    /// Since when the chain counts this nonce as used without showing our receipt.
    receipt_missing_since: Option<Instant>,
    /// Where there are pools: the newest block when one first answered to the current bytes, or when their
    /// fee was last found to be high enough.
    pooled_at: Option<u64>,
    /// Its caller was told that a replacement would exceed the cap.
    pub is_cap_told: bool,
    /// The node's present reason to refuse it.
    refusal: Option<PoolError>,
}

impl NonceSlot {
    pub(super) fn new(version: SignedTransaction, now: Instant) -> Self {
        Self {
            versions: vec![version],
            due_at: now,
            pause: Backoff::new(Duration::from_millis(250), Duration::from_secs(15)),
            in_flight: 0,
            sent_at: None,
            accepted_at: None,
            is_pooled: false,
            maybe_accepted: false,
            is_replacing: false,
            is_unchecked: false,
            receipt_missing_since: None,
            pooled_at: None,
            is_cap_told: false,
            refusal: None,
        }
    }

    pub(super) fn current(&self) -> &SignedTransaction {
        // A slot starts with one version and never loses it.
        &self.versions[self.versions.len() - 1]
    }

    pub(super) fn versions(&self) -> &[SignedTransaction] {
        &self.versions
    }

    pub(super) fn into_versions(self) -> Vec<SignedTransaction> {
        self.versions
    }

    /// The newest bytes that carry this request's answer. After a rejection the nonce may have carried
    /// another request's answer before.
    pub(super) fn version_of(&self, request: RequestKey) -> Option<&SignedTransaction> {
        self.versions.iter().rev().find(|version| version.request == Some(request))
    }

    /// Sends these bytes from now on.
    pub(super) fn replace(&mut self, version: SignedTransaction, now: Instant) {
        self.versions.push(version);
        self.due_at = now;
        (self.sent_at, self.accepted_at) = (None, None);
        (self.is_pooled, self.refusal) = (false, None);
        (self.is_replacing, self.is_unchecked) = (false, false);
        (self.pooled_at, self.is_cap_told) = (None, false);
    }

    /// Earlier broadcasts may have been accepted.
    pub(super) fn mark_maybe_accepted(&mut self) {
        self.maybe_accepted = true;
    }

    /// Returns whether a broadcast is due. `first`: other nonces wait behind this one, and this one
    /// waits for none.
    pub(super) fn is_due(&self, first: bool, now: Instant) -> bool {
        let since_sent =
            |patience| self.sent_at.is_none_or(|at| now.saturating_duration_since(at) >= patience);
        if self.in_flight == 0 {
            return self.due_at <= now
                || (first && self.accepted_at.is_none() && since_sent(FIRST_RESENT_AFTER));
        }
        let flights = if first { MOST_IN_FLIGHT_OF_FIRST } else { MOST_IN_FLIGHT };
        self.in_flight < flights && self.accepted_at.is_none() && since_sent(HEDGE_AFTER)
    }

    /// Starts a broadcast. Returns whether these bytes go out for the first time.
    pub(super) fn begin_broadcast(&mut self, now: Instant) -> bool {
        let first = self.sent_at.is_none() && self.versions.len() == 1 && !self.maybe_accepted;
        self.in_flight += 1;
        self.sent_at = Some(now);
        first
    }

    /// Whether a receipt is possible: a node has one of the versions or may have it.
    pub(super) fn may_have_receipt(&self) -> bool {
        self.in_flight == 0 || self.versions.len() > 1
    }

    /// Takes in the answer to a broadcast of the current bytes. The flag says whether the refusal is
    /// new. `pools`: the newest block, where there are pools. `dice`: random, 0 to 1, for the pause.
    pub(super) fn apply_broadcast(
        &mut self,
        error: Option<&RpcError>,
        refusal: PoolError,
        pools: Option<u64>,
        now: Instant,
        dice: f64,
    ) -> (BroadcastStatus, bool) {
        let answer = match pools {
            Some(newest) => self.classify_of_pool(error, refusal, newest, now, dice),
            None => self.classify(error, refusal, now, dice),
        };
        // A used nonce is not a failure: most often the transaction is mined.
        let bad = !matches!(
            answer,
            BroadcastStatus::Accepted
                | BroadcastStatus::AlreadyAccepted
                | BroadcastStatus::NonceUsed
        );
        let news = error.is_some() && bad && self.refusal != Some(refusal);
        if news {
            self.refusal = Some(refusal);
        }
        (answer, news)
    }

    /// A broadcast ended.
    pub(super) fn end_broadcast(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The same where there are pools: what a pool refuses for its price waits, and may be replaced.
    fn classify_of_pool(
        &mut self,
        error: Option<&RpcError>,
        refusal: PoolError,
        newest: u64,
        now: Instant,
        dice: f64,
    ) -> BroadcastStatus {
        match refusal {
            PoolError::Underpriced | PoolError::PoolUnderpriced | PoolError::PoolFull => {
                self.pooled_at.get_or_insert(newest);
                // Some bytes with this nonce are there, most likely an earlier version.
                self.maybe_accepted |= refusal == PoolError::Underpriced;
                self.due_at = now + self.pause.next_delay(dice);
                BroadcastStatus::RetryLater
            }
            PoolError::AlreadyKnown | PoolError::FeeTooLow => {
                self.pooled_at.get_or_insert(newest);
                self.classify(error, refusal, now, dice)
            }
            PoolError::NonceTooLow
            | PoolError::NonceTooHigh
            | PoolError::InsufficientFunds
            | PoolError::Unacceptable
            | PoolError::Reverted
            | PoolError::Unready
            | PoolError::Busy
            | PoolError::Unknown => self.classify(error, refusal, now, dice),
        }
    }

    fn classify(
        &mut self,
        error: Option<&RpcError>,
        refusal: PoolError,
        now: Instant,
        dice: f64,
    ) -> BroadcastStatus {
        match refusal {
            PoolError::AlreadyKnown | PoolError::Underpriced | PoolError::PoolUnderpriced => {
                self.maybe_accepted = true;
                self.is_pooled |= error.is_some();
                self.due_at = now + REBROADCAST_AFTER.max(self.pause.next_delay(dice));
                if self.accepted_at.is_some() {
                    return BroadcastStatus::AlreadyAccepted;
                }
                self.accepted_at = Some(now);
                BroadcastStatus::Accepted
            }
            PoolError::NonceTooLow => {
                self.due_at = now + REBROADCAST_AFTER;
                BroadcastStatus::NonceUsed
            }
            PoolError::Unready | PoolError::Unknown => {
                self.maybe_accepted = true;
                self.due_at = now + self.pause.next_delay(dice);
                BroadcastStatus::RetryLater
            }
            PoolError::NonceTooHigh | PoolError::Busy | PoolError::PoolFull => {
                self.due_at = now + self.pause.next_delay(dice);
                BroadcastStatus::RetryLater
            }
            PoolError::InsufficientFunds => {
                self.due_at = now + self.pause.next_delay(dice).max(Duration::from_secs(1));
                BroadcastStatus::NoFunds
            }
            PoolError::FeeTooLow => {
                self.due_at = now + self.pause.next_delay(dice);
                BroadcastStatus::FeeTooLow
            }
            PoolError::Unacceptable | PoolError::Reverted => {
                self.due_at = now + self.pause.next_delay(dice);
                BroadcastStatus::Rejected
            }
        }
    }

    /// Whether a rejection proves that no node has any of its bytes.
    pub(super) fn is_surely_rejected(&self) -> bool {
        !self.maybe_accepted && self.in_flight == 0
    }

    /// Number of pauses taken so far.
    pub(super) fn attempts(&self) -> u32 {
        self.pause.attempts()
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.accepted_at.is_some()
    }

    /// Whether it has been in a pool for long: other transactions pay more.
    pub(super) fn is_starving(&self, now: Instant) -> bool {
        let long = |at| now.saturating_duration_since(at) >= STARVING_AFTER;
        self.is_pooled && !self.is_replacing && self.accepted_at.is_some_and(long)
    }

    /// Whether the pools have had its present bytes, or have refused them for their price, for so many
    /// blocks.
    pub(super) fn is_passed_over(&self, blocks: u64, newest: u64) -> bool {
        self.pooled_at.is_some_and(|at| at.saturating_add(blocks) <= newest)
    }

    /// Counts those blocks anew.
    pub(super) fn restart_waiting(&mut self, newest: u64) {
        self.pooled_at = Some(newest);
    }

    /// Whether a node has had it for a while without the count showing that it is mined.
    pub(super) fn is_receipt_overdue(&self, now: Instant) -> bool {
        let long = |at| now.saturating_duration_since(at) >= REBROADCAST_AFTER;
        self.accepted_at.is_some_and(long)
    }

    /// The fee was raised or cannot be: wait another period before raising it again.
    pub(super) fn restart_starvation(&mut self, now: Instant) {
        self.accepted_at = Some(now);
    }

    /// A lower nonce was accepted: send this one at once if it was refused for lack of it.
    pub(super) fn retry_now(&mut self, now: Instant) {
        if matches!(self.refusal, Some(PoolError::NonceTooHigh | PoolError::Unready)) {
            self.refusal = None;
            self.pause.reset();
            self.due_at = now;
        }
    }

    /// How long the chain has counted the nonce as used without showing a receipt.
    pub(super) fn receipt_missing_for(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.receipt_missing_since.get_or_insert(now))
    }
}
