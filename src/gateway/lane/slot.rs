//! One taken nonce: its recorded bytes, when they are broadcast, and what the answer means. Pure.
//!
//! ```text
//! new --sent--> in flight --accepted--> waits to be mined --not mined--> sent again
//!                   │ refused, or no answer
//!                   └--> sent again after a pause, replaced, or given up: see `Answer`
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::SignedTransaction;
use crate::{
    backoff::Backoff,
    domain::RequestKey,
    gateway::provider::{RpcError, quirks::Refusal},
};

/// An accepted transaction that is not mined after this time is broadcast again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(3);
/// A broadcast without an answer is repeated beside the first one after this time: a node buffers
/// transactions behind a missing nonce for about a second only.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// Broadcasts of one nonce in flight at the same time.
const FLIGHTS: u8 = 3;
/// The same for the nonce that all others wait behind: one a second until the first one times out.
const FLIGHTS_OF_FIRST: u8 = 10;
/// The nonce that others wait behind is sent again at least this often until it is accepted.
const FIRST_WAITS: Duration = Duration::from_secs(1);
/// The fee is raised after this time in a node's pool.
const STARVING_AFTER: Duration = Duration::from_secs(12);

/// Meaning of a broadcast's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A node has the bytes.
    Accepted,
    /// A node has them and had them before.
    StillThere,
    /// The nonce is used; receipts tell by which transaction.
    Used,
    /// Try again after a pause.
    Again,
    /// The wallet cannot pay.
    NoFunds,
    /// The fee is below what the chain asks.
    TooCheap,
    /// Every node proved that it will not take these bytes.
    Rejected,
}

/// One taken nonce.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is known or not by itself")]
pub(super) struct Slot {
    /// Bytes recorded for this nonce, oldest first. The last ones are broadcast.
    versions: Vec<SignedTransaction>,
    due: Instant,
    pause: Backoff,
    /// Broadcasts in flight.
    flights: u8,
    /// When the last broadcast began.
    sent_at: Option<Instant>,
    /// Since when a node has the current bytes.
    accepted_at: Option<Instant>,
    /// A node reported that the current bytes are in its pool: there is a pool, so fees matter.
    pooled: bool,
    /// A node may have one of the versions: then a rejection does not free the nonce.
    maybe_taken: bool,
    /// A replacement is being signed.
    pub replacing: bool,
    /// The fees of its bytes are not checked yet; it is not broadcast before.
    pub unchecked: bool,
    /// Since when the chain counts this nonce as used without showing our receipt.
    unseen_since: Option<Instant>,
    /// The node's present reason to refuse it.
    refusal: Option<Refusal>,
}

impl Slot {
    pub(super) fn new(version: SignedTransaction, now: Instant) -> Self {
        Self {
            versions: vec![version],
            due: now,
            pause: Backoff::new(Duration::from_millis(250), Duration::from_secs(15)),
            flights: 0,
            sent_at: None,
            accepted_at: None,
            pooled: false,
            maybe_taken: false,
            replacing: false,
            unchecked: false,
            unseen_since: None,
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
        self.due = now;
        (self.sent_at, self.accepted_at) = (None, None);
        (self.pooled, self.refusal) = (false, None);
        (self.replacing, self.unchecked) = (false, false);
    }

    /// Earlier broadcasts may have been accepted.
    pub(super) fn doubt(&mut self) {
        self.maybe_taken = true;
    }

    /// Returns whether a broadcast is due. `first`: other nonces wait behind this one, and this one
    /// waits for none.
    pub(super) fn is_due(&self, first: bool, now: Instant) -> bool {
        let since_sent =
            |patience| self.sent_at.is_none_or(|at| now.saturating_duration_since(at) >= patience);
        if self.flights == 0 {
            return self.due <= now
                || (first && self.accepted_at.is_none() && since_sent(FIRST_WAITS));
        }
        let flights = if first { FLIGHTS_OF_FIRST } else { FLIGHTS };
        self.flights < flights && self.accepted_at.is_none() && since_sent(HEDGE_AFTER)
    }

    /// Starts a broadcast. Returns whether these bytes go out for the first time.
    pub(super) fn send(&mut self, now: Instant) -> bool {
        let first = self.sent_at.is_none() && self.versions.len() == 1 && !self.maybe_taken;
        self.flights += 1;
        self.sent_at = Some(now);
        first
    }

    /// Whether a receipt is possible: a node has one of the versions or may have it.
    pub(super) fn is_worth_a_look(&self) -> bool {
        self.flights == 0 || self.versions.len() > 1
    }

    /// Takes in the answer to a broadcast of the current bytes. The flag says whether the refusal is
    /// new. `dice`: random, 0 to 1, for the pause.
    pub(super) fn answered(
        &mut self,
        error: Option<&RpcError>,
        refusal: Refusal,
        now: Instant,
        dice: f64,
    ) -> (Answer, bool) {
        let answer = self.read(error, refusal, now, dice);
        // A used nonce is not a failure: most often the transaction is mined.
        let bad = !matches!(answer, Answer::Accepted | Answer::StillThere | Answer::Used);
        let news = error.is_some() && bad && self.refusal != Some(refusal);
        if news {
            self.refusal = Some(refusal);
        }
        (answer, news)
    }

    /// A broadcast ended.
    pub(super) fn landed_flight(&mut self) {
        self.flights = self.flights.saturating_sub(1);
    }

    fn read(
        &mut self,
        error: Option<&RpcError>,
        refusal: Refusal,
        now: Instant,
        dice: f64,
    ) -> Answer {
        match refusal {
            Refusal::AlreadyKnown | Refusal::Underpriced => {
                self.maybe_taken = true;
                self.pooled |= error.is_some();
                self.due = now + REBROADCAST_AFTER.max(self.pause.next_delay(dice));
                if self.accepted_at.is_some() {
                    return Answer::StillThere;
                }
                self.accepted_at = Some(now);
                Answer::Accepted
            }
            Refusal::NonceTooLow => {
                self.due = now + REBROADCAST_AFTER;
                Answer::Used
            }
            Refusal::Unready | Refusal::Unknown => {
                self.maybe_taken = true;
                self.due = now + self.pause.next_delay(dice);
                Answer::Again
            }
            Refusal::NonceTooHigh | Refusal::Busy => {
                self.due = now + self.pause.next_delay(dice);
                Answer::Again
            }
            Refusal::InsufficientFunds => {
                self.due = now + self.pause.next_delay(dice).max(Duration::from_secs(1));
                Answer::NoFunds
            }
            Refusal::FeeTooLow => {
                self.due = now + self.pause.next_delay(dice);
                Answer::TooCheap
            }
            Refusal::Unacceptable | Refusal::Reverted => {
                self.due = now + self.pause.next_delay(dice);
                Answer::Rejected
            }
        }
    }

    /// Whether a rejection proves that no node has any of its bytes.
    pub(super) fn is_free(&self) -> bool {
        !self.maybe_taken && self.flights == 0
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
        self.pooled && !self.replacing && self.accepted_at.is_some_and(long)
    }

    /// Whether a node has had it for a while without the count showing that it is mined.
    pub(super) fn waits_for_long(&self, now: Instant) -> bool {
        let long = |at| now.saturating_duration_since(at) >= REBROADCAST_AFTER;
        self.accepted_at.is_some_and(long)
    }

    /// The fee was raised or cannot be: wait another period before raising it again.
    pub(super) fn starve_on(&mut self, now: Instant) {
        self.accepted_at = Some(now);
    }

    /// A lower nonce was accepted: send this one at once if it was refused for lack of it.
    pub(super) fn wake(&mut self, now: Instant) {
        if matches!(self.refusal, Some(Refusal::NonceTooHigh | Refusal::Unready)) {
            self.refusal = None;
            self.pause.reset();
            self.due = now;
        }
    }

    /// How long the chain has counted the nonce as used without showing a receipt.
    pub(super) fn unseen_for(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.unseen_since.get_or_insert(now))
    }
}
