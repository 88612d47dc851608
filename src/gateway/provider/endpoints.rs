//! Several endpoints as one: each is kept connected by its own task, one is read from, transactions go
//! to all.
//!
//! ```text
//! connection --link, heads--\                    /--> the order of reading (usable)
//! connection --link, heads---> look, choose (f) ---> heads of the one that is read from
//! connection --link, heads--/                    \--> doubt: check your head again
//! ```
//!
//! Heads come only from the endpoint that is read from, so that no room learns of a block that its next
//! read does not find. If another endpoint has a newer head, that endpoint checks its head at once.

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
    Head, NodeId, RpcError,
    batches::Batches,
    bounds::Room,
    choice::{Arrived, Choice, Kin, Order, Sight},
    connection::{Connection, Link, Outlet},
    endpoint::Endpoint,
    fan::{self, Listeners, Teller},
    identity::{Found, Known},
    quirks::SyncSpelling,
};
use crate::{
    dice::Dice,
    domain::B256,
    heart::{GATEWAY_CONNECTION, Hearts},
    lately::Lately,
    repeats::Repeats,
};

/// Interval of choices with several endpoints: staleness shows only as time passes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// If others have known a newer head for this long, the endpoint that is read from checks its head.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// Nodes of one chain are never this many blocks apart.
const LEAP: u64 = 64;
/// Minimum interval of claim checks.
const CLAIMED_EVERY: Duration = Duration::from_secs(1);
/// Unanswered calls in a row after which an endpoint counts as failing.
const FAILING: u32 = 2;
/// Part of a call's deadline that one endpoint may use while others could be asked.
pub(super) const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);
/// For this long an endpoint that left a call unanswered is asked last for the same method. After that,
/// and for as long as it is remembered, it gets this shorter deadline.
const HUNG_LATELY: Duration = Duration::from_mins(1);
const TRIED_AGAIN_FOR: Duration = Duration::from_millis(500);
const HUNG_FOR: Duration = Duration::from_mins(10);
/// Number of methods for which that is remembered; more than we use.
const METHODS: usize = 64;
/// Sends that continue after another endpoint accepted the transaction.
const STRAGGLERS: usize = 1024;

/// One endpoint, as its callers see it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub endpoint: Arc<Endpoint>,
    pub link: watch::Receiver<Link>,
    heads: watch::Receiver<Option<Head>>,
    arrived: watch::Receiver<Option<Arrived>>,
    pub found: watch::Receiver<Found>,
    doubt: Arc<Notify>,
    claim: Arc<watch::Sender<Option<u64>>>,
    asked: Arc<Notify>,
    /// Unanswered calls in a row.
    unanswered: Arc<AtomicU32>,
    sync: Arc<Mutex<SyncSpelling>>,
    pub batches: Arc<Batches>,
    /// Methods that it left unanswered, and since when.
    hangs: Arc<Mutex<Lately<&'static str, Instant>>>,
    /// Throttles repeated log lines.
    repeats: Arc<Mutex<Repeats>>,
}

impl Node {
    pub(super) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.endpoint.answered();
    }

    /// How long it must be left alone. Zero if it is not connected: nobody waits for it then.
    pub(super) fn pause(&self) -> Duration {
        let up = matches!(&*self.link.borrow(), Link::Up(_));
        if up { self.endpoint.pause() } else { Duration::ZERO }
    }

    pub(super) fn left_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Deadline of a call of this method while another node could be asked. `None`: ask the others
    /// first.
    pub(super) fn patience(&self, method: &'static str) -> Option<Duration> {
        let (now, hangs) = (Instant::now(), self.hangs());
        match hangs.of(&method, now) {
            None => Some(ATTEMPT_DEADLINE),
            Some(since) if now.saturating_duration_since(*since) < HUNG_LATELY => None,
            Some(_) => Some(TRIED_AGAIN_FOR),
        }
    }

    /// Records whether a call of this method was left unanswered.
    pub(super) fn hung(&self, method: &'static str, hung: bool) {
        let (now, mut hangs) = (Instant::now(), self.hangs());
        if hung {
            *hangs.say(method, now, || now) = now;
        } else {
            hangs.forget(&method);
        }
    }

    fn hangs(&self) -> MutexGuard<'_, Lately<&'static str, Instant>> {
        self.hangs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The form of `eth_sendRawTransactionSync` that it accepts, as far as known.
    pub(super) fn sync_spelling(&self) -> SyncSpelling {
        *self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the form after an error, unless another call already did.
    pub(super) fn spell_sync(&self, was: SyncSpelling, now: SyncSpelling) {
        let mut sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        if *sync == was {
            *sync = now;
        }
    }

    /// Log throttle per problem: the number of occurrences since the last line, if it is time for
    /// another one.
    pub(super) fn heard(&self, odd: &'static str) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.heard(odd, Instant::now())
    }

    /// Host, whether it is connected and of the right chain, and newest block.
    pub(super) fn health(&self) -> (&str, bool, Option<u64>) {
        let up = self.is_up() && self.found.borrow().kin != Kin::Another;
        (self.endpoint.host(), up, self.heads.borrow().map(|head| head.block.number))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up(_))
    }

    /// Whether it was last found to be of another chain.
    pub(super) fn is_anothers(&self) -> bool {
        matches!(&*self.link.borrow(), Link::WrongChain(_))
            || self.found.borrow().kin == Kin::Another
    }

    /// Why it is not read from although it is connected.
    pub(super) fn contradiction(&self) -> Option<RpcError> {
        let found = self.found.borrow();
        let another = self.is_up() && found.kin == Kin::Another;
        another.then(|| self.endpoint.unavailable(&format!("not read from: {}", found.why)))
    }

    /// Asks the node to prove that it has this block.
    fn claims(&self, number: u64) {
        self.claim.send_replace(Some(number));
        self.asked.notify_one();
    }

    /// Asks the connection to check the chain again: more is known.
    fn compare(&self) {
        self.asked.notify_one();
    }

    fn sight(&self, several: bool, known: &Known) -> Sight {
        let failing = several && self.unanswered.load(Ordering::Relaxed) >= FAILING;
        if failing {
            self.answered();
        }
        let found = self.found.borrow();
        Sight {
            // Never a node with another block 0, however long all others are gone.
            up: self.is_up() && !found.is_of_another_block_0(known),
            head: self.heads.borrow().map(|head| head.block.number),
            failing,
            kin: found.kin_by(known),
            arrived: *self.arrived.borrow(),
        }
    }
}

/// The endpoints that may be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usable {
    /// In order of preference. Empty: none.
    pub order: Arc<[usize]>,
    /// The advancing nodes, whether or not they are in the order.
    pub going_on: Arc<[usize]>,
    /// Set if every endpoint serves another chain.
    pub wrong_chain: Option<RpcError>,
    /// The block 0 by which the nodes were judged.
    genesis: Option<B256>,
}

/// Rest of a send that nobody waits for any more.
pub(super) type Straggler = BoxFuture<'static, ()>;

/// The provider's side of the pool.
#[derive(Debug)]
pub(super) struct Shared {
    pub nodes: Vec<Node>,
    pub usable: Listeners<Usable>,
    pub heads: Listeners<Option<Head>>,
    pub stragglers: mpsc::Sender<Straggler>,
    known: watch::Sender<Known>,
    changed: Arc<Notify>,
}

impl Shared {
    /// Excludes nodes with another block 0 from now on.
    pub(super) async fn settle_genesis(&self, genesis: B256) {
        self.learn(|known| known.genesis = Some(genesis));
        self.changed.notify_one();
        let mut usable = self.usable.subscribe();
        // The task that publishes this may have ended.
        let _ = usable.wait_for(|usable| usable.genesis == Some(genesis)).await;
    }

    /// Block 0 of the chain that is meant.
    pub(super) fn genesis(&self) -> Option<B256> {
        self.known.borrow().genesis
    }

    pub(super) fn learn(&self, learn: impl FnOnce(&mut Known)) {
        let changed = self.known.send_if_modified(|known| {
            let before = *known;
            learn(known);
            *known != before
        });
        if changed {
            self.nodes.iter().for_each(Node::compare);
        }
    }
}

/// The tasks that keep all endpoints connected. The caller runs them.
pub struct Connections {
    each: Vec<Connection>,
    nodes: Vec<Node>,
    changed: Arc<Notify>,
    usable: Teller<Usable>,
    heads: Teller<Option<Head>>,
    stragglers: mpsc::Receiver<Straggler>,
    choice: Choice,
    known: watch::Receiver<Known>,
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
pub(super) fn prepare(
    endpoints: Vec<Endpoint>,
    chain_id: u64,
    dice: &Dice,
) -> (Shared, Connections) {
    let changed = Arc::new(Notify::new());
    let (mut connections, mut nodes) = (Vec::new(), Vec::new());
    let one_of_many = endpoints.len() > 1;
    let (known_sender, known) = watch::channel(Known::default());
    let room = Room::new();
    for endpoint in endpoints {
        let endpoint = Arc::new(endpoint.within(room.clone()));
        let (link_sender, link) = watch::channel(Link::Down(None));
        let (head_sender, heads) = watch::channel(None);
        let (arrived_sender, arrived) = watch::channel(None);
        let (found_sender, found) = watch::channel(Found::default());
        let (claim, claims) = watch::channel(None);
        let (doubt, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let outlet = Outlet {
            link: link_sender,
            heads: head_sender,
            arrived: arrived_sender,
            found: found_sender,
            changed: changed.clone(),
            doubt: doubt.clone(),
            claim: claims,
            asked: asked.clone(),
        };
        let sync = Arc::new(Mutex::new(SyncSpelling::Number));
        let (of, known) = (endpoint.clone(), known.clone());
        connections.push(Connection::new(of, chain_id, one_of_many, outlet, known, dice.clone()));
        nodes.push(Node {
            endpoint,
            link,
            heads,
            arrived,
            found,
            doubt,
            claim: Arc::new(claim),
            asked,
            unanswered: Arc::default(),
            sync,
            batches: Arc::default(),
            hangs: Arc::new(Mutex::new(Lately::new(METHODS, HUNG_FOR))),
            repeats: Arc::default(),
        });
    }
    let (usable_teller, usable) = fan::fan();
    let (head_teller, heads) = fan::fan();
    let (stragglers_sender, stragglers) = mpsc::channel(STRAGGLERS);
    let shared = Shared {
        nodes: nodes.clone(),
        usable,
        heads,
        stragglers: stragglers_sender,
        known: known_sender,
        changed: changed.clone(),
    };
    let connections = Connections {
        each: connections,
        choice: Choice::new(nodes.len()),
        nodes,
        changed,
        usable: usable_teller,
        heads: head_teller,
        stragglers,
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
    pub async fn run(mut self, hearts: Hearts, stop: CancellationToken) {
        let mut running = JoinSet::new();
        for connection in self.each.drain(..) {
            let heart = hearts.heart(GATEWAY_CONNECTION);
            running.spawn(connection.run(heart, stop.clone()).in_current_span());
        }
        let heart = hearts.heart(GATEWAY_CONNECTION);
        let mut under_way = FuturesUnordered::new();
        let several = self.nodes.len() > 1;
        loop {
            heart.beat().await;
            self.look();
            heart.rest();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                () = sleep(LOOK_EVERY), if several => {}
                Some(()) = under_way.next() => {}
                Some(straggler) = self.stragglers.recv(), if under_way.len() < STRAGGLERS => {
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

    fn look(&mut self) {
        let several = self.nodes.len() > 1;
        let now = Instant::now();
        let known = *self.known.borrow();
        if self.genesis != known.genesis {
            // Observations so far may be of another chain.
            self.genesis = known.genesis;
            self.choice = Choice::new(self.nodes.len());
            self.heads.tell(None);
        }
        let sights: Vec<Sight> =
            self.nodes.iter().map(|node| node.sight(several, &known)).collect();
        self.ask_for_claims(&sights, &known, now);
        let Order { nodes, going_on, switched } = self.choice.look(&sights, now);
        if let Some(why) = switched.filter(|_| several)
            && let Some(node) = nodes.first()
        {
            let host = self.nodes[*node].endpoint.host();
            info!(host, why = why.as_str(), "reading from this gateway node");
        }
        let first = nodes.first().copied();
        self.tell_usable(nodes, going_on);
        let Some(first) = first else { return };
        let Some(head) = *self.nodes[first].heads.borrow() else { return };
        if self.choice.behind(head.block.number, now) >= DOUBT_AFTER {
            self.nodes[first].doubt.notify_one();
        }
        self.choice.acted_on(head.block.number);
        let source = Some((first, head.connection));
        if self.source != source {
            self.source = source;
            self.sources += 1;
        }
        let head = Head { connection: self.sources, by: NodeId(first), ..head };
        self.heads.tell(Some(head));
    }

    /// A node that reports blocks far above another node's head and above what was read, or newer ones
    /// for long, must prove that it has them: otherwise it could make correct nodes look behind.
    fn ask_for_claims(&mut self, sights: &[Sight], known: &Known, now: Instant) {
        if now.saturating_duration_since(self.claimed_at) < CLAIMED_EVERY {
            return;
        }
        let heads = sights.iter().filter(|sight| sight.up && sight.kin != Kin::Another);
        let Some(lowest) = heads.filter_map(|sight| sight.head).min() else { return };
        // A node that is far behind is no evidence against others, which may have pruned what it lacks.
        let base = lowest.max(known.highest());
        let farthest = base.saturating_add(LEAP);
        let is_late = lowest == base && self.choice.behind(lowest, now) >= DOUBT_AFTER;
        for (node, sight) in self.nodes.iter().zip(sights) {
            let heard = sight.head.filter(|_| sight.up && sight.kin != Kin::Another);
            if let Some(head) = heard.filter(|head| *head > farthest || (is_late && *head > base)) {
                node.claims(head.min(farthest));
                self.claimed_at = now;
            }
        }
    }

    fn tell_usable(&self, nodes: Vec<usize>, going_on: Vec<usize>) {
        let mut wrong: Vec<RpcError> = Vec::new();
        for node in &self.nodes {
            if let Link::WrongChain(error) = &*node.link.borrow() {
                wrong.push(error.clone());
            }
        }
        let all_wrong = wrong.len() == self.nodes.len();
        let wrong_chain = wrong.into_iter().next().filter(|_| all_wrong);
        let (order, going_on) = (nodes.into(), going_on.into());
        let now = Usable { order, going_on, wrong_chain, genesis: self.genesis };
        self.usable.tell(now);
    }
}
