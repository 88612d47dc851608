//! The node as one life of the process meets it: late, mute, forgetful. Several machines may stand behind
//! one URL, and each call meets any of them.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::{sync::mpsc, time::sleep};

use super::world::{Life, State};
use crate::{
    domain::{Address, Bytes},
    gateway::provider::{CALL_DEADLINE, NodeId, RpcError},
};

pub(super) const HOST: &str = "node";
/// A raw transaction is out, and nobody here has heard so.
const RISKY: u64 = 8;

/// What goes on after its caller was answered.
pub(super) type Straggler = BoxFuture<'static, ()>;

#[derive(Clone)]
pub(super) struct SimulatedNode {
    pub life: Life,
    pub wallet: Address,
    /// The endpoint that is asked alone.
    pub only: Option<NodeId>,
    pub stragglers: mpsc::Sender<Straggler>,
}

/// What becomes of one call.
enum Fate {
    /// Done and answered.
    Answered,
    /// Done; the answer is lost.
    Unanswered,
    /// Never heard of.
    Lost,
    Refused(i64, &'static str),
}

pub(super) fn unavailable(what: &str) -> RpcError {
    RpcError::Unavailable { host: HOST.into(), what: what.into() }
}

pub(super) fn refused(code: i64, message: &str, data: Option<Bytes>) -> RpcError {
    RpcError::Refused { host: HOST.into(), code, message: message.into(), data }
}

const PACKETS: [(i64, &str); 5] = [
    (-32_603, "internal error"),
    (429, "too many requests"),
    (-32_005, "limit exceeded"),
    (-32_601, "method not found"),
    (-32_000, "header not found"),
];

/// What a node says of a raw transaction without its being so, and whether it takes it.
const UNTRUE: [(&str, bool); 6] = [
    ("already known", false),
    ("nonce too low", false),
    ("nonce too low", true),
    ("replacement transaction underpriced", false),
    ("insufficient funds for gas * price + value", false),
    ("internal error", true),
];

impl SimulatedNode {
    fn fate(&self, raw: bool) -> (Fate, Duration) {
        let mut state = self.life.world.state();
        let faults = state.plan.faults;
        let quick = state.millis(20);
        if raw && state.fault(faults.lost) {
            return (Fate::Lost, state.millis(3000));
        }
        if raw && state.fault(faults.silent) {
            return (Fate::Unanswered, state.millis(3000));
        }
        if raw && state.fault(faults.untrue) {
            let (text, takes) = UNTRUE[state.dice.usize(..UNTRUE.len())];
            let fate = if takes { Fate::Unanswered } else { Fate::Refused(-32_000, text) };
            return (fate, quick);
        }
        if state.fault(faults.never) {
            return (if state.dice.bool() { Fate::Lost } else { Fate::Unanswered }, CALL_DEADLINE);
        }
        if state.fault(faults.packet) {
            let (code, text) = PACKETS[state.dice.usize(..PACKETS.len())];
            return (Fate::Refused(code, text), quick);
        }
        if state.fault(faults.late) {
            return (Fate::Answered, state.millis(9000));
        }
        (Fate::Answered, quick)
    }

    /// One call of one endpoint, from the question to the answer.
    pub async fn attempt<T>(
        &self,
        endpoint: usize,
        what: &str,
        raw: bool,
        act: impl Fn(&mut State, usize) -> (Result<T, RpcError>, String) + Send,
    ) -> Result<T, RpcError> {
        self.life.point().await;
        let (fate, pause) = self.fate(raw);
        // On its way there; the rest on its way back.
        sleep(pause / 3).await;
        let (answer, asked, note) = {
            let mut state = self.life.world.state();
            let asked = state.machine(endpoint);
            let (answer, note) = match fate {
                _ if state.endpoints[endpoint].is_away() => {
                    (Err(unavailable("not connected")), "away".to_owned())
                }
                Fate::Answered => act(&mut state, asked),
                Fate::Unanswered => {
                    let done = act(&mut state, asked).1;
                    (Err(unavailable("no answer in time")), format!("unanswered: {done}"))
                }
                Fate::Lost => (Err(unavailable("cannot connect")), "lost".to_owned()),
                Fate::Refused(code, text) => (Err(refused(code, text, None)), text.to_owned()),
            };
            (answer, asked, note)
        };
        self.life.world.say(format_args!("node {asked}: {what}: {note}"));
        sleep(pause / 3 * 2).await;
        self.life.point_of(if raw { RISKY } else { 1 }).await;
        answer
    }
}
