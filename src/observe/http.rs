//! The one HTTP listener of a process. It only shows: what it answers stands in [`answers`], and
//! nothing that a client does changes anything or waits for anything but its own connection.

pub mod answers;
mod page;

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::board::View;

/// Connections served at the same time; more wait in the kernel until one of them is done.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may last: who follows connects again.
const CONNECTION_LASTS: Duration = Duration::from_mins(1);
/// And an answer that is under way then.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept (no more files): not in a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

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
}

impl Http {
    /// Port 0 lets the system choose.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
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
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < MOST_CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(talk(stream, view.clone()));
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
}

async fn talk(stream: TcpStream, view: View) {
    let answering = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let shown = view.borrow().clone();
        async move {
            let (path, query) = (request.uri().path(), request.uri().query());
            Ok::<_, Infallible>(answers::answer(request.method(), path, query, &shown))
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_DEADLINE)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), answering)
    );
    let mut served = timeout(CONNECTION_LASTS, connection.as_mut()).await;
    if served.is_err() {
        connection.as_mut().graceful_shutdown();
        served = timeout(LAST_ANSWER_WITHIN, connection).await;
    }
    if let Ok(Err(error)) = served {
        debug!(%error, "an HTTP client did not behave");
    }
}
