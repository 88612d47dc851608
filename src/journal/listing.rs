//! What an operator asks of a journal: requests page by page, and all there is of one id. Reads only;
//! the same for a journal that is being written and for one that nobody has open.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    JournaledTransaction, Position, RequestRecord,
    progress::Progress,
    reader,
    record::{Fixed, Number},
    statements::{self as sql, PROGRESS_COLUMNS},
};
use crate::domain::{Address, Kind, RequestKey, U256};

/// Why a question has no answer: the disk, or a row that says nothing this program knows.
pub type QueryError = rusqlite::Error;

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Without an outcome, held ones included.
    Unfinished,
    Held,
    /// Ended without an answer, at or after this time (Unix ms): refused, expired or orphaned.
    Ended {
        since_ms: u64,
    },
    All,
}

/// A page of them, in the order of their arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    pub which: Which,
    pub after: Option<Position>,
    pub limit: u32,
}

/// A request without what is large of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub block: u64,
    pub progress: Progress,
}

/// The requests of one contract.
#[derive(Debug)]
pub struct Look<'c> {
    connection: &'c Connection,
    contract: Address,
}

impl<'c> Look<'c> {
    pub(super) fn new(connection: &'c Connection, contract: Address) -> Self {
        Self { connection, contract }
    }

    /// A page.
    pub fn list(&self, listing: Listing) -> Result<Vec<Listed>, QueryError> {
        let statement = match listing.which {
            Which::Unfinished => sql::LISTED_UNFINISHED,
            Which::Held => sql::LISTED_HELD,
            Which::Ended { .. } => sql::LISTED_ENDED,
            Which::All => sql::LISTED_ALL,
        };
        self.page(statement, listing, listed)
    }

    /// The oldest one without an outcome that is not held.
    pub fn oldest(&self) -> Result<Option<Listed>, QueryError> {
        let mut statement = self.connection.prepare_cached(sql::LISTED_OLDEST)?;
        statement.query_row([Fixed(self.contract)], listed).optional()
    }

    /// A page with all that is stored of each.
    pub fn records(&self, listing: Listing) -> Result<Vec<RequestRecord>, QueryError> {
        let statement = match listing.which {
            Which::Unfinished => sql::UNFINISHED,
            Which::Held => sql::UNFINISHED_HELD,
            Which::Ended { .. } => sql::ENDED,
            Which::All => sql::ALL,
        };
        self.page(statement, listing, reader::read_record)
    }

    fn page<T>(
        &self,
        statement: &str,
        Listing { which, after, limit }: Listing,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, QueryError> {
        let (contract, after) = (Fixed(self.contract), reader::after_seq(after));
        let mut statement = self.connection.prepare_cached(statement)?;
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

    /// All requests of this id: after a reorganisation there may be several.
    pub fn with_id(&self, id: U256) -> Result<Vec<RequestRecord>, QueryError> {
        let mut statement = self.connection.prepare_cached(sql::BY_ID)?;
        statement
            .query_map(params![Fixed(self.contract), Fixed(id)], reader::read_record)?
            .collect()
    }

    /// Every transaction signed for a request, oldest first.
    pub fn transactions_of(
        &self,
        key: RequestKey,
    ) -> Result<Vec<JournaledTransaction>, QueryError> {
        reader::transactions_of(self.connection, self.contract, key)
    }
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    let (position, key, kind) = reader::read_name(row)?;
    let block = reader::number(row, PROGRESS_COLUMNS + 4)?;
    Ok(Listed { position, key, kind, block, progress: reader::read_progress(row)? })
}
