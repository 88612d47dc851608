//! G14 (fhevm v0.14): the unified user request, beside those of G8.
//!
//! `handles` are `HandleEntry(handle, contractAddress, ownerAddress)`; `payload` is
//! `UserDecryptionRequestPayload(userAddress, publicKey, allowedContracts,
//! requestValidity(startTimestamp, durationSeconds), extraData, signature)`.

use alloy::sol;
use alloy::sol_types::SolEvent;

use super::{DECODER, RequestEventShape, materials};
use crate::domain::{
    Address, B256, Bytes, EventShape, HandleEntry, Kind, Material, Operation, RequestTerms, U256,
    UnifiedTerms, UserDecryption,
};

sol! {
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        (bytes32, address, address)[] handles,
        (address, bytes, address[], (uint256, uint256), bytes, bytes) payload
    );
}

pub(super) const UNIFIED_USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: UserDecryptionRequest::SIGNATURE_HASH,
    event: UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    names_materials: true,
    read: |_, data| {
        let (raw, handles, payload) =
            UserDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        Ok((EventShape::G14, unified_request(Some(materials(raw)), handles, payload)))
    },
};

/// A `HandleEntry` as decoded.
type RawEntry = (B256, Address, Address);

/// A `UserDecryptionRequestPayload` as decoded.
type RawPayload = (Address, Bytes, Vec<Address>, (U256, U256), Bytes, Bytes);

pub(super) fn unified_request(
    materials: Option<Vec<Material>>,
    handles: Vec<RawEntry>,
    payload: RawPayload,
) -> Operation {
    let (user, public_key, allowed_contracts, (start, duration_secs), extra_data, signature) =
        payload;
    let entries: Vec<_> = handles
        .into_iter()
        .map(|(handle, contract, owner)| HandleEntry { handle, contract, owner })
        .collect();
    Operation::UserDecryption(UserDecryption {
        handles: entries.iter().map(|entry| entry.handle).collect(),
        materials,
        user,
        public_key,
        extra_data,
        terms: RequestTerms::Unified(UnifiedTerms {
            entries,
            allowed_contracts,
            start,
            duration_secs,
            signature,
        }),
    })
}
