//! What is sent: the request, with every handle in on-chain order and its ciphertexts, or nothing.

use alloy::{hex, primitives::U256};
use bytes::Bytes;

use crate::{
    contracts::abi::{ContextRule, Deployment},
    domain::{
        B256, Ciphertext, CiphertextFormat, Hold, HoldReason, KeyOperation, KmsContext, Operation,
        PublicDecryption, Refusal, Remedy, Request, SigningDomain, UserDecryption, fhe_type,
    },
    flow::kms_core::proto::kms::v1,
};

/// The highest number in tfhe's `FheTypes` (Int248). All lower ones are in use.
const LAST_FHE_TYPE: u8 = 83;

/// Why no Core can be asked this request, whatever its ciphertexts are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the request names no ciphertext")]
    NoHandles,
    /// The Core takes 32 bits.
    #[error(
        "the CRS is asked for {max_bits} bits (maxBitLength); a KMS Core makes one for up to {} bits",
        u32::MAX
    )]
    CrsTooLarge { max_bits: U256 },
    #[error("handle {handle} is of FHE type {number}, which this connector does not know")]
    UnsupportedType { handle: B256, number: u8 },
    /// The Core takes 31 bits.
    #[error("the KMS context has the threshold {threshold} (mpc), which no KMS Core takes")]
    Threshold { threshold: U256 },
    #[error("a key has a digest of type {number}, which this connector does not know")]
    KeyType { number: u8 },
}

impl RequestError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoHandles => "no_materials",
            Self::CrsTooLarge { .. } => "crs_too_large",
            Self::UnsupportedType { .. } | Self::KeyType { .. } => "unsupported_type",
            Self::Threshold { .. } => "threshold_too_large",
        }
    }

    /// What to do with the request.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoHandles | Self::CrsTooLarge { .. } | Self::Threshold { .. } => {
                Remedy::Refuse(Refusal::Malformed(self.to_string()))
            }
            Self::UnsupportedType { .. } | Self::KeyType { .. } => {
                Remedy::Hold(Hold::new(HoldReason::UnsupportedType, self.to_string()))
            }
        }
    }
}

/// Checks whether a Core can be asked this request at all. Needs only the event, so it can be called before
/// anything is fetched.
pub fn check(request: &Request) -> Result<(), RequestError> {
    if let Operation::Key(operation) = &request.operation {
        return check_key_operation(operation);
    }
    if request.handles().is_empty() {
        return Err(RequestError::NoHandles);
    }
    for &handle in request.handles() {
        let number = fhe_type(&handle);
        if number > LAST_FHE_TYPE {
            return Err(RequestError::UnsupportedType { handle, number });
        }
    }
    Ok(())
}

fn check_key_operation(operation: &KeyOperation) -> Result<(), RequestError> {
    match operation {
        KeyOperation::Crsgen { max_bits, .. } => max_num_bits(*max_bits).map(|_| ()),
        KeyOperation::NewKmsContext { context, .. } => mpc_threshold(context).map(|_| ()),
        KeyOperation::PrepKeygen { .. }
        | KeyOperation::Keygen { .. }
        | KeyOperation::AbortKeygen { .. }
        | KeyOperation::AbortCrsgen { .. }
        | KeyOperation::PrssInit
        | KeyOperation::KeyReshare { .. }
        | KeyOperation::NewKmsEpoch { .. }
        | KeyOperation::ContextDestroyed { .. }
        | KeyOperation::EpochDestroyed { .. }
        | KeyOperation::RecordedEvent { .. }
        | KeyOperation::UnsupportedEvent { .. } => Ok(()),
    }
}

/// The number of dishonest nodes as the Core takes it.
pub(super) fn mpc_threshold(context: &KmsContext) -> Result<i32, RequestError> {
    let threshold = context.mpc_threshold;
    i32::try_from(threshold).map_err(|_| RequestError::Threshold { threshold })
}

/// The length of a CRS as the Core takes it.
pub(super) fn max_num_bits(max_bits: U256) -> Result<u32, RequestError> {
    u32::try_from(max_bits).map_err(|_| RequestError::CrsTooLarge { max_bits })
}

/// What `extraData` means to the deployment (protocol: gateway-abi 11). The event cannot tell: those of v0.9
/// and v0.13 are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtraDataMeaning {
    /// Up to G10: opaque bytes that the Core signs. Passed on unchanged, as the other nodes' connectors of
    /// that time do: consensus needs equal bytes.
    Opaque,
    /// From G12 on: may name a context. Versions 1 and 2 become `context_id` and `epoch_id`.
    Context {
        /// A single zero byte counts as empty, as it does for the other nodes' connectors.
        drops_zero: bool,
    },
}

/// The context, and the epoch in it, that `extraData` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamedContext {
    pub context: Option<U256>,
    /// Only together with its context.
    pub epoch: Option<U256>,
}

impl ExtraDataMeaning {
    /// What it means to this deployment.
    #[must_use]
    pub fn of(deployment: &Deployment) -> Self {
        match deployment.context_rule() {
            ContextRule::Opaque => Self::Opaque,
            ContextRule::GatewaySigners
            | ContextRule::GatewayValid
            | ContextRule::ProtocolConfig => {
                Self::Context { drops_zero: deployment.drops_zero_extra_data() }
            }
        }
    }

    /// What it means in a key operation.
    #[must_use]
    pub fn of_key_operation(extra_data: Option<&crate::domain::Bytes>) -> Self {
        // As on chain: the contract checks the signature over its own bytes.
        extra_data.map_or(Self::Opaque, |_| Self::Context { drops_zero: false })
    }

    /// The bytes that the Core is asked to sign.
    #[must_use]
    pub fn signed_bytes(self, extra_data: &Bytes) -> Bytes {
        match self {
            Self::Context { drops_zero: true } if extra_data.as_ref() == [0] => Bytes::new(),
            Self::Opaque | Self::Context { .. } => extra_data.clone(),
        }
    }

    /// The ids of context and epoch, if the bytes name them.
    #[must_use]
    pub fn named_context(self, extra_data: &[u8]) -> NamedContext {
        let word = |from: usize| extra_data.get(from..from + 32).map(U256::from_be_slice);
        match (self, extra_data.first()) {
            (Self::Context { .. }, Some(1)) => NamedContext { context: word(1), epoch: None },
            (Self::Context { .. }, Some(2)) => NamedContext { context: word(1), epoch: word(33) },
            (Self::Opaque | Self::Context { .. }, _) => NamedContext::default(),
        }
    }
}

/// An id as the Core writes it: 64 lower-case hex digits.
#[must_use]
pub fn request_id(id: U256) -> v1::RequestId {
    v1::RequestId { request_id: hex::encode(id.to_be_bytes::<32>()) }
}

/// The ciphertexts are not those of the request: the caller's mistake. It is caught here because a request
/// that is sent in part can never get a valid answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ciphertexts do not match the request's handles (got {got}, want {want}, in order)")]
pub struct CiphertextMismatch {
    pub got: usize,
    pub want: usize,
}

/// Pairs the ciphertexts with the handles. Moves their bytes.
pub fn typed_ciphertexts(
    handles: &[B256],
    ciphertexts: Vec<Ciphertext>,
) -> Result<Vec<v1::TypedCiphertext>, CiphertextMismatch> {
    let mismatch = CiphertextMismatch { got: ciphertexts.len(), want: handles.len() };
    if ciphertexts.len() != handles.len() {
        return Err(mismatch);
    }
    handles
        .iter()
        .zip(ciphertexts)
        .map(|(handle, ciphertext)| {
            if *handle != ciphertext.handle {
                return Err(mismatch.clone());
            }
            let format = match ciphertext.format {
                CiphertextFormat::BigCompressed => v1::CiphertextFormat::BigCompressed,
                CiphertextFormat::BigExpanded => v1::CiphertextFormat::BigExpanded,
            };
            Ok(v1::TypedCiphertext {
                ciphertext: ciphertext.body.0,
                fhe_type: i32::from(fhe_type(handle)),
                external_handle: Bytes::copy_from_slice(handle.as_slice()),
                ciphertext_format: format.into(),
            })
        })
        .collect()
}

pub(super) fn domain_message(domain: &SigningDomain) -> v1::Eip712DomainMsg {
    v1::Eip712DomainMsg {
        name: domain.name.clone(),
        version: domain.version.clone(),
        chain_id: Bytes::copy_from_slice(&U256::from(domain.chain_id).to_be_bytes::<32>()),
        verifying_contract: domain.verifying_contract.to_checksum(None),
        salt: None,
    }
}

#[must_use]
pub fn public_request(
    id: U256,
    key_id: U256,
    operation: &PublicDecryption,
    ciphertexts: Vec<v1::TypedCiphertext>,
    domain: &SigningDomain,
    meaning: ExtraDataMeaning,
) -> v1::PublicDecryptionRequest {
    let NamedContext { context, epoch } = meaning.named_context(&operation.extra_data);
    v1::PublicDecryptionRequest {
        request_id: Some(request_id(id)),
        ciphertexts,
        key_id: Some(request_id(key_id)),
        domain: Some(domain_message(domain)),
        extra_data: meaning.signed_bytes(&operation.extra_data.0),
        context_id: context.map(request_id),
        epoch_id: epoch.map(request_id),
    }
}

#[must_use]
pub fn user_request(
    id: U256,
    key_id: U256,
    operation: &UserDecryption,
    ciphertexts: Vec<v1::TypedCiphertext>,
    domain: &SigningDomain,
    meaning: ExtraDataMeaning,
) -> v1::UserDecryptionRequest {
    let NamedContext { context, epoch } = meaning.named_context(&operation.extra_data);
    v1::UserDecryptionRequest {
        request_id: Some(request_id(id)),
        typed_ciphertexts: ciphertexts,
        key_id: Some(request_id(key_id)),
        client_address: operation.user.to_checksum(None),
        enc_key: operation.public_key.0.clone(),
        domain: Some(domain_message(domain)),
        extra_data: meaning.signed_bytes(&operation.extra_data.0),
        context_id: context.map(request_id),
        epoch_id: epoch.map(request_id),
    }
}
