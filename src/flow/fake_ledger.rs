//! A ledger in memory for the tests of the flow. It keeps everything and checks nothing: the
//! `journal` tests cover the real one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    AnsweredHere, Batch, IdRange, RequestLedger, RequestState, Sighting, Step, StoredBatch,
    UnprovenRange,
};
use crate::{
    chain::lane::{GiveUpReason, SignedTransaction, TransactionId, TransactionLedger},
    domain::{B256, BlockRef, Event, KeyRepresentation, LedgerError, RequestKey, U256},
};

/// What was recorded.
#[derive(Debug, Default)]
pub(crate) struct LedgerContents {
    pub requests: HashMap<RequestKey, BlockRef>,
    pub cursor: Option<BlockRef>,
    pub skipped: HashSet<(BlockRef, u64)>,
    pub read_twice: Option<u64>,
    pub unproven: Vec<UnprovenRange>,
    /// As they were stored last.
    pub ids: Vec<IdRange>,
    /// Of all arrivals, in order.
    pub seen: Vec<(RequestKey, Sighting)>,
    /// Set by a test.
    pub answered: HashSet<U256>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeLedger(Arc<Mutex<LedgerContents>>);

impl FakeLedger {
    pub fn contents(&self) -> MutexGuard<'_, LedgerContents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestLedger for FakeLedger {
    async fn event_of(&self, _: RequestKey) -> Result<Option<Event>, LedgerError> {
        Ok(None)
    }
    async fn events_of_same_id(&self, _: RequestKey) -> Result<Vec<Event>, LedgerError> {
        Ok(Vec::new())
    }
    async fn events_of_same_transaction(
        &self,
        _: RequestKey,
        _: B256,
        _: u32,
    ) -> Result<Vec<Event>, LedgerError> {
        Ok(Vec::new())
    }
    async fn is_done(&self, _: U256) -> Result<bool, LedgerError> {
        Ok(false)
    }
    async fn is_unasked(&self, _: U256) -> Result<bool, LedgerError> {
        Ok(false)
    }
    async fn choose_representation(
        &self,
        _: RequestKey,
        wanted: KeyRepresentation,
    ) -> Result<KeyRepresentation, LedgerError> {
        Ok(wanted)
    }
    async fn representation_of(&self, _: U256) -> Result<Option<KeyRepresentation>, LedgerError> {
        Ok(None)
    }
    async fn answered_here(&self, ids: Vec<U256>) -> Result<Vec<AnsweredHere>, LedgerError> {
        let book = self.contents();
        let known = |id| book.requests.keys().any(|key| key.id == id);
        Ok(ids
            .into_iter()
            .map(|id| match known(id) {
                true if book.answered.contains(&id) => AnsweredHere::Yes,
                true => AnsweredHere::No,
                false => AnsweredHere::Unknown,
            })
            .collect())
    }
    async fn store_batch(&self, batch: Batch) -> Result<StoredBatch, LedgerError> {
        let mut book = self.contents();
        let mut new = HashSet::new();
        for (index, arrival) in batch.arrivals.iter().enumerate() {
            book.seen.push((arrival.key, arrival.seen));
            if book.requests.insert(arrival.key, arrival.event.block).is_none() {
                new.insert(index);
            }
        }
        let mut skipped = Vec::new();
        for (index, (event, _)) in batch.skipped.iter().enumerate() {
            if book.skipped.insert((event.block, event.log_index)) {
                skipped.push(index);
            }
        }
        book.cursor = batch.cursor.or(book.cursor);
        book.read_twice = batch.read_twice.or(book.read_twice);
        if let Some(unproven) = batch.unproven {
            book.unproven = unproven;
        }
        if let Some(ids) = batch.ids {
            book.ids = ids;
        }
        let mut new: Vec<usize> = new.into_iter().collect();
        new.sort_unstable();
        Ok(StoredBatch { new, skipped, reopened: Vec::new() })
    }
    async fn note(&self, _: RequestKey, _: Step) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn request_state(&self, _: RequestKey) -> Result<Option<RequestState>, LedgerError> {
        Ok(None)
    }
}

impl TransactionLedger for FakeLedger {
    async fn record_signed(&self, _: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn record_mined(&self, _: TransactionId, _: BlockRef) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn record_given_up(
        &self,
        _: Vec<TransactionId>,
        _: GiveUpReason,
    ) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn reopen(&self, _: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        Ok(Vec::new())
    }
}
