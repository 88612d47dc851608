// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {Upgradeable} from "./Proxy.sol";

/// Test double of a host chain's access control list: the views a connector calls, in the form of
/// the generation it plays, and setters anybody may call in anybody's name.
///
/// Deliberately absent: transient permissions, which no `eth_call` sees, and the contract's own
/// events, which no connector reads.
contract ACL is Upgradeable {
    /// Stands for every contract in a delegation, from G13 on.
    address internal constant EVERY_CONTRACT = address(type(uint160).max);

    mapping(bytes32 => mapping(address => bool)) internal allowed;
    mapping(bytes32 => bool) internal allowedForDecryption;
    // Delegator, delegate, contract: until when, in unix seconds.
    mapping(address => mapping(address => mapping(address => uint64))) internal delegations;
    mapping(address => uint256) internal invalidatedBefore;
    mapping(address => bool) internal denied;

    constructor(uint8 generation_) Upgradeable(generation_) {}

    // Views of the protocol.

    function isAllowed(bytes32 handle, address account) external view returns (bool) {
        return allowed[handle][account];
    }

    function persistAllowed(bytes32 handle, address account) external view returns (bool) {
        return allowed[handle][account];
    }

    function isAllowedForDecryption(bytes32 handle) external view returns (bool) {
        return allowedForDecryption[handle];
    }

    function isHandleDelegatedForUserDecryption(
        address delegator,
        address delegate,
        address contractAddress,
        bytes32 handle
    ) external view returns (bool) {
        if (!allowed[handle][delegator] || !allowed[handle][contractAddress]) return false;
        return
            isActive(delegations[delegator][delegate][contractAddress]) ||
            (generation >= Generation.G13 && isActive(delegations[delegator][delegate][EVERY_CONTRACT]));
    }

    function getUserDecryptionDelegationExpirationDate(
        address delegator,
        address delegate,
        address contractAddress
    ) external view returns (uint64) {
        return delegations[delegator][delegate][contractAddress];
    }

    function decryptionSignatureInvalidatedBefore(address account) external view returns (uint256) {
        Generation.need(generation >= Generation.G14);
        return invalidatedBefore[account];
    }

    function isAccountDenied(address account) external view returns (bool) {
        return denied[account];
    }

    function WILDCARD_DELEGATION_ADDRESS() external view returns (address) {
        Generation.need(generation >= Generation.G13);
        return EVERY_CONTRACT;
    }

    function getVersion() external view returns (string memory) {
        if (generation >= Generation.G14) return "ACL v0.5.0";
        if (generation >= Generation.G13) return "ACL v0.4.0";
        return generation >= Generation.G12 ? "ACL v0.3.0" : "ACL v0.2.0";
    }

    // Setters of the test world.

    function setAllowed(bytes32 handle, address account, bool is_) external {
        allowed[handle][account] = is_;
    }

    function setAllowedForDecryption(bytes32 handle, bool is_) external {
        allowedForDecryption[handle] = is_;
    }

    /// An expiry of 0 takes a delegation back.
    function setDelegation(address delegator, address delegate, address contractAddress, uint64 expiry) external {
        delegations[delegator][delegate][contractAddress] = expiry;
    }

    function setInvalidatedBefore(address account, uint256 timestamp) external {
        invalidatedBefore[account] = timestamp;
    }

    function setDenied(address account, bool is_) external {
        denied[account] = is_;
    }

    /// Many of them at once.
    function setAll(bytes[] calldata setters) external {
        for (uint256 i = 0; i < setters.length; i++) {
            (bool done, ) = address(this).delegatecall(setters[i]);
            require(done);
        }
    }

    /// The second of the expiry itself still counts up to v0.12.
    function isActive(uint64 expiry) internal view returns (bool) {
        return generation >= Generation.G13 ? expiry > block.timestamp : expiry >= block.timestamp;
    }
}
