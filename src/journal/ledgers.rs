//! Implements the ports of the flow and the lane.

use std::time::Duration;

use super::{
    Journal,
    commands::{CommandResult, Work},
    store::Query,
};
use crate::{
    chain::lane::{GiveUpReason, SignedTransaction, TransactionId, TransactionLedger},
    domain::{B256, BlockRef, Event, KeyRepresentation, LedgerError, RequestKey, U256},
    flow::ledger::{AnsweredHere, Batch, RequestLedger, RequestState, Step, StoredBatch},
};

impl RequestLedger for Journal {
    /// The batch's cursor, if any, is stored in the same `SQLite` transaction as its requests. Moving it
    /// back (a reorganisation, a backfill) is the caller's decision.
    async fn store_batch(&self, batch: Batch) -> Result<StoredBatch, LedgerError> {
        let done = self.durable(Work::StoreBatch(batch)).await?;
        Ok(if let CommandResult::StoredBatch(taken) = done {
            taken
        } else {
            StoredBatch::default()
        })
    }

    async fn note(&self, key: RequestKey, step: Step) -> Result<(), LedgerError> {
        self.queue(Work::Note(key, step), None).await
    }

    async fn request_state(&self, key: RequestKey) -> Result<Option<RequestState>, LedgerError> {
        // Reads see what is on disk, so everything noted before is flushed first.
        self.flush().await?;
        let record = self.request(key).await?;
        Ok(record.filter(|record| record.progress.outcome.is_none()).map(|record| RequestState {
            stage: record.stage(),
            held: record.progress.held.map(|held| held.hold.reason),
            worked: Duration::from_millis(record.progress.worked_ms),
            bound_context: record.access.and_then(|access| access.bound_context),
            is_approved: record.approval.is_some(),
        }))
    }

    async fn event_of(&self, key: RequestKey) -> Result<Option<Event>, LedgerError> {
        Ok(self.request(key).await?.map(|record| record.event))
    }

    async fn events_of_same_id(&self, key: RequestKey) -> Result<Vec<Event>, LedgerError> {
        Ok(self.ask(|slot| Query::EventsOfSameId(key, slot)).await?)
    }

    async fn events_of_same_transaction(
        &self,
        key: RequestKey,
        transaction: B256,
        limit: u32,
    ) -> Result<Vec<Event>, LedgerError> {
        let ask = |slot| Query::EventsOfSameTransaction(key, transaction, limit, slot);
        Ok(self.ask(ask).await?)
    }

    async fn choose_representation(
        &self,
        preparation: RequestKey,
        wanted: KeyRepresentation,
    ) -> Result<KeyRepresentation, LedgerError> {
        let representation = wanted;
        self.durable(Work::Represent { preparation, representation }).await?;
        Ok(self.representation_of(preparation.id).await?.unwrap_or(wanted))
    }

    async fn representation_of(
        &self,
        preparation: U256,
    ) -> Result<Option<KeyRepresentation>, LedgerError> {
        Ok(self.ask(|slot| Query::Representation(preparation, slot)).await?)
    }

    async fn is_done(&self, id: U256) -> Result<bool, LedgerError> {
        Ok(self.ask(|slot| Query::IsDone(id, slot)).await?)
    }

    async fn is_unasked(&self, id: U256) -> Result<bool, LedgerError> {
        Ok(self.ask(|slot| Query::IsUnasked(id, slot)).await?)
    }

    async fn answered_here(&self, ids: Vec<U256>) -> Result<Vec<AnsweredHere>, LedgerError> {
        Ok(self.ask(|slot| Query::AnsweredHere(ids, slot)).await?)
    }
}

impl TransactionLedger for Journal {
    /// A hash that was stored before stays, but is not given up any more.
    async fn record_signed(&self, transactions: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        self.durable(Work::Signed(transactions)).await.map(|_| ())
    }

    /// If it is recorded again with another block (a reorganisation), the last one counts.
    async fn record_mined(&self, id: TransactionId, block: BlockRef) -> Result<(), LedgerError> {
        self.queue(Work::Mined(id, block), None).await
    }

    async fn record_given_up(
        &self,
        ids: Vec<TransactionId>,
        why: GiveUpReason,
    ) -> Result<(), LedgerError> {
        self.queue(Work::GiveUp(ids, why), None).await
    }

    async fn reopen(&self, ids: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        let done = self.durable(Work::Reopen(ids)).await?;
        let CommandResult::Reopened(open) = done else { return Ok(Vec::new()) };
        self.shared.reopened.notify_one();
        Ok(open)
    }
}
