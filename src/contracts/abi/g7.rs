//! G7 (fhevm v0.7.0 to v0.8.0-1): requests and responses without `extraData`.
//!
//! The tuple in the events is `SnsCiphertextMaterial`: `ctHandle`, `keyId`,
//! `snsCiphertextDigest`, `coprocessorTxSenderAddresses`.

use alloy::sol;
use alloy::sol_types::{SolCall, SolEvent};

use super::{DECODER, RequestEventShape, materials};
use crate::domain::{Bytes, EventShape, Kind, Operation, SignedResult, U256};
use crate::domain::{PublicDecryption, UserDecryption};

sol! {
    event PublicDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        address userAddress,
        bytes publicKey
    );

    function publicDecryptionResponse(
        uint256 decryptionId, bytes decryptedResult, bytes signature
    ) external;
    function userDecryptionResponse(
        uint256 decryptionId, bytes userDecryptedShare, bytes signature
    ) external;
}

/// Selectors of the response functions.
pub(super) const RESPONSE_SELECTORS: [[u8; 4]; 2] =
    [publicDecryptionResponseCall::SELECTOR, userDecryptionResponseCall::SELECTOR];

pub(super) const PUBLIC_REQUEST: RequestEventShape = RequestEventShape {
    topic0: PublicDecryptionRequest::SIGNATURE_HASH,
    event: PublicDecryptionRequest::SIGNATURE,
    kind: Kind::PublicDecryption,
    names_materials: true,
    read: |_, data| {
        let (raw,) = PublicDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        let public = PublicDecryption::of_materials(materials(raw), Bytes::new());
        Ok((EventShape::G7, Operation::PublicDecryption(public)))
    },
};

pub(super) const USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: UserDecryptionRequest::SIGNATURE_HASH,
    event: UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    names_materials: true,
    read: |_, data| {
        let (raw, user, public_key) =
            UserDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        let user = UserDecryption::of_materials(materials(raw), user, public_key, Bytes::new());
        Ok((EventShape::G7, Operation::UserDecryption(user)))
    },
};

pub(super) fn public_response_call(id: U256, answer: SignedResult) -> Bytes {
    let SignedResult { payload, signature, extra_data: _ } = answer;
    publicDecryptionResponseCall { decryptionId: id, decryptedResult: payload, signature }
        .abi_encode()
        .into()
}

pub(super) fn user_response_call(id: U256, answer: SignedResult) -> Bytes {
    let SignedResult { payload, signature, extra_data: _ } = answer;
    userDecryptionResponseCall { decryptionId: id, userDecryptedShare: payload, signature }
        .abi_encode()
        .into()
}
