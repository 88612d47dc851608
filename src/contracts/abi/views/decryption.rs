//! Views of the Decryption contract: its version, its signing domain, and what it has answered.

use alloy::sol;
use alloy::sol_types::SolCall;

use super::{View, ViewProblem};
use crate::contracts::abi::DECODER;
use crate::domain::{Address, Bytes, Kind, SigningDomain, U256};

sol! {
    function getVersion() external pure returns (string version);
    function eip712Domain() external view returns (
        bytes1 fields,
        string name,
        string version,
        uint256 chainId,
        address verifyingContract,
        bytes32 salt,
        uint256[] extensions
    );
    function isUserDecryptionReady((bytes32, address, address)[] handles, bytes extraData)
        external view returns (bool ready);
    function isDecryptionDone(uint256 decryptionId) external view returns (bool done);
    function getDecryptionConsensusTxSenders(uint256 decryptionId) external view
        returns (address[] txSenders);
    function getConsensusTxSenders(uint256 requestId) external view returns (address[] txSenders);
}

/// `getVersion`, which each contract has, for
/// [`told_deployment`](crate::contracts::abi::told_deployment).
#[must_use]
pub fn contract_version() -> View<String> {
    View::of(&getVersionCall {}, |returned| {
        Ok(getVersionCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `eip712Domain` of the Decryption contract: the domain that the KMS Core signs under.
#[must_use]
pub fn signing_domain() -> View<SigningDomain> {
    /// Fields of the domain (EIP-5267): name, version, chain id and verifying contract; neither salt nor
    /// extensions.
    const FIELDS: u8 = 0x0f;
    View::of(&eip712DomainCall {}, |returned| {
        let domain = eip712DomainCall::abi_decode_returns_with_config(returned, DECODER)?;
        let [fields] = domain.fields.0;
        if fields != FIELDS || !domain.extensions.is_empty() {
            let extensions = domain.extensions.len();
            return Err(ViewProblem::DomainFields { fields, extensions });
        }
        Ok(SigningDomain {
            name: domain.name,
            version: domain.version,
            chain_id: u64::try_from(domain.chainId)
                .map_err(|_| ViewProblem::DomainChainId(domain.chainId))?,
            verifying_contract: domain.verifyingContract,
        })
    })
}

/// `isUserDecryptionReady` of a unified request without handles: from G14 on there is such a function.
#[must_use]
pub fn unified_request_is_ready() -> View<bool> {
    let call = isUserDecryptionReadyCall { handles: Vec::new(), extraData: Bytes::new() };
    View::of(&call, |returned| {
        Ok(isUserDecryptionReadyCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `isDecryptionDone`: whether consensus is reached. From v0.9.0 on.
#[must_use]
pub fn is_decryption_done(id: U256) -> View<bool> {
    View::of(&isDecryptionDoneCall { decryptionId: id }, |returned| {
        Ok(isDecryptionDoneCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// The senders whose answers formed the consensus; empty before there is one.
/// `getDecryptionConsensusTxSenders` of Decryption (from v0.8.0-1 on), `getConsensusTxSenders` of
/// `KMSGeneration`.
#[must_use]
pub fn consensus_tx_senders(kind: Kind, id: U256) -> View<Vec<Address>> {
    if kind.is_key_operation() {
        return View::of(&getConsensusTxSendersCall { requestId: id }, |returned| {
            Ok(getConsensusTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
        });
    }
    View::of(&getDecryptionConsensusTxSendersCall { decryptionId: id }, |returned| {
        Ok(getDecryptionConsensusTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}
