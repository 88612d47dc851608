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

mod lies;
mod bending;
mod connections;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use alloy::primitives::{B256, Bytes, U64, keccak256};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};

pub use self::lies::{Arrays, FORGED, Lie, Lies, Logs, Rule};
use self::{
    bending::{Bent, bend_question, forged, hide_above},
    connections::{Subscriber, serve},
};
use super::{Error, Result, http_client, proxy::Proxy};

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
        if method == "eth_call"
            && let Some(contract) = lies.no_old_state_of
            && call["params"][0]["to"].as_str().is_some_and(|to| to.parse() == Ok(contract))
            && call["params"][1].as_str().is_some_and(|block| block.starts_with("0x"))
        {
            return Self::tell(&Lie::error(-32000, "missing trie node 8b16 (path )"), call);
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
