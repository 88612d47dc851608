//! The node behind one WebSocket: calls, their answers, and the logs of one subscription.
//!
//! One future owns the socket ([`Socket::run`]); whoever holds a [`Node`] calls through it. A message
//! is read in one pass into what is needed of it.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
};

use alloy::primitives::U64;
use futures_util::{SinkExt as _, StreamExt as _};
use kms_connector::domain::{B256, BlockRef, Bytes, Event};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use url::Url;

use crate::{Error, Result};

/// Calls that wait to be written; a full queue makes callers wait.
const CALLS: usize = 1024;
/// Logs that nobody has taken yet. More than that is an error: nothing is lost in silence.
const LOGS: usize = 65_536;
/// A long backlog comes as one message.
const MAX_MESSAGE: usize = 256 << 20;

/// A handle for calls.
#[derive(Debug)]
pub struct Node {
    calls: mpsc::Sender<Call>,
    last_id: AtomicU64,
}

/// A call on its way out.
#[derive(Debug)]
struct Call {
    id: u64,
    text: String,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<String>>;

/// The answer to a call that was handed to the socket.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<String>>);

impl Pending {
    pub async fn result<T: DeserializeOwned>(self) -> Result<T> {
        let text = self.0.await.map_err(|_| "the connection has ended")??;
        Ok(serde_json::from_str(&text)?)
    }
}

#[derive(Serialize)]
struct Outgoing<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'static str,
    params: &'a P,
}

impl Node {
    /// Hands a call over. Calls go out in the order in which this returns.
    pub async fn hand_over(
        &self,
        method: &'static str,
        params: &impl Serialize,
    ) -> Result<Pending> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let text = serde_json::to_string(&Outgoing { jsonrpc: "2.0", id, method, params })?;
        let (reply, answer) = oneshot::channel();
        let call = Call { id, text, reply };
        self.calls.send(call).await.map_err(|_| "the connection has ended")?;
        Ok(Pending(answer))
    }

    /// A call and its answer.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl Serialize,
    ) -> Result<T> {
        self.hand_over(method, params).await?.result().await
    }
}

/// A log as the node writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    topics: Vec<B256>,
    data: Bytes,
    block_number: U64,
    block_hash: B256,
    transaction_hash: B256,
    #[serde(rename = "logIndex")]
    index: U64,
}

impl From<Log> for Event {
    fn from(log: Log) -> Self {
        Self {
            block: BlockRef { number: log.block_number.to(), hash: log.block_hash },
            transaction: log.transaction_hash,
            log_index: log.index.to(),
            topics: log.topics,
            data: log.data,
        }
    }
}

/// What comes in: an answer, or a log of the one subscription.
#[derive(Deserialize)]
struct Incoming<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<NodeError>,
    params: Option<Notification>,
}

#[derive(Deserialize)]
struct Notification {
    result: Log,
}

#[derive(Debug, Deserialize)]
struct NodeError {
    code: i64,
    message: String,
}

/// The connection.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    calls: mpsc::Receiver<Call>,
    waiting: HashMap<u64, Reply>,
    logs: mpsc::Sender<Event>,
}

/// Connects. Nothing is written or read before the socket runs.
pub async fn connect(url: &Url) -> Result<(Node, mpsc::Receiver<Event>, Socket)> {
    if url.scheme() != "ws" {
        return Err("the responder needs a gateway_url that begins with ws://".into());
    }
    let addresses = url.socket_addrs(|| None)?;
    let tcp = TcpStream::connect(addresses.as_slice()).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let (stream, _response) = client_async_with_config(url.as_str(), tcp, Some(config)).await?;
    let (to_socket, calls) = mpsc::channel(CALLS);
    let (logs, events) = mpsc::channel(LOGS);
    let node = Node { calls: to_socket, last_id: AtomicU64::new(0) };
    Ok((node, events, Socket { stream, calls, waiting: HashMap::new(), logs }))
}

impl Socket {
    /// Reads and writes until the connection ends, which nobody mends.
    pub async fn run(mut self) -> Result<Infallible> {
        loop {
            tokio::select! {
                message = self.stream.next() => match message {
                    Some(Ok(Message::Text(text))) => self.take_in(&text)?,
                    Some(Ok(Message::Close(_))) | None => return Err("the node hung up".into()),
                    // Pings are answered by the library.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                },
                Some(call) = self.calls.recv() => {
                    self.write(call).await?;
                    // All that waits goes out in one piece.
                    while let Ok(call) = self.calls.try_recv() {
                        self.write(call).await?;
                    }
                    self.stream.flush().await?;
                }
            }
        }
    }

    async fn write(&mut self, call: Call) -> Result<()> {
        self.waiting.insert(call.id, call.reply);
        Ok(self.stream.feed(Message::text(call.text)).await?)
    }

    fn take_in(&mut self, text: &str) -> Result<()> {
        let Incoming { id, result, error, params } = serde_json::from_str(text)?;
        if let Some(Notification { result }) = params {
            return self.logs.try_send(result.into()).map_err(|_| "too many logs wait".into());
        }
        let Some(reply) = id.and_then(|id| self.waiting.remove(&id)) else { return Ok(()) };
        let answer = match (result, error) {
            (Some(result), None) => Ok(result.get().to_owned()),
            (_, Some(error)) => Err(refused(&error)),
            (None, None) => Err("the node answered nothing".into()),
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
        Ok(())
    }
}

fn refused(error: &NodeError) -> Error {
    format!("the node refuses ({}): {}", error.code, error.message).into()
}
