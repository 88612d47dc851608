//! The writer's commands and their results.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Pruned;
use crate::{
    chain::lane::{GiveUpReason, SignedTransaction, TransactionId},
    domain::{
        BlockRef, Event, Generation, KeyRepresentation, Kind, LedgerError, Outcome, RequestKey,
        RequestSource,
    },
    flow::ledger::{Batch, Step, StoredBatch},
};

/// A commit takes further commands until they reach this size (bytes, roughly as stored).
pub(super) const FULL_BATCH: usize = 8 * 1024 * 1024;

/// The work of a command.
#[derive(Debug)]
pub enum Work {
    StoreBatch(Batch),
    Signed(Vec<SignedTransaction>),
    Note(RequestKey, Step),
    Mined(TransactionId, BlockRef),
    GiveUp(Vec<TransactionId>, GiveUpReason),
    Reopen(Vec<TransactionId>),
    /// A request that ended without an answer.
    OpenAgain(RequestKey),
    /// An operator approves the request.
    Approve {
        key: RequestKey,
        by: String,
    },
    /// The kind of key that this preparation is made for.
    Represent {
        preparation: RequestKey,
        representation: KeyRepresentation,
    },
    /// The contract of this handle stands beside this Decryption contract, which names its requests.
    StandBeside(RequestSource),
    /// Answers to requests up to this block may be missing.
    ForgetUpTo(u64),
    /// This deployment stands at the contract's address now.
    NoteDeployment(String),
    /// This generation stood at the contract's address in this block, which is final.
    NoteGeneration(Generation, u64),
    /// One chunk of old rows.
    Prune {
        settled_before_ms: u64,
        final_block: u64,
    },
    /// No work: a barrier.
    Flush,
}

impl Work {
    /// Returns whether it may change the number of requests in a stage.
    pub(super) fn moves_requests(&self) -> bool {
        match self {
            Self::StoreBatch(batch) => !batch.arrivals.is_empty(),
            Self::Note(..) | Self::Reopen(_) | Self::OpenAgain(_) => true,
            Self::Signed(_)
            | Self::Mined(..)
            | Self::GiveUp(..)
            | Self::Prune { .. }
            | Self::Approve { .. }
            | Self::Represent { .. }
            | Self::StandBeside(_)
            | Self::ForgetUpTo(_)
            | Self::NoteDeployment(_)
            | Self::NoteGeneration(..)
            | Self::Flush => false,
        }
    }
}

/// The result of a durable command or a step.
#[derive(Debug)]
pub enum CommandResult {
    Nothing,
    Settled(Settlement),
    StoredBatch(StoredBatch),
    Pruned {
        chunk: Pruned,
        /// There may be more.
        is_full: bool,
    },
    Reopened(Vec<SignedTransaction>),
    /// Whether it had ended without an answer.
    OpenedAgain(bool),
}

/// A request that ended.
#[derive(Debug)]
pub struct Settlement {
    pub kind: Kind,
    pub outcome: Outcome,
    /// Since its event was first stored.
    pub after: Duration,
}

pub type CommandReply = oneshot::Sender<Result<CommandResult, LedgerError>>;

/// Work, its source, its time, and the caller that waits for its fsync.
#[derive(Debug)]
pub struct Command {
    pub of: RequestSource,
    pub work: Work,
    pub at_ms: u64,
    pub reply: Option<CommandReply>,
}

impl Command {
    pub(super) fn weight(&self) -> usize {
        let event = |event: &Event| 256 + event.data.len();
        let bytes = match &self.work {
            Work::StoreBatch(batch) => {
                batch.arrivals.iter().map(|arrival| 512 + event(&arrival.event)).sum::<usize>()
                    + batch.skipped.iter().map(|(skipped, _)| event(skipped)).sum::<usize>()
                    + batch.unproven.as_ref().map_or(0, |unproven| 128 * unproven.len())
            }
            Work::Signed(transactions) => transactions.iter().map(|one| 512 + one.raw.len()).sum(),
            Work::Note(_, Step::Answered(answer)) => {
                answer.signed().payload.len() + answer.signed().extra_data.len()
            }
            Work::Note(_, Step::AccessChecked(note)) => note.record.len(),
            Work::NoteDeployment(deployment) => deployment.len(),
            Work::Prune { .. } => FULL_BATCH / 8,
            Work::Note(..)
            | Work::Mined(..)
            | Work::GiveUp(..)
            | Work::Reopen(_)
            | Work::OpenAgain(_)
            | Work::Approve { .. }
            | Work::Represent { .. }
            | Work::StandBeside(_)
            | Work::ForgetUpTo(_)
            | Work::NoteGeneration(..)
            | Work::Flush => 0,
        };
        bytes + 512
    }
}
