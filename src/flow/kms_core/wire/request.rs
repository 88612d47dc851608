//! What is sent: the request, with every handle in on-chain order and its ciphertexts, or nothing.

use alloy::{hex, primitives::U256};
use bytes::Bytes;

use crate::{
    domain::{
        B256, Ciphertext, CiphertextFormat, Hold, HoldReason, Material, PublicDecryption, Refusal,
        Remedy, Request, SigningDomain, UserDecryption, fhe_type,
    },
    flow::kms_core::proto::kms::v1,
};

/// The highest number in tfhe's `FheTypes` (Int248). All lower ones are in use.
const LAST_FHE_TYPE: u8 = 83;

/// Why no Core can be asked this request, whatever its ciphertexts are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the request names no ciphertext")]
    NoMaterials,
    #[error("the request names ciphertexts of different keys ({first:#066x} and {other:#066x})")]
    DifferentKeyIds { first: U256, other: U256 },
    #[error("handle {handle} is of FHE type {number}, which this connector does not know")]
    UnsupportedType { handle: B256, number: u8 },
    #[error("its event does not name the ciphertexts; upgrade the connector")]
    WithoutMaterials,
}

impl RequestError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoMaterials => "no_materials",
            Self::DifferentKeyIds { .. } => "different_key_ids",
            Self::UnsupportedType { .. } => "unsupported_type",
            Self::WithoutMaterials => "without_materials",
        }
    }

    /// What to do with the request.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NoMaterials | Self::DifferentKeyIds { .. } => {
                Remedy::Refuse(Refusal::Malformed(self.to_string()))
            }
            Self::UnsupportedType { .. } => {
                Remedy::Hold(Hold::new(HoldReason::UnsupportedType, self.to_string()))
            }
            Self::WithoutMaterials => {
                Remedy::Hold(Hold::new(HoldReason::UnsupportedGeneration, self.to_string()))
            }
        }
    }
}

/// Checks whether a Core can be asked this request at all. Needs only the event, so it can be called before
/// anything is fetched.
pub fn check(request: &Request) -> Result<(), RequestError> {
    let materials = request.materials().ok_or(RequestError::WithoutMaterials)?;
    key_id(materials)?;
    for &handle in request.handles() {
        let number = fhe_type(&handle);
        if number > LAST_FHE_TYPE {
            return Err(RequestError::UnsupportedType { handle, number });
        }
    }
    Ok(())
}

/// The key that all materials were encrypted with.
pub fn key_id(materials: &[Material]) -> Result<U256, RequestError> {
    let (first, rest) = materials.split_first().ok_or(RequestError::NoMaterials)?;
    match rest.iter().find(|material| material.key_id != first.key_id) {
        None => Ok(first.key_id),
        Some(other) => {
            Err(RequestError::DifferentKeyIds { first: first.key_id, other: other.key_id })
        }
    }
}

/// What `extraData` means to the contract that emitted the request. The event cannot tell: those of v0.9 and
/// v0.13 are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExtraDataMeaning {
    /// Up to G10: opaque bytes that the Core signs. Passed on unchanged, as the other nodes' connectors of
    /// that time do: consensus needs equal bytes.
    #[default]
    Opaque,
    /// From G12 on: names a context. A single zero byte counts as empty, as it does for the other nodes'
    /// connectors. Versions 1 and 2 become `context_id` and `epoch_id`.
    Context,
}

impl ExtraDataMeaning {
    /// The bytes that the Core is asked to sign.
    #[must_use]
    pub fn signed_bytes(self, extra_data: &Bytes) -> Bytes {
        match self {
            Self::Context if extra_data.as_ref() == [0] => Bytes::new(),
            Self::Opaque | Self::Context => extra_data.clone(),
        }
    }

    /// The ids of context and epoch, if the bytes name them (protocol: gateway-abi 11).
    pub(super) fn context_and_epoch(
        self,
        extra_data: &[u8],
    ) -> (Option<v1::RequestId>, Option<v1::RequestId>) {
        let word = |range| {
            let bytes: &[u8] = extra_data.get::<std::ops::Range<usize>>(range)?;
            Some(v1::RequestId { request_id: hex::encode(bytes) })
        };
        match (self, extra_data.first()) {
            (Self::Context, Some(1)) => (word(1..33), None),
            (Self::Context, Some(2)) => (word(1..33), word(33..65)),
            (Self::Opaque | Self::Context, _) => (None, None),
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

fn domain_message(domain: &SigningDomain) -> v1::Eip712DomainMsg {
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
    let (context_id, epoch_id) = meaning.context_and_epoch(&operation.extra_data);
    v1::PublicDecryptionRequest {
        request_id: Some(request_id(id)),
        ciphertexts,
        key_id: Some(request_id(key_id)),
        domain: Some(domain_message(domain)),
        extra_data: meaning.signed_bytes(&operation.extra_data.0),
        context_id,
        epoch_id,
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
    let (context_id, epoch_id) = meaning.context_and_epoch(&operation.extra_data);
    v1::UserDecryptionRequest {
        request_id: Some(request_id(id)),
        typed_ciphertexts: ciphertexts,
        key_id: Some(request_id(key_id)),
        client_address: operation.user.to_checksum(None),
        enc_key: operation.public_key.0.clone(),
        domain: Some(domain_message(domain)),
        extra_data: meaning.signed_bytes(&operation.extra_data.0),
        context_id,
        epoch_id,
    }
}
