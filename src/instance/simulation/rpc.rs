//! The node as one life of the process reaches it: JSON-RPC messages in and out; late, missing,
//! lagging, forgetful or untrue. Everything above is the product's own provider. Several machines may
//! stand behind one URL, and each message reaches any of them; `lies` has what a URL answers wrongly.

mod node_answers;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    ethereum::Side,
    lies::{Refusal, refused},
    world::Life,
};
use crate::{
    chain::provider::{CALL_DEADLINE, ChainRole, endpoint::Endpoint},
    domain::{Address, B256},
};

const HOSTS: [&str; 2] = ["node-0", "node-1"];
const OF_ETHEREUM: [&str; 2] = ["ethereum-0", "ethereum-1"];
/// Weight of the death point where a raw transaction was sent and the response has not arrived.
const RISKY: u64 = 8;
/// How long a sender may wait for the receipt (EIP-7966), and how often it is looked up.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// What happens to one message.
pub(super) enum CallFate {
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
pub(super) struct Call {
    pub id: u64,
    pub method: String,
    pub params: Value,
}

impl Call {
    /// The calls of a message, and whether they are a batch.
    pub fn read(message: &str) -> (bool, Vec<Self>) {
        let together = message.starts_with('[');
        let calls = if together {
            serde_json::from_str(message).expect("the provider writes well")
        } else {
            vec![serde_json::from_str(message).expect("the provider writes well")]
        };
        (together, calls)
    }

    fn is_raw(&self) -> bool {
        self.method.starts_with("eth_sendRawTransaction")
    }

    /// Returns whether this call only keeps the connection alive; there are several a second. The world
    /// has faults of their own for these (`unannounced`, `reconnect`, `away`).
    pub fn keeps_connection(&self) -> bool {
        let header_of = |block: &str| {
            self.method == "eth_getBlockByNumber" && self.params[0].as_str() == Some(block)
        };
        self.method == "eth_chainId" || header_of("latest") || header_of("0x0")
    }
}

/// One URL, as this life reaches it.
pub(super) fn endpoint(life: &Life, wallet: Address, (side, index): (Side, usize)) -> Endpoint {
    let life = life.clone();
    let carrier = Arc::new(move |message: String| {
        let node = Node { life: life.clone(), wallet, side, endpoint: index };
        let exchange: futures_util::future::BoxFuture<'static, Option<Vec<u8>>> =
            Box::pin(async move { node.exchange(&message).await });
        exchange
    });
    match side {
        Side::Gateway => Endpoint::with_transport(HOSTS[index], carrier),
        Side::Ethereum => {
            Endpoint::with_transport(OF_ETHEREUM[index], carrier).with_role(ChainRole::Ethereum)
        }
    }
}

/// The node that a message reaches.
struct Node {
    life: Life,
    wallet: Address,
    side: Side,
    endpoint: usize,
}

impl Node {
    fn name(&self) -> &'static str {
        match self.side {
            Side::Gateway => HOSTS[self.endpoint],
            Side::Ethereum => OF_ETHEREUM[self.endpoint],
        }
    }

    fn kind(&self) -> &'static str {
        match self.side {
            Side::Gateway => "node",
            Side::Ethereum => "ethereum",
        }
    }

    fn answers(&self, calls: &[Call], fate: &CallFate) -> Option<(usize, Answers)> {
        self.life.world.state().at(self.side, |state| state.answer(self, calls, fate))
    }

    /// Exchanges one message for its response; `None` if there is none.
    async fn exchange(&self, message: &str) -> Option<Vec<u8>> {
        let (together, calls) = Call::read(message);
        if calls.iter().all(Call::keeps_connection) {
            let pause = self.life.world.state().millis(20);
            sleep(pause).await;
            let answers = self.answers(&calls, &CallFate::Answered)?.1;
            return Some(spelled(together, answers.into_iter().map(unnoted)));
        }
        self.life.death_point().await;
        let raw = calls.iter().any(Call::is_raw);
        let (fate, pause) = draw_fate(&self.life, raw);
        // The time to the node; the rest is the time back.
        sleep(pause / 3).await;
        let refuses = together && self.life.world.state().plan.no_arrays[self.endpoint];
        let answered = if refuses {
            self.life.world.state().record_fault("array");
            let odd = refused(-32_600, "batch requests are disabled", None);
            Some((0, vec![(None, (Err(odd), "no arrays".to_owned()))]))
        } else {
            self.answers(&calls, &fate)
        };
        let what = calls.iter().map(|call| call.method.as_str()).collect::<Vec<_>>().join(", ");
        let Some((machine, mut answers)) = answered else {
            self.life.world.say(format_args!("{}: {what}: away", self.name()));
            return None;
        };
        let notes: Vec<&str> = answers.iter().map(|(_, (_, note))| note.as_str()).collect();
        let (notes, how) = (notes.join("; "), how(&fate));
        self.life.world.say(format_args!("{} {machine}: {what}: {how}{notes}", self.kind()));
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
                Some(spelled(!refuses && together, answers.into_iter().map(unnoted)))
            }
            CallFate::Unanswered | CallFate::Lost => None,
        }
    }

    /// Waits for the receipt (EIP-7966).
    async fn receipt_in_time(&self, machine: usize, hash: B256) -> Result<Value, Refusal> {
        let until = Instant::now() + SYNC_PATIENCE;
        while Instant::now() < until {
            sleep(SYNC_EVERY).await;
            let (told, _) =
                self.life.world.state().at(self.side, |state| state.receipt(machine, hash));
            if let Ok(receipt @ Value::Object(_)) = told {
                return Ok(receipt);
            }
        }
        Err(refused(4, "the transaction was added to the mempool but wasn't processed", None))
    }
}

/// Draws what happens to a message, and how long it takes. `raw`: it is a raw transaction.
pub(super) fn draw_fate(life: &Life, raw: bool) -> (CallFate, Duration) {
    let mut state = life.world.state();
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

fn how(fate: &CallFate) -> &'static str {
    match fate {
        CallFate::Answered | CallFate::Refused(..) => "",
        CallFate::Unanswered => "unanswered: ",
        CallFate::Lost => "lost",
    }
}

/// Without its form in the trace.
fn unnoted((id, (said, _)): (Option<u64>, Said)) -> (Option<u64>, Result<Value, Refusal>) {
    (id, said)
}

/// The message that answers.
pub(super) fn spelled(
    together: bool,
    answers: impl Iterator<Item = (Option<u64>, Result<Value, Refusal>)>,
) -> Vec<u8> {
    let each = answers.map(|(id, said)| match said {
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
