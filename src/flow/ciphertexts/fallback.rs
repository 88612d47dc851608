//! `[s3_config]`: the store that is asked when no coprocessor's bucket is known.
//!
//! It may be the operator's own and private, so calls to it are signed (AWS Signature Version 4)
//! once credentials are found, and plain before that and where there are none. The store goes through
//! the same HTTP path, deadlines and checks as every other bucket.

use std::sync::Arc;

use aws_config::Region;
use aws_credential_types::provider::SharedCredentialsProvider;
use url::Url;

use super::{
    bucket::{Bucket, UnusableUrl},
    signer::Signer,
};
use crate::{aws::AwsCredentials, proxy::Proxies};

/// The checked `[s3_config]`.
pub struct FallbackStore {
    pub(super) bucket: Arc<Bucket>,
}

impl std::fmt::Debug for FallbackStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FallbackStore").field("at", &self.bucket.shown).finish_non_exhaustive()
    }
}

impl FallbackStore {
    /// Path-style `{endpoint}/{bucket}`; without an endpoint the region's own on AWS. Credentials
    /// come from the usual AWS chain.
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
        let name = bucket.trim().trim_matches('/');
        if name.is_empty() {
            return Err(UnusableUrl::NoBucket);
        }
        let endpoint = endpoint
            .map_or_else(|| format!("https://s3.{region}.amazonaws.com"), ToOwned::to_owned);
        let mut base = Url::parse(endpoint.trim()).map_err(|_| UnusableUrl::Malformed)?;
        let path = format!("{}/{name}", base.path().trim_end_matches('/'));
        if base.cannot_be_a_base() {
            return Err(UnusableUrl::Scheme);
        }
        base.set_path(&path);
        let credentials = AwsCredentials::new(Some(Region::new(region.to_owned())), credentials);
        let signer = Signer::new(region, credentials);
        Ok(Self { bucket: Arc::new(Bucket::new(base.as_str())?.signed(signer)) })
    }

    /// Credentials are looked for through these.
    #[must_use]
    pub fn through(self, proxies: &Proxies) -> Self {
        if let (Some(signer), Some(http)) = (&self.bucket.signer, proxies.aws_client()) {
            signer.through(http);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{aws, domain::B256};
    use aws_credential_types::Credentials;
    use aws_credential_types::provider::error::CredentialsError;
    use aws_credential_types::provider::{ProvideCredentials, future};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn the_store_is_addressed_path_style() {
        let at = |endpoint| {
            let store = FallbackStore::new("eu-west-1", "my-bucket", endpoint).unwrap();
            store.bucket.object(B256::ZERO).to_string()
        };
        let zeros = "0".repeat(64);
        assert_eq!(at(None), format!("https://s3.eu-west-1.amazonaws.com/my-bucket/{zeros}"));
        assert_eq!(
            at(Some("http://127.0.0.1:9876/")),
            format!("http://127.0.0.1:9876/my-bucket/{zeros}")
        );
        assert_eq!(at(Some("http://h/p")), format!("http://h/p/my-bucket/{zeros}"));
        for (bucket, endpoint, reason) in [
            ("", None, UnusableUrl::NoBucket),
            ("/", None, UnusableUrl::NoBucket),
            ("b", Some("ftp://h"), UnusableUrl::Scheme),
            ("b", Some("mailto:x"), UnusableUrl::Scheme),
            ("b", Some("::"), UnusableUrl::Malformed),
        ] {
            assert_eq!(FallbackStore::new("r", bucket, endpoint).err(), Some(reason));
        }
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

    #[tokio::test]
    async fn credentials_are_looked_up_once_and_renewed_before_they_end() {
        let (store, count) = counting(Some(Duration::from_hours(1)));
        let url = store.bucket.object(B256::ZERO);
        let signer = store.bucket.signer.as_ref().unwrap();
        for _ in 0..5 {
            assert!(signer.headers(&url).await.unwrap().contains_key("authorization"));
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);

        // These are about to end.
        let (store, count) = counting(Some(Duration::from_mins(1)));
        let signer = store.bucket.signer.as_ref().unwrap();
        signer.headers(&url).await.unwrap();
        signer.headers(&url).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_provider_means_unsigned_and_is_not_asked_each_time() {
        let (store, count) = counting(None);
        let url = store.bucket.object(B256::ZERO);
        let signer = store.bucket.signer.as_ref().unwrap();
        for _ in 0..3 {
            assert!(signer.headers(&url).await.unwrap().is_empty());
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    /// Answers after so long, by an error so often, then with credentials.
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

    /// A container's agent takes its time, and fails at first.
    #[tokio::test(start_paused = true)]
    async fn c4_credentials_that_come_late_are_used_within_seconds() {
        for slow in [Slow(Duration::from_secs(3), 0.into()), Slow(Duration::ZERO, 2.into())] {
            let provider = SharedCredentialsProvider::new(slow);
            let store = FallbackStore::with_credentials("r", "b", Some("http://h"), Some(provider));
            let store = store.unwrap();
            let url = store.bucket.object(B256::ZERO);
            let signer = store.bucket.signer.as_ref().unwrap();
            assert!(signer.headers(&url).await.unwrap().is_empty(), "not there yet");
            let mut waited = 0;
            while signer.headers(&url).await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                waited += 1;
                assert!(waited < 20);
            }
        }
    }

    /// A key was made invalid, and another one is there by now.
    #[tokio::test(start_paused = true)]
    async fn c4_credentials_that_are_refused_are_looked_for_anew() {
        let (store, count) = counting(Some(Duration::from_hours(1)));
        let url = store.bucket.object(B256::ZERO);
        let signer = store.bucket.signer.as_ref().unwrap();
        signer.headers(&url).await.unwrap();
        for expected in 2..5 {
            tokio::time::advance(Duration::from_secs(5)).await;
            // Calls that were under way together.
            for _ in 0..10 {
                signer.doubt();
                signer.headers(&url).await.unwrap();
            }
            assert_eq!(count.load(Ordering::SeqCst), expected);
        }
    }
}
