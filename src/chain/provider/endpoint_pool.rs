//! Several endpoints as one: each is kept connected by its own task, one is read from, transactions go
//! to all.
//!
//! ```text
//! connection --state, heads--\                        /--> the order of reading (usable)
//! connection --state, heads---> observe, select (f) ---> heads of the one that is read from
//! connection --state, heads--/                        \--> doubt: check your head again
//! ```
//!
//! Heads come only from the endpoint that is read from, so that no caller learns of a block that its
//! next read does not find. If another endpoint has a newer head, that endpoint checks its head at
//! once.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info};

use super::{
    ChainRole,
    connection::{Connection, ConnectionChannels, ConnectionState},
    endpoint::Endpoint,
    fanout::{self, FanoutSender, FanoutSubscribers},
    identity::{KnownChain, NodeIdentity},
    node_handle::{HUNG_FOR, METHODS, NodeHandle},
    response_limits::ResponseBudget,
    selection::{ChainMatch, NodeObservation, NodeSelector, ReadOrder},
};
use crate::{
    chain::{
        quirks::SyncTimeoutFormat,
        reader::{Head, NodeId},
        rpc_error::RpcError,
    },
    dice::Dice,
    domain::B256,
    telemetry::heartbeat::{GATEWAY_CONNECTION, HOST_CONNECTION, Heartbeats},
    time::recent_map::RecentMap,
};

/// Interval of choices with several endpoints: staleness shows only as time passes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// If others have known a newer head for this long, the endpoint that is read from checks its head.
const RECHECKED_AFTER: Duration = Duration::from_secs(1);
/// Nodes of one chain are never this many blocks apart.
const LEAP: u64 = 64;
/// Minimum interval of claim checks.
const CLAIMS_CHECKED_EVERY: Duration = Duration::from_secs(1);
/// Sends that continue after another endpoint accepted the transaction.
const MOST_PENDING_SENDS: usize = 1024;

/// The endpoints that may be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UsableNodes {
    /// In order of preference. Empty: none.
    pub order: Arc<[usize]>,
    /// The advancing nodes, whether or not they are in the order.
    pub advancing: Arc<[usize]>,
    /// Set if every endpoint serves another chain.
    pub wrong_chain: Option<RpcError>,
    /// The block 0 by which the nodes were judged.
    genesis: Option<B256>,
}

/// Rest of a send that nobody waits for any more.
pub(super) type PendingSend = BoxFuture<'static, ()>;

/// The provider's side of the pool.
#[derive(Debug)]
pub(super) struct EndpointPool {
    pub nodes: Vec<NodeHandle>,
    pub usable: FanoutSubscribers<UsableNodes>,
    pub heads: FanoutSubscribers<Option<Head>>,
    pub pending_sends: mpsc::Sender<PendingSend>,
    known: watch::Sender<KnownChain>,
    changed: Arc<Notify>,
}

impl EndpointPool {
    /// Excludes nodes with another block 0 from now on.
    pub(super) async fn settle_genesis(&self, genesis: B256) {
        self.update_known(|known| known.genesis = Some(genesis));
        self.changed.notify_one();
        let mut usable = self.usable.subscribe();
        // The task that publishes this may have ended.
        let _ = usable.wait_for(|usable| usable.genesis == Some(genesis)).await;
    }

    /// Block 0 of the chain that is meant.
    pub(super) fn genesis(&self) -> Option<B256> {
        self.known.borrow().genesis
    }

    pub(super) fn update_known(&self, learn: impl FnOnce(&mut KnownChain)) {
        let changed = self.known.send_if_modified(|known| {
            let before = *known;
            learn(known);
            *known != before
        });
        if changed {
            self.nodes.iter().for_each(NodeHandle::recheck_identity);
        }
    }
}

/// The tasks that keep all endpoints connected. The caller runs them.
pub struct Connections {
    each: Vec<Connection>,
    nodes: Vec<NodeHandle>,
    changed: Arc<Notify>,
    usable: FanoutSender<UsableNodes>,
    heads: FanoutSender<Option<Head>>,
    pending_sends: mpsc::Receiver<PendingSend>,
    selector: NodeSelector,
    known: watch::Receiver<KnownChain>,
    /// The block 0 of the present choice.
    genesis: Option<B256>,
    /// When claims were last checked.
    claimed_at: Instant,
    /// Endpoint and connection of the last head.
    source: Option<(usize, u64)>,
    /// Number of changes of the source.
    sources: u64,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// Creates both sides. Nothing is connected before [`Connections::run`].
pub(super) fn build(
    endpoints: Vec<Endpoint>,
    chain_id: u64,
    dice: &Dice,
) -> (EndpointPool, Connections) {
    let changed = Arc::new(Notify::new());
    let (mut connections, mut nodes) = (Vec::new(), Vec::new());
    let one_of_many = endpoints.len() > 1;
    let (known_sender, known) = watch::channel(KnownChain::default());
    let room = ResponseBudget::new();
    for endpoint in endpoints {
        let endpoint = Arc::new(endpoint.with_budget(room.clone()));
        let (link_sender, link) = watch::channel(ConnectionState::Down(None));
        let (head_sender, heads) = watch::channel(None);
        let (arrived_sender, arrived) = watch::channel(None);
        let (found_sender, found) = watch::channel(NodeIdentity::default());
        let (claim, claims) = watch::channel(None);
        let (doubt, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let outlet = ConnectionChannels {
            state: link_sender,
            heads: head_sender,
            last_block: arrived_sender,
            identity: found_sender,
            changed: changed.clone(),
            recheck_head: doubt.clone(),
            claim: claims,
            recheck_identity: asked.clone(),
        };
        let sync = Arc::new(Mutex::new(SyncTimeoutFormat::Number));
        let (of, known) = (endpoint.clone(), known.clone());
        connections.push(Connection::new(of, chain_id, one_of_many, outlet, known, dice.clone()));
        nodes.push(NodeHandle {
            endpoint,
            state: link,
            heads,
            last_block: arrived,
            identity: found,
            recheck_head: doubt,
            claim: Arc::new(claim),
            recheck_identity: asked,
            unanswered: Arc::default(),
            sync_timeout_format: sync,
            batches: Arc::default(),
            block_hashes: Arc::default(),
            hanging_methods: Arc::new(Mutex::new(RecentMap::new(METHODS, HUNG_FOR))),
            repeats: Arc::default(),
        });
    }
    let (usable_teller, usable) = fanout::channel();
    let (head_teller, heads) = fanout::channel();
    let (stragglers_sender, stragglers) = mpsc::channel(MOST_PENDING_SENDS);
    let shared = EndpointPool {
        nodes: nodes.clone(),
        usable,
        heads,
        pending_sends: stragglers_sender,
        known: known_sender,
        changed: changed.clone(),
    };
    let connections = Connections {
        each: connections,
        selector: NodeSelector::new(nodes.len()),
        nodes,
        changed,
        usable: usable_teller,
        heads: head_teller,
        pending_sends: stragglers,
        known,
        genesis: None,
        claimed_at: Instant::now(),
        source: None,
        sources: 0,
    };
    (shared, connections)
}

impl Connections {
    /// Keeps the endpoints connected and chooses between them, until `stop`.
    pub async fn run(mut self, hearts: Heartbeats, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let role = self.nodes.first().map(|node| node.endpoint.role()).unwrap_or_default();
        let component = match role {
            ChainRole::Gateway => GATEWAY_CONNECTION,
            ChainRole::Host | ChainRole::Ethereum => HOST_CONNECTION,
        };
        for connection in self.each.drain(..) {
            let heart = hearts.heartbeat(component);
            running.spawn(connection.run(heart, stop.clone()).in_current_span());
        }
        let heart = hearts.heartbeat(component);
        let mut under_way = FuturesUnordered::new();
        let several = self.nodes.len() > 1;
        loop {
            heart.beat().await;
            self.select();
            heart.rest();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = sleep(LOOK_EVERY), if several => {}
                Some(()) = under_way.next() => {}
                Some(straggler) = self.pending_sends.recv(), if under_way.len() < MOST_PENDING_SENDS => {
                    under_way.push(straggler);
                }
                Some(Err(error)) = running.join_next() => {
                    // A panic of a connection is a panic of this task.
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn select(&mut self) {
        let several = self.nodes.len() > 1;
        let now = Instant::now();
        let known = *self.known.borrow();
        if self.genesis != known.genesis {
            // Observations so far may be of another chain.
            self.genesis = known.genesis;
            self.selector = NodeSelector::new(self.nodes.len());
            self.heads.publish(None);
        }
        let sights: Vec<NodeObservation> =
            self.nodes.iter().map(|node| node.observe(several, &known)).collect();
        self.challenge_claims(&sights, &known, now);
        let ReadOrder { nodes, advancing: going_on, switched } = self.selector.select(&sights, now);
        if let Some(why) = switched.filter(|_| several)
            && let Some(node) = nodes.first()
        {
            let endpoint = &self.nodes[*node].endpoint;
            let (host, role) = (endpoint.host(), endpoint.role());
            info!(host, why = why.as_str(), "reading from this {role} node");
        }
        let first = nodes.first().copied();
        self.publish_usable(nodes, going_on);
        let Some(first) = first else { return };
        let Some(head) = *self.nodes[first].heads.borrow() else { return };
        if self.selector.lag_of(head.block.number, now) >= RECHECKED_AFTER {
            self.nodes[first].recheck_head.notify_one();
        }
        self.selector.raise_floor(head.block.number);
        let source = Some((first, head.connection));
        if self.source != source {
            self.source = source;
            self.sources += 1;
        }
        let head = Head { connection: self.sources, node: NodeId(first), ..head };
        self.heads.publish(Some(head));
    }

    /// A node that reports blocks far above another node's head and above what was read, or newer ones
    /// for long, must prove that it has them: otherwise it could make correct nodes look behind.
    fn challenge_claims(&mut self, sights: &[NodeObservation], known: &KnownChain, now: Instant) {
        if now.saturating_duration_since(self.claimed_at) < CLAIMS_CHECKED_EVERY {
            return;
        }
        let heads = sights
            .iter()
            .filter(|sight| sight.is_connected && sight.chain_match != ChainMatch::Different);
        let Some(lowest) = heads.filter_map(|sight| sight.head).min() else { return };
        // A node that is far behind is no evidence against others, which may have pruned what it lacks.
        let base = lowest.max(known.highest());
        let farthest = base.saturating_add(LEAP);
        let is_late = lowest == base && self.selector.lag_of(lowest, now) >= RECHECKED_AFTER;
        for (node, sight) in self.nodes.iter().zip(sights) {
            let claimed = sight
                .head
                .filter(|_| sight.is_connected && sight.chain_match != ChainMatch::Different);
            if let Some(head) = claimed.filter(|head| *head > farthest || (is_late && *head > base))
            {
                node.check_claim(head.min(farthest));
                self.claimed_at = now;
            }
        }
    }

    fn publish_usable(&self, nodes: Vec<usize>, going_on: Vec<usize>) {
        let mut wrong: Vec<RpcError> = Vec::new();
        for node in &self.nodes {
            if let ConnectionState::WrongChain(error) = &*node.state.borrow() {
                wrong.push(error.clone());
            }
        }
        let all_wrong = wrong.len() == self.nodes.len();
        let wrong_chain = wrong.into_iter().next().filter(|_| all_wrong);
        let (order, going_on) = (nodes.into(), going_on.into());
        let now = UsableNodes { order, advancing: going_on, wrong_chain, genesis: self.genesis };
        self.usable.publish(now);
    }
}
