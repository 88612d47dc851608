//! G14 (fhevm v0.14): the unified user request. The connector would have to check its user signature and
//! the access rights on the host chain, which is not implemented: recognised and held.

use alloy::sol;
use alloy::sol_types::SolEvent;

use super::RequestEventShape;
use crate::domain::{EventShape, Kind, Operation};

sol! {
    // snsCtMaterials; handles: HandleEntry(handle, contractAddress, ownerAddress);
    // payload: UserDecryptionRequestPayload(userAddress, publicKey, allowedContracts,
    // requestValidity(startTimestamp, durationSeconds), extraData, signature).
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
    read: |_, _| {
        let operation = Operation::Unsupported {
            kind: Kind::UserDecryption,
            event: UserDecryptionRequest::SIGNATURE,
        };
        Ok((EventShape::G14, operation))
    },
};
