//! Who is asked after a failure, and what the answers to a send mean together, as in `gateway::provider`.

use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    domain::B256,
    gateway::provider::{self, CALL_DEADLINE, NodeId, RpcError, quirks},
    instance::simulation::{
        node::{SimulatedNode, Straggler, unavailable},
        world::State,
    },
};

/// As in `provider::arbitrum`: where there is another endpoint.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(3);
/// As in `provider::sends`.
const SEND_GRACE: Duration = Duration::from_millis(500);
const STRAGGLERS: usize = 64;

impl SimulatedNode {
    pub fn order(&self) -> Vec<usize> {
        self.life.world.state().reading.order.clone()
    }

    async fn usable(&self, deadline: Instant) -> Vec<usize> {
        if let Some(NodeId(only)) = self.only {
            return vec![only];
        }
        loop {
            let order = self.order();
            if !order.is_empty() || Instant::now() >= deadline {
                return order;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One question of the endpoint that is read from; where it does not answer, of the next one.
    pub async fn ask<T>(
        &self,
        what: &str,
        act: impl Fn(&mut State, usize) -> (Result<T, RpcError>, String) + Send + Sync,
    ) -> Result<T, RpcError> {
        let deadline = Instant::now() + CALL_DEADLINE;
        let mut tried = Vec::new();
        let mut failed: Option<RpcError> = None;
        loop {
            let order = match (&failed, self.only) {
                (Some(_), Some(_)) => Vec::new(),
                (Some(_), None) => self.order(),
                (None, _) => self.usable(deadline).await,
            };
            let left: Vec<usize> =
                order.into_iter().filter(|endpoint| !tried.contains(endpoint)).collect();
            let Some(endpoint) = left.first().copied() else {
                return Err(failed.unwrap_or_else(|| unavailable("no node is connected")));
            };
            tried.push(endpoint);
            let soon = Instant::now() + ATTEMPT_DEADLINE;
            let until = if left.len() == 1 { deadline } else { deadline.min(soon) };
            let asked = timeout_at(until, self.attempt(endpoint, what, false, &act)).await;
            let error = match asked.unwrap_or_else(|_| Err(unavailable("timed out"))) {
                Ok(answer) => {
                    self.life.world.state().endpoints[endpoint].unanswered = 0;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            match &error {
                RpcError::Unavailable { .. } => {
                    self.life.world.state().endpoints[endpoint].unanswered += 1;
                }
                RpcError::Refused { code, message, .. } => {
                    self.life.world.state().endpoints[endpoint].unanswered = 0;
                    if !quirks::is_about_node(*code, message) {
                        return Err(error);
                    }
                }
                RpcError::TooLarge { .. }
                | RpcError::WrongChain { .. }
                | RpcError::WrongGenesis { .. }
                | RpcError::Unreadable { .. }
                | RpcError::Busy { .. } => {}
            }
            match failed {
                Some(RpcError::Unavailable { .. }) | None => failed = Some(error),
                Some(_) => {}
            }
        }
    }

    /// A raw transaction to every endpoint. What one of them does after another one has taken it, it
    /// does beside.
    pub async fn send_to_all(
        &self,
        hash: B256,
        what: &str,
        act: impl Fn(&mut State, usize) -> (Result<B256, RpcError>, String)
        + Clone
        + Send
        + Sync
        + 'static,
    ) -> Result<B256, RpcError> {
        let reading = self.usable(Instant::now() + CALL_DEADLINE).await.first().copied();
        if reading.is_none() {
            return Err(unavailable("no node is connected"));
        }
        let urls = self.life.world.state().plan.urls;
        let mut sends = FuturesUnordered::new();
        for endpoint in (0..urls).filter(|one| self.only.is_none_or(|only| only.0 == *one)) {
            if self.life.world.state().endpoints[endpoint].is_away() {
                continue;
            }
            let (node, what, act) = (self.clone(), what.to_owned(), act.clone());
            let sending = async move {
                let deadline = Instant::now() + CALL_DEADLINE;
                let sent = timeout_at(deadline, node.attempt(endpoint, &what, true, &act)).await;
                (endpoint, sent.unwrap_or_else(|_| Err(unavailable("timed out"))))
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
                    Err(_) => break,
                },
            };
            match next {
                None => break,
                Some((_, Ok(hash))) => {
                    self.leave(sends);
                    return Ok(hash);
                }
                Some((_, Err(error))) if provider::is_already_known(&error) => {
                    self.leave(sends);
                    return Ok(hash);
                }
                Some((endpoint, Err(error))) => {
                    refusals.push((Some(endpoint) == reading, error));
                    grace = grace.or(Some(Instant::now() + SEND_GRACE));
                }
            }
        }
        if refusals.len() < asked {
            self.leave(sends);
            return Err(unavailable("a node did not say what became of it"));
        }
        let refused = provider::verdict(refusals);
        Err(refused.unwrap_or_else(|| unavailable("no node is connected")))
    }

    fn leave(&self, sends: FuturesUnordered<BoxFuture<'static, Said>>) {
        if !sends.is_empty() {
            // Beyond the bound it is left undone, as outside.
            let _ = self.stragglers.try_send(sends.for_each(|_| async {}).boxed());
        }
    }
}

/// What an endpoint said to a raw transaction.
type Said = (usize, Result<B256, RpcError>);

pub(in crate::instance::simulation) fn stragglers()
-> (mpsc::Sender<Straggler>, mpsc::Receiver<Straggler>) {
    mpsc::channel(STRAGGLERS)
}

/// Brings them to their end.
pub(in crate::instance::simulation) async fn finish(mut stragglers: mpsc::Receiver<Straggler>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            Some(straggler) = stragglers.recv() => under_way.push(straggler),
            else => std::future::pending::<()>().await,
        }
    }
}
