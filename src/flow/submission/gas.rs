//! How much gas a response may use: the operator's figure, or learned from estimates.
//!
//! One estimate per generation, kind and size class serves every answer of that class for an hour, so in
//! steady state next to nothing is estimated. It is the highest that the sound nodes give. The answer that
//! reaches the contract's threshold costs more than the others, and whether it does shows on chain only: at
//! a start with many requests to catch up, each node's first estimate is of one that does not. So twice the
//! estimate is allowed, which costs nothing unless it is used. What runs out of gas all the same does so
//! once, after which the class never goes below that again: until one answer was taken, the others of its
//! class wait for it a moment.
//!
//! Of one node an estimate may be wrong. More than an answer may cost, or than a block takes, and less
//! than its calldata alone costs, is a fault of that node. Where it is less than was used before, the
//! others are asked, too.
//!
//! The operator's figure is sent without asking, as long as that works. Once it did not, an
//! estimate comes first: what would fail again shows there for free, not as one more transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout},
};

use super::{SubmissionError, rejected};
use crate::{
    chain::{
        lane::unsigned::{least_gas, most_gas},
        provider::{EthCall, RpcError, Survey, TransactionSender},
    },
    domain::{EventShape, Kind, Request},
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
type GasClass = (EventShape, Kind, u32, usize);

/// Above so many times the lowest an estimate is far: a block has no room for many such limits.
const OUTLIER_FACTOR: u64 = 8;
/// So long the other answers of a class wait for the first one that is sent.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);
/// Who takes longer for an estimate has no say beside another one.
const OTHER_NODES_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
struct ClassEntry {
    /// What is known of one class. Locked while estimating, so that a burst asks once.
    known: Arc<tokio::sync::Mutex<LearnedGas>>,
    /// Held by the one that is sent before any was taken.
    first: Arc<tokio::sync::Mutex<()>>,
}

/// The first answer of a class, until this is dropped.
pub(super) type FirstOfClass = OwnedMutexGuard<()>;

#[derive(Clone, Copy, Debug, Default)]
struct LearnedGas {
    /// The limit, and when the first of the estimates was made that it stands for.
    limit: Option<(u64, Instant)>,
    /// Not less than this: so much was used up.
    floor: u64,
    /// So much the last one used that was taken.
    used: u64,
}

impl LearnedGas {
    fn fresh(&self, now: Instant) -> Option<u64> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < LEARNED_FOR;
        self.limit.filter(|(_, at)| fresh(*at)).map(|(limit, _)| limit)
    }

    /// No limit is below this, whatever the estimate.
    fn minimum(&self) -> u64 {
        self.floor.max(plus_percent(self.used, USED_PERCENT))
    }

    /// Whether an estimate leads to what is known to be needed.
    fn is_consistent_with(&self, estimate: u64) -> bool {
        plus_percent(estimate, MARGIN_PERCENT) >= self.minimum()
    }

    /// Takes an estimate in. For a while what was learned does not shrink: an answer that reaches the
    /// threshold costs more than the one that was estimated.
    fn learn(&mut self, estimate: u64, most: u64, now: Instant) -> u64 {
        let limit = plus_percent(estimate, MARGIN_PERCENT).max(self.minimum()).min(most);
        let (known, at) = self.fresh(now).zip(self.limit.map(|(_, at)| at)).unwrap_or((0, now));
        self.limit = Some((limit.max(known), at));
        limit.max(known)
    }
}

fn plus_percent(gas: u64, percent: u64) -> u64 {
    gas.saturating_add(gas / 100 * percent).saturating_add(gas % 100 * percent / 100)
}

/// Estimates are searched for, and may end this part (a 64th) above what is needed.
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

    /// The gas limit for this call. Fails as the estimate fails, reverts included. `wary`: asks for
    /// an estimate in any case, because the contract may not take the call.
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
                            "the answer needs about {needed} gas, and gas_limit = {fixed} does not \
                             allow it; raise it, or leave it out and it is learned"
                        )));
                    }
                    // Senseless: the operator's word is worth more.
                    Ok(_) | Err(RpcError::Unreadable { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            return Ok(fixed);
        }
        let entry = self.entry(request, call);
        let most = PlausibleGas::of(provider, call).most;
        if wary {
            // Without the lock: many of these come at once after a restart.
            let known = *entry.known.lock().await;
            let fits = |gas| known.fresh(Instant::now()).is_some() && known.is_consistent_with(gas);
            let estimate = estimates(provider, call, known.minimum(), fits).await?.highest;
            return Ok(entry.known.lock().await.learn(estimate, most, Instant::now()));
        }
        let mut known = entry.known.lock().await;
        if let Some(limit) = known.fresh(Instant::now()) {
            return Ok(limit);
        }
        let estimate = estimates(provider, call, known.minimum(), |_| false).await?.highest;
        Ok(known.learn(estimate, most, Instant::now()))
    }

    /// For an answer of a class of which none was taken yet: one is sent before the others, which wait
    /// for it, though not for long.
    pub(super) async fn first_of_class(
        &self,
        request: &Request,
        call: &EthCall,
    ) -> Option<FirstOfClass> {
        if self.fixed.is_some() {
            return None;
        }
        let entry = self.entry(request, call);
        let is_new = async || entry.known.lock().await.used == 0;
        if !is_new().await {
            return None;
        }
        let first = timeout(FIRST_TIMEOUT, entry.first.clone().lock_owned()).await.ok()?;
        is_new().await.then_some(first)
    }

    /// An answer was taken, and has used so much.
    pub(super) fn record_used(&self, request: &Request, call: &EthCall, gas: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        // Busy: the next one tells as well.
        if let Ok(mut known) = entry.known.try_lock() {
            known.used = gas;
        }
    }

    /// No node takes a transaction with what was learned: it is learned anew. Whether it was.
    pub(super) async fn forget(&self, request: &Request, call: &EthCall) -> bool {
        if self.fixed.is_some() {
            return false;
        }
        self.entry(request, call).known.lock().await.limit = None;
        true
    }

    /// `limit` was used up: the class is estimated again and never gets so little again.
    pub(super) async fn record_exhausted(&self, request: &Request, call: &EthCall, limit: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        let mut known = entry.known.lock().await;
        let more = plus_percent(limit, STEP_PERCENT).min(most_gas(call.data.len()));
        known.floor = known.floor.max(more);
        // Others with the old limit may come late: by then more is known.
        known.limit = known.limit.filter(|(known, _)| *known > limit);
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

/// How much gas makes sense for a call.
#[derive(Clone, Debug)]
struct PlausibleGas {
    least: u64,
    most: u64,
    /// The node by whose blocks `most` is less than any answer may cost, and what they take.
    by_block: Option<(String, u64)>,
}

impl PlausibleGas {
    fn of<P: TransactionSender>(provider: &P, call: &EthCall) -> Self {
        let (least, most) = (least_gas(&call.data), most_gas(call.data.len()));
        let head = *provider.heads().borrow();
        let block = head.and_then(|head| Some((head.node, head.plausible_gas_limit()?)));
        let by_block = block.filter(|(_, takes)| *takes < most);
        let by_block = by_block.map(|(node, takes)| (provider.host(node), takes));
        let most = by_block.as_ref().map_or(most, |(_, takes)| *takes);
        Self { least, most, by_block }
    }

    fn contains(&self, gas: u64) -> bool {
        (self.least..=self.most).contains(&gas)
    }

    /// What is wrong where no estimate made sense, of these nodes; `first` of them.
    fn implausible_error(self, hosts: &[String], first: u64, calldata: usize) -> RpcError {
        let Self { least, most, by_block } = self;
        match by_block {
            Some((host, takes)) if (takes..=most_gas(calldata)).contains(&first) => {
                let what = format!(
                    "it tells of blocks that take {takes} gas, where an answer needs {first}"
                );
                RpcError::Unreadable { host, what: what.into() }
            }
            Some(_) | None => {
                let what = format!(
                    "an estimate of {first} gas, where no answer of this size needs less than {least} \
                     or more than {most}; if it does here, set gas_limit"
                );
                RpcError::Unreadable { host: hosts.join(", "), what: what.into() }
            }
        }
    }
}

/// What nodes say that a call needs. The highest leaves out what is far above the lowest.
struct Estimates {
    lowest: u64,
    highest: u64,
}

/// Those that make sense: that of the node that is read from alone, if it `fits` what is known; else of
/// all sound nodes. `least`: so much is known to be needed.
async fn estimates<P: TransactionSender>(
    provider: &P,
    call: &EthCall,
    least: u64,
    fits: impl Fn(u64) -> bool,
) -> Result<Estimates, RpcError> {
    let sense = PlausibleGas::of(provider, call);
    let first = provider.estimate_gas(call).await?;
    if sense.contains(first) && fits(first) {
        return Ok(Estimates { lowest: first, highest: first });
    }
    let ask = |one: P| async move { one.estimate_gas(call).await };
    let nodes = provider.sound_nodes();
    let others =
        Survey::among(provider, nodes.get(1..).unwrap_or_default(), OTHER_NODES_TIMEOUT, ask);
    let first_of = nodes.first().map(|node| (*node, first));
    let told: Vec<_> = first_of.into_iter().chain(others.await.replies).collect();
    let sensible =
        || told.iter().map(|(_, gas)| *gas).chain([first]).filter(|gas| sense.contains(*gas));
    let Some(lowest) = sensible().min() else {
        let hosts: Vec<String> = told.iter().map(|(node, _)| provider.host(*node)).collect();
        return Err(sense.implausible_error(&hosts, first, call.data.len()));
    };
    let far = lowest.max(least).saturating_mul(OUTLIER_FACTOR);
    let highest = sensible().filter(|gas| *gas <= far).max().unwrap_or(lowest);
    Ok(Estimates { lowest, highest })
}
