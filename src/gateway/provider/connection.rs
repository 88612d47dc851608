//! One endpoint kept connected: the client everyone calls through, and the newest head.
//!
//! ```text
//! connect -> chain id checked -> subscribe newHeads (ws) or poll (http) -> lost -> connect …
//! ```
//!
//! A chain id is checked at every connection: behind one URL another chain may answer tomorrow.
//! Which of several endpoints is read from is decided elsewhere ([`super::endpoints`]).

use std::{fmt, sync::Arc, time::Duration};

use alloy::{
    primitives::{B256, Bloom, U64, U128},
    pubsub::{ConnectionHandle, PubSubConnect, Subscription},
    rpc::{client::RpcClient, json_rpc::RpcError as AlloyError},
    transports::{
        TransportError, TransportErrorKind, TransportResult,
        ws::{WebSocketConfig, WsBackend},
    },
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{client::IntoClientRequest, http::HeaderValue, http::header::AUTHORIZATION},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use super::{Head, NodeId, RpcError};
use crate::{
    backoff::Backoff,
    domain::{BlockRef, OutsideText},
    heart::Heart,
    proxy::Proxies,
    repeats::Repeats,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Over http, how often the head is asked for: the Gateway's block time.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// A subscription that has been silent for so long is checked by a call.
const SILENCE: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A single JSON-RPC message may carry a whole page of logs with large materials.
const MAX_MESSAGE: usize = 256 << 20;

/// Characters of a node's text that are looked at for secrets, and cut off behind.
const SCRUBBED: usize = 16 << 10;
/// Of a connection that is mostly idle. A large message has room made for it.
const READ_BUFFER: usize = 16 << 10;

/// Where a node is reached, and all its URL hides.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    host: Arc<str>,
    /// Parts of the URL that may be keys: never printed, not even when the node repeats them.
    secrets: Arc<[String]>,
    tls: Arc<rustls::ClientConfig>,
    http: reqwest::Client,
    proxies: Proxies,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.host).finish()
    }
}

impl Endpoint {
    /// `http` is used for http(s) URLs, `tls` for wss.
    #[must_use]
    pub fn new(url: Url, tls: Arc<rustls::ClientConfig>, http: reqwest::Client) -> Self {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", url.host_str().unwrap_or("?")).into();
        let mut secrets: Vec<String> =
            url.path_segments().into_iter().flatten().map(str::to_owned).collect();
        secrets.extend(url.query().map(str::to_owned));
        secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
        secrets.push(url.username().to_owned());
        secrets.extend(url.password().map(str::to_owned));
        // User and password again, as they stand in the request's header.
        let header = alloy::transports::Authorization::extract_from_url(&url);
        let header = header.map(|header| header.to_string());
        secrets.extend(header.and_then(|text| Some(text.split_once(' ')?.1.to_owned())));
        secrets.retain(|secret| secret.len() >= 6);
        let proxies = Proxies::default();
        Self { url, host, secrets: secrets.into(), tls, http, proxies }
    }

    /// A WebSocket goes through these; `http` knows its own way.
    #[must_use]
    pub fn through(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    fn is_websocket(&self) -> bool {
        matches!(self.url.scheme(), "ws" | "wss")
    }

    /// Translates the library's error, without what the URL hides.
    pub(super) fn explain(&self, error: TransportError) -> RpcError {
        let host = self.host.to_string();
        match error {
            AlloyError::ErrorResp(packet) => RpcError::Refused {
                host,
                code: packet.code,
                message: self.scrub(&packet.message),
                data: packet.as_revert_data(),
            },
            AlloyError::Transport(kind) => {
                RpcError::Unavailable { host, what: self.describe(&kind) }
            }
            AlloyError::NullResp => {
                RpcError::Unreadable { host, what: "null where a value was due".into() }
            }
            AlloyError::DeserError { err, .. } => {
                RpcError::Unreadable { host, what: self.scrub(&err.to_string()) }
            }
            AlloyError::SerError(error) => {
                RpcError::Unreadable { host, what: self.scrub(&error.to_string()) }
            }
            AlloyError::UnsupportedFeature(what) => {
                RpcError::Unreadable { host, what: what.into() }
            }
            AlloyError::LocalUsageError(error) => {
                RpcError::Unreadable { host, what: self.scrub(&error.to_string()) }
            }
        }
    }

    fn describe(&self, kind: &TransportErrorKind) -> OutsideText {
        if let Some(http) = kind.as_http_error() {
            // The body is the node's or a proxy's: it may repeat the key it did not like.
            return format!("HTTP status {}", http.status).into();
        }
        match kind {
            TransportErrorKind::BackendGone => "connection lost".into(),
            TransportErrorKind::Custom(error) | TransportErrorKind::NonRetryable(error) => {
                let text = match error.downcast_ref::<reqwest::Error>() {
                    Some(error) => source_chain(error),
                    None => error.to_string(),
                };
                self.scrub(&text)
            }
            TransportErrorKind::MissingBatchResponse(_) => "a batch was answered in part".into(),
            TransportErrorKind::PubsubUnavailable
            | TransportErrorKind::HttpError(_)
            | TransportErrorKind::HttpErrorWithRetryAfter { .. }
            | _ => self.scrub(&kind.to_string()),
        }
    }

    /// What the node says, without what the URL hides.
    fn scrub(&self, text: &str) -> OutsideText {
        // Far more than is kept: no secret is cut in two where anybody sees it.
        let end = text.char_indices().nth(SCRUBBED).map_or(text.len(), |(end, _)| end);
        let mut text = text[..end].to_owned();
        for secret in self.secrets.iter() {
            text = text.replace(secret.as_str(), "***");
        }
        text.into()
    }

    async fn connect(&self) -> Result<RpcClient, RpcError> {
        let connecting = async {
            if self.is_websocket() {
                RpcClient::connect_pubsub(Socket(self.clone())).await
            } else {
                Ok(RpcClient::new_http_with_client(self.http.clone(), self.url.clone()))
            }
        };
        match timeout(CONNECT_DEADLINE, connecting).await {
            Ok(connected) => connected.map_err(|error| self.explain(error)),
            Err(_) => Err(RpcError::Unavailable {
                host: self.host.to_string(),
                what: format!("no connection within {CONNECT_DEADLINE:?}").into(),
            }),
        }
    }
}

/// The causes of an HTTP client error without its first line, which holds the URL.
fn source_chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "timed out" } else { "request failed" }.to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The library's connector with our TLS roots, and without its silent reconnect.
struct Socket(Endpoint);

impl PubSubConnect for Socket {
    fn is_local(&self) -> bool {
        false
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        let stream = open_socket(&self.0).await.map_err(TransportErrorKind::custom)?;
        let (handle, interface) = ConnectionHandle::new();
        WsBackend::from_socket(stream, interface, KEEPALIVE).spawn();
        Ok(handle)
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str("connection lost"))
    }
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("{0}")]
    Tcp(#[from] std::io::Error),
    #[error("{0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    #[error("user name or password cannot be sent as a header")]
    Authorization,
}

async fn open_socket(endpoint: &Endpoint) -> Result<Stream, OpenError> {
    let mut url = endpoint.url.clone();
    let authorization = alloy::transports::Authorization::extract_from_url(&url);
    // Userinfo is sent as a header, never as part of the request line. Cannot fail: ws has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut request = url.as_str().into_client_request().map_err(Box::new)?;
    if let Some(authorization) = authorization {
        let mut value = HeaderValue::from_str(&authorization.to_string())
            .map_err(|_| OpenError::Authorization)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let tcp = endpoint.proxies.connect(&url).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let connector = (url.scheme() == "wss").then(|| Connector::Rustls(endpoint.tls.clone()));
    let (stream, _) =
        tokio_tungstenite::client_async_tls_with_config(request, tcp, Some(config), connector)
            .await
            .map_err(Box::new)?;
    Ok(stream)
}

/// The header fields the connector needs, as `newHeads` and `eth_getBlockBy…` spell them. What it can
/// do without may be missing, or of a form that nobody can read.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawHead {
    number: U64,
    hash: B256,
    parent_hash: B256,
    #[serde(default, deserialize_with = "if_readable")]
    logs_bloom: Option<Bloom>,
    #[serde(default, deserialize_with = "if_readable")]
    base_fee_per_gas: Option<U128>,
}

fn if_readable<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

impl RawHead {
    pub(super) fn into_head(self, connection: u64, by: NodeId) -> Head {
        Head {
            block: BlockRef { number: self.number.to(), hash: self.hash },
            parent: self.parent_hash,
            bloom: self.logs_bloom,
            base_fee: self.base_fee_per_gas.map(|fee| fee.to()),
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
    Up(RpcClient),
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
        let client = match self.endpoint.connect().await {
            Ok(client) => client,
            Err(error) => return error,
        };
        self.connections += 1;
        let followed = if self.endpoint.is_websocket() {
            self.follow_subscription(client, pause).await
        } else {
            self.follow_by_polling(client, pause).await
        };
        match followed {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow_subscription(
        &self,
        client: RpcClient,
        pause: &mut Backoff,
    ) -> Result<std::convert::Infallible, RpcError> {
        let subscribing = async {
            let mut call = client.request::<_, B256>("eth_subscribe", ("newHeads",));
            call.set_is_subscription();
            call.await
        };
        let id = self.within_deadline("eth_subscribe", subscribing).await?;
        let mut heads = client.get_subscription::<RawHead>(id).await;
        self.announce(&client, pause).await?;
        loop {
            self.heart.beat().await;
            let head = tokio::select! {
                biased;
                head = heads.recv() => Some(head),
                () = sleep(SILENCE) => None,
                () = self.outlet.doubt.notified() => None,
            };
            let Some(head) = head else {
                self.check_silence(&client, &heads).await?;
                continue;
            };
            match head {
                Ok(head) => self.publish(head),
                // Slow reading lost some heads: the next one shows the gap, which is then filled.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                    return Err(self.unavailable("connection lost"));
                }
            }
        }
    }

    /// A silent subscription over a living connection is a dead subscription.
    async fn check_silence(
        &self,
        client: &RpcClient,
        heads: &Subscription<RawHead>,
    ) -> Result<(), RpcError> {
        let known = self.outlet.heads.borrow().map(|head| head.block);
        let latest = self.latest(client).await?;
        let missed = known.is_some_and(|known| latest.number.to::<u64>() > known.number + 1);
        // It may have spoken meanwhile.
        if missed && heads.is_empty() {
            self.publish(latest);
            return Err(self.unavailable("the head subscription went silent"));
        }
        self.publish(latest);
        Ok(())
    }

    async fn follow_by_polling(
        &self,
        client: RpcClient,
        pause: &mut Backoff,
    ) -> Result<std::convert::Infallible, RpcError> {
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
    async fn announce(&self, client: &RpcClient, pause: &mut Backoff) -> Result<(), RpcError> {
        let asking = async { client.request::<_, U64>("eth_chainId", ()).await };
        let found = self.within_deadline("eth_chainId", asking).await?.to::<u64>();
        if found != self.chain_id {
            return Err(RpcError::WrongChain {
                host: self.endpoint.host.to_string(),
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

    async fn latest(&self, client: &RpcClient) -> Result<RawHead, RpcError> {
        let asking =
            async { client.request::<_, RawHead>("eth_getBlockByNumber", ("latest", false)).await };
        self.within_deadline("eth_getBlockByNumber", asking).await
    }

    async fn within_deadline<T>(
        &self,
        method: &str,
        call: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, RpcError> {
        match timeout(super::CALL_DEADLINE, call).await {
            Ok(answer) => answer.map_err(|error| self.endpoint.explain(error)),
            Err(_) => Err(self.unavailable(format!("{method} timed out"))),
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

    fn unavailable(&self, what: impl Into<OutsideText>) -> RpcError {
        RpcError::Unavailable { host: self.endpoint.host.to_string(), what: what.into() }
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
        let full = read(&[("logsBloom", json!(Bloom::ZERO)), ("baseFeePerGas", json!("0x5"))]);
        assert_eq!((full.bloom, full.base_fee), (Some(Bloom::ZERO), Some(5)));
    }
}
