//! What the contract that asks for key operations emits, what answers it, and how it refuses.

use alloy::{
    primitives::keccak256,
    sol,
    sol_types::{SolCall, SolEvent as _},
};

use crate::{
    contracts::abi::key_digests_payload,
    domain::{B256, Bytes, U256},
};

sol! {
    struct KeyDigest { uint8 keyType; bytes digest; }

    event PRSSInit();
    event KeyReshareSameSet(
        uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, uint8 paramsType
    );
    event AbortKeygen(uint256 prepKeygenId);
    event AbortCrsgen(uint256 crsId);
    event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
    event KeygenResponse(
        uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender
    );
    event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
    event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
    event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);
    /// Of a version that nobody knows yet.
    event KeyMigrationRequest(uint256 existingKeyId);

    function prepKeygenResponse(uint256 prepKeygenId, bytes signature) external;
    function keygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature) external;
    function crsgenResponse(uint256 crsId, bytes crsDigest, bytes signature) external;

    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error NotKmsSigner(address signerAddress);
}

/// Of the gateway, up to G12.
pub(super) mod gateway {
    super::sol! {
        event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, uint8 paramsType);
        event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
        event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType);
    }
}

/// Of Ethereum, from G13 on.
pub(super) mod ethereum {
    super::sol! {
        event PrepKeygenRequest(uint256 prepKeygenId, uint8 paramsType, bytes extraData);
        event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
        event CrsgenRequest(
            uint256 crsId, uint256 maxBitLength, uint8 paramsType, bytes extraData
        );
    }
}

/// An answer to the contract.
#[derive(Clone, Debug)]
pub(in crate::instance::simulation) struct KeyResponse {
    pub id: U256,
    /// As the connector writes it: nothing, the digests of a key, or that of a CRS.
    pub payload: Bytes,
    pub signature: Bytes,
}

/// Reads the calldata of an answer.
pub(in crate::instance::simulation) fn response(input: &[u8]) -> Option<KeyResponse> {
    if let Ok(call) = prepKeygenResponseCall::abi_decode(input) {
        let (id, signature) = (call.prepKeygenId, call.signature);
        return Some(KeyResponse { id, payload: Bytes::new(), signature });
    }
    if let Ok(call) = keygenResponseCall::abi_decode(input) {
        let digests = call.keyDigests.into_iter().map(|one| (one.keyType, one.digest));
        let payload = key_digests_payload(digests);
        return Some(KeyResponse { id: call.keyId, payload, signature: call.signature });
    }
    let call = crsgenResponseCall::abi_decode(input).ok()?;
    Some(KeyResponse { id: call.crsId, payload: call.crsDigest, signature: call.signature })
}

/// Whether the contract for key operations emits this, and not the one for decryptions beside it.
pub(in crate::instance::simulation) fn is_emitted(topic: &B256) -> bool {
    [
        PRSSInit::SIGNATURE_HASH,
        KeyReshareSameSet::SIGNATURE_HASH,
        AbortKeygen::SIGNATURE_HASH,
        AbortCrsgen::SIGNATURE_HASH,
        PrepKeygenResponse::SIGNATURE_HASH,
        KeygenResponse::SIGNATURE_HASH,
        CrsgenResponse::SIGNATURE_HASH,
        ActivateKey::SIGNATURE_HASH,
        ActivateCrs::SIGNATURE_HASH,
        KeyMigrationRequest::SIGNATURE_HASH,
        gateway::PrepKeygenRequest::SIGNATURE_HASH,
        gateway::KeygenRequest::SIGNATURE_HASH,
        gateway::CrsgenRequest::SIGNATURE_HASH,
        ethereum::PrepKeygenRequest::SIGNATURE_HASH,
        ethereum::KeygenRequest::SIGNATURE_HASH,
        ethereum::CrsgenRequest::SIGNATURE_HASH,
    ]
    .contains(topic)
}

/// The digests of a key by their type: what all honest Cores make.
pub(super) fn digests_of_key(id: U256) -> [(u8, Bytes); 2] {
    [0, 1].map(|kind| (kind, digest(id, kind)))
}

/// The digest of a CRS.
pub(super) fn digest_of_crs(id: U256, max_bits: u32) -> Bytes {
    keccak256([&id.to_be_bytes::<32>()[..], &max_bits.to_be_bytes()].concat()).0.into()
}

fn digest(id: U256, kind: u8) -> Bytes {
    keccak256([&id.to_be_bytes::<32>()[..], &[kind]].concat()).0.into()
}
