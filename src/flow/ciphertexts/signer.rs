//! How GETs to the store of `[s3_config]` are signed.

use std::{
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use aws_credential_types::Credentials;
use aws_sdk_kms::config::SharedHttpClient;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::aws::{self, AwsCredentials, Lack};

/// Signs GETs to the fallback store.
pub(super) struct Signer {
    region: String,
    credentials: AwsCredentials,
    /// What the log tells already of how calls go out.
    said: Mutex<Option<Result<(), Lack>>>,
}

impl Signer {
    pub(super) fn new(region: &str, credentials: AwsCredentials) -> Self {
        Self { region: region.to_owned(), credentials, said: Mutex::default() }
    }

    /// Credentials are looked for through this client.
    pub(super) fn through(&self, http: SharedHttpClient) {
        self.credentials.through(http);
    }

    /// The headers that sign a GET of `url`; none without credentials. `Err`: credentials and URL
    /// cannot be signed with, which no retry mends, so the caller's call fails.
    pub(super) async fn headers(&self, url: &Url) -> Result<HeaderMap, &'static str> {
        let credentials = self.credentials.get().await;
        self.tell(credentials.as_ref().map(drop));
        match credentials {
            Ok(credentials) => signature(url, &self.region, credentials, aws::now())
                .ok_or("the call cannot be signed"),
            Err(_) => Ok(HeaderMap::new()),
        }
    }

    /// The store does not take these credentials.
    pub(super) fn doubt(&self) {
        self.credentials.doubt();
    }

    /// Why calls go out unsigned, if they do.
    pub(super) fn lack(&self) -> Option<Lack> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()?.err()
    }

    /// Once, and again when it is another thing.
    fn tell(&self, found: Result<(), &Lack>) {
        let found = found.map_err(Lack::clone);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref() == Some(&found) {
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
        *said = Some(found);
    }
}

/// AWS Signature Version 4 for a GET without a body, in S3's dialect: the path is signed as it is
/// sent, and the payload's hash is a header.
fn signature(
    url: &Url,
    region: &str,
    credentials: Credentials,
    time: SystemTime,
) -> Option<HeaderMap> {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("s3")
        .time(time)
        .settings(settings)
        .build()
        .ok()?
        .into();
    let request =
        SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::empty())
            .ok()?;
    let (instructions, _) = sign(request, &params).ok()?.into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in instructions.headers() {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_signature_covers_host_date_and_token() {
        let credentials =
            Credentials::new("AKID", "hush", Some("whisper".to_owned()), None, "test");
        let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let url: Url = "http://127.0.0.1:9000/b/key".parse().unwrap();
        let headers = signature(&url, "eu-west-1", credentials, time).unwrap();
        let authorization = headers["authorization"].to_str().unwrap();
        assert!(
            authorization
                .starts_with("AWS4-HMAC-SHA256 Credential=AKID/20231114/eu-west-1/s3/aws4_request"),
            "{authorization}"
        );
        for signed in ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"] {
            assert!(authorization.contains(signed), "{authorization}");
        }
        let printed = format!("{headers:?}");
        assert!(!printed.contains("whisper") && !printed.contains("AKID"), "{printed}");
    }

    /// The worked example "GET Bucket Lifecycle" of the AWS S3 documentation.
    #[test]
    fn the_signature_is_the_documented_one() {
        let credentials = Credentials::new(
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            None,
            None,
            "test",
        );
        let time = UNIX_EPOCH + Duration::from_hours(380_376);
        let url: Url = "https://examplebucket.s3.amazonaws.com/?lifecycle".parse().unwrap();
        let headers = signature(&url, "us-east-1", credentials, time).unwrap();
        assert_eq!(
            headers["authorization"].to_str().unwrap(),
            "AWS4-HMAC-SHA256 \
             Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
             Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
    }
}
