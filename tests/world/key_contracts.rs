//! The contracts for keys as Rust sees them, and their committed bytecode: `KMSGeneration` on the gateway
//! (v0.9 to v0.12) and on Ethereum (from v0.13 on), whose answers, errors and views are the same.

use alloy::{
    primitives::{Address, B256, b256},
    sol,
    sol_types::{SolConstructor, SolEvent},
};

use super::{
    Result,
    contracts::{Variant, creation_code},
};

sol! {
    #![sol(all_derives)]

    struct KeyDigest {
        uint8 keyType;
        bytes digest;
    }

    struct RawLog {
        bytes32[] topics;
        bytes data;
    }

    /// What both have.
    contract KMSGeneration {
        struct Answer {
            address signer;
            address txSender;
            bytes32 digest;
        }

        constructor(uint8 generation, address config);

        error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
        error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
        error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
        error PrepKeygenNotRequested(uint256 prepKeygenId);
        error KeygenNotRequested(uint256 keyId);
        error CrsgenNotRequested(uint256 crsId);
        error EmptyKeyDigests(uint256 keyId);
        error NotKmsTxSender(address txSender);
        error NotKmsSigner(address signer);
        error KmsSignerDoesNotMatchTxSender(address signer, address txSender);
        error ECDSAInvalidSignature();
        error ECDSAInvalidSignatureLength(uint256 length);
        error ECDSAInvalidSignatureS(bytes32 s);
        error KeygenOngoing(uint256 keyId);
        error CrsgenOngoing(uint256 crsId);
        error KeyNotGenerated(uint256 keyId);
        error CrsNotGenerated(uint256 crsId);

        event PrepKeygenResponse(uint256 prepKeygenId, bytes signature, address kmsTxSender);
        event KeygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature, address kmsTxSender);
        event CrsgenResponse(uint256 crsId, bytes crsDigest, bytes signature, address kmsTxSender);
        event ActivateKey(uint256 keyId, string[] kmsNodeStorageUrls, KeyDigest[] keyDigests);
        event ActivateCrs(uint256 crsId, string[] kmsNodeStorageUrls, bytes crsDigest);

        function keygen(uint8 paramsType) external;
        function crsgenRequest(uint256 maxBitLength, uint8 paramsType) external;
        function prepKeygenResponse(uint256 prepKeygenId, bytes signature) external;
        function keygenResponse(uint256 keyId, KeyDigest[] keyDigests, bytes signature) external;
        function crsgenResponse(uint256 crsId, bytes crsDigest, bytes signature) external;
        function getKeyParamsType(uint256 keyId) external view returns (uint8);
        function getCrsParamsType(uint256 crsId) external view returns (uint8);
        function getKeyMaterials(uint256 keyId) external view returns (
            string[] memory urls, KeyDigest[] memory digests);
        function getCrsMaterials(uint256 crsId) external view returns (
            string[] memory urls, bytes memory digest);
        function getActiveKeyId() external view returns (uint256);
        function getActiveCrsId() external view returns (uint256);
        function getConsensusTxSenders(uint256 requestId) external view returns (address[] memory);
        function getVersion() external view returns (string memory);

        // Of the test world.
        function answers(uint256 id) external view returns (Answer[] memory);
        function emitRaw(RawLog[] logs) external;
        function failWith(bytes data) external;
        function failNoMore() external;
        function failFor(uint256 id, bytes data) external;
        function failNoMoreFor(uint256 id) external;
    }

    /// What only the gateway's has.
    interface OnGateway {
        event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, uint8 paramsType);
        event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
        event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType);
        event PRSSInit();
        event KeyReshareSameSet(uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, uint8 paramsType);

        function prssInit() external;
        function keyReshareSameSet(uint256 keyId) external;
    }

    /// What only Ethereum's has.
    interface OnEthereum {
        struct KeyInfo {
            uint256 prepKeygenId;
            uint256 keyId;
            uint8 paramsType;
            KeyDigest[] keyDigests;
        }

        error KeyManagementRequestPending();
        error KeyAborted(uint256 keyId);
        error CrsAborted(uint256 crsId);
        error AbortKeygenInvalidId(uint256 prepKeygenId);
        error AbortKeygenAlreadyDone(uint256 prepKeygenId);
        error AbortCrsgenInvalidId(uint256 crsId);
        error AbortCrsgenAlreadyDone(uint256 crsId);

        event PrepKeygenRequest(uint256 prepKeygenId, uint8 paramsType, bytes extraData);
        event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
        event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType, bytes extraData);
        event AbortKeygen(uint256 prepKeygenId);
        event AbortCrsgen(uint256 crsId);

        function abortKeygen(uint256 prepKeygenId) external;
        function abortCrsgen(uint256 crsId) external;
        function isRequestDone(uint256 requestId) external view returns (bool);
        function getCompletedKeyIds() external view returns (uint256[] memory);
        function getCompletedCrsIds() external view returns (uint256[] memory);
        function getKeyInfo(uint256 keyId) external view returns (KeyInfo memory);
        function getKeyCounter() external view returns (uint256);
        function getCrsCounter() external view returns (uint256);
    }
}

/// Creation code of the code behind the gateway's contract, with its arguments: the variant and its
/// `GatewayConfig`.
pub fn gateway_code(variant: Variant, config: Address) -> Result<Vec<u8>> {
    code(include_str!("../contracts/artifacts/KMSGeneration.json"), variant, config)
}

/// The same of Ethereum's, with its `ProtocolConfig`.
pub fn ethereum_code(variant: Variant, config: Address) -> Result<Vec<u8>> {
    code(include_str!("../contracts/artifacts/HostKMSGeneration.json"), variant, config)
}

fn code(artifact: &str, variant: Variant, config: Address) -> Result<Vec<u8>> {
    let generation = variant.flag();
    let arguments = KMSGeneration::constructorCall { generation, config }.abi_encode();
    creation_code(artifact, &arguments)
}

/// The log an event makes, for `emitRaw`.
pub fn raw(event: &impl SolEvent) -> RawLog {
    let log = event.encode_log_data();
    RawLog { topics: log.topics().to_vec(), data: log.data }
}

/// topic0 of every event of these contracts, as the protocol's tables give them: what the declarations
/// above are checked against.
pub const TOPICS: [(&str, B256, B256); 15] = [
    (
        "gateway PrepKeygenRequest",
        OnGateway::PrepKeygenRequest::SIGNATURE_HASH,
        b256!("02024007d96574dbc9d11328bfee9893e7c7bb4ef4aa806df33bfdf454eb5e60"),
    ),
    (
        "gateway KeygenRequest",
        OnGateway::KeygenRequest::SIGNATURE_HASH,
        b256!("78b179176d1f19d7c28e80823deba2624da2ca2ec64b1701f3632a87c9aedc92"),
    ),
    (
        "gateway CrsgenRequest",
        OnGateway::CrsgenRequest::SIGNATURE_HASH,
        b256!("3f038f6f88cb3031b7718588403a2ec220576a868be07dde4c02b846ca352ef5"),
    ),
    (
        "PRSSInit",
        OnGateway::PRSSInit::SIGNATURE_HASH,
        b256!("11db42c1878f2e2819241f5250984563f06cf22818e7adb86a66921d15d59d3f"),
    ),
    (
        "KeyReshareSameSet",
        OnGateway::KeyReshareSameSet::SIGNATURE_HASH,
        b256!("1ccb5545c4c8db50a0f5b416499526929f68534ed47f6cfd4c9f069075e60b45"),
    ),
    (
        "PrepKeygenResponse",
        KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH,
        b256!("4c715c5734ce5c18c9c12e8496e53d2a65f1ec381d476957f0f596b364a59b0c"),
    ),
    (
        "KeygenResponse",
        KMSGeneration::KeygenResponse::SIGNATURE_HASH,
        b256!("2afe64fb3afde8e2678aea84cf36223f330e2fb1286d37aed573ab9cd1db47c7"),
    ),
    (
        "CrsgenResponse",
        KMSGeneration::CrsgenResponse::SIGNATURE_HASH,
        b256!("7bf1b42c10e9497c879620c5b7afced10bda17d8c90b22f0e3bc6b2fd6ced0bd"),
    ),
    (
        "ActivateKey",
        KMSGeneration::ActivateKey::SIGNATURE_HASH,
        b256!("eb85c26dbcad46b80a68a0f24cce7c2c90f0a1faded84184138839fc9e80a25b"),
    ),
    (
        "ActivateCrs",
        KMSGeneration::ActivateCrs::SIGNATURE_HASH,
        b256!("2258b73faed33fb2e2ea454403bef974920caf682ab3a723484fcf67553b16a2"),
    ),
    (
        "Ethereum PrepKeygenRequest",
        OnEthereum::PrepKeygenRequest::SIGNATURE_HASH,
        b256!("fbf5274810b94f86970c1147e8ffaebed246ee9777d695a69004dc6256d1fe91"),
    ),
    (
        "Ethereum KeygenRequest",
        OnEthereum::KeygenRequest::SIGNATURE_HASH,
        b256!("3a116120cca5d4f073cc1fc31ff26133ab7b0499f2712fa010023b87d5a1f9ee"),
    ),
    (
        "Ethereum CrsgenRequest",
        OnEthereum::CrsgenRequest::SIGNATURE_HASH,
        b256!("8cf0151393f84fd694c5e315cb74cc05b247de0a454fd9e9129c661efdf9401d"),
    ),
    (
        "AbortKeygen",
        OnEthereum::AbortKeygen::SIGNATURE_HASH,
        b256!("2b087b884b35a81d769d1a1e092880f1da56de964e4b339eabcb1f45f5fe3264"),
    ),
    (
        "AbortCrsgen",
        OnEthereum::AbortCrsgen::SIGNATURE_HASH,
        b256!("384f90fefbcfaa68f22e00094aeaa52b2bc693936d2ce1afed1212520b59b58e"),
    ),
];
