//! A whole connector in a simulated world: one seed, one story, the same at each run.
//!
//! ```text
//! instance::run               the product, as its supervisor runs it
//! ──────────────────────────────────────
//! rpc    hosts    core    store    machine    its edges (below)
//! ──────────────────────────────────────
//! chain, host chain, catalogue, dice, trace   the world
//! ```
//!
//! Current-thread runtime, paused clock, one random generator. A seed draws a plan: which faults happen
//! how often. During the storm the process dies at any await and is started again from its journal,
//! nodes lie, the chain is reorganised, the Core forgets, the disk fails. Then the faults end and an
//! oracle judges: every request on the chain has one outcome, the chain has one answer to each, no
//! nonce is missing, a fresh request gets through, no task is left. It sees what an operator sees: the
//! instance's reports, its metrics, its journal.
//!
//! The edges are as low as possible without a socket, a thread or the machine's clock, so that the
//! simulation covers as much of the product as possible:
//!
//! - the nodes: JSON-RPC messages over a replacement of HTTP ([`Endpoint::over`]). Connections, the
//!   choice between nodes, failures, batches and the fields of responses are simulated;
//! - the Core: the function under the generated client ([`Transport`]). Messages, deadlines, the table
//!   of statuses and the signature check are the real ones;
//! - the buckets: the single GET of the downloads ([`BucketClient`]);
//! - the journal: the real one, on a real file; only its blocking work runs in place ([`Machine`]).
//!   What it noted and had not committed dies with the process, as it does outside. So no journal model
//!   is needed that would have to be proved right first.
//!
//! There are one or two endpoints, each with machines behind it. What they answer wrongly is in `lies`.
//! The gateway's contracts are of one generation or are upgraded from one to the next. From G12 on one or
//! two host chains with nodes of their own grant, deny, and are reorganised (`hosts`); what the Core is asked
//! is compared with them at once (`grants`). KMS contexts follow one another and are destroyed (`contexts`).
//!
//! In a third of the stories `KMSGeneration` asks for key operations (`keys`): on the gateway, or on Ethereum
//! (`ethereum`), a second chain of the same make with a journal and a lane of its own.
//!
//! Not simulated: KMS contexts and epochs that `ProtocolConfig` asks the Core for, an earlier wallet, observing
//! instances, subscriptions, nodes of other chains, HTTP/2 and sockets. They have tests of their own.
//!
//! [`Endpoint::over`]: crate::chain::provider::endpoint::Endpoint::over

mod asks;
mod chain;
mod configuration;
mod contexts;
mod contracts;
mod core;
mod deployment;
mod grants;
mod hosts;
mod keys;
mod lies;
mod disturbances;
mod ethereum;
mod oracle;
mod plan;
mod requests;
mod rpc;
mod store;
mod tests;
mod world;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use prometheus::proto::{Metric, MetricFamily};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    deployment::CHAIN_ID,
    ethereum::{Side, blocks},
    plan::Plan,
    world::{Life, World, WorldState},
};
use super::{Edges, EndedInstance, Exit, Failure, JournalTenure, Supervision, run};
use crate::{
    admin::status::Reporter,
    chain::{provider::ArbitrumProvider, wallet::Wallet},
    config::Config,
    dice::Dice,
    domain::{Address, HoldReason},
    flow::{ciphertexts::BucketClient, kms_core::Transport},
    machine::{CommitFate, Machine, MachineSimulator},
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
};

/// The instance's name.
const NAME: &str = "one";
/// The wallet's key.
const KEY: [u8; 32] = [7; 32];
/// How long a process may take to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a life must go on after the storm to count as the last one: earlier faults have shown their
/// effects by then.
const CALM_AFTER: Duration = Duration::from_secs(10);
/// Reasons that must not occur: wallet and Core of this world are registered correctly.
const BLAMES_THE_OPERATOR: [HoldReason; 5] = [
    HoldReason::WalletNotRegistered,
    HoldReason::SignerNotRegistered,
    HoldReason::WalletCoreMismatch,
    HoldReason::HostChainNotConfigured,
    HoldReason::EthereumNotConfigured,
];

/// What outlives a process.
struct Setup<'a> {
    state_dir: &'a Path,
    config: Arc<Config>,
    wallet: Address,
    world: World,
}

/// One life of the process, as its starter holds it.
struct Running<'a> {
    home: &'a Setup<'a>,
    instance: JoinSet<EndedInstance>,
    reporter: Reporter,
    stop: CancellationToken,
    abort: CancellationToken,
}

/// How a life went on.
enum LifeEnd<'a> {
    /// It died, failed or stopped; the next life begins with what this one left.
    Over(Option<Box<JournalTenure>>),
    /// The storm is over and the process lives.
    Calm(Running<'a>),
}

/// The result of a seed.
#[derive(Debug)]
struct SeedResult {
    violations: Vec<String>,
    trace: String,
    /// How often each kind of wrong answer was given to the connector.
    fired: BTreeMap<&'static str, u64>,
}

/// Plays one seed from beginning to end.
fn play(seed: u64, plan: &Plan) -> SeedResult {
    let threads = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let begun_threads = threads.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_start(move || {
            begun_threads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let state_dir = tempfile::TempDir::new().unwrap();
    let mut told = runtime.block_on(run_story(seed, plan, state_dir.path()));
    let left = runtime.metrics().num_alive_tasks();
    if left > 0 {
        told.violations.push(format!("{left} tasks are left"));
    }
    let threads = threads.load(std::sync::atomic::Ordering::Relaxed);
    if threads > 0 {
        told.violations.push(format!("{threads} threads were made"));
    }
    told
}

async fn run_story(seed: u64, plan: &Plan, state_dir: &Path) -> SeedResult {
    let wallet = Wallet::from_private_key(&KEY).unwrap().address();
    let world = World::new(WorldState::new(plan, wallet, seed));
    world.say(format_args!("{plan:?}"));
    world.state().history();
    let config = Arc::new(configuration::config(plan));
    let home = Setup { state_dir, config, wallet, world: world.clone() };
    let mut nature = JoinSet::new();
    nature.spawn(disturbances::mine_blocks(world.clone()));
    nature.spawn(blocks::mine_blocks(world.clone()));
    for chain in 0..plan.hosts.chains {
        nature.spawn(disturbances::mine_host_blocks(world.clone(), chain));
    }
    let mut estate = None;
    let running = loop {
        match home.one_life(estate.take()).await {
            LifeEnd::Over(left) => estate = home.pause(left.map(|left| *left)).await,
            LifeEnd::Calm(running) => break running,
        }
    };
    world.say(format_args!("calm"));
    world.state().heal();
    oracle::verify(&world, &running).await;
    drop(running.stop(&CancellationToken::new()).await);
    nature.shutdown().await;
    let (violations, fired) = {
        let state = world.state();
        (state.violations.clone(), state.fired.clone())
    };
    SeedResult { violations, trace: world.trace(), fired }
}

/// The machine of one life.
struct SimulatedMachine(Life);

impl MachineSimulator for SimulatedMachine {
    fn before_work(&self) -> BoxFuture<'static, ()> {
        let life = self.0.clone();
        Box::pin(async move { life.takes(4).await })
    }

    fn after_work(&self) -> BoxFuture<'static, ()> {
        let life = self.0.clone();
        Box::pin(async move { life.death_point().await })
    }

    fn commit_fate(&self) -> CommitFate {
        let world = &self.0.world;
        let fate = {
            let mut state = world.state();
            let rate = state.plan.faults.disk;
            if !state.fault(rate) {
                return CommitFate::Stored;
            }
            if state.dice.bool() {
                CommitFate::NotStored
            } else {
                CommitFate::StoredButReportedFailed
            }
        };
        world.say(format_args!("disk: {fate:?}"));
        fate
    }
}

impl Setup<'_> {
    /// Between two lives. A restart within the process continues with the journal that was left;
    /// another process opens it anew.
    async fn pause(&self, left: Option<JournalTenure>) -> Option<JournalTenure> {
        sleep(Duration::from_millis(500)).await;
        let (loses, rekeys, stays, seen) = {
            let mut state = self.world.state();
            let faults = state.plan.faults;
            let loses = !state.lost && state.fault(faults.journal_lost);
            let rekeys = loses && state.dice.u64(..1000) < faults.signer_changed;
            let stays = state.dice.bool();
            let seen =
                |state: &mut WorldState| state.chain.height() + disturbances::MAX_LAG_BLOCKS + 2;
            let sides = state.sides();
            let seen: Vec<_> = sides.into_iter().map(|side| (side, state.at(side, seen))).collect();
            (loses, rekeys, stays, seen)
        };
        if !loses {
            return left.filter(|_| stays);
        }
        drop(left);
        self.world.say(format_args!("the journal is lost; another key: {rekeys}"));
        for file in std::fs::read_dir(self.state_dir).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        {
            let mut state = self.world.state();
            state.lost = true;
            state.record_fault("journal");
            if rekeys {
                state.core.change_key();
                let signer = state.core.address();
                for side in state.sides() {
                    state.at(side, |state| state.chain.register(signer));
                }
                state.record_fault("signing key");
            }
        }
        // Restoring a backup takes time: no node is so far behind.
        for (side, seen) in seen {
            while self.world.state().at(side, |state| state.chain.height()) < seen {
                sleep(Duration::from_secs(1)).await;
            }
        }
        None
    }

    /// A process from its start to its end, or to the end of the storm.
    async fn one_life(&self, estate: Option<JournalTenure>) -> LifeEnd<'_> {
        let life = Life::new(self.world.clone());
        self.world.say(format_args!("the process starts"));
        let mut running = self.start(&life, estate);
        let mut calm_since = None;
        loop {
            tokio::select! {
                biased;
                () = life.died.cancelled() => {
                    running.die().await;
                    return LifeEnd::Over(None);
                }
                Some(ended) = running.instance.join_next() => {
                    return LifeEnd::Over(running.ended(ended, false).map(Box::new));
                }
                () = sleep(Duration::from_secs(1)) => {
                    let stops = {
                        let mut state = self.world.state();
                        let rate = state.plan.faults.stop;
                        if !state.storm {
                            calm_since.get_or_insert_with(Instant::now);
                        }
                        state.fault(rate)
                    };
                    if calm_since.is_some_and(|since| since.elapsed() >= CALM_AFTER) {
                        return LifeEnd::Calm(running);
                    }
                    if stops {
                        return LifeEnd::Over(running.stop(&life.died).await.map(Box::new));
                    }
                }
            }
        }
    }

    /// Starts the instance as a supervisor does.
    fn start(&self, life: &Life, estate: Option<JournalTenure>) -> Running<'_> {
        let (reporter, abort) = (Reporter::new(Metrics::new()), CancellationToken::new());
        let stop = abort.child_token();
        let supervision = Supervision {
            name: NAME.to_owned(),
            state_dir: self.state_dir.to_owned(),
            reporter: reporter.clone(),
            heartbeats: Heartbeats::default(),
            stop: stop.clone(),
            abort: abort.clone(),
        };
        let urls = self.world.state().plan.urls;
        let endpoints = (0..urls)
            .map(|index| rpc::endpoint(life, self.wallet, (Side::Gateway, index)))
            .collect();
        let metrics = reporter.metrics.clone();
        let dice = Dice::seeded(self.world.state().dice.u64(..));
        let (gateway, connections) = ArbitrumProvider::new(CHAIN_ID, endpoints, metrics, &dice);
        let mut hosts = hosts::rpc::edges(life, &reporter.metrics, &dice);
        blocks::connect(&mut hosts, (life, self.wallet), &reporter.metrics, &dice);
        let edges = Edges {
            gateway,
            connecting: Box::new(|hearts, stop| Box::pin(connections.run(hearts, stop))),
            hosts,
            core: Transport::over("core", core::served::carrier(life)),
            buckets: BucketClient::with_transport(store::network(life)),
            fallback: None,
            machine: Machine::simulated_by(
                Arc::new(SimulatedMachine(life.clone())),
                self.world.clock(),
                dice,
            ),
        };
        let mut instance = JoinSet::new();
        instance.spawn(Box::pin(run(self.config.clone(), supervision, edges, estate)));
        Running { home: self, instance, reporter, stop, abort }
    }
}

impl Running<'_> {
    /// Kills the process.
    async fn die(mut self) {
        self.instance.shutdown().await;
        self.check_invariants();
    }

    /// Stops the process, which drains; what takes too long is dropped. It may die meanwhile.
    async fn stop(mut self, died: &CancellationToken) -> Option<JournalTenure> {
        self.home.world.say(format_args!("the process is told to stop"));
        self.stop.cancel();
        let ending = async {
            let drained = timeout(DRAIN, self.instance.join_next()).await;
            if let Ok(ended) = drained {
                return ended;
            }
            self.home.world.say(format_args!("it takes too long"));
            self.abort.cancel();
            self.instance.join_next().await
        };
        if let Some(Some(ended)) = died.run_until_cancelled(ending).await {
            return self.ended(ended, true);
        }
        self.die().await;
        None
    }

    /// The process has ended by itself or on request.
    fn ended(&self, ended: Result<EndedInstance, JoinError>, told: bool) -> Option<JournalTenure> {
        self.check_invariants();
        let world = &self.home.world;
        let EndedInstance { exit, tenure: estate } = match ended {
            Ok(ended) => ended,
            Err(error) => {
                world.violation(format!("the instance panicked: {error}"));
                return None;
            }
        };
        match exit {
            Exit::Stopped if told => world.say(format_args!("it stopped")),
            Exit::Failed { task, cause } if !matches!(*cause, Failure::Untold) => {
                // The file name differs in each run.
                let error = cause.to_string().replace(&*self.home.state_dir.to_string_lossy(), "");
                let what = if error.contains("disk I/O") { "the disk fails" } else { &error };
                world.say(format_args!("{task} failed: {what}"));
            }
            exit @ (Exit::Stopped
            | Exit::Failed { .. }
            | Exit::Refused { .. }
            | Exit::Panicked { .. }
            | Exit::Hung { .. }) => world.violation(format!("it ended: {exit}")),
        }
        estate
    }

    /// No request was ever unattended, and no operator was asked to fix what is in order.
    fn check_invariants(&self) {
        let world = &self.home.world;
        let forgotten = self.reporter.metrics.unattended_so_far();
        if forgotten > 0 {
            world.violation(format!("{forgotten} open requests were in nobody's hands"));
        }
        let counted = self.reporter.metrics.gather();
        let holds = counted.iter().filter(|family| family.name().ends_with("holds_total"));
        let reasons = holds.flat_map(MetricFamily::get_metric).flat_map(Metric::get_label);
        for reason in BLAMES_THE_OPERATOR {
            if reasons.clone().any(|label| label.value() == reason.as_str()) {
                world.violation(format!("the operator is blamed: {}", reason.as_str()));
            }
        }
    }
}

impl World {
    fn violation(&self, what: String) {
        self.say(format_args!("VIOLATION: {what}"));
        self.state().violations.push(what);
    }

    /// Waits until `is` returns true; returns `false` after `limit`.
    async fn wait_until(&self, limit: Duration, mut is: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + limit;
        loop {
            if is() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(Duration::from_secs(3)).await;
        }
    }
}
