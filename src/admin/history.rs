//! The last hour of an instance in steps, for the page and `/history`.
//!
//! Nothing is measured for it. Every second the supervisor reads the instance's metrics. A step is the
//! difference of two readings; its gauges are those of the last one. The history outlives the
//! generations of an instance, ends with the process, and holds at most [`STEPS`] steps of about 60
//! bytes.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use super::status::Gauges;
use crate::telemetry::metrics::{EndedRequests, Metrics};

/// The length of a step.
pub const STEP_MS: u64 = 10_000;
/// Steps kept: one hour.
const STEPS: usize = 360;

/// What happened in one step.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    /// When it began: a multiple of [`STEP_MS`].
    at_ms: u64,
    answered: u64,
    otherwise: u64,
    /// Seconds from the event being seen to the answer being mined.
    p50: Option<f64>,
    p99: Option<f64>,
    in_hand: u64,
    held: u64,
    lag: Option<u64>,
}

/// The last hour of one instance. Clones are cheap: only the current step is copied.
#[derive(Clone, Debug, Default)]
pub struct LastHour {
    finished: Arc<VecDeque<Step>>,
    current: Option<Step>,
    /// What had ended when the current step began.
    base: EndedRequests,
}

impl LastHour {
    /// Records the instance's metrics now. `gauges`: of the running generation, if there is one.
    pub fn record(&mut self, now_ms: u64, metrics: &Metrics, gauges: Option<&Gauges>) {
        let ended = metrics.ended();
        let at_ms = now_ms - now_ms % STEP_MS;
        let step = |ended: &EndedRequests| Step {
            at_ms,
            answered: ended.answered,
            otherwise: ended.otherwise,
            p50: ended.quantile(0.5),
            p99: ended.quantile(0.99),
            in_hand: gauges.map_or(0, |gauges| gauges.in_hand),
            held: gauges.map_or(0, |gauges| gauges.held),
            lag: gauges.and_then(Gauges::lag),
        };
        match &mut self.current {
            // Also after the clock was set back.
            Some(current) if at_ms <= current.at_ms => {
                *current = Step { at_ms: current.at_ms, ..step(&ended.since(&self.base)) };
            }
            Some(current) => {
                let over = Arc::make_mut(&mut self.finished);
                while over.len() >= STEPS {
                    over.pop_front();
                }
                // Requests that ended since the last reading count in the finished step only.
                let last = ended.since(&self.base);
                let (p50, p99) = (last.quantile(0.5), last.quantile(0.99));
                let (answered, otherwise) = (last.answered, last.otherwise);
                over.push_back(Step { answered, otherwise, p50, p99, ..current.clone() });
                self.base = ended;
                *current = step(&EndedRequests::default());
            }
            None => {
                self.base = ended;
                self.current = Some(step(&EndedRequests::default()));
            }
        }
    }

    /// The steps that began at this time or later, including the current one.
    #[must_use]
    pub fn since(&self, since_ms: u64) -> Columns {
        let mut columns = Columns::default();
        let steps = self.finished.iter().chain(&self.current);
        for step in steps.filter(|step| step.at_ms >= since_ms) {
            columns.at_ms.push(step.at_ms);
            columns.answered.push(step.answered);
            columns.otherwise.push(step.otherwise);
            columns.p50_seconds.push(step.p50.map(to_millis));
            columns.p99_seconds.push(step.p99.map(to_millis));
            columns.in_hand.push(step.in_hand);
            columns.held.push(step.held);
            columns.lag.push(step.lag);
        }
        columns
    }
}

/// The histogram's buckets are no more precise than that.
fn to_millis(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// Steps in columns: one list per quantity.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Columns {
    pub at_ms: Vec<u64>,
    pub answered: Vec<u64>,
    pub otherwise: Vec<u64>,
    pub p50_seconds: Vec<Option<f64>>,
    pub p99_seconds: Vec<Option<f64>>,
    pub in_hand: Vec<u64>,
    pub held: Vec<u64>,
    pub lag: Vec<Option<u64>>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{B256, BlockRef, Kind, Outcome};

    const NOW: u64 = 1_789_401_910_000;

    fn answer(metrics: &Metrics, seconds: u64) {
        let block = BlockRef { number: 1, hash: B256::ZERO };
        let outcome = Outcome::Accepted { transaction: B256::ZERO, block };
        metrics.settled(Kind::PublicDecryption, &outcome, Duration::from_secs(seconds));
    }

    #[test]
    fn a_step_is_what_ended_in_it() {
        let (mut history, metrics) = (LastHour::default(), Metrics::new());
        answer(&metrics, 4);
        let gauges =
            Gauges { in_hand: 7, held: 2, head: Some(9), cursor: Some(6), ..Gauges::default() };
        // What earlier generations counted before the first reading is in no step.
        history.record(NOW, &metrics, None);
        answer(&metrics, 4);
        history.record(NOW + 5_000, &metrics, Some(&gauges));
        answer(&metrics, 1_000);
        metrics.settled(Kind::UserDecryption, &Outcome::Expired, Duration::ZERO);
        history.record(NOW + 12_000, &metrics, Some(&gauges));
        answer(&metrics, 4);
        history.record(NOW + 13_000, &metrics, None);
        let told = history.since(0);
        assert_eq!(told.at_ms, [NOW, NOW + 10_000]);
        assert_eq!((&told.answered[..], &told.otherwise[..]), (&[2, 1][..], &[1, 0][..]));
        assert_eq!((&told.in_hand[..], &told.held[..]), (&[7, 0][..], &[2, 0][..]));
        assert_eq!(told.lag, [Some(3), None]);
        let within = |seconds: Option<f64>, from, to| (from..=to).contains(&seconds.unwrap());
        assert!(within(told.p99_seconds[0], 600.0, 1_800.0), "{told:?}");
        assert!(within(told.p50_seconds[1], 3.0, 5.0), "{told:?}");
        assert_eq!(history.since(NOW + 1).at_ms, [NOW + 10_000]);
    }

    #[test]
    fn it_keeps_an_hour_and_no_more() {
        let (mut history, metrics) = (LastHour::default(), Metrics::new());
        for second in 0..2 * 3_600 {
            history.record(NOW + second * 1_000, &metrics, None);
        }
        let told = history.since(0);
        assert_eq!(told.at_ms.len(), STEPS + 1);
        assert!(told.at_ms.is_sorted_by(|a, b| a + STEP_MS == *b), "a step is missing");
        // A clock that was set back does not repeat a step.
        history.record(NOW, &metrics, None);
        assert_eq!(history.since(0).at_ms, told.at_ms);
    }

    /// Memory of a full hour; scripts/observability/README.md quotes it.
    #[test]
    fn an_hour_is_some_tens_of_kilobytes() {
        assert!(STEPS * size_of::<Step>() < 40 << 10, "{}", size_of::<Step>());
    }
}
