//! A series of queries: the same for an open journal and for one that no process has open. Read-only.

use std::fmt;

use super::{
    StoreError,
    store::{Query, QueryReply, StoreReader},
};
use crate::domain::RequestSource;

/// Queries of one source. Blocking.
pub struct Queries<'r> {
    reads: &'r dyn StoreReader,
    of: RequestSource,
}

impl fmt::Debug for Queries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").field("of", &self.of).finish_non_exhaustive()
    }
}

impl<'r> Queries<'r> {
    pub(super) fn new(reads: &'r dyn StoreReader, of: RequestSource) -> Self {
        Self { reads, of }
    }

    pub fn ask<T>(&self, question: impl FnOnce(QueryReply<T>) -> Query) -> Result<T, StoreError> {
        let (slot, mut answer) = QueryReply::new();
        self.reads.query(self.of, question(slot));
        answer.try_recv().unwrap_or_else(|_| Err(StoreError::no_answer()))
    }
}
