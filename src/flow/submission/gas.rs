//! How much gas a response may use: the operator's figure, or learned from estimates.
//!
//! One estimate per generation, kind and size class serves every later answer of that class, so in
//! steady state nothing is estimated. The answer that reaches the contract's threshold costs more
//! than the others: it may run out of gas once, after which the class is estimated again and never
//! goes below what was learned before.

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

#[derive(Debug)]
pub(super) struct GasBook {
    fixed: Option<u64>,
    learned: Mutex<HashMap<Class, Entry>>,
}

impl GasBook {
    pub(super) fn new(fixed: Option<u64>) -> Self {
        Self { fixed, learned: Mutex::default() }
    }

    /// The gas limit for this call. Fails as the estimate fails, reverts included.
    pub(super) async fn limit<P: Provider>(
        &self,
        request: &Request,
        call: &Call,
        provider: &P,
    ) -> Result<u64, RpcError> {
        if let Some(fixed) = self.fixed {
            return Ok(fixed);
        }
        let entry = self.entry(request, call);
        let mut known = entry.lock().await;
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
        if let Ok(mut known) = entry.try_lock()
            && let Some(limit) = known.limit.take()
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
