// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {Upgradeable} from "./Proxy.sol";
import {RawLog, Switches} from "./Switches.sol";

struct SnsCiphertextMaterial {
    bytes32 ctHandle;
    uint256 keyId;
    bytes32 snsCiphertextDigest;
    address[] coprocessorTxSenderAddresses;
}

struct CtHandleContractPair {
    bytes32 ctHandle;
    address contractAddress;
}

struct RequestValidity {
    uint256 startTimestamp;
    uint256 durationDays;
}

struct DelegationAccounts {
    address delegatorAddress;
    address delegateAddress;
}

struct ContractsInfo {
    uint256 chainId;
    address[] addresses;
}

struct HandleEntry {
    bytes32 handle;
    address contractAddress;
    address ownerAddress;
}

struct RequestValiditySeconds {
    uint256 startTimestamp;
    uint256 durationSeconds;
}

struct UserDecryptionRequestPayload {
    address userAddress;
    bytes publicKey;
    address[] allowedContracts;
    RequestValiditySeconds requestValidity;
    bytes extraData;
    bytes signature;
}

/// How requests come into the test double of `Decryption`, and what it keeps of them.
///
/// Two ways lead in. `request` takes anything of any generation at once. From G12 on the request
/// functions of the protocol are there as well, because connectors read their calldata; the
/// materials come from what was committed before. Neither checks who may decrypt, what the user
/// signed or how long: tests also ask for what the real contract would refuse. What both do from
/// G13 on is what an answer depends on: they pin the context, with the protocol's errors.
abstract contract Requests is Upgradeable, Switches {
    error InvalidExtraDataLength(uint256 length, uint256 expected);
    error UnsupportedExtraDataVersion(uint8 version);
    error InvalidNullContextId();
    error InvalidKmsContext(uint256 contextId);
    error EmptyHandles();
    error CiphertextMaterialNotFound(bytes32 ctHandle);

    // Without extraData (G7) and with it.
    event PublicDecryptionRequest(uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials);
    event PublicDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        address userAddress,
        bytes publicKey
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );
    // The unified request of G14.
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        HandleEntry[] handles,
        UserDecryptionRequestPayload payload
    );
    // The second event of each request at HEAD: no materials.
    event PublicDecryptionRequest(uint256 indexed decryptionId, bytes32[] ctHandles, bytes extraData);
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        bytes32[] ctHandles,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        HandleEntry[] handles,
        UserDecryptionRequestPayload payload
    );

    struct Request {
        bool user;
        SnsCiphertextMaterial[] materials;
        address userAddress;
        bytes publicKey;
        bytes extraData;
    }

    uint256 internal constant PUBLIC_TAG = uint256(0x01) << 248;
    uint256 internal constant USER_TAG = uint256(0x02) << 248;

    GatewayConfig public immutable config;

    /// G7 and G8 count all requests in `publicCounter`.
    uint256 public publicCounter;
    uint256 public userCounter;

    mapping(uint256 => bytes32[]) internal handles;
    mapping(uint256 => bytes) internal publicKeys;
    mapping(uint256 => bool) internal isUser;
    /// The context of a request; 0: it was made before G13.
    mapping(uint256 => uint256) public pinnedContext;
    mapping(bytes32 => SnsCiphertextMaterial) internal committed;
    /// What the next request emits in place of its own logs, encoded; empty: its own.
    bytes internal instead;

    constructor(uint8 generation_, GatewayConfig config_) Upgradeable(generation_) {
        config = config_;
    }

    // Any request of any generation.

    function request(Request[] calldata requests) external {
        for (uint256 i = 0; i < requests.length; i++) requestOne(requests[i]);
    }

    function requestOne(Request calldata r) internal {
        uint256 id = open(r.user, r.extraData);
        bytes32[] memory list = new bytes32[](r.materials.length);
        for (uint256 i = 0; i < list.length; i++) list[i] = r.materials[i].ctHandle;
        handles[id] = list;
        if (r.user) publicKeys[id] = r.publicKey;
        if (generation < Generation.G8) {
            if (r.user) emit UserDecryptionRequest(id, r.materials, r.userAddress, r.publicKey);
            else emit PublicDecryptionRequest(id, r.materials);
        } else {
            if (r.user) tellUser(id, r.materials, list, r.userAddress, r.publicKey, r.extraData);
            else tellPublic(id, r.materials, list, r.extraData);
        }
    }

    // The request functions of the protocol.

    function publicDecryptionRequest(bytes32[] calldata ctHandles, bytes calldata extraData) external {
        Generation.need(generation >= Generation.G12);
        uint256 id = open(false, extraData);
        handles[id] = ctHandles;
        tellPublic(id, materialsOf(ctHandles), ctHandles, extraData);
    }

    function userDecryptionRequest(
        CtHandleContractPair[] calldata ctHandleContractPairs,
        RequestValidity calldata,
        ContractsInfo calldata,
        address userAddress,
        bytes calldata publicKey,
        bytes calldata,
        bytes calldata extraData
    ) external {
        requestOfPairs(ctHandleContractPairs, userAddress, publicKey, extraData);
    }

    function delegatedUserDecryptionRequest(
        CtHandleContractPair[] calldata ctHandleContractPairs,
        RequestValidity calldata,
        DelegationAccounts calldata delegationAccounts,
        ContractsInfo calldata,
        bytes calldata publicKey,
        bytes calldata,
        bytes calldata extraData
    ) external {
        requestOfPairs(ctHandleContractPairs, delegationAccounts.delegateAddress, publicKey, extraData);
    }

    function requestOfPairs(
        CtHandleContractPair[] calldata pairs,
        address user,
        bytes calldata publicKey,
        bytes calldata extraData
    ) internal {
        Generation.need(generation >= Generation.G12);
        uint256 id = open(true, extraData);
        bytes32[] memory list = new bytes32[](pairs.length);
        for (uint256 i = 0; i < list.length; i++) list[i] = pairs[i].ctHandle;
        handles[id] = list;
        publicKeys[id] = publicKey;
        tellUser(id, materialsOf(list), list, user, publicKey, extraData);
    }

    function userDecryptionRequest(
        HandleEntry[] calldata entries,
        address userAddress,
        bytes calldata publicKey,
        address[] calldata allowedContracts,
        RequestValiditySeconds calldata requestValidity,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        Generation.need(generation >= Generation.G14);
        if (entries.length == 0) revert EmptyHandles();
        UserDecryptionRequestPayload memory payload = UserDecryptionRequestPayload(
            userAddress,
            publicKey,
            allowedContracts,
            requestValidity,
            extraData,
            signature
        );
        uint256 id = open(true, extraData);
        bytes32[] memory list = new bytes32[](entries.length);
        for (uint256 i = 0; i < list.length; i++) list[i] = entries[i].handle;
        handles[id] = list;
        publicKeys[id] = publicKey;
        SnsCiphertextMaterial[] memory materials = materialsOf(list);
        if (toldInstead()) return;
        emit UserDecryptionRequest(id, materials, entries, payload);
        if (generation >= Generation.HEAD) emit UserDecryptionRequest(id, entries, payload);
    }

    // What all of them share.

    /// Gives a request its id and, from G13 on, its context.
    function open(bool user, bytes calldata extraData) internal returns (uint256 id) {
        id = nextId(user);
        isUser[id] = user;
        if (generation < Generation.G13) return id;
        uint256 context = contextOf(extraData);
        if (!config.isValidKmsContext(context)) revert InvalidKmsContext(context);
        pinnedContext[id] = context;
    }

    function nextId(bool user) internal returns (uint256) {
        if (generation < Generation.V0_9_0) return ++publicCounter;
        return user ? USER_TAG | ++userCounter : PUBLIC_TAG | ++publicCounter;
    }

    /// Empty and version 0 mean the current context; version 1 names one, version 2 an epoch as well.
    function contextOf(bytes calldata extraData) internal view returns (uint256 context) {
        if (extraData.length == 0 || extraData[0] == 0x00) return config.getCurrentKmsContextId();
        uint8 version = uint8(extraData[0]);
        if (version != 1 && (version != 2 || generation < Generation.G14)) {
            revert UnsupportedExtraDataVersion(version);
        }
        if (extraData.length < 33) revert InvalidExtraDataLength(extraData.length, 33);
        context = uint256(bytes32(extraData[1:33]));
        if (context == 0 && generation >= Generation.G13) revert InvalidNullContextId();
    }

    function tellPublic(
        uint256 id,
        SnsCiphertextMaterial[] memory materials,
        bytes32[] memory list,
        bytes calldata extraData
    ) internal {
        if (toldInstead()) return;
        emit PublicDecryptionRequest(id, materials, extraData);
        if (generation >= Generation.HEAD) emit PublicDecryptionRequest(id, list, extraData);
    }

    function tellUser(
        uint256 id,
        SnsCiphertextMaterial[] memory materials,
        bytes32[] memory list,
        address user,
        bytes calldata publicKey,
        bytes calldata extraData
    ) internal {
        if (toldInstead()) return;
        emit UserDecryptionRequest(id, materials, user, publicKey, extraData);
        if (generation >= Generation.HEAD) emit UserDecryptionRequest(id, list, user, publicKey, extraData);
    }

    // Materials: the real contract has them from `CiphertextCommits`.

    function commit(SnsCiphertextMaterial[] calldata materials) external {
        for (uint256 i = 0; i < materials.length; i++) committed[materials[i].ctHandle] = materials[i];
    }

    function materialsOf(bytes32[] memory list) internal view returns (SnsCiphertextMaterial[] memory materials) {
        materials = new SnsCiphertextMaterial[](list.length);
        for (uint256 i = 0; i < list.length; i++) {
            materials[i] = committed[list[i]];
            if (materials[i].ctHandle != list[i]) revert CiphertextMaterialNotFound(list[i]);
        }
    }

    // Logs that no contract would make.

    /// The next request is kept as it is and told so: what a lying node makes of a log, with the
    /// transaction of an honest one under it.
    function tellNextAs(RawLog[] calldata logs) external {
        instead = abi.encode(logs);
    }

    function toldInstead() internal returns (bool) {
        if (instead.length == 0) return false;
        RawLog[] memory logs = abi.decode(instead, (RawLog[]));
        delete instead;
        for (uint256 i = 0; i < logs.length; i++) log(logs[i]);
        return true;
    }
}
