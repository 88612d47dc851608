//! A whole scene: chain, contracts, S3, one KMS node with its Core, and the connector under test as
//! a process of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use alloy::{primitives::U256, signers::local::PrivateKeySigner};
use rustix::process::Signal;

use super::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    contracts::Variant,
    core_stub::{CoreStub, CoreVersion},
    deployment::{Deployment, Thresholds},
    host::{HostChain, HostOptions},
    journal,
    key_generation::KeyGeneration,
    ministack::Ministack,
    parties::{Parties, Party, chains_config, connector_config},
    process::Process,
    request::Issued,
};

pub use super::PATIENCE;

/// What the scene is made of.
#[derive(Clone, Debug)]
pub struct SceneOptions {
    pub variant: Variant,
    pub core: CoreVersion,
    pub anvil: AnvilOptions,
    pub buckets: usize,
    pub registered: bool,
    /// The last so many parties stand in no context yet.
    pub newcomers: usize,
    pub funded: bool,
    /// The host chains; the first also has the KMS contexts.
    pub hosts: Vec<HostOptions>,
    /// Whether there is a contract for keys, on the gateway or from G13 on the first of `hosts`, and connectors
    /// are told of it.
    pub keys: bool,
    /// Certificate chain and key of the Core in PEM: it then serves TLS.
    pub core_tls: Option<(String, String)>,
}

impl Default for SceneOptions {
    fn default() -> Self {
        Self::of(Variant::G10)
    }
}

impl SceneOptions {
    /// The variant with the Core that upstream ran it with.
    pub fn of(variant: Variant) -> Self {
        let core = match variant {
            Variant::G7 => CoreVersion::V0_11_0_21,
            Variant::G8 => CoreVersion::V0_11_0_26,
            Variant::V0_9_0 | Variant::V0_9_7 => CoreVersion::V0_12,
            Variant::G10 => CoreVersion::V0_13,
            Variant::G12 => CoreVersion::V0_13_10,
            Variant::G13 => CoreVersion::V0_13_20,
            Variant::G14 => CoreVersion::V0_14,
            Variant::Head => CoreVersion::Head,
        };
        Self {
            variant,
            core,
            anvil: AnvilOptions::default(),
            buckets: 1,
            registered: true,
            newcomers: 0,
            funded: true,
            hosts: Vec::new(),
            keys: false,
            core_tls: None,
        }
    }
}

/// Everything around the connector, and the connector.
#[derive(Debug)]
pub struct Scene {
    // Dropped in this order: the connector before what it talks to, the folder last.
    pub connector: Option<Process>,
    pub core: CoreStub,
    pub deployment: Deployment,
    pub keys: Option<KeyGeneration>,
    pub anvil: Anvil,
    pub hosts: Vec<HostChain>,
    pub ministack: Ministack,
    pub wallet: PrivateKeySigner,
    pub dir: tempfile::TempDir,
}

impl Scene {
    /// Brings everything up but the connector.
    pub async fn new(options: SceneOptions) -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
        let parties = Parties::start(dir.path(), &options, 1, Thresholds::ONE).await?;
        let Parties { mut list, deployment, keys, anvil, hosts, ministack } = parties;
        let Party { wallet, core, .. } = list.remove(0);
        Ok(Self { connector: None, core, deployment, keys, anvil, hosts, ministack, wallet, dir })
    }

    /// The configuration of the connector: keys it needs here, then `more` top-level lines.
    pub fn config(&self, more: &str) -> String {
        let (wallet, core) = (&self.wallet, &self.core.endpoint());
        let more = format!("{more}\n{}", chains_config(self.keys.as_ref(), &self.hosts));
        connector_config(&self.anvil.ws_url(), &self.deployment, wallet, core, &more)
    }

    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("connector.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Starts `program` with [`Self::config`].
    pub fn start(&mut self, program: &Path) -> Result<()> {
        self.start_with(program, &self.config(""))
    }

    /// Starts `program` with this configuration text.
    pub fn start_with(&mut self, program: &Path, config: &str) -> Result<()> {
        std::fs::write(self.config_file(), config)
            .map_err(|e| Error::Io("writing the configuration".into(), e))?;
        self.start_again(program)
    }

    /// Starts `program` with the configuration it had.
    pub fn start_again(&mut self, program: &Path) -> Result<()> {
        let mut command = Command::new(program);
        command.arg("start").arg("-c").arg(self.config_file());
        self.spawn(command)
    }

    /// Starts a connector by this command in the scene's state directory, away from the
    /// environment of whoever runs the tests.
    pub fn spawn(&mut self, mut command: Command) -> Result<()> {
        // Key files would be refused if others could read them; the config holds a key too.
        self.connector = None;
        command
            .env("KMS_CONNECTOR_STATE_DIR", self.state_dir())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove(super::PROGRAM);
        if !command.get_envs().any(|(name, _)| name == "KMS_CONNECTOR_LISTEN") {
            command.env_remove("KMS_CONNECTOR_LISTEN");
        }
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
            if !command.get_envs().any(|(given, _)| given == name) {
                command.env_remove(name);
            }
        }
        if !command.get_envs().any(|(name, _)| name == "RUST_LOG") {
            command.env_remove("RUST_LOG");
        }
        self.connector = Some(Process::spawn("connector", self.dir.path(), command)?);
        Ok(())
    }

    /// kill -9 of the connector.
    pub fn kill(&mut self) {
        self.connector = None;
    }

    /// SIGTERM, and the end of the drain. Answers the exit code.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        let Some(connector) = &mut self.connector else { return Ok(None) };
        let status = connector.stop(Signal::TERM, Duration::from_secs(30)).await?;
        Ok(status.code())
    }

    /// What all connectors of this scene logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("connector.log")).unwrap_or_default()
    }

    /// Waits until the log says `text`: for tests that need to know where the connector is, not
    /// for what it should do.
    pub async fn logged(&self, text: &str) -> Result<()> {
        super::until(text, PATIENCE, Duration::from_millis(50), async || {
            Ok(self.log().contains(text).then_some(()))
        })
        .await
        .map_err(|error| Error::other(format!("{error}\n{}", tail(&self.log()))))
    }

    /// Waits for the answers of `requests`, and checks that each was accepted exactly once and is
    /// what the ciphertexts decrypt to.
    pub async fn answered(&self, requests: &[Issued]) -> Result<()> {
        self.answered_within(requests, PATIENCE).await
    }

    pub async fn answered_within(&self, requests: &[Issued], deadline: Duration) -> Result<()> {
        let ids: Vec<U256> = requests.iter().map(|request| request.id).collect();
        let answers = self
            .deployment
            .wait_answered(ids, deadline)
            .await
            .map_err(|error| Error::other(format!("{error}\n{}", tail(&self.log()))))?;
        for request in requests {
            let mine = answers.get(&request.id).map(Vec::as_slice).unwrap_or_default();
            let [answer] = mine else {
                return Err(Error::other(format!("{:#x} has {} answers", request.id, mine.len())));
            };
            request
                .check(&answer.payload)
                .map_err(|what| Error::other(format!("{:#x}: {what}", request.id)))?;
        }
        Ok(())
    }

    /// The journal's file, once there is one.
    pub fn journal(&self) -> Option<PathBuf> {
        journal::file(&self.state_dir())
    }

    /// Reads the journal as an operator would, while the connector runs.
    pub fn query<T>(
        &self,
        sql: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let file = self.journal().ok_or_else(|| Error::other("no journal yet"))?;
        journal::query(&file, sql, read)
    }
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
