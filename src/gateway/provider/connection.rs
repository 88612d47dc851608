//! Keeps one endpoint connected: the client for all calls, and the newest head.
//!
//! ```text
//! connect -> chain id, block 0 checked -> subscribe newHeads (ws), or poll (http, and a node that
//!            offers no subscription) -> lost -> connect …
//! ```
//!
//! The chain is checked at every connection and from time to time afterwards: a URL may lead to another
//! chain tomorrow. Which endpoint is read from is decided in [`super::endpoints`].

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
use crate::{backoff::Backoff, dice::Dice, heart::Heart, repeats::Repeats};

/// Interval of polls for the head over HTTP: the Gateway's block time.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A node that says nothing but "busy" for this long counts as disconnected.
const BUSY_FOR: Duration = Duration::from_mins(1);
/// A connection that lasted this long is reconnected at once.
const HELD: Duration = Duration::from_secs(5);
/// Longest pause before reconnecting after a shorter one that did deliver a head.
const SHORT_LIVED_PAUSE: Duration = Duration::from_secs(1);
/// A subscription without heads for this long is checked by a call.
const SILENCE: Duration = Duration::from_secs(5);
/// Interval of checks which chain a node is of.
const IDENTIFIED_EVERY: Duration = Duration::from_mins(1);
/// The same for a node that is not known to be of our chain.
const DOUBTED_EVERY: Duration = Duration::from_secs(5);
/// A contradiction is checked again after this: the node may be in a reorganisation.
const CONTRADICTS_AFTER: Duration = Duration::from_secs(1);
/// Deadline for a block header used to identify a chain.
const HEADER_DEADLINE: Duration = Duration::from_secs(3);

/// State of a connection.
#[derive(Clone, Debug)]
pub enum Link {
    /// With the last error, if any.
    Down(Option<RpcError>),
    Up(Client),
    /// The endpoint answers but serves another chain: [`RpcError::WrongChain`] or
    /// [`RpcError::WrongGenesis`].
    WrongChain(RpcError),
}

/// What a connection publishes, and its wake-ups.
#[derive(Debug)]
pub(super) struct Outlet {
    pub link: watch::Sender<Link>,
    pub heads: watch::Sender<Option<Head>>,
    pub arrived: watch::Sender<Option<Arrived>>,
    /// Notified at each change of these values.
    pub changed: Arc<Notify>,
    pub found: watch::Sender<Found>,
    /// Wakes the connection: other nodes know a newer head.
    pub doubt: Arc<Notify>,
    /// A block that the node must have, since it reports this or later ones.
    pub claim: watch::Receiver<Option<u64>>,
    /// Wakes the connection: there is a claim to check, or more is known of the chain.
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

/// Why the connection woke up.
enum Woken {
    ByHead,
    BySilence,
    ToIdentify,
}

/// The task that keeps one endpoint connected. Runs until stopped; an outage does not end it.
#[derive(Debug)]
pub(super) struct Connection {
    endpoint: Arc<Endpoint>,
    chain_id: u64,
    /// There are other endpoints.
    one_of_many: bool,
    outlet: Outlet,
    known: watch::Receiver<Known>,
    dice: Dice,
    /// When to check next which chain the node is of.
    identify_at: Instant,
    /// A block that it claimed to have and did not have.
    claimed: Option<u64>,
    doubts: Repeats,
    connections: u64,
    /// The loss was logged, or nothing was logged yet: so the next connection is logged, too.
    lost_said: bool,
    /// When this connection became usable.
    connected_at: Option<Instant>,
    /// Logged that the node offers no subscription.
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
        dice: Dice,
    ) -> Self {
        Self {
            endpoint,
            chain_id,
            one_of_many,
            outlet,
            known,
            dice,
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

    /// Connects, follows the head, and reconnects, until `stop`.
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
            // At least as long as the node asks for (`Retry-After`).
            let pause = pause.next_delay(self.dice.roll()).min(longest).max(self.endpoint.pause());
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
                // Received heads are read before the end of the connection.
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
        // The subscription id is not needed: there is only one subscription.
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
            // A slow reader skips heads: the next one shows a gap, which is then filled.
            let head = heads.borrow_and_update().clone();
            if let Some(head) = head {
                self.publish(head);
            }
        }
    }

    /// Logs once that the head is polled: the node offers no subscription.
    fn say_polled(&self, error: &RpcError) {
        if !self.polled.swap(true, Ordering::Relaxed) {
            let host = self.endpoint.host();
            info!(host, %error, "a gateway node offers no subscription: it is asked for its head");
        }
    }

    /// A silent subscription on a working connection counts as lost.
    async fn check_silence(
        &self,
        client: &Client,
        heads: &watch::Receiver<Option<RawHead>>,
        busy: &mut Option<Instant>,
    ) -> Result<(), RpcError> {
        let known = self.outlet.heads.borrow().map(|head| head.block);
        let Some(latest) = self.latest_unless_busy(client, busy).await? else { return Ok(()) };
        let missed = known.is_some_and(|known| latest.block().number > known.number + 1);
        // A head may have arrived meanwhile.
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

    /// The newest head. `None`: the node is busy, but not for long enough to count as disconnected.
    /// `busy`: since when.
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

    /// Checks the node, then publishes head and client.
    async fn announce(&mut self, client: &Client) -> Result<(), RpcError> {
        self.check_chain_id(client).await?;
        if self.outlet.found.borrow().kin != Kin::Another {
            // The URL may lead to another node than before.
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
        // The head is published first: a reader that sees the connection up must find its head.
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

    /// Checks which chain of its id the node is of. If the node does not answer, it is checked again
    /// later and its last result stays.
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
            // A single endpoint: no other could know better.
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

    /// Checks again if it is due or more is known of the chain.
    async fn identify_again(&mut self, client: &Client) -> Result<(), RpcError> {
        let is_asked = self.outlet.claim.has_changed().unwrap_or(false);
        let claim = *self.outlet.claim.borrow_and_update();
        if let Some(number) = claim.filter(|_| is_asked) {
            self.look_at_claim(client, number).await;
        }
        let is_due = Instant::now() >= self.identify_at;
        let is_news = self.known.has_changed().unwrap_or(false) && {
            let known = *self.known.borrow_and_update();
            // A node whose block 0 matches may have other blocks than those that were read.
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

    /// Checks a claim: the node must have this block, since it reports this or later ones.
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
        // The pool sets the node's real number.
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
