//! `NO_PROXY`: the hosts that are reached without a proxy. Pure.
//!
//! There is no standard for it. Supported entries: names and domains (`example.com`, `.example.com`
//! and `*.example.com` are the same: the name and everything below it), addresses and networks,
//! each with or without a port, and `*` for everything. Commas or blanks separate entries. Any
//! other entry has no effect and is reported.

use std::net::IpAddr;

use hyper_util::client::proxy::matcher::Matcher;

/// The parsed list.
#[derive(Debug, Default)]
pub(super) struct NoProxy {
    /// The list contains `*`.
    pub matches_all: bool,
    /// Port (`None`: any), host, and its matcher.
    entries: Vec<(Option<u16>, String, Matcher)>,
    /// Unsupported entries, as written.
    pub unrecognized: Vec<String>,
}

impl NoProxy {
    pub fn parse(text: &str) -> Self {
        let mut list = Self::default();
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        for word in words.filter(|word| !word.is_empty()) {
            if word == "*" {
                list.matches_all = true;
                continue;
            }
            let (host, port) = split_port(word);
            let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
            if !is_host(host) {
                list.unrecognized.push(word.to_owned());
                continue;
            }
            let matcher = Matcher::builder().all("http://proxy.invalid").no(host).build();
            list.entries.push((port, host.to_owned(), matcher));
        }
        list
    }

    /// Returns whether `host` is reached without a proxy. An IPv6 address has brackets.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let Ok(question) = format!("http://{host}/").parse() else { return self.matches_all };
        let of_port = |entry: &&(Option<u16>, String, Matcher)| entry.0.is_none_or(|of| of == port);
        let mut entries = self.entries.iter().filter(of_port);
        self.matches_all || entries.any(|(_, _, matcher)| matcher.intercept(&question).is_none())
    }

    /// The entries that apply to this port, for a client that takes hosts without ports.
    pub fn hosts_for_port(&self, port: u16) -> String {
        let of_port = self.entries.iter().filter(|(of, ..)| of.is_none_or(|of| of == port));
        of_port.map(|(_, host, _)| host.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// Splits off the port. Colons of an IPv6 address begin a port only after brackets.
fn split_port(word: &str) -> (&str, Option<u16>) {
    if let Some(rest) = word.strip_prefix('[')
        && let Some((host, port)) = rest.split_once(']')
    {
        return match port.strip_prefix(':').map(str::parse) {
            Some(Ok(port)) => (host, Some(port)),
            None if port.is_empty() => (host, None),
            Some(Err(_)) | None => (word, None),
        };
    }
    match word.split_once(':') {
        Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
            port.parse().map_or((word, None), |port| (host, Some(port)))
        }
        Some(_) | None => (word, None),
    }
}

/// Returns whether it is a name, a domain, an address or a network.
fn is_host(text: &str) -> bool {
    let network = |text: &str| {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(())
    };
    let is_name = |text: &str| {
        let name = text.strip_prefix('.').unwrap_or(text);
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        // A name that ends in a number is meant as an address, and 127.0.0.01 is an invalid one.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex =
            last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_hexdigit()));
        let is_number = hex || !last.is_empty() && last.bytes().all(|c| c.is_ascii_digit());
        !name.is_empty() && name.chars().all(plain) && !is_number
    };
    text.parse::<IpAddr>().is_ok() || network(text).is_some() || is_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c5_every_usual_spelling_is_understood() {
        for (list, host, port, covered) in [
            ("*", "node.example", 443, true),
            ("*", "10.1.2.3", 443, true),
            ("*", "[::1]", 443, true),
            ("a.example:8545", "a.example", 8545, true),
            ("a.example:8545", "a.example", 443, false),
            ("*.example", "a.example", 1, true),
            (".example", "a.b.example", 1, true),
            ("example", "a.example", 1, true),
            ("ample", "a.example", 1, false),
            ("a.example b.example", "b.example", 1, true),
            (" a.example ,\tb.example", "b.example", 1, true),
            ("10.0.0.0/8", "10.1.2.3", 1, true),
            ("10.0.0.0/8:80", "10.1.2.3", 81, false),
            ("10.0.0.0/8:80", "10.1.2.3", 80, true),
            ("127.0.0.1:9", "127.0.0.1", 9, true),
            ("127.0.0.1:9", "127.0.0.1", 8, false),
            ("::1", "[::1]", 1, true),
            ("[::1]:9", "[::1]", 9, true),
            ("[::1]:9", "[::1]", 8, false),
            ("fd00::/8", "[fd00::7]", 8, true),
            ("", "a.example", 1, false),
        ] {
            let list_of = NoProxy::parse(list);
            assert_eq!(list_of.unrecognized, [""; 0], "{list}");
            assert_eq!(list_of.covers(host, port), covered, "{list}: {host}:{port}");
        }
    }

    #[test]
    fn c5_what_is_not_understood_is_kept_to_be_told() {
        let list =
            NoProxy::parse("http://a.example, a*.example,b.example:x,10.0.0.0/40, ok.example");
        assert_eq!(
            list.unrecognized,
            ["http://a.example", "a*.example", "b.example:x", "10.0.0.0/40"]
        );
        assert!(list.covers("ok.example", 1) && !list.covers("a.example", 1));
        // What ends in a number is meant as an address.
        let list = NoProxy::parse("127.0.0.01,10.0.0,0x7f.1,10.0.0.0/33,node-1,1.example");
        assert_eq!(list.unrecognized, ["127.0.0.01", "10.0.0", "0x7f.1", "10.0.0.0/33"]);
        let list = NoProxy::parse("a.example:8545,b.example:443,c.example");
        assert_eq!(list.hosts_for_port(443), "b.example,c.example");
    }
}
