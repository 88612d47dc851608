//! Registers metric families, and keeps their descriptions for the test that checks the documented table.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Counter, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGaugeVec, Opts, Registry, core::Collector, proto::MetricFamily,
};

/// The largest number of values for a label that someone outside chooses.
const MAX_LABELS: usize = 32;
/// The value that stands for all others.
const OTHER: &str = "other";

/// The description of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyDescription {
    pub name: &'static str,
    /// Its type in Prometheus.
    pub kind: &'static str,
    /// In addition to `instance`.
    pub labels: Vec<&'static str>,
    pub help: &'static str,
}

/// The families of one instance.
#[derive(Debug, Default)]
pub(super) struct Register {
    registry: Registry,
    described: Vec<FamilyDescription>,
}

impl Register {
    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    pub(super) fn described(&self) -> &[FamilyDescription] {
        &self.described
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> IntCounter {
        self.add("counter", name, help, &[], IntCounter::with_opts)
    }

    pub(super) fn float_counter(&mut self, name: &'static str, help: &'static str) -> Counter {
        self.add("counter", name, help, &[], Counter::with_opts)
    }

    pub(super) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> IntCounterVec {
        self.add("counter", name, help, labels, |opts| IntCounterVec::new(opts, labels))
    }

    pub(super) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> GaugeVec {
        self.add("gauge", name, help, labels, |opts| GaugeVec::new(opts, labels))
    }

    pub(super) fn int_gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
    ) -> IntGaugeVec {
        self.add("gauge", name, help, labels, |opts| IntGaugeVec::new(opts, labels))
    }

    pub(super) fn optional_gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> OptionalGauge {
        OptionalGauge(self.gauges(name, help, &[]))
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        buckets: &[f64],
    ) -> Histogram {
        self.add("histogram", name, help, &[], |opts| {
            Histogram::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))
        })
    }

    pub(super) fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
        buckets: &[f64],
    ) -> HistogramVec {
        self.add("histogram", name, help, labels, |opts| {
            HistogramVec::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels)
        })
    }

    /// Names and labels are constants: a wrong one fails in every test.
    fn add<C: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        name: &'static str,
        help: &'static str,
        labels: &[&'static str],
        make: impl FnOnce(Opts) -> prometheus::Result<C>,
    ) -> C {
        let collector = make(Opts::new(name, help)).expect("a valid name");
        self.registry.register(Box::new(collector.clone())).expect("a name used once");
        self.described.push(FamilyDescription { name, kind, labels: labels.to_vec(), help });
        collector
    }
}

/// A gauge that is shown only after it was set.
#[derive(Debug)]
pub(super) struct OptionalGauge(GaugeVec);

impl OptionalGauge {
    pub(super) fn set(&self, value: f64) {
        self.0.with_label_values::<&str>(&[]).set(value);
    }

    /// For counts and bytes: exact up to 2^53.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, whatever is counted")]
    pub(super) fn set_count(&self, value: u64) {
        self.set(value as f64);
    }
}

/// Limits the values of a label that someone outside chooses: the first ones are kept.
#[derive(Debug, Default)]
pub(super) struct BoundedLabels(Mutex<BTreeSet<Box<str>>>);

impl BoundedLabels {
    /// The value to count under.
    pub(super) fn label<'a>(&self, value: &'a str) -> &'a str {
        // The set of a poisoned mutex is still consistent.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(value) {
            return value;
        }
        if known.len() >= MAX_LABELS {
            return OTHER;
        }
        known.insert(value.into());
        value
    }
}
