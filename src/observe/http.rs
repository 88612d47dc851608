//! The HTTP listener of the process. It is read-only: [`answers`] builds every response, and no
//! client can change anything or make anything wait except its own connection.
//!
//! Every connection is accepted; where no place is free, the oldest connection of the network with
//! the most connections is closed ([`crowd`]). A connection carries one request and one response,
//! each within a deadline: no client keeps a place by being silent, by repeating requests, or by
//! not reading. `/livez` needs no place.
//!
//! [`crowd`]: crate::crowd

pub mod answers;
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
use super::board::View;
use crate::crowd::{Crowd, Most, Place};

/// Connections that have not sent a request yet, and those that are being answered.
const PLACES: Most = Most { silent: 128, served: 64 };
/// Pause after a failed accept (for example too many open files), to avoid a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// How long to wait for an address in use: a process that was just killed may still hold it.
const TAKEN_FOR: Duration = Duration::from_secs(3);
/// Pause between two attempts to bind it.
const TRIED_EVERY: Duration = Duration::from_millis(100);

/// The deadlines of a client.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// To send its request.
    question: Duration,
    /// To have read the response, from the beginning of the connection.
    whole: Duration,
}

const PATIENCE: Patience =
    Patience { question: Duration::from_secs(5), whole: Duration::from_secs(15) };

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
pub struct Http {
    listener: TcpListener,
    address: SocketAddr,
    hosts: Hosts,
    patience: Patience,
}

impl Http {
    /// Binds the address; port 0 lets the system choose. `names`: host names that browsers may use,
    /// besides private ones.
    pub async fn bind(address: SocketAddr, names: Vec<String>) -> Result<Self, BindError> {
        let bound = async {
            let listener = listen(address).await?;
            let address = listener.local_addr()?;
            let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let hosts = Hosts::new(names.into_iter().chain([machine]));
            Ok(Self { listener, address, hosts, patience: PATIENCE })
        };
        bound.await.map_err(|cause| BindError { address, cause })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn serve(self, view: View, stop: CancellationToken) {
        let Self { listener, hosts, patience, .. } = self;
        let crowd = Crowd::new(PLACES);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let place = crowd.enter(network(peer.ip()));
                        connections.spawn(talk(stream, place, view.clone(), hosts.clone(), patience));
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
    let until = Instant::now() + TAKEN_FOR;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(TRIED_EVERY).await;
            }
            bound => return bound,
        }
    }
}

/// The address, or the /64 of an IPv6 address: one host can use all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

async fn talk(
    stream: TcpStream,
    place: Place<IpAddr>,
    view: View,
    hosts: Hosts,
    patience: Patience,
) {
    let answering = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let (path, query) = (request.uri().path(), request.uri().query());
        let answer = if path == answers::LIVEZ {
            answers::alive(request.method())
        } else if hosts.let_in(request.uri(), request.headers()) {
            place.serve();
            let shown = view.borrow().clone();
            answers::answer(request.method(), path, query, &shown)
        } else {
            answers::misdirected()
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.question)
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
        () = place.wanted() => debug!("an HTTP client has to leave: newer ones need its place"),
    }
}
