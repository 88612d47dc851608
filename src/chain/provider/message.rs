//! JSON-RPC 2.0 messages: encodes calls, decodes answers. Pure.
//!
//! Nodes and proxies leave out different fields: only what is needed is read, borrowed from the message.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{chain::quirks, domain::Bytes};

/// Parameters of a call without any.
pub(super) const NO_PARAMETERS: [(); 0] = [];

/// Encodes one call.
pub(super) fn encode_call<P: Serialize>(
    id: u64,
    method: &str,
    params: &P,
) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Question<'a, P> {
        jsonrpc: &'a str,
        id: u64,
        method: &'a str,
        params: &'a P,
    }
    serde_json::to_string(&Question { jsonrpc: "2.0", id, method, params })
}

/// A batch that is being encoded.
#[derive(Debug, Default)]
pub(super) struct BatchText(String);

impl BatchText {
    pub(super) fn push(&mut self, call: &str) {
        self.0.push(if self.0.is_empty() { '[' } else { ',' });
        self.0.push_str(call);
    }

    pub(super) fn into_text(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('[');
        }
        self.0.push(']');
        self.0
    }
}

/// The answer to one call.
#[derive(Debug)]
pub(super) struct RpcResponse<'m> {
    /// Id of the call. `None`: the node could not read the id.
    pub id: Option<u64>,
    pub result: Result<&'m RawValue, ErrorObject>,
}

/// An error object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ErrorObject {
    pub code: i64,
    pub message: String,
    /// Data of a revert.
    pub data: Option<Bytes>,
    /// When to call again (Infura's `data.rate.backoff_seconds`).
    pub retry_after: Option<Duration>,
}

/// Content of a message.
#[derive(Debug)]
pub(super) enum Message<'m> {
    Single(RpcResponse<'m>),
    Batch(Vec<RpcResponse<'m>>),
    /// A notification of a subscription.
    Notification(&'m RawValue),
}

#[derive(Deserialize)]
struct RawMessage<'m> {
    #[serde(borrow, default)]
    id: Option<&'m RawValue>,
    #[serde(borrow, default, deserialize_with = "present_or_null")]
    result: Option<&'m RawValue>,
    #[serde(borrow, default)]
    error: Option<&'m RawValue>,
    #[serde(borrow, default)]
    params: Option<&'m RawValue>,
}

/// Distinguishes a field that is `null` from a missing one.
fn present_or_null<'de: 'm, 'm, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'m RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct NotificationParams<'m> {
    #[serde(borrow)]
    result: &'m RawValue,
}

/// Decodes a message. The error says what is wrong with it.
pub(super) fn read(text: &[u8]) -> Result<Message<'_>, String> {
    let failed = |error: serde_json::Error| error.to_string();
    let begins = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if begins == Some(&b'[') {
        let many: Vec<RawMessage<'_>> = serde_json::from_slice(text).map_err(failed)?;
        return Ok(Message::Batch(many.iter().map(parse_response).collect::<Result<_, _>>()?));
    }
    let raw: RawMessage<'_> = serde_json::from_slice(text).map_err(failed)?;
    if let (None, None, None, Some(params)) = (raw.id, raw.result, raw.error, raw.params) {
        let NotificationParams { result } = serde_json::from_str(params.get()).map_err(failed)?;
        return Ok(Message::Notification(result));
    }
    parse_response(&raw).map(Message::Single)
}

fn parse_response<'m>(raw: &RawMessage<'m>) -> Result<RpcResponse<'m>, String> {
    // Some nodes return the id as a string.
    let id = raw.id.and_then(|id| id.get().trim_matches('"').parse().ok());
    let outcome = match (raw.error, raw.result) {
        (Some(error), _) => Err(parse_error_object(error)),
        (None, Some(result)) => Ok(result),
        (None, None) => return Err("neither a result nor an error".to_owned()),
    };
    Ok(RpcResponse { id, result: outcome })
}

fn parse_error_object(error: &RawValue) -> ErrorObject {
    let value: Value = serde_json::from_str(error.get()).unwrap_or_default();
    let code = &value["code"];
    let code = code.as_i64().or_else(|| code.as_str()?.parse().ok()).unwrap_or_default();
    let message = value["message"].as_str().or(value.as_str()).unwrap_or_default().to_owned();
    let data = quirks::is_revert(code, &message).then(|| find_hex(&value["data"])).flatten();
    let back_in = value["data"]["rate"]["backoff_seconds"].as_f64();
    let back_in = back_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    ErrorObject { code, message, data, retry_after: back_in }
}

/// The first hex string: nodes return revert data as a string, or as a field of an object.
fn find_hex(value: &Value) -> Option<Bytes> {
    match value {
        // Nethermind and OpenEthereum put this word before the data.
        Value::String(text) => text.trim_start_matches("Reverted ").parse().ok(),
        Value::Object(fields) => fields.values().find_map(find_hex),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> (Option<u64>, Result<String, ErrorObject>) {
        match read(text.as_bytes()).unwrap() {
            Message::Single(RpcResponse { id, result: said }) => {
                (id, said.map(|result| result.get().to_owned()))
            }
            other @ (Message::Batch(_) | Message::Notification(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_is_read_by_what_is_needed_of_it() {
        assert_eq!(
            one(r#"{"jsonrpc":"2.0","id":7,"result":"0x1"}"#),
            (Some(7), Ok("\"0x1\"".into()))
        );
        assert_eq!(one(r#" {"result":null,"id":"7","more":[1]}"#), (Some(7), Ok("null".into())));
        assert_eq!(
            one(r#"{"id":7,"result":{"a":1},"error":null}"#),
            (Some(7), Ok("{\"a\":1}".into()))
        );
        let refused = |code, message: &str| ErrorObject {
            code,
            message: message.into(),
            data: None,
            retry_after: None,
        };
        let odd = r#"{"id":null,"error":{"code":-32600,"message":"batch requests are disabled"}}"#;
        assert_eq!(one(odd), (None, Err(refused(-32600, "batch requests are disabled"))));
        assert_eq!(one(r#"{"error":"no"}"#), (None, Err(refused(0, "no"))));
        assert_eq!(one(r#"{"error":{"code":"-5"}}"#), (None, Err(refused(-5, ""))));
        let reverted = |data: &str| {
            let text = format!(
                r#"{{"id":1,"error":{{"code":3,"message":"execution reverted","data":{data}}}}}"#
            );
            one(&text).1.unwrap_err().data
        };
        let data = Some(Bytes::from_static(&[1, 2, 3, 4]));
        assert_eq!(reverted(r#""0x01020304""#), data);
        assert_eq!(reverted(r#""Reverted 0x01020304""#), data);
        assert_eq!(reverted(r#"{"reason":{"data":"0x01020304"}}"#), data);
        assert_eq!(reverted("[1]"), None);
        let limited = r#"{"id":1,"error":{"code":-32005,"message":"project ID request rate exceeded",
            "data":{"rate":{"allowed_rps":1,"backoff_seconds":1.5}}}}"#;
        let back_in = one(limited).1.unwrap_err().retry_after;
        assert_eq!(back_in, Some(Duration::from_millis(1_500)), "C1");
        // EIP-7966: the data is the transaction hash and no revert data.
        let sent = r#"{"id":1,"error":{"code":4,"message":"not yet mined","data":"0x01020304"}}"#;
        assert_eq!(one(sent).1.unwrap_err().data, None);
        for nonsense in ["", "{", "17", "{}", r#"{"id":1}"#, "[1]", r#"{"id":1,"id":2,"result":3}"#]
        {
            assert!(read(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn many_answers_and_notices_are_told_apart() {
        let many = r#"[{"id":2,"result":1},{"id":1,"error":{"code":1,"message":""}}]"#;
        let Message::Batch(answers) = read(many.as_bytes()).unwrap() else { panic!() };
        assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), [Some(2), Some(1)]);
        let notice = r#"{"jsonrpc":"2.0","method":"eth_subscription",
            "params":{"subscription":"0x1","result":{"number":"0x2"}}}"#;
        let Message::Notification(told) = read(notice.as_bytes()).unwrap() else { panic!() };
        assert_eq!(told.get(), r#"{"number":"0x2"}"#);
    }

    #[test]
    fn a_question_is_what_a_node_takes() {
        let text = encode_call(3, "eth_chainId", &NO_PARAMETERS).unwrap();
        assert_eq!(text, r#"{"jsonrpc":"2.0","id":3,"method":"eth_chainId","params":[]}"#);
        for (calls, expected) in [(&[][..], "[]"), (&["1"], "[1]"), (&["1", "2", "3"], "[1,2,3]")] {
            let mut batch = BatchText::default();
            for call in calls {
                batch.push(call);
            }
            assert_eq!(batch.into_text(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_be_read_or_refused(text in "\\PC{0,200}") {
            let _ = read(text.as_bytes());
        }
    }
}
