// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {KmsNode} from "./GatewayConfig.sol";
import {KeyDigest, KeyStructures} from "./KeyStructures.sol";
import {Upgradeable} from "./Proxy.sol";
import {Signatures} from "./Signatures.sol";
import {Switches} from "./Switches.sol";

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
/// a context is valid from its definition on, and v0.14 and later, where it has a life of its own. Anybody is
/// its owner, who may define anything: what the protocol checks of nodes and thresholds is left out.
///
/// What the nodes' confirmations bring about, `confirmCreation` and `activateEpoch` do at once, for tests
/// that want contexts and no ceremony.
contract ProtocolConfig is Upgradeable, Signatures, Switches {
    error KmsContextNotCreated(uint256 kmsContextId);
    error KmsContextCreationUnauthorized(address caller, uint256 kmsContextId);
    error KmsContextCreationAlreadyConfirmed(address txSender, uint256 kmsContextId);
    error EpochActivationUnauthorized(address caller, uint256 epochId);
    error EpochActivationAlreadyConfirmed(address signer, uint256 epochId);
    error EmptyEpochActivationAttestation(uint256 epochId);
    error EpochActivationSignerDoesNotMatchTxSender(address signer, address txSender);
    error NonIncreasingKmsContextId(uint256 contextId, uint256 latestActiveKmsContextId);
    error NonIncreasingEpochId(uint256 epochId, uint256 currentEpochId);
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
    event KmsContextCreationConfirmation(
        uint256 indexed kmsContextId,
        address indexed txSender,
        bool isPreviousTxSender,
        bool isNewTxSender
    );
    event EpochActivationConfirmation(uint256 indexed epochId, address indexed signer, bytes32 dataHash);
    event MirrorKmsContextAndEpoch(
        uint256 indexed contextId,
        uint256 indexed epochId,
        KmsNodeParams[] kmsNodeParams,
        KmsThresholds thresholds,
        string softwareVersion,
        PcrValues[] pcrValues
    );
    event MirrorKmsEpoch(uint256 indexed contextId, uint256 indexed epochId);

    /// Test-only: one confirmation, of a creation (by wallet) or of an activation (by signer, with its hash).
    struct Confirmation {
        address by;
        bytes32 dataHash;
    }

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
    /// How many of the previous context must confirm a creation.
    mapping(uint256 => uint256) internal previousQuorum;
    mapping(uint256 => uint256) internal previousCount;
    mapping(uint256 => uint256) internal newCount;
    /// Of a context by wallet, of an epoch by signer.
    mapping(uint256 => mapping(address => bool)) internal confirmed;
    mapping(uint256 => mapping(bytes32 => uint256)) internal agreeing;
    mapping(uint256 => Confirmation[]) internal recorded;

    constructor(uint8 generation_) Upgradeable(generation_) {}

    // The life of contexts and epochs, under the protocol's names where it has one.

    function defineNewKmsContext(KmsNode[] calldata kmsNodes, KmsThresholds calldata t) external {
        Generation.need(generation < Generation.G14);
        uint256 id = highest() + 1;
        storeAs(id, kmsNodes, t);
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
        uint256 previous = currentContext == 0 ? CONTEXTS : currentContext;
        uint256 id = highest() + 1;
        storeAs(id, members(kmsNodeParams), t);
        contextState[id] = State.Pending;
        if (currentContext == 0) {
            activate(newEpoch(id));
        } else {
            uint256 honest = nodes[previous].length - thresholds[previous].mpc;
            previousQuorum[id] = honest > 0 ? honest : 1;
        }
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
        emit ActivateEpoch(id, epoch, new EpochKeyResult[](0), new EpochCrsResult[](0), storageUrls(id));
    }

    // The nodes' confirmations.

    function confirmKmsContextCreation(uint256 id) external {
        failIfToldTo(id);
        Generation.need(generation >= Generation.G14);
        if (contextState[id] != State.Pending) revert KmsContextNotPending(id);
        bool isPrevious = isNode(currentContext, msg.sender);
        bool isNew = isNode(id, msg.sender);
        if (!isPrevious && !isNew) revert KmsContextCreationUnauthorized(msg.sender, id);
        if (confirmed[id][msg.sender]) revert KmsContextCreationAlreadyConfirmed(msg.sender, id);
        confirmed[id][msg.sender] = true;
        recorded[id].push(Confirmation(msg.sender, 0));
        if (isPrevious) previousCount[id] += 1;
        if (isNew) newCount[id] += 1;
        emit KmsContextCreationConfirmation(id, msg.sender, isPrevious, isNew);
        if (newCount[id] != nodes[id].length || previousCount[id] < previousQuorum[id]) return;
        contextState[id] = State.Created;
        emit NewKmsEpoch(id, newEpoch(id), currentContext, currentEpoch, block.number - 1);
    }

    function confirmEpochActivation(
        uint256 epoch,
        EpochKeyResult[] calldata keys,
        EpochCrsResult[] calldata crsList
    ) external {
        failIfToldTo(epoch);
        Generation.need(generation >= Generation.G14);
        if (epochState[epoch] != State.Pending) revert InvalidKmsEpoch(epoch);
        uint256 id = contextOfEpoch[epoch];
        if (!isNode(id, msg.sender)) revert EpochActivationUnauthorized(msg.sender, epoch);
        if (contextState[id] == State.Pending) revert KmsContextNotCreated(id);
        check(isLive(id), id);
        if (keys.length == 0 || crsList.length == 0) revert EmptyEpochActivationAttestation(epoch);
        address signer = signerOf(id, msg.sender);
        bytes32 dataHash = attested(signer, abi.encodePacked(uint8(2), id, epoch), keys, crsList);
        if (confirmed[epoch][signer]) revert EpochActivationAlreadyConfirmed(signer, epoch);
        confirmed[epoch][signer] = true;
        recorded[epoch].push(Confirmation(signer, dataHash));
        agreeing[epoch][dataHash] += 1;
        emit EpochActivationConfirmation(epoch, signer, dataHash);
        if (agreeing[epoch][dataHash] != nodes[id].length) return;
        activate(epoch);
        emit ActivateEpoch(id, epoch, keys, crsList, storageUrls(id));
    }

    /// Checks every signature. Answers what all signers must agree on.
    function attested(
        address signer,
        bytes memory extraData,
        EpochKeyResult[] calldata keys,
        EpochCrsResult[] calldata crsList
    ) internal view returns (bytes32) {
        bytes32[] memory keyHashes = new bytes32[](keys.length);
        for (uint256 i = 0; i < keys.length; i++) {
            EpochKeyResult calldata key = keys[i];
            bytes32 list = KeyStructures.listHash(generation, key.keyDigests);
            bytes memory structure = KeyStructures.keygen(key.prepKeygenId, key.keyId, list, extraData);
            checkSigner(signer, structure, key.signature);
            keyHashes[i] = keccak256(abi.encode(key.prepKeygenId, key.keyId, list));
        }
        bytes32[] memory crsHashes = new bytes32[](crsList.length);
        for (uint256 i = 0; i < crsList.length; i++) {
            EpochCrsResult calldata crs = crsList[i];
            bytes memory structure = KeyStructures.crsgen(crs.crsId, crs.maxBitLength, crs.crsDigest, extraData);
            checkSigner(signer, structure, crs.signature);
            crsHashes[i] = keccak256(abi.encode(crs.crsId, crs.maxBitLength, crs.crsDigest));
        }
        return keccak256(abi.encode(keyHashes, crsHashes));
    }

    function checkSigner(address signer, bytes memory structure, bytes calldata signature) internal view {
        address recovered = recover(typed(structure), signature);
        if (recovered != signer) revert EpochActivationSignerDoesNotMatchTxSender(recovered, msg.sender);
    }

    function signingName() internal pure override returns (string memory) {
        return "ProtocolConfig";
    }

    // What replicas on other chains do.

    function mirrorKmsContextAndEpoch(
        uint256 id,
        uint256 epoch,
        KmsNodeParams[] calldata kmsNodeParams,
        KmsThresholds calldata t,
        string calldata softwareVersion,
        PcrValues[] calldata pcrValues
    ) external {
        Generation.need(generation >= Generation.G14);
        if (id <= currentContext) revert NonIncreasingKmsContextId(id, currentContext);
        if (epoch <= lastEpoch) revert NonIncreasingEpochId(epoch, lastEpoch);
        storeAs(id, members(kmsNodeParams), t);
        mirror(id, epoch);
        emit MirrorKmsContextAndEpoch(id, epoch, kmsNodeParams, t, softwareVersion, pcrValues);
    }

    function mirrorKmsEpoch(uint256 id, uint256 epoch) external {
        Generation.need(generation >= Generation.G14);
        check(id == currentContext && isLive(id), id);
        if (epoch <= lastEpoch) revert NonIncreasingEpochId(epoch, lastEpoch);
        mirror(id, epoch);
        emit MirrorKmsEpoch(id, epoch);
    }

    function mirror(uint256 id, uint256 epoch) internal {
        lastEpoch = epoch;
        contextOfEpoch[epoch] = id;
        activate(epoch);
    }

    // The owner's ends of them.

    function destroyKmsContext(uint256 id) external {
        if (id == currentContext) {
            if (generation < Generation.G14) revert CurrentKmsContextCannotBeDestroyed(id);
            revert LatestActiveKmsContextCannotBeDestroyed(id);
        }
        if (!isLive(id)) revert InvalidKmsContext(id);
        destroyed[id] = true;
        contextState[id] = State.None;
        if (contextOfEpoch[lastEpoch] == id) clear(lastEpoch);
        delete previousQuorum[id];
        delete previousCount[id];
        delete newCount[id];
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
        return isNode(id, txSender);
    }

    function getContextCreationPreviousTxSenderThreshold(uint256 id) external view returns (uint256) {
        Generation.need(generation >= Generation.G14);
        return previousQuorum[id];
    }

    function getPublicDecryptionThresholdForContext(uint256 id) external view returns (uint256) {
        check(isValidKmsContext(id), id);
        return thresholds[id].publicDecryption;
    }

    function getUserDecryptionThresholdForContext(uint256 id) external view returns (uint256) {
        check(isValidKmsContext(id), id);
        return thresholds[id].userDecryption;
    }

    /// Also of a pending context, from v0.14 on.
    function getKmsGenThresholdForContext(uint256 id) external view returns (uint256) {
        check(generation < Generation.G14 ? isValidKmsContext(id) : isLive(id), id);
        return thresholds[id].kmsGen;
    }

    function getMpcThresholdForContext(uint256 id) external view returns (uint256) {
        check(isValidKmsContext(id), id);
        return thresholds[id].mpc;
    }

    function getVersion() external view returns (string memory) {
        return generation < Generation.G14 ? "ProtocolConfig v0.1.0" : "ProtocolConfig v0.2.0";
    }

    // Views of the test world.

    function confirmations(uint256 id) external view returns (Confirmation[] memory) {
        return recorded[id];
    }

    // The register itself.

    function members(KmsNodeParams[] calldata params) internal pure returns (KmsNode[] memory all) {
        all = new KmsNode[](params.length);
        for (uint256 i = 0; i < all.length; i++) {
            KmsNodeParams calldata p = params[i];
            all[i] = KmsNode(p.txSenderAddress, p.signerAddress, p.ipAddress, p.storageUrl);
        }
    }

    function storeAs(uint256 id, KmsNode[] memory all, KmsThresholds calldata t) internal {
        lastContext = id;
        for (uint256 i = 0; i < all.length; i++) nodes[id].push(all[i]);
        thresholds[id] = t;
    }

    function isNode(uint256 id, address txSender) internal view returns (bool) {
        for (uint256 i = 0; i < nodes[id].length; i++) {
            if (nodes[id][i].txSenderAddress == txSender) return true;
        }
        return false;
    }

    function signerOf(uint256 id, address txSender) internal view returns (address) {
        for (uint256 i = 0; i < nodes[id].length; i++) {
            if (nodes[id][i].txSenderAddress == txSender) return nodes[id][i].signerAddress;
        }
        return address(0);
    }

    function storageUrls(uint256 id) internal view returns (string[] memory urls) {
        urls = new string[](nodes[id].length);
        for (uint256 i = 0; i < urls.length; i++) urls[i] = nodes[id][i].storageUrl;
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
