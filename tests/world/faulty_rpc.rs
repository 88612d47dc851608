//! A node that lies: JSON-RPC over http and WebSocket on one port, answered by a real node behind it
//! unless a test scripted something else; and a relay in front of it that breaks the connection.
//!
//! ```text
//! connector ── Proxy (cut, silent, half-closed, slow, dripping, wrong) ── FaultyRpc ── http ── Anvil
//!                                                     lies: what is said of chain and logs
//!                                                     rules: what single calls are answered
//! ```
//!
//! Heads of subscriptions are told by this node itself, so that its lies hold for them too.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{B256, Bytes, U64, U256, keccak256};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use super::{Error, Result, http_client, proxy::Proxy};

/// How often the real node is asked for its head on behalf of subscribers.
const HEAD_EVERY: Duration = Duration::from_millis(50);
/// A message over a WebSocket that is too large, in bytes.
const FLOOD: usize = 40 << 20;

/// What a call is answered instead of the truth.
#[derive(Clone, Debug)]
pub enum Lie {
    /// A JSON-RPC error packet.
    Error { code: i64, message: String, data: Option<Value> },
    /// This result.
    Result(Value),
    /// An HTTP status, such as 429 or 503, with an empty body. A WebSocket is closed.
    Status(u16),
    /// The same, and after how many seconds to come back.
    Later(u16, u64),
    /// A frame or body that is no JSON.
    Malformed,
    /// Never.
    Silence,
    /// The truth, later.
    Late(Duration),
    /// The real node gets the call and its answer is lost: then this is said.
    After(Box<Lie>),
    /// An answer that does not end.
    Flood,
    /// EIP-7966: the node has taken the transaction and has not seen it mined in time: error 4 with
    /// the hash.
    SyncTimeout,
}

impl Lie {
    pub fn error(code: i64, message: &str) -> Self {
        Self::Error { code, message: message.into(), data: None }
    }

    pub fn method_not_found() -> Self {
        Self::error(-32601, "the method does not exist/is not available")
    }

    pub fn nonce_too_low() -> Self {
        Self::error(-32000, "nonce too low: address 0x00, tx: 1 state: 2")
    }

    pub fn nonce_too_high() -> Self {
        Self::error(-32000, "nonce too high: address 0x00, tx: 9 state: 2")
    }

    pub fn already_known() -> Self {
        Self::error(-32000, "already known")
    }

    pub fn underpriced() -> Self {
        Self::error(-32000, "replacement transaction underpriced")
    }

    pub fn insufficient_funds() -> Self {
        Self::error(-32003, "insufficient funds for gas * price + value")
    }

    /// EIP-7966: the transaction was not taken because the node is not ready for it.
    pub fn sync_not_ready() -> Self {
        Self::error(5, "the transaction is not ready for execution: nonce gap")
    }

    /// The same after the real node got the call.
    #[must_use]
    pub fn after(self) -> Self {
        Self::After(Box::new(self))
    }
}

/// When a lie is told. The first rule that fits a call decides.
#[derive(Clone, Debug)]
pub struct Rule {
    method: String,
    lie: Lie,
    times: Option<usize>,
    share: f64,
}

impl Rule {
    /// For every call of `method`; `*`: of all methods.
    pub fn always(method: &str, lie: Lie) -> Self {
        Self { method: method.into(), lie, times: None, share: 1.0 }
    }

    /// For the next `times` calls.
    pub fn times(times: usize, method: &str, lie: Lie) -> Self {
        Self { times: Some(times), ..Self::always(method, lie) }
    }

    /// For this share of the calls, drawn by chance.
    pub fn share(share: f64, method: &str, lie: Lie) -> Self {
        Self { share, ..Self::always(method, lie) }
    }
}

/// What the node says of the chain that is not so.
#[derive(Clone, Debug, Default)]
pub struct Lies {
    /// It knows no block above this one.
    pub stands_at: Option<u64>,
    /// Behind its URL is a second node, so many blocks lower, that answers half of the messages.
    pub second_node_lags: Option<u64>,
    pub logs: Logs,
    /// Blooms say that no block has logs.
    pub empty_blooms: bool,
    pub chain_id: Option<u64>,
    /// Blocks whose headers have another hash: number, hash.
    pub other_blocks: Vec<(u64, B256)>,
    /// What it says of block 0, instead of it.
    pub without_block_0: Option<Lie>,
    /// It tells of a head of this height, and has no block above the real one.
    pub tells_head: Option<u64>,
    /// Subscriptions are accepted and tell nothing.
    pub silent_subscriptions: bool,
    /// What the tags `safe` and `finalized` name.
    pub finalized: Option<u64>,
    pub arrays: Arrays,
    /// Fields that are missing in the results of a method.
    pub leaves_out: Vec<(&'static str, &'static str)>,
    /// What views return, by the beginning of their calldata.
    pub views: Vec<(&'static str, Value)>,
    /// Handshakes of sockets are refused with this status, to come back after so many seconds.
    pub no_upgrade: Option<(u16, u64)>,
}

/// What it does with several calls in one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrays {
    #[default]
    Taken,
    /// One error object, with this HTTP status.
    Refused(u16),
    /// This HTTP status and a page.
    Status(u16),
    /// Only the first call is answered.
    InPart,
}

/// How it shows the logs of blocks it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logs {
    #[default]
    AsTheyAre,
    /// Not at all.
    Missing,
    /// Twice, and in the wrong order.
    Shuffled,
    /// Each a second time, under an id that no contract gave: [`FORGED`] more.
    Forged,
    /// With data that is all zeroes.
    Zeroed,
}

/// What is added to the ids of forged requests.
pub const FORGED: u64 = 1_000_000;

/// What comes of a question to a node that does not know all blocks.
enum Bent {
    /// It goes to the real node.
    Asked,
    /// This is its answer.
    Known(Value),
    /// An error is.
    Unknown,
}

#[derive(Debug, Default)]
struct Script {
    lies: Lies,
    rules: Vec<Rule>,
    calls: HashMap<String, usize>,
    /// Messages with several calls.
    arrays: usize,
    /// When a handshake came.
    upgrades: Vec<Instant>,
    /// Bytes of answers without end that somebody took.
    flooded: usize,
    transactions: Vec<Bytes>,
}

#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    upstream: String,
    script: Mutex<Script>,
}

/// The node. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct FaultyRpc {
    /// In front of it.
    pub proxy: Proxy,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl FaultyRpc {
    /// In front of the node at this http URL.
    pub async fn start(upstream: &str) -> Result<Self> {
        let failed = |e| Error::Io("faulty rpc".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address: SocketAddr = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            client: http_client(Duration::from_mins(1))?,
            upstream: upstream.into(),
            script: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, shared.clone()));
        let proxy = Proxy::start(address.port()).await?;
        Ok(Self { proxy, shared, _serving: serving })
    }

    pub fn ws_url(&self) -> String {
        format!("ws://{}", self.host())
    }

    pub fn http_url(&self) -> String {
        format!("http://{}", self.host())
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// Changes what it says of the chain.
    pub fn lie(&self, change: impl FnOnce(&mut Lies)) {
        change(&mut self.shared.script().lies);
    }

    /// Adds a rule behind those there are.
    pub fn rule(&self, rule: Rule) {
        self.shared.script().rules.push(rule);
    }

    /// No lies and no rules any more.
    pub fn be_honest(&self) {
        let mut script = self.shared.script();
        script.lies = Lies::default();
        script.rules.clear();
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.shared.script().calls.get(method).copied().unwrap_or_default()
    }

    /// How many messages with several calls came.
    pub fn arrays(&self) -> usize {
        self.shared.script().arrays
    }

    /// When a handshake came.
    pub fn upgrades(&self) -> Vec<Instant> {
        self.shared.script().upgrades.clone()
    }

    /// How many bytes of answers without end were taken.
    pub fn flooded(&self) -> usize {
        self.shared.script().flooded
    }

    /// Raw transactions that came, whatever was answered.
    pub fn transactions(&self) -> Vec<Bytes> {
        self.shared.script().transactions.clone()
    }
}

/// What goes back.
enum Answer {
    Json(Value),
    /// With an HTTP status that is no success.
    Failed(u16, Value),
    Flood,
    /// The WebSocket is closed, or an HTTP answer with this status.
    Status(u16),
    /// With the seconds after which to come back.
    Later(u16, u64),
    Malformed,
    Nothing,
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call or batch.
    async fn answer(&self, message: Value, subscriber: Option<&Subscriber>) -> Answer {
        // By chance: a strict turn would always give the same call to the same node.
        let second = fastrand::bool();
        match message {
            Value::Array(mut calls) => {
                let arrays = self.script().lies.arrays;
                self.script().arrays += 1;
                let error = json!({"code": -32600, "message": "batch requests are disabled"});
                let refusal = json!({"jsonrpc": "2.0", "id": null, "error": error});
                match arrays {
                    Arrays::Taken => {}
                    Arrays::Refused(200) => return Answer::Json(refusal),
                    Arrays::Refused(status) => return Answer::Failed(status, refusal),
                    Arrays::Status(status) => return Answer::Status(status),
                    Arrays::InPart => calls.truncate(1),
                }
                let mut answers = Vec::new();
                for call in calls {
                    match self.answer_one(call, second, subscriber).await {
                        Answer::Json(answer) => answers.push(answer),
                        other @ (Answer::Status(_)
                        | Answer::Later(..)
                        | Answer::Failed(..)
                        | Answer::Flood
                        | Answer::Malformed
                        | Answer::Nothing) => return other,
                    }
                }
                Answer::Json(Value::Array(answers))
            }
            call @ (Value::Object(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)) => self.answer_one(call, second, subscriber).await,
        }
    }

    async fn answer_one(
        &self,
        call: Value,
        second: bool,
        subscriber: Option<&Subscriber>,
    ) -> Answer {
        let method = call["method"].as_str().unwrap_or_default().to_owned();
        let lie = self.script().lie_for(&method, &call);
        match lie {
            None => self.told(&call, &method, second, subscriber).await,
            Some(Lie::Late(pause)) => {
                sleep(pause).await;
                self.told(&call, &method, second, subscriber).await
            }
            Some(Lie::After(lie)) => {
                let _lost = self.told(&call, &method, second, subscriber).await;
                Self::tell(&lie, &call)
            }
            Some(lie @ Lie::SyncTimeout) => {
                let mut sending = call.clone();
                sending["method"] = "eth_sendRawTransaction".into();
                let _lost = self.told(&sending, &method, second, subscriber).await;
                Self::tell(&lie, &call)
            }
            Some(lie) => Self::tell(&lie, &call),
        }
    }

    fn tell(lie: &Lie, call: &Value) -> Answer {
        let error = |code: i64, message: &str, data: Option<Value>| {
            let mut error = json!({"code": code, "message": message});
            if let Some(data) = data {
                error["data"] = data;
            }
            Answer::Json(json!({"jsonrpc": "2.0", "id": call["id"], "error": error}))
        };
        match lie {
            Lie::Error { code, message, data } => error(*code, message, data.clone()),
            Lie::Result(result) => {
                Answer::Json(json!({"jsonrpc": "2.0", "id": call["id"], "result": result}))
            }
            Lie::Status(status) => Answer::Status(*status),
            Lie::Later(status, seconds) => Answer::Later(*status, *seconds),
            Lie::Malformed => Answer::Malformed,
            Lie::Flood => Answer::Flood,
            Lie::Silence | Lie::Late(_) | Lie::After(_) => Answer::Nothing,
            Lie::SyncTimeout => {
                let raw: Bytes =
                    serde_json::from_value(call["params"][0].clone()).unwrap_or_default();
                let hash = json!(keccak256(&raw));
                error(
                    4,
                    "the transaction was added to the pool but not processed in time",
                    Some(hash),
                )
            }
        }
    }

    /// The truth, bent by the lies about the chain.
    async fn told(
        &self,
        call: &Value,
        method: &str,
        second: bool,
        subscriber: Option<&Subscriber>,
    ) -> Answer {
        let lies = self.script().lies.clone();
        let id = call["id"].clone();
        let result = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
        if method == "eth_chainId"
            && let Some(chain_id) = lies.chain_id
        {
            return Answer::Json(result(json!(U64::from(chain_id))));
        }
        if method == "eth_call"
            && let Some(data) = call["params"][0]["data"].as_str()
            && let Some((_, told)) = lies.views.iter().find(|(view, _)| data.starts_with(view))
        {
            return Answer::Json(result(told.clone()));
        }
        if method == "eth_subscribe"
            && let Some(subscriber) = subscriber
        {
            // One is enough for a connector: heads.
            let name = json!(B256::repeat_byte(0xbe));
            let _gone = subscriber.try_send(name.clone());
            return Answer::Json(result(name));
        }
        if let Some(lie) = &lies.without_block_0
            && method == "eth_getBlockByNumber"
            && call["params"][0] == "0x0"
        {
            return Self::tell(lie, call);
        }
        let Ok(knows) = self.height(&lies, second).await else { return Answer::Status(502) };
        let mut asked = call.clone();
        match bend_question(&mut asked, method, knows, lies.finalized) {
            Bent::Asked => {}
            Bent::Known(value) => return Answer::Json(result(value)),
            Bent::Unknown => return Self::tell(&Lie::error(-32000, "unknown block"), call),
        }
        let Ok(mut answer) = self.ask(&asked).await else { return Answer::Status(502) };
        if let Some(knows) = knows
            && hide_above(&mut answer, method, knows)
            && method == "eth_getLogs"
        {
            return Self::tell(&Lie::error(-32000, "unknown block"), call);
        }
        if method == "eth_getLogs"
            && let Some(logs) = answer["result"].as_array_mut()
        {
            match lies.logs {
                Logs::AsTheyAre => {}
                Logs::Missing => logs.clear(),
                Logs::Forged => {
                    let forged = logs.clone().into_iter().filter_map(forged);
                    logs.extend(forged.collect::<Vec<_>>());
                }
                Logs::Shuffled => {
                    logs.reverse();
                    let again = logs.clone();
                    logs.extend(again);
                }
                Logs::Zeroed => {
                    for log in logs {
                        let data = log["data"].as_str().unwrap_or("0x");
                        log["data"] = format!("0x{}", "0".repeat(data.len() - 2)).into();
                    }
                }
            }
        }
        for (_, field) in lies.leaves_out.iter().filter(|(of, _)| *of == method) {
            if let Some(result) = answer["result"].as_object_mut() {
                result.remove(*field);
            }
        }
        if method == "eth_getBlockByNumber" && answer["result"].is_object() {
            let number: U64 =
                serde_json::from_value(answer["result"]["number"].clone()).unwrap_or_default();
            if let Some((_, hash)) = lies.other_blocks.iter().find(|(n, _)| U64::from(*n) == number)
            {
                answer["result"]["hash"] = json!(hash);
            }
            if let (Some(head), Some("latest")) = (lies.tells_head, call["params"][0].as_str()) {
                answer["result"]["number"] = json!(U64::from(head));
            }
        }
        if lies.empty_blooms && answer["result"]["logsBloom"].is_string() {
            answer["result"]["logsBloom"] = json!(alloy::primitives::Bloom::ZERO);
        }
        Answer::Json(answer)
    }

    /// The highest block the answering node knows, if that is not the real one's.
    async fn height(&self, lies: &Lies, second: bool) -> Result<Option<u64>> {
        let Some(lag) = lies.second_node_lags.filter(|_| second) else {
            return Ok(lies.stands_at);
        };
        let head = self
            .ask(&json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}))
            .await?;
        let head: U64 = serde_json::from_value(head["result"].clone())?;
        Ok(Some(head.to::<u64>().saturating_sub(lag)))
    }

    async fn ask(&self, call: &Value) -> Result<Value> {
        let sent = self
            .client
            .post(&self.upstream)
            .header("content-type", "application/json")
            .body(call.to_string());
        Ok(serde_json::from_slice(&sent.send().await?.bytes().await?)?)
    }

    /// The head as subscribers are told it.
    async fn head(&self) -> Option<Value> {
        let lies = self.script().lies.clone();
        if lies.silent_subscriptions {
            return None;
        }
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber",
            "params": ["latest", false]});
        match self.told(&call, "eth_getBlockByNumber", false, None).await {
            Answer::Json(answer) => Some(answer["result"].clone()).filter(Value::is_object),
            Answer::Status(_)
            | Answer::Later(..)
            | Answer::Failed(..)
            | Answer::Flood
            | Answer::Malformed
            | Answer::Nothing => None,
        }
    }
}

impl Script {
    fn lie_for(&mut self, method: &str, call: &Value) -> Option<Lie> {
        *self.calls.entry(method.into()).or_default() += 1;
        if method.starts_with("eth_sendRawTransaction")
            && let Ok(raw) = serde_json::from_value(call["params"][0].clone())
        {
            self.transactions.push(raw);
        }
        let fits = |rule: &&mut Rule| {
            // Whoever lies about sending does so in both ways to send.
            let sends =
                rule.method == "eth_sendRawTransaction" && method.starts_with(rule.method.as_str());
            (rule.method == method || rule.method == "*" || sends)
                && rule.times != Some(0)
                && (rule.share >= 1.0 || fastrand::f64() < rule.share)
        };
        let rule = self.rules.iter_mut().find(fits)?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some(rule.lie.clone())
    }
}

/// A log like this one of another request. `None`: it is of none.
fn forged(mut log: Value) -> Option<Value> {
    let id: B256 = serde_json::from_value(log["topics"][1].clone()).ok()?;
    let id = U256::from_be_bytes(id.0) + U256::from(FORGED);
    log["topics"][1] = json!(B256::from(id));
    let index: U64 = serde_json::from_value(log["logIndex"].clone()).ok()?;
    log["logIndex"] = json!(index + U64::from(1_000));
    Some(log)
}

/// Asks of the node as if its chain ended at `knows`.
fn bend_question(
    call: &mut Value,
    method: &str,
    knows: Option<u64>,
    finalized: Option<u64>,
) -> Bent {
    let at = match method {
        "eth_getBlockByNumber" => 0,
        "eth_call"
        | "eth_estimateGas"
        | "eth_getBalance"
        | "eth_getTransactionCount"
        | "eth_getCode" => 1,
        "eth_blockNumber" => {
            return knows.map_or(Bent::Asked, |knows| Bent::Known(json!(U64::from(knows))));
        }
        "eth_getLogs" => {
            return knows.map_or(Bent::Asked, |knows| bend_range(&mut call["params"][0], knows));
        }
        _ => return Bent::Asked,
    };
    let block = call["params"].get(at).and_then(Value::as_str).unwrap_or("latest").to_owned();
    match (block.as_str(), knows, finalized) {
        ("safe" | "finalized", _, Some(number)) => call["params"][at] = json!(U64::from(number)),
        ("latest" | "pending", Some(knows), _) => {
            if let Some(params) = call["params"].as_array_mut() {
                params.truncate(at + 1);
                if params.len() > at {
                    params[at] = json!(U64::from(knows));
                } else {
                    params.push(json!(U64::from(knows)));
                }
                if method == "eth_getBlockByNumber" {
                    params.push(json!(false));
                }
            }
        }
        (number, Some(knows), _) if above(number, knows) => {
            return match method {
                "eth_getBlockByNumber" => Bent::Known(Value::Null),
                _ => Bent::Unknown,
            };
        }
        _ => {}
    }
    Bent::Asked
}

fn above(number: &str, knows: u64) -> bool {
    let digits = number.strip_prefix("0x").unwrap_or_default();
    u64::from_str_radix(digits, 16).is_ok_and(|number| number > knows)
}

/// A range is answered as far as the node knows it, without an error.
fn bend_range(filter: &mut Value, knows: u64) -> Bent {
    if filter["fromBlock"].as_str().is_some_and(|from| above(from, knows)) {
        return Bent::Known(json!([]));
    }
    if filter["toBlock"].as_str().is_some_and(|to| above(to, knows)) {
        filter["toBlock"] = json!(U64::from(knows));
    }
    Bent::Asked
}

/// Takes from an answer what is above `knows`. Whether anything was.
fn hide_above(answer: &mut Value, method: &str, knows: u64) -> bool {
    let number = |value: &Value| value.as_str().is_some_and(|number| above(number, knows));
    let result = &mut answer["result"];
    let hidden = match method {
        "eth_getBlockByHash" => number(&result["number"]),
        "eth_getTransactionReceipt" => number(&result["blockNumber"]),
        "eth_getLogs" => {
            result.as_array().is_some_and(|logs| logs.iter().any(|log| number(&log["blockNumber"])))
        }
        _ => false,
    };
    if hidden {
        *result = Value::Null;
    }
    hidden
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        // The client may leave at any moment.
                        let _left = connection(stream, &shared).await;
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true).map_err(|e| Error::Io("nodelay".into(), e))?;
    let mut method = [0; 4];
    loop {
        match stream.peek(&mut method).await.map_err(|e| Error::Io("peek".into(), e))? {
            // It left without a word.
            0 => return Ok(()),
            1..4 => sleep(Duration::from_millis(1)).await,
            _ => break,
        }
    }
    if &method == b"GET " {
        web_socket(stream, shared).await
    } else {
        http(stream, shared).await.map_err(|e| Error::Io("http".into(), e))
    }
}

/// Told of the subscription's name.
type Subscriber = mpsc::Sender<Value>;

async fn web_socket(mut stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let no_upgrade = {
        let mut script = shared.script();
        script.upgrades.push(Instant::now());
        script.lies.no_upgrade
    };
    if let Some((status, seconds)) = no_upgrade {
        let head = format!(
            "HTTP/1.1 {status} Told\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n"
        );
        let mut question = [0; 4096];
        let refusing = async {
            let _part = stream.read(&mut question).await?;
            stream.write_all(head.as_bytes()).await
        };
        return refusing.await.map_err(|e| Error::Io("an upgrade".into(), e));
    }
    let failed = |e: tokio_tungstenite::tungstenite::Error| Error::other(e.to_string());
    let socket = tokio_tungstenite::accept_async(stream).await.map_err(failed)?;
    let (mut writer, mut reader) = socket.split();
    let (subscriber, mut names) = mpsc::channel(8);
    let mut answering = JoinSet::new();
    let mut tick = interval(HEAD_EVERY);
    let (mut subscription, mut told) = (None, Value::Null);
    loop {
        let out = tokio::select! {
            message = reader.next() => {
                let Some(Ok(message)) = message else { return Ok(()) };
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(&text)?;
                let (shared, subscriber) = (shared.clone(), subscriber.clone());
                answering.spawn(async move { shared.answer(message, Some(&subscriber)).await });
                continue;
            }
            Some(Ok(answer)) = answering.join_next() => match answer {
                Answer::Json(answer) => answer.to_string(),
                Answer::Malformed => "{this is no JSON".to_owned(),
                Answer::Nothing => continue,
                Answer::Status(_) | Answer::Later(..) | Answer::Failed(..) => return Ok(()),
                Answer::Flood => format!("\"{}\"", " ".repeat(FLOOD)),
            },
            Some(name) = names.recv() => {
                subscription = Some(name);
                continue;
            }
            _ = tick.tick(), if subscription.is_some() => {
                let Some(head) = shared.head().await else { continue };
                if head["hash"] == told {
                    continue;
                }
                told = head["hash"].clone();
                json!({"jsonrpc": "2.0", "method": "eth_subscription",
                    "params": {"subscription": subscription, "result": head}})
                .to_string()
            }
        };
        writer.send(Message::text(out)).await.map_err(failed)?;
    }
}

/// Writes until nobody takes it.
async fn flood(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Told\r\ncontent-type: application/json\r\n\r\n").await?;
    let water = vec![b' '; 1 << 16];
    loop {
        stream.write_all(&water).await?;
        shared.script().flooded += water.len();
    }
}

/// Requests one after the other on one connection.
async fn http(mut stream: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let message = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
        let mut more = String::new();
        let (status, body) = match shared.answer(message, None).await {
            Answer::Later(status, seconds) => {
                more = format!("retry-after: {seconds}\r\n");
                (status, String::new())
            }
            Answer::Json(answer) => (200, answer.to_string()),
            Answer::Malformed => (200, "{this is no JSON".to_owned()),
            Answer::Status(status) => (status, String::new()),
            Answer::Failed(status, answer) => (status, answer.to_string()),
            Answer::Flood => return flood(stream, shared).await,
            // Until the client has had enough.
            Answer::Nothing => {
                let mut more = [0; 64];
                while stream.read(&mut more).await? > 0 {}
                return Ok(());
            }
        };
        let head = format!(
            "HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
    }
}
