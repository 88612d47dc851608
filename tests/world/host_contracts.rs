//! The contracts of host chains as Rust sees them, and their committed bytecode.

use alloy::{
    primitives::{Address, U256},
    sol,
    sol_types::SolConstructor,
};

use super::{
    Result,
    contracts::{Variant, creation_code},
};

sol! {
    #![sol(all_derives)]

    // As in the contracts for keys.
    struct KeyDigest { uint8 keyType; bytes digest; }
    struct RawLog { bytes32[] topics; bytes data; }

    struct KmsNode {
        address txSenderAddress;
        address signerAddress;
        string ipAddress;
        string storageUrl;
    }

    struct KmsNodeParams {
        address txSenderAddress;
        address signerAddress;
        string ipAddress;
        string storageUrl;
        int32 partyId;
        string mpcIdentity;
        bytes caCert;
        string storagePrefix;
    }

    struct KmsThresholds {
        uint256 publicDecryption;
        uint256 userDecryption;
        uint256 kmsGen;
        uint256 mpc;
    }

    struct PcrValues {
        bytes pcr0;
        bytes pcr1;
        bytes pcr2;
    }

    struct EpochKeyResult { uint256 prepKeygenId; uint256 keyId; KeyDigest[] keyDigests; bytes signature; }
    struct EpochCrsResult { uint256 crsId; uint256 maxBitLength; bytes crsDigest; bytes signature; }

    contract ACL {
        constructor(uint8 generation);

        function setAllowed(bytes32 handle, address account, bool is_) external;
        function setAllowedForDecryption(bytes32 handle, bool is_) external;
        function setDelegation(
            address delegator, address delegate, address contractAddress, uint64 expiry) external;
        function setInvalidatedBefore(address account, uint256 timestamp) external;
        function setDenied(address account, bool is_) external;
        function setAll(bytes[] setters) external;

        function isAllowed(bytes32 handle, address account) external view returns (bool);
        function persistAllowed(bytes32 handle, address account) external view returns (bool);
        function isAllowedForDecryption(bytes32 handle) external view returns (bool);
        function isHandleDelegatedForUserDecryption(
            address delegator, address delegate, address contractAddress, bytes32 handle)
            external view returns (bool);
        function getUserDecryptionDelegationExpirationDate(
            address delegator, address delegate, address contractAddress) external view returns (uint64);
        function decryptionSignatureInvalidatedBefore(address account) external view returns (uint256);
        function isAccountDenied(address account) external view returns (bool);
        function WILDCARD_DELEGATION_ADDRESS() external view returns (address);
        function getVersion() external view returns (string memory);
    }

    contract ProtocolConfig {
        struct Confirmation {
            address by;
            bytes32 dataHash;
        }

        constructor(uint8 generation);

        error InvalidKmsContext(uint256 kmsContextId);
        error InvalidKmsEpoch(uint256 epochId);
        error KmsContextNotPending(uint256 kmsContextId);
        error KmsLifecycleOperationInFlight(uint256 kmsContextId, uint256 epochId);
        error CurrentKmsContextCannotBeDestroyed(uint256 kmsContextId);
        error LatestActiveKmsContextCannotBeDestroyed(uint256 kmsContextId);
        error LatestActiveKmsEpochCannotBeDestroyed(uint256 epochId);
        error KmsContextNotCreated(uint256 kmsContextId);
        error KmsContextCreationUnauthorized(address caller, uint256 kmsContextId);
        error KmsContextCreationAlreadyConfirmed(address txSender, uint256 kmsContextId);
        error EpochActivationUnauthorized(address caller, uint256 epochId);
        error EpochActivationAlreadyConfirmed(address signer, uint256 epochId);
        error EmptyEpochActivationAttestation(uint256 epochId);
        error EpochActivationSignerDoesNotMatchTxSender(address signer, address txSender);
        error NonIncreasingKmsContextId(uint256 contextId, uint256 latestActiveKmsContextId);
        error NonIncreasingEpochId(uint256 epochId, uint256 currentEpochId);

        event NewKmsContext(
            uint256 indexed contextId, uint256 indexed previousContextId, KmsNodeParams[] kmsNodeParams,
            KmsThresholds thresholds, string softwareVersion, PcrValues[] pcrValues);
        event NewKmsEpoch(
            uint256 indexed kmsContextId, uint256 indexed epochId, uint256 previousContextId,
            uint256 previousEpochId, uint256 materialBlockNumber);
        event ActivateEpoch(
            uint256 indexed kmsContextId, uint256 indexed epochId, EpochKeyResult[] keys,
            EpochCrsResult[] crsList, string[] kmsNodeStorageUrls);
        event KmsContextDestroyed(uint256 indexed kmsContextId);
        event KmsEpochDestroyed(uint256 indexed epochId);
        event KmsContextCreationConfirmation(
            uint256 indexed kmsContextId, address indexed txSender, bool isPreviousTxSender, bool isNewTxSender);
        event EpochActivationConfirmation(
            uint256 indexed epochId, address indexed signer, bytes32 dataHash);
        event MirrorKmsContextAndEpoch(
            uint256 indexed contextId, uint256 indexed epochId, KmsNodeParams[] kmsNodeParams,
            KmsThresholds thresholds, string softwareVersion, PcrValues[] pcrValues);
        event MirrorKmsEpoch(uint256 indexed contextId, uint256 indexed epochId);

        function defineNewKmsContext(KmsNode[] kmsNodes, KmsThresholds thresholds) external;
        function defineNewKmsContextAndEpoch(
            KmsNodeParams[] kmsNodeParams, KmsThresholds thresholds, string softwareVersion,
            PcrValues[] pcrValues) external;
        function reinitializeV2(
            KmsNodeParams[] kmsNodeParams, string softwareVersion, PcrValues[] pcrValues) external;
        function confirmCreation(uint256 kmsContextId) external;
        function defineNewEpochForCurrentKmsContext() external;
        function activateEpoch(uint256 epochId) external;
        function destroyKmsContext(uint256 kmsContextId) external;
        function destroyKmsEpoch(uint256 epochId) external;
        function confirmKmsContextCreation(uint256 kmsContextId) external;
        function confirmEpochActivation(
            uint256 epochId, EpochKeyResult[] keys, EpochCrsResult[] crsList) external;
        function mirrorKmsContextAndEpoch(
            uint256 contextId, uint256 epochId, KmsNodeParams[] kmsNodeParams, KmsThresholds thresholds,
            string softwareVersion, PcrValues[] pcrValues) external;
        function mirrorKmsEpoch(uint256 contextId, uint256 epochId) external;

        function getCurrentKmsContextId() external view returns (uint256);
        function getCurrentKmsContextAndEpoch() external view returns (uint256 contextId, uint256 epochId);
        function getCurrentKmsContextIdCounter() external view returns (uint256);
        function isValidKmsContext(uint256 kmsContextId) external view returns (bool);
        function isLiveKmsContext(uint256 kmsContextId) external view returns (bool);
        function isValidEpochForContext(uint256 kmsContextId, uint256 epochId) external view returns (bool);
        function getKmsContextAnchor(uint256 contextId)
            external view returns (uint256 emissionBlockNumber, bytes32 contextInfoHash);
        function getKmsNodeForContext(uint256 kmsContextId, address txSender)
            external view returns (KmsNode memory);
        function getKmsNodesForContext(uint256 kmsContextId) external view returns (KmsNode[] memory);
        function getKmsSignersForContext(uint256 kmsContextId) external view returns (address[] memory);
        function isKmsSignerForContext(uint256 kmsContextId, address signer) external view returns (bool);
        function isKmsTxSenderForContext(uint256 kmsContextId, address txSender) external view returns (bool);
        function getPublicDecryptionThresholdForContext(uint256 kmsContextId) external view returns (uint256);
        function getUserDecryptionThresholdForContext(uint256 kmsContextId) external view returns (uint256);
        function getKmsGenThresholdForContext(uint256 kmsContextId) external view returns (uint256);
        function getMpcThresholdForContext(uint256 kmsContextId) external view returns (uint256);
        function getContextCreationPreviousTxSenderThreshold(uint256 kmsContextId)
            external view returns (uint256);
        function getVersion() external view returns (string memory);

        // Of the test world.
        function confirmations(uint256 id) external view returns (Confirmation[] memory);
        function emitRaw(RawLog[] logs) external;
        function failWith(bytes data) external;
        function failNoMore() external;
    }

    /// The event of v0.13.
    interface ProtocolConfigG13 {
        event NewKmsContext(uint256 indexed kmsContextId, KmsNode[] kmsNodes, KmsThresholds thresholds);
    }

    contract Wallet {
        constructor(uint8 mood, address owner, uint256 gasToBurn);

        function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
        function execute(address to, bytes data) external;
        function setMood(uint8 mood) external;
    }
}

/// What a smart account says of signatures: `Mood` of `Wallet.sol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Accepts what its owner signed.
    OfOwner,
    /// Accepts anything, also nothing.
    Accepts,
    Refuses,
    Reverts,
    /// Burns all the gas it is given.
    BurnsGas,
    /// Burns so much gas, then accepts.
    BurnsSome(u64),
    /// Answers the right four bytes and no more.
    AnswersShort,
    /// Answers the right four bytes, and others behind them.
    AnswersDirt,
}

impl Mood {
    pub fn flag(self) -> u8 {
        match self {
            Self::OfOwner => 0,
            Self::Accepts => 1,
            Self::Refuses => 2,
            Self::Reverts => 3,
            Self::BurnsGas => 4,
            Self::BurnsSome(_) => 5,
            Self::AnswersShort => 6,
            Self::AnswersDirt => 7,
        }
    }
}

/// What `ACL.getVersion()` answers.
pub fn acl_version(variant: Variant) -> &'static str {
    match variant {
        Variant::G14 | Variant::Head => "ACL v0.5.0",
        Variant::G13 => "ACL v0.4.0",
        Variant::G12 => "ACL v0.3.0",
        Variant::G7 | Variant::G8 | Variant::V0_9_0 | Variant::V0_9_7 | Variant::G10 => {
            "ACL v0.2.0"
        }
    }
}

/// Creation code of the code behind `ACL`.
pub fn acl_code(variant: Variant) -> Result<Vec<u8>> {
    let arguments = ACL::constructorCall { generation: variant.flag() }.abi_encode();
    creation_code(include_str!("../contracts/artifacts/ACL.json"), &arguments)
}

/// Creation code of the code behind `ProtocolConfig`.
pub fn protocol_config_code(variant: Variant) -> Result<Vec<u8>> {
    let arguments = ProtocolConfig::constructorCall { generation: variant.flag() }.abi_encode();
    creation_code(include_str!("../contracts/artifacts/ProtocolConfig.json"), &arguments)
}

/// Creation code of a smart account.
pub fn wallet_code(mood: Mood, owner: Address) -> Result<Vec<u8>> {
    let burn = if let Mood::BurnsSome(gas) = mood { gas } else { 0 };
    let gas_to_burn = U256::from(burn);
    let call = Wallet::constructorCall { mood: mood.flag(), owner, gasToBurn: gas_to_burn };
    creation_code(include_str!("../contracts/artifacts/Wallet.json"), &call.abi_encode())
}
