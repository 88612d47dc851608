//! The node as one life of the process reaches it: JSON-RPC messages in and out; late, missing,
//! lagging, forgetful or untrue. Everything above is the product's own provider. Several machines may
//! stand behind one URL, and each message reaches any of them; `lies` has what a URL answers wrongly.

use std::{sync::Arc, time::Duration};

use alloy::{
    primitives::{FixedBytes, U64, U128},
    sol_types::SolValue,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    chain::{Block, CHAIN_ID, DECRYPTION, GATEWAY_CONFIG, Transaction, domain},
    lies::{BlockReceipts, Refusal, refused},
    requests::{BUCKETS, COPROCESSORS, number_of},
    world::{Life, WorldState},
};
use crate::{
    chain::{
        provider::{CALL_DEADLINE, endpoint::Endpoint},
        reader::Head,
    },
    contracts::abi,
    domain::{Address, B256, Bytes, Event, SigningDomain, U256},
};

const HOSTS: [&str; 2] = ["node-0", "node-1"];
/// Distance of the finality tags from the head; deeper than any reorganisation.
const SAFE_AFTER: u64 = 8;
const FINAL_AFTER: u64 = 16;
/// Weight of the death point where a raw transaction was sent and the response has not arrived.
const RISKY: u64 = 8;
/// How long a sender may wait for the receipt (EIP-7966), and how often it is looked up.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// What happens to one message.
enum CallFate {
    /// Executed and answered.
    Answered,
    /// Executed; the response is lost.
    Unanswered,
    /// Not received.
    Lost,
    Refused(i64, &'static str),
}

/// A node's response to one call, and its form in the trace.
type Said = (Result<Value, Refusal>, String);

/// Responses to the calls of a message, by call id.
type Answers = Vec<(Option<u64>, Said)>;

const PACKETS: [(i64, &str); 5] = [
    (-32_603, "internal error"),
    (429, "too many requests"),
    (-32_005, "limit exceeded"),
    (-32_601, "method not found"),
    (-32_000, "header not found"),
];

/// Untrue responses to a raw transaction, and whether the node accepts it nevertheless.
const UNTRUE: [(&str, bool); 6] = [
    ("already known", false),
    ("nonce too low", false),
    ("nonce too low", true),
    ("replacement transaction underpriced", false),
    ("insufficient funds for gas * price + value", false),
    ("internal error", true),
];

/// One call of a message.
#[derive(Debug, Deserialize)]
struct Call {
    id: u64,
    method: String,
    params: Value,
}

impl Call {
    fn is_raw(&self) -> bool {
        self.method.starts_with("eth_sendRawTransaction")
    }

    /// Returns whether this call only keeps the connection alive; there are several a second. The world
    /// has faults of their own for these (`unannounced`, `reconnect`, `away`).
    fn keeps_connection(&self) -> bool {
        let header_of = |block: &str| {
            self.method == "eth_getBlockByNumber" && self.params[0].as_str() == Some(block)
        };
        self.method == "eth_chainId" || header_of("latest") || header_of("0x0")
    }
}

/// One URL, as this life reaches it.
pub(super) fn endpoint(life: &Life, wallet: Address, index: usize) -> Endpoint {
    let life = life.clone();
    let carrier = Arc::new(move |message: String| {
        let node = Node { life: life.clone(), wallet, endpoint: index };
        let exchange: futures_util::future::BoxFuture<'static, Option<Vec<u8>>> =
            Box::pin(async move { node.exchange(&message).await });
        exchange
    });
    Endpoint::with_transport(HOSTS[index], carrier)
}

/// The node that a message reaches.
struct Node {
    life: Life,
    wallet: Address,
    endpoint: usize,
}

impl Node {
    fn draw_fate(&self, raw: bool) -> (CallFate, Duration) {
        let mut state = self.life.world.state();
        let faults = state.plan.faults;
        let quick = state.millis(20);
        if raw && state.fault(faults.lost) {
            return (CallFate::Lost, state.millis(3000));
        }
        if raw && state.fault(faults.silent) {
            return (CallFate::Unanswered, state.millis(3000));
        }
        if raw && state.fault(faults.untrue) {
            let (text, takes) = UNTRUE[state.dice.usize(..UNTRUE.len())];
            let fate = if takes { CallFate::Unanswered } else { CallFate::Refused(-32_000, text) };
            return (fate, quick);
        }
        if state.fault(faults.never) {
            return (
                if state.dice.bool() { CallFate::Lost } else { CallFate::Unanswered },
                CALL_DEADLINE,
            );
        }
        if state.fault(faults.packet) {
            let (code, text) = PACKETS[state.dice.usize(..PACKETS.len())];
            return (CallFate::Refused(code, text), quick);
        }
        if state.fault(faults.late) {
            return (CallFate::Answered, state.millis(9000));
        }
        (CallFate::Answered, quick)
    }

    /// Exchanges one message for its response; `None` if there is none.
    async fn exchange(&self, message: &str) -> Option<Vec<u8>> {
        let together = message.starts_with('[');
        let calls: Vec<Call> = if together {
            serde_json::from_str(message).expect("the provider writes well")
        } else {
            vec![serde_json::from_str(message).expect("the provider writes well")]
        };
        if calls.iter().all(Call::keeps_connection) {
            let pause = self.life.world.state().millis(20);
            sleep(pause).await;
            let answers = self.life.world.state().answer(self, &calls, &CallFate::Answered)?.1;
            return Some(spelled(together, answers));
        }
        self.life.death_point().await;
        let raw = calls.iter().any(Call::is_raw);
        let (fate, pause) = self.draw_fate(raw);
        // The time to the node; the rest is the time back.
        sleep(pause / 3).await;
        let refuses = together && self.life.world.state().plan.no_arrays[self.endpoint];
        let answered = if refuses {
            self.life.world.state().record_fault("array");
            let odd = refused(-32_600, "batch requests are disabled", None);
            Some((0, vec![(None, (Err(odd), "no arrays".to_owned()))]))
        } else {
            self.life.world.state().answer(self, &calls, &fate)
        };
        let what = calls.iter().map(|call| call.method.as_str()).collect::<Vec<_>>().join(", ");
        let Some((machine, mut answers)) = answered else {
            self.life.world.say(format_args!("{}: {what}: away", HOSTS[self.endpoint]));
            return None;
        };
        let notes: Vec<&str> = answers.iter().map(|(_, (_, note))| note.as_str()).collect();
        let (notes, how) = (notes.join("; "), how(&fate));
        self.life.world.say(format_args!("node {machine}: {what}: {how}{notes}"));
        let sync = calls[0].method == "eth_sendRawTransactionSync";
        if let (true, CallFate::Answered, Some((_, (Ok(hash), _)))) = (sync, &fate, answers.first())
        {
            let hash = serde_json::from_value(hash.clone()).expect("a hash");
            answers[0].1.0 = self.receipt_in_time(machine, hash).await;
        }
        sleep(pause / 3 * 2).await;
        self.life.weighted_death_point(if raw { RISKY } else { 1 }).await;
        match fate {
            CallFate::Answered | CallFate::Refused(..) => {
                Some(spelled(!refuses && together, answers))
            }
            CallFate::Unanswered | CallFate::Lost => None,
        }
    }

    /// Waits for the receipt (EIP-7966).
    async fn receipt_in_time(&self, machine: usize, hash: B256) -> Result<Value, Refusal> {
        let until = Instant::now() + SYNC_PATIENCE;
        while Instant::now() < until {
            sleep(SYNC_EVERY).await;
            let (told, _) = self.life.world.state().receipt(machine, hash);
            if let Ok(receipt @ Value::Object(_)) = told {
                return Ok(receipt);
            }
        }
        Err(refused(4, "the transaction was added to the mempool but wasn't processed", None))
    }
}

fn how(fate: &CallFate) -> &'static str {
    match fate {
        CallFate::Answered | CallFate::Refused(..) => "",
        CallFate::Unanswered => "unanswered: ",
        CallFate::Lost => "lost",
    }
}

fn spelled(together: bool, answers: Answers) -> Vec<u8> {
    let each = answers.into_iter().map(|(id, (said, _))| match said {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(Refusal { code, message, data }) => json!({
            "jsonrpc": "2.0", "id": id,
            "error": { "code": code, "message": message, "data": data },
        }),
    });
    let mut each: Vec<Value> = each.collect();
    let whole = if together { Value::Array(each) } else { each.remove(0) };
    whole.to_string().into_bytes()
}

fn hex(number: u64) -> Value {
    json!(U64::from(number))
}

/// A log in a node's JSON.
fn log(event: &Event) -> Value {
    json!({
        "address": DECRYPTION, "topics": event.topics, "data": event.data,
        "blockNumber": hex(event.block.number), "blockHash": event.block.hash,
        "transactionHash": event.transaction, "logIndex": hex(event.log_index),
    })
}

fn numbers(events: &[Event]) -> String {
    let numbers: Vec<String> = events.iter().map(|event| number_of(event).to_string()).collect();
    format!("[{}]", numbers.join(" "))
}

/// The block named by number or tag.
fn number_in(at: &Value) -> Option<u64> {
    serde_json::from_value::<U64>(at.clone()).ok().map(|number| number.to())
}

/// The blocks whose logs are queried.
enum Where {
    Block(B256),
    Numbers { from: u64, to: u64 },
}

impl WorldState {
    /// A machine's response to each call, and the machine; `None` if nothing is connected.
    fn answer(&mut self, node: &Node, calls: &[Call], fate: &CallFate) -> Option<(usize, Answers)> {
        let machine = self.machine(node.endpoint);
        let endpoint = &mut self.endpoints[node.endpoint];
        if std::mem::take(&mut endpoint.cut) || endpoint.is_away() {
            return None;
        }
        let answers = calls.iter().map(|call| {
            let said = match fate {
                CallFate::Answered | CallFate::Unanswered => self.say(node, machine, call),
                CallFate::Lost => (Ok(Value::Null), String::new()),
                CallFate::Refused(code, text) => {
                    (Err(refused(*code, text, None)), (*text).to_owned())
                }
            };
            (Some(call.id), said)
        });
        Some((machine, answers.collect()))
    }

    fn say(&mut self, node: &Node, machine: usize, Call { method, params, .. }: &Call) -> Said {
        let endpoint = node.endpoint;
        let hash = |place: usize| -> B256 {
            serde_json::from_value(params[place].clone()).expect("the provider writes well")
        };
        let told = match method.as_str() {
            "eth_chainId" => Ok(hex(CHAIN_ID)),
            "eth_getBlockByNumber" => return self.header(node, machine, params),
            "eth_getBlockByHash" => {
                let sight = self.chain.visible_height(machine);
                let block = self.chain.block_of(hash(0), sight).cloned();
                return self.block_told(node, block, false);
            }
            "eth_getLogs" => return self.logs(endpoint, machine, &params[0]),
            "eth_getBlockReceipts" => return self.receipts(endpoint, machine, hash(0)),
            "eth_getTransactionReceipt" => return self.receipt(machine, hash(0)),
            "eth_getTransactionByHash" => Ok(Value::Null),
            "eth_call" => self.call(node, machine, params).map(|told| json!(told)),
            "eth_estimateGas" => {
                let latest = json!([params[0], "latest"]);
                let gas = self.call(node, machine, &latest).map(|_| 100_000);
                gas.map(|gas| hex(self.shown_estimate(endpoint, gas)))
            }
            "eth_getCode" => Ok(json!("0x01")),
            "eth_getBalance" => Ok(json!(U256::MAX)),
            "eth_getTransactionCount" => self.count(endpoint, machine, &params[1]),
            "eth_maxPriorityFeePerGas" => Ok(json!(U128::from(self.shown_tip(endpoint)))),
            "eth_sendRawTransactionSync" if !self.plan.offers_receipts => {
                Err(refused(-32_601, "the method does not exist", None))
            }
            "eth_sendRawTransaction" | "eth_sendRawTransactionSync" => {
                return self.send(machine, &params[0]);
            }
            other => panic!("nobody has said what {other} answers"),
        };
        let shown = match &told {
            Ok(told) => told.to_string().chars().take(80).collect(),
            Err(Refusal { message, .. }) => (*message).to_owned(),
        };
        (told, shown)
    }

    fn header(&mut self, node: &Node, machine: usize, params: &Value) -> Said {
        let sight = self.chain.visible_height(machine);
        let number = match params[0].as_str() {
            Some("latest") => Some(sight.min(self.endpoints[node.endpoint].announced)),
            Some(tag @ ("safe" | "finalized")) => {
                let under = if tag == "safe" { SAFE_AFTER } else { FINAL_AFTER };
                Some(self.tag_follows(node.endpoint, sight).saturating_sub(under))
            }
            _ => number_in(&params[0]).filter(|number| *number <= sight),
        };
        let block = number.and_then(|number| self.chain.block(number)).cloned();
        self.block_told(node, block, params[1] == json!(true))
    }

    /// A block as the endpoint presents it. `whole`: with full transactions instead of hashes.
    fn block_told(&mut self, node: &Node, block: Option<Block>, whole: bool) -> Said {
        let Some(block) = block else { return (Ok(Value::Null), "unknown".to_owned()) };
        let head = self.as_shown(node.endpoint, &block.head);
        let Head { block: own, parent, bloom, base_fee, gas_limit, .. } = head;
        let mut told = json!({
            "number": hex(own.number), "hash": own.hash, "parentHash": parent,
            "gasLimit": gas_limit.map(hex), "logsBloom": bloom,
            "baseFeePerGas": base_fee.map(U128::from),
        });
        let sent = block.transactions.iter().map(|mined| mined.transaction.as_rpc());
        told["transactions"] = if whole {
            let sent = sent.map(|sent| {
                json!({
                    "hash": sent.hash, "from": node.wallet, "to": sent.to, "input": sent.input
                })
            });
            sent.collect()
        } else {
            let emitting = block.events.iter().map(|event| event.transaction);
            emitting.chain(sent.map(|sent| sent.hash)).map(|hash| json!(hash)).collect()
        };
        (Ok(told), format!("{} {}", own.number, own.hash))
    }

    /// The logs that a machine shows, before its endpoint's broken index is applied.
    fn logs_of(&mut self, machine: usize, of: &Where) -> Result<Vec<Event>, Refusal> {
        let (height, sight) = (self.chain.height(), self.chain.visible_height(machine));
        let blind = self.blind_until.is_some_and(|until| Instant::now() < until);
        let shown = |block: &Block| {
            if blind || block.shown_from > height { Vec::new() } else { block.events.clone() }
        };
        match of {
            Where::Block(hash) => match self.chain.block_of(*hash, sight) {
                Some(block) => Ok(shown(block)),
                None => Err(refused(-32_000, "unknown block", None)),
            },
            Where::Numbers { from, to } => {
                let known = (*from..=*to.min(&sight)).filter_map(|n| self.chain.block(n));
                let mut events: Vec<Event> = known.flat_map(shown).collect();
                let rate = self.plan.faults.shuffled;
                if self.fault(rate) {
                    events.extend(events.clone());
                    self.dice.shuffle(&mut events);
                }
                Ok(events)
            }
        }
    }

    fn logs(&mut self, endpoint: usize, machine: usize, filter: &Value) -> Said {
        let topics: Option<Vec<Vec<B256>>> = serde_json::from_value(filter["topics"].clone()).ok();
        let topics = topics.unwrap_or_default();
        let of = if let Ok(hash) = serde_json::from_value(filter["blockHash"].clone()) {
            Where::Block(hash)
        } else {
            let end = |name: &str| number_in(&filter[name]).expect("the provider writes well");
            Where::Numbers { from: end("fromBlock"), to: end("toBlock") }
        };
        let taken = match of {
            Where::Numbers { from, to } => self.takes_range(endpoint, to.saturating_sub(from) + 1),
            Where::Block(_) => Ok(()),
        };
        let events = taken.and_then(|()| self.logs_of(machine, &of));
        let events = events.map(|events| {
            let mut events = self.shown_by(endpoint, events);
            events.retain(|event| {
                let mut each = topics.iter().enumerate();
                each.all(|(place, any)| any.contains(&event.topics[place]))
            });
            events
        });
        let what = match of {
            Where::Block(hash) => format!("{hash}: "),
            Where::Numbers { from, to } => format!("{from} to {to}: "),
        };
        match events {
            Ok(events) => (Ok(events.iter().map(log).collect()), what + &numbers(&events)),
            Err(error) => (Err(error.clone()), what + error.message),
        }
    }

    /// Receipts of a block, as complete as its logs.
    fn receipts(&mut self, endpoint: usize, machine: usize, hash: B256) -> Said {
        let receipts = self.block_receipts(endpoint);
        if receipts == BlockReceipts::NotOffered {
            let told = refused(-32_601, "the method does not exist", None);
            return (Err(told), "not offered".to_owned());
        }
        match self.logs_of(machine, &Where::Block(hash)) {
            Ok(events) => {
                let hides = receipts == BlockReceipts::Hidden;
                let events = if hides { self.shown_by(endpoint, events) } else { events };
                let logs: Vec<Value> = events.iter().map(log).collect();
                (Ok(json!([{ "logs": logs }])), format!("{hash}: {}", numbers(&events)))
            }
            Err(error) => (Err(error.clone()), error.message.to_owned()),
        }
    }

    fn receipt(&mut self, machine: usize, hash: B256) -> Said {
        let sight = self.chain.visible_height(machine);
        let Some(receipt) = self.chain.receipt(hash, sight) else {
            return (Ok(Value::Null), format!("{hash} no"));
        };
        let rate = self.plan.faults.odd_receipt;
        if self.fault(rate) {
            self.record_fault("receipt");
            return (Ok(json!({ "transactionHash": hash, "status": "fine" })), "odd".to_owned());
        }
        let block = self.chain.block(receipt.block.number);
        let events = block.into_iter().flat_map(|block| &block.events);
        let logs: Vec<Value> = events.filter(|event| event.transaction == hash).map(log).collect();
        let told = json!({
            "transactionHash": hash, "status": hex(receipt.success.into()),
            "blockNumber": hex(receipt.block.number), "blockHash": receipt.block.hash,
            "gasUsed": hex(receipt.gas_used), "effectiveGasPrice": U128::from(receipt.gas_price),
            "logs": logs,
        });
        (Ok(told), format!("{hash} in {} {}", receipt.block.number, receipt.success))
    }

    /// The block whose state is queried, as far as the machine sees.
    fn place(&self, machine: usize, at: &Value) -> Result<u64, Refusal> {
        let sight = self.chain.visible_height(machine);
        let number = if let Value::String(tag) = at {
            if tag.starts_with("0x") { number_in(at) } else { Some(sight) }
        } else {
            let hash = serde_json::from_value(at["blockHash"].clone());
            let hash = hash.expect("the provider writes well");
            self.chain.block_of(hash, sight).map(|block| block.head.block.number)
        };
        let number = number.filter(|number| *number <= sight);
        number.ok_or_else(|| refused(-32_000, "header not found", None))
    }

    fn call(&self, node: &Node, machine: usize, params: &Value) -> Result<Bytes, Refusal> {
        let number = self.place(machine, &params[1])?;
        let Value::Object(call) = &params[0] else { panic!("the provider writes well") };
        let to = serde_json::from_value(call["to"].clone()).expect("an address");
        let data = serde_json::from_value(call["data"].clone()).expect("bytes");
        self.contract(to, &data, node.wallet, number)
    }

    fn contract(
        &self,
        to: Address,
        data: &Bytes,
        wallet: Address,
        number: u64,
    ) -> Result<Bytes, Refusal> {
        if to == GATEWAY_CONFIG {
            let text = |text: &str| text.to_owned();
            if *data == abi::kms_node(wallet).calldata() {
                let node = (wallet, self.core.address(), text("node"), text(""));
                return Ok(node.abi_encode().into());
            }
            for (coprocessor, url) in COPROCESSORS.into_iter().zip(BUCKETS) {
                if *data == abi::coprocessor(coprocessor).calldata() {
                    return Ok((coprocessor, coprocessor, text(url)).abi_encode().into());
                }
            }
        }
        if to == DECRYPTION
            && let Some(id) = data.get(4..36).map(U256::from_be_slice)
            && *data == abi::decryption_consensus_tx_senders(id).calldata()
        {
            let answered = self.chain.is_answered(id, number);
            return Ok(if answered { vec![wallet] } else { vec![] }.abi_encode().into());
        }
        if to == DECRYPTION
            && let Some(told) = described(data)
        {
            return Ok(told);
        }
        match self.chain.execute(Some(to), data, number) {
            Ok(()) => Ok(Bytes::new()),
            Err(data) => Err(refused(3, "execution reverted", Some(data))),
        }
    }

    /// The wallet's transaction count. It is always right for a block named by number.
    fn count(&mut self, endpoint: usize, machine: usize, at: &Value) -> Result<Value, Refusal> {
        let count = self.chain.nonce(self.place(machine, at)?);
        let told = if number_in(at).is_some() { count } else { self.shown_count(endpoint, count) };
        Ok(hex(told))
    }

    fn send(&mut self, machine: usize, raw: &Value) -> Said {
        let raw: Bytes = serde_json::from_value(raw.clone()).expect("the provider writes well");
        let transaction = Transaction::read(&raw);
        let (nonce, hash) = (transaction.nonce, transaction.hash);
        if let Some(what) = transaction.is_out_of_bounds() {
            self.violations.push(format!("{hash} was signed for {what}"));
        }
        let answers = match transaction.answers() {
            Some(id) => format!("{}", id & U256::from(u64::MAX)),
            None => "nothing".to_owned(),
        };
        let (mempool, ahead) = (self.plan.mempool, self.plan.executes_ahead);
        let offered = self.chain.offer(machine, transaction, mempool, ahead);
        let offered = offered
            .map_err(|(text, data)| refused(if data.is_some() { 3 } else { -32_000 }, text, data));
        let taken = offered.as_ref().map_or_else(|error| error.message, |_| "taken");
        let note = format!("{hash} nonce {nonce} for {answers}: {taken}");
        (offered.map(|hash| json!(hash)), note)
    }
}

/// `eip712Domain` and `getVersion` of the Decryption contract.
fn described(data: &Bytes) -> Option<Bytes> {
    if *data == abi::signing_domain().calldata() {
        let SigningDomain { name, version, chain_id, verifying_contract } = domain();
        let (fields, chain_id) = (FixedBytes::from([0x0f]), U256::from(chain_id));
        let none: (B256, Vec<U256>) = (B256::ZERO, Vec::new());
        let told = (fields, name, version, chain_id, verifying_contract, none.0, none.1);
        return Some(told.abi_encode_params().into());
    }
    let asked = *data == abi::decryption_version().calldata();
    asked.then(|| ("Decryption v0.3.0".to_owned(),).abi_encode_params().into())
}
