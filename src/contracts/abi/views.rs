//! View calls of the Decryption and `GatewayConfig` contracts: a [`View`] is the calldata and a function
//! that decodes the result. Which node is asked, and how often, is decided by the adapter.

mod gateway_config;
mod decryption;
pub mod acl;
pub mod key_generation;
pub mod protocol_config;

use std::fmt;

use alloy::primitives::hex;
use alloy::sol_types::{self, SolCall};

pub use self::{
    decryption::{
        consensus_tx_senders, contract_version, is_decryption_done, signing_domain,
        unified_request_is_ready,
    },
    gateway_config::{
        Coprocessor, KmsNode, coprocessor, coprocessor_majority_threshold, coprocessor_tx_senders,
        current_kms_context_id, is_valid_kms_context, kms_node, kms_node_for_context, kms_signers,
        kms_signers_for_context, kms_tx_senders,
    },
};
use crate::domain::{Bytes, U256};

/// A call of a view function, and how to decode its result.
#[derive(Clone)]
pub struct View<T> {
    signature: &'static str,
    calldata: Bytes,
    read: fn(&[u8]) -> Result<T, ViewProblem>,
}

impl<T> View<T> {
    fn of<C: SolCall>(call: &C, read: fn(&[u8]) -> Result<T, ViewProblem>) -> Self {
        Self { signature: C::SIGNATURE, calldata: call.abi_encode().into(), read }
    }

    /// The canonical signature of the function, for logs and errors.
    #[must_use]
    pub fn signature(&self) -> &'static str {
        self.signature
    }

    /// The `data` of the `eth_call`.
    #[must_use]
    pub fn calldata(&self) -> Bytes {
        self.calldata.clone()
    }

    /// Decodes the result of the `eth_call`.
    pub fn decode(&self, returned: &[u8]) -> Result<T, ViewDecodeError> {
        let read =
            if returned.is_empty() { Err(ViewProblem::Empty) } else { (self.read)(returned) };
        read.map_err(|problem| ViewDecodeError { view: self.signature, problem })
    }
}

impl<T> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View({}, {})", self.signature, hex::encode_prefixed(&self.calldata))
    }
}

/// A view whose result does not decode.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{view}: {problem}")]
pub struct ViewDecodeError {
    /// The function's signature.
    pub view: &'static str,
    #[source]
    pub problem: ViewProblem,
}

/// Why the result of a view does not decode.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ViewProblem {
    /// A node returns nothing for an address without code.
    #[error("nothing came back: there is no contract at this address")]
    Empty,
    #[error("what came back does not decode: {0}")]
    Abi(#[from] sol_types::Error),
    #[error("the {returned} bytes that came back are no KmsNode of three or four fields")]
    KmsNodeLayout { returned: usize },
    #[error(
        "the signing domain is not of name, version, chain id and contract alone \
         (fields {fields:#04x}, {extensions} extensions)"
    )]
    DomainFields { fields: u8, extensions: usize },
    #[error("the signing domain's chain id {0} does not fit 64 bits")]
    DomainChainId(U256),
}

impl ViewDecodeError {
    /// Stable, for throttling.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self.problem {
            ViewProblem::Empty => "no_contract",
            ViewProblem::Abi(_)
            | ViewProblem::KmsNodeLayout { .. }
            | ViewProblem::DomainFields { .. }
            | ViewProblem::DomainChainId(_) => "view_unreadable",
        }
    }
}

#[cfg(test)]
mod tests;
