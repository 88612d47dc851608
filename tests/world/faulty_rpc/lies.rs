//! What a test has the node say that is not so: of the chain, and to single calls.

use std::time::Duration;

use alloy::primitives::{Address, B256};
use serde_json::Value;

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
    pub(super) method: String,
    pub(super) lie: Lie,
    pub(super) times: Option<usize>,
    pub(super) share: f64,
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
    /// It does not have this contract's state of blocks that are asked for by their number.
    pub no_old_state_of: Option<Address>,
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
