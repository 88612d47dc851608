//! One thing is broken at a time, as an operator meets it at night: status, check, readiness, metrics
//! with their alerts, and the page all name the cause and the remedy. The table in `tests/README.md`
//! lists these ways.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use alloy::primitives::U256;
use serde_json::Value;
use world::{
    Error, Result, connector, deployment::Node, faulty_rpc::FaultyRpc, fleet::Fleet, free_port,
    full_disk::FullDisk, program, random_address, random_key, request::Ask, scene::PATIENCE, until,
};

const POLL: Duration = Duration::from_millis(200);
/// Some things are told after a minute only.
const LONG: Duration = Duration::from_mins(2);

/// What is told of one broken thing, and where.
struct Told {
    /// `/readyz/NAME`: its code, and words of its reason.
    ready: (u16, &'static str),
    /// Words of `status NAME` and of the page's data: the cause, and what to do; the latter also of
    /// `/readyz/NAME`.
    words: [&'static str; 2],
    /// Verdict of `check`, and words of that finding.
    check: (&'static str, &'static str),
    /// A series that is not 0, by its family and a label.
    metric: (&'static str, &'static str),
    /// The alert that looks at this family.
    alert: &'static str,
}

struct Night {
    fleet: Fleet,
}

impl Night {
    async fn new(parties: usize) -> Result<Self> {
        Ok(Self { fleet: Fleet::new(parties).await? })
    }

    /// A party with its file as it should be, and the supervisor that runs it.
    async fn alone() -> Result<Self> {
        let mut night = Self::new(1).await?;
        night.begin_alone().await?;
        Ok(night)
    }

    async fn begin_alone(&mut self) -> Result<()> {
        self.fleet.supervisor.configs.write("alone", &self.fleet.config(0, ""))?;
        self.begin().await?;
        self.fleet.supervisor.until_running(&["alone"]).await.map(drop)
    }

    /// The instance's file with one line other than it should be.
    fn broken(&self, instance: &str, party: usize, key: &str, value: &str) -> Result<()> {
        self.broken_with(instance, party, (key, value), "")
    }

    /// The same, with `more` lines.
    fn broken_with(
        &self,
        instance: &str,
        party: usize,
        (key, value): (&str, &str),
        more: &str,
    ) -> Result<()> {
        let other = |line: &str| match line.split_once(" = ") {
            Some((name, _)) if name == key => format!("{key} = {value}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = self.fleet.config(party, more).lines().map(other).collect();
        self.fleet.supervisor.configs.write(instance, &text)
    }

    async fn begin(&mut self) -> Result<()> {
        self.fleet.supervisor.start(program())?;
        self.fleet.supervisor.until("the supervisor", |_| true).await.map(drop)
    }

    async fn json(&self, path: &str) -> Result<(u16, Value)> {
        let response = self.fleet.supervisor.get(path).await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    async fn expect(&self, instance: &str, told: &Told) -> Result<()> {
        let ready = self.ready(instance, told);
        ready.await.map_err(|error| Error::other(format!("{instance}: readyz: {error}")))?;
        self.metric(instance, told).await?;
        let rules = observability("kms-connector.rules.yml")?;
        let alert = rules.split("- alert: ").find(|alert| alert.starts_with(told.alert));
        let alert = alert.unwrap_or_else(|| panic!("there is no alert {}", told.alert));
        assert!(alert.contains(told.metric.0), "{}: {alert}", told.metric.0);

        let status = said(self.fleet.supervisor.client(program(), &["status", instance])).await?;
        let (_, page) = self.json("/status").await?;
        let instances = page["instances"].as_array().cloned().unwrap_or_default();
        let page = instances.iter().find(|one| one["name"] == instance).map(Value::to_string);
        let page = page.unwrap_or_default();
        for word in told.words {
            assert!(status.contains(word), "{instance}: status has no {word:?}:\n{status}");
            assert!(page.contains(word), "{instance}: the page has no {word:?}:\n{page}");
        }

        let mut last = String::new();
        let found = until("the finding", PATIENCE, POLL, async || {
            last = said(self.check()).await?;
            Ok(has_finding(&last, instance, told.check).then_some(()))
        });
        found.await.map_err(|error| {
            Error::other(format!("{instance}: check: {:?}: {error}\n{last}", told.check))
        })
    }

    /// `check` of all files.
    fn check(&self) -> Command {
        let mut check = connector();
        check.args(["check", "--json", "--all", "--config-dir"]);
        check.arg(self.fleet.supervisor.configs.path());
        check.arg("--state-dir").arg(self.fleet.supervisor.state_dir());
        check.env("AWS_EC2_METADATA_DISABLED", "true");
        if let Some(disk) = &self.fleet.supervisor.disk {
            disk.under(&mut check);
        }
        check
    }

    async fn ready(&self, instance: &str, told: &Told) -> Result<()> {
        let mut last = None;
        let found = until("the reason", LONG, POLL, async || {
            // Not known before its file is read.
            let Ok((code, ready)) = self.json(&format!("/readyz/{instance}")).await else {
                return Ok(None);
            };
            let text = ready.to_string();
            let is = text.contains(told.ready.1) && text.contains(told.words[1]);
            let is = is && code == told.ready.0;
            last = Some((code, ready));
            Ok(is.then_some(()))
        });
        found.await.map_err(|error| Error::other(format!("{error}: {last:?}")))
    }

    /// Waits until readiness has nothing to say of it any more but what was logged.
    async fn over(&self, instance: &str, told: &Told) -> Result<()> {
        until("its end", PATIENCE, POLL, async || {
            let (code, ready) = self.json(&format!("/readyz/{instance}")).await?;
            Ok((code == 200 && !ready.to_string().contains(told.ready.1)).then_some(()))
        })
        .await
    }

    async fn metric(&self, instance: &str, told: &Told) -> Result<()> {
        let (family, label) = told.metric;
        let mut last = String::new();
        let found = until("the metric", PATIENCE, POLL, async || {
            last = self.fleet.supervisor.get("/metrics").await?.text().await?;
            let instance = format!("instance=\"{instance}\"");
            let is = |line: &str| {
                line.starts_with(family)
                    && line.contains(&instance)
                    && line.contains(label)
                    && !line.ends_with(" 0")
            };
            Ok(last.lines().any(is).then_some(()))
        });
        found.await.map_err(|error| Error::other(format!("{instance}: {family}: {error}\n{last}")))
    }
}

async fn said(mut command: Command) -> Result<String> {
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.map_err(|e| Error::other(e.to_string()))?;
    let output = output.map_err(|e| Error::Io("running a command".into(), e))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether `check` has a finding of this verdict with these words in it.
fn has_finding(check: &str, instance: &str, (verdict, words): (&str, &str)) -> bool {
    let parsed: Value = serde_json::from_str(check).unwrap_or_default();
    let instances = parsed["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter(|one| one["instance"] == instance).any(|one| {
        let findings = one["findings"].as_array().cloned().unwrap_or_default();
        findings
            .iter()
            .any(|found| found["verdict"] == verdict && found.to_string().contains(words))
    })
}

fn observability(file: &str) -> Result<String> {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/observability").join(file);
    fs::read_to_string(path).map_err(|e| Error::Io(file.into(), e))
}

const STATE: &str = "kms_connector_instance_state{";
const HELD: &str = "kms_connector_requests_held";

#[world::test]
async fn what_is_wrong_with_files_and_endpoints_is_named_everywhere() -> Result<()> {
    let mut night = Night::new(4).await?;
    night.broken("other-chain", 0, "chain_id", "54322")?;
    let nowhere = format!("\"{}\"", random_address());
    night.broken("no-contract", 1, "decryption_address", &nowhere)?;
    let nobody = format!("\"http://127.0.0.1:{}\"", free_port()?);
    night.broken("no-core", 2, "kms_core_endpoint", &nobody)?;
    night.broken("no-toml", 3, "chain_id", "")?;
    night.begin().await?;
    let parked = |words: [&'static str; 2], check: &'static str| Told {
        ready: (503, words[0]),
        words,
        check: ("fail", check),
        metric: (STATE, "state=\"parked\""),
        alert: "KmsConnectorParked",
    };
    let waiting = |words: [&'static str; 2], check: &'static str| Told {
        ready: (200, words[0]),
        words,
        check: ("fail", check),
        metric: (STATE, "state=\"waiting\""),
        alert: "KmsConnectorWaiting",
    };
    night.expect("other-chain", &parked(["54322", "fix the cause above"], "chain_id")).await?;
    let contract = waiting(["correct decryption_address", "continues by itself"], "no code");
    night.expect("no-contract", &contract).await?;
    let core = waiting(["the KMS Core at 127.0.0.1", "continues by itself"], "kms_core_endpoint");
    night.expect("no-core", &core).await?;
    night.expect("no-toml", &parked(["TOML", "the file is watched"], "TOML")).await?;

    // The second of two files with one wallet; the first is not disturbed.
    let twin = night.fleet.config(2, "");
    night.fleet.supervisor.configs.write("the-twin", &twin)?;
    night.expect("the-twin", &parked(["no-core", "the file is watched"], "one owner")).await?;
    night.expect("no-core", &core).await?;
    Ok(())
}

#[world::test]
async fn what_holds_answers_back_is_named_everywhere() -> Result<()> {
    let mut night = Night::new(3).await?;
    // A wallet with funds that nobody registered; one without funds; a Core with another key.
    let stranger = random_key();
    let chain = &night.fleet.deployment().chain;
    chain.set_balance(stranger.address(), U256::from(10).pow(U256::from(18))).await?;
    night.broken("stranger", 0, "private_key", &format!("\"{}\"", stranger.to_bytes()))?;
    chain.set_balance(night.fleet.wallet(1), U256::ZERO).await?;
    night.fleet.supervisor.configs.write("poor", &night.fleet.config(1, ""))?;
    let node = Node { wallet: night.fleet.wallet(2), signer: random_address() };
    night.fleet.deployment().unregister(node.wallet).await?;
    night.fleet.deployment().register(node).await?;
    night.fleet.supervisor.configs.write("other-key", &night.fleet.config(2, ""))?;
    night.begin().await?;
    night.fleet.supervisor.until_running(&["stranger", "poor", "other-key"]).await?;
    night.fleet.request(vec![Ask::public(&[2])]).await?;
    let held = |reason: [&'static str; 2], label, verdict, check| Told {
        ready: (200, reason[0]),
        words: reason,
        check: (verdict, check),
        metric: (HELD, label),
        alert: "KmsConnectorRequestsHeld",
    };
    let stranger = held(
        ["wallet_not_registered", "GatewayConfig register the wallet"],
        "reason=\"wallet_not_registered\"",
        "fail",
        "not registered",
    );
    night.expect("stranger", &stranger).await?;
    let poor = held(["no_funds", "fund the wallet"], "reason=\"no_funds\"", "fail", "nothing");
    night.expect("poor", &poor).await?;
    let other_key = held(
        ["signer_mismatch", "connect the right Core"],
        "reason=\"signer_mismatch\"",
        "warn",
        "signer_mismatch",
    );
    night.expect("other-key", &other_key).await?;
    let mismatches = Told {
        metric: ("kms_connector_signer_mismatches_total", ""),
        alert: "KmsConnectorSignerMismatch",
        ..other_key
    };
    night.expect("other-key", &mismatches).await?;
    Ok(())
}

#[world::test]
async fn wrong_bytes_are_named_everywhere() -> Result<()> {
    let night = Night::alone().await?;
    let deployment = night.fleet.deployment();
    // Other bytes than the chain says, in the only bucket.
    let asks = vec![Ask::public(&[2])];
    let (stored, format) = (asks[0].ciphertexts[0].clone(), asks[0].format);
    let mut wrong = stored.bytes.clone();
    wrong[0] ^= 1;
    let bucket = &deployment.stores[0].bucket;
    bucket.put(stored.digest, &wrong, format).await?;
    let requests = deployment.emit(asks).await?;
    let wrong_bytes = Told {
        ready: (200, "wrong bytes"),
        words: ["wrong bytes", "have its coprocessor store the right bytes again"],
        check: ("warn", "wrong bytes"),
        metric: ("kms_connector_digest_mismatches_total", ""),
        alert: "KmsConnectorDigestMismatch",
    };
    night.expect("alone", &wrong_bytes).await?;
    bucket.put(stored.digest, &stored.bytes, format).await?;
    night.fleet.answered_by(&[0], &requests).await
}

#[world::test]
async fn a_bucket_that_is_away_is_named_everywhere() -> Result<()> {
    let night = Night::alone().await?;
    let deployment = night.fleet.deployment();
    let down = format!("http://127.0.0.1:{}/ct128", free_port()?);
    deployment.set_bucket(deployment.stores[0].tx_sender, &down).await?;
    deployment.request(vec![Ask::public(&[2])]).await?;
    let unreachable = Told {
        ready: (200, "cannot connect"),
        words: ["cannot connect", "check the connection to that bucket"],
        check: ("fail", "bucket"),
        metric: ("kms_connector_oldest_request_age_seconds", "held=\"false\""),
        alert: "KmsConnectorOldestRequest",
    };
    night.expect("alone", &unreachable).await
}

#[world::test]
async fn a_full_disk_is_named_everywhere() -> Result<()> {
    let mut night = Night::new(1).await?;
    let disk = FullDisk::new(night.fleet.dir.path())?;
    night.fleet.supervisor.disk = Some(disk.clone());
    night.begin_alone().await?;
    disk.fill(&night.fleet.supervisor.state_dir())?;
    let mut requests = Vec::new();
    for _ in 0..4 {
        requests.extend(night.fleet.request(Ask::mixed(10, 10)).await?);
    }
    let full = Told {
        ready: (200, "the disk of its journal"),
        words: ["free space on its filesystem", "continues by itself"],
        check: ("fail", "free space"),
        metric: (STATE, "state=\"waiting\""),
        alert: "KmsConnectorWaiting",
    };
    night.expect("alone", &full).await?;
    disk.empty()?;
    night.fleet.audit(&[0], &requests).await?;
    night.fleet.supervisor.until_state("alone", "running").await.map(drop)
}

#[world::test]
async fn a_node_that_does_not_follow_the_others_is_named_everywhere() -> Result<()> {
    let mut night = Night::new(1).await?;
    let anvil = &night.fleet.parties.anvil;
    let node = FaultyRpc::start(&anvil.http_url()).await?;
    let fallback = format!("gateway_fallback_urls = [\"{}\"]", anvil.ws_url());
    night.broken_with("two-nodes", 0, ("gateway_url", &quoted(&node)), &fallback)?;
    night.begin().await?;
    night.fleet.supervisor.until_running(&["two-nodes"]).await?;
    let head = night.fleet.deployment().chain.block_number().await?;
    node.lie(|lies| lies.stands_at = Some(head));
    let behind = Told {
        ready: (200, "has been behind since"),
        words: ["has been behind since", "remove it from the configuration"],
        check: ("warn", "the node is stale"),
        metric: ("kms_connector_rpc_endpoint_behind_seconds", "endpoint_host"),
        alert: "KmsConnectorNodeBehind",
    };
    night.expect("two-nodes", &behind).await?;
    // The other is read from: nothing waits for it.
    let requests = night.fleet.request(vec![Ask::public(&[2])]).await?;
    night.fleet.answered_by(&[0], &requests).await?;
    node.be_honest();
    night.over("two-nodes", &behind).await
}

/// A chain without a new block is told after a minute.
#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_a_chain_that_stands_still_is_named_everywhere() -> Result<()> {
    let mut night = Night::new(1).await?;
    let node = FaultyRpc::start(&night.fleet.parties.anvil.http_url()).await?;
    night.broken("one-node", 0, "gateway_url", &quoted(&node))?;
    night.begin().await?;
    night.fleet.supervisor.until_running(&["one-node"]).await?;
    let head = night.fleet.deployment().chain.block_number().await?;
    node.lie(|lies| lies.stands_at = Some(head));
    let requests = night.fleet.request(vec![Ask::public(&[2])]).await?;
    let still = Told {
        ready: (200, "has shown no new block since"),
        words: ["has shown no new block since", "name another node in gateway_url"],
        check: ("warn", "the node is stale"),
        metric: ("kms_connector_rpc_endpoint_still_seconds", "endpoint_host"),
        alert: "KmsConnectorChainStill",
    };
    tokio::time::sleep(Duration::from_mins(1)).await;
    night.expect("one-node", &still).await?;
    node.be_honest();
    night.fleet.answered_by(&[0], &requests).await?;
    night.over("one-node", &still).await
}

/// The URL of a node as a value of the configuration.
fn quoted(node: &FaultyRpc) -> String {
    format!("\"{}\"", node.ws_url())
}
