//! The servers of a soak: four KMS nodes under one supervisor, and everything they talk to behind
//! something that can fail.
//!
//! ```text
//! node-0 ── ws ──┐                        node-2 ── ws, or ws of the second ─┐
//! node-1 ── http ┴ first node ┐           node-3 ── ws of the second, or http ┴ both
//!                             ├ anvil     each ── Proxy ── its KMS Core
//!                 second node ┘           all ──── Proxy ── S3
//! ```

use std::path::Path;

use world::{
    Error, Result,
    anvil::{self, AnvilOptions},
    contracts::lean_decryption_code,
    core_stub::{CoreOptions, CoreStub, CoreVersion},
    deployment::Thresholds,
    faulty_rpc::FaultyRpc,
    fleet::name,
    parties::{Parties, connector_config},
    proxy::Proxy,
    rpc::Call,
    scene::SceneOptions,
    supervised::Supervised,
};

pub const INSTANCES: usize = 4;

/// Dropped in this order: the supervisor before what it talks to.
#[derive(Debug)]
pub struct Ground {
    pub supervisor: Supervised,
    pub nodes: [FaultyRpc; 2],
    /// In front of each party's Core.
    pub cores: Vec<Proxy>,
    /// In front of S3.
    pub store: Proxy,
    pub parties: Parties,
}

impl Ground {
    /// Everything but the supervisor's process, with its data in `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        let arguments = vec![anvil::NO_OLD_STATES.to_owned()];
        let anvil = AnvilOptions { durable: false, arguments, ..AnvilOptions::default() };
        let options = SceneOptions { anvil, ..SceneOptions::default() };
        // Every node's answer is accepted, also after the third has made a consensus.
        let thresholds = Thresholds { public: 3, user: 3 };
        let mut parties = Parties::start(dir, &options, INSTANCES, thresholds).await?;
        // What the other one keeps of each request would bring the chain to a stop: see the contract.
        let code = lean_decryption_code(parties.deployment.gateway_config)?;
        let receipt = parties.deployment.chain.send(Call::create(code)).await?;
        let lean = receipt.contract_address.ok_or_else(|| Error::other("no contract"))?;
        parties.deployment.decryption = lean;
        let (chain_id, decryption) = (parties.deployment.chain_id, parties.deployment.decryption);
        let mut cores = Vec::new();
        for party in &mut parties.list {
            // A real one forgets the oldest; this one would be full.
            party.core = CoreStub::start(CoreOptions {
                signer: party.signer.clone(),
                capacity: usize::MAX,
                ..CoreOptions::new(CoreVersion::V0_13, chain_id, decryption)
            })
            .await;
            cores.push(Proxy::start(party.core.port()).await?);
        }
        let http = parties.anvil.http_url();
        let nodes = [FaultyRpc::start(&http).await?, FaultyRpc::start(&http).await?];
        let store = Proxy::start(parties.ministack.port()).await?;
        for coprocessor in &parties.deployment.stores {
            let url = coprocessor.bucket.url();
            let behind = url.replace(
                &format!("127.0.0.1:{}", parties.ministack.port()),
                &format!("127.0.0.1:{}", store.port()),
            );
            parties.deployment.set_bucket(coprocessor.tx_sender, &behind).await?;
        }
        // From where the operator is: the path of a socket must be short.
        let here = std::env::current_dir().unwrap_or_default();
        let supervisor = Supervised::new(dir.strip_prefix(&here).unwrap_or(dir))?;
        let ground = Self { supervisor, nodes, cores, store, parties };
        for index in 0..INSTANCES {
            ground.supervisor.configs.write(&name(index), &ground.config(index))?;
        }
        Ok(ground)
    }

    fn config(&self, index: usize) -> String {
        let [first, second] = &self.nodes;
        let (url, fallback) = match index {
            0 => (first.ws_url(), None),
            1 => (first.http_url(), None),
            2 => (first.ws_url(), Some(second.ws_url())),
            _ => (second.ws_url(), Some(first.http_url())),
        };
        let more = fallback
            .map_or_else(String::new, |url| format!("gateway_fallback_urls = [\"{url}\"]\n"));
        let core = format!("http://127.0.0.1:{}", self.cores[index].port());
        let wallet = &self.parties.list[index].wallet;
        connector_config(&url, &self.parties.deployment, wallet, &core, &more)
    }

    /// An error if a server has ended by itself, or the supervisor has.
    pub fn check(&mut self) -> Result<()> {
        self.parties.anvil.check()?;
        self.parties.ministack.check()?;
        self.supervisor.alive()
    }

    /// Waits until all instances run.
    pub async fn running(&self) -> Result<()> {
        let names: Vec<String> = (0..INSTANCES).map(name).collect();
        self.supervisor.until_running(&names).await.map(drop)
    }

    /// Every Core starts anew: the only way for one to forget an id that now stands for something
    /// else.
    pub async fn restart_cores(&mut self) {
        for party in &mut self.parties.list {
            party.core.restart().await;
        }
    }

    /// An instance that ended untold, or a task that panicked.
    pub fn unbroken(&self) -> Result<()> {
        let log = self.supervisor.log();
        let panicked: Vec<&str> =
            log.lines().filter(|line| line.contains("panicked")).take(5).collect();
        if panicked.is_empty() { Ok(()) } else { Err(Error::other(panicked.join("\n"))) }
    }
}
