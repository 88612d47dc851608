//! Requests as the journal tells them to an operator.

use std::time::Duration;

use alloy::primitives::U256;

use super::{
    Error, Result,
    journal::{self, Entry},
    scene::{PATIENCE, Scene},
    until,
};

/// One request of the journal, with empty texts for what is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub stage: String,
    pub attempts: u32,
    pub last_error: String,
    /// Empty: not held.
    pub held: String,
    pub detail: String,
    /// Empty: not settled.
    pub outcome: String,
    pub refusal: String,
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        let (held, detail) = entry.held.unwrap_or_default();
        Self {
            stage: entry.stage,
            attempts: entry.attempts,
            last_error: entry.last_error.unwrap_or_default(),
            held,
            detail,
            outcome: entry.outcome.unwrap_or_default(),
            refusal: entry.refusal.unwrap_or_default(),
        }
    }
}

impl Scene {
    /// The rows of a request id: usually one. None while there is no journal.
    pub fn rows(&self, id: U256) -> Vec<Row> {
        // There may be no file yet, or no table in it: no rows.
        let entries = self.journal().and_then(|file| journal::entries(&file).ok());
        let entries = entries.unwrap_or_default();
        entries.into_iter().filter(|entry| entry.id == id).map(Row::from).collect()
    }

    /// Waits until the row of `id` is as wanted.
    pub async fn row(&self, id: U256, what: &str, wanted: impl Fn(&Row) -> bool) -> Result<Row> {
        let seen = until(what, PATIENCE, Duration::from_millis(50), async || {
            Ok(self.rows(id).into_iter().find(|row| wanted(row)))
        });
        seen.await.map_err(|error| {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            Error::other(format!("{id:#x} {error}; it is {:?}\n{tail}", self.rows(id)))
        })
    }

    /// Waits until `id` is held for `reason`.
    pub async fn held(&self, id: U256, reason: &str) -> Result<Row> {
        let what = format!("held {reason}");
        self.row(id, &what, |row| row.held == reason && row.outcome.is_empty()).await
    }

    /// Waits until `id` is held for `reason` with a detail that contains `words`.
    pub async fn held_saying(&self, id: U256, reason: &str, words: &str) -> Result<Row> {
        let what = format!("held {reason} saying {words:?}");
        self.row(id, &what, |row| row.held == reason && row.detail.contains(words)).await
    }

    /// Waits until `id` ended with `outcome`.
    pub async fn settled(&self, id: U256, outcome: &str) -> Result<Row> {
        self.row(id, &format!("outcome {outcome}"), |row| row.outcome == outcome).await
    }
}
