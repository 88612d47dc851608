//! Records that are read from a journal.

use std::collections::BTreeMap;

use super::{
    progress::{Progress, StageName},
    request_page::Position,
};
use crate::{
    chain::lane::SignedTransaction,
    domain::{Answer, BlockRef, Event, Kind, RequestKey, stage::Stage},
    flow::ledger::AccessNote,
};

/// All that is stored of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub event: Event,
    /// Kept after the request settled, until it is pruned.
    pub answer: Option<Answer>,
    /// The last access check.
    pub access: Option<AccessNote>,
    pub approval: Option<Approval>,
    pub progress: Progress,
}

/// An operator's approval of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The user.
    pub by: String,
    /// Unix ms.
    pub at_ms: u64,
}

impl RequestRecord {
    /// The stage with its answer.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.progress.stage.with_answer(self.answer.clone())
    }
}

/// A signed transaction and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournaledTransaction {
    pub transaction: SignedTransaction,
    pub mined: Option<BlockRef>,
    pub signed_at_ms: u64,
    /// Why it will not be mined, if known.
    pub given_up: Option<String>,
}

/// The number of requests in each state, of one contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By stage, including held ones.
    pub unfinished: BTreeMap<StageName, u64>,
    /// By the name of the reason; a part of `unfinished`.
    pub held: BTreeMap<&'static str, u64>,
    /// By the name of the outcome, without pruned requests.
    pub settled: BTreeMap<String, u64>,
    pub skipped_logs: u64,
    /// When the oldest unfinished request arrived (Unix ms).
    pub oldest_unfinished_ms: Option<u64>,
    /// The oldest one that is being retried and is not held.
    pub oldest_failing: Option<FailingRequest>,
}

/// An unfinished request that has failed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingRequest {
    /// Unix ms.
    pub arrived_at_ms: u64,
    pub last_error: String,
}

/// A journal's disk space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Used by its file and the files beside it.
    pub taken: u64,
    /// Available to this user.
    pub free: u64,
}

/// The rows that a prune removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub requests: u64,
    pub transactions: u64,
    pub skipped_logs: u64,
}

/// How much the writer did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Transactions of the store: at most one fsync each.
    pub commits: u64,
    pub commands: u64,
    /// Commands with a waiting caller.
    pub durable: u64,
    /// Commits that may have added requests or changed their stage.
    pub moves: u64,
}
