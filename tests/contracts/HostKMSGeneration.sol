// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {KeyAnswers} from "./KeyAnswers.sol";
import {KeyDigest} from "./KeyStructures.sol";
import {ProtocolConfig} from "./ProtocolConfig.sol";
import {Upgradeable} from "./Proxy.sol";

/// Test double of the contract for keys on Ethereum, from G13 on (gateway-abi 6.3). Anybody is its owner.
///
/// Who may answer a request is said by the context in force when it was made, which stands in the
/// `extraData` that is kept with it and that the Core signs.
contract HostKMSGeneration is KeyAnswers {
    error KeyManagementRequestPending();
    error KeyAborted(uint256 keyId);
    error CrsAborted(uint256 crsId);
    error AbortKeygenInvalidId(uint256 prepKeygenId);
    error AbortKeygenAlreadyDone(uint256 prepKeygenId);
    error AbortCrsgenInvalidId(uint256 crsId);
    error AbortCrsgenAlreadyDone(uint256 crsId);

    event PrepKeygenRequest(uint256 prepKeygenId, uint8 paramsType, bytes extraData);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType, bytes extraData);
    event AbortKeygen(uint256 prepKeygenId);
    event AbortCrsgen(uint256 crsId);

    struct KeyInfo {
        uint256 prepKeygenId;
        uint256 keyId;
        uint8 paramsType;
        KeyDigest[] keyDigests;
    }

    ProtocolConfig public immutable config;

    constructor(uint8 generation_, ProtocolConfig config_) Upgradeable(generation_) {
        config = config_;
    }

    // Owner calls.

    function keygen(uint8 params) external {
        (uint256 prepKeygenId, uint256 keyId) = openKeygen(params);
        bytes memory extraData = currentExtraData();
        extraDataOf[prepKeygenId] = extraData;
        extraDataOf[keyId] = extraData;
        emit PrepKeygenRequest(prepKeygenId, params, extraData);
    }

    function crsgenRequest(uint256 bits, uint8 params) external {
        uint256 crsId = openCrsgen(bits, params);
        extraDataOf[crsId] = currentExtraData();
        emit CrsgenRequest(crsId, bits, params, extraDataOf[crsId]);
    }

    /// Both of a pair count as done, without a consensus.
    function abortKeygen(uint256 prepKeygenId) external {
        if (!isRequested(prepKeygenId, PREPARATIONS, keyCount)) revert AbortKeygenInvalidId(prepKeygenId);
        uint256 keyId = prepKeygenId - PREPARATIONS + KEYS;
        if (done[keyId]) revert AbortKeygenAlreadyDone(prepKeygenId);
        done[prepKeygenId] = true;
        done[keyId] = true;
        emit AbortKeygen(prepKeygenId);
    }

    function abortCrsgen(uint256 crsId) external {
        if (!isRequested(crsId, CRSS, crsCount)) revert AbortCrsgenInvalidId(crsId);
        if (done[crsId]) revert AbortCrsgenAlreadyDone(crsId);
        done[crsId] = true;
        emit AbortCrsgen(crsId);
    }

    function currentExtraData() internal view returns (bytes memory) {
        if (generation < Generation.G14) return abi.encodePacked(uint8(1), config.getCurrentKmsContextId());
        (uint256 context, uint256 epoch) = config.getCurrentKmsContextAndEpoch();
        return abi.encodePacked(uint8(2), context, epoch);
    }

    // Answers.

    function prepKeygenResponse(uint256 id, bytes calldata signature) external {
        failIfToldTo(id);
        if (!isRequested(id, PREPARATIONS, keyCount)) revert PrepKeygenNotRequested(id);
        checkSender(id);
        takePrepKeygen(id, signature);
    }

    function keygenResponse(uint256 id, KeyDigest[] calldata digests, bytes calldata signature) external {
        failIfToldTo(id);
        if (!isRequested(id, KEYS, keyCount)) revert KeygenNotRequested(id);
        if (digests.length == 0) revert EmptyKeyDigests(id);
        checkSender(id);
        if (!done[id - KEYS + PREPARATIONS]) revert KeyManagementRequestPending();
        takeKeygen(id, digests, signature);
    }

    function crsgenResponse(uint256 id, bytes calldata crsDigest, bytes calldata signature) external {
        failIfToldTo(id);
        if (!isRequested(id, CRSS, crsCount)) revert CrsgenNotRequested(id);
        checkSender(id);
        takeCrsgen(id, crsDigest, signature);
    }

    function contextOf(uint256 id) internal view returns (uint256 context) {
        bytes memory extraData = extraDataOf[id];
        assembly {
            context := mload(add(extraData, 33))
        }
    }

    function checkSender(uint256 id) internal view {
        if (!config.isKmsTxSenderForContext(contextOf(id), msg.sender)) revert NotKmsTxSender(msg.sender);
    }

    /// v0.13 has one word for whatever is wrong with a signer.
    function checkSigner(
        uint256 id,
        bytes32 digest,
        bytes calldata signature
    ) internal view override returns (address signer) {
        signer = recover(digest, signature);
        uint256 context = contextOf(id);
        if (generation >= Generation.G14 && !config.isKmsSignerForContext(context, signer)) {
            revert NotKmsSigner(signer);
        }
        if (config.getKmsNodeForContext(context, msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
    }

    function threshold(uint256 id) internal view override returns (uint256) {
        return config.getKmsGenThresholdForContext(contextOf(id));
    }

    function storageUrl(uint256 id, address txSender) internal view override returns (string memory) {
        return config.getKmsNodeForContext(contextOf(id), txSender).storageUrl;
    }

    function tellKeygen(uint256 prepKeygenId, uint256 keyId) internal override {
        emit KeygenRequest(prepKeygenId, keyId, extraDataOf[keyId]);
    }

    // Views of the protocol.

    function isRequestDone(uint256 requestId) external view returns (bool) {
        return done[requestId];
    }

    function getCompletedKeyIds() external view returns (uint256[] memory) {
        Generation.need(generation >= Generation.G14);
        return completed(KEYS, keyCount);
    }

    function getCompletedCrsIds() external view returns (uint256[] memory) {
        Generation.need(generation >= Generation.G14);
        return completed(CRSS, crsCount);
    }

    function getKeyInfo(uint256 keyId) external view returns (KeyInfo memory) {
        Generation.need(generation >= Generation.G14);
        checkKey(keyId);
        return KeyInfo(keyId - KEYS + PREPARATIONS, keyId, paramsType[keyId], keyDigests[keyId]);
    }

    function getActiveKeyId() external view returns (uint256) {
        return activeKey;
    }

    function getActiveCrsId() external view returns (uint256) {
        return activeCrs;
    }

    function getKeyCounter() external view returns (uint256) {
        return KEYS + keyCount;
    }

    function getCrsCounter() external view returns (uint256) {
        return CRSS + crsCount;
    }

    function getVersion() external view returns (string memory) {
        return generation < Generation.G14 ? "KMSGeneration v0.1.0" : "KMSGeneration v0.2.0";
    }

    /// Those of the ids counted from a tag on that a consensus made.
    function completed(uint256 tag, uint256 count) internal view returns (uint256[] memory ids) {
        uint256 found;
        ids = new uint256[](count);
        for (uint256 id = tag + 1; id <= tag + count; id++) {
            if (consensusDigest[id] != 0) ids[found++] = id;
        }
        assembly {
            mstore(ids, found)
        }
    }

    function checkKey(uint256 keyId) internal view override {
        super.checkKey(keyId);
        if (consensusDigest[keyId] == 0) revert KeyAborted(keyId);
    }

    function checkCrs(uint256 crsId) internal view override {
        super.checkCrs(crsId);
        if (consensusDigest[crsId] == 0) revert CrsAborted(crsId);
    }
}
