//! What is asked of the Decryption contract, what it emits, what users sign, and what a host chain's
//! contracts are asked.

use alloy::sol;

sol! {
    function userDecryptionRequest(
        (bytes32, address)[] ctHandleContractPairs,
        (uint256, uint256) requestValidity,
        (uint256, address[]) contractsInfo,
        address userAddress,
        bytes publicKey,
        bytes signature,
        bytes extraData
    ) external;
    function delegatedUserDecryptionRequest(
        (bytes32, address)[] ctHandleContractPairs,
        (uint256, uint256) requestValidity,
        (address, address) delegationAccounts,
        (uint256, address[]) contractsInfo,
        bytes publicKey,
        bytes signature,
        bytes extraData
    ) external;
}

/// From G8 on.
pub(super) mod legacy {
    super::sol! {
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
        struct UserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }
        struct DelegatedUserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            address delegatorAddress;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }
    }
}

/// From G14 on.
pub(super) mod unified {
    super::sol! {
        event UserDecryptionRequest(
            uint256 indexed decryptionId,
            (bytes32, uint256, bytes32, address[])[] snsCtMaterials,
            (bytes32, address, address)[] handles,
            (address, bytes, address[], (uint256, uint256), bytes, bytes) payload
        );
        struct UserDecryptRequestVerification {
            address userAddress;
            bytes publicKey;
            address[] allowedContracts;
            uint256 startTimestamp;
            uint256 durationSeconds;
            bytes extraData;
        }
    }
}

/// HEAD's overloads without materials.
pub(super) mod plain {
    super::sol! {
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

pub(super) mod plain_unified {
    super::sol! {
        event UserDecryptionRequest(
            uint256 indexed decryptionId,
            (bytes32, address, address)[] handles,
            (address, bytes, address[], (uint256, uint256), bytes, bytes) payload
        );
    }
}
