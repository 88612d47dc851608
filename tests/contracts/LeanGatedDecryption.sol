// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {GatewayConfig} from "./GatewayConfig.sol";
import {LeanDecryption} from "./LeanDecryption.sol";
import {
    ContractsInfo,
    CtHandleContractPair,
    DelegationAccounts,
    RequestValidity,
    SnsCiphertextMaterial
} from "./Requests.sol";

/// `Decryption` of G13 for long runs: requests come by the protocol's own functions, whose calldata
/// connectors read, and answers are gated by KMS context.
///
/// Deliberately absent, besides what `LeanDecryption` lacks: a commitment for each handle (the first byte
/// of a handle names one of a few materials), and the context of each request (there is one, for ever).
contract LeanGatedDecryption is LeanDecryption {
    error InvalidExtraDataLength(uint256 length, uint256 expected);
    error UnsupportedExtraDataVersion(uint8 version);

    SnsCiphertextMaterial[] internal table;

    constructor(GatewayConfig config_) LeanDecryption(config_) {}

    /// What handles stand for.
    function setMaterials(SnsCiphertextMaterial[] calldata materials) external {
        delete table;
        for (uint256 i = 0; i < materials.length; i++) table.push(materials[i]);
    }

    function publicDecryptionRequest(bytes32[] calldata ctHandles, bytes calldata extraData) external {
        uint256 id = open(false, ctHandles, msg.data[0:0]);
        emit PublicDecryptionRequest(id, materialsOf(ctHandles), extraData);
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
        bytes32[] memory list = new bytes32[](pairs.length);
        for (uint256 i = 0; i < list.length; i++) list[i] = pairs[i].ctHandle;
        emit UserDecryptionRequest(open(true, list, publicKey), materialsOf(list), user, publicKey, extraData);
    }

    function materialsOf(bytes32[] memory list) internal view returns (SnsCiphertextMaterial[] memory materials) {
        materials = new SnsCiphertextMaterial[](list.length);
        for (uint256 i = 0; i < list.length; i++) {
            materials[i] = table[uint8(list[i][0]) % table.length];
            materials[i].ctHandle = list[i];
        }
    }

    // Nobody is asked for the sender alone any more: who signs in a context must be its sender's node.

    function checkSender() internal view override {}

    function checkSigner(address signer, bytes calldata extraData) internal view override {
        uint256 context = contextOf(extraData);
        if (!config.isKmsSignerForContext(context, signer)) revert NotKmsSigner(signer);
        if (config.getKmsNodeForContext(context, msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
    }

    function threshold(bool user) internal view override returns (uint256) {
        uint256 context = config.getCurrentKmsContextId();
        return
            user
                ? config.getUserDecryptionThresholdForContext(context)
                : config.getPublicDecryptionThresholdForContext(context);
    }

    /// Empty and version 0 mean the current context, version 1 names one.
    function contextOf(bytes calldata extraData) internal view returns (uint256) {
        if (extraData.length == 0 || extraData[0] == 0x00) return config.getCurrentKmsContextId();
        if (extraData[0] != 0x01) revert UnsupportedExtraDataVersion(uint8(extraData[0]));
        if (extraData.length < 33) revert InvalidExtraDataLength(extraData.length, 33);
        return uint256(bytes32(extraData[1:33]));
    }

    function getVersion() external pure override returns (string memory) {
        return "Decryption v0.5.0";
    }
}
