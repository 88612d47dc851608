//! The port that a wallet's transactions are sent through. [`super::provider`] implements it.

use super::{
    reader::{BlockId, ChainReader, EthCall, Receipt},
    rpc_error::RpcError,
};
use crate::domain::{Address, Bytes, U256};

/// Result of a send that a node accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    Accepted,
    /// Already in a block.
    Mined(Receipt),
}

/// What a wallet needs beside reading.
pub trait TransactionSender: ChainReader {
    fn balance(&self, address: Address) -> impl Future<Output = Result<U256, RpcError>> + Send;
    /// Number of transactions mined from `address` up to a block, which is the next nonce after it.
    fn transaction_count(
        &self,
        address: Address,
        at: BlockId,
    ) -> impl Future<Output = Result<u64, RpcError>> + Send;
    /// The suggested priority fee, in wei per gas.
    fn priority_fee(&self) -> impl Future<Output = Result<u128, RpcError>> + Send;
    fn estimate_gas(&self, call: &EthCall) -> impl Future<Output = Result<u64, RpcError>> + Send;
    /// Sends a transaction to every node. One acceptance is enough; "already known" is one. A refusal is
    /// returned only if every node proved that it did not accept it. `waits`: wait a moment for the
    /// receipt, if a node offers that (EIP-7966).
    fn send(
        &self,
        raw: &Bytes,
        waits: bool,
    ) -> impl Future<Output = Result<Acceptance, RpcError>> + Send;
}
