//! How much gas a response may use: the operator's figure, or learned from estimates.
//!
//! One estimate per generation, kind and size class serves every later answer of that class, so in
//! steady state nothing is estimated. The answer that reaches the contract's threshold costs more
//! than the others: it may run out of gas once, after which the class is estimated again and never
//! goes below what was learned before.
//!
//! The operator's figure is sent without asking, as long as that works. Once it did not, an
//! estimate comes first: what would fail again shows there for free, not as one more transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    domain::{Generation, Kind, Request},
    gateway::provider::{Call, Provider, RpcError},
};

/// Percent on top of an estimate.
const MARGIN_PERCENT: u64 = 30;
/// After an out-of-gas the class gets this much more than it had, whatever the estimate says.
const STEP_PERCENT: u64 = 50;

/// Answers that cost about the same.
type Class = (Generation, Kind, u32, usize);

/// What is known of one class. Locked while estimating, so that a burst asks once.
type Entry = Arc<tokio::sync::Mutex<Known>>;

#[derive(Debug, Default)]
struct Known {
    limit: Option<u64>,
    /// Not less than this.
    floor: u64,
}

impl Known {
    /// Takes an estimate in. What was learned never shrinks: an answer that reaches the threshold
    /// costs more than the one that was estimated.
    fn learn(&mut self, estimate: u64) -> u64 {
        let limit = plus_percent(estimate, MARGIN_PERCENT).max(self.floor);
        let limit = self.limit.map_or(limit, |known| known.max(limit));
        self.limit = Some(limit);
        limit
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
                let needed = provider.estimate_gas(call).await?;
                if needed - needed / ESTIMATE_ERROR > fixed {
                    return Err(GasError::TooLow { fixed, needed });
                }
            }
            return Ok(fixed);
        }
        let entry = self.entry(request, call);
        if wary {
            // Without the lock: many of these come at once after a restart.
            let estimate = provider.estimate_gas(call).await?;
            return Ok(entry.lock().await.learn(estimate));
        }
        let mut known = entry.lock().await;
        match known.limit {
            Some(limit) => Ok(limit),
            None => Ok(known.learn(provider.estimate_gas(call).await?)),
        }
    }

    /// `limit` was used up: the class is estimated again and never gets so little again.
    pub(super) async fn exhausted(&self, request: &Request, call: &Call, limit: u64) {
        if self.fixed.is_some() {
            return;
        }
        let entry = self.entry(request, call);
        let mut known = entry.lock().await;
        known.floor = known.floor.max(plus_percent(limit, STEP_PERCENT));
        // Others with the old limit may come late: by then more is known.
        known.limit = known.limit.filter(|known| *known > limit);
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
