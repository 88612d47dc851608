//! Questions and answers of the real node, bent: as if its chain ended earlier, or had other logs.

use alloy::primitives::{B256, U64, U256};
use serde_json::{Value, json};

use super::lies::FORGED;

/// What comes of a question to a node that does not know all blocks.
pub(super) enum Bent {
    /// It goes to the real node.
    Asked,
    /// This is its answer.
    Known(Value),
    /// An error is.
    Unknown,
}

/// A log like this one of another request. `None`: it is of none.
pub(super) fn forged(mut log: Value) -> Option<Value> {
    let id: B256 = serde_json::from_value(log["topics"][1].clone()).ok()?;
    let id = U256::from_be_bytes(id.0) + U256::from(FORGED);
    log["topics"][1] = json!(B256::from(id));
    let index: U64 = serde_json::from_value(log["logIndex"].clone()).ok()?;
    log["logIndex"] = json!(index + U64::from(1_000));
    Some(log)
}

/// Asks of the node as if its chain ended at `knows`.
pub(super) fn bend_question(
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
pub(super) fn hide_above(answer: &mut Value, method: &str, knows: u64) -> bool {
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
