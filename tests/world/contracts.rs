//! The test contracts as Rust sees them, their committed bytecode, and the variants they play.
//!
//! Overloads stand in interfaces named after the generation that brought them: `G7` is what has no
//! `extraData`.

use alloy::{
    primitives::{Address, B256, Bytes, b256, hex},
    sol,
    sol_types::{SolCall, SolConstructor, SolError, SolEvent, SolValue},
};
use serde_json::Value;

use super::{Error, Result};

sol! {
    #![sol(all_derives)]

    struct SnsCiphertextMaterial {
        bytes32 ctHandle;
        uint256 keyId;
        bytes32 snsCiphertextDigest;
        address[] coprocessorTxSenderAddresses;
    }

    struct KmsNode {
        address txSenderAddress;
        address signerAddress;
        string ipAddress;
        string storageUrl;
    }

    struct KmsNodeV1 {
        address txSenderAddress;
        address signerAddress;
        string ipAddress;
    }

    struct Coprocessor {
        address txSenderAddress;
        address signerAddress;
        string s3BucketUrl;
    }

    struct HostChain {
        uint256 chainId;
        address fhevmExecutorAddress;
        address aclAddress;
        string name;
        string website;
    }

    /// One address for changing code (ERC-1967).
    contract Proxy {
        constructor(address implementation, bytes data);
        event Upgraded(address indexed implementation);
    }

    /// What stands behind a proxy.
    interface Upgradeable {
        function upgradeToAndCall(address implementation, bytes data) external;
        function generation() external view returns (uint8);
    }

    contract Decryption {
        struct Request {
            bool user;
            SnsCiphertextMaterial[] materials;
            address userAddress;
            bytes publicKey;
            bytes extraData;
        }
        struct RawLog {
            bytes32[] topics;
            bytes data;
        }
        struct Response {
            address signer;
            address txSender;
            bytes32 payloadHash;
        }

        constructor(uint8 generation, address config);

        error DecryptionNotRequested(uint256 decryptionId);
        error DecryptionNotDone(uint256 decryptionId);
        error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
        error NotKmsTxSender(address txSender);
        error NotKmsSigner(address signer);
        error KmsSignerDoesNotMatchTxSender(address signer, address txSender);
        error EnforcedPause();
        error ECDSAInvalidSignature();
        error ECDSAInvalidSignatureLength(uint256 length);
        error ECDSAInvalidSignatureS(bytes32 s);
        error InvalidExtraDataLength(uint256 length, uint256 expected);
        error UnsupportedExtraDataVersion(uint8 version);
        error InvalidNullContextId();
        error InvalidKmsContext(uint256 contextId);
        error DecryptionContextMismatch(
            uint256 decryptionId, uint256 requestContextId, uint256 responseContextId);
        error EmptyHandles();
        error CiphertextMaterialNotFound(bytes32 ctHandle);

        event PublicDecryptionResponseCall(
            uint256 indexed decryptionId, bytes decryptedResult, bytes signature,
            address kmsTxSender, bytes extraData);
        event UserDecryptionResponseThresholdReached(uint256 indexed decryptionId);
        event ResponseRecorded(
            uint256 indexed decryptionId, address indexed signer, address txSender,
            bytes payload, bytes signature, bytes extraData);

        function request(Request[] requests) external;
        function commit(SnsCiphertextMaterial[] materials) external;
        function emitRaw(RawLog[] logs) external;
        function tellNextAs(RawLog[] logs) external;
        function pause() external;
        function unpause() external;
        function failWith(bytes data) external;
        function failNoMore() external;
        function failFor(uint256 id, bytes data) external;
        function failNoMoreFor(uint256 id) external;
        function pinnedContext(uint256 id) external view returns (uint256);
        function publicCounter() external view returns (uint256);
        function userCounter() external view returns (uint256);
        function acceptedBy(uint256 id, address signer) external view returns (uint256);
        function responses(uint256 id) external view returns (Response[] memory);

        function isDecryptionDone(uint256 decryptionId) external view returns (bool);
        function checkDecryptionDone(uint256 decryptionId) external view;
        function getDecryptionConsensusTxSenders(uint256 decryptionId) external view returns (address[] memory);
        function paused() external view returns (bool);
        function getVersion() external view returns (string memory);
        function eip712Domain() external view returns (
            bytes1 fields, string memory name, string memory version, uint256 chainId,
            address verifyingContract, bytes32 salt, uint256[] memory extensions);
    }

    /// What `LeanGatedDecryption` has besides.
    interface LeanGated {
        function setMaterials(SnsCiphertextMaterial[] materials) external;
    }

    contract GatewayConfig {
        constructor(uint8 generation);

        function registerKmsNode(KmsNode node) external;
        function unregisterKmsNode(address txSender) external;
        function setCoprocessor(Coprocessor coprocessor) external;
        function unregisterCoprocessor(address txSender) external;
        function setThresholds(uint256 publicDecryption, uint256 userDecryption) external;
        function setCoprocessorThreshold(uint256 threshold) external;
        function addHostChain(HostChain hostChain) external;
        function updateKmsContext(
            uint256 newContextId, KmsNode[] newKmsNodes, uint256 newMpcThreshold,
            uint256 newPublicDecryptionThreshold, uint256 newUserDecryptionThreshold,
            uint256 newKmsGenThreshold) external;
        function destroyKmsContext(uint256 kmsContextId) external;

        event UpdateKmsContext(
            uint256 indexed newContextId, KmsNode[] newKmsNodes, uint256 newMpcThreshold,
            uint256 newPublicDecryptionThreshold, uint256 newUserDecryptionThreshold,
            uint256 newKmsGenThreshold);
        event DestroyKmsContext(uint256 indexed kmsContextId);
        error CurrentKmsContextCannotBeDestroyed(uint256 contextId);
        error InvalidKmsContext(uint256 contextId);

        function getCoprocessor(address txSender) external view returns (Coprocessor memory);
        function getCoprocessorTxSenders() external view returns (address[] memory);
        function getCoprocessorSigners() external view returns (address[] memory);
        function getCoprocessorMajorityThreshold() external view returns (uint256);
        function getHostChains() external view returns (HostChain[] memory);
        function isHostChainRegistered(uint256 chainId) external view returns (bool);
        function isValidKmsContext(uint256 contextId) external view returns (bool);
        function isKmsTxSenderForContext(uint256 contextId, address txSender) external view returns (bool);
        function isKmsSignerForContext(uint256 contextId, address signer) external view returns (bool);
        function getKmsNodeForContext(uint256 contextId, address txSender) external view returns (KmsNode memory);
        function getKmsTxSendersForContext(uint256 contextId) external view returns (address[] memory);
        function getKmsSignersForContext(uint256 contextId) external view returns (address[] memory);
        function getPublicDecryptionThresholdForContext(uint256 contextId) external view returns (uint256);
        function getUserDecryptionThresholdForContext(uint256 contextId) external view returns (uint256);
        function getKmsNode(address txSender) external view returns (KmsNode memory);
        function getKmsTxSenders() external view returns (address[] memory);
        function getKmsSigners() external view returns (address[] memory);
        function isKmsTxSender(address txSender) external view returns (bool);
        function isKmsSigner(address signer) external view returns (bool);
        function checkIsKmsTxSender(address txSender) external view;
        function checkIsKmsSigner(address signer) external view;
        function getPublicDecryptionThreshold() external view returns (uint256);
        function getUserDecryptionThreshold() external view returns (uint256);
        function getCurrentKmsContextId() external view returns (uint256);
        function getVersion() external view returns (string memory);
    }

    /// What has no `extraData`: v0.7. And the registry's node of three fields, up to v0.8.
    interface G7 {
        event PublicDecryptionRequest(uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials);
        event UserDecryptionRequest(
            uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials,
            address userAddress, bytes publicKey);
        event PublicDecryptionResponse(uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures);
        event UserDecryptionResponse(uint256 indexed decryptionId, bytes[] userDecryptedShares, bytes[] signatures);
        function publicDecryptionResponse(uint256 decryptionId, bytes decryptedResult, bytes signature) external;
        function userDecryptionResponse(uint256 decryptionId, bytes userDecryptedShare, bytes signature) external;
        function getKmsNode(address txSender) external view returns (KmsNodeV1 memory);
    }

    /// What has `extraData`: v0.8 and later.
    interface G8 {
        event PublicDecryptionRequest(
            uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials, bytes extraData);
        event UserDecryptionRequest(
            uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials,
            address userAddress, bytes publicKey, bytes extraData);
        event PublicDecryptionResponse(
            uint256 indexed decryptionId, bytes decryptedResult, bytes[] signatures, bytes extraData);
        event UserDecryptionResponse(
            uint256 indexed decryptionId, bytes[] userDecryptedShares, bytes[] signatures, bytes extraData);
        function publicDecryptionResponse(
            uint256 decryptionId, bytes decryptedResult, bytes signature, bytes extraData) external;
        function userDecryptionResponse(
            uint256 decryptionId, bytes userDecryptedShare, bytes signature, bytes extraData) external;
        function publicDecryptionRequest(bytes32[] ctHandles, bytes extraData) external;
        function userDecryptionRequest(
            CtHandleContractPair[] ctHandleContractPairs, RequestValidity requestValidity,
            ContractsInfo contractsInfo, address userAddress, bytes publicKey, bytes signature,
            bytes extraData) external;
        function delegatedUserDecryptionRequest(
            CtHandleContractPair[] ctHandleContractPairs, RequestValidity requestValidity,
            DelegationAccounts delegationAccounts, ContractsInfo contractsInfo, bytes publicKey,
            bytes signature, bytes extraData) external;
    }

    /// One event per user share: v0.9 and later.
    interface G9 {
        event UserDecryptionResponse(
            uint256 indexed decryptionId, uint256 indexShare, bytes userDecryptedShare,
            bytes signature, bytes extraData);
    }

    struct CtHandleContractPair { bytes32 ctHandle; address contractAddress; }
    struct RequestValidity { uint256 startTimestamp; uint256 durationDays; }
    struct DelegationAccounts { address delegatorAddress; address delegateAddress; }
    struct ContractsInfo { uint256 chainId; address[] addresses; }
    struct HandleEntry { bytes32 handle; address contractAddress; address ownerAddress; }
    struct RequestValiditySeconds { uint256 startTimestamp; uint256 durationSeconds; }
    struct UserDecryptionRequestPayload {
        address userAddress;
        bytes publicKey;
        address[] allowedContracts;
        RequestValiditySeconds requestValidity;
        bytes extraData;
        bytes signature;
    }

    /// v0.14: the unified request.
    interface G14 {
        event UserDecryptionRequest(
            uint256 indexed decryptionId, SnsCiphertextMaterial[] snsCtMaterials,
            HandleEntry[] handles, UserDecryptionRequestPayload payload);
        function userDecryptionRequest(
            HandleEntry[] handles, address userAddress, bytes publicKey, address[] allowedContracts,
            RequestValiditySeconds requestValidity, bytes signature, bytes extraData) external;
    }

    /// v0.15-dev: handles only.
    interface HeadHandles {
        event PublicDecryptionRequest(uint256 indexed decryptionId, bytes32[] ctHandles, bytes extraData);
        event UserDecryptionRequest(
            uint256 indexed decryptionId, bytes32[] ctHandles, address userAddress,
            bytes publicKey, bytes extraData);
    }

    /// v0.15-dev: the unified request, handles only.
    interface HeadUnified {
        event UserDecryptionRequest(
            uint256 indexed decryptionId, HandleEntry[] handles, UserDecryptionRequestPayload payload);
    }
}

/// Which protocol version a deployment plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Variant {
    G7,
    G8,
    V0_9_0,
    V0_9_7,
    G10,
    G12,
    G13,
    G14,
    /// v0.15-dev.
    Head,
}

impl Variant {
    /// The five a connector serves.
    pub const SERVED: [Self; 5] = [Self::G7, Self::G8, Self::V0_9_0, Self::V0_9_7, Self::G10];
    /// Those in which nobody but the connector checks access: they have KMS contexts.
    pub const WITH_CONTEXTS: [Self; 4] = [Self::G12, Self::G13, Self::G14, Self::Head];
    /// All that the contracts can play.
    pub const ALL: [Self; 9] = [
        Self::G7,
        Self::G8,
        Self::V0_9_0,
        Self::V0_9_7,
        Self::G10,
        Self::G12,
        Self::G13,
        Self::G14,
        Self::Head,
    ];

    /// The flag of `Generation.sol`.
    pub fn flag(self) -> u8 {
        match self {
            Self::G7 => 70,
            Self::G8 => 80,
            Self::V0_9_0 => 90,
            Self::V0_9_7 => 97,
            Self::G10 => 100,
            Self::G12 => 120,
            Self::G13 => 130,
            Self::G14 => 140,
            Self::Head => 150,
        }
    }

    /// Whether it is `other` or later.
    pub fn since(self, other: Self) -> bool {
        self.flag() >= other.flag()
    }

    /// Whether events, response calls and signed structures carry `extraData`.
    pub fn has_extra_data(self) -> bool {
        self != Self::G7
    }

    /// Whether the top byte of an id tells the kind.
    pub fn has_tagged_ids(self) -> bool {
        self.since(Self::V0_9_0)
    }

    /// What `Decryption.getVersion()` answers.
    pub fn decryption_version(self) -> &'static str {
        match self {
            Self::G7 | Self::V0_9_0 => "Decryption v0.1.0",
            Self::V0_9_7 => "Decryption v0.2.0",
            Self::G8 | Self::G10 => "Decryption v0.3.0",
            Self::G12 => "Decryption v0.4.0",
            Self::G13 => "Decryption v0.5.0",
            Self::G14 => "Decryption v0.6.0",
            Self::Head => "Decryption v0.7.0",
        }
    }

    /// What `GatewayConfig.getVersion()` answers.
    pub fn gateway_config_version(self) -> &'static str {
        match self {
            Self::G7 | Self::V0_9_0 => "GatewayConfig v0.1.0",
            Self::G8 => "GatewayConfig v0.2.0",
            Self::V0_9_7 => "GatewayConfig v0.3.0",
            Self::G10 => "GatewayConfig v0.4.0",
            Self::G12 => "GatewayConfig v0.5.0",
            Self::G13 => "GatewayConfig v0.6.0",
            Self::G14 => "GatewayConfig v0.7.0",
            Self::Head => "GatewayConfig v0.8.0",
        }
    }
}

/// Creation code of the code behind `Decryption`, with its arguments.
pub fn decryption_code(variant: Variant, config: Address) -> Result<Vec<u8>> {
    let arguments = Decryption::constructorCall { generation: variant.flag(), config }.abi_encode();
    creation_code(include_str!("../contracts/artifacts/Decryption.json"), &arguments)
}

/// Creation code of a proxy in front of `implementation`, which begins with the call `data`.
pub fn proxy_code(implementation: Address, data: Bytes) -> Result<Vec<u8>> {
    let arguments = Proxy::constructorCall { implementation, data }.abi_encode();
    creation_code(include_str!("../contracts/artifacts/Proxy.json"), &arguments)
}

/// Creation code of `LeanDecryption`, which is of [`Variant::G10`], with its arguments.
pub fn lean_decryption_code(config: Address) -> Result<Vec<u8>> {
    // Its constructor takes what an address is encoded as.
    let arguments = config.abi_encode();
    creation_code(include_str!("../contracts/artifacts/LeanDecryption.json"), &arguments)
}

/// The same of `LeanGatedDecryption`, which is of [`Variant::G13`].
pub fn lean_gated_decryption_code(config: Address) -> Result<Vec<u8>> {
    let artifact = include_str!("../contracts/artifacts/LeanGatedDecryption.json");
    creation_code(artifact, &config.abi_encode())
}

/// Creation code of the code behind `GatewayConfig`, with its arguments.
pub fn gateway_config_code(variant: Variant) -> Result<Vec<u8>> {
    let arguments = GatewayConfig::constructorCall { generation: variant.flag() }.abi_encode();
    creation_code(include_str!("../contracts/artifacts/GatewayConfig.json"), &arguments)
}

/// The bytecode of a committed artifact and what its constructor is given.
pub fn creation_code(artifact: &str, arguments: &[u8]) -> Result<Vec<u8>> {
    let artifact: Value = serde_json::from_str(artifact)?;
    let code = artifact["bytecode"].as_str().unwrap_or_default();
    let mut code = hex::decode(code).map_err(|e| Error::other(format!("bytecode: {e}")))?;
    code.extend_from_slice(arguments);
    Ok(code)
}

/// The log an event makes, for `emitRaw`.
pub fn raw(event: &impl SolEvent) -> Decryption::RawLog {
    let log = event.encode_log_data();
    Decryption::RawLog { topics: log.topics().to_vec(), data: log.data }
}

/// Whether `error` is a revert with exactly the custom error `E`; its fields if so.
pub fn reverted<E: SolError>(error: &Error) -> Option<E> {
    E::abi_decode(error.revert()?).ok()
}

/// The calldata of a response: the function of the variant.
pub fn response_call(
    variant: Variant,
    user: bool,
    id: alloy::primitives::U256,
    payload: &Bytes,
    signature: &Bytes,
    extra_data: &Bytes,
) -> Bytes {
    let (payload, signature, extra) = (payload.clone(), signature.clone(), extra_data.clone());
    let data = match (variant.has_extra_data(), user) {
        (false, false) => {
            G7::publicDecryptionResponseCall::new((id, payload, signature)).abi_encode()
        }
        (false, true) => G7::userDecryptionResponseCall::new((id, payload, signature)).abi_encode(),
        (true, false) => {
            G8::publicDecryptionResponseCall::new((id, payload, signature, extra)).abi_encode()
        }
        (true, true) => {
            G8::userDecryptionResponseCall::new((id, payload, signature, extra)).abi_encode()
        }
    };
    data.into()
}

/// topic0 of every event a connector may meet, as the protocol's tables give them: what the
/// declarations above are checked against.
pub const TOPICS: [(&str, B256, B256); 15] = [
    (
        "G7 public request",
        G7::PublicDecryptionRequest::SIGNATURE_HASH,
        b256!("17c632196fbf6b96d9675971058d3701733094c3f2f1dcb9ba7d2a08bee0aafb"),
    ),
    (
        "G7 user request",
        G7::UserDecryptionRequest::SIGNATURE_HASH,
        b256!("1c3dcad6311be6d58dc4d4b9f1bc1625eb18d72de969db75e11a88ef3527d2f3"),
    ),
    (
        "G8 public request",
        G8::PublicDecryptionRequest::SIGNATURE_HASH,
        b256!("22db480a39bd72556438aadb4a32a3d2a6638b87c03bbec5fef6997e109587ff"),
    ),
    (
        "G8 user request",
        G8::UserDecryptionRequest::SIGNATURE_HASH,
        b256!("f9011bd6ba0da6049c520d70fe5971f17ed7ab795486052544b51019896c596b"),
    ),
    (
        "G14 user request",
        G14::UserDecryptionRequest::SIGNATURE_HASH,
        b256!("1f80a47b51979837976f999a7735fdccbbe570e0d40081644ec88f8ed76c9612"),
    ),
    (
        "HEAD public request",
        HeadHandles::PublicDecryptionRequest::SIGNATURE_HASH,
        b256!("9bb088a53f1fe13ec84fa0a1d7b578b589e193268baaccc5e23f7ab785aa3dae"),
    ),
    (
        "HEAD user request",
        HeadHandles::UserDecryptionRequest::SIGNATURE_HASH,
        b256!("c71e32c80f3109c673a9adfcded0b3b2093212ab284084a0e03a281dee2bdd5f"),
    ),
    (
        "HEAD unified request",
        HeadUnified::UserDecryptionRequest::SIGNATURE_HASH,
        b256!("8ed4fab8b1d050676cd7d7d9fa448d5d22113375fab8ad4dc690e54593c527bf"),
    ),
    (
        "G7 public response",
        G7::PublicDecryptionResponse::SIGNATURE_HASH,
        b256!("61568d6eb48e62870afffd55499206a54a8f78b04a627e00ed097161fc05d6be"),
    ),
    (
        "G8 public response",
        G8::PublicDecryptionResponse::SIGNATURE_HASH,
        b256!("d7e58a367a0a6c298e76ad5d240004e327aa1423cbe4bd7ff85d4c715ef8d15f"),
    ),
    (
        "G10 public response call",
        Decryption::PublicDecryptionResponseCall::SIGNATURE_HASH,
        b256!("4d7b1dba49e9e846215e1621f5737c81d8614c4f268494d8b787632c4e59f0e5"),
    ),
    (
        "G7 user response",
        G7::UserDecryptionResponse::SIGNATURE_HASH,
        b256!("7312dec4cead0d5d3da836cdbaed1eb6a81e218c519c8740da4ac75afcb6c5c7"),
    ),
    (
        "G8 user response",
        G8::UserDecryptionResponse::SIGNATURE_HASH,
        b256!("1cbf1c6e9ea3dbcfd49b9690d93cd4b93b3cb22913f99b71d3aecae60b25fc56"),
    ),
    (
        "G9 user response",
        G9::UserDecryptionResponse::SIGNATURE_HASH,
        b256!("7fcdfb5381917f554a717d0a5470a33f5a49ba6445f05ec43c74c0bc2cc608b2"),
    ),
    (
        "G9 user threshold",
        Decryption::UserDecryptionResponseThresholdReached::SIGNATURE_HASH,
        b256!("e89752be0ecdb68b2a6eb5ef1a891039e0e92ae3c8a62274c5881e48eea1ed25"),
    ),
];
