//! The durable store of one instance: requests with their stages, the cursor, and every signed
//! transaction. It implements the ports of the flow and of the lane.
//!
//! There is one `SQLite` file per (chain id, genesis, wallet), so that a renamed config keeps its
//! history and a reset test chain is not taken for the old one. Requests and cursors inside are keyed
//! by the Decryption contract, transactions by nonce, so that two contracts share one lane. A lock file
//! beside it ensures that one process writes; an operator's `sqlite3` may read.
//!
//! Guarantees:
//!
//! - `store_batch`, `record_signed`, `reopen`, `open_again`, `prune` and `flush` are on disk (fsync) when
//!   they return `Ok`;
//! - `note`, `record_mined` and `record_given_up` are on disk within about 20 ms or with the next of the
//!   above; losing them costs a repeated call, never an outcome;
//! - commands of one caller take effect in the order it made them, and a crash keeps a prefix of that order;
//! - reads see what is on disk: what a restart would see. A note is visible after its commit
//!   ([`Journal::flush`] waits for it).
//!
//! The storage itself is behind a port ([`store`]). [`Journal`] is a cheap handle; [`Writer`] is the
//! one task that writes; [`IdleStore`] is what the writer leaves when it ends: the open store, for the
//! next writer. Calls on a handle have no effect before the writer runs. All futures here may be
//! dropped: a durable command whose future was dropped may or may not be stored, and repeating it
//! changes nothing.
//!
//! Reads run beside a commit, one at a time.

mod commands;
mod condition;
mod errors;
mod identity;
mod ledgers;
mod queries;
mod progress;
mod records;
mod sqlite;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use self::{
    commands::{Command, CommandResult, Work},
    store::{QueryReply, StoreId, StoreReader},
};
pub use self::{
    condition::{Condition, Damage},
    errors::{JournalError, OpenError, OpenWarning, StoreError, StoreFault},
    identity::Identity,
    progress::{Progress, StageName, StoredHold},
    queries::Queries,
    records::{
        Counts, FailingRequest, JournaledTransaction, Position, Pruned, RequestFilter, RequestPage,
        RequestRecord, RequestSummary, Space, Statistics,
    },
    sqlite::{
        file_system::{FileSystem, USE_LOCAL_DISK},
        inspect::{Holder, Inspection, JournalContents, inspect},
        journal_chains::{JournalChain, journal_chains},
        keepers::{Keeper, keepers},
        open::set_aside,
        read_only::{FindError, ReadOnly},
        rebuild::{RebuildKind, Rebuilt, rebuild},
        succession::{EarlierJournal, OpenedJournal, Predecessor, open_as},
    },
    store::Query,
    writer::{IdleStore, Writer},
};
use crate::{
    chain::lane::MinedTransaction,
    domain::{LedgerError, RequestKey, RequestSource, U256},
    machine::Machine,
};

/// Requests whose blocks are read at a start: more than a reorganisation affects.
const NEWEST_IDS: u32 = 1024;

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    commands: AtomicU64,
    durable: AtomicU64,
    moves: AtomicU64,
}

/// Shared by handles and the writer.
struct JournalShared {
    path: PathBuf,
    identity: Identity,
    /// Of the store that was opened.
    store_id: StoreId,
    machine: Machine,
    /// Taken by the writer when it closes.
    reads: Arc<Mutex<Option<Box<dyn StoreReader>>>>,
    counters: Counters,
    reopened: Notify,
    condition: Condition,
    /// The error that ended the writer, if any.
    ended: OnceLock<Arc<JournalError>>,
}

impl JournalShared {
    fn store_error(&self, doing: &'static str, cause: StoreError) -> JournalError {
        let cause = Arc::new(cause);
        if cause.fault == StoreFault::Damaged {
            self.condition.set_damage(self.store_id, Arc::clone(&cause));
        }
        JournalError::Store { path: self.path.clone(), doing, cause }
    }

    fn closed_error(&self) -> JournalError {
        match self.ended.get() {
            Some(cause) => JournalError::Ended { cause: cause.clone() },
            None => JournalError::Closed { path: self.path.clone() },
        }
    }
}

/// A handle on an instance's journal, for one contract on one chain. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    source: RequestSource,
    warnings: Arc<[OpenWarning]>,
    shared: Arc<JournalShared>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Journal {
    /// A handle for another contract or chain: each contract has its own requests, cursor and ids, and each
    /// chain its own nonces.
    #[must_use]
    pub fn for_source(&self, source: RequestSource) -> Self {
        Self { source, ..self.clone() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The store's condition; outlives the journal.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.shared.condition.clone()
    }

    /// Findings at opening that deserve a warning.
    #[must_use]
    pub fn warnings(&self) -> &[OpenWarning] {
        &self.warnings
    }

    /// How much the writer did so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let Counters { commits, commands, durable, moves } = &self.shared.counters;
        Statistics {
            commits: commits.load(Ordering::Relaxed),
            commands: commands.load(Ordering::Relaxed),
            durable: durable.load(Ordering::Relaxed),
            moves: moves.load(Ordering::Relaxed),
        }
    }

    /// Ids and blocks of the requests that were stored last, from the oldest to the newest.
    pub async fn newest_ids(&self) -> Result<Vec<(U256, u64)>, JournalError> {
        self.ask(|slot| Query::NewestIds(NEWEST_IDS, slot)).await
    }

    /// The block up to which the wallet may have answered requests without this journal knowing; 0 if there
    /// are none.
    pub async fn forgotten_up_to(&self) -> Result<u64, JournalError> {
        Ok(self.ask(Query::ForgottenUpTo).await?.unwrap_or(0))
    }

    /// Records that answers to requests up to this block may be missing here. Durable.
    pub async fn forget_up_to(&self, block: u64) -> Result<(), LedgerError> {
        self.durable(Work::ForgetUpTo(block)).await.map(|_| ())
    }

    /// All that is stored of one request, settled or not.
    pub async fn request(&self, key: RequestKey) -> Result<Option<RequestRecord>, JournalError> {
        self.ask(|slot| Query::Request(key, slot)).await
    }

    /// Runs an operator's queries, any number of them.
    pub async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Queries<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let (reads, of) = (Arc::clone(&self.shared.reads).lock_owned().await, self.source);
        let looking = self.shared.machine.run(move || {
            let look = reads.as_deref().map(|reads| Queries::new(reads, of));
            look.map(|look| ask(&look))
        });
        let answer = looking.await.flatten().ok_or_else(|| self.shared.closed_error())?;
        answer.map_err(|cause| self.shared.store_error("a read", cause))
    }

    /// The transactions of the last `nonces` nonces that are known to be mined, by nonce.
    pub async fn recently_mined(&self, nonces: u64) -> Result<Vec<MinedTransaction>, JournalError> {
        self.ask(|slot| Query::RecentlyMined(nonces, slot)).await
    }

    /// Completes when settled requests were opened again ([`HoldReason::AnswerDropped`]) since the last
    /// call.
    pub async fn reopened(&self) {
        self.shared.reopened.notified().await;
    }

    /// Waits until all earlier commands of this caller are on disk.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        self.durable(Work::Flush).await.map(|_| ())
    }

    /// Opens a request again that ended without an answer. It is then held as [`HoldReason::RetryAsked`] at
    /// its first stage, with its number of attempts. Durable. Returns whether there was such a request;
    /// others stay as they are.
    pub async fn open_again(&self, key: RequestKey) -> Result<bool, LedgerError> {
        Ok(matches!(self.durable(Work::OpenAgain(key)).await?, CommandResult::OpenedAgain(true)))
    }

    /// Removes old rows of every contract in the file:
    ///
    /// - requests settled before `settled_before_ms` (Unix ms) whose outcome's block is at most
    ///   `final_block`;
    /// - transactions signed before that time whose nonce is mined and final, and whose request is settled
    ///   and as old, or gone;
    /// - undecodable logs stored before that time in such blocks.
    ///
    /// The highest nonce stays. Works in chunks, with other commits in between; dropping the future stops
    /// between chunks.
    pub async fn prune(
        &self,
        settled_before_ms: u64,
        final_block: u64,
    ) -> Result<Pruned, LedgerError> {
        let mut total = Pruned::default();
        let work = || Work::Prune { settled_before_ms, final_block };
        while let CommandResult::Pruned { chunk, is_full } = self.durable(work()).await? {
            total.requests += chunk.requests;
            total.transactions += chunk.transactions;
            total.skipped_logs += chunk.skipped_logs;
            if !is_full {
                break;
            }
        }
        Ok(total)
    }

    /// Runs one query.
    pub async fn ask<T>(
        &self,
        question: impl FnOnce(QueryReply<T>) -> Query,
    ) -> Result<T, JournalError> {
        let (slot, answer) = QueryReply::new();
        let (of, query) = (self.source, question(slot));
        let reads = Arc::clone(&self.shared.reads).lock_owned().await;
        let asking = self.shared.machine.run(move || {
            if let Some(reads) = reads.as_ref() {
                reads.query(of, query);
            }
        });
        asking.await;
        let answer = answer.await.map_err(|_| self.shared.closed_error())?;
        answer.map_err(|cause| self.shared.store_error("a read", cause))
    }

    /// Queues work without waiting for its commit.
    async fn queue(
        &self,
        work: Work,
        reply: Option<commands::CommandReply>,
    ) -> Result<(), LedgerError> {
        let (of, at_ms) = (self.source, self.shared.machine.clock.unix_millis());
        let command = Command { of, work, at_ms, reply };
        self.commands.send(command).await.map_err(|_| self.shared.closed_error().into())
    }

    /// Queues work and waits until it is on disk.
    async fn durable(&self, work: Work) -> Result<CommandResult, LedgerError> {
        let (reply, done) = oneshot::channel();
        self.queue(work, Some(reply)).await?;
        done.await.unwrap_or_else(|_| Err(self.shared.closed_error().into()))
    }
}
