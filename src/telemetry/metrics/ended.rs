//! Counts of ended requests, read back from the metrics. The difference of two readings gives the last hour.

use prometheus::{HistogramVec, IntCounterVec, core::Collector};

/// Buckets for the time from an event to its mined answer, in seconds: seconds normally, half an hour in an
/// outage.
pub(super) const DURATIONS: [f64; 18] = [
    0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1800.0,
];

/// Outcomes after which the contract has an answer of this node.
const ANSWERED: [&str; 2] = ["accepted", "already_answered"];

/// Requests that ended so far, by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedRequests {
    /// The contract has an answer of this node.
    pub answered: u64,
    pub otherwise: u64,
    /// Answered by one of our transactions: the ones whose duration was measured.
    timed: u64,
    /// For each of [`DURATIONS`], how many of these took no longer.
    within: [u64; DURATIONS.len()],
}

impl EndedRequests {
    pub(super) fn read(settled: &IntCounterVec, durations: &HistogramVec) -> Self {
        let mut ended = EndedRequests::default();
        for family in settled.collect() {
            for metric in family.get_metric() {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a count"
                )]
                let count = metric.get_counter().get_value() as u64;
                let mut labels = metric.get_label().iter();
                if labels.any(|label| ANSWERED.contains(&label.value())) {
                    ended.answered += count;
                } else {
                    ended.otherwise += count;
                }
            }
        }
        for family in durations.collect() {
            for metric in family.get_metric() {
                let histogram = metric.get_histogram();
                ended.timed += histogram.get_sample_count();
                for (sum, bucket) in ended.within.iter_mut().zip(histogram.get_bucket()) {
                    *sum += bucket.cumulative_count();
                }
            }
        }
        ended
    }

    /// What ended since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(earlier.answered),
            otherwise: self.otherwise.saturating_sub(earlier.otherwise),
            timed: self.timed.saturating_sub(earlier.timed),
            within: std::array::from_fn(|i| self.within[i].saturating_sub(earlier.within[i])),
        }
    }

    /// The time in seconds within which the fastest `share` of the answers was mined, interpolated linearly
    /// between the bounds of the histogram. Values above the last bound count as that bound.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        if self.timed == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
        let float = |count: u64| count as f64;
        let rank = share * float(self.timed);
        let (mut from, mut below) = (0.0, 0);
        for (bound, within) in DURATIONS.into_iter().zip(self.within) {
            if float(within) >= rank && within > below {
                let part = (rank - float(below)) / float(within - below);
                return Some(from + (bound - from) * part.clamp(0.0, 1.0));
            }
            (from, below) = (bound, within);
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::domain::{B256, BlockRef, Refusal};
    use crate::{
        domain::{Kind, Outcome},
        telemetry::metrics::Metrics,
    };

    fn accepted() -> Outcome {
        Outcome::Accepted {
            transaction: B256::ZERO,
            block: BlockRef { number: 1, hash: B256::ZERO },
        }
    }

    #[test]
    fn what_ended_is_told_by_differences() {
        let metrics = Metrics::new();
        for seconds in [1, 1, 1, 40] {
            metrics.settled(Kind::PublicDecryption, &accepted(), Duration::from_secs(seconds));
        }
        let before = metrics.ended();
        assert_eq!((before.answered, before.otherwise), (4, 0));
        metrics.settled(Kind::UserDecryption, &accepted(), Duration::from_secs(4));
        metrics.settled(Kind::UserDecryption, &Outcome::AlreadyAnswered, Duration::ZERO);
        let refused = Outcome::Refused(Refusal::NotRequested);
        metrics.settled(Kind::UserDecryption, &refused, Duration::from_secs(9));
        metrics.settled(Kind::PublicDecryption, &Outcome::Expired, Duration::from_hours(9));
        let since = metrics.ended().since(&before);
        assert_eq!((since.answered, since.otherwise), (2, 2));
        // Only the accepted answer is timed: 4 s, between the bounds 3 and 5.
        let median = since.quantile(0.5).unwrap();
        assert!((3.0..=5.0).contains(&median), "{median}");
    }

    #[test]
    fn quantiles_stand_between_the_bounds_they_fell_in() {
        let metrics = Metrics::new();
        assert_eq!(metrics.ended().quantile(0.5), None);
        for tenths in 0..100 {
            let after = Duration::from_millis(tenths * 100);
            metrics.settled(Kind::PublicDecryption, &accepted(), after);
        }
        let ended = metrics.ended();
        let (p50, p99) = (ended.quantile(0.5).unwrap(), ended.quantile(0.99).unwrap());
        assert!((4.8..=5.2).contains(&p50), "{p50}");
        assert!((9.5..=10.0).contains(&p99), "{p99}");
        for _ in 0..1_000 {
            metrics.settled(Kind::PublicDecryption, &accepted(), Duration::from_hours(9));
        }
        assert_eq!(metrics.ended().quantile(0.99), Some(1_800.0), "the last bound");
    }
}
