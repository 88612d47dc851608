//! `/metrics` as Prometheus reads it, and what stands in `scripts/observability`.
#![expect(clippy::float_cmp, reason = "counts: a float holds them exactly")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use world::{
    Error, Result,
    fleet::{Fleet, name},
    program, random_key,
    request::Ask,
    scene::PATIENCE,
    supervised::Supervised,
    tool, until,
};

const POLL: Duration = Duration::from_millis(50);

/// What is read at `/metrics`.
struct Metrics(String);

impl Metrics {
    /// The sum of the series of a family that have these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name)?;
            let is = (rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|label| rest.contains(label));
            is.then(|| value.parse::<f64>().expect("a number"))
        });
        series.sum()
    }

    /// The same of one instance's family of ours.
    fn of(&self, instance: &str, name: &str, labels: &[&str]) -> f64 {
        let instance = format!("instance=\"{instance}\"");
        let labels: Vec<&str> = labels.iter().copied().chain([instance.as_str()]).collect();
        self.sum(&format!("kms_connector_{name}"), &labels)
    }
}

async fn metrics(supervisor: &Supervised) -> Result<Metrics> {
    let response = supervisor.get("/metrics").await?;
    let kind = response.headers()["content-type"].to_str().expect("ASCII").to_owned();
    // Field failure T54.
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    Ok(Metrics(response.text().await?))
}

/// Waits until the metrics are as wanted.
async fn metrics_with(
    supervisor: &Supervised,
    what: &str,
    wanted: impl Fn(&Metrics) -> bool,
) -> Result<Metrics> {
    let mut last = String::new();
    let found = until(what, PATIENCE, POLL, async || {
        let metrics = metrics(supervisor).await?;
        last.clone_from(&metrics.0);
        Ok(wanted(&metrics).then_some(metrics))
    });
    found.await.map_err(|error| Error::other(format!("{error}; the last ones were\n{last}")))
}

fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/observability")
}

/// `promtool <arguments>` with this on its stdin; an error if it finds anything.
fn promtool(arguments: &[&str], input: &str) -> Result<()> {
    let failed = |error| Error::Io("promtool".into(), error);
    let mut command = Command::new(tool("promtool")?);
    command.args(arguments).current_dir(observability());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // Small inputs only, or read before anything is said.
    child.stdin.take().expect("piped").write_all(input.as_bytes()).map_err(failed)?;
    let output = child.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(Error::other(format!("promtool: {said}"))) }
}

/// Field failure T54.
#[world::test]
async fn what_happens_is_counted_by_instance() -> Result<()> {
    let fleet = Fleet::running(2, program()).await?;
    let supervisor = &fleet.supervisor;
    let requests = fleet.request(Ask::mixed(3, 2)).await?;
    fleet.audit(&[0, 1], &requests).await?;
    // Looked at every second, the journal every five.
    let all = metrics_with(supervisor, "everything settled", |metrics| {
        [0, 1].map(name).iter().all(|one| {
            metrics.of(one, "requests_settled_total", &["accepted"]) == 5.0
                && metrics.of(one, "requests", &[]) == 0.0
                && metrics.of(one, "oldest_request_age_seconds", &["false"]) == 0.0
        })
    })
    .await?;
    for one in &[0, 1].map(name) {
        let of = |name: &str, labels: &[&str]| all.of(one, name, labels);
        let exactly: [(&str, &[&str], f64); 14] = [
            ("requests_arrived_total", &["public_decryption"], 3.0),
            ("requests_settled_total", &["user_decryption", "accepted"], 2.0),
            ("request_duration_seconds_count", &["user_decryption"], 2.0),
            ("room_duration_seconds_count", &["arrivals"], 5.0),
            ("room_duration_seconds_count", &["ciphertexts"], 5.0),
            ("room_duration_seconds_count", &["kms_core_answer"], 5.0),
            ("room_duration_seconds_count", &["submission"], 5.0),
            ("core_calls_total", &["method=\"public_decrypt\"", "ok"], 3.0),
            ("core_polls_per_answer_count", &[], 5.0),
            ("transactions_total", &["succeeded"], 5.0),
            ("instance_state", &["running"], 1.0),
            ("instance_generation", &[], 1.0),
            ("rpc_endpoint_up", &[], 1.0),
            ("digest_mismatches_total", &[], 0.0),
        ];
        for (name, labels, value) in exactly {
            assert_eq!(of(name, labels), value, "{one} {name} {labels:?}");
        }
        let some: [(&str, &[&str]); 12] = [
            ("bucket_fetches_total", &["ok"]),
            ("ciphertext_bytes_total", &[]),
            ("ciphertext_memory_limit_bytes", &[]),
            ("gas_used_total", &[]),
            ("fees_ether_total", &[]),
            ("wallet_balance_ether", &[]),
            ("signatures_total", &["ok"]),
            ("journal_bytes", &[]),
            ("journal_disk_free_bytes", &[]),
            ("journal_commit_duration_seconds_count", &[]),
            ("rpc_calls_total", &["ok"]),
            ("head_block", &[]),
        ];
        for (name, labels) in some {
            assert!(of(name, labels) > 0.0, "{one} {name} {labels:?}");
        }
    }
    assert!(all.sum("process_resident_memory_bytes", &[]) > 0.0);
    assert!(all.sum("kms_connector_build_info", &["version="]) > 0.0);
    promtool(&["check", "metrics"], &all.0)?;
    for (index, party) in fleet.parties.list.iter().enumerate() {
        let key = party.wallet.to_bytes().to_string();
        assert!(!all.0.contains(key.trim_start_matches("0x")), "the key of {index}");
    }

    supervisor.configs.remove(&name(1))?;
    metrics_with(supervisor, "node-1 is gone", |metrics| !metrics.0.contains("node-1")).await?;
    fleet.unbroken()
}

#[world::test]
async fn what_is_wrong_is_counted() -> Result<()> {
    let fleet = Fleet::running(1, program()).await?;
    let (node, party) = (name(0), &fleet.parties.list[0]);
    let signer = party.signer.clone();
    party.core.set_signer(random_key());
    let requests = fleet.request(Ask::mixed(1, 0)).await?;
    metrics_with(&fleet.supervisor, "a request held", |metrics| {
        metrics.of(&node, "requests_held", &["signer_mismatch"]) == 1.0
            && metrics.of(&node, "signer_mismatches_total", &[]) >= 1.0
            && metrics.of(&node, "holds_total", &["signer_mismatch"]) >= 1.0
            && metrics.of(&node, "requests", &["asked"]) == 1.0
            && metrics.of(&node, "oldest_request_age_seconds", &["true"]) > 0.0
    })
    .await?;
    party.core.set_signer(signer);
    party.core.forget();
    fleet.answered_by(&[0], &requests).await?;

    // Somebody else sends from the wallet.
    let wallet = fleet.wallet(0);
    let chain = fleet.parties.anvil.chain();
    let _null: Value = chain.rpc("anvil_impersonateAccount", json!([wallet])).await?;
    let theirs = json!([{ "from": wallet, "to": wallet, "value": "0x1" }]);
    let _hash: Value = chain.rpc("eth_sendTransaction", theirs).await?;
    let more = fleet.request(Ask::mixed(1, 1)).await?;
    fleet.answered_by(&[0], &more).await?;
    metrics_with(&fleet.supervisor, "a foreign nonce", |metrics| {
        metrics.of(&node, "foreign_nonces_total", &[]) == 1.0
            && metrics.of(&node, "requests_held", &[]) == 0.0
    })
    .await
    .map(drop)
}

#[test]
fn promtool_accepts_the_rules_and_their_test() -> Result<()> {
    promtool(&["check", "rules", "kms-connector.rules.yml"], "")?;
    promtool(&["test", "rules", "kms-connector.rules.test.yml"], "")
}

/// Every query of the dashboard, as Grafana would send it.
#[test]
fn promtool_accepts_the_queries_of_the_dashboard() -> Result<()> {
    let path = observability().join("kms-connector-dashboard.json");
    let text = std::fs::read_to_string(path).map_err(|e| Error::Io("dashboard".into(), e))?;
    let mut queries = Vec::new();
    collect_queries(&serde_json::from_str(&text)?, &mut queries);
    assert!(queries.len() > 30, "{} queries", queries.len());
    let rules = queries.iter().enumerate().map(|(index, query)| {
        let query = query.replace("$instance", ".*").replace("$__rate_interval", "5m");
        json!({ "record": format!("dashboard:query:{index}"), "expr": query })
    });
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
    let file = dir.path().join("dashboard.yml");
    // JSON is YAML.
    std::fs::write(&file, rules.to_string()).map_err(|e| Error::Io("rules".into(), e))?;
    promtool(&["check", "rules", file.to_str().expect("UTF-8")], "")
}

fn collect_queries(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member.as_str().filter(|_| key == "expr") {
                    Some(query) => queries.push(query.to_owned()),
                    None => collect_queries(member, queries),
                }
            }
        }
        Value::Array(members) => {
            for member in members {
                collect_queries(member, queries);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
