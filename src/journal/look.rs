//! Any number of questions in a row: the same for a journal that is being written and for one that nobody
//! has open. Reads only.

use std::fmt;

use super::{
    StoreError,
    store::{Query, Reads, Slot},
};
use crate::domain::Source;

/// What is stored of one source. Blocking.
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

    pub fn ask<T>(&self, question: impl FnOnce(Slot<T>) -> Query) -> Result<T, StoreError> {
        let (slot, mut answer) = Slot::new();
        self.reads.query(self.of, question(slot));
        answer.try_recv().unwrap_or_else(|_| Err(StoreError::silent()))
    }
}
