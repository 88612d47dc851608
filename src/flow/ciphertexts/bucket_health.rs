//! Which buckets failed lately, what was logged of them, and the limit of concurrent calls to each host.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::bucket::Bucket;
use crate::telemetry::log_throttle::LogThrottle;

/// How long a bucket that failed or was slow is tried last.
const TROUBLE_REMEMBERED: Duration = Duration::from_secs(30);
/// Concurrent calls to one host.
const CALLS_PER_HOST: usize = 64;
/// Above this many hosts, those without calls are forgotten.
const HOSTS_REMEMBERED: usize = 256;

/// Which buckets failed lately, and the limit of concurrent calls to each host.
#[derive(Debug, Default)]
pub(super) struct BucketHealth {
    failing_until: Mutex<HashMap<String, Instant>>,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    repeats: Mutex<LogThrottle>,
}

/// The map of a poisoned mutex is still consistent: its entries are single values.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BucketHealth {
    /// Sorts healthy buckets first, and otherwise keeps the order.
    pub(super) fn healthy_first(
        &self,
        mut buckets: Vec<Arc<Bucket>>,
        now: Instant,
    ) -> Vec<Arc<Bucket>> {
        let ailing = locked(&self.failing_until);
        buckets.sort_by_key(|bucket| ailing.get(&bucket.id).is_some_and(|until| *until > now));
        buckets
    }

    /// Returns whether the bucket failed lately.
    pub(super) fn is_failing(&self, bucket: &Bucket, now: Instant) -> bool {
        locked(&self.failing_until).get(&bucket.id).is_some_and(|until| *until > now)
    }

    /// Records a failure. Returns whether the bucket was healthy before.
    pub(super) fn record_failure(&self, bucket: &Bucket, now: Instant) -> bool {
        let mut ailing = locked(&self.failing_until);
        ailing.retain(|_, until| *until > now);
        ailing.insert(bucket.id.clone(), now + TROUBLE_REMEMBERED).is_none()
    }

    pub(super) fn record_success(&self, bucket: &Bucket) {
        locked(&self.failing_until).remove(&bucket.id);
    }

    /// Log throttle per bucket and error code: `Some` if the error should be logged, with how often it
    /// occurred since it was logged last.
    pub(super) fn should_log(
        &self,
        bucket: &Bucket,
        code: &'static str,
        now: Instant,
    ) -> Option<u64> {
        locked(&self.repeats).should_log_for(&bucket.display_name, code, now)
    }

    /// The semaphore that limits the calls to this bucket's host.
    pub(super) fn host_permits(&self, bucket: &Bucket) -> Arc<Semaphore> {
        let mut hosts = locked(&self.hosts);
        if hosts.len() > HOSTS_REMEMBERED {
            hosts.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        let turns = hosts
            .entry(bucket.display_name.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(CALLS_PER_HOST)));
        Arc::clone(turns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_remembered_for_a_while() {
        let health = BucketHealth::default();
        let buckets: Vec<_> = ["http://a/1", "http://a/2", "http://b/1"]
            .into_iter()
            .map(|base| Arc::new(Bucket::new(base).unwrap()))
            .collect();
        let order = |now| {
            let sorted = health.healthy_first(buckets.clone(), now);
            sorted.iter().map(|bucket| bucket.id.clone()).collect::<Vec<_>>()
        };
        let now = Instant::now();
        let later = now + TROUBLE_REMEMBERED;
        assert_eq!(order(now), ["http://a/1", "http://a/2", "http://b/1"]);
        assert!(health.record_failure(&buckets[0], now), "news");
        assert!(!health.record_failure(&buckets[0], now), "no news");
        assert_eq!(order(now), ["http://a/2", "http://b/1", "http://a/1"]);
        assert_eq!(order(later), ["http://a/1", "http://a/2", "http://b/1"]);
        assert!(health.record_failure(&buckets[0], later), "news again");
        health.record_success(&buckets[0]);
        assert_eq!(order(later), ["http://a/1", "http://a/2", "http://b/1"]);
    }

    #[test]
    fn buckets_of_one_host_share_its_turns() {
        let health = BucketHealth::default();
        let [one, two, other] =
            ["http://a/1", "http://a/2", "http://a:81/1"].map(|base| Bucket::new(base).unwrap());
        let turns = health.host_permits(&one);
        assert_eq!(turns.available_permits(), 64);
        assert!(Arc::ptr_eq(&turns, &health.host_permits(&two)));
        assert!(!Arc::ptr_eq(&turns, &health.host_permits(&other)));
        for index in 0..1000 {
            health.host_permits(&Bucket::new(&format!("http://h{index}/")).unwrap());
        }
        assert!(locked(&health.hosts).len() <= HOSTS_REMEMBERED + 1);
        assert!(Arc::ptr_eq(&turns, &health.host_permits(&one)), "turns in use are kept");
    }
}
