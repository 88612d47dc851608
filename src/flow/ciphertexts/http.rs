//! The HTTP client for buckets, and the proxy on its way.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{Method, Response, header::HeaderMap};
use url::Url;

use super::HANDLES_AT_ONCE;
use super::bucket::Bucket;
use crate::net::proxy::Proxies;

/// Connecting, TLS handshake included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// A call without a body, with these headers. Completes with the response's headers.
pub type HttpCall = Arc<
    dyn Fn(Method, Url, HeaderMap) -> BoxFuture<'static, reqwest::Result<Response>> + Send + Sync,
>;

/// Sends all calls to buckets; one per instance. Cheap to clone.
#[derive(Clone)]
pub struct BucketClient {
    call: HttpCall,
    proxies: Proxies,
}

impl fmt::Debug for BucketClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketClient").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

impl BucketClient {
    /// The real client: no redirects, no decompression, no proxies but these. HTTP/1.1 only, because
    /// concurrent large bodies would share the flow-control window of one HTTP/2 connection.
    pub fn new(mut tls: rustls::ClientConfig, proxies: &Proxies) -> Result<Self, reqwest::Error> {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = proxies
            .apply_to(reqwest::Client::builder())
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("kms-connector/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(15))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(HANDLES_AT_ONCE)
            .build()?;
        let call = move |method, url, headers| -> BoxFuture<'static, reqwest::Result<Response>> {
            Box::pin(client.request(method, url).headers(headers).send())
        };
        Ok(Self { call: Arc::new(call), proxies: proxies.clone() })
    }

    /// A client that makes this call instead of one over the network, without proxies.
    #[must_use]
    pub fn with_transport(call: HttpCall) -> Self {
        Self { call, proxies: Proxies::default() }
    }

    pub(super) async fn get(&self, url: Url, headers: HeaderMap) -> reqwest::Result<Response> {
        (self.call)(Method::GET, url, headers).await
    }

    pub(super) async fn head(&self, url: Url) -> reqwest::Result<Response> {
        (self.call)(Method::HEAD, url, HeaderMap::new()).await
    }

    /// Host and port of the proxy on the way to this bucket.
    pub(super) fn proxy_for(&self, bucket: &Bucket) -> Option<String> {
        self.proxies.proxy_name_for(bucket.base())
    }
}
