//! The lines to one Core: one for asks, whose messages are large, and as many for polls as there are
//! polls to carry. All replies share one room.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::transport::Endpoint;
use url::Url;

use super::{
    line::{Line, Way},
    reply::Room,
};
use crate::tls::TlsRoots;

/// Polls one connection carries before the next one is opened.
const POLLS_PER_CONNECTION: usize = 100;
const POLL_CONNECTIONS: usize = 16;

/// What the Core may send before it is read: of one reply, and of all on a connection. With replies
/// that nobody reads, because there is no room for them, this much lies here.
const REPLY_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Why `kms_core_endpoint` cannot be used. Names no part of the URL: it may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("kms_core_endpoint must begin with http:// or https://")]
    Scheme,
    #[error("kms_core_endpoint names no host")]
    Host,
    #[error("kms_core_endpoint cannot be used: {0}")]
    Unusable(#[source] tonic::transport::Error),
}

/// Clones share the connections.
#[derive(Clone)]
pub(super) struct Lines {
    asks: Line,
    polls: Arc<[Connection]>,
    way: Arc<dyn Fn() -> Way + Send + Sync>,
    room: Room,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("polls", &self.polls).finish_non_exhaustive()
    }
}

/// One connection for polls, and how many it carries.
#[derive(Debug, Default)]
struct Connection {
    /// Made when it is needed first: an idle instance has none.
    line: OnceLock<Line>,
    polls: AtomicUsize,
}

/// One poll's place on a connection, given back on drop.
pub(super) struct Place<'a>(&'a Connection);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.polls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lines {
    /// They connect when they are used first, and again whenever a connection is lost.
    pub fn to(url: &Url, roots: &TlsRoots, connect: Duration) -> Result<Self, EndpointError> {
        let endpoint = prepare(url, roots, connect)?;
        Ok(Self::over(move || Way::Channel(endpoint.connect_lazy())))
    }

    pub fn over(way: impl Fn() -> Way + Send + Sync + 'static) -> Self {
        let room = Room::default();
        Self {
            asks: Line::new(way(), room.clone()),
            polls: std::iter::repeat_with(Connection::default).take(POLL_CONNECTIONS).collect(),
            way: Arc::new(way),
            room,
        }
    }

    pub fn for_asks(&self) -> Line {
        self.asks.clone()
    }

    /// A line with a place on it: the first connection with room, or the emptiest.
    pub fn for_poll(&self) -> (Line, Place<'_>) {
        let load = |connection: &&Connection| connection.polls.load(Ordering::Relaxed);
        let connection = self
            .polls
            .iter()
            .find(|connection| load(connection) < POLLS_PER_CONNECTION)
            .or_else(|| self.polls.iter().min_by_key(load))
            .expect("there is at least one connection");
        connection.polls.fetch_add(1, Ordering::Relaxed);
        let place = Place(connection);
        let line = connection.line.get_or_init(|| Line::new((self.way)(), self.room.clone()));
        (line.clone(), place)
    }
}

#[cfg(test)]
impl super::KmsCore {
    /// The client of a Core in the same process.
    pub(crate) fn in_process(
        call: &super::line::InProcess,
        domain: crate::domain::SigningDomain,
        options: super::Options,
        metrics: crate::metrics::Metrics,
    ) -> Self {
        let call = call.clone();
        let lines = Lines::over(move || Way::InProcess(call.clone()));
        Self::over(lines, "core", domain, options, metrics)
    }
}

fn prepare(url: &Url, roots: &TlsRoots, connect: Duration) -> Result<Endpoint, EndpointError> {
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(EndpointError::Scheme),
    };
    let host = url.host_str().ok_or(EndpointError::Host)?;
    let port = url.port_or_known_default().ok_or(EndpointError::Host)?;
    let endpoint = Endpoint::from_shared(format!("{}://{host}:{port}", url.scheme()))
        .map_err(EndpointError::Unusable)?
        .connect_timeout(connect)
        .tcp_nodelay(true)
        .initial_stream_window_size(REPLY_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A peer that vanished is noticed within 40 s instead of at the next answer that never
        // comes; also while idle, because proxies drop quiet connections without a word.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    if !secure {
        return Ok(endpoint);
    }
    endpoint.tls_config(roots.grpc_config()).map_err(EndpointError::Unusable)
}
