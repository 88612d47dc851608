//! The handle on a journal: what its callers ask of it, read beside the writer and written through it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Mutex, Notify, mpsc, oneshot};

use super::{
    commands::{self, Command, CommandResult, Work},
    condition::Condition,
    errors::{JournalError, OpenWarning, StoreError, StoreFault},
    identity::Identity,
    queries::Queries,
    records::{Pruned, RequestRecord, Statistics},
    store::{Query, QueryReply, StoreId, StoreReader},
};
use crate::{
    chain::lane::MinedTransaction,
    domain::{Generation, LedgerError, RequestKey, RequestSource, U256},
    machine::Machine,
};

/// Requests whose blocks are read at a start: more than a reorganisation affects.
const NEWEST_IDS: u32 = 1024;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) commands: AtomicU64,
    pub(super) durable: AtomicU64,
    pub(super) moves: AtomicU64,
}

/// Shared by handles and the writer.
pub(super) struct JournalShared {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// Of the store that was opened.
    pub(super) store_id: StoreId,
    pub(super) machine: Machine,
    /// Taken by the writer when it closes.
    pub(super) reads: Arc<Mutex<Option<Box<dyn StoreReader>>>>,
    pub(super) counters: Counters,
    pub(super) reopened: Notify,
    pub(super) condition: Condition,
    /// The error that ended the writer, if any.
    pub(super) ended: OnceLock<Arc<JournalError>>,
}

impl JournalShared {
    pub(super) fn store_error(&self, doing: &'static str, cause: StoreError) -> JournalError {
        let cause = Arc::new(cause);
        if cause.fault == StoreFault::Damaged {
            self.condition.set_damage(self.store_id, Arc::clone(&cause));
        }
        JournalError::Store { path: self.path.clone(), doing, cause }
    }

    pub(super) fn closed_error(&self) -> JournalError {
        match self.ended.get() {
            Some(cause) => JournalError::Ended { cause: cause.clone() },
            None => JournalError::Closed { path: self.path.clone() },
        }
    }
}

/// A handle on an instance's journal, for one contract on one chain. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) source: RequestSource,
    pub(super) warnings: Arc<[OpenWarning]>,
    pub(super) shared: Arc<JournalShared>,
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

    /// The chain that it is of.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.source.chain_id
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

    /// Notes which deployment stands at the contract's address, for operators: each change, and the last
    /// one for the next start. Written with the next commit.
    pub async fn note_deployment(&self, deployment: String) -> Result<(), LedgerError> {
        self.queue(Work::NoteDeployment(deployment), None).await
    }

    /// Notes that this generation stood at the contract's address in this final block, so that an older one
    /// is not believed any more. Durable.
    pub async fn note_generation(
        &self,
        generation: Generation,
        block: u64,
    ) -> Result<(), LedgerError> {
        self.durable(Work::NoteGeneration(generation, block)).await.map(|_| ())
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

    /// Completes when settled requests were opened again (`HoldReason::AnswerDropped`), or a key operation ended
    /// for which others may be held, since the last call.
    pub async fn reopened(&self) {
        self.shared.reopened.notified().await;
    }

    /// Waits until all earlier commands of this caller are on disk.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        self.durable(Work::Flush).await.map(|_| ())
    }

    /// Opens a request again that ended without an answer. It is then held as `HoldReason::RetryAsked` at
    /// its first stage, with its number of attempts. Durable. Returns whether there was such a request;
    /// others stay as they are.
    pub async fn open_again(&self, key: RequestKey) -> Result<bool, LedgerError> {
        Ok(matches!(self.durable(Work::OpenAgain(key)).await?, CommandResult::OpenedAgain(true)))
    }

    /// Records that an operator approved the request. The first approval stays. Durable.
    pub async fn approve(&self, key: RequestKey, by: String) -> Result<(), LedgerError> {
        self.durable(Work::Approve { key, by }).await.map(|_| ())
    }

    /// Records that this handle's contract stands beside a Decryption contract, which names its requests: its
    /// cursor does not tell which contract the journal is of. Durable.
    pub async fn stand_beside(&self, decryption: RequestSource) -> Result<(), LedgerError> {
        self.durable(Work::StandBeside(decryption)).await.map(|_| ())
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
    pub(super) async fn queue(
        &self,
        work: Work,
        reply: Option<commands::CommandReply>,
    ) -> Result<(), LedgerError> {
        let (of, at_ms) = (self.source, self.shared.machine.clock.unix_millis());
        let command = Command { of, work, at_ms, reply };
        self.commands.send(command).await.map_err(|_| self.shared.closed_error().into())
    }

    /// Queues work and waits until it is on disk.
    pub(super) async fn durable(&self, work: Work) -> Result<CommandResult, LedgerError> {
        let (reply, done) = oneshot::channel();
        self.queue(work, Some(reply)).await?;
        done.await.unwrap_or_else(|_| Err(self.shared.closed_error().into()))
    }
}
