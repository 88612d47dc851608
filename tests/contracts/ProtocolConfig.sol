// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {KmsNode} from "./GatewayConfig.sol";
import {KeyDigest} from "./KeyAnswers.sol";
import {Upgradeable} from "./Proxy.sol";

struct KmsNodeParams {
    address txSenderAddress;
    address signerAddress;
    string ipAddress;
    string storageUrl;
    int32 partyId;
    string mpcIdentity;
    bytes caCert;
    string storagePrefix;
}

struct KmsThresholds {
    uint256 publicDecryption;
    uint256 userDecryption;
    uint256 kmsGen;
    uint256 mpc;
}

struct PcrValues {
    bytes pcr0;
    bytes pcr1;
    bytes pcr2;
}

struct EpochKeyResult {
    uint256 prepKeygenId;
    uint256 keyId;
    KeyDigest[] keyDigests;
    bytes signature;
}

struct EpochCrsResult {
    uint256 crsId;
    uint256 maxBitLength;
    bytes crsDigest;
    bytes signature;
}

/// Test double of the register of KMS contexts and epochs on Ethereum (gateway-abi 7): v0.13, where
/// a context is valid from its definition on, and v0.14 and later, where it has a life of its own.
///
/// What the nodes' confirmations bring about, `confirmCreation` and `activateEpoch` do at once. The
/// confirmations themselves are deliberately absent: they come with key management.
contract ProtocolConfig is Upgradeable {
    error InvalidKmsContext(uint256 kmsContextId);
    error InvalidKmsEpoch(uint256 epochId);
    error KmsContextNotPending(uint256 kmsContextId);
    error KmsLifecycleOperationInFlight(uint256 kmsContextId, uint256 epochId);
    error CurrentKmsContextCannotBeDestroyed(uint256 kmsContextId);
    error LatestActiveKmsContextCannotBeDestroyed(uint256 kmsContextId);
    error LatestActiveKmsEpochCannotBeDestroyed(uint256 epochId);

    event NewKmsContext(uint256 indexed kmsContextId, KmsNode[] kmsNodes, KmsThresholds thresholds);
    event NewKmsContext(
        uint256 indexed contextId,
        uint256 indexed previousContextId,
        KmsNodeParams[] kmsNodeParams,
        KmsThresholds thresholds,
        string softwareVersion,
        PcrValues[] pcrValues
    );
    event NewKmsEpoch(
        uint256 indexed kmsContextId,
        uint256 indexed epochId,
        uint256 previousContextId,
        uint256 previousEpochId,
        uint256 materialBlockNumber
    );
    event ActivateEpoch(
        uint256 indexed kmsContextId,
        uint256 indexed epochId,
        EpochKeyResult[] keys,
        EpochCrsResult[] crsList,
        string[] kmsNodeStorageUrls
    );
    event KmsContextDestroyed(uint256 indexed kmsContextId);
    event KmsEpochDestroyed(uint256 indexed epochId);

    enum State {
        None,
        Pending,
        Created,
        Active
    }

    uint256 internal constant CONTEXTS = uint256(0x07) << 248;
    uint256 internal constant EPOCHS = uint256(0x08) << 248;

    /// The highest id given to a context, and the one in force.
    uint256 internal lastContext;
    uint256 internal currentContext;
    uint256 internal lastEpoch;
    uint256 internal currentEpoch;
    mapping(uint256 => KmsNode[]) internal nodes;
    mapping(uint256 => KmsThresholds) internal thresholds;
    mapping(uint256 => State) internal contextState;
    mapping(uint256 => bool) internal destroyed;
    mapping(uint256 => uint256) internal anchorBlock;
    mapping(uint256 => bytes32) internal anchorHash;
    mapping(uint256 => State) internal epochState;
    mapping(uint256 => uint256) internal contextOfEpoch;

    constructor(uint8 generation_) Upgradeable(generation_) {}

    // The life of contexts and epochs, under the protocol's names where it has one.

    function defineNewKmsContext(KmsNode[] calldata kmsNodes, KmsThresholds calldata t) external {
        Generation.need(generation < Generation.G14);
        uint256 id = store(kmsNodes, t);
        currentContext = id;
        emit NewKmsContext(id, kmsNodes, t);
    }

    /// The first context is active at once, with the first epoch.
    function defineNewKmsContextAndEpoch(
        KmsNodeParams[] calldata kmsNodeParams,
        KmsThresholds calldata t,
        string calldata softwareVersion,
        PcrValues[] calldata pcrValues
    ) external {
        Generation.need(generation >= Generation.G14);
        checkNothingInFlight();
        KmsNode[] memory members = new KmsNode[](kmsNodeParams.length);
        for (uint256 i = 0; i < members.length; i++) {
            KmsNodeParams calldata p = kmsNodeParams[i];
            members[i] = KmsNode(p.txSenderAddress, p.signerAddress, p.ipAddress, p.storageUrl);
        }
        uint256 previous = currentContext == 0 ? CONTEXTS : currentContext;
        uint256 id = store(members, t);
        contextState[id] = State.Pending;
        if (currentContext == 0) activate(newEpoch(id));
        anchor(id, keccak256(abi.encode(kmsNodeParams, t, softwareVersion, pcrValues)));
        emit NewKmsContext(id, previous, kmsNodeParams, t, softwareVersion, pcrValues);
    }

    /// What an upgrade from v0.13 calls: only the current context becomes an active one.
    function reinitializeV2(
        KmsNodeParams[] calldata kmsNodeParams,
        string calldata softwareVersion,
        PcrValues[] calldata pcrValues
    ) external {
        Generation.need(generation >= Generation.G14);
        uint256 id = currentContext;
        activate(newEpoch(id));
        KmsThresholds memory t = thresholds[id];
        anchor(id, keccak256(abi.encode(kmsNodeParams, t, softwareVersion, pcrValues)));
        emit NewKmsContext(id, CONTEXTS, kmsNodeParams, t, softwareVersion, pcrValues);
    }

    /// As if enough nodes had confirmed a pending context.
    function confirmCreation(uint256 id) external {
        if (contextState[id] != State.Pending) revert KmsContextNotPending(id);
        contextState[id] = State.Created;
        uint256 epoch = newEpoch(id);
        emit NewKmsEpoch(id, epoch, currentContext, currentEpoch, block.number - 1);
    }

    function defineNewEpochForCurrentKmsContext() external {
        checkNothingInFlight();
        uint256 epoch = newEpoch(currentContext);
        emit NewKmsEpoch(currentContext, epoch, currentContext, currentEpoch, block.number - 1);
    }

    /// As if all nodes had confirmed a pending epoch.
    function activateEpoch(uint256 epoch) external {
        if (epochState[epoch] != State.Pending) revert InvalidKmsEpoch(epoch);
        uint256 id = contextOfEpoch[epoch];
        activate(epoch);
        string[] memory urls = new string[](nodes[id].length);
        for (uint256 i = 0; i < urls.length; i++) urls[i] = nodes[id][i].storageUrl;
        emit ActivateEpoch(id, epoch, new EpochKeyResult[](0), new EpochCrsResult[](0), urls);
    }

    function destroyKmsContext(uint256 id) external {
        if (id == currentContext) {
            if (generation < Generation.G14) revert CurrentKmsContextCannotBeDestroyed(id);
            revert LatestActiveKmsContextCannotBeDestroyed(id);
        }
        if (!isLive(id)) revert InvalidKmsContext(id);
        destroyed[id] = true;
        contextState[id] = State.None;
        if (contextOfEpoch[lastEpoch] == id) clear(lastEpoch);
        emit KmsContextDestroyed(id);
    }

    function destroyKmsEpoch(uint256 epoch) external {
        Generation.need(generation >= Generation.G14);
        if (epoch == currentEpoch) revert LatestActiveKmsEpochCannotBeDestroyed(epoch);
        bool pendingUnderActive = epochState[epoch] == State.Pending &&
            contextState[contextOfEpoch[epoch]] == State.Active;
        if (epochState[epoch] != State.Active && !pendingUnderActive) revert InvalidKmsEpoch(epoch);
        clear(epoch);
        emit KmsEpochDestroyed(epoch);
    }

    // Views of the protocol.

    function getCurrentKmsContextId() external view returns (uint256) {
        return currentContext;
    }

    function getCurrentKmsContextAndEpoch() external view returns (uint256, uint256) {
        Generation.need(generation >= Generation.G14);
        return (currentContext, currentEpoch);
    }

    function getCurrentKmsContextIdCounter() external view returns (uint256) {
        Generation.need(generation >= Generation.G14);
        return highest();
    }

    function isValidKmsContext(uint256 id) public view returns (bool) {
        return isLive(id) && (generation < Generation.G14 || contextState[id] == State.Active);
    }

    function isLiveKmsContext(uint256 id) external view returns (bool) {
        Generation.need(generation >= Generation.G14);
        return isLive(id);
    }

    function isValidEpochForContext(uint256 id, uint256 epoch) external view returns (bool) {
        Generation.need(generation >= Generation.G14);
        return epochState[epoch] == State.Active && contextOfEpoch[epoch] == id && isValidKmsContext(id);
    }

    function getKmsContextAnchor(uint256 id) external view returns (uint256, bytes32) {
        Generation.need(generation >= Generation.G14);
        if (!exists(id)) revert InvalidKmsContext(id);
        return (anchorBlock[id], anchorHash[id]);
    }

    function getKmsNodesForContext(uint256 id) external view returns (KmsNode[] memory) {
        check(isValidKmsContext(id), id);
        return nodes[id];
    }

    /// Also of a destroyed context, from v0.14 on.
    function getKmsNodeForContext(uint256 id, address txSender) external view returns (KmsNode memory node) {
        check(generation < Generation.G14 ? isValidKmsContext(id) : exists(id), id);
        for (uint256 i = 0; i < nodes[id].length; i++) {
            if (nodes[id][i].txSenderAddress == txSender) return nodes[id][i];
        }
    }

    function getKmsSignersForContext(uint256 id) external view returns (address[] memory signers) {
        check(isValidKmsContext(id), id);
        signers = new address[](nodes[id].length);
        for (uint256 i = 0; i < signers.length; i++) signers[i] = nodes[id][i].signerAddress;
    }

    function isKmsSignerForContext(uint256 id, address signer) external view returns (bool) {
        check(isValidKmsContext(id), id);
        for (uint256 i = 0; i < nodes[id].length; i++) {
            if (nodes[id][i].signerAddress == signer) return true;
        }
        return false;
    }

    /// Also of a pending context, from v0.14 on.
    function isKmsTxSenderForContext(uint256 id, address txSender) external view returns (bool) {
        check(generation < Generation.G14 ? isValidKmsContext(id) : isLive(id), id);
        for (uint256 i = 0; i < nodes[id].length; i++) {
            if (nodes[id][i].txSenderAddress == txSender) return true;
        }
        return false;
    }

    function getPublicDecryptionThresholdForContext(uint256 id) external view returns (uint256) {
        check(isValidKmsContext(id), id);
        return thresholds[id].publicDecryption;
    }

    function getUserDecryptionThresholdForContext(uint256 id) external view returns (uint256) {
        check(isValidKmsContext(id), id);
        return thresholds[id].userDecryption;
    }

    function getKmsGenThresholdForContext(uint256 id) external view returns (uint256) {
        check(isValidKmsContext(id), id);
        return thresholds[id].kmsGen;
    }

    function getVersion() external view returns (string memory) {
        return generation < Generation.G14 ? "ProtocolConfig v0.1.0" : "ProtocolConfig v0.2.0";
    }

    // The register itself.

    function store(KmsNode[] memory members, KmsThresholds calldata t) internal returns (uint256 id) {
        id = highest() + 1;
        lastContext = id;
        for (uint256 i = 0; i < members.length; i++) nodes[id].push(members[i]);
        thresholds[id] = t;
    }

    function anchor(uint256 id, bytes32 info) internal {
        anchorBlock[id] = block.number;
        anchorHash[id] = info;
    }

    function newEpoch(uint256 id) internal returns (uint256 epoch) {
        epoch = lastEpoch == 0 ? EPOCHS + 1 : lastEpoch + 1;
        lastEpoch = epoch;
        epochState[epoch] = State.Pending;
        contextOfEpoch[epoch] = id;
    }

    function activate(uint256 epoch) internal {
        currentContext = contextOfEpoch[epoch];
        contextState[currentContext] = State.Active;
        epochState[epoch] = State.Active;
        currentEpoch = epoch;
    }

    function clear(uint256 epoch) internal {
        epochState[epoch] = State.None;
        delete contextOfEpoch[epoch];
    }

    /// Storage is the proxy's: no constructor has written the first value there.
    function highest() internal view returns (uint256) {
        return lastContext == 0 ? CONTEXTS : lastContext;
    }

    function exists(uint256 id) internal view returns (bool) {
        return id > CONTEXTS && id <= highest() && nodes[id].length != 0;
    }

    function isLive(uint256 id) internal view returns (bool) {
        return exists(id) && !destroyed[id];
    }

    function check(bool isFine, uint256 id) internal pure {
        if (!isFine) revert InvalidKmsContext(id);
    }

    function checkNothingInFlight() internal view {
        State state = contextState[highest()];
        if (state == State.Pending || state == State.Created || epochState[lastEpoch] == State.Pending) {
            revert KmsLifecycleOperationInFlight(highest(), lastEpoch);
        }
    }
}
