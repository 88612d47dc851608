//! Answers with the name of the node that gave them: several nodes are one provider, and whoever weighs
//! one node's word against another's, or against its own header, has to know whose it is.

use super::{NodeId, RpcError};
use crate::domain::{Address, Event};

/// What one node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<T> {
    pub by: NodeId,
    pub answer: T,
}

impl<T> Told<T> {
    /// The same node's answer, read further.
    pub(super) fn and_then<U>(
        self,
        read: impl FnOnce(T) -> Result<U, RpcError>,
    ) -> Result<Told<U>, RpcError> {
        Ok(Told { by: self.by, answer: read(self.answer)? })
    }
}

/// A log of any contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    pub address: Address,
    pub event: Event,
}

/// Where a node looks up all logs of a block: its index of logs may be broken and its receipts whole,
/// or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `eth_getLogs` of the block, without a filter.
    Logs,
    /// `eth_getBlockReceipts`. Not every node has it.
    Receipts,
}
