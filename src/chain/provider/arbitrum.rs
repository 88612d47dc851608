//! The real provider: an Arbitrum (or any Ethereum JSON-RPC) chain behind one or several endpoints.
//! Connections, and the choice of the endpoint to read from, are in [`super::endpoint_pool`].

mod failover;
mod range;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

use self::range::{HEADER, LOGS, RawRange, fetch_range};
use super::{
    CALL_DEADLINE, batch,
    client::Client,
    endpoint::Endpoint,
    endpoint_pool,
    head::RawHead,
    node_handle::NodeHandle,
    parameters::{block_parameter, call_parameter, filter_parameter},
    raw::{RawLog, RawReceipt},
};
use crate::{
    chain::{
        reader::{
            Attributed, BlockId, ChainReader, EmittedLog, EthCall, Head, LogFilter, LogRange,
            LogSource, NodeId, NodeSets, RangeLogs, ReadAt, Receipt, StateRead, Transaction,
        },
        rpc_error::RpcError,
        sender::{Acceptance, TransactionSender},
    },
    dice::Dice,
    domain::{Address, B256, BlockRef, Bytes, Event, U256, UntrustedText},
    telemetry::metrics::Metrics,
};

/// Upper bound of a plausible transaction count: a million transactions a second for two centuries.
const MOST_TRANSACTIONS: u64 = 1 << 53;
const RECEIPT: &str = "eth_getTransactionReceipt";

/// A provider for an Arbitrum (or any Ethereum JSON-RPC) chain behind one or several URLs.
#[derive(Clone, Debug)]
pub struct ArbitrumProvider {
    pub(super) inner: Arc<Inner>,
    pub(super) metrics: Metrics,
    /// The only node that is asked. `None`: the one to read from, with failover.
    pub(super) only: Option<NodeId>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) hosts: String,
    pub(super) shared: endpoint_pool::EndpointPool,
}

impl ArbitrumProvider {
    /// Creates a provider and the tasks that keep it connected; the caller runs them. `endpoints`: at
    /// least one, in order of preference for reading.
    #[must_use]
    pub fn new(
        chain_id: u64,
        endpoints: Vec<Endpoint>,
        metrics: Metrics,
        dice: &Dice,
    ) -> (Self, endpoint_pool::Connections) {
        let hosts: Vec<&str> = endpoints.iter().map(Endpoint::host).collect();
        let hosts = hosts.join(", ");
        let (shared, connections) = endpoint_pool::build(endpoints, chain_id, dice);
        let inner = Arc::new(Inner { hosts, shared });
        (Self { inner, metrics, only: None }, connections)
    }

    pub(super) fn nodes(&self) -> &[NodeHandle] {
        &self.inner.shared.nodes
    }

    /// Why the node refuses batches. `None`: it accepts them, or never gets any.
    pub async fn batch_refusal(&self) -> Result<Option<RpcError>, RpcError> {
        self.with_client(
            "eth_chainId",
            |client, _| async move { batch::batch_refusal(&client).await },
        )
        .await
    }

    pub(super) fn unavailable(&self, what: impl Into<UntrustedText>) -> RpcError {
        RpcError::Unavailable { host: self.hosts().to_owned(), what: what.into() }
    }

    /// One call within [`CALL_DEADLINE`]; waits for a connection if there is none.
    pub(super) async fn rpc<Answer: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Answer, RpcError> {
        self.rpc_attributed(method, params).await.map(|told| told.value)
    }

    /// Asks the endpoint that is read from, then the next ones if it does not answer. A rate-limiting
    /// endpoint is skipped; if there is no other one, it is asked again later.
    async fn with_client<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(Client, NodeHandle) -> Asking,
    ) -> Result<Answer, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        self.with_client_attributed(method, ask).await.map(|told| told.value)
    }

    /// The same, with the node that answered.
    pub(super) async fn with_client_attributed<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(Client, NodeHandle) -> Asking,
    ) -> Result<Attributed<Answer>, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        let answered = self.try_nodes_in_order(method, ask).await;
        self.count_call(method, &answered);
        answered
    }

    /// One call, with the node that answered.
    pub(super) async fn rpc_attributed<Answer: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Attributed<Answer>, RpcError> {
        self.with_client_attributed(method, |client, _| {
            let params = params.clone();
            async move { client.call(method, &params).await }
        })
        .await
    }

    /// Counts one call, however many endpoints it took.
    fn count_call<T>(&self, method: &'static str, answered: &Result<T, RpcError>) {
        let code = answered.as_ref().map_or_else(RpcError::code, |_| "ok");
        self.metrics.rpc_call(method, code);
    }

    pub(super) fn unreadable(&self, what: impl Into<UntrustedText>) -> RpcError {
        RpcError::Unreadable { host: self.hosts().to_owned(), what: what.into() }
    }
}

impl ChainReader for ArbitrumProvider {
    fn node_sets(&self) -> NodeSets {
        let usable = self.inner.shared.usable.get();
        let others = usable.advancing.iter().filter(|node| !usable.order.contains(node));
        let sound = usable.order.iter().chain(others);
        let voters = self.nodes().iter().enumerate().filter(|(_, node)| !node.is_of_other_chain());
        NodeSets {
            sound: sound.copied().map(NodeId).collect(),
            advancing: usable.advancing.iter().copied().map(NodeId).collect(),
            voters: voters.map(|(index, _)| NodeId(index)).collect(),
            count: self.nodes().len(),
        }
    }

    fn for_node(&self, node: NodeId) -> Self {
        Self { only: Some(node), ..self.clone() }
    }

    fn host(&self, NodeId(node): NodeId) -> String {
        self.nodes().get(node).map_or("?", |node| node.endpoint.host()).to_owned()
    }

    fn heads(&self) -> watch::Receiver<Option<Head>> {
        match self.only.and_then(|NodeId(only)| self.nodes().get(only)) {
            Some(node) => node.heads.clone(),
            None => self.inner.shared.heads.subscribe(),
        }
    }

    async fn header(&self, at: BlockId) -> Result<Option<Head>, RpcError> {
        let (method, block) = match at {
            BlockId::Hash(hash) => ("eth_getBlockByHash", json!(hash)),
            BlockId::Latest | BlockId::Safe | BlockId::Finalized | BlockId::Number(_) => {
                (HEADER, block_parameter(at))
            }
        };
        let reply: Attributed<Option<RawHead>> =
            self.rpc_attributed(method, json!([block, false])).await?;
        Ok(reply.value.map(|raw| raw.into_head(0, reply.node)))
    }

    async fn logs(
        &self,
        filter: LogFilter<'_>,
        range: LogRange,
    ) -> Result<Attributed<Vec<Event>>, RpcError> {
        let reply: Attributed<Vec<RawLog>> =
            self.rpc_attributed(LOGS, filter_parameter(filter, range)).await?;
        reply.and_then(|logs| self.matching_events(logs, filter, range))
    }

    async fn block_logs(
        &self,
        block: B256,
        way: LogSource,
    ) -> Result<Attributed<Vec<EmittedLog>>, RpcError> {
        self.fetch_block_logs(block, way).await
    }

    async fn receipt_logs(&self, transaction: B256) -> Result<Option<Vec<EmittedLog>>, RpcError> {
        self.fetch_receipt_logs(transaction).await
    }

    async fn block_transactions(&self, block: B256) -> Result<Option<Vec<B256>>, RpcError> {
        self.fetch_block_transactions(block).await
    }

    async fn logs_between(
        &self,
        filter: LogFilter<'_>,
        from: u64,
        to: u64,
    ) -> Result<RangeLogs, RpcError> {
        let logs_of = filter_parameter(filter, LogRange::Numbers { from, to });
        let Attributed { node: by, value: RawRange { first, last, logs } } = self
            .with_client_attributed(LOGS, |client, node| {
                let logs_of = logs_of.clone();
                async move { fetch_range(&client, &node, logs_of, from, to).await }
            })
            .await?;
        let head = |raw: Option<RawHead>| raw.map(|raw| raw.into_head(0, by));
        let events = self.matching_events(logs, filter, LogRange::Numbers { from, to })?;
        Ok(RangeLogs { first_head: head(first), last_head: head(last), events, node: by })
    }

    async fn call(&self, call: &EthCall, at: BlockId) -> Result<Bytes, RpcError> {
        self.rpc("eth_call", json!([call_parameter(call), block_parameter(at)])).await
    }

    async fn calls(
        &self,
        calls: &[EthCall],
        at: BlockId,
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        self.fetch_calls(calls, at).await
    }

    async fn read_state(
        &self,
        block: BlockRef,
        reads: &[(StateRead, ReadAt)],
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        self.fetch_state(block, reads).await
    }

    async fn transaction(&self, hash: B256) -> Result<Option<Transaction>, RpcError> {
        self.fetch_transaction(hash).await
    }

    async fn senders(&self, transactions: &[B256]) -> Result<Vec<Option<Address>>, RpcError> {
        self.fetch_senders(transactions).await
    }

    async fn transaction_counts_at(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Option<u64>>, RpcError> {
        self.fetch_transaction_counts(sender, blocks).await
    }

    async fn transactions_from(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Transaction>, RpcError> {
        self.fetch_transactions(sender, blocks).await
    }

    async fn code_size(&self, address: Address) -> Result<usize, RpcError> {
        let code: Bytes = self.rpc("eth_getCode", json!([address, "latest"])).await?;
        Ok(code.len())
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let mut found: Vec<Option<Receipt>> = vec![None; hashes.len()];
        // Receipts that one node encodes unreadably are asked of the next one.
        let mut wanted: Vec<usize> = (0..hashes.len()).collect();
        let mut asked = self.clone();
        while !wanted.is_empty() {
            let these: Vec<B256> = wanted.iter().map(|place| hashes[*place]).collect();
            let Attributed { node: by, value: answer } = asked.fetch_receipts(&these).await?;
            let answers = wanted.iter().copied().zip(answer);
            let (read, odd): (Vec<_>, Vec<_>) = answers.partition(|(_, answer)| answer.is_ok());
            for (place, receipt) in read {
                found[place] = receipt.ok().flatten();
            }
            for error in odd.iter().filter_map(|(_, answer)| answer.as_ref().err()) {
                self.metrics.rpc_call(RECEIPT, error.code());
                if let Some(times) = self.nodes()[by.0].should_log("receipt_unreadable") {
                    warn!(%error, times, "a receipt cannot be read");
                }
            }
            wanted = odd.iter().map(|(place, _)| *place).collect();
            let mut others = self.sound_nodes().into_iter().skip_while(|node| *node != by);
            match others.nth(1).filter(|_| self.only.is_none()) {
                Some(next) => asked = self.for_node(next),
                None => break,
            }
        }
        Ok(found)
    }
}

impl TransactionSender for ArbitrumProvider {
    async fn estimate_gas(&self, call: &EthCall) -> Result<u64, RpcError> {
        let gas: U256 = self.rpc("eth_estimateGas", json!([call_parameter(call)])).await?;
        u64::try_from(gas).map_err(|_| self.unreadable("a gas estimate beyond 64 bits"))
    }

    async fn balance(&self, address: Address) -> Result<U256, RpcError> {
        self.rpc("eth_getBalance", json!([address, "latest"])).await
    }

    async fn transaction_count(&self, address: Address, at: BlockId) -> Result<u64, RpcError> {
        let asked = json!([address, block_parameter(at)]);
        let count: U256 = self.rpc("eth_getTransactionCount", asked).await?;
        let count = u64::try_from(count).ok().filter(|count| *count <= MOST_TRANSACTIONS);
        count.ok_or_else(|| self.unreadable("a transaction count that no wallet reaches"))
    }

    async fn priority_fee(&self) -> Result<u128, RpcError> {
        let fee: U256 = self.rpc("eth_maxPriorityFeePerGas", json!([])).await?;
        u128::try_from(fee).map_err(|_| self.unreadable("a priority fee beyond 128 bits"))
    }

    async fn send(&self, raw: &Bytes, waits: bool) -> Result<Acceptance, RpcError> {
        let method = if waits { "eth_sendRawTransactionSync" } else { "eth_sendRawTransaction" };
        let sent = match timeout(CALL_DEADLINE, self.send_to_all(raw, waits)).await {
            Ok(sent) => sent,
            Err(_) => Err(self.timeout_error(method)),
        };
        self.count_call(method, &sent);
        sent
    }
}

impl ArbitrumProvider {
    /// The chain id that the nodes report.
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        let id: alloy::primitives::U64 = self.rpc("eth_chainId", json!([])).await?;
        Ok(id.to())
    }

    /// Each receipt from one node: `None` if it has none, an error if it is unreadable.
    async fn fetch_receipts(
        &self,
        hashes: &[B256],
    ) -> Result<Attributed<Vec<Result<Option<Receipt>, RpcError>>>, RpcError> {
        let calls: Vec<batch::RpcCall> =
            hashes.iter().map(|hash| (RECEIPT, json!([hash]))).collect();
        self.with_client_attributed(RECEIPT, |client, node| {
            let calls = &calls;
            async move {
                let replies = batch::call_each(&client, &node.batches, calls).await?;
                if let Some(busy) = replies
                    .iter()
                    .filter_map(|said| said.as_ref().err())
                    .find(|error| error.is_busy())
                {
                    return Err(busy.clone());
                }
                let read = replies.into_iter().zip(hashes).map(|(said, hash)| {
                    let raw = match said {
                        Ok(raw) => client.endpoint().parse::<Option<RawReceipt>>(&raw),
                        // "Indexing in progress" and similar: no receipt yet.
                        Err(RpcError::Refused { .. }) => Ok(None),
                        Err(error) => Err(error),
                    };
                    let receipt = raw?.and_then(RawReceipt::into_receipt);
                    Ok(receipt.filter(|receipt| receipt.hash == *hash))
                });
                Ok(read.collect())
            }
        })
        .await
    }

    /// Filters a node's answer and sorts it in chain order.
    pub(super) fn matching_events(
        &self,
        logs: Vec<RawLog>,
        filter: LogFilter<'_>,
        range: LogRange,
    ) -> Result<Vec<Event>, RpcError> {
        let LogFilter { addresses, topic0: _, topic1: second } = filter;
        let mut events = Vec::with_capacity(logs.len());
        for log in logs {
            // A node may return more than was asked.
            if !addresses.contains(&log.address) || log.is_removed() {
                continue;
            }
            if !filter.wants(log.topic0()) {
                continue;
            }
            let event = self.event_of(log)?;
            let is_of = |topic| second.contains(topic);
            if !second.is_empty() && !event.topics.get(1).is_some_and(is_of) {
                continue;
            }
            let asked = match range {
                LogRange::Block(hash) => event.block.hash == hash,
                LogRange::Numbers { from, to } => (from..=to).contains(&event.block.number),
            };
            // It must not be skipped: it may be a log of ours with a wrong block number.
            if !asked {
                return Err(self.unreadable("a log of another block than those asked for"));
            }
            events.push(event);
        }
        events.sort_by_key(|event| (event.block.number, event.log_index));
        Ok(events)
    }

    pub(super) fn event_of(&self, log: RawLog) -> Result<Event, RpcError> {
        log.into_event().ok_or_else(|| self.unreadable("a log without block or transaction"))
    }
}
