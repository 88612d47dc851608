//! The address of a node, and what may be shown of it: URLs contain API keys, and a node may repeat what
//! it was sent.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::Instant;
use url::Url;

use super::{
    ChainRole, exchange_error::ExchangeError, http::RpcTransport, message::ErrorObject,
    rate_limit::RateLimitBackoff, response_limits::ResponseBudget,
};
use crate::{
    chain::{quirks, rpc_error::RpcError},
    domain::UntrustedText,
    net::proxy::Proxies,
};

/// A node's text is scrubbed of secrets up to this many characters and cut there.
const SCRUBBED_CHARS: usize = 16 << 10;

/// The address of a node, with everything its URL hides.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    host: Arc<str>,
    role: ChainRole,
    /// Parts of the URL that may be keys. Never printed, even if the node repeats them.
    secrets: Arc<[String]>,
    transport: EndpointTransport,
    proxies: Proxies,
    budget: ResponseBudget,
    rate_limit: Arc<Mutex<RateLimitBackoff>>,
}

/// How messages reach the node.
#[derive(Clone)]
pub(super) enum EndpointTransport {
    /// `http` for http(s) URLs, `tls` for wss.
    Network {
        tls: Arc<rustls::ClientConfig>,
        http: reqwest::Client,
    },
    Custom(RpcTransport),
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.host).finish()
    }
}

impl Endpoint {
    /// `http` is used for http(s) URLs, `tls` for wss.
    #[must_use]
    pub fn new(url: Url, tls: Arc<rustls::ClientConfig>, http: reqwest::Client) -> Self {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", url.host_str().unwrap_or("?")).into();
        let mut secrets: Vec<String> =
            url.path_segments().into_iter().flatten().map(str::to_owned).collect();
        secrets.extend(url.query().map(str::to_owned));
        secrets.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
        secrets.push(url.username().to_owned());
        secrets.extend(url.password().map(str::to_owned));
        // User and password again, as encoded in the request header.
        let header = alloy::transports::Authorization::extract_from_url(&url);
        let header = header.map(|header| header.to_string());
        secrets.extend(header.and_then(|text| Some(text.split_once(' ')?.1.to_owned())));
        secrets.retain(|secret| secret.len() >= 6);
        let (proxies, budget, rate_limit) =
            (Proxies::default(), ResponseBudget::new(), Arc::default());
        let transport = EndpointTransport::Network { tls, http };
        let (role, secrets) = (ChainRole::default(), secrets.into());
        Self { url, host, role, secrets, transport, proxies, budget, rate_limit }
    }

    /// A node reached through this carrier instead of the network.
    #[must_use]
    pub fn with_transport(host: &str, carrier: RpcTransport) -> Self {
        Self {
            url: format!("http://{host}").parse().expect("a host makes a URL"),
            host: host.into(),
            role: ChainRole::default(),
            secrets: Arc::default(),
            transport: EndpointTransport::Custom(carrier),
            proxies: Proxies::default(),
            budget: ResponseBudget::new(),
            rate_limit: Arc::default(),
        }
    }

    /// Sends a WebSocket through these proxies; `http` has its own.
    #[must_use]
    pub fn with_proxies(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// What its chain is to us.
    #[must_use]
    pub fn with_role(self, role: ChainRole) -> Self {
        Self { role, ..self }
    }

    pub(super) fn role(&self) -> ChainRole {
        self.role
    }

    /// Takes room for answers from this budget.
    #[must_use]
    pub(super) fn with_budget(self, room: ResponseBudget) -> Self {
        Self { budget: room, ..self }
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn transport(&self) -> &EndpointTransport {
        &self.transport
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    pub(super) fn budget(&self) -> &ResponseBudget {
        &self.budget
    }

    pub(super) fn is_websocket(&self) -> bool {
        matches!(self.url.scheme(), "ws" | "wss")
    }

    /// Converts a transport failure to an error without secrets.
    pub(super) fn rpc_error(&self, unanswered: ExchangeError) -> RpcError {
        match unanswered {
            ExchangeError::NoAnswer(what) => {
                self.unavailable(&self.proxies.name_proxy_in(&self.url, &what))
            }
            // Its body may repeat the key, so it is not shown.
            ExchangeError::Status(status) => {
                self.unavailable(&self.proxies.name_proxy_in(&self.url, &status_text(status)))
            }
            ExchangeError::RetryLater { status, retry_after: back_in, message: said } => {
                self.rate_limit().record_rate_limited(back_in, Instant::now());
                let said = said.map(|said| format!(": {said}")).unwrap_or_default();
                self.rate_limited(&format!("HTTP status {status}{said}"))
            }
            ExchangeError::TooLarge(bound) => {
                RpcError::TooLarge { host: self.host.to_string(), bound }
            }
        }
    }

    /// Converts an error object to an error without secrets.
    pub(super) fn error_from_object(&self, refused: ErrorObject) -> RpcError {
        let ErrorObject { code, message, data, retry_after: back_in } = refused;
        if quirks::is_rate_limited(code, &message) {
            self.rate_limit().record_rate_limited(back_in, Instant::now());
        }
        let message = self.scrub(&message);
        RpcError::Refused { host: self.host.to_string(), code, message, data }
    }

    pub(super) fn parse<A: DeserializeOwned>(&self, result: &RawValue) -> Result<A, RpcError> {
        serde_json::from_str(result.get()).map_err(|error| self.unreadable(&error.to_string()))
    }

    /// How long the node has to be left alone, because it is rate limiting.
    pub(super) fn rate_limited_for(&self) -> Duration {
        self.rate_limit().remaining(Instant::now())
    }

    /// The node answered.
    pub(super) fn answered(&self) {
        self.rate_limit().record_answer(Instant::now());
    }

    fn rate_limit(&self) -> MutexGuard<'_, RateLimitBackoff> {
        self.rate_limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rate_limited(&self, what: &str) -> RpcError {
        RpcError::RateLimited { host: self.host.to_string(), what: self.scrub(what) }
    }

    pub(super) fn unavailable(&self, what: &str) -> RpcError {
        RpcError::Unavailable { host: self.host.to_string(), what: self.scrub(what) }
    }

    pub(super) fn unreadable(&self, what: &str) -> RpcError {
        RpcError::Unreadable { host: self.host.to_string(), what: self.scrub(what) }
    }

    /// Removes secrets from a node's text.
    fn scrub(&self, text: &str) -> UntrustedText {
        // The cut is far beyond what is shown, so no half of a secret is visible.
        let end = text.char_indices().nth(SCRUBBED_CHARS).map_or(text.len(), |(end, _)| end);
        let mut text = text[..end].to_owned();
        for secret in self.secrets.iter() {
            text = text.replace(secret.as_str(), "***");
        }
        text.into()
    }
}

/// Describes an HTTP status without a JSON-RPC answer, with advice where there is one.
fn status_text(status: u16) -> String {
    let advice = match status {
        300..=399 => "; redirects are not followed: use the URL that it leads to",
        401 | 403 => "; the key in the URL, or the address of this machine, is refused",
        402 => "; the plan behind the key in the URL is used up",
        404 => "; check the path of the URL",
        407 => "; the proxy requires another user name or password",
        _ => "",
    };
    format!("HTTP status {status}{advice}")
}
