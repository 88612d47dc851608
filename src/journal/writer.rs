//! The one writer of a journal: collects commands and commits them in groups.
//!
//! During a commit further commands wait in the queue; the next commit takes them all, so that the
//! number of fsyncs depends on the disk and not on the load. A durable command is answered after its
//! commit's fsync and never waits for others; steps alone wait up to [`STEP_DELAY`] for more.
//!
//! An idle journal has no thread: the task waits on its queue, and each commit is blocking work
//! ([`Machine::run`]) into which the store is moved. The task may be dropped at any time: a running
//! commit ends on its own, answers its callers, and then closes the store.
//!
//! When told to end, the writer returns the open store ([`IdleStore`]): the next writer need not open
//! it again, and no other process can come in between. Older handles see a closed journal.
//!
//! A commit is all of its commands or none, and no command fails alone ([`Store::commit`]), so only the
//! store can fail. If nothing of the commit was stored and the store is intact (no space left, locked
//! by another process), the writer repeats the same commands until they are stored, and all callers
//! wait: nothing is done that was not stored. After any other failure nothing later can be trusted:
//! every waiting caller gets the error, and the writer ends with it. The same happens when the tenure
//! is lost ([`Store::tenure_loss`]), which is checked before callers are answered, and every two seconds
//! while nothing is written: also of a store that waits for its next writer ([`IdleStore::keep`]).

mod commit;

use std::{
    fmt,
    path::PathBuf,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::commit::{CommitResult, OpenStore, ReaderGuard, answer_all};
use super::{
    Condition, Identity, JournalError, OpenWarning,
    commands::{Command, FULL_BATCH},
    handle::{Counters, Journal, JournalShared},
    sqlite::store::SqliteStore,
    store::{Store, StoreReader},
};
use crate::{
    domain::RequestSource,
    machine::Machine,
    telemetry::{heartbeat::Heartbeat, metrics::Metrics},
    time::backoff::Backoff,
};

/// Commands waiting in the queue; a full queue makes callers wait.
pub(super) const QUEUE_SIZE: usize = 1024;

/// How long a step waits for others when no durable command is waiting.
const STEP_DELAY: Duration = Duration::from_millis(20);

/// After this long a commit is reported as hanging: a busy disk is faster.
const SLOW_COMMIT_AFTER: Duration = Duration::from_secs(5);

/// How often a journal to which nothing is written is looked at: its files may be gone, and until that is
/// noticed nobody tells.
const TENURE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The shortest and longest pause between attempts to store a commit.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The commands of one commit.
#[derive(Debug, Default)]
struct CommitGroup {
    commands: Vec<Command>,
    weight: usize,
    durable: bool,
}

impl CommitGroup {
    fn push(&mut self, command: Command) {
        self.weight += command.weight();
        self.durable |= command.reply.is_some();
        self.commands.push(command);
    }

    fn is_contended(&self) -> bool {
        self.weight >= FULL_BATCH
    }
}

/// The task that owns the store and its tenure. Nothing is stored before [`run`](Self::run) is polled;
/// dropping it closes the journal.
pub struct Writer<S = SqliteStore> {
    queue: mpsc::Receiver<Command>,
    open: OpenStore<S>,
}

impl<S> fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.open.shared.path).finish_non_exhaustive()
    }
}

impl<S: Store> Writer<S> {
    #[cfg(test)]
    pub(super) fn store(&self) -> &S {
        &self.open.store
    }

    /// The open store of a writer that never ran. Blocking.
    #[must_use]
    pub fn into_idle_store(self) -> IdleStore<S> {
        let Self { mut queue, open } = self;
        queue.close();
        let reads = open.shared.reads.try_lock().ok().and_then(|mut reads| reads.take());
        open.into_idle_store(reads)
    }

    /// Commits until `until` is cancelled or every [`super::Journal`] is dropped; then commits what is
    /// still queued and returns the open store. Later commands get an error. Counts stored steps in
    /// `metrics`.
    ///
    /// An error means that the disk or the file failed: everything reported as stored is stored, everything
    /// later is not. Dropping the future keeps that promise too, and closes the file.
    pub async fn run(
        self,
        heart: Heartbeat,
        metrics: Metrics,
        until: CancellationToken,
    ) -> Result<IdleStore<S>, JournalError> {
        let Self { mut queue, mut open } = self;
        let shared = Arc::clone(&open.shared);
        let ended = loop {
            heart.rest();
            let Some(group) = collect_group(&mut queue, &until).await else { break Ok(()) };
            match commit_until_stored(open, group.commands, (&heart, &metrics), &until).await {
                Some((returned, result)) => {
                    open = returned;
                    if let Err(error) = result {
                        break Err(error);
                    }
                }
                None => return Err(JournalError::Closed { path: shared.path.clone() }),
            }
        };
        if let Err(error) = &ended {
            // Set before the queue ends, so that a caller who finds it closed also finds the reason.
            let _ = shared.ended.set(Arc::new(error.clone()));
        }
        queue.close();
        while let Some(command) = queue.recv().await {
            if let Some(reply) = command.reply {
                let _ = reply.send(Err(shared.closed_error().into()));
            }
        }
        // Waits for a read in progress.
        let reads = shared.reads.lock().await.take();
        let closing = shared.machine.run(move || {
            // Files deleted since the last commit are written again now, or gone with the open file.
            let lost = if ended.is_ok() { open.store.tenure_loss() } else { None };
            let kept = open.into_idle_store(reads);
            ended.and(lost.map_or(Ok(kept), Err))
        });
        closing.await.unwrap_or_else(|| Err(JournalError::Closed { path: shared.path.clone() }))
    }
}

/// Commits the commands, repeating until there is room for them. `None`: the runtime is shutting down.
async fn commit_until_stored<S: Store>(
    mut open: OpenStore<S>,
    mut commands: Vec<Command>,
    (heart, metrics): (&Heartbeat, &Metrics),
    until: &CancellationToken,
) -> Option<(OpenStore<S>, Result<(), JournalError>)> {
    let mut pause = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
    let since = Instant::now();
    let shared = Arc::clone(&open.shared);
    let condition = &shared.condition;
    loop {
        heart.beat().await;
        let (machine, metrics) = (shared.machine.clone(), metrics.clone());
        let mut committing = pin!(machine.run(move || {
            let committed = open.commit(commands, &metrics);
            (open, committed)
        }));
        let done = match timeout(SLOW_COMMIT_AFTER, &mut committing).await {
            Ok(done) => done,
            Err(_late) => {
                let path = shared.path.clone();
                waits(condition, &JournalError::Silent { path, since: SLOW_COMMIT_AFTER });
                // Restarting the instance would not help, and no other process should take the file.
                heart.rest();
                committing.await
            }
        };
        let (returned, committed) = done?;
        open = returned;
        match committed {
            CommitResult::Stored => {
                if condition.set_waiting_reason(None) {
                    info!(waited = ?since.elapsed(), "the journal is written again");
                }
                return Some((open, Ok(())));
            }
            CommitResult::NoRoom(refused, error) => {
                waits(condition, &error);
                heart.rest();
                let pause = sleep(pause.next_delay(shared.machine.dice.roll()));
                if until.run_until_cancelled(pause).await.is_none() {
                    answer_all(refused, &error);
                    return Some((open, Err(error)));
                }
                commands = refused;
            }
            CommitResult::Failed(error) => return Some((open, Err(error))),
        }
    }
}

fn waits(condition: &Condition, why: &JournalError) {
    if condition.set_waiting_reason(Some(why.clone())) {
        error!(error = %why, code = why.code(), "the journal cannot be written: everything waits for it");
    }
}

/// The commands of the next commit, in order; `None` if there will be no more. Empty after a time without any.
async fn collect_group(
    queue: &mut mpsc::Receiver<Command>,
    until: &CancellationToken,
) -> Option<CommitGroup> {
    let mut group = CommitGroup::default();
    let first = tokio::select! {
        biased;
        () = until.cancelled(), if !queue.is_closed() => {
            queue.close();
            queue.recv().await
        }
        first = queue.recv() => first,
        () = sleep(TENURE_CHECK_INTERVAL) => return Some(group),
    };
    group.push(first?);
    let patience = Instant::now() + STEP_DELAY;
    loop {
        while !group.is_contended() {
            match queue.try_recv() {
                Ok(command) => group.push(command),
                Err(_) => break,
            }
        }
        if group.is_contended() || group.durable || queue.is_closed() {
            return Some(group);
        }
        tokio::select! {
            biased;
            () = until.cancelled() => queue.close(),
            () = sleep_until(patience) => return Some(group),
            command = queue.recv() => match command {
                Some(command) => group.push(command),
                None => return Some(group),
            },
        }
    }
}

/// An open store without a writer. Dropping it closes it (blocking), and then returns the tenure.
pub struct IdleStore<S = SqliteStore> {
    // Dropped in this order.
    reads: Option<Box<dyn StoreReader>>,
    store: S,
    shared: Arc<JournalShared>,
}

impl<S> fmt::Debug for IdleStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl<S: Store> IdleStore<S> {
    /// The journal's identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Keeps it for the next writer until `until`, on the machine of who waits: the writer that left it may be
    /// of a process that is gone. An error, which also closes it: the tenure was lost. If the files were
    /// deleted, they are written again.
    pub async fn keep(
        mut self,
        machine: Machine,
        until: CancellationToken,
    ) -> Result<Self, JournalError> {
        loop {
            let pause = sleep(TENURE_CHECK_INTERVAL);
            let is_over = until.run_until_cancelled(pause).await.is_none();
            let path = self.shared.path.clone();
            let checking = machine.run(move || match self.store.tenure_loss() {
                None => Ok(self),
                Some(lost) => Err(lost),
            });
            self = checking.await.unwrap_or(Err(JournalError::Closed { path }))?;
            if is_over {
                return Ok(self);
            }
        }
    }

    /// Closes the store and returns the tenure, without blocking the caller's thread.
    pub async fn close(self) {
        let machine = self.shared.machine.clone();
        // Dropped in any case: no result means that the runtime is shutting down.
        machine.run(move || drop(self)).await;
    }

    /// The store, for the next writer. Its reading side has ended.
    pub(super) fn into_store(self) -> (S, Identity) {
        let Self { reads, store, shared } = self;
        drop(reads);
        (store, shared.identity)
    }
}

/// What else is known of a store when it opens.
pub(super) struct JournalParts {
    pub path: PathBuf,
    pub identity: Identity,
    /// Of the handle.
    pub source: RequestSource,
    pub machine: Machine,
    pub warnings: Vec<OpenWarning>,
}

/// The handle on an open store, and its writer.
pub(super) fn assemble<S: Store>(
    store: S,
    reads: Box<dyn StoreReader>,
    JournalParts { path, identity, source, machine, warnings }: JournalParts,
) -> (Journal, Writer<S>) {
    let (commands, queue) = mpsc::channel(QUEUE_SIZE);
    let shared = Arc::new(JournalShared {
        condition: Condition::default(),
        path,
        identity,
        store_id: store.id(),
        machine,
        reads: Arc::new(Mutex::new(Some(reads))),
        counters: Counters::default(),
        reopened: Notify::new(),
        ended: OnceLock::new(),
    });
    let reads = ReaderGuard(Arc::clone(&shared));
    let open = OpenStore { reads, store, shared: Arc::clone(&shared) };
    let journal = Journal { commands, source, warnings: warnings.into(), shared };
    (journal, Writer { queue, open })
}
