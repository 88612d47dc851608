//! Answers with the node that gave them, for comparing one node's word with another's, or with its own
//! header.

use super::{NodeId, RpcError};
use crate::domain::{Address, Event};

/// An answer and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<T> {
    pub by: NodeId,
    pub answer: T,
}

impl<T> Told<T> {
    /// Decodes the answer further; the node stays.
    pub(super) fn and_then<U>(
        self,
        read: impl FnOnce(T) -> Result<U, RpcError>,
    ) -> Result<Told<U>, RpcError> {
        Ok(Told { by: self.by, answer: read(self.answer)? })
    }
}

/// A log with the contract that emitted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    pub address: Address,
    pub event: Event,
}

/// How a node looks up all logs of a block: its log index may be broken while its receipts are complete,
/// or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `eth_getLogs` of the block, without a filter.
    Logs,
    /// `eth_getBlockReceipts`. Not every node offers it.
    Receipts,
}
