//! Processes requests. A *walk* is the task that carries one request from its event to its outcome: one
//! `match` on the request's durable stage, with every change of stage recorded in the journal.
//!
//! ```text
//! arrivals --channel--> dispatch --task each--> walk: arrived -> asked -> answered -> submitted
//! recovery ----^                                  |  every step noted in the ledger
//!                                                 v
//!                                        settled | held | left for the next start
//! ```
//!
//! *Held* means: set aside with a reason that an operator reads, and retried slowly. A *lane* is the
//! one owner of a wallet's nonces on one chain ([`crate::chain::lane`]).
//!
//! A restart enters the same `match` again: there is no second code path for recovery. An instance that
//! only observes uses the same path, and its walks end where the Core would be asked ([`Mode`]). The
//! flow owns the port it records through ([`RequestLedger`]); the journal implements it.
pub mod ledger;
pub mod arrivals;
pub mod access;
pub mod ciphertexts;
pub mod kms_core;
pub mod submission;
mod key_management;
pub mod finality;
mod walk_queue;
mod confirmation;
mod support;
mod capacity;
mod dispatch;
mod walk;
mod witnesses;
#[cfg(test)]
mod fake_ledger;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use self::{access::Access, ciphertexts::Ciphertexts, kms_core::KmsCore, submission::Submission};
pub use self::{
    confirmation::Confirmation,
    key_management::{KeyManagement, KeyPolicy, KeyRooms, LifecycleRooms, RepresentationChoice},
    ledger::{
        AccessNote, AnsweredHere, Arrival, Batch, IdRange, RequestLedger, RequestState, Sighting,
        Step, StoredBatch, UnprovenRange,
    },
    support::KnownSupport,
    walk_queue::{
        Activity, AttendanceState, QueueReceivers, QueuedRequest, WalkReceivers, WalkSender,
        walk_channels,
    },
};
use crate::flow::finality::rule::FinalHeight;
use crate::{
    contracts::{abi::Deployment, gateway_config::GatewayConfigAdapter},
    dice::Dice,
    domain::{PerKind, Request},
    telemetry::{log_throttle::LogThrottle, metrics::Metrics, trace_context::Whose},
};

/// Limits and timeouts of walks.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// The largest number of walks at the same time.
    pub max_in_flight: usize,
    /// How long one attempt waits for the Core's answer.
    pub answer_timeout: PerKind<Duration>,
    /// Ceiling of the pause between polls and between attempts.
    pub retry_interval: Duration,
    /// Working time after which a request ends as expired: an outage of a dependency does not count.
    pub request_expiry: Duration,
}

/// What happens to a request once its ciphertexts are available.
#[derive(Debug)]
pub enum Mode<P> {
    /// The Core is asked, and its answer is submitted.
    Answer(Box<AnswerStages<P>>),
    /// It ends as observed. This variant holds nothing with which anything could be asked or sent.
    Observe {
        /// The number of requests observed.
        observed: watch::Sender<u64>,
    },
}

/// What decryptions need until the Core is asked, besides what every request needs.
#[derive(Debug)]
pub struct DecryptionRooms<P, B> {
    pub access: Access<P>,
    pub ciphertexts: Ciphertexts<B>,
    pub support: KnownSupport,
}

/// The stages after the ciphertexts (the Core and the submission), and what they need.
#[derive(Debug)]
pub struct AnswerStages<P> {
    pub core: KmsCore,
    /// Sends the answers to decryptions. `None` where nothing asks for any.
    pub submission: Option<Submission<P>>,
    pub gateway_config: GatewayConfigAdapter<P>,
    /// An earlier run may have answered requests up to this block without the ledger knowing: because the
    /// journal was lost, rebuilt, or restored from a backup.
    pub maybe_answered_up_to: u64,
    /// `None`: the configuration names no contract that asks for key operations.
    pub keys: Option<Box<KeyManagement<P>>>,
}

impl<P> AnswerStages<P> {
    fn keys_of(&self, request: &Request) -> Option<&KeyManagement<P>> {
        self.keys.as_deref().filter(|_| request.kind().is_key_operation())
    }

    /// `None`: it is no key operation, or the contract that asks for it is not configured.
    fn key_rooms_of(&self, request: &Request) -> Option<&KeyRooms<P>> {
        self.keys_of(request)?.rooms_of(request.kind())
    }

    fn core_of(&self, request: &Request) -> &KmsCore {
        self.key_rooms_of(request).map_or(&self.core, |keys| &keys.core)
    }

    /// `None`: nothing here sends such an answer.
    fn submission_of(&self, request: &Request) -> Option<&Submission<P>> {
        if request.kind().is_key_operation() {
            self.key_rooms_of(request).map(|keys| &keys.submission)
        } else {
            self.submission.as_ref()
        }
    }
}

/// The stages, and everything else that a walk of a request of this chain needs.
#[derive(Debug)]
pub struct Flow<P, B, L> {
    /// The instance's name in traces.
    pub whose: Whose,
    /// `None`: on this chain nothing asks for decryptions, only for key operations.
    pub decryptions: Option<Box<DecryptionRooms<P, B>>>,
    pub mode: Mode<P>,
    /// Asks the nodes whether a request of the chain's contract is on chain, and in which block.
    pub confirmation: Confirmation<P>,
    /// The highest block whose requests may be processed.
    pub final_height: watch::Receiver<FinalHeight>,
    pub ledger: L,
    pub metrics: Metrics,
    pub dice: Dice,
    pub options: FlowOptions,
    /// Limits logs about a problem that many requests have at once.
    pub log_throttle: Mutex<LogThrottle>,
}

impl<P, B, L> Flow<P, B, L> {
    /// What the contracts are that ask for decryptions, if any do and it is known.
    fn deployment(&self) -> Option<Deployment> {
        self.decryptions.as_ref()?.support.now().answered().cloned()
    }

    /// Asks the nodes about this request at the contract that emitted it.
    fn confirmation_of(&self, request: &Request) -> &Confirmation<P> {
        let keys = match &self.mode {
            Mode::Answer(rooms) => rooms.key_rooms_of(request),
            Mode::Observe { .. } => None,
        };
        keys.map_or(&self.confirmation, |keys| &keys.confirmation)
    }

    /// For an event that happens to many requests: the number of occurrences since the last log, if it
    /// should be logged now.
    fn should_log(&self, whose: &str, code: &'static str) -> Option<u64> {
        let mut repeats = self.log_throttle.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.should_log_for(whose, code, Instant::now())
    }
}

#[cfg(test)]
mod tests;
