//! The metrics of an instance. The instance's tasks count in a [`Metrics`]; `admin::exposition` renders
//! it.
//!
//! There is one value per instance. It is kept when the instance restarts, and removed with it. Its series
//! have no label for the instance: that is added when they are rendered, so that a renamed instance keeps its
//! counts. Label values from outside are limited in number ([`BoundedLabels`]), and none is secret: hosts, never
//! URLs.
//!
//! Counting is one atomic operation where the series is known beforehand. Series that are counted next to a
//! network call are looked up by their labels. All names are in [`families`]. A gauge is not shown before it is first set, so that "unknown"
//! is not shown as zero. While an instance is down its gauges keep their last values.

mod values;
pub mod families;
mod ended;
mod register;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::utils::format_ether;
use prometheus::{
    Counter, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec,
    proto::MetricFamily,
};

use self::register::{BoundedLabels, OptionalGauge, Register};
pub use self::{
    ended::EndedRequests,
    register::FamilyDescription,
    values::{LaneGauges, Mined, NodeGauges, RequestGauges, Room, TransactionResult},
};
use crate::{
    domain::{HoldReason, Kind, Outcome, U256},
    time::clock,
};

/// The metrics of one instance. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Series>);

/// Those of an instance's second chains, by chain id.
type ByChain = Mutex<BTreeMap<u64, Metrics>>;

/// One field per metric family, in the order of the table in `scripts/observability/README.md`.
#[derive(Debug)]
struct Series {
    register: Register,
    chains: ByChain,
    // requests
    arrived: IntCounterVec,
    requests: IntGaugeVec,
    held: IntGaugeVec,
    ever_held: Mutex<HashSet<HoldReason>>,
    holds: IntCounterVec,
    settled: IntCounterVec,
    oldest: GaugeVec,
    oldest_ms: [AtomicU64; 2],
    request_duration: HistogramVec,
    rooms: [Histogram; Room::ALL.len()],
    attempts_failed: IntCounterVec,
    panics: IntCounter,
    unattended: IntCounter,
    walking: OptionalGauge,
    walking_limit: OptionalGauge,
    undecodable: IntCounter,
    witnessed: IntCounterVec,
    // access
    access_checks: IntCounterVec,
    access_duration: HistogramVec,
    access_known: IntCounterVec,
    // the chain
    lag: OptionalGauge,
    /// Unix ms. 0: not behind; [`UNKNOWN`]: not known.
    behind_since_ms: AtomicU64,
    /// The number of answers that are not mined, and (in ms) for how long none was mined.
    unsent: AtomicU64,
    still_ms: AtomicU64,
    reorganisations: IntCounter,
    still_tag: OptionalGauge,
    unproven: OptionalGauge,
    hidden: OptionalGauge,
    consensus_missed: IntCounter,
    // ciphertexts
    fetches: IntCounterVec,
    bucket_hosts: BoundedLabels,
    digest_mismatches: IntCounter,
    wrong_format_headers: IntCounterVec,
    attestations: IntCounterVec,
    attestation_faults: IntCounterVec,
    attestation_shadow: IntCounterVec,
    ciphertext_bytes: IntCounter,
    memory: OptionalGauge,
    memory_limit: OptionalGauge,
    // the Core
    core_calls: IntCounterVec,
    polls: Histogram,
    signer_mismatches: IntCounter,
    // transactions
    transactions: IntCounterVec,
    contract_errors: IntCounterVec,
    broadcasts: IntCounterVec,
    gas: IntCounter,
    fees: Counter,
    in_flight: OptionalGauge,
    in_flight_limit: OptionalGauge,
    waiting: OptionalGauge,
    nonce_gap: OptionalGauge,
    still: OptionalGauge,
    foreign_nonces: IntCounter,
    balance: OptionalGauge,
    signing: Histogram,
    signatures: IntCounterVec,
    throttled: IntCounter,
    // the journal
    journal_bytes: OptionalGauge,
    commits: Histogram,
    disk_free: OptionalGauge,
    // nodes
    rpc_calls: IntCounterVec,
    endpoint_up: IntGaugeVec,
    endpoint_head: IntGaugeVec,
    endpoint_behind: GaugeVec,
    endpoint_still: GaugeVec,
    host_chain_reachable: IntGaugeVec,
    host_chain_head_age: GaugeVec,
}

/// Not set yet.
const UNKNOWN: u64 = u64::MAX;

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let series = Series::new();
        // Series that alerts watch exist from the start with 0, so that their first increase is visible.
        for kind in Kind::ALL {
            let kind = kind.as_str();
            series.arrived.with_label_values(&[kind]);
            series.settled.with_label_values(&[kind, "accepted"]);
            series.request_duration.with_label_values(&[kind]);
        }
        for result in TransactionResult::ALL {
            series.transactions.with_label_values(&[result.as_str()]);
        }
        series.witnessed.with_label_values(&["disputed"]);
        Self(Arc::new(series))
    }

    /// Returns all metrics, without the label for the instance.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        let now = clock::unix_millis();
        for (held, oldest) in [("false", &self.0.oldest_ms[0]), ("true", &self.0.oldest_ms[1])] {
            if let Some(age) = age(oldest.load(Ordering::Relaxed), now) {
                self.0.oldest.with_label_values(&[held]).set(age);
            }
        }
        if let Some(lag) = age(self.0.behind_since_ms.load(Ordering::Relaxed), now) {
            self.0.lag.set(lag);
        }
        self.0.register.gather()
    }

    /// The metrics of a second chain of the instance: the same series, which count what happens there.
    #[must_use]
    pub fn of_chain(&self, chain_id: u64) -> Self {
        let mut chains = self.0.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.entry(chain_id).or_default().clone()
    }

    /// The second chains that were counted, each with its metrics.
    #[must_use]
    pub fn chains(&self) -> BTreeMap<u64, Self> {
        self.0.chains.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the descriptions of all metric families.
    #[must_use]
    pub fn described(&self) -> &[FamilyDescription] {
        self.0.register.described()
    }

    /// Called when the instance restarts: its configuration may name other nodes than before.
    pub fn new_generation(&self) {
        self.0.endpoint_up.reset();
        self.0.endpoint_head.reset();
        self.0.endpoint_behind.reset();
        self.0.endpoint_still.reset();
        self.0.host_chain_reachable.reset();
        self.0.host_chain_head_age.reset();
    }

    // Requests.

    /// The result of asking several nodes for a request's event before the Core is asked.
    pub fn count_witnessed(&self, result: &'static str) {
        self.0.witnessed.with_label_values(&[result]).inc();
    }

    /// A request was stored for the first time. `took`: since the head arrived that showed it.
    pub fn arrived(&self, kind: Kind, took: Duration) {
        self.0.arrived.with_label_values(&[kind.as_str()]).inc();
        self.observe_room(Room::Arrivals, took);
    }

    /// Sets the gauges for unfinished requests.
    pub fn set_requests(&self, standings: &[RequestGauges]) {
        let Series { requests, held, ever_held: held_once, oldest_ms, .. } = &*self.0;
        let sum = |of: &dyn Fn(&RequestGauges) -> bool| {
            int(standings.iter().filter(|one| of(one)).map(|one| one.requests).sum())
        };
        for kind in Kind::ALL {
            for stage in ["arrived", "asked", "answered", "submitted"] {
                let here = sum(&|one| one.kind == kind && one.stage == stage);
                requests.with_label_values(&[kind.as_str(), stage]).set(here);
            }
        }
        // Reasons that occurred before are set to 0; the others are not shown at all.
        let mut held_once = held_once.lock().unwrap_or_else(PoisonError::into_inner);
        held_once.extend(standings.iter().filter_map(|one| one.held));
        for reason in held_once.iter() {
            let here = sum(&|one| one.held == Some(*reason));
            held.with_label_values(&[reason.as_str()]).set(here);
        }
        for (is_held, to) in [false, true].into_iter().zip(oldest_ms) {
            // A key operation is at the Core for hours.
            let is_long = |one: &RequestGauges| one.kind.is_key_operation() && one.stage == "asked";
            let those =
                standings.iter().filter(|one| one.held.is_some() == is_held && !is_long(one));
            to.store(those.map(|one| one.oldest_ms).min().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// A request was held, or waits for an operator.
    pub fn held(&self, reason: HoldReason) {
        self.0.holds.with_label_values(&[reason.as_str()]).inc();
        if reason == HoldReason::SignerMismatch {
            self.0.signer_mismatches.inc();
        }
    }

    /// A request ended, `after` its event was first seen. Only accepted answers are timed: the duration of an
    /// orphan or a refusal says nothing about speed.
    pub fn settled(&self, kind: Kind, outcome: &Outcome, after: Duration) {
        self.0.settled.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
        if let Outcome::Accepted { .. } = outcome {
            let duration = self.0.request_duration.with_label_values(&[kind.as_str()]);
            duration.observe(after.as_secs_f64());
        }
    }

    /// The requests of all kinds that have ended so far.
    #[must_use]
    pub fn ended(&self) -> EndedRequests {
        EndedRequests::read(&self.0.settled, &self.0.request_duration)
    }

    /// Records the duration of one part of a request's way.
    pub fn observe_room(&self, room: Room, time: Duration) {
        self.0.rooms[room as usize].observe(time.as_secs_f64());
    }

    /// An attempt of a request failed in this stage, and will be repeated.
    pub fn attempt_failed(&self, stage: &'static str) {
        self.0.attempts_failed.with_label_values(&[stage]).inc();
    }

    /// An open request was found that no walk attends.
    pub fn unattended(&self) {
        self.0.unattended.inc();
    }

    #[cfg(test)]
    pub(crate) fn unattended_so_far(&self) -> u64 {
        self.0.unattended.get()
    }

    pub fn walk_panicked(&self) {
        self.0.panics.inc();
    }

    /// The number of walks under way, and its limit.
    pub fn walking(&self, walks: usize, limit: usize) {
        self.0.walking.set_count(walks as u64);
        self.0.walking_limit.set_count(limit as u64);
    }

    /// A log was stored that could not be decoded.
    pub fn undecodable_log(&self) {
        self.0.undecodable.inc();
    }

    #[cfg(test)]
    pub(crate) fn undecodable_so_far(&self) -> u64 {
        self.0.undecodable.get()
    }

    // The chain.

    /// Since when (Unix ms) a block is known that was not read yet. `None`: all are read.
    pub fn behind_since(&self, since_ms: Option<u64>) {
        self.0.behind_since_ms.store(since_ms.unwrap_or(0), Ordering::Relaxed);
    }

    pub fn reorganised(&self) {
        self.0.reorganisations.inc();
    }

    /// For how long the finality tag has not moved while the chain went on.
    pub fn finality_tag(&self, still: Duration) {
        self.0.still_tag.set(still.as_secs_f64());
    }

    /// Blocks that no node could prove within a minute.
    pub fn unproven_blocks(&self, blocks: u64) {
        self.0.unproven.set_count(blocks);
    }

    /// Requests that no node shows, derived from gaps in their ids.
    pub fn hidden_requests(&self, requests: u64) {
        self.0.hidden.set_count(requests);
    }

    /// Others have answered this many more requests that this node had not answered within a minute.
    pub fn consensus_missed(&self, requests: u64) {
        self.0.consensus_missed.inc_by(requests);
    }

    // Access.

    /// A host chain was checked for one request. `chain`: its id, `None` if none is configured by that id.
    /// `result`: `granted`, or why not.
    pub fn access_checked(
        &self,
        chain: Option<u64>,
        kind: Kind,
        result: &'static str,
        took: Duration,
    ) {
        let chain = chain.map_or("unknown".to_owned(), |chain| chain.to_string());
        self.0.access_checks.with_label_values(&[&chain, kind.as_str(), result]).inc();
        self.0.access_duration.with_label_values(&[&chain]).observe(took.as_secs_f64());
    }

    /// This many answers of a check were grants known from before.
    pub fn access_known(&self, chain: u64, answers: usize) {
        if answers > 0 {
            self.0.access_known.with_label_values(&[&chain.to_string()]).inc_by(answers as u64);
        }
    }

    // Ciphertexts.

    /// The result of one call to a bucket. `host`: host and port.
    pub fn fetched(&self, host: &str, result: &'static str) {
        let host = self.0.bucket_hosts.label(host);
        self.0.fetches.with_label_values(&[host, result]).inc();
    }

    pub fn digest_mismatch(&self) {
        self.0.digest_mismatches.inc();
    }

    /// `host`: host and port of the bucket.
    pub fn wrong_format_header(&self, host: &str) {
        let host = self.0.bucket_hosts.label(host);
        self.0.wrong_format_headers.with_label_values(&[host]).inc();
    }

    /// Whether enough coprocessors attested the same about one ciphertext.
    pub fn attestation_consensus(&self, reached: bool) {
        let result = if reached { "reached" } else { "missed" };
        self.0.attestations.with_label_values(&[result]).inc();
    }

    /// What a bucket said about a ciphertext did not count. `host`: host and port of the bucket.
    pub fn attestation_fault(&self, host: &str, fault: &'static str) {
        let host = self.0.bucket_hosts.label(host);
        self.0.attestation_faults.with_label_values(&[host, fault]).inc();
    }

    /// The result of comparing attestations with the chain.
    pub fn attestation_shadow(&self, result: &'static str) {
        self.0.attestation_shadow.with_label_values(&[result]).inc();
    }

    /// Verified bytes that a bucket delivered.
    pub fn ciphertext_bytes(&self, bytes: u64) {
        self.0.ciphertext_bytes.inc_by(bytes);
    }

    pub fn ciphertext_memory(&self, bytes: u64, limit: u64) {
        self.0.memory.set_count(bytes);
        self.0.memory_limit.set_count(limit);
    }

    // The Core.

    pub fn core_call(&self, method: &'static str, code: &'static str) {
        self.0.core_calls.with_label_values(&[method, code]).inc();
    }

    /// The number of polls until the Core answered.
    pub fn polls(&self, polls: u32) {
        self.0.polls.observe(f64::from(polls));
    }

    // Transactions.

    pub fn transactions(&self, result: TransactionResult, count: u64) {
        self.0.transactions.with_label_values(&[result.as_str()]).inc_by(count);
    }

    /// One of our transactions was mined.
    pub fn mined(&self, mined: Mined) {
        let result =
            if mined.success { TransactionResult::Succeeded } else { TransactionResult::Reverted };
        self.transactions(result, 1);
        self.0.gas.inc_by(mined.gas_used);
        self.0.fees.inc_by(ether(U256::from(mined.gas_used) * U256::from(mined.gas_price)));
    }

    /// The contract refused an answer: in a block, or in a simulation before.
    pub fn contract_error(&self, error: &'static str) {
        self.0.contract_errors.with_label_values(&[error]).inc();
    }

    pub fn broadcast(&self, result: &'static str) {
        self.0.broadcasts.with_label_values(&[result]).inc();
    }

    pub fn lane(&self, lane: LaneGauges) {
        let LaneGauges { in_flight, in_flight_limit, waiting, nonce_gap, still } = lane;
        self.0.in_flight.set_count(in_flight as u64);
        self.0.in_flight_limit.set_count(in_flight_limit as u64);
        self.0.waiting.set_count(waiting as u64);
        self.0.nonce_gap.set_count(nonce_gap);
        self.0.still.set(still.as_secs_f64());
        self.0.unsent.store((in_flight + waiting) as u64, Ordering::Relaxed);
        let still_ms = u64::try_from(still.as_millis()).unwrap_or(u64::MAX);
        self.0.still_ms.store(still_ms, Ordering::Relaxed);
    }

    /// The number of answers that wait to be mined, and for how long none was mined.
    #[must_use]
    pub fn unsent(&self) -> (u64, Duration) {
        let still = Duration::from_millis(self.0.still_ms.load(Ordering::Relaxed));
        (self.0.unsent.load(Ordering::Relaxed), still)
    }

    /// This many nonces of the wallet were used by transactions that the journal does not know.
    pub fn foreign_nonces(&self, nonces: u64) {
        self.0.foreign_nonces.inc_by(nonces);
    }

    pub fn balance(&self, wei: U256) {
        self.0.balance.set(ether(wei));
    }

    /// The result of a signature, and how long it took, including the wait for its turn.
    pub fn signed(&self, result: &'static str, took: Duration) {
        self.0.signatures.with_label_values(&[result]).inc();
        self.0.signing.observe(took.as_secs_f64());
    }

    pub fn signing_throttled(&self) {
        self.0.throttled.inc();
    }

    // The journal.

    pub fn committed(&self, took: Duration) {
        self.0.commits.observe(took.as_secs_f64());
    }

    /// The size of the journal's files, and the space that an unprivileged user has left on its disk.
    pub fn journal(&self, bytes: u64, disk_free: u64) {
        self.0.journal_bytes.set_count(bytes);
        self.0.disk_free.set_count(disk_free);
    }

    // Nodes.

    pub fn rpc_call(&self, method: &'static str, result: &'static str) {
        self.0.rpc_calls.with_label_values(&[method, result]).inc();
    }

    /// Sets the gauges of a host chain, once for all that is asked there. `head_age_secs`: `None` while no
    /// node shows a block.
    pub fn host_chain(&self, chain: u64, is_reachable: bool, head_age_secs: Option<u64>) {
        let chain = chain.to_string();
        let reachable = self.0.host_chain_reachable.with_label_values(&[&chain]);
        reachable.set(i64::from(is_reachable));
        if let Some(age) = head_age_secs {
            let age = Duration::from_secs(age).as_secs_f64();
            self.0.host_chain_head_age.with_label_values(&[&chain]).set(age);
        } else {
            // Fails if it was never set.
            let _ = self.0.host_chain_head_age.remove_label_values(&[&chain]);
        }
    }

    /// Sets the gauges of all gateway nodes. Of two nodes with one host, each gauge shows the better value.
    pub fn endpoints<'n>(&self, nodes: impl IntoIterator<Item = NodeGauges<'n>>) {
        let mut told: Vec<NodeGauges<'n>> = Vec::new();
        for node in nodes {
            match told.iter_mut().find(|known| known.host == node.host) {
                Some(known) => *known = known.merge(node),
                None => told.push(node),
            }
        }
        for NodeGauges { host, up, head, behind, still } in told {
            self.0.endpoint_up.with_label_values(&[host]).set(i64::from(up));
            if let Some(head) = head {
                self.0.endpoint_head.with_label_values(&[host]).set(int(head));
            }
            for (gauges, time) in
                [(&self.0.endpoint_behind, behind), (&self.0.endpoint_still, still)]
            {
                if let Some(time) = time {
                    gauges.with_label_values(&[host]).set(time.as_secs_f64());
                } else {
                    // Fails if it was never set.
                    let _ = gauges.remove_label_values(&[host]);
                }
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// `None`: not set yet.
fn age(since_ms: u64, now_ms: u64) -> Option<f64> {
    match since_ms {
        UNKNOWN => None,
        0 => Some(0.0),
        since => Some(Duration::from_millis(now_ms.saturating_sub(since)).as_secs_f64()),
    }
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn ether(wei: U256) -> f64 {
    format_ether(wei).parse().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests;
