//! A Gateway node in memory: blocks at a pace, whatever was sent is in the next one, and it is known
//! to the moment when a head was told and when a transaction came.
//!
//! It plays what a connector asks for all the time (heads, logs, sends, receipts, counts). What is
//! asked once, of contracts that stand still, is asked of a real node behind it. Answers are taken
//! as they come: whether they are right is shown by the runs on the real node.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::eip2718::Decodable2718 as _,
    primitives::{Address, B256, Bloom, BloomInput, Bytes, LogData, U64, U256, keccak256},
    sol_types::SolEvent as _,
};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_tungstenite::tungstenite::Message;
use world::{
    Error, Result,
    contracts::G8,
    request::{Ask, Kind},
    rpc::Chain,
};

/// Messages on their way to one client.
const OUTGOING: usize = 4096;
const SUBSCRIPTION: B256 = B256::repeat_byte(0xbe);

/// A block and, as JSON, what is told of it.
struct Block {
    hash: B256,
    header: String,
    /// Its logs, with commas between them.
    logs: String,
}

#[derive(Default)]
struct State {
    /// From the genesis block on.
    blocks: Vec<Block>,
    by_hash: HashMap<B256, u64>,
    /// For the next block.
    asks: Vec<Ask>,
    pool: Vec<B256>,
    receipts: HashMap<B256, String>,
    /// Transactions of the one wallet.
    nonce: u64,
    ids: u64,
    /// When the request's block was told, by id.
    told: HashMap<U256, Instant>,
    /// When the first transaction with the answer came, by id.
    answered: HashMap<U256, Instant>,
    /// Transactions that answered what had been answered.
    doubles: usize,
    calls: BTreeMap<String, u64>,
}

struct Shared {
    upstream: Chain,
    contract: Address,
    coprocessor: Address,
    state: Mutex<State>,
    /// The newest block.
    sealed: watch::Sender<u64>,
}

/// The node. Dropping it closes it.
pub struct MemoryNode {
    port: u16,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl MemoryNode {
    /// In front of `upstream`, whose contracts it shares. The next block is the `first` with requests.
    pub async fn start(
        upstream: Chain,
        contract: Address,
        coprocessor: Address,
        first: u64,
    ) -> Result<Self> {
        let failed = |e| Error::Io("node".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let (state, sealed) = (Mutex::default(), watch::channel(0).0);
        let shared = Arc::new(Shared { upstream, contract, coprocessor, state, sealed });
        for _genesis_and_more in 0..first {
            shared.seal();
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { port, shared, tasks })
    }

    /// A block in each of these times from now on.
    pub fn run(&mut self, block_time: Duration) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let mut turn = interval(block_time);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turn.tick().await;
                shared.seal();
            }
        });
    }

    /// `count` blocks at once, each with so many of the requests.
    pub fn prepare(&self, asks: Vec<Ask>, in_each: usize) {
        let mut asks = asks.into_iter();
        loop {
            let portion: Vec<Ask> = asks.by_ref().take(in_each).collect();
            if portion.is_empty() {
                return;
            }
            self.emit(portion);
            self.shared.seal();
        }
    }

    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The requests stand in the next block.
    pub fn emit(&self, asks: Vec<Ask>) {
        self.shared.state().asks.extend(asks);
    }

    /// How many requests stand in blocks, and how many are answered.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.shared.state();
        (state.told.len(), state.answered.len())
    }

    /// Transactions that answered what had been answered.
    pub fn doubles(&self) -> usize {
        self.shared.state().doubles
    }

    /// When the head with the request was told, by id.
    pub fn told(&self) -> HashMap<U256, Instant> {
        self.shared.state().told.clone()
    }

    /// When the transaction with the answer came, by id.
    pub fn answered(&self) -> HashMap<U256, Instant> {
        self.shared.state().answered.clone()
    }

    /// Calls by method.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.shared.state().calls.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a block of what there is.
    fn seal(&self) {
        let mut state = self.state();
        let number = state.blocks.len() as u64;
        let parent = state.blocks.last().map_or(B256::ZERO, |block| block.hash);
        let hash = keccak256([parent.as_slice(), &number.to_be_bytes()].concat());
        let (mut bloom, mut logs, mut ids) = (Bloom::ZERO, String::new(), Vec::new());
        for (index, ask) in std::mem::take(&mut state.asks).into_iter().enumerate() {
            state.ids += 1;
            let tag = if ask.kind == Kind::User { 2 } else { 1 };
            let id = (U256::from(tag) << 248) | U256::from(state.ids);
            let data = log_of(&ask, id, self.coprocessor);
            for topic in data.topics() {
                bloom.accrue(BloomInput::Raw(topic.as_slice()));
            }
            if !logs.is_empty() {
                logs.push(',');
            }
            let log = json!({
                "address": self.contract, "topics": data.topics(), "data": data.data,
                "blockNumber": U64::from(number), "blockHash": hash,
                "transactionHash": keccak256(id.to_be_bytes::<32>()), "transactionIndex": "0x0",
                "logIndex": U64::from(index), "removed": false,
            });
            let _ = write!(logs, "{log}");
            ids.push(id);
        }
        if !logs.is_empty() {
            bloom.accrue(BloomInput::Raw(self.contract.as_slice()));
        }
        for (index, transaction) in std::mem::take(&mut state.pool).into_iter().enumerate() {
            let receipt = receipt(transaction, index, number, hash, self.contract);
            state.receipts.insert(transaction, receipt);
        }
        let header = header(number, hash, parent, &bloom);
        state.by_hash.insert(hash, number);
        state.blocks.push(Block { hash, header, logs });
        let now = Instant::now();
        state.told.extend(ids.into_iter().map(|id| (id, now)));
        drop(state);
        self.sealed.send_replace(number);
    }

    /// The answer to one call; `None`: it has to be asked of the node behind.
    fn known(&self, method: &str, params: &Value) -> Option<String> {
        let state = self.state();
        let head = state.blocks.len() as u64 - 1;
        let at = |number: u64| state.blocks.get(usize::try_from(number).ok()?);
        let number = |value: &Value| match value.as_str()? {
            "earliest" => Some(0),
            "latest" | "safe" | "finalized" | "pending" => Some(head),
            hex => u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok(),
        };
        Some(match method {
            "eth_blockNumber" => json!(U64::from(head)).to_string(),
            "eth_getBlockByNumber" => {
                number(&params[0]).and_then(at).map_or("null".into(), |block| block.header.clone())
            }
            "eth_getBlockByHash" => {
                let hash = serde_json::from_value::<B256>(params[0].clone()).ok();
                let number = hash.and_then(|hash| state.by_hash.get(&hash).copied());
                number.and_then(at).map_or("null".into(), |block| block.header.clone())
            }
            "eth_getLogs" => {
                let filter = &params[0];
                let (from, to) = match filter["blockHash"].as_str() {
                    Some(hash) => {
                        let number = state.by_hash.get(&hash.parse::<B256>().ok()?).copied()?;
                        (number, number)
                    }
                    None => (number(&filter["fromBlock"])?, number(&filter["toBlock"])?),
                };
                let mut logs = String::from("[");
                for number in from..=to.min(head) {
                    let Some(block) = at(number).filter(|block| !block.logs.is_empty()) else {
                        continue;
                    };
                    if logs.len() > 1 {
                        logs.push(',');
                    }
                    logs.push_str(&block.logs);
                }
                logs.push(']');
                logs
            }
            "eth_getTransactionReceipt" => {
                let hash: B256 = serde_json::from_value(params[0].clone()).ok()?;
                state.receipts.get(&hash).cloned().unwrap_or_else(|| "null".into())
            }
            "eth_getTransactionCount" => json!(U64::from(state.nonce)).to_string(),
            // The chain behind does not know these requests.
            "eth_estimateGas" => "\"0x30d40\"".into(),
            "eth_maxPriorityFeePerGas" => "\"0x0\"".into(),
            "eth_gasPrice" => "\"0x3b9aca00\"".into(),
            _ => return None,
        })
    }

    /// Takes a transaction; answers its hash.
    fn take(&self, raw: &[u8]) -> Result<B256> {
        let came = Instant::now();
        let transaction = TxEnvelope::decode_2718(&mut &raw[..])
            .map_err(|error| Error::other(format!("no transaction: {error}")))?;
        let hash = keccak256(raw);
        let id = transaction.input().get(4..36).map(U256::from_be_slice);
        let mut state = self.state();
        if state.receipts.contains_key(&hash) || state.pool.contains(&hash) {
            return Ok(hash);
        }
        state.nonce = state.nonce.max(transaction.nonce() + 1);
        state.pool.push(hash);
        if let Some(id) = id
            && state.answered.insert(id, came).is_some()
        {
            state.doubles += 1;
        }
        Ok(hash)
    }

    async fn answer(&self, method: &str, params: &Value) -> String {
        if method.starts_with("eth_sendRawTransaction") {
            let raw: Bytes = serde_json::from_value(params[0].clone()).unwrap_or_default();
            let mut sealed = self.sealed.subscribe();
            let hash = match self.take(&raw) {
                Ok(hash) => hash,
                Err(error) => return failure(&error.to_string()),
            };
            if method == "eth_sendRawTransaction" {
                return success(&json!(hash).to_string());
            }
            loop {
                if let Some(receipt) = self.state().receipts.get(&hash) {
                    return success(receipt);
                }
                if sealed.changed().await.is_err() {
                    return failure("the node ends");
                }
            }
        }
        if let Some(known) = self.known(method, params) {
            return success(&known);
        }
        let mut params = params.clone();
        if let Some(at) = params.get_mut(1).filter(|at| at.is_string() || at.is_object()) {
            // The chain behind has blocks of its own.
            *at = "latest".into();
        }
        match self.upstream.rpc::<Value>(method, params).await {
            Ok(value) => success(&value.to_string()),
            Err(Error::Rpc { code, message, data, .. }) => {
                let error = json!({"code": code, "message": message, "data": data});
                format!("\"error\":{error}")
            }
            Err(error) => failure(&error.to_string()),
        }
    }
}

fn success(result: &str) -> String {
    format!("\"result\":{result}")
}

fn failure(message: &str) -> String {
    format!("\"error\":{}", json!({"code": -32000, "message": message}))
}

fn log_of(ask: &Ask, id: U256, coprocessor: Address) -> LogData {
    let materials = ask.materials(&[coprocessor]);
    if ask.kind == Kind::User {
        let event = G8::UserDecryptionRequest {
            decryptionId: id,
            snsCtMaterials: materials,
            userAddress: ask.user,
            publicKey: ask.public_key.clone(),
            extraData: ask.extra_data.clone(),
        };
        return event.encode_log_data();
    }
    let extra_data = ask.extra_data.clone();
    let event = G8::PublicDecryptionRequest {
        decryptionId: id,
        snsCtMaterials: materials,
        extraData: extra_data,
    };
    event.encode_log_data()
}

fn header(number: u64, hash: B256, parent: B256, bloom: &Bloom) -> String {
    json!({
        "number": U64::from(number), "hash": hash, "parentHash": parent, "logsBloom": bloom,
        "baseFeePerGas": "0x5f5e100", "timestamp": U64::from(1_800_000_000 + number / 4),
        "gasLimit": "0x3b9aca00", "gasUsed": "0x0", "difficulty": "0x0", "extraData": "0x",
        "miner": Address::ZERO, "mixHash": B256::ZERO, "nonce": "0x0000000000000000",
        "stateRoot": B256::ZERO, "receiptsRoot": B256::ZERO, "transactionsRoot": B256::ZERO,
        "sha3Uncles": B256::ZERO, "size": "0x0", "uncles": [], "transactions": [],
    })
    .to_string()
}

fn receipt(transaction: B256, index: usize, number: u64, block: B256, to: Address) -> String {
    json!({
        "transactionHash": transaction, "transactionIndex": U64::from(index),
        "blockNumber": U64::from(number), "blockHash": block, "from": Address::ZERO, "to": to,
        "cumulativeGasUsed": "0x186a0", "gasUsed": "0x186a0", "effectiveGasPrice": "0x5f5e100",
        "contractAddress": null, "logs": [], "logsBloom": Bloom::ZERO, "status": "0x1",
        "type": "0x2",
    })
    .to_string()
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    // The client may leave at any moment.
                    let _left = connection(stream, &shared).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[derive(serde::Deserialize)]
struct Question<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    method: String,
    #[serde(default)]
    params: Value,
}

/// What a client is told of by itself.
#[derive(Clone, Copy, Default)]
struct Subscribed {
    heads: bool,
    logs: bool,
}

async fn connection(stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true).map_err(|e| Error::Io("nodelay".into(), e))?;
    let failed = |e: tokio_tungstenite::tungstenite::Error| Error::other(e.to_string());
    let socket = tokio_tungstenite::accept_async(stream).await.map_err(failed)?;
    let (mut writer, mut reader) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<String>(OUTGOING);
    let mut answering = JoinSet::new();
    let (mut subscribed, mut sealed) = (Subscribed::default(), shared.sealed.subscribe());
    let mut told = *sealed.borrow_and_update();
    loop {
        tokio::select! {
            message = reader.next() => {
                let Some(Ok(message)) = message else { return Ok(()) };
                let Message::Text(text) = message else { continue };
                if let Some(news) = hear(&text, shared, &out, &mut answering)? {
                    subscribed.heads |= news.heads;
                    subscribed.logs |= news.logs;
                }
            }
            Some(text) = outgoing.recv() => {
                writer.feed(Message::text(text)).await.map_err(failed)?;
                while let Ok(text) = outgoing.try_recv() {
                    writer.feed(Message::text(text)).await.map_err(failed)?;
                }
                writer.flush().await.map_err(failed)?;
            }
            Ok(()) = sealed.changed() => {
                let head = *sealed.borrow_and_update();
                for text in news(shared, told + 1..=head, subscribed) {
                    writer.send(Message::text(text)).await.map_err(failed)?;
                }
                told = head;
            }
            Some(_) = answering.join_next() => {}
        }
    }
}

/// One message: answered by a task, or a subscription.
fn hear(
    text: &str,
    shared: &Arc<Shared>,
    out: &mpsc::Sender<String>,
    answering: &mut JoinSet<()>,
) -> Result<Option<Subscribed>> {
    let is_batch = text.trim_start().starts_with('[');
    let questions: Vec<Question> =
        if is_batch { serde_json::from_str(text)? } else { vec![serde_json::from_str(text)?] };
    let mut subscribed = None;
    let mut asked = Vec::with_capacity(questions.len());
    for question in questions {
        *shared.state().calls.entry(question.method.clone()).or_default() += 1;
        if question.method == "eth_subscribe" {
            let logs = question.params[0] == "logs";
            subscribed = Some(Subscribed { heads: !logs, logs });
            let name = if logs { !SUBSCRIPTION } else { SUBSCRIPTION };
            asked.push((question.id.get().to_owned(), Err(success(&json!(name).to_string()))));
        } else {
            asked.push((question.id.get().to_owned(), Ok((question.method, question.params))));
        }
    }
    let (shared, out) = (Arc::clone(shared), out.clone());
    answering.spawn(async move {
        let mut answers = Vec::with_capacity(asked.len());
        for (id, what) in asked {
            let body = match what {
                Ok((method, params)) => shared.answer(&method, &params).await,
                Err(known) => known,
            };
            answers.push(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},{body}}}"));
        }
        let text = answers.join(",");
        // The client may have left.
        let _gone = out.send(if is_batch { format!("[{text}]") } else { text }).await;
    });
    Ok(subscribed)
}

fn news(
    shared: &Shared,
    numbers: std::ops::RangeInclusive<u64>,
    subscribed: Subscribed,
) -> Vec<String> {
    let state = shared.state();
    let mut texts = Vec::new();
    let told = |name: B256, result: &str| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"eth_subscription\",\"params\":{{\"subscription\":\
             \"{name}\",\"result\":{result}}}}}"
        )
    };
    for number in numbers {
        let index = usize::try_from(number).unwrap_or_default();
        let Some(block) = state.blocks.get(index) else { continue };
        if subscribed.heads {
            texts.push(told(SUBSCRIPTION, &block.header));
        }
        if subscribed.logs && !block.logs.is_empty() {
            let list = format!("[{}]", block.logs);
            let logs: Vec<&RawValue> = serde_json::from_str(&list).unwrap_or_default();
            texts.extend(logs.iter().map(|log| told(!SUBSCRIPTION, log.get())));
        }
    }
    texts
}
