//! Behind a proxy: the node over wss and https, the buckets and AWS KMS are reached through it, as
//! `HTTPS_PROXY` and `NO_PROXY` say, and its password is shown to nobody.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use world::{
    Error, Result,
    connect_proxy::ConnectProxy,
    connector,
    request::Ask,
    scene::{Scene, SceneOptions},
    tls::{Authority, TlsFront},
};

const USER: &str = "cAnArYuser";
const PASSWORD: &str = "cAnArYpass";

fn io(error: std::io::Error) -> Error {
    Error::Io("a test's file".into(), error)
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

/// A scene whose servers speak TLS.
struct Secure {
    scene: Scene,
    node: TlsFront,
    bucket: TlsFront,
    /// The password it wants.
    proxy: ConnectProxy,
}

impl Secure {
    async fn new() -> Result<Self> {
        let authority = Authority::new()?;
        let scene = Scene::new(SceneOptions::default()).await?;
        let node = TlsFront::start(&authority, scene.anvil.port()).await?;
        let bucket = TlsFront::start(&authority, scene.ministack.port()).await?;
        let store = scene.deployment.stores[0].tx_sender;
        let url = format!("https://127.0.0.1:{}/ct128-0", bucket.port());
        scene.deployment.set_bucket(store, &url).await?;
        authority.write(&scene.dir.path().join("authority.pem"))?;
        Ok(Self { scene, node, bucket, proxy: ConnectProxy::start(&basic()).await? })
    }

    /// Writes the configuration with its node at this scheme.
    fn write(&self, scheme: &str, more: &str) -> Result<()> {
        let config = self.scene.config("");
        let is_aws = more.contains("key_id");
        let is_ours = |line: &str| {
            line.starts_with("gateway_url") || (is_aws && line.starts_with("private_key"))
        };
        let others = config.lines().filter(|line| !is_ours(line));
        let others: String = others.flat_map(|line| [line, "\n"]).collect();
        let url = format!("{scheme}://127.0.0.1:{}", self.node.port());
        let ours = format!("gateway_url = \"{url}\"\nca_file = \"authority.pem\"\n");
        let file = self.scene.config_file();
        fs::write(&file, format!("{ours}{others}{more}")).map_err(io)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(io)
    }

    fn command(&self, arguments: &[&str], password: &str) -> Command {
        let mut command = connector();
        let proxy = format!("http://{USER}:{password}@127.0.0.1:{}", self.proxy.port());
        command
            .env_clear()
            .env("https_proxy", proxy)
            .env("RUST_LOG", "trace")
            .env("KMS_CONNECTOR_STATE_DIR", self.scene.state_dir())
            .args(arguments)
            .arg("-c")
            .arg(self.scene.config_file());
        command
    }
}

async fn output(mut command: Command) -> Result<(Option<i32>, String)> {
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.map_err(|e| Error::other(e.to_string()))?.map_err(io)?;
    let Output { status, stdout, stderr } = output;
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok((status.code(), text))
}

fn hides_the_password(text: &str) {
    let encoded = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for secret in ["cAnArY", &encoded] {
        assert!(!text.to_lowercase().contains(&secret.to_lowercase()), "{text}");
    }
}

#[world::test]
async fn requests_are_answered_through_a_proxy() -> Result<()> {
    let mut secure = Secure::new().await?;
    for scheme in ["wss", "https"] {
        let proxied = secure.proxy.asked().len();
        secure.write(scheme, "")?;
        let command = secure.command(&["start"], PASSWORD);
        secure.scene.spawn(command)?;
        let requests = secure.scene.deployment.request(Ask::mixed(1, 1)).await?;
        secure.scene.answered(&requests).await?;
        assert_eq!(secure.scene.stop().await?, Some(0), "{}", secure.scene.log());
        let asked = secure.proxy.asked();
        let new = &asked[proxied..];
        for port in [secure.node.port(), secure.bucket.port()] {
            let target = format!("127.0.0.1:{port}");
            assert!(new.iter().any(|asked| asked.target == target), "{scheme}: {asked:?}");
        }
        assert!(new.iter().all(|asked| asked.authorization == basic()), "{asked:?}");
    }
    // The Core is no https server: nobody asked the way to it.
    let core = secure.scene.core.endpoint();
    let core: u16 = core.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
    assert!(!secure.proxy.led_to(core));
    hides_the_password(&secure.scene.log());
    Ok(())
}

#[world::test]
async fn no_proxy_a_wrong_password_and_a_proxy_that_is_none() -> Result<()> {
    let secure = Secure::new().await?;
    secure.write("wss", "")?;
    let mut around = secure.command(&["check"], PASSWORD);
    around.env("NO_PROXY", "localhost,127.0.0.0/8");
    let (code, text) = output(around).await?;
    assert_eq!((code, secure.proxy.asked().len()), (Some(0), 0), "{text}");

    let (code, text) = output(secure.command(&["check"], "cAnArYother")).await?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("407") && text.contains("user name or password"), "{text}");
    hides_the_password(&text);

    let mut socks = secure.command(&["validate"], PASSWORD);
    socks.env("HTTPS_PROXY", format!("socks5://{USER}:{PASSWORD}@127.0.0.1:1"));
    let (code, text) = output(socks).await?;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("HTTPS_PROXY") && text.contains("NO_PROXY"), "{text}");
    hides_the_password(&text);
    Ok(())
}

#[world::test]
async fn aws_kms_is_reached_through_a_proxy() -> Result<()> {
    let secure = Secure::new().await?;
    let key = secure.scene.ministack.create_key("alias/connector").await?;
    let table = format!(
        "[aws_kms_config]\nkey_id = \"{}\"\nregion = \"us-east-1\"\nendpoint = \
         \"https://127.0.0.1:{}\"\n",
        key.id,
        secure.bucket.port()
    );
    secure.write("wss", &table)?;
    // AWS clients trust the system's authorities only.
    let mut command = secure.command(&["check"], PASSWORD);
    command
        .env("SSL_CERT_FILE", secure.scene.dir.path().join("authority.pem"))
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let (_, text) = output(command).await?;
    let wallet = text.lines().find(|line| line.contains(" wallet ")).unwrap_or_default();
    let address = key.address.to_string();
    assert!(wallet.starts_with("ok ") && wallet.contains(&address), "{text}");
    assert!(secure.proxy.led_to(secure.bucket.port()));
    hides_the_password(&text);
    Ok(())
}
