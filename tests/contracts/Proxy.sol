// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

/// Where an ERC-1967 proxy keeps the address of its code, and how that is run in the proxy's name.
library Implementation {
    bytes32 internal constant SLOT = bytes32(uint256(keccak256("eip1967.proxy.implementation")) - 1);

    event Upgraded(address indexed implementation);

    function replace(address implementation, bytes memory data) internal {
        bytes32 slot = SLOT;
        assembly {
            sstore(slot, implementation)
        }
        emit Upgraded(implementation);
        if (data.length == 0) return;
        (bool done, bytes memory answer) = implementation.delegatecall(data);
        if (done) return;
        assembly {
            revert(add(answer, 32), mload(answer))
        }
    }
}

/// One address for a contract of changing code: an ERC-1967 proxy as the protocol's contracts have.
contract Proxy {
    event Upgraded(address indexed implementation);

    constructor(address implementation, bytes memory data) {
        Implementation.replace(implementation, data);
    }

    fallback() external payable {
        bytes32 slot = Implementation.SLOT;
        assembly {
            calldatacopy(0, 0, calldatasize())
            let done := delegatecall(gas(), sload(slot), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            switch done
            case 0 { revert(0, returndatasize()) }
            default { return(0, returndatasize()) }
        }
    }
}

/// What stands behind a [`Proxy`]: anybody may put other code in its place.
abstract contract Upgradeable {
    event Upgraded(address indexed implementation);

    /// Which protocol version this code plays. A part of the code: to play another is to be replaced.
    uint8 public immutable generation;
    address private immutable itself = address(this);

    constructor(uint8 generation_) {
        generation = generation_;
    }

    function upgradeToAndCall(address implementation, bytes calldata data) external {
        require(address(this) != itself, "not behind a proxy");
        Implementation.replace(implementation, data);
    }
}
