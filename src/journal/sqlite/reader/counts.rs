//! Counts of requests by state.

use rusqlite::Result;

use super::{Rows, kind, number, stage};
use crate::{
    domain::HoldReason,
    journal::{
        Counts, FailingRequest,
        sqlite::{columns::bounded_text, statements as sql},
    },
    telemetry::metrics::RequestGauges,
};

impl Rows<'_> {
    /// The number of requests without an outcome, held ones included.
    pub fn in_hand(&self) -> Result<u64> {
        self.db.prepare_cached(sql::COUNT_IN_HAND)?.query_row([self.of], |row| number(row, 0))
    }

    /// The number of requests of other sources that have no outcome.
    pub fn unfinished_elsewhere(&self) -> Result<u64> {
        self.db.query_row(sql::COUNT_ELSEWHERE, [self.of], |row| number(row, 0))
    }

    pub fn standings(&self) -> Result<Vec<RequestGauges>> {
        self.many(sql::COUNT_STANDINGS, [self.of], |row| {
            let reason: Option<String> = row.get(2)?;
            Ok(RequestGauges {
                kind: kind(row, 0)?,
                stage: stage(row, 1)?.as_str(),
                held: reason.as_deref().and_then(HoldReason::from_name),
                requests: number(row, 3)?,
                oldest_ms: number(row, 4)?,
            })
        })
    }

    pub fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut unfinished = self.db.prepare_cached(sql::COUNT_UNFINISHED)?;
        let mut rows = unfinished.query([self.of])?;
        while let Some(row) = rows.next()? {
            let (stage, reason): (_, Option<String>) = (stage(row, 0)?, row.get(1)?);
            let (some, oldest) = (number(row, 2)?, number(row, 3)?);
            *counts.unfinished.entry(stage).or_default() += some;
            if let Some(reason) = reason.as_deref().and_then(HoldReason::from_name) {
                *counts.held.entry(reason.as_str()).or_default() += some;
            }
            counts.oldest_unfinished_ms =
                Some(counts.oldest_unfinished_ms.map_or(oldest, |other| other.min(oldest)));
        }
        let settled = self.many(sql::COUNT_SETTLED, [self.of], |row| {
            Ok((row.get::<_, String>(0)?, number(row, 1)?))
        })?;
        counts.settled.extend(settled);
        counts.skipped_logs =
            self.one(sql::COUNT_SKIPPED, [self.of], |row| number(row, 0))?.unwrap_or_default();
        counts.oldest_failing = self.one(sql::OLDEST_FAILING, [self.of], |row| {
            let last_error = bounded_text(row.get(1)?).unwrap_or_default();
            Ok(FailingRequest { arrived_at_ms: number(row, 0)?, last_error })
        })?;
        Ok(counts)
    }
}
