//! The walk of one request: one task, one `match` on its durable stage, journaled at every door.
//!
//! ```text
//! arrivals --channel--> dispatch --task each--> walk: arrived -> asked -> answered -> submitted
//! recovery ----^                                  |  every step noted in the ledger
//!                                                 v
//!                                        settled | held | left for the next start
//! ```
//!
//! A restart re-enters the same `match`: there is no second path for recovery. The flow owns the
//! port it records through ([`RequestLedger`]); the journal implements it.
pub mod arrivals;
pub mod ciphertexts;
pub mod kms_core;
pub mod submission;
pub mod depth;
pub mod observation;
mod intake;
mod confirmation;
mod dispatch;
mod walk;
mod agreement;
mod dealings;
mod blame;
mod noting;
#[cfg(test)]
mod fake_ledger;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use self::{
    arrivals::ids::Run, ciphertexts::Ciphertexts, depth::Line, kms_core::KmsCore,
    submission::Submission,
};
pub use self::{
    confirmation::Confirmation,
    intake::{Attended, Doing, Entrance, Intake, Intakes, entrances},
};
use crate::{
    domain::{
        Answer, B256, BlockRef, Event, Hold, HoldReason, Kind, LedgerError, Outcome, RequestKey,
        U256, stage::Stage,
    },
    gateway::{decryption::Support, gateway_config::GatewayConfigAdapter},
    metrics::Metrics,
    repeats::Repeats,
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
    pub unproven: Option<Vec<Unproven>>,
    /// The ids of requests that are known with this batch, if they have changed: all of them.
    pub ids: Option<Vec<Run>>,
}

/// Blocks that may hold more requests than any node shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unproven {
    pub first: u64,
    pub last: u64,
    /// Of a single block, where it is known.
    pub hash: Option<B256>,
    /// Since when (Unix ms).
    pub since_ms: u64,
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
    /// Time in which chain, buckets and Core all answered, and no answer came of it: it counts
    /// towards the expiry.
    Worked(Duration),
    /// Ended.
    Settled(Outcome),
}

/// What became of a batch, by index of its arrivals. The others were known and stand as they did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub new: Vec<usize>,
    /// Undecodable logs that were not known, by their place in the batch.
    pub skipped: Vec<usize>,
    /// Settled, and now in another block: the chain was reorganised, and what settled them may be
    /// gone with it. They are open again.
    pub reopened: Vec<usize>,
}

/// Where a request stands by the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub stage: Stage,
    pub held: Option<HoldReason>,
    /// The sum of [`Step::Worked`].
    pub worked: Duration,
}

/// Whether a request was answered by this node, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A transaction with the answer was broadcast, or the contract has it.
    Yes,
    /// There is a request, and it is not.
    No,
    /// There is no such request, or no more.
    Unknown,
}

/// The port through which the flow records. The journal implements it.
pub trait RequestLedger: Clone + Send + Sync + 'static {
    /// Door (a): stores the batch and its cursor durably (fsync) before it returns. A known request
    /// takes over the block it is in now; one that is settled is opened again only by a batch with
    /// a cursor, which is joined block by block and not the word of any one node.
    fn arrive(&self, batch: Batch) -> impl Future<Output = Result<Taken, LedgerError>> + Send;

    /// Records a step on the next commit. Waits only while the journal's queue is full.
    fn note(
        &self,
        key: RequestKey,
        step: Step,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Where the request stands after everything noted so far. `None`: settled, or not known.
    fn standing(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Option<Standing>, LedgerError>> + Send;

    /// Events with the same id and other content: ids are counters, and a reorganised chain can give
    /// one to another request.
    fn namesakes(
        &self,
        key: RequestKey,
    ) -> impl Future<Output = Result<Vec<Event>, LedgerError>> + Send;

    /// Which of these ids were answered, in their order.
    fn answered(
        &self,
        ids: Vec<U256>,
    ) -> impl Future<Output = Result<Vec<Answered>, LedgerError>> + Send;
}

/// Limits and patience of the walk.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// Walks under way at the same time.
    pub max_in_flight: usize,
    /// How long one attempt waits for the Core's answer.
    pub public_decryption_timeout: Duration,
    pub user_decryption_timeout: Duration,
    /// Ceiling of the pause between polls and between attempts.
    pub retry_interval: Duration,
    /// Working time after which a request ends as expired.
    pub request_expiry: Duration,
    /// A request up to this block may have been answered by an earlier life that the ledger does not
    /// remember: it was lost, rebuilt, or restored from a backup.
    pub maybe_answered_up_to: u64,
}

/// The rooms, and all that a walk needs.
#[derive(Debug)]
pub struct Flow<P, B, L> {
    /// The instance's name.
    pub name: String,
    pub ciphertexts: Ciphertexts<B>,
    pub core: KmsCore,
    pub submission: Submission<P>,
    pub gateway_config: GatewayConfigAdapter<P>,
    /// Who is asked before a request ends that makes no sense.
    pub confirmation: Confirmation<P>,
    /// Whether the deployed contract is one we can serve.
    pub support: watch::Receiver<Support>,
    /// Up to which block requests may be walked.
    pub line: watch::Receiver<Line>,
    pub ledger: L,
    pub metrics: Metrics,
    pub options: FlowOptions,
    /// What is wrong with many requests at once is said once.
    pub repeats: Mutex<Repeats>,
}

impl<P, B, L> Flow<P, B, L> {
    /// Something that happens to one request after the other. Whether to say so, and how often it
    /// happened since it was said.
    fn heard(&self, cause: &str) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.heard(cause, Instant::now())
    }
}

#[cfg(test)]
mod tests;
