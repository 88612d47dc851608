//! A ledger in memory for the tests of the rooms. It forgets nothing and promises nothing: what the
//! real one does with what it is told, `journal` tests.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Answered, Batch, IdRun, RequestLedger, Standing, Step, Taken, Unproven};
use crate::{
    domain::{BlockRef, Event, LedgerError, RequestKey, U256},
    gateway::lane::{GivenUp, SignedTransaction, TransactionId, TransactionLedger},
};

/// What the ledger was told.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub requests: HashMap<RequestKey, BlockRef>,
    pub cursor: Option<BlockRef>,
    pub skipped: HashSet<(BlockRef, u64)>,
    pub read_twice: Option<u64>,
    pub unproven: Vec<Unproven>,
    /// As they were stored last.
    pub ids: Vec<IdRun>,
    /// A test says so.
    pub answered: HashSet<U256>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeLedger(Arc<Mutex<Book>>);

impl FakeLedger {
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestLedger for FakeLedger {
    async fn namesakes(&self, _: RequestKey) -> Result<Vec<Event>, LedgerError> {
        Ok(Vec::new())
    }
    async fn answered(&self, ids: Vec<U256>) -> Result<Vec<Answered>, LedgerError> {
        let book = self.book();
        let known = |id| book.requests.keys().any(|key| key.id == id);
        Ok(ids
            .into_iter()
            .map(|id| match known(id) {
                true if book.answered.contains(&id) => Answered::Yes,
                true => Answered::No,
                false => Answered::Unknown,
            })
            .collect())
    }
    async fn arrive(&self, batch: Batch) -> Result<Taken, LedgerError> {
        let mut book = self.book();
        let mut new = HashSet::new();
        for (index, arrival) in batch.arrivals.iter().enumerate() {
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
        Ok(Taken { new, skipped, reopened: Vec::new() })
    }
    async fn note(&self, _: RequestKey, _: Step) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn standing(&self, _: RequestKey) -> Result<Option<Standing>, LedgerError> {
        Ok(None)
    }
}

impl TransactionLedger for FakeLedger {
    async fn signed(&self, _: Vec<SignedTransaction>) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn mined(&self, _: TransactionId, _: BlockRef) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn gave_up(&self, _: Vec<TransactionId>, _: GivenUp) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn reopen(&self, _: Vec<TransactionId>) -> Result<Vec<SignedTransaction>, LedgerError> {
        Ok(Vec::new())
    }
}
