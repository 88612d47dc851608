//! Decodes the revert data of a response call: which error it is, its text, and what it means for the
//! request (gateway-abi 4.4).
//!
//! Selectors never changed between generations, so one table serves all. An error that bubbles up from
//! `GatewayConfig` has the same selector as the contract's own.

mod origin;

use alloy::hex;
use alloy::primitives::Selector;
use alloy::sol;
use alloy::sol_types::{self, SolInterface};

pub use self::origin::{RaisedFor, Subject};
use super::DECODER;
use crate::domain::{Address, B256, Bytes, HoldReason, U256, UntrustedText};

sol! {
    interface Reverts {
        error DecryptionNotRequested(uint256 decryptionId);
        error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
        error NotKmsTxSender(address txSenderAddress);
        error NotKmsSigner(address signerAddress);
        error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
        error EnforcedPause();
        error DecryptionContextMismatch(
            uint256 decryptionId, uint256 requestContextId, uint256 responseContextId
        );
        error InvalidExtraDataLength(uint256 length, uint256 minimumLength);
        error UnsupportedExtraDataVersion(uint8 version);
        error InvalidKmsContext(uint256 kmsContextId);
        error InvalidNullContextId();
        error ECDSAInvalidSignature();
        error ECDSAInvalidSignatureLength(uint256 length);
        error ECDSAInvalidSignatureS(bytes32 s);
        error DecryptionNotDone(uint256 decryptionId);
        error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
        error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
        error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
        error PrepKeygenNotRequested(uint256 prepKeygenId);
        error KeygenNotRequested(uint256 keyId);
        error CrsgenNotRequested(uint256 crsId);
        error EmptyKeyDigests(uint256 keyId);
        error KeyManagementRequestPending();
        error DeserializingExtraDataFail();
        error KmsContextCreationAlreadyConfirmed(address txSender, uint256 kmsContextId);
        error KmsContextNotPending(uint256 kmsContextId);
        error KmsContextCreationUnauthorized(address caller, uint256 kmsContextId);
        error EpochActivationAlreadyConfirmed(address signer, uint256 epochId);
        error InvalidKmsEpoch(uint256 epochId);
        error InvalidEpoch(uint256 epochId);
        error EpochActivationUnauthorized(address caller, uint256 epochId);
        error KmsContextNotCreated(uint256 kmsContextId);
        error EmptyEpochActivationAttestation(uint256 epochId);
        error EpochActivationSignerDoesNotMatchTxSender(address signer, address txSender);
        error EpochNotUnderActiveContext(uint256 epochId, uint256 kmsContextId);
        error KmsLifecycleOperationInFlight(uint256 kmsContextId, uint256 epochId);
    }
}

use Reverts::RevertsErrors as Raised;

/// Errors of the owner's calls and of views (gateway-abi 6.2, 6.3), which no answer should meet: their names.
const OF_OTHER_CALLS: [([u8; 4], &str); 10] = [
    ([0x3b, 0x85, 0x3d, 0xa8], "KeygenOngoing(uint256)"),
    ([0x06, 0x1a, 0xc6, 0x1d], "CrsgenOngoing(uint256)"),
    ([0x84, 0xde, 0x13, 0x31], "KeyNotGenerated(uint256)"),
    ([0xda, 0x32, 0xd0, 0x0f], "CrsNotGenerated(uint256)"),
    ([0x83, 0xf1, 0x83, 0x35], "KeyAborted(uint256)"),
    ([0xd5, 0xfd, 0x3c, 0xd7], "CrsAborted(uint256)"),
    ([0xfc, 0xf2, 0xdb, 0x7a], "AbortKeygenInvalidId(uint256)"),
    ([0x92, 0x78, 0x9b, 0x67], "AbortKeygenAlreadyDone(uint256)"),
    ([0xcb, 0xe9, 0x26, 0x56], "AbortCrsgenInvalidId(uint256)"),
    ([0xdf, 0x0d, 0xb5, 0xfb], "AbortCrsgenAlreadyDone(uint256)"),
];

/// What is known of an error that no answer should meet.
fn known_as(selector: Selector) -> String {
    let known = OF_OTHER_CALLS.iter().find(|(known, _)| selector == *known);
    known.map_or_else(
        || format!("unknown error {selector}"),
        |(_, signature)| format!("{signature}, an error of another call,"),
    )
}

/// The error that a response call reverted with.
///
/// `Display` is one sentence for the operator; text from the chain is escaped and cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    #[error("the contract does not know decryption {0:#066x}")]
    DecryptionNotRequested(U256),
    #[error("decryption {id:#066x} already has an answer of KMS signer {signer}")]
    KmsNodeAlreadySigned { id: U256, signer: Address },
    #[error("wallet {0} is not a registered KMS transaction sender")]
    NotKmsTxSender(Address),
    #[error(
        "the answer's signature recovers to {0}, which is not a registered KMS signer: either the \
         node is not registered, or the KMS Core signed something else than was sent"
    )]
    NotKmsSigner(Address),
    #[error(
        "KMS signer {signer} is not that of wallet {tx_sender}'s KMS node: wallet and KMS Core are of \
         different nodes, or the wallet is registered for none"
    )]
    KmsSignerDoesNotMatchTxSender { signer: Address, tx_sender: Address },
    #[error("the contract is paused")]
    EnforcedPause,
    #[error(
        "the answer to decryption {id:#066x} is for KMS context {answered:#066x}, the request for \
         {requested:#066x}"
    )]
    DecryptionContextMismatch { id: U256, requested: U256, answered: U256 },
    #[error("the answer's extraData has {length} bytes, the contract wants at least {minimum}")]
    InvalidExtraDataLength { length: U256, minimum: U256 },
    #[error("the contract does not take extraData of version {0}")]
    UnsupportedExtraDataVersion(u8),
    #[error("KMS context {0:#066x} is unknown to the contract or destroyed")]
    InvalidKmsContext(U256),
    #[error("the contract does not take KMS context 0")]
    InvalidNullContextId,
    #[error("the answer's signature is malformed")]
    ECDSAInvalidSignature,
    #[error("the answer's signature has {0} bytes instead of 65")]
    ECDSAInvalidSignatureLength(U256),
    #[error("the answer's signature has the high s value {0}")]
    ECDSAInvalidSignatureS(B256),
    /// The view `checkDecryptionDone` reverts with it to say "no" (up to v0.9.0-0); no response call
    /// does.
    #[error("decryption {0:#066x} is not done")]
    DecryptionNotDone(U256),
    #[error("key preparation {id:#066x} already has an answer of KMS signer {signer}")]
    KmsAlreadySignedForPrepKeygen { id: U256, signer: Address },
    #[error("key {id:#066x} already has an answer of KMS signer {signer}")]
    KmsAlreadySignedForKeygen { id: U256, signer: Address },
    #[error("CRS {id:#066x} already has an answer of KMS signer {signer}")]
    KmsAlreadySignedForCrsgen { id: U256, signer: Address },
    #[error("the contract does not know key preparation {0:#066x}")]
    PrepKeygenNotRequested(U256),
    #[error("the contract does not know key {0:#066x}")]
    KeygenNotRequested(U256),
    #[error("the contract does not know CRS {0:#066x}")]
    CrsgenNotRequested(U256),
    #[error("the answer for key {0:#066x} has no key digests")]
    EmptyKeyDigests(U256),
    #[error("the key's preparation is not complete yet")]
    KeyManagementRequestPending,
    #[error("the contract cannot read the extraData of its own request")]
    DeserializingExtraDataFail,
    #[error("KMS context {context:#066x} already has a confirmation of wallet {wallet}")]
    KmsContextCreationAlreadyConfirmed { context: U256, wallet: Address },
    #[error("KMS context {0:#066x} waits for no confirmation any more")]
    KmsContextNotPending(U256),
    #[error(
        "wallet {wallet} is a transaction sender neither of KMS context {context:#066x} nor of the one before"
    )]
    KmsContextCreationUnauthorized { context: U256, wallet: Address },
    #[error("epoch {epoch:#066x} already has a confirmation of KMS signer {signer}")]
    EpochActivationAlreadyConfirmed { epoch: U256, signer: Address },
    #[error("epoch {0:#066x} waits for no confirmation any more")]
    InvalidKmsEpoch(U256),
    /// The same in v0.14.0-0.
    #[error("epoch {0:#066x} waits for no confirmation any more")]
    InvalidEpoch(U256),
    #[error("wallet {wallet} is no transaction sender of the KMS context of epoch {epoch:#066x}")]
    EpochActivationUnauthorized { epoch: U256, wallet: Address },
    #[error("not enough nodes have confirmed KMS context {0:#066x} yet")]
    KmsContextNotCreated(U256),
    #[error("the confirmation of epoch {0:#066x} has no key, or no CRS")]
    EmptyEpochActivationAttestation(U256),
    #[error(
        "KMS signer {signer} is not that of wallet {tx_sender}'s KMS node in the epoch's KMS context: wallet and \
         KMS Core are of different nodes, or the KMS Core signed something else than was sent"
    )]
    EpochActivationSignerDoesNotMatchTxSender { signer: Address, tx_sender: Address },
    /// Of v0.14.0-0.
    #[error("KMS context {context:#066x} of epoch {epoch:#066x} is not active")]
    EpochNotUnderActiveContext { epoch: U256, context: U256 },
    /// Only its owner's calls raise it.
    #[error("KMS context {context:#066x} or epoch {epoch:#066x} is not complete yet")]
    KmsLifecycleOperationInFlight { context: U256, epoch: U256 },
    /// `require` or `revert` with a message.
    #[error("the contract reverted: {0}")]
    Error(UntrustedText),
    /// A failed compiler check (`Panic(uint256)`: 0x11 overflow, 0x32 index out of bounds …).
    #[error("the contract panicked with code {0:#x}")]
    Panic(U256),
    /// An error that no answer should meet, or a known selector whose arguments do not decode.
    #[error("the contract reverted with {} and {} bytes of arguments", known_as(*selector), arguments.len())]
    Other { selector: Selector, arguments: Bytes },
    /// Too short to contain a selector.
    #[error("the contract reverted with {} and no error selector", hex::encode_prefixed(.0))]
    UnknownData(Bytes),
}

/// What an error means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevertMeaning {
    /// This signer's answer is on chain already: done.
    AlreadyAnswered,
    /// The contract does not know the request. A lagging node says the same: refuse only after the
    /// answering node knows the request's block and repeats it.
    NotRequested,
    /// The contract waits for no answer any more, whoever gave the others: done.
    Over,
    /// Only time or an operator can fix it.
    Hold(HoldReason),
    /// Try again later.
    Retry,
}

impl ContractError {
    /// Decodes revert data. `None`: there is none (out of gas, a call to an address without code, or a
    /// node that does not return it).
    #[must_use]
    pub fn decode(revert_data: &[u8]) -> Option<Self> {
        use sol_types::ContractError as Any;

        if revert_data.is_empty() {
            return None;
        }
        let Some((selector, arguments)) = revert_data.split_first_chunk::<4>() else {
            return Some(Self::UnknownData(Bytes::copy_from_slice(revert_data)));
        };
        Some(match Any::<Raised>::abi_decode_with_config(revert_data, DECODER) {
            Ok(Any::CustomError(raised)) => raised.into(),
            Ok(Any::Revert(revert)) => Self::Error(revert.reason.into()),
            Ok(Any::Panic(panic)) => Self::Panic(panic.code),
            Err(_) => Self::Other {
                selector: Selector::from(*selector),
                arguments: Bytes::copy_from_slice(arguments),
            },
        })
    }

    /// The error's Solidity name, or a word of ours. Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::DecryptionNotRequested(_) => "DecryptionNotRequested",
            Self::KmsNodeAlreadySigned { .. } => "KmsNodeAlreadySigned",
            Self::NotKmsTxSender(_) => "NotKmsTxSender",
            Self::NotKmsSigner(_) => "NotKmsSigner",
            Self::KmsSignerDoesNotMatchTxSender { .. } => "KmsSignerDoesNotMatchTxSender",
            Self::EnforcedPause => "EnforcedPause",
            Self::DecryptionContextMismatch { .. } => "DecryptionContextMismatch",
            Self::InvalidExtraDataLength { .. } => "InvalidExtraDataLength",
            Self::UnsupportedExtraDataVersion(_) => "UnsupportedExtraDataVersion",
            Self::InvalidKmsContext(_) => "InvalidKmsContext",
            Self::InvalidNullContextId => "InvalidNullContextId",
            Self::ECDSAInvalidSignature => "ECDSAInvalidSignature",
            Self::ECDSAInvalidSignatureLength(_) => "ECDSAInvalidSignatureLength",
            Self::ECDSAInvalidSignatureS(_) => "ECDSAInvalidSignatureS",
            Self::DecryptionNotDone(_) => "DecryptionNotDone",
            Self::KmsAlreadySignedForPrepKeygen { .. } => "KmsAlreadySignedForPrepKeygen",
            Self::KmsAlreadySignedForKeygen { .. } => "KmsAlreadySignedForKeygen",
            Self::KmsAlreadySignedForCrsgen { .. } => "KmsAlreadySignedForCrsgen",
            Self::PrepKeygenNotRequested(_) => "PrepKeygenNotRequested",
            Self::KeygenNotRequested(_) => "KeygenNotRequested",
            Self::CrsgenNotRequested(_) => "CrsgenNotRequested",
            Self::EmptyKeyDigests(_) => "EmptyKeyDigests",
            Self::KeyManagementRequestPending => "KeyManagementRequestPending",
            Self::DeserializingExtraDataFail => "DeserializingExtraDataFail",
            Self::KmsContextCreationAlreadyConfirmed { .. } => "KmsContextCreationAlreadyConfirmed",
            Self::KmsContextNotPending(_) => "KmsContextNotPending",
            Self::KmsContextCreationUnauthorized { .. } => "KmsContextCreationUnauthorized",
            Self::EpochActivationAlreadyConfirmed { .. } => "EpochActivationAlreadyConfirmed",
            Self::InvalidKmsEpoch(_) => "InvalidKmsEpoch",
            Self::InvalidEpoch(_) => "InvalidEpoch",
            Self::EpochActivationUnauthorized { .. } => "EpochActivationUnauthorized",
            Self::KmsContextNotCreated(_) => "KmsContextNotCreated",
            Self::EmptyEpochActivationAttestation(_) => "EmptyEpochActivationAttestation",
            Self::EpochActivationSignerDoesNotMatchTxSender { .. } => {
                "EpochActivationSignerDoesNotMatchTxSender"
            }
            Self::EpochNotUnderActiveContext { .. } => "EpochNotUnderActiveContext",
            Self::KmsLifecycleOperationInFlight { .. } => "KmsLifecycleOperationInFlight",
            Self::Error(_) => "Error",
            Self::Panic(_) => "Panic",
            Self::Other { .. } => "other",
            Self::UnknownData(_) => "unknown_data",
        }
    }

    /// What it means for the request (gateway-abi 4.4, 6.2, 6.3, 7.4).
    #[must_use]
    pub fn meaning(&self) -> RevertMeaning {
        match self {
            Self::KmsNodeAlreadySigned { .. }
            | Self::KmsAlreadySignedForPrepKeygen { .. }
            | Self::KmsAlreadySignedForKeygen { .. }
            | Self::KmsAlreadySignedForCrsgen { .. }
            | Self::KmsContextCreationAlreadyConfirmed { .. }
            | Self::EpochActivationAlreadyConfirmed { .. } => RevertMeaning::AlreadyAnswered,
            // Enough others have confirmed it, or it was destroyed.
            Self::KmsContextNotPending(_) | Self::InvalidKmsEpoch(_) | Self::InvalidEpoch(_) => {
                RevertMeaning::Over
            }
            Self::DecryptionNotRequested(_)
            | Self::PrepKeygenNotRequested(_)
            | Self::KeygenNotRequested(_)
            | Self::CrsgenNotRequested(_) => RevertMeaning::NotRequested,
            Self::NotKmsTxSender(_)
            | Self::KmsContextCreationUnauthorized { .. }
            | Self::EpochActivationUnauthorized { .. } => {
                RevertMeaning::Hold(HoldReason::WalletNotRegistered)
            }
            Self::NotKmsSigner(_) => RevertMeaning::Hold(HoldReason::SignerNotRegistered),
            Self::KmsSignerDoesNotMatchTxSender { .. }
            | Self::EpochActivationSignerDoesNotMatchTxSender { .. } => {
                RevertMeaning::Hold(HoldReason::WalletCoreMismatch)
            }
            // Only v0.7.x pauses responses, and a pause ends; so does a preparation, and the making of a context.
            Self::EnforcedPause
            | Self::KeyManagementRequestPending
            | Self::KmsContextNotCreated(_) => RevertMeaning::Retry,
            // Permanent for this answer. That the context has changed, which a mismatch may mean too, only
            // the request tells.
            Self::ECDSAInvalidSignature
            | Self::ECDSAInvalidSignatureLength(_)
            | Self::ECDSAInvalidSignatureS(_)
            | Self::EmptyKeyDigests(_)
            | Self::EmptyEpochActivationAttestation(_)
            | Self::DecryptionContextMismatch { .. }
            | Self::InvalidExtraDataLength { .. }
            | Self::UnsupportedExtraDataVersion(_) => {
                RevertMeaning::Hold(HoldReason::InvalidAnswer)
            }
            // The registry may list it again, or for the first time.
            Self::InvalidKmsContext(_) | Self::EpochNotUnderActiveContext { .. } => {
                RevertMeaning::Hold(HoldReason::ContextUnknown)
            }
            Self::InvalidNullContextId
            | Self::DecryptionNotDone(_)
            | Self::DeserializingExtraDataFail
            | Self::KmsLifecycleOperationInFlight { .. }
            | Self::Error(_)
            | Self::Panic(_)
            | Self::Other { .. }
            | Self::UnknownData(_) => RevertMeaning::Hold(HoldReason::ContractRejected),
        }
    }
}

impl From<Raised> for ContractError {
    fn from(raised: Raised) -> Self {
        match raised {
            Raised::DecryptionNotRequested(e) => Self::DecryptionNotRequested(e.decryptionId),
            Raised::KmsNodeAlreadySigned(e) => {
                Self::KmsNodeAlreadySigned { id: e.decryptionId, signer: e.signer }
            }
            Raised::NotKmsTxSender(e) => Self::NotKmsTxSender(e.txSenderAddress),
            Raised::NotKmsSigner(e) => Self::NotKmsSigner(e.signerAddress),
            Raised::KmsSignerDoesNotMatchTxSender(e) => Self::KmsSignerDoesNotMatchTxSender {
                signer: e.signerAddress,
                tx_sender: e.txSenderAddress,
            },
            Raised::EnforcedPause(_) => Self::EnforcedPause,
            Raised::DecryptionContextMismatch(e) => Self::DecryptionContextMismatch {
                id: e.decryptionId,
                requested: e.requestContextId,
                answered: e.responseContextId,
            },
            Raised::InvalidExtraDataLength(e) => {
                Self::InvalidExtraDataLength { length: e.length, minimum: e.minimumLength }
            }
            Raised::UnsupportedExtraDataVersion(e) => Self::UnsupportedExtraDataVersion(e.version),
            Raised::InvalidKmsContext(e) => Self::InvalidKmsContext(e.kmsContextId),
            Raised::InvalidNullContextId(_) => Self::InvalidNullContextId,
            Raised::ECDSAInvalidSignature(_) => Self::ECDSAInvalidSignature,
            Raised::ECDSAInvalidSignatureLength(e) => Self::ECDSAInvalidSignatureLength(e.length),
            Raised::ECDSAInvalidSignatureS(e) => Self::ECDSAInvalidSignatureS(e.s),
            Raised::DecryptionNotDone(e) => Self::DecryptionNotDone(e.decryptionId),
            Raised::KmsAlreadySignedForPrepKeygen(e) => {
                Self::KmsAlreadySignedForPrepKeygen { id: e.prepKeygenId, signer: e.kmsSigner }
            }
            Raised::KmsAlreadySignedForKeygen(e) => {
                Self::KmsAlreadySignedForKeygen { id: e.keyId, signer: e.kmsSigner }
            }
            Raised::KmsAlreadySignedForCrsgen(e) => {
                Self::KmsAlreadySignedForCrsgen { id: e.crsId, signer: e.kmsSigner }
            }
            Raised::PrepKeygenNotRequested(e) => Self::PrepKeygenNotRequested(e.prepKeygenId),
            Raised::KeygenNotRequested(e) => Self::KeygenNotRequested(e.keyId),
            Raised::CrsgenNotRequested(e) => Self::CrsgenNotRequested(e.crsId),
            Raised::EmptyKeyDigests(e) => Self::EmptyKeyDigests(e.keyId),
            Raised::KeyManagementRequestPending(_) => Self::KeyManagementRequestPending,
            Raised::DeserializingExtraDataFail(_) => Self::DeserializingExtraDataFail,
            Raised::KmsContextCreationAlreadyConfirmed(e) => {
                let (context, wallet) = (e.kmsContextId, e.txSender);
                Self::KmsContextCreationAlreadyConfirmed { context, wallet }
            }
            Raised::KmsContextNotPending(e) => Self::KmsContextNotPending(e.kmsContextId),
            Raised::KmsContextCreationUnauthorized(e) => {
                let (context, wallet) = (e.kmsContextId, e.caller);
                Self::KmsContextCreationUnauthorized { context, wallet }
            }
            Raised::EpochActivationAlreadyConfirmed(e) => {
                Self::EpochActivationAlreadyConfirmed { epoch: e.epochId, signer: e.signer }
            }
            Raised::InvalidKmsEpoch(e) => Self::InvalidKmsEpoch(e.epochId),
            Raised::InvalidEpoch(e) => Self::InvalidEpoch(e.epochId),
            Raised::EpochActivationUnauthorized(e) => {
                Self::EpochActivationUnauthorized { epoch: e.epochId, wallet: e.caller }
            }
            Raised::KmsContextNotCreated(e) => Self::KmsContextNotCreated(e.kmsContextId),
            Raised::EmptyEpochActivationAttestation(e) => {
                Self::EmptyEpochActivationAttestation(e.epochId)
            }
            Raised::EpochActivationSignerDoesNotMatchTxSender(e) => {
                let (signer, tx_sender) = (e.signer, e.txSender);
                Self::EpochActivationSignerDoesNotMatchTxSender { signer, tx_sender }
            }
            Raised::EpochNotUnderActiveContext(e) => {
                Self::EpochNotUnderActiveContext { epoch: e.epochId, context: e.kmsContextId }
            }
            Raised::KmsLifecycleOperationInFlight(e) => {
                Self::KmsLifecycleOperationInFlight { context: e.kmsContextId, epoch: e.epochId }
            }
        }
    }
}

#[cfg(test)]
mod tests;
