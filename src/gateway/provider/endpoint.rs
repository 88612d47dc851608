//! Where a node is reached, and what may be told of it: URLs hold API keys, and a node repeats what it
//! was asked.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use url::Url;

use super::{
    RpcError,
    bounds::Room,
    client::{Client, Unanswered},
    connection::RawHead,
    http::Http,
    message::Refused,
    pace::Pace,
    quirks,
    socket::{self, Socket},
};
use crate::{domain::OutsideText, proxy::Proxies};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Characters of a node's text that are looked at for secrets, and cut off behind.
const SCRUBBED: usize = 16 << 10;

/// Where a node is reached, and all its URL hides.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    host: Arc<str>,
    /// Parts of the URL that may be keys: never printed, not even when the node repeats them.
    secrets: Arc<[String]>,
    tls: Arc<rustls::ClientConfig>,
    http: reqwest::Client,
    proxies: Proxies,
    room: Room,
    pace: Arc<Mutex<Pace>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.host).finish()
    }
}

/// A connection to a node.
pub(super) enum Connected {
    Http(Client),
    Socket { client: Client, heads: watch::Receiver<Option<RawHead>>, socket: Box<Socket> },
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
        // User and password again, as they stand in the request's header.
        let header = alloy::transports::Authorization::extract_from_url(&url);
        let header = header.map(|header| header.to_string());
        secrets.extend(header.and_then(|text| Some(text.split_once(' ')?.1.to_owned())));
        secrets.retain(|secret| secret.len() >= 6);
        let (proxies, room, pace) = (Proxies::default(), Room::new(), Arc::default());
        Self { url, host, secrets: secrets.into(), tls, http, proxies, room, pace }
    }

    /// A WebSocket goes through these; `http` knows its own way.
    #[must_use]
    pub fn through(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// Its answers take of this room.
    #[must_use]
    pub(super) fn within(self, room: Room) -> Self {
        Self { room, ..self }
    }

    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn tls(&self) -> &Arc<rustls::ClientConfig> {
        &self.tls
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    fn is_websocket(&self) -> bool {
        matches!(self.url.scheme(), "ws" | "wss")
    }

    pub(super) async fn connect(self: &Arc<Self>) -> Result<Connected, RpcError> {
        if !self.is_websocket() {
            let http = Http::new(self.http.clone(), self.url.clone(), self.room.clone());
            return Ok(Connected::Http(Client::over_http(self.clone(), http)));
        }
        let Ok(opened) = timeout(CONNECT_DEADLINE, socket::open(self)).await else {
            let what = format!("no connection within {CONNECT_DEADLINE:?}");
            return Err(self.unavailable(&self.proxies.told(&self.url, &what)));
        };
        let (line, heads, socket) = opened.map_err(|error| self.explain(error.unanswered()))?;
        let client = Client::over_socket(self.clone(), line);
        Ok(Connected::Socket { client, heads, socket: Box::new(socket) })
    }

    /// Why there is no answer, without what the URL hides.
    pub(super) fn explain(&self, unanswered: Unanswered) -> RpcError {
        match unanswered {
            Unanswered::Lost(what) => self.unavailable(&self.proxies.told(&self.url, &what)),
            // Its body is the node's or a proxy's: it may repeat the key it did not like.
            Unanswered::Status(status) => {
                self.unavailable(&self.proxies.told(&self.url, &of_status(status)))
            }
            Unanswered::Later { status, back_in, said } => {
                self.pace().asked_too_often(back_in, Instant::now());
                let said = said.map(|said| format!(": {said}")).unwrap_or_default();
                self.busy(&format!("HTTP status {status}{said}"))
            }
            Unanswered::TooLarge(bound) => {
                RpcError::TooLarge { host: self.host.to_string(), bound }
            }
        }
    }

    /// An error object, without what the URL hides.
    pub(super) fn refused(&self, refused: Refused) -> RpcError {
        let Refused { code, message, data, back_in } = refused;
        if quirks::is_too_often(code, &message) {
            self.pace().asked_too_often(back_in, Instant::now());
        }
        let message = self.scrub(&message);
        RpcError::Refused { host: self.host.to_string(), code, message, data }
    }

    pub(super) fn parse<A: DeserializeOwned>(&self, result: &RawValue) -> Result<A, RpcError> {
        serde_json::from_str(result.get()).map_err(|error| self.unreadable(&error.to_string()))
    }

    /// For how long it is to be left alone: it was asked too often.
    pub(super) fn pause(&self) -> Duration {
        self.pace().left(Instant::now())
    }

    /// It answers.
    pub(super) fn answered(&self) {
        self.pace().answered(Instant::now());
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn busy(&self, what: &str) -> RpcError {
        RpcError::Busy { host: self.host.to_string(), what: self.scrub(what) }
    }

    pub(super) fn unavailable(&self, what: &str) -> RpcError {
        RpcError::Unavailable { host: self.host.to_string(), what: self.scrub(what) }
    }

    pub(super) fn unreadable(&self, what: &str) -> RpcError {
        RpcError::Unreadable { host: self.host.to_string(), what: self.scrub(what) }
    }

    /// What the node says, without what the URL hides.
    fn scrub(&self, text: &str) -> OutsideText {
        // Far more than is kept: no secret is cut in two where anybody sees it.
        let end = text.char_indices().nth(SCRUBBED).map_or(text.len(), |(end, _)| end);
        let mut text = text[..end].to_owned();
        for secret in self.secrets.iter() {
            text = text.replace(secret.as_str(), "***");
        }
        text.into()
    }
}

/// An HTTP status that comes with no words of the node, and what to do, if it says that.
fn of_status(status: u16) -> String {
    let advice = match status {
        300..=399 => "; redirects are not followed: put down where it leads to",
        401 | 403 => "; the key in the URL, or the address of this machine, is not let in",
        402 => "; the plan behind the key in the URL is used up",
        404 => "; is the path of the URL right?",
        407 => "; the proxy wants another user name or password",
        _ => "",
    };
    format!("HTTP status {status}{advice}")
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;
    use crate::{proxy, tls::TlsRoots};

    /// A node over this URL, behind this proxy, is asked something.
    async fn ask(url: &str, proxy: &str) -> RpcError {
        let way = proxy::parse(proxy).ok();
        let proxies = Proxies::new(way.clone(), way, "127.0.0.1");
        let tls = TlsRoots::load(None).unwrap().client_config();
        let http = proxies.of_client(reqwest::Client::builder());
        let http = http.tls_backend_preconfigured(tls.clone()).build().unwrap();
        let endpoint = Endpoint::new(url.parse().unwrap(), Arc::new(tls), http).through(proxies);
        match Arc::new(endpoint).connect().await {
            Ok(Connected::Http(client)) => {
                client.ask_plainly::<String>("eth_chainId").await.unwrap_err()
            }
            Ok(Connected::Socket { .. }) => panic!("there is no such host"),
            Err(error) => error,
        }
    }

    /// A server that speaks no TLS, as all whose port is not the one that was meant.
    #[tokio::test]
    async fn c4_a_node_that_speaks_no_tls_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        for url in [format!("https://{there}"), format!("wss://{there}")] {
            let said = ask(&url, "127.0.0.1:1").await.to_string();
            assert!(said.contains("does not speak TLS"), "{said}");
        }
    }

    /// A proxy is not taken for the node behind it, whether it is away, refuses, or answers something
    /// of its own.
    #[tokio::test]
    async fn c5_over_http_the_proxy_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let away = listener.local_addr().unwrap().to_string();
        drop(listener);
        for url in ["http://node.example", "https://node.example", "ws://node.example"] {
            let said = ask(url, &away).await.to_string();
            assert!(said.contains(&away) && said.contains("proxy"), "{said}");
        }
        for (status, word) in [("407 Who", "user name"), ("502 Bad", "502"), ("403 No", "403")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let there = listener.local_addr().unwrap().to_string();
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut seen = [0; 4096];
                    let _ = stream.read(&mut seen).await;
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            let said = ask("http://node.example", &there).await.to_string();
            assert!(said.contains(&format!("proxy {there}")) && said.contains(word), "{said}");
            let said = ask("https://node.example", &there).await.to_string();
            assert!(said.contains(&format!("proxy {there}")), "{said}");
        }
    }
}
