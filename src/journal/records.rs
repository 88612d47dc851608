//! What is read back of a journal.

use std::collections::BTreeMap;

use super::progress::{Progress, StageName};
use crate::{
    chain::lane::SignedTransaction,
    domain::{Answer, BlockRef, Event, Kind, RequestKey, stage::Stage},
};

/// A place in the order of arrival, to continue a scan from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub(super) i64);

impl Position {
    /// For who continues a scan elsewhere.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// The place that [`Self::number`] told.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }
}

/// All that is stored of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub event: Event,
    /// Kept after the request settled, until it is pruned.
    pub answer: Option<Answer>,
    pub progress: Progress,
}

impl RequestRecord {
    /// The stage with its answer.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.progress.stage.with_answer(self.answer.clone())
    }
}

/// A signed transaction and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournaledTransaction {
    pub transaction: SignedTransaction,
    pub mined: Option<BlockRef>,
    pub signed_at_ms: u64,
    /// Why it will not be mined, where that is known.
    pub given_up: Option<String>,
}

/// How many requests stand where, of one contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By stage, held ones included.
    pub unfinished: BTreeMap<StageName, u64>,
    /// By the name of the reason; a part of `unfinished`.
    pub held: BTreeMap<&'static str, u64>,
    /// By the name of the outcome; pruned requests no longer count.
    pub settled: BTreeMap<String, u64>,
    pub skipped_logs: u64,
    /// When the oldest unfinished request arrived (Unix ms).
    pub oldest_unfinished_ms: Option<u64>,
    /// The oldest one that is tried again and not held.
    pub oldest_failing: Option<FailingRequest>,
}

/// An unfinished request that has failed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingRequest {
    /// Unix ms.
    pub arrived_at_ms: u64,
    pub last_error: String,
}

/// What a journal takes of its disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its file and what belongs to it.
    pub taken: u64,
    /// What is left for this user.
    pub free: u64,
}

/// What a prune removed.
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
    /// Commands that someone waited for.
    pub durable: u64,
    /// Commits in which requests may have come or moved.
    pub moves: u64,
}

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFilter {
    /// Without an outcome, held ones included.
    Unfinished,
    Held,
    /// Ended without an answer, at or after this time (Unix ms): refused, expired or orphaned.
    Ended {
        since_ms: u64,
    },
    All,
}

/// A page of them, in the order of their arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestPage {
    pub filter: RequestFilter,
    pub after: Option<Position>,
    pub limit: u32,
}

/// A request without what is large of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSummary {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub block: u64,
    pub progress: Progress,
}
