//! The port through which the flow records: what is stored of a request, and what happened to it.

use std::time::Duration;

use crate::{
    contracts::abi::Counter,
    domain::{
        Answer, B256, BlockRef, Event, Hold, HoldReason, Kind, LedgerError, Outcome, RequestKey,
        U256, stage::Stage,
    },
};

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
    /// Everything up to this block was read twice. Stored with a cursor only.
    pub read_twice: Option<u64>,
    /// Blocks up to the cursor whose logs nobody could prove, all there are from now on; `None`: those
    /// known.
    pub unproven: Option<Vec<UnprovenRange>>,
    /// The ids of requests that are known with this batch, if they have changed: all of them.
    pub ids: Option<Vec<IdRange>>,
}

/// Blocks that may hold more requests than any node shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnprovenRange {
    pub first: u64,
    pub last: u64,
    /// Of a single block, where it is known.
    pub hash: Option<B256>,
    /// Since when (Unix ms).
    pub since_ms: u64,
}

/// Ids without a hole: all from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    pub counter: Counter,
    pub first: u64,
    pub last: u64,
    /// The blocks of the first and the last.
    pub first_block: u64,
    pub last_block: u64,
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
    /// The transaction did not bring it: back to `answered_here`.
    Returned { why: String },
    /// A failed attempt, counted, with its cause.
    Failed { why: String },
    /// Set aside. The stage stays.
    Held(Hold),
    /// Time in which chain, buckets and Core all answered, and no answer came of it: it counts
    /// towards the expiry.
    WorkTime(Duration),
    /// Ended.
    Settled(Outcome),
}

/// What became of a batch, by index of its arrivals. The others were known and stand as they did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBatch {
    pub new: Vec<usize>,
    /// Undecodable logs that were not known, by their place in the batch.
    pub skipped: Vec<usize>,
    /// Settled, and now in another block: the chain was reorganised, and what settled them may be
    /// gone with it. They are open again.
    pub reopened: Vec<usize>,
}

/// Where a request stands by the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestState {
    pub stage: Stage,
    pub held: Option<HoldReason>,
    /// The sum of [`Step::WorkTime`].
    pub worked: Duration,
}

/// Whether a request was answered by this node, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredHere {
    /// A transaction with the answer was broadcast, or the contract has it.
    Yes,
    /// There is a request, and it is not.
    No,
    /// There is no such request, or no more.
    Unknown,
}

/// The port. The journal implements it.
pub trait RequestLedger: Clone + Send + Sync + 'static {
    /// Door (a): stores the batch and its cursor durably (fsync) before it returns. A known request
    /// takes over the block it is in now; one that is settled is opened again only by a batch with
    /// a cursor, which is joined block by block and not the word of any one node.
    fn store_batch(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<StoredBatch, LedgerError>> + Send;

    /// Records a step on the next commit. Waits only while the journal's queue is full.
    fn note(
        &self,
        key: RequestKey,
        step: Step,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Where the request stands after everything noted so far. `None`: settled, or not known.
    fn request_state(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Option<RequestState>, LedgerError>> + Send;

    /// Events with the same id and other content: ids are counters, and a reorganised chain can give
    /// one to another request.
    fn events_of_same_id(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Vec<Event>, LedgerError>> + Send;

    /// Which of these ids were answered, in their order.
    fn answered_here(
        &self,
        ids: Vec<U256>,
    ) -> impl Future<Output = Result<Vec<AnsweredHere>, LedgerError>> + Send;
}
