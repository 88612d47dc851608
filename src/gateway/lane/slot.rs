//! One taken nonce: its recorded bytes, when they are broadcast, and what an answer to that means.
//! Pure.
//!
//! ```text
//! fresh --sent--> under way --accepted--> waits to be mined --not mined--> sent again
//!                     │ refused, or no answer
//!                     └--> sent again after a pause, replaced, or given up: see `Answer`
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::SignedTransaction;
use crate::{
    backoff::Backoff,
    domain::RequestKey,
    gateway::provider::{RpcError, quirks::Refusal},
};

/// An accepted transaction that is not mined after this is broadcast again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(3);
/// A broadcast that got no answer for so long is made again beside it: a node's buffer keeps what
/// is behind a missing nonce for about a second.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// Broadcasts of one nonce under way at the same time.
const FLIGHTS: u8 = 3;
/// The same of a nonce that others wait behind: one a second until the first is timed out.
const FLIGHTS_OF_FIRST: u8 = 10;
/// What others wait behind is not left alone for longer.
const FIRST_WAITS: Duration = Duration::from_secs(1);
/// In a node's pool and not mined for so long, its fee is raised.
const STARVING_AFTER: Duration = Duration::from_secs(12);

/// What is to be done after a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Some node has the bytes.
    Accepted,
    /// And had them before.
    StillThere,
    /// The nonce is used: receipts tell by what.
    Used,
    /// Again after a pause; nothing else can be done.
    Again,
    /// The wallet cannot pay.
    NoFunds,
    /// It pays less than the chain asks.
    TooCheap,
    /// Every node proved that it will not take these bytes.
    Rejected,
}

/// One taken nonce.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is known or not by itself")]
pub(super) struct Slot {
    /// Recorded bytes for this nonce, oldest first. The last one is broadcast.
    versions: Vec<SignedTransaction>,
    due: Instant,
    pause: Backoff,
    /// Broadcasts under way.
    flights: u8,
    /// When the last one began.
    sent_at: Option<Instant>,
    /// Since when a node has the current bytes.
    accepted_at: Option<Instant>,
    /// A node told that the current bytes wait in its pool: there is one, and fees decide.
    pooled: bool,
    /// Some node may have one of the versions: then no rejection frees the nonce.
    maybe_taken: bool,
    /// Other bytes for it are being signed.
    pub replacing: bool,
    /// Whether its bytes ask for too much is not known yet: it is not broadcast before.
    pub unchecked: bool,
    /// Since when the chain counts this nonce as mined without showing our receipt.
    unseen_since: Option<Instant>,
    /// Why the node refuses it at the moment.
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
        // A slot is made with one version and never loses it.
        &self.versions[self.versions.len() - 1]
    }

    pub(super) fn versions(&self) -> &[SignedTransaction] {
        &self.versions
    }

    pub(super) fn into_versions(self) -> Vec<SignedTransaction> {
        self.versions
    }

    /// The newest bytes with this request's answer: after a rejection a nonce may have carried
    /// another request's before.
    pub(super) fn version_of(&self, request: RequestKey) -> Option<&SignedTransaction> {
        self.versions.iter().rev().find(|version| version.request == Some(request))
    }

    /// Other bytes from now on.
    pub(super) fn replace(&mut self, version: SignedTransaction, now: Instant) {
        self.versions.push(version);
        self.due = now;
        (self.sent_at, self.accepted_at) = (None, None);
        (self.pooled, self.refusal) = (false, None);
        (self.replacing, self.unchecked) = (false, false);
    }

    /// What became of earlier broadcasts is not known.
    pub(super) fn doubt(&mut self) {
        self.maybe_taken = true;
    }

    /// Whether a broadcast is due. `first`: others wait behind this nonce, and nothing before it.
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

    /// Whether this is the first time the bytes go out.
    pub(super) fn send(&mut self, now: Instant) -> bool {
        let first = self.sent_at.is_none() && self.versions.len() == 1 && !self.maybe_taken;
        self.flights += 1;
        self.sent_at = Some(now);
        first
    }

    /// A node has one of the versions, or may have: a look at the chain tells more.
    pub(super) fn is_worth_a_look(&self) -> bool {
        self.flights == 0 || self.versions.len() > 1
    }

    /// Takes in what became of a broadcast of the current bytes. The flag: a refusal that is news.
    /// `dice`: from 0 to 1, for the pause.
    pub(super) fn answered(
        &mut self,
        error: Option<&RpcError>,
        refusal: Refusal,
        now: Instant,
        dice: f64,
    ) -> (Answer, bool) {
        let answer = self.read(error, refusal, now, dice);
        // One whose nonce is used is looked for: most often it is mined, and nothing is wrong.
        let bad = !matches!(answer, Answer::Accepted | Answer::StillThere | Answer::Used);
        let news = error.is_some() && bad && self.refusal != Some(refusal);
        if news {
            self.refusal = Some(refusal);
        }
        (answer, news)
    }

    /// One broadcast less is under way.
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
                self.due = now + REBROADCAST_AFTER.max(self.pause.next_delay_by(dice));
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
                self.due = now + self.pause.next_delay_by(dice);
                Answer::Again
            }
            Refusal::NonceTooHigh | Refusal::Busy => {
                self.due = now + self.pause.next_delay_by(dice);
                Answer::Again
            }
            Refusal::InsufficientFunds => {
                self.due = now + self.pause.next_delay_by(dice).max(Duration::from_secs(1));
                Answer::NoFunds
            }
            Refusal::FeeTooLow => {
                self.due = now + self.pause.next_delay_by(dice);
                Answer::TooCheap
            }
            Refusal::Unacceptable | Refusal::Reverted => {
                self.due = now + self.pause.next_delay_by(dice);
                Answer::Rejected
            }
        }
    }

    /// Whether a rejection proves that no node has any of its bytes.
    pub(super) fn is_free(&self) -> bool {
        !self.maybe_taken && self.flights == 0
    }

    /// How many pauses it has taken for lack of a better idea.
    pub(super) fn attempts(&self) -> u32 {
        self.pause.attempts()
    }

    pub(super) fn is_accepted(&self) -> bool {
        self.accepted_at.is_some()
    }

    /// In a pool, and passed over for long: somebody pays more.
    pub(super) fn is_starving(&self, now: Instant) -> bool {
        let long = |at| now.saturating_duration_since(at) >= STARVING_AFTER;
        self.pooled && !self.replacing && self.accepted_at.is_some_and(long)
    }

    /// In a node's hands for a while, and the count does not tell that it is mined.
    pub(super) fn waits_for_long(&self, now: Instant) -> bool {
        let long = |at| now.saturating_duration_since(at) >= REBROADCAST_AFTER;
        self.accepted_at.is_some_and(long)
    }

    /// It cannot be dearer: not before another while.
    pub(super) fn starve_on(&mut self, now: Instant) {
        self.accepted_at = Some(now);
    }

    /// A lower nonce has arrived: what was refused for lack of it goes at once.
    pub(super) fn wake(&mut self, now: Instant) {
        if matches!(self.refusal, Some(Refusal::NonceTooHigh | Refusal::Unready)) {
            self.refusal = None;
            self.pause.reset();
            self.due = now;
        }
    }

    /// For how long the chain has counted the nonce as mined without showing a receipt.
    pub(super) fn unseen_for(&mut self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.unseen_since.get_or_insert(now))
    }
}
