//! KMS contexts: who the nodes of a network are.

use super::{Address, Bytes, U256};

/// A KMS context as its event defines it (protocol: gateway-abi 7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsContext {
    /// In the order on chain.
    pub nodes: Vec<KmsContextNode>,
    /// How many of them may be dishonest.
    pub mpc_threshold: U256,
    pub software_version: String,
    pub pcr_values: Vec<PcrValues>,
}

impl KmsContext {
    /// The node with this wallet.
    #[must_use]
    pub fn node_of(&self, wallet: Address) -> Option<&KmsContextNode> {
        self.nodes.iter().find(|node| node.tx_sender == wallet)
    }
}

/// A node of a KMS context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsContextNode {
    pub tx_sender: Address,
    pub signer: Address,
    /// Where the others reach it (`ipAddress`).
    pub external_url: String,
    pub storage_url: String,
    pub party_id: i32,
    pub identity: String,
    pub ca_cert: Bytes,
    pub storage_prefix: String,
}

/// What an enclave that runs the software measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrValues {
    pub pcr0: Bytes,
    pub pcr1: Bytes,
    pub pcr2: Bytes,
}
