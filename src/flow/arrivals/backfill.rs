//! Reads blocks again at an operator's request: unknown requests are stored and processed, and so are
//! orphans; other known ones stay as they are, and the cursor does not move.
//!
//! The same proofs as in reading far from the head: one node returns the logs together with the headers
//! of both ends of a range, so that a node without the blocks cannot make them look empty. Every sound
//! node is asked, because the operator suspects that something was hidden.

use tokio::time::Instant;

use super::{
    ReadError,
    decoded::{DecodedEvents, decode, log_skipped},
    expect_range_known,
    ids::SharedIds,
    pages::PageSizes,
    source::EventSource,
};
use crate::{
    chain::reader::{ChainReader as _, NodeId},
    domain::{Event, LedgerError, Request},
    flow::ledger::{Batch, RequestLedger, Sighting},
};

/// Reads known blocks again, at every contract of a chain that is read.
#[derive(Debug)]
pub struct Backfill<S, L> {
    /// The first one names the requests of all.
    contracts: Vec<Contract<S, L>>,
}

/// A contract, and where what it asked for is stored.
#[derive(Debug)]
struct Contract<S, L> {
    source: S,
    ledger: L,
    pages: PageSizes,
    ids: SharedIds,
}

/// A range that was read again.
#[derive(Debug)]
pub struct Reread {
    /// The last block that was read.
    pub to: u64,
    /// What each contract asked for: the batch, and its requests in its order.
    found: Vec<(Batch, Vec<Request>)>,
}

impl Reread {
    /// The number of requests in it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.found.iter().map(|(_, requests)| requests.len()).sum()
    }
}

/// Why a range was not read. A retry may succeed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BackfillError(#[from] ReadError);

impl<S: EventSource, L: RequestLedger> Backfill<S, L> {
    pub fn new(source: S, ledger: L) -> Self {
        Self { contracts: Vec::new() }.beside(source, ledger)
    }

    /// Uses this set of known ids of the first contract, to which ids that are found are added.
    #[must_use]
    pub fn with_ids(mut self, ids: SharedIds) -> Self {
        if let Some(first) = self.contracts.first_mut() {
            first.ids = ids;
        }
        self
    }

    /// Reads this contract too, which is read beside the first one and has a cursor of its own.
    #[must_use]
    pub fn beside(mut self, source: S, ledger: L) -> Self {
        let (pages, ids) = Default::default();
        self.contracts.push(Contract { source, ledger, pages, ids });
        self
    }

    /// Reads from `from` up to at most `to`, as much as the nodes return at once. Stores nothing.
    /// Cancel-safe.
    pub async fn read(&mut self, from: u64, to: u64) -> Result<Reread, BackfillError> {
        let (mut read, mut last) = (Vec::with_capacity(self.contracts.len()), to);
        for contract in &mut self.contracts {
            let (events, end) = contract.read_everywhere(from, last).await?;
            last = end;
            read.push(events);
        }
        let found = self.contracts.iter().zip(read).map(|(contract, mut events)| {
            // Another contract's page may have ended before.
            events.retain(|event| event.block.number <= last);
            contract.ids.lock().record_events(&events, Instant::now());
            let DecodedEvents { batch, requests, .. } =
                decode(&contract.source, events, |_| Sighting::Found);
            (batch, requests)
        });
        Ok(Reread { to: last, found: found.collect() })
    }

    /// Stores what was read. Returns the requests that were new or are open again: they are durable now, and
    /// the caller has to send them to the walks. Once polled, the future must run to its end, because the requests may be
    /// in the ledger from then on.
    pub async fn store(&self, read: Reread) -> Result<Vec<Request>, LedgerError> {
        let mut to_walk = Vec::new();
        for (contract, (batch, requests)) in self.contracts.iter().zip(read.found) {
            to_walk.extend(contract.store(batch, requests).await?);
        }
        Ok(to_walk)
    }
}

impl<S: EventSource, L: RequestLedger> Contract<S, L> {
    async fn store(
        &self,
        batch: Batch,
        requests: Vec<Request>,
    ) -> Result<Vec<Request>, LedgerError> {
        if batch.arrivals.is_empty() && batch.skipped.is_empty() {
            return Ok(Vec::new());
        }
        let skipped = batch.skipped.clone();
        let taken = self.ledger.store_batch(batch).await?;
        log_skipped(&skipped, &taken);
        let mut requests: Vec<Option<_>> = requests.into_iter().map(Some).collect();
        let to_walk = taken.new.into_iter().chain(taken.reopened);
        Ok(to_walk.filter_map(|index| requests.get_mut(index)?.take()).collect())
    }

    /// The events of a page that any node shows, and where the page ends. One node that knows the blocks is
    /// enough.
    async fn read_everywhere(
        &mut self,
        from: u64,
        to: u64,
    ) -> Result<(Vec<Event>, u64), BackfillError> {
        'page: loop {
            let mut nodes = self.source.chain().sound_nodes();
            if nodes.is_empty() {
                nodes.push(NodeId(0));
            }
            let ends = nodes.iter().map(|node| self.pages.page(*node, from, to).1);
            let last = ends.min().unwrap_or(from);
            let (mut events, mut answers, mut failed) = (Vec::new(), 0_usize, None);
            for node in nodes {
                match self.source.only(node).events_between(from, last).await {
                    Ok(range) => match expect_range_known(&range, from, last) {
                        Ok(()) => {
                            self.pages.record_success(node, (from, last), Instant::now());
                            answers += 1;
                            for event in range.events {
                                if !events.contains(&event) {
                                    events.push(event);
                                }
                            }
                        }
                        Err(error) => failed = Some(error),
                    },
                    Err(error) => {
                        if self.pages.record_failure(node, (from, last), &error, Instant::now()) {
                            continue 'page;
                        }
                        failed = Some(error.into());
                    }
                }
            }
            match failed {
                Some(error) if answers == 0 => return Err(error.into()),
                Some(_) | None => {}
            }
            events.sort_by_key(|event| (event.block.number, event.log_index));
            return Ok((events, last));
        }
    }
}
