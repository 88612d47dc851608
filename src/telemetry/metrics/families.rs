//! Every metric family: its name, its description, its labels and its buckets.

use std::sync::{Mutex, atomic::AtomicU64};

use super::{
    Series, UNKNOWN, ended,
    register::{BoundedLabels, Register},
    values::Room,
};

impl Series {
    #[expect(clippy::too_many_lines, reason = "one line per family, and every name in one place")]
    pub(super) fn new() -> Self {
        let mut r = Register::default();
        Self {
            arrived: r.counters(
                "requests_arrived_total",
                "Requests stored for the first time.",
                &["kind"],
            ),
            requests: r.int_gauges(
                "requests",
                "Requests without an outcome, held ones included.",
                &["kind", "stage"],
            ),
            held: r.int_gauges("requests_held", "Requests that are held.", &["reason"]),
            ever_held: Mutex::default(),
            holds: r.counters("holds_total", "How often a request was held.", &["reason"]),
            settled: r.counters(
                "requests_settled_total",
                "Requests that ended.",
                &["kind", "outcome"],
            ),
            oldest: r.gauges(
                "oldest_request_age_seconds",
                "Since the arrival of the oldest request without an outcome; 0: there is none.",
                &["held"],
            ),
            oldest_ms: [AtomicU64::new(UNKNOWN), AtomicU64::new(UNKNOWN)],
            request_duration: r.histograms(
                "request_duration_seconds",
                "From the event seen to the answer mined, of answers the contract took.",
                &["kind"],
                &ended::DURATIONS,
            ),
            rooms: {
                let rooms = r.histograms(
                    "room_duration_seconds",
                    "What a request took in a room.",
                    &["room"],
                    SECONDS,
                );
                Room::ALL.map(|room| rooms.with_label_values(&[room.as_str()]))
            },
            attempts_failed: r.counters(
                "attempts_failed_total",
                "Attempts that failed for a new reason and were made again.",
                &["stage"],
            ),
            panics: r.counter("walk_panics_total", "Walks of a request that panicked."),
            unattended: r.counter(
                "requests_unattended_total",
                "Open requests that nobody walked, found and walked again.",
            ),
            walking: r
                .optional_gauge("requests_walking", "Requests that are walked at this moment."),
            walking_limit: r.optional_gauge("requests_walking_limit", "max_requests_in_flight."),
            undecodable: r.counter("undecodable_logs_total", "Logs stored and not understood."),
            lag: r.optional_gauge(
                "lag_seconds",
                "For how long a block has been known that is not read yet; 0: all are read.",
            ),
            witnessed: r.counters(
                "requests_witnessed_total",
                "Looks of several gateway nodes at a request before the Core is asked.",
                &["result"],
            ),
            access_checks: r.counters(
                "access_checks_total",
                "Checks of a request at one host chain.",
                &["chain", "kind", "result"],
            ),
            access_duration: r.histograms(
                "access_check_duration_seconds",
                "What a check at one host chain took.",
                &["chain"],
                SECONDS,
            ),
            access_known: r.counters(
                "access_cache_hits_total",
                "Answers of checks that were grants known from a finalized block.",
                &["chain"],
            ),
            behind_since_ms: AtomicU64::new(UNKNOWN),
            unsent: AtomicU64::new(0),
            still_ms: AtomicU64::new(0),
            reorganisations: r.counter(
                "reorganisations_total",
                "Times the chain was reorganised below the cursor.",
            ),
            still_tag: r.optional_gauge(
                "finality_tag_still_seconds",
                "For how long the finality tag has not moved while the chain went on.",
            ),
            unproven: r.optional_gauge(
                "unproven_blocks",
                "Blocks whose logs no gateway node could prove within a minute.",
            ),
            hidden: r.optional_gauge(
                "requests_hidden",
                "Requests that are on chain, by their ids, and that no node shows.",
            ),
            consensus_missed: r.counter(
                "consensus_missed_total",
                "Requests that others have answered, and this node had not a minute later.",
            ),
            fetches: r.counters(
                "bucket_fetches_total",
                "Calls to buckets.",
                &["bucket_host", "result"],
            ),
            bucket_hosts: BoundedLabels::default(),
            digest_mismatches: r.counter(
                "digest_mismatches_total",
                "Ciphertexts whose bytes had another digest than the chain says.",
            ),
            wrong_format_headers: r.counters(
                "wrong_format_headers_total",
                "Ciphertexts that came with a header of another format than they have.",
                &["bucket_host"],
            ),
            attestations: r.counters(
                "attestation_consensus_total",
                "Ciphertexts about which enough coprocessors attested the same, or did not.",
                &["result"],
            ),
            attestation_faults: r.counters(
                "attestation_faults_total",
                "Answers of buckets about a ciphertext that did not count.",
                &["bucket_host", "fault"],
            ),
            attestation_shadow: r.counters(
                "attestation_shadow_total",
                "Attestations compared with the chain, where the chain decides.",
                &["result"],
            ),
            ciphertext_bytes: r
                .counter("ciphertext_bytes_total", "Bytes of ciphertexts fetched and found right."),
            memory: r.optional_gauge("ciphertext_memory_bytes", "Memory reserved for ciphertexts."),
            memory_limit: r
                .optional_gauge("ciphertext_memory_limit_bytes", "ciphertext_memory_mib."),
            core_calls: r.counters("core_calls_total", "Calls to the Core.", &["method", "code"]),
            polls: r.histogram("core_polls_per_answer", "Polls until the Core answered.", POLLS),
            signer_mismatches: r.counter(
                "signer_mismatches_total",
                "Requests held because the Core signed with another key than the registered one.",
            ),
            transactions: r.counters(
                "transactions_total",
                "What became of signed transactions.",
                &["result"],
            ),
            contract_errors: r.counters(
                "contract_errors_total",
                "Answers the contract did not take, mined or asked beforehand.",
                &["error"],
            ),
            broadcasts: r.counters(
                "broadcasts_total",
                "Transactions handed to the nodes, repeats included.",
                &["result"],
            ),
            gas: r.counter("gas_used_total", "Gas used by mined transactions."),
            fees: r.float_counter("fees_ether_total", "Paid for mined transactions."),
            in_flight: r
                .optional_gauge("transactions_in_flight", "Transactions recorded and not mined."),
            in_flight_limit: r
                .optional_gauge("transactions_in_flight_limit", "max_transactions_in_flight."),
            waiting: r.optional_gauge("transactions_waiting", "Answers that wait for a nonce."),
            nonce_gap: r.optional_gauge("nonce_gap", "Nonces handed out beyond the chain's count."),
            still: r.optional_gauge(
                "transactions_still_seconds",
                "For how long none was taken or mined while answers wait for that; 0: none waits.",
            ),
            foreign_nonces: r.counter(
                "foreign_nonces_total",
                "Nonces of the wallet used by transactions the journal does not know.",
            ),
            balance: r.optional_gauge(
                "wallet_balance_ether",
                "What the wallet has, looked at every 30 s.",
            ),
            signing: r.histogram(
                "signing_duration_seconds",
                "One signature, the wait for its turn included.",
                SECONDS,
            ),
            signatures: r.counters("signatures_total", "Signatures asked for.", &["result"]),
            throttled: r.counter("signing_throttled_total", "Times AWS KMS throttled."),
            journal_bytes: r.optional_gauge("journal_bytes", "The journal's files."),
            commits: r.histogram(
                "journal_commit_duration_seconds",
                "One commit, its fsync included.",
                SECONDS,
            ),
            disk_free: r.optional_gauge("journal_disk_free_bytes", "Free on the journal's disk."),
            rpc_calls: r.counters(
                "rpc_calls_total",
                "Calls to nodes of the gateway and of host chains.",
                &["method", "result"],
            ),
            endpoint_up: r.int_gauges(
                "rpc_endpoint_up",
                "1: the gateway node is connected and of the right chain.",
                &["endpoint_host"],
            ),
            endpoint_head: r.int_gauges(
                "rpc_endpoint_head_block",
                "The newest block of the gateway node.",
                &["endpoint_host"],
            ),
            endpoint_behind: r.gauges(
                "rpc_endpoint_behind_seconds",
                "For how long others have known a newer block than the gateway node; 0: none does.",
                &["endpoint_host"],
            ),
            endpoint_still: r.gauges(
                "rpc_endpoint_still_seconds",
                "For how long the gateway node has shown no new block.",
                &["endpoint_host"],
            ),
            host_chain_reachable: r.int_gauges(
                "host_chain_reachable",
                "1: the host chain and its contract answered when they were last looked at.",
                &["chain"],
            ),
            host_chain_head_age: r.gauges(
                "host_chain_head_age_seconds",
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
