//! Sends a raw transaction to every connected node at once, and combines their answers.

use std::time::Duration;

use alloy::primitives::keccak256;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    CALL_DEADLINE,
    arbitrum::ArbitrumProvider,
    client::Client,
    endpoint::Endpoint,
    node_handle::{NodeHandle, client_of},
    parameters::quantity,
    raw::RawReceipt,
};
use crate::{
    chain::{
        quirks::{self, SyncTimeoutFormat},
        reader::{ChainReader, NodeId, Receipt},
        rpc_error::RpcError,
        sender::Acceptance,
    },
    domain::Bytes,
};

/// After the first refusal: how long to wait for the other nodes.
const SEND_GRACE: Duration = Duration::from_millis(500);
/// How long another node may take to confirm a receipt.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);

impl ArbitrumProvider {
    /// `wait`: wait a moment for the receipt, if the node offers that.
    pub(super) async fn send_to_all(
        &self,
        raw: &Bytes,
        wait: bool,
    ) -> Result<Acceptance, RpcError> {
        let usable = self.usable().await?;
        let reading = usable.first().copied();
        let mut sends = FuturesUnordered::new();
        for (index, node) in self.nodes().iter().enumerate() {
            if self.only.is_some_and(|only| only.0 != index) {
                continue;
            }
            // A transaction signed for this chain is also valid on another chain with the same id.
            if node.contradiction().is_some() && !usable.contains(&index) {
                continue;
            }
            let Some(client) = client_of(node) else { continue };
            let (node, raw) = (node.clone(), raw.clone());
            let sending = async move {
                let sending = async {
                    if wait {
                        send_and_await_receipt(&client, &node, &raw).await
                    } else {
                        send(&client, &raw).await
                    }
                };
                let sent = timeout(CALL_DEADLINE, sending).await;
                (index, sent.unwrap_or_else(|_| Err(send_timeout(&node.endpoint))))
            };
            sends.push(sending.boxed());
        }
        let asked = sends.len();
        let (mut refusals, mut grace) = (Vec::with_capacity(asked), None);
        loop {
            let next = match grace {
                None => sends.next().await,
                Some(until) => match timeout_at(until, sends.next()).await {
                    Ok(next) => next,
                    // A node may have accepted it; more is not known.
                    Err(_) => break,
                },
            };
            let sent = match next {
                None => break,
                Some((_, Ok(Acceptance::Accepted))) => Acceptance::Accepted,
                Some((index, Ok(Acceptance::Mined(receipt)))) => {
                    self.detach(sends);
                    return Ok(self.confirm_receipt(NodeId(index), raw, receipt).await);
                }
                Some((_, Err(error))) if is_already_known(&error) => Acceptance::Accepted,
                Some((index, Err(error))) => {
                    refusals.push((Some(index) == reading, error));
                    grace = grace.or(Some(Instant::now() + SEND_GRACE));
                    continue;
                }
            };
            self.detach(sends);
            return Ok(sent);
        }
        if refusals.len() < asked {
            let what = match refusals.first() {
                Some((_, error)) => format!("a node did not say what became of it; {error}"),
                None => "no node is connected".to_owned(),
            };
            self.detach(sends);
            return Err(self.unavailable(what));
        }
        let refused = combine_refusals(refusals);
        Err(refused.unwrap_or_else(|| self.unavailable("no node is connected")))
    }

    /// A receipt that came with the send counts only if another sound node has the same one. Otherwise
    /// the transaction is looked for as if there were none.
    async fn confirm_receipt(&self, by: NodeId, raw: &Bytes, receipt: Receipt) -> Acceptance {
        if receipt.hash != keccak256(raw) {
            return Acceptance::Accepted;
        }
        let other = self.sound_nodes().into_iter().find(|node| *node != by);
        let Some(other) = other.filter(|_| self.only.is_none()) else {
            return Acceptance::Mined(receipt);
        };
        let (other, until) = (self.for_node(other), Instant::now() + CONFIRMED_WITHIN);
        while Instant::now() < until {
            let found = timeout_at(until, other.receipts(&[receipt.hash])).await;
            let found = found.ok().and_then(Result::ok);
            match found.and_then(|found| found.into_iter().flatten().next()) {
                Some(same) if (same.block, same.success) == (receipt.block, receipt.success) => {
                    return Acceptance::Mined(receipt);
                }
                Some(_) => break,
                None => sleep(CONFIRMED_WITHIN / 5).await,
            }
        }
        Acceptance::Accepted
    }

    /// Lets sends in flight finish in the background.
    fn detach(&self, sends: FuturesUnordered<futures_util::future::BoxFuture<'static, NodeSend>>) {
        if !sends.is_empty() {
            let rest = sends.for_each(|_| async {}).boxed();
            // If the channel is full, they are dropped; the transaction is sent again unless it is
            // mined.
            let _ = self.inner.shared.pending_sends.try_send(rest);
        }
    }
}

/// One endpoint's answer to a raw transaction, by index.
type NodeSend = (usize, Result<Acceptance, RpcError>);

/// Any result without an error means that the node accepted it.
async fn send(client: &Client, raw: &Bytes) -> Result<Acceptance, RpcError> {
    let sent = client.call::<Box<RawValue>>("eth_sendRawTransaction", &json!([raw])).await;
    sent.map(|_| Acceptance::Accepted)
}

/// Finds the form that the node accepts by trying; without the method it sends normally.
async fn send_and_await_receipt(
    client: &Client,
    node: &NodeHandle,
    raw: &Bytes,
) -> Result<Acceptance, RpcError> {
    const METHOD: &str = "eth_sendRawTransactionSync";
    loop {
        let spelling = node.sync_timeout_format();
        let timeout = quirks::SYNC_PATIENCE_MS;
        let params = match spelling {
            SyncTimeoutFormat::Number => json!([raw, timeout]),
            SyncTimeoutFormat::Hex => json!([raw, quantity(timeout)]),
            SyncTimeoutFormat::NoTimeout => json!([raw]),
            SyncTimeoutFormat::Unsupported => return send(client, raw).await,
        };
        let error = match client.call::<Box<RawValue>>(METHOD, &params).await {
            Ok(receipt) => {
                // Unreadable: accepted, and the receipt is looked for later.
                let read = client.endpoint().parse::<RawReceipt>(&receipt).ok();
                let receipt = read.and_then(RawReceipt::into_receipt);
                return Ok(receipt.map_or(Acceptance::Accepted, Acceptance::Mined));
            }
            Err(error) => error,
        };
        let RpcError::Refused { code, message, .. } = &error else { return Err(error) };
        let Some(other) = spelling.next_to_try(*code, message) else { return Err(error) };
        node.set_sync_timeout_format(spelling, other);
    }
}

fn send_timeout(endpoint: &Endpoint) -> RpcError {
    RpcError::Unavailable {
        host: endpoint.host().to_owned(),
        what: format!("eth_sendRawTransaction timed out after {CALL_DEADLINE:?}").into(),
    }
}

fn pool_error_of(error: &RpcError) -> quirks::PoolError {
    // `Busy` is an HTTP error: a proxy may have passed it on all the same.
    let RpcError::Refused { code, message, .. } = error else { return quirks::PoolError::Unknown };
    quirks::pool_error(*code, message)
}

fn is_already_known(error: &RpcError) -> bool {
    pool_error_of(error) == quirks::PoolError::AlreadyKnown
}

/// Combines the refusals of all endpoints; the flag marks the one that is read from. One that may have
/// accepted the transaction outweighs all others; then one that says that the nonce is used or occupied;
/// then the endpoint that is read from.
fn combine_refusals(refusals: Vec<(bool, RpcError)>) -> Option<RpcError> {
    let weight = |(reading, error): &(bool, RpcError)| match pool_error_of(error) {
        quirks::PoolError::AlreadyKnown
        | quirks::PoolError::Unready
        | quirks::PoolError::Unknown => 4,
        quirks::PoolError::NonceTooLow => 3,
        quirks::PoolError::Underpriced | quirks::PoolError::PoolUnderpriced => 2,
        quirks::PoolError::NonceTooHigh
        | quirks::PoolError::FeeTooLow
        | quirks::PoolError::InsufficientFunds
        | quirks::PoolError::Unacceptable
        | quirks::PoolError::Reverted
        | quirks::PoolError::PoolFull
        | quirks::PoolError::Busy => u8::from(*reading),
    };
    refusals.into_iter().rev().max_by_key(weight).map(|(_, error)| error)
}
