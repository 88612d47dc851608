// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {Upgradeable} from "./Proxy.sol";

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

struct HostChain {
    uint256 chainId;
    address fhevmExecutorAddress;
    address aclAddress;
    string name;
    string website;
}

/// Test double of the gateway's registry: the views a connector calls, in the form of the
/// generation it plays, and setters anybody may call. Views that a generation does not have revert
/// without data, as on a contract without the function.
///
/// Everything about KMS nodes is kept by context, also for generations that know of none: what they
/// registered is the first context of those that do.
contract GatewayConfig is Upgradeable {
    error NotKmsTxSender(address txSender);
    error NotKmsSigner(address signer);
    error InvalidKmsContext(uint256 contextId);
    error InvalidNullKmsContextId();
    error KmsContextAlreadyRegistered(uint256 newContextId, uint256 currentContextId);
    error CurrentKmsContextCannotBeDestroyed(uint256 contextId);

    event UpdateKmsContext(
        uint256 indexed newContextId,
        KmsNode[] newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    );
    event DestroyKmsContext(uint256 indexed kmsContextId);

    struct Context {
        address[] txSenders;
        mapping(address => KmsNode) nodes;
        uint256 publicThreshold;
        uint256 userThreshold;
        bool destroyed;
    }

    /// KMS context ids carry the type tag 0x07.
    uint256 internal constant FIRST_CONTEXT = (uint256(0x07) << 248) | 1;

    /// 0: the first one still.
    uint256 internal laterContext;
    mapping(uint256 => Context) internal contexts;
    address[] internal coprocessorTxSenders;
    mapping(address => Coprocessor) internal coprocessors;
    /// 0: more than half.
    uint256 internal coprocessorThreshold;
    HostChain[] internal hostChains;

    constructor(uint8 generation_) Upgradeable(generation_) {}

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
        return coprocessorThreshold == 0 ? coprocessorTxSenders.length / 2 + 1 : coprocessorThreshold;
    }

    /// Three fields up to v0.8.1, four from v0.9.0: one selector, so the words are returned raw.
    function getKmsNode(address txSender) external view returns (KmsNode memory) {
        KmsNode memory node = contexts[current()].nodes[txSender];
        bytes memory words = generation < Generation.V0_9_0
            ? abi.encode(KmsNodeV1(node.txSenderAddress, node.signerAddress, node.ipAddress))
            : abi.encode(node);
        assembly {
            return(add(words, 32), mload(words))
        }
    }

    function getKmsTxSenders() external view returns (address[] memory) {
        return contexts[current()].txSenders;
    }

    function getKmsSigners() external view returns (address[] memory) {
        return signersOf(current());
    }

    function isKmsTxSender(address txSender) external view returns (bool) {
        Generation.need(generation >= Generation.V0_9_0);
        return knowsTxSender(current(), txSender);
    }

    function isKmsSigner(address signer) external view returns (bool) {
        Generation.need(generation >= Generation.V0_9_0);
        return knowsSigner(current(), signer);
    }

    function checkIsKmsTxSender(address txSender) external view {
        Generation.need(generation < Generation.V0_9_0);
        if (!knowsTxSender(current(), txSender)) revert NotKmsTxSender(txSender);
    }

    function checkIsKmsSigner(address signer) external view {
        Generation.need(generation < Generation.V0_9_0);
        if (!knowsSigner(current(), signer)) revert NotKmsSigner(signer);
    }

    function getPublicDecryptionThreshold() external view returns (uint256) {
        Generation.need(generation < Generation.G12);
        return contexts[current()].publicThreshold;
    }

    function getUserDecryptionThreshold() external view returns (uint256) {
        Generation.need(generation < Generation.G12);
        return contexts[current()].userThreshold;
    }

    function getMpcThreshold() external view returns (uint256) {
        return contexts[current()].txSenders.length / 3;
    }

    function getKmsGenThreshold() external view returns (uint256) {
        Generation.need(generation >= Generation.V0_9_0);
        return contexts[current()].userThreshold;
    }

    function getHostChains() external view returns (HostChain[] memory) {
        return hostChains;
    }

    function isHostChainRegistered(uint256 chainId) external view returns (bool) {
        Generation.need(generation >= Generation.V0_9_0);
        for (uint256 i = 0; i < hostChains.length; i++) {
            if (hostChains[i].chainId == chainId) return true;
        }
        return false;
    }

    // By context. G12 answers nothing of a context it does not know; later ones refuse to answer.

    function getCurrentKmsContextId() external view returns (uint256) {
        Generation.need(generation >= Generation.G12);
        return current();
    }

    function isValidKmsContext(uint256 contextId) external view returns (bool) {
        Generation.need(generation >= Generation.G13);
        return isValid(contextId);
    }

    function isKmsTxSenderForContext(
        uint256 contextId,
        address txSender
    ) external view onContext(contextId) returns (bool) {
        return knowsTxSender(contextId, txSender);
    }

    function isKmsSignerForContext(
        uint256 contextId,
        address signer
    ) external view onContext(contextId) returns (bool) {
        return knowsSigner(contextId, signer);
    }

    function getKmsNodeForContext(
        uint256 contextId,
        address txSender
    ) external view onContext(contextId) returns (KmsNode memory) {
        return contexts[contextId].nodes[txSender];
    }

    function getKmsTxSendersForContext(
        uint256 contextId
    ) external view onContext(contextId) returns (address[] memory) {
        return contexts[contextId].txSenders;
    }

    function getKmsSignersForContext(
        uint256 contextId
    ) external view onContext(contextId) returns (address[] memory) {
        return signersOf(contextId);
    }

    function getPublicDecryptionThresholdForContext(
        uint256 contextId
    ) external view onContext(contextId) returns (uint256) {
        return contexts[contextId].publicThreshold;
    }

    function getUserDecryptionThresholdForContext(
        uint256 contextId
    ) external view onContext(contextId) returns (uint256) {
        return contexts[contextId].userThreshold;
    }

    modifier onContext(uint256 contextId) {
        Generation.need(generation >= Generation.G12);
        if (generation >= Generation.G13 && !isValid(contextId)) revert InvalidKmsContext(contextId);
        _;
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
        if (generation == Generation.G12) return "GatewayConfig v0.5.0";
        if (generation == Generation.G13) return "GatewayConfig v0.6.0";
        return generation == Generation.G14 ? "GatewayConfig v0.7.0" : "GatewayConfig v0.8.0";
    }

    // Setters of the test world.

    /// In the current context.
    function registerKmsNode(KmsNode calldata node) external {
        register(current(), node);
    }

    function unregisterKmsNode(address txSender) external {
        Context storage context = contexts[current()];
        delete context.nodes[txSender];
        remove(context.txSenders, txSender);
    }

    /// The protocol's own: a new context, in force from now on.
    function updateKmsContext(
        uint256 newContextId,
        KmsNode[] calldata newKmsNodes,
        uint256 newMpcThreshold,
        uint256 newPublicDecryptionThreshold,
        uint256 newUserDecryptionThreshold,
        uint256 newKmsGenThreshold
    ) external {
        Generation.need(generation >= Generation.G12);
        if (newContextId == 0) revert InvalidNullKmsContextId();
        if (newContextId <= current()) revert KmsContextAlreadyRegistered(newContextId, current());
        for (uint256 i = 0; i < newKmsNodes.length; i++) register(newContextId, newKmsNodes[i]);
        contexts[newContextId].publicThreshold = newPublicDecryptionThreshold;
        contexts[newContextId].userThreshold = newUserDecryptionThreshold;
        laterContext = newContextId;
        emit UpdateKmsContext(
            newContextId,
            newKmsNodes,
            newMpcThreshold,
            newPublicDecryptionThreshold,
            newUserDecryptionThreshold,
            newKmsGenThreshold
        );
    }

    /// The protocol's own.
    function destroyKmsContext(uint256 contextId) external {
        Generation.need(generation >= Generation.G13);
        if (contextId == current()) revert CurrentKmsContextCannotBeDestroyed(contextId);
        if (!isValid(contextId)) revert InvalidKmsContext(contextId);
        contexts[contextId].destroyed = true;
        emit DestroyKmsContext(contextId);
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

    /// How many coprocessors must agree; 0: more than half of them.
    function setCoprocessorThreshold(uint256 threshold) external {
        coprocessorThreshold = threshold;
    }

    function setThresholds(uint256 publicDecryption, uint256 userDecryption) external {
        contexts[current()].publicThreshold = publicDecryption;
        contexts[current()].userThreshold = userDecryption;
    }

    function addHostChain(HostChain calldata hostChain) external {
        hostChains.push(hostChain);
    }

    // The registry itself.

    function current() internal view returns (uint256) {
        return laterContext == 0 ? FIRST_CONTEXT : laterContext;
    }

    /// The current context is one also while no node is left in it.
    function isValid(uint256 contextId) internal view returns (bool) {
        Context storage context = contexts[contextId];
        return contextId == current() || (context.txSenders.length != 0 && !context.destroyed);
    }

    function register(uint256 contextId, KmsNode calldata node) internal {
        Context storage context = contexts[contextId];
        if (context.nodes[node.txSenderAddress].txSenderAddress == address(0)) {
            context.txSenders.push(node.txSenderAddress);
        }
        context.nodes[node.txSenderAddress] = node;
    }

    function knowsTxSender(uint256 contextId, address txSender) internal view returns (bool) {
        return txSender != address(0) && contexts[contextId].nodes[txSender].txSenderAddress == txSender;
    }

    function knowsSigner(uint256 contextId, address signer) internal view returns (bool) {
        Context storage context = contexts[contextId];
        for (uint256 i = 0; i < context.txSenders.length; i++) {
            if (context.nodes[context.txSenders[i]].signerAddress == signer) return true;
        }
        return false;
    }

    function signersOf(uint256 contextId) internal view returns (address[] memory signers) {
        Context storage context = contexts[contextId];
        signers = new address[](context.txSenders.length);
        for (uint256 i = 0; i < signers.length; i++) {
            signers[i] = context.nodes[context.txSenders[i]].signerAddress;
        }
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
