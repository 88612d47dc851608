//! HEAD (fhevm v0.15-dev): beside every request event a handle-only overload with the same id, in the
//! same transaction and after it. Without materials there is no ciphertext to fetch: recognised and
//! held.

use alloy::sol_types::SolEvent;

use super::RequestEventShape;
use crate::domain::{EventShape, Kind, Operation};

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
    read: |_, _| {
        let operation = Operation::Unsupported {
            kind: Kind::PublicDecryption,
            event: plain::PublicDecryptionRequest::SIGNATURE,
        };
        Ok((EventShape::Head, operation))
    },
};

pub(super) const USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: plain::UserDecryptionRequest::SIGNATURE_HASH,
    event: plain::UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    read: |_, _| {
        let operation = Operation::Unsupported {
            kind: Kind::UserDecryption,
            event: plain::UserDecryptionRequest::SIGNATURE,
        };
        Ok((EventShape::Head, operation))
    },
};

pub(super) const UNIFIED_USER_REQUEST: RequestEventShape = RequestEventShape {
    topic0: unified::UserDecryptionRequest::SIGNATURE_HASH,
    event: unified::UserDecryptionRequest::SIGNATURE,
    kind: Kind::UserDecryption,
    read: |_, _| {
        let operation = Operation::Unsupported {
            kind: Kind::UserDecryption,
            event: unified::UserDecryptionRequest::SIGNATURE,
        };
        Ok((EventShape::Head, operation))
    },
};
