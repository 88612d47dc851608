//! The durable store of one instance: requests and where they stand, the cursor, and every signed
//! transaction. It implements the ports of the flow and of the lane.
//!
//! One `SQLite` file per (chain id, genesis, wallet), so that a renamed config keeps its history and
//! a reset test chain is not taken for the old one; requests and cursors inside are keyed by the
//! Decryption contract, transactions by nonce, so that two contracts share one lane. Beside it a
//! lock file: one process writes, an operator's `sqlite3` may read.
//!
//! What a caller may rely on:
//!
//! - `arrive`, `signed`, `reopen`, `prune` and `flush` are on disk (fsync) when they return `Ok`;
//! - `note`, `mined` and `gave_up` are on disk within about 20 ms or with the next of the above; losing them
//!   costs a repeat, never an outcome;
//! - commands of one caller take effect in the order it made them, and a crash keeps a prefix of
//!   that order;
//! - reads see what is on disk: what a restart would see. A note shows up after its commit
//!   ([`Journal::flush`] waits for it).
//!
//! What it is kept in is behind a port ([`store`]). [`Journal`] is a cheap handle; [`Writer`] is the one
//! task that writes; [`IdleStore`] is what it leaves when it ends: the store, open, for the next writer. No handle's call does anything before
//! the writer runs. Dropping any future of these is safe: a durable command whose
//! future was dropped may or may not be stored, and repeating it changes nothing.
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

/// Requests whose blocks are read at a start: more than a reorganisation takes.
const NEWEST_IDS: u32 = 1024;

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    commands: AtomicU64,
    durable: AtomicU64,
    moves: AtomicU64,
}

/// What handles and writer share.
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
    /// Why the writer ended, if by an error.
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

/// A handle on one instance's journal, for one contract on one chain. Cheap to clone.
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
    /// The same for another contract, or on another chain: it has requests, cursor and ids of its own, and
    /// each chain its nonces.
    #[must_use]
    pub fn for_source(&self, source: RequestSource) -> Self {
        Self { source, ..self.clone() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// How its store is; outlives the journal.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.shared.condition.clone()
    }

    /// What was found when it opened and deserves a loud word.
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

    /// Up to which block the wallet may have answered requests without this journal: 0 where it knows
    /// of all.
    pub async fn forgotten_up_to(&self) -> Result<u64, JournalError> {
        Ok(self.ask(Query::ForgottenUpTo).await?.unwrap_or(0))
    }

    /// Answers to requests up to this block may be missing here, for ever. Durable.
    pub async fn forget_up_to(&self, block: u64) -> Result<(), LedgerError> {
        self.durable(Work::ForgetUpTo(block)).await.map(|_| ())
    }

    /// All that is stored of one request, settled or not.
    pub async fn request(&self, key: RequestKey) -> Result<Option<RequestRecord>, JournalError> {
        self.ask(|slot| Query::Request(key, slot)).await
    }

    /// What an operator asks: any number of questions.
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

    /// What of the last `nonces` nonces is known to be mined, in their order.
    pub async fn recently_mined(&self, nonces: u64) -> Result<Vec<MinedTransaction>, JournalError> {
        self.ask(|slot| Query::RecentlyMined(nonces, slot)).await
    }

    /// Completes when requests that had an outcome were opened again ([`HoldReason::AnswerDropped`])
    /// since the last call.
    pub async fn reopened(&self) {
        self.shared.reopened.notified().await;
    }

    /// Waits until everything this caller asked for before is on disk.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        self.durable(Work::Flush).await.map(|_| ())
    }

    /// Opens a request again that ended without an answer: held as
    /// [`HoldReason::RetryAsked`], before its first ask, with the attempts it had. Durable. Answers
    /// whether it had ended so; any other request stays as it is.
    pub async fn open_again(&self, key: RequestKey) -> Result<bool, LedgerError> {
        Ok(matches!(self.durable(Work::OpenAgain(key)).await?, CommandResult::OpenedAgain(true)))
    }

    /// Removes, of every contract in the file, requests settled before `settled_before_ms` (Unix
    /// ms) whose outcome's block is at most `final_block`, and transactions signed before that
    /// whose nonce is used for good and whose request is settled and as old (or gone), and
    /// undecodable logs stored before that of such blocks. The highest nonce stays. Goes in chunks, other commits in between; dropping the future stops between
    /// chunks.
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

    /// Asks one thing of what is stored.
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
