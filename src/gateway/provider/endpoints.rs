//! Several endpoints as one: each kept connected by a task of its own, one read from, all sent to.
//!
//! ```text
//! connection --link, heads--\                    /--> the order of reading (usable)
//! connection --link, heads---> look, choose (f) ---> heads of the one that is read from
//! connection --link, heads--/                    \--> doubt: look at your head again
//! ```
//!
//! Heads come from the endpoint that is read from, so that no room hears of a block which the next
//! read does not find. Another endpoint with a newer head makes it look at once.

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
    domain::B256,
    heart::{GATEWAY_CONNECTION, Hearts},
    lately::Lately,
    repeats::Repeats,
};

/// Between two looks of several endpoints: staleness shows by time alone.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Others have known a newer head for so long: the endpoint that is read from looks again.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// More blocks than nodes of one chain are apart.
const LEAP: u64 = 64;
/// A node that tells of more blocks than another is asked for one of them so often, at most.
const CLAIMED_EVERY: Duration = Duration::from_secs(1);
/// Calls in a row that an endpoint left unanswered.
const FAILING: u32 = 2;
/// How long one endpoint may take of a call's deadline while another could be asked.
pub(super) const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);
/// One that left a call of the same method unanswered is asked after all others, for a minute; then it may
/// take so long, as long as it is remembered.
const HUNG_LATELY: Duration = Duration::from_mins(1);
const TRIED_AGAIN_FOR: Duration = Duration::from_millis(500);
const HUNG_FOR: Duration = Duration::from_mins(10);
/// Methods of which that is remembered. There are fewer.
const METHODS: usize = 64;
/// Sends that go on after another endpoint has taken the transaction.
const STRAGGLERS: usize = 1024;

/// One endpoint, as those who call through it see it.
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
    /// The methods that it leaves unanswered, and since when.
    hangs: Arc<Mutex<Lately<&'static str, Instant>>>,
    /// What it says again and again is said once.
    repeats: Arc<Mutex<Repeats>>,
}

impl Node {
    pub(super) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.endpoint.answered();
    }

    /// For how long it is to be left alone. One that is not connected need not be waited for.
    pub(super) fn pause(&self) -> Duration {
        let up = matches!(&*self.link.borrow(), Link::Up(_));
        if up { self.endpoint.pause() } else { Duration::ZERO }
    }

    pub(super) fn left_unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// How long it may take for a call of this method, while another node could be asked. `None`: the
    /// others are asked first.
    pub(super) fn patience(&self, method: &'static str) -> Option<Duration> {
        let (now, hangs) = (Instant::now(), self.hangs());
        match hangs.of(&method, now) {
            None => Some(ATTEMPT_DEADLINE),
            Some(since) if now.saturating_duration_since(*since) < HUNG_LATELY => None,
            Some(_) => Some(TRIED_AGAIN_FOR),
        }
    }

    /// It left a call of this method unanswered, or did not.
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

    /// How it wants to be asked for a receipt at once, as far as is known.
    pub(super) fn sync_spelling(&self) -> SyncSpelling {
        *self.sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That was not it. Others may have found out meanwhile.
    pub(super) fn spell_sync(&self, was: SyncSpelling, now: SyncSpelling) {
        let mut sync = self.sync.lock().unwrap_or_else(PoisonError::into_inner);
        if *sync == was {
            *sync = now;
        }
    }

    /// Whether to say what is odd about it, and how often it was since that was said.
    pub(super) fn heard(&self, odd: &'static str) -> Option<u64> {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        repeats.heard(odd, Instant::now())
    }

    /// Its host, whether it is connected and of the right chain, and its newest block.
    pub(super) fn health(&self) -> (&str, bool, Option<u64>) {
        let up = self.is_up() && self.found.borrow().kin != Kin::Another;
        (self.endpoint.host(), up, self.heads.borrow().map(|head| head.block.number))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Up(_))
    }

    /// It was last found to be of another chain.
    pub(super) fn is_anothers(&self) -> bool {
        matches!(&*self.link.borrow(), Link::WrongChain(_))
            || self.found.borrow().kin == Kin::Another
    }

    /// Why it is not read from though it is connected.
    pub(super) fn contradiction(&self) -> Option<RpcError> {
        let found = self.found.borrow();
        let another = self.is_up() && found.kin == Kin::Another;
        another.then(|| self.endpoint.unavailable(&format!("not read from: {}", found.why)))
    }

    /// Whether it has a block that it should have.
    fn claims(&self, number: u64) {
        self.claim.send_replace(Some(number));
        self.asked.notify_one();
    }

    /// More is known of the chain.
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
            // However long all others are gone, one of another block 0 is not the chain.
            up: self.is_up() && !found.is_of_another_block_0(known),
            head: self.heads.borrow().map(|head| head.block.number),
            failing,
            kin: found.kin_by(known),
            arrived: *self.arrived.borrow(),
        }
    }
}

/// What calls may be made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Usable {
    /// In this order. Empty: none now.
    pub order: Arc<[usize]>,
    /// Whose heads are as new as blocks are, in the order or not.
    pub going_on: Arc<[usize]>,
    /// Every endpoint serves another chain.
    pub wrong_chain: Option<RpcError>,
    /// The block 0 by which they were judged.
    genesis: Option<B256>,
}

/// The work of a send that nobody waits for any more.
pub(super) type Straggler = BoxFuture<'static, ()>;

/// What the provider holds of all this.
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
    /// Nodes with another block 0 are left out from now on.
    pub(super) async fn settle_genesis(&self, genesis: B256) {
        self.learn(|known| known.genesis = Some(genesis));
        self.changed.notify_one();
        let mut usable = self.usable.subscribe();
        // The connections' task may have ended.
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

/// The tasks that keep all endpoints connected. The owner runs them.
pub struct Connections {
    each: Vec<Connection>,
    nodes: Vec<Node>,
    changed: Arc<Notify>,
    usable: Teller<Usable>,
    heads: Teller<Option<Head>>,
    stragglers: mpsc::Receiver<Straggler>,
    choice: Choice,
    known: watch::Receiver<Known>,
    /// By which block 0 was chosen.
    genesis: Option<B256>,
    /// When a claim was last asked for.
    claimed_at: Instant,
    /// The endpoint and connection the last head came from.
    source: Option<(usize, u64)>,
    /// Counts the changes of the source.
    sources: u64,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// Nothing is connected before [`Connections::run`].
pub(super) fn prepare(endpoints: Vec<Endpoint>, chain_id: u64) -> (Shared, Connections) {
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
        connections.push(Connection::new(of, chain_id, one_of_many, outlet, known));
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
                    // Its panic is this task's.
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
            // What was heard until now may have been heard of another chain.
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

    /// Whoever tells of blocks far above what another one has and what was read, or of newer ones for
    /// long, has to have what it tells of: else it makes those look behind that are right.
    fn ask_for_claims(&mut self, sights: &[Sight], known: &Known, now: Instant) {
        if now.saturating_duration_since(self.claimed_at) < CLAIMED_EVERY {
            return;
        }
        let heads = sights.iter().filter(|sight| sight.up && sight.kin != Kin::Another);
        let Some(lowest) = heads.filter_map(|sight| sight.head).min() else { return };
        // A node that is far behind says nothing of others, which may have pruned what it lacks.
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
