//! One endpoint kept connected: the client everyone calls through, and the newest head.
//!
//! ```text
//! connect -> chain id checked -> subscribe newHeads (ws) or poll (http) -> lost -> connect …
//! ```
//!
//! A chain id is checked at every connection: behind one URL another chain may answer tomorrow.
//! Which of several endpoints is read from is decided elsewhere ([`super::endpoints`]).

use std::{convert::Infallible, sync::Arc, time::Duration};

use alloy::primitives::{B256, Bloom, U64, U128};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Head, NodeId, RpcError,
    client::Client,
    endpoint::{Connected, Endpoint},
    raw::{Number, if_readable},
};
use crate::{backoff::Backoff, domain::BlockRef, heart::Heart, repeats::Repeats};

/// Over http, how often the head is asked for: the Gateway's block time.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A subscription that has been silent for so long is checked by a call.
const SILENCE: Duration = Duration::from_secs(5);

/// The header fields the connector needs, as `newHeads` and `eth_getBlockBy…` spell them. What it can
/// do without may be missing, or of a form that nobody can read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawHead {
    number: Number,
    hash: B256,
    parent_hash: B256,
    #[serde(default, deserialize_with = "if_readable")]
    logs_bloom: Option<Bloom>,
    #[serde(default, deserialize_with = "if_readable")]
    base_fee_per_gas: Option<U128>,
    #[serde(default, deserialize_with = "if_readable")]
    gas_limit: Option<U64>,
}

impl RawHead {
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    pub(super) fn into_head(self, connection: u64, by: NodeId) -> Head {
        Head {
            block: BlockRef { number: self.number.to(), hash: self.hash },
            parent: self.parent_hash,
            bloom: self.logs_bloom,
            base_fee: self.base_fee_per_gas.map(|fee| fee.to()),
            gas_limit: self.gas_limit.map(|gas| gas.to()),
            connection,
            by,
        }
    }
}

/// What the calls go through.
#[derive(Clone, Debug)]
pub enum Link {
    /// With the last problem.
    Down(Option<RpcError>),
    Up(Client),
    /// The endpoint answers, and serves another chain: an [`RpcError::WrongChain`].
    WrongChain(RpcError),
}

/// What a connection tells, and whom it wakes.
#[derive(Debug)]
pub(super) struct Outlet {
    pub link: watch::Sender<Link>,
    pub heads: watch::Sender<Option<Head>>,
    /// Woken at each change of either.
    pub changed: Arc<Notify>,
    /// Wakes the connection: others know a newer head.
    pub doubt: Arc<Notify>,
}

impl Outlet {
    fn link(&self, link: Link) {
        self.link.send_replace(link);
        self.changed.notify_one();
    }
}

/// The task that keeps one endpoint connected. Runs until stopped; an outage is not an exit.
#[derive(Debug)]
pub(super) struct Connection {
    endpoint: Arc<Endpoint>,
    chain_id: u64,
    /// Others can do what this one cannot.
    one_of_many: bool,
    outlet: Outlet,
    connections: u64,
    heart: Heart,
}

impl Connection {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        chain_id: u64,
        one_of_many: bool,
        outlet: Outlet,
    ) -> Self {
        let heart = Heart::default();
        Self { endpoint, chain_id, one_of_many, outlet, connections: 0, heart }
    }

    /// Connects, follows the head, and connects again, until `stop`.
    pub(super) async fn run(mut self, heart: Heart, stop: CancellationToken) {
        self.heart = heart;
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut repeats = Repeats::default();
        while !stop.is_cancelled() {
            let following = Box::pin(self.connect_and_follow(&mut pause));
            let Some(ended) = stop.run_until_cancelled(following).await else {
                break;
            };
            let wrong_chain = matches!(ended, RpcError::WrongChain { .. });
            self.outlet.link(if wrong_chain {
                Link::WrongChain(ended.clone())
            } else {
                Link::Down(Some(ended.clone()))
            });
            let problem = ended.to_string();
            let host = self.endpoint.host();
            if let Some(times) = repeats.heard(&problem, Instant::now()) {
                match (self.one_of_many, wrong_chain) {
                    (false, _) => warn!(host, problem, times, "waiting for the gateway node"),
                    (true, false) => warn!(host, problem, times, "gateway node not reachable"),
                    (true, true) => {
                        error!(host, problem, times, "a gateway node of another chain is left out");
                    }
                }
            }
            if stop.run_until_cancelled(sleep(pause.next_delay())).await.is_none() {
                break;
            }
        }
        self.outlet.link(Link::Down(None));
    }

    async fn connect_and_follow(&mut self, pause: &mut Backoff) -> RpcError {
        self.heart.beat().await;
        let connected = match self.endpoint.connect().await {
            Ok(connected) => connected,
            Err(error) => return error,
        };
        self.connections += 1;
        let followed = match connected {
            Connected::Http(client) => self.follow_by_polling(client, pause).await,
            Connected::Socket { client, heads, socket } => tokio::select! {
                // What has come is read before an end is.
                biased;
                followed = self.follow_subscription(client, heads, pause) => followed,
                why = socket.run() => Err(self.endpoint.unavailable(&why)),
            },
        };
        match followed {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow_subscription(
        &self,
        client: Client,
        mut heads: watch::Receiver<Option<RawHead>>,
        pause: &mut Backoff,
    ) -> Result<Infallible, RpcError> {
        // Whatever it calls it: there is no other one on this connection.
        let subscribing = client.ask::<Box<RawValue>>("eth_subscribe", &("newHeads",));
        self.within_deadline("eth_subscribe", subscribing).await?;
        self.announce(&client, pause).await?;
        loop {
            self.heart.beat().await;
            let told = tokio::select! {
                biased;
                changed = heads.changed() => {
                    changed.map_err(|_| self.unavailable("connection lost"))?;
                    true
                }
                () = sleep(SILENCE) => false,
                () = self.outlet.doubt.notified() => false,
            };
            if !told {
                self.check_silence(&client, &heads).await?;
                continue;
            }
            // Slow reading loses those between: the next one shows the gap, which is then filled.
            let head = heads.borrow_and_update().clone();
            if let Some(head) = head {
                self.publish(head);
            }
        }
    }

    /// A silent subscription over a living connection is a dead subscription.
    async fn check_silence(
        &self,
        client: &Client,
        heads: &watch::Receiver<Option<RawHead>>,
    ) -> Result<(), RpcError> {
        let known = self.outlet.heads.borrow().map(|head| head.block);
        let latest = self.latest(client).await?;
        let missed = known.is_some_and(|known| latest.number.to::<u64>() > known.number + 1);
        // It may have spoken meanwhile.
        if missed && !heads.has_changed().unwrap_or(false) {
            self.publish(latest);
            return Err(self.unavailable("the head subscription went silent"));
        }
        self.publish(latest);
        Ok(())
    }

    async fn follow_by_polling(
        &self,
        client: Client,
        pause: &mut Backoff,
    ) -> Result<Infallible, RpcError> {
        self.announce(&client, pause).await?;
        loop {
            self.heart.beat().await;
            let started = Instant::now();
            let head = self.latest(&client).await?;
            self.publish(head);
            sleep(POLL_INTERVAL.saturating_sub(started.elapsed())).await;
        }
    }

    /// First answer of the node, then everyone may call through this client.
    async fn announce(&self, client: &Client, pause: &mut Backoff) -> Result<(), RpcError> {
        let asking = client.ask_plainly::<U64>("eth_chainId");
        let found = self.within_deadline("eth_chainId", asking).await?.to::<u64>();
        if found != self.chain_id {
            return Err(RpcError::WrongChain {
                host: self.endpoint.host().to_owned(),
                expected: self.chain_id,
                found,
            });
        }
        let head = self.latest(client).await?;
        info!(
            host = self.endpoint.host(),
            head = head.number.to::<u64>(),
            "gateway node connected"
        );
        // The head first: who finds the link up finds the head of this connection.
        self.publish(head);
        self.outlet.link(Link::Up(client.clone()));
        pause.reset();
        Ok(())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A6.
    #[test]
    fn a6_a_header_is_read_by_the_fields_that_are_needed() {
        let needed = json!({
            "number": "0x7", "hash": B256::repeat_byte(1), "parentHash": B256::repeat_byte(2),
        });
        let read = |more: &[(&str, serde_json::Value)]| {
            let mut header = needed.clone();
            for (key, value) in more {
                header[key] = value.clone();
            }
            let raw: RawHead = serde_json::from_value(header).unwrap();
            raw.into_head(3, NodeId(1))
        };
        let head = read(&[]);
        assert_eq!((head.block.number, head.parent), (7, B256::repeat_byte(2)));
        assert_eq!((head.bloom, head.base_fee), (None, None));
        let odd = read(&[("logsBloom", json!("0x00")), ("baseFeePerGas", json!([1]))]);
        assert_eq!((odd.bloom, odd.base_fee), (None, None));
        let null = read(&[("logsBloom", json!(null)), ("baseFeePerGas", json!(null))]);
        assert_eq!((null.bloom, null.base_fee), (None, None));
        let absurd = json!({
            "number": "0xffffffffffffffff", "hash": B256::ZERO, "parentHash": B256::ZERO,
        });
        let error = serde_json::from_value::<RawHead>(absurd).unwrap_err();
        assert!(error.to_string().contains("no chain has reached"), "B11: {error}");
        let full = read(&[("logsBloom", json!(Bloom::ZERO)), ("baseFeePerGas", json!("0x5"))]);
        assert_eq!((full.bloom, full.base_fee), (Some(Bloom::ZERO), Some(5)));
    }
}
