//! The one writer of a journal: collects commands, commits them in groups.
//!
//! While one commit is under way further commands gather in the queue; the next commit takes them
//! all, so that the number of fsyncs follows the disk and not the load. A durable command is
//! answered after its commit's fsync and never waits for company; steps alone wait up to
//! [`STEP_DELAY`] for more.
//!
//! No thread belongs to an idle journal: the task waits on its queue, and each commit runs in
//! `spawn_blocking` with the connection moved in and out. Dropping the task in between is safe: a
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
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    Condition, Counters, Identity, Journal, JournalError, OpenError, OpenWarning, Pruned, Shared,
    blocking,
    lock::Lock,
    names::{self, Files, Names},
    reader::{read_progress, read_transaction},
    record::{
        Change, Fixed, Number, OutcomeColumns, Progress, advance, kind_from_name, settled_by_chain,
        step_name, topics_to_blob,
    },
    schema, statements as sql,
};
use crate::{
    backoff::Backoff,
    domain::{Address, B256, BlockRef, Event, HoldReason, Kind, LedgerError, Outcome, RequestKey},
    flow::{Arrival, Batch, Step, Taken},
    gateway::lane::{GivenUp, SignedTransaction},
    heart::Heart,
    metrics::Metrics,
};

/// Commands waiting in the queue; a full queue makes callers wait.
pub(super) const QUEUE: usize = 1024;

/// How long a step waits for company when no durable command is waiting.
const STEP_DELAY: Duration = Duration::from_millis(20);

/// A commit takes further commands until they weigh this much (bytes, roughly as stored).
const FULL_BATCH: usize = 8 * 1024 * 1024;

/// Rows one prune command removes at most, so that commits behind it wait milliseconds.
const PRUNE_CHUNK: u32 = 500;

/// Between attempts to store what there was no room for.
const ROOM_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    Arrive(Batch),
    Signed(Vec<SignedTransaction>),
    Note(RequestKey, Step),
    Mined(B256, BlockRef),
    GiveUp(Vec<B256>, GivenUp),
    Reopen(Vec<B256>),
    /// One that ended without an answer.
    OpenAgain(RequestKey),
    /// One chunk of what is old.
    Prune {
        settled_before_ms: u64,
        final_block: u64,
    },
    /// Nothing: a barrier.
    Flush,
}

impl Work {
    /// Whether it may change how many requests stand where.
    fn moves_requests(&self) -> bool {
        match self {
            Self::Arrive(batch) => !batch.arrivals.is_empty(),
            Self::Note(..) | Self::Reopen(_) | Self::OpenAgain(_) => true,
            Self::Signed(_)
            | Self::Mined(..)
            | Self::GiveUp(..)
            | Self::Prune { .. }
            | Self::Flush => false,
        }
    }
}

/// What a durable command answers, and what a step did.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Settled(Settlement),
    Taken(Taken),
    Pruned(Pruned),
    Reopened(Vec<SignedTransaction>),
    /// Whether it had ended without an answer.
    OpenedAgain(bool),
}

/// A request that ended.
#[derive(Debug)]
pub(super) struct Settlement {
    kind: Kind,
    outcome: Outcome,
    /// Since its event was first stored.
    after: Duration,
}

pub(super) type Reply = oneshot::Sender<Result<Done, LedgerError>>;

/// Work, when it was asked for, and who waits for its fsync.
#[derive(Debug)]
pub(super) struct Command {
    pub work: Work,
    pub at_ms: u64,
    pub reply: Option<Reply>,
}

impl Command {
    fn weight(&self) -> usize {
        let event = |event: &Event| 256 + event.data.len();
        let bytes = match &self.work {
            Work::Arrive(batch) => {
                batch.arrivals.iter().map(|arrival| 512 + event(&arrival.event)).sum::<usize>()
                    + batch.skipped.iter().map(|(skipped, _)| event(skipped)).sum::<usize>()
            }
            Work::Signed(transactions) => transactions.iter().map(|one| 512 + one.raw.len()).sum(),
            Work::Note(_, Step::Answered(answer)) => answer.payload.len() + answer.extra_data.len(),
            Work::Prune { .. } => FULL_BATCH / 8,
            Work::Note(..)
            | Work::Mined(..)
            | Work::GiveUp(..)
            | Work::Reopen(_)
            | Work::OpenAgain(_)
            | Work::Flush => 0,
        };
        bytes + 512
    }
}

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

    /// Has what it stores counted here.
    #[must_use]
    pub fn counting(mut self, metrics: Metrics) -> Self {
        self.store.metrics = metrics;
        self
    }

    /// The open file of a writer that never ran. Blocking.
    #[must_use]
    pub fn keep(self) -> Kept {
        let Self { mut queue, store } = self;
        queue.close();
        store.keep()
    }

    /// Commits until `until` is cancelled or every [`super::Journal`] is gone; then takes what is
    /// still queued, commits it and gives the file back, open and locked. Commands sent after that
    /// get an error.
    ///
    /// An error means that the disk or the file failed: what callers were told is stored is stored,
    /// everything later is not. Dropping the future keeps that promise too, and closes the file.
    pub async fn run(self, heart: Heart, until: CancellationToken) -> Result<Kept, JournalError> {
        let Self { mut queue, mut store } = self;
        let shared = Arc::clone(&store.shared);
        let ended = loop {
            heart.rest();
            let Some(group) = collect(&mut queue, &until).await else { break Ok(()) };
            match store_all(store, group.commands, &heart, &until).await {
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
        let kept = blocking(move || store.keep()).await;
        ended?;
        kept.ok_or(JournalError::Closed { path: shared.path.clone() })
    }
}

/// Commits the commands, trying again while there is no room for them. `None`: the runtime is shutting
/// down.
async fn store_all(
    mut store: Store,
    mut commands: Vec<Command>,
    heart: &Heart,
    until: &CancellationToken,
) -> Option<(Store, Result<(), JournalError>)> {
    let mut pause = Backoff::new(ROOM_PAUSE.0, ROOM_PAUSE.1);
    let since = Instant::now();
    loop {
        heart.beat().await;
        let (returned, committed) = blocking(move || {
            let committed = store.commit(commands);
            (store, committed)
        })
        .await?;
        store = returned;
        let condition = &store.shared.condition;
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
    metrics: Metrics,
    #[cfg(debug_assertions)]
    page_limit: Option<u32>,
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

    /// New handles and a new writer for this contract. Blocking, a little.
    pub fn reopen(self, contract: Address) -> Result<(Journal, Writer), OpenError> {
        let Self { reader, connection, shared, lock } = self;
        let path = shared.path.clone();
        let reader = match reader {
            Some(reader) => reader,
            None => schema::connect_reader(&path).map_err(|e| OpenError::sqlite(&path, e))?,
        };
        let (identity, warnings) = (shared.identity, Vec::new());
        let parts = Parts { path, identity, connection, reader, warnings, lock };
        Ok(parts.assemble(contract))
    }
}

/// What an open journal is made of.
pub(super) struct Parts {
    pub path: PathBuf,
    pub identity: Identity,
    pub connection: Connection,
    pub reader: Connection,
    pub warnings: Vec<OpenWarning>,
    pub lock: Lock,
}

impl Parts {
    pub(super) fn assemble(self, contract: Address) -> (Journal, Writer) {
        let Self { path, identity, connection, reader, warnings, lock } = self;
        let (commands, queue) = mpsc::channel(QUEUE);
        #[cfg(debug_assertions)]
        let page_limit = schema::page_limit(&path);
        let shared = Arc::new(Shared {
            files: Files::of(&path),
            condition: Condition::default(),
            path,
            identity,
            reader: Arc::new(Mutex::new(Some(reader))),
            counters: Counters::default(),
            reopened: Notify::new(),
            ended: OnceLock::new(),
        });
        let reader = ReaderEnd(Arc::clone(&shared));
        let store = Store {
            reader,
            connection,
            contract,
            shared: Arc::clone(&shared),
            metrics: Metrics::default(),
            #[cfg(debug_assertions)]
            page_limit,
            lock,
        };
        (Journal { commands, contract, warnings: warnings.into(), shared }, Writer { queue, store })
    }
}

impl Store {
    /// Commits all commands or none, then answers whoever waits.
    fn commit(&mut self, commands: Vec<Command>) -> Committed {
        #[cfg(debug_assertions)]
        if let Err(cause) = self.limit_pages() {
            return Committed::Failed(self.shared.failed("limiting its pages", cause));
        }
        let begun = Instant::now();
        let done = match apply(&mut self.connection, self.contract, &commands) {
            Ok(done) => {
                self.metrics.committed(begun.elapsed());
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
                self.metrics.settled(*kind, outcome, *after);
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
            Names::Ours => Ok(()),
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
        names::create_private(&copy).map_err(io)?;
        let name = copy.to_str().ok_or("its path is no text")?;
        let written = self.connection.execute("VACUUM INTO ?1", [name]);
        written.map_err(|error| error.to_string())?;
        names::put_in_place(&copy, path).map_err(io)
    }

    /// In debug builds, a file beside the journal with a number in it is a disk of so many pages.
    #[cfg(debug_assertions)]
    fn limit_pages(&mut self) -> rusqlite::Result<()> {
        let limit = schema::page_limit(&self.shared.path);
        if limit != self.page_limit {
            schema::limit_pages(&self.connection, limit)?;
            self.page_limit = limit;
        }
        Ok(())
    }

    /// Takes the reader away from all handles. Blocking: it may be reading.
    fn keep(self) -> Kept {
        let Self { reader, connection, shared, lock, .. } = self;
        // Nobody may block in a simulated world; who reads just now closes the reader.
        #[cfg(test)]
        if crate::simulated::is_on() {
            drop(reader);
            return Kept { reader: None, connection, shared, lock };
        }
        let open = shared.reader.blocking_lock().take();
        drop(reader);
        Kept { reader: open, connection, shared, lock }
    }
}

fn apply(
    connection: &mut Connection,
    contract: Address,
    commands: &[Command],
) -> rusqlite::Result<Vec<Done>> {
    #[cfg(test)]
    let fault = crate::simulated::commit();
    #[cfg(test)]
    if fault == Some(crate::simulated::DiskFault::NotStored) {
        return Err(crate::simulated::disk_full());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables = Tables { transaction: &transaction, contract };
    let done = commands
        .iter()
        .map(|Command { work, at_ms, .. }| tables.carry_out(work, *at_ms))
        .collect::<rusqlite::Result<Vec<_>>>()?;
    transaction.commit()?;
    #[cfg(test)]
    if fault.is_some() {
        return Err(crate::simulated::disk_failure());
    }
    Ok(done)
}

/// The tables inside one transaction.
pub(super) struct Tables<'t> {
    pub transaction: &'t Transaction<'t>,
    pub contract: Address,
}

impl Tables<'_> {
    fn carry_out(&self, work: &Work, now_ms: u64) -> rusqlite::Result<Done> {
        match work {
            Work::Arrive(batch) => self.arrive(batch, now_ms).map(Done::Taken),
            Work::Signed(transactions) => {
                for transaction in transactions {
                    self.sign(transaction, now_ms)?;
                }
                Ok(Done::Nothing)
            }
            Work::Note(key, step) => self.note(*key, step, now_ms),
            Work::Mined(hash, block) => self.mine(*hash, *block, now_ms).map(|()| Done::Nothing),
            Work::GiveUp(hashes, why) => {
                let mut give_up = self.transaction.prepare_cached(sql::GIVE_UP_TRANSACTION)?;
                for hash in hashes {
                    give_up.execute(params![Fixed(*hash), why.as_str()])?;
                }
                Ok(Done::Nothing)
            }
            Work::Reopen(hashes) => self.reopen(hashes, now_ms).map(Done::Reopened),
            Work::OpenAgain(key) => self.open_again(*key, now_ms).map(Done::OpenedAgain),
            Work::Prune { settled_before_ms, final_block } => {
                self.prune(*settled_before_ms, *final_block).map(Done::Pruned)
            }
            Work::Flush => Ok(Done::Nothing),
        }
    }

    pub(super) fn arrive(&self, batch: &Batch, now_ms: u64) -> rusqlite::Result<Taken> {
        let mut taken = Taken::default();
        for (index, arrival) in batch.arrivals.iter().enumerate() {
            if self.insert_request(arrival, now_ms)? {
                taken.new.push(index);
            } else if self.move_request(arrival, batch.cursor.is_some())? {
                taken.reopened.push(index);
            }
        }
        for (event, reason) in &batch.skipped {
            self.transaction.prepare_cached(sql::INSERT_SKIPPED)?.execute(params![
                Fixed(self.contract),
                reason,
                Number(now_ms),
                Number(event.block.number),
                Fixed(event.block.hash),
                Fixed(event.transaction),
                Number(event.log_index),
                topics_to_blob(&event.topics),
                event.data.as_ref(),
            ])?;
        }
        if let Some(cursor) = batch.cursor {
            self.transaction.prepare_cached(sql::SET_CURSOR)?.execute(params![
                Fixed(self.contract),
                Number(cursor.number),
                Fixed(cursor.hash),
                Number(now_ms),
            ])?;
        }
        Ok(taken)
    }

    /// A known request takes over the block it is in now. Whether it was settled and is open again.
    fn move_request(&self, arrival: &Arrival, may_reopen: bool) -> rusqlite::Result<bool> {
        let Arrival { key, event, .. } = arrival;
        let known = self
            .transaction
            .prepare_cached(sql::SELECT_BLOCK)?
            .query_row(params![Fixed(self.contract), Fixed(key.id), Fixed(key.content)], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, Option<String>>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get::<_, Fixed<B256>>(3)?.0,
                ))
            })
            .optional()?;
        let Some((seq, outcome, refusal, block)) = known else { return Ok(false) };
        let reopens = settled_by_chain(outcome.as_deref(), refusal.as_deref());
        if block == event.block.hash || (reopens && !may_reopen) {
            return Ok(false);
        }
        self.transaction.prepare_cached(sql::MOVE_EVENT)?.execute(params![
            seq,
            Number(event.block.number),
            Fixed(event.block.hash),
            Fixed(event.transaction),
            Number(event.log_index),
        ])?;
        if reopens {
            self.transaction.prepare_cached(sql::REOPEN)?.execute([seq])?;
        }
        Ok(reopens)
    }

    /// Whether it was new.
    fn insert_request(&self, arrival: &Arrival, now_ms: u64) -> rusqlite::Result<bool> {
        let Arrival { key, kind, event } = arrival;
        let inserted = self.transaction.prepare_cached(sql::INSERT_REQUEST)?.execute(params![
            Fixed(self.contract),
            Fixed(key.id),
            Fixed(key.content),
            kind.as_str(),
            Number(now_ms),
        ])?;
        if inserted == 0 {
            return Ok(false);
        }
        self.transaction.prepare_cached(sql::INSERT_EVENT)?.execute(params![
            self.transaction.last_insert_rowid(),
            Number(event.block.number),
            Fixed(event.block.hash),
            Fixed(event.transaction),
            Number(event.log_index),
            topics_to_blob(&event.topics),
            event.data.as_ref(),
        ])?;
        Ok(true)
    }

    fn note(&self, key: RequestKey, step: &Step, now_ms: u64) -> rusqlite::Result<Done> {
        let stored = self
            .transaction
            .prepare_cached(sql::SELECT_PROGRESS)?
            .query_row(params![Fixed(self.contract), Fixed(key.id), Fixed(key.content)], |row| {
                let seq: i64 = row.get(sql::PROGRESS_COLUMNS)?;
                let kind: String = row.get(sql::PROGRESS_COLUMNS + 1)?;
                Ok((seq, kind, read_progress(row)?))
            })
            .optional()?;
        let Some((seq, kind, before)) = stored else {
            tracing::warn!(request = %key, step = step_name(step), "step of a request the journal does not know");
            return Ok(Done::Nothing);
        };
        match advance(&before, step, now_ms) {
            Change::Nothing(why) => {
                tracing::debug!(request = %key, step = step_name(step), why, "step changes nothing");
                Ok(Done::Nothing)
            }
            Change::Advance(after, answer) => {
                if let Some(answer) = answer {
                    self.transaction.prepare_cached(sql::PUT_ANSWER)?.execute(params![
                        seq,
                        answer.payload.as_ref(),
                        answer.signature.as_ref(),
                        answer.extra_data.as_ref(),
                    ])?;
                }
                self.advance(seq, &after).map(|()| Done::Nothing)
            }
            Change::Settle(after) => {
                self.settle(seq, &after)?;
                let after_ms = now_ms.saturating_sub(after.arrived_at_ms);
                let counted = kind_from_name(&kind).zip(after.outcome);
                Ok(counted.map_or(Done::Nothing, |(kind, outcome)| {
                    let after = Duration::from_millis(after_ms);
                    Done::Settled(Settlement { kind, outcome, after })
                }))
            }
        }
    }

    fn advance(&self, seq: i64, after: &Progress) -> rusqlite::Result<()> {
        let held = after.held.as_ref();
        self.transaction.prepare_cached(sql::ADVANCE)?.execute(params![
            seq,
            after.stage.as_str(),
            held.map(|held| held.hold.reason.as_str()),
            held.map(|held| held.hold.detail.as_str()),
            held.map(|held| Number(held.since_ms)),
            after.attempts,
            after.last_error,
            after.transaction.map(Fixed),
            after.asked_at_ms.map(Number),
            after.answered_at_ms.map(Number),
            after.submitted_at_ms.map(Number),
            Number(after.worked_ms),
        ])?;
        Ok(())
    }

    fn settle(&self, seq: i64, after: &Progress) -> rusqlite::Result<()> {
        let outcome = after.outcome.as_ref().map(OutcomeColumns::from).unwrap_or_default();
        self.transaction.prepare_cached(sql::SETTLE)?.execute(params![
            seq,
            after.settled_at_ms.map(Number),
            outcome.name,
            outcome.refusal,
            outcome.detail,
            outcome.transaction.map(Fixed),
            outcome.block.map(|block| Number(block.number)),
            outcome.block.map(|block| Fixed(block.hash)),
        ])?;
        Ok(())
    }

    pub(super) fn sign(&self, signed: &SignedTransaction, now_ms: u64) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql::INSERT_TRANSACTION)?.execute(params![
            Number(signed.nonce),
            Fixed(signed.hash),
            Fixed(self.contract),
            signed.request.map(|key| Fixed(key.id)),
            signed.request.map(|key| Fixed(key.content)),
            Number(now_ms),
            signed.raw.as_ref(),
        ])?;
        Ok(())
    }

    fn mine(&self, hash: B256, block: BlockRef, now_ms: u64) -> rusqlite::Result<()> {
        let known = self.transaction.prepare_cached(sql::MINE_TRANSACTION)?.execute(params![
            Fixed(hash),
            Number(now_ms),
            Number(block.number),
            Fixed(block.hash),
        ])?;
        if known == 0 {
            tracing::warn!(transaction = %hash, "mined transaction the journal does not know");
        }
        Ok(())
    }

    /// Mined transactions that the chain has no more, and the requests that they had answered.
    fn reopen(&self, hashes: &[B256], now_ms: u64) -> rusqlite::Result<Vec<SignedTransaction>> {
        let mut open = BTreeMap::new();
        for hash in hashes {
            self.transaction.prepare_cached(sql::REOPEN_ANSWERED)?.execute(params![
                Fixed(*hash),
                Number(now_ms),
                HoldReason::AnswerDropped.as_str(),
                "its answer's block has left the chain; it is sent again",
            ])?;
            self.transaction.prepare_cached(sql::REOPEN_TRANSACTION)?.execute([Fixed(*hash)])?;
            let recorded: Vec<SignedTransaction> = self
                .transaction
                .prepare_cached(sql::RECORDED_WITH)?
                .query_map([Fixed(*hash)], read_transaction)?
                .collect::<rusqlite::Result<_>>()?;
            if let Some(first) = recorded.first() {
                open.insert(first.nonce, recorded);
            }
        }
        Ok(open.into_values().flatten().collect())
    }

    /// Whether it had ended without an answer; any other stays as it is.
    fn open_again(&self, key: RequestKey, now_ms: u64) -> rusqlite::Result<bool> {
        let changed = self.transaction.prepare_cached(sql::OPEN_AGAIN)?.execute(params![
            Fixed(self.contract),
            Fixed(key.id),
            Fixed(key.content),
            Number(now_ms),
            HoldReason::RetryAsked.as_str(),
            "an operator asked for another try",
        ])?;
        Ok(changed > 0)
    }

    fn prune(&self, settled_before_ms: u64, final_block: u64) -> rusqlite::Result<Pruned> {
        let (before, last) = (Number(settled_before_ms), Number(final_block));
        let old: Vec<i64> = self
            .transaction
            .prepare_cached(sql::OLD_REQUESTS)?
            .query_map(params![before, last, PRUNE_CHUNK], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for statement in sql::DELETE_REQUEST {
            let mut statement = self.transaction.prepare_cached(statement)?;
            for seq in &old {
                statement.execute([seq])?;
            }
        }
        let highest: Option<Number> =
            self.transaction.query_row(sql::HIGHEST_NONCE, [], |row| row.get(0))?;
        let highest_final: Option<Number> = self
            .transaction
            .query_row(sql::HIGHEST_FINAL_NONCE, [last], |row| row.get(0))
            .optional()?;
        let displaced: Vec<i64> = self
            .transaction
            .prepare_cached(sql::OLD_TRANSACTIONS)?
            .query_map(
                params![
                    before,
                    last,
                    highest.unwrap_or(Number(0)),
                    highest_final.unwrap_or(Number(0)),
                    PRUNE_CHUNK
                ],
                |row| row.get(0),
            )?
            .collect::<rusqlite::Result<_>>()?;
        let mut statement = self.transaction.prepare_cached(sql::DELETE_TRANSACTION)?;
        for seq in &displaced {
            statement.execute([seq])?;
        }
        Ok(Pruned { requests: old.len() as u64, transactions: displaced.len() as u64 })
    }
}

impl Pruned {
    /// Whether a further chunk may find more.
    pub(super) fn is_full_chunk(self) -> bool {
        self.requests >= u64::from(PRUNE_CHUNK) || self.transactions >= u64::from(PRUNE_CHUNK)
    }
}
