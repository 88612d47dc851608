//! The host names by which browsers may use the listener. Pure.
//!
//! A web page cannot read what another host answers to its browser, unless the page's own name
//! suddenly resolves to that host (DNS rebinding): then the browser takes both for one origin. The
//! request's Host header still carries the page's name. So a browser is answered under an IP
//! address, under a name that nobody can register (`localhost`, a name without a dot, `.internal`,
//! `.local`, `.svc` and the like), under the machine's own name, and under the names that the
//! operator lists. A client that is not a browser, such as a scraper, may use any name: no web page
//! controls it.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Uri,
    header::{
        ACCEPT_LANGUAGE, COOKIE, HOST, HeaderName, ORIGIN, REFERER, UPGRADE_INSECURE_REQUESTS,
        USER_AGENT,
    },
};

/// Domains that no public name server serves.
const PRIVATE_NAMES: [&str; 6] = ["localhost", "internal", "local", "home.arpa", "svc", "test"];
/// Headers that browsers send. A page cannot suppress all of them.
const BROWSER_HEADERS: [HeaderName; 7] = [
    ACCEPT_LANGUAGE,
    ORIGIN,
    REFERER,
    COOKIE,
    UPGRADE_INSECURE_REQUESTS,
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-mode"),
];

/// The names that the operator allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    /// In lower case, without a trailing dot.
    allowed: Vec<String>,
}

impl Hosts {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { allowed: names.into_iter().map(|name| normalized(&name)).collect() }
    }

    /// Returns whether a request with these host names is answered.
    pub(super) fn allows(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        if !is_browser(headers) {
            return true;
        }
        let named = headers.get_all(HOST).iter().map(|host| host.to_str().ok().and_then(name_of));
        // A request may name its host in the Host header and in the URI: both must be allowed.
        named
            .chain(uri.host().map(|host| Some(normalized(host))))
            .all(|name| name.is_some_and(|name| self.is_known(&name)))
    }

    fn is_known(&self, name: &str) -> bool {
        let address = name.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || !name.contains('.')
            || self.allowed.iter().any(|own| own == name)
            || PRIVATE_NAMES.iter().any(|private| {
                name.strip_suffix(private).is_some_and(|before| before.ends_with('.'))
            })
    }
}

fn is_browser(headers: &HeaderMap) -> bool {
    let agent =
        headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    agent || BROWSER_HEADERS.iter().any(|mark| headers.contains_key(mark))
}

/// The host of `host:port`. `None`: it is invalid.
fn name_of(host: &str) -> Option<String> {
    let authority: hyper::http::uri::Authority = host.trim().parse().ok()?;
    Some(normalized(authority.host()))
}

fn normalized(name: &str) -> String {
    name.trim().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn browser(host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(""));
        headers
    }

    fn is_let_in(headers: &HeaderMap) -> bool {
        let hosts = Hosts::new(["Node-7.example.com.".to_owned()]);
        hosts.allows(&"/status".parse().unwrap(), headers)
    }

    #[test]
    fn b8_a_browser_that_was_led_here_by_a_name_of_somewhere_else_is_told_nothing() {
        for host in [
            "127.0.0.1:9478",
            "[::1]:9478",
            "10.0.0.7",
            "localhost:9478",
            "LOCALHOST",
            "kms-connector:9478",
            "kms.default.svc:9478",
            "kms.default.svc.cluster.local",
            "ip-10-0-0-7.eu-west-1.compute.internal:9478",
            "node-7.example.com:9478",
            "node-7.example.com.",
        ] {
            assert!(is_let_in(&browser(host)), "{host}");
        }
        for host in [
            "evil.example:9478",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil-internal.example",
            "notlocalhost.com",
            "7.example.com",
            "a.b@127.0.0.1.nip.io",
            "",
            "a b",
        ] {
            assert!(!is_let_in(&browser(host)), "{host}");
        }
    }

    #[test]
    fn b8_every_mark_of_a_browser_is_one_and_a_scraper_has_none() {
        let mut scraper = HeaderMap::new();
        scraper.insert(HOST, HeaderValue::from_static("connector.example.com"));
        scraper.insert(USER_AGENT, HeaderValue::from_static("Prometheus/3.5.0"));
        assert!(is_let_in(&scraper));
        for mark in BROWSER_HEADERS {
            let mut headers = scraper.clone();
            headers.insert(mark.clone(), HeaderValue::from_static("x"));
            assert!(!is_let_in(&headers), "{mark}");
        }
        let mut headers = scraper.clone();
        headers.insert(USER_AGENT, HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64)"));
        assert!(!is_let_in(&headers));
        // The URI instead of the header, and both at once.
        let hosts = Hosts::default();
        let absolute: Uri = "http://evil.example/status".parse().unwrap();
        assert!(!hosts.allows(&absolute, &browser("127.0.0.1")));
        let mut two = browser("127.0.0.1");
        two.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!hosts.allows(&"/".parse().unwrap(), &two));
    }
}
