//! Reads of past events in bulk: contract views, logs by topic, senders of transactions.

use alloy::primitives::U64;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    ArbitrumProvider, batch,
    client::Client,
    parameters::{block_parameter, call_parameter, quantity},
    raw::RawLog,
};
use crate::{
    chain::{
        reader::{Attributed, BlockId, EmittedLog, EthCall, LogSource, Transaction},
        rpc_error::RpcError,
    },
    domain::{Address, B256, BlockRef, Bytes, U256},
};

/// A transaction, reduced to what is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTransaction {
    hash: B256,
    from: Address,
    to: Option<Address>,
    input: Bytes,
    #[serde(default)]
    block_hash: Option<B256>,
    #[serde(default)]
    block_number: Option<U64>,
}

impl RawTransaction {
    fn into_transaction(self) -> Transaction {
        let block = self.block_number.zip(self.block_hash);
        let block = block.map(|(number, hash)| BlockRef { number: number.to(), hash });
        Transaction { hash: self.hash, to: self.to, input: self.input, block }
    }
}

/// The sender of a transaction. The rest may be large and is not kept.
#[derive(Debug, Deserialize)]
struct RawSender {
    hash: B256,
    from: Address,
}

/// Timestamp of a block.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct BlockTime {
    number: U64,
    timestamp: U64,
}

/// Transaction hashes of a block.
#[derive(Debug, Deserialize)]
struct BlockHashes {
    transactions: Vec<B256>,
}

/// Logs of a receipt.
#[derive(Debug, Deserialize)]
struct ReceiptLogs {
    logs: Vec<RawLog>,
}

/// Transactions of a block.
#[derive(Debug, Deserialize)]
struct RawBlock {
    transactions: Vec<RawTransaction>,
}

impl ArbitrumProvider {
    /// See [`crate::chain::reader::ChainReader::calls`].
    pub(super) async fn fetch_calls(
        &self,
        calls: &[EthCall],
        at: BlockId,
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        let params =
            calls.iter().map(|call| json!([call_parameter(call), block_parameter(at)])).collect();
        self.call_many("eth_call", params, |client, said| {
            said.and_then(|raw| client.endpoint().parse(&raw))
        })
        .await
    }

    /// Number and timestamp (Unix seconds) of the newest block, for the check of clocks.
    pub async fn newest_position(&self) -> Result<(u64, u64), RpcError> {
        let newest = self.tagged_block_time("latest").await?;
        newest.ok_or_else(|| self.unreadable("no newest block"))
    }

    /// The same for the block of a tag. `None`: the node does not support the tag.
    pub async fn tagged_block_time(
        &self,
        tag: &'static str,
    ) -> Result<Option<(u64, u64)>, RpcError> {
        let block: Option<BlockTime> =
            self.rpc("eth_getBlockByNumber", json!([tag, false])).await?;
        Ok(block.map(|block| (block.number.to(), block.timestamp.to())))
    }

    /// A transaction of the block. `None`: the block has none, or the node does not know it.
    pub async fn first_transaction_in(&self, block: u64) -> Result<Option<B256>, RpcError> {
        let reply: Option<BlockHashes> =
            self.rpc("eth_getBlockByNumber", json!([quantity(block), false])).await?;
        Ok(reply.and_then(|block| block.transactions.first().copied()))
    }

    /// See [`crate::chain::reader::ChainReader::block_transactions`].
    pub(super) async fn fetch_block_transactions(
        &self,
        block: B256,
    ) -> Result<Option<Vec<B256>>, RpcError> {
        let reply: Option<BlockHashes> =
            self.rpc("eth_getBlockByHash", json!([block, false])).await?;
        Ok(reply.map(|block| block.transactions))
    }

    /// See [`crate::chain::reader::ChainReader::block_logs`]. A log of another block makes the answer unreadable.
    pub(super) async fn fetch_block_logs(
        &self,
        block: B256,
        way: LogSource,
    ) -> Result<Attributed<Vec<EmittedLog>>, RpcError> {
        let reply: Attributed<Vec<RawLog>> = match way {
            LogSource::Logs => {
                self.rpc_attributed("eth_getLogs", json!([{ "blockHash": block }])).await?
            }
            LogSource::Receipts => {
                let reply: Attributed<Option<Vec<ReceiptLogs>>> =
                    self.rpc_attributed("eth_getBlockReceipts", json!([block])).await?;
                reply.and_then(|receipts| {
                    let receipts = receipts.ok_or_else(|| self.unreadable("no such block"))?;
                    Ok(receipts.into_iter().flat_map(|receipt| receipt.logs).collect())
                })?
            }
        };
        reply.and_then(|logs| {
            logs.into_iter()
                .map(|log| {
                    let emitted = EmittedLog { address: log.address, event: self.event_of(log)? };
                    if emitted.event.block.hash == block {
                        Ok(emitted)
                    } else {
                        Err(self.unreadable("a log of another block than the one asked for"))
                    }
                })
                .collect()
        })
    }

    /// See [`crate::chain::reader::ChainReader::receipt_logs`].
    pub(super) async fn fetch_receipt_logs(
        &self,
        transaction: B256,
    ) -> Result<Option<Vec<EmittedLog>>, RpcError> {
        let receipt: Option<ReceiptLogs> =
            self.rpc_attributed("eth_getTransactionReceipt", json!([transaction])).await?.value;
        let emitted =
            |log: RawLog| Ok(EmittedLog { address: log.address, event: self.event_of(log)? });
        receipt.map(|receipt| receipt.logs.into_iter().map(emitted).collect()).transpose()
    }

    /// See [`crate::chain::reader::ChainReader::senders`].
    pub(super) async fn fetch_senders(
        &self,
        transactions: &[B256],
    ) -> Result<Vec<Option<Address>>, RpcError> {
        let params = transactions.iter().map(|hash| json!([hash])).collect();
        let found =
            self.call_many("eth_getTransactionByHash", params, parse_optional::<RawSender>).await?;
        let found = found.into_iter().zip(transactions).map(|(found, hash)| {
            let sender = found?.filter(|sender| sender.hash == *hash);
            Ok(sender.map(|sender| sender.from))
        });
        found.collect()
    }

    /// See [`crate::chain::reader::ChainReader::transaction_counts_at`].
    pub(super) async fn fetch_transaction_counts(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Option<u64>>, RpcError> {
        let params = blocks.iter().map(|block| json!([sender, quantity(*block)])).collect();
        let counts =
            self.call_many("eth_getTransactionCount", params, parse_optional::<U256>).await?;
        let counts = counts.into_iter().map(|count| match count {
            Ok(count) => Ok(count.and_then(|count| u64::try_from(count).ok())),
            // The node has dropped the state of that block.
            Err(RpcError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        });
        counts.collect()
    }

    /// See [`crate::chain::reader::ChainReader::transactions_from`].
    pub(super) async fn fetch_transactions(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Transaction>, RpcError> {
        let params = blocks.iter().map(|block| json!([quantity(*block), true])).collect();
        let read =
            self.call_many("eth_getBlockByNumber", params, parse_optional::<RawBlock>).await?;
        let mut own = Vec::new();
        for block in read {
            let block = block?.ok_or_else(|| self.unreadable("no such block"))?;
            let of_sender = block.transactions.into_iter().filter(|one| one.from == sender);
            own.extend(of_sender.map(RawTransaction::into_transaction));
        }
        Ok(own)
    }

    /// See [`super::ChainReader::transaction`].
    pub(super) async fn fetch_transaction(
        &self,
        hash: B256,
    ) -> Result<Option<Transaction>, RpcError> {
        let found: Option<RawTransaction> =
            self.rpc("eth_getTransactionByHash", json!([hash])).await?;
        if found.as_ref().is_some_and(|found| found.hash != hash) {
            return Err(self.unreadable("another transaction than the one asked for"));
        }
        Ok(found.map(RawTransaction::into_transaction))
    }

    /// Calls one method with many parameters at one node; each result is decoded separately.
    async fn call_many<T: Send>(
        &self,
        method: &'static str,
        params: Vec<Value>,
        read: impl Fn(&Client, batch::RpcReply) -> Result<T, RpcError> + Copy + Send + Sync,
    ) -> Result<Vec<Result<T, RpcError>>, RpcError> {
        if params.is_empty() {
            return Ok(Vec::new());
        }
        let calls: Vec<batch::RpcCall> =
            params.into_iter().map(|params| (method, params)).collect();
        let reply = self
            .with_client_attributed(method, |client, node| {
                let calls = &calls;
                async move {
                    let replies = batch::call_each(&client, &node.batches, calls).await?;
                    if let Some(busy) = replies
                        .iter()
                        .find_map(|said| said.as_ref().err().filter(|error| error.is_busy()))
                    {
                        return Err(busy.clone());
                    }
                    Ok(replies.into_iter().map(|said| read(&client, said)).collect())
                }
            })
            .await?;
        Ok(reply.value)
    }
}

/// Decodes a result that may be `null`.
fn parse_optional<T: DeserializeOwned>(
    client: &Client,
    said: batch::RpcReply,
) -> Result<Option<T>, RpcError> {
    client.endpoint().parse(&said?)
}
