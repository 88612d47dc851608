//! A ceremony of four parties on Ethereum while the connector is killed, Cores restart, the first node is
//! away, and blocks that are not final yet are replaced: each party votes once.

use std::time::Duration;

use alloy::{
    primitives::{B256, U256},
    sol_types::SolEvent,
};
use serde_json::Value;
use world::{
    Error, Result,
    contracts::Variant,
    fleet::name,
    host::HostOptions,
    key_contracts::KMSGeneration,
    key_generation::KeyRequest,
    program,
    proxy::{Proxy, Weather},
    rpc::Chain,
    scene::{PATIENCE, SceneOptions, tail},
    until,
};

use super::{
    ceremony::{ALL, decrypts, in_force},
    stage::{POLL, SOON_FINAL, Stage},
};

/// More than any reorganisation here is deep.
const CONFIRMATIONS: u64 = 12;

/// How bad it gets.
struct Storm {
    variant: Variant,
    /// Of the connector: the first half while the CRS is made, with a restart of a Core after each.
    kills: usize,
    more: &'static str,
}

/// Four parties whose Ethereum node is reached through `relay`, and a second one directly.
struct Sea {
    stage: Stage,
    relay: Proxy,
    rng: fastrand::Rng,
}

impl Sea {
    async fn of(storm: &Storm) -> Result<Self> {
        let seed = std::env::var_os("CRASH_SEED").and_then(|seed| seed.to_str()?.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("CRASH_SEED={seed}");
        let mut stage = Stage::set(SceneOptions::of(storm.variant)).await?;
        let node = &stage.fleet.parties.hosts[0].anvil;
        let (direct, relay) = (node.ws_url(), Proxy::start(node.port()).await?);
        for party in ALL {
            let config = stage.fleet.config(party, storm.more);
            let nodes = format!(
                "ethereum_url = \"ws://127.0.0.1:{}\"\nethereum_fallback_urls = [\"{direct}\"]",
                relay.port()
            );
            let config = config
                .replace(&format!("ethereum_url = \"{direct}\""), &nodes)
                .replace("_confirmations = 3", &format!("_confirmations = {CONFIRMATIONS}"));
            stage.fleet.supervisor.configs.write(&name(party), &config)?;
            // Long enough for a kill to find it at work.
            stage.core(party).change(|core| core.key_latency = Duration::from_millis(700));
        }
        stage.fleet.supervisor.start(program())?;
        stage.fleet.supervisor.until_running(&ALL.map(name)).await?;
        Ok(Self { stage, relay, rng: fastrand::Rng::with_seed(seed) })
    }

    fn chain(&self) -> &Chain {
        &self.stage.keys.chain
    }

    /// At a random moment.
    async fn kill_and_start(&mut self) -> Result<()> {
        let moment = Duration::from_millis(self.rng.u64(100..1500));
        tokio::time::sleep(moment).await;
        let supervisor = &mut self.stage.fleet.supervisor;
        supervisor.alive()?;
        supervisor.kill();
        supervisor.start(program())
    }

    /// What a Core makes is lost with its process, but for a CRS that is stored.
    async fn restart_a_core(&mut self) {
        let party = self.rng.usize(..ALL.len());
        self.stage.fleet.parties.list[party].core.restart().await;
    }

    /// The request, which the journal has by now, stands in another block then.
    async fn move_request(&self, request: &KeyRequest) -> Result<()> {
        let (block, transaction) = self.event_of(request).await?;
        self.stage.row("the request", |entry| entry.id == request.id).await?;
        until("a block on top", PATIENCE, POLL, async || {
            Ok((self.chain().block_number().await? > block).then_some(()))
        })
        .await?;
        let again: Value = self.chain().transaction_again(transaction).await?;
        let depth = self.chain().block_number().await? + 1 - block;
        self.chain().reorg_with(depth, &[(again, 1)]).await?;
        assert_ne!(self.event_of(request).await?.0, block, "it has moved");
        Ok(())
    }

    /// Some parties have voted for a preparation, and the blocks of that are replaced by empty ones. What the node
    /// that is away said last of finality counts for a minute.
    async fn drop_votes(&self, request: &KeyRequest) -> Result<()> {
        let keys = &self.stage.keys;
        until("votes", PATIENCE * 2, POLL, async || {
            Ok((keys.answers(request.id).await?.len() >= 2).then_some(()))
        })
        .await
        .map_err(|error| self.with_log(&error))?;
        let topic = KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH;
        let (block, _) = self.first_log(request, topic).await?;
        let depth = self.chain().block_number().await? + 1 - block;
        assert!(depth < CONFIRMATIONS, "{depth} is not deeper than what is waited for");
        self.chain().reorg(depth).await?;
        println!("{depth} blocks replaced");
        Ok(())
    }

    /// Block and transaction of the event of a request.
    async fn event_of(&self, request: &KeyRequest) -> Result<(u64, B256)> {
        self.first_log(request, self.stage.keys.topic_of(request)).await
    }

    async fn first_log(&self, request: &KeyRequest, topic: B256) -> Result<(u64, B256)> {
        let keys = &self.stage.keys;
        let logs = self.chain().logs(keys.address, keys.since_block, topic).await?;
        let id = request.id.to_be_bytes::<32>();
        let mine = logs.into_iter().find(|log| log.data.starts_with(&id));
        let log = mine.ok_or_else(|| Error::other(format!("no event of {:#x}", request.id)))?;
        Ok((log.block_number.to(), log.transaction_hash))
    }

    fn with_log(&self, error: &Error) -> Error {
        Error::other(format!("{error}\n{}", tail(&self.stage.fleet.supervisor.log())))
    }
}

async fn ceremony_in(storm: Storm) -> Result<()> {
    let mut sea = Sea::of(&storm).await?;
    let crs = sea.stage.keys.crsgen().await?;
    sea.move_request(&crs).await?;
    for _ in 0..storm.kills / 2 {
        sea.kill_and_start().await?;
        sea.restart_a_core().await;
    }
    sea.stage.answered(&ALL, &[&crs]).await?;

    // The first node is away from here to the end.
    sea.relay.set(Weather::Cut);
    let preprocessing = sea.stage.keys.keygen().await?;
    sea.drop_votes(&preprocessing).await?;
    for _ in storm.kills / 2..storm.kills {
        sea.kill_and_start().await?;
    }
    let key = preprocessing.key();
    sea.stage.answered(&ALL, &[&preprocessing, &key]).await?;
    sea.relay.set(Weather::Clear);

    let ids: Vec<U256> = [&preprocessing, &key, &crs].map(|request| request.id).to_vec();
    let Sea { stage, .. } = &sea;
    stage.fleet.audit_keys(&ALL, &ids).await.map_err(|error| sea.with_log(&error))?;
    for party in ALL {
        let sent = stage.keys.chain.nonce(stage.fleet.wallet(party)).await?;
        let warnings = stage.warnings();
        assert_eq!(sent, 3, "party {party} sends each answer and nothing else\n{warnings}");
    }
    let requests = [preprocessing, key.clone(), crs];
    in_force(stage, &requests).await?;
    decrypts(stage, &key).await?;
    stage.fleet.unbroken()
}

#[world::test]
async fn kills_restarts_a_lost_node_and_reorganisations_double_no_vote_on_ethereum() -> Result<()> {
    let variant = Variant::G14;
    ceremony_in(Storm { variant, kills: 2, more: SOON_FINAL }).await
}

#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_ten_kills_double_no_vote_on_ethereum_of_g13() -> Result<()> {
    ceremony_in(Storm { variant: Variant::G13, kills: 10, more: "" }).await
}

#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_ten_kills_double_no_vote_on_ethereum_of_g14() -> Result<()> {
    ceremony_in(Storm { variant: Variant::G14, kills: 10, more: "" }).await
}

#[world::test]
#[ignore = "long: scripts/test --long"]
async fn long_ten_kills_double_no_vote_on_ethereum_of_head() -> Result<()> {
    let more = "key_representation = \"compressed\"";
    ceremony_in(Storm { variant: Variant::Head, kills: 10, more }).await
}

/// Blocks that are not final are replaced, and the number of the request is given to another one: that was
/// not asked for, and the other one is answered.
#[world::test]
async fn a_request_of_a_block_that_is_not_final_is_not_asked_for() -> Result<()> {
    let variant = Variant::G14;
    let mut host = HostOptions::of(variant).block_time(Some(Duration::from_millis(250)));
    // A block is final once 64 others stand on it.
    host.anvil.arguments = vec!["--slots-in-an-epoch".into(), "32".into()];
    let options = SceneOptions { hosts: vec![host], ..SceneOptions::of(variant) };
    let mut stage = Stage::set(options).await?;
    stage.fleet.write(0, "")?;
    stage.fleet.supervisor.start(program())?;
    stage.fleet.supervisor.until_running(&[name(0)]).await?;
    let chain = stage.keys.chain.clone();
    let before = chain.block_number().await?;
    let first = stage.keys.crsgen().await?;
    stage.row("it is in the journal", |entry| entry.id == first.id).await?;
    chain.reorg(chain.block_number().await? - before).await?;
    let second = stage.keys.crsgen_of(U256::from(4096)).await?;
    assert_eq!(second.id, first.id, "the same number");
    stage
        .row("both are in the journal", |entry| entry.block > before && entry.id == second.id)
        .await?;
    assert_eq!(stage.core(0).key_asks(), []);
    chain.mine(70).await?;
    stage.answered(&[0], &[&second]).await?;
    stage.settled(first.id, "orphaned").await?;
    stage.settled(second.id, "accepted").await?;
    let asks: Vec<_> = stage.core(0).key_asks().into_iter().map(|ask| ask.max_bits).collect();
    assert_eq!(asks, [Some(4096)]);
    Ok(())
}
