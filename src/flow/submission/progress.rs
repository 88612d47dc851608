//! Where a submission stands, which its walk keeps across stages, and what its walk hears of it.

use tokio::time::Instant;

use super::gas::FirstOfClass;
use crate::{
    chain::{lane, rpc_error::RpcError},
    domain::{B256, Bytes, Hold, Outcome},
};

/// Whether an answer to the request may exist before this one is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorAnswer {
    /// No: the answer is new.
    Impossible,
    /// A transaction with it may exist.
    MaybeSent,
    /// A transaction with it may exist, or one with another answer that the journal does not know of.
    MaybeForgotten,
}

/// How the last attempt ended.
#[derive(Debug)]
pub(super) enum LastTry {
    /// The node simulated it and it reverted.
    WouldRevert(Bytes),
    /// The node rejected the transaction itself, perhaps for its gas limit.
    NotTaken(RpcError),
    Mined,
}

/// The state of a submission, which its walk keeps across stages.
#[derive(Debug)]
pub struct SubmissionProgress {
    pub begun: Instant,
    pub(super) prior_answer: PriorAnswer,
    /// The handle on its order in the lane.
    pub(super) in_lane: Option<lane::SubmissionHandle>,
    /// It continues by itself once its cause is fixed.
    pub(super) is_waiting: bool,
    /// How often it was handed to the lane.
    pub(super) tries: u32,
    pub(super) last_try: LastTry,
    /// Held while it is the first of its gas class: the others wait for it.
    pub(super) first_of_class: Option<FirstOfClass>,
}

impl SubmissionProgress {
    /// Begins the submission of an answer.
    #[must_use]
    pub fn begin(prior_answer: PriorAnswer) -> Self {
        let (begun, last_try) = (Instant::now(), LastTry::Mined);
        Self {
            begun,
            prior_answer,
            in_lane: None,
            is_waiting: false,
            tries: 0,
            last_try,
            first_of_class: None,
        }
    }

    /// Whether the lane has it.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.in_lane.is_some()
    }

    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.is_waiting
    }
}

/// Progress of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubmissionEvent {
    /// A transaction with the answer is recorded, and a node has accepted it.
    Broadcast {
        transaction: B256,
    },
    /// It continues by itself once this is fixed.
    Waiting(Hold),
    /// No transaction with it is open any more; another one may be sent.
    Returned {
        why: &'static str,
    },
    Ended(Outcome),
}
