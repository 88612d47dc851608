//! Several calls to one node: as a JSON-RPC batch if the node accepts that, else one by one.
//!
//! Support is found by trying. If a batch is refused, the same calls are made one by one at once; if
//! those succeed, the node does not support batches, and none is sent for [`RETRIED_AFTER`].

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    ChainRole,
    client::{BatchError, Client},
    message::NO_PARAMETERS,
};
use crate::chain::rpc_error::RpcError;

/// Nodes are upgraded, and providers' plans change.
const RETRIED_AFTER: Duration = Duration::from_hours(1);
/// Calls in one message. Nodes refuse longer ones: geth allows 1,000 unless it is told otherwise.
pub(super) const MOST_IN_ONE: usize = 500;
/// Separate calls to one node at the same time.
const SEPARATE_AT_ONCE: usize = 8;

/// A method and its parameters. Parameters are written when they are sent: those of a large request, kept as JSON
/// values, would take many times the memory of what they say.
pub(super) type RpcCall<P = Value> = (&'static str, P);
/// Result of a call.
pub(super) type RpcReply = Result<Box<RawValue>, RpcError>;

/// Whether a node accepts batches, as far as known.
#[derive(Debug, Default)]
pub(super) struct BatchSupport(Mutex<BatchState>);

#[derive(Debug, Default)]
struct BatchState {
    refused_at: Option<Instant>,
    is_logged: bool,
}

impl BatchSupport {
    pub(super) fn is_supported(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused_at.is_none_or(|at| at.elapsed() >= RETRIED_AFTER)
    }

    fn record_refusal(&self, role: ChainRole, error: &RpcError) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused_at = Some(Instant::now());
        if std::mem::replace(&mut known.is_logged, true) {
            debug!(%error, "a {role} node still refuses several calls in one message");
        } else {
            info!(%error, "a {role} node refuses several calls in one message: each is made by itself");
        }
    }
}

/// The result of each call, in order. Fails if the node does not answer or is overloaded.
pub(super) async fn call_each<P: Serialize + Sync>(
    client: &Client,
    batches: &BatchSupport,
    calls: &[RpcCall<P>],
) -> Result<Vec<RpcReply>, RpcError> {
    let mut replies = Vec::with_capacity(calls.len());
    for part in calls.chunks(MOST_IN_ONE) {
        let apart = call_separately(client, part);
        replies.extend(call_batched_or_separately(client, batches, part, Ok, apart).await?);
    }
    Ok(replies)
}

/// Sends several calls as a batch and reads the results together; runs `apart` instead if the node does
/// not accept batches.
pub(super) async fn call_batched_or_separately<T, P: Serialize + Sync>(
    client: &Client,
    batches: &BatchSupport,
    calls: &[RpcCall<P>],
    read: impl FnOnce(Vec<RpcReply>) -> Result<T, RpcError>,
    apart: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    if calls.len() < 2 || !client.supports_batches() || !batches.is_supported() {
        return apart.await;
    }
    let error = match client.call_batch(calls).await {
        Ok(said) => return read(said),
        Err(BatchError { error, may_call_separately: false }) => return Err(error),
        Err(BatchError { error, may_call_separately: true }) => error,
    };
    let answer = apart.await?;
    batches.record_refusal(client.endpoint().role(), &error);
    Ok(answer)
}

/// Why a node refuses batches, if it does.
pub(super) async fn batch_refusal(client: &Client) -> Result<Option<RpcError>, RpcError> {
    if !client.supports_batches() {
        return Ok(None);
    }
    let calls = [("eth_chainId", NO_PARAMETERS), ("eth_blockNumber", NO_PARAMETERS)];
    match client.call_batch(&calls).await {
        Ok(_) => Ok(None),
        Err(BatchError { error, may_call_separately: true }) => Ok(Some(error)),
        Err(BatchError { error, may_call_separately: false }) => Err(error),
    }
}

async fn call_separately<P: Serialize + Sync>(
    client: &Client,
    calls: &[RpcCall<P>],
) -> Result<Vec<RpcReply>, RpcError> {
    let at_once = if client.supports_batches() { SEPARATE_AT_ONCE } else { calls.len().max(1) };
    let asked = calls.iter().map(|(method, params)| async move {
        match client.call::<Box<RawValue>>(method, params).await {
            Err(
                error @ (RpcError::Unavailable { .. }
                | RpcError::WrongChain { .. }
                | RpcError::WrongGenesis { .. }),
            ) => Err(error),
            Err(error) if error.is_busy() => Err(error),
            said => Ok(said),
        }
    });
    let asked: Vec<_> = asked.collect();
    stream::iter(asked).buffered(at_once).try_collect().await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::chain::provider::{client::tests::client_of, endpoint::Endpoint};

    /// A node that takes at most `most` calls in one message; how many it got in each.
    async fn node(most: usize) -> (Client, Arc<Mutex<Vec<usize>>>) {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let got = messages.clone();
        let carrier = Arc::new(move |message: String| {
            let message: Value = serde_json::from_str(&message).unwrap();
            let answer = |call: &Value| json!({ "jsonrpc": "2.0", "id": call["id"], "result": call["params"] });
            let answered = if let Value::Array(calls) = &message {
                got.lock().unwrap().push(calls.len());
                if calls.len() > most {
                    let error = json!({ "code": -32_600, "message": "batch too large" });
                    json!({ "jsonrpc": "2.0", "id": null, "error": error })
                } else {
                    calls.iter().map(answer).collect()
                }
            } else {
                answer(&message)
            };
            let told: futures_util::future::BoxFuture<'static, Option<Vec<u8>>> =
                Box::pin(async move { Some(answered.to_string().into_bytes()) });
            told
        });
        (client_of(Endpoint::with_transport("node", carrier)).await, messages)
    }

    /// A request may need thousands of answers, and nodes refuse long messages (geth: more than 1,000 calls).
    #[tokio::test]
    async fn however_many_calls_no_message_is_longer_than_nodes_take() {
        for (count, expected) in
            [(500_u32, vec![500]), (501, vec![500, 1]), (2_100, vec![500, 500, 500, 500, 100])]
        {
            let (client, messages) = node(1_000).await;
            let batches = BatchSupport::default();
            let calls: Vec<RpcCall> =
                (0..count).map(|number| ("eth_call", json!(number))).collect();
            let told = call_each(&client, &batches, &calls).await.unwrap();
            let told = told.into_iter().map(|told| told.unwrap().get().parse::<u32>().unwrap());
            assert!(told.eq(0..count), "in order");
            let mut got = messages.lock().unwrap().clone();
            // One call alone is no batch.
            got.extend(vec![1; expected.len() - got.len()]);
            assert_eq!(got, expected);
            assert!(batches.is_supported(), "nothing was refused");
        }
    }
}
