//! Canaries: secrets planted in keys and in path, query and user part of every URL. Whatever
//! happens, at the loudest log level, none of them is found in what the connector writes.
//!
//! The servers here repeat every secret they are told ([`Gossip`]), because real ones do.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use alloy::primitives::B256;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use world::{
    Error, Result, at_length, connector,
    deployment::{Deployment, Node, Store},
    free_port,
    gossip::{Gossip, Tale},
    http_client,
    ministack::Bucket,
    request::{Ask, Issued, fhe},
    scene::{PATIENCE, Scene, SceneOptions},
    until,
};

/// Part of every planted text, and of nothing else.
const CANARY: &str = "canary";
/// The places in which canaries are planted: each URL has its own, so that a find names its source.
const GATEWAY: &str = "gateway";
const CORE: &str = "core";
const BUCKET: &str = "bucket";
const STORE: &str = "store";
const KMS: &str = "kms";

fn io(error: std::io::Error) -> Error {
    Error::Io("a test's file".into(), error)
}

/// `url` (without path) with canaries in user part, path and query; `path` stands before the
/// canary in the path.
fn planted(url: &str, path: &str, place: &str) -> String {
    let (scheme, host) = url.split_once("://").expect("a URL");
    format!(
        "{scheme}://{CANARY}{place}user:{CANARY}{place}pass@{host}{path}/{CANARY}{place}path\
         ?token={CANARY}{place}query"
    )
}

fn local(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// What must not be found.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn of(key: B256) -> Self {
        let hex = alloy::hex::encode(key);
        let bytes: Vec<String> = key[..6].iter().map(ToString::to_string).collect();
        let mut needles = vec![
            ("a planted text".to_owned(), CANARY.as_bytes().to_vec()),
            ("the private key".to_owned(), hex.as_bytes()[..12].to_vec()),
            ("the private key's end".to_owned(), hex.as_bytes()[52..].to_vec()),
            ("the private key in decimal".to_owned(), bytes.join(", ").into_bytes()),
            ("the private key's bytes".to_owned(), key[..8].to_vec()),
        ];
        for place in [GATEWAY, CORE, BUCKET, STORE, KMS] {
            let user = STANDARD.encode(format!("{CANARY}{place}user:{CANARY}{place}pass"));
            needles.push((format!("the {place}'s basic authorization"), user.into_bytes()));
        }
        Self(needles)
    }

    /// Each find with the text around it.
    fn found_in(&self, what: &str, content: &[u8]) -> Vec<String> {
        let lower = content.to_ascii_lowercase();
        let finds = self.0.iter().filter_map(|(name, needle)| {
            // Base64 and key bytes are what they are; everything else in any case.
            let (text, needle) = if name == "a planted text" || name.contains("key") {
                (&lower[..], needle.to_ascii_lowercase())
            } else {
                (content, needle.clone())
            };
            let at = text.windows(needle.len()).position(|window| window == needle)?;
            let around = &content[at.saturating_sub(300)..content.len().min(at + 100)];
            Some(format!("{what}: {name}: …{}…", String::from_utf8_lossy(around)))
        });
        finds.collect()
    }
}

/// A scene in which every URL and key is a canary.
struct Aviary {
    scene: Scene,
    format: &'static str,
    /// In front of the chain.
    gateway: Gossip,
    secrets: Secrets,
    /// Whatever is not the key of the wallet.
    more: String,
    /// What its HTTP listener answered.
    answers: String,
}

impl Aviary {
    async fn new(format: &'static str) -> Result<Self> {
        // A good bucket, and one more per bad one below.
        let mut scene = Scene::new(SceneOptions { buckets: 5, ..SceneOptions::default() }).await?;
        let node = Tale::Node { port: scene.anvil.port(), refused: None };
        let gateway = Gossip::start(node).await?;
        // Objects stand below the canary in the path.
        let inside = format!("{}/ct128-0/{CANARY}{BUCKET}path", scene.ministack.url());
        for store in &mut scene.deployment.stores {
            store.bucket = Bucket::new(inside.clone())?;
        }
        // The fallback's path begins with the canary, which there is the bucket.
        scene.ministack.bucket(&format!("{CANARY}{STORE}path")).await?;
        let more = format!(
            "kms_core_endpoint = \"{}\"\nchain_id = {}\ndecryption_address = \"{}\"\n\
             gateway_config_address = \"{}\"\nstarting_block = {}\nretry_interval_secs = 1\n\
             held_retry_secs = 1\n[s3_config]\nbucket = \"ct128-0\"\nendpoint = \"{}\"\n",
            planted(&scene.core.endpoint(), "", CORE),
            scene.deployment.chain_id,
            scene.deployment.decryption,
            scene.deployment.gateway_config,
            scene.deployment.since_block,
            planted(&scene.ministack.url(), "", STORE),
        );
        let secrets = Secrets::of(scene.wallet.to_bytes());
        Ok(Self { scene, format, gateway, secrets, more, answers: String::new() })
    }

    fn key(&self) -> String {
        format!("private_key = \"{}\"\n", self.scene.wallet.to_bytes())
    }

    /// Starts with the gateway at this URL (without path) and this wallet.
    fn start(&mut self, gateway: &str, wallet: &str) -> Result<()> {
        let gateway = planted(gateway, "/v2", GATEWAY);
        let config = format!("gateway_url = \"{gateway}\"\n{wallet}{}", self.more);
        fs::write(self.scene.config_file(), config).map_err(io)?;
        let mut command = connector();
        command.env_clear().args(["start", "--listen", "127.0.0.1:0"]);
        command.args(["--log-format", self.format, "-c"]).arg(self.scene.config_file());
        command
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "1")
            .env("AWS_ACCESS_KEY_ID", format!("AKIA{CANARY}"))
            .env("AWS_SECRET_ACCESS_KEY", format!("{CANARY}awssecret"))
            .env("AWS_SESSION_TOKEN", format!("{CANARY}awstoken"));
        self.scene.spawn(command)
    }

    fn ws(&self) -> String {
        format!("ws://127.0.0.1:{}", self.gateway.port())
    }

    /// The deployment as seen by someone who names only these coprocessors.
    fn naming(&self, stores: &[usize]) -> Deployment {
        let all = &self.scene.deployment.stores;
        let stores: Vec<Store> = stores.iter().map(|n| all[*n].clone()).collect();
        Deployment { stores, ..self.scene.deployment.clone() }
    }

    async fn request(&self, stores: &[usize]) -> Result<Vec<Issued>> {
        self.naming(stores).request(one()).await
    }

    /// Waits until the log after `from` holds all of `words` in one line.
    async fn line_with(&self, from: usize, words: &[&str]) -> Result<()> {
        let what = format!("a line with {words:?}");
        let found = until(&what, PATIENCE, Duration::from_millis(50), async || {
            let log = self.scene.log();
            let has = |line: &str| words.iter().all(|word| line.contains(word));
            Ok(log[from..].lines().any(has).then_some(()))
        });
        found.await.map_err(|error| {
            let log = self.scene.log();
            let end = &log[log.len().saturating_sub(6000).max(from)..];
            Error::other(format!("{error}\n{end}"))
        })
    }

    fn mark(&self) -> usize {
        self.scene.log().len()
    }

    /// Asks the HTTP listener for all it has.
    async fn ask_listener(&mut self) -> Result<()> {
        let log = self.scene.log();
        let opened = log.lines().rfind(|line| line.contains("HTTP listener open"));
        let port = opened.and_then(|line| line.split("127.0.0.1:").nth(1)).expect("its address");
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        let client = http_client(PATIENCE)?;
        for path in ["/", "/status", "/readyz", "/metrics", "/version"] {
            let answer = client.get(format!("http://127.0.0.1:{port}{path}")).send().await?;
            self.answers.push_str(&answer.text().await?);
        }
        assert!(self.answers.contains("kms_connector_rpc_endpoint_up"), "{}", self.answers);
        Ok(())
    }

    /// SIGTERM and a good end.
    async fn stop(&mut self) -> Result<()> {
        self.ask_listener().await?;
        assert_eq!(self.scene.stop().await?, Some(0));
        Ok(())
    }

    /// Looks through all that was written.
    fn search(&self) -> Result<()> {
        let mut finds = self.secrets.found_in("log", self.scene.log().as_bytes());
        finds.extend(self.secrets.found_in("an answer", self.answers.as_bytes()));
        let mut files = 0;
        for entry in fs::read_dir(self.scene.state_dir()).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let content = fs::read(&path).map_err(io)?;
            finds.extend(self.secrets.found_in(&path.display().to_string(), &content));
            files += 1;
        }
        assert!(files >= 2, "a journal and its lock");
        assert!(finds.is_empty(), "{} finds\n{}", finds.len(), finds.join("\n\n"));
        Ok(())
    }
}

fn one() -> Vec<Ask> {
    vec![Ask::public(&[fhe::UINT64]), Ask::user(&[fhe::UINT8])]
}

/// The places of the bad buckets among the stores; 0 is good.
const FORBIDDEN: usize = 1;
const MOVED: usize = 2;
const ECHOING: usize = 3;
const UNKNOWN: usize = 4;

/// Everything that goes well, and everything that goes wrong on the way to Core and buckets.
async fn buckets_and_core(format: &'static str) -> Result<()> {
    let mut aviary = Aviary::new(format).await?;
    let stores = aviary.scene.deployment.stores.clone();
    let deployment = aviary.scene.deployment.clone();
    let bad = [
        (FORBIDDEN, Gossip::start(Tale::Status(403)).await?),
        (MOVED, Gossip::start(Tale::Redirect).await?),
        (ECHOING, Gossip::start(Tale::Echo).await?),
    ];
    let good = planted(&aviary.scene.ministack.url(), "/ct128-0", BUCKET);
    deployment.set_bucket(stores[0].tx_sender, &good).await?;
    for (store, gossip) in &bad {
        let url = planted(&local(gossip.port()), "", BUCKET);
        deployment.set_bucket(stores[*store].tx_sender, &url).await?;
    }
    deployment.set_bucket(stores[UNKNOWN].tx_sender, "").await?;

    let (ws, key) = (aviary.ws(), aviary.key());
    aviary.start(&ws, &key)?;
    let mut requests = aviary.request(&[0]).await?;
    requests.extend(aviary.request(&[FORBIDDEN, MOVED, ECHOING, 0]).await?);
    // The fallback, which knows no such access key: its refusal goes into log and journal.
    let mark = aviary.mark();
    let unknown = aviary.request(&[UNKNOWN]).await?;
    aviary.line_with(mark, &["InvalidAccessKeyId"]).await?;
    aviary.scene.answered(&requests).await?;
    for (_, gossip) in &bad {
        let heard = gossip.heads().concat();
        assert!(heard.contains(CANARY), "a bad bucket was told the secrets: {heard}");
    }

    // Buckets that never bring it: in the journal with the reasons.
    let refused = aviary.request(&[FORBIDDEN]).await?;
    let mark = aviary.mark();
    let broken = aviary.request(&[MOVED, ECHOING]).await?;
    aviary.line_with(0, &["access denied (403)"]).await?;
    aviary.line_with(mark, &["wrong bytes", "redirects (307)"]).await?;

    // No Core, then a Core again.
    aviary.scene.core.stop().await;
    let mark = aviary.mark();
    let waiting = aviary.request(&[0]).await?;
    aviary.line_with(mark, &["no answer from the KMS Core"]).await?;
    aviary.scene.core.restart().await;
    aviary.scene.answered(&waiting).await?;

    // Something else where the Core should be: its words are not ours to repeat unread.
    aviary.stop().await?;
    let stranger = Gossip::start(Tale::Echo).await?;
    let url = planted(&local(stranger.port()), "", CORE);
    let core = planted(&aviary.scene.core.endpoint(), "", CORE);
    aviary.more = aviary.more.replace(&core, &url);
    let mark = aviary.mark();
    aviary.start(&ws, &key)?;
    aviary.line_with(mark, &["waiting for the KMS Core"]).await?;
    aviary.stop().await?;

    let told =
        "select count(*) from requests where last_error is not null or hold_reason is not null";
    let told = aviary.scene.query(told, |row| row.get::<_, i64>(0))?;
    assert!(told[0] >= 5, "the journal tells why {unknown:?}, {refused:?} and {broken:?} wait");
    aviary.search()
}

#[world::test]
async fn bad_buckets_and_cores_bring_no_secret_into_text_logs() -> Result<()> {
    buckets_and_core("text").await
}

#[world::test]
async fn bad_buckets_and_cores_bring_no_secret_into_json_logs() -> Result<()> {
    buckets_and_core("json").await
}

/// Every way in which a node fails, at the start and while requests are under way.
async fn gateway(format: &'static str) -> Result<()> {
    let mut aviary = Aviary::new(format).await?;
    let port = aviary.scene.anvil.port();
    let good = Tale::Node { port, refused: None };
    let url = planted(&aviary.scene.ministack.url(), "/ct128-0", BUCKET);
    let store = aviary.scene.deployment.stores[0].tx_sender;
    aviary.scene.deployment.set_bucket(store, &url).await?;
    let path = aviary.scene.dir.path().join("wallet.key");
    fs::write(&path, alloy::hex::encode(aviary.scene.wallet.to_bytes())).map_err(io)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io)?;
    let wallet = "private_key_file = \"wallet.key\"\n";

    let schemes = [aviary.ws(), local(aviary.gateway.port())];
    for url in &schemes {
        for tale in [Tale::Status(401), Tale::Status(302), Tale::RpcErrors, Tale::Echo] {
            aviary.gateway.set(tale);
            let mark = aviary.mark();
            aviary.start(url, wallet)?;
            aviary.line_with(mark, &["waiting for the gateway node"]).await?;
            aviary.stop().await?;
        }
    }
    let nobody = local(free_port()?);
    for url in [&nobody, &nobody.replace("http", "ws"), &nobody.replace("http", "wss")] {
        let mark = aviary.mark();
        aviary.start(url, wallet)?;
        aviary.line_with(mark, &["waiting for the gateway node"]).await?;
        aviary.stop().await?;
    }
    assert!(aviary.gateway.heads().concat().contains(CANARY), "the node was told the secrets");

    // While requests are under way.
    aviary.gateway.set(good);
    aviary.start(&schemes[0], wallet)?;
    let mut requests = aviary.request(&[0]).await?;
    aviary.scene.answered(&requests).await?;
    for tale in [Tale::RpcErrors, Tale::Status(500)] {
        let mark = aviary.mark();
        aviary.gateway.set(tale);
        requests.extend(aviary.request(&[0]).await?);
        if tale == Tale::RpcErrors {
            aviary.line_with(mark, &["waiting for the gateway node"]).await?;
        } else if at_length() {
            // To the log they are one fault, of which it tells again after half a minute.
            aviary.line_with(mark, &["HTTP status 500"]).await?;
        } else {
            heard_again(&aviary.gateway).await?;
            heard_again(&aviary.gateway).await?;
        }
    }
    aviary.gateway.set(good);
    aviary.scene.answered(&requests).await?;
    aviary.stop().await?;

    // Single calls are refused: the reasons go into the journal too.
    for method in ["eth_call", "eth_estimateGas", "eth_sendRawTransactionSync", "eth_getLogs"] {
        let refusing = Tale::Node { port, refused: Some(method) };
        let mark = aviary.mark();
        aviary.gateway.set(if method == "eth_call" { refusing } else { good });
        aviary.start(&schemes[1], wallet)?;
        if method != "eth_call" {
            aviary.line_with(mark, &["instance running"]).await?;
        }
        aviary.gateway.set(refusing);
        requests.extend(aviary.request(&[0]).await?);
        aviary.line_with(mark, &["refused: POST"]).await?;
        aviary.gateway.set(good);
        aviary.scene.answered(&requests).await?;
        aviary.stop().await?;
    }

    // The other chain behind the URL: a refusal to start.
    let mark = aviary.mark();
    aviary.more = aviary.more.replace("chain_id = 5", "chain_id = 6");
    aviary.start(&schemes[0], wallet)?;
    aviary.line_with(mark, &["serves chain id"]).await?;
    aviary.search()
}

#[world::test]
async fn a_failing_node_brings_no_secret_into_text_logs() -> Result<()> {
    gateway("text").await
}

#[world::test]
async fn a_failing_node_brings_no_secret_into_json_logs() -> Result<()> {
    gateway("json").await
}

/// Waits for one more question.
async fn heard_again(gossip: &Gossip) -> Result<()> {
    let heard = gossip.heads().len();
    until("a question", PATIENCE, Duration::from_millis(20), async || {
        Ok((gossip.heads().len() > heard).then_some(()))
    })
    .await
}

#[world::test]
async fn aws_kms_brings_no_secret_into_the_log() -> Result<()> {
    let mut aviary = Aviary::new("text").await?;
    let key = aviary.scene.ministack.create_key("alias/wallet").await?;
    aviary.scene.anvil.fund(key.address).await?;
    let node = Node { wallet: key.address, signer: aviary.scene.core.signer_address() };
    aviary.scene.deployment.register(node).await?;
    let url = planted(&aviary.scene.ministack.url(), "/ct128-0", BUCKET);
    let store = aviary.scene.deployment.stores[0].tx_sender;
    aviary.scene.deployment.set_bucket(store, &url).await?;
    let front = Gossip::start(Tale::Status(403)).await?;
    let table = format!(
        "[aws_kms_config]\nkey_id = \"{}\"\nregion = \"us-east-1\"\nendpoint = \"{}\"\n",
        key.alias,
        planted(&local(front.port()), "", KMS)
    );
    aviary.more.push_str(&table);
    let ws = aviary.ws();
    let mark = aviary.mark();
    aviary.start(&ws, "")?;
    // The wallet tries again and again before it says anything, so it meets each of them.
    for tale in [Tale::Status(403), Tale::Status(500), Tale::Redirect, Tale::Echo] {
        front.set(tale);
        heard_again(&front).await?;
    }
    front.set(Tale::Aws("AccessDeniedException"));
    aviary.line_with(mark, &["waiting for AWS KMS", "denies access"]).await?;
    assert!(front.heads().concat().contains(CANARY), "it was told the secrets");

    front.set(Tale::Relay(aviary.scene.ministack.port()));
    let mut requests = aviary.request(&[0]).await?;
    aviary.scene.answered(&requests).await?;
    // It fails while signatures are wanted.
    let mark = aviary.mark();
    front.set(Tale::Status(403));
    requests.extend(aviary.request(&[0]).await?);
    heard_again(&front).await?;
    front.set(Tale::Aws("KMSInvalidStateException"));
    aviary.line_with(mark, &["not enabled (KMSInvalidStateException)"]).await?;
    front.set(Tale::Relay(aviary.scene.ministack.port()));
    aviary.scene.answered(&requests).await?;
    aviary.stop().await?;
    aviary.search()
}

// ---- configurations, good and bad

async fn ended(mut command: Command) -> Result<Output> {
    let ending = tokio::task::spawn_blocking(move || command.output());
    ending.await.map_err(|e| Error::other(e.to_string()))?.map_err(io)
}

/// Configurations with canaries where they belong, and where they do not.
fn configurations(key: &str) -> Vec<(&'static str, String)> {
    let gateway = planted("wss://gateway.example", "/v2", GATEWAY);
    let core = planted("https://core.example", "", CORE);
    let store = planted("https://store.example", "", STORE);
    let kms = planted("https://kms.example", "", KMS);
    let good = format!(
        "gateway_url = \"{gateway}\"\nkms_core_endpoint = \"{core}\"\nchain_id = 4242\n\
         decryption_address = \"0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed\"\n\
         private_key = \"{key}\"\n[s3_config]\nbucket = \"b\"\nendpoint = \"{store}\"\n\
         [aws_kms_config]\nkey_id = \"alias/x\"\nendpoint = \"{kms}\"\n"
    );
    let with = |line: &str| format!("{line}\n{good}");
    let without = |name: &str| -> String {
        let start = format!("{name} =");
        let kept: Vec<&str> = good.lines().filter(|line| !line.starts_with(&start)).collect();
        kept.join("\n")
    };
    let instead = |name: &str, value: &str| format!("{name} = {value}\n{}", without(name));
    vec![
        ("good", good.clone()),
        ("syntax-quote", with(&format!("service_name = \"{CANARY}"))),
        ("syntax-bare", with(&format!("private_key = {key}"))),
        ("syntax-key", with(&format!("{CANARY} {CANARY} = 1"))),
        ("twice", with(&format!("private_key = \"{key}\""))),
        ("key-cut", instead("private_key", &format!("\"{}\"", &key[..63]))),
        ("key-not-hex", instead("private_key", &format!("\"{}g\"", &key[..63]))),
        ("key-list", instead("private_key", &format!("[\"{key}\"]"))),
        ("key-as-address", instead("decryption_address", &format!("\"{key}\""))),
        ("key-as-chain", instead("chain_id", &format!("\"0x{key}\""))),
        ("key-as-gas", with(&format!("gas_limit = \"{key}\""))),
        ("key-as-file", format!("private_key_file = \"0x{key}\"\n{}", without("private_key"))),
        ("key-as-authority", with(&format!("ca_file = \"{key}\""))),
        ("url-as-authority", with(&format!("ca_file = \"{gateway}\""))),
        ("key-as-unknown", with(&format!("privat_key = \"{key}\""))),
        ("key-as-name", with(&format!("\"{key}\" = 1"))),
        ("url-scheme", instead("gateway_url", &format!("\"ftp{}\"", &gateway[3..]))),
        ("url-made-up", instead("gateway_url", &format!("\"{CANARY}{}\"", &gateway[3..]))),
        ("url-bare", instead("gateway_url", &format!("\"{}\"", &gateway[6..]))),
        ("url-port", instead("gateway_url", &gateway.replace(".example", ".example:99999"))),
        ("url-list", instead("kms_core_endpoint", &format!("[\"{core}\"]"))),
        ("url-as-number", instead("chain_id", &format!("\"{gateway}\""))),
        ("url-as-bucket", good.replace("\"b\"", &format!("\"{store}\""))),
        ("url-as-key-id", good.replace("alias/x", &kms)),
        ("url-as-unknown", with(&format!("gateway_urls = \"{gateway}\""))),
    ]
}

#[tokio::test]
async fn no_verdict_on_a_configuration_repeats_a_secret() -> Result<()> {
    let wallet = world::random_key();
    let key = alloy::hex::encode(wallet.to_bytes());
    let secrets = Secrets::of(wallet.to_bytes());
    let dir = tempfile::tempdir().map_err(io)?;
    let mut finds = Vec::new();
    let run = async |arguments: &[&str], variables: &[(&str, &str)]| -> Result<Output> {
        let mut command = connector();
        command.env_clear().args(arguments).env("KMS_CONNECTOR_CONFIG_DIR", dir.path());
        command.env("RUST_LOG", "trace").envs(variables.iter().copied()).current_dir(dir.path());
        ended(command).await
    };
    let mut search = |what: &str, output: &Output| {
        finds.extend(secrets.found_in(&format!("{what}, stdout"), &output.stdout));
        finds.extend(secrets.found_in(&format!("{what}, stderr"), &output.stderr));
    };
    for (name, text) in configurations(&key) {
        let file = format!("{name}.toml");
        let path: &Path = &dir.path().join(&file);
        fs::write(path, text).map_err(io)?;
        let output = run(&["validate", "-c", &file], &[]).await?;
        let expected = if name == "good" { 0 } else { 78 };
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{name}: {stderr}");
        search(&format!("validate {name}"), &output);
        if name != "good" {
            for format in ["text", "json"] {
                let output = run(&["--log-format", format, "start", "-c", &file], &[]).await?;
                assert_eq!(output.status.code(), Some(78), "{name}");
                search(&format!("start {name} {format}"), &output);
            }
        }
    }
    for form in ["--long", "--json"] {
        search(&format!("list {form}"), &run(&["list", form], &[]).await?);
    }
    let url = planted("wss://gateway.example", "/v2", GATEWAY);
    for (name, value) in [
        ("KMS_CONNECTOR_PRIVATE_KEY", &key[..63]),
        ("KMS_CONNECTOR_PRIVATE_KEYS", &key),
        ("KMS_CONNECTOR_CHAIN_ID", &url),
        ("KMS_CONNECTOR_GATEWAY_URL", &url[6..]),
        ("KMS_CONNECTOR_GATEWAY_CONFIG_ADDRESS", &key),
        ("KMS_CONNECTOR_S3_CONFIG__BUCKET", &url),
        ("RUST_LOG", &format!("={url}={key}=")),
    ] {
        let output = run(&["validate", "-c", "good.toml"], &[(name, value)]).await?;
        search(&format!("validate with {name}"), &output);
        let output = run(&["start", "-c", "key-cut.toml"], &[(name, value)]).await?;
        search(&format!("start with {name}"), &output);
    }
    assert!(finds.is_empty(), "{} finds\n{}", finds.len(), finds.join("\n\n"));
    Ok(())
}
