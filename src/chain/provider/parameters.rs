//! How parameters of calls are written. Pure.

use serde_json::{Value, json};

use crate::chain::reader::{BlockId, EthCall, LogFilter, LogRange};

/// Encodes the parameter of `eth_getLogs`.
pub(super) fn filter_parameter(
    LogFilter { addresses, topic0: first, topic1: second }: LogFilter<'_>,
    range: LogRange,
) -> Value {
    let address = if let [one] = addresses { json!(one) } else { json!(addresses) };
    // Nodes differ in what an empty list means.
    let topics = match (first, second) {
        ([], []) => json!([]),
        ([], second) => json!([null, second]),
        (first, []) => json!([first]),
        (first, second) => json!([first, second]),
    };
    match range {
        LogRange::Block(hash) => {
            json!([{ "address": address, "topics": topics, "blockHash": hash }])
        }
        LogRange::Numbers { from, to } => json!([{
            "address": address, "topics": topics, "fromBlock": quantity(from), "toBlock": quantity(to),
        }]),
    }
}

pub(super) fn quantity(number: u64) -> String {
    format!("{number:#x}")
}

/// Encodes a block parameter. A hash is distinguished from a number by its form (EIP-1898).
pub(super) fn block_parameter(at: BlockId) -> Value {
    match at {
        BlockId::Latest => json!("latest"),
        BlockId::Safe => json!("safe"),
        BlockId::Finalized => json!("finalized"),
        BlockId::Number(number) => json!(quantity(number)),
        BlockId::Hash(hash) => json!({ "blockHash": hash }),
    }
}

pub(super) fn call_parameter(call: &EthCall) -> serde_json::Value {
    let mut parameter = json!({ "to": call.to, "data": call.data });
    if let Some(from) = call.from {
        parameter["from"] = json!(from);
    }
    if let Some(gas) = call.gas {
        parameter["gas"] = json!(quantity(gas));
    }
    parameter
}
