//! A call goes to the node that is read from, then to the next ones, within one deadline.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::ArbitrumProvider;
use crate::chain::{
    provider::{
        CALL_DEADLINE,
        client::Client,
        node_handle::{ATTEMPT_DEADLINE, NodeHandle, client_of, disconnected_error},
    },
    quirks,
    reader::{Attributed, NodeId},
    rpc_error::RpcError,
};

impl ArbitrumProvider {
    pub(super) async fn try_nodes_in_order<Answer, Asking>(
        &self,
        method: &'static str,
        ask: impl Fn(Client, NodeHandle) -> Asking,
    ) -> Result<Attributed<Answer>, RpcError>
    where
        Asking: Future<Output = Result<Answer, RpcError>>,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut tried: Vec<usize> = Vec::new();
        let (mut failed, mut oversized) = (None, Vec::<&NodeHandle>::new());
        let mut busy = None;
        loop {
            let order = match &failed {
                None => match timeout_at(deadline, self.usable()).await {
                    Ok(usable) => usable?,
                    Err(_) => return Err(self.timeout_error(method)),
                },
                Some(_) if self.only.is_some() => Arc::default(),
                Some(_) => self.inner.shared.usable.get().order,
            };
            let left: Vec<usize> =
                order.iter().copied().filter(|index| !tried.contains(index)).collect();
            let nodes = left.iter().filter_map(|index| Some((*index, self.nodes().get(*index)?)));
            // The one with the shortest pause; of equals one that answers such calls in time.
            let free = nodes.map(|(index, node)| (index, node, node.rate_limited_for()));
            let first = free
                .min_by_key(|(_, node, pause)| (*pause, node.attempt_timeout(method).is_none()));
            let Some((index, node, pause)) = first else {
                return Err(failed.or(busy).unwrap_or_else(|| self.timeout_error(method)));
            };
            if !pause.is_zero() {
                if Instant::now() + pause + ATTEMPT_DEADLINE > deadline {
                    let what = format!("it is left alone for {} s more", pause.as_secs() + 1);
                    let busy = || busy.unwrap_or_else(|| node.endpoint.rate_limited(&what));
                    return Err(failed.unwrap_or_else(busy));
                }
                sleep(pause).await;
                continue;
            }
            tried.push(index);
            let Some(client) = client_of(node) else {
                failed.get_or_insert_with(|| disconnected_error(node));
                continue;
            };
            let until = match left.len() {
                1 => deadline,
                _ => {
                    deadline.min(Instant::now() + node.attempt_timeout(method).unwrap_or_default())
                }
            };
            let asking = timeout_at(until, ask(client, node.clone())).await;
            node.record_timeout(method, asking.is_err());
            let error = match asking {
                Ok(Ok(answer)) => {
                    node.record_answer();
                    // Another node has a legal answer to the same question, so these fail.
                    for node in &oversized {
                        node.record_unanswered();
                    }
                    return Ok(Attributed { node: NodeId(index), value: answer });
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let host = node.endpoint.host().to_owned();
                    RpcError::Unavailable { host, what: format!("{method} timed out").into() }
                }
            };
            if error.is_rate_limited() {
                if let Some(times) = node.should_log("asked_too_often") {
                    let host = node.endpoint.host();
                    let role = node.endpoint.role();
                    warn!(host, %error, times, "a {role} node is left alone for a moment");
                }
                // It may be asked again after its pause.
                tried.pop();
                busy = Some(error);
                continue;
            }
            match &error {
                RpcError::Unavailable { .. } => node.record_unanswered(),
                RpcError::Refused { code, message, .. } => {
                    node.record_answer();
                    // The error is about the call itself: another node would say the same.
                    if !quirks::is_about_node(*code, message) {
                        return Err(error);
                    }
                }
                RpcError::TooLarge { .. } => oversized.push(node),
                RpcError::WrongChain { .. }
                | RpcError::WrongGenesis { .. }
                | RpcError::Unreadable { .. }
                | RpcError::RateLimited { .. } => {}
            }
            // The first error is reported, unless it only says that there was no answer.
            match failed {
                Some(RpcError::Unavailable { .. }) | None => failed = Some(error),
                Some(_) => {}
            }
        }
    }

    /// The endpoints that may be called; waits until there is one.
    pub(in crate::chain::provider) async fn usable(&self) -> Result<Arc<[usize]>, RpcError> {
        if let Some(NodeId(only)) = self.only {
            return Ok(Arc::new([only]));
        }
        let mut usable = self.inner.shared.usable.subscribe();
        let usable = usable
            .wait_for(|usable| !usable.order.is_empty() || usable.wrong_chain.is_some())
            .await
            .map_err(|_| self.unavailable("the connection was shut down"))?;
        match &usable.wrong_chain {
            Some(error) => Err(error.clone()),
            None => Ok(usable.order.clone()),
        }
    }

    /// The error of a timeout: why there is no connection, if that is the cause.
    pub(super) fn timeout_error(&self, method: &str) -> RpcError {
        self.connection_error().unwrap_or_else(|| {
            self.unavailable(format!("{method} timed out after {CALL_DEADLINE:?}"))
        })
    }
}
