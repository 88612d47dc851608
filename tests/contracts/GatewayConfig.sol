// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";

struct Coprocessor {
    address txSenderAddress;
    address signerAddress;
    string s3BucketUrl;
}

struct KmsNodeV1 {
    address txSenderAddress;
    address signerAddress;
    string ipAddress;
}

struct KmsNode {
    address txSenderAddress;
    address signerAddress;
    string ipAddress;
    string storageUrl;
}

/// Test double of the gateway's registry: the views a connector calls, in the form of the
/// generation it plays, and setters anybody may call. Views that a generation does not have revert
/// without data, as on a contract without the function.
contract GatewayConfig {
    error NotKmsTxSender(address txSender);
    error NotKmsSigner(address signer);

    event Upgraded(address indexed implementation);

    /// KMS context ids carry the type tag 0x07.
    uint256 internal constant CONTEXT_ID = (uint256(0x07) << 248) | 1;

    uint8 public generation;

    address[] internal kmsTxSenders;
    mapping(address => KmsNode) internal kmsNodes;
    address[] internal coprocessorTxSenders;
    mapping(address => Coprocessor) internal coprocessors;
    uint256 internal publicThreshold;
    uint256 internal userThreshold;

    constructor(uint8 generation_) {
        generation = generation_;
    }

    // Views of the protocol.

    function getCoprocessor(address txSender) external view returns (Coprocessor memory) {
        return coprocessors[txSender];
    }

    function getCoprocessorTxSenders() external view returns (address[] memory) {
        return coprocessorTxSenders;
    }

    function getCoprocessorSigners() external view returns (address[] memory signers) {
        signers = new address[](coprocessorTxSenders.length);
        for (uint256 i = 0; i < signers.length; i++) {
            signers[i] = coprocessors[coprocessorTxSenders[i]].signerAddress;
        }
    }

    function getCoprocessorMajorityThreshold() external view returns (uint256) {
        return coprocessorTxSenders.length / 2 + 1;
    }

    /// Three fields up to v0.8.1, four from v0.9.0: one selector, so the words are returned raw.
    function getKmsNode(address txSender) external view returns (KmsNode memory) {
        KmsNode memory node = kmsNodes[txSender];
        bytes memory words = generation < Generation.V0_9_0
            ? abi.encode(KmsNodeV1(node.txSenderAddress, node.signerAddress, node.ipAddress))
            : abi.encode(node);
        assembly {
            return(add(words, 32), mload(words))
        }
    }

    function getKmsTxSenders() external view returns (address[] memory) {
        return kmsTxSenders;
    }

    function getKmsSigners() public view returns (address[] memory signers) {
        signers = new address[](kmsTxSenders.length);
        for (uint256 i = 0; i < signers.length; i++) {
            signers[i] = kmsNodes[kmsTxSenders[i]].signerAddress;
        }
    }

    function isKmsTxSender(address txSender) external view returns (bool) {
        Generation.need(generation >= Generation.V0_9_0);
        return knowsTxSender(txSender);
    }

    function isKmsSigner(address signer) external view returns (bool) {
        Generation.need(generation >= Generation.V0_9_0);
        return knowsSigner(signer);
    }

    function checkIsKmsTxSender(address txSender) external view {
        Generation.need(generation < Generation.V0_9_0);
        if (!knowsTxSender(txSender)) revert NotKmsTxSender(txSender);
    }

    function checkIsKmsSigner(address signer) external view {
        Generation.need(generation < Generation.V0_9_0);
        if (!knowsSigner(signer)) revert NotKmsSigner(signer);
    }

    function getPublicDecryptionThreshold() external view returns (uint256) {
        Generation.need(generation < Generation.G12);
        return publicThreshold;
    }

    function getUserDecryptionThreshold() external view returns (uint256) {
        Generation.need(generation < Generation.G12);
        return userThreshold;
    }

    function getMpcThreshold() external view returns (uint256) {
        return kmsTxSenders.length / 3;
    }

    function getKmsGenThreshold() external view returns (uint256) {
        Generation.need(generation >= Generation.V0_9_0);
        return userThreshold;
    }

    function getCurrentKmsContextId() external view returns (uint256) {
        Generation.need(generation >= Generation.G12);
        return CONTEXT_ID;
    }

    function isKmsSignerForContext(uint256 contextId, address signer) external view returns (bool) {
        Generation.need(generation >= Generation.G12);
        return contextId == CONTEXT_ID && knowsSigner(signer);
    }

    function getPublicDecryptionThresholdForContext(uint256) external view returns (uint256) {
        Generation.need(generation >= Generation.G12);
        return publicThreshold;
    }

    function getUserDecryptionThresholdForContext(uint256) external view returns (uint256) {
        Generation.need(generation >= Generation.G12);
        return userThreshold;
    }

    function paused() external view returns (bool) {
        Generation.need(generation < Generation.V0_9_0);
        return false;
    }

    function getVersion() external view returns (string memory) {
        if (generation == Generation.G7) return "GatewayConfig v0.1.0";
        if (generation == Generation.G8) return "GatewayConfig v0.2.0";
        if (generation == Generation.V0_9_0) return "GatewayConfig v0.1.0";
        if (generation == Generation.V0_9_7) return "GatewayConfig v0.3.0";
        if (generation == Generation.G10) return "GatewayConfig v0.4.0";
        return "GatewayConfig v0.5.0";
    }

    // Setters of the test world.

    function registerKmsNode(KmsNode calldata node) external {
        if (kmsNodes[node.txSenderAddress].txSenderAddress == address(0)) {
            kmsTxSenders.push(node.txSenderAddress);
        }
        kmsNodes[node.txSenderAddress] = node;
    }

    function unregisterKmsNode(address txSender) external {
        delete kmsNodes[txSender];
        remove(kmsTxSenders, txSender);
    }

    /// An empty URL is kept: a registered coprocessor that has no bucket yet.
    function setCoprocessor(Coprocessor calldata coprocessor) external {
        if (coprocessors[coprocessor.txSenderAddress].txSenderAddress == address(0)) {
            coprocessorTxSenders.push(coprocessor.txSenderAddress);
        }
        coprocessors[coprocessor.txSenderAddress] = coprocessor;
    }

    function unregisterCoprocessor(address txSender) external {
        delete coprocessors[txSender];
        remove(coprocessorTxSenders, txSender);
    }

    function setThresholds(uint256 publicDecryption, uint256 userDecryption) external {
        publicThreshold = publicDecryption;
        userThreshold = userDecryption;
    }

    function upgrade(uint8 generation_) external {
        generation = generation_;
        emit Upgraded(address(this));
    }

    // The registry itself.

    function knowsTxSender(address txSender) internal view returns (bool) {
        return txSender != address(0) && kmsNodes[txSender].txSenderAddress == txSender;
    }

    function knowsSigner(address signer) internal view returns (bool) {
        for (uint256 i = 0; i < kmsTxSenders.length; i++) {
            if (kmsNodes[kmsTxSenders[i]].signerAddress == signer) return true;
        }
        return false;
    }

    function remove(address[] storage list, address which) internal {
        for (uint256 i = 0; i < list.length; i++) {
            if (list[i] == which) {
                list[i] = list[list.length - 1];
                list.pop();
                return;
            }
        }
    }
}
