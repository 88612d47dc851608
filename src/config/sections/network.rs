//! Outgoing connections: the fallback bucket, private certificate authorities, proxies.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use url::Url;

use super::super::{
    Place, PrivateAuthorities, Problem, S3, SecretUrl, Warning,
    files::read_small_file,
    keys::Key,
    values::{QUOTES, has_quotes, quoted_problem},
};
use super::{CheckedValue, Checker, ProblemNoted};
use crate::net::proxy::{self, Proxies};

/// At most this many `NO_PROXY` entries that cannot be parsed are reported.
const MAX_NO_PROXY_WARNINGS: usize = 10;

impl Checker<'_> {
    pub(super) fn s3(&mut self) -> CheckedValue<S3> {
        let given = |check: &Self, key| check.raw.get(key).is_some();
        let region_given = given(self, Key::S3Region);
        let endpoint_given = given(self, Key::S3Endpoint);
        let bucket_given = given(self, Key::S3Bucket);
        if !(region_given || endpoint_given || bucket_given) {
            return Ok(None);
        }
        if !bucket_given {
            self.note_missing(Key::S3Bucket, "the bucket's name", "[s3_config] needs it");
        }
        if !(region_given || endpoint_given) {
            self.note_missing(
                Key::S3Region,
                "region or endpoint in [s3_config]",
                "Without both it is unknown where the bucket is",
            );
        }
        let region = self.region(Key::S3Region);
        let bucket = self.bucket();
        let endpoint = self.url(Key::S3Endpoint, &["http", "https"]);
        match (region?, bucket?, endpoint?) {
            (None, _, None) | (_, None, _) => Err(ProblemNoted), // the missing key was noted above
            (region, Some(bucket), endpoint) => {
                if let Some(endpoint) = &endpoint {
                    self.warn_of_bucket_twice(&bucket, endpoint);
                }
                Ok(Some(S3 { region, bucket, endpoint }))
            }
        }
    }

    /// A bucket's name. It becomes a part of a URL's path, where `.` and `..` have a meaning.
    fn bucket(&mut self) -> CheckedValue<String> {
        let key = Key::S3Bucket;
        let allowed = "a bucket's name: letters, digits, dots, dashes and underscores, with a letter \
                       or digit at both ends and no two dots in a row";
        let permitted = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let Some(name) = self.word(key, 255, allowed, permitted)? else { return Ok(None) };
        let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !is_end(name.chars().next()) || !is_end(name.chars().next_back()) || name.contains("..")
        {
            let found = format!("a text of {} characters", name.len());
            return Err(self.note_bad(key, found, allowed, ""));
        }
        Ok(Some(name))
    }

    /// Warns if the endpoint's path already ends with the bucket's name, which is appended to it.
    fn warn_of_bucket_twice(&mut self, bucket: &str, endpoint: &SecretUrl) {
        let url = endpoint.expose();
        let host = url.host_str().unwrap_or_default();
        let in_host = host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'));
        let in_path = url.path().trim_end_matches('/').rsplit('/').next() == Some(bucket);
        let message = match (in_host, in_path) {
            (true, _) => {
                "its host begins with the bucket's name, which is added as the path once more: \
                          write the endpoint without the bucket (https://s3.REGION.amazonaws.com)"
            }
            (false, true) => {
                "it ends in the bucket's name, which is added once more: write the \
                              endpoint without the bucket"
            }
            (false, false) => return,
        };
        let key = Key::S3Endpoint;
        let place = self.raw.get(key).map(|given| given.place.clone());
        self.raw.warnings.push(Warning {
            place: place.unwrap_or_else(|| self.whole_file()),
            key: Some(key.name().to_owned()),
            message: message.to_owned(),
        });
    }

    pub(super) fn private_authorities(&mut self) -> CheckedValue<PrivateAuthorities> {
        let key = Key::CaFile;
        let Some(path) = self.path(key)? else { return Ok(None) };
        let allowed = "a readable PEM file with at least one certificate";
        let bytes = match read_small_file(&path, 16 << 20) {
            Ok(bytes) => bytes,
            Err(error) => {
                let found = format!("{}: {error}", path.display());
                return Err(self.note_bad(key, found, allowed, error.advice()));
            }
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => {
                Ok(Some(PrivateAuthorities { path, certificates: Arc::new(certificates) }))
            }
            Ok(_) => {
                Err(self.note_bad(key, "a file without a certificate".to_owned(), allowed, ""))
            }
            Err(_) => {
                Err(self.note_bad(key, "a file that is not valid PEM".to_owned(), allowed, ""))
            }
        }
    }

    /// Proxies are the only settings read without our prefix: their variable names are a convention.
    pub(super) fn proxies(&mut self) -> Result<Proxies, ProblemNoted> {
        let https = self.proxy("HTTPS_PROXY");
        let http = self.proxy("HTTP_PROXY");
        let (name, no) = self.either_case_variable("NO_PROXY").unwrap_or_default();
        let proxies = Proxies::new(https?, http?, &no);
        if has_quotes(no.trim()) {
            self.raw.warnings.push(Warning {
                place: Place::Variable(name),
                key: None,
                message: format!(
                    "stands in quotes: its first and last entry have no effect. {QUOTES}"
                ),
            });
            return Ok(proxies);
        }
        for odd in proxies.unrecognized().iter().take(MAX_NO_PROXY_WARNINGS) {
            // A whole URL may contain a password.
            let shown =
                if odd.contains(['@', '/']) { "an entry".to_owned() } else { format!("{odd:?}") };
            self.raw.warnings.push(Warning {
                place: Place::Variable(name.clone()),
                key: None,
                message: format!(
                    "holds {shown} that is no name, domain, address or network and has no effect; \
                     write host, host:port, .example.com, 10.0.0.0/8 or *"
                ),
            });
        }
        Ok(proxies)
    }

    fn proxy(&mut self, name: &str) -> CheckedValue<Url> {
        let Some((name, text)) = self.either_case_variable(name) else { return Ok(None) };
        if has_quotes(text.trim()) {
            self.raw.problems.push(quoted_problem(Place::Variable(name), None));
            return Err(ProblemNoted);
        }
        if let Some(odd) = proxy::suspicious_part(&text) {
            self.raw.warnings.push(Warning {
                place: Place::Variable(name.clone()),
                key: None,
                message: format!("{odd}; write it like http://proxy.example:3128"),
            });
        }
        proxy::parse(&text).map(Some).map_err(|error| {
            self.raw.problems.push(Problem {
                place: Place::Variable(name),
                key: None,
                found: error.to_string(),
                allowed: "an HTTP proxy such as http://proxy.example:3128".to_owned(),
                advice:
                    "Other proxies (https, SOCKS) are not supported; NO_PROXY names hosts that \
                         are reached without"
                        .to_owned(),
            });
            ProblemNoted
        })
    }

    /// A variable that may be written in either case; upper case wins.
    fn either_case_variable(&self, name: &str) -> Option<(String, String)> {
        let names = [name.to_owned(), name.to_lowercase()];
        names.into_iter().find_map(|name| {
            let text = self.source.environment.get(&name)?.to_string_lossy().into_owned();
            (!text.trim().is_empty()).then_some((name, text))
        })
    }
}
