//! The real provider: an Arbitrum (or any Ethereum JSON-RPC) chain behind one or several endpoints.
//! Connections, and the choice of the endpoint to read from, are in [`super::endpoints`].

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::warn;

use super::{
    At, CALL_DEADLINE, Call, ChainReader, Emitted, Filter, Head, LogRange, NodeId, Range, Receipt,
    RpcError, Sent, Standing, Told, Transaction, TransactionSender, Way, batches,
    client::Client,
    connection,
    endpoint::Endpoint,
    endpoints::{self, ATTEMPT_DEADLINE},
    head::RawHead,
    quirks,
    raw::{RawLog, RawReceipt},
};
use crate::{
    dice::Dice,
    domain::{Address, B256, Bytes, Event, OutsideText, U256},
    metrics::Metrics,
};

/// Upper bound of a plausible transaction count: a million transactions a second for two centuries.
const MOST_TRANSACTIONS: u64 = 1 << 53;
const HEADER: &str = "eth_getBlockByNumber";
const LOGS: &str = "eth_getLogs";
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
    pub(super) shared: endpoints::Shared,
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
    ) -> (Self, endpoints::Connections) {
        let hosts: Vec<&str> = endpoints.iter().map(Endpoint::host).collect();
        let hosts = hosts.join(", ");
        let (shared, connections) = endpoints::prepare(endpoints, chain_id, dice);
        let inner = Arc::new(Inner { hosts, shared });
        (Self { inner, metrics, only: None }, connections)
    }

    pub(super) fn nodes(&self) -> &[endpoints::Node] {
        &self.inner.shared.nodes
    }

    /// Why the node refuses batches. `None`: it accepts them, or never gets any.
    pub async fn refuses_arrays(&self) -> Result<Option<RpcError>, RpcError> {
        self.ask_by("eth_chainId", |client, _| async move { batches::refusal(&client).await }).await
    }

    pub(super) fn unavailable(&self, what: impl Into<OutsideText>) -> RpcError {
        RpcError::Unavailable { host: self.hosts().to_owned(), what: what.into() }
    }

    /// One call within [`CALL_DEADLINE`]; waits for a connection if there is none.
    pub(super) async fn ask<Answer: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Answer, RpcError> {
        self.told(method, params).await.map(|told| told.answer)
    }

    /// Asks the endpoint that is read from, then the next ones if it does not answer. A rate-limiting
    /// endpoint is skipped; if there is no other one, it is asked again later.
    async fn ask_by<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(Client, endpoints::Node) -> Asking,
    ) -> Result<Answer, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        self.told_by(method, ask).await.map(|told| told.answer)
    }

    /// The same, with the node that answered.
    pub(super) async fn told_by<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(Client, endpoints::Node) -> Asking,
    ) -> Result<Told<Answer>, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        let answered = self.ask_in_turn(method, ask).await;
        self.count(method, &answered);
        answered
    }

    /// One call, with the node that answered.
    pub(super) async fn told<Answer: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Told<Answer>, RpcError> {
        self.told_by(method, |client, _| {
            let params = params.clone();
            async move { client.ask(method, &params).await }
        })
        .await
    }

    /// Counts one call, however many endpoints it took.
    fn count<T>(&self, method: &'static str, answered: &Result<T, RpcError>) {
        let code = answered.as_ref().map_or_else(RpcError::code, |_| "ok");
        self.metrics.rpc_call(method, code);
    }

    async fn ask_in_turn<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(Client, endpoints::Node) -> Asking,
    ) -> Result<Told<Answer>, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut tried: Vec<usize> = Vec::new();
        let (mut failed, mut oversized) = (None, Vec::<&endpoints::Node>::new());
        let mut busy = None;
        loop {
            let order = match &failed {
                None => match timeout_at(deadline, self.usable()).await {
                    Ok(usable) => usable?,
                    Err(_) => return Err(self.timed_out(method)),
                },
                Some(_) if self.only.is_some() => Arc::default(),
                Some(_) => self.inner.shared.usable.get().order,
            };
            let left: Vec<usize> =
                order.iter().copied().filter(|index| !tried.contains(index)).collect();
            let nodes = left.iter().filter_map(|index| Some((*index, self.nodes().get(*index)?)));
            // The one with the shortest pause; of equals one that answers such calls in time.
            let free = nodes.map(|(index, node)| (index, node, node.pause()));
            let first =
                free.min_by_key(|(_, node, pause)| (*pause, node.patience(method).is_none()));
            let Some((index, node, pause)) = first else {
                return Err(failed.or(busy).unwrap_or_else(|| self.timed_out(method)));
            };
            if !pause.is_zero() {
                if Instant::now() + pause + ATTEMPT_DEADLINE > deadline {
                    let what = format!("it is left alone for {} s more", pause.as_secs() + 1);
                    let busy = || busy.unwrap_or_else(|| node.endpoint.busy(&what));
                    return Err(failed.unwrap_or_else(busy));
                }
                sleep(pause).await;
                continue;
            }
            tried.push(index);
            let Some(client) = client_of(node) else {
                failed.get_or_insert_with(|| lost(node));
                continue;
            };
            let until = match left.len() {
                1 => deadline,
                _ => deadline.min(Instant::now() + node.patience(method).unwrap_or_default()),
            };
            let asking = timeout_at(until, ask(client, node.clone())).await;
            node.hung(method, asking.is_err());
            let error = match asking {
                Ok(Ok(answer)) => {
                    node.answered();
                    // Another node has a legal answer to the same question, so these fail.
                    for node in &oversized {
                        node.left_unanswered();
                    }
                    return Ok(Told { by: NodeId(index), answer });
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let host = node.endpoint.host().to_owned();
                    RpcError::Unavailable { host, what: format!("{method} timed out").into() }
                }
            };
            if error.is_too_often() {
                if let Some(times) = node.heard("asked_too_often") {
                    let host = node.endpoint.host();
                    warn!(host, %error, times, "a gateway node is left alone for a moment");
                }
                // It may be asked again after its pause.
                tried.pop();
                busy = Some(error);
                continue;
            }
            match &error {
                RpcError::Unavailable { .. } => node.left_unanswered(),
                RpcError::Refused { code, message, .. } => {
                    node.answered();
                    // The error is about the call itself: another node would say the same.
                    if !quirks::is_about_node(*code, message) {
                        return Err(error);
                    }
                }
                RpcError::TooLarge { .. } => oversized.push(node),
                RpcError::WrongChain { .. }
                | RpcError::WrongGenesis { .. }
                | RpcError::Unreadable { .. }
                | RpcError::Busy { .. } => {}
            }
            // The first error is reported, unless it only says that there was no answer.
            match failed {
                Some(RpcError::Unavailable { .. }) | None => failed = Some(error),
                Some(_) => {}
            }
        }
    }

    /// The endpoints that may be called; waits until there is one.
    pub(super) async fn usable(&self) -> Result<Arc<[usize]>, RpcError> {
        if let Some(NodeId(only)) = self.only {
            return Ok(Arc::new([only]));
        }
        let mut usable = self.inner.shared.usable.subscribe();
        let usable = usable
            .wait_for(|usable| !usable.order.is_empty() || usable.wrong_chain.is_some())
            .await
            .map_err(|_| self.unavailable("the connection was shut down"))?;
        match &usable.wrong_chain {
            Some(error) => Err(error.clone()),
            None => Ok(usable.order.clone()),
        }
    }

    /// The error of a timeout: why there is no connection, if that is the cause.
    fn timed_out(&self, method: &str) -> RpcError {
        self.trouble().unwrap_or_else(|| {
            self.unavailable(format!("{method} timed out after {CALL_DEADLINE:?}"))
        })
    }

    pub(super) fn unreadable(&self, what: impl Into<OutsideText>) -> RpcError {
        RpcError::Unreadable { host: self.hosts().to_owned(), what: what.into() }
    }
}

pub(super) fn client_of(node: &endpoints::Node) -> Option<Client> {
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

impl ChainReader for ArbitrumProvider {
    fn standing(&self) -> Standing {
        let usable = self.inner.shared.usable.get();
        let others = usable.going_on.iter().filter(|node| !usable.order.contains(node));
        let sound = usable.order.iter().chain(others);
        let voters = self.nodes().iter().enumerate().filter(|(_, node)| !node.is_anothers());
        Standing {
            sound: sound.copied().map(NodeId).collect(),
            going_on: usable.going_on.iter().copied().map(NodeId).collect(),
            voters: voters.map(|(index, _)| NodeId(index)).collect(),
            count: self.nodes().len(),
        }
    }

    fn only(&self, node: NodeId) -> Self {
        Self { only: Some(node), ..self.clone() }
    }

    fn host(&self, NodeId(node): NodeId) -> String {
        self.nodes().get(node).map_or("?", |node| node.endpoint.host()).to_owned()
    }

    fn heads(&self) -> watch::Receiver<Option<Head>> {
        self.inner.shared.heads.subscribe()
    }

    async fn header(&self, at: At) -> Result<Option<Head>, RpcError> {
        let (method, block) = match at {
            At::Hash(hash) => ("eth_getBlockByHash", json!(hash)),
            At::Latest | At::Safe | At::Finalized | At::Number(_) => (HEADER, named(at)),
        };
        let told: Told<Option<RawHead>> = self.told(method, json!([block, false])).await?;
        Ok(told.answer.map(|raw| raw.into_head(0, told.by)))
    }

    async fn logs(
        &self,
        filter: Filter<'_>,
        range: LogRange,
    ) -> Result<Told<Vec<Event>>, RpcError> {
        let told: Told<Vec<RawLog>> = self.told(LOGS, spelled(filter, range)).await?;
        told.and_then(|logs| self.events(logs, filter, range))
    }

    async fn block_logs(&self, block: B256, way: Way) -> Result<Told<Vec<Emitted>>, RpcError> {
        self.all_logs(block, way).await
    }

    async fn emitted_by(&self, transaction: B256) -> Result<Option<Vec<Emitted>>, RpcError> {
        self.logs_of(transaction).await
    }

    async fn block_transactions(&self, block: B256) -> Result<Option<Vec<B256>>, RpcError> {
        self.hashes_in(block).await
    }

    async fn logs_between(
        &self,
        filter: Filter<'_>,
        from: u64,
        to: u64,
    ) -> Result<Range, RpcError> {
        let logs_of = spelled(filter, LogRange::Numbers { from, to });
        let Told { by, answer: Seen { first, last, logs } } = self
            .told_by(LOGS, |client, node| {
                let logs_of = logs_of.clone();
                async move { range(&client, &node, logs_of, from, to).await }
            })
            .await?;
        let head = |raw: Option<RawHead>| raw.map(|raw| raw.into_head(0, by));
        let events = self.events(logs, filter, LogRange::Numbers { from, to })?;
        Ok(Range { first: head(first), last: head(last), events, by })
    }

    async fn call(&self, call: &Call, at: At) -> Result<Bytes, RpcError> {
        self.ask("eth_call", json!([transaction(call), named(at)])).await
    }

    async fn calls(
        &self,
        calls: &[Call],
        at: At,
    ) -> Result<Vec<Result<Bytes, RpcError>>, RpcError> {
        self.call_each(calls, at).await
    }

    async fn senders(&self, transactions: &[B256]) -> Result<Vec<Option<Address>>, RpcError> {
        self.senders_of(transactions).await
    }

    async fn counts_at(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Option<u64>>, RpcError> {
        self.transaction_counts(sender, blocks).await
    }

    async fn transactions_of(
        &self,
        sender: Address,
        blocks: &[u64],
    ) -> Result<Vec<Transaction>, RpcError> {
        self.transactions_in(sender, blocks).await
    }

    async fn code_size(&self, address: Address) -> Result<usize, RpcError> {
        let code: Bytes = self.ask("eth_getCode", json!([address, "latest"])).await?;
        Ok(code.len())
    }

    async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let mut found: Vec<Option<Receipt>> = vec![None; hashes.len()];
        // Receipts that one node encodes unreadably are asked of the next one.
        let mut wanted: Vec<usize> = (0..hashes.len()).collect();
        let mut asked = self.clone();
        while !wanted.is_empty() {
            let these: Vec<B256> = wanted.iter().map(|place| hashes[*place]).collect();
            let Told { by, answer } = asked.receipts_of(&these).await?;
            let answers = wanted.iter().copied().zip(answer);
            let (read, odd): (Vec<_>, Vec<_>) = answers.partition(|(_, answer)| answer.is_ok());
            for (place, receipt) in read {
                found[place] = receipt.ok().flatten();
            }
            for error in odd.iter().filter_map(|(_, answer)| answer.as_ref().err()) {
                self.metrics.rpc_call(RECEIPT, error.code());
                if let Some(times) = self.nodes()[by.0].heard("receipt_unreadable") {
                    warn!(%error, times, "a receipt cannot be read");
                }
            }
            wanted = odd.iter().map(|(place, _)| *place).collect();
            let mut others = self.sound_nodes().into_iter().skip_while(|node| *node != by);
            match others.nth(1).filter(|_| self.only.is_none()) {
                Some(next) => asked = self.only(next),
                None => break,
            }
        }
        Ok(found)
    }
}

impl TransactionSender for ArbitrumProvider {
    async fn estimate_gas(&self, call: &Call) -> Result<u64, RpcError> {
        let gas: U256 = self.ask("eth_estimateGas", json!([transaction(call)])).await?;
        u64::try_from(gas).map_err(|_| self.unreadable("a gas estimate beyond 64 bits"))
    }

    async fn balance(&self, address: Address) -> Result<U256, RpcError> {
        self.ask("eth_getBalance", json!([address, "latest"])).await
    }

    async fn transaction_count(&self, address: Address, at: At) -> Result<u64, RpcError> {
        let asked = json!([address, named(at)]);
        let count: U256 = self.ask("eth_getTransactionCount", asked).await?;
        let count = u64::try_from(count).ok().filter(|count| *count <= MOST_TRANSACTIONS);
        count.ok_or_else(|| self.unreadable("a transaction count that no wallet reaches"))
    }

    async fn priority_fee(&self) -> Result<u128, RpcError> {
        let fee: U256 = self.ask("eth_maxPriorityFeePerGas", json!([])).await?;
        u128::try_from(fee).map_err(|_| self.unreadable("a priority fee beyond 128 bits"))
    }

    async fn send(&self, raw: &Bytes, waits: bool) -> Result<Sent, RpcError> {
        let method = if waits { "eth_sendRawTransactionSync" } else { "eth_sendRawTransaction" };
        let sent = match timeout(CALL_DEADLINE, self.send_to_all(raw, waits)).await {
            Ok(sent) => sent,
            Err(_) => Err(self.timed_out(method)),
        };
        self.count(method, &sent);
        sent
    }
}

impl ArbitrumProvider {
    /// The chain id that the nodes report.
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        let id: alloy::primitives::U64 = self.ask("eth_chainId", json!([])).await?;
        Ok(id.to())
    }

    /// Each receipt from one node: `None` if it has none, an error if it is unreadable.
    async fn receipts_of(
        &self,
        hashes: &[B256],
    ) -> Result<Told<Vec<Result<Option<Receipt>, RpcError>>>, RpcError> {
        let calls: Vec<batches::Call> =
            hashes.iter().map(|hash| (RECEIPT, json!([hash]))).collect();
        self.told_by(RECEIPT, |client, node| {
            let calls = calls.clone();
            async move {
                let said = batches::ask_each(&client, &node.batches, calls).await?;
                if let Some(busy) =
                    said.iter().filter_map(|said| said.as_ref().err()).find(|error| error.is_busy())
                {
                    return Err(busy.clone());
                }
                let read = said.into_iter().zip(hashes).map(|(said, hash)| {
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
    pub(super) fn events(
        &self,
        logs: Vec<RawLog>,
        filter: Filter<'_>,
        range: LogRange,
    ) -> Result<Vec<Event>, RpcError> {
        let Filter { addresses, first, second } = filter;
        let mut events = Vec::with_capacity(logs.len());
        for log in logs {
            // A node may return more than was asked.
            if !addresses.contains(&log.address) || log.is_removed() {
                continue;
            }
            if !log.topic0().is_some_and(|topic| first.contains(topic)) {
                continue;
            }
            let event = self.event(log)?;
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

    pub(super) fn event(&self, log: RawLog) -> Result<Event, RpcError> {
        log.into_event().ok_or_else(|| self.unreadable("a log without block or transaction"))
    }
}

/// Encodes the parameter of `eth_getLogs`.
fn spelled(Filter { addresses, first, second }: Filter<'_>, range: LogRange) -> Value {
    let address = if let [one] = addresses { json!(one) } else { json!(addresses) };
    let topics = if second.is_empty() { json!([first]) } else { json!([first, second]) };
    match range {
        LogRange::Block(hash) => {
            json!([{ "address": address, "topics": topics, "blockHash": hash }])
        }
        LogRange::Numbers { from, to } => json!([{
            "address": address, "topics": topics, "fromBlock": hex(from), "toBlock": hex(to),
        }]),
    }
}

pub(super) fn hex(number: u64) -> String {
    format!("{number:#x}")
}

/// Encodes a block parameter. A hash is distinguished from a number by its form (EIP-1898).
pub(super) fn named(at: At) -> Value {
    match at {
        At::Latest => json!("latest"),
        At::Safe => json!("safe"),
        At::Finalized => json!("finalized"),
        At::Number(number) => json!(hex(number)),
        At::Hash(hash) => json!({ "blockHash": hash }),
    }
}

/// A range of blocks as received.
struct Seen {
    first: Option<RawHead>,
    last: Option<RawHead>,
    logs: Vec<RawLog>,
}

/// Reads logs and the headers of the range's ends. The last header is read before the logs: a node that
/// advances in between would show the block afterwards without having searched it.
///
/// In a batch all answers come from one machine. With separate calls the logs may come from another
/// machine behind the same URL, which may know less of the range without saying so. So the last header
/// is read a second time, which is another chance to notice such a machine. One that answers only the
/// call for logs stays unnoticed; what it hides is found by the second reading, or not at all.
async fn range(
    client: &Client,
    node: &endpoints::Node,
    filter: Value,
    from: u64,
    to: u64,
) -> Result<Seen, RpcError> {
    let header = |number| json!([hex(number), false]);
    let calls = [(HEADER, header(to)), (HEADER, header(from)), (LOGS, filter.clone())];
    let read = |said: Vec<batches::Said>| {
        let mut said = said.into_iter();
        let mut next = || said.next().unwrap_or_else(|| Err(client.endpoint().unreadable("less")));
        let (last, first, logs) = (next()?, next()?, next()?);
        let endpoint = client.endpoint();
        Ok(Seen {
            last: endpoint.parse(&last)?,
            first: endpoint.parse(&first)?,
            logs: endpoint.parse(&logs)?,
        })
    };
    let apart = async {
        let last: Option<RawHead> = client.ask(HEADER, &header(to)).await?;
        let begin = header(from);
        let (logs, first) =
            tokio::try_join!(client.ask(LOGS, &filter), client.ask(HEADER, &begin))?;
        let again: Option<RawHead> = client.ask(HEADER, &header(to)).await?;
        let last = last.filter(|last| again.is_some_and(|again| again.is_same_as(last)));
        Ok(Seen { first, last, logs })
    };
    batches::together_or_apart(client, &node.batches, &calls, read, apart).await
}

pub(super) fn transaction(call: &Call) -> serde_json::Value {
    match call.from {
        Some(from) => json!({ "from": from, "to": call.to, "data": call.data }),
        None => json!({ "to": call.to, "data": call.data }),
    }
}
