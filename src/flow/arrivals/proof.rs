//! Proves blocks whose logs are in doubt: every sound node is asked for all logs of the block, in both
//! ways it offers, until they are proven complete. Events are stored at once, proven or not: an
//! unneeded ask costs less than a lost request.
//!
//! One block at a time. New ones come first; the others take turns, ever more slowly as long as nothing
//! is proven.

use std::{convert::Infallible, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{debug, info, warn};

use super::{
    blooms::{self, BlockProof, NodeLogs, compare, prove_block},
    ids::SharedIds,
    reading_state::ReadingState,
    source::EventSource,
    storing::{FoundEvents, FoundKind},
};
use crate::{
    chain::reader::{BlockId, ChainReader as _, Head, LogSource, NodeId},
    dice::Dice,
    domain::{B256, Event},
    time::backoff::Backoff,
};

/// Between two blocks while proofs succeed.
const PACE: Duration = Duration::from_millis(50);

/// The loop.
pub(super) struct ProofLoop<S> {
    source: S,
    state: ReadingState,
    ids: SharedIds,
    found_events: mpsc::Sender<FoundEvents>,
    dice: Dice,
}

impl<S: EventSource> ProofLoop<S> {
    pub(super) fn new(
        source: S,
        state: ReadingState,
        ids: SharedIds,
        found_events: mpsc::Sender<FoundEvents>,
        dice: Dice,
    ) -> Self {
        Self { source, state, ids, found_events, dice }
    }

    pub(super) async fn run(self) -> Infallible {
        let mut pause = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            let next = self.state.lock().unproven.next();
            let Some((number, hash)) = next else {
                self.state.wait_listed().await;
                continue;
            };
            // If the ids have no hole, no request is missing, whatever the node's log index shows.
            if self.ids.lock().is_complete(number) {
                debug!(block = number, "the ids of requests prove a block");
                self.store_finding(Vec::new(), NodeId(0), FoundKind::Proven { number }).await;
                continue;
            }
            let (verdict, by) = self.prove(number, hash).await;
            match verdict {
                BlockProof::Proven(events) => {
                    let requests = events.len();
                    if hash.is_some() {
                        info!(block = number, requests, "the logs of a block are proven now");
                    } else {
                        debug!(block = number, requests, "the logs of a block are proven");
                    }
                    self.store_finding(events, by, FoundKind::Proven { number }).await;
                    pause.reset();
                    sleep(PACE).await;
                }
                BlockProof::Unproven(events) => {
                    debug!(block = number, "no gateway node proves the logs of a block");
                    if !events.is_empty() {
                        self.store_finding(events, by, FoundKind::InDoubt).await;
                    }
                    if self.state.lock().unproven.has_unasked() {
                        continue;
                    }
                    tokio::select! {
                        biased;
                        () = sleep(pause.next_delay(self.dice.roll())) => {}
                        () = self.state.wait_listed() => {}
                    }
                }
            }
        }
    }

    /// What all sound nodes report about a block.
    async fn prove(&self, number: u64, hash: Option<B256>) -> (BlockProof, NodeId) {
        let provider = self.source.chain();
        let nobody = (BlockProof::Unproven(Vec::new()), NodeId(0));
        let by_hash = match hash {
            Some(hash) => provider.header(BlockId::Hash(hash)).await.ok().flatten(),
            None => None,
        };
        // A block that left the chain is replaced by the first reading; here the block now at its number is
        // taken.
        let head = match by_hash {
            Some(head) => head,
            None => match provider.header(BlockId::Number(number)).await {
                Ok(Some(head)) if head.block.number == number => head,
                Ok(_) | Err(_) => return nobody,
            },
        };
        let wanted = self.source.filter();
        // One header is enough to skip a block of a range, as in the first reading.
        if hash.is_none() && !wanted.may_match(self.state.lock().bloom_trust.bloom(&head)) {
            return (BlockProof::Proven(Vec::new()), head.node);
        }
        let asked = provider.sound_nodes().into_iter().map(|node| self.logs_of_node(node, &head));
        let witnesses: Vec<NodeLogs> = join_all(asked).await.into_iter().flatten().collect();
        let by = witnesses
            .iter()
            .find(|one| one.logs.iter().any(|logs| !wanted.select(logs).is_empty()))
            .map_or(head.node, |one| one.head.node);
        let (verdict, liars) = prove_block(&witnesses, wanted, &mut self.state.lock().bloom_trust);
        for node in liars {
            let host = provider.host(node);
            warn!(
                host,
                "a gateway node reported a wrong bloom: the logs of every block are requested from \
                 now on"
            );
        }
        (verdict, by)
    }

    /// One node's header and logs of a block. `None`: it does not know the block.
    async fn logs_of_node(&self, node: NodeId, head: &Head) -> Option<NodeLogs> {
        let provider = self.source.chain().for_node(node);
        let hash = head.block.hash;
        let head = provider.header(BlockId::Hash(hash)).await.ok().flatten()?;
        let head = Head { node, ..head };
        let mut logs = Vec::new();
        for way in [LogSource::Logs, LogSource::Receipts] {
            if let Ok(told) = provider.block_logs(hash, way).await {
                let whole = head.bloom.is_some_and(|bloom| {
                    compare(&bloom, &told.value) == blooms::BloomComparison::Complete
                });
                logs.push(told.value);
                if whole {
                    break;
                }
            }
        }
        Some(NodeLogs { head, logs })
    }

    /// Sends events to the first reading, and waits until they are stored.
    async fn store_finding(&self, events: Vec<Event>, by: NodeId, how: FoundKind) {
        let (stored, done) = oneshot::channel();
        if self.found_events.send(FoundEvents { events, by, how, stored }).await.is_ok() {
            let _ = done.await;
        }
    }
}
