//! The gas limit of a response: the operator's, or learned from estimates.
//!
//! One estimate per generation, kind and size class serves every answer of that class for an hour, so
//! that in steady state almost nothing is estimated. The highest plausible estimate of the sound nodes
//! is used. The answer that reaches the contract's threshold costs more than the others, and which one
//! that is shows only on chain: when many requests are caught up, the first estimates are of cheaper
//! answers. So the limit is twice the estimate, of key operations four times; unused gas costs nothing. After
//! an answer ran out of gas, its class never goes below that limit again. Until one answer of a class was accepted, the
//! others wait for it briefly, so that only one can run out of gas.
//!
//! A single node's estimate may be wrong. One above the cost of any answer or above the block gas
//! limit, or below the cost of the calldata alone, is a fault of that node. If it is lower than gas
//! used before, the other nodes are asked as well.
//!
//! The operator's limit is used without an estimate as long as it works. Once it did not, an estimate
//! comes first: it shows for free whether the next transaction would fail.

mod estimates;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

use self::estimates::{PlausibleGas, estimates};
use super::{SubmissionError, rejected};
use crate::{
    chain::{
        lane::unsigned::most_gas, reader::EthCall, rpc_error::RpcError, sender::TransactionSender,
    },
    domain::{EventShape, Kind, Request},
};

/// Percent on top of an estimate. With few signers the answer that reaches the threshold costs this
/// much more: it reads all signatures from storage and emits them.
const MARGIN_PERCENT: u64 = 100;
/// The same of answers to key operations: the last vote that is needed stores the digests, asks for the key, or
/// puts it in force with the storage URLs of all nodes. One that runs out of gas is expensive on Ethereum.
const KEY_MARGIN_PERCENT: u64 = 300;
/// Percent on top of the gas that an answer of the class has used.
const USED_PERCENT: u64 = 10;
/// How long an estimate is used, and how long the effect of a wrong one lasts.
const LEARNED_FOR: Duration = Duration::from_hours(1);
/// Percent added after an out-of-gas, whatever the estimate is.
const STEP_PERCENT: u64 = 50;

/// Answers that cost about the same.
type GasClass = (EventShape, Kind, u32, usize);

/// How long the other answers of a class wait for the first one.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Default)]
struct ClassEntry {
    /// What was learned of one class. Locked while estimating, so that a burst makes one estimate.
    learned: Arc<tokio::sync::Mutex<LearnedGas>>,
    /// Held by the first answer of the class until one is accepted.
    first: Arc<tokio::sync::Mutex<()>>,
}

/// Marks the first answer of a class, until it is dropped.
pub(super) type FirstOfClass = OwnedMutexGuard<()>;

#[derive(Clone, Copy, Debug, Default)]
struct LearnedGas {
    /// The limit, and the time of the first estimate it rests on.
    limit: Option<(u64, Instant)>,
    /// A lower bound: this much was used up.
    floor: u64,
    /// Gas used by the last accepted answer.
    used: u64,
}

impl LearnedGas {
    fn fresh(&self, now: Instant) -> Option<u64> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < LEARNED_FOR;
        self.limit.filter(|(_, at)| fresh(*at)).map(|(limit, _)| limit)
    }

    /// The lowest acceptable limit, whatever the estimate.
    fn minimum(&self) -> u64 {
        self.floor.max(plus_percent(self.used, USED_PERCENT))
    }

    /// Returns whether the estimate, with this margin, leads to at least what is known to be needed.
    fn is_consistent_with(&self, estimate: u64, margin: u64) -> bool {
        plus_percent(estimate, margin) >= self.minimum()
    }

    /// Adds an estimate. What was learned does not shrink for a while, because the answer that reaches the
    /// threshold costs more than the estimated one.
    fn learn(&mut self, estimate: u64, (margin, most): (u64, u64), now: Instant) -> u64 {
        let limit = plus_percent(estimate, margin).max(self.minimum()).min(most);
        let (learned, at) = self.fresh(now).zip(self.limit.map(|(_, at)| at)).unwrap_or((0, now));
        self.limit = Some((limit.max(learned), at));
        limit.max(learned)
    }
}

fn plus_percent(gas: u64, percent: u64) -> u64 {
    gas.saturating_add(gas / 100 * percent).saturating_add(gas % 100 * percent / 100)
}

/// Nodes find an estimate by bisection: it may be too high by this part (a 64th).
const ESTIMATE_ERROR: u64 = 64;

#[derive(Debug)]
pub(super) struct GasLimits {
    fixed: Option<u64>,
    learned: Mutex<HashMap<GasClass, ClassEntry>>,
}

impl GasLimits {
    pub(super) fn new(fixed: Option<u64>) -> Self {
        Self { fixed, learned: Mutex::default() }
    }

    /// The gas limit for this call. Fails as the estimate fails, reverts included. `wary`: estimate in any
    /// case, because the contract may reject the call.
    pub(super) async fn limit<P: TransactionSender>(
        &self,
        request: &Request,
        call: &EthCall,
        provider: &P,
        wary: bool,
    ) -> Result<u64, SubmissionError> {
        if let Some(fixed) = self.fixed {
            if wary {
                let fits = |needed: u64| needed - needed / ESTIMATE_ERROR <= fixed;
                match estimates(provider, call, 0, fits).await.map(|told| told.lowest) {
                    Ok(needed) if !fits(needed) => {
                        return Err(rejected(&format!(
                            "the answer needs about {needed} gas, more than gas_limit = {fixed}; \
                             raise it, or remove it: the limit is then learned"
                        )));
                    }
                    // An implausible estimate: the operator's limit is preferred.
                    Ok(_) | Err(RpcError::Unreadable { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(fixed);
        }
        let entry = self.entry(request, call);
        let most = PlausibleGas::of(provider, call).most;
        let is_key_operation = request.kind().is_key_operation();
        let margin = if is_key_operation { KEY_MARGIN_PERCENT } else { MARGIN_PERCENT };
        if wary {
            // The lock is released at once: after a restart many of these come together.
            let learned = *entry.learned.lock().await;
            let fits = |gas| {
                learned.fresh(Instant::now()).is_some() && learned.is_consistent_with(gas, margin)
            };
            let estimate = estimates(provider, call, learned.minimum(), fits).await?.highest;
            let mut learned = entry.learned.lock().await;
            return Ok(learned.learn(estimate, (margin, most), Instant::now()));
        }
        let mut learned = entry.learned.lock().await;
        if let Some(limit) = learned.fresh(Instant::now()) {
            return Ok(limit);
        }
        let estimate = estimates(provider, call, learned.minimum(), |_| false).await?.highest;
        Ok(learned.learn(estimate, (margin, most), Instant::now()))
    }

    /// For an answer of a class of which none was accepted yet. One is sent first; the others wait for it
    /// briefly.
    pub(super) async fn first_of_class(
        &self,
        request: &Request,
        call: &EthCall,
    ) -> Option<FirstOfClass> {
        if self.fixed.is_some() {
            return None;
        }
        let entry = self.entry(request, call);
        let is_new = async || entry.learned.lock().await.used == 0;
        if !is_new().await {
            return None;
        }
        let first = timeout(FIRST_TIMEOUT, entry.first.clone().lock_owned()).await.ok()?;
        is_new().await.then_some(first)
    }

    /// Records the gas used by an accepted answer.
    pub(super) fn record_used(&self, request: &Request, call: &EthCall, gas: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        // If it is locked, the next answer records the same.
        if let Ok(mut learned) = entry.learned.try_lock() {
            learned.used = gas;
        }
    }

    /// Every node rejected a transaction with the learned limit: learn it again. Returns whether there was
    /// one.
    pub(super) async fn forget(&self, request: &Request, call: &EthCall) -> bool {
        if self.fixed.is_some() {
            return false;
        }
        self.entry(request, call).learned.lock().await.limit = None;
        true
    }

    /// `limit` was used up: estimate the class again, and never go that low again.
    pub(super) async fn record_exhausted(&self, request: &Request, call: &EthCall, limit: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        let mut learned = entry.learned.lock().await;
        let more = plus_percent(limit, STEP_PERCENT).min(most_gas(call.data.len()));
        learned.floor = learned.floor.max(more);
        // Others with the old limit may report late, after a higher one was learned.
        learned.limit = learned.limit.filter(|(learned, _)| *learned > limit);
    }

    fn entry(&self, request: &Request, call: &EthCall) -> ClassEntry {
        // The size class is the calldata's magnitude in steps of a quarter of a power of two.
        let words = (call.data.len() / 32).max(1);
        let class = (
            request.shape,
            request.kind(),
            words.ilog2(),
            words >> words.ilog2().saturating_sub(2),
        );
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.entry(class).or_default().clone()
    }
}
