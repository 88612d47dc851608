//! How calls reach a Core: over the network, or over a carrier in its place (tests). Everything above is
//! the same in both cases: encoding, deadlines, bounds, the table of statuses, the check of signatures.

use std::{fmt, future::poll_fn, sync::Arc, time::Duration};

use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, StdError, http},
    transport::{Channel, Endpoint},
};
use url::Url;

use crate::{domain::CoreAddress, net::tls::TlsRoots};

/// Connecting, TLS handshake included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// HTTP/2 flow-control windows: what the Core may send before it is read, per stream and per connection.
/// It bounds the memory of replies that wait for room.
const REPLY_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Why `kms_core_endpoint` cannot be used. Contains no part of the URL, which may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("kms_core_endpoint must begin with http:// or https://")]
    Scheme,
    #[error("kms_core_endpoint names no host")]
    Host,
    #[error("kms_core_endpoint cannot be used: {0}")]
    Unusable(#[source] tonic::transport::Error),
}

/// Carries a call to the Core and returns its answer. An error is a lost connection: whether the Core
/// acted is unknown.
pub type GrpcService =
    Arc<dyn Fn(http::Request<Body>) -> BoxFuture<http::Response<Body>, StdError> + Send + Sync>;

/// Makes connections to one Core; each connects at its first call.
#[derive(Clone)]
pub struct Transport {
    address: CoreAddress,
    connect: Arc<dyn Fn() -> GrpcService + Send + Sync>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Transport {
    /// Over the network. Connects at the first call, and again after a loss. Only scheme, host and port
    /// of `url` are used.
    pub fn to(url: &Url, roots: &TlsRoots) -> Result<Self, EndpointError> {
        let (address, endpoint) = (CoreAddress::of(url), prepare(url, roots)?);
        Ok(Self { address, connect: Arc::new(move || network_service(endpoint.connect_lazy())) })
    }

    /// Over this carrier instead of the network.
    #[must_use]
    pub fn over(address: &str, carrier: GrpcService) -> Self {
        Self { address: address.into(), connect: Arc::new(move || carrier.clone()) }
    }

    pub(super) fn address(&self) -> &CoreAddress {
        &self.address
    }

    /// A new connection.
    pub(super) fn connect(&self) -> GrpcService {
        (self.connect)()
    }
}

fn network_service(channel: Channel) -> GrpcService {
    Arc::new(move |request| {
        let mut channel = channel.clone();
        Box::pin(async move {
            poll_fn(|context| channel.poll_ready(context)).await?;
            Ok(channel.call(request).await?)
        })
    })
}

fn prepare(url: &Url, roots: &TlsRoots) -> Result<Endpoint, EndpointError> {
    let secure = match url.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(EndpointError::Scheme),
    };
    let host = url.host_str().ok_or(EndpointError::Host)?;
    let port = url.port_or_known_default().ok_or(EndpointError::Host)?;
    let endpoint = Endpoint::from_shared(format!("{}://{host}:{port}", url.scheme()))
        .map_err(EndpointError::Unusable)?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .initial_stream_window_size(REPLY_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Notices a vanished peer within 40 s instead of never. Also while idle, because proxies drop
        // quiet connections silently.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    if !secure {
        return Ok(endpoint);
    }
    endpoint.tls_config(roots.grpc_config()).map_err(EndpointError::Unusable)
}
