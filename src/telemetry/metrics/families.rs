//! Every metric family: its name, its description, its labels and its buckets. First what the tasks of an
//! instance count; then what the supervisor knows of instances and process, which `admin::exposition` renders
//! from the status.

use std::sync::{Mutex, atomic::AtomicU64};

use super::{
    FamilyDescription, Series, UNKNOWN, ended,
    register::{BoundedLabels, Register},
    values::Room,
};

impl Series {
    #[expect(clippy::too_many_lines, reason = "one line per family, and every name in one place")]
    pub(super) fn new() -> Self {
        let mut r = Register::default();
        Self {
            chains: Mutex::default(),
            arrived: r.counters(
                "kms_connector_requests_arrived_total",
                "Requests stored for the first time.",
                &["kind"],
            ),
            requests: r.int_gauges(
                "kms_connector_requests",
                "Requests without an outcome, held ones included.",
                &["kind", "stage"],
            ),
            held: r.int_gauges(
                "kms_connector_requests_held",
                "Requests that are held.",
                &["reason"],
            ),
            ever_held: Mutex::default(),
            holds: r.counters(
                "kms_connector_holds_total",
                "How often a request was held.",
                &["reason"],
            ),
            settled: r.counters(
                "kms_connector_requests_settled_total",
                "Requests that ended.",
                &["kind", "outcome"],
            ),
            oldest: r.gauges(
                "kms_connector_oldest_request_age_seconds",
                "Since the arrival of the oldest request without an outcome; 0: there is none.",
                &["held"],
            ),
            oldest_ms: [AtomicU64::new(UNKNOWN), AtomicU64::new(UNKNOWN)],
            request_duration: r.histograms(
                "kms_connector_request_duration_seconds",
                "From the event seen to the answer mined, of answers the contract took.",
                &["kind"],
                &ended::DURATIONS,
            ),
            rooms: {
                let rooms = r.histograms(
                    "kms_connector_room_duration_seconds",
                    "What a request took in a room.",
                    &["room"],
                    SECONDS,
                );
                Room::ALL.map(|room| rooms.with_label_values(&[room.as_str()]))
            },
            attempts_failed: r.counters(
                "kms_connector_attempts_failed_total",
                "Attempts that failed for a new reason and were made again.",
                &["stage"],
            ),
            panics: r
                .counter("kms_connector_walk_panics_total", "Walks of a request that panicked."),
            unattended: r.counter(
                "kms_connector_requests_unattended_total",
                "Open requests that nobody walked, found and walked again.",
            ),
            walking: r.optional_gauge(
                "kms_connector_requests_walking",
                "Requests that are walked at this moment.",
            ),
            walking_limit: r
                .optional_gauge("kms_connector_requests_walking_limit", "max_requests_in_flight."),
            undecodable: r
                .counter("kms_connector_undecodable_logs_total", "Logs stored and not understood."),
            lag: r.optional_gauge(
                "kms_connector_lag_seconds",
                "For how long a block has been known that is not read yet; 0: all are read.",
            ),
            witnessed: r.counters(
                "kms_connector_requests_witnessed_total",
                "Looks of several gateway nodes at a request before the Core is asked.",
                &["result"],
            ),
            access_checks: r.counters(
                "kms_connector_access_checks_total",
                "Checks of a request at one host chain.",
                &["chain", "kind", "result"],
            ),
            access_duration: r.histograms(
                "kms_connector_access_check_duration_seconds",
                "What a check at one host chain took.",
                &["chain"],
                SECONDS,
            ),
            access_known: r.counters(
                "kms_connector_access_cache_hits_total",
                "Answers of checks that were grants known from a finalized block.",
                &["chain"],
            ),
            behind_since_ms: AtomicU64::new(UNKNOWN),
            unsent: AtomicU64::new(0),
            still_ms: AtomicU64::new(0),
            reorganisations: r.counter(
                "kms_connector_reorganisations_total",
                "Times the chain was reorganised below the cursor.",
            ),
            still_tag: r.optional_gauge(
                "kms_connector_finality_tag_still_seconds",
                "For how long the finality tag has not moved while the chain went on.",
            ),
            unproven: r.optional_gauge(
                "kms_connector_unproven_blocks",
                "Blocks whose logs no gateway node could prove within a minute.",
            ),
            hidden: r.optional_gauge(
                "kms_connector_requests_hidden",
                "Requests that are on chain, by their ids, and that no node shows.",
            ),
            consensus_missed: r.counter(
                "kms_connector_consensus_missed_total",
                "Requests that others have answered, and this node had not a minute later.",
            ),
            fetches: r.counters(
                "kms_connector_bucket_fetches_total",
                "Calls to buckets.",
                &["bucket_host", "result"],
            ),
            bucket_hosts: BoundedLabels::default(),
            digest_mismatches: r.counter(
                "kms_connector_digest_mismatches_total",
                "Ciphertexts whose bytes had another digest than the chain says.",
            ),
            wrong_format_headers: r.counters(
                "kms_connector_wrong_format_headers_total",
                "Ciphertexts that came with a header of another format than they have.",
                &["bucket_host"],
            ),
            attestations: r.counters(
                "kms_connector_attestation_consensus_total",
                "Ciphertexts about which enough coprocessors attested the same, or did not.",
                &["result"],
            ),
            attestation_faults: r.counters(
                "kms_connector_attestation_faults_total",
                "Answers of buckets about a ciphertext that did not count.",
                &["bucket_host", "fault"],
            ),
            attestation_shadow: r.counters(
                "kms_connector_attestation_shadow_total",
                "Attestations compared with the chain, where the chain decides.",
                &["result"],
            ),
            ciphertext_bytes: r.counter(
                "kms_connector_ciphertext_bytes_total",
                "Bytes of ciphertexts fetched and found right.",
            ),
            memory: r.optional_gauge(
                "kms_connector_ciphertext_memory_bytes",
                "Memory reserved for ciphertexts.",
            ),
            memory_limit: r.optional_gauge(
                "kms_connector_ciphertext_memory_limit_bytes",
                "ciphertext_memory_mib.",
            ),
            core_calls: r.counters(
                "kms_connector_core_calls_total",
                "Calls to the Core.",
                &["method", "code"],
            ),
            polls: r.histogram(
                "kms_connector_core_polls_per_answer",
                "Polls until the Core answered.",
                POLLS,
            ),
            signer_mismatches: r.counter(
                "kms_connector_signer_mismatches_total",
                "Requests held because the Core signed with another key than the registered one.",
            ),
            transactions: r.counters(
                "kms_connector_transactions_total",
                "What became of signed transactions.",
                &["result"],
            ),
            contract_errors: r.counters(
                "kms_connector_contract_errors_total",
                "Answers the contract did not take, mined or asked beforehand.",
                &["error"],
            ),
            broadcasts: r.counters(
                "kms_connector_broadcasts_total",
                "Transactions handed to the nodes, repeats included.",
                &["result"],
            ),
            gas: r.counter("kms_connector_gas_used_total", "Gas used by mined transactions."),
            fees: r.float_counter("kms_connector_fees_ether_total", "Paid for mined transactions."),
            in_flight: r.optional_gauge(
                "kms_connector_transactions_in_flight",
                "Transactions recorded and not mined.",
            ),
            in_flight_limit: r.optional_gauge(
                "kms_connector_transactions_in_flight_limit",
                "max_transactions_in_flight.",
            ),
            waiting: r.optional_gauge(
                "kms_connector_transactions_waiting",
                "Answers that wait for a nonce.",
            ),
            nonce_gap: r.optional_gauge(
                "kms_connector_nonce_gap",
                "Nonces handed out beyond the chain's count.",
            ),
            still: r.optional_gauge(
                "kms_connector_transactions_still_seconds",
                "For how long none was taken or mined while answers wait for that; 0: none waits.",
            ),
            foreign_nonces: r.counter(
                "kms_connector_foreign_nonces_total",
                "Nonces of the wallet used by transactions the journal does not know.",
            ),
            balance: r.optional_gauge(
                "kms_connector_wallet_balance_ether",
                "What the wallet has, looked at every 30 s.",
            ),
            signing: r.histogram(
                "kms_connector_signing_duration_seconds",
                "One signature, the wait for its turn included.",
                SECONDS,
            ),
            signatures: r.counters(
                "kms_connector_signatures_total",
                "Signatures asked for.",
                &["result"],
            ),
            throttled: r
                .counter("kms_connector_signing_throttled_total", "Times AWS KMS throttled."),
            journal_bytes: r.optional_gauge("kms_connector_journal_bytes", "The journal's files."),
            commits: r.histogram(
                "kms_connector_journal_commit_duration_seconds",
                "One commit, its fsync included.",
                SECONDS,
            ),
            disk_free: r.optional_gauge(
                "kms_connector_journal_disk_free_bytes",
                "Free on the journal's disk.",
            ),
            rpc_calls: r.counters(
                "kms_connector_rpc_calls_total",
                "Calls to nodes of the gateway and of host chains.",
                &["method", "result"],
            ),
            endpoint_up: r.int_gauges(
                "kms_connector_rpc_endpoint_up",
                "1: the gateway node is connected and of the right chain.",
                &["endpoint_host"],
            ),
            endpoint_head: r.int_gauges(
                "kms_connector_rpc_endpoint_head_block",
                "The newest block of the gateway node.",
                &["endpoint_host"],
            ),
            endpoint_behind: r.gauges(
                "kms_connector_rpc_endpoint_behind_seconds",
                "For how long others have known a newer block than the gateway node; 0: none does.",
                &["endpoint_host"],
            ),
            endpoint_still: r.gauges(
                "kms_connector_rpc_endpoint_still_seconds",
                "For how long the gateway node has shown no new block.",
                &["endpoint_host"],
            ),
            host_chain_reachable: r.int_gauges(
                "kms_connector_host_chain_reachable",
                "1: the host chain and its contract answered when they were last looked at.",
                &["chain"],
            ),
            host_chain_head_age: r.gauges(
                "kms_connector_host_chain_head_age_seconds",
                "Age of the newest block that a node of the host chain shows.",
                &["chain"],
            ),
            register: r,
        }
    }
}

const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
const POLLS: &[f64] = &[1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0];

/// A family whose values are in the status.
#[derive(Debug)]
pub struct StatusFamily {
    pub name: &'static str,
    pub is_counter: bool,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> StatusFamily {
    StatusFamily { name, is_counter: false, labels, help }
}

const fn counter(name: &'static str, help: &'static str) -> StatusFamily {
    StatusFamily { name, is_counter: true, labels: &[], help }
}

pub const STATE: StatusFamily = gauge(
    "kms_connector_instance_state",
    &["instance", "state"],
    "1 for the state the instance is in, 0 for the others.",
);
pub const STATE_SINCE: StatusFamily = gauge(
    "kms_connector_instance_state_since_timestamp_seconds",
    &["instance"],
    "Since when the instance is in its state.",
);
pub const GENERATION: StatusFamily = gauge(
    "kms_connector_instance_generation",
    &["instance"],
    "How often the instance was built; 0 before the first time.",
);
pub const RESTARTS: StatusFamily = StatusFamily {
    labels: &["instance"],
    ..counter("kms_connector_instance_restarts_total", "Builds after a failure.")
};
pub const RELOAD_FAILED: StatusFamily = gauge(
    "kms_connector_instance_reload_failed",
    &["instance"],
    "1: the instance's file is not what runs.",
);
pub const INFO: StatusFamily = gauge(
    "kms_connector_instance_info",
    &["instance", "chain_id", "decryption", "wallet", "gateway", "kms_core"],
    "1, and what the instance is made of.",
);
pub const HEAD: StatusFamily =
    gauge("kms_connector_head_block", &["instance"], "The newest block of the chain.");
pub const CURSOR: StatusFamily = gauge(
    "kms_connector_cursor_block",
    &["instance"],
    "The last block whose requests are all stored.",
);
pub const LAG: StatusFamily =
    gauge("kms_connector_lag_blocks", &["instance"], "Blocks between cursor and head.");
pub const CATCH_UP: StatusFamily = gauge(
    "kms_connector_catch_up_blocks",
    &["instance"],
    "Blocks left of those that came while the instance was down; 0: it is not catching up.",
);
pub const CHAIN_RUNNING: StatusFamily = gauge(
    "kms_connector_chain_running",
    &["instance", "chain"],
    "1: the instance's second chain is read; 0: it waits, and the status says for what.",
);
pub const RELOAD: StatusFamily = gauge(
    "kms_connector_config_last_reload_successful",
    &[],
    "1: what the files say runs, all of it.",
);
pub const RELOAD_AT: StatusFamily = gauge(
    "kms_connector_config_last_reload_success_timestamp_seconds",
    &[],
    "When the files were last all in order and applied.",
);
pub const BUILD: StatusFamily = gauge(
    "kms_connector_build_info",
    &["version", "commit", "rust_version"],
    "1, and what this program is.",
);
pub const CPU: StatusFamily = counter("process_cpu_seconds_total", "Time of all processors spent.");
pub const MEMORY: StatusFamily = gauge("process_resident_memory_bytes", &[], "Memory in use.");
pub const FDS: StatusFamily =
    gauge("process_open_fds", &[], "Files and connections that are open.");
pub const MAX_FDS: StatusFamily =
    gauge("process_max_fds", &[], "Files and connections there may be.");
pub const THREADS: StatusFamily = gauge("process_threads", &[], "Threads.");
pub const STARTED: StatusFamily =
    gauge("process_start_time_seconds", &[], "When the process was started.");

const OF_STATUS: [&StatusFamily; 20] = [
    &STATE,
    &STATE_SINCE,
    &GENERATION,
    &RESTARTS,
    &RELOAD_FAILED,
    &INFO,
    &HEAD,
    &CURSOR,
    &LAG,
    &CATCH_UP,
    &CHAIN_RUNNING,
    &RELOAD,
    &RELOAD_AT,
    &BUILD,
    &CPU,
    &MEMORY,
    &FDS,
    &MAX_FDS,
    &THREADS,
    &STARTED,
];

/// The families of the status.
#[must_use]
pub fn status_families() -> Vec<FamilyDescription> {
    let described = |family: &&StatusFamily| FamilyDescription {
        name: family.name,
        kind: if family.is_counter { "counter" } else { "gauge" },
        labels: family.labels.to_vec(),
        help: family.help,
    };
    OF_STATUS.iter().map(described).collect()
}
