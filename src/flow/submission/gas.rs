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
    /// The last transaction failed: no other before an estimate says yes.
    doubtful: bool,
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

    /// The gas limit for this call. `failed`: this request may have failed before, so its gas is
    /// estimated even if the limit is known. Fails as the estimate fails, reverts included.
    pub(super) async fn limit<P: Provider>(
        &self,
        request: &Request,
        call: &Call,
        provider: &P,
        failed: bool,
    ) -> Result<u64, GasError> {
        let entry = self.entry(request, call);
        let mut known = entry.lock().await;
        if let Some(fixed) = self.fixed {
            if failed || known.doubtful {
                let needed = provider.estimate_gas(call).await?;
                if needed - needed / ESTIMATE_ERROR > fixed {
                    return Err(GasError::TooLow { fixed, needed });
                }
                known.doubtful = false;
            }
            return Ok(fixed);
        }
        if let Some(limit) = known.limit {
            return Ok(limit);
        }
        let estimate = provider.estimate_gas(call).await?;
        let limit = (estimate + estimate * MARGIN_PERCENT / 100).max(known.floor);
        known.limit = Some(limit);
        Ok(limit)
    }

    /// The last limit may not fit any more: estimate again. `exhausted`: it was too low, so never
    /// that low again.
    pub(super) fn forget(&self, request: &Request, call: &Call, exhausted: bool) {
        let entry = self.entry(request, call);
        // Locked means that somebody is estimating anew already.
        let Ok(mut known) = entry.try_lock() else { return };
        known.doubtful = true;
        if let Some(limit) = known.limit.take()
            && exhausted
        {
            known.floor = limit + limit * STEP_PERCENT / 100;
        }
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
