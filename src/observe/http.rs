//! The one HTTP listener of a process. It only shows: what it answers stands in [`answers`], and
//! nothing that a client does changes anything or waits for anything but its own connection.
//!
//! Everybody is let in; where there is no place, the oldest of whoever has most leaves ([`crowd`]). A
//! connection is one question and one answer, each within a deadline: nobody keeps a place by being
//! silent, by asking on and on, or by not reading. `/livez` needs no place at all once it is asked.
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

/// Connections that have not said yet what they want, and those that are answered.
const PLACES: Most = Most { silent: 128, served: 64 };
/// After a failed accept (no more files): not in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// An address may be taken for a moment by a process that was killed.
const TAKEN_FOR: Duration = Duration::from_secs(3);
/// Between two tries to take it.
const TRIED_EVERY: Duration = Duration::from_millis(100);

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// To say what it wants.
    question: Duration,
    /// To have read the answer, from the beginning of the connection.
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
    /// Port 0 lets the system choose. Browsers may use `names`, beside those that are nobody else's.
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

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until told to stop.
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

/// Whoever has one address of a /64 has them all.
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
