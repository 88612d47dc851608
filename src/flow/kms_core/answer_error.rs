//! Why an answer of the Core is not accepted. The request is held for each of them.

use std::fmt;

use crate::domain::{Address, Hold, HoldReason, UntrustedText};

/// Why an answer is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It makes no sense.
    #[error("the KMS Core's answer is unusable: {why}")]
    Invalid { why: UntrustedText },
    #[error(transparent)]
    WrongSigner(#[from] WrongSigner),
}

/// The answer is signed, and by nobody whom this node has registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct WrongSigner {
    /// A registered signer.
    pub expected: Address,
    /// The answer recovers to this one, read as the request wants it.
    pub signer: Address,
    pub cause: WrongSignerCause,
}

/// What the signature shows beyond that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongSignerCause {
    /// Nothing: another key, or another content.
    Unknown,
    /// The registered signer signed, without `extraData`.
    CoreTooOld,
    /// The registered signer signed, with `extraData`.
    CoreTooNew,
}

impl fmt::Display for WrongSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, signer, cause } = self;
        match cause {
            WrongSignerCause::Unknown => write!(
                f,
                "the KMS Core's answer recovers to {signer}, but this node's registered signer is \
                 {expected}: the Core has another signing key, or serves another chain or contract"
            ),
            WrongSignerCause::CoreTooOld => write!(
                f,
                "the KMS Core signed as {expected} without extraData, which this contract requires \
                 (so its answer recovers to {signer}): the Core is too old for this gateway"
            ),
            WrongSignerCause::CoreTooNew => write!(
                f,
                "the KMS Core signed as {expected} with extraData, which this contract does not know \
                 (so its answer recovers to {signer}): the Core is too new for this gateway"
            ),
        }
    }
}

impl AnswerError {
    /// It makes no sense, for this reason.
    pub(super) fn invalid(why: impl fmt::Display) -> Self {
        Self::Invalid { why: UntrustedText::of(why) }
    }

    fn reason(&self) -> HoldReason {
        match self {
            Self::Invalid { .. } => HoldReason::InvalidAnswer,
            Self::WrongSigner(_) => HoldReason::SignerMismatch,
        }
    }

    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.reason().as_str()
    }

    /// The hold of the request.
    #[must_use]
    pub fn hold(&self) -> Hold {
        Hold::new(self.reason(), self.to_string())
    }
}
