//! Where a ciphertext is stored: a bucket, and the object's URL in it.

use std::{fmt::Write as _, sync::Arc};

use reqwest::header::HeaderMap;
use url::Url;

use super::{
    object_key::ObjectKey,
    s3_error::{S3Error, S3ErrorKind},
    signer::Signer,
};

/// A bucket that may have ciphertexts.
pub(super) struct Bucket {
    base: Url,
    /// Scheme, host, port and path, without user information and query. Used by [`super::bucket_health`] only.
    pub(super) id: String,
    /// Scheme, host and port: the part that logs and errors may show.
    pub(super) display_name: String,
    /// `None`: plain GET, as the protocol defines it for the coprocessors' buckets.
    pub(super) signer: Option<Arc<Signer>>,
}

/// Why a bucket URL cannot be used. Does not contain the URL, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableUrl {
    #[error("the bucket URL cannot be parsed")]
    Malformed,
    #[error("the bucket URL is neither http nor https")]
    Scheme,
    #[error("the bucket URL names no host")]
    NoHost,
    #[error("the bucket's name is empty")]
    NoBucket,
    #[error("S3 has no such bucket in such a region: correct them in [s3_config]")]
    NoEndpoint,
}

/// A GET as it is sent.
pub(super) struct Call {
    pub url: Url,
    pub headers: HeaderMap,
    pub signed: bool,
}

/// Gives a URL user and password of another one. S3 knows nothing of them; a proxy before it may.
pub(super) fn keep_user(whose: &Url, url: &mut Url) {
    // Cannot fail: buckets are http and have a host.
    let _ = url.set_username(whose.username());
    let _ = url.set_password(whose.password());
}

impl Bucket {
    pub(super) fn new(base: &str) -> Result<Self, UnusableUrl> {
        let base = Url::parse(base.trim()).map_err(|_| UnusableUrl::Malformed)?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(UnusableUrl::Scheme);
        }
        let host = base.host_str().filter(|host| !host.is_empty()).ok_or(UnusableUrl::NoHost)?;
        let mut shown = format!("{}://{host}", base.scheme());
        if let Some(port) = base.port() {
            let _ = write!(shown, ":{port}");
        }
        let id = format!("{shown}{}", base.path().trim_end_matches('/'));
        Ok(Self { base, id, display_name: shown, signer: None })
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        self.display_name.split_once("://").map_or(&self.display_name, |(_, host)| host)
    }

    pub(super) fn signed(mut self, signer: Signer) -> Self {
        self.signer = Some(Arc::new(signer));
        self
    }

    /// `{base without trailing slashes}/{key}`. The base's query is kept.
    pub(super) fn object(&self, key: &ObjectKey) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}/{key}", self.base.path().trim_end_matches('/'));
        url.set_path(&path);
        url.set_fragment(None);
        url
    }

    /// The GET of an object, signed where the bucket has a signer and that has credentials. `Err`: it
    /// cannot be signed, and no retry fixes that.
    pub(super) async fn call(&self, key: &ObjectKey) -> Result<Call, &'static str> {
        let presigned = match &self.signer {
            Some(signer) => signer.presigned(key.as_str().to_owned()).await?,
            None => None,
        };
        let plain = || Call { url: self.object(key), headers: HeaderMap::new(), signed: false };
        Ok(presigned.map_or_else(plain, |(mut url, headers)| {
            keep_user(&self.base, &mut url);
            Call { url, headers, signed: true }
        }))
    }

    /// Returns whether this is the bucket of `[s3_config]`.
    pub(super) fn is_fallback(&self) -> bool {
        self.signer.is_some()
    }

    /// Reads a response that is no object. If the bucket does not take the credentials, new ones are looked
    /// up for the next call.
    pub(super) async fn read_error(
        &self,
        response: reqwest::Response,
        was_signed: bool,
    ) -> S3Error {
        let Some(signer) = &self.signer else {
            return S3Error::from_response(response, None, false).await;
        };
        let unsigned = if was_signed { None } else { signer.missing_credentials() };
        let error = S3Error::from_response(response, unsigned, was_signed).await;
        if error.kind() == S3ErrorKind::Credentials {
            signer.invalidate_credentials();
        }
        error
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        self.base == other.base
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{domain::B256, flow::ciphertexts::object_key::Spelling};

    const HEX: &str = "47173285a8d7341e5e972fc677286384f802f8ef42a5ec5f03bbfa254cb01fad";

    fn key(digest: B256) -> ObjectKey {
        Spelling::Digest.key(B256::ZERO, digest)
    }

    fn object(base: &str) -> String {
        Bucket::new(base).unwrap().object(&key(HEX.parse().unwrap())).to_string()
    }

    #[test]
    fn object_urls_are_joined_by_parts() {
        for (base, expected) in [
            ("http://minio:9000/ct128", format!("http://minio:9000/ct128/{HEX}")),
            ("http://minio:9000/ct128///", format!("http://minio:9000/ct128/{HEX}")),
            (
                " https://b.s3.eu-west-1.amazonaws.com\n",
                format!("https://b.s3.eu-west-1.amazonaws.com/{HEX}"),
            ),
            ("https://h/a%2Fb/c/", format!("https://h/a%2Fb/c/{HEX}")),
            ("https://h/c?sig=a%2Bb&x=1", format!("https://h/c/{HEX}?sig=a%2Bb&x=1")),
            ("https://h/c/#top", format!("https://h/c/{HEX}")),
            ("http://[::1]:9000/c", format!("http://[::1]:9000/c/{HEX}")),
        ] {
            assert_eq!(object(base), expected);
        }
        // Leading zeros are kept.
        let bucket = Bucket::new("http://h/c").unwrap();
        let url = bucket.object(&key(B256::with_last_byte(7)));
        assert!(url.path().ends_with(&format!("/{:064x}", 7)));
        let handle = Spelling::PrefixedHandle.key(B256::with_last_byte(7), B256::ZERO);
        let url = bucket.object(&handle);
        assert_eq!(url.as_str(), format!("http://h/c/ct128/{:064x}/1", 7));
    }

    #[test]
    fn unusable_urls_say_why_and_not_what() {
        for (base, reason) in [
            ("", UnusableUrl::Malformed),
            ("ct128", UnusableUrl::Malformed),
            ("s3://secret/ct128", UnusableUrl::Scheme),
            ("file:///etc/passwd", UnusableUrl::Scheme),
            ("http://", UnusableUrl::Malformed),
        ] {
            assert_eq!(Bucket::new(base).err(), Some(reason), "{base}");
            assert!(!reason.to_string().contains("secret"));
        }
    }

    #[test]
    fn only_scheme_and_host_are_shown() {
        let bucket = Bucket::new("https://user:pass@host:8443/path?token=1").unwrap();
        assert_eq!(bucket.display_name, "https://host:8443");
        assert_eq!(bucket.id, "https://host:8443/path");
    }

    proptest! {
        /// Whatever a coprocessor registered: either it is unusable, or the URL is on that host and ends with
        /// the digest, and what is shown contains no user, password, path or query.
        #[test]
        fn any_text_is_unusable_or_names_one_object(
            scheme in "https?|s3|[a-zA-Z]{0,6}",
            separator in "://|:|//|",
            user in "([a-z%@:]{0,6}@)?",
            host in "[a-z0-9.\\-]{0,12}|\\[[0-9a-f:]{0,12}\\]|\\PC{0,8}",
            port in "(:[0-9]{0,6})?",
            rest in "(/[ -~]{0,20}){0,3}([?#]\\PC{0,12})?",
        ) {
            const SECRET: &str = "cAnArY7351";
            let base = format!("{scheme}{separator}{user}{host}{port}{rest}");
            for base in [base.clone(), format!("{base}/{SECRET}"), format!("{base}?{SECRET}")] {
                let bucket = match Bucket::new(&base) {
                    Ok(bucket) => bucket,
                    Err(error) => {
                        prop_assert!(!error.to_string().contains(SECRET));
                        continue;
                    }
                };
                let url = bucket.object(&key(HEX.parse().unwrap()));
                prop_assert!(url.path().ends_with(&format!("/{HEX}")), "{url}");
                prop_assert_eq!(url.host(), bucket.base.host());
                prop_assert_eq!(url.port(), bucket.base.port());
                prop_assert_eq!(url.fragment(), None);
                // Except for the host, nothing of the URL is shown.
                let shown = Url::parse(&bucket.display_name).unwrap();
                prop_assert_eq!(shown.host(), bucket.base.host());
                prop_assert!(shown.username().is_empty() && shown.query().is_none());
                prop_assert_eq!(shown.path(), "/");
                prop_assert!(!bucket.id.contains('?'));
            }
        }
    }
}
