//! Why a bucket did not deliver a ciphertext.

use super::{
    BucketLookupError,
    attestation::AttestationError,
    bucket::UnusableUrl,
    memory::LARGEST_CIPHERTEXT,
    s3_error::{S3Error, S3ErrorKind},
};
use crate::domain::UntrustedText;

/// Why a bucket did not deliver a ciphertext. Contains no URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    #[error("no bucket URL is registered")]
    NoUrl,
    #[error("not a registered coprocessor")]
    Unregistered,
    #[error("the bucket URL could not be looked up: {0}")]
    Lookup(#[source] BucketLookupError),
    #[error("the bucket URL could not be looked up: no answer in time")]
    LookupLate,
    #[error(transparent)]
    UnusableUrl(#[from] UnusableUrl),
    #[error("{0}")]
    Unsignable(&'static str),
    #[error("cannot connect: {0}")]
    Connect(UntrustedText),
    #[error("no answer in time")]
    Silent,
    /// The bucket answered, but not with an object.
    #[error(transparent)]
    Refused(#[from] S3Error),
    #[error("{bytes} bytes or more, above the protocol's limit of {LARGEST_CIPHERTEXT}")]
    TooLarge { bytes: u64 },
    /// Larger than its share of the reserved memory. `bytes`: the announced size, or an estimate.
    #[error("{bytes} bytes, more than there is memory for")]
    LargerThanShare { bytes: u64 },
    #[error("stalled after {received} bytes")]
    Stalled { received: u64 },
    #[error("too slow: {received} bytes in {seconds} s")]
    TooSlow { received: u64, seconds: u64 },
    #[error("cut after {received} bytes: {why}")]
    Cut { received: u64, why: UntrustedText },
    #[error("wrong bytes: {received} of them, with another digest")]
    WrongBytes { received: u64 },
    /// What it says about the ciphertext does not count.
    #[error(transparent)]
    Attestation(#[from] AttestationError),
}

impl BucketError {
    /// Stable, for metrics and log throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoUrl => "no_url",
            Self::Unregistered => "unregistered",
            Self::Lookup(error) => error.code,
            Self::LookupLate => "lookup_late",
            Self::UnusableUrl(_) => "unusable_url",
            Self::Unsignable(_) => "unsignable",
            Self::Connect(_) => "connect",
            Self::Silent => "silent",
            Self::Refused(error) => error.code(),
            Self::TooLarge { .. } => "too_large",
            Self::LargerThanShare { .. } => "outgrown",
            Self::Stalled { .. } => "stalled",
            Self::TooSlow { .. } => "too_slow",
            Self::Cut { .. } => "cut",
            Self::WrongBytes { .. } => "wrong_digest",
            Self::Attestation(error) => error.code(),
        }
    }

    /// Returns whether the bucket as a whole is at fault, and not just this object missing.
    pub(super) fn is_bucket_fault(&self) -> bool {
        match self {
            Self::Refused(error) => error.kind() != S3ErrorKind::Missing,
            Self::LargerThanShare { .. }
            | Self::NoUrl
            | Self::Unregistered
            | Self::Lookup(_)
            | Self::LookupLate => false,
            Self::UnusableUrl(_)
            | Self::Unsignable(_)
            | Self::Connect(_)
            | Self::Silent
            | Self::TooLarge { .. }
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::Cut { .. }
            | Self::WrongBytes { .. }
            | Self::Attestation(_) => true,
        }
    }

    /// Returns whether the bucket was not heard at all: what it would say is unknown.
    pub(super) fn is_silence(&self) -> bool {
        match self {
            Self::Refused(error) => error.kind() == S3ErrorKind::Status,
            Self::Connect(_)
            | Self::Silent
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::Cut { .. } => true,
            Self::NoUrl
            | Self::Unregistered
            | Self::Lookup(_)
            | Self::LookupLate
            | Self::UnusableUrl(_)
            | Self::Unsignable(_)
            | Self::TooLarge { .. }
            | Self::LargerThanShare { .. }
            | Self::WrongBytes { .. }
            | Self::Attestation(_) => false,
        }
    }

    /// What an operator can do, if anything. `own`: it is the bucket of `[s3_config]`. `proxy`: the proxy
    /// that the call went through.
    #[must_use]
    pub fn remedy(&self, own: bool, proxy: Option<&str>) -> Option<String> {
        match (self, proxy) {
            (Self::Refused(error), Some(proxy)) if error.status == 407 => {
                Some(format!("correct user name and password of the proxy {proxy}"))
            }
            (Self::Connect(_) | Self::Silent, Some(proxy)) => {
                Some(format!("check the proxy {proxy}, and whether it may connect there"))
            }
            (Self::Connect(_) | Self::Silent, None) if own => {
                Some("check the connection to that bucket, and [s3_config]".to_owned())
            }
            (Self::Connect(_) | Self::Silent, None) => {
                Some("check the connection to that bucket, or tell its coprocessor".to_owned())
            }
            (Self::Refused(error), _) => error.remedy(own),
            (Self::WrongBytes { .. }, _) => {
                Some("have its coprocessor store the right bytes again".to_owned())
            }
            (Self::Attestation(_), _) => {
                Some("have its coprocessor correct its attestation".to_owned())
            }
            (
                Self::NoUrl
                | Self::Unregistered
                | Self::Lookup(_)
                | Self::LookupLate
                | Self::UnusableUrl(_)
                | Self::Unsignable(_)
                | Self::TooLarge { .. }
                | Self::LargerThanShare { .. }
                | Self::Stalled { .. }
                | Self::TooSlow { .. }
                | Self::Cut { .. },
                _,
            ) => None,
        }
    }
}
