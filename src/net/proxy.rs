//! Connections through an HTTP proxy: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, in upper or lower
//! case, with their usual meaning.
//!
//! One value decides for all clients of an instance, so that none of them reads the process's
//! environment itself. `HTTPS_PROXY` applies to https and wss, `HTTP_PROXY` to http and ws;
//! `NO_PROXY` lists the hosts that are reached directly ([`no_proxy`]). gRPC to the KMS Core never
//! goes through a proxy.
//!
//! A proxy's URL may contain a password: only its host and port are shown.

mod no_proxy;
mod happy_eyeballs;

use std::{fmt, io, sync::Arc};

use alloy::transports::Authorization;
use aws_sdk_kms::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::{Builder, Connector, proxy::ProxyConfig, tls};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

use self::no_proxy::NoProxy;

/// The most bytes read of a response to CONNECT.
const MAX_RESPONSE_BYTES: usize = 8 * 1024;

/// Which proxy is used for which URL. The default uses none.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<Url>,
    http: Option<Url>,
    /// The original text and the parsed list.
    no_proxy: (String, Arc<NoProxy>),
}

impl PartialEq for Proxies {
    fn eq(&self, other: &Self) -> bool {
        (&self.https, &self.http, &self.no_proxy.0)
            == (&other.https, &other.http, &other.no_proxy.0)
    }
}

impl Eq for Proxies {}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<Url>| url.as_ref().map(host_and_port);
        f.debug_struct("Proxies")
            .field("https", &shown(&self.https))
            .field("http", &shown(&self.http))
            .finish_non_exhaustive()
    }
}

/// Host and port.
fn host_and_port(proxy: &Url) -> String {
    let port = proxy.port_or_known_default().unwrap_or(80);
    format!("{}:{port}", proxy.host_str().unwrap_or_default())
}

/// Why a text is not a proxy. Never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    #[error("a text that is no URL")]
    NoUrl,
    #[error("a URL that does not begin with http://")]
    Scheme,
}

/// Parses a proxy as people write it: with http:// or without.
pub fn parse(text: &str) -> Result<Url, BadProxy> {
    let text = text.trim();
    let url = match text.split_once("://") {
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => Url::parse(text),
        Some(_) => return Err(BadProxy::Scheme),
        None => Url::parse(&format!("http://{text}")),
    };
    url.ok().filter(Url::has_host).ok_or(BadProxy::NoUrl)
}

/// What looks wrong about a text that parses as a proxy. Never repeats the text.
#[must_use]
pub fn suspicious_part(text: &str) -> Option<&'static str> {
    let text = text.trim();
    let url = parse(text).ok()?;
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = host.rsplit_once(':').is_some_and(|(_, port)| {
        !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit())
    });
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        Some("has more after its host and port, which has no effect")
    } else if !port {
        Some("names no port: 80 is used")
    } else {
        None
    }
}

impl Proxies {
    /// `no` is the text of `NO_PROXY`.
    #[must_use]
    pub fn new(https: Option<Url>, http: Option<Url>, no: &str) -> Self {
        Self { https, http, no_proxy: (no.to_owned(), Arc::new(NoProxy::parse(no))) }
    }

    /// Entries of `NO_PROXY` that are no name, domain, address or network and have no effect.
    #[must_use]
    pub fn unrecognized(&self) -> &[String] {
        &self.no_proxy.1.unrecognized
    }

    /// Configures an HTTP client, which would otherwise read the environment.
    pub fn apply_to(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        let client = client.no_proxy();
        if self.https.is_none() && self.http.is_none() {
            return client;
        }
        let ways = self.clone();
        client.proxy(reqwest::Proxy::custom(move |url| ways.proxy_for(url).cloned()))
    }

    /// The HTTP client for AWS SDKs: through `HTTPS_PROXY` for https; http (emulators, the instance
    /// metadata service) is always direct. `authorities` are trusted besides the system's. `None`:
    /// neither is set, the SDK's default client is fine.
    #[must_use]
    pub fn aws_client(&self, authorities: &[CertificateDer<'_>]) -> Option<SharedHttpClient> {
        let proxy = self.of_aws();
        if proxy.is_none() && authorities.is_empty() {
            return None;
        }
        let trusted = authorities.iter().fold(tls::TrustStore::default(), |trusted, authority| {
            trusted.with_pem_certificate(pem(authority).into_bytes())
        });
        let context = tls::TlsContext::builder().with_trust_store(trusted).build().ok()?;
        Some(Builder::new().build_with_connector_fn(move |settings, components| {
            let mut connector = Connector::builder();
            if let Some(proxy) = &proxy {
                connector = connector.proxy_config(proxy.clone());
            }
            connector.set_connector_settings(settings.cloned());
            connector.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
            let crypto = tls::rustls_provider::CryptoMode::AwsLc;
            let connector = connector.tls_provider(tls::Provider::Rustls(crypto));
            connector.tls_context(context.clone()).build()
        }))
    }

    fn of_aws(&self) -> Option<ProxyConfig> {
        let mut url = self.https.clone().filter(|_| !self.no_proxy.1.matches_all)?;
        let (user, password) = credentials_of(&url);
        // Cannot fail for an http URL with a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let proxy =
            ProxyConfig::https(url.as_str()).ok()?.no_proxy(self.no_proxy.1.hosts_for_port(443));
        Some(if user.is_empty() { proxy } else { proxy.with_basic_auth(user, password) })
    }

    /// The proxy for `url`, whose scheme may be ws or wss.
    fn proxy_for(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "wss" | "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let port = url.port_or_known_default().unwrap_or(80);
        (!self.no_proxy.1.covers(url.host_str()?, port)).then_some(proxy)
    }

    /// Host and port of the proxy for `url`, for error messages.
    #[must_use]
    pub fn proxy_name_for(&self, url: &Url) -> Option<String> {
        self.proxy_for(url).map(host_and_port)
    }

    /// Adds the proxy's name to an error text of a call to `url`: the proxy may be its cause.
    #[must_use]
    pub fn name_proxy_in(&self, url: &Url, what: &str) -> String {
        match self.proxy_name_for(url) {
            Some(proxy) if !what.contains(&proxy) => format!("through the proxy {proxy}: {what}"),
            Some(_) | None => what.to_owned(),
        }
    }

    /// Connects to the host of `url`, through its proxy if there is one. The caller sets the
    /// deadline.
    pub async fn connect(&self, url: &Url) -> io::Result<TcpStream> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let Some(proxy) = self.proxy_for(url) else {
            return happy_eyeballs::connect(host.trim_matches(['[', ']']), port).await;
        };
        let unwilling =
            |what: String| io::Error::other(format!("the proxy {} {what}", host_and_port(proxy)));
        let at = (
            proxy.host_str().unwrap_or_default().trim_matches(['[', ']']),
            proxy.port_or_known_default().unwrap_or(80),
        );
        let connecting = happy_eyeballs::connect(at.0, at.1).await;
        let mut stream = connecting.map_err(|error| unwilling(format!("is not there: {error}")))?;
        let authorization = authorization(proxy);
        let question =
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
        stream.write_all(question.as_bytes()).await?;
        match read_status(&mut stream).await? {
            Some(200..=299) => Ok(stream),
            Some(407) => Err(unwilling("wants another user name or password (407)".to_owned())),
            Some(status) => Err(unwilling(format!("does not connect us: status {status}"))),
            None => Err(unwilling("does not answer as one".to_owned())),
        }
    }
}

/// A certificate in the encoding that AWS SDKs take.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// User name and password of a URL, percent-decoded.
fn credentials_of(url: &Url) -> (String, String) {
    let decoded = |text: &str| {
        let pairs = format!("x={}", text.replace('+', "%2B"));
        let found = url::form_urlencoded::parse(pairs.as_bytes()).next();
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    (decoded(url.username()), decoded(url.password().unwrap_or_default()))
}

/// The Proxy-Authorization header line, if the URL has a user.
fn authorization(proxy: &Url) -> String {
    match Authorization::extract_from_url(proxy) {
        Some(header) => format!("Proxy-Authorization: {header}\r\n"),
        None => String::new(),
    }
}

/// Reads a response to the end of its headers and no further. Returns its status; `None`: not
/// HTTP/1.
async fn read_status(stream: &mut TcpStream) -> io::Result<Option<u16>> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_RESPONSE_BYTES {
            return Ok(None);
        }
        answer.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&answer);
    let mut words = line.split_ascii_whitespace();
    let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
    Ok(words.next().filter(|_| is_http).and_then(|word| word.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(no: &str) -> Proxies {
        let https = parse("http://user:CANARY@secure.example:3128").unwrap();
        Proxies::new(Some(https), Some(parse("plain.example:8080").unwrap()), no)
    }

    fn way(proxies: &Proxies, url: &str) -> String {
        proxies.proxy_for(&Url::parse(url).unwrap()).map_or("direct".to_owned(), host_and_port)
    }

    #[test]
    fn the_scheme_decides_and_no_proxy_has_the_last_word() {
        let of = proxies("localhost,127.0.0.0/8,.inside.example");
        for (url, expected) in [
            ("https://node.example/key", "secure.example:3128"),
            ("wss://node.example", "secure.example:3128"),
            ("http://node.example:81", "plain.example:8080"),
            ("ws://node.example", "plain.example:8080"),
            ("wss://a.inside.example", "direct"),
            ("https://127.0.0.1:8545", "direct"),
            ("ws://localhost:8545", "direct"),
        ] {
            assert_eq!(way(&of, url), expected, "{url}");
        }
        assert_eq!(way(&proxies("*"), "https://node.example"), "direct");
        assert_eq!(way(&proxies("*"), "wss://10.1.2.3:8545"), "direct");
        assert_eq!(way(&proxies("node.example:8545"), "wss://node.example:8545"), "direct");
        assert_eq!(way(&proxies("node.example:443"), "wss://node.example"), "direct");
        assert_eq!(way(&proxies("node.example:8545"), "wss://node.example"), "secure.example:3128");
        assert_eq!(way(&proxies(""), "http://127.0.0.1:1"), "plain.example:8080");
        assert_eq!(way(&Proxies::default(), "https://node.example"), "direct");
        let one = Proxies::new(Some(parse("p:1").unwrap()), None, "");
        assert_eq!(way(&one, "ws://node.example"), "direct");
    }

    #[test]
    fn what_is_no_proxy_is_told_without_repeating_it() {
        assert_eq!(parse("proxy:3128").unwrap(), parse("HTTP://proxy:3128/").unwrap());
        assert_eq!(parse("socks5://CANARY@proxy:1080"), Err(BadProxy::Scheme));
        assert_eq!(parse("https://proxy"), Err(BadProxy::Scheme));
        assert_eq!(parse("http://"), Err(BadProxy::NoUrl));
        assert_eq!(parse("a b c"), Err(BadProxy::NoUrl));
    }

    #[test]
    fn b12_what_looks_like_no_proxy_is_told_without_repeating_it() {
        for fine in ["proxy:3128", "http://proxy:80", "http://u:p@proxy:1/", "[::1]:3128", "a b"] {
            assert_eq!(suspicious_part(fine), None, "{fine}");
        }
        for junk in ["junk", "1", "true", "http://proxy.example", "[::1]", "u:1@proxy", "proxy:"] {
            assert!(suspicious_part(junk).is_some_and(|odd| odd.contains("port")), "{junk}");
        }
        for more in ["http://proxy:1/CANARY", "proxy:1/?q", "proxy:1#x"] {
            assert!(suspicious_part(more).is_some_and(|odd| odd.contains("no effect")), "{more}");
        }
    }

    #[test]
    fn a_password_is_sent_as_it_was_meant_and_never_shown() {
        let url = parse("http://us%40er:p%3A+%2F@proxy:1").unwrap();
        assert_eq!(credentials_of(&url), ("us@er".to_owned(), "p:+/".to_owned()));
        let text = format!("{:?}", proxies(""));
        assert!(text.contains("secure.example:3128") && !text.contains("CANARY"), "{text}");
    }
}
