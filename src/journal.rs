//! The durable store of one instance: requests and where they stand, the cursor, and every signed
//! transaction. It implements the ports of the flow and of the lane.
//!
//! One `SQLite` file per (chain id, genesis, wallet), so that a renamed config keeps its history and
//! a reset test chain is not taken for the old one; requests and cursors inside are keyed by the
//! Decryption contract, transactions by nonce, so that two contracts share one lane. Beside it a
//! lock file ([`lock`]): one process writes, an operator's `sqlite3` may read.
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
//! [`Journal`] is a cheap handle; [`Writer`] is the one task that writes; [`Kept`] is what it leaves
//! when it ends: the file, open and locked, for the next writer. No handle's call does anything before
//! the writer runs. Dropping any future of these is safe: a durable command whose
//! future was dropped may or may not be stored, and repeating it changes nothing.
//!
//! Reads go through a connection of their own (WAL lets them run beside a commit), one at a time.

mod beginnings;
mod condition;
mod errors;
mod footing;
mod glance;
mod keepers;
mod listing;
mod lock;
mod names;
mod progress;
mod read_only;
mod reader;
mod rebuild;
mod record;
mod salvage;
mod schema;
mod statements;
mod succession;
mod tables;
#[cfg(test)]
mod tests;
mod commands;
mod writer;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};

pub use self::{
    beginnings::{Beginning, beginnings},
    condition::{Condition, Damage},
    errors::{JournalError, OpenError, OpenWarning},
    footing::{FileSystem, Footing, LOCAL},
    glance::{Content, Glance, Holder, glance},
    keepers::{Keeper, keepers},
    listing::{Listed, Listing, Look, QueryError, Which},
    progress::{Held, Progress, StageName},
    read_only::{FindError, ReadOnly},
    rebuild::{Rebuilt, Way, rebuild},
    succession::{Left, Opened, Predecessor, open_as},
    writer::{Kept, Writer},
};
use self::{
    commands::{Command, Done, Work},
    lock::{Lock, LockError},
    names::{Files, make_directory, sync_names},
    record::{Fixed, Number},
    schema::Version,
    writer::Parts,
};
use crate::{
    domain::{
        Address, Answer, B256, BlockRef, Event, Hold, Kind, LedgerError, RequestKey, U256,
        stage::Stage,
    },
    flow::ledger::{Answered, Batch, IdRun, RequestLedger, Standing, Step, Taken, Unproven},
    gateway::lane::{
        GivenUp, MinedTransaction, SignedTransaction, TransactionId, TransactionLedger,
    },
    machine::Machine,
    metrics,
};

/// Requests whose blocks are read at a start: more than a reorganisation takes.
const NEWEST_IDS: u32 = 1024;
/// Files up to this size are checked in full when opened (well below a second); larger ones where
/// they are read.
const CHECKED_IN_FULL: u64 = 64 * 1024 * 1024;

/// Which chain and wallet a journal belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub chain_id: u64,
    /// The hash of block 0.
    pub genesis: B256,
    pub wallet: Address,
}

impl Identity {
    /// `<chain id>-<first 16 hex digits of the genesis hash>-<wallet>`, without an ending.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("{}-{:x}-{:x}", self.chain_id, B64(&self.genesis), self.wallet)
    }

    /// Whether `stem` may be that of another wallet on the same chain.
    fn shares_chain_with(&self, stem: &str) -> bool {
        let own = self.file_stem();
        let chain = own.rsplit_once('-').map_or("", |(chain, _)| chain);
        stem.rsplit_once('-').is_some_and(|(other, _)| other == chain)
    }

    /// Whether `stem` is that of the same chain id and wallet on another genesis.
    fn is_reset_of(&self, stem: &str) -> bool {
        let prefix = format!("{}-", self.chain_id);
        let suffix = format!("-{:x}", self.wallet);
        stem != self.file_stem()
            && stem.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&suffix)).is_some_and(
                |genesis| {
                    genesis.len() == 16 && genesis.bytes().all(|byte| byte.is_ascii_hexdigit())
                },
            )
    }
}

/// The first eight bytes of a hash, in hex.
struct B64<'h>(&'h B256);

impl fmt::LowerHex for B64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A place in the order of arrival, to continue a scan from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(i64);

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

/// Which requests a scan of unfinished ones returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    Included,
    Excluded,
    Only,
}

/// A request without an outcome, with all a walk needs to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub event: Event,
    pub stage: Stage,
    pub held: Option<Hold>,
    /// Failed attempts so far.
    pub attempts: u32,
    pub arrived_at_ms: u64,
}

/// A held request, without its event and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRequest {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub held: Held,
    pub progress: Progress,
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
    pub oldest_failing: Option<Failing>,
}

/// An unfinished request that has failed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
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

/// Looks at the disk of a journal. Blocking.
fn space(path: &Path) -> io::Result<Space> {
    let log = names::beside(path, "-wal");
    let taken = fs::metadata(path)?.len() + fs::metadata(log).map_or(0, |log| log.len());
    let disk = rustix::fs::statvfs(path)?;
    Ok(Space { taken, free: disk.f_bavail.saturating_mul(disk.f_frsize) })
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

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    commands: AtomicU64,
    durable: AtomicU64,
    moves: AtomicU64,
}

/// What handles and writer share.
struct Shared {
    path: PathBuf,
    identity: Identity,
    machine: Machine,
    /// Taken by the writer when it closes.
    reader: Arc<Mutex<Option<Connection>>>,
    counters: Counters,
    reopened: Notify,
    condition: Condition,
    /// The files that were opened.
    files: Files,
    /// Why the writer ended, if by an error.
    ended: OnceLock<String>,
}

impl Shared {
    fn failed(&self, doing: &'static str, cause: rusqlite::Error) -> JournalError {
        if errors::is_corrupt(&cause) {
            self.condition.found_damage(&self.path, self.files.database, cause.to_string());
        }
        let footing = Footing::behind(&self.path, &cause).into();
        JournalError::Sqlite { path: self.path.clone(), doing, cause, footing }
    }

    fn closed(&self) -> JournalError {
        match self.ended.get() {
            Some(why) => JournalError::Ended(why.clone()),
            None => JournalError::Closed { path: self.path.clone() },
        }
    }
}

/// A handle on one instance's journal, for one Decryption contract. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    commands: mpsc::Sender<Command>,
    contract: Address,
    warnings: Arc<[OpenWarning]>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal of `identity` in `dir`, making both if needed (0700 and 0600), and takes
    /// its lock. Blocking: call it in `spawn_blocking`.
    ///
    /// The lock is held until the [`Writer`] is gone and its last commit has ended.
    pub fn open(
        dir: &Path,
        identity: Identity,
        contract: Address,
    ) -> Result<(Self, Writer), OpenError> {
        Self::open_on(&Machine::default(), dir, identity, contract)
    }

    fn open_on(
        machine: &Machine,
        dir: &Path,
        identity: Identity,
        contract: Address,
    ) -> Result<(Self, Writer), OpenError> {
        let (path, lock) = prepare(dir, identity)?;
        let open = open_file(machine, dir, identity, &path)?;
        Ok(open.locked(lock, path, identity).assemble(contract))
    }

    /// [`open`](Self::open), for the one instance it belongs to: a damaged journal is set aside, and
    /// where one was, no new one is begun.
    fn open_own(
        machine: &Machine,
        dir: &Path,
        identity: Identity,
        contract: Address,
    ) -> Result<(Self, Writer), OpenError> {
        let (path, lock) = prepare(dir, identity)?;
        if let Some(error) = rebuild::missing(&path, contract)? {
            return Err(error);
        }
        match open_file(machine, dir, identity, &path) {
            Ok(open) => Ok(open.locked(lock, path, identity).assemble(contract)),
            Err(OpenError::Corrupt { detail, .. }) => {
                Err(rebuild::set_aside(&path, contract, &detail)?)
            }
            Err(error) => Err(error),
        }
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

    /// The last block whose requests are all stored.
    pub async fn cursor(&self) -> Result<Option<BlockRef>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::cursor(connection, contract)).await
    }

    /// The number of the first cursor ever stored: reading began with the block after it.
    pub async fn begun_after(&self) -> Result<Option<u64>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::begun_after(connection, contract)).await
    }

    /// Up to which block all were read twice, if that is known.
    pub async fn read_twice(&self) -> Result<Option<u64>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::read_twice(connection, contract)).await
    }

    /// Blocks up to the cursor whose logs nobody could prove.
    pub async fn unproven(&self) -> Result<Vec<Unproven>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::unproven(connection, contract)).await
    }

    /// Which ids of requests are known.
    pub async fn seen_ids(&self) -> Result<Vec<IdRun>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::seen_ids(connection, contract)).await
    }

    /// Ids and blocks of the requests that were stored last, from the oldest to the newest.
    pub async fn newest_ids(&self) -> Result<Vec<(U256, u64)>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::newest_ids(connection, contract, NEWEST_IDS)).await
    }

    /// Up to which block the wallet may have answered requests without this journal: 0 where it knows
    /// of all.
    pub async fn forgotten_up_to(&self) -> Result<u64, JournalError> {
        let contract = self.contract;
        let up_to = self.read(move |connection| reader::forgotten_up_to(connection, contract));
        Ok(up_to.await?.unwrap_or(0))
    }

    /// Answers to requests up to this block may be missing here, for ever. Durable.
    pub async fn forget_up_to(&self, block: u64) -> Result<(), LedgerError> {
        self.durable(Work::ForgetUpTo(block)).await.map(|_| ())
    }

    /// Requests without an outcome, oldest first, at most `limit` of those `after` a position.
    pub async fn unfinished(
        &self,
        after: Option<Position>,
        limit: u32,
        holds: Holds,
    ) -> Result<Vec<Unfinished>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::unfinished(connection, contract, after, limit, holds))
            .await
    }

    /// Held requests, oldest first, without their events and answers.
    pub async fn held(
        &self,
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<HeldRequest>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::held(connection, contract, after, limit)).await
    }

    /// Requests without an outcome that are not held, by name alone: oldest first, at most `limit` of
    /// those `after` a position.
    pub async fn unfinished_keys(
        &self,
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<(Position, RequestKey)>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::unfinished_keys(connection, contract, after, limit))
            .await
    }

    /// All that is stored of one request, settled or not.
    pub async fn request(&self, key: RequestKey) -> Result<Option<RequestRecord>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::request(connection, contract, key)).await
    }

    /// What an operator asks: any number of questions, of one state of the journal each.
    pub async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Look<'_>) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let contract = self.contract;
        self.read(move |connection| ask(&Look::new(connection, contract))).await
    }

    /// The oldest request without an outcome that is not held.
    pub async fn oldest(&self) -> Result<Option<Listed>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| Look::new(connection, contract).oldest()).await
    }

    /// Signed transactions of the wallet, whatever their contract, whose nonce no stored
    /// transaction is known to have used; ordered by nonce, then by age.
    pub async fn open_transactions(&self) -> Result<Vec<SignedTransaction>, JournalError> {
        self.read(reader::open_transactions).await
    }

    /// Given up beyond a gap of nonces, as far as the chain has not come there; ordered by nonce.
    pub async fn stranded_transactions(&self) -> Result<Vec<SignedTransaction>, JournalError> {
        self.read(reader::stranded_transactions).await
    }

    /// The last transactions, where they are mined, of requests that have no outcome yet.
    pub async fn unsettled_transactions(&self) -> Result<Vec<SignedTransaction>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::unsettled_transactions(connection, contract)).await
    }

    /// What of the last `nonces` nonces is known to be mined, in their order.
    pub async fn recently_mined(&self, nonces: u64) -> Result<Vec<MinedTransaction>, JournalError> {
        self.read(move |connection| reader::recently_mined(connection, nonces)).await
    }

    /// Completes when requests that had an outcome were opened again ([`HoldReason::AnswerDropped`])
    /// since the last call.
    pub async fn reopened(&self) {
        self.shared.reopened.notified().await;
    }

    /// The place of the request that arrived last.
    pub async fn newest(&self) -> Result<Option<Position>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::newest(connection, contract)).await
    }

    /// The highest nonce the wallet ever signed here; pruning keeps it.
    pub async fn highest_nonce(&self) -> Result<Option<u64>, JournalError> {
        self.read(reader::highest_nonce).await
    }

    /// Every transaction signed for a request, oldest first.
    pub async fn transactions_of(
        &self,
        key: RequestKey,
    ) -> Result<Vec<JournaledTransaction>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::transactions_of(connection, contract, key)).await
    }

    /// How many requests stand where. Reads an index over all rows: for a status page, not a loop.
    pub async fn counts(&self) -> Result<Counts, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::counts(connection, contract)).await
    }

    /// Where all requests without an outcome stand. Reads just those, however many are settled.
    pub async fn standings(&self) -> Result<Vec<metrics::Standing>, JournalError> {
        let contract = self.contract;
        self.read(move |connection| reader::standings(connection, contract)).await
    }

    /// Whether the wallet has no history here: no cursor, request or transaction of any contract.
    pub async fn is_empty(&self) -> Result<bool, JournalError> {
        self.read(reader::is_empty).await
    }

    /// Looks at the disk. `None`: the runtime is shutting down.
    pub async fn space(&self) -> Option<io::Result<Space>> {
        let path = self.path().to_owned();
        self.shared.machine.run(move || space(&path)).await
    }

    /// Waits until everything this caller asked for before is on disk.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        self.durable(Work::Flush).await.map(|_| ())
    }

    /// Opens a request again that ended without an answer: held as
    /// [`HoldReason::RetryAsked`], before its first ask, with the attempts it had. Durable. Answers
    /// whether it had ended so; any other request stays as it is.
    pub async fn open_again(&self, key: RequestKey) -> Result<bool, LedgerError> {
        Ok(matches!(self.durable(Work::OpenAgain(key)).await?, Done::OpenedAgain(true)))
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
        loop {
            match self.durable(Work::Prune { settled_before_ms, final_block }).await? {
                Done::Pruned(chunk) => {
                    total.requests += chunk.requests;
                    total.transactions += chunk.transactions;
                    total.skipped_logs += chunk.skipped_logs;
                    if !chunk.is_full_chunk() {
                        return Ok(total);
                    }
                }
                Done::Nothing
                | Done::Settled(_)
                | Done::Taken(_)
                | Done::Reopened(_)
                | Done::OpenedAgain(_) => {
                    return Ok(total);
                }
            }
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let reader = Arc::clone(&self.shared.reader).lock_owned().await;
        let looking = self.shared.machine.run(move || reader.as_ref().map(query));
        let answer = looking.await.flatten();
        answer
            .ok_or_else(|| self.shared.closed())?
            .map_err(|cause| self.shared.failed("a read", cause))
    }

    /// Queues work without waiting for its commit.
    async fn queue(&self, work: Work, reply: Option<commands::Reply>) -> Result<(), LedgerError> {
        let command = Command { work, at_ms: self.shared.machine.clock.unix_millis(), reply };
        self.commands.send(command).await.map_err(|_| self.shared.closed().into())
    }

    /// Queues work and waits until it is on disk.
    async fn durable(&self, work: Work) -> Result<Done, LedgerError> {
        let (reply, done) = oneshot::channel();
        self.queue(work, Some(reply)).await?;
        done.await.unwrap_or_else(|_| Err(self.shared.closed().into()))
    }
}

impl RequestLedger for Journal {
    /// The cursor, if the batch names one, is stored as named, in the same `SQLite` transaction as
    /// the requests: going back (a reorg, a backfill) is the caller's to decide.
    async fn arrive(&self, batch: Batch) -> Result<Taken, LedgerError> {
        match self.durable(Work::Arrive(batch)).await? {
            Done::Taken(taken) => Ok(taken),
            Done::Nothing
            | Done::Settled(_)
            | Done::Pruned(_)
            | Done::Reopened(_)
            | Done::OpenedAgain(_) => Ok(Taken::default()),
        }
    }

    async fn note(&self, key: RequestKey, step: Step) -> Result<(), LedgerError> {
        self.queue(Work::Note(key, step), None).await
    }

    async fn standing(&self, key: RequestKey) -> Result<Option<Standing>, LedgerError> {
        // A read sees what is on disk: first everything noted so far has to be.
        self.flush().await?;
        let record = self.request(key).await?;
        Ok(record.filter(|record| record.progress.outcome.is_none()).map(|record| Standing {
            stage: record.progress.stage.with_answer(record.answer),
            held: record.progress.held.map(|held| held.hold.reason),
            worked: Duration::from_millis(record.progress.worked_ms),
        }))
    }

    async fn namesakes(&self, key: RequestKey) -> Result<Vec<Event>, LedgerError> {
        let contract = self.contract;
        Ok(self.read(move |connection| reader::namesakes(connection, contract, key)).await?)
    }

    async fn answered(&self, ids: Vec<U256>) -> Result<Vec<Answered>, LedgerError> {
        let contract = self.contract;
        Ok(self.read(move |connection| reader::answered(connection, contract, &ids)).await?)
    }
}

impl TransactionLedger for Journal {
    /// A hash stored before stays as it is, but it is not given up any more.
    async fn signed(&self, transactions: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        self.durable(Work::Signed(transactions)).await.map(|_| ())
    }

    /// Said again with another block (a reorg), the last word counts.
    async fn mined(&self, id: TransactionId, block: BlockRef) -> Result<(), LedgerError> {
        self.queue(Work::Mined(id, block), None).await
    }

    async fn gave_up(&self, ids: Vec<TransactionId>, why: GivenUp) -> Result<(), LedgerError> {
        self.queue(Work::GiveUp(ids, why), None).await
    }

    async fn reopen(&self, ids: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        match self.durable(Work::Reopen(ids)).await? {
            Done::Reopened(open) => {
                self.shared.reopened.notify_one();
                Ok(open)
            }
            Done::Nothing
            | Done::Settled(_)
            | Done::Taken(_)
            | Done::Pruned(_)
            | Done::OpenedAgain(_) => Ok(Vec::new()),
        }
    }
}

/// Makes the directory, and takes the lock of this journal.
fn prepare(dir: &Path, identity: Identity) -> Result<(PathBuf, Lock), OpenError> {
    let stem = identity.file_stem();
    let path = dir.join(format!("{stem}.sqlite3"));
    make_directory(dir).map_err(OpenError::io(&path, "making its directory"))?;
    let lock_path = dir.join(format!("{stem}.lock"));
    let lock = Lock::take(&lock_path).map_err(|error| match error {
        LockError::Taken(pid) => OpenError::Locked { path: path.clone(), pid },
        LockError::Io(cause) => OpenError::io(&path, "locking it")(cause),
    })?;
    Ok((path, lock))
}

/// Opens the file, or makes it, under its lock.
fn open_file(
    machine: &Machine,
    dir: &Path,
    identity: Identity,
    path: &Path,
) -> Result<OpenFile, OpenError> {
    let io = |doing| OpenError::io(path, doing);
    let sqlite = |cause| OpenError::sqlite(path, cause);
    if !names::is_there(path).map_err(io("looking for it"))? {
        for ending in ["-wal", "-shm"] {
            let log = names::beside(path, ending);
            names::is_there(&log).map_err(io("looking for its log"))?;
        }
        rebuild::make(path, identity, |_| Ok(()))?;
    }
    let mut connection = schema::connect_writer(path).map_err(sqlite)?;
    if !machine.may_lose_power() {
        schema::never_sync(&connection).map_err(sqlite)?;
    }
    let path = path.to_owned();
    match schema::version(&connection, schema::MIGRATIONS).map_err(sqlite)? {
        Version::Known => {}
        Version::Empty => {
            let detail = schema::EMPTIED.to_owned();
            return Err(OpenError::Corrupt { path, detail });
        }
        Version::Newer(found) => {
            return Err(OpenError::Newer { path, found, known: schema::MIGRATIONS.len() });
        }
        Version::NotOurs => {
            let detail = "another program's database".to_owned();
            return Err(OpenError::NotOurs { path, detail });
        }
    }
    let size = fs::metadata(&path).map_err(io("measuring it"))?.len();
    if size <= CHECKED_IN_FULL {
        check(&connection, &path)?;
    }
    schema::migrate(&mut connection, schema::MIGRATIONS).map_err(sqlite)?;
    let found = claim(&connection, identity).map_err(sqlite)?;
    if found != identity {
        let detail = format!(
            "it is of chain {}, genesis {}, wallet {}",
            found.chain_id, found.genesis, found.wallet
        );
        return Err(OpenError::NotOurs { path, detail });
    }
    sync_names(dir).map_err(io("syncing its directory"))?;
    let warnings = resets(dir, identity).map_err(io("listing its directory"))?;
    let reader = schema::connect_reader(&path).map_err(sqlite)?;
    Ok(OpenFile { machine: machine.clone(), connection, reader, warnings })
}

/// An open file under its lock.
struct OpenFile {
    machine: Machine,
    connection: Connection,
    reader: Connection,
    warnings: Vec<OpenWarning>,
}

impl OpenFile {
    fn locked(self, lock: Lock, path: PathBuf, identity: Identity) -> Parts {
        let Self { machine, connection, reader, warnings } = self;
        Parts { path, identity, machine, connection, reader, warnings, lock }
    }
}

/// Sets a journal aside that was found to be damaged while it was open, and is closed by now. Answers
/// what to tell the operator. Blocking.
pub fn set_aside(
    damage: &Damage,
    dir: &Path,
    identity: Identity,
    contract: Address,
) -> Result<OpenError, OpenError> {
    let (path, _lock) = prepare(dir, identity)?;
    let found = names::id(&damage.path).map_err(OpenError::io(&path, "looking for it"))?;
    if path != damage.path || found != damage.file {
        // Somebody made it anew meanwhile.
        let error = OpenError::Corrupt { path, detail: damage.detail.clone() };
        return Err(error);
    }
    rebuild::set_aside(&path, contract, &damage.detail)
}

/// `SQLite`'s own check of structure and cell order.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|cause| OpenError::sqlite(path, cause))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(OpenError::Corrupt { path: path.to_owned(), detail: verdict })
}

/// Writes the identity into a new file, and answers the one the file has.
fn claim(connection: &Connection, identity: Identity) -> rusqlite::Result<Identity> {
    if let Some(stored) = read_identity(connection)? {
        return Ok(stored);
    }
    connection.execute(
        "INSERT INTO identity (chain_id, genesis, wallet) VALUES (?1, ?2, ?3)",
        params![Number(identity.chain_id), Fixed(identity.genesis), Fixed(identity.wallet)],
    )?;
    Ok(identity)
}

fn read_identity(connection: &Connection) -> rusqlite::Result<Option<Identity>> {
    connection
        .query_row("SELECT chain_id, genesis, wallet FROM identity", [], |row| {
            Ok(Identity {
                chain_id: row.get::<_, Number>(0)?.0,
                genesis: row.get::<_, Fixed<B256>>(1)?.0,
                wallet: row.get::<_, Fixed<Address>>(2)?.0,
            })
        })
        .optional()
}

/// Journals of the same chain id and wallet on another genesis.
fn resets(dir: &Path, identity: Identity) -> io::Result<Vec<OpenWarning>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let is_journal = path.extension().is_some_and(|extension| extension == "sqlite3");
        if is_journal && stem.is_some_and(|stem| identity.is_reset_of(stem)) {
            found.push(OpenWarning::ChainReset { older: path });
        }
    }
    Ok(found)
}
