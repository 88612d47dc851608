//! Decodes the revert data of a response call: which error it is, its text, and what it means for the
//! request (gateway-abi 4.4).
//!
//! Selectors never changed between generations, so one table serves all. An error that bubbles up from
//! `GatewayConfig` has the same selector as the contract's own.

use alloy::hex;
use alloy::primitives::Selector;
use alloy::sol;
use alloy::sol_types::{self, SolInterface};

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
mod tests {
    use alloy::primitives::{address, bytes, hex, keccak256};
    use proptest::prelude::*;

    use super::*;

    const NODE: Address = address!("00000000000000000000000000000000000000aa");
    const WALLET: Address = address!("00000000000000000000000000000000000000bb");

    /// Builds revert data: a selector, and words padded on the left.
    fn revert(selector: &str, arguments: &[&str]) -> Vec<u8> {
        let words = arguments.iter().map(|word| format!("{word:0>64}"));
        let all: Vec<_> = [selector.to_owned()].into_iter().chain(words).collect();
        hex::decode(all.concat()).expect("hex")
    }

    /// Every row of gateway-abi 4.4, and of 6.2, 6.3 and 7.4: signature, selector, arguments, variant, verdict.
    #[expect(clippy::too_many_lines, reason = "a table, a row per error")]
    fn table() -> Vec<(&'static str, &'static str, Vec<&'static str>, ContractError, RevertMeaning)>
    {
        use ContractError as E;
        let held = RevertMeaning::Hold;
        let seven = U256::from(7);
        vec![
            (
                "DecryptionNotRequested(uint256)",
                "d48af942",
                vec!["7"],
                E::DecryptionNotRequested(seven),
                RevertMeaning::NotRequested,
            ),
            (
                "KmsNodeAlreadySigned(uint256,address)",
                "99ec48d9",
                vec!["7", "aa"],
                E::KmsNodeAlreadySigned { id: seven, signer: NODE },
                RevertMeaning::AlreadyAnswered,
            ),
            (
                "NotKmsTxSender(address)",
                "aee86323",
                vec!["bb"],
                E::NotKmsTxSender(WALLET),
                held(HoldReason::WalletNotRegistered),
            ),
            (
                "NotKmsSigner(address)",
                "2a7c6ef6",
                vec!["aa"],
                E::NotKmsSigner(NODE),
                held(HoldReason::SignerNotRegistered),
            ),
            (
                "KmsSignerDoesNotMatchTxSender(address,address)",
                "0d86f521",
                vec!["aa", "bb"],
                E::KmsSignerDoesNotMatchTxSender { signer: NODE, tx_sender: WALLET },
                held(HoldReason::WalletCoreMismatch),
            ),
            ("EnforcedPause()", "d93c0665", vec![], E::EnforcedPause, RevertMeaning::Retry),
            (
                "DecryptionContextMismatch(uint256,uint256,uint256)",
                "abb5f486",
                vec!["7", "1", "2"],
                E::DecryptionContextMismatch {
                    id: seven,
                    requested: U256::from(1),
                    answered: U256::from(2),
                },
                held(HoldReason::InvalidAnswer),
            ),
            (
                "InvalidExtraDataLength(uint256,uint256)",
                "93548a66",
                vec!["3", "21"],
                E::InvalidExtraDataLength { length: U256::from(3), minimum: U256::from(33) },
                held(HoldReason::InvalidAnswer),
            ),
            (
                "UnsupportedExtraDataVersion(uint8)",
                "2139cc2c",
                vec!["9"],
                E::UnsupportedExtraDataVersion(9),
                held(HoldReason::InvalidAnswer),
            ),
            (
                "InvalidKmsContext(uint256)",
                "77ddbe81",
                vec!["7"],
                E::InvalidKmsContext(seven),
                held(HoldReason::ContextUnknown),
            ),
            (
                "InvalidNullContextId()",
                "cb17b7a5",
                vec![],
                E::InvalidNullContextId,
                held(HoldReason::ContractRejected),
            ),
            (
                "ECDSAInvalidSignature()",
                "f645eedf",
                vec![],
                E::ECDSAInvalidSignature,
                held(HoldReason::InvalidAnswer),
            ),
            (
                "ECDSAInvalidSignatureLength(uint256)",
                "fce698f7",
                vec!["40"],
                E::ECDSAInvalidSignatureLength(U256::from(64)),
                held(HoldReason::InvalidAnswer),
            ),
            (
                "ECDSAInvalidSignatureS(bytes32)",
                "d78bce0c",
                vec!["ff"],
                E::ECDSAInvalidSignatureS(B256::with_last_byte(0xff)),
                held(HoldReason::InvalidAnswer),
            ),
            (
                "DecryptionNotDone(uint256)",
                "0bf01406",
                vec!["7"],
                E::DecryptionNotDone(seven),
                held(HoldReason::ContractRejected),
            ),
            (
                "KmsContextCreationAlreadyConfirmed(address,uint256)",
                "62585cc8",
                vec!["bb", "7"],
                E::KmsContextCreationAlreadyConfirmed { context: seven, wallet: WALLET },
                RevertMeaning::AlreadyAnswered,
            ),
            (
                "KmsContextNotPending(uint256)",
                "3586efa1",
                vec!["7"],
                E::KmsContextNotPending(seven),
                RevertMeaning::Over,
            ),
            (
                "KmsContextCreationUnauthorized(address,uint256)",
                "b81df8e8",
                vec!["bb", "7"],
                E::KmsContextCreationUnauthorized { context: seven, wallet: WALLET },
                held(HoldReason::WalletNotRegistered),
            ),
            (
                "EpochActivationAlreadyConfirmed(address,uint256)",
                "49417636",
                vec!["aa", "7"],
                E::EpochActivationAlreadyConfirmed { epoch: seven, signer: NODE },
                RevertMeaning::AlreadyAnswered,
            ),
            (
                "InvalidKmsEpoch(uint256)",
                "7995bbcf",
                vec!["7"],
                E::InvalidKmsEpoch(seven),
                RevertMeaning::Over,
            ),
            (
                "InvalidEpoch(uint256)",
                "a225656d",
                vec!["7"],
                E::InvalidEpoch(seven),
                RevertMeaning::Over,
            ),
            (
                "EpochActivationUnauthorized(address,uint256)",
                "a3f4afeb",
                vec!["bb", "7"],
                E::EpochActivationUnauthorized { epoch: seven, wallet: WALLET },
                held(HoldReason::WalletNotRegistered),
            ),
            (
                "KmsContextNotCreated(uint256)",
                "32c5b9f6",
                vec!["7"],
                E::KmsContextNotCreated(seven),
                RevertMeaning::Retry,
            ),
            (
                "EmptyEpochActivationAttestation(uint256)",
                "ce9440df",
                vec!["7"],
                E::EmptyEpochActivationAttestation(seven),
                held(HoldReason::InvalidAnswer),
            ),
            (
                "EpochActivationSignerDoesNotMatchTxSender(address,address)",
                "f1735b46",
                vec!["aa", "bb"],
                E::EpochActivationSignerDoesNotMatchTxSender { signer: NODE, tx_sender: WALLET },
                held(HoldReason::WalletCoreMismatch),
            ),
            (
                "EpochNotUnderActiveContext(uint256,uint256)",
                "a69d7d5b",
                vec!["7", "9"],
                E::EpochNotUnderActiveContext { epoch: seven, context: U256::from(9) },
                held(HoldReason::ContextUnknown),
            ),
            (
                "KmsLifecycleOperationInFlight(uint256,uint256)",
                "078020be",
                vec!["9", "7"],
                E::KmsLifecycleOperationInFlight { context: U256::from(9), epoch: seven },
                held(HoldReason::ContractRejected),
            ),
            (
                "KmsAlreadySignedForPrepKeygen(uint256,address)",
                "33ca1fe3",
                vec!["7", "aa"],
                E::KmsAlreadySignedForPrepKeygen { id: seven, signer: NODE },
                RevertMeaning::AlreadyAnswered,
            ),
            (
                "KmsAlreadySignedForKeygen(uint256,address)",
                "98fb957d",
                vec!["7", "aa"],
                E::KmsAlreadySignedForKeygen { id: seven, signer: NODE },
                RevertMeaning::AlreadyAnswered,
            ),
            (
                "KmsAlreadySignedForCrsgen(uint256,address)",
                "fcf5a6e9",
                vec!["7", "aa"],
                E::KmsAlreadySignedForCrsgen { id: seven, signer: NODE },
                RevertMeaning::AlreadyAnswered,
            ),
            (
                "PrepKeygenNotRequested(uint256)",
                "0ab7f687",
                vec!["7"],
                E::PrepKeygenNotRequested(seven),
                RevertMeaning::NotRequested,
            ),
            (
                "KeygenNotRequested(uint256)",
                "adfab904",
                vec!["7"],
                E::KeygenNotRequested(seven),
                RevertMeaning::NotRequested,
            ),
            (
                "CrsgenNotRequested(uint256)",
                "8d8c940a",
                vec!["7"],
                E::CrsgenNotRequested(seven),
                RevertMeaning::NotRequested,
            ),
            (
                "EmptyKeyDigests(uint256)",
                "e6f9083b",
                vec!["7"],
                E::EmptyKeyDigests(seven),
                held(HoldReason::InvalidAnswer),
            ),
            (
                "KeyManagementRequestPending()",
                "6fbcdd2b",
                vec![],
                E::KeyManagementRequestPending,
                RevertMeaning::Retry,
            ),
            (
                "DeserializingExtraDataFail()",
                "8b248b60",
                vec![],
                E::DeserializingExtraDataFail,
                held(HoldReason::ContractRejected),
            ),
            (
                "Panic(uint256)",
                "4e487b71",
                vec!["11"],
                E::Panic(U256::from(0x11)),
                held(HoldReason::ContractRejected),
            ),
            (
                "Error(string)",
                "08c379a0",
                vec!["20", "2", "6e6f000000000000000000000000000000000000000000000000000000000000"],
                E::Error("no".into()),
                held(HoldReason::ContractRejected),
            ),
        ]
    }

    /// Field failure T43.
    #[test]
    fn every_error_of_the_table_is_known() {
        for (signature, selector, arguments, error, verdict) in table() {
            assert_eq!(hex::encode(&keccak256(signature)[..4]), selector, "{signature}");
            let decoded = ContractError::decode(&revert(selector, &arguments)).unwrap();
            assert_eq!(decoded, error, "{signature}");
            assert_eq!(decoded.meaning(), verdict, "{signature}");
            assert_eq!(decoded.code(), signature.split('(').next().unwrap());
        }
        assert_eq!(Raised::COUNT, table().len() - 2, "all but the compiler's own two");
    }

    /// Of 6.2 and 6.3: held under their names, with the bytes that came.
    #[test]
    fn errors_of_other_calls_are_held_by_name() {
        for (selector, signature) in OF_OTHER_CALLS {
            assert_eq!(keccak256(signature)[..4], selector, "{signature}");
            let data = revert(&hex::encode(selector), &["7"]);
            let decoded = ContractError::decode(&data).unwrap();
            assert_eq!(decoded.code(), "other", "{signature}");
            assert_eq!(decoded.meaning(), RevertMeaning::Hold(HoldReason::ContractRejected));
            assert!(decoded.to_string().contains(signature), "{decoded}");
            let ours = table().iter().any(|row| row.1 == hex::encode(selector));
            assert!(!ours, "{signature} is one of an answer");
        }
    }

    #[test]
    fn a_known_selector_with_bad_arguments_is_another_error() {
        for (signature, selector, arguments, _, _) in table() {
            if arguments.is_empty() {
                continue;
            }
            let data = revert(selector, &arguments);
            let cut = ContractError::decode(&data[..data.len() - 32]).unwrap();
            assert_eq!(cut.code(), "other", "{signature}");
            assert_eq!(cut.meaning(), RevertMeaning::Hold(HoldReason::ContractRejected));
        }
        // An address of thirteen bytes.
        let dirty = revert("aee86323", &["1000000000000000000000000000000000000000bb"]);
        assert_eq!(ContractError::decode(&dirty).unwrap().code(), "other");
    }

    #[test]
    fn what_is_no_error_of_ours_keeps_its_bytes() {
        assert_eq!(ContractError::decode(&[]), None);
        assert_eq!(
            ContractError::decode(&hex!("d48af9")),
            Some(ContractError::UnknownData(bytes!("d48af9")))
        );
        // NotCoprocessorTxSender(address): an error of the contract that no response call raises.
        assert_eq!(
            ContractError::decode(&hex!("52d725f5 01")),
            Some(ContractError::Other {
                selector: Selector::from(hex!("52d725f5")),
                arguments: bytes!("01"),
            })
        );
        assert_eq!(ContractError::UnknownData(bytes!("01")).code(), "unknown_data");
        for error in [
            ContractError::UnknownData(bytes!("01")),
            ContractError::Other { selector: Selector::ZERO, arguments: Bytes::new() },
        ] {
            assert_eq!(error.meaning(), RevertMeaning::Hold(HoldReason::ContractRejected));
        }
    }

    #[test]
    fn says_it_in_words() {
        let said = |error: ContractError| error.to_string();
        let mismatch =
            said(ContractError::KmsSignerDoesNotMatchTxSender { signer: NODE, tx_sender: WALLET });
        assert!(mismatch.contains(&NODE.to_string()) && mismatch.contains(&WALLET.to_string()));
        assert_eq!(
            said(ContractError::DecryptionNotRequested(U256::from(7))),
            format!("the contract does not know decryption 0x{}7", "0".repeat(63))
        );
        assert_eq!(
            said(ContractError::Other {
                selector: Selector::from(hex!("52d725f5")),
                arguments: bytes!("01")
            }),
            "the contract reverted with unknown error 0x52d725f5 and 1 bytes of arguments"
        );
        // Text from the chain can neither break the line nor fill the log.
        assert_eq!(
            said(ContractError::Error("a\nb\u{1b}[31m".into())),
            r"the contract reverted: a\nb\u{1b}[31m"
        );
        let long = said(ContractError::Error("x".repeat(10_000).into()));
        assert!(long.ends_with("x…") && long.len() < 400);
    }

    proptest! {
        #[test]
        fn any_data_gets_a_name_and_a_verdict(
            row in 0..2 * table().len(),
            noise in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            // Half of the cases start with a known selector.
            let mut data = table().get(row).map_or(vec![], |row| revert(row.1, &[]));
            data.extend(noise);
            let decoded = ContractError::decode(&data);
            prop_assert_eq!(decoded.is_none(), data.is_empty());
            if let Some(error) = decoded {
                prop_assert!(!error.code().is_empty() && !error.to_string().is_empty());
                let unknown = matches!(error.code(), "other" | "unknown_data");
                let rejected = error.meaning() == RevertMeaning::Hold(HoldReason::ContractRejected);
                prop_assert!(!unknown || rejected);
            }
        }
    }
}
