//! The real provider: an Arbitrum (or any Ethereum JSON-RPC) chain behind one endpoint or several.
//! How each is kept connected and which is read from is decided elsewhere ([`super::endpoints`]).

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
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Addresses, At, CALL_DEADLINE, Call, Emitted, Head, LogRange, NodeId, Provider, Range, Receipt,
    RpcError, Sent, Told, Way, connection, endpoints, quirks,
};
use crate::{
    domain::{Address, B256, BlockRef, Bytes, Event, OutsideText, U256},
    metrics::Metrics,
};

/// How long one endpoint may take of a call's deadline while another could be asked.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);

/// The provider of an Arbitrum (or any Ethereum JSON-RPC) chain behind one URL or several.
#[derive(Clone, Debug)]
pub struct ArbitrumProvider {
    pub(super) inner: Arc<Inner>,
    pub(super) metrics: Metrics,
    /// The one node that is asked. `None`: whichever is to be read from.
    pub(super) only: Option<NodeId>,
}

#[derive(Debug)]
pub(super) struct Inner {
    addresses: Addresses,
    hosts: String,
    pub(super) shared: endpoints::Shared,
}

impl ArbitrumProvider {
    /// A provider and the tasks that keep it connected. The owner runs them. `endpoints` in the
    /// order in which they are to be read from; at least one.
    #[must_use]
    pub fn new(
        addresses: Addresses,
        chain_id: u64,
        endpoints: Vec<connection::Endpoint>,
    ) -> (Self, endpoints::Connections) {
        let hosts: Vec<&str> = endpoints.iter().map(connection::Endpoint::host).collect();
        let hosts = hosts.join(", ");
        let (shared, connections) = endpoints::prepare(endpoints, chain_id);
        let inner = Arc::new(Inner { addresses, hosts, shared });
        (Self { inner, metrics: Metrics::default(), only: None }, connections)
    }

    /// Counts there, as do the clones made from now on.
    #[must_use]
    pub fn counting(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Each node's host, whether it may be called, and its newest block.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, bool, Option<u64>)> {
        self.nodes().iter().map(endpoints::Node::health)
    }

    /// The hosts of all nodes, for logs.
    #[must_use]
    pub fn hosts(&self) -> &str {
        &self.inner.hosts
    }

    pub(super) fn nodes(&self) -> &[endpoints::Node] {
        &self.inner.shared.nodes
    }

    /// Why no node is connected just now; `None` while one is. Asks nobody.
    #[must_use]
    pub fn trouble(&self) -> Option<RpcError> {
        let mut troubles = Vec::new();
        for node in self.nodes() {
            match &*node.link.borrow() {
                connection::Link::Up(_) => return None,
                connection::Link::Down(Some(why)) | connection::Link::WrongChain(why) => {
                    troubles.push(why.clone());
                }
                connection::Link::Down(None) => {
                    let host = node.endpoint.host().to_owned();
                    let what = "not connected yet".to_owned();
                    troubles.push(RpcError::Unavailable { host, what: what.into() });
                }
            }
        }
        let all_wrong =
            troubles.iter().all(|trouble| matches!(trouble, RpcError::WrongChain { .. }));
        if troubles.len() == 1 || all_wrong {
            return troubles.into_iter().next();
        }
        let each: Vec<String> = troubles.iter().map(ToString::to_string).collect();
        Some(self.unavailable(each.join("; ")))
    }

    /// Waits until a node is connected, or each has been tried once.
    pub async fn first_attempt(&self) -> Result<(), RpcError> {
        let tried = self.nodes().iter().map(|node| {
            let mut link = node.link.clone();
            async move {
                // The connection's task may have ended.
                let _ = link.wait_for(|link| !matches!(link, connection::Link::Down(None))).await;
            }
        });
        let mut tried: FuturesUnordered<_> = tried.collect();
        while tried.next().await.is_some() {
            if self.trouble().is_none() {
                break;
            }
        }
        self.trouble().map_or(Ok(()), Err)
    }

    /// The newest block's number and time (Unix seconds): for a check of clocks.
    pub async fn newest(&self) -> Result<(u64, u64), RpcError> {
        let newest = self.tagged("latest").await?;
        newest.ok_or_else(|| self.unreadable("no newest block"))
    }

    /// The same of the block that a tag names; `None`: the node does not tell.
    pub async fn tagged(&self, tag: &'static str) -> Result<Option<(u64, u64)>, RpcError> {
        let block: Option<Stamp> = self.ask("eth_getBlockByNumber", (tag, false)).await?;
        Ok(block.map(|block| (block.number.to(), block.timestamp.to())))
    }

    pub(super) fn unavailable(&self, what: impl Into<OutsideText>) -> RpcError {
        RpcError::Unavailable { host: self.hosts().to_owned(), what: what.into() }
    }

    /// One call within [`CALL_DEADLINE`], waiting for a connection if there is none.
    async fn ask<Params: RpcSend + Clone, Answer: RpcRecv>(
        &self,
        method: &'static str,
        params: Params,
    ) -> Result<Answer, RpcError> {
        self.told(method, params).await.map(|told| told.answer)
    }

    /// Asks the endpoint that is read from; where it does not answer, the next one.
    async fn ask_by<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(RpcClient, Arc<connection::Endpoint>) -> Asking,
    ) -> Result<Answer, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        self.told_by(method, ask).await.map(|told| told.answer)
    }

    /// The same, and which endpoint answered.
    pub(super) async fn told_by<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(RpcClient, Arc<connection::Endpoint>) -> Asking,
    ) -> Result<Told<Answer>, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        let answered = self.ask_in_turn(method, ask).await;
        self.count(method, &answered);
        answered
    }

    /// One call, and which endpoint answered.
    pub(super) async fn told<Params: RpcSend + Clone, Answer: RpcRecv>(
        &self,
        method: &'static str,
        params: Params,
    ) -> Result<Told<Answer>, RpcError> {
        self.told_by(method, |client, endpoint| {
            let asking = client.request::<_, Answer>(method, params.clone());
            async move { asking.await.map_err(|error| endpoint.explain(error)) }
        })
        .await
    }

    /// However many endpoints it took, it is one call.
    fn count<T>(&self, method: &'static str, answered: &Result<T, RpcError>) {
        let word = answered.as_ref().map_or_else(RpcError::word, |_| "ok");
        self.metrics.rpc_call(method, word);
    }

    async fn ask_in_turn<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(RpcClient, Arc<connection::Endpoint>) -> Asking,
    ) -> Result<Told<Answer>, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut tried: Vec<usize> = Vec::new();
        let mut failed = None;
        loop {
            let order = match &failed {
                None => match timeout_at(deadline, self.usable()).await {
                    Ok(usable) => usable?,
                    Err(_) => return Err(self.timed_out(method)),
                },
                Some(_) if self.only.is_some() => Arc::default(),
                Some(_) => self.inner.shared.usable.borrow().order.clone(),
            };
            let left: Vec<usize> =
                order.iter().copied().filter(|index| !tried.contains(index)).collect();
            let Some(index) = left.first().copied() else {
                return Err(failed.unwrap_or_else(|| self.timed_out(method)));
            };
            tried.push(index);
            let Some(node) = self.nodes().get(index) else { continue };
            let Some(client) = client_of(node) else {
                failed.get_or_insert_with(|| lost(node));
                continue;
            };
            let until = match left.len() {
                1 => deadline,
                _ => deadline.min(Instant::now() + ATTEMPT_DEADLINE),
            };
            let asking = ask(client, node.endpoint.clone());
            let error = match timeout_at(until, asking).await {
                Ok(Ok(answer)) => {
                    node.answered();
                    return Ok(Told { by: NodeId(index), answer });
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let host = node.endpoint.host().to_owned();
                    RpcError::Unavailable { host, what: format!("{method} timed out").into() }
                }
            };
            match &error {
                RpcError::Unavailable { .. } => node.left_unanswered(),
                RpcError::Refused { code, message, .. } => {
                    node.answered();
                    // Its answer, and nobody else's would be another one.
                    if !quirks::is_about_node(*code, message) {
                        return Err(error);
                    }
                }
                RpcError::WrongChain { .. } | RpcError::Unreadable { .. } => {}
            }
            // The first one's word counts, unless it did not answer.
            match failed {
                Some(RpcError::Unavailable { .. }) | None => failed = Some(error),
                Some(_) => {}
            }
        }
    }

    /// The endpoints calls may be made of, once there is one.
    pub(super) async fn usable(&self) -> Result<Arc<[usize]>, RpcError> {
        if let Some(NodeId(only)) = self.only {
            return Ok(Arc::new([only]));
        }
        let mut usable = self.inner.shared.usable.clone();
        let usable = usable
            .wait_for(|usable| !usable.order.is_empty() || usable.wrong_chain.is_some())
            .await
            .map_err(|_| self.unavailable("the connection was shut down"))?;
        match &usable.wrong_chain {
            Some(error) => Err(error.clone()),
            None => Ok(usable.order.clone()),
        }
    }

    /// Says why there is no connection, where that is why there is no answer.
    fn timed_out(&self, method: &str) -> RpcError {
        self.trouble().unwrap_or_else(|| {
            self.unavailable(format!("{method} timed out after {CALL_DEADLINE:?}"))
        })
    }

    pub(super) fn unreadable(&self, what: impl Into<OutsideText>) -> RpcError {
        RpcError::Unreadable { host: self.hosts().to_owned(), what: what.into() }
    }
}

/// When a block was made.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
struct Stamp {
    number: alloy::primitives::U64,
    timestamp: alloy::primitives::U64,
}

pub(super) fn client_of(node: &endpoints::Node) -> Option<RpcClient> {
    match &*node.link.borrow() {
        connection::Link::Up(client) => Some(client.clone()),
        connection::Link::Down(_) | connection::Link::WrongChain(_) => None,
    }
}

fn lost(node: &endpoints::Node) -> RpcError {
    match &*node.link.borrow() {
        connection::Link::Down(Some(why)) | connection::Link::WrongChain(why) => why.clone(),
        connection::Link::Down(None) | connection::Link::Up(_) => RpcError::Unavailable {
            host: node.endpoint.host().to_owned(),
            what: "not connected".into(),
        },
    }
}

impl Provider for ArbitrumProvider {
    fn addresses(&self) -> Addresses {
        self.inner.addresses
    }

    fn sound_nodes(&self) -> Vec<NodeId> {
        self.inner.shared.usable.borrow().order.iter().copied().map(NodeId).collect()
    }

    fn only(&self, node: NodeId) -> Self {
        Self { only: Some(node), ..self.clone() }
    }

    fn host(&self, NodeId(node): NodeId) -> String {
        self.nodes().get(node).map_or("?", |node| node.endpoint.host()).to_owned()
    }

    fn heads(&self) -> watch::Receiver<Option<Head>> {
        self.inner.shared.heads.clone()
    }

    async fn chain_id(&self) -> Result<u64, RpcError> {
        let id: alloy::primitives::U64 = self.ask("eth_chainId", ()).await?;
        Ok(id.to())
    }

    async fn header(&self, at: At) -> Result<Option<Head>, RpcError> {
        const BY_NUMBER: &str = "eth_getBlockByNumber";
        let told: Told<Option<connection::RawHead>> = match at {
            At::Hash(hash) => self.told("eth_getBlockByHash", (hash, false)).await?,
            At::Latest => self.told(BY_NUMBER, ("latest", false)).await?,
            At::Safe => self.told(BY_NUMBER, ("safe", false)).await?,
            At::Finalized => self.told(BY_NUMBER, ("finalized", false)).await?,
            At::Number(number) => self.told(BY_NUMBER, (hex(number), false)).await?,
        };
        Ok(told.answer.map(|raw| raw.into_head(0, told.by)))
    }

    async fn logs(
        &self,
        address: Address,
        topics: &[B256],
        range: LogRange,
    ) -> Result<Told<Vec<Event>>, RpcError> {
        let filter = match range {
            LogRange::Block(hash) => filter(address, topics).at_block_hash(hash),
            LogRange::Numbers { from, to } => filter(address, topics).from_block(from).to_block(to),
        };
        let told: Told<Vec<Log>> = self.told("eth_getLogs", (filter,)).await?;
        told.and_then(|logs| self.events(logs, address, topics))
    }

    async fn block_logs(&self, block: B256, way: Way) -> Result<Told<Vec<Emitted>>, RpcError> {
        self.all_logs(block, way).await
    }

    async fn logs_between(
        &self,
        address: Address,
        topics: &[B256],
        from: u64,
        to: u64,
    ) -> Result<Range, RpcError> {
        let filter = filter(address, topics).from_block(from).to_block(to);
        let Told { by, answer: (logs, first, last) } = self
            .told_by("eth_getLogs", |client, endpoint| {
                let filter = filter.clone();
                async move {
                    let explain = |error| endpoint.explain(error);
                    let mut batch = client.new_batch();
                    let header = "eth_getBlockByNumber";
                    let first = batch
                        .add_call::<_, Option<connection::RawHead>>(header, &(hex(from), false))
                        .map_err(explain)?;
                    let logs = batch
                        .add_call::<_, Vec<Log>>("eth_getLogs", &(filter,))
                        .map_err(explain)?;
                    let last = batch
                        .add_call::<_, Option<connection::RawHead>>(header, &(hex(to), false))
                        .map_err(explain)?;
                    batch.send().await.map_err(explain)?;
                    Ok((
                        logs.await.map_err(explain)?,
                        first.await.map_err(explain)?,
                        last.await.map_err(explain)?,
                    ))
                }
            })
            .await?;
        let head = |raw: Option<connection::RawHead>| raw.map(|raw| raw.into_head(0, by));
        let events = self.events(logs, address, topics)?;
        Ok(Range { first: head(first), last: head(last), events, by })
    }

    async fn call(&self, call: &Call, at: At) -> Result<Bytes, RpcError> {
        let block = match at {
            At::Latest => BlockId::latest(),
            At::Safe => BlockId::safe(),
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
        const METHOD: &str = "eth_sendRawTransaction";
        let sent = match timeout(CALL_DEADLINE, self.send_to_all(raw, false)).await {
            Ok(sent) => sent.map(|_| alloy::primitives::keccak256(raw)),
            Err(_) => Err(self.timed_out(METHOD)),
        };
        self.count(METHOD, &sent);
        sent
    }

    async fn send_raw_transaction_sync(&self, raw: &Bytes) -> Result<Sent, RpcError> {
        const METHOD: &str = "eth_sendRawTransactionSync";
        let sent = match timeout(CALL_DEADLINE, self.send_to_all(raw, true)).await {
            Ok(sent) => sent,
            Err(_) => Err(self.timed_out(METHOD)),
        };
        self.count(METHOD, &sent);
        sent
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        self.ask_by("eth_getTransactionReceipt", |client, endpoint| {
            let hashes = hashes.to_vec();
            async move { receipts(&client, &endpoint, &hashes).await }
        })
        .await
    }
}

impl ArbitrumProvider {
    /// What was asked for of what a node answered, in chain order.
    fn events(
        &self,
        logs: Vec<Log>,
        address: Address,
        topics: &[B256],
    ) -> Result<Vec<Event>, RpcError> {
        let mut events = Vec::with_capacity(logs.len());
        for log in logs {
            // A node may answer more than was asked; only what was asked counts.
            if log.address() != address || log.removed {
                continue;
            }
            if !log.topic0().is_some_and(|topic| topics.contains(topic)) {
                continue;
            }
            events.push(self.event(log)?);
        }
        events.sort_by_key(|event| (event.block.number, event.log_index));
        Ok(events)
    }

    pub(super) fn event(&self, log: Log) -> Result<Event, RpcError> {
        let (Some(number), Some(hash), Some(transaction), Some(log_index)) =
            (log.block_number, log.block_hash, log.transaction_hash, log.log_index)
        else {
            return Err(self.unreadable("a log without block or transaction"));
        };
        Ok(Event {
            block: BlockRef { number, hash },
            transaction,
            log_index,
            topics: log.topics().to_vec(),
            data: log.inner.data.data,
        })
    }
}

fn filter(address: Address, topics: &[B256]) -> Filter {
    Filter::new().address(address).event_signature(topics.to_vec())
}

pub(super) fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// All in one message.
async fn receipts(
    client: &RpcClient,
    endpoint: &connection::Endpoint,
    hashes: &[B256],
) -> Result<Vec<Option<Receipt>>, RpcError> {
    let explain = |error| endpoint.explain(error);
    let mut batch = client.new_batch();
    let mut waiters = Vec::with_capacity(hashes.len());
    for hash in hashes {
        let method = "eth_getTransactionReceipt";
        let waiter = batch.add_call::<_, Option<TransactionReceipt>>(method, &(*hash,));
        waiters.push(waiter.map_err(explain)?);
    }
    batch.send().await.map_err(explain)?;
    let mut receipts = Vec::with_capacity(hashes.len());
    for (waiter, hash) in waiters.into_iter().zip(hashes) {
        let receipt = match waiter.await {
            Ok(receipt) => receipt,
            // "Indexing in progress" and its like: no receipt yet.
            Err(AlloyError::ErrorResp(packet))
                if quirks::refusal(packet.code, &packet.message) != quirks::Refusal::Busy =>
            {
                None
            }
            Err(error) => return Err(explain(error)),
        };
        receipts
            .push(receipt.as_ref().and_then(read_receipt).filter(|receipt| receipt.hash == *hash));
    }
    Ok(receipts)
}

/// `None`: of a block that is not made yet.
pub(super) fn read_receipt(receipt: &TransactionReceipt) -> Option<Receipt> {
    Some(Receipt {
        hash: receipt.transaction_hash,
        block: BlockRef { number: receipt.block_number?, hash: receipt.block_hash? },
        success: receipt.status(),
        gas_used: receipt.gas_used,
        gas_price: receipt.effective_gas_price,
    })
}

fn transaction(call: &Call) -> serde_json::Value {
    match call.from {
        Some(from) => json!({ "from": from, "to": call.to, "data": call.data }),
        None => json!({ "to": call.to, "data": call.data }),
    }
}
