//! Whether the nodes agree that a request is on chain. One node that lies could have anything decrypted:
//! before the Core is asked, two nodes have to show the event, if there are two.
//!
//! ```text
//! node shows the event in its block -----------------------------------> a witness
//! node has the block without the event, or another block there, twice --> it denies
//! node does not know the block, or does not answer -> asked again until the patience is over
//! node advances and does not reach the block -> waited for a little longer, then it denies
//! node denied it minutes ago and does not answer now -> it denies
//! ```
//!
//! That a block does not contain an event is certain only by the block's own list of transactions, or by
//! the receipt of the event's transaction: log and receipt indices may be late or broken. Only a certain
//! denial ends a request ([`WitnessVerdict::NeverExisted`]).
//!
//! A node advances ([`crate::chain::provider::selection`]) if it delivers blocks that are recent by their
//! own timestamps. A block that it does not reach may be one that a lying node put on top of the chain.
//! On a chain without new blocks no node advances, and a node that is behind cannot be told from a
//! correct one.
//!
//! It does not matter which node reported the request first: two nodes that show it are two witnesses.
//!
//! An attacker who forges one log may forge thousands in a block. So all requests of a block share a
//! node's answers about it, and a node cannot be made late by many questions. Cutting a node off for a
//! moment gains nothing either: one that was lost just now is waited for.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex as Lock, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Agreement, DecryptionAdapter, EndClaim};
use crate::{
    chain::provider::{BlockId, ChainReader, LogRange, NodeId},
    contracts::abi,
    domain::{B256, BlockRef, Event, Request, RequestKey, RequestSource},
    time::recent_map::RecentMap,
};

/// How long to wait for a second node that is behind or does not answer.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for a node that advances and does not have the block: by its own timestamps it is
/// not further behind.
const REACHES_WITHIN: Duration = Duration::from_secs(6);
/// Pause between two questions to a node that does not know the block.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// Pause before a denying node is asked again: it may be in a reorganisation.
const DENIED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Deadline of the second answer of a denying node.
const SECOND_CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// If the logs of a block take longer, its transactions are asked for instead.
const LOGS_WITHIN: Duration = Duration::from_secs(1);
/// How long a node counts as slow after that, and its shorter deadline for logs meanwhile.
const SLOW_FOR: Duration = Duration::from_mins(1);
const LOGS_OF_SLOW_WITHIN: Duration = Duration::from_millis(200);
/// After the second of two nodes was lost, or the process started, it is waited for during this time.
const SECOND_NODE_GRACE: Duration = Duration::from_secs(30);
/// How long a denial counts if its node does not answer.
const DENIED_FOR: Duration = Duration::from_mins(10);
/// Denials remembered.
const DENIALS: usize = 8192;
/// Receipts of a block remembered per node.
const RECEIPTS: usize = 64;
/// Nodes asked about one request at a time.
const ASKED_AT_ONCE: usize = 3;
/// Number of (block, node) pairs whose answers are remembered.
const REMEMBERED: usize = 256;
/// How long a positive answer is reused: the node may change it.
const FRESH: Duration = Duration::from_secs(10);
/// How long a negative answer is reused: shorter than the pause before a denial is confirmed.
const ABSENT_FOR: Duration = Duration::from_millis(500);

/// What the nodes say of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessVerdict {
    /// There is only one node, and nothing contradicts it.
    OnlyNode,
    TwoNodes,
    /// The other nodes are behind or do not answer.
    OneNode,
    /// All nodes are behind or do not answer.
    NoNode,
    /// A node has the block without the event, or another block there, and confirmed it.
    Disputed {
        /// Hosts.
        shown_by: Vec<String>,
        denied_by: String,
    },
    /// At least two nodes have this very block, none of them the event in it, and no node may know
    /// better: the request never existed.
    NeverExisted,
}

/// One node's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeStatement {
    Shows,
    /// Certain: the block has no such event.
    Absent,
    /// Another block has that height, or the block's logs have no such event and nothing makes it
    /// certain.
    Denies,
    /// It has no block of that height.
    NoBlock,
    /// It is behind or does not answer.
    Unknown,
}

/// A node's answer about a block.
#[derive(Debug)]
struct BlockAnswer {
    at: Instant,
    /// Requests in its logs. `None`: no answer.
    shown: Option<HashSet<RequestKey>>,
    /// The block at that height, once asked: a block, none, or no answer.
    block_at_height: Option<Result<Option<BlockRef>, ()>>,
}

impl BlockAnswer {
    /// Whether the answer can be reused for this request. `fresh`: lifetime of a positive answer.
    fn answers(&self, key: &RequestKey, fresh: Duration) -> bool {
        let lasts = match (&self.shown, self.block_at_height) {
            (Some(shown), _) if shown.contains(key) => fresh,
            (Some(_), None | Some(Ok(Some(_)))) => ABSENT_FOR,
            (None, _) | (Some(_), Some(Ok(None) | Err(()))) => AGAIN_AFTER,
        };
        self.at.elapsed() < lasts.min(fresh)
    }
}

/// What is known of a block from one node.
#[derive(Debug, Default)]
struct BlockKnowledge {
    answer: Option<BlockAnswer>,
    /// All transactions of the block with this hash; they never change.
    transactions: Option<HashSet<B256>>,
    /// Requests in their receipts.
    receipt_requests: HashMap<B256, HashSet<RequestKey>>,
}

impl BlockKnowledge {
    fn excludes(&self, transaction: &B256) -> bool {
        self.transactions.as_ref().is_some_and(|all| !all.contains(transaction))
    }
}

/// Locked while the node is asked: others that need the same block wait for this answer.
type SharedBlockKnowledge = Arc<Mutex<BlockKnowledge>>;

/// Answers of nodes about recent blocks and requests.
#[derive(Clone, Debug)]
pub(super) struct WitnessCache(Arc<Lock<CacheState>>);

#[derive(Debug)]
struct CacheState {
    blocks: RecentMap<(B256, NodeId), SharedBlockKnowledge>,
    /// The host that denied a request.
    denials: RecentMap<RequestKey, String>,
    /// Nodes that took too long for logs.
    slow: RecentMap<NodeId, ()>,
    /// When there last was more than one sound node; initially the start.
    two_at: Instant,
}

impl Default for WitnessCache {
    fn default() -> Self {
        let blocks = RecentMap::new(REMEMBERED, Duration::MAX);
        let (denials, two_at) = (RecentMap::new(DENIALS, DENIED_FOR), Instant::now());
        let slow = RecentMap::new(REMEMBERED, SLOW_FOR);
        Self(Arc::new(Lock::new(CacheState { blocks, denials, slow, two_at })))
    }
}

impl WitnessCache {
    fn block(&self, block: B256, node: NodeId) -> SharedBlockKnowledge {
        self.lock()
            .blocks
            .touch((block, node), Instant::now(), SharedBlockKnowledge::default)
            .clone()
    }

    /// Records the number of sound nodes. Returns whether another one was lost just now and may come
    /// back.
    fn has_just_lost_others(&self, sound: usize) -> bool {
        let mut known = self.lock();
        if sound > 1 {
            known.two_at = Instant::now();
        }
        sound < 2 && known.two_at.elapsed() < SECOND_NODE_GRACE
    }

    fn record_denial(&self, key: RequestKey, by: &str) {
        by.clone_into(self.lock().denials.touch(key, Instant::now(), String::new));
    }

    fn clear_denial(&self, key: RequestKey) {
        self.lock().denials.remove(&key);
    }

    /// The host that denied this request earlier, unless it shows it now.
    fn earlier_denier(&self, key: RequestKey, shown_by: &[String]) -> Option<String> {
        let known = self.lock();
        known.denials.get(&key, Instant::now()).filter(|by| !shown_by.contains(by)).cloned()
    }

    /// Deadline of a node for the logs of a block, before its transactions are asked for.
    fn logs_within(&self, node: NodeId) -> Duration {
        let is_slow = self.lock().slow.get(&node, Instant::now()).is_some();
        if is_slow { LOGS_OF_SLOW_WITHIN } else { LOGS_WITHIN }
    }

    fn record_slow(&self, node: NodeId) {
        self.lock().slow.touch(node, Instant::now(), || ());
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request_keys(source: RequestSource, events: &[Event]) -> HashSet<RequestKey> {
    events.iter().filter_map(|event| Some(abi::decode(source, event).ok()?.key)).collect()
}

impl<P: ChainReader> DecryptionAdapter<P> {
    /// Asks the sound nodes for a request, which is in `block` now. With a single node only if `again`
    /// (read from the journal): then another node may have reported it.
    pub async fn collect_witnesses(
        &self,
        request: &Request,
        block: BlockRef,
        again: bool,
    ) -> WitnessVerdict {
        if self.provider.node_count() < 2 && !again {
            return WitnessVerdict::OnlyNode;
        }
        self.weigh_statements(request, block, FRESH).await
    }

    /// The same without reusing earlier answers.
    pub async fn collect_witnesses_afresh(&self, request: &Request) -> WitnessVerdict {
        self.weigh_statements(request, request.block, Duration::ZERO).await
    }

    /// `fresh`: lifetime of a positive answer.
    async fn weigh_statements(
        &self,
        request: &Request,
        block: BlockRef,
        fresh: Duration,
    ) -> WitnessVerdict {
        let (key, alone) = (request.key, self.provider.node_count() < 2);
        let mut until = Instant::now() + PATIENCE;
        let nodes = self.nodes_to_ask(until).await;
        let (mut shown_by, mut denied_by, mut absent) = (Vec::new(), None, Vec::new());
        for some in nodes.chunks(ASKED_AT_ONCE) {
            let words =
                some.iter().map(|node| self.statement_of(*node, request, (block, fresh), until));
            let mut words: FuturesUnordered<_> = words.collect();
            while let Some((node, word)) = words.next().await {
                match word {
                    NodeStatement::Shows => shown_by.push(self.provider.host(node)),
                    NodeStatement::Absent => absent.push(node),
                    NodeStatement::Denies | NodeStatement::NoBlock | NodeStatement::Unknown => {}
                }
                if matches!(word, NodeStatement::Absent | NodeStatement::Denies) {
                    denied_by = Some(self.provider.host(node));
                }
                if shown_by.len() >= 2 {
                    self.witness_cache.clear_denial(key);
                    return WitnessVerdict::TwoNodes;
                }
            }
            if absent.is_empty() || !shown_by.is_empty() {
                break;
            }
            // The request may end: ask the other nodes, too.
            until = Instant::now() + PATIENCE;
        }
        match &denied_by {
            Some(by) => self.witness_cache.record_denial(key, by),
            None => denied_by = self.witness_cache.earlier_denier(key, &shown_by),
        }
        let never = (EndClaim::NeverExisted, key);
        let never = if shown_by.is_empty() {
            absent.len() >= 2 && self.weigh_claim(never, Some(&absent)) == Agreement::Yes
        } else {
            self.weigh_claim(never, None) == Agreement::Yes
        };
        match denied_by {
            Some(_) if never => WitnessVerdict::NeverExisted,
            Some(denied_by) => WitnessVerdict::Disputed { shown_by, denied_by },
            None if shown_by.is_empty() => WitnessVerdict::NoNode,
            None if alone => WitnessVerdict::OnlyNode,
            None => WitnessVerdict::OneNode,
        }
    }

    /// The sound nodes. If only one is left and there were two a moment ago, waits for the other.
    async fn nodes_to_ask(&self, until: Instant) -> Vec<NodeId> {
        loop {
            let nodes = self.provider.sound_nodes();
            let waits = self.witness_cache.has_just_lost_others(nodes.len())
                && self.provider.node_count() > 1;
            if !waits || Instant::now() + AGAIN_AFTER > until {
                return nodes;
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// A node's last answer before `until`; a denial may take longer to be confirmed.
    async fn statement_of(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> (NodeId, NodeStatement) {
        let one = self.for_node(node);
        let look = |until| one.check_node(node, request, (block, fresh), until);
        let latest = until + REACHES_WITHIN.saturating_sub(PATIENCE);
        let mut limit = until;
        loop {
            match look(limit).await {
                NodeStatement::Shows => return (node, NodeStatement::Shows),
                NodeStatement::Absent | NodeStatement::Denies => {
                    sleep(DENIED_AGAIN_AFTER).await;
                    // Silence does not take a denial back.
                    let again = look(Instant::now() + SECOND_CHECK_DEADLINE).await;
                    let silent = matches!(again, NodeStatement::NoBlock | NodeStatement::Unknown);
                    return (node, if silent { NodeStatement::Denies } else { again });
                }
                NodeStatement::NoBlock if self.provider.is_advancing(node) => {
                    limit = latest;
                    if Instant::now() + AGAIN_AFTER >= latest {
                        return (node, NodeStatement::Denies);
                    }
                    sleep(AGAIN_AFTER).await;
                }
                NodeStatement::NoBlock | NodeStatement::Unknown
                    if Instant::now() + AGAIN_AFTER >= until =>
                {
                    return (node, NodeStatement::Unknown);
                }
                NodeStatement::NoBlock | NodeStatement::Unknown => sleep(AGAIN_AFTER).await,
            }
        }
    }

    /// One answer of one node, before `until`.
    async fn check_node(
        &self,
        node: NodeId,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
        until: Instant,
    ) -> NodeStatement {
        let of_block = self.witness_cache.block(block.hash, node);
        let looking = async {
            let mut of_block = of_block.lock().await;
            self.check_block(node, &mut of_block, request, (block, fresh)).await
        };
        timeout_at(until, looking).await.unwrap_or(NodeStatement::Unknown)
    }

    /// Asks for what is not known of the block yet, as far as needed.
    async fn check_block(
        &self,
        node: NodeId,
        known: &mut BlockKnowledge,
        request: &Request,
        (block, fresh): (BlockRef, Duration),
    ) -> NodeStatement {
        let (key, transaction) = (request.key, request.transaction);
        if known.excludes(&transaction) {
            return NodeStatement::Absent;
        }
        if !known.answer.as_ref().is_some_and(|told| told.answers(&key, fresh)) {
            let within = self.witness_cache.logs_within(node);
            let logs = self.provider.logs(self.filter(), LogRange::Block(block.hash));
            let asking = timeout(within, logs).await;
            if asking.is_err() {
                self.witness_cache.record_slow(node);
            }
            let shown = asking
                .ok()
                .and_then(Result::ok)
                .map(|shown| request_keys(self.source(), &shown.value));
            known.answer = Some(BlockAnswer { at: Instant::now(), shown, block_at_height: None });
        }
        let Some(told) = known.answer.as_mut() else { return NodeStatement::Unknown };
        if told.shown.as_ref().is_some_and(|shown| shown.contains(&key)) {
            return NodeStatement::Shows;
        }
        let uncertain =
            if told.shown.is_some() { NodeStatement::Denies } else { NodeStatement::Unknown };
        let here = if let Some(here) = told.block_at_height {
            here
        } else {
            let here = self.provider.header(BlockId::Number(block.number)).await;
            *told.block_at_height.insert(here.map(|head| head.map(|head| head.block)).map_err(drop))
        };
        match here {
            Ok(Some(here)) if here.hash != block.hash => return NodeStatement::Denies,
            Ok(Some(_)) => {}
            Ok(None) => return NodeStatement::NoBlock,
            Err(()) => return uncertain,
        }
        if known.transactions.is_none() {
            let transactions = self.provider.block_transactions(block.hash).await;
            known.transactions = transactions.ok().flatten().map(HashSet::from_iter);
        }
        if known.excludes(&transaction) {
            return NodeStatement::Absent;
        }
        if !known.receipt_requests.contains_key(&transaction)
            && let Some(emitted) = self.requests_in_receipt(transaction, block).await
        {
            if known.receipt_requests.len() >= RECEIPTS {
                known.receipt_requests.clear();
            }
            known.receipt_requests.insert(transaction, emitted);
        }
        match known.receipt_requests.get(&transaction).map(|emitted| emitted.contains(&key)) {
            Some(true) => NodeStatement::Shows,
            Some(false) => NodeStatement::Absent,
            None => uncertain,
        }
    }

    /// The requests in the receipt of a transaction of this block. `None`: no receipt yet, or of another
    /// block.
    async fn requests_in_receipt(
        &self,
        transaction: B256,
        block: BlockRef,
    ) -> Option<HashSet<RequestKey>> {
        let emitted = self.provider.receipt_logs(transaction).await.ok()??;
        if emitted.iter().any(|emitted| emitted.event.block.hash != block.hash) {
            return None;
        }
        let own = emitted.iter().filter(|emitted| emitted.address == self.address());
        Some(own.filter_map(|emitted| Some(self.decode(&emitted.event).ok()?.key)).collect())
    }
}

#[cfg(test)]
mod tests;
