//! The key that signs this connector's transactions: a private key in memory, or a key in AWS KMS that
//! never leaves it.
//!
//! Invariants: the address is known from the start and never changes, so a KMS alias that is moved to
//! another key is an error and never sends from another account. Every signature is low-s and recovers
//! to [`Wallet::address`] before it is returned. No key is ever printed, by an error or by `Debug`.
//!
//! Deliberately absent: nonces, transactions, chain ids. A wallet signs 32-byte hashes.

mod local;
mod aws_kms;
mod aws_errors;

use std::sync::Arc;

use alloy::primitives::Signature;
use aws_config::Region;
use rustls::pki_types::CertificateDer;
use secp256k1::SecretKey;
use url::Url;

use self::aws_kms::sdk_config;
use self::local::LocalKey;
pub use self::{aws_kms::AwsKmsWallet, local::LocalWallet};
use crate::domain::{Address, B256, Hold, HoldReason, Remedy, UntrustedText};
use crate::net::aws::{AwsCredentials, MissingCredentials};
use crate::net::proxy::Proxies;
use crate::telemetry::metrics::Metrics;

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
        Self::aws_kms_through(key_id, region, endpoint, &Proxies::default(), &[]).await
    }

    /// The same, through the proxy that `proxies` names for the endpoint, if any, with `authorities`
    /// trusted besides the system's.
    pub async fn aws_kms_through(
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
            credentials.set_http_client(http);
        }
        let region = config.region().map_or("", Region::as_ref);
        let usual = || Url::parse(&format!("https://kms.{region}.amazonaws.com")).ok();
        let url = endpoint.cloned().or_else(usual).filter(|url| url.scheme() == "https");
        let proxy = url.and_then(|url| proxies.proxy_name_for(&url));
        AwsKmsWallet::open(&config, key_id, credentials, proxy).await.map(Self::AwsKms)
    }

    /// Counts throttled signatures in these metrics. Only the first call has an effect.
    pub fn set_metrics(&self, metrics: &Metrics) {
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

/// Why a wallet cannot be opened or cannot sign. Carries no key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    #[error("the private key is not a 32-byte secp256k1 key")]
    InvalidPrivateKey,
    #[error("AWS KMS throttles ({code})")]
    Throttled { code: UntrustedText },
    #[error("AWS KMS unavailable: {what}")]
    Unavailable { what: UntrustedText },
    /// No answer, or none that can be read.
    #[error("AWS KMS unavailable: {what}")]
    Unreachable { what: UntrustedText },
    #[error("AWS KMS denies access ({code}): allow kms:GetPublicKey and kms:Sign on this key")]
    AccessDenied { code: UntrustedText },
    #[error(transparent)]
    NoCredentials(MissingCredentials),
    #[error("AWS KMS refuses the credentials ({code}): {to_do}")]
    CredentialsRefused { code: UntrustedText, to_do: &'static str },
    #[error(
        "the AWS session has ended ({code}): renew the credentials of the process, which are looked \
         for again every few seconds"
    )]
    SessionEnded { code: UntrustedText },
    #[error("AWS KMS says that the clock of this machine is wrong ({code}): correct it")]
    ClockSkew { code: UntrustedText },
    #[error("no AWS region known: set aws_kms_config.region")]
    NoRegion,
    #[error("the AWS KMS key is not enabled ({code})")]
    KeyDisabled { code: UntrustedText },
    #[error("AWS KMS does not know this key in this region ({code})")]
    NotFound { code: UntrustedText },
    #[error("the AWS KMS key is {found}; needed is ECC_SECG_P256K1 for SIGN_VERIFY")]
    UnsuitableKey { found: UntrustedText },
    #[error(
        "AWS KMS signed with another key than at start: was the alias moved? Restart to use it"
    )]
    DifferentKey,
    #[error("AWS KMS gave an unusable answer: {0}")]
    InvalidAnswer(&'static str),
    #[error("AWS KMS refuses the call ({code})")]
    Rejected { code: UntrustedText },
}

impl WalletError {
    /// Stable, for counting and throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidPrivateKey => "invalid_private_key",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable { .. } => "unavailable",
            Self::Unreachable { .. } => "unreached",
            Self::AccessDenied { .. } => "access_denied",
            Self::NoCredentials(_) => "no_credentials",
            Self::CredentialsRefused { .. } => "credentials_refused",
            Self::SessionEnded { .. } => "session_ended",
            Self::ClockSkew { .. } => "clock",
            Self::NoRegion => "no_region",
            Self::KeyDisabled { .. } => "key_disabled",
            Self::NotFound { .. } => "not_found",
            Self::UnsuitableKey { .. } => "unsuitable_key",
            Self::DifferentKey => "other_key",
            Self::InvalidAnswer(_) => "invalid_answer",
            Self::Rejected { .. } => "rejected",
        }
    }

    /// Retry what time alone fixes; hold what needs an operator.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoCredentials(lack) if !lack.needs_operator() => Remedy::Retry,
            Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::Unreachable { .. }
            | Self::SessionEnded { .. }
            | Self::ClockSkew { .. }
            | Self::InvalidAnswer(_) => Remedy::Retry,
            Self::InvalidPrivateKey
            | Self::AccessDenied { .. }
            | Self::NoCredentials(_)
            | Self::CredentialsRefused { .. }
            | Self::NoRegion
            | Self::KeyDisabled { .. }
            | Self::NotFound { .. }
            | Self::UnsuitableKey { .. }
            | Self::DifferentKey
            | Self::Rejected { .. } => {
                Remedy::Hold(Hold::new(HoldReason::AccessDenied, format!("wallet: {self}")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
