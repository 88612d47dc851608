//! Events that say that enough KMS nodes have answered a request (gateway-abi 4.1), one event per
//! request. The events of single answers (from G9 and G10 on) are not read here: they carry whole
//! shares.

use alloy::{sol, sol_types::SolEvent};

use crate::domain::{B256, Event, U256};

mod g7 {
    use super::sol;
    sol! {
        event PublicDecryptionResponse(
            uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures
        );
        event UserDecryptionResponse(
            uint256 indexed decryptionId, bytes[] userDecryptedShares, bytes[] signatures
        );
    }
}

mod g8 {
    use super::sol;
    sol! {
        event PublicDecryptionResponse(
            uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures, bytes extraData
        );
        event UserDecryptionResponse(
            uint256 indexed decryptionId,
            bytes[] userDecryptedShares,
            bytes[] signatures,
            bytes extraData
        );
    }
}

sol! {
    /// From G9 on, for user decryptions.
    event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);
}

/// `topic0` of these events, in all generations.
pub const CONSENSUS_TOPICS: [B256; 5] = [
    g7::PublicDecryptionResponse::SIGNATURE_HASH,
    g7::UserDecryptionResponse::SIGNATURE_HASH,
    g8::PublicDecryptionResponse::SIGNATURE_HASH,
    g8::UserDecryptionResponse::SIGNATURE_HASH,
    UserDecryptionResponseThresholdReached::SIGNATURE_HASH,
];

/// The id of the request that enough nodes have answered. `None`: another event.
#[must_use]
pub fn consensus_id(event: &Event) -> Option<U256> {
    let &[topic0, id] = event.topics.as_slice() else { return None };
    CONSENSUS_TOPICS.contains(&topic0).then(|| U256::from_be_bytes(id.0))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::b256;

    use super::*;

    /// gateway-abi 4.1.
    #[test]
    fn c0_every_generation_says_that_enough_have_answered() {
        assert_eq!(
            CONSENSUS_TOPICS,
            [
                b256!("61568d6eb48e62870afffd55499206a54a8f78b04a627e00ed097161fc05d6be"),
                b256!("7312dec4cead0d5d3da836cdbaed1eb6a81e218c519c8740da4ac75afcb6c5c7"),
                b256!("d7e58a367a0a6c298e76ad5d240004e327aa1423cbe4bd7ff85d4c715ef8d15f"),
                b256!("1cbf1c6e9ea3dbcfd49b9690d93cd4b93b3cb22913f99b71d3aecae60b25fc56"),
                b256!("e89752be0ecdb68b2a6eb5ef1a891039e0e92ae3c8a62274c5881e48eea1ed25"),
            ]
        );
    }
}
