//! The test world: the real servers a connector talks to, brought up on free local ports.
//!
//! ```text
//! Anvil (Gateway chain) ── Deployment (our contracts, one variant of the protocol)
//! HostChain (a chain whose contracts have handles: another Anvil) ── Host (ACL, ProtocolConfig, Wallets)
//! KeyGeneration (the contract for keys, beside a Deployment or a Host)
//! Ministack (S3, AWS KMS) ── Bucket (a coprocessor's ciphertexts) ── Attestation (what it says of them)
//! FaultyBucket (a coprocessor's bucket that answers in one wrong way)
//! Proxy (between a connector and any of them: cut, silent, half-closed, slow, dripping, wrong)
//! FaultyRpc (a node that lies, in front of Anvil)
//! FullDisk (under a connector's journal)
//! journal (what the connector wrote down, read with plain SQL)
//! Parties (chain, contracts, S3 and any number of KMS nodes, each with wallet and Core)
//! Scene (one party and a connector)   Fleet (several parties and a supervisor)
//! TlsFront (TLS of a private authority in front of any of them)
//! Gossip (repeats what it was told, credentials and all)
//! ConnectProxy (an HTTP proxy on the way out)
//! NotifySocket (the service manager, systemd)
//! Browser (a headless Chromium)   Collector (OpenTelemetry traces)   strict_json (of log lines)
//! ```
//!
//! A crate of its own, which does not know the product's: it is compiled once for the black-box tests,
//! the devnet, the soak and the load bench, and not again when the product changes. What a test needs of
//! the product's own types stands beside that test. Needs `scripts/setup` to have been run.
//!
//! Everything started here ends when its guard is dropped, and also when this process is killed
//! ([`process`]). Nothing listens beyond 127.0.0.1.

pub mod process;
pub mod rpc;
pub mod anvil;
pub mod ministack;
pub mod proto;
pub mod core_stub;
pub mod faulty_bucket;
pub mod proxy;
pub mod faulty_rpc;
pub mod tls;
pub mod gossip;
pub mod contracts;
pub mod deployment;
pub mod host_contracts;
pub mod host;
pub mod key_contracts;
pub mod key_generation;
pub mod lifecycle;
pub mod request;
pub mod access;
pub mod attestation;
pub mod signing;
pub mod journal;
pub mod parties;
pub mod scene;
pub mod audit;
pub mod wal;
pub mod full_disk;
pub mod rows;
pub mod notify_socket;
pub mod procfs;
pub mod config_dir;
pub mod status;
pub mod supervised;
pub mod fleet;
pub mod connect_proxy;
pub mod browser;
pub mod collector;
pub mod strict_json;
pub mod folders;
pub mod run;

pub use world_macros::test;

use std::{
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy::{
    primitives::{Address, Bytes},
    signers::local::PrivateKeySigner,
};

/// How long a test waits for what should happen soon. Nothing is asserted by it: a busy machine takes its time.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Whether each test goes through all of its cases, as `scripts/test --long` has it: else through some of
/// those that take long, one of each kind.
pub fn at_length() -> bool {
    std::env::var_os("TEST_LONG").is_some()
}

/// What the world answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Something in the world did not do what a test asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A JSON-RPC error; `data` is the revert data where the node gave any.
    #[error("{method}: {message} (code {code}, data {data:?})")]
    Rpc { method: String, code: i64, message: String, data: Option<Bytes> },
    /// A transaction of ours was mined with status 0.
    #[error("transaction {0} failed")]
    Failed(alloy::primitives::B256),
    #[error("{0}")]
    Other(String),
    #[error("{0}: {1}")]
    Io(String, io::Error),
    #[error("http: {0}")]
    Http(#[from] reqwest::Error),
    #[error("json: {0}")]
    Json(#[from] serde_json::Error),
    #[error("abi: {0}")]
    Abi(#[from] alloy::sol_types::Error),
}

impl Error {
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// The revert data of a call or transaction the contract refused.
    pub fn revert(&self) -> Option<&Bytes> {
        if let Self::Rpc { data, .. } = self { data.as_ref() } else { None }
    }
}

/// A port nobody listens on just now. Asked of the kernel and given back: another process may take
/// it before its user does, which the user then reports as "address in use".
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|e| Error::Io("bind".into(), e))?;
    Ok(listener.local_addr().map_err(|e| Error::Io("local_addr".into(), e))?.port())
}

/// Starts a server on `port`, or on a free one: if somebody else was faster, on another.
async fn on_free_port<T>(port: Option<u16>, start: impl AsyncFn(u16) -> Result<T>) -> Result<T> {
    if let Some(port) = port {
        return start(port).await;
    }
    for _ in 0..2 {
        if let Ok(started) = start(free_port()?).await {
            return Ok(started);
        }
    }
    start(free_port()?).await
}

/// The "Configuration Structure" of the seed's documentation, verbatim.
pub const DOCUMENTED_EXAMPLE: &str = include_str!("documented-example.toml");

/// Names another program to be tested.
const PROGRAM: &str = "KMS_CONNECTOR_BIN";

/// By this cargo names the program that it built to the tests that it runs.
const BUILT_PROGRAM: &str = "CARGO_BIN_EXE_kms-connector";

/// The program under test: what `KMS_CONNECTOR_BIN` names, else what cargo built for these tests.
pub fn program() -> &'static Path {
    static FOUND: LazyLock<PathBuf> = LazyLock::new(|| {
        let named = std::env::var_os(PROGRAM).or_else(|| std::env::var_os(BUILT_PROGRAM));
        let named =
            PathBuf::from(named.expect("cargo runs the tests, or KMS_CONNECTOR_BIN is set"));
        // Not every command of it runs in this directory.
        named.canonicalize().unwrap_or_else(|e| panic!("{PROGRAM}: {}: {e}", named.display()))
    });
    &FOUND
}

/// A command of [`program`], which is not to see how it was named.
pub fn connector() -> Command {
    let mut command = Command::new(program());
    command.env_remove(PROGRAM);
    command
}

/// The program `name` that `scripts/setup` installed; `<NAME>_BIN` in the environment wins.
pub fn tool(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os(format!("{}_BIN", name.to_uppercase())).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin").join(name),
        PathBuf::from,
    );
    if path.exists() {
        Ok(path)
    } else {
        Err(Error::other(format!("{} does not exist; run scripts/setup", path.display())))
    }
}

/// An HTTP client for the servers of one test. Not shared between tests: each has its own runtime,
/// and pooled connections live in the runtime that opened them.
pub fn http_client(timeout: Duration) -> Result<reqwest::Client> {
    // The second caller in a process finds the provider installed: that is what it wanted.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(reqwest::Client::builder()
        .timeout(timeout)
        .no_proxy()
        .tls_certs_only(std::iter::empty())
        .build()?)
}

/// Asks again every `pause` until `probe` has an answer or `deadline` has passed.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    pause: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            return Err(Error::other(format!("{what}: not within {deadline:?}")));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "the world has no clock of an instance")]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Random bytes: for names that must not repeat, not for secrets.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fastrand::fill(&mut bytes);
    bytes
}

/// An address nobody has the key of.
pub fn random_address() -> Address {
    random().into()
}

/// A fresh signing key.
pub fn random_key() -> PrivateKeySigner {
    PrivateKeySigner::random()
}
