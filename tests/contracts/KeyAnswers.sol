// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {KeyDigest, KeyStructures} from "./KeyStructures.sol";
import {Upgradeable} from "./Proxy.sol";
import {Signatures} from "./Signatures.sol";
import {Switches} from "./Switches.sol";

/// What the test doubles of `KMSGeneration` on the gateway and on Ethereum share: what becomes of an
/// answer whose sender may give one (gateway-abi 6.2, 6.3, 10), and the views.
///
/// They emit nothing that the protocol's contracts do not: a connector reads these contracts without a
/// filter of topics. What tests want to know of accepted answers stands in `answers`.
abstract contract KeyAnswers is Upgradeable, Signatures, Switches {
    error NotKmsTxSender(address txSender);
    error NotKmsSigner(address signer);
    error KmsSignerDoesNotMatchTxSender(address signer, address txSender);
    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error EmptyKeyDigests(uint256 keyId);
    error KeygenOngoing(uint256 keyId);
    error CrsgenOngoing(uint256 crsId);
    error KeyNotGenerated(uint256 keyId);
    error CrsNotGenerated(uint256 crsId);

    // From v0.10 on.
    event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
    event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
    event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
    event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
    event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);

    /// Test-only: one accepted answer.
    struct Answer {
        address signer;
        address txSender;
        bytes32 digest;
    }

    uint256 internal constant PREPARATIONS = uint256(0x03) << 248;
    uint256 internal constant KEYS = uint256(0x04) << 248;
    uint256 internal constant CRSS = uint256(0x05) << 248;

    /// A preparation and its key have one number.
    uint256 internal keyCount;
    uint256 internal crsCount;
    uint256 internal activeKey;
    uint256 internal activeCrs;
    /// Of a key and of a CRS.
    mapping(uint256 => uint8) internal paramsType;
    mapping(uint256 => uint256) internal maxBitLength;
    /// Of every request on Ethereum.
    mapping(uint256 => bytes) internal extraDataOf;

    mapping(uint256 => bool) internal done;
    mapping(uint256 => bytes32) internal consensusDigest;
    mapping(uint256 => mapping(bytes32 => address[])) internal agreed;
    mapping(uint256 => mapping(address => bool)) internal hasSigned;
    mapping(uint256 => KeyDigest[]) internal keyDigests;
    mapping(uint256 => bytes) internal crsDigests;
    mapping(uint256 => Answer[]) internal recorded;

    // What the gateway and Ethereum do each in their way.

    /// Who signed it; reverts unless that is the signer of the node that sent it.
    function checkSigner(
        uint256 id,
        bytes32 digest,
        bytes calldata signature
    ) internal view virtual returns (address);

    /// How many answers to a request must agree.
    function threshold(uint256 id) internal view virtual returns (uint256);

    function storageUrl(uint256 id, address txSender) internal view virtual returns (string memory);

    function tellKeygen(uint256 prepKeygenId, uint256 keyId) internal virtual;

    // Requests.

    /// The numbers of the next preparation and of its key.
    function openKeygen(uint8 params) internal returns (uint256 prepKeygenId, uint256 keyId) {
        if (generation >= Generation.G10 && keyCount != 0 && !done[KEYS + keyCount]) {
            revert KeygenOngoing(KEYS + keyCount);
        }
        keyCount += 1;
        (prepKeygenId, keyId) = (PREPARATIONS + keyCount, KEYS + keyCount);
        paramsType[keyId] = params;
    }

    function openCrsgen(uint256 bits, uint8 params) internal returns (uint256 crsId) {
        if (generation >= Generation.G10 && crsCount != 0 && !done[CRSS + crsCount]) {
            revert CrsgenOngoing(CRSS + crsCount);
        }
        crsCount += 1;
        crsId = CRSS + crsCount;
        maxBitLength[crsId] = bits;
        paramsType[crsId] = params;
    }

    function isRequested(uint256 id, uint256 tag, uint256 count) internal pure returns (bool) {
        return id > tag && id <= tag + count;
    }

    // Answers.

    function takePrepKeygen(uint256 id, bytes calldata signature) internal {
        bytes32 digest = prepKeygenDigest(id);
        address signer = checkSigner(id, digest, signature);
        if (hasSigned[id][signer]) revert KmsAlreadySignedForPrepKeygen(id, signer);
        bool reached = accept(id, signer, digest);
        if (generation >= Generation.G10) emit PrepKeygenResponse(id, signature, msg.sender);
        if (reached) tellKeygen(id, id - PREPARATIONS + KEYS);
    }

    function takeKeygen(uint256 id, KeyDigest[] calldata digests, bytes calldata signature) internal {
        bytes32 digest = keygenDigest(id, digests);
        address signer = checkSigner(id, digest, signature);
        if (hasSigned[id][signer]) revert KmsAlreadySignedForKeygen(id, signer);
        bool reached = accept(id, signer, digest);
        if (generation >= Generation.G10) emit KeygenResponse(id, digests, signature, msg.sender);
        if (!reached) return;
        for (uint256 i = 0; i < digests.length; i++) keyDigests[id].push(digests[i]);
        activeKey = id;
        emit ActivateKey(id, storageUrls(id), digests);
    }

    function takeCrsgen(uint256 id, bytes calldata crsDigest, bytes calldata signature) internal {
        bytes32 digest = crsgenDigest(id, crsDigest);
        address signer = checkSigner(id, digest, signature);
        if (hasSigned[id][signer]) revert KmsAlreadySignedForCrsgen(id, signer);
        bool reached = accept(id, signer, digest);
        if (generation >= Generation.G10) emit CrsgenResponse(id, crsDigest, signature, msg.sender);
        if (!reached) return;
        crsDigests[id] = crsDigest;
        activeCrs = id;
        emit ActivateCrs(id, storageUrls(id), crsDigest);
    }

    /// Late answers count, and change nothing. Answers whether this one made the consensus.
    function accept(uint256 id, address signer, bytes32 digest) internal returns (bool reached) {
        hasSigned[id][signer] = true;
        recorded[id].push(Answer(signer, msg.sender, digest));
        agreed[id][digest].push(msg.sender);
        reached = !done[id] && agreed[id][digest].length >= threshold(id);
        if (!reached) return false;
        done[id] = true;
        consensusDigest[id] = digest;
    }

    // Signed structures: gateway-abi 10. From G13 on they end with `extraData`.

    function signingName() internal pure override returns (string memory) {
        return "KMSGeneration";
    }

    function prepKeygenDigest(uint256 id) internal view returns (bytes32) {
        if (generation < Generation.G13) {
            return typed(abi.encode(keccak256("PrepKeygenVerification(uint256 prepKeygenId)"), id));
        }
        return typed(KeyStructures.prepKeygen(id, extraDataOf[id]));
    }

    function keygenDigest(uint256 id, KeyDigest[] calldata digests) internal view returns (bytes32) {
        bytes32 list = KeyStructures.listHash(generation, digests);
        uint256 prepKeygenId = isRequested(id, KEYS, keyCount) ? id - KEYS + PREPARATIONS : 0;
        if (generation < Generation.G13) {
            return
                typed(
                    abi.encode(
                        keccak256(
                            "KeygenVerification(uint256 prepKeygenId,uint256 keyId,KeyDigest[] keyDigests)KeyDigest(uint8 keyType,bytes digest)"
                        ),
                        prepKeygenId,
                        id,
                        list
                    )
                );
        }
        return typed(KeyStructures.keygen(prepKeygenId, id, list, extraDataOf[id]));
    }

    function crsgenDigest(uint256 id, bytes calldata crsDigest) internal view returns (bytes32) {
        if (generation < Generation.G13) {
            return
                typed(
                    abi.encode(
                        keccak256("CrsgenVerification(uint256 crsId,uint256 maxBitLength,bytes crsDigest)"),
                        id,
                        maxBitLength[id],
                        keccak256(crsDigest)
                    )
                );
        }
        return typed(KeyStructures.crsgen(id, maxBitLength[id], crsDigest, extraDataOf[id]));
    }

    // Views of the protocol.

    function getKeyParamsType(uint256 keyId) external view returns (uint8) {
        checkKey(keyId);
        return paramsType[keyId];
    }

    function getCrsParamsType(uint256 crsId) external view returns (uint8) {
        checkCrs(crsId);
        return paramsType[crsId];
    }

    function getKeyMaterials(uint256 keyId) external view returns (string[] memory, KeyDigest[] memory) {
        checkKey(keyId);
        return (storageUrls(keyId), keyDigests[keyId]);
    }

    function getCrsMaterials(uint256 crsId) external view returns (string[] memory, bytes memory) {
        checkCrs(crsId);
        return (storageUrls(crsId), crsDigests[crsId]);
    }

    function getConsensusTxSenders(uint256 requestId) public view returns (address[] memory) {
        return agreed[requestId][consensusDigest[requestId]];
    }

    function checkKey(uint256 keyId) internal view virtual {
        if (!done[keyId]) revert KeyNotGenerated(keyId);
    }

    function checkCrs(uint256 crsId) internal view virtual {
        if (!done[crsId]) revert CrsNotGenerated(crsId);
    }

    function storageUrls(uint256 id) internal view returns (string[] memory urls) {
        address[] memory senders = getConsensusTxSenders(id);
        urls = new string[](senders.length);
        for (uint256 i = 0; i < urls.length; i++) urls[i] = storageUrl(id, senders[i]);
    }

    // Views of the test world.

    function answers(uint256 id) external view returns (Answer[] memory) {
        return recorded[id];
    }
}
