//! The ways into a running connector: every kind of wallet, configuration and transport, end to
//! end; what an operator gives is what runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use alloy::{
    primitives::{Address, address},
    signers::local::PrivateKeySigner,
};
use world::{
    DOCUMENTED_EXAMPLE, Error, Result, connector,
    deployment::Node,
    free_port,
    process::Process,
    request::{Ask, Issued},
    scene::{PATIENCE, Scene, SceneOptions},
    tls::{Authority, TlsFront},
    until,
};

fn io(error: std::io::Error) -> Error {
    Error::Io("a test's file".into(), error)
}

/// A program with nothing in its environment.
fn bare(arguments: &[&str]) -> Command {
    let mut command = connector();
    command.env_clear().args(arguments);
    command
}

/// `start -c` of the scene's file with nothing in its environment.
fn bare_start(scene: &Scene) -> Command {
    let mut command = bare(&["start", "-c"]);
    command.arg(scene.config_file());
    command
}

fn write_config(scene: &Scene, text: &str) -> Result<()> {
    fs::write(scene.config_file(), text).map_err(io)
}

/// The scene's configuration without the lines of these keys, then `more`.
fn config_without(scene: &Scene, keys: &[&str], more: &str) -> String {
    let given = |line: &str| keys.iter().any(|key| line.starts_with(&format!("{key} =")));
    let config = scene.config("");
    let kept: Vec<&str> = config.lines().filter(|line| !given(line)).collect();
    kept.join("\n") + "\n" + more
}

/// Makes `wallet` the funded and registered wallet of the scene's KMS node.
async fn adopt(scene: &Scene, wallet: Address) -> Result<()> {
    scene.anvil.fund(wallet).await?;
    let node = Node { wallet, signer: scene.core.signer_address() };
    scene.deployment.register(node).await
}

/// Waits for the answers, which all must have come from `wallet`.
async fn answered_from(scene: &Scene, requests: &[Issued], wallet: Address) -> Result<()> {
    scene.answered(requests).await?;
    for answer in scene.deployment.answers().await? {
        if requests.iter().any(|request| request.id == answer.id) {
            assert_eq!(answer.tx_sender, wallet);
        }
    }
    Ok(())
}

/// Waits until the log after `from` holds all of `words` in one line.
async fn line_with(scene: &Scene, from: usize, words: &[&str]) -> Result<()> {
    let what = format!("a line with {words:?}");
    let found = until(&what, PATIENCE, Duration::from_millis(50), async || {
        let log = scene.log();
        let found = log[from..].lines().any(|line| words.iter().all(|word| line.contains(word)));
        Ok(found.then_some(()))
    });
    found.await.map_err(|error| Error::other(format!("{error}\n{}", &scene.log()[from..])))
}

// ---- wallets

/// Field failure T42.
#[world::test]
async fn an_aws_kms_wallet_answers_by_key_id_alias_and_arn() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let key = scene.ministack.create_key("alias/connector").await?;
    assert_ne!(key.address, scene.wallet.address());
    adopt(&scene, key.address).await?;
    for (name, requests) in [(&key.alias, 5), (&key.id, 1), (&key.arn, 1)] {
        let table = format!(
            "[aws_kms_config]\nkey_id = \"{name}\"\nregion = \"us-east-1\"\nendpoint = \"{}\"\n",
            scene.ministack.url()
        );
        write_config(&scene, &config_without(&scene, &["private_key"], &table))?;
        let mut command = bare_start(&scene);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        scene.spawn(command)?;
        let issued = scene.deployment.request(Ask::mixed(requests, requests)).await?;
        answered_from(&scene, &issued, key.address).await?;
        assert_eq!(scene.stop().await?, Some(0));
    }
    Ok(())
}

#[world::test]
async fn a_key_file_and_a_systemd_credential_answer() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let [in_file, own, bare_name] = [0; 3].map(|_| PrivateKeySigner::random());
    let write = |path: &Path, key: &PrivateKeySigner| -> Result<()> {
        fs::write(path, format!("0x{}\n", alloy::hex::encode(key.to_bytes()))).map_err(io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)
    };
    let credentials = scene.dir.path().join("credentials");
    fs::create_dir(&credentials).map_err(io)?;

    // A relative path counts from the configuration file.
    write(&scene.dir.path().join("wallet.key"), &in_file)?;
    let with_file = "private_key_file = \"wallet.key\"";
    for (key, more) in [(&in_file, with_file), (&bare_name, ""), (&own, "")] {
        if more.is_empty() {
            let own_now = key.address() == own.address();
            let name = if own_now { "connector.private_key" } else { "private_key" };
            write(&credentials.join(name), key)?;
        }
        adopt(&scene, key.address()).await?;
        write_config(&scene, &config_without(&scene, &["private_key"], more))?;
        let mut command = bare_start(&scene);
        command.env("CREDENTIALS_DIRECTORY", &credentials);
        scene.spawn(command)?;
        let issued = scene.deployment.request(Ask::mixed(1, 1)).await?;
        answered_from(&scene, &issued, key.address()).await?;
        assert_eq!(scene.stop().await?, Some(0));
    }

    // A key file that others can read is refused, and says what to do.
    let path = scene.dir.path().join("wallet.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(io)?;
    write_config(&scene, &config_without(&scene, &["private_key"], with_file))?;
    let refused = ended(bare_start(&scene)).await?;
    assert_eq!(refused.status.code(), Some(78));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("chmod 600"), "{words}");
    Ok(())
}

// ---- where the configuration comes from

/// The variables of the scene's connector, with `[s3_config]` for the ciphertexts.
fn variables(scene: &Scene) -> Vec<(&'static str, String)> {
    vec![
        ("KMS_CONNECTOR_GATEWAY_URL", scene.anvil.ws_url()),
        ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", scene.core.endpoint()),
        ("KMS_CONNECTOR_CHAIN_ID", scene.deployment.chain_id.to_string()),
        ("KMS_CONNECTOR_DECRYPTION_ADDRESS", scene.deployment.decryption.to_string()),
        ("KMS_CONNECTOR_STARTING_BLOCK", scene.deployment.since_block.to_string()),
        ("KMS_CONNECTOR_S3_CONFIG__REGION", "us-east-1".to_owned()),
        ("KMS_CONNECTOR_S3_CONFIG__BUCKET", "ct128-0".to_owned()),
        ("KMS_CONNECTOR_S3_CONFIG__ENDPOINT", scene.ministack.url()),
    ]
}

#[world::test]
async fn the_environment_alone_is_enough() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let mut command = bare(&["start"]);
    command
        .envs(variables(&scene))
        .env("KMS_CONNECTOR_PRIVATE_KEY", alloy::hex::encode(scene.wallet.to_bytes()))
        .env("KMS_CONNECTOR_SERVICE_NAME", "only-variables");
    scene.spawn(command)?;
    let requests = scene.deployment.request(Ask::mixed(3, 3)).await?;
    answered_from(&scene, &requests, scene.wallet.address()).await?;
    line_with(&scene, 0, &["starting", "only-variables"]).await?;
    // The seed's default gateway_config_address has no code: that is said, and no obstacle.
    line_with(&scene, 0, &["no code at gateway_config_address", "[s3_config]"]).await?;
    assert_eq!(scene.stop().await?, Some(0));

    // The same with the wallet in AWS KMS.
    let key = scene.ministack.create_key("alias/from-the-environment").await?;
    adopt(&scene, key.address).await?;
    let mut command = bare(&["start"]);
    command
        .envs(variables(&scene))
        .env("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", &key.alias)
        .env("KMS_CONNECTOR_AWS_KMS_CONFIG__REGION", "us-east-1")
        .env("KMS_CONNECTOR_AWS_KMS_CONFIG__ENDPOINT", scene.ministack.url())
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    scene.spawn(command)?;
    let requests = scene.deployment.request(Ask::mixed(1, 1)).await?;
    answered_from(&scene, &requests, key.address).await
}

#[world::test]
async fn a_variable_wins_over_the_file() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    let nowhere = format!("gateway_url = \"ws://127.0.0.1:{}\"", free_port()?);
    write_config(&scene, &config_without(&scene, &["gateway_url"], &nowhere))?;
    scene.spawn(bare_start(&scene))?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    line_with(&scene, 0, &["waiting for the gateway node", "refused"]).await?;

    let mut command = bare_start(&scene);
    command.env("KMS_CONNECTOR_GATEWAY_URL", scene.anvil.ws_url());
    scene.spawn(command)?;
    scene.answered(&requests).await
}

/// The address of its private key, 1.
const WALLET_OF_THE_EXAMPLE: Address = address!("7E5F4552091A69125d5DfCb7b8C2659029395Bdf");

#[world::test]
async fn the_example_of_the_documentation_runs() -> Result<()> {
    let mut scene = Scene::new(SceneOptions::default()).await?;
    write_config(&scene, DOCUMENTED_EXAMPLE)?;
    let check = || {
        let mut command = bare(&["validate", "-c"]);
        command.arg(scene.config_file());
        command
    };
    let blank = ended(check()).await?;
    assert_eq!(blank.status.code(), Some(78), "the two placeholders are told");
    let words = String::from_utf8_lossy(&blank.stderr).into_owned();
    assert!(words.contains("decryption_address") && words.contains("placeholder"), "{words}");
    assert!(words.contains("gateway_config_address"), "{words}");

    let (decryption, registry) = (scene.deployment.decryption, scene.deployment.gateway_config);
    let filled = DOCUMENTED_EXAMPLE
        .replacen("\"0x...\"", &format!("\"{decryption}\""), 1)
        .replacen("\"0x...\"", &format!("\"{registry}\""), 1);
    write_config(&scene, &filled)?;
    let valid = ended(check()).await?;
    let stderr = String::from_utf8_lossy(&valid.stderr).into_owned();
    assert_eq!(valid.status.code(), Some(0), "{stderr}");
    let stdout = String::from_utf8_lossy(&valid.stdout).into_owned();
    for words in ["1337", "ws://localhost:8757", &WALLET_OF_THE_EXAMPLE.to_string()] {
        assert!(stdout.contains(words), "{words}: {stdout}");
    }
    for words in ["gateway_url: stands below [aws_kms_config]", "PUBLICLY KNOWN"] {
        assert!(stderr.contains(words), "{words}: {stderr}");
    }

    // Only what is another place here comes from variables.
    adopt(&scene, WALLET_OF_THE_EXAMPLE).await?;
    let mut command = bare_start(&scene);
    command
        .env("KMS_CONNECTOR_GATEWAY_URL", scene.anvil.ws_url())
        .env("KMS_CONNECTOR_KMS_CORE_ENDPOINT", scene.core.endpoint())
        .env("KMS_CONNECTOR_CHAIN_ID", scene.deployment.chain_id.to_string())
        .env("KMS_CONNECTOR_STARTING_BLOCK", scene.deployment.since_block.to_string())
        .env("KMS_CONNECTOR_S3_CONFIG__ENDPOINT", scene.ministack.url());
    scene.spawn(command)?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    answered_from(&scene, &requests, WALLET_OF_THE_EXAMPLE).await?;
    line_with(&scene, 0, &["PUBLICLY KNOWN"]).await
}

// ---- TLS

/// Field failure T56.
#[world::test]
async fn tls_of_a_private_authority_everywhere() -> Result<()> {
    let authority = Authority::new()?;
    let options = SceneOptions { core_tls: Some(authority.issue()?), ..SceneOptions::default() };
    let mut scene = Scene::new(options).await?;
    assert!(scene.core.endpoint().starts_with("https://"));
    let node = TlsFront::start(&authority, scene.anvil.port()).await?;
    let bucket = TlsFront::start(&authority, scene.ministack.port()).await?;
    let store = scene.deployment.stores[0].tx_sender;
    let bucket_url = format!("https://127.0.0.1:{}/ct128-0", bucket.port());
    scene.deployment.set_bucket(store, &bucket_url).await?;
    let requests = scene.deployment.request(Ask::mixed(2, 2)).await?;
    let secure = format!("gateway_url = \"wss://127.0.0.1:{}\"\n", node.port());

    // Nobody told it the authority: it waits, and says why.
    write_config(&scene, &config_without(&scene, &["gateway_url"], &secure))?;
    scene.spawn(bare_start(&scene))?;
    line_with(&scene, 0, &["waiting for the gateway node", "certificate"]).await?;
    let from = scene.log().len();
    write_config(&scene, &scene.config(""))?;
    scene.spawn(bare_start(&scene))?;
    line_with(&scene, from, &["waiting for the KMS Core", "certificate"]).await?;
    line_with(&scene, from, &["bucket in trouble", "certificate"]).await?;
    assert!(scene.deployment.answers().await?.is_empty());

    // Relative to the configuration file.
    authority.write(&scene.dir.path().join("authority.pem"))?;
    let secure = format!("{secure}ca_file = \"authority.pem\"\n");
    write_config(&scene, &config_without(&scene, &["gateway_url"], &secure))?;
    scene.spawn(bare_start(&scene))?;
    scene.answered(&requests).await?;
    assert_eq!(scene.stop().await?, Some(0));

    // And over HTTPS, where the head is polled.
    let polled = secure.replace("wss://", "https://");
    write_config(&scene, &config_without(&scene, &["gateway_url"], &polled))?;
    scene.spawn(bare_start(&scene))?;
    scene.answered(&scene.deployment.request(Ask::mixed(2, 2)).await?).await?;
    assert_eq!(scene.stop().await?, Some(0));
    Ok(())
}

// ---- the command line beside a running daemon

async fn ended(mut command: Command) -> Result<Output> {
    let ending = tokio::task::spawn_blocking(move || command.output());
    ending.await.map_err(|e| Error::other(e.to_string()))?.map_err(io)
}

/// A connector whose node does not answer: it waits, which is enough to be a running daemon.
struct Waiting {
    dir: tempfile::TempDir,
    gateway: u16,
}

impl Waiting {
    fn new(files: &[&str]) -> Result<Self> {
        let waiting = Self { dir: tempfile::tempdir().map_err(io)?, gateway: free_port()? };
        for file in files {
            fs::write(waiting.dir.path().join(file), waiting.config()).map_err(io)?;
        }
        Ok(waiting)
    }

    fn config(&self) -> String {
        let key = PrivateKeySigner::random().to_bytes();
        format!(
            "gateway_url = \"ws://127.0.0.1:{}\"\nservice_name = \"of-the-service\"\n\
             private_key = \"{key}\"\n",
            self.gateway
        )
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(arguments);
        command
            .current_dir(self.dir.path())
            .env("KMS_CONNECTOR_CONFIG_DIR", self.dir.path())
            .env("KMS_CONNECTOR_STATE_DIR", self.dir.path().join("state"));
        command
    }

    /// Starts a daemon and waits until it runs.
    async fn start(&self, command: Command) -> Result<Process> {
        let out = self.dir.path().join("out").join(random_name());
        let mut process = Process::spawn("connector", &out, command)?;
        let log = process.log().to_owned();
        let waits = async || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("waiting for the gateway node"))
        };
        process.ready(PATIENCE, waits).await?;
        Ok(process)
    }
}

fn random_name() -> String {
    alloy::hex::encode(world::random::<8>())
}

#[tokio::test]
async fn list_beside_a_running_daemon_prints_names_and_nothing_else() -> Result<()> {
    let waiting = Waiting::new(&["b.toml", "a.toml", "c.toml"])?;
    let _daemon = waiting.start(waiting.command(&["start", "-c", "b.toml"])).await?;
    for level in ["info", "trace"] {
        let mut command = waiting.command(&["list"]);
        command.env("RUST_LOG", level);
        let listed = ended(command).await?;
        assert_eq!(listed.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "a.toml\nb.toml\nc.toml\n");
        assert_eq!(String::from_utf8_lossy(&listed.stderr), "");
    }
    Ok(())
}

#[tokio::test]
async fn version_tells_version_and_the_commit_it_was_built_from() -> Result<()> {
    let output = ended(bare(&["--version"])).await?;
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (version, commit) = text.trim().split_once(" (commit ").unwrap_or_default();
    assert_eq!(version, format!("kms-connector {}", env!("CARGO_PKG_VERSION")));
    let commit = commit.trim_end_matches(')');
    let digits = commit.split(['-', '+']).next().unwrap_or_default();
    assert!(digits == "unknown" || digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    assert!(digits.len() >= 7, "{text}");
    Ok(())
}

#[tokio::test]
async fn an_instance_is_called_by_n_else_its_service_else_its_file() -> Result<()> {
    let waiting = Waiting::new(&["gateway-7.toml"])?;
    let plain = waiting.config().replace("service_name = \"of-the-service\"\n", "");
    fs::write(waiting.dir.path().join("gateway-8.toml"), plain).map_err(io)?;
    let json = ["--log-format", "json", "start"];
    let with = |more: &[&str]| waiting.command(&[&json[..], more].concat());
    let mut without_file = with(&[]);
    without_file
        .env("KMS_CONNECTOR_GATEWAY_URL", format!("ws://127.0.0.1:{}", waiting.gateway))
        .env("KMS_CONNECTOR_PRIVATE_KEY", alloy::hex::encode(PrivateKeySigner::random().to_bytes()))
        .env("KMS_CONNECTOR_SERVICE_NAME", "of-the-variable");
    for (command, expected) in [
        (with(&["-c", "gateway-7.toml", "-n", "my-connector"]), "my-connector"),
        (with(&["-c", "gateway-7.toml", "--name", " with blanks "]), "with blanks"),
        (with(&["-c", "gateway-7.toml"]), "of-the-service"),
        (with(&["-c", "gateway-8.toml"]), "gateway-8"),
        (without_file, "of-the-variable"),
    ] {
        let daemon = waiting.start(command).await?;
        let names: Vec<String> = daemon
            .output()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|event| event["message"] == "starting")
            .filter_map(|event| event["instance"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(names, [expected]);
    }
    Ok(())
}
