use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    admin::status::{CatchUp, ChainStatus, Gauges, ReloadStatus},
    domain::{Address, B256, BlockRef, HoldReason, Kind, Outcome, U256},
    telemetry::{
        errors::LastErrors,
        metrics::{
            FamilyDescription, LaneGauges, Metrics, Mined, NodeGauges, RequestGauges,
            TransactionResult,
        },
    },
};

/// Metrics with at least one value in each family.
fn full() -> Metrics {
    let metrics = Metrics::new();
    let (kind, second) = (Kind::PublicDecryption, Duration::from_secs(1));
    metrics.arrived(kind, second);
    let held = Some(HoldReason::NoFunds);
    metrics.set_requests(&[RequestGauges {
        kind,
        stage: "asked",
        held,
        requests: 1,
        oldest_ms: 1,
    }]);
    metrics.held(HoldReason::NoFunds);
    let block = BlockRef { number: 1, hash: B256::ZERO };
    metrics.settled(kind, &Outcome::Accepted { transaction: B256::ZERO, block }, second);
    metrics.attempt_failed("asked");
    metrics.walking(1, 1000);
    metrics.count_witnessed("by_two");
    metrics.access_checked(Some(1), kind, "granted", second);
    metrics.access_known(1, 2);
    metrics.unattended();
    metrics.behind_since(None);
    metrics.finality_tag(second);
    metrics.unproven_blocks(1);
    metrics.hidden_requests(1);
    metrics.fetched("bucket:9000", "ok");
    metrics.wrong_format_header("bucket:9000");
    metrics.attestation_consensus(true);
    metrics.attestation_fault("bucket:9000", "attestation_missing");
    metrics.attestation_shadow("agrees");
    metrics.ciphertext_memory(1, 2);
    metrics.core_call("public_decrypt", "ok");
    metrics.transactions(TransactionResult::Rejected, 1);
    metrics.mined(Mined { success: true, gas_used: 1, gas_price: 1 });
    metrics.contract_error("EnforcedPause");
    metrics.broadcast("accepted");
    metrics.lane(LaneGauges::default());
    metrics.balance(U256::from(1));
    metrics.signed("ok", second);
    metrics.journal(1, 2);
    metrics.rpc_call("eth_call", "ok");
    metrics.host_chain(1, true, Some(12));
    let of_chain = metrics.of_chain(1);
    of_chain.settled(kind, &Outcome::Expired, Duration::ZERO);
    of_chain.access_checked(Some(1), kind, "granted", Duration::ZERO);
    let second = Some(second);
    metrics.endpoints([NodeGauges {
        host: "node:8545",
        up: true,
        head: Some(7),
        behind: second,
        still: second,
    }]);
    metrics
}

fn instance(name: &str) -> InstanceStatus {
    InstanceStatus {
        name: name.to_owned(),
        file: None,
        state: InstanceState::Parked { why: "no such chain".to_owned(), retry_at_ms: None },
        since_ms: 1500,
        reason_since_ms: None,
        generation: 3,
        restarts: 2,
        last_error: None,
        last_warnings: Vec::new(),
        reload_failed: Some("bad TOML".to_owned()),
        reload_waits: false,
        changing: false,
        config_hash: None,
        chain_id: Some(412_346),
        decryption: Some(Address::ZERO.to_string()),
        gateway: Some("node:8545".to_owned()),
        kms_core: Some("core:50052".to_owned()),
        gauges: Gauges {
            head: Some(10),
            cursor: Some(7),
            catching_up: Some(CatchUp {
                done: 1,
                to_do: 4,
                blocks_per_second: 1.0,
                seconds_left: None,
            }),
            chains: vec![ChainStatus {
                chain_id: 1,
                hosts: "ethereum:8545".to_owned(),
                contract: Address::ZERO.to_string(),
                state: ChainState::Running,
                gauges: Gauges { head: Some(5), cursor: Some(4), ..Gauges::default() },
            }],
            ..Gauges::default()
        },
    }
}

fn shown(names: &[&str]) -> ProcessSnapshot {
    ProcessSnapshot {
        at_ms: 0,
        histories: Vec::new(),
        errors: LastErrors::default(),
        status: Status {
            version: "1.2.3".to_owned(),
            pid: 1,
            started_at_ms: 2000,
            listen: None,
            config_dir: None,
            state_dir: None,
            reload: ReloadStatus { at_ms: 3, succeeded_at_ms: Some(4000), problems: Vec::new() },
            instances: names.iter().map(|name| instance(name)).collect(),
        },
        metrics: names.iter().map(|name| ((*name).to_owned(), full())).collect(),
    }
}

/// Families by name, with their type.
fn types(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[test]
fn each_family_is_written_once_with_every_instance_in_it() {
    let text = render(&shown(&["a", "b \"quoted\""])).unwrap();
    let count = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(count, types(&text).len(), "no family twice");
    for line in [
        r#"kms_connector_requests_settled_total{instance="a",kind="public_decryption",outcome="accepted"} 1"#,
        r#"kms_connector_instance_state{instance="b \"quoted\"",state="parked"} 1"#,
        r#"kms_connector_instance_state{instance="a",state="running"} 0"#,
        r#"kms_connector_instance_state_since_timestamp_seconds{instance="a"} 1.5"#,
        r#"kms_connector_lag_blocks{instance="a"} 3"#,
        r#"kms_connector_catch_up_blocks{instance="a"} 3"#,
        // Of its second chain.
        r#"kms_connector_chain_running{instance="a",chain="1"} 1"#,
        r#"kms_connector_lag_blocks{instance="a",chain="1"} 1"#,
        r#"kms_connector_requests_settled_total{instance="a",chain="1",kind="public_decryption",outcome="expired"} 1"#,
        r#"kms_connector_access_checks_total{instance="a",chain="1",kind="public_decryption",result="granted"} 1"#,
        r#"kms_connector_instance_reload_failed{instance="a"} 1"#,
        "kms_connector_config_last_reload_successful 1",
        "kms_connector_config_last_reload_success_timestamp_seconds 4",
    ] {
        assert!(text.lines().any(|written| written == line), "{line} in\n{text}");
    }
    for line in text.lines().filter(|line| line.starts_with("kms_connector_")) {
        let ours = line.contains("instance=\"a\"") || line.contains("instance=\"b");
        let process = ["build_info", "config_last"].iter().any(|name| line.contains(name));
        assert!(ours || process, "{line}");
    }
}

#[test]
fn what_was_removed_is_not_written() {
    assert!(render(&shown(&["a", "b"])).unwrap().contains("instance=\"b\""));
    assert!(!render(&shown(&["a"])).unwrap().contains("instance=\"b\""));
}

/// The table in `scripts/observability/README.md` and the code agree on name, type and labels.
#[test]
fn the_documentation_lists_every_metric() {
    let readme = include_str!("../../../scripts/observability/README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with("| metric | type |")).skip(2);
    let mut listed: Vec<(String, String, Vec<String>)> = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let quoted = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        listed.push((quoted(cells[0])[0].clone(), cells[1].to_owned(), quoted(cells[2])));
    }
    let own = Metrics::new().described().to_vec().into_iter().map(|mut one| {
        one.labels.insert(0, "instance");
        one
    });
    let mut written: Vec<(String, String, Vec<String>)> = own
        .chain(families::status_families())
        .map(|one| {
            let labels = one.labels.iter().map(|label| (*label).to_owned()).collect();
            (one.name.to_owned(), one.kind.to_owned(), labels)
        })
        .collect();
    listed.sort();
    written.sort();
    for one in &written {
        assert!(listed.contains(one), "the table does not list {one:?}");
    }
    for one in &listed {
        assert!(written.contains(one), "no metric is {one:?}, as the table has it");
    }
    assert_eq!(listed.len(), written.len(), "the table lists one twice");
}

/// Every description belongs to a written family, and the other way round.
#[test]
fn every_metric_is_described() {
    let text = render(&shown(&["a"])).unwrap();
    let types = types(&text);
    let all: Vec<FamilyDescription> =
        Metrics::new().described().iter().cloned().chain(families::status_families()).collect();
    for one in &all {
        assert_eq!(types.get(one.name), Some(&one.kind), "{}", one.name);
    }
    assert_eq!(types.len(), all.len());
}

/// The words of a query that look like metrics of ours or of a process.
fn named(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("kms_connector_") || word.starts_with("process_"))
}

/// An alert on a metric that does not exist never fires, and its panel stays empty.
#[test]
fn dashboard_and_alerts_name_only_metrics_that_exist() {
    let dashboard = include_str!("../../../scripts/observability/kms-connector-dashboard.json");
    let rules = include_str!("../../../scripts/observability/kms-connector.rules.yml");
    let tests = include_str!("../../../scripts/observability/kms-connector.rules.test.yml");
    let all: Vec<FamilyDescription> =
        Metrics::new().described().iter().cloned().chain(families::status_families()).collect();
    let exists = |word: &str| {
        all.iter().any(|one| match one.kind {
            "histogram" => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| word.strip_suffix(suffix) == Some(one.name)),
            _ => one.name == word,
        })
    };
    let mut used = 0;
    for (file, text) in [("dashboard", dashboard), ("rules", rules), ("rules test", tests)] {
        for word in named(text) {
            assert!(exists(word), "the {file} names {word}");
            used += 1;
        }
    }
    assert!(used > 100, "{used} names found: correct this test");
    // The dashboard shows every metric.
    let shown = |one: &FamilyDescription| {
        named(dashboard).any(|word| word.starts_with(one.name))
            || NOT_ON_THE_DASHBOARD.contains(&one.name)
    };
    let missing: Vec<_> = all.iter().filter(|one| !shown(one)).map(|one| one.name).collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

/// Metrics that `status` shows better than a panel could.
const NOT_ON_THE_DASHBOARD: [&str; 11] = [
    "kms_connector_chain_running",
    "kms_connector_holds_total",
    "kms_connector_undecodable_logs_total",
    "kms_connector_requests_witnessed_total",
    "kms_connector_reorganisations_total",
    "kms_connector_instance_state_since_timestamp_seconds",
    "kms_connector_instance_generation",
    "kms_connector_instance_reload_failed",
    "kms_connector_instance_info",
    "kms_connector_config_last_reload_success_timestamp_seconds",
    "process_start_time_seconds",
];
