//! Signs GETs to the store of `[s3_config]` with the AWS SDK for S3, which knows the endpoint of each
//! region, its partition (`cn-`, `eusc-`) and the URL style.
//!
//! The SDK only presigns and makes no call: the URL takes the same path as every other bucket's, which
//! bounds size, time and redirects, and reads into reserved memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::{
    Client,
    config::{
        Builder, IdentityCache, ResponseChecksumValidation, SharedHttpClient,
        endpoint::{DefaultResolver, Params, ResolveEndpoint as _},
        retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    presigning::PresigningConfig,
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
    result::ConnectorError,
};
use futures_util::FutureExt as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::net::aws::{self, AwsCredentials, CredentialsProvider, MissingCredentials};

/// Lifetime of a presigned URL, equal to the clock difference that S3 allows.
const GOOD_FOR: Duration = Duration::from_mins(15);

/// The location of a bucket.
pub(super) struct Location {
    pub region: String,
    pub bucket: String,
    /// Instead of the region's own on AWS. The bucket's name is then a part of the path, as emulators and
    /// most other stores have it. Its path ends in a slash.
    pub endpoint: Option<String>,
}

impl Location {
    /// The bucket's URL. `None`: no such bucket can exist in this region.
    pub(super) fn url(&self) -> Option<Url> {
        let params = Params::builder()
            .region(&self.region)
            .bucket(&self.bucket)
            .set_endpoint(self.endpoint.clone())
            .force_path_style(self.endpoint.is_some())
            .disable_s3_express_session_auth(true);
        let (resolver, params) = (DefaultResolver::new(), params.build().ok()?);
        // The rules are a table: this never waits.
        let endpoint = resolver.resolve_endpoint(&params).now_or_never()?.ok()?;
        Url::parse(endpoint.url()).ok()
    }
}

/// Presigns GETs of the fallback bucket's objects.
pub(super) struct Signer {
    client: Client,
    bucket: String,
    credentials: Arc<AwsCredentials>,
    /// What was last logged about how calls go out.
    last_logged: Mutex<Option<Result<(), MissingCredentials>>>,
}

impl Signer {
    pub(super) fn new(location: Location, credentials: AwsCredentials) -> Self {
        let credentials = Arc::new(credentials);
        let Location { region, bucket, endpoint } = location;
        let mut config = Builder::new();
        config.set_endpoint_url(endpoint.clone());
        let config = config
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .force_path_style(endpoint.is_some())
            .disable_s3_express_session_auth(true)
            // We check digests ourselves.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .credentials_provider(CredentialsProvider(Arc::clone(&credentials)))
            .identity_cache(IdentityCache::no_cache())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .http_client(http_client_fn(|_, _| SharedHttpConnector::new(NoCalls)))
            .build();
        Self {
            client: Client::from_conf(config),
            bucket,
            credentials,
            last_logged: Mutex::default(),
        }
    }

    /// Looks credentials up through this client.
    pub(super) fn set_http_client(&self, http: SharedHttpClient) {
        self.credentials.set_http_client(http);
    }

    /// A presigned GET of this object. `None`: there are no credentials. `Err`: signing is impossible
    /// with these credentials and this bucket, which no retry fixes.
    pub(super) async fn presigned(
        &self,
        key: String,
    ) -> Result<Option<(Url, HeaderMap)>, &'static str> {
        const UNSIGNABLE: &str = "the call cannot be signed";
        let config = PresigningConfig::builder().start_time(aws::now()).expires_in(GOOD_FOR);
        let config = config.build().map_err(|_| UNSIGNABLE)?;
        let call = self.client.get_object().bucket(&self.bucket).key(key);
        let request = match Box::pin(call.presigned(config)).await {
            Ok(request) => request,
            Err(error) => {
                let lack = MissingCredentials::find_in(&error).ok_or(UNSIGNABLE)?;
                self.log_change(Err(lack));
                return Ok(None);
            }
        };
        self.log_change(Ok(()));
        let headers = request.headers().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        });
        let url = Url::parse(request.uri()).map_err(|_| UNSIGNABLE)?;
        Ok(Some((url, headers.collect::<Option<_>>().ok_or(UNSIGNABLE)?)))
    }

    /// The store refused these credentials.
    pub(super) fn invalidate_credentials(&self) {
        self.credentials.invalidate();
    }

    /// Why calls go out unsigned, if they do.
    pub(super) fn missing_credentials(&self) -> Option<MissingCredentials> {
        self.last_logged.lock().unwrap_or_else(PoisonError::into_inner).clone()?.err()
    }

    /// Logs a change of how calls go out, once.
    fn log_change(&self, found: Result<(), MissingCredentials>) {
        let mut last_logged = self.last_logged.lock().unwrap_or_else(PoisonError::into_inner);
        if last_logged.as_ref() == Some(&found) {
            return;
        }
        match &found {
            Ok(()) => tracing::info!(signed = true, "fallback store ready"),
            Err(lack) => tracing::warn!(
                signed = false,
                reason = %lack,
                "no AWS credentials for the fallback store: calls go out unsigned, and they are \
                 looked for again"
            ),
        }
        *last_logged = Some(found);
    }
}

/// Replaces the SDK's HTTP client, which would load the system's root certificates for calls that are
/// never made.
#[derive(Debug)]
struct NoCalls;

impl HttpConnector for NoCalls {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let refused = ConnectorError::other("it only presigns".into(), None);
        HttpConnectorFuture::ready(Err(refused))
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};

    use super::*;

    fn signer(region: &str, bucket: &str, endpoint: Option<&str>) -> Signer {
        let credentials =
            Credentials::new("AKID", "hush", Some("whisper".to_owned()), None, "test");
        let given = Some(SharedCredentialsProvider::new(credentials));
        let (region, bucket) = (region.to_owned(), bucket.to_owned());
        let location = Location { region, bucket, endpoint: endpoint.map(ToOwned::to_owned) };
        Signer::new(location, AwsCredentials::new(None, given))
    }

    /// The signed URL leads to the bucket, whatever its partition and URL style.
    #[tokio::test]
    async fn a_presigned_call_is_one_of_the_regions_own_host() {
        for (region, bucket, endpoint, expected) in [
            ("us-east-1", "mine", None, "https://mine.s3.us-east-1.amazonaws.com/ab"),
            ("cn-north-1", "mine", None, "https://mine.s3.cn-north-1.amazonaws.com.cn/ab"),
            ("eusc-de-east-1", "mine", None, "https://mine.s3.eusc-de-east-1.amazonaws.eu/ab"),
            // Not a valid host name, so it becomes part of the path.
            ("eu-west-1", "my.bucket", None, "https://s3.eu-west-1.amazonaws.com/my.bucket/ab"),
            ("eu-west-1", "mine", Some("http://localhost:9876"), "http://localhost:9876/mine/ab"),
            ("eu-west-1", "mine", Some("http://h/p/"), "http://h/p/mine/ab"),
        ] {
            let signer = signer(region, bucket, endpoint);
            let (mut url, headers) = signer.presigned("ab".to_owned()).await.unwrap().unwrap();
            let query = url.query().unwrap_or_default().to_owned();
            url.set_query(None);
            assert_eq!(url.as_str(), expected);
            for signed in ["X-Amz-Signature=", "X-Amz-Security-Token=whisper", "X-Amz-Expires=900"]
            {
                assert!(query.contains(signed), "{query}");
            }
            let scope = format!("%2F{region}%2Fs3%2Faws4_request");
            assert!(
                query.contains("X-Amz-Credential=AKID%2F") && query.contains(&scope),
                "{query}"
            );
            assert!(headers.is_empty(), "{headers:?}");
        }
    }
}
