//! Blocks read once more because an operator says so: what is not known yet is stored and walked, what
//! is known stays as it is, and the cursor does not move.
//!
//! The same proofs as in reading far from the head: one node tells the logs and the headers of both
//! ends of a range, so that one that does not know the blocks cannot make them look empty.

use super::{gap::PageSize, known, sort};
use crate::{
    domain::LedgerError,
    flow::{Intake, RequestLedger},
    gateway::{decryption::DecryptionAdapter, provider::Provider},
};

/// Reads known blocks again.
#[derive(Debug)]
pub struct Backfill<P, L> {
    adapter: DecryptionAdapter<P>,
    ledger: L,
    page: PageSize,
}

/// A range that was read again.
#[derive(Debug)]
pub struct Reread {
    /// The last block that was read.
    pub to: u64,
    /// Requests found.
    pub requests: usize,
    /// Those of them that were not known: they are stored.
    pub new: Vec<Intake>,
}

/// Why a range was not read. The same again may succeed.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    #[error("{0}")]
    Chain(String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl<P: Provider, L: RequestLedger> Backfill<P, L> {
    pub fn new(adapter: DecryptionAdapter<P>, ledger: L) -> Self {
        Self { adapter, ledger, page: PageSize::new() }
    }

    /// Reads from `from` on, not beyond `to`, and as much as the node tells at once. What is new is
    /// durable when this returns, and the caller's to be walked.
    pub async fn read(&mut self, from: u64, to: u64) -> Result<Reread, BackfillError> {
        loop {
            let (from, to) = self.page.page(from, to);
            let range = match self.adapter.requests_between(from, to).await {
                Ok(range) => range,
                Err(error) => {
                    let smaller = self.page.shrink();
                    if smaller && error.wants_smaller_range() {
                        continue;
                    }
                    return Err(BackfillError::Chain(error.to_string()));
                }
            };
            self.page.grow();
            let unproven = |error: super::ReadError| BackfillError::Chain(error.to_string());
            known(range.first.as_ref(), from).map_err(unproven)?;
            known(range.last.as_ref(), to).map_err(unproven)?;
            let sorted = sort(&self.adapter, range.events);
            let requests = sorted.requests.len();
            let taken = if sorted.batch.arrivals.is_empty() && sorted.batch.skipped.is_empty() {
                crate::flow::Taken::default()
            } else {
                self.ledger.arrive(sorted.batch).await?
            };
            let mut found: Vec<Option<_>> = sorted.requests.into_iter().map(Some).collect();
            let new = taken.new.into_iter().filter_map(|index| found.get_mut(index)?.take());
            // It may have been answered by an earlier life.
            let new = new.map(|request| Intake { request, recovered: true }).collect();
            return Ok(Reread { to, requests, new });
        }
    }
}
