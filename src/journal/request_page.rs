//! Pages of requests: which ones, and where to go on.

use super::progress::Progress;
use crate::domain::{Kind, RequestKey};

/// A position in the order of arrival, to continue a scan from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub(super) i64);

impl Position {
    /// To continue a scan in another process.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }

    /// The position whose [`Self::number`] this is.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }
}

/// Selects requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFilter {
    /// Without an outcome, including held ones.
    Unfinished,
    Held,
    /// Ended without an answer, at or after this time (Unix ms): refused, expired or orphaned.
    Ended {
        since_ms: u64,
    },
    All,
}

/// A page of requests, in the order of their arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestPage {
    pub filter: RequestFilter,
    pub after: Option<Position>,
    pub limit: u32,
}

/// A request without its large fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSummary {
    pub position: Position,
    pub key: RequestKey,
    pub kind: Kind,
    pub block: u64,
    pub progress: Progress,
}
