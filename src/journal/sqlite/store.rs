//! The open file: one connection that writes and one that reads. With WAL, reads run beside a commit.
//!
//! One commit is one `SQLite` transaction over all its commands: all are stored or none. There is no
//! savepoint per command, because no command can fail alone.
//!
//! What is written to a deleted file is lost when the process ends. So after each commit the file's names are
//! compared with the open files, and if the file was deleted, the whole journal is written again.

use std::{
    fmt, fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, TransactionBehavior};

use super::{
    columns::SourceColumn,
    files::{self, JournalFiles, NameStatus},
    keepers::keeper_of,
    reader::Rows,
    schema,
    tables::Tables,
    tenure::Tenure,
};
use crate::{
    domain::RequestSource,
    journal::{
        JournalError, OpenError, Space, StoreError,
        commands::{Command, CommandResult},
        store::{Query, QueryReply, Store, StoreId, StoreReader},
    },
};

/// The writing connection. Dropping it closes the file, which checkpoints the WAL, and then releases the
/// tenure.
pub struct SqliteStore {
    // Fields are dropped in this order.
    pub(super) connection: Connection,
    /// The chain that the journal belongs to.
    home: u64,
    /// The files that were opened.
    files: JournalFiles,
    pub(super) tenure: Tenure,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.tenure.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    pub(super) fn new(connection: Connection, home: u64, tenure: Tenure) -> Self {
        Self { connection, home, files: JournalFiles::of(&tenure.path), tenure }
    }

    pub(super) fn path(&self) -> &Path {
        &self.tenure.path
    }

    pub(super) fn reader(&self) -> Result<Box<dyn StoreReader>, OpenError> {
        let path = self.path();
        let connection = schema::connect_reader(path).map_err(|e| OpenError::sqlite(path, e))?;
        Ok(Box::new(Reader { connection, home: self.home, path: path.to_owned() }))
    }

    /// The number of requests of other sources that have no outcome.
    pub(super) fn unfinished_elsewhere(&self, source: RequestSource) -> rusqlite::Result<u64> {
        let of = SourceColumn::of(source, self.home);
        Rows { db: &self.connection, of }.unfinished_elsewhere()
    }

    #[cfg(test)]
    pub(in crate::journal) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn apply(&mut self, commands: &[Command]) -> rusqlite::Result<Vec<CommandResult>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let carry_out = |Command { of, work, at_ms, .. }: &Command| {
            let of = SourceColumn::of(*of, self.home);
            Tables { transaction: &transaction, of }.execute(work, *at_ms)
        };
        let done = commands.iter().map(carry_out).collect::<rusqlite::Result<Vec<_>>>()?;
        transaction.commit()?;
        Ok(done)
    }

    /// Writes the whole open journal into a new file with the same name.
    fn rewrite(&self) -> Result<(), StoreError> {
        let path = self.path();
        let copy = files::with_suffix(path, ".new");
        let io = |cause| StoreError::of_io(path, cause);
        if let Some(dir) = path.parent() {
            files::make_directory(dir).map_err(io)?;
        }
        copy_into(&self.connection, &copy, path)?;
        files::put_in_place(&copy, path).map_err(io)
    }
}

/// Writes the contents of `connection`, which is open on the journal at `path`, into the new file `copy`.
pub(super) fn copy_into(
    connection: &Connection,
    copy: &Path,
    path: &Path,
) -> Result<(), StoreError> {
    let io = |cause| StoreError::of_io(path, cause);
    files::remove(copy).map_err(io)?;
    files::create_new(copy).map_err(io)?;
    let name = copy.as_os_str().as_bytes();
    let written = connection.execute("VACUUM INTO CAST(?1 AS TEXT)", [name]);
    written.map(|_| ()).map_err(|cause| StoreError::of(path, cause))
}

impl Store for SqliteStore {
    fn commit(&mut self, commands: &[Command]) -> Result<Vec<CommandResult>, StoreError> {
        if self.files.name_status(self.path()) == NameStatus::Unmounted {
            return Err(StoreError::unmounted());
        }
        self.apply(commands).map_err(|cause| StoreError::of(self.path(), cause))
    }

    /// A commit counts only if the names of journal and lock still refer to the open files.
    fn tenure_loss(&mut self) -> Option<JournalError> {
        let path = self.path().to_owned();
        match self.files.name_status(&path) {
            NameStatus::Unchanged => {
                (!self.tenure.has_its_name()).then_some(JournalError::LockLost { path })
            }
            // Unmounted just now: this commit is in the files; the next one waits until they are back.
            NameStatus::Unmounted => None,
            NameStatus::Replaced => Some(JournalError::Replaced { path }),
            NameStatus::Deleted => Some(match self.rewrite() {
                Ok(()) => JournalError::Deleted { path },
                Err(cause) => {
                    let keeper = keeper_of(&path);
                    JournalError::Lost { path, keeper, cause: cause.into() }
                }
            }),
        }
    }

    fn id(&self) -> StoreId {
        StoreId(self.files.database)
    }
}

/// The reading connection, or a read-only one for inspection.
#[derive(Debug)]
pub(super) struct Reader {
    pub connection: Connection,
    /// The chain that the journal belongs to.
    pub home: u64,
    pub path: PathBuf,
}

impl Reader {
    fn answer<T>(&self, slot: QueryReply<T>, answer: rusqlite::Result<T>) {
        slot.send(answer.map_err(|cause| StoreError::of(&self.path, cause)));
    }
}

impl StoreReader for Reader {
    fn query(&self, of: RequestSource, query: Query) {
        let rows = Rows { db: &self.connection, of: SourceColumn::of(of, self.home) };
        match query {
            Query::Cursor(slot) => self.answer(slot, rows.cursor()),
            Query::BegunAfter(slot) => self.answer(slot, rows.begun_after()),
            Query::ReadTwice(slot) => self.answer(slot, rows.read_twice()),
            Query::Unproven(slot) => self.answer(slot, rows.unproven()),
            Query::SeenIds(slot) => self.answer(slot, rows.seen_ids()),
            Query::NewestIds(most, slot) => self.answer(slot, rows.newest_ids(most)),
            Query::ForgottenUpTo(slot) => self.answer(slot, rows.forgotten_up_to()),
            Query::Deployment(slot) => self.answer(slot, rows.deployment()),
            Query::Generation(slot) => self.answer(slot, rows.generation()),
            Query::UnfinishedKeys(after, limit, slot) => {
                self.answer(slot, rows.unfinished_keys(after, limit));
            }
            Query::Request(key, slot) => self.answer(slot, rows.request(key)),
            Query::NewestPosition(slot) => self.answer(slot, rows.latest_block_time()),
            Query::EventsOfSameId(key, slot) => self.answer(slot, rows.namesakes(key)),
            Query::EventsOfSameTransaction(key, transaction, limit, slot) => {
                self.answer(slot, rows.namesakes_in(key, transaction, limit));
            }
            Query::AnsweredHere(ids, slot) => self.answer(slot, rows.answered(&ids)),
            Query::IsDone(id, slot) => self.answer(slot, rows.is_done(id)),
            Query::IsUnasked(id, slot) => self.answer(slot, rows.is_unasked(id)),
            Query::Representation(id, slot) => self.answer(slot, rows.representation(id)),
            Query::Summaries(listing, slot) => self.answer(slot, rows.listed(listing)),
            Query::Records(listing, slot) => self.answer(slot, rows.records(listing)),
            Query::WithId(id, slot) => self.answer(slot, rows.with_id(id)),
            Query::Oldest(slot) => self.answer(slot, rows.oldest()),
            Query::OpenTransactions(slot) => self.answer(slot, rows.open_transactions()),
            Query::StrandedTransactions(slot) => self.answer(slot, rows.stranded_transactions()),
            Query::UnsettledTransactions(slot) => self.answer(slot, rows.unsettled_transactions()),
            Query::UnconfirmedTransactions(nonces, slot) => {
                self.answer(slot, rows.unconfirmed_transactions(nonces));
            }
            Query::RecentlyMined(nonces, slot) => self.answer(slot, rows.recently_mined(nonces)),
            Query::HighestNonce(slot) => self.answer(slot, rows.highest_nonce()),
            Query::TransactionsOf(key, slot) => self.answer(slot, rows.transactions_of(key)),
            Query::Counts(slot) => self.answer(slot, rows.counts()),
            Query::RequestGauges(slot) => self.answer(slot, rows.standings()),
            Query::IsEmpty(slot) => self.answer(slot, rows.is_empty()),
            Query::Space(slot) => {
                let looked = space(&self.path);
                slot.send(looked.map_err(|cause| StoreError::of_io(&self.path, cause)));
            }
        }
    }
}

fn space(path: &Path) -> std::io::Result<Space> {
    let log = files::with_suffix(path, "-wal");
    let taken = fs::metadata(path)?.len() + fs::metadata(log).map_or(0, |log| log.len());
    let disk = rustix::fs::statvfs(path)?;
    Ok(Space { taken, free: disk.f_bavail.saturating_mul(disk.f_frsize) })
}
