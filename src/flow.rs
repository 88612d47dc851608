//! The walk of one request through the four rooms. (skeleton)

pub mod arrivals;
pub mod ciphertexts;
pub mod kms_core;
pub mod submission;

use crate::domain::{Answer, B256, BlockRef, Event, Hold, Kind, LedgerError, Outcome, RequestKey};

/// One batch read from the chain: requests, logs that could not be decoded, and how far it reaches.
/// Stored in one journal transaction, so that the cursor never counts a request that is not stored.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub arrivals: Vec<Arrival>,
    /// Undecodable logs with the reason: stored, counted, skipped.
    pub skipped: Vec<(Event, String)>,
    /// Everything up to and including this block is in this batch or an earlier one.
    /// `None`: a re-read of known blocks, the cursor stays.
    pub cursor: Option<BlockRef>,
}

/// A request event to be stored.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub key: RequestKey,
    pub kind: Kind,
    pub event: Event,
}

/// What happened to a request after its arrival. Rides on the next commit: losing it costs a
/// repeat, never an outcome.
#[derive(Clone, Debug)]
pub enum Step {
    /// The Core took the request. Clears the hold.
    Asked,
    /// The Core lost the request (restart, eviction): it must be asked again.
    Forgotten,
    /// The Core's answer passed our checks.
    Answered(Answer),
    /// A transaction with the answer was broadcast.
    Submitted { transaction: B256 },
    /// The transaction did not bring it: back to `answered`.
    Returned { why: String },
    /// A failed attempt, counted, with its cause.
    Failed { why: String },
    /// Set aside. The stage stays.
    Held(Hold),
    /// Ended.
    Settled(Outcome),
}

/// The port through which the flow records. The journal implements it.
pub trait RequestLedger: Clone + Send + Sync + 'static {
    /// Door (a): stores the batch and its cursor durably (fsync) before it returns. Answers which
    /// arrivals were new, by index; known keys are left as they stand.
    fn arrive(&self, batch: Batch) -> impl Future<Output = Result<Vec<usize>, LedgerError>> + Send;

    /// Records a step on the next commit. Waits only while the journal's queue is full.
    fn note(
        &self,
        key: RequestKey,
        step: Step,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}
