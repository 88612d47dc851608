//! Bounds of answers, from the largest legal ones. Pure, except for [`ResponseBudget`].
//!
//! A byte of log data costs 8 gas, and a log with two topics another 1,125. So a block of 60 million gas
//! (Ethereum; Arbitrum blocks have 32) holds at most 7.5 MB of log data, which are 15 MB of JSON, or
//! 53,000 empty logs of some 500 bytes of JSON each. Every block fits [`LARGEST`]; a larger range is
//! read in parts, and so are receipts.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Logs and receipts.
pub(super) const LARGEST: usize = 32 << 20;
/// A header includes the hashes of its transactions: at most 2,857 of 21,000 gas, 69 bytes each.
const HEADER: usize = 2 << 20;
/// A number, a hash, the result of a contract's view, an error.
const OTHER: usize = 1 << 20;
/// All answers of an instance that are being read at the same time.
const BUDGET: usize = 64 << 20;
/// Smaller answers do not wait for room.
pub(super) const SMALL: usize = 64 << 10;
const UNIT: usize = 1 << 10;

/// The largest legal answer to this method, in bytes.
#[must_use]
pub(super) fn largest_response(method: &str) -> usize {
    match method {
        "eth_getLogs" | "eth_getTransactionReceipt" | "eth_getBlockReceipts" => LARGEST,
        "eth_getBlockByNumber" | "eth_getBlockByHash" => HEADER,
        _ => OTHER,
    }
}

/// The same for a batch.
#[must_use]
pub(super) fn largest_batch_response<'m>(methods: impl Iterator<Item = &'m str>) -> usize {
    methods.map(largest_response).sum::<usize>().min(LARGEST)
}

/// Budget for the answers of an instance. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ResponseBudget(Arc<Semaphore>);

/// A share of the budget; returned on drop.
#[derive(Debug)]
pub(super) struct BudgetPermit(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

impl ResponseBudget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET / UNIT)))
    }

    /// Waits for the whole amount at once: waiting for it in parts could deadlock.
    pub(super) async fn reserve(&self, bytes: usize) -> BudgetPermit {
        if bytes <= SMALL {
            return BudgetPermit(None);
        }
        let units = bytes.min(LARGEST).div_ceil(UNIT);
        let taken = self.0.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
        // The semaphore is never closed.
        BudgetPermit(taken.await.ok())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn b4_answers_under_way_have_a_bound_together() {
        let room = ResponseBudget::new();
        let first = room.reserve(LARGEST).await;
        let second = room.reserve(usize::MAX).await;
        assert!(room.reserve(SMALL + 1).now_or_never().is_none());
        assert!(room.reserve(SMALL).now_or_never().is_some(), "small ones never wait");
        drop(first);
        let third = room.reserve(LARGEST - 1).now_or_never();
        assert!(third.is_some());
        drop((second, third));
    }

    #[test]
    fn several_calls_may_have_the_largest_answer_together_at_most() {
        assert_eq!(largest_response("eth_call"), OTHER);
        assert_eq!(
            largest_batch_response(["eth_call", "eth_getBlockByNumber"].into_iter()),
            OTHER + HEADER
        );
        assert_eq!(largest_batch_response(["eth_getLogs"; 100].into_iter()), LARGEST);
    }
}
