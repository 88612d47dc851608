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
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
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
    batch::BatchSupport,
    connection::{Connection, ConnectionChannels, ConnectionState},
    endpoint::Endpoint,
    fanout::{self, FanoutSender, FanoutSubscribers},
    identity::{KnownChain, NodeIdentity},
    response_limits::ResponseBudget,
    selection::{BlockArrival, ChainMatch, NodeObservation, NodeSelector, ReadOrder},
};
use crate::{
    chain::{
        quirks::SyncTimeoutFormat,
        reader::{Head, NodeId},
        rpc_error::RpcError,
    },
    dice::Dice,
    domain::B256,
    telemetry::{
        heartbeat::{GATEWAY_CONNECTION, Heartbeats},
        log_throttle::LogThrottle,
    },
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
/// Unanswered calls in a row after which an endpoint counts as failing.
const FAILING_AFTER: u32 = 2;
/// Part of a call's deadline that one endpoint may use while others could be asked.
pub(super) const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);
/// For this long an endpoint that left a call unanswered is asked last for the same method. After that,
/// and for as long as it is remembered, it gets this shorter deadline.
const HUNG_LATELY: Duration = Duration::from_mins(1);
const HUNG_ATTEMPT_DEADLINE: Duration = Duration::from_millis(500);
const HUNG_FOR: Duration = Duration::from_mins(10);
/// Number of methods for which that is remembered; more than we use.
const METHODS: usize = 64;
/// Sends that continue after another endpoint accepted the transaction.
const MOST_PENDING_SENDS: usize = 1024;

/// One endpoint, as its callers see it.
#[derive(Clone, Debug)]
pub(super) struct NodeHandle {
    pub endpoint: Arc<Endpoint>,
    pub state: watch::Receiver<ConnectionState>,
    heads: watch::Receiver<Option<Head>>,
    last_block: watch::Receiver<Option<BlockArrival>>,
    pub identity: watch::Receiver<NodeIdentity>,
    recheck_head: Arc<Notify>,
    claim: Arc<watch::Sender<Option<u64>>>,
    recheck_identity: Arc<Notify>,
    /// Unanswered calls in a row.
    unanswered: Arc<AtomicU32>,
    sync_timeout_format: Arc<Mutex<SyncTimeoutFormat>>,
    pub batches: Arc<BatchSupport>,
    /// Methods that it left unanswered, and since when.
    hanging_methods: Arc<Mutex<RecentMap<&'static str, Instant>>>,
    /// Throttles repeated log lines.
    repeats: Arc<Mutex<LogThrottle>>,
}

impl NodeHandle {
    pub(super) fn record_answer(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.endpoint.answered();
    }

    /// How long it must be left alone. Zero if it is not connected: nobody waits for it then.
    pub(super) fn rate_limited_for(&self) -> Duration {
        let up = matches!(&*self.state.borrow(), ConnectionState::Up(_));
        if up { self.endpoint.rate_limited_for() } else { Duration::ZERO }
    }

    pub(super) fn record_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Deadline of a call of this method while another node could be asked. `None`: ask the others
    /// first.
    pub(super) fn attempt_timeout(&self, method: &'static str) -> Option<Duration> {
        let (now, hangs) = (Instant::now(), self.hanging_methods());
        match hangs.get(&method, now) {
            None => Some(ATTEMPT_DEADLINE),
            Some(since) if now.saturating_duration_since(*since) < HUNG_LATELY => None,
            Some(_) => Some(HUNG_ATTEMPT_DEADLINE),
        }
    }

    /// Records whether a call of this method was left unanswered.
    pub(super) fn record_timeout(&self, method: &'static str, hung: bool) {
        let (now, mut hangs) = (Instant::now(), self.hanging_methods());
        if hung {
            *hangs.touch(method, now, || now) = now;
        } else {
            hangs.remove(&method);
        }
    }

    fn hanging_methods(&self) -> MutexGuard<'_, RecentMap<&'static str, Instant>> {
        self.hanging_methods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The form of `eth_sendRawTransactionSync` that it accepts, as far as known.
    pub(super) fn sync_timeout_format(&self) -> SyncTimeoutFormat {
        *self.sync_timeout_format.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the form after an error, unless another call already did.
    pub(super) fn set_sync_timeout_format(&self, was: SyncTimeoutFormat, now: SyncTimeoutFormat) {
        let mut sync = self.sync_timeout_format.lock().unwrap_or_else(PoisonError::into_inner);
        if *sync == was {
            *sync = now;
        }
    }

    /// Log throttle per problem: the number of occurrences since the last line, if it is time for
    /// another one.
    pub(super) fn should_log(&self, odd: &'static str) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.should_log(odd, Instant::now())
    }

    /// Host, whether it is connected and of the right chain, and newest block.
    pub(super) fn health(&self) -> (&str, bool, Option<u64>) {
        let up = self.is_connected() && self.identity.borrow().chain_match != ChainMatch::Different;
        (self.endpoint.host(), up, self.heads.borrow().map(|head| head.block.number))
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectionState::Up(_))
    }

    /// Whether it was last found to be of another chain.
    pub(super) fn is_of_other_chain(&self) -> bool {
        matches!(&*self.state.borrow(), ConnectionState::WrongChain(_))
            || self.identity.borrow().chain_match == ChainMatch::Different
    }

    /// Why it is not read from although it is connected.
    pub(super) fn contradiction(&self) -> Option<RpcError> {
        let found = self.identity.borrow();
        let another = self.is_connected() && found.chain_match == ChainMatch::Different;
        another.then(|| self.endpoint.unavailable(&format!("not read from: {}", found.why)))
    }

    /// Asks the node to prove that it has this block.
    fn check_claim(&self, number: u64) {
        self.claim.send_replace(Some(number));
        self.recheck_identity.notify_one();
    }

    /// Asks the connection to check the chain again: more is known.
    fn recheck_identity(&self) {
        self.recheck_identity.notify_one();
    }

    fn observe(&self, several: bool, known: &KnownChain) -> NodeObservation {
        let failing = several && self.unanswered.load(Ordering::Relaxed) >= FAILING_AFTER;
        if failing {
            self.record_answer();
        }
        let found = self.identity.borrow();
        NodeObservation {
            // Never a node with another block 0, however long all others are gone.
            is_connected: self.is_connected() && !found.has_other_genesis(known),
            head: self.heads.borrow().map(|head| head.block.number),
            is_failing: failing,
            chain_match: found.chain_match_given(known),
            last_block: *self.last_block.borrow(),
        }
    }
}

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
        for connection in self.each.drain(..) {
            let heart = hearts.heartbeat(GATEWAY_CONNECTION);
            running.spawn(connection.run(heart, stop.clone()).in_current_span());
        }
        let heart = hearts.heartbeat(GATEWAY_CONNECTION);
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
            let host = self.nodes[*node].endpoint.host();
            info!(host, why = why.as_str(), "reading from this gateway node");
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
