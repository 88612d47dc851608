// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {Generation} from "./Generation.sol";
import {GatewayConfig} from "./GatewayConfig.sol";
import {Requests} from "./Requests.sol";
import {Signatures} from "./Signatures.sol";

/// Test double of the gateway's Decryption contract. Towards a connector it behaves as the
/// generation it plays: events, ids, response functions, the order of their checks, their custom
/// errors, consensus. How requests come in stands in `Requests`.
///
/// Every accepted response is recorded (`responses`, `acceptedBy`) and told by the test-only event
/// `ResponseRecorded`, whose topic no generation of the protocol uses.
contract Decryption is Requests, Signatures {
    // Errors of the response functions and of the views a connector calls.
    error DecryptionNotRequested(uint256 decryptionId);
    error DecryptionNotDone(uint256 decryptionId);
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
    error NotKmsTxSender(address txSender);
    error NotKmsSigner(address signer);
    error KmsSignerDoesNotMatchTxSender(address signer, address txSender);
    error EnforcedPause();
    error DecryptionContextMismatch(uint256 decryptionId, uint256 requestContextId, uint256 responseContextId);

    // Response events.
    event PublicDecryptionResponse(uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures);
    event PublicDecryptionResponse(
        uint256 indexed decryptionId,
        bytes decryptedResult,
        bytes[] signatures,
        bytes extraData
    );
    event PublicDecryptionResponseCall(
        uint256 indexed decryptionId,
        bytes decryptedResult,
        bytes signature,
        address kmsTxSender,
        bytes extraData
    );
    event UserDecryptionResponse(uint256 indexed decryptionId, bytes[] userDecryptedShares, bytes[] signatures);
    event UserDecryptionResponse(
        uint256 indexed decryptionId,
        bytes[] userDecryptedShares,
        bytes[] signatures,
        bytes extraData
    );
    event UserDecryptionResponse(
        uint256 indexed decryptionId,
        uint256 indexShare,
        bytes userDecryptedShare,
        bytes signature,
        bytes extraData
    );
    event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);
    event Paused(address account);
    event Unpaused(address account);

    /// Test-only: one accepted response with all its bytes.
    event ResponseRecorded(
        uint256 indexed decryptionId,
        address indexed signer,
        address txSender,
        bytes payload,
        bytes signature,
        bytes extraData
    );

    /// The trace one accepted response leaves. Payloads can be large: here stands their hash, the
    /// bytes themselves stand in `ResponseRecorded`.
    struct Response {
        address signer;
        address txSender;
        bytes32 payloadHash;
    }

    bool public paused;

    mapping(uint256 => bool) internal done;
    mapping(uint256 => bytes32) internal consensusDigest;
    // Per id and digest: the signatures and senders that agree. User shares all count as one digest.
    mapping(uint256 => mapping(bytes32 => bytes[])) internal agreed;
    mapping(uint256 => mapping(bytes32 => address[])) internal agreedSenders;
    // G7 and G8 keep the shares for the aggregated event.
    mapping(uint256 => bytes[]) internal shares;

    mapping(uint256 => Response[]) internal recorded;
    /// How many responses of a signer were accepted for an id.
    mapping(uint256 => mapping(address => uint256)) public acceptedBy;

    constructor(uint8 generation_, GatewayConfig config_) Requests(generation_, config_) {}

    // Responses: gateway-abi 4.2 and 4.3.

    function publicDecryptionResponse(uint256 id, bytes calldata result, bytes calldata signature) external {
        Generation.need(generation < Generation.G8);
        respondPublic(id, result, signature, msg.data[0:0]);
    }

    function publicDecryptionResponse(
        uint256 id,
        bytes calldata result,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        Generation.need(generation >= Generation.G8);
        respondPublic(id, result, signature, extraData);
    }

    function userDecryptionResponse(uint256 id, bytes calldata share, bytes calldata signature) external {
        Generation.need(generation < Generation.G8);
        respondUser(id, share, signature, msg.data[0:0]);
    }

    function userDecryptionResponse(
        uint256 id,
        bytes calldata share,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        Generation.need(generation >= Generation.G8);
        respondUser(id, share, signature, extraData);
    }

    function respondPublic(
        uint256 id,
        bytes calldata result,
        bytes calldata signature,
        bytes calldata extraData
    ) internal {
        uint256 context = checkBefore(id, false, extraData);
        bytes32 digest = publicDigest(id, result, extraData);
        address signer = checkSignature(id, context, digest, signature);
        accept(id, signer, result, signature, extraData);

        if (generation >= Generation.G10) {
            emit PublicDecryptionResponseCall(id, result, signature, msg.sender, extraData);
        }
        agreed[id][digest].push(signature);
        agreedSenders[id][digest].push(msg.sender);
        if (!done[id] && agreed[id][digest].length >= threshold(false, context)) {
            done[id] = true;
            consensusDigest[id] = digest;
            if (generation < Generation.G8) emit PublicDecryptionResponse(id, result, agreed[id][digest]);
            else emit PublicDecryptionResponse(id, result, agreed[id][digest], extraData);
        }
    }

    function respondUser(
        uint256 id,
        bytes calldata share,
        bytes calldata signature,
        bytes calldata extraData
    ) internal {
        uint256 context = checkBefore(id, true, extraData);
        address signer = checkSignature(id, context, userDigest(id, share, extraData), signature);
        accept(id, signer, share, signature, extraData);

        uint256 index = agreedSenders[id][0].length;
        agreedSenders[id][0].push(msg.sender);
        bool reached = !done[id] && index + 1 >= threshold(true, context);
        if (reached) done[id] = true;
        if (generation >= Generation.V0_9_0) {
            emit UserDecryptionResponse(id, index, share, signature, extraData);
            if (reached) emit UserDecryptionResponseThresholdReached(id);
            return;
        }
        agreed[id][0].push(signature);
        shares[id].push(share);
        if (!reached) return;
        if (generation < Generation.G8) emit UserDecryptionResponse(id, shares[id], agreed[id][0]);
        else emit UserDecryptionResponse(id, shares[id], agreed[id][0], extraData);
    }

    /// The checks before the signature, in the order of the generation. Answers the context that
    /// decides about the rest; 0 before G12.
    function checkBefore(uint256 id, bool user, bytes calldata extraData) internal view returns (uint256 context) {
        failIfToldTo(id);
        if (generation < Generation.V0_9_0) {
            config.checkIsKmsTxSender(msg.sender); // its revert comes through as it is
        } else if (generation < Generation.G12) {
            if (!config.isKmsTxSender(msg.sender)) revert NotKmsTxSender(msg.sender);
        }
        if (generation < Generation.G8) {
            if (paused) revert EnforcedPause();
            return 0; // an unknown id is not looked at: its handles are simply empty
        }
        if (!isRequested(id, user)) revert DecryptionNotRequested(id);
        if (generation < Generation.G12) return 0;
        context = contextOf(extraData);
        uint256 pinned = pinnedContext[id];
        if (generation >= Generation.G13 && pinned != 0 && pinned != context) {
            revert DecryptionContextMismatch(id, pinned, context);
        }
    }

    function isRequested(uint256 id, bool user) internal view returns (bool) {
        if (generation < Generation.V0_9_0) return id != 0 && id <= publicCounter && isUser[id] == user;
        uint256 tag = user ? USER_TAG : PUBLIC_TAG;
        uint256 counter = user ? userCounter : publicCounter;
        return id > tag && id <= tag + counter;
    }

    /// From G13 on the registry refuses to answer about a context that is none: `InvalidKmsContext`
    /// comes through as it is.
    function checkSignature(
        uint256 id,
        uint256 context,
        bytes32 digest,
        bytes calldata signature
    ) internal view returns (address) {
        address signer = recover(digest, signature);
        if (generation < Generation.V0_9_0) {
            config.checkIsKmsSigner(signer);
        } else {
            bool known = generation < Generation.G12
                ? config.isKmsSigner(signer)
                : config.isKmsSignerForContext(context, signer);
            if (!known) revert NotKmsSigner(signer);
        }
        if (generation >= Generation.V0_9_7) {
            address expected = generation < Generation.G12
                ? config.getKmsNode(msg.sender).signerAddress
                : config.getKmsNodeForContext(context, msg.sender).signerAddress;
            if (expected != signer) revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
        if (acceptedBy[id][signer] != 0) revert KmsNodeAlreadySigned(id, signer);
        return signer;
    }

    function accept(
        uint256 id,
        address signer,
        bytes calldata payload,
        bytes calldata signature,
        bytes calldata extraData
    ) internal {
        acceptedBy[id][signer] += 1;
        recorded[id].push(Response(signer, msg.sender, keccak256(payload)));
        emit ResponseRecorded(id, signer, msg.sender, payload, signature, extraData);
    }

    function threshold(bool user, uint256 context) internal view returns (uint256) {
        if (generation >= Generation.G12) {
            return
                user
                    ? config.getUserDecryptionThresholdForContext(context)
                    : config.getPublicDecryptionThresholdForContext(context);
        }
        return user ? config.getUserDecryptionThreshold() : config.getPublicDecryptionThreshold();
    }

    // Signed structures: gateway-abi 10.

    function signingName() internal pure override returns (string memory) {
        return "Decryption";
    }

    function publicDigest(
        uint256 id,
        bytes calldata result,
        bytes calldata extraData
    ) internal view returns (bytes32) {
        bytes32 list = keccak256(abi.encodePacked(handles[id]));
        if (generation < Generation.G8) {
            return
                typed(
                    abi.encode(
                        keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult)"),
                        list,
                        keccak256(result)
                    )
                );
        }
        return
            typed(
                abi.encode(
                    keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)"),
                    list,
                    keccak256(result),
                    keccak256(extraData)
                )
            );
    }

    function userDigest(uint256 id, bytes calldata share, bytes calldata extraData) internal view returns (bytes32) {
        bytes32 list = keccak256(abi.encodePacked(handles[id]));
        if (generation < Generation.G8) {
            return
                typed(
                    abi.encode(
                        keccak256(
                            "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare)"
                        ),
                        keccak256(publicKeys[id]),
                        list,
                        keccak256(share)
                    )
                );
        }
        return
            typed(
                abi.encode(
                    keccak256(
                        "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)"
                    ),
                    keccak256(publicKeys[id]),
                    list,
                    keccak256(share),
                    keccak256(extraData)
                )
            );
    }

    // Views of the protocol.

    function isDecryptionDone(uint256 id) external view returns (bool) {
        Generation.need(generation >= Generation.V0_9_0);
        return done[id];
    }

    function checkDecryptionDone(uint256 id) external view {
        Generation.need(generation < Generation.V0_9_0);
        if (!done[id]) revert DecryptionNotDone(id);
    }

    function getDecryptionConsensusTxSenders(uint256 id) external view returns (address[] memory) {
        Generation.need(generation >= Generation.G8);
        if (!done[id]) return new address[](0);
        return agreedSenders[id][consensusDigest[id]]; // user decryptions keep the digest 0
    }

    function getVersion() external view returns (string memory) {
        if (generation == Generation.G7) return "Decryption v0.1.0";
        if (generation == Generation.G8) return "Decryption v0.3.0";
        if (generation == Generation.V0_9_0) return "Decryption v0.1.0";
        if (generation == Generation.V0_9_7) return "Decryption v0.2.0";
        if (generation == Generation.G10) return "Decryption v0.3.0";
        if (generation == Generation.G12) return "Decryption v0.4.0";
        if (generation == Generation.G13) return "Decryption v0.5.0";
        return generation == Generation.G14 ? "Decryption v0.6.0" : "Decryption v0.7.0";
    }

    // Switches and views of the test world.

    function pause() external {
        paused = true;
        emit Paused(msg.sender);
    }

    function unpause() external {
        paused = false;
        emit Unpaused(msg.sender);
    }

    function responses(uint256 id) external view returns (Response[] memory) {
        return recorded[id];
    }
}
