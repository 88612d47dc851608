//! A key in AWS KMS: the client that reaches it, its retries, and the proof that the key is usable.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alloy::primitives::Signature;
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::SharedHttpClient;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::get_public_key::GetPublicKeyOutput;
use aws_sdk_kms::operation::sign::SignOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, KeyUsageType, MessageType, SigningAlgorithmSpec};
use k256::ecdsa::VerifyingKey;
use k256::pkcs8::DecodePublicKey;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::WalletError;
use super::aws_errors::classify;
use crate::dice::Dice;
use crate::domain::{Address, B256, Remedy, UntrustedText};
use crate::net::aws::{AwsCredentials, CredentialsProvider};
use crate::telemetry::metrics::Metrics;
use crate::time::backoff::Backoff;

/// AWS KMS grants a few hundred signatures per second and region, shared by the whole account.
const CONCURRENT_SIGNATURES: usize = 16;
/// One call to AWS KMS.
const CALL_DEADLINE: Duration = Duration::from_secs(3);
/// One signature with all its retries, counted from when it gets a permit.
const SIGN_DEADLINE: Duration = Duration::from_secs(10);
/// Reading profiles and finding the region, which may ask the instance metadata service.
const CONFIG_DEADLINE: Duration = Duration::from_secs(10);
/// The first call also finds credentials (metadata service, STS), so it may take longer.
const FIRST_CALL_DEADLINE: Duration = Duration::from_secs(8);
/// Reading the public key, with all retries.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Used for signing if only an endpoint is configured: emulators accept any region.
const REGION_OF_A_BARE_ENDPOINT: &str = "us-east-1";

/// A key in AWS KMS and the client that reaches it.
#[derive(Clone)]
pub struct AwsKmsWallet {
    pub(super) inner: Arc<AwsKms>,
}

pub(super) struct AwsKms {
    client: aws_sdk_kms::Client,
    credentials: Arc<AwsCredentials>,
    /// Host and port of the proxy in use, for error messages.
    proxy: Option<String>,
    key_id: String,
    public_key: VerifyingKey,
    pub(super) address: Address,
    signing_permits: Semaphore,
    pub(super) metrics: OnceLock<Metrics>,
}

impl fmt::Debug for AwsKmsWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKmsWallet")
            .field("key_id", &self.inner.key_id)
            .field("address", &self.inner.address)
            .finish_non_exhaustive()
    }
}

impl AwsKmsWallet {
    /// Reads and checks the public key through a client of `config`, with its credentials.
    pub async fn connect(config: &SdkConfig, key_id: &str) -> Result<Self, WalletError> {
        let given = config.credentials_provider();
        let credentials = AwsCredentials::new(config.region().cloned(), given);
        Self::open(config, key_id, credentials, None).await
    }

    pub(super) async fn open(
        config: &SdkConfig,
        key_id: &str,
        credentials: AwsCredentials,
        proxy: Option<String>,
    ) -> Result<Self, WalletError> {
        let credentials = Arc::new(credentials);
        // We retry ourselves: the SDK's retries would hide how long a signature takes and count against
        // the same deadline.
        let config = aws_sdk_kms::config::Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .credentials_provider(CredentialsProvider(Arc::clone(&credentials)))
            .identity_cache(IdentityCache::no_cache())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CALL_DEADLINE).build())
            .build();
        let client = aws_sdk_kms::Client::from_conf(config);
        let output = call_with_retries(
            CONNECT_DEADLINE,
            FIRST_CALL_DEADLINE,
            proxy.as_deref(),
            |error| refresh_refused_credentials(&credentials, error),
            || client.get_public_key().key_id(key_id).send(),
        )
        .await?;
        let public_key = usable_public_key(&output)?;
        Ok(Self {
            inner: Arc::new(AwsKms {
                client,
                credentials,
                proxy,
                key_id: key_id.to_owned(),
                address: Address::from_public_key(&public_key),
                public_key,
                signing_permits: Semaphore::new(CONCURRENT_SIGNATURES),
                metrics: OnceLock::new(),
            }),
        })
    }

    pub(super) async fn sign_hash(&self, hash: B256) -> Result<Signature, WalletError> {
        let kms = &*self.inner;
        // Waiting for a permit is back-pressure, not an outage: the deadline starts afterwards.
        let _turn = kms
            .signing_permits
            .acquire()
            .await
            .map_err(|_| WalletError::Unavailable { what: "the wallet is closed".into() })?;
        let failed = |error: &WalletError| {
            refresh_refused_credentials(&kms.credentials, error);
            if let (WalletError::Throttled { .. }, Some(metrics)) = (error, kms.metrics.get()) {
                metrics.signing_throttled();
            }
        };
        let proxy = kms.proxy.as_deref();
        let output = call_with_retries(SIGN_DEADLINE, CALL_DEADLINE, proxy, failed, || {
            kms.client
                .sign()
                .key_id(&kms.key_id)
                .message(Blob::new(hash.as_slice()))
                .message_type(MessageType::Digest)
                .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
                .send()
        })
        .await?;
        recoverable_signature(&output, hash, &kms.public_key)
    }
}

/// Discards cached credentials that AWS refused, so that new ones are looked up.
fn refresh_refused_credentials(credentials: &AwsCredentials, error: &WalletError) {
    if let WalletError::SessionEnded { .. } | WalletError::CredentialsRefused { .. } = error {
        credentials.invalidate();
    }
}

/// Repeats a call until it succeeds, the error cannot be fixed by waiting, or the deadline passes. Calls
/// `failed` with each error. `proxy`: the proxy in use, named in errors.
pub(super) async fn call_with_retries<T, E, R, F>(
    deadline: Duration,
    per_call: Duration,
    proxy: Option<&str>,
    failed: impl Fn(&WalletError),
    mut call: impl FnMut() -> F,
) -> Result<T, WalletError>
where
    F: Future<Output = Result<T, SdkError<E, R>>>,
    E: ProvideErrorMetadata + StdError + 'static,
    R: fmt::Debug,
{
    let end = Instant::now() + deadline;
    let (mut backoff, dice) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), Dice::default());
    loop {
        let error = match timeout_at(end, timeout(per_call, call())).await {
            Ok(Ok(Ok(output))) => return Ok(output),
            Ok(Ok(Err(error))) => classify(&error),
            Ok(Err(_)) | Err(_) => WalletError::Unreachable {
                what: format!("no answer within {} s", per_call.as_secs()).into(),
            },
        };
        let error = match (error, proxy) {
            (WalletError::Unreachable { what }, Some(proxy)) => WalletError::Unreachable {
                what: UntrustedText::of(format_args!("through the proxy {proxy}: {what}")),
            },
            (error, _) => error,
        };
        failed(&error);
        let pause = backoff.next_delay(dice.roll());
        if error.remedy() != Remedy::Retry || Instant::now() + pause >= end {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// The default AWS configuration, overridden by ours.
pub(super) async fn sdk_config(
    key_id: &str,
    region: Option<&str>,
    endpoint: Option<&Url>,
    http: Option<SharedHttpClient>,
) -> Result<SdkConfig, WalletError> {
    // `AwsCredentials` looks them up.
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).no_credentials();
    if let Some(http) = http {
        loader = loader.http_client(http);
    }
    if let Some(region) = region.or_else(|| region_of_arn(key_id)) {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint.as_str());
    }
    let config = timeout(CONFIG_DEADLINE, loader.load()).await.map_err(|_| {
        WalletError::Unavailable { what: "the AWS configuration was not found in time".into() }
    })?;
    match (config.region(), endpoint) {
        (Some(_), _) => Ok(config),
        (None, Some(_)) => {
            Ok(config.into_builder().region(Region::from_static(REGION_OF_A_BARE_ENDPOINT)).build())
        }
        (None, None) => Err(WalletError::NoRegion),
    }
}

/// The region in `arn:partition:kms:REGION:account:…`.
pub(super) fn region_of_arn(key_id: &str) -> Option<&str> {
    let mut parts = key_id.strip_prefix("arn:")?.split(':');
    parts.nth(2).filter(|region| !region.is_empty())
}

/// The public key, if the key can sign Ethereum transactions.
pub(super) fn usable_public_key(output: &GetPublicKeyOutput) -> Result<VerifyingKey, WalletError> {
    let spec = output.key_spec();
    let usage = output.key_usage();
    // An emulator may leave a field out; then the encoding of the key below decides.
    if spec.is_some_and(|spec| *spec != KeySpec::EccSecgP256K1)
        || usage.is_some_and(|usage| *usage != KeyUsageType::SignVerify)
    {
        return Err(WalletError::UnsuitableKey {
            found: UntrustedText::of(format_args!(
                "{} for {}",
                spec.map_or("unknown", KeySpec::as_str),
                usage.map_or("unknown", KeyUsageType::as_str)
            )),
        });
    }
    let der = output.public_key().ok_or(WalletError::InvalidAnswer("it holds no public key"))?;
    VerifyingKey::from_public_key_der(der.as_ref()).map_err(|_| WalletError::UnsuitableKey {
        found: "a public key that is not on secp256k1".into(),
    })
}

/// Converts a signature to Ethereum's form: low-s, with the parity that recovers to `public_key`.
pub(super) fn recoverable_signature(
    output: &SignOutput,
    hash: B256,
    public_key: &VerifyingKey,
) -> Result<Signature, WalletError> {
    let der = output.signature().ok_or(WalletError::InvalidAnswer("it holds no signature"))?;
    let signature = k256::ecdsa::Signature::from_der(der.as_ref())
        .map_err(|_| WalletError::InvalidAnswer("the signature is not DER"))?;
    let signature = signature.normalize_s().unwrap_or(signature);
    [false, true]
        .into_iter()
        .map(|parity| Signature::from_signature_and_parity(signature, parity))
        .find(|candidate| {
            candidate.recover_from_prehash(&hash).is_ok_and(|found| found == *public_key)
        })
        .ok_or(WalletError::DifferentKey)
}
