// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

struct RawLog {
    bytes32[] topics;
    bytes data;
}

/// What tests make a contract do that it would not do by itself: refuse answers with any error, and emit
/// any log.
abstract contract Switches {
    /// What every response call reverts with while `failing` is set, and those to one request.
    bytes internal failure;
    bool internal failing;
    mapping(uint256 => bytes[]) internal failureOf; // one or none

    /// From now on every response call reverts with `data` (also with none at all).
    function failWith(bytes calldata data) external {
        failing = true;
        failure = data;
    }

    function failNoMore() external {
        failing = false;
    }

    /// From now on the responses to `id` do.
    function failFor(uint256 id, bytes calldata data) external {
        delete failureOf[id];
        failureOf[id].push(data);
    }

    function failNoMoreFor(uint256 id) external {
        delete failureOf[id];
    }

    /// Emits any logs at all: malformed requests, events of later generations, garbage.
    function emitRaw(RawLog[] calldata logs) external {
        for (uint256 i = 0; i < logs.length; i++) log(logs[i]);
    }

    function failIfToldTo(uint256 id) internal view {
        if (failing) revertWith(failure);
        if (failureOf[id].length > 0) revertWith(failureOf[id][0]);
    }

    function revertWith(bytes memory data) internal pure {
        assembly {
            revert(add(data, 32), mload(data))
        }
    }

    function log(RawLog memory one) internal {
        bytes32[] memory t = one.topics;
        bytes memory data = one.data;
        require(t.length <= 4, "topics");
        assembly {
            let at := add(data, 32)
            let size := mload(data)
            switch mload(t)
            case 0 { log0(at, size) }
            case 1 { log1(at, size, mload(add(t, 32))) }
            case 2 { log2(at, size, mload(add(t, 32)), mload(add(t, 64))) }
            case 3 { log3(at, size, mload(add(t, 32)), mload(add(t, 64)), mload(add(t, 96))) }
            default { log4(at, size, mload(add(t, 32)), mload(add(t, 64)), mload(add(t, 96)), mload(add(t, 128))) }
        }
    }
}
