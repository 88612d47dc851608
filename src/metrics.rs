//! What an instance counts: the rooms count through a [`Metrics`], `observe` writes it out.
//!
//! One value per instance, kept over its generations, and gone with it. Its series carry no name of
//! the instance: that is put on when they are written, so that a renamed instance goes on counting.
//! No label's value comes from outside without a bound on how many there may be, and none is secret.

use prometheus::{IntCounterVec, Opts, Registry, core::Collector, proto::MetricFamily};

use crate::domain::{Kind, Outcome};

/// The metrics of one instance. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    settled: IntCounterVec,
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let settled = counters(
            &registry,
            "kms_connector_requests_settled_total",
            "Requests that ended, by outcome.",
            &["kind", "outcome"],
        );
        Self { registry, settled }
    }

    /// A request ended.
    pub fn settled(&self, kind: Kind, outcome: &Outcome) {
        self.settled.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
    }

    /// All that was counted, without the instance's name.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// Names and labels are constants of this file: one that is wrong fails in every test.
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("a valid name");
    registry.register(Box::new(collector.clone())).expect("a name used once");
    collector
}
