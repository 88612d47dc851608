//! Audits the reading against the contract itself: whether the contract knows ids that no node has
//! shown ([`super::ids`]), and which requests others have answered ([`super::consensus`]).
//!
//! ```text
//! ids: a hole, or an id that only the contract knows --> suspects: read again at every sound node
//!  ^                                                \--> reported: log, status, metric
//!  \-- is the id after the last known one requested? (eth_call, every 30 s)
//! consensus logs --> not answered within a minute? --> reported
//! ```
//!
//! A separate task beside the reading: nothing waits for it, and it needs no log index. It asks the
//! node that is read from and the others in turn.

mod beginnings;

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, info, warn};

use self::beginnings::count_at;
pub use super::consensus::MissedConsensus;
use super::{
    consensus::ConsensusTracker,
    gap::NEAR,
    ids::{MissingIds, SharedIds},
    pages::PageSizes,
    suspects::SuspectBlocks,
};
use crate::{
    chain::{
        reader::{BlockId, ChainReader, NodeId},
        rpc_error::RpcError,
    },
    contracts::{
        abi::{self, Counter},
        decryption::{IdProbe, IdStatus, RequestContract},
    },
    domain::{Address, BlockRef, DisplayId, LedgerError},
    flow::ledger::{AnsweredHere, RequestLedger},
    telemetry::{log_throttle::LogThrottle, metrics::Metrics},
};

/// How often holes are checked.
const HOLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the contract is asked.
const CONTRACT_POLL_INTERVAL: Duration = Duration::from_secs(30);
/// When to ask again a contract that does not disclose ids: it may be upgraded.
const ASK_AGAIN_AFTER: Duration = Duration::from_mins(10);
/// How far above the last known id the contract's last id is searched.
const MAX_DISTANCE: u64 = 1 << 20;
/// How often to ask where a counter stood when reading began: that block's state may be pruned.
const MOST_TRIES: u32 = 10;
/// Ranges of blocks read for consensus at a time.
const MAX_PAGES: usize = 4;
/// Requests asked about at a time that no node has shown and others have answered.
const MOST_BEYOND: usize = 16;
/// Blocks farther back are not read for consensus.
const MAX_LOOKBACK: u64 = 10_000;

/// Findings for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompletenessReport {
    /// Requests that no node shows.
    pub hidden: Vec<MissingIds>,
    /// Requests that others have answered.
    pub unanswered: Option<MissedConsensus>,
}

/// The task.
#[derive(Debug)]
pub struct CompletenessAudit<P, L> {
    pub adapter: RequestContract<P>,
    pub ledger: L,
    pub ids: SharedIds,
    pub suspects: SuspectBlocks,
    /// The cursor as it moves.
    pub progress: watch::Receiver<Option<BlockRef>>,
    /// `None` in an observing instance: it answers nothing.
    pub wallet: Option<Address>,
    pub report: watch::Sender<CompletenessReport>,
    pub metrics: Metrics,
}

/// State kept between rounds.
#[derive(Debug, Default)]
struct AuditState {
    asked: Option<Instant>,
    /// Counts the rounds of calls.
    node_turn: usize,
    question: IdQuestion,
    /// Failed attempts to find the beginning of a counter.
    begun: BTreeMap<Counter, u32>,
    consensus: ConsensusTracker,
    pages: PageSizes,
    /// Consensus was read up to this block.
    consensus_read_up_to: Option<u64>,
    log_throttle: LogThrottle,
}

/// Whether and how the contract discloses which ids it knows.
#[derive(Clone, Copy, Debug, Default)]
enum IdQuestion {
    #[default]
    NotAsked,
    Supported(IdProbe),
    Unsupported {
        asked: Instant,
    },
}

impl<P: ChainReader, L: RequestLedger> CompletenessAudit<P, L> {
    /// Runs until it is dropped. Fails only when the journal does.
    pub async fn run(self) -> Result<std::convert::Infallible, LedgerError> {
        let mut tick = interval(HOLE_CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut memory = AuditState::default();
        loop {
            tick.tick().await;
            let Some(cursor) = *self.progress.borrow() else { continue };
            if memory.asked.is_none_or(|asked| asked.elapsed() >= CONTRACT_POLL_INTERVAL) {
                memory.asked = Some(Instant::now());
                self.ask_contract(cursor, &mut memory).await?;
            }
            self.forget_orphans().await?;
            self.check_holes(cursor, &mut memory).await;
            let hidden = self.ids.lock().missing(cursor.number, Instant::now());
            self.metrics.hidden_requests(hidden.iter().map(MissingIds::count).sum());
            let sight = CompletenessReport { hidden, unanswered: memory.consensus.unanswered() };
            self.report.send_if_modified(|current| {
                let changed = *current != sight;
                *current = sight;
                changed
            });
        }
    }

    /// Forgets the ids of requests that were never on chain or have left it, unless another request has the
    /// id now.
    async fn forget_orphans(&self) -> Result<(), LedgerError> {
        for (key, block) in self.suspects.take_orphans() {
            let others = self.ledger.events_of_same_id(key).await?;
            let answered = self.ledger.answered_here(vec![key.id]).await?;
            if others.is_empty() && !answered.contains(&AnsweredHere::Yes) {
                self.ids.lock().remove(key.id, block.number, Instant::now());
            }
        }
        Ok(())
    }

    /// Reports holes, and has their blocks read again.
    async fn check_holes(&self, cursor: BlockRef, memory: &mut AuditState) {
        let due = self.ids.lock().due(cursor.number, Instant::now());
        for (missing, news) in due {
            if self.is_denied(&missing, memory).await {
                continue;
            }
            let MissingIds { counter, first, last, from, to, .. } = missing;
            if news {
                let (first, last) = (counter.id(first), counter.id(last));
                warn!(
                    kind = counter.as_str(),
                    first = %DisplayId(first),
                    last = %DisplayId(last),
                    requests = missing.count(),
                    from,
                    to,
                    "requests are hidden: no node shows their events"
                );
            }
            self.suspects.reread_everywhere(from, to);
        }
    }

    /// Returns whether the contract does not know the id that proves the hole: then that id's log was
    /// forged, or has left the chain.
    async fn is_denied(&self, missing: &MissingIds, memory: &mut AuditState) -> bool {
        let (Some(above), IdQuestion::Supported(question)) = (missing.above, memory.question)
        else {
            return false;
        };
        let nodes = self.adapter.provider().sound_nodes();
        for node in &nodes {
            let adapter = self.adapter.for_node(*node);
            let head = match adapter.provider().header(BlockId::Latest).await {
                Ok(Some(head)) if head.block.number >= missing.to => BlockId::Hash(head.block.hash),
                // The node cannot know.
                Ok(_) | Err(_) => return false,
            };
            let said = adapter.id_status(question, missing.counter, above, head).await;
            if !matches!(said, Ok(IdStatus::NotRequested)) {
                return false;
            }
        }
        if nodes.is_empty() {
            return false;
        }
        let id = DisplayId(missing.counter.id(above)).to_string();
        if let Some(times) = memory.log_throttle.should_log("id_denied", Instant::now()) {
            warn!(
                id,
                block = missing.to,
                times,
                "the contract does not know a request that was shown: its id is not believed"
            );
        }
        self.ids.lock().forget(missing.counter, above);
        true
    }

    /// Asks the contract for requests that were not shown.
    async fn ask_contract(
        &self,
        cursor: BlockRef,
        memory: &mut AuditState,
    ) -> Result<(), LedgerError> {
        let Some(node) = self.node_for_turn(memory.node_turn) else { return Ok(()) };
        memory.node_turn = memory.node_turn.wrapping_add(1);
        let adapter = self.adapter.for_node(node);
        let head = self.adapter.provider().heads().borrow().map(|head| head.block.number);
        // Farther away the reading itself has not arrived there yet.
        if head.is_some_and(|head| head.saturating_sub(cursor.number) <= NEAR)
            && let Err(error) = self.ask_for_ids(&adapter, cursor, memory).await
        {
            debug!(%error, "could not ask the contract which ids it knows");
        }
        if self.wallet.is_some() {
            if let Err(error) = self.read_consensus(node, cursor, memory).await {
                debug!(%error, "could not read what others have answered");
            }
            self.check_answered(memory).await?;
        }
        Ok(())
    }

    /// The node that is read from and each other one, in turn.
    fn node_for_turn(&self, turn: usize) -> Option<NodeId> {
        let nodes = self.adapter.provider().sound_nodes();
        let (first, others) = nodes.split_first()?;
        if turn.is_multiple_of(2) || others.is_empty() {
            return Some(*first);
        }
        others.get(turn / 2 % others.len()).copied()
    }

    async fn ask_for_ids(
        &self,
        adapter: &RequestContract<P>,
        cursor: BlockRef,
        memory: &mut AuditState,
    ) -> Result<(), RpcError> {
        let question = match memory.question {
            IdQuestion::Supported(question) => question,
            IdQuestion::Unsupported { asked } if asked.elapsed() < ASK_AGAIN_AFTER => return Ok(()),
            before @ (IdQuestion::NotAsked | IdQuestion::Unsupported { .. }) => {
                let found = adapter.id_probe(self.wallet).await?;
                let Some(question) = found else {
                    if matches!(before, IdQuestion::NotAsked) {
                        info!(
                            "the contract does not report which ids it knows: only the next \
                             request reveals a hidden one"
                        );
                    }
                    memory.question = IdQuestion::Unsupported { asked: Instant::now() };
                    return Ok(());
                };
                memory.question = IdQuestion::Supported(question);
                question
            }
        };
        self.find_beginnings(adapter, question, cursor, memory).await?;
        let known = self.ids.lock().last_known();
        for (counter, last) in known {
            self.ask_above(adapter, question, cursor, (counter, last), memory).await?;
        }
        Ok(())
    }

    /// Asks whether there is an id above the last known one.
    async fn ask_above(
        &self,
        adapter: &RequestContract<P>,
        question: IdProbe,
        cursor: BlockRef,
        (counter, last): (Counter, u64),
        memory: &mut AuditState,
    ) -> Result<(), RpcError> {
        // At the cursor: everything up to there was read.
        let at = BlockId::Hash(cursor.hash);
        let (said, at) = match adapter.id_status(question, counter, last + 1, at).await {
            Ok(said) => (said, at),
            // The node does not have that block, or has pruned its state.
            Err(RpcError::Refused { .. }) => {
                let said = adapter.id_status(question, counter, last + 1, BlockId::Latest).await?;
                (said, BlockId::Latest)
            }
            Err(error) => return Err(error),
        };
        match said {
            IdStatus::NotRequested if at == BlockId::Latest => {}
            IdStatus::NotRequested => self.ids.lock().set_end(counter, last, cursor.number),
            IdStatus::Undisclosed => memory.question = IdQuestion::NotAsked,
            IdStatus::Requested => {
                if !adapter.rejects_impossible_id(question, at).await? {
                    memory.question = IdQuestion::NotAsked;
                    return Ok(());
                }
                let Some(count) = count_at(adapter, question, counter, last, at).await? else {
                    return Ok(());
                };
                let block = match at {
                    BlockId::Latest => {
                        let head = adapter.provider().header(BlockId::Latest).await?;
                        head.map_or(cursor.number, |head| head.block.number)
                    }
                    BlockId::Safe | BlockId::Finalized | BlockId::Number(_) | BlockId::Hash(_) => {
                        cursor.number
                    }
                };
                self.ids.lock().record_existing(counter, count, block, Instant::now());
            }
        }
        Ok(())
    }

    /// Reads the consensus events of the blocks since the last round.
    async fn read_consensus(
        &self,
        node: NodeId,
        cursor: BlockRef,
        memory: &mut AuditState,
    ) -> Result<(), RpcError> {
        let adapter = self.adapter.for_node(node);
        let mut beyond = Vec::new();
        let looked = memory.consensus_read_up_to.unwrap_or(cursor.number);
        let mut looked = looked.max(cursor.number.saturating_sub(MAX_LOOKBACK)).min(cursor.number);
        memory.consensus_read_up_to = Some(looked);
        for _ in 0..MAX_PAGES {
            if looked >= cursor.number {
                break;
            }
            let (from, to) = memory.pages.page(node, looked + 1, cursor.number);
            let events = match adapter.consensus_events(from, to).await {
                Ok(events) => events,
                Err(error) => {
                    if memory.pages.record_failure(node, (from, to), &error, Instant::now()) {
                        continue;
                    }
                    return Err(error);
                }
            };
            memory.pages.record_success(node, (from, to), Instant::now());
            let ids = self.ids.lock();
            for event in &events {
                let Some(id) = abi::consensus_id(event) else { continue };
                let Some((counter, number)) = Counter::of(id) else { continue };
                if !ids.is_after_first(counter, number) {
                    continue;
                }
                memory.consensus.record(id, event.block.number, Instant::now());
                if !ids.is_known(counter, number) && beyond.len() < MOST_BEYOND {
                    beyond.push((counter, number, event.block.number));
                }
            }
            drop(ids);
            looked = to;
            memory.consensus_read_up_to = Some(looked);
        }
        for (counter, number, block) in beyond {
            // A log may be forged; the contract's reply is better.
            let denied = match memory.question {
                IdQuestion::Supported(question) => {
                    let at = BlockId::Hash(cursor.hash);
                    let said = adapter.id_status(question, counter, number, at).await;
                    matches!(said, Ok(IdStatus::NotRequested))
                }
                IdQuestion::NotAsked | IdQuestion::Unsupported { .. } => false,
            };
            if !denied {
                self.ids.lock().record_existing(counter, number, block, Instant::now());
            }
        }
        Ok(())
    }

    /// Looks up which of the requests that others have answered were answered here.
    async fn check_answered(&self, memory: &mut AuditState) -> Result<(), LedgerError> {
        let due = memory.consensus.due(Instant::now());
        if due.is_empty() {
            return Ok(());
        }
        let answered = self.ledger.answered_here(due.clone()).await?;
        let mut more = 0;
        for (id, answered) in due.into_iter().zip(answered) {
            let hidden = Counter::of(id)
                .is_some_and(|(counter, number)| !self.ids.lock().is_known(counter, number));
            more += u64::from(memory.consensus.resolve(id, answered, hidden));
        }
        self.metrics.consensus_missed(more);
        if more > 0
            && let Some(MissedConsensus { requests, id, block, .. }) = memory.consensus.unanswered()
            && let Some(times) =
                memory.log_throttle.should_log("answered_without_us", Instant::now())
        {
            let id = DisplayId(id).to_string();
            warn!(
                requests,
                id, block, times, "others have answered requests that this node has not"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
