//! The one writer of a journal: collects commands, commits them in groups.
//!
//! While one commit is under way further commands gather in the queue; the next commit takes them
//! all, so that the number of fsyncs follows the disk and not the load. A durable command is
//! answered after its commit's fsync and never waits for company; steps alone wait up to
//! [`STEP_DELAY`] for more.
//!
//! No thread belongs to an idle journal: the task waits on its queue, and each commit is blocking work
//! ([`Machine::run`]) with the connection moved in and out. Dropping the task in between is safe: a
//! commit under way ends on its own, with its answers given, and then closes connection and lock.
//!
//! Told to end, the writer gives the open, locked file back ([`Kept`]): whoever goes on with it needs
//! no second opening, and nobody can come in between. Handles made before see a closed journal.
//!
//! One commit is one `SQLite` transaction over its whole batch: all of it holds or none. There is no
//! savepoint per command because no command can fail alone: unknown keys, repeated hashes and
//! steps that contradict the stage are defined as changing nothing. What is left are failures of
//! the disk or the file. Where nothing of the commit was stored and the file is whole (no space left,
//! somebody else's lock), the writer tries the same commands again until there is room, and everybody
//! waits: nothing is acted on that was not stored. After any other failure nothing that follows could
//! be trusted: every waiting caller gets the error, and the writer ends with it.
//!
//! A file that was deleted while it was open takes what is written with it when the process ends. So
//! each commit looks whether the names are still those of the open files before it is answered; if
//! they are gone, the whole journal is written again, and the writer ends, for the next to open that.

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use rusqlite::{
    Connection, TransactionBehavior,
    ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC},
};
use tokio::{
    sync::{Mutex, Notify, mpsc},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    Condition, Counters, Identity, Journal, JournalError, OpenError, OpenWarning, Shared,
    commands::{Command, Done, FULL_BATCH, Settlement},
    lock::Lock,
    names::{self, Files, Names},
    schema,
    tables::Tables,
};
use crate::{
    backoff::Backoff,
    domain::{Address, LedgerError},
    heart::Heart,
    machine::{Fate, Machine},
    metrics::Metrics,
};

/// Commands waiting in the queue; a full queue makes callers wait.
pub(super) const QUEUE: usize = 1024;

/// How long a step waits for company when no durable command is waiting.
const STEP_DELAY: Duration = Duration::from_millis(20);

/// How long a commit may take before everybody hears that the disk does not answer: a busy one is faster.
const DISK_ANSWERS: Duration = Duration::from_secs(5);

/// Between attempts to store what there was no room for.
const ROOM_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The commands of one commit.
#[derive(Debug, Default)]
struct Group {
    commands: Vec<Command>,
    weight: usize,
    durable: bool,
}

impl Group {
    fn push(&mut self, command: Command) {
        self.weight += command.weight();
        self.durable |= command.reply.is_some();
        self.commands.push(command);
    }

    fn is_full(&self) -> bool {
        self.weight >= FULL_BATCH
    }
}

/// The task that owns the writing connection and the lock. Nothing is stored before
/// [`run`](Self::run) is polled; dropping it closes the journal.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<Command>,
    store: Store,
}

impl Writer {
    /// The writing connection, before the writer runs.
    pub(super) fn connection(&self) -> &Connection {
        &self.store.connection
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.store.connection
    }

    pub(super) fn lock_mut(&mut self) -> &mut Lock {
        &mut self.store.lock
    }

    /// The open file of a writer that never ran. Blocking.
    #[must_use]
    pub fn keep(self) -> Kept {
        let Self { mut queue, store } = self;
        queue.close();
        let reader = store.shared.reader.try_lock().ok().and_then(|mut reader| reader.take());
        store.keep(reader)
    }

    /// Commits until `until` is cancelled or every [`super::Journal`] is gone; then takes what is
    /// still queued, commits it and gives the file back, open and locked. Commands sent after that
    /// get an error. What it stores is counted in `metrics`.
    ///
    /// An error means that the disk or the file failed: what callers were told is stored is stored,
    /// everything later is not. Dropping the future keeps that promise too, and closes the file.
    pub async fn run(
        self,
        heart: Heart,
        metrics: Metrics,
        until: CancellationToken,
    ) -> Result<Kept, JournalError> {
        let Self { mut queue, mut store } = self;
        let shared = Arc::clone(&store.shared);
        let ended = loop {
            heart.rest();
            let Some(group) = collect(&mut queue, &until).await else { break Ok(()) };
            match store_all(store, group.commands, (&heart, &metrics), &until).await {
                Some((returned, result)) => {
                    store = returned;
                    if let Err(error) = result {
                        break Err(error);
                    }
                }
                None => return Err(JournalError::Closed { path: shared.path.clone() }),
            }
        };
        if let Err(error) = &ended {
            // First the reason, then the end of the queue: whoever finds it closed finds why.
            let _ = shared.ended.set(error.to_string());
        }
        queue.close();
        while let Some(command) = queue.recv().await {
            if let Some(reply) = command.reply {
                let _ = reply.send(Err(shared.closed().into()));
            }
        }
        // Whoever reads just now is waited for.
        let reader = shared.reader.lock().await.take();
        let kept = shared.machine.run(move || store.keep(reader)).await;
        ended?;
        kept.ok_or(JournalError::Closed { path: shared.path.clone() })
    }
}

/// Commits the commands, trying again while there is no room for them. `None`: the runtime is shutting
/// down.
async fn store_all(
    mut store: Store,
    mut commands: Vec<Command>,
    (heart, metrics): (&Heart, &Metrics),
    until: &CancellationToken,
) -> Option<(Store, Result<(), JournalError>)> {
    let mut pause = Backoff::new(ROOM_PAUSE.0, ROOM_PAUSE.1);
    let since = Instant::now();
    let shared = Arc::clone(&store.shared);
    let condition = &shared.condition;
    loop {
        heart.beat().await;
        let (machine, metrics) = (store.shared.machine.clone(), metrics.clone());
        let mut committing = pin!(machine.run(move || {
            let committed = store.commit(commands, &metrics);
            (store, committed)
        }));
        let done = match timeout(DISK_ANSWERS, &mut committing).await {
            Ok(done) => done,
            Err(_late) => {
                let path = shared.path.display();
                let why = format!(
                    "{path}: no answer for {DISK_ANSWERS:?}: its file system hangs (a network mount?), or \
                     another program holds it locked (lslocks); fix that, the instance goes on by itself"
                );
                if condition.wait(Some(why.clone())) {
                    error!(error = why, "the journal cannot be written: everything waits for it");
                }
                // Ending the instance would not help, and nobody else may have the file.
                heart.rest();
                committing.await
            }
        };
        let (returned, committed) = done?;
        store = returned;
        match committed {
            Committed::Stored => {
                if condition.wait(None) {
                    info!(waited = ?since.elapsed(), "the journal is written again");
                }
                return Some((store, Ok(())));
            }
            Committed::NoRoom(refused, error) => {
                if condition.wait(Some(error.to_string())) {
                    error!(%error, "the journal cannot be written: everything waits for it");
                }
                heart.rest();
                if until.run_until_cancelled(sleep(pause.next_delay())).await.is_none() {
                    answer_all(refused, &error);
                    return Some((store, Err(error)));
                }
                commands = refused;
            }
            Committed::Failed(error) => return Some((store, Err(error))),
        }
    }
}

/// What became of a commit.
enum Committed {
    Stored,
    /// Nothing of it is stored; it may be tried again.
    NoRoom(Vec<Command>, JournalError),
    Failed(JournalError),
}

fn answer_all(commands: Vec<Command>, error: &JournalError) {
    for reply in commands.into_iter().filter_map(|command| command.reply) {
        let _ = reply.send(Err(LedgerError(error.to_string())));
    }
}

/// The commands of the next commit, in order; `None` when there will be no more.
async fn collect(queue: &mut mpsc::Receiver<Command>, until: &CancellationToken) -> Option<Group> {
    let mut group = Group::default();
    let first = tokio::select! {
        biased;
        () = until.cancelled(), if !queue.is_closed() => {
            queue.close();
            queue.recv().await
        }
        first = queue.recv() => first,
    };
    group.push(first?);
    let patience = Instant::now() + STEP_DELAY;
    loop {
        while !group.is_full() {
            match queue.try_recv() {
                Ok(command) => group.push(command),
                Err(_) => break,
            }
        }
        if group.is_full() || group.durable || queue.is_closed() {
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

/// The reading connection's end. Where the writer was dropped, the reader goes with it, unless it is
/// reading just now: then it goes with the last handle.
struct ReaderEnd(Arc<Shared>);

impl Drop for ReaderEnd {
    fn drop(&mut self) {
        if let Ok(mut reader) = self.0.reader.try_lock() {
            reader.take();
        }
    }
}

/// The writing connection. Fields drop in this order: the reader first, the lock last.
pub(super) struct Store {
    reader: ReaderEnd,
    connection: Connection,
    contract: Address,
    shared: Arc<Shared>,
    lock: Lock,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// An open, locked journal that nobody writes. Dropping it closes the file (which folds the WAL
/// back: blocking) and then gives the lock back.
pub struct Kept {
    // Dropped in this order.
    reader: Option<Connection>,
    connection: Connection,
    shared: Arc<Shared>,
    lock: Lock,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Kept {
    /// Whose it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Closes the file and gives the lock back, without blocking the caller's thread.
    pub async fn close(self) {
        let machine = self.shared.machine.clone();
        // Dropped in any case: where this says nothing the runtime is ending.
        machine.run(move || drop(self)).await;
    }

    /// New handles and a new writer for this contract, on this machine. Blocking, a little.
    pub fn reopen(
        self,
        machine: &Machine,
        contract: Address,
    ) -> Result<(Journal, Writer), OpenError> {
        let Self { reader, connection, shared, lock } = self;
        let path = shared.path.clone();
        let reader = match reader {
            Some(reader) => reader,
            None => schema::connect_reader(&path).map_err(|e| OpenError::sqlite(&path, e))?,
        };
        let (identity, warnings) = (shared.identity, Vec::new());
        let machine = machine.clone();
        let parts = Parts { path, identity, machine, connection, reader, warnings, lock };
        Ok(parts.assemble(contract))
    }
}

/// What an open journal is made of.
pub(super) struct Parts {
    pub path: PathBuf,
    pub identity: Identity,
    pub machine: Machine,
    pub connection: Connection,
    pub reader: Connection,
    pub warnings: Vec<OpenWarning>,
    pub lock: Lock,
}

impl Parts {
    pub(super) fn assemble(self, contract: Address) -> (Journal, Writer) {
        let Self { path, identity, machine, connection, reader, warnings, lock } = self;
        let (commands, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            files: Files::of(&path),
            condition: Condition::default(),
            path,
            identity,
            machine,
            reader: Arc::new(Mutex::new(Some(reader))),
            counters: Counters::default(),
            reopened: Notify::new(),
            ended: OnceLock::new(),
        });
        let reader = ReaderEnd(Arc::clone(&shared));
        let store = Store { reader, connection, contract, shared: Arc::clone(&shared), lock };
        (Journal { commands, contract, warnings: warnings.into(), shared }, Writer { queue, store })
    }
}

impl Store {
    /// Commits all commands or none, then answers whoever waits.
    fn commit(&mut self, commands: Vec<Command>, metrics: &Metrics) -> Committed {
        let begun = Instant::now();
        let path = &self.shared.path;
        if self.shared.files.names(path) == Names::Unmounted {
            return Committed::NoRoom(commands, JournalError::Unmounted { path: path.clone() });
        }
        let done = match self.apply(&commands) {
            Ok(done) => {
                metrics.committed(begun.elapsed());
                done
            }
            Err(cause) => {
                let error = self.shared.failed("a commit", cause);
                if error.may_pass() {
                    return Committed::NoRoom(commands, error);
                }
                answer_all(commands, &error);
                return Committed::Failed(error);
            }
        };
        let ended = self.keep_names();
        if let Err(error @ (JournalError::Lost { .. } | JournalError::Replaced { .. })) = ended {
            answer_all(commands, &error);
            return Committed::Failed(error);
        }
        let counters = &self.shared.counters;
        let durable = commands.iter().filter(|command| command.reply.is_some()).count();
        let moves = commands.iter().any(|command| command.work.moves_requests());
        counters.commands.fetch_add(commands.len() as u64, Ordering::Relaxed);
        counters.durable.fetch_add(durable as u64, Ordering::Relaxed);
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.moves.fetch_add(u64::from(moves), Ordering::Relaxed);
        for (command, done) in commands.into_iter().zip(done) {
            // Only what is committed: a step that is tried again is counted once.
            if let Done::Settled(Settlement { kind, outcome, after }) = &done {
                metrics.settled(*kind, outcome, *after);
            }
            if let Some(reply) = command.reply {
                let _ = reply.send(Ok(done)); // a caller that gave up is not missed
            }
        }
        ended.map_or_else(Committed::Failed, |()| Committed::Stored)
    }

    /// What was committed counts only under the journal's name. An error ends the writer.
    fn keep_names(&self) -> Result<(), JournalError> {
        let path = self.shared.path.clone();
        match self.shared.files.names(&path) {
            // The next commit waits for what was unmounted just now: this one is in its files.
            Names::Ours | Names::Unmounted => Ok(()),
            Names::Anothers => Err(JournalError::Replaced { path }),
            Names::Gone => match self.write_again() {
                Ok(()) => Err(JournalError::Deleted { path }),
                Err(why) => Err(JournalError::Lost { path, why }),
            },
        }
    }

    /// The whole journal as it is open, into a new file of the same name.
    fn write_again(&self) -> Result<(), String> {
        let path = &self.shared.path;
        let copy = names::beside(path, ".new");
        let io = |error: std::io::Error| error.to_string();
        if let Some(dir) = path.parent() {
            names::make_directory(dir).map_err(io)?;
        }
        names::remove(&copy).map_err(io)?;
        names::create_new(&copy).map_err(io)?;
        let name = copy.to_str().ok_or("its path is no text")?;
        let written = self.connection.execute("VACUUM INTO ?1", [name]);
        written.map_err(|error| error.to_string())?;
        names::put_in_place(&copy, path).map_err(io)
    }

    /// With the reader, if nobody reads just now.
    fn keep(self, open: Option<Connection>) -> Kept {
        let Self { reader, connection, shared, lock, .. } = self;
        drop(reader);
        Kept { reader: open, connection, shared, lock }
    }

    fn apply(&mut self, commands: &[Command]) -> rusqlite::Result<Vec<Done>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let tables = Tables { transaction: &transaction, contract: self.contract };
        let done = commands
            .iter()
            .map(|Command { work, at_ms, .. }| tables.carry_out(work, *at_ms))
            .collect::<rusqlite::Result<Vec<_>>>()?;
        match self.shared.machine.commit() {
            Fate::Stored => transaction.commit()?,
            Fate::NotStored => return Err(failure(SQLITE_FULL, "database or disk is full")),
            Fate::StoredUnsaid => {
                transaction.commit()?;
                return Err(failure(SQLITE_IOERR_FSYNC, "disk I/O error"));
            }
        }
        Ok(done)
    }
}

/// What a disk says.
fn failure(code: i32, text: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text.to_owned()))
}
