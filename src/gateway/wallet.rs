//! The key that signs this connector's transactions: a private key in memory, or a key in AWS KMS that
//! never leaves it.
//!
//! Invariants: the address is known from the start and never changes, so a KMS alias that is moved to
//! another key is an error and never sends from another account. Every signature is low-s and recovers
//! to [`Wallet::address`] before it is returned. No key is ever printed, by an error or by `Debug`.
//!
//! Deliberately absent: nonces, transactions, chain ids. A wallet signs 32-byte hashes.

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
use rustls::pki_types::CertificateDer;
use secp256k1::{Message, Secp256k1, SecretKey, SignOnly};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::aws::{AwsCredentials, Lack, Provider};
use crate::backoff::Backoff;
use crate::dice::Dice;
use crate::domain::{Address, B256, Hold, HoldReason, OutsideText, Remedy};
use crate::metrics::Metrics;
use crate::proxy::Proxies;
use crate::tls;

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

/// Signs hashes with one secp256k1 key. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Wallet {
    Local(LocalWallet),
    AwsKms(AwsKmsWallet),
}

impl Wallet {
    /// A wallet in memory. `key`: a big-endian secp256k1 scalar; the caller wipes its copy.
    ///
    /// Errors: [`WalletError::InvalidPrivateKey`] unless it has 32 bytes within the curve's order.
    pub fn from_private_key(key: &[u8]) -> Result<Self, WalletError> {
        // The library pads a short key with zeros, so a key that lost digits would silently open another
        // account.
        let key: &[u8; 32] = key.try_into().map_err(|_| WalletError::InvalidPrivateKey)?;
        let secret =
            SecretKey::from_byte_array(*key).map_err(|_| WalletError::InvalidPrivateKey)?;
        Ok(Self::Local(LocalWallet(Arc::new(LocalKey::new(secret)))))
    }

    /// A wallet in AWS KMS. Reads the public key once to prove that the key is usable.
    ///
    /// `key_id`: a key id, key ARN, alias name or alias ARN. Without `region`: the ARN's region, else
    /// that of the default AWS configuration. Credentials come from the default AWS chain.
    pub async fn aws_kms(
        key_id: &str,
        region: Option<&str>,
        endpoint: Option<&Url>,
    ) -> Result<Self, WalletError> {
        Self::aws_kms_by(key_id, region, endpoint, &Proxies::default(), &[]).await
    }

    /// The same, through the proxy that `proxies` names for the endpoint, if any, with `authorities`
    /// trusted besides the system's.
    pub async fn aws_kms_by(
        key_id: &str,
        region: Option<&str>,
        endpoint: Option<&Url>,
        proxies: &Proxies,
        authorities: &[CertificateDer<'_>],
    ) -> Result<Self, WalletError> {
        let http = proxies.aws_client(authorities);
        let config = sdk_config(key_id, region, endpoint, http.clone()).await?;
        let credentials = AwsCredentials::new(config.region().cloned(), None);
        if let Some(http) = http {
            credentials.through(http);
        }
        let region = config.region().map_or("", Region::as_ref);
        let usual = || Url::parse(&format!("https://kms.{region}.amazonaws.com")).ok();
        let url = endpoint.cloned().or_else(usual).filter(|url| url.scheme() == "https");
        let proxy = url.and_then(|url| proxies.name_on_the_way(&url));
        AwsKmsWallet::open(&config, key_id, credentials, proxy).await.map(Self::AwsKms)
    }

    /// Counts throttled signatures in these metrics. Only the first call has an effect.
    pub fn count_with(&self, metrics: &Metrics) {
        if let Self::AwsKms(kms) = self {
            let _ = kms.inner.metrics.set(metrics.clone());
        }
    }

    /// The account that all signatures recover to.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Local(local) => local.0.address,
            Self::AwsKms(kms) => kms.inner.address,
        }
    }

    /// Signs `hash` as it is: no prefix, no second hash. Low-s. Dropping the future is safe.
    pub async fn sign_hash(&self, hash: B256) -> Result<Signature, WalletError> {
        match self {
            Self::Local(local) => Ok(local.0.sign(hash)),
            Self::AwsKms(kms) => kms.sign_hash(hash).await,
        }
    }
}

/// A private key in memory, wiped when the last clone is dropped.
#[derive(Clone)]
pub struct LocalWallet(Arc<LocalKey>);

impl fmt::Debug for LocalWallet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalWallet").field("address", &self.0.address).finish_non_exhaustive()
    }
}

/// Signs with libsecp256k1, which takes half the time of the pure Rust implementation.
struct LocalKey {
    curve: Secp256k1<SignOnly>,
    secret: SecretKey,
    address: Address,
}

impl LocalKey {
    fn new(secret: SecretKey) -> Self {
        let curve = Secp256k1::signing_only();
        // The first byte only marks the encoding as uncompressed.
        let public = secret.public_key(&curve).serialize_uncompressed();
        Self { curve, secret, address: Address::from_raw_public_key(&public[1..]) }
    }

    /// Low-s and deterministic (RFC 6979).
    fn sign(&self, hash: B256) -> Signature {
        let message = Message::from_digest(hash.0);
        let signature = self.curve.sign_ecdsa_recoverable(message, &self.secret);
        let (id, bytes) = signature.serialize_compact();
        Signature::from_bytes_and_parity(&bytes, i32::from(id) & 1 == 1)
    }
}

impl Drop for LocalKey {
    fn drop(&mut self) {
        self.secret.non_secure_erase();
    }
}

/// A key in AWS KMS and the client that reaches it.
#[derive(Clone)]
pub struct AwsKmsWallet {
    inner: Arc<AwsKms>,
}

struct AwsKms {
    client: aws_sdk_kms::Client,
    credentials: Arc<AwsCredentials>,
    /// Host and port of the proxy in use, for error messages.
    proxy: Option<String>,
    key_id: String,
    public_key: VerifyingKey,
    address: Address,
    turns: Semaphore,
    metrics: OnceLock<Metrics>,
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

    async fn open(
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
            .credentials_provider(Provider(Arc::clone(&credentials)))
            .identity_cache(IdentityCache::no_cache())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CALL_DEADLINE).build())
            .build();
        let client = aws_sdk_kms::Client::from_conf(config);
        let output = persevere(
            CONNECT_DEADLINE,
            FIRST_CALL_DEADLINE,
            proxy.as_deref(),
            |error| doubt(&credentials, error),
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
                turns: Semaphore::new(CONCURRENT_SIGNATURES),
                metrics: OnceLock::new(),
            }),
        })
    }

    async fn sign_hash(&self, hash: B256) -> Result<Signature, WalletError> {
        let kms = &*self.inner;
        // Waiting for a permit is back-pressure, not an outage: the deadline starts afterwards.
        let _turn = kms
            .turns
            .acquire()
            .await
            .map_err(|_| WalletError::Unavailable { what: "the wallet is closed".into() })?;
        let failed = |error: &WalletError| {
            doubt(&kms.credentials, error);
            if let (WalletError::Throttled { .. }, Some(metrics)) = (error, kms.metrics.get()) {
                metrics.signing_throttled();
            }
        };
        let proxy = kms.proxy.as_deref();
        let output = persevere(SIGN_DEADLINE, CALL_DEADLINE, proxy, failed, || {
            kms.client
                .sign()
                .key_id(&kms.key_id)
                .message(Blob::new(hash.as_slice()))
                .message_type(MessageType::Digest)
                .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
                .send()
        })
        .await?;
        recoverable(&output, hash, &kms.public_key)
    }
}

/// Discards cached credentials that AWS refused, so that new ones are looked up.
fn doubt(credentials: &AwsCredentials, error: &WalletError) {
    if let WalletError::SessionEnded { .. } | WalletError::CredentialsRefused { .. } = error {
        credentials.doubt();
    }
}

/// Repeats a call until it succeeds, the error cannot be fixed by waiting, or the deadline passes. Calls
/// `failed` with each error. `proxy`: the proxy in use, named in errors.
async fn persevere<T, E, R, F>(
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
            Ok(Err(_)) | Err(_) => WalletError::Unreached {
                what: format!("no answer within {} s", per_call.as_secs()).into(),
            },
        };
        let error = match (error, proxy) {
            (WalletError::Unreached { what }, Some(proxy)) => WalletError::Unreached {
                what: OutsideText::of(format_args!("through the proxy {proxy}: {what}")),
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
async fn sdk_config(
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
fn region_of_arn(key_id: &str) -> Option<&str> {
    let mut parts = key_id.strip_prefix("arn:")?.split(':');
    parts.nth(2).filter(|region| !region.is_empty())
}

/// The public key, if the key can sign Ethereum transactions.
fn usable_public_key(output: &GetPublicKeyOutput) -> Result<VerifyingKey, WalletError> {
    let spec = output.key_spec();
    let usage = output.key_usage();
    // An emulator may leave a field out; then the encoding of the key below decides.
    if spec.is_some_and(|spec| *spec != KeySpec::EccSecgP256K1)
        || usage.is_some_and(|usage| *usage != KeyUsageType::SignVerify)
    {
        return Err(WalletError::UnsuitableKey {
            found: OutsideText::of(format_args!(
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
fn recoverable(
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
        .ok_or(WalletError::OtherKey)
}

/// Why a wallet cannot be opened or cannot sign. Carries no key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    #[error("the private key is not a 32-byte secp256k1 key")]
    InvalidPrivateKey,
    #[error("AWS KMS throttles ({code})")]
    Throttled { code: OutsideText },
    #[error("AWS KMS unavailable: {what}")]
    Unavailable { what: OutsideText },
    /// No answer, or none that can be read.
    #[error("AWS KMS unavailable: {what}")]
    Unreached { what: OutsideText },
    #[error("AWS KMS denies access ({code}): allow kms:GetPublicKey and kms:Sign on this key")]
    AccessDenied { code: OutsideText },
    #[error(transparent)]
    NoCredentials(Lack),
    #[error("AWS KMS refuses the credentials ({code}): {to_do}")]
    CredentialsRefused { code: OutsideText, to_do: &'static str },
    #[error(
        "the AWS session has ended ({code}): renew the credentials of the process, which are looked \
         for again every few seconds"
    )]
    SessionEnded { code: OutsideText },
    #[error("AWS KMS says that the clock of this machine is wrong ({code}): set it right")]
    Clock { code: OutsideText },
    #[error("no AWS region known: set aws_kms_config.region")]
    NoRegion,
    #[error("the AWS KMS key is not enabled ({code})")]
    KeyDisabled { code: OutsideText },
    #[error("AWS KMS does not know this key in this region ({code})")]
    NotFound { code: OutsideText },
    #[error("the AWS KMS key is {found}; needed is ECC_SECG_P256K1 for SIGN_VERIFY")]
    UnsuitableKey { found: OutsideText },
    #[error(
        "AWS KMS signed with another key than at start: was the alias moved? Restart to use it"
    )]
    OtherKey,
    #[error("AWS KMS gave a useless answer: {0}")]
    InvalidAnswer(&'static str),
    #[error("AWS KMS refuses the call ({code})")]
    Rejected { code: OutsideText },
}

impl WalletError {
    /// Stable, for counting and throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidPrivateKey => "invalid_private_key",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable { .. } => "unavailable",
            Self::Unreached { .. } => "unreached",
            Self::AccessDenied { .. } => "access_denied",
            Self::NoCredentials(_) => "no_credentials",
            Self::CredentialsRefused { .. } => "credentials_refused",
            Self::SessionEnded { .. } => "session_ended",
            Self::Clock { .. } => "clock",
            Self::NoRegion => "no_region",
            Self::KeyDisabled { .. } => "key_disabled",
            Self::NotFound { .. } => "not_found",
            Self::UnsuitableKey { .. } => "unsuitable_key",
            Self::OtherKey => "other_key",
            Self::InvalidAnswer(_) => "invalid_answer",
            Self::Rejected { .. } => "rejected",
        }
    }

    /// Retry what time alone fixes; hold what needs an operator.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoCredentials(lack) if !lack.needs_somebody() => Remedy::Retry,
            Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::Unreached { .. }
            | Self::SessionEnded { .. }
            | Self::Clock { .. }
            | Self::InvalidAnswer(_) => Remedy::Retry,
            Self::InvalidPrivateKey
            | Self::AccessDenied { .. }
            | Self::NoCredentials(_)
            | Self::CredentialsRefused { .. }
            | Self::NoRegion
            | Self::KeyDisabled { .. }
            | Self::NotFound { .. }
            | Self::UnsuitableKey { .. }
            | Self::OtherKey
            | Self::Rejected { .. } => {
                Remedy::Hold(Hold::new(HoldReason::AccessDenied, format!("wallet: {self}")))
            }
        }
    }
}

/// Classifies an SDK error.
fn classify<E, R>(error: &SdkError<E, R>) -> WalletError
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: fmt::Debug,
{
    match error {
        SdkError::ServiceError(service) => classify_code(service.err().code()),
        SdkError::TimeoutError(_) => WalletError::Unreached { what: "a call timed out".into() },
        SdkError::ResponseError(_) => {
            WalletError::Unreached { what: "the response was cut or unreadable".into() }
        }
        SdkError::DispatchFailure(failure) => {
            let cause =
                failure.as_connector_error().map(|error| error as &(dyn StdError + 'static));
            classify_dispatch(cause)
        }
        SdkError::ConstructionFailure(_) => classify_dispatch(StdError::source(error)),
        _ => WalletError::Unavailable { what: "unknown failure of the AWS client".into() },
    }
}

/// Classifies a call that got no answer: no credentials, or no connection.
fn classify_dispatch(error: Option<&(dyn StdError + 'static)>) -> WalletError {
    if let Some(lack) = error.and_then(Lack::behind) {
        return WalletError::NoCredentials(lack);
    }
    let mut innermost = OutsideText::from("not sent");
    let mut next = error;
    while let Some(error) = next {
        innermost = OutsideText::of(error);
        next = error.source();
    }
    let advice = error.map_or("", tls::advice);
    WalletError::Unreached { what: OutsideText::of(format_args!("{innermost}{advice}")) }
}

/// The table of AWS error codes. Codes are a stable interface; messages are not read.
fn classify_code(code: Option<&str>) -> WalletError {
    let Some(code) = code else {
        return WalletError::Unavailable { what: "an error without a code".into() };
    };
    let owned = OutsideText::from(code);
    match code {
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "RequestThrottledException"
        | "SlowDown"
        | "LimitExceededException" => WalletError::Throttled { code: owned },
        "DependencyTimeoutException"
        | "KeyUnavailableException"
        | "KMSInternalException"
        | "InternalFailure"
        | "InternalError"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException" => WalletError::Unavailable { what: owned },
        "ExpiredTokenException" | "ExpiredToken" | "TokenRefreshRequired" => {
            WalletError::SessionEnded { code: owned }
        }
        "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => {
            WalletError::Clock { code: owned }
        }
        "AccessDeniedException"
        | "AccessDenied"
        | "NotAuthorized"
        | "KMSAccessDeniedException"
        | "OptInRequired" => WalletError::AccessDenied { code: owned },
        "UnrecognizedClientException" | "InvalidClientTokenId" => WalletError::CredentialsRefused {
            code: owned,
            to_do: "the access key, or its session, is not known there: give the process credentials \
                    of the key's account",
        },
        // Only its message tells the two causes apart, and messages are not read.
        "InvalidSignatureException" | "SignatureDoesNotMatch" => WalletError::CredentialsRefused {
            code: owned,
            to_do: "the secret key is not the one of the access key, or the clock of this machine is \
                    wrong",
        },
        "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => WalletError::CredentialsRefused {
            code: owned,
            to_do: "does something on the way take the signature out of the calls?",
        },
        "DisabledException" | "KMSInvalidStateException" => {
            WalletError::KeyDisabled { code: owned }
        }
        "NotFoundException" | "InvalidArnException" => WalletError::NotFound { code: owned },
        "InvalidKeyUsageException" | "UnsupportedOperationException" => {
            WalletError::UnsuitableKey { found: format!("of another kind ({code})").into() }
        }
        _ => WalletError::Rejected { code: owned },
    }
}

#[cfg(test)]
mod tests;
