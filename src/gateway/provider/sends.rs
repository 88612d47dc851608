//! Sends a raw transaction to every connected node at once, and combines their answers.

use std::time::Duration;

use alloy::primitives::keccak256;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    CALL_DEADLINE, ChainReader, NodeId, Receipt, RpcError, Sent,
    arbitrum::{ArbitrumProvider, client_of, hex},
    client::Client,
    endpoint::Endpoint,
    endpoints,
    quirks::{self, SyncSpelling},
    raw::RawReceipt,
};
use crate::domain::Bytes;

/// After the first refusal: how long to wait for the other nodes.
const SEND_GRACE: Duration = Duration::from_millis(500);
/// How long another node may take to confirm a receipt.
const JOINS_WITHIN: Duration = Duration::from_secs(1);

impl ArbitrumProvider {
    /// `wait`: wait a moment for the receipt, if the node offers that.
    pub(super) async fn send_to_all(&self, raw: &Bytes, wait: bool) -> Result<Sent, RpcError> {
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
                        send_and_wait(&client, &node, &raw).await
                    } else {
                        send(&client, &raw).await
                    }
                };
                let sent = timeout(CALL_DEADLINE, sending).await;
                (index, sent.unwrap_or_else(|_| Err(no_answer(&node.endpoint))))
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
                Some((_, Ok(Sent::Accepted))) => Sent::Accepted,
                Some((index, Ok(Sent::Mined(receipt)))) => {
                    self.leave(sends);
                    return Ok(self.joined(NodeId(index), raw, receipt).await);
                }
                Some((_, Err(error))) if is_already_known(&error) => Sent::Accepted,
                Some((index, Err(error))) => {
                    refusals.push((Some(index) == reading, error));
                    grace = grace.or(Some(Instant::now() + SEND_GRACE));
                    continue;
                }
            };
            self.leave(sends);
            return Ok(sent);
        }
        if refusals.len() < asked {
            let what = match refusals.first() {
                Some((_, error)) => format!("a node did not say what became of it; {error}"),
                None => "no node is connected".to_owned(),
            };
            self.leave(sends);
            return Err(self.unavailable(what));
        }
        let refused = verdict(refusals);
        Err(refused.unwrap_or_else(|| self.unavailable("no node is connected")))
    }

    /// A receipt that came with the send counts only if another sound node has the same one. Otherwise
    /// the transaction is looked for as if there were none.
    async fn joined(&self, by: NodeId, raw: &Bytes, receipt: Receipt) -> Sent {
        if receipt.hash != keccak256(raw) {
            return Sent::Accepted;
        }
        let other = self.sound_nodes().into_iter().find(|node| *node != by);
        let Some(other) = other.filter(|_| self.only.is_none()) else {
            return Sent::Mined(receipt);
        };
        let (other, until) = (self.only(other), Instant::now() + JOINS_WITHIN);
        while Instant::now() < until {
            let found = timeout_at(until, other.receipts(&[receipt.hash])).await;
            let found = found.ok().and_then(Result::ok);
            match found.and_then(|found| found.into_iter().flatten().next()) {
                Some(same) if (same.block, same.success) == (receipt.block, receipt.success) => {
                    return Sent::Mined(receipt);
                }
                Some(_) => break,
                None => sleep(JOINS_WITHIN / 5).await,
            }
        }
        Sent::Accepted
    }

    /// Lets sends in flight finish in the background.
    fn leave(&self, sends: FuturesUnordered<futures_util::future::BoxFuture<'static, Said>>) {
        if !sends.is_empty() {
            let rest = sends.for_each(|_| async {}).boxed();
            // If the channel is full, they are dropped; the transaction is sent again unless it is
            // mined.
            let _ = self.inner.shared.stragglers.try_send(rest);
        }
    }
}

/// One endpoint's answer to a raw transaction, by index.
type Said = (usize, Result<Sent, RpcError>);

/// Any result without an error means that the node accepted it.
async fn send(client: &Client, raw: &Bytes) -> Result<Sent, RpcError> {
    let sent = client.ask::<Box<RawValue>>("eth_sendRawTransaction", &json!([raw])).await;
    sent.map(|_| Sent::Accepted)
}

/// Finds the form that the node accepts by trying; without the method it sends normally.
async fn send_and_wait(
    client: &Client,
    node: &endpoints::Node,
    raw: &Bytes,
) -> Result<Sent, RpcError> {
    const METHOD: &str = "eth_sendRawTransactionSync";
    loop {
        let spelling = node.sync_spelling();
        let timeout = quirks::SYNC_PATIENCE_MS;
        let params = match spelling {
            SyncSpelling::Number => json!([raw, timeout]),
            SyncSpelling::Hex => json!([raw, hex(timeout)]),
            SyncSpelling::NoTimeout => json!([raw]),
            SyncSpelling::Unsupported => return send(client, raw).await,
        };
        let error = match client.ask::<Box<RawValue>>(METHOD, &params).await {
            Ok(receipt) => {
                // Unreadable: accepted, and the receipt is looked for later.
                let read = client.endpoint().parse::<RawReceipt>(&receipt).ok();
                let receipt = read.and_then(RawReceipt::into_receipt);
                return Ok(receipt.map_or(Sent::Accepted, Sent::Mined));
            }
            Err(error) => error,
        };
        let RpcError::Refused { code, message, .. } = &error else { return Err(error) };
        let Some(other) = spelling.after(*code, message) else { return Err(error) };
        node.spell_sync(spelling, other);
    }
}

fn no_answer(endpoint: &Endpoint) -> RpcError {
    RpcError::Unavailable {
        host: endpoint.host().to_owned(),
        what: format!("eth_sendRawTransaction timed out after {CALL_DEADLINE:?}").into(),
    }
}

fn refusal_of(error: &RpcError) -> quirks::Refusal {
    // `Busy` is an HTTP error: a proxy may have passed it on all the same.
    let RpcError::Refused { code, message, .. } = error else { return quirks::Refusal::Unknown };
    quirks::refusal(*code, message)
}

fn is_already_known(error: &RpcError) -> bool {
    refusal_of(error) == quirks::Refusal::AlreadyKnown
}

/// Combines the refusals of all endpoints; the flag marks the one that is read from. One that may have
/// accepted the transaction outweighs all others; then one that says that the nonce is used or occupied;
/// then the endpoint that is read from.
fn verdict(refusals: Vec<(bool, RpcError)>) -> Option<RpcError> {
    let weight = |(reading, error): &(bool, RpcError)| match refusal_of(error) {
        quirks::Refusal::AlreadyKnown | quirks::Refusal::Unready | quirks::Refusal::Unknown => 4,
        quirks::Refusal::NonceTooLow => 3,
        quirks::Refusal::Underpriced => 2,
        quirks::Refusal::NonceTooHigh
        | quirks::Refusal::FeeTooLow
        | quirks::Refusal::InsufficientFunds
        | quirks::Refusal::Unacceptable
        | quirks::Refusal::Reverted
        | quirks::Refusal::Busy => u8::from(*reading),
    };
    refusals.into_iter().rev().max_by_key(weight).map(|(_, error)| error)
}
