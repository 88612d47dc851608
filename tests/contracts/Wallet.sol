// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

/// A smart account as a user of unified requests: ERC-1271, in every mood.
contract Wallet {
    enum Mood {
        OfOwner, // accepts 65 bytes that recover to its owner
        Accepts, // whatever it is shown, also nothing
        Refuses, // answers another word
        Reverts,
        BurnsGas, // all it is given
        BurnsSome, // `gasToBurn`, then accepts
        AnswersShort, // the right four bytes, and no more
        AnswersDirt // the right four bytes, and others behind them in their word
    }

    bytes4 internal constant MAGIC = 0x1626ba7e;

    Mood public mood;
    address public owner;
    uint256 public gasToBurn;

    constructor(Mood mood_, address owner_, uint256 gasToBurn_) {
        mood = mood_;
        owner = owner_;
        gasToBurn = gasToBurn_;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (mood == Mood.OfOwner) return isOfOwner(hash, signature) ? MAGIC : bytes4(0xffffffff);
        if (mood == Mood.Refuses) return 0xffffffff;
        if (mood == Mood.Reverts) revert("not today");
        if (mood == Mood.BurnsGas) burn(type(uint256).max);
        if (mood == Mood.BurnsSome) burn(gasToBurn);
        if (mood == Mood.AnswersShort) {
            assembly {
                mstore(0, MAGIC)
                return(0, 4)
            }
        }
        if (mood == Mood.AnswersDirt) {
            assembly {
                mstore(0, or(MAGIC, 1))
                return(0, 32)
            }
        }
        return MAGIC;
    }

    /// Calls another contract: a transaction to it has this one as its destination.
    function execute(address to, bytes calldata data) external {
        (bool done, bytes memory answer) = to.call(data);
        if (done) return;
        assembly {
            revert(add(answer, 32), mload(answer))
        }
    }

    function setMood(Mood mood_) external {
        mood = mood_;
    }

    function isOfOwner(bytes32 hash, bytes calldata signature) internal view returns (bool) {
        if (signature.length != 65) return false;
        address signer = ecrecover(
            hash,
            uint8(signature[64]),
            bytes32(signature[0:32]),
            bytes32(signature[32:64])
        );
        return signer != address(0) && signer == owner;
    }

    function burn(uint256 amount) internal view {
        uint256 before = gasleft();
        while (before - gasleft() < amount) {}
    }
}
