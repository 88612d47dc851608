//! G8 and later (fhevm v0.8.0-2 on): `extraData` at the end of requests and responses.
//!
//! G9 to G13 use the same events and calls; only their ids differ (a kind tag in the top byte).

use alloy::sol;
use alloy::sol_types::{SolCall, SolEvent};

use super::{DECODER, RequestEventShape, materials};
use crate::domain::{Bytes, EventShape, Kind, Operation, SignedResult, U256};
use crate::domain::{PublicDecryption, UserDecryption};

sol! {
    event PublicDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );

    function publicDecryptionResponse(
        uint256 decryptionId, bytes decryptedResult, bytes signature, bytes extraData
    ) external;
    function userDecryptionResponse(
        uint256 decryptionId, bytes userDecryptedShare, bytes signature, bytes extraData
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
    read: |id, data| {
        let (raw, extra_data) =
            PublicDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        let public = PublicDecryption::of_materials(materials(raw), extra_data);
        Ok((shape_of(id), Operation::PublicDecryption(public)))
    },
};

pub(super) const USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: UserDecryptionRequest::SIGNATURE_HASH,
    event: UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    names_materials: true,
    read: |id, data| {
        let (raw, user, public_key, extra_data) =
            UserDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        let user = UserDecryption::of_materials(materials(raw), user, public_key, extra_data);
        Ok((shape_of(id), Operation::UserDecryption(user)))
    },
};

/// Ids of G8 are one plain counter, far below 2^248; from G9 on the top byte is a kind tag.
fn shape_of(id: U256) -> EventShape {
    if (id >> 248_usize).is_zero() { EventShape::G8 } else { EventShape::G9 }
}

pub(super) fn public_response_call(id: U256, answer: SignedResult) -> Bytes {
    let SignedResult { payload, signature, extra_data } = answer;
    publicDecryptionResponseCall {
        decryptionId: id,
        decryptedResult: payload,
        signature,
        extraData: extra_data,
    }
    .abi_encode()
    .into()
}

pub(super) fn user_response_call(id: U256, answer: SignedResult) -> Bytes {
    let SignedResult { payload, signature, extra_data } = answer;
    userDecryptionResponseCall {
        decryptionId: id,
        userDecryptedShare: payload,
        signature,
        extraData: extra_data,
    }
    .abi_encode()
    .into()
}
