//! How much gas a response may use: the operator's figure, or learned from estimates.
//!
//! One estimate per generation, kind and size class serves every answer of that class for an hour, so in
//! steady state next to nothing is estimated. The answer that reaches the contract's threshold costs
//! more than the others, and whether it does shows on chain only: at a start with many requests to catch
//! up, each node's first estimate is of one that does not. So twice the estimate is allowed, which costs
//! nothing unless it is used. What runs out of gas all the same does so once, after which the class never
//! goes below that again.
//!
//! An estimate is one node's word. More than an answer may cost, or than a block takes, and less than
//! its calldata alone costs, is a fault of that node: the others are asked. So they are where it is less
//! than was used before.
//!
//! The operator's figure is sent without asking, as long as that works. Once it did not, an
//! estimate comes first: what would fail again shows there for free, not as one more transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    domain::{Generation, Kind, Request},
    gateway::{
        lane::draft::{least_gas, most_gas},
        provider::{Call, Provider, RpcError},
    },
};

/// Percent on top of an estimate: of one with few signers, what the answer that reaches the threshold costs
/// more (it reads all signatures from storage, and emits them).
const MARGIN_PERCENT: u64 = 100;
/// And on top of what an answer of the class has used.
const USED_PERCENT: u64 = 10;
/// An estimate serves so long. What a wrong one taught goes with it.
const LEARNED_FOR: Duration = Duration::from_hours(1);
/// After an out-of-gas the class gets this much more than it had, whatever the estimate says.
const STEP_PERCENT: u64 = 50;

/// Answers that cost about the same.
type Class = (Generation, Kind, u32, usize);

/// What is known of one class. Locked while estimating, so that a burst asks once.
type Entry = Arc<tokio::sync::Mutex<Known>>;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The limit, and when the first of the estimates was made that it stands for.
    limit: Option<(u64, Instant)>,
    /// Not less than this: so much was used up.
    floor: u64,
    /// So much the last one used that was taken.
    used: u64,
}

impl Known {
    fn fresh(&self, now: Instant) -> Option<u64> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < LEARNED_FOR;
        self.limit.filter(|(_, at)| fresh(*at)).map(|(limit, _)| limit)
    }

    /// No limit is below this, whatever the estimate.
    fn least(&self) -> u64 {
        self.floor.max(plus_percent(self.used, USED_PERCENT))
    }

    /// Whether an estimate leads to what is known to be needed.
    fn agrees(&self, estimate: u64) -> bool {
        plus_percent(estimate, MARGIN_PERCENT) >= self.least()
    }

    /// Takes an estimate in. For a while what was learned does not shrink: an answer that reaches the
    /// threshold costs more than the one that was estimated.
    fn learn(&mut self, estimate: u64, most: u64, now: Instant) -> u64 {
        let limit = plus_percent(estimate, MARGIN_PERCENT).max(self.least()).min(most);
        let (known, at) = self.fresh(now).zip(self.limit.map(|(_, at)| at)).unwrap_or((0, now));
        self.limit = Some((limit.max(known), at));
        limit.max(known)
    }
}

fn plus_percent(gas: u64, percent: u64) -> u64 {
    gas.saturating_add(gas / 100 * percent).saturating_add(gas % 100 * percent / 100)
}

/// Why there is no gas limit.
#[derive(Debug, thiserror::Error)]
pub(super) enum GasError {
    /// The estimate failed, by a revert or without an answer.
    #[error(transparent)]
    Estimate(#[from] RpcError),
    #[error(
        "the answer needs about {needed} gas, and gas_limit = {fixed} does not allow it; raise it, \
         or leave it out and it is learned"
    )]
    TooLow { fixed: u64, needed: u64 },
}

/// Estimates are searched for, and may end this part (a 64th) above what is needed.
const ESTIMATE_ERROR: u64 = 64;

#[derive(Debug)]
pub(super) struct GasBook {
    fixed: Option<u64>,
    learned: Mutex<HashMap<Class, Entry>>,
}

impl GasBook {
    pub(super) fn new(fixed: Option<u64>) -> Self {
        Self { fixed, learned: Mutex::default() }
    }

    /// The gas limit for this call. Fails as the estimate fails, reverts included. `wary`: asks for
    /// an estimate in any case, because the contract may not take the call.
    pub(super) async fn limit<P: Provider>(
        &self,
        request: &Request,
        call: &Call,
        provider: &P,
        wary: bool,
    ) -> Result<u64, GasError> {
        if let Some(fixed) = self.fixed {
            if wary {
                let fits = |needed: u64| needed - needed / ESTIMATE_ERROR <= fixed;
                match estimate(provider, call, fits).await {
                    Ok(needed) if !fits(needed) => return Err(GasError::TooLow { fixed, needed }),
                    // Senseless: the operator's word is worth more.
                    Ok(_) | Err(RpcError::Unreadable { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(fixed);
        }
        let entry = self.entry(request, call);
        let most = most(provider, call);
        if wary {
            // Without the lock: many of these come at once after a restart.
            let known = *entry.lock().await;
            let estimate = estimate(provider, call, |gas| known.agrees(gas)).await?;
            return Ok(entry.lock().await.learn(estimate, most, Instant::now()));
        }
        let mut known = entry.lock().await;
        if let Some(limit) = known.fresh(Instant::now()) {
            return Ok(limit);
        }
        let estimate = estimate(provider, call, |gas| known.agrees(gas)).await?;
        Ok(known.learn(estimate, most, Instant::now()))
    }

    /// An answer was taken, and has used so much.
    pub(super) fn used(&self, request: &Request, call: &Call, gas: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        // Busy: the next one tells as well.
        if let Ok(mut known) = entry.try_lock() {
            known.used = gas;
        }
    }

    /// No node takes a transaction with what was learned: it is learned anew. Whether it was.
    pub(super) async fn forget(&self, request: &Request, call: &Call) -> bool {
        if self.fixed.is_some() {
            return false;
        }
        self.entry(request, call).lock().await.limit = None;
        true
    }

    /// `limit` was used up: the class is estimated again and never gets so little again.
    pub(super) async fn exhausted(&self, request: &Request, call: &Call, limit: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        let mut known = entry.lock().await;
        let more = plus_percent(limit, STEP_PERCENT).min(most_gas(call.data.len()));
        known.floor = known.floor.max(more);
        // Others with the old limit may come late: by then more is known.
        known.limit = known.limit.filter(|(known, _)| *known > limit);
    }

    fn entry(&self, request: &Request, call: &Call) -> Entry {
        // The size class is the calldata's magnitude in steps of a quarter of a power of two.
        let words = (call.data.len() / 32).max(1);
        let class = (
            request.generation,
            request.kind(),
            words.ilog2(),
            words >> words.ilog2().saturating_sub(2),
        );
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.entry(class).or_default().clone()
    }
}

/// More gas than this makes no sense for the call.
fn most<P: Provider>(provider: &P, call: &Call) -> u64 {
    let block = provider.heads().borrow().and_then(|head| head.gas_limit);
    most_gas(call.data.len()).min(block.unwrap_or(u64::MAX))
}

/// An estimate that makes sense and that `fits` what is known, of whichever sound node gives one; else the
/// highest that makes sense.
async fn estimate<P: Provider>(
    provider: &P,
    call: &Call,
    fits: impl Fn(u64) -> bool,
) -> Result<u64, RpcError> {
    let (least, most) = (least_gas(&call.data), most(provider, call));
    let makes_sense = |gas: &u64| (least..=most).contains(gas);
    let first = provider.estimate_gas(call).await?;
    let mut best = Some(first).filter(makes_sense);
    if best.is_some_and(&fits) {
        return Ok(first);
    }
    let nodes = provider.sound_nodes();
    for node in nodes.iter().copied() {
        let other = provider.only(node).estimate_gas(call).await;
        let Some(other) = other.ok().filter(makes_sense) else { continue };
        if fits(other) {
            return Ok(other);
        }
        best = best.max(Some(other));
    }
    best.ok_or_else(|| {
        let hosts: Vec<String> = nodes.iter().map(|node| provider.host(*node)).collect();
        let what = format!(
            "an estimate of {first} gas, where no answer of this size needs less than {least} or more \
             than {most}; if it does here, set gas_limit"
        );
        RpcError::Unreadable { host: hosts.join(", "), what: what.into() }
    })
}
