//! Key operations that Ethereum asks for: read beside the gateway, journaled in a file of their own, and never in
//! the way of decryptions.

use std::{path::PathBuf, time::Duration};

use alloy::primitives::{B256, Bytes};
use world::{
    Error, Result,
    contracts::Variant,
    deployment::{Node, Thresholds},
    fleet::{Fleet, name},
    host::{HostChain, HostOptions},
    host_contracts,
    journal::{self, Entry},
    key_contracts::RawLog,
    key_generation::KeyGeneration,
    program,
    request::Ask,
    scene::PATIENCE,
    status::ChainStatus,
    supervised::find,
    until,
};

use super::stage::{POLL, reason_of};

/// Ethereum's id.
const ETHEREUM: u64 = 31_400;

/// One party, its gateway, and Ethereum with its contract for keys.
struct World {
    fleet: Fleet,
    ethereum: HostChain,
    keys: KeyGeneration,
}

impl World {
    /// No connector runs.
    async fn new() -> Result<Self> {
        Self::of(Variant::G13).await
    }

    /// With contracts of this generation on Ethereum.
    async fn of(variant: Variant) -> Result<Self> {
        let fleet = Fleet::new(1).await?;
        let party = &fleet.parties.list[0];
        let nodes = [Node { wallet: party.address(), signer: party.signer.address() }];
        let options = HostOptions::of(variant).chain_id(ETHEREUM);
        let options = options.block_time(Some(Duration::from_millis(250)));
        let dir = fleet.dir.path();
        let ethereum = HostChain::start(dir, options, &nodes, Thresholds::ONE).await?;
        let keys = KeyGeneration::on_ethereum(&ethereum.host).await?;
        Ok(Self { fleet, ethereum, keys })
    }

    fn config(&self) -> String {
        format!(
            "ethereum_url = \"{}\"\nethereum_chain_id = {ETHEREUM}\nethereum_starting_block = {}\n\
             ethereum_finality = \"latest\"\n{}",
            self.ethereum.anvil.ws_url(),
            self.keys.since_block,
            self.keys.config()
        )
    }

    async fn start(&mut self, config: &str) -> Result<()> {
        self.fleet.write(0, config)?;
        self.start_again().await
    }

    async fn start_again(&mut self) -> Result<()> {
        self.fleet.supervisor.start(program())?;
        self.fleet.supervisor.until_running(&[name(0)]).await.map(drop)
    }

    /// Waits until the second chain is in this state, or until there is none.
    async fn chain_is(&self, what: &str, is: impl Fn(Option<&ChainStatus>) -> bool) -> Result<()> {
        let of = |status: &world::status::Status| {
            find(status, &name(0)).is_some_and(|one| !one.changing && is(one.gauges.chains.first()))
        };
        self.fleet.supervisor.until(what, of).await.map(drop)
    }

    async fn chain_runs(&self) -> Result<()> {
        self.chain_is("the second chain running", |chain| {
            chain.is_some_and(|chain| chain.chain_id == ETHEREUM && chain.state == "running")
        })
        .await
    }

    /// Waits until the second chain waits for something of that name, for such a reason.
    async fn chain_waits(&self, on: &str, why: &str) -> Result<()> {
        self.chain_is(&format!("waiting for {on}: {why}"), |chain| {
            chain.is_some_and(|chain| {
                chain.state == "waiting"
                    && chain.on.as_deref().is_some_and(|is| is.contains(on))
                    && chain.why.as_deref().is_some_and(|is| is.contains(why))
            })
        })
        .await
    }

    /// Decryptions are answered.
    async fn decrypts(&self) -> Result<()> {
        let requests = self.fleet.request(Ask::mixed(1, 1)).await?;
        self.fleet.answered_by(&[0], &requests).await
    }

    /// An event that no version knows.
    async fn unknown_event(&self, topic: u8) -> Result<()> {
        let log = RawLog { topics: vec![B256::repeat_byte(topic)], data: Bytes::new() };
        self.keys.emit_raw(vec![log]).await.map(drop)
    }

    fn journal(&self) -> Result<PathBuf> {
        let state_dir = self.fleet.supervisor.state_dir();
        let file = journal::of_chain(&state_dir, ETHEREUM, self.fleet.wallet(0));
        file.ok_or_else(|| Error::other("the second chain has no journal"))
    }

    /// Waits until so many events are held as unknown, and there is nothing else in that journal.
    async fn held(&self, events: usize) -> Result<()> {
        let is_held = |entry: &Entry| reason_of(entry) == Some("unsupported_event");
        let seen = until("unknown events held", PATIENCE, POLL, async || {
            let entries = self.journal().and_then(|file| journal::entries(&file));
            let entries = entries.unwrap_or_default();
            Ok((entries.len() == events && entries.iter().all(is_held)).then_some(()))
        });
        let log = || world::scene::tail(&self.fleet.supervisor.log());
        seen.await.map_err(|error| Error::other(format!("{error}\n{}", log())))
    }

    /// Waits until an operator is told so.
    async fn told(&self, what: &str, is: impl AsyncFn() -> Result<bool>) -> Result<()> {
        until(what, PATIENCE, POLL * 10, async || Ok(is().await?.then_some(()))).await
    }

    /// What a command says that reads the files itself, and whether it did what it was told to.
    fn offline(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let supervisor = &self.fleet.supervisor;
        let mut command = world::connector();
        command.args(arguments).arg("--config-dir").arg(supervisor.configs.path());
        command.arg("--state-dir").arg(supervisor.state_dir());
        let output = command.output().map_err(|e| Error::Io("the command".into(), e))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn says(&self, arguments: &[&str]) -> Result<String> {
        let output = self.fleet.supervisor.client(program(), arguments).output();
        let output = output.map_err(|e| Error::Io("the command".into(), e))?;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[world::test]
async fn both_chains_are_read_and_kill_nine_loses_and_doubles_nothing() -> Result<()> {
    let mut world = World::new().await?;
    world.start(&world.config()).await?;
    world.chain_runs().await?;
    world.unknown_event(0xaa).await?;
    world.held(1).await?;
    world.decrypts().await?;
    world.fleet.supervisor.kill();
    world.unknown_event(0xbb).await?;
    world.start_again().await?;
    world.held(2).await?;
    world.chain_runs().await?;
    world.decrypts().await?;
    // An operator finds it, with its chain.
    let listed = world.says(&["requests", "--held", "--instance", "node-0"])?;
    assert!(listed.matches("unsupported_event: ").count() == 2, "{listed}");
    assert!(listed.contains(&format!("{ETHEREUM}:")), "with its chain: {listed}");
    // What is counted is counted every few seconds.
    world
        .told("the status", async || {
            let status = world.says(&["status", "node-0"])?;
            let words = ["second chain    31400: running", "2 unsupported_event on chain 31400"];
            Ok(words.iter().all(|words| status.contains(words)))
        })
        .await?;
    world
        .told("the metrics", async || {
            let metrics = world.fleet.supervisor.get("/metrics").await?.text().await;
            let metrics = metrics.map_err(|error| Error::other(error.to_string()))?;
            let chain = "instance=\"node-0\",chain=\"31400\"";
            let running = format!("kms_connector_chain_running{{{chain}}} 1");
            let held = "reason=\"unsupported_event\"";
            let held = format!("kms_connector_requests_held{{{chain},{held}}} 2");
            Ok(metrics.contains(&running) && metrics.contains(&held))
        })
        .await?;
    Ok(())
}

#[world::test]
async fn ethereum_may_be_away_at_the_start_and_later() -> Result<()> {
    let mut world = World::new().await?;
    world.ethereum.anvil.stop().await?;
    world.start(&world.config()).await?;
    world.decrypts().await?;
    world.chain_waits("the Ethereum node at", "").await?;
    world.ethereum.anvil.start_again().await?;
    world.chain_runs().await?;
    world.unknown_event(0xaa).await?;
    world.held(1).await?;
    world.ethereum.anvil.stop().await?;
    world.chain_waits("the Ethereum node at", "").await?;
    world.decrypts().await?;
    world.ethereum.anvil.start_again().await?;
    world.chain_runs().await?;
    world.unknown_event(0xbb).await?;
    world.held(2).await?;
    world.fleet.unbroken()?;
    // What it holds is listed while it is away, and while nothing runs.
    world.fleet.supervisor.kill();
    world.ethereum.anvil.stop().await?;
    world.start_again().await?;
    world.chain_waits("the Ethereum node at", "").await?;
    let listed = world.says(&["requests", "--held", "--instance", "node-0"])?;
    assert!(listed.matches("unsupported_event: ").count() == 2, "{listed}");
    assert_eq!(world.fleet.supervisor.stop().await?, Some(0));
    let state_dir = world.fleet.supervisor.state_dir();
    let state_dir = state_dir.to_str().ok_or_else(|| Error::other("a path"))?;
    let arguments = ["requests", "--held", "--instance", "node-0", "--state-dir", state_dir];
    let listed = world.says(&arguments)?;
    assert!(listed.matches("unsupported_event: ").count() == 2, "{listed}");
    Ok(())
}

/// What is wrong is told by its key, and a file that is corrected is applied.
#[world::test]
async fn a_wrong_chain_or_address_holds_up_key_operations_alone() -> Result<()> {
    let mut world = World::new().await?;
    let right = world.config();
    let wrong_id = right.replace(&format!("_id = {ETHEREUM}"), "_id = 31401");
    world.start(&wrong_id).await?;
    world.chain_waits("the Ethereum node at", "ethereum_chain_id").await?;
    world.decrypts().await?;
    let empty = format!("{:#x}", alloy::primitives::Address::repeat_byte(0x77));
    world.fleet.write(0, &right.replace(&world.keys.address.to_string(), &empty))?;
    world.chain_waits("the KMSGeneration contract", "kms_generation_address").await?;
    world.decrypts().await?;
    world.fleet.write(0, &right)?;
    world.chain_runs().await?;
    world.unknown_event(0xaa).await?;
    world.held(1).await?;
    // Without the keys there is no second chain.
    world.fleet.write(0, "")?;
    world.chain_is("no second chain", |chain| chain.is_none()).await?;
    world.decrypts().await?;
    world.fleet.write(0, &right)?;
    world.chain_runs().await?;
    world.held(1).await?;
    world.fleet.unbroken()
}

/// What `ProtocolConfig` asked for where reading had not begun is found again, as of every contract.
#[world::test]
async fn what_protocol_config_asked_for_before_is_found_by_backfill_and_rebuild() -> Result<()> {
    let mut world = World::of(Variant::G14).await?;
    let host = &world.ethereum.host;
    let (at, from) = (host.protocol_config, host.chain.block_number().await?);
    let log = host_contracts::RawLog { topics: vec![B256::repeat_byte(0xcc)], data: Bytes::new() };
    let asked = host.emit_raw(vec![log]).await?.block_number.to::<u64>();
    let began = format!("ethereum_starting_block = {}", asked + 1);
    let config = world.config();
    let given = format!("ethereum_starting_block = {}", world.keys.since_block);
    let config =
        format!("{}\nprotocol_config_address = \"{at}\"\n", config.replace(&given, &began));
    world.start(&config).await?;
    world.chain_runs().await?;
    // Both contracts are told with how far they are read.
    let both = format!("ProtocolConfig at {at}, read up to");
    world
        .told("both positions", async || {
            let status = world.says(&["status", "node-0"])?;
            Ok(status.contains(&both) && status.matches("read up to").count() >= 3)
        })
        .await?;
    let (chain, from) = (ETHEREUM.to_string(), from.to_string());
    let of_chain = ["--instance", "node-0", "--chain", &chain, "--from", &from];
    let told = world.says(&[&["backfill"], &of_chain[..]].concat())?;
    assert!(told.contains("1 of them new"), "{told}");
    world.held(1).await?;
    // The wallet's part, as the contract tells it.
    let (_, checked) = world.offline(&["check", "--instance", "node-0"])?;
    assert!(checked.contains("is a transaction sender of the current one"), "{checked}");
    // The journal is lost.
    assert_eq!(world.fleet.supervisor.stop().await?, Some(0));
    let journal = world.journal()?;
    std::fs::remove_file(&journal)
        .map_err(|error| Error::Io(journal.display().to_string(), error))?;
    let (is_done, told) = world.offline(&[&["journal", "rebuild"], &of_chain[..]].concat())?;
    assert!(is_done, "{told}");
    world.start_again().await?;
    world.chain_runs().await?;
    world.held(1).await
}
