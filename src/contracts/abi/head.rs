//! HEAD (fhevm v0.15-dev): beside every request event a handle-only overload with the same id, in the
//! same transaction and after it. They say nothing of the ciphertexts.

use alloy::sol_types::SolEvent;

use super::{DECODER, RequestEventShape, g14::unified_request};
use crate::domain::{EventShape, Kind, Operation, PublicDecryption, RequestTerms, UserDecryption};

/// The request events without materials.
mod plain {
    alloy::sol! {
        event PublicDecryptionRequest(
            uint256 indexed decryptionId, bytes32[] ctHandles, bytes extraData
        );
        event UserDecryptionRequest(
            uint256 indexed decryptionId,
            bytes32[] ctHandles,
            address userAddress,
            bytes publicKey,
            bytes extraData
        );
    }
}

/// The handle-only form of G14's unified request (entries and payload as there).
mod unified {
    alloy::sol! {
        event UserDecryptionRequest(
            uint256 indexed decryptionId,
            (bytes32, address, address)[] handles,
            (address, bytes, address[], (uint256, uint256), bytes, bytes) payload
        );
    }
}

pub(super) const PUBLIC_REQUEST: RequestEventShape = RequestEventShape {
    topic0: plain::PublicDecryptionRequest::SIGNATURE_HASH,
    event: plain::PublicDecryptionRequest::SIGNATURE,
    kind: Kind::PublicDecryption,
    names_materials: false,
    read: |_, data| {
        let (handles, extra_data) =
            plain::PublicDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        let public = PublicDecryption { handles, materials: None, extra_data };
        Ok((EventShape::Head, Operation::PublicDecryption(public)))
    },
};

pub(super) const USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: plain::UserDecryptionRequest::SIGNATURE_HASH,
    event: plain::UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    names_materials: false,
    read: |_, data| {
        let (handles, user, public_key, extra_data) =
            plain::UserDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        let (materials, terms) = (None, RequestTerms::Legacy);
        let user = UserDecryption { handles, materials, user, public_key, extra_data, terms };
        Ok((EventShape::Head, Operation::UserDecryption(user)))
    },
};

pub(super) const UNIFIED_USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: unified::UserDecryptionRequest::SIGNATURE_HASH,
    event: unified::UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    names_materials: false,
    read: |_, data| {
        let (handles, payload) =
            unified::UserDecryptionRequest::abi_decode_data_with_config(data, DECODER)?;
        Ok((EventShape::Head, unified_request(None, handles, payload)))
    },
};
