//! The walk of one request: one task, one `match` on its durable stage, journaled at every door.
//!
//! ```text
//! arrivals --channel--> dispatch --task each--> walk: arrived -> asked -> answered -> submitted
//! recovery ----^                                  |  every step noted in the ledger
//!                                                 v
//!                                        settled | held | left for the next start
//! ```
//!
//! A restart re-enters the same `match`: there is no second path for recovery. Nor has an instance that
//! only observes a path of its own: its walk ends where the Core would be asked ([`Mode`]). The flow
//! owns the port it records through ([`RequestLedger`]); the journal implements it.
pub mod ledger;
pub mod arrivals;
pub mod ciphertexts;
pub mod kms_core;
pub mod submission;
pub mod finality;
mod walk_queue;
mod confirmation;
mod capacity;
mod dispatch;
mod walk;
mod agreement;
#[cfg(test)]
mod fake_ledger;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use self::{ciphertexts::Ciphertexts, kms_core::KmsCore, submission::Submission};
pub use self::{
    confirmation::Confirmation,
    ledger::{
        AnsweredHere, Arrival, Batch, IdRange, RequestLedger, RequestState, Step, StoredBatch,
        UnprovenRange,
    },
    walk_queue::{
        Activity, AttendanceState, QueuedRequest, WalkReceivers, WalkSender, walk_channels,
    },
};
use crate::flow::finality::rule::FinalHeight;
use crate::{
    contracts::{decryption::DeploymentSupport, gateway_config::GatewayConfigAdapter},
    dice::Dice,
    domain::PerKind,
    telemetry::{log_throttle::LogThrottle, metrics::Metrics, trace_context::Whose},
};

/// Limits and patience of the walk.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// Walks under way at the same time.
    pub max_in_flight: usize,
    /// How long one attempt waits for the Core's answer.
    pub answer_timeout: PerKind<Duration>,
    /// Ceiling of the pause between polls and between attempts.
    pub retry_interval: Duration,
    /// Working time after which a request ends as expired.
    pub request_expiry: Duration,
}

/// What is done with a request whose ciphertexts are there.
#[derive(Debug)]
pub enum Mode<P> {
    /// The Core is asked, and its answer brought.
    Answer(Box<AnswerStages<P>>),
    /// It ends as observed. There is no room in which anything could be asked or sent.
    Observe {
        /// How many were observed.
        observed: watch::Sender<u64>,
    },
}

/// Rooms 3 and 4, and what they need.
#[derive(Debug)]
pub struct AnswerStages<P> {
    pub core: KmsCore,
    pub submission: Submission<P>,
    pub gateway_config: GatewayConfigAdapter<P>,
    /// A request up to this block may have been answered by an earlier life that the ledger does not
    /// remember: it was lost, rebuilt, or restored from a backup.
    pub maybe_answered_up_to: u64,
}

/// The rooms, and all that a walk needs.
#[derive(Debug)]
pub struct Flow<P, B, L> {
    /// The instance, as traces name it.
    pub whose: Whose,
    pub ciphertexts: Ciphertexts<B>,
    pub mode: Mode<P>,
    /// Who is asked whether the chain has a request, and where.
    pub confirmation: Confirmation<P>,
    /// Whether the deployed contract is one we can serve.
    pub support: watch::Receiver<DeploymentSupport>,
    /// Up to which block requests may be walked.
    pub final_height: watch::Receiver<FinalHeight>,
    pub ledger: L,
    pub metrics: Metrics,
    pub dice: Dice,
    pub options: FlowOptions,
    /// What is wrong with many requests at once is said once.
    pub log_throttle: Mutex<LogThrottle>,
}

impl<P, B, L> Flow<P, B, L> {
    /// Something that happens to one request after the other. Whether to say so, and how often it
    /// happened since it was said.
    fn should_log(&self, whose: &str, code: &'static str) -> Option<u64> {
        let mut repeats = self.log_throttle.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.should_log_for(whose, code, Instant::now())
    }
}

#[cfg(test)]
mod tests;
