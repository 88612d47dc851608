// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";

struct KeyDigest {
    uint8 keyType;
    bytes digest;
}

/// What a KMS Core signs of keys and CRSs, from G13 on (gateway-abi 10): with the `extraData` of the request
/// under the name `KMSGeneration`, with that of an epoch under the name `ProtocolConfig`.
library KeyStructures {
    function prepKeygen(uint256 id, bytes memory extraData) internal pure returns (bytes memory) {
        return
            abi.encode(
                keccak256("PrepKeygenVerification(uint256 prepKeygenId,bytes extraData)"),
                id,
                keccak256(extraData)
            );
    }

    /// `list`: of the digests, by [`listHash`].
    function keygen(
        uint256 prepKeygenId,
        uint256 keyId,
        bytes32 list,
        bytes memory extraData
    ) internal pure returns (bytes memory) {
        return
            abi.encode(
                keccak256(
                    "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests,bytes extraData)KeyDigest(uint8 keyType,bytes digest)"
                ),
                prepKeygenId,
                keyId,
                list,
                keccak256(extraData)
            );
    }

    function crsgen(
        uint256 crsId,
        uint256 maxBitLength,
        bytes calldata crsDigest,
        bytes memory extraData
    ) internal pure returns (bytes memory) {
        return
            abi.encode(
                keccak256("CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest,bytes extraData)"),
                crsId,
                maxBitLength,
                keccak256(crsDigest),
                keccak256(extraData)
            );
    }

    /// Kinds of keys are an enum: one that a generation does not have reverts without data.
    function listHash(uint8 generation, KeyDigest[] calldata digests) internal pure returns (bytes32) {
        uint8 last = generation < Generation.HEAD ? 1 : 3;
        bytes32[] memory hashes = new bytes32[](digests.length);
        for (uint256 i = 0; i < hashes.length; i++) {
            Generation.need(digests[i].keyType <= last);
            hashes[i] = keccak256(
                abi.encode(
                    keccak256("KeyDigest(uint8 keyType,bytes digest)"),
                    digests[i].keyType,
                    keccak256(digests[i].digest)
                )
            );
        }
        return keccak256(abi.encodePacked(hashes));
    }
}
