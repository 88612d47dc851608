//! `[s3_config]`: the fallback bucket, used when no coprocessor's bucket is known.
//!
//! It may be the operator's own and private, so calls to it are presigned (by the AWS SDK for S3) if
//! there are credentials, and plain otherwise. It is read through the same HTTP path, deadlines and
//! checks as every other bucket.

use std::sync::Arc;

use aws_config::Region;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::SharedHttpClient;
use url::Url;

use super::{
    bucket::{Bucket, UnusableUrl, keep_user},
    signer::{Location, Signer},
};
use crate::net::aws::AwsCredentials;

/// The validated `[s3_config]`.
pub struct FallbackStore {
    pub(super) bucket: Arc<Bucket>,
}

impl std::fmt::Debug for FallbackStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackStore")
            .field("at", &self.bucket.display_name)
            .finish_non_exhaustive()
    }
}

impl FallbackStore {
    /// `{endpoint}/{bucket}`; without an endpoint the bucket's own host in that region on AWS.
    /// Credentials come from the default AWS chain.
    pub fn new(region: &str, bucket: &str, endpoint: Option<&str>) -> Result<Self, UnusableUrl> {
        Self::with_credentials(region, bucket, endpoint, None)
    }

    /// The same with given credentials.
    pub fn with_credentials(
        region: &str,
        bucket: &str,
        endpoint: Option<&str>,
        credentials: Option<SharedCredentialsProvider>,
    ) -> Result<Self, UnusableUrl> {
        let bucket = bucket.trim().trim_matches('/').to_owned();
        if bucket.is_empty() {
            return Err(UnusableUrl::NoBucket);
        }
        let endpoint = endpoint.map(|url| Ok(Bucket::new(url)?.base().clone())).transpose()?;
        let location =
            Location { region: region.to_owned(), bucket, endpoint: endpoint.as_ref().map(bare) };
        let mut base = location.url().ok_or(UnusableUrl::NoEndpoint)?;
        if let Some(endpoint) = &endpoint {
            keep_user(endpoint, &mut base);
        }
        let credentials = AwsCredentials::new(Some(Region::new(region.to_owned())), credentials);
        let signer = Signer::new(location, credentials);
        Ok(Self { bucket: Arc::new(Bucket::new(base.as_str())?.signed(signer)) })
    }

    /// Looks credentials up through this client.
    #[must_use]
    pub fn with_proxies(self, http: Option<SharedHttpClient>) -> Self {
        if let (Some(signer), Some(http)) = (&self.bucket.signer, http) {
            signer.set_http_client(http);
        }
        self
    }
}

/// Scheme, host, port and path, as the SDK wants them: it puts the bucket right behind the path.
fn bare(endpoint: &Url) -> String {
    let mut bare = endpoint.clone();
    // Cannot fail: the URL has a host.
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    bare.set_path(&format!("{}/", endpoint.path().trim_end_matches('/')));
    bare.set_query(None);
    bare.set_fragment(None);
    bare.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::B256,
        flow::ciphertexts::object_key::{ObjectKey, Spelling},
        net::aws,
    };
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{ProvideCredentials, future};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn key() -> ObjectKey {
        Spelling::Digest.key(B256::ZERO, B256::ZERO)
    }

    #[test]
    fn the_store_is_addressed_as_its_region_and_endpoint_want_it() {
        let at = |region, bucket, endpoint| {
            let store = FallbackStore::new(region, bucket, endpoint).unwrap();
            let url = store.bucket.object(&key()).to_string();
            url.strip_suffix(&format!("/{}", "0".repeat(64))).unwrap().to_owned()
        };
        for (region, bucket, endpoint, expected) in [
            ("eu-west-1", "my-bucket", None, "https://my-bucket.s3.eu-west-1.amazonaws.com"),
            ("eu-west-1", "my.bucket", None, "https://s3.eu-west-1.amazonaws.com/my.bucket"),
            ("cn-northwest-1", "b-1", None, "https://b-1.s3.cn-northwest-1.amazonaws.com.cn"),
            ("eusc-de-east-1", "b-1", None, "https://b-1.s3.eusc-de-east-1.amazonaws.eu"),
            ("r", "b", Some("http://127.0.0.1:9876/"), "http://127.0.0.1:9876/b"),
            ("r", "b", Some("http://u:p@h/p?q"), "http://u:p@h/p/b"),
        ] {
            assert_eq!(at(region, bucket, endpoint), expected);
        }
        for (bucket, endpoint, reason) in [
            ("", None, UnusableUrl::NoBucket),
            ("/", None, UnusableUrl::NoBucket),
            ("b", Some("ftp://h"), UnusableUrl::Scheme),
            ("b", Some("mailto:x"), UnusableUrl::Scheme),
            ("b", Some("::"), UnusableUrl::Malformed),
        ] {
            assert_eq!(FallbackStore::new("r", bucket, endpoint).err(), Some(reason));
        }
        assert_eq!(FallbackStore::new("no region", "b", None).err(), Some(UnusableUrl::NoEndpoint));
    }

    /// A proxy in front of the store may require a user name, which is not part of S3's signature.
    #[tokio::test]
    async fn a_signed_call_keeps_the_user_of_the_endpoint() {
        let given = SharedCredentialsProvider::new(Credentials::new("A", "s", None, None, "t"));
        let store =
            FallbackStore::with_credentials("r", "b", Some("http://u:p@h:1"), Some(given)).unwrap();
        let call = store.bucket.call(&key()).await.unwrap();
        assert!(call.signed && call.url.as_str().starts_with("http://u:p@h:1/b/0"), "{}", call.url);
    }

    #[derive(Debug)]
    struct Counting(Arc<AtomicUsize>, Option<Duration>);

    impl ProvideCredentials for Counting {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let count = self.0.fetch_add(1, Ordering::SeqCst);
            let Some(life) = self.1 else {
                return future::ProvideCredentials::new(std::future::pending());
            };
            let end = aws::now() + life;
            let id = format!("AKID{count}");
            future::ProvideCredentials::ready(Ok(Credentials::new(id, "s", None, Some(end), "t")))
        }
    }

    fn counting(life: Option<Duration>) -> (FallbackStore, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let provider = SharedCredentialsProvider::new(Counting(Arc::clone(&count), life));
        let store =
            FallbackStore::with_credentials("r", "b", Some("http://h"), Some(provider)).unwrap();
        (store, count)
    }

    async fn is_signed(store: &FallbackStore) -> bool {
        store.bucket.call(&key()).await.unwrap().signed
    }

    #[tokio::test]
    async fn credentials_are_looked_up_once_and_renewed_before_they_end() {
        let (store, count) = counting(Some(Duration::from_hours(1)));
        for _ in 0..5 {
            assert!(is_signed(&store).await);
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);

        // These expire soon.
        let (store, count) = counting(Some(Duration::from_mins(1)));
        assert!(is_signed(&store).await && is_signed(&store).await);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_provider_means_unsigned_and_is_not_asked_each_time() {
        let (store, count) = counting(None);
        for _ in 0..3 {
            assert!(!is_signed(&store).await);
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    /// Answers after this time, first with errors, then with credentials.
    #[derive(Debug)]
    struct Slow(Duration, AtomicUsize);

    impl ProvideCredentials for Slow {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                tokio::time::sleep(self.0).await;
                let left = self.1.load(Ordering::SeqCst);
                if left > 0 {
                    self.1.store(left - 1, Ordering::SeqCst);
                    return Err(CredentialsError::provider_error("the agent is not up yet"));
                }
                Ok(Credentials::new("AKID", "s", None, None, "t"))
            })
        }
    }

    /// A container's agent is slow and fails at first.
    #[tokio::test(start_paused = true)]
    async fn c4_credentials_that_come_late_are_used_within_seconds() {
        for slow in [Slow(Duration::from_secs(3), 0.into()), Slow(Duration::ZERO, 2.into())] {
            let provider = SharedCredentialsProvider::new(slow);
            let store = FallbackStore::with_credentials("r", "b", Some("http://h"), Some(provider));
            let store = store.unwrap();
            assert!(!is_signed(&store).await, "not there yet");
            let mut waited = 0;
            while !is_signed(&store).await {
                tokio::time::sleep(Duration::from_secs(1)).await;
                waited += 1;
                assert!(waited < 20);
            }
        }
    }

    /// A key was revoked, and another one exists by now.
    #[tokio::test(start_paused = true)]
    async fn c4_credentials_that_are_refused_are_looked_for_anew() {
        let (store, count) = counting(Some(Duration::from_hours(1)));
        let signer = store.bucket.signer.as_ref().unwrap();
        assert!(is_signed(&store).await);
        for expected in 2..5 {
            tokio::time::advance(Duration::from_secs(5)).await;
            // Calls that were in flight together.
            for _ in 0..10 {
                signer.invalidate_credentials();
                assert!(is_signed(&store).await);
            }
            assert_eq!(count.load(Ordering::SeqCst), expected);
        }
    }
}
