//! The ports that the flow and the lane record through.

use std::time::Duration;

use super::{
    Journal,
    commands::{Done, Work},
    store::Query,
};
use crate::{
    domain::{BlockRef, Event, LedgerError, RequestKey, U256},
    flow::ledger::{Answered, Batch, RequestLedger, Standing, Step, Taken},
    gateway::lane::{GivenUp, SignedTransaction, TransactionId, TransactionLedger},
};

impl RequestLedger for Journal {
    /// The cursor, if the batch names one, is stored as named, in the same `SQLite` transaction as
    /// the requests: going back (a reorg, a backfill) is the caller's to decide.
    async fn arrive(&self, batch: Batch) -> Result<Taken, LedgerError> {
        let done = self.durable(Work::Arrive(batch)).await?;
        Ok(if let Done::Taken(taken) = done { taken } else { Taken::default() })
    }

    async fn note(&self, key: RequestKey, step: Step) -> Result<(), LedgerError> {
        self.queue(Work::Note(key, step), None).await
    }

    async fn standing(&self, key: RequestKey) -> Result<Option<Standing>, LedgerError> {
        // A read sees what is on disk: first everything noted so far has to be.
        self.flush().await?;
        let record = self.request(key).await?;
        Ok(record.filter(|record| record.progress.outcome.is_none()).map(|record| Standing {
            stage: record.stage(),
            held: record.progress.held.map(|held| held.hold.reason),
            worked: Duration::from_millis(record.progress.worked_ms),
        }))
    }

    async fn namesakes(&self, key: RequestKey) -> Result<Vec<Event>, LedgerError> {
        Ok(self.ask(|slot| Query::Namesakes(key, slot)).await?)
    }

    async fn answered(&self, ids: Vec<U256>) -> Result<Vec<Answered>, LedgerError> {
        Ok(self.ask(|slot| Query::Answered(ids, slot)).await?)
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
        let done = self.durable(Work::Reopen(ids)).await?;
        let Done::Reopened(open) = done else { return Ok(Vec::new()) };
        self.shared.reopened.notify_one();
        Ok(open)
    }
}
