//! One endpoint kept connected: the client everyone calls through, and the newest head.
//!
//! ```text
//! connect -> chain id, block 0 checked -> subscribe newHeads (ws), or poll (http, and a node that
//!            offers no subscription) -> lost -> connect …
//! ```
//!
//! Which chain it is is checked at every connection, and now and then after that: behind one URL another
//! chain may answer tomorrow.
//! Which of several endpoints is read from is decided elsewhere ([`super::endpoints`]).

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy::primitives::{B256, U64};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Head, NodeId, RpcError,
    choice::{Arrived, Kin},
    client::{self, Client, Connected},
    endpoint::Endpoint,
    head::RawHead,
    identity::{self, Found, Known},
};
use crate::{backoff::Backoff, heart::Heart, repeats::Repeats};

/// Over http, how often the head is asked for: the Gateway's block time.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A node that says only that it has no time for so long is not connected.
const BUSY_FOR: Duration = Duration::from_mins(1);
/// A connection that held for so long was one: the next one is made at once.
const HELD: Duration = Duration::from_secs(5);
/// One that ended sooner is made again after this at the latest: each of them brings a head.
const SHORT_LIVED_PAUSE: Duration = Duration::from_secs(1);
/// A subscription that has been silent for so long is checked by a call.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a connected node is asked which chain it is of.
const IDENTIFIED_EVERY: Duration = Duration::from_mins(1);
/// And one that is not known to be of ours.
const DOUBTED_EVERY: Duration = Duration::from_secs(5);
/// What contradicts is looked at again after this: the chain may be about to change.
const CONTRADICTS_AFTER: Duration = Duration::from_secs(1);
/// How long a node may take for a block by which it is told from others.
const HEADER_DEADLINE: Duration = Duration::from_secs(3);

/// What the calls go through.
#[derive(Clone, Debug)]
pub enum Link {
    /// With the last problem.
    Down(Option<RpcError>),
    Up(Client),
    /// The endpoint answers, and serves another chain: an [`RpcError::WrongChain`] or
    /// [`RpcError::WrongGenesis`].
    WrongChain(RpcError),
}

/// What a connection tells, and whom it wakes.
#[derive(Debug)]
pub(super) struct Outlet {
    pub link: watch::Sender<Link>,
    pub heads: watch::Sender<Option<Head>>,
    pub arrived: watch::Sender<Option<Arrived>>,
    /// Woken at each change of either.
    pub changed: Arc<Notify>,
    pub found: watch::Sender<Found>,
    /// Wakes the connection: others know a newer head.
    pub doubt: Arc<Notify>,
    /// It tells of later blocks than others: does it have this one?
    pub claim: watch::Receiver<Option<u64>>,
    /// Wakes the connection: there is a claim, or more is known of the chain.
    pub asked: Arc<Notify>,
}

impl Outlet {
    fn link(&self, link: Link) {
        self.link.send_replace(link);
        self.changed.notify_one();
    }

    fn found(&self, found: Found) {
        self.found.send_replace(found);
        self.changed.notify_one();
    }
}

/// Why a subscription is looked at.
enum Woken {
    ByHead,
    BySilence,
    ToIdentify,
}

/// The task that keeps one endpoint connected. Runs until stopped; an outage is not an exit.
#[derive(Debug)]
pub(super) struct Connection {
    endpoint: Arc<Endpoint>,
    chain_id: u64,
    /// Others can do what this one cannot.
    one_of_many: bool,
    outlet: Outlet,
    known: watch::Receiver<Known>,
    /// When it is to be asked again which chain it is of.
    identify_at: Instant,
    /// A block that it told of and did not have.
    claimed: Option<u64>,
    doubts: Repeats,
    connections: u64,
    /// That it is lost was said, or nothing yet: then that it is found is said, too.
    lost_said: bool,
    /// When this connection was of use first.
    connected_at: Option<Instant>,
    /// It has no subscriptions, and that was said.
    polled: AtomicBool,
    heart: Heart,
}

impl Connection {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        chain_id: u64,
        one_of_many: bool,
        outlet: Outlet,
        known: watch::Receiver<Known>,
    ) -> Self {
        Self {
            endpoint,
            chain_id,
            one_of_many,
            outlet,
            known,
            identify_at: Instant::now(),
            claimed: None,
            doubts: Repeats::default(),
            connections: 0,
            lost_said: true,
            connected_at: None,
            polled: AtomicBool::new(false),
            heart: Heart::default(),
        }
    }

    /// Connects, follows the head, and connects again, until `stop`.
    pub(super) async fn run(mut self, heart: Heart, stop: CancellationToken) {
        self.heart = heart;
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let (mut repeats, mut busy) = (Repeats::default(), None);
        while !stop.is_cancelled() {
            self.connected_at = None;
            let following = Box::pin(self.connect_and_follow());
            let Some(mut ended) = stop.run_until_cancelled(following).await else {
                break;
            };
            busy = ended.is_busy().then(|| busy.unwrap_or_else(Instant::now));
            if busy.is_some_and(|since| since.elapsed() >= BUSY_FOR) {
                ended = self.unavailable(&ended.to_string());
            }
            let wrong_chain =
                matches!(ended, RpcError::WrongChain { .. } | RpcError::WrongGenesis { .. });
            self.outlet.link(if wrong_chain {
                Link::WrongChain(ended.clone())
            } else {
                Link::Down(Some(ended.clone()))
            });
            let host = self.endpoint.host();
            if let Some(times) = repeats.heard(ended.code(), Instant::now()) {
                self.lost_said = true;
                match (self.one_of_many, wrong_chain) {
                    (false, _) => {
                        warn!(host, problem = %ended, times, "waiting for the gateway node");
                    }
                    (true, false) => {
                        warn!(host, problem = %ended, times, "gateway node not reachable");
                    }
                    (true, true) => error!(
                        host, problem = %ended, times,
                        "a gateway node of another chain is left out"
                    ),
                }
            }
            if self.connected_at.is_some_and(|at| at.elapsed() >= HELD) {
                pause.reset();
            }
            let longest =
                if self.connected_at.is_some() { SHORT_LIVED_PAUSE } else { Duration::MAX };
            // As long as it wishes, where it says so.
            let pause = pause.next_delay().min(longest).max(self.endpoint.pause());
            self.heart.rest();
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
        }
        self.outlet.link(Link::Down(None));
    }

    async fn connect_and_follow(&mut self) -> RpcError {
        self.heart.beat().await;
        let connected = match client::connect(&self.endpoint).await {
            Ok(connected) => connected,
            Err(error) => return error,
        };
        self.connections += 1;
        let followed = match connected {
            Connected::Http(client) => self.follow_by_polling(client).await,
            Connected::Socket { client, heads, socket } => tokio::select! {
                // What has come is read before an end is.
                biased;
                followed = self.follow_subscription(client, heads) => followed,
                why = socket.run() => Err(self.endpoint.unavailable(&why)),
            },
        };
        match followed {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow_subscription(
        &mut self,
        client: Client,
        mut heads: watch::Receiver<Option<RawHead>>,
    ) -> Result<Infallible, RpcError> {
        // Whatever it calls it: there is no other one on this connection.
        let subscribing = client.ask::<Box<RawValue>>("eth_subscribe", &("newHeads",));
        match self.within_deadline("eth_subscribe", subscribing).await {
            Ok(_name) => {}
            Err(error @ RpcError::Refused { .. }) if !error.is_busy() => {
                self.say_polled(&error);
                return self.follow_by_polling(client).await;
            }
            Err(error) => return Err(error),
        }
        self.announce(&client).await?;
        let (mut silent_at, mut busy) = (Instant::now() + SILENCE, None);
        loop {
            self.heart.beat().await;
            let woken = tokio::select! {
                biased;
                changed = heads.changed() => {
                    changed.map_err(|_| self.unavailable("connection lost"))?;
                    Woken::ByHead
                }
                () = sleep_until(silent_at) => Woken::BySilence,
                () = self.outlet.doubt.notified() => Woken::BySilence,
                () = sleep_until(self.identify_at) => Woken::ToIdentify,
                () = self.outlet.asked.notified() => Woken::ToIdentify,
            };
            match woken {
                Woken::ByHead => silent_at = Instant::now() + SILENCE,
                Woken::BySilence => {
                    silent_at = Instant::now() + SILENCE;
                    self.check_silence(&client, &heads, &mut busy).await?;
                    continue;
                }
                Woken::ToIdentify => {
                    self.identify_again(&client).await?;
                    continue;
                }
            }
            // Slow reading loses those between: the next one shows the gap, which is then filled.
            let head = heads.borrow_and_update().clone();
            if let Some(head) = head {
                self.publish(head);
            }
        }
    }

    /// A node that offers no subscription is as good as one over http.
    fn say_polled(&self, error: &RpcError) {
        if !self.polled.swap(true, Ordering::Relaxed) {
            let host = self.endpoint.host();
            info!(host, %error, "a gateway node offers no subscription: it is asked for its head");
        }
    }

    /// A silent subscription over a living connection is a dead subscription.
    async fn check_silence(
        &self,
        client: &Client,
        heads: &watch::Receiver<Option<RawHead>>,
        busy: &mut Option<Instant>,
    ) -> Result<(), RpcError> {
        let known = self.outlet.heads.borrow().map(|head| head.block);
        let Some(latest) = self.latest_unless_busy(client, busy).await? else { return Ok(()) };
        let missed = known.is_some_and(|known| latest.block().number > known.number + 1);
        // It may have spoken meanwhile.
        if missed && !heads.has_changed().unwrap_or(false) {
            self.publish(latest);
            return Err(self.unavailable("the head subscription went silent"));
        }
        self.publish(latest);
        Ok(())
    }

    async fn follow_by_polling(&mut self, client: Client) -> Result<Infallible, RpcError> {
        self.announce(&client).await?;
        let mut busy = None;
        loop {
            self.heart.beat().await;
            let started = Instant::now();
            if let Some(head) = self.latest_unless_busy(&client, &mut busy).await? {
                self.publish(head);
                self.identify_again(&client).await?;
            }
            let pause = POLL_INTERVAL.saturating_sub(started.elapsed());
            self.heart.rest();
            sleep(pause.max(self.endpoint.pause())).await;
        }
    }

    /// The newest head. A node that has no time for a while is not gone: `None`. `busy`: since when it
    /// has none.
    async fn latest_unless_busy(
        &self,
        client: &Client,
        busy: &mut Option<Instant>,
    ) -> Result<Option<RawHead>, RpcError> {
        if !self.endpoint.pause().is_zero() {
            return Ok(None);
        }
        match self.latest(client).await {
            Ok(head) => {
                *busy = None;
                self.endpoint.answered();
                Ok(Some(head))
            }
            Err(error) if error.is_busy() => {
                let since = *busy.get_or_insert_with(Instant::now);
                if since.elapsed() < BUSY_FOR { Ok(None) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// First answer of the node, then everyone may call through this client.
    async fn announce(&mut self, client: &Client) -> Result<(), RpcError> {
        self.check_chain_id(client).await?;
        if self.outlet.found.borrow().kin != Kin::Another {
            // Another node may be behind the URL than before.
            self.outlet.found(Found::default());
        }
        self.identify_or_later(client).await?;
        let head = self.latest(client).await?;
        let (host, number) = (self.endpoint.host(), head.block().number);
        if std::mem::take(&mut self.lost_said) {
            info!(host, head = number, "gateway node connected");
        } else {
            debug!(host, head = number, "gateway node connected again");
        }
        // The head first: who finds the link up finds the head of this connection.
        self.publish(head);
        self.outlet.link(Link::Up(client.clone()));
        self.connected_at = Some(Instant::now());
        Ok(())
    }

    async fn check_chain_id(&self, client: &Client) -> Result<(), RpcError> {
        let asking = client.ask_plainly::<U64>("eth_chainId");
        let found = self.within_deadline("eth_chainId", asking).await?.to::<u64>();
        if found != self.chain_id {
            let host = self.endpoint.host().to_owned();
            return Err(RpcError::WrongChain { host, expected: self.chain_id, found });
        }
        Ok(())
    }

    /// Which chain of its id the node is of. What it does not answer now it is asked later; until then
    /// it is what it was found to be before.
    async fn identify_or_later(&mut self, client: &Client) -> Result<(), RpcError> {
        match self.identify(client).await {
            Err(error @ RpcError::WrongGenesis { .. }) => Err(error),
            Err(_) => {
                self.identify_at = Instant::now() + DOUBTED_EVERY;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn identify(&mut self, client: &Client) -> Result<(), RpcError> {
        let genesis = self.header(identity::genesis(client)).await?;
        let known = *self.known.borrow_and_update();
        if let (Some(expected), Some(found)) = (known.genesis, genesis)
            && expected != found
        {
            self.outlet.found(Found { genesis: Some(genesis), ..Found::default() });
            let host = self.endpoint.host().to_owned();
            return Err(RpcError::WrongGenesis { host, expected, found });
        }
        let mut found = self.look(client, known, genesis).await?;
        if found.kin == Kin::Another {
            sleep(CONTRADICTS_AFTER).await;
            let known = *self.known.borrow_and_update();
            found = self.look(client, known, genesis).await?;
        }
        if found.kin != Kin::Another {
            self.claimed = None;
        }
        self.now_known_as(found);
        Ok(())
    }

    async fn look(
        &self,
        client: &Client,
        mut known: Known,
        genesis: Option<B256>,
    ) -> Result<Found, RpcError> {
        if !self.one_of_many {
            // Nobody could know better.
            (known.settled, known.recent) = (None, None);
        }
        self.header(identity::look(client, known, genesis, self.claimed)).await
    }

    fn now_known_as(&mut self, found: Found) {
        let told = found.genesis.flatten().is_some();
        let sure = found.kin == Kin::Ours || (told && !self.one_of_many);
        self.identify_at = Instant::now() + if sure { IDENTIFIED_EVERY } else { DOUBTED_EVERY };
        let (host, why) = (self.endpoint.host(), &found.why);
        if found.kin == Kin::Another
            && let Some(times) = self.doubts.heard("contradicts", Instant::now())
        {
            error!(host, why, times, "a gateway node contradicts what is known of the chain");
        }
        self.outlet.found(found);
    }

    /// Where it is due, or there is news.
    async fn identify_again(&mut self, client: &Client) -> Result<(), RpcError> {
        let is_asked = self.outlet.claim.has_changed().unwrap_or(false);
        let claim = *self.outlet.claim.borrow_and_update();
        if let Some(number) = claim.filter(|_| is_asked) {
            self.look_at_claim(client, number).await;
        }
        let is_due = Instant::now() >= self.identify_at;
        let is_news = self.known.has_changed().unwrap_or(false) && {
            let known = *self.known.borrow_and_update();
            // Who is ours by block 0 may have other blocks than those that were read.
            known.settled.is_none() || self.outlet.found.borrow().kin_by(&known) != Kin::Ours
        };
        if !is_due && !is_news {
            return Ok(());
        }
        match self.check_chain_id(client).await {
            Err(error @ RpcError::WrongChain { .. }) => Err(error),
            Ok(()) | Err(_) => self.identify_or_later(client).await,
        }
    }

    /// It tells of this block, or of later ones: it has to have it.
    async fn look_at_claim(&mut self, client: &Client, number: u64) {
        for is_sure in [false, true] {
            if !matches!(self.header(identity::has(client, number)).await, Ok(false)) {
                return;
            }
            if !is_sure {
                sleep(CONTRADICTS_AFTER).await;
            }
        }
        self.claimed = Some(number);
        let genesis = self.outlet.found.borrow().genesis;
        let why = identity::lacks(number);
        self.now_known_as(Found { genesis, kin: Kin::Another, why });
    }

    async fn header<T>(
        &self,
        asking: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        let late = |_| self.unavailable(&format!("{} timed out", identity::HEADER));
        timeout(HEADER_DEADLINE, asking).await.map_err(late)?
    }

    async fn latest(&self, client: &Client) -> Result<RawHead, RpcError> {
        let asking = client.ask("eth_getBlockByNumber", &("latest", false));
        self.within_deadline("eth_getBlockByNumber", asking).await
    }

    async fn within_deadline<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        match timeout(super::CALL_DEADLINE, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unavailable(&format!("{method} timed out"))),
        }
    }

    fn publish(&self, head: RawHead) {
        let known = self.outlet.heads.borrow().map(|head| head.block.number);
        if known.is_none_or(|known| head.block().number > known) {
            let age = head.age();
            self.outlet.arrived.send_replace(age.map(|age| Arrived { at: Instant::now(), age }));
        }
        // Who listens to all nodes knows which one this is.
        let head = head.into_head(self.connections, NodeId(0));
        let changed = self.outlet.heads.send_if_modified(|current| {
            let changed = *current != Some(head);
            *current = Some(head);
            changed
        });
        if changed {
            self.outlet.changed.notify_one();
        }
    }

    fn unavailable(&self, what: &str) -> RpcError {
        self.endpoint.unavailable(what)
    }
}
