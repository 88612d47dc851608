//! The Gateway chain: a real EVM node with WebSocket and HTTP on one port.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use alloy::primitives::{Address, U256, address};
use rustix::process::Signal;

use super::{PATIENCE, Result, on_free_port, process::Process, rpc::Chain, tool, unix_seconds};

/// The first of the well-known development accounts, unlocked and rich.
pub const ADMIN: Address = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
/// A block that was begun is done by then.
const SETTLE: Duration = Duration::from_millis(150);

/// How the node runs.
#[derive(Clone, Debug)]
pub struct AnvilOptions {
    /// `None` makes a block per transaction, besides those of [`Chain::mine`].
    pub block_time: Option<Duration>,
    pub chain_id: u64,
    /// `None` takes a free one.
    pub port: Option<u16>,
    /// The state outlives the node. It is also written every minute, for which a node with a long
    /// history stands still.
    pub durable: bool,
    /// Further command line arguments.
    pub arguments: Vec<String>,
}

impl Default for AnvilOptions {
    fn default() -> Self {
        Self {
            block_time: Some(Duration::from_millis(250)),
            chain_id: 54_321,
            port: None,
            durable: true,
            arguments: Vec::new(),
        }
    }
}

/// A node and its folder. Dropping it kills the node.
#[derive(Debug)]
pub struct Anvil {
    options: AnvilOptions,
    dir: PathBuf,
    port: u16,
    /// When the chain began, in seconds, where it began here. A node that is started again makes a
    /// block 0 of its own before it takes up its state, and may keep either: they have to be the same.
    began: Option<u64>,
    chain: Chain,
    process: Option<Process>,
}

const STATE: &str = "anvil-state.json";
/// An argument: the states of earlier blocks are not kept. Each would be a copy of all there is, and those of
/// half an hour fit into no memory. What a block holds and what was logged in it stays.
pub const NO_OLD_STATES: &str = "--prune-history";

impl Anvil {
    /// Starts a node whose state, if it is ever stopped, stands in `dir`. A state found there is
    /// taken up: the same chain goes on.
    pub async fn start(dir: &Path, options: AnvilOptions) -> Result<Self> {
        on_free_port(options.port, async |port| {
            let chain = Chain::new(format!("http://127.0.0.1:{port}"), ADMIN)?;
            let (options, dir) = (options.clone(), PathBuf::from(dir));
            let began = (!dir.join(STATE).exists()).then(unix_seconds);
            let mut anvil = Self { options, dir, port, began, chain, process: None };
            anvil.start_again().await?;
            Ok(anvil)
        })
        .await
    }

    /// Starts a stopped or killed node on its old port with the state of its last [`Self::stop`].
    pub async fn start_again(&mut self) -> Result<()> {
        let mut command = Command::new(tool("anvil")?);
        command
            .args(["--host", "127.0.0.1", "--quiet", "--auto-impersonate"])
            .args(["--hardfork", "prague"])
            // States of earlier blocks that are not in memory: they go with the folder. In the home folder,
            // where they are otherwise, those of killed nodes stay for ever.
            .arg("--cache-path")
            .arg(self.dir.join("anvil-cache"))
            // Batches of test requests are larger than what one block usually takes.
            .args(["--gas-limit", "1000000000"])
            .args(["--port", &self.port.to_string()])
            .args(["--chain-id", &self.options.chain_id.to_string()]);
        if self.options.durable {
            let state = self.dir.join(STATE);
            command.arg("--preserve-historical-states").arg("--state").arg(state);
            if let Some(began) = self.began {
                command.args(["--timestamp", &began.to_string()]);
            }
        }
        if let Some(block_time) = self.options.block_time {
            command.args(["--block-time", &block_time.as_secs_f64().to_string()]);
            command.args(["--order", "fifo"]);
        }
        command.args(&self.options.arguments);
        let mut process = Process::spawn("anvil", &self.dir, command)?;
        process.ready(PATIENCE, async || self.chain.chain_id().await.is_ok()).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops the node; it writes its state first. Transactions that were not mined are lost.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            if self.options.block_time.is_some() {
                // A node that is told to end while it makes a block may write the block's effects
                // and not the block: a chain that never was.
                let _already_gone = self.chain.set_block_time(0).await;
                tokio::time::sleep(SETTLE).await;
            }
            process.stop(Signal::INT, PATIENCE).await?;
        }
        Ok(())
    }

    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Kills the node. What happened since its last [`Self::stop`] never happened.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// An error if the server has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    pub fn chain_id(&self) -> u64 {
        self.options.chain_id
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Gives `account` a thousand ether.
    pub async fn fund(&self, account: Address) -> Result<()> {
        let wei = U256::from(1000) * U256::from(10).pow(U256::from(18));
        self.chain.set_balance(account, wei).await
    }
}
