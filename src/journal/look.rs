//! What an operator asks of a journal: requests page by page, and all there is of one id. Reads only;
//! the same for a journal that is being written and for one that nobody has open.

use std::fmt;

use super::{
    JournaledTransaction, Listed, Listing, RequestRecord, StoreError,
    store::{Query, Reads, Slot},
};
use crate::domain::{RequestKey, Source, U256};

/// The requests of one source. Blocking.
pub struct Look<'r> {
    reads: &'r dyn Reads,
    of: Source,
}

impl fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("of", &self.of).finish_non_exhaustive()
    }
}

impl<'r> Look<'r> {
    pub(super) fn new(reads: &'r dyn Reads, of: Source) -> Self {
        Self { reads, of }
    }

    /// A page.
    pub fn list(&self, listing: Listing) -> Result<Vec<Listed>, StoreError> {
        self.ask(|slot| Query::Listed(listing, slot))
    }

    /// A page with all that is stored of each.
    pub fn records(&self, listing: Listing) -> Result<Vec<RequestRecord>, StoreError> {
        self.ask(|slot| Query::Records(listing, slot))
    }

    /// All requests of this id: after a reorganisation there may be several.
    pub fn with_id(&self, id: U256) -> Result<Vec<RequestRecord>, StoreError> {
        self.ask(|slot| Query::WithId(id, slot))
    }

    /// Every transaction signed for a request, oldest first.
    pub fn transactions_of(
        &self,
        key: RequestKey,
    ) -> Result<Vec<JournaledTransaction>, StoreError> {
        self.ask(|slot| Query::TransactionsOf(key, slot))
    }

    fn ask<T>(&self, question: impl FnOnce(Slot<T>) -> Query) -> Result<T, StoreError> {
        let (slot, mut answer) = Slot::new();
        self.reads.query(self.of, question(slot));
        answer.try_recv().unwrap_or_else(|_| Err(StoreError::silent()))
    }
}
