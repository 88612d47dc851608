//! The port through which the flow stores requests and records what happens to them.

use std::time::Duration;

use crate::{
    contracts::abi::Counter,
    domain::{
        Answer, B256, BlockRef, CoreAddress, Event, Hold, HoldReason, KeyRepresentation, Kind,
        LedgerError, Outcome, RequestKey, U256, stage::Stage,
    },
};

/// One batch read from the chain: requests, logs that could not be decoded, and the cursor. It is
/// stored in one journal transaction, so that the cursor never passes a request that is not stored.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub arrivals: Vec<Arrival>,
    /// Undecodable logs with the reason: stored, counted, skipped.
    pub skipped: Vec<(Event, String)>,
    /// Everything up to and including this block is in this batch or an earlier one. `None`: the batch
    /// comes from reading known blocks again, and the cursor stays.
    pub cursor: Option<BlockRef>,
    /// Every block up to this one was read twice. Stored only with a cursor.
    pub read_twice: Option<u64>,
    /// All blocks up to the cursor whose logs no node could prove complete. `None`: unchanged.
    pub unproven: Option<Vec<UnprovenRange>>,
    /// All known ids of requests, including this batch. `None`: unchanged.
    pub ids: Option<Vec<IdRange>>,
}

/// Blocks that may hold more requests than any node shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnprovenRange {
    pub first: u64,
    pub last: u64,
    /// Of a single block, if known.
    pub hash: Option<B256>,
    /// Unix milliseconds.
    pub since_ms: u64,
}

/// Ids without a hole: all from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    pub counter: Counter,
    pub first: u64,
    pub last: u64,
    /// The blocks of the first and the last id.
    pub first_block: u64,
    pub last_block: u64,
}

/// A request event to be stored.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub key: RequestKey,
    pub kind: Kind,
    pub event: Event,
    pub seen: Sighting,
}

/// How an event was seen: what that says about a request that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// By the first reading, which joins each block to the one before it: the chain has it there.
    Joined,
    /// By a single node, in a block that may be on the chain.
    Found,
    /// By a single node, in another block than the one that was read at that height: it has left the chain.
    Stale,
}

/// What happened to a request after its arrival. Written with the next commit: losing it costs a
/// repeated call, never an outcome.
#[derive(Clone, Debug)]
pub enum Step {
    /// The access check gave a pass, or its result is new. The stage and the hold stay.
    AccessChecked(AccessNote),
    /// This Core accepted the request. Clears the hold.
    Asked { core: CoreAddress },
    /// The Core lost the request (restart, eviction) and must be asked again.
    Forgotten,
    /// The Core's answer passed our checks.
    Answered(Answer),
    /// A transaction with the answer was broadcast.
    Submitted { transaction: B256 },
    /// The transaction failed to deliver the answer: back to the stage "answered".
    Returned { why: String },
    /// A failed attempt, counted, with its cause.
    Failed { why: String },
    /// Set aside. The stage stays.
    Held(Hold),
    /// Time in which chain, buckets and Core all answered but no answer resulted. It counts towards the
    /// expiry.
    WorkTime(Duration),
    /// The request ended.
    Settled(Outcome),
}

/// What an access check found: for the next one, and for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessNote {
    /// The KMS context that was current when the request was made, if it names none.
    pub bound_context: Option<U256>,
    /// What was asked of whom, in lines.
    pub record: String,
}

/// What was new in a batch, by index of its arrivals. The others were known and are unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBatch {
    pub new: Vec<usize>,
    /// Undecodable logs that were not known, by index in the batch.
    pub skipped: Vec<usize>,
    /// Requests that were settled and are now in another block: the chain was reorganised, and the block
    /// that settled them may be gone. They are open again.
    pub reopened: Vec<usize>,
}

/// A request's state in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestState {
    pub stage: Stage,
    pub held: Option<HoldReason>,
    /// The sum of [`Step::WorkTime`].
    pub worked: Duration,
    /// Of the last [`Step::AccessChecked`].
    pub bound_context: Option<U256>,
    /// An operator has approved it.
    pub is_approved: bool,
}

/// Whether this node has answered a request, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredHere {
    /// A transaction with the answer was broadcast, or the contract has it.
    Yes,
    /// The request is known and unanswered.
    No,
    /// No such request is stored, or it was pruned.
    Unknown,
}

/// The port. The journal implements it.
pub trait RequestLedger: Clone + Send + Sync + 'static {
    /// Stores the batch and its cursor durably (fsync) before it returns. A known request takes over the
    /// block it is in now, and may be open again; its [`Sighting`] decides.
    fn store_batch(
        &self,
        batch: Batch,
    ) -> impl Future<Output = Result<StoredBatch, LedgerError>> + Send;

    /// Records a step with the next commit. Waits only while the journal's queue is full.
    fn note(
        &self,
        key: RequestKey,
        step: Step,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The request's state after everything noted so far. `None`: settled or unknown.
    fn request_state(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Option<RequestState>, LedgerError>> + Send;

    /// The event of a request as it was read last, in the block where it was then. `None`: the request is unknown.
    fn event_of(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Option<Event>, LedgerError>> + Send;

    /// Events with the same id and other content: ids are counters, and after a reorganisation another
    /// request can have the same id. A few of them: a node may have invented any number.
    fn events_of_same_id(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Vec<Event>, LedgerError>> + Send;

    /// Those of them that are in this transaction and have not left the chain: at most `limit`.
    fn events_of_same_transaction(
        &self,
        key: RequestKey,
        transaction: B256,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Event>, LedgerError>> + Send;

    /// Records the kind of key that a preparation is made for, unless that was recorded before, and returns
    /// what is recorded. Durable.
    fn choose_representation(
        &self,
        preparation: RequestKey,
        wanted: KeyRepresentation,
    ) -> impl Future<Output = Result<KeyRepresentation, LedgerError>> + Send;

    /// What is recorded for the preparation with this id.
    fn representation_of(
        &self,
        preparation: U256,
    ) -> impl Future<Output = Result<Option<KeyRepresentation>, LedgerError>> + Send;

    /// Whether a request with this id ended as done without an answer ([`Outcome::NoAnswerDue`]).
    fn is_done(&self, id: U256) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Whether a request with this id has not been asked of the Core yet.
    fn is_unasked(&self, id: U256) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Which of these ids were answered, in their order.
    fn answered_here(
        &self,
        ids: Vec<U256>,
    ) -> impl Future<Output = Result<Vec<AnsweredHere>, LedgerError>> + Send;
}
