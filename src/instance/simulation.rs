//! A whole connector in a simulated world: one seed, one story, the same at each telling.
//!
//! ```text
//! arrivals  walk  lane  recovery  journal     the product, wired as by `instance`
//! ───────────────────────────────────────
//! rpc    core    store    ledger    ground    the seams (below)
//! ───────────────────────────────────────
//! chain, catalogue, dice, trace               the world
//! ```
//!
//! Current-thread runtime, paused clock, one pair of dice. A seed draws a plan: which faults happen
//! how often. As long as the storm lasts the process dies at any await and is started again from its
//! journal, nodes lie, the chain is reorganised, the Core forgets, the disk fails. Then the world
//! heals, and an oracle looks: every request on the chain has one outcome, the chain has one answer
//! to each, no nonce is missing, a fresh request gets through, no task is left.
//!
//! The seams are as low as they can be without a socket, a thread or a clock of the machine, so that
//! as much as possible of the product is played:
//!
//! - the node: [`Provider`], the port the rooms have anyway;
//! - the Core: the function under the generated client (`kms_core::Carrier`): messages, deadlines, the
//!   table of statuses and the check of signatures are the real ones;
//! - the buckets: the one GET of the downloads (`ciphertexts::Get`);
//! - the journal: the real one, on a real file; only its blocking work runs in place ([`Machine`]). What it noted and had not committed dies with the process, as it does
//!   outside. So no model of the journal is needed that would have to be proved right first.
//!
//! There are one or two endpoints, each with machines behind it. The product's own choice tells which
//! one is read from (`endpoints`); what each says that is not so stands in `lies`.
//!
//! Not played: `instance::build` and its waiting for the world, the report, pruning, an upgrade of the
//! contract, an earlier wallet; connections (`provider::connection`), arrays of calls, the fields of a
//! receipt, HTTP/2 and sockets. They have tests of their own.

mod chain;
mod core;
mod endpoints;
mod ledger;
mod lies;
mod nature;
mod oracle;
mod requests;
mod rpc;
mod store;
mod tests;
mod world;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    chain::{CHAIN_ID, DECRYPTION, domain},
    ledger::Heard,
    rpc::SimulatedNode,
    world::{Life, Plan, State, World},
};
use super::{LeftOver, attendance::Attendance, recovery::Recovery};
use crate::{
    backoff::Backoff,
    domain::B256,
    flow::{
        Confirmation, Flow, FlowOptions,
        arrivals::{
            Arrivals, Start,
            ids::SharedIds,
            lookout::{Lookout, Sight},
            suspects::Suspects,
        },
        ciphertexts::{BucketClient, Ciphertexts, CiphertextsOptions, SMALLEST_MEMORY_MIB},
        entrances,
        kms_core::{self, KmsCore, Transport},
        submission::Submission,
    },
    gateway::{
        decryption::{DecryptionAdapter, Support},
        gateway_config::GatewayConfigAdapter,
        lane::{HIGHEST_FEE, LaneOptions, lane},
        provider::Provider,
        wallet::Wallet,
    },
    heart::Heart,
    journal::{Identity, Journal, Opened, open_as},
    machine::{Fate, Machine, Player},
    metrics::Metrics,
    simulated,
};

/// How long a process that is told to stop may take.
const DRAIN: Duration = Duration::from_secs(20);
const HELD_RETRY: Duration = Duration::from_mins(1);

/// What outlives a process.
struct Computer<'a> {
    state_dir: &'a Path,
    wallet: Arc<Wallet>,
    world: World,
}

/// The tasks of one life.
struct Running {
    tasks: JoinSet<(&'static str, Result<(), String>)>,
    stop: CancellationToken,
    below: CancellationToken,
    journal: Journal,
    /// What the lookout says.
    sight: watch::Receiver<Sight>,
    /// What the attendance found.
    counted: Metrics,
}

/// How a life went on.
enum Ended {
    /// It died, failed or stopped: the next one begins.
    Over,
    /// The storm is over and it lives.
    Calm(Running),
}

/// What a seed showed.
#[derive(Debug)]
struct Told {
    violations: Vec<String>,
    trace: String,
    /// How often the connector was told what is not so, by what it was.
    fired: BTreeMap<&'static str, u64>,
}

/// Plays one seed from its beginning to its end.
fn play(seed: u64, plan: &Plan) -> Told {
    fastrand::seed(seed);
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
    let mut told = runtime.block_on(story(seed, plan, state_dir.path()));
    simulated::set(None);
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

async fn story(seed: u64, plan: &Plan, state_dir: &Path) -> Told {
    let world = World::new(State::new(plan, seed));
    world.say(format_args!("{plan:?}"));
    world.state().history();
    let machine = Computer {
        state_dir,
        wallet: Arc::new(Wallet::from_private_key(&[7; 32]).unwrap()),
        world: world.clone(),
    };
    let mut nature = JoinSet::new();
    nature.spawn(nature::turns(world.clone()));
    nature.spawn(nature::looks(world.clone()));
    let running = loop {
        match machine.one_life().await {
            Ended::Over => machine.pause().await,
            Ended::Calm(running) => break running,
        }
    };
    world.say(format_args!("calm"));
    world.state().heal();
    let mut running = running;
    oracle::look(&world, &mut running).await;
    running.stop(&world).await;
    running.judge(&world);
    running.tasks.shutdown().await;
    nature.shutdown().await;
    simulated::set(None);
    let (violations, fired) = {
        let state = world.state();
        (state.violations.clone(), state.fired.clone())
    };
    Told { violations, trace: world.trace(), fired }
}

/// The machine of a life.
struct Played(Life);

impl Player for Played {
    fn turn(&self) -> BoxFuture<'static, ()> {
        let life = self.0.clone();
        Box::pin(async move { life.takes(4).await })
    }

    fn done(&self) -> BoxFuture<'static, ()> {
        let life = self.0.clone();
        Box::pin(async move { life.point().await })
    }

    fn commit(&self) -> Fate {
        let world = &self.0.world;
        let fate = {
            let mut state = world.state();
            let rate = state.plan.faults.disk;
            if !state.fault(rate) {
                return Fate::Stored;
            }
            if state.dice.bool() { Fate::NotStored } else { Fate::StoredUnsaid }
        };
        world.say(format_args!("disk: {fate:?}"));
        fate
    }
}

impl Computer<'_> {
    /// Between two lives.
    async fn pause(&self) {
        sleep(Duration::from_millis(500)).await;
        let (loses, rekeys, seen) = {
            let mut state = self.world.state();
            let faults = state.plan.faults;
            let loses = !state.lost && state.fault(faults.journal_lost);
            let rekeys = loses && state.dice.u64(..1000) < faults.signer_changed;
            (loses, rekeys, state.chain.height() + nature::LATEST + 2)
        };
        if !loses {
            return;
        }
        self.world.say(format_args!("the journal is lost; another key: {rekeys}"));
        for file in std::fs::read_dir(self.state_dir).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        {
            let mut state = self.world.state();
            state.lost = true;
            state.fired("journal");
            if rekeys {
                state.core.change_key();
                let signer = state.core.address();
                state.chain.register(signer);
                state.fired("signing key");
            }
        }
        // Whoever does such things takes his time: no node is so far behind.
        while self.world.state().chain.height() < seen {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// A process from its start to its end, or to the end of the storm.
    async fn one_life(&self) -> Ended {
        let life = Life::new(self.world.clone());
        simulated::set(Some(life.world.begun()));
        self.world.say(format_args!("the process starts"));
        self.world.state().connect();
        let started = tokio::select! {
            biased;
            () = life.died.cancelled() => return Ended::Over,
            started = self.start(&life) => started,
        };
        let mut running = match started {
            Ok(running) => running,
            Err(why) => {
                self.world.say(format_args!("it does not start: {why}"));
                return Ended::Over;
            }
        };
        loop {
            tokio::select! {
                biased;
                () = life.died.cancelled() => break,
                Some(ended) = running.tasks.join_next() => {
                    match ended {
                        Ok((task, Err(why))) => {
                            // The file's name is another one at each run.
                            let why = if why.contains("disk I/O") { "the disk fails" } else { &why };
                            self.world.say(format_args!("{task} failed: {why}"));
                        }
                        Ok((task, Ok(()))) => {
                            self.world.violation(format!("{task} ended by itself"));
                        }
                        Err(error) => self.world.violation(format!("a task panicked: {error}")),
                    }
                    break;
                }
                () = sleep(Duration::from_secs(1)) => {
                    let (calm, stops) = {
                        let mut state = self.world.state();
                        let rate = state.plan.faults.stop;
                        (!state.storm, state.fault(rate))
                    };
                    if calm {
                        return Ended::Calm(running);
                    }
                    if stops {
                        running.stop(&self.world).await;
                        break;
                    }
                }
            }
        }
        running.judge(&self.world);
        running.tasks.shutdown().await;
        Ended::Over
    }

    fn ciphertexts(
        &self,
        life: &Life,
        registry: &GatewayConfigAdapter<SimulatedNode>,
    ) -> Ciphertexts<GatewayConfigAdapter<SimulatedNode>> {
        Ciphertexts::new(CiphertextsOptions {
            buckets: Arc::new(registry.clone()),
            fallback: None,
            memory_mib: SMALLEST_MEMORY_MIB,
            verify_coprocessors: false,
            http: BucketClient::over(store::network(life)),
            metrics: Metrics::default(),
        })
    }

    /// As `Instance::build` and `Instance::open_rooms` do it.
    async fn start(&self, life: &Life) -> Result<Running, String> {
        let identity =
            Identity { chain_id: CHAIN_ID, genesis: B256::ZERO, wallet: self.wallet.address() };
        let machine = Machine::played_by(Arc::new(Played(life.clone())));
        let opened = open_as(&machine, self.state_dir, identity, DECRYPTION, "one", None);
        let Opened { journal, writer, .. } = opened.map_err(|error| error.to_string())?;
        let left = LeftOver::read(&journal).await.map_err(|error| error.to_string())?;
        let (stragglers, left_to_send) = endpoints::stragglers();
        let wallet = self.wallet.address();
        let node = SimulatedNode { life: life.clone(), wallet, only: None, stragglers };
        let registry = connect(&node, self.wallet.address()).await;
        let decryption = DecryptionAdapter::new(node.clone());
        let (support, _) = watch::channel(Support::Served);
        let ledger = Heard { life: life.clone(), journal: journal.clone() };
        let mut tasks = Tasks(JoinSet::new());
        tasks.0.spawn(async move {
            endpoints::finish(left_to_send).await;
            ("stragglers", Ok(()))
        });
        let (stop, below) = (CancellationToken::new(), CancellationToken::new());

        let writing = writer.run(Heart::default(), Metrics::default(), CancellationToken::new());
        tasks.spawn("journal", async move { writing.await.map(drop) });
        let (address, cursor) = (self.wallet.address(), left.reading.cursor);
        let known = &left.transactions;
        let up_to = super::past::maybe_answered_up_to(&node, &journal, address, cursor, known);
        let maybe_answered_up_to = up_to.await.map_err(|error| error.to_string())?;
        let options =
            LaneOptions { chain_id: CHAIN_ID, max_in_flight: 16, max_fee_per_gas: HIGHEST_FEE };
        let (lane, lane_task) = lane(
            node.clone(),
            self.wallet.clone(),
            ledger.clone(),
            options,
            left.transactions,
            Metrics::default(),
        );
        tasks.spawn("lane", lane_task.run(Heart::default(), below.clone()));
        let depth = self.world.state().plan.depth;
        let (ripe, ripe_up_to) = watch::channel(depth.line(0, None));
        let suspects = Suspects::default();
        let flow = Flow {
            name: "one".to_owned(),
            ciphertexts: self.ciphertexts(life, &registry),
            core: KmsCore::new(
                Transport::over("core", core::carrier(life)),
                domain(),
                kms_core::Options::default(),
                Metrics::default(),
            ),
            submission: Submission::new(lane, decryption.clone(), None, Metrics::default()),
            gateway_config: registry,
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            support: support.subscribe(),
            line: ripe_up_to.clone(),
            ledger: ledger.clone(),
            metrics: Metrics::default(),
            repeats: std::sync::Mutex::default(),
            options: flow_options(maybe_answered_up_to),
        };
        let (intakes, walk, walk_again) = entrances(4, super::parts::RECOVERED_AHEAD);
        tasks.spawn("walk", Arc::new(flow).run(intakes, Heart::default(), stop.clone()));
        let super::Reading { cursor, begun_after, read_twice, unproven, newest, ids } =
            left.reading;
        let ids = SharedIds::new(ids);
        let reading = decryption.clone();
        let arrivals = Arrivals::new(
            reading,
            ledger.clone(),
            walk,
            support,
            cursor,
            begun_after,
            Metrics::default(),
        )
        .suspecting(suspects)
        .resuming(unproven, read_twice)
        .only_from(depth, ripe)
        .knowing(ids.clone());
        let (sight_sender, sight) = watch::channel(Sight::default());
        let lookout = Lookout {
            adapter: decryption,
            ledger,
            ids,
            suspects: arrivals.suspects(),
            progress: arrivals.progress(),
            wallet: Some(address),
            sight: sight_sender,
            metrics: Metrics::default(),
        };
        tasks.spawn("lookout", async move { lookout.run().await.map(|never| match never {}) });
        tasks.spawn("arrivals", arrivals.run(Start::Block(1), Heart::default(), stop.clone()));
        let (taken, taken_up_to) = watch::channel(None);
        let counted = Metrics::new();
        let attendance = Attendance {
            journal: journal.clone(),
            walk: walk_again.clone(),
            newest,
            taken: taken_up_to,
            line: ripe_up_to.clone(),
            metrics: counted.clone(),
        };
        tasks.attend(attendance, stop.clone());
        let recovery = Recovery {
            journal: journal.clone(),
            walk: walk_again,
            held_retry: HELD_RETRY,
            newest,
            taken,
            line: ripe_up_to,
            heart: Heart::default(),
        };
        let stopped = stop.clone();
        tasks.spawn("recovery", async move {
            stopped.run_until_cancelled(recovery.run()).await.unwrap_or(Ok(()))
        });
        Ok(Running { tasks: tasks.0, stop, below, journal, sight, counted })
    }
}

fn flow_options(maybe_answered_up_to: u64) -> FlowOptions {
    FlowOptions {
        max_in_flight: 12,
        public_decryption_timeout: Duration::from_secs(30),
        user_decryption_timeout: Duration::from_secs(30),
        retry_interval: Duration::from_secs(2),
        request_expiry: Duration::from_hours(240),
        maybe_answered_up_to,
    }
}

struct Tasks(JoinSet<(&'static str, Result<(), String>)>);

impl Tasks {
    fn attend(&mut self, attendance: Attendance, stop: CancellationToken) {
        self.spawn("attendance", async move {
            stop.run_until_cancelled(attendance.run()).await.unwrap_or(Ok(()))
        });
    }

    fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.0.spawn(async move { (name, task.await.map_err(|error| error.to_string())) });
    }
}

async fn connect<P: Provider>(node: &P, wallet: crate::domain::Address) -> GatewayConfigAdapter<P> {
    let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match GatewayConfigAdapter::connect(node.clone(), wallet).await {
            Ok(registry) => return registry,
            Err(_) => sleep(pause.next_delay()).await,
        }
    }
}

impl Running {
    /// Nobody was ever forgotten.
    fn judge(&self, world: &World) {
        let forgotten = self.counted.unattended_so_far();
        if forgotten > 0 {
            world.violation(format!("{forgotten} open requests were in nobody's hands"));
        }
    }

    /// A drain, as `Instance::close` does it: the walk first, the journal last.
    async fn stop(&mut self, world: &World) {
        world.say(format_args!("the process is told to stop"));
        self.stop.cancel();
        let walked = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok(("walk", _)) => return,
                    Ok((_, Ok(()))) => {}
                    Ok((task, Err(_))) => {
                        world.say(format_args!("{task} failed while it stopped"));
                        return;
                    }
                    Err(error) => world.violation(format!("a task panicked: {error}")),
                }
            }
        };
        let drained = timeout(DRAIN, walked).await.is_ok();
        self.below.cancel();
        let flushed = timeout(Duration::from_secs(5), self.journal.flush()).await;
        let flushed = matches!(flushed, Ok(Ok(())));
        world.say(format_args!("it stopped: drained {drained}, flushed {flushed}"));
    }
}

impl World {
    fn violation(&self, what: String) {
        self.say(format_args!("VIOLATION: {what}"));
        self.state().violations.push(what);
    }

    /// Waits until `is` holds; `false` if it does not in time.
    async fn until(&self, limit: Duration, mut is: impl AsyncFnMut() -> bool) -> bool {
        let end = Instant::now() + limit;
        loop {
            if is().await {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(Duration::from_secs(3)).await;
        }
    }
}
