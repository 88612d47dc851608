//! Blocks whose logs are in doubt: every sound node is asked for all logs of the block, in both ways it
//! may have them, until they are proven to be all there are. What is found is stored at once, proven
//! or not: a request that is asked for in vain costs less than one that is lost.
//!
//! One block after the other. Those that are new come first; the others in turn, and slower as long as
//! nothing is proven.

use std::{convert::Infallible, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{debug, info, warn};

use super::{
    Found, How,
    blooms::{self, Verdict, Witness, compare, judge},
    ids::SharedIds,
    notes::Notes,
    source::EventSource,
};
use crate::{
    backoff::Backoff,
    dice::Dice,
    domain::{B256, Event},
    gateway::provider::{At, ChainReader as _, Head, NodeId, Way},
};

/// Between two blocks while proofs succeed.
const PACE: Duration = Duration::from_millis(50);

/// The loop.
pub(super) struct Proof<S> {
    source: S,
    notes: Notes,
    ids: SharedIds,
    first: mpsc::Sender<Found>,
    dice: Dice,
}

impl<S: EventSource> Proof<S> {
    pub(super) fn new(
        source: S,
        notes: Notes,
        ids: SharedIds,
        first: mpsc::Sender<Found>,
        dice: Dice,
    ) -> Self {
        Self { source, notes, ids, first, dice }
    }

    pub(super) async fn run(self) -> Infallible {
        let mut pause = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            let next = self.notes.open().list.next();
            let Some((number, hash)) = next else {
                self.notes.wait_listed().await;
                continue;
            };
            // Of ids without a gap none is missing, whatever the node's index of logs says.
            if self.ids.lock().is_whole(number) {
                debug!(block = number, "the ids of requests prove a block");
                self.found(Vec::new(), NodeId(0), How::Proven { number }).await;
                continue;
            }
            let (verdict, by) = self.ask(number, hash).await;
            match verdict {
                Verdict::Proven(events) => {
                    let requests = events.len();
                    if hash.is_some() {
                        info!(block = number, requests, "the logs of a block are proven now");
                    } else {
                        debug!(block = number, requests, "the logs of a block are proven");
                    }
                    self.found(events, by, How::Proven { number }).await;
                    pause.reset();
                    sleep(PACE).await;
                }
                Verdict::Unproven(events) => {
                    debug!(block = number, "no gateway node proves the logs of a block");
                    if !events.is_empty() {
                        self.found(events, by, How::InDoubt).await;
                    }
                    if self.notes.open().list.is_fresh() {
                        continue;
                    }
                    tokio::select! {
                        biased;
                        () = sleep(pause.next_delay(self.dice.roll())) => {}
                        () = self.notes.wait_listed() => {}
                    }
                }
            }
        }
    }

    /// What all sound nodes say of a block.
    async fn ask(&self, number: u64, hash: Option<B256>) -> (Verdict, NodeId) {
        let provider = self.source.chain();
        let nobody = (Verdict::Unproven(Vec::new()), NodeId(0));
        let by_hash = match hash {
            Some(hash) => provider.header(At::Hash(hash)).await.ok().flatten(),
            None => None,
        };
        // What left the chain is read anew by the first reading; here whatever has its place counts.
        let head = match by_hash {
            Some(head) => head,
            None => match provider.header(At::Number(number)).await {
                Ok(Some(head)) if head.block.number == number => head,
                Ok(_) | Err(_) => return nobody,
            },
        };
        let wanted = self.source.filter();
        // One header is enough to pass a block of a range, as in the first reading.
        if hash.is_none() && !wanted.may_be_in(self.notes.open().trust.bloom(&head)) {
            return (Verdict::Proven(Vec::new()), head.by);
        }
        let asked = provider.sound_nodes().into_iter().map(|node| self.witness(node, &head));
        let witnesses: Vec<Witness> = join_all(asked).await.into_iter().flatten().collect();
        let by = witnesses
            .iter()
            .find(|one| one.logs.iter().any(|logs| !wanted.among(logs).is_empty()))
            .map_or(head.by, |one| one.head.by);
        let (verdict, liars) = judge(&witnesses, wanted, &mut self.notes.open().trust);
        for node in liars {
            let host = provider.host(node);
            warn!(
                host,
                "a gateway node told a wrong bloom: every block is asked for its logs from now on"
            );
        }
        (verdict, by)
    }

    /// One node's header and logs of a block. `None`: it does not know it.
    async fn witness(&self, node: NodeId, head: &Head) -> Option<Witness> {
        let provider = self.source.chain().only(node);
        let hash = head.block.hash;
        let head = provider.header(At::Hash(hash)).await.ok().flatten()?;
        let head = Head { by: node, ..head };
        let mut logs = Vec::new();
        for way in [Way::Logs, Way::Receipts] {
            if let Ok(told) = provider.block_logs(hash, way).await {
                let whole = head
                    .bloom
                    .is_some_and(|bloom| compare(&bloom, &told.answer) == blooms::Found::All);
                logs.push(told.answer);
                if whole {
                    break;
                }
            }
        }
        Some(Witness { head, logs })
    }

    /// Hands events to the first reading, and waits until they are stored.
    async fn found(&self, events: Vec<Event>, by: NodeId, how: How) {
        let (stored, done) = oneshot::channel();
        if self.first.send(Found { events, by, how, stored }).await.is_ok() {
            let _ = done.await;
        }
    }
}
