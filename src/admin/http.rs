//! The HTTP listener of the process. It is read-only: [`routes`] builds every response, and a client
//! can change nothing and delay only its own connection.
//!
//! Every connection is accepted; where no place is free, the oldest connection of the network with
//! the most connections is closed ([`connection_limit`]). A connection carries one request and one response,
//! each within a deadline: no client keeps a place by being silent, by repeating requests, or by
//! not reading. `/livez` needs no place.
//!
//! [`connection_limit`]: crate::net::connection_limit

pub mod routes;
mod hosts;
mod page;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::hosts::Hosts;
use super::snapshot::SnapshotReceiver;
use crate::net::connection_limit::{ConnectionLimit, ConnectionPermit, MaxConnections};

/// Connections that have not sent a request yet, and those that are being answered.
const CONNECTION_LIMITS: MaxConnections = MaxConnections { silent: 128, served: 64 };
/// Pause after a failed accept (for example too many open files), to avoid a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for an address in use: a process that was just killed may still hold it.
const IN_USE_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two attempts to bind it.
const BIND_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The deadlines of a client.
#[derive(Clone, Copy, Debug)]
struct ClientDeadlines {
    /// To send its request.
    request: Duration,
    /// To have read the response, from the beginning of the connection.
    whole: Duration,
}

const CLIENT_DEADLINES: ClientDeadlines =
    ClientDeadlines { request: Duration::from_secs(5), whole: Duration::from_secs(15) };

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {cause}; choose another address with --listen or \
     KMS_CONNECTOR_LISTEN, or none"
)]
pub struct BindError {
    address: SocketAddr,
    cause: io::Error,
}

/// A bound listener.
#[derive(Debug)]
pub struct HttpListener {
    listener: TcpListener,
    address: SocketAddr,
    hosts: Hosts,
    deadlines: ClientDeadlines,
}

impl HttpListener {
    /// Binds the address; port 0 lets the system choose. `names`: host names that browsers may use,
    /// besides private ones.
    pub async fn bind(address: SocketAddr, names: Vec<String>) -> Result<Self, BindError> {
        let bound = async {
            let listener = listen(address).await?;
            let address = listener.local_addr()?;
            let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let hosts = Hosts::new(names.into_iter().chain([machine]));
            Ok(Self { listener, address, hosts, deadlines: CLIENT_DEADLINES })
        };
        bound.await.map_err(|cause| BindError { address, cause })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn serve(self, view: SnapshotReceiver, stop: CancellationToken) {
        let Self { listener, hosts, deadlines: patience, .. } = self;
        let crowd = ConnectionLimit::new(CONNECTION_LIMITS);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let place = crowd.admit(network_of(peer.ip()));
                        connections.spawn(serve_connection(stream, place, view.clone(), hosts.clone(), patience));
                    }
                    Err(error) => {
                        warn!(%error, "cannot take an HTTP connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + IN_USE_LIMIT;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(BIND_RETRY_INTERVAL).await;
            }
            bound => return bound,
        }
    }
}

/// The address, or the /64 of an IPv6 address: one host can use all of its /64.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

async fn serve_connection(
    stream: TcpStream,
    place: ConnectionPermit<IpAddr>,
    view: SnapshotReceiver,
    hosts: Hosts,
    patience: ClientDeadlines,
) {
    let answering = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let (path, query) = (request.uri().path(), request.uri().query());
        let answer = if path == routes::LIVEZ {
            routes::livez(request.method())
        } else if hosts.allows(request.uri(), request.headers()) {
            place.mark_served();
            let shown = view.borrow().clone();
            routes::route(request.method(), path, query, &shown)
        } else {
            routes::misdirected()
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.request)
            .max_buf_size(16 << 10)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answering)
    );
    tokio::select! {
        served = timeout(patience.whole, connection) => match served {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "an HTTP client did not behave"),
            Err(_) => debug!("an HTTP client does not read its answer"),
        },
        () = place.evicted() => debug!("an HTTP client has to leave: newer ones need its place"),
    }
}
