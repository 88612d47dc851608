//! Answers with the node that gave them, for comparing one node's word with another's, or with its own
//! header.

use crate::{
    chain::{reader::NodeId, rpc_error::RpcError},
    domain::{Address, Event},
};

/// An answer and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributed<T> {
    pub node: NodeId,
    pub value: T,
}

impl<T> Attributed<T> {
    /// Decodes the answer further; the node stays.
    pub(in super::super) fn and_then<U>(
        self,
        read: impl FnOnce(T) -> Result<U, RpcError>,
    ) -> Result<Attributed<U>, RpcError> {
        Ok(Attributed { node: self.node, value: read(self.value)? })
    }
}

/// A log with the contract that emitted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmittedLog {
    pub address: Address,
    pub event: Event,
}

/// How a node looks up all logs of a block: its log index may be broken while its receipts are complete,
/// or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// `eth_getLogs` of the block, without a filter.
    Logs,
    /// `eth_getBlockReceipts`. Not every node offers it.
    Receipts,
}
