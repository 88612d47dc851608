//! The one GET of this room, and its way. A test may answer it in the same process: without a socket, whose
//! readiness a simulated world could not repeat.

use std::time::Duration;

use reqwest::header::HeaderMap;
use url::Url;

use super::HANDLES_AT_ONCE;
use super::bucket::Bucket;
use crate::proxy::Proxies;

/// Connecting, TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// The HTTP client this room needs, one per instance: no redirects, no decompression, no proxy but
/// these, and HTTP/1.1 only, because large bodies side by side on one HTTP/2 connection share its
/// window.
#[derive(Clone, Debug)]
pub struct BucketClient {
    client: reqwest::Client,
    proxies: Proxies,
}

impl BucketClient {
    pub fn new(mut tls: rustls::ClientConfig, proxies: &Proxies) -> Result<Self, reqwest::Error> {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let client = proxies
            .of_client(reqwest::Client::builder())
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
        Ok(Self { client, proxies: proxies.clone() })
    }

    pub(super) fn get(&self, url: Url) -> reqwest::RequestBuilder {
        self.client.get(url)
    }

    /// Host and port of the proxy on the way to this bucket.
    pub(super) fn proxy(&self, bucket: &Bucket) -> Option<String> {
        self.proxies.name_on_the_way(bucket.base())
    }
}

/// One that somebody made, which goes through no proxy.
impl From<reqwest::Client> for BucketClient {
    fn from(client: reqwest::Client) -> Self {
        Self { client, proxies: Proxies::default() }
    }
}

/// Who answers instead of the network.
#[cfg(test)]
pub(crate) type Answers = std::sync::Arc<
    dyn Fn(Url) -> futures_util::future::BoxFuture<'static, reqwest::Result<reqwest::Response>>
        + Send
        + Sync,
>;

pub(super) struct Http {
    pub(super) client: BucketClient,
    #[cfg(test)]
    pub(super) answers: Option<Answers>,
}

impl Http {
    pub(super) fn new(client: BucketClient) -> Self {
        Self {
            client,
            #[cfg(test)]
            answers: None,
        }
    }

    /// Until the headers of the response.
    pub(super) async fn get(
        &self,
        url: Url,
        headers: HeaderMap,
    ) -> reqwest::Result<reqwest::Response> {
        #[cfg(test)]
        if let Some(answers) = &self.answers {
            return answers(url).await;
        }
        self.client.get(url).headers(headers).send().await
    }
}

#[cfg(test)]
impl<B> super::Ciphertexts<B> {
    /// The same room with another network.
    pub(crate) fn answered_by(mut self, answers: Answers) -> Self {
        self.http.answers = Some(answers);
        self
    }
}
