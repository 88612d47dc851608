// SPDX-License-Identifier: BSD-3-Clause-Clear
pragma solidity ^0.8.28;

import {GatewayConfig} from "./GatewayConfig.sol";
import {SnsCiphertextMaterial} from "./Requests.sol";

/// `Decryption` of G10 for long runs: towards a connector the same requests, response functions,
/// checks, errors and events, and next to nothing in storage. The test chain's node hashes all of its
/// storage for every block, so what `Decryption` keeps of each request would stop it after some
/// thousands.
///
/// Deliberately absent: everything a test reads or switches there. What was answered stands in the
/// logs (`ResponseRecorded`). A consensus event carries the last signature only.
contract LeanDecryption {
    error DecryptionNotRequested(uint256 decryptionId);
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
    error NotKmsTxSender(address txSender);
    error NotKmsSigner(address signer);
    error KmsSignerDoesNotMatchTxSender(address signer, address txSender);
    error ECDSAInvalidSignature();
    error ECDSAInvalidSignatureLength(uint256 length);
    error ECDSAInvalidSignatureS(bytes32 s);

    event PublicDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        bytes extraData
    );
    event UserDecryptionRequest(
        uint256 indexed decryptionId,
        SnsCiphertextMaterial[] snsCtMaterials,
        address userAddress,
        bytes publicKey,
        bytes extraData
    );
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
    event UserDecryptionResponse(
        uint256 indexed decryptionId,
        uint256 indexShare,
        bytes userDecryptedShare,
        bytes signature,
        bytes extraData
    );
    event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);
    event ResponseRecorded(
        uint256 indexed decryptionId,
        address indexed signer,
        address txSender,
        bytes payload,
        bytes signature,
        bytes extraData
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
    uint256 internal constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    bytes32 internal constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    GatewayConfig public immutable config;
    uint256 public publicCounter;
    uint256 public userCounter;

    // Of requests that some node has still to answer.
    mapping(uint256 => bytes32) internal handlesHash;
    mapping(uint256 => bytes32) internal publicKeyHash;
    // Who has answered: a bit per node in the registry's order, 16 bits per request.
    mapping(uint256 => uint256) internal answered;

    constructor(GatewayConfig config_) {
        config = config_;
    }

    function request(Request[] calldata requests) external {
        for (uint256 i = 0; i < requests.length; i++) {
            Request calldata r = requests[i];
            bytes32[] memory handles = new bytes32[](r.materials.length);
            for (uint256 j = 0; j < handles.length; j++) handles[j] = r.materials[j].ctHandle;
            uint256 id = open(r.user, handles, r.publicKey);
            if (r.user) emit UserDecryptionRequest(id, r.materials, r.userAddress, r.publicKey, r.extraData);
            else emit PublicDecryptionRequest(id, r.materials, r.extraData);
        }
    }

    /// Gives a request its id, and keeps what its answers are checked against.
    function open(bool user, bytes32[] memory handles, bytes calldata publicKey) internal returns (uint256 id) {
        id = user ? USER_TAG | ++userCounter : PUBLIC_TAG | ++publicCounter;
        handlesHash[id] = keccak256(abi.encodePacked(handles));
        if (user) publicKeyHash[id] = keccak256(publicKey);
    }

    function publicDecryptionResponse(
        uint256 id,
        bytes calldata result,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        checkBefore(id, false);
        bytes32 digest = typed(
            abi.encode(
                keccak256("PublicDecryptVerification(bytes32[] ctHandles,bytes decryptedResult,bytes extraData)"),
                handlesHash[id],
                keccak256(result),
                keccak256(extraData)
            )
        );
        (address signer, uint256 count) = accept(id, digest, signature, extraData);
        emit ResponseRecorded(id, signer, msg.sender, result, signature, extraData);
        emit PublicDecryptionResponseCall(id, result, signature, msg.sender, extraData);
        if (count == threshold(false)) {
            bytes[] memory signatures = new bytes[](1);
            signatures[0] = signature;
            emit PublicDecryptionResponse(id, result, signatures, extraData);
        }
    }

    function userDecryptionResponse(
        uint256 id,
        bytes calldata share,
        bytes calldata signature,
        bytes calldata extraData
    ) external {
        checkBefore(id, true);
        bytes32 digest = typed(
            abi.encode(
                keccak256(
                    "UserDecryptResponseVerification(bytes publicKey,bytes32[] ctHandles,bytes userDecryptedShare,bytes extraData)"
                ),
                publicKeyHash[id],
                handlesHash[id],
                keccak256(share),
                keccak256(extraData)
            )
        );
        (address signer, uint256 count) = accept(id, digest, signature, extraData);
        emit ResponseRecorded(id, signer, msg.sender, share, signature, extraData);
        emit UserDecryptionResponse(id, count - 1, share, signature, extraData);
        if (count == threshold(true)) emit UserDecryptionResponseThresholdReached(id);
    }

    function checkBefore(uint256 id, bool user) internal view {
        checkSender();
        uint256 tag = user ? USER_TAG : PUBLIC_TAG;
        if (id <= tag || id > tag + (user ? userCounter : publicCounter)) revert DecryptionNotRequested(id);
        // Of what all have answered nothing is kept that a signature could be checked against.
        if (handlesHash[id] == 0) revert KmsNodeAlreadySigned(id, config.getKmsNode(msg.sender).signerAddress);
    }

    /// Checks the signature and takes the answer. Tells how many there are now.
    function accept(
        uint256 id,
        bytes32 digest,
        bytes calldata signature,
        bytes calldata extraData
    ) internal returns (address signer, uint256 count) {
        signer = recover(digest, signature);
        checkSigner(signer, extraData);
        address[] memory nodes = config.getKmsTxSenders();
        uint256 bits = answersTo(id);
        for (uint256 i = 0; i < nodes.length; i++) {
            uint256 bit = 1 << i;
            if (nodes[i] == msg.sender) {
                if (bits & bit != 0) revert KmsNodeAlreadySigned(id, signer);
                bits |= bit;
            }
            if (bits & bit != 0) count++;
        }
        answered[id >> 4] |= bits << ((id & 15) * 16);
        if (count == nodes.length) {
            delete handlesHash[id];
            delete publicKeyHash[id];
        }
    }

    // What a generation asks of the registry.

    function checkSender() internal view virtual {
        if (!config.isKmsTxSender(msg.sender)) revert NotKmsTxSender(msg.sender);
    }

    function checkSigner(address signer, bytes calldata) internal view virtual {
        if (!config.isKmsSigner(signer)) revert NotKmsSigner(signer);
        if (config.getKmsNode(msg.sender).signerAddress != signer) {
            revert KmsSignerDoesNotMatchTxSender(signer, msg.sender);
        }
    }

    function threshold(bool user) internal view virtual returns (uint256) {
        return user ? config.getUserDecryptionThreshold() : config.getPublicDecryptionThreshold();
    }

    function answersTo(uint256 id) internal view returns (uint256) {
        return (answered[id >> 4] >> ((id & 15) * 16)) & 0xffff;
    }

    function typed(bytes memory structure) internal view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(DOMAIN_TYPEHASH, keccak256("Decryption"), keccak256("1"), block.chainid, address(this))
        );
        return keccak256(abi.encodePacked(hex"1901", domain, keccak256(structure)));
    }

    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address signer) {
        if (signature.length != 65) revert ECDSAInvalidSignatureLength(signature.length);
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HALF_ORDER) revert ECDSAInvalidSignatureS(s);
        signer = ecrecover(digest, uint8(signature[64]), r, s);
        if (signer == address(0)) revert ECDSAInvalidSignature();
    }

    // Views a connector calls.

    function isDecryptionDone(uint256 id) external view returns (bool) {
        return senders(id).length >= threshold(id >= USER_TAG);
    }

    function getDecryptionConsensusTxSenders(uint256 id) external view returns (address[] memory) {
        return senders(id);
    }

    function senders(uint256 id) internal view returns (address[] memory) {
        address[] memory nodes = config.getKmsTxSenders();
        uint256 bits = answersTo(id);
        uint256 count = 0;
        for (uint256 i = 0; i < nodes.length; i++) {
            if (bits & (1 << i) != 0) nodes[count++] = nodes[i];
        }
        assembly {
            mstore(nodes, count)
        }
        return nodes;
    }

    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (hex"0f", "Decryption", "1", block.chainid, address(this), bytes32(0), new uint256[](0));
    }

    function getVersion() external pure virtual returns (string memory) {
        return "Decryption v0.3.0";
    }

    function paused() external pure returns (bool) {
        return false;
    }
}
