//! Keeps one endpoint connected: the client for all calls, and the newest head.
//!
//! ```text
//! connect -> chain id, block 0 checked -> subscribe newHeads (ws), or poll (http, and a node that
//!            offers no subscription) -> lost -> connect …
//! ```
//!
//! The chain is checked at every connection and from time to time afterwards: a URL may lead to another
//! chain tomorrow. Which endpoint is read from is decided in [`super::endpoint_pool`].

mod identify;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    client::{self, Client, Connected},
    endpoint::Endpoint,
    head::RawHead,
    identity::{self, KnownChain, NodeIdentity},
    selection::{BlockArrival, ChainMatch},
};
use crate::{
    chain::{
        reader::{Head, NodeId},
        rpc_error::RpcError,
    },
    dice::Dice,
    telemetry::{heartbeat::Heartbeat, log_throttle::LogThrottle},
    time::backoff::Backoff,
};

/// A node that says nothing but "busy" for this long counts as disconnected.
const RATE_LIMITED_FOR: Duration = Duration::from_mins(1);
/// A connection that lasted this long is reconnected at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Longest pause before reconnecting after a shorter one that did deliver a head.
const SHORT_LIVED_PAUSE: Duration = Duration::from_secs(1);
/// A subscription without heads for this long is checked by a call.
const SILENCE: Duration = Duration::from_secs(5);
/// Deadline for a block header used to identify a chain.
const HEADER_DEADLINE: Duration = Duration::from_secs(3);

/// State of a connection.
#[derive(Clone, Debug)]
pub enum ConnectionState {
    /// With the last error, if any.
    Down(Option<RpcError>),
    Up(Client),
    /// The endpoint answers but serves another chain: [`RpcError::WrongChain`] or
    /// [`RpcError::WrongGenesis`].
    WrongChain(RpcError),
}

/// What a connection publishes, and its wake-ups.
#[derive(Debug)]
pub(super) struct ConnectionChannels {
    pub state: watch::Sender<ConnectionState>,
    pub heads: watch::Sender<Option<Head>>,
    pub last_block: watch::Sender<Option<BlockArrival>>,
    /// Notified at each change of these values.
    pub changed: Arc<Notify>,
    pub identity: watch::Sender<NodeIdentity>,
    /// Wakes the connection: other nodes know a newer head.
    pub recheck_head: Arc<Notify>,
    /// A block that the node must have, since it reports this or later ones.
    pub claim: watch::Receiver<Option<u64>>,
    /// Wakes the connection: there is a claim to check, or more is known of the chain.
    pub recheck_identity: Arc<Notify>,
}

impl ConnectionChannels {
    fn set_state(&self, link: ConnectionState) {
        self.state.send_replace(link);
        self.changed.notify_one();
    }

    fn set_identity(&self, found: NodeIdentity) {
        self.identity.send_replace(found);
        self.changed.notify_one();
    }
}

/// Why the connection woke up.
enum WakeReason {
    NewHead,
    Silence,
    Identify,
}

/// The task that keeps one endpoint connected. Runs until stopped; an outage does not end it.
#[derive(Debug)]
pub(super) struct Connection {
    endpoint: Arc<Endpoint>,
    chain_id: u64,
    /// There are other endpoints.
    has_siblings: bool,
    channels: ConnectionChannels,
    known: watch::Receiver<KnownChain>,
    dice: Dice,
    /// When to check next which chain the node is of.
    identify_at: Instant,
    /// A block that it claimed to have and did not have.
    missing_block: Option<u64>,
    identity_throttle: LogThrottle,
    connections: u64,
    /// The loss was logged, or nothing was logged yet: so the next connection is logged, too.
    is_loss_logged: bool,
    /// When this connection became usable.
    connected_at: Option<Instant>,
    /// Logged that the node offers no subscription.
    is_polling_logged: AtomicBool,
    heart: Heartbeat,
}

impl Connection {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        chain_id: u64,
        has_siblings: bool,
        channels: ConnectionChannels,
        known: watch::Receiver<KnownChain>,
        dice: Dice,
    ) -> Self {
        Self {
            endpoint,
            chain_id,
            has_siblings,
            channels,
            known,
            dice,
            identify_at: Instant::now(),
            missing_block: None,
            identity_throttle: LogThrottle::default(),
            connections: 0,
            is_loss_logged: true,
            connected_at: None,
            is_polling_logged: AtomicBool::new(false),
            heart: Heartbeat::default(),
        }
    }

    /// Connects, follows the head, and reconnects, until `stop`.
    pub(super) async fn run(mut self, heart: Heartbeat, stop: CancellationToken) {
        self.heart = heart;
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let (mut repeats, mut busy) = (LogThrottle::default(), None);
        while !stop.is_cancelled() {
            self.connected_at = None;
            let following = Box::pin(self.connect_and_follow());
            let Some(mut ended) = stop.run_until_cancelled(following).await else {
                break;
            };
            busy = ended.is_busy().then(|| busy.unwrap_or_else(Instant::now));
            if busy.is_some_and(|since| since.elapsed() >= RATE_LIMITED_FOR) {
                ended = self.unavailable(&ended.to_string());
            }
            let wrong_chain =
                matches!(ended, RpcError::WrongChain { .. } | RpcError::WrongGenesis { .. });
            self.channels.set_state(if wrong_chain {
                ConnectionState::WrongChain(ended.clone())
            } else {
                ConnectionState::Down(Some(ended.clone()))
            });
            let (host, role) = (self.endpoint.host(), self.endpoint.role());
            if let Some(times) = repeats.should_log(ended.code(), Instant::now()) {
                self.is_loss_logged = true;
                match (self.has_siblings, wrong_chain) {
                    (false, _) => {
                        warn!(host, problem = %ended, times, "waiting for the {role} node");
                    }
                    (true, false) => {
                        warn!(host, problem = %ended, times, "{role} node not reachable");
                    }
                    (true, true) => error!(
                        host, problem = %ended, times,
                        "a {role} node of another chain is left out"
                    ),
                }
            }
            if self.connected_at.is_some_and(|at| at.elapsed() >= STABLE_AFTER) {
                pause.reset();
            }
            let longest =
                if self.connected_at.is_some() { SHORT_LIVED_PAUSE } else { Duration::MAX };
            // At least as long as the node asks for (`Retry-After`).
            let pause = pause
                .next_delay(self.dice.roll())
                .min(longest)
                .max(self.endpoint.rate_limited_for());
            self.heart.rest();
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
        }
        self.channels.set_state(ConnectionState::Down(None));
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
        let subscribing = client.call::<Box<RawValue>>("eth_subscribe", &("newHeads",));
        match self.within_deadline("eth_subscribe", subscribing).await {
            Ok(_name) => {}
            Err(error @ RpcError::Refused { .. }) if !error.is_busy() => {
                self.log_polling_once(&error);
                return self.follow_by_polling(client).await;
            }
            Err(error) => return Err(error),
        }
        self.publish_connected(&client).await?;
        let (mut silent_at, mut busy) = (Instant::now() + SILENCE, None);
        loop {
            self.heart.beat().await;
            let woken = tokio::select! {
                biased;
                changed = heads.changed() => {
                    changed.map_err(|_| self.unavailable("connection lost"))?;
                    WakeReason::NewHead
                }
                () = sleep_until(silent_at) => WakeReason::Silence,
                () = self.channels.recheck_head.notified() => WakeReason::Silence,
                () = sleep_until(self.identify_at) => WakeReason::Identify,
                () = self.channels.recheck_identity.notified() => WakeReason::Identify,
            };
            match woken {
                WakeReason::NewHead => silent_at = Instant::now() + SILENCE,
                WakeReason::Silence => {
                    silent_at = Instant::now() + SILENCE;
                    self.check_silence(&client, &heads, &mut busy).await?;
                    continue;
                }
                WakeReason::Identify => {
                    self.identify_if_due(&client).await?;
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
    fn log_polling_once(&self, error: &RpcError) {
        if !self.is_polling_logged.swap(true, Ordering::Relaxed) {
            let (host, role) = (self.endpoint.host(), self.endpoint.role());
            info!(host, %error, "a {role} node offers no subscription: it is asked for its head");
        }
    }

    /// A silent subscription on a working connection counts as lost.
    async fn check_silence(
        &self,
        client: &Client,
        heads: &watch::Receiver<Option<RawHead>>,
        busy: &mut Option<Instant>,
    ) -> Result<(), RpcError> {
        let known = self.channels.heads.borrow().map(|head| head.block);
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
        self.publish_connected(&client).await?;
        let mut busy = None;
        loop {
            self.heart.beat().await;
            let started = Instant::now();
            if let Some(head) = self.latest_unless_busy(&client, &mut busy).await? {
                self.publish(head);
                self.identify_if_due(&client).await?;
            }
            let interval = self.endpoint.role().poll_interval();
            let pause = interval.saturating_sub(started.elapsed());
            self.heart.rest();
            sleep(pause.max(self.endpoint.rate_limited_for())).await;
        }
    }

    /// The newest head. `None`: the node is busy, but not for long enough to count as disconnected.
    /// `busy`: since when.
    async fn latest_unless_busy(
        &self,
        client: &Client,
        busy: &mut Option<Instant>,
    ) -> Result<Option<RawHead>, RpcError> {
        if !self.endpoint.rate_limited_for().is_zero() {
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
                if since.elapsed() < RATE_LIMITED_FOR { Ok(None) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Checks the node, then publishes head and client.
    async fn publish_connected(&mut self, client: &Client) -> Result<(), RpcError> {
        self.check_chain_id(client).await?;
        if self.channels.identity.borrow().chain_match != ChainMatch::Different {
            // The URL may lead to another node than before.
            self.channels.set_identity(NodeIdentity::default());
        }
        self.identify_or_later(client).await?;
        let head = self.latest(client).await?;
        let (host, number) = (self.endpoint.host(), head.block().number);
        let role = self.endpoint.role();
        if std::mem::take(&mut self.is_loss_logged) {
            info!(host, head = number, "{role} node connected");
        } else {
            debug!(host, head = number, "{role} node connected again");
        }
        // The head is published first: a reader that sees the connection up must find its head.
        self.publish(head);
        self.channels.set_state(ConnectionState::Up(client.clone()));
        self.connected_at = Some(Instant::now());
        Ok(())
    }

    async fn within_header_deadline<T>(
        &self,
        asking: impl Future<Output = Result<T, RpcError>>,
    ) -> Result<T, RpcError> {
        let late = |_| self.unavailable(&format!("{} timed out", identity::HEADER));
        timeout(HEADER_DEADLINE, asking).await.map_err(late)?
    }

    async fn latest(&self, client: &Client) -> Result<RawHead, RpcError> {
        let asking = client.call("eth_getBlockByNumber", &("latest", false));
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
        let known = self.channels.heads.borrow().map(|head| head.block.number);
        if known.is_none_or(|known| head.block().number > known) {
            let age = head.age();
            self.channels
                .last_block
                .send_replace(age.map(|age| BlockArrival { at: Instant::now(), age }));
        }
        // The pool sets the node's real number.
        let head = head.into_head(self.connections, NodeId(0));
        let changed = self.channels.heads.send_if_modified(|current| {
            let changed = *current != Some(head);
            *current = Some(head);
            changed
        });
        if changed {
            self.channels.changed.notify_one();
        }
    }

    fn unavailable(&self, what: &str) -> RpcError {
        self.endpoint.unavailable(what)
    }
}
