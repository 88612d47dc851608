//! Several calls to one node: as a JSON-RPC batch if the node accepts that, else one by one.
//!
//! Support is found by trying. If a batch is refused, the same calls are made one by one at once; if
//! those succeed, the node does not support batches, and none is sent for [`TRIED_AGAIN_AFTER`].

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, value::RawValue};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    RpcError,
    client::{Client, NotTogether},
    message::NO_PARAMETERS,
};

/// Nodes are upgraded, and providers' plans change.
const TRIED_AGAIN_AFTER: Duration = Duration::from_hours(1);
/// Separate calls to one node at the same time.
const APART_AT_ONCE: usize = 8;

/// A method and its parameters.
pub(super) type Call = (&'static str, Value);
/// Result of a call.
pub(super) type Said = Result<Box<RawValue>, RpcError>;

/// Whether a node accepts batches, as far as known.
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    refused_at: Option<Instant>,
    said: bool,
}

impl Batches {
    pub(super) fn are_taken(&self) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused_at.is_none_or(|at| at.elapsed() >= TRIED_AGAIN_AFTER)
    }

    fn refused(&self, error: &RpcError) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.refused_at = Some(Instant::now());
        if std::mem::replace(&mut known.said, true) {
            debug!(%error, "a gateway node still refuses several calls in one message");
        } else {
            info!(%error, "a gateway node refuses several calls in one message: each is made by itself");
        }
    }
}

/// The result of each call, in order. Fails if the node does not answer or is overloaded.
pub(super) async fn ask_each(
    client: &Client,
    batches: &Batches,
    calls: Vec<Call>,
) -> Result<Vec<Said>, RpcError> {
    let apart = ask_apart(client, calls.clone());
    together_or_apart(client, batches, &calls, Ok, apart).await
}

/// Sends several calls as a batch and reads the results together; runs `apart` instead if the node does
/// not accept batches.
pub(super) async fn together_or_apart<T>(
    client: &Client,
    batches: &Batches,
    calls: &[Call],
    read: impl FnOnce(Vec<Said>) -> Result<T, RpcError>,
    apart: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    if calls.len() < 2 || !client.has_arrays() || !batches.are_taken() {
        return apart.await;
    }
    let error = match client.ask_together(calls).await {
        Ok(said) => return read(said),
        Err(NotTogether { error, maybe_apart: false }) => return Err(error),
        Err(NotTogether { error, maybe_apart: true }) => error,
    };
    let answer = apart.await?;
    batches.refused(&error);
    Ok(answer)
}

/// Why a node refuses batches, if it does.
pub(super) async fn refusal(client: &Client) -> Result<Option<RpcError>, RpcError> {
    if !client.has_arrays() {
        return Ok(None);
    }
    let calls = [("eth_chainId", NO_PARAMETERS), ("eth_blockNumber", NO_PARAMETERS)];
    match client.ask_together(&calls).await {
        Ok(_) => Ok(None),
        Err(NotTogether { error, maybe_apart: true }) => Ok(Some(error)),
        Err(NotTogether { error, maybe_apart: false }) => Err(error),
    }
}

async fn ask_apart(client: &Client, calls: Vec<Call>) -> Result<Vec<Said>, RpcError> {
    let at_once = if client.has_arrays() { APART_AT_ONCE } else { calls.len().max(1) };
    let asked = calls.into_iter().map(|(method, params)| async move {
        match client.ask::<Box<RawValue>>(method, &params).await {
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
