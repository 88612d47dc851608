// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {KeyAnswers} from "./KeyAnswers.sol";
import {KeyDigest} from "./KeyStructures.sol";
import {Upgradeable} from "./Proxy.sol";

/// Test double of the gateway's contract for keys, from G9 to G12; from G13 on it only tells what was
/// made (gateway-abi 6.2). Anybody is its owner.
contract KMSGeneration is KeyAnswers {
    event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, uint8 paramsType);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType);
    event PRSSInit();
    event KeyReshareSameSet(uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, uint8 paramsType);

    uint256 internal constant RESHARES = uint256(0x06) << 248;

    GatewayConfig public immutable config;

    uint256 internal reshareCount;

    constructor(uint8 generation_, GatewayConfig config_) Upgradeable(generation_) {
        config = config_;
    }

    modifier whileWritable() {
        Generation.need(generation >= Generation.V0_9_0 && generation < Generation.G13);
        _;
    }

    // Owner calls.

    function keygen(uint8 params) external whileWritable {
        (uint256 prepKeygenId, ) = openKeygen(params);
        emit PrepKeygenRequest(prepKeygenId, 0, params);
    }

    function crsgenRequest(uint256 bits, uint8 params) external whileWritable {
        uint256 crsId = openCrsgen(bits, params);
        emit CrsgenRequest(crsId, bits, params);
    }

    function prssInit() external whileWritable {
        Generation.need(generation >= Generation.V0_9_7);
        emit PRSSInit();
    }

    function keyReshareSameSet(uint256 keyId) external whileWritable {
        Generation.need(generation >= Generation.V0_9_7);
        checkKey(keyId);
        reshareCount += 1;
        emit KeyReshareSameSet(keyId - KEYS + PREPARATIONS, keyId, RESHARES + reshareCount, paramsType[keyId]);
    }

    // Answers.

    function prepKeygenResponse(uint256 id, bytes calldata signature) external whileWritable {
        checkSender(id);
        if (knowsIds() && !isRequested(id, PREPARATIONS, keyCount)) revert PrepKeygenNotRequested(id);
        takePrepKeygen(id, signature);
    }

    function keygenResponse(
        uint256 id,
        KeyDigest[] calldata digests,
        bytes calldata signature
    ) external whileWritable {
        checkSender(id);
        if (knowsIds() && !isRequested(id, KEYS, keyCount)) revert KeygenNotRequested(id);
        if (digests.length == 0 && generation >= Generation.V0_9_7) revert EmptyKeyDigests(id);
        takeKeygen(id, digests, signature);
    }

    function crsgenResponse(
        uint256 id,
        bytes calldata crsDigest,
        bytes calldata signature
    ) external whileWritable {
        checkSender(id);
        if (knowsIds() && !isRequested(id, CRSS, crsCount)) revert CrsgenNotRequested(id);
        takeCrsgen(id, crsDigest, signature);
    }

    /// v0.9 does not look whether a request was ever made.
    function knowsIds() internal view returns (bool) {
        return generation >= Generation.G10;
    }

    function checkSender(uint256 id) internal view {
        failIfToldTo(id);
        if (!config.isKmsTxSender(msg.sender)) revert NotKmsTxSender(msg.sender);
    }

    function checkSigner(
        uint256,
        bytes32 digest,
        bytes calldata signature
    ) internal view override returns (address signer) {
        signer = recover(digest, signature);
        if (!config.isKmsSigner(signer)) revert NotKmsSigner(signer);
        if (generation < Generation.V0_9_7) return signer;
        if (config.getKmsNode(msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
    }

    function threshold(uint256) internal view override returns (uint256) {
        return config.getKmsGenThreshold();
    }

    function storageUrl(uint256, address txSender) internal view override returns (string memory) {
        return config.getKmsNode(txSender).storageUrl;
    }

    function tellKeygen(uint256 prepKeygenId, uint256 keyId) internal override {
        emit KeygenRequest(prepKeygenId, keyId);
    }

    // Views of the protocol.

    function getActiveKeyId() external view whileWritable returns (uint256) {
        return activeKey;
    }

    function getActiveCrsId() external view whileWritable returns (uint256) {
        return activeCrs;
    }

    function getVersion() external view returns (string memory) {
        if (generation == Generation.V0_9_0) return "KMSGeneration v0.1.0";
        if (generation == Generation.V0_9_7) return "KMSGeneration v0.3.0";
        return generation < Generation.G13 ? "KMSGeneration v0.4.0" : "KMSGeneration v0.5.0";
    }
}
