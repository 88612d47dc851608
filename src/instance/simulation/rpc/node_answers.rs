//! What a node answers to each method: from the chain as this node sees it, or untrue.

use alloy::primitives::{U64, U128};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Answers, Call, CallFate, Node, Said};
use crate::{
    chain::reader::Head,
    domain::{Address, B256, Bytes, Event, U256},
    instance::simulation::{
        chain::{Block, Transaction, emitter},
        deployment::HOST_ID,
        lies::{BlockReceipts, Refusal, refused},
        requests::number_of,
        world::WorldState,
    },
};

/// Distance of the finality tags from the head; deeper than any reorganisation.
const SAFE_AFTER: u64 = 8;
const FINAL_AFTER: u64 = 16;

fn hex(number: u64) -> Value {
    json!(U64::from(number))
}

/// A log in a node's JSON.
fn log(event: &Event) -> Value {
    json!({
        "address": emitter(event), "topics": event.topics, "data": event.data,
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
    pub(super) fn answer(
        &mut self,
        node: &Node,
        calls: &[Call],
        fate: &CallFate,
    ) -> Option<(usize, Answers)> {
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

    pub(super) fn say(
        &mut self,
        node: &Node,
        machine: usize,
        Call { method, params, .. }: &Call,
    ) -> Said {
        let endpoint = node.endpoint;
        let hash = |place: usize| -> B256 {
            serde_json::from_value(params[place].clone()).expect("the provider writes well")
        };
        let told = match method.as_str() {
            "eth_chainId" => Ok(hex(self.chain.id)),
            "eth_getBlockByNumber" => return self.header(node, machine, params),
            "eth_getBlockByHash" => {
                let sight = self.chain.visible_height(machine);
                let block = self.chain.block_of(hash(0), sight).cloned();
                return self.block_told(node, block, false);
            }
            "eth_getLogs" => return self.logs(endpoint, machine, &params[0]),
            "eth_getBlockReceipts" => return self.receipts(endpoint, machine, hash(0)),
            "eth_getTransactionReceipt" => return self.receipt(machine, hash(0)),
            "eth_getTransactionByHash" => Ok(self.asking_transaction(machine, hash(0))),
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
            let mut emitting: Vec<B256> =
                block.events.iter().map(|event| event.transaction).collect();
            emitting.dedup();
            emitting.into_iter().chain(sent.map(|sent| sent.hash)).map(|hash| json!(hash)).collect()
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
        // For each topic what it may be; `None`: anything.
        let topics: Vec<Option<Vec<B256>>> =
            serde_json::from_value(filter["topics"].clone()).unwrap_or_default();
        let named = &filter["address"];
        let is_named = |event: &Event| {
            let own = json!(emitter(event));
            named.as_array().map_or(named.is_null() || *named == own, |all| all.contains(&own))
        };
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
            let of_range = matches!(of, Where::Numbers { .. });
            let mut events = self.shown_by(endpoint, events, of_range);
            events.retain(|event| {
                let mut each = topics.iter().enumerate();
                let is_one_of = |place: usize, any: &[B256]| {
                    event.topics.get(place).is_some_and(|topic| any.contains(topic))
                };
                is_named(event)
                    && each.all(|(place, any)| any.as_ref().is_none_or(|any| is_one_of(place, any)))
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
                let events = if hides { self.shown_by(endpoint, events, false) } else { events };
                let logs: Vec<Value> = events.iter().map(log).collect();
                (Ok(json!([{ "logs": logs }])), format!("{hash}: {}", numbers(&events)))
            }
            Err(error) => (Err(error.clone()), error.message.to_owned()),
        }
    }

    pub(super) fn receipt(&mut self, machine: usize, hash: B256) -> Said {
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

    /// A transaction that makes a request.
    fn asking_transaction(&self, machine: usize, hash: B256) -> Value {
        let sight = self.chain.visible_height(machine);
        let Some((ask, block)) = self.chain.ask_of(hash, sight) else { return Value::Null };
        let (to, input) = ask.call();
        json!({
            "hash": hash, "from": Address::repeat_byte(0xaa), "to": to, "input": input,
            "blockNumber": hex(block.number), "blockHash": block.hash,
        })
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
        if let Some(told) = self.gateway_view(to, data, wallet, number) {
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
        if let Some(vote) = transaction.vote() {
            self.judge_vote(vote.id, &vote.payload);
        }
        let answers = match transaction.answers() {
            Some(id) => format!("{}", id & U256::from(u64::MAX)),
            None => "nothing".to_owned(),
        };
        let mempool = self.plan.mempool || self.chain.id == HOST_ID;
        let ahead = self.plan.executes_ahead;
        let offered = self.chain.offer(machine, transaction, mempool, ahead);
        let offered = offered
            .map_err(|(text, data)| refused(if data.is_some() { 3 } else { -32_000 }, text, data));
        let taken = offered.as_ref().map_or_else(|error| error.message, |_| "taken");
        let note = format!("{hash} nonce {nonce} for {answers}: {taken}");
        (offered.map(|hash| json!(hash)), note)
    }
}
