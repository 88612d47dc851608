//! Answers with the name of the node that gave them: several nodes are one provider, and whoever weighs
//! one node's word against another's, or against its own header, has to know whose it is.

use serde_json::json;

use super::{ArbitrumProvider, NodeId, RpcError, raw::RawLog};
use crate::domain::{Address, B256, Event};

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

/// A receipt, as far as its logs go.
#[derive(Clone, Debug, serde::Deserialize)]
struct ReceiptLogs {
    logs: Vec<RawLog>,
}

impl ArbitrumProvider {
    /// See [`super::Provider::block_logs`]. A log of another block makes the answer unreadable.
    pub(super) async fn all_logs(
        &self,
        block: B256,
        way: Way,
    ) -> Result<Told<Vec<Emitted>>, RpcError> {
        let told: Told<Vec<RawLog>> = match way {
            Way::Logs => self.told("eth_getLogs", json!([{ "blockHash": block }])).await?,
            Way::Receipts => {
                let told: Told<Option<Vec<ReceiptLogs>>> =
                    self.told("eth_getBlockReceipts", json!([block])).await?;
                told.and_then(|receipts| {
                    let receipts = receipts.ok_or_else(|| self.unreadable("no such block"))?;
                    Ok(receipts.into_iter().flat_map(|receipt| receipt.logs).collect())
                })?
            }
        };
        told.and_then(|logs| {
            logs.into_iter()
                .map(|log| {
                    let emitted = Emitted { address: log.address, event: self.event(log)? };
                    if emitted.event.block.hash == block {
                        Ok(emitted)
                    } else {
                        Err(self.unreadable("a log of another block than the one asked for"))
                    }
                })
                .collect()
        })
    }

    /// See [`super::Provider::emitted_by`].
    pub(super) async fn logs_of(
        &self,
        transaction: B256,
    ) -> Result<Option<Vec<Emitted>>, RpcError> {
        let receipt: Option<ReceiptLogs> =
            self.told("eth_getTransactionReceipt", json!([transaction])).await?.answer;
        let emitted = |log: RawLog| Ok(Emitted { address: log.address, event: self.event(log)? });
        receipt.map(|receipt| receipt.logs.into_iter().map(emitted).collect()).transpose()
    }
}
