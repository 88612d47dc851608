//! The text that Prometheus scrapes: the metrics of all instances, and what their supervisor knows
//! about them. Each series of an instance gets its `instance` label here, and a series of its second chain the
//! label `chain` besides.
//!
//! Series exist only for published instances: those of a removed instance disappear with it.

use std::collections::BTreeMap;

use prometheus::{
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    build,
    snapshot::ProcessSnapshot,
    status::{ChainState, Gauges, InstanceState, InstanceStatus, Status},
};
use crate::telemetry::{
    metrics::families::{self, StatusFamily},
    process::{self, Usage},
};

/// The content type of [`render`]: scrapers refuse the text without it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the text. Reads `/proc` for the resources of the process, which does not block.
pub fn render(shown: &ProcessSnapshot) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    for (instance, metrics) in &shown.metrics {
        for family in metrics.gather() {
            families.merge(&[("instance", instance)], family);
        }
        for (chain, metrics) in metrics.chains() {
            let chain = chain.to_string();
            for family in metrics.gather() {
                families.merge(&[("instance", instance), ("chain", &chain)], family);
            }
        }
    }
    for instance in &shown.status.instances {
        families.instance(instance);
    }
    families.process(&shown.status, process::usage());
    let families: Vec<MetricFamily> = families.0.into_values().collect();
    TextEncoder::new().encode_to_string(&families)
}

/// By name: each family may appear once only.
#[derive(Default)]
struct Families(BTreeMap<String, MetricFamily>);

impl Families {
    /// Adds the series of one instance, or of a second chain of it, to the family of all.
    fn merge(&mut self, whose: &[(&str, &str)], mut family: MetricFamily) {
        let mut series = family.take_metric();
        for one in &mut series {
            let own = one.take_label();
            // Some series are of a chain anyway.
            let added = whose.iter().filter(|(name, _)| own.iter().all(|had| had.name() != *name));
            let mut labels: Vec<LabelPair> =
                added.map(|(name, value)| label(name, value)).collect();
            labels.extend(own);
            one.set_label(labels);
        }
        let all = self.0.entry(family.name().to_owned()).or_insert(family);
        all.mut_metric().extend(series);
    }

    fn add_sample(&mut self, family: &StatusFamily, values: &[&str], value: f64) {
        self.add_sample_of(None, family, values, value);
    }

    /// `chain`: the second chain that it is of.
    fn add_sample_of(
        &mut self,
        chain: Option<&str>,
        family: &StatusFamily,
        values: &[&str],
        value: f64,
    ) {
        let labels = family.labels.iter().zip(values).map(|(name, value)| label(name, value));
        let labels = labels.chain(chain.map(|chain| label("chain", chain)));
        let mut series = Metric::from_label(labels.collect());
        if family.is_counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            series.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            series.set_gauge(gauge);
        }
        let all = self.0.entry(family.name.to_owned()).or_insert_with(|| {
            let mut all = MetricFamily::default();
            all.set_name(family.name.to_owned());
            all.set_help(family.help.to_owned());
            all.set_field_type(if family.is_counter {
                MetricType::COUNTER
            } else {
                MetricType::GAUGE
            });
            all
        });
        all.mut_metric().push(series);
    }

    fn instance(&mut self, instance: &InstanceStatus) {
        let name = instance.name.as_str();
        for word in InstanceState::WORDS {
            let is = f64::from(u8::from(instance.state.word() == word));
            self.add_sample(&families::STATE, &[name, word], is);
        }
        self.add_sample(&families::STATE_SINCE, &[name], seconds(instance.since_ms));
        self.add_sample(&families::GENERATION, &[name], float(instance.generation));
        self.add_sample(&families::RESTARTS, &[name], float(instance.restarts));
        let failed = f64::from(u8::from(instance.reload_failed.is_some()));
        self.add_sample(&families::RELOAD_FAILED, &[name], failed);
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let chain_id = instance.chain_id.map(|id| id.to_string());
        let (wallet, gateway) = (text(&instance.gauges.wallet), text(&instance.gateway));
        let (decryption, core) = (text(&instance.decryption), text(&instance.kms_core));
        let values = [name, &text(&chain_id), &decryption, &wallet, &gateway, &core];
        self.add_sample(&families::INFO, &values, 1.0);
        self.reading(name, None, &instance.gauges);
        for chain in &instance.gauges.chains {
            let id = chain.chain_id.to_string();
            let is_running = f64::from(u8::from(chain.state == ChainState::Running));
            self.add_sample(&families::CHAIN_RUNNING, &[name, &id], is_running);
            self.reading(name, Some(&id), &chain.gauges);
        }
    }

    /// How far a chain is read.
    fn reading(&mut self, name: &str, chain: Option<&str>, gauges: &Gauges) {
        for (family, value) in [
            (&families::HEAD, gauges.head),
            (&families::CURSOR, gauges.cursor),
            (&families::LAG, gauges.lag()),
        ] {
            if let Some(value) = value {
                self.add_sample_of(chain, family, &[name], float(value));
            }
        }
        if gauges.head.is_some() {
            let left =
                gauges.catching_up.map_or(0, |behind| behind.to_do.saturating_sub(behind.done));
            self.add_sample_of(chain, &families::CATCH_UP, &[name], float(left));
        }
    }

    fn process(&mut self, status: &Status, usage: Usage) {
        let reload = &status.reload;
        self.add_sample(&families::RELOAD, &[], f64::from(u8::from(reload.problems.is_empty())));
        if let Some(at) = reload.succeeded_at_ms {
            self.add_sample(&families::RELOAD_AT, &[], seconds(at));
        }
        self.add_sample(
            &families::BUILD,
            &[&status.version, build::COMMIT, build::RUST_VERSION],
            1.0,
        );
        self.add_sample(&families::STARTED, &[], seconds(status.started_at_ms));
        let Usage { cpu_seconds, resident_bytes, open_fds, max_fds, threads } = usage;
        for (family, value) in [
            (&families::CPU, cpu_seconds),
            (&families::MEMORY, resident_bytes),
            (&families::FDS, open_fds),
            (&families::MAX_FDS, max_fds),
            (&families::THREADS, threads),
        ] {
            if let Some(value) = value {
                self.add_sample(family, &[], value);
            }
        }
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a float, whatever is counted")]
fn float(number: u64) -> f64 {
    number as f64
}

fn seconds(unix_ms: u64) -> f64 {
    float(unix_ms) / 1000.0
}

#[cfg(test)]
mod tests;
