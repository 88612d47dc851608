//! Why the access check ends a request: only what neither time nor an operator can change.

use std::fmt;

use super::stable_words::stable_words;

stable_words! {
    /// The words are stable: the journal, logs and metrics use them.
    pub enum AccessRefusalReason;

    /// The request's transaction does not call the Decryption contract itself.
    ForeignCall = "foreign_call",
    /// The transaction's calldata does not ask for what the event says.
    CalldataDiffers = "calldata_differs",
    /// Nobody who may ask has signed the terms.
    SignatureInvalid = "signature_invalid",
    /// The user has invalidated the signature.
    SignatureInvalidated = "signature_invalidated",
    /// The signature is not valid any more.
    ValidityExpired = "validity_expired",
    /// The user, or the delegator, is one of the contracts that the terms name.
    UserAmongContracts = "user_among_contracts",
    /// The handles of one user request belong to several host chains.
    HandlesOfSeveralChains = "handles_of_several_chains",
    /// The event's materials are not those of its handles.
    MaterialsDiffer = "materials_differ",
    /// The KMS context or the epoch was destroyed.
    ContextDestroyed = "context_destroyed",
    /// The KMS context that the request was made in is not the current one any more.
    ContextChanged = "context_changed",
    /// The contract takes no such extraData.
    ExtraDataInvalid = "extra_data_invalid",
}

/// The reason, and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRefusal {
    pub reason: AccessRefusalReason,
    /// One sentence for the operator.
    pub detail: String,
}

impl AccessRefusal {
    pub fn new(reason: AccessRefusalReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for AccessRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.detail)
    }
}
