//! Checks that are repeated before a request is held for a contract's error, or before more gas is
//! spent on it: neither a single node's reply nor a single moment's counts, and gas spent on one
//! request is bounded.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    PriorAnswer, Submission, SubmissionError,
    decisions::{self, Opinion},
    opinion::{RECHECK_AFTER, VOTE_TIMEOUT},
    rejected,
};
use crate::{
    chain::{reader::EthCall, sender::TransactionSender, survey::Survey},
    domain::{B256, Outcome, Request, RequestKey},
    time::recent_map::RecentMap,
};

/// Reverted transactions of a request before it is held.
const MAX_REVERTS: u32 = 3;
/// The pause before gas is spent again after that. It doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_hours(1);
const LONGEST_PAUSE: Duration = Duration::from_hours(24);
/// Requests remembered; beyond that the oldest are forgotten.
const REMEMBERED: usize = 4096;
/// The interval of polls for a receipt.
const RECEIPT_EVERY: Duration = Duration::from_millis(500);

/// Reverted transactions of one request that cost gas.
#[derive(Clone, Copy, Debug)]
struct PaidReverts {
    times: u32,
    last: Instant,
    why: &'static str,
}

impl PaidReverts {
    /// How long no gas is spent after the last one.
    fn pause(&self) -> Duration {
        let doubled = self.times.checked_sub(MAX_REVERTS).map(|more| 1 << more.min(8));
        doubled.map_or(Duration::ZERO, |times| (FIRST_PAUSE * times).min(LONGEST_PAUSE))
    }
}

/// Reverted transactions by request, in this run of the instance.
#[derive(Debug)]
pub(super) struct Reverts(Mutex<RecentMap<RequestKey, PaidReverts>>);

impl Default for Reverts {
    fn default() -> Self {
        Self(Mutex::new(RecentMap::new(REMEMBERED, Duration::MAX)))
    }
}

impl Reverts {
    /// Records another one.
    pub(super) fn record(&self, key: RequestKey, why: &'static str, now: Instant) {
        let mut reverts = self.lock();
        let paid = reverts.touch(key, now, || PaidReverts { times: 0, last: now, why });
        *paid = PaidReverts { times: paid.times.saturating_add(1), last: now, why };
    }

    pub(super) fn has_any(&self, key: RequestKey) -> bool {
        self.get(key).is_some()
    }

    /// Why no gas may be spent on the request now; `None`: it may be.
    pub(super) fn pause_error(&self, key: RequestKey, now: Instant) -> Option<SubmissionError> {
        let paid = self.get(key)?;
        let over = now.saturating_duration_since(paid.last) >= paid.pause();
        (!over).then(|| {
            let PaidReverts { times, why, .. } = paid;
            let hours = paid.pause().as_secs() / 3600;
            rejected(&format!("{why} ({times} were paid for; the next one may be in {hours} h)"))
        })
    }

    pub(super) fn forget(&self, key: RequestKey) {
        self.lock().remove(&key);
    }

    fn get(&self, key: RequestKey) -> Option<PaidReverts> {
        self.lock().get(&key, Instant::now()).copied()
    }

    fn lock(&self) -> MutexGuard<'_, RecentMap<RequestKey, PaidReverts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: TransactionSender> Submission<P> {
    /// A contract error would hold the request: it counts if every node repeats it seconds later.
    pub(super) async fn recheck_hold(&self, call: &EthCall) -> SubmissionError {
        sleep(RECHECK_AFTER).await;
        self.all_opinions(call).await.map_or_else(SubmissionError::from, decisions::held)
    }

    /// Gas is spent on a request again only if every node's simulation accepts the answer. Returns an
    /// outcome if it already has one.
    pub(super) async fn recheck_before_retry(
        &self,
        request: &Request,
        call: &EthCall,
        before: PriorAnswer,
    ) -> Result<Option<Outcome>, SubmissionError> {
        match decisions::another(self.all_opinions(call).await?)? {
            Opinion::Accepts => Ok(None),
            Opinion::Rejects(error) => {
                self.interpret_error(request, call, error, before).await.map(Some)
            }
        }
    }

    /// Returns whether no sound node reports the transaction as successful. A node without its receipt is
    /// waited for, for a while.
    pub(super) async fn reverted_everywhere(&self, transaction: B256) -> bool {
        let succeeded = |one: P| async move {
            loop {
                let found = one.receipts(&[transaction]).await.ok();
                if let Some(receipt) = found.and_then(|found| found.into_iter().flatten().next()) {
                    return Ok(receipt.success);
                }
                sleep(RECEIPT_EVERY).await;
            }
        };
        let hearing = Survey::run(self.adapter.provider(), VOTE_TIMEOUT, succeeded).await;
        !hearing.replies.into_iter().any(|(_, success)| success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake_chain::SOURCE;
    use crate::domain::{B256, U256};

    fn key(id: usize) -> RequestKey {
        RequestKey { source: SOURCE, id: U256::from(id), content: B256::ZERO }
    }

    #[test]
    fn g1_what_is_remembered_of_reverts_has_a_bound() {
        let (reverts, begun) = (Reverts::default(), Instant::now());
        let at = |second: usize| begun + Duration::from_secs(second as u64);
        for id in 0..REMEMBERED + 10 {
            reverts.record(key(id), "", at(id));
        }
        assert!(!reverts.has_any(key(9)) && reverts.has_any(key(10)));
        reverts.forget(key(10));
        assert!(!reverts.has_any(key(10)));
    }

    #[test]
    fn g1_pauses_grow_to_a_day() {
        let (reverts, now) = (Reverts::default(), Instant::now());
        let hours = |count| now + Duration::from_hours(count);
        for (open_after, shut) in [(0, None), (0, None), (1, Some(0)), (2, Some(1)), (4, Some(3))] {
            reverts.record(key(1), "", now);
            assert!(reverts.pause_error(key(1), hours(open_after)).is_none());
            assert!(shut.is_none_or(|shut| reverts.pause_error(key(1), hours(shut)).is_some()));
        }
        for _ in 0..100 {
            reverts.record(key(1), "", now);
        }
        assert!(
            reverts.pause_error(key(1), hours(23)).is_some()
                && reverts.pause_error(key(1), hours(24)).is_none()
        );
    }
}
