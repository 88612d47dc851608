//! Reads rows back into the domain's types. Plain functions over a connection: the caller chooses the thread.

mod transactions;
mod counts;

use rusqlite::{
    Connection, OptionalExtension, Params, Result, Row, params,
    types::{FromSqlError, Type},
};

use super::{
    columns::{
        Fixed, Number, OutcomeColumns, SourceColumn, block_from_columns, bounded_lines,
        bounded_text, bytes, held_from_columns, key_from_columns, source_from_column,
        topics_from_blob,
    },
    statements::{self as sql, PROGRESS_COLUMNS},
};
use crate::{
    chain::lane::SignedTransaction,
    contracts::abi::Counter,
    domain::{
        Answer, B256, BlockRef, CoreAddress, Event, Generation, KeyRepresentation, Kind,
        RequestKey, RequestSource, SignedResult, U256,
    },
    flow::ledger::{AccessNote, AnsweredHere, IdRange, UnprovenRange},
    journal::{
        Approval, Position, Progress, RequestFilter, RequestPage, RequestRecord, RequestSummary,
        StageName,
    },
};

/// The error for a value of the right type that this program does not know.
fn unreadable(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        Type::Text,
        Box::new(FromSqlError::Other(what.into())),
    )
}

pub(super) fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, Number>(column).map(|number| number.0)
}

fn maybe_number(row: &Row<'_>, column: usize) -> Result<Option<u64>> {
    row.get::<_, Option<Number>>(column).map(|number| number.map(|number| number.0))
}

fn hash(row: &Row<'_>, column: usize) -> Result<B256> {
    row.get::<_, Fixed<B256>>(column).map(|hash| hash.0)
}

fn maybe_hash(row: &Row<'_>, column: usize) -> Result<Option<B256>> {
    row.get::<_, Option<Fixed<B256>>>(column).map(|hash| hash.map(|hash| hash.0))
}

fn stage(row: &Row<'_>, column: usize) -> Result<StageName> {
    let name: String = row.get(column)?;
    StageName::from_name(&name).ok_or_else(|| unreadable(column, format!("stage {name:?}")))
}

fn kind(row: &Row<'_>, column: usize) -> Result<Kind> {
    let name: String = row.get(column)?;
    Kind::from_name(&name).ok_or_else(|| unreadable(column, format!("kind {name:?}")))
}

/// Reads the columns of `progress_columns`, which stand first in a row.
pub(super) fn read_progress(row: &Row<'_>) -> Result<Progress> {
    let reason: Option<String> = row.get(1)?;
    let outcome = OutcomeColumns {
        name: row.get(12)?,
        refusal: row.get(13)?,
        detail: row.get(14)?,
        transaction: maybe_hash(row, 15)?,
        block: block_from_columns(row.get(16)?, row.get(17)?),
    };
    Ok(Progress {
        stage: stage(row, 0)?,
        held: held_from_columns(reason.as_deref(), row.get(2)?, maybe_number(row, 3)?),
        attempts: row.get(4)?,
        last_error: bounded_text(row.get(5)?),
        worked_ms: number(row, 18)?,
        transaction: maybe_hash(row, 6)?,
        arrived_at_ms: number(row, 7)?,
        asked_at_ms: maybe_number(row, 8)?,
        asked_core: bounded_text(row.get(19)?).as_deref().map(CoreAddress::from),
        answered_at_ms: maybe_number(row, 9)?,
        submitted_at_ms: maybe_number(row, 10)?,
        settled_at_ms: maybe_number(row, 11)?,
        outcome: outcome.read().map_err(|what| unreadable(12, what))?,
    })
}

/// Reads position, key and kind, which follow the progress.
pub(super) fn read_name(
    row: &Row<'_>,
    source: RequestSource,
) -> Result<(Position, RequestKey, Kind)> {
    let id: Fixed<U256> = row.get(PROGRESS_COLUMNS + 1)?;
    let kind = kind(row, PROGRESS_COLUMNS + 3)?;
    let key = RequestKey { source, id: id.0, content: hash(row, PROGRESS_COLUMNS + 2)? };
    Ok((Position(row.get(PROGRESS_COLUMNS)?), key, kind))
}

/// Reads the six columns of an event, beginning with column `first`.
pub(super) fn read_event(row: &Row<'_>, first: usize) -> Result<Event> {
    let topics: Vec<u8> = row.get(first + 4)?;
    Ok(Event {
        block: BlockRef { number: number(row, first)?, hash: hash(row, first + 1)? },
        transaction: hash(row, first + 2)?,
        log_index: number(row, first + 3)?,
        topics: topics_from_blob(&topics)
            .ok_or_else(|| unreadable(first + 4, format!("{} bytes of topics", topics.len())))?,
        data: bytes(row.get(first + 5)?),
    })
}

pub(super) fn read_record(row: &Row<'_>, source: RequestSource) -> Result<RequestRecord> {
    const EVENT: usize = PROGRESS_COLUMNS + 4;
    const ANSWER: usize = EVENT + 6;
    const ACCESS: usize = ANSWER + 3;
    let (position, key, kind) = read_name(row, source)?;
    let event = read_event(row, EVENT)?;
    let answer = match row.get::<_, Option<Vec<u8>>>(ANSWER)? {
        None => None,
        Some(payload) => {
            let (signature, extra_data) = (row.get(ANSWER + 1)?, row.get(ANSWER + 2)?);
            let (signature, extra_data) = (bytes(signature), bytes(extra_data));
            let signed = SignedResult { payload: bytes(payload), signature, extra_data };
            Some(Answer::new(kind, signed))
        }
    };
    let record: Option<String> = row.get(ACCESS)?;
    let bound_context: Option<Fixed<U256>> = row.get(ACCESS + 1)?;
    let access = record.map(|record| AccessNote {
        bound_context: bound_context.map(|context| context.0),
        record: bounded_lines(&record),
    });
    let by: Option<String> = bounded_text(row.get(ACCESS + 2)?);
    let at_ms = maybe_number(row, ACCESS + 3)?;
    let approval = by.zip(at_ms).map(|(by, at_ms)| Approval { by, at_ms });
    let progress = read_progress(row)?;
    Ok(RequestRecord { position, key, kind, event, answer, access, approval, progress })
}

/// In a journal of the chain `home`.
pub(super) fn read_transaction(row: &Row<'_>, home: u64) -> Result<SignedTransaction> {
    let contract: Vec<u8> = row.get("contract")?;
    let source = source_from_column(&contract, home)
        .ok_or_else(|| unreadable(5, format!("a contract of {} bytes", contract.len())))?;
    Ok(SignedTransaction {
        nonce: number(row, 0)?,
        hash: hash(row, 1)?,
        raw: bytes(row.get(2)?),
        request: key_from_columns(source, row.get(3)?, row.get(4)?),
    })
}

fn read_summary(row: &Row<'_>, source: RequestSource) -> Result<RequestSummary> {
    let (position, key, kind) = read_name(row, source)?;
    let block = number(row, PROGRESS_COLUMNS + 4)?;
    Ok(RequestSummary { position, key, kind, block, progress: read_progress(row)? })
}

/// The rows of one source; of transactions, those of its chain.
#[derive(Clone, Copy)]
pub(super) struct Rows<'c> {
    pub db: &'c Connection,
    pub of: SourceColumn,
}

impl Rows<'_> {
    fn one<T>(
        &self,
        statement: &str,
        with: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.db.prepare_cached(statement)?.query_row(with, read).optional()
    }

    fn many<T>(
        &self,
        statement: &str,
        with: impl Params,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.db.prepare_cached(statement)?.query_map(with, read)?.collect()
    }

    fn chain(&self) -> Number {
        Number(self.of.source.chain_id)
    }

    fn record(&self) -> impl Fn(&Row<'_>) -> Result<RequestRecord> {
        let source = self.of.source;
        move |row| read_record(row, source)
    }

    fn transaction(&self) -> impl Fn(&Row<'_>) -> Result<SignedTransaction> {
        let home = self.of.home;
        move |row| read_transaction(row, home)
    }

    pub fn cursor(&self) -> Result<Option<BlockRef>> {
        self.one(sql::SELECT_CURSOR, [self.of], |row| {
            Ok(BlockRef { number: number(row, 0)?, hash: hash(row, 1)? })
        })
    }

    pub fn read_twice(&self) -> Result<Option<u64>> {
        let read = self.one(sql::SELECT_READ_TWICE, [self.of], |row| maybe_number(row, 0))?;
        Ok(read.flatten())
    }

    pub fn unproven(&self) -> Result<Vec<UnprovenRange>> {
        self.many(sql::SELECT_UNPROVEN, [self.of], |row| {
            let (first, last) = (number(row, 0)?, number(row, 1)?);
            Ok(UnprovenRange { first, last, hash: maybe_hash(row, 2)?, since_ms: number(row, 3)? })
        })
    }

    pub fn forgotten_up_to(&self) -> Result<Option<u64>> {
        self.one(sql::SELECT_FORGOTTEN, [self.of], |row| number(row, 0))
    }

    pub fn deployment(&self) -> Result<Option<(String, u64)>> {
        self.one(sql::SELECT_DEPLOYMENT, [self.of], |row| {
            Ok((bounded_text(row.get(0)?).unwrap_or_default(), number(row, 1)?))
        })
    }

    /// A name that only a later version knows is none: that version is needed for such contracts anyway.
    pub fn generation(&self) -> Result<Option<Generation>> {
        let name = self.one(sql::SELECT_GENERATION, [self.of], |row| row.get::<_, String>(0))?;
        Ok(name.and_then(|name| Generation::from_name(&name)))
    }

    pub fn begun_after(&self) -> Result<Option<u64>> {
        self.one(sql::SELECT_BEGUN_AFTER, [self.of], |row| number(row, 0))
    }

    /// Ids and blocks of the requests that were stored last, oldest first.
    pub fn newest_ids(&self, most: u32) -> Result<Vec<(U256, u64)>> {
        let mut newest = self.many(sql::NEWEST_IDS, params![self.of, most], |row| {
            Ok((row.get::<_, Fixed<U256>>(0)?.0, number(row, 1)?))
        })?;
        newest.reverse();
        Ok(newest)
    }

    /// The known ids of requests. Rows with an unknown counter are left out.
    pub fn seen_ids(&self) -> Result<Vec<IdRange>> {
        let runs = self.many(sql::SELECT_SEEN_IDS, [self.of], |row| {
            let counter = row.get::<_, u8>(0).ok().and_then(Counter::from_tag);
            let (first, last) = (number(row, 1)?, number(row, 2)?);
            let (first_block, last_block) = (number(row, 3)?, number(row, 4)?);
            Ok(counter.map(|counter| IdRange { counter, first, last, first_block, last_block }))
        })?;
        Ok(runs.into_iter().flatten().collect())
    }

    /// Returns for each of these ids whether it was answered.
    pub fn answered(&self, ids: &[U256]) -> Result<Vec<AnsweredHere>> {
        let mut select = self.db.prepare_cached(sql::SELECT_ANSWERED)?;
        let mut answered = |id: &U256| {
            select.query_row(params![self.of, Fixed(*id)], |row| {
                Ok(match (number(row, 0)?, number(row, 1)?) {
                    (0, _) => AnsweredHere::Unknown,
                    (_, 0) => AnsweredHere::No,
                    _ => AnsweredHere::Yes,
                })
            })
        };
        ids.iter().map(&mut answered).collect()
    }

    /// Whether a request with this id ended as done without an answer.
    pub fn is_done(&self, id: U256) -> Result<bool> {
        Ok(self.one(sql::SELECT_DONE, params![self.of, Fixed(id)], |_| Ok(()))?.is_some())
    }

    /// Whether a request with this id has not been asked of the Core yet.
    pub fn is_unasked(&self, id: U256) -> Result<bool> {
        Ok(self.one(sql::SELECT_UNASKED, params![self.of, Fixed(id)], |_| Ok(()))?.is_some())
    }

    /// The kind of key that the preparation with this id is made for. One that this version does not know
    /// reads as none.
    pub fn representation(&self, id: U256) -> Result<Option<KeyRepresentation>> {
        let with = params![self.of, Fixed(id)];
        let name = self.one(sql::SELECT_REPRESENTATION, with, |row| row.get::<_, String>(0))?;
        Ok(name.and_then(|name| KeyRepresentation::from_name(&name)))
    }

    /// Keys of the unfinished requests that are not held, oldest first.
    pub fn unfinished_keys(
        &self,
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<(Position, RequestKey)>> {
        let with = params![self.of, after_seq(after), limit];
        self.many(sql::UNFINISHED_KEYS, with, |row| {
            let id: Fixed<U256> = row.get(1)?;
            let key = RequestKey { source: self.of.source, id: id.0, content: hash(row, 2)? };
            Ok((Position(row.get(0)?), key))
        })
    }

    pub fn request(&self, key: RequestKey) -> Result<Option<RequestRecord>> {
        let with = params![self.of, Fixed(key.id), Fixed(key.content)];
        self.one(sql::REQUEST, with, self.record())
    }

    pub fn namesakes(&self, key: RequestKey) -> Result<Vec<Event>> {
        let with = params![self.of, Fixed(key.id), Fixed(key.content)];
        let records = self.many(sql::NAMESAKES, with, self.record())?;
        Ok(records.into_iter().map(|record| record.event).collect())
    }

    pub fn namesakes_in(
        &self,
        key: RequestKey,
        transaction: B256,
        limit: u32,
    ) -> Result<Vec<Event>> {
        let with = params![self.of, Fixed(key.id), Fixed(key.content), Fixed(transaction), limit];
        let records = self.many(sql::NAMESAKES_IN_TRANSACTION, with, self.record())?;
        Ok(records.into_iter().map(|record| record.event).collect())
    }

    /// A page of requests, read with `read`. Binds the parameters that the statement of its
    /// [`RequestFilter`] needs.
    fn page<T>(
        &self,
        statement: &str,
        RequestPage { filter: which, after, limit }: RequestPage,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let after = after_seq(after);
        match which {
            RequestFilter::Ended { since_ms } => {
                self.many(statement, params![self.of, after, limit, Number(since_ms)], read)
            }
            RequestFilter::Unfinished | RequestFilter::Held | RequestFilter::All => {
                self.many(statement, params![self.of, after, limit], read)
            }
        }
    }

    pub fn listed(&self, listing: RequestPage) -> Result<Vec<RequestSummary>> {
        let statement = match listing.filter {
            RequestFilter::Unfinished => sql::LISTED_UNFINISHED,
            RequestFilter::Held => sql::LISTED_HELD,
            RequestFilter::Ended { .. } => sql::LISTED_ENDED,
            RequestFilter::All => sql::LISTED_ALL,
        };
        self.page(statement, listing, |row| read_summary(row, self.of.source))
    }

    pub fn records(&self, listing: RequestPage) -> Result<Vec<RequestRecord>> {
        let statement = match listing.filter {
            RequestFilter::Unfinished => sql::UNFINISHED,
            RequestFilter::Held => sql::UNFINISHED_HELD,
            RequestFilter::Ended { .. } => sql::ENDED,
            RequestFilter::All => sql::ALL,
        };
        self.page(statement, listing, self.record())
    }

    /// All requests with this id.
    pub fn with_id(&self, id: U256) -> Result<Vec<RequestRecord>> {
        self.many(sql::BY_ID, params![self.of, Fixed(id)], self.record())
    }

    /// The oldest request without an outcome that is not held.
    pub fn oldest(&self) -> Result<Option<RequestSummary>> {
        self.one(sql::LISTED_OLDEST, [self.of], |row| read_summary(row, self.of.source))
    }

    pub fn latest_block_time(&self) -> Result<Option<Position>> {
        let newest = self.one(sql::NEWEST, [self.of], |row| row.get::<_, Option<i64>>(0))?;
        Ok(newest.flatten().map(Position))
    }

    pub fn is_empty(&self) -> Result<bool> {
        self.db.query_row(sql::IS_EMPTY, [], |row| row.get(0))
    }
}

fn after_seq(after: Option<Position>) -> i64 {
    after.map_or(i64::MIN, |position| position.0)
}
