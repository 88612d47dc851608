//! PROVIDER: the layer that talks to the Gateway chain's node. It moves bytes, knows addresses and
//! deadlines, and knows nothing of requests.
//!
//! The WebSocket (or, over http, a poll) is a source of wake-ups and headers, never of truth: what
//! happened on chain is always read by block hash or by range. The library's own reconnect is
//! switched off, because it re-issues calls and re-subscribes without saying so: here a lost
//! connection is a new [`Head::connection`] number, and whoever needs continuity re-reads.
//!
//! URLs hold API keys: every text that leaves this module names the host and nothing else.

pub mod connection;
pub mod quirks;

use std::{sync::Arc, time::Duration};

use alloy::{
    eips::BlockId,
    rpc::{
        client::RpcClient,
        json_rpc::{RpcRecv, RpcSend},
        types::{Filter, Log, TransactionReceipt},
    },
    transports::RpcError as AlloyError,
};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use crate::domain::{Address, B256, BlockRef, Bytes, Event, U256};

/// How long one call may take, connection included.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Where the two contracts of a deployment live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub decryption: Address,
    pub gateway_config: Address,
}

/// A block's header, as far as the connector needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub block: BlockRef,
    pub parent: B256,
    pub bloom: alloy::primitives::Bloom,
    /// Wei per gas; `None` before EIP-1559.
    pub base_fee: Option<u128>,
    /// Counts the connections made so far: another number means heads may have been missed.
    pub connection: u64,
}

/// Which block a read is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Latest,
    Finalized,
    Number(u64),
    Hash(B256),
}

/// Which logs to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRange {
    /// One block by hash: a node that does not know it answers an error, never an empty list.
    Block(B256),
    /// Both ends included.
    Numbers { from: u64, to: u64 },
}

/// A receipt, as far as the connector needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub hash: B256,
    pub block: BlockRef,
    pub success: bool,
    pub gas_used: u64,
}

/// A transaction-like call for `eth_call` and `eth_estimateGas`.
#[derive(Clone, Debug)]
pub struct Call {
    pub from: Option<Address>,
    pub to: Address,
    pub data: Bytes,
}

/// Why a call to the node gave no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RpcError {
    /// No answer: not connected, cut, timed out, overloaded. What the node did is unknown.
    #[error("no answer from {host}: {what}")]
    Unavailable { host: String, what: String },
    /// The node answered with a JSON-RPC error.
    #[error("{host} answered error {code}: {message}")]
    Refused { host: String, code: i64, message: String, data: Option<Bytes> },
    /// Behind the URL is another chain than the configured one. Nothing is read or sent.
    #[error("{host} serves chain id {found}, the configuration says chain_id = {expected}")]
    WrongChain { host: String, expected: u64, found: u64 },
    /// The node answered something that is not an answer to the question.
    #[error("{host} gave an unreadable answer: {what}")]
    Unreadable { host: String, what: String },
}

impl RpcError {
    /// The data of a revert, if the node executed the call and it reverted. Empty data means the
    /// revert had no reason.
    #[must_use]
    pub fn revert_data(&self) -> Option<Bytes> {
        match self {
            Self::Refused { code, message, data, .. } => quirks::is_revert(*code, message)
                .then(|| data.clone().unwrap_or_default())
                .or_else(|| data.clone().filter(|data| data.len() >= 4)),
            Self::Unavailable { .. } | Self::WrongChain { .. } | Self::Unreadable { .. } => None,
        }
    }
}

/// What the layers above ask of the chain. `ArbitrumProvider` is the real one.
pub trait Provider: Clone + Send + Sync + 'static {
    fn addresses(&self) -> Addresses;
    /// The newest head, and a wake-up at each change. `None` until the first one was seen.
    fn heads(&self) -> watch::Receiver<Option<Head>>;

    fn chain_id(&self) -> impl Future<Output = Result<u64, RpcError>> + Send;
    /// The header of a block; `None` if the node does not know it.
    fn header(&self, at: At) -> impl Future<Output = Result<Option<Head>, RpcError>> + Send;
    /// Logs of `address` with one of `topics` first, in chain order.
    fn logs(
        &self,
        address: Address,
        topics: &[B256],
        range: LogRange,
    ) -> impl Future<Output = Result<Vec<Event>, RpcError>> + Send;
    fn call(&self, call: &Call, at: At) -> impl Future<Output = Result<Bytes, RpcError>> + Send;
    fn estimate_gas(&self, call: &Call) -> impl Future<Output = Result<u64, RpcError>> + Send;
    fn code_size(&self, address: Address) -> impl Future<Output = Result<usize, RpcError>> + Send;
    fn balance(&self, address: Address) -> impl Future<Output = Result<U256, RpcError>> + Send;
    /// Transactions mined from `address`: its next nonce in the latest block.
    fn transaction_count(
        &self,
        address: Address,
    ) -> impl Future<Output = Result<u64, RpcError>> + Send;
    /// Wei per gas the node suggests as a tip.
    fn priority_fee(&self) -> impl Future<Output = Result<u128, RpcError>> + Send;
    fn send_raw_transaction(
        &self,
        raw: &Bytes,
    ) -> impl Future<Output = Result<B256, RpcError>> + Send;
    /// Receipts by transaction hash, in the order asked; `None` where the node has none.
    fn receipts(
        &self,
        hashes: &[B256],
    ) -> impl Future<Output = Result<Vec<Option<Receipt>>, RpcError>> + Send;
}

/// The provider of an Arbitrum (or any Ethereum JSON-RPC) node behind one URL.
#[derive(Clone, Debug)]
pub struct ArbitrumProvider {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    addresses: Addresses,
    endpoint: connection::Endpoint,
    client: watch::Receiver<connection::Link>,
    heads: watch::Receiver<Option<Head>>,
}

impl ArbitrumProvider {
    /// A provider and the task that keeps it connected. The owner runs the task.
    #[must_use]
    pub fn new(
        addresses: Addresses,
        chain_id: u64,
        endpoint: connection::Endpoint,
    ) -> (Self, connection::Connection) {
        let (client_sender, client) = watch::channel(connection::Link::Down(None));
        let (head_sender, heads) = watch::channel(None);
        let connection =
            connection::Connection::new(endpoint.clone(), chain_id, client_sender, head_sender);
        (Self { inner: Arc::new(Inner { addresses, endpoint, client, heads }) }, connection)
    }

    /// The node's host, for logs.
    #[must_use]
    pub fn host(&self) -> &str {
        self.inner.endpoint.host()
    }

    /// Why the node is not connected just now; `None` while it is. Asks nobody.
    #[must_use]
    pub fn trouble(&self) -> Option<RpcError> {
        match &*self.inner.client.borrow() {
            connection::Link::Up(_) => None,
            connection::Link::Down(Some(why)) | connection::Link::WrongChain(why) => {
                Some(why.clone())
            }
            connection::Link::Down(None) => Some(self.unavailable("not connected yet")),
        }
    }

    /// Waits for the end of the first attempt to connect.
    pub async fn first_attempt(&self) -> Result<(), RpcError> {
        let mut link = self.inner.client.clone();
        // The connection's task may have ended.
        let _ = link.wait_for(|link| !matches!(link, connection::Link::Down(None))).await;
        self.trouble().map_or(Ok(()), Err)
    }

    fn unavailable(&self, what: impl Into<String>) -> RpcError {
        RpcError::Unavailable { host: self.host().to_owned(), what: what.into() }
    }

    /// One call within [`CALL_DEADLINE`], waiting for the connection if there is none.
    async fn ask<Params: RpcSend + Clone, Answer: RpcRecv>(
        &self,
        method: &'static str,
        params: Params,
    ) -> Result<Answer, RpcError> {
        let asking = async {
            let client = self.client().await?;
            client
                .request::<_, Answer>(method, params)
                .await
                .map_err(|error| self.inner.endpoint.explain(error))
        };
        match timeout(CALL_DEADLINE, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out(method)),
        }
    }

    async fn client(&self) -> Result<RpcClient, RpcError> {
        let mut link = self.inner.client.clone();
        let link = link
            .wait_for(|link| !matches!(link, connection::Link::Down(_)))
            .await
            .map_err(|_| self.unavailable("the connection was shut down"))?;
        match &*link {
            connection::Link::Up(client) => Ok(client.clone()),
            connection::Link::WrongChain(error) => Err(error.clone()),
            connection::Link::Down(_) => Err(self.unavailable("not connected")),
        }
    }

    /// Says why there is no connection, where that is why there is no answer.
    fn timed_out(&self, method: &str) -> RpcError {
        match &*self.inner.client.borrow() {
            connection::Link::Down(Some(why)) => why.clone(),
            connection::Link::Down(None)
            | connection::Link::Up(_)
            | connection::Link::WrongChain(_) => {
                self.unavailable(format!("{method} timed out after {CALL_DEADLINE:?}"))
            }
        }
    }

    fn unreadable(&self, what: impl Into<String>) -> RpcError {
        RpcError::Unreadable { host: self.host().to_owned(), what: what.into() }
    }
}

impl Provider for ArbitrumProvider {
    fn addresses(&self) -> Addresses {
        self.inner.addresses
    }

    fn heads(&self) -> watch::Receiver<Option<Head>> {
        self.inner.heads.clone()
    }

    async fn chain_id(&self) -> Result<u64, RpcError> {
        let id: alloy::primitives::U64 = self.ask("eth_chainId", ()).await?;
        Ok(id.to())
    }

    async fn header(&self, at: At) -> Result<Option<Head>, RpcError> {
        let block: Option<connection::RawHead> = match at {
            At::Hash(hash) => self.ask("eth_getBlockByHash", (hash, false)).await?,
            At::Latest => self.ask("eth_getBlockByNumber", ("latest", false)).await?,
            At::Finalized => self.ask("eth_getBlockByNumber", ("finalized", false)).await?,
            At::Number(number) => {
                self.ask("eth_getBlockByNumber", (format!("{number:#x}"), false)).await?
            }
        };
        Ok(block.map(|raw| raw.into_head(0)))
    }

    async fn logs(
        &self,
        address: Address,
        topics: &[B256],
        range: LogRange,
    ) -> Result<Vec<Event>, RpcError> {
        let filter = Filter::new().address(address).event_signature(topics.to_vec());
        let filter = match range {
            LogRange::Block(hash) => filter.at_block_hash(hash),
            LogRange::Numbers { from, to } => filter.from_block(from).to_block(to),
        };
        let logs: Vec<Log> = self.ask("eth_getLogs", (filter,)).await?;
        let mut events = Vec::with_capacity(logs.len());
        for log in logs {
            // A node may answer more than was asked; only what was asked counts.
            if log.address() != address || log.removed {
                continue;
            }
            if !log.topic0().is_some_and(|topic| topics.contains(topic)) {
                continue;
            }
            let (Some(number), Some(hash), Some(transaction), Some(log_index)) =
                (log.block_number, log.block_hash, log.transaction_hash, log.log_index)
            else {
                return Err(self.unreadable("a log without block or transaction"));
            };
            events.push(Event {
                block: BlockRef { number, hash },
                transaction,
                log_index,
                topics: log.topics().to_vec(),
                data: log.inner.data.data,
            });
        }
        events.sort_by_key(|event| (event.block.number, event.log_index));
        Ok(events)
    }

    async fn call(&self, call: &Call, at: At) -> Result<Bytes, RpcError> {
        let block = match at {
            At::Latest => BlockId::latest(),
            At::Finalized => BlockId::finalized(),
            At::Number(number) => BlockId::number(number),
            At::Hash(hash) => BlockId::hash(hash),
        };
        self.ask("eth_call", (transaction(call), block)).await
    }

    async fn estimate_gas(&self, call: &Call) -> Result<u64, RpcError> {
        let gas: U256 = self.ask("eth_estimateGas", (transaction(call),)).await?;
        u64::try_from(gas).map_err(|_| self.unreadable("a gas estimate beyond 64 bits"))
    }

    async fn code_size(&self, address: Address) -> Result<usize, RpcError> {
        let code: Bytes = self.ask("eth_getCode", (address, "latest")).await?;
        Ok(code.len())
    }

    async fn balance(&self, address: Address) -> Result<U256, RpcError> {
        self.ask("eth_getBalance", (address, "latest")).await
    }

    async fn transaction_count(&self, address: Address) -> Result<u64, RpcError> {
        let count: alloy::primitives::U64 =
            self.ask("eth_getTransactionCount", (address, "latest")).await?;
        Ok(count.to())
    }

    async fn priority_fee(&self) -> Result<u128, RpcError> {
        let fee: U256 = self.ask("eth_maxPriorityFeePerGas", ()).await?;
        u128::try_from(fee).map_err(|_| self.unreadable("a priority fee beyond 128 bits"))
    }

    async fn send_raw_transaction(&self, raw: &Bytes) -> Result<B256, RpcError> {
        self.ask("eth_sendRawTransaction", (raw.clone(),)).await
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let asking = async {
            let client = self.client().await?;
            let mut batch = client.new_batch();
            let mut waiters = Vec::with_capacity(hashes.len());
            for hash in hashes {
                let waiter = batch
                    .add_call::<_, Option<TransactionReceipt>>(
                        "eth_getTransactionReceipt",
                        &(*hash,),
                    )
                    .map_err(|error| self.inner.endpoint.explain(error))?;
                waiters.push(waiter);
            }
            batch.send().await.map_err(|error| self.inner.endpoint.explain(error))?;
            let mut receipts = Vec::with_capacity(hashes.len());
            for (waiter, hash) in waiters.into_iter().zip(hashes) {
                let receipt = match waiter.await {
                    Ok(receipt) => receipt,
                    // "Indexing in progress" and its like: no receipt yet.
                    Err(AlloyError::ErrorResp(packet))
                        if quirks::refusal(packet.code, &packet.message)
                            != quirks::Refusal::Busy =>
                    {
                        None
                    }
                    Err(error) => return Err(self.inner.endpoint.explain(error)),
                };
                receipts.push(receipt.and_then(|receipt| {
                    let (number, block) = (receipt.block_number?, receipt.block_hash?);
                    (receipt.transaction_hash == *hash).then(|| Receipt {
                        hash: *hash,
                        block: BlockRef { number, hash: block },
                        success: receipt.status(),
                        gas_used: receipt.gas_used,
                    })
                }));
            }
            Ok(receipts)
        };
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        match timeout(CALL_DEADLINE, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out("eth_getTransactionReceipt")),
        }
    }
}

fn transaction(call: &Call) -> serde_json::Value {
    match call.from {
        Some(from) => json!({ "from": from, "to": call.to, "data": call.data }),
        None => json!({ "to": call.to, "data": call.data }),
    }
}
