//! Where a node is reached, and what may be told of it: URLs hold API keys, and a node repeats what it
//! was asked.

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
    RpcError, bounds::Room, http::Carrier, message::Refused, pace::Pace, quirks,
    unanswered::Unanswered,
};
use crate::{domain::OutsideText, proxy::Proxies};

/// Characters of a node's text that are looked at for secrets, and cut off behind.
const SCRUBBED: usize = 16 << 10;

/// Where a node is reached, and all its URL hides.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    host: Arc<str>,
    /// Parts of the URL that may be keys: never printed, not even when the node repeats them.
    secrets: Arc<[String]>,
    way: Way,
    proxies: Proxies,
    room: Room,
    pace: Arc<Mutex<Pace>>,
}

/// What messages go over.
#[derive(Clone)]
pub(super) enum Way {
    /// `http` for http(s) URLs, `tls` for wss.
    Network {
        tls: Arc<rustls::ClientConfig>,
        http: reqwest::Client,
    },
    Carried(Carrier),
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
        // User and password again, as they stand in the request's header.
        let header = alloy::transports::Authorization::extract_from_url(&url);
        let header = header.map(|header| header.to_string());
        secrets.extend(header.and_then(|text| Some(text.split_once(' ')?.1.to_owned())));
        secrets.retain(|secret| secret.len() >= 6);
        let (proxies, room, pace) = (Proxies::default(), Room::new(), Arc::default());
        let way = Way::Network { tls, http };
        Self { url, host, secrets: secrets.into(), way, proxies, room, pace }
    }

    /// A node over http that this carrier reaches, whatever it is.
    #[must_use]
    pub fn over(host: &str, carrier: Carrier) -> Self {
        Self {
            url: format!("http://{host}").parse().expect("a host makes a URL"),
            host: host.into(),
            secrets: Arc::default(),
            way: Way::Carried(carrier),
            proxies: Proxies::default(),
            room: Room::new(),
            pace: Arc::default(),
        }
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

    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    pub(super) fn is_websocket(&self) -> bool {
        matches!(self.url.scheme(), "ws" | "wss")
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
