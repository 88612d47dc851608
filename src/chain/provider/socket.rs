//! JSON-RPC over a WebSocket: a single connection, run to its end by its owner. There is no reconnect
//! here: a lost connection ends with a reason.
//!
//! ```text
//! handle --calls--> write -----> node
//!   ^                             │ answers (by id), heads
//!   └────────── pending <──read───┴──> newest head
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{
        self, Message as Frame,
        client::IntoClientRequest,
        error::CapacityError,
        http::{HeaderValue, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};

use super::{
    endpoint::Endpoint,
    exchange_error::ExchangeError,
    head::RawHead,
    http::{self, ResponseBody, RetryLater},
    message::{self, Message},
    response_limits::{self, ResponseBudget, SMALL},
};
use crate::net::tls;

/// After this time without data the node is pinged; after as long again the connection counts as lost.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Buffer of an idle connection; large messages get more.
const READ_BUFFER: usize = 16 << 10;
/// Calls that wait to be written.
const OUTGOING_QUEUE: usize = 256;
/// Upper bound of a head notification, in bytes.
const LARGEST_HEAD: usize = 1 << 20;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0}")]
    Tcp(#[from] std::io::Error),
    #[error("{0}")]
    WebSocket(#[from] Box<tungstenite::Error>),
    #[error("user name or password cannot be sent as a header")]
    Authorization,
}

impl OpenError {
    /// The handshake error as a transport failure: an HTTP status of the node or a proxy, or no answer.
    pub(super) fn exchange_error(&self) -> ExchangeError {
        if let Self::WebSocket(error) = self
            && let tungstenite::Error::Http(answer) = &**error
        {
            let status = answer.status().as_u16();
            if let Some(RetryLater { retry_after: back_in }) =
                http::retry_hint(status, answer.headers())
            {
                return ExchangeError::RetryLater { status, retry_after: back_in, message: None };
            }
            return ExchangeError::Status(status);
        }
        ExchangeError::NoAnswer(format!("{self}{}", tls::advice(self)))
    }
}

/// A call to be written.
#[derive(Debug)]
struct OutgoingCall {
    id: u64,
    question: String,
    pending: PendingReply,
}

#[derive(Debug)]
struct PendingReply {
    bound: usize,
    reply: oneshot::Sender<Result<ResponseBody, ExchangeError>>,
}

/// State shared by both ends of the connection.
#[derive(Debug, Default)]
struct SocketState {
    pending: Mutex<HashMap<u64, PendingReply>>,
    /// Why the connection ended.
    ended: OnceLock<String>,
    /// Data arrived.
    alive: Notify,
}

impl SocketState {
    /// Sets the reason; the first one stays. Pending calls fail.
    fn end(&self, why: &str) {
        let _ = self.ended.set(why.to_owned());
        self.pending().clear();
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, PendingReply>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The callers' end. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct SocketHandle {
    calls: mpsc::Sender<OutgoingCall>,
    state: Arc<SocketState>,
}

impl SocketHandle {
    /// `bound`: the largest answer that is accepted, in bytes.
    pub(super) async fn exchange(
        &self,
        id: u64,
        question: String,
        bound: usize,
    ) -> Result<ResponseBody, ExchangeError> {
        let (reply, answer) = oneshot::channel();
        let order = OutgoingCall { id, question, pending: PendingReply { bound, reply } };
        if self.calls.send(order).await.is_err() {
            return Err(self.lost());
        }
        answer.await.unwrap_or_else(|_| Err(self.lost()))
    }

    fn lost(&self) -> ExchangeError {
        let why = self.state.ended.get().cloned();
        ExchangeError::NoAnswer(why.unwrap_or_else(|| "connection lost".to_owned()))
    }
}

/// The connection. Nothing is written or read unless it runs.
pub(super) struct Socket {
    stream: Stream,
    calls: mpsc::Receiver<OutgoingCall>,
    state: Arc<SocketState>,
    heads: watch::Sender<Option<RawHead>>,
    room: ResponseBudget,
}

/// Opens a connection: the callers' end, the newest head of a subscription, and the task to run.
pub(super) async fn open(
    endpoint: &Endpoint,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<(SocketHandle, watch::Receiver<Option<RawHead>>, Socket), OpenError> {
    let stream = open_stream(endpoint, tls).await?;
    let (orders, taken) = mpsc::channel(OUTGOING_QUEUE);
    let (told, heads) = watch::channel(None);
    let shared = Arc::<SocketState>::default();
    let line = SocketHandle { calls: orders, state: shared.clone() };
    let room = endpoint.budget().clone();
    Ok((line, heads, Socket { stream, calls: taken, state: shared, heads: told, room }))
}

async fn open_stream(
    endpoint: &Endpoint,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<Stream, OpenError> {
    let mut url = endpoint.url().clone();
    let authorization = alloy::transports::Authorization::extract_from_url(&url);
    // Userinfo is sent as a header, never in the request line. Cannot fail: ws URLs have a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut request = url.as_str().into_client_request().map_err(Box::new)?;
    if let Some(authorization) = authorization {
        let mut value = HeaderValue::from_str(&authorization.to_string())
            .map_err(|_| OpenError::Authorization)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let tcp = endpoint.proxies().connect(&url).await?;
    tcp.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(response_limits::LARGEST))
        .max_frame_size(Some(response_limits::LARGEST));
    let connector = (url.scheme() == "wss").then(|| Connector::Rustls(tls.clone()));
    let (stream, _) =
        tokio_tungstenite::client_async_tls_with_config(request, tcp, Some(config), connector)
            .await
            .map_err(Box::new)?;
    Ok(stream)
}

impl Socket {
    /// Runs until the connection ends and returns the reason, which pending calls get, too.
    pub(super) async fn run(self) -> String {
        let Self { stream, calls: mut orders, state: shared, heads, room } = self;
        let shared = EndOnDrop(shared);
        let (sink, source) = stream.split();
        let why = tokio::select! {
            why = write(sink, &mut orders, &shared.0) => why,
            why = read(source, &shared.0, &heads, &room) => why,
        };
        shared.0.end(&why);
        why
    }
}

/// Ends the connection's state when dropped.
struct EndOnDrop(Arc<SocketState>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end("connection lost");
    }
}

async fn write(
    mut sink: SplitSink<Stream, Frame>,
    orders: &mut mpsc::Receiver<OutgoingCall>,
    shared: &SocketState,
) -> String {
    let mut tick = interval(KEEPALIVE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let mut asked = false;
    loop {
        let frame = tokio::select! {
            order = orders.recv() => {
                let Some(OutgoingCall { id, question, pending }) = order else {
                    return "the connection is no longer used".to_owned();
                };
                shared.pending().insert(id, pending);
                Frame::text(question)
            }
            () = shared.alive.notified() => {
                asked = false;
                tick.reset();
                continue;
            }
            _ = tick.tick() => {
                // Forgets callers that stopped waiting.
                shared.pending().retain(|_, pending| !pending.reply.is_closed());
                if asked {
                    return format!("no sign of life for {} s", 2 * KEEPALIVE.as_secs());
                }
                asked = true;
                Frame::Ping(bytes::Bytes::new())
            }
        };
        if let Err(error) = sink.send(frame).await {
            return error.to_string();
        }
    }
}

async fn read(
    mut source: SplitStream<Stream>,
    shared: &SocketState,
    heads: &watch::Sender<Option<RawHead>>,
    room: &ResponseBudget,
) -> String {
    loop {
        let frame = match source.next().await {
            Some(Ok(frame)) => frame,
            Some(Err(tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }))) => {
                return format!(
                    "a message of more than {} MiB came",
                    response_limits::LARGEST >> 20
                );
            }
            Some(Err(error)) => return error.to_string(),
            None => return "connection lost".to_owned(),
        };
        shared.alive.notify_one();
        let text = match frame {
            Frame::Text(text) => bytes::Bytes::from(text),
            Frame::Close(_) => return "the node closed the connection".to_owned(),
            Frame::Binary(_) => return "a binary message came".to_owned(),
            Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => continue,
        };
        let (id, is_head) = match message::read(&text) {
            Ok(Message::Single(answer)) => (answer.id, false),
            Ok(Message::Notification(head)) => {
                if head.get().len() <= LARGEST_HEAD
                    && let Ok(head) = serde_json::from_str(head.get())
                {
                    heads.send_replace(Some(head));
                }
                (None, true)
            }
            // Batches are never sent here.
            Ok(Message::Batch(_)) => (None, false),
            Err(what) => return format!("an unreadable message came: {what}"),
        };
        let asked = id.and_then(|id| shared.pending().remove(&id)).filter(|_| !is_head);
        // The caller stopped waiting, or there was none.
        let Some(PendingReply { bound, reply }) = asked else { continue };
        let answer = if text.len() > bound {
            Err(ExchangeError::TooLarge(bound))
        } else {
            // It is already in memory; the next message waits until there is room.
            let place =
                if text.len() > SMALL { Some(room.reserve(text.len()).await) } else { None };
            Ok(ResponseBody::new(text, place))
        };
        // The caller may be gone.
        let _ = reply.send(answer);
    }
}
