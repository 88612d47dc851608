//! What errors of AWS KMS mean: the table of its codes, and calls that got no answer.

use std::error::Error as StdError;
use std::fmt;

use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use super::WalletError;
use crate::domain::UntrustedText;
use crate::net::aws::MissingCredentials;
use crate::net::tls;

/// Classifies an SDK error.
pub(super) fn classify<E, R>(error: &SdkError<E, R>) -> WalletError
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: fmt::Debug,
{
    match error {
        SdkError::ServiceError(service) => classify_code(service.err().code()),
        SdkError::TimeoutError(_) => WalletError::Unreachable { what: "a call timed out".into() },
        SdkError::ResponseError(_) => {
            WalletError::Unreachable { what: "the response was cut or unreadable".into() }
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
    if let Some(lack) = error.and_then(MissingCredentials::find_in) {
        return WalletError::NoCredentials(lack);
    }
    let mut innermost = UntrustedText::from("not sent");
    let mut next = error;
    while let Some(error) = next {
        innermost = UntrustedText::of(error);
        next = error.source();
    }
    let advice = error.map_or("", tls::advice);
    WalletError::Unreachable { what: UntrustedText::of(format_args!("{innermost}{advice}")) }
}

/// The table of AWS error codes. Codes are a stable interface; messages are not read.
pub(super) fn classify_code(code: Option<&str>) -> WalletError {
    let Some(code) = code else {
        return WalletError::Unavailable { what: "an error without a code".into() };
    };
    let owned = UntrustedText::from(code);
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
            WalletError::ClockSkew { code: owned }
        }
        "AccessDeniedException"
        | "AccessDenied"
        | "NotAuthorized"
        | "KMSAccessDeniedException"
        | "OptInRequired" => WalletError::AccessDenied { code: owned },
        "UnrecognizedClientException" | "InvalidClientTokenId" => WalletError::CredentialsRefused {
            code: owned,
            to_do: "the access key or its session is unknown there: use credentials of the key's \
                    account",
        },
        // Only its message tells the two causes apart, and messages are not read.
        "InvalidSignatureException" | "SignatureDoesNotMatch" => WalletError::CredentialsRefused {
            code: owned,
            to_do: "the secret key does not belong to the access key, or the clock of this machine \
                    is wrong",
        },
        "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException" => WalletError::CredentialsRefused {
            code: owned,
            to_do: "the signature is missing: check proxies between this machine and AWS",
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
