//! `check`: for each thing that can be wrong it names the cause and the remedy, and what is wrong
//! with one thing hides nothing of the others.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use world::{
    Error, Result,
    config_dir::ConfigDir,
    connector,
    contracts::Variant,
    deployment::{Node, Store},
    faulty_rpc::{Arrays, FaultyRpc, Lie, Logs, Rule},
    free_port,
    full_disk::FullDisk,
    gossip::{Gossip, Tale},
    host::HostOptions,
    ministack::Bucket,
    program, random_address, random_key,
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

fn io(error: std::io::Error) -> Error {
    Error::Io("a test's file".into(), error)
}

/// What `check` said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    findings: Vec<Value>,
}

impl Said {
    /// Verdicts of this subject, and all that was said of it.
    fn of(&self, subject: &str) -> (Vec<&str>, String) {
        let of = |finding: &&Value| finding["subject"] == subject;
        let found: Vec<&Value> = self.findings.iter().filter(of).collect();
        let verdicts = found.iter().filter_map(|finding| finding["verdict"].as_str()).collect();
        (verdicts, found.iter().map(ToString::to_string).collect())
    }

    /// This subject has one finding of this verdict, in which all of these words stand.
    fn expect(&self, verdict: &str, subject: &str, words: &[&str]) {
        let (verdicts, text) = self.of(subject);
        assert_eq!(verdicts, [verdict], "{subject}: {self:#?}");
        for word in words {
            assert!(text.contains(word), "{subject}: no {word:?} in {text}");
        }
    }

    /// Subjects that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self.findings.iter().filter(|finding| finding["verdict"] == "fail");
        failed.filter_map(|finding| finding["subject"].as_str()).collect()
    }
}

async fn run(mut command: Command) -> Result<Said> {
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.map_err(|e| Error::other(e.to_string()))?.map_err(io)?;
    let Output { status, stdout, stderr } = output;
    let [stdout, stderr] =
        [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let parsed: Value = serde_json::from_str(&stdout).unwrap_or_default();
    let instances = parsed["instances"].as_array().cloned().unwrap_or_default();
    let findings = instances
        .iter()
        .flat_map(|instance| instance["findings"].as_array().cloned().unwrap_or_default())
        .collect();
    Ok(Said { code: status.code(), stdout, stderr, findings })
}

fn command(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = connector();
    command
        .env_clear()
        .env("KMS_CONNECTOR_STATE_DIR", scene.state_dir())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .arg("check")
        .args(arguments);
    command
}

/// Writes the configuration as careful people do.
fn write(scene: &Scene, config: &str) -> Result<()> {
    let file = scene.config_file();
    fs::write(&file, config).map_err(io)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(io)
}

async fn check(scene: &Scene, config: &str) -> Result<Said> {
    write(scene, config)?;
    let file = scene.config_file();
    run(command(scene, &["--json", "-c", &file.to_string_lossy()])).await
}

/// The line of `key` with another value.
fn with(config: &str, key: &str, value: &str) -> String {
    let other = |line: &str| match line.split_once(" = ") {
        Some((name, _)) if name == key => format!("{key} = {value}\n"),
        _ => format!("{line}\n"),
    };
    config.lines().map(other).collect()
}

#[world::test]
async fn a_world_in_order_is_said_to_be() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let config = scene.config("");
    let said = check(&scene, &config).await?;
    assert_eq!(said.failed(), [""; 0], "{said:#?}");
    assert_eq!(said.code, Some(0), "{said:#?}");
    let wallet = scene.wallet.address().to_string();
    said.expect("ok", "configuration", &[]);
    said.expect("ok", "gateway node", &["ws://127.0.0.1"]);
    said.expect("ok", "Decryption", &[&scene.deployment.decryption.to_string()]);
    said.expect("ok", "signing domain", &["Decryption 1"]);
    said.expect("ok", "GatewayConfig", &[&scene.deployment.gateway_config.to_string()]);
    said.expect("ok", "wallet", &[&wallet, "it signs"]);
    said.expect("ok", "balance", &["ETH"]);
    said.expect("ok", "registration", &[&wallet]);
    said.expect("ok", "KMS Core", &["serving"]);
    said.expect("ok", "bucket", &["http://127.0.0.1"]);
    said.expect("ok", "clock", &[]);
    said.expect("ok", "journal", &["none yet"]);
    said.expect("ok", "state directory", &["not there yet"]);
    assert!(!scene.state_dir().exists(), "it makes nothing");
    assert_eq!(said.stderr, "");

    // Who only observes needs no wallet and no Core, and has a journal of its own.
    let said = check(&scene, &scene.config("mode = \"observe\"")).await?;
    assert_eq!((said.code, said.failed()), (Some(0), vec![]), "{said:#?}");
    said.expect("ok", "wallet", &["only observes"]);
    said.expect("ok", "state directory", &["observe-connector"]);
    said.expect("ok", "journal", &["none yet"]);
    assert_eq!(said.of("balance").0, [""; 0], "{said:#?}");

    // As text it is one line each, and says the same beside an instance that runs.
    scene.start(program())?;
    let issued = scene.deployment.request_public(1).await?;
    scene.answered(&issued).await?;
    scene.settled(issued[0].id, "accepted").await?;
    write(&scene, &config)?;
    let file = scene.config_file();
    let text = run(command(&scene, &["-c", &file.to_string_lossy()])).await?;
    assert_eq!(text.code, Some(0), "{text:#?}");
    assert!(!text.stdout.contains('\u{1b}'), "{text:#?}");
    let pid = scene.connector.as_ref().map(|connector| connector.pid().to_string());
    let line = text.stdout.lines().find(|line| line.contains(" journal ")).unwrap_or_default();
    assert!(line.starts_with("ok ") && line.contains(&pid.unwrap_or_default()), "{text:#?}");
    assert!(text.stdout.contains("0 in hand, none held"), "{text:#?}");
    assert_eq!(scene.stop().await?, Some(0), "{}", scene.log());
    Ok(())
}

#[world::test]
async fn each_wrong_thing_is_named_and_hides_no_other() -> Result<()> {
    let scene = Scene::new(SceneOptions::default()).await?;
    let config = scene.config("");

    let said = check(&scene, &with(&config, "chain_id", "54322")).await?;
    assert_eq!((said.code, said.failed()), (Some(1), vec!["gateway node"]), "{said:#?}");
    said.expect("fail", "gateway node", &["54321", "54322", "correct chain_id"]);
    said.expect("ok", "KMS Core", &[]);
    said.expect("ok", "wallet", &[]);

    let nowhere = format!("\"{}\"", random_address());
    let said = check(&scene, &with(&config, "decryption_address", &nowhere)).await?;
    assert_eq!((said.code, said.failed()), (Some(1), vec!["Decryption"]), "{said:#?}");
    said.expect("fail", "Decryption", &["no code", "decryption_address"]);
    said.expect("ok", "registration", &[]);
    said.expect("ok", "bucket", &[]);

    // With and without a bucket of one's own.
    let unregistered = with(&config, "gateway_config_address", &nowhere);
    for more in ["", "[s3_config]\nregion = \"eu-west-1\"\nbucket = \"ct128\"\n"] {
        let said = check(&scene, &format!("{unregistered}{more}")).await?;
        said.expect("fail", "GatewayConfig", &["no code", "correct gateway_config_address"]);
        assert_eq!(said.code, Some(1), "{said:#?}");
    }

    let keys = scene.config(&format!("kms_generation_address = {nowhere}"));
    let said = check(&scene, &keys).await?;
    said.expect("fail", "KMSGeneration", &["no code", "correct kms_generation_address"]);
    assert_eq!(said.code, Some(1), "{said:#?}");

    let said = check(&scene, &scene.config("decryption_domain_version = \"9\"")).await?;
    assert_eq!(said.failed(), ["signing domain"], "{said:#?}");

    let stranger = format!("\"{}\"", random_key().to_bytes());
    let said = check(&scene, &with(&config, "private_key", &stranger)).await?;
    assert_eq!(said.failed(), ["registration", "balance"], "{said:#?}");
    said.expect("fail", "balance", &["nothing", "send it ether"]);
    said.expect(
        "fail",
        "registration",
        &["not registered", "owner of GatewayConfig register the wallet"],
    );

    let nobody = format!("\"http://127.0.0.1:{}\"", free_port()?);
    let said = check(&scene, &with(&config, "kms_core_endpoint", &nobody)).await?;
    assert_eq!(said.failed(), ["KMS Core"], "{said:#?}");
    said.expect("fail", "KMS Core", &["refused", "kms_core_endpoint"]);
    said.expect("ok", "bucket", &[]);

    let nobody = format!("\"ws://127.0.0.1:{}\"", free_port()?);
    let said = check(&scene, &with(&config, "gateway_url", &nobody)).await?;
    assert_eq!((said.code, said.failed()), (Some(1), vec!["gateway node"]), "{said:#?}");
    said.expect("ok", "KMS Core", &[]);

    // Buckets: one dead, then all, then one that was never made.
    let dead = format!("http://127.0.0.1:{}/ct128", free_port()?);
    let more = Store::new(Bucket::new(dead.clone())?);
    scene.deployment.set_bucket(more.tx_sender, &dead).await?;
    let said = check(&scene, &config).await?;
    assert_eq!((said.code, said.of("bucket").0.len()), (Some(0), 2), "{said:#?}");
    assert!(said.of("bucket").0.contains(&"warn"), "{said:#?}");
    let first = scene.deployment.stores[0].tx_sender;
    let unmade = format!("{}/never-made", scene.ministack.url());
    scene.deployment.set_bucket(first, &unmade).await?;
    let said = check(&scene, &config).await?;
    assert_eq!((said.code, said.of("bucket").0), (Some(1), vec!["fail", "fail"]), "{said:#?}");
    assert!(said.of("bucket").1.contains("no such bucket"), "{said:#?}");

    // A node that stands still, beside one that does not.
    let stale = FaultyRpc::start(&scene.anvil.http_url()).await?;
    stale.lie(|lies| lies.stands_at = Some(1));
    let both = with(&scene.config(""), "gateway_url", &format!("\"{}\"", stale.ws_url()));
    let both = format!("{both}gateway_fallback_urls = [\"{}\"]\n", scene.anvil.ws_url());
    let pause = Duration::from_millis(200);
    until("blocks", PATIENCE, pause, async || {
        Ok((scene.deployment.chain.block_number().await? > 30).then_some(()))
    })
    .await?;
    let said = check(&scene, &both).await?;
    let (verdicts, text) = said.of("gateway node");
    assert_eq!(verdicts, ["warn", "ok"], "{said:#?}");
    assert!(text.contains("stale") && text.contains("blocks behind"), "{text}");
    Ok(())
}

/// A node that hides logs, has unreadable receipts, refuses arrays, or takes short ranges only answers
/// otherwise as any.
#[world::test]
async fn c9_what_a_node_does_wrong_with_logs_and_receipts_is_named() -> Result<()> {
    let scene = Scene::new(SceneOptions::default()).await?;
    let node = FaultyRpc::start(&scene.anvil.http_url()).await?;
    scene.deployment.request_public(1).await?;
    let chain = &scene.deployment.chain;
    // So that the block is among the last ones as long as the test takes.
    let stands_at = chain.block_number().await? + 4;
    until("blocks", PATIENCE, Duration::from_millis(100), async || {
        Ok((chain.block_number().await? >= stands_at).then_some(()))
    })
    .await?;
    node.lie(|lies| lies.stands_at = Some(stands_at));
    let config = with(&scene.config(""), "gateway_url", &format!("\"{}\"", node.http_url()));
    let said = check(&scene, &config).await?;
    said.expect("ok", "gateway node", &[]);
    node.lie(|lies| {
        lies.logs = Logs::Missing;
        lies.arrays = Arrays::Refused(200);
        lies.leaves_out = vec![("eth_getTransactionReceipt", "status")];
    });
    let said = check(&scene, &config).await?;
    let (verdicts, text) = said.of("gateway node");
    assert_eq!(verdicts, ["ok", "warn", "fail", "fail"], "{said:#?}");
    for words in ["batch requests are disabled", "hides logs", "no readable receipt"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    node.lie(|lies| {
        (lies.logs, lies.arrays) = (Logs::AsTheyAre, Arrays::Taken);
        lies.leaves_out = vec![("eth_getBlockByNumber", "logsBloom")];
    });
    let limit = Lie::error(-32600, "You can make eth_getLogs requests with up to a 10 block range");
    node.rule(Rule::always("eth_getLogs", limit));
    let said = check(&scene, &config).await?;
    let (verdicts, text) = said.of("gateway node");
    assert_eq!(verdicts, ["ok", "warn", "warn"], "{said:#?}");
    assert!(text.contains("up to a 10 block range") && text.contains("no logsBloom"), "{text}");
    Ok(())
}

#[world::test]
async fn a_disk_that_takes_nothing_is_named() -> Result<()> {
    let scene = Scene::new(SceneOptions::default()).await?;
    write(&scene, &scene.config(""))?;
    fs::create_dir(scene.state_dir()).map_err(io)?;
    let file = scene.config_file();
    let disk = FullDisk::new(scene.dir.path())?;
    disk.fill(&scene.state_dir())?;
    let mut full = command(&scene, &["--json", "-c", &file.to_string_lossy()]);
    disk.under(&mut full);
    let said = run(full).await?;
    assert_eq!((said.code, said.failed()), (Some(1), vec!["state directory"]), "{said:#?}");
    said.expect("fail", "state directory", &["free space"]);
    assert_eq!(fs::read_dir(scene.state_dir()).map_err(io)?.count(), 0, "nothing is left there");

    let mut below_a_file = command(&scene, &["--json", "-c", &file.to_string_lossy()]);
    below_a_file.arg("--state-dir").arg(file.join("state"));
    let said = run(below_a_file).await?;
    assert_eq!(said.failed(), ["state directory", "journal"], "{said:#?}");
    said.expect("fail", "state directory", &["not a directory", "--state-dir"]);
    Ok(())
}

#[world::test]
async fn all_are_looked_at_also_beside_bad_ones() -> Result<()> {
    let scene = Scene::new(SceneOptions::default()).await?;
    let configs = ConfigDir::new(scene.dir.path().join("configs"))?;
    let all = || {
        let mut all = command(&scene, &["--json", "--all"]);
        all.arg("--config-dir").arg(configs.path());
        all
    };
    configs.write("a", &scene.config(""))?;
    let said = run(all()).await?;
    assert_eq!(said.code, Some(0), "{said:#?}");

    configs.write("b", &scene.config(""))?;
    configs.write("c", "chain_id = \n")?;
    configs.write("d", "enabled = false\n")?;
    let said = run(all()).await?;
    assert_eq!(said.code, Some(78), "{said:#?}");
    let parsed: Value = serde_json::from_str(&said.stdout)?;
    let names = parsed["instances"].as_array().cloned().unwrap_or_default();
    let names: Vec<_> = names.iter().filter_map(|one| one["instance"].as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let of = |index: usize| parsed["instances"][index]["findings"].to_string();
    assert!(!of(0).contains("\"fail\""), "{}", of(0));
    assert!(of(1).contains("a wallet has one owner"), "{}", of(1));
    assert!(of(1).contains("KMS Core"), "the rest is looked at all the same: {}", of(1));
    assert!(of(2).contains("c.toml:1") && of(2).contains("TOML"), "{}", of(2));
    Ok(())
}

/// The Core does not tell its key: what its answers are signed with stands in the journal.
#[world::test]
async fn a_core_with_another_key_shows_at_its_answers() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let node = Node { wallet: scene.wallet.address(), signer: random_address() };
    scene.deployment.register(node).await?;
    let config = scene.config("");
    let said = check(&scene, &config).await?;
    said.expect("ok", "registration", &[&node.signer.to_string()]);
    scene.start(program())?;
    let issued = scene.deployment.request_public(1).await?;
    scene.held(issued[0].id, "signer_mismatch").await?;
    let said = check(&scene, &config).await?;
    said.expect("warn", "requests", &["1 held: signer_mismatch 1", "connect the right Core"]);
    Ok(())
}

/// A node that repeats what it was told, and secrets in every part of the URLs.
#[world::test]
async fn no_secret_is_shown() -> Result<()> {
    const CANARY: &str = "cAnArY7351";
    let scene = Scene::new(SceneOptions::default()).await?;
    let honest = Tale::Node { port: scene.anvil.port(), refused: None };
    let node = Gossip::start(honest).await?;
    let planted = |scheme: &str, port: u16| {
        format!("\"{scheme}://{CANARY}u:{CANARY}p@127.0.0.1:{port}/v2/{CANARY}?key={CANARY}\"")
    };
    let config = with(&scene.config(""), "gateway_url", &planted("ws", node.port()));
    let bucket = scene.deployment.stores[0].tx_sender;
    let url = planted("http", scene.ministack.port());
    scene.deployment.set_bucket(bucket, url.trim_matches('"')).await?;
    let core = planted("http", free_port()?);
    let key = alloy::hex::encode(scene.wallet.to_bytes());
    for config in [config.clone(), with(&config, "kms_core_endpoint", &core)] {
        for tale in [
            Tale::Node { port: scene.anvil.port(), refused: None },
            Tale::RpcErrors,
            Tale::Status(401),
            Tale::Echo,
        ] {
            node.set(tale);
            let said = check(&scene, &config).await?;
            let all = format!("{}{}", said.stdout, said.stderr).to_lowercase();
            assert!(!said.findings.is_empty(), "{said:#?}");
            assert!(!all.contains(&CANARY.to_lowercase()), "{said:#?}");
            assert!(!all.contains(&key[..12]) && !all.contains(&key[52..]), "{said:#?}");
        }
    }
    Ok(())
}

/// Contracts of two chains have one address: the last one is replaced.
fn with_other_acl(config: &str, acl: &str, other: &str) -> String {
    let (before, after) = config.rsplit_once(acl).unwrap_or((config, ""));
    format!("{before}{other}{after}")
}

#[world::test]
async fn each_host_chain_is_looked_at_with_its_nodes_and_its_contract() -> Result<()> {
    let hosts = vec![HostOptions::of(Variant::G14), HostOptions::of(Variant::G14).chain_id(77)];
    let scene = Scene::new(SceneOptions { hosts, ..SceneOptions::default() }).await?;
    let config = scene.config("");
    let said = check(&scene, &config).await?;
    let (verdicts, text) = said.of("host chain");
    assert_eq!(verdicts, ["ok"; 3], "two ACLs and ProtocolConfig: {said:#?}");
    for word in ["ACL v0.5.0", "ProtocolConfig v0.2.0", "chain 77", "1 of 1 endpoints"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // One that is wrong hides nothing of the others.
    let second = &scene.hosts[1];
    let node = FaultyRpc::start(&second.anvil.http_url()).await?;
    let faulty = config.replace(&second.anvil.http_url(), &node.http_url());
    let empty = random_address().to_string();
    node.lie(|lies| lies.stands_at = Some(1));
    let stale = faulty.replace("chain_id = 77\n", "chain_id = 77\nmax_age_secs = 1\n");
    // The first blocks of a fresh chain are made at once, each a second after the one before.
    until("the block it stands at is old", PATIENCE, Duration::from_millis(500), async || {
        let said = check(&scene, &stale).await?;
        Ok(said.of("host chain").1.contains("more than 1 s").then_some(()))
    })
    .await?;
    let cases = [
        (with_other_acl(&config, &second.host.acl.to_string(), &empty), "no ACL contract at"),
        (
            with(&config, "protocol_config_address", &format!("\"{empty}\"")),
            "correct protocol_config_address",
        ),
        (config.replace(&second.anvil.http_url(), "http://127.0.0.1:1"), "chain 77: no answer"),
        (config.replace("chain_id = 77\n", "chain_id = 78\n"), "serves chain id 77"),
        (stale, "more than 1 s"),
    ];
    for (config, word) in cases {
        let said = check(&scene, &config).await?;
        let (verdicts, text) = said.of("host chain");
        assert_eq!(said.code, Some(1), "{word}: {said:#?}");
        assert_eq!(
            verdicts.iter().filter(|verdict| **verdict == "ok").count(),
            2,
            "{word}: {text}"
        );
        assert!(text.contains(word), "{word}: {text}");
        assert!(said.failed().iter().all(|subject| *subject == "host chain"), "{said:#?}");
    }
    Ok(())
}
