//! What is remembered of blocks and nodes, so that many requests of a block cost one answer.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex as Lock, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use super::{AGAIN_AFTER, shown_request::ShownRequest};
use crate::{
    chain::reader::NodeId,
    domain::{B256, BlockRef, RequestKey},
    time::recent_map::RecentMap,
};

/// If the logs of a block take longer, its transactions are asked for instead.
const LOGS_WITHIN: Duration = Duration::from_secs(1);
/// How long a node counts as slow after that, and its shorter deadline for logs meanwhile.
const SLOW_FOR: Duration = Duration::from_mins(1);
const LOGS_OF_SLOW_WITHIN: Duration = Duration::from_millis(200);
/// After the second of two nodes was lost, or the process started, it is waited for during this time.
pub(super) const SECOND_NODE_GRACE: Duration = Duration::from_secs(30);
/// How long a denial counts if its node does not answer.
const DENIED_FOR: Duration = Duration::from_mins(10);
/// Denials remembered.
const DENIALS: usize = 8192;
/// Number of (block, node) pairs whose answers are remembered.
const REMEMBERED: usize = 256;
/// How long a negative answer is reused: shorter than the pause before a denial is confirmed.
pub(super) const ABSENT_FOR: Duration = Duration::from_millis(500);

/// A node's answer about a block.
#[derive(Debug)]
pub(super) struct BlockAnswer {
    pub(super) at: Instant,
    /// Requests in its logs. `None`: no answer.
    pub(super) shown: Option<HashSet<ShownRequest>>,
    /// The block at that height, once asked: a block, none, or no answer.
    pub(super) block_at_height: Option<Result<Option<BlockRef>, ()>>,
}

impl BlockAnswer {
    /// Whether the answer can be reused for this request. `fresh`: lifetime of a positive answer.
    pub(super) fn answers(&self, request: &ShownRequest, fresh: Duration) -> bool {
        let lasts = match (&self.shown, self.block_at_height) {
            (Some(shown), _) if shown.contains(request) => fresh,
            (Some(_), None | Some(Ok(Some(_)))) => ABSENT_FOR,
            (None, _) | (Some(_), Some(Ok(None) | Err(()))) => AGAIN_AFTER,
        };
        self.at.elapsed() < lasts.min(fresh)
    }
}

/// What is known of a block from one node.
#[derive(Debug, Default)]
pub(super) struct BlockKnowledge {
    pub(super) answer: Option<BlockAnswer>,
    /// All transactions of the block with this hash; they never change.
    pub(super) transactions: Option<HashSet<B256>>,
    /// Requests in their receipts.
    pub(super) receipt_requests: HashMap<B256, HashSet<ShownRequest>>,
}

impl BlockKnowledge {
    /// Whether the block's logs, as read last, do not show the request, and its list of transactions does not
    /// have this one. A request may be in hand with another transaction than its own: so its event is looked
    /// for too.
    pub(super) fn excludes(&self, request: &ShownRequest, transaction: &B256) -> bool {
        let logs = self.answer.as_ref().and_then(|told| told.shown.as_ref());
        let is_hidden = logs.is_some_and(|shown| !shown.contains(request));
        is_hidden && self.transactions.as_ref().is_some_and(|all| !all.contains(transaction))
    }
}

/// Locked while the node is asked: others that need the same block wait for this answer.
type SharedBlockKnowledge = Arc<Mutex<BlockKnowledge>>;

/// Answers of nodes about recent blocks and requests.
#[derive(Clone, Debug)]
pub(in super::super) struct WitnessCache(Arc<Lock<CacheState>>);

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
    pub(super) fn block(&self, block: B256, node: NodeId) -> SharedBlockKnowledge {
        self.lock()
            .blocks
            .touch((block, node), Instant::now(), SharedBlockKnowledge::default)
            .clone()
    }

    /// Records the number of sound nodes. Returns whether another one was lost just now and may come
    /// back.
    pub(super) fn has_just_lost_others(&self, sound: usize) -> bool {
        let mut known = self.lock();
        if sound > 1 {
            known.two_at = Instant::now();
        }
        sound < 2 && known.two_at.elapsed() < SECOND_NODE_GRACE
    }

    pub(super) fn record_denial(&self, key: RequestKey, by: &str) {
        by.clone_into(self.lock().denials.touch(key, Instant::now(), String::new));
    }

    pub(super) fn clear_denial(&self, key: RequestKey) {
        self.lock().denials.remove(&key);
    }

    /// The host that denied this request earlier, unless it shows it now.
    pub(super) fn earlier_denier(&self, key: RequestKey, shown_by: &[String]) -> Option<String> {
        let known = self.lock();
        known.denials.get(&key, Instant::now()).filter(|by| !shown_by.contains(by)).cloned()
    }

    /// Deadline of a node for the logs of a block, before its transactions are asked for.
    pub(super) fn logs_within(&self, node: NodeId) -> Duration {
        let is_slow = self.lock().slow.get(&node, Instant::now()).is_some();
        if is_slow { LOGS_OF_SLOW_WITHIN } else { LOGS_WITHIN }
    }

    pub(super) fn record_slow(&self, node: NodeId) {
        self.lock().slow.touch(node, Instant::now(), || ());
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
