//! Reads rows back into the domain's types. Plain functions over a connection: the caller chooses the thread.

use rusqlite::{
    Connection, OptionalExtension, Row, params,
    types::{FromSqlError, Type},
};

use super::{
    record::{
        Fixed, Number, Origin, OutcomeColumns, block_from_columns, bytes, held_from_columns,
        key_from_columns, source_from_column, told, topics_from_blob,
    },
    statements::{self as sql, PROGRESS_COLUMNS},
};
use crate::{
    domain::{
        Answer, B256, BlockRef, Event, HoldReason, Kind, RequestKey, SignedResult, Source, U256,
    },
    flow::ledger::{Answered, IdRun, Unproven},
    gateway::{
        abi::Counter,
        lane::{MinedTransaction, SignedTransaction},
    },
    journal::{
        Counts, Failing, HeldRequest, Holds, JournaledTransaction, Listed, Listing, Position,
        Progress, RequestRecord, StageName, Unfinished, Which, store::Page,
    },
    metrics::Standing,
};

/// The error for a value of the right type that this program does not know.
fn unreadable(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        column,
        Type::Text,
        Box::new(FromSqlError::Other(what.into())),
    )
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, Number>(column).map(|number| number.0)
}

fn maybe_number(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    row.get::<_, Option<Number>>(column).map(|number| number.map(|number| number.0))
}

fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<B256> {
    row.get::<_, Fixed<B256>>(column).map(|hash| hash.0)
}

fn maybe_hash(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<B256>> {
    row.get::<_, Option<Fixed<B256>>>(column).map(|hash| hash.map(|hash| hash.0))
}

/// Reads the columns of `progress_columns`, which stand first in a row.
pub(super) fn read_progress(row: &Row<'_>) -> rusqlite::Result<Progress> {
    let stage: String = row.get(0)?;
    let reason: Option<String> = row.get(1)?;
    let outcome = OutcomeColumns {
        name: row.get(12)?,
        refusal: row.get(13)?,
        detail: row.get(14)?,
        transaction: maybe_hash(row, 15)?,
        block: block_from_columns(row.get(16)?, row.get(17)?),
    };
    Ok(Progress {
        stage: StageName::from_name(&stage)
            .ok_or_else(|| unreadable(0, format!("stage {stage:?}")))?,
        held: held_from_columns(reason.as_deref(), row.get(2)?, maybe_number(row, 3)?),
        attempts: row.get(4)?,
        last_error: told(row.get(5)?),
        worked_ms: number(row, 18)?,
        transaction: maybe_hash(row, 6)?,
        arrived_at_ms: number(row, 7)?,
        asked_at_ms: maybe_number(row, 8)?,
        answered_at_ms: maybe_number(row, 9)?,
        submitted_at_ms: maybe_number(row, 10)?,
        settled_at_ms: maybe_number(row, 11)?,
        outcome: outcome.read().map_err(|what| unreadable(12, what))?,
    })
}

/// Reads position, key and kind, which follow the progress.
pub(super) fn read_name(
    row: &Row<'_>,
    source: Source,
) -> rusqlite::Result<(Position, RequestKey, Kind)> {
    let id: Fixed<U256> = row.get(PROGRESS_COLUMNS + 1)?;
    let kind: String = row.get(PROGRESS_COLUMNS + 3)?;
    let kind = Kind::from_name(&kind)
        .ok_or_else(|| unreadable(PROGRESS_COLUMNS + 3, format!("kind {kind:?}")))?;
    let key = RequestKey { source, id: id.0, content: hash(row, PROGRESS_COLUMNS + 2)? };
    Ok((Position(row.get(PROGRESS_COLUMNS)?), key, kind))
}

/// Reads the six columns of an event, beginning with column `first`.
pub(super) fn read_event(row: &Row<'_>, first: usize) -> rusqlite::Result<Event> {
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

pub(super) fn read_record(row: &Row<'_>, source: Source) -> rusqlite::Result<RequestRecord> {
    const EVENT: usize = PROGRESS_COLUMNS + 4;
    const ANSWER: usize = EVENT + 6;
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
    Ok(RequestRecord { position, key, kind, event, answer, progress: read_progress(row)? })
}

pub(super) fn cursor(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Option<BlockRef>> {
    connection
        .prepare_cached(sql::SELECT_CURSOR)?
        .query_row([contract], |row| Ok(BlockRef { number: number(row, 0)?, hash: hash(row, 1)? }))
        .optional()
}

pub(super) fn read_twice(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Option<u64>> {
    let read = connection
        .prepare_cached(sql::SELECT_READ_TWICE)?
        .query_row([contract], |row| maybe_number(row, 0))
        .optional()?;
    Ok(read.flatten())
}

pub(super) fn unproven(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Vec<Unproven>> {
    let mut select = connection.prepare_cached(sql::SELECT_UNPROVEN)?;
    let rows = select.query_map([contract], |row| {
        Ok(Unproven {
            first: number(row, 0)?,
            last: number(row, 1)?,
            hash: maybe_hash(row, 2)?,
            since_ms: number(row, 3)?,
        })
    })?;
    rows.collect()
}

pub(super) fn forgotten_up_to(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(sql::SELECT_FORGOTTEN)?
        .query_row([contract], |row| number(row, 0))
        .optional()
}

pub(super) fn begun_after(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(sql::SELECT_BEGUN_AFTER)?
        .query_row([contract], |row| number(row, 0))
        .optional()
}

/// Ids and blocks of the requests that were stored last, oldest first.
pub(super) fn newest_ids(
    connection: &Connection,
    contract: Origin,
    most: u32,
) -> rusqlite::Result<Vec<(U256, u64)>> {
    let mut select = connection.prepare_cached(sql::NEWEST_IDS)?;
    let rows = select.query_map(params![contract, most], |row| {
        let id: Fixed<U256> = row.get(0)?;
        Ok((id.0, number(row, 1)?))
    })?;
    let mut newest: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    newest.reverse();
    Ok(newest)
}

/// The known ids of requests. Rows with an unknown counter are left out.
pub(super) fn seen_ids(connection: &Connection, contract: Origin) -> rusqlite::Result<Vec<IdRun>> {
    let mut select = connection.prepare_cached(sql::SELECT_SEEN_IDS)?;
    let runs = select.query_map([contract], |row| {
        let counter = row.get::<_, u8>(0).ok().and_then(Counter::from_tag);
        let (first, last) = (number(row, 1)?, number(row, 2)?);
        let (first_block, last_block) = (number(row, 3)?, number(row, 4)?);
        Ok(counter.map(|counter| IdRun { counter, first, last, first_block, last_block }))
    })?;
    runs.filter_map(Result::transpose).collect()
}

/// Returns for each of these ids whether it was answered.
pub(super) fn answered(
    connection: &Connection,
    contract: Origin,
    ids: &[U256],
) -> rusqlite::Result<Vec<Answered>> {
    let mut select = connection.prepare_cached(sql::SELECT_ANSWERED)?;
    let mut answered = |id: &U256| {
        select.query_row(params![contract, Fixed(*id)], |row| {
            Ok(match (number(row, 0)?, number(row, 1)?) {
                (0, _) => Answered::Unknown,
                (_, 0) => Answered::No,
                _ => Answered::Yes,
            })
        })
    };
    ids.iter().map(&mut answered).collect()
}

pub(super) fn unfinished(
    connection: &Connection,
    contract: Origin,
    Page { after, limit }: Page,
    holds: Holds,
) -> rusqlite::Result<Vec<Unfinished>> {
    let statement = match holds {
        Holds::Included => sql::UNFINISHED,
        Holds::Excluded => sql::UNFINISHED_NOT_HELD,
        Holds::Only => sql::UNFINISHED_HELD,
    };
    connection
        .prepare_cached(statement)?
        .query_map(params![contract, after_seq(after), limit], |row| {
            let RequestRecord { position, key, kind, event, answer, progress } =
                read_record(row, contract.source)?;
            Ok(Unfinished {
                position,
                key,
                kind,
                event,
                stage: progress.stage.with_answer(answer),
                held: progress.held.map(|held| held.hold),
                attempts: progress.attempts,
                arrived_at_ms: progress.arrived_at_ms,
            })
        })?
        .collect()
}

pub(super) fn after_seq(after: Option<Position>) -> i64 {
    after.map_or(i64::MIN, |position| position.0)
}

pub(super) fn held(
    connection: &Connection,
    contract: Origin,
    Page { after, limit }: Page,
) -> rusqlite::Result<Vec<HeldRequest>> {
    let rows: Vec<_> = connection
        .prepare_cached(sql::HELD)?
        .query_map(params![contract, after_seq(after), limit], |row| {
            Ok((read_name(row, contract.source)?, read_progress(row)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    // A hold with a reason of a newer version reads as "not held" everywhere.
    Ok(rows
        .into_iter()
        .filter_map(|((position, key, kind), progress)| {
            Some(HeldRequest { position, key, kind, held: progress.held.clone()?, progress })
        })
        .collect())
}

/// Keys of the unfinished requests that are not held, oldest first.
pub(super) fn unfinished_keys(
    connection: &Connection,
    contract: Origin,
    Page { after, limit }: Page,
) -> rusqlite::Result<Vec<(Position, RequestKey)>> {
    connection
        .prepare_cached(sql::UNFINISHED_KEYS)?
        .query_map(params![contract, after_seq(after), limit], |row| {
            let id: Fixed<U256> = row.get(1)?;
            Ok((
                Position(row.get(0)?),
                RequestKey { source: contract.source, id: id.0, content: hash(row, 2)? },
            ))
        })?
        .collect()
}

pub(super) fn request(
    connection: &Connection,
    contract: Origin,
    key: RequestKey,
) -> rusqlite::Result<Option<RequestRecord>> {
    connection
        .prepare_cached(sql::REQUEST)?
        .query_row(params![contract, Fixed(key.id), Fixed(key.content)], |row| {
            read_record(row, contract.source)
        })
        .optional()
}

pub(super) fn namesakes(
    connection: &Connection,
    contract: Origin,
    key: RequestKey,
) -> rusqlite::Result<Vec<Event>> {
    connection
        .prepare_cached(sql::NAMESAKES)?
        .query_map(params![contract, Fixed(key.id), Fixed(key.content)], |row| {
            read_record(row, contract.source).map(|record| record.event)
        })?
        .collect()
}

/// In a journal of the chain `home`.
pub(super) fn read_transaction(row: &Row<'_>, home: u64) -> rusqlite::Result<SignedTransaction> {
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

/// A page of requests, read with `read`. Binds the parameters that the statement of its [`Which`] needs.
fn page<T>(
    connection: &Connection,
    contract: Origin,
    statement: &str,
    Listing { which, after, limit }: Listing,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let after = after_seq(after);
    let mut statement = connection.prepare_cached(statement)?;
    match which {
        Which::Ended { since_ms } => {
            let page = params![contract, after, limit, Number(since_ms)];
            statement.query_map(page, read)?.collect()
        }
        Which::Unfinished | Which::Held | Which::All => {
            statement.query_map(params![contract, after, limit], read)?.collect()
        }
    }
}

pub(super) fn listed(
    connection: &Connection,
    contract: Origin,
    listing: Listing,
) -> rusqlite::Result<Vec<Listed>> {
    let statement = match listing.which {
        Which::Unfinished => sql::LISTED_UNFINISHED,
        Which::Held => sql::LISTED_HELD,
        Which::Ended { .. } => sql::LISTED_ENDED,
        Which::All => sql::LISTED_ALL,
    };
    page(connection, contract, statement, listing, |row| read_listed(row, contract.source))
}

pub(super) fn records(
    connection: &Connection,
    contract: Origin,
    listing: Listing,
) -> rusqlite::Result<Vec<RequestRecord>> {
    let statement = match listing.which {
        Which::Unfinished => sql::UNFINISHED,
        Which::Held => sql::UNFINISHED_HELD,
        Which::Ended { .. } => sql::ENDED,
        Which::All => sql::ALL,
    };
    page(connection, contract, statement, listing, |row| read_record(row, contract.source))
}

/// All requests with this id.
pub(super) fn with_id(
    connection: &Connection,
    contract: Origin,
    id: U256,
) -> rusqlite::Result<Vec<RequestRecord>> {
    connection
        .prepare_cached(sql::BY_ID)?
        .query_map(params![contract, Fixed(id)], |row| read_record(row, contract.source))?
        .collect()
}

/// The oldest request without an outcome that is not held.
pub(super) fn oldest(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Option<Listed>> {
    connection
        .prepare_cached(sql::LISTED_OLDEST)?
        .query_row([contract], |row| read_listed(row, contract.source))
        .optional()
}

fn read_listed(row: &Row<'_>, source: Source) -> rusqlite::Result<Listed> {
    let (position, key, kind) = read_name(row, source)?;
    let block = number(row, PROGRESS_COLUMNS + 4)?;
    Ok(Listed { position, key, kind, block, progress: read_progress(row)? })
}

pub(super) fn open_transactions(
    connection: &Connection,
    of: Origin,
) -> rusqlite::Result<Vec<SignedTransaction>> {
    connection
        .prepare_cached(sql::OPEN_TRANSACTIONS)?
        .query_map([Number(of.source.chain_id)], |row| read_transaction(row, of.home))?
        .collect()
}

pub(super) fn stranded_transactions(
    connection: &Connection,
    of: Origin,
) -> rusqlite::Result<Vec<SignedTransaction>> {
    connection
        .prepare_cached(sql::STRANDED_TRANSACTIONS)?
        .query_map([Number(of.source.chain_id)], |row| read_transaction(row, of.home))?
        .collect()
}

pub(super) fn unsettled_transactions(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Vec<SignedTransaction>> {
    connection
        .prepare_cached(sql::UNSETTLED_TRANSACTIONS)?
        .query_map([contract], |row| read_transaction(row, contract.home))?
        .collect()
}

pub(super) fn recently_mined(
    connection: &Connection,
    chain: u64,
    nonces: u64,
) -> rusqlite::Result<Vec<MinedTransaction>> {
    connection
        .prepare_cached(sql::RECENTLY_MINED)?
        .query_map([Number(nonces), Number(chain)], |row| {
            Ok(MinedTransaction {
                nonce: number(row, 0)?,
                hash: row.get::<_, Fixed<B256>>(1)?.0,
                block: BlockRef { number: number(row, 2)?, hash: row.get::<_, Fixed<B256>>(3)?.0 },
            })
        })?
        .collect()
}

pub(super) fn newest(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Option<Position>> {
    connection
        .prepare_cached(sql::NEWEST)?
        .query_row([contract], |row| Ok(row.get::<_, Option<i64>>(0)?.map(Position)))
}

pub(super) fn transactions_of(
    connection: &Connection,
    contract: Origin,
    key: RequestKey,
) -> rusqlite::Result<Vec<JournaledTransaction>> {
    connection
        .prepare_cached(sql::TRANSACTIONS_OF)?
        .query_map(params![contract, Fixed(key.id), Fixed(key.content)], |row| {
            Ok(JournaledTransaction {
                transaction: read_transaction(row, contract.home)?,
                mined: block_from_columns(row.get(5)?, row.get(6)?),
                signed_at_ms: number(row, 7)?,
                given_up: row.get(8)?,
            })
        })?
        .collect()
}

pub(super) fn highest_nonce(connection: &Connection, chain: u64) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(sql::HIGHEST_NONCE)?
        .query_row([Number(chain)], |row| maybe_number(row, 0))
}

pub(super) fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(sql::IS_EMPTY, [], |row| row.get(0))
}

/// The number of requests without an outcome, held ones included.
pub(super) fn in_hand(connection: &Connection, contract: Origin) -> rusqlite::Result<u64> {
    connection.prepare_cached(sql::COUNT_IN_HAND)?.query_row([contract], |row| number(row, 0))
}

pub(super) fn standings(
    connection: &Connection,
    contract: Origin,
) -> rusqlite::Result<Vec<Standing>> {
    let mut unfinished = connection.prepare_cached(sql::COUNT_STANDINGS)?;
    let standings = unfinished.query_map([contract], |row| {
        let (kind, stage): (String, String) = (row.get(0)?, row.get(1)?);
        let reason: Option<String> = row.get(2)?;
        Ok(Standing {
            kind: Kind::from_name(&kind).ok_or_else(|| unreadable(0, format!("kind {kind:?}")))?,
            stage: StageName::from_name(&stage)
                .ok_or_else(|| unreadable(1, format!("stage {stage:?}")))?
                .as_str(),
            held: reason.as_deref().and_then(HoldReason::from_name),
            requests: number(row, 3)?,
            oldest_ms: number(row, 4)?,
        })
    })?;
    standings.collect()
}

pub(super) fn counts(connection: &Connection, contract: Origin) -> rusqlite::Result<Counts> {
    let mut counts = Counts::default();
    let mut unfinished = connection.prepare_cached(sql::COUNT_UNFINISHED)?;
    let mut rows = unfinished.query([contract])?;
    while let Some(row) = rows.next()? {
        let (stage, reason): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        let (some, oldest) = (number(row, 2)?, number(row, 3)?);
        let stage = StageName::from_name(&stage)
            .ok_or_else(|| unreadable(0, format!("stage {stage:?}")))?;
        *counts.unfinished.entry(stage).or_default() += some;
        if let Some(reason) = reason.as_deref().and_then(HoldReason::from_name) {
            *counts.held.entry(reason.as_str()).or_default() += some;
        }
        counts.oldest_unfinished_ms =
            Some(counts.oldest_unfinished_ms.map_or(oldest, |other| other.min(oldest)));
    }
    let mut settled = connection.prepare_cached(sql::COUNT_SETTLED)?;
    let mut rows = settled.query([contract])?;
    while let Some(row) = rows.next()? {
        counts.settled.insert(row.get(0)?, number(row, 1)?);
    }
    counts.skipped_logs = connection
        .prepare_cached(sql::COUNT_SKIPPED)?
        .query_row([contract], |row| number(row, 0))?;
    counts.oldest_failing = connection
        .prepare_cached(sql::OLDEST_FAILING)?
        .query_row([contract], |row| {
            let last_error = told(row.get(1)?).unwrap_or_default();
            Ok(Failing { arrived_at_ms: number(row, 0)?, last_error })
        })
        .optional()?;
    Ok(counts)
}
