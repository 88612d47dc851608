//! The name of a KMS Core's endpoint.

use std::{fmt, sync::Arc};

use url::Url;

/// Host and port of a KMS Core: gRPC sends no other part of its URL, so URLs with the same address name the
/// same endpoint. It is stable and contains no secret, so the journal and messages may show it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreAddress(Arc<str>);

impl CoreAddress {
    /// The address that this URL leads to.
    #[must_use]
    pub fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let port = url.port_or_known_default().unwrap_or_default();
        Self(format!("{host}:{port}").into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// From its own text: what a journal stores.
impl From<&str> for CoreAddress {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for CoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_the_same_endpoint_has_the_same_address_and_no_secret() {
        let address = |url: &str| CoreAddress::of(&url.parse().unwrap()).to_string();
        let plain = address("https://user:secret@Core.example./path?key=secret");
        assert_eq!(plain, "core.example:443");
        assert_eq!(address("http://core.example:443"), plain);
        assert_eq!(address("http://[::1]:50052"), "[::1]:50052");
        assert_eq!(CoreAddress::from(plain.as_str()).as_str(), plain);
    }
}
