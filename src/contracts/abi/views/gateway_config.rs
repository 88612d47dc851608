//! Views of the `GatewayConfig` contract: who is registered.

use alloy::sol;
use alloy::sol_types::{SolCall, SolType, sol_data};

use super::{View, ViewProblem};
use crate::contracts::abi::DECODER;
use crate::domain::{Address, U256};

sol! {
    struct CoprocessorOnChain { address txSenderAddress; address signerAddress; string s3BucketUrl; }

    function getCoprocessor(address coprocessorTxSenderAddress) external view
        returns (CoprocessorOnChain coprocessor);
    function getCoprocessorTxSenders() external view returns (address[] txSenders);
    function getKmsTxSenders() external view returns (address[] txSenders);
    function getKmsSigners() external view returns (address[] signers);
    function getCurrentKmsContextId() external view returns (uint256 contextId);
    function getKmsSignersForContext(uint256 contextId) external view
        returns (address[] signers);
    function isValidKmsContext(uint256 contextId) external view returns (bool valid);
    function getCoprocessorMajorityThreshold() external view returns (uint256 threshold);
    function getKmsNodeForContext(uint256 contextId, address kmsTxSenderAddress) external view;
    // The result has two layouts under one selector: see `read_kms_node`.
    function getKmsNode(address kmsTxSenderAddress) external view;
}

/// `KmsNode` up to v0.8.1: tx sender, signer, `ipAddress`.
type ThreeFieldKmsNode = (sol_data::Address, sol_data::Address, sol_data::String);
/// `KmsNode` from v0.9.0 on: `storageUrl` added.
type FourFieldKmsNode = (sol_data::Address, sol_data::Address, sol_data::String, sol_data::String);

/// A registered coprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coprocessor {
    pub tx_sender: Address,
    pub signer: Address,
    /// `s3BucketUrl`, exactly as on chain.
    pub url: String,
}

/// A registered KMS node. Its addresses for other nodes are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsNode {
    pub tx_sender: Address,
    pub signer: Address,
}

/// `getCoprocessor`, by the tx sender that the event's materials list. `None`: not registered.
#[must_use]
pub fn coprocessor(tx_sender: Address) -> View<Option<Coprocessor>> {
    View::of(&getCoprocessorCall { coprocessorTxSenderAddress: tx_sender }, |returned| {
        let CoprocessorOnChain { txSenderAddress, signerAddress, s3BucketUrl } =
            getCoprocessorCall::abi_decode_returns_with_config(returned, DECODER)?;
        // The contract never reverts here: for an unknown address it returns a zeroed struct.
        let zeroed = txSenderAddress.is_zero() && signerAddress.is_zero() && s3BucketUrl.is_empty();
        Ok((!zeroed).then_some(Coprocessor {
            tx_sender: txSenderAddress,
            signer: signerAddress,
            url: s3BucketUrl,
        }))
    })
}

/// `getCoprocessorTxSenders`: all registered coprocessors.
#[must_use]
pub fn coprocessor_tx_senders() -> View<Vec<Address>> {
    View::of(&getCoprocessorTxSendersCall {}, |returned| {
        Ok(getCoprocessorTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getCoprocessorMajorityThreshold`: how many coprocessors decide.
#[must_use]
pub fn coprocessor_majority_threshold() -> View<U256> {
    View::of(&getCoprocessorMajorityThresholdCall {}, |returned| {
        Ok(getCoprocessorMajorityThresholdCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsTxSenders`: all registered KMS wallets (of the current context from G12 on).
#[must_use]
pub fn kms_tx_senders() -> View<Vec<Address>> {
    View::of(&getKmsTxSendersCall {}, |returned| {
        Ok(getKmsTxSendersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsSigners`: all registered KMS signers (of the current context from G12 on).
#[must_use]
pub fn kms_signers() -> View<Vec<Address>> {
    View::of(&getKmsSignersCall {}, |returned| {
        Ok(getKmsSignersCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsNode`: the node that owns this wallet. `None`: not registered.
#[must_use]
pub fn kms_node(wallet: Address) -> View<Option<KmsNode>> {
    View::of(&getKmsNodeCall { kmsTxSenderAddress: wallet }, read_kms_node)
}

/// `getKmsNodeForContext`: the same in this context. Exists from G12 on.
#[must_use]
pub fn kms_node_for_context(context: U256, wallet: Address) -> View<Option<KmsNode>> {
    let call = getKmsNodeForContextCall { contextId: context, kmsTxSenderAddress: wallet };
    View::of(&call, read_kms_node)
}

/// Decodes both layouts under one selector: three fields up to v0.8.1, four from v0.9.0 on.
///
/// The struct is `txSender, signer, offset of ipAddress[, offset of storageUrl]`, then the tails. The
/// first tail follows the head directly, so its offset equals the head's size and tells the layout.
fn read_kms_node(returned: &[u8]) -> Result<Option<KmsNode>, ViewProblem> {
    let word = |index: usize| {
        let word = returned.get(32 * index..32 * (index + 1))?;
        u32::try_from(U256::from_be_slice(word)).ok()
    };
    let (tx_sender, signer, empty) = match (word(0), word(3)) {
        (Some(0x20), Some(0x60)) => {
            let (tx_sender, signer, ip) =
                ThreeFieldKmsNode::abi_decode_with_config(returned, DECODER)?;
            (tx_sender, signer, ip.is_empty())
        }
        (Some(0x20), Some(0x80)) => {
            let (tx_sender, signer, ip, storage) =
                FourFieldKmsNode::abi_decode_with_config(returned, DECODER)?;
            (tx_sender, signer, ip.is_empty() && storage.is_empty())
        }
        _ => return Err(ViewProblem::KmsNodeLayout { returned: returned.len() }),
    };
    let zeroed = tx_sender.is_zero() && signer.is_zero() && empty;
    Ok((!zeroed).then_some(KmsNode { tx_sender, signer }))
}

/// `getCurrentKmsContextId`. Exists from G12 on.
#[must_use]
pub fn current_kms_context_id() -> View<U256> {
    View::of(&getCurrentKmsContextIdCall {}, |returned| {
        Ok(getCurrentKmsContextIdCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKmsSignersForContext`. Exists from G12 on; empty for a context that is not known there, a revert from
/// G13 on.
#[must_use]
pub fn kms_signers_for_context(context: U256) -> View<Vec<Address>> {
    View::of(&getKmsSignersForContextCall { contextId: context }, |returned| {
        Ok(getKmsSignersForContextCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `isValidKmsContext`. Exists from G13 on.
#[must_use]
pub fn is_valid_kms_context(context: U256) -> View<bool> {
    View::of(&isValidKmsContextCall { contextId: context }, |returned| {
        Ok(isValidKmsContextCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}
