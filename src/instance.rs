//! One connector: one config, one wallet, one Gateway deployment, one KMS Core, one journal, one
//! task tree. The only place where rooms, adapters, journal and config are wired together.
//!
//! ```text
//! build: gateway node -> wallet -> journal (lock) -> contracts -> Core     each waits and says so
//! run:   connection   journal writer   lane   walk   arrivals   recovery   housekeeping   report
//! stop:  arrivals, recovery, walk (what is answered is finished) -> lane -> journal -> connection
//! ```
//!
//! Nothing is shared with another instance. A task that ends by itself, or hangs, ends the instance:
//! its end is a value ([`Exit`]), and a restart is a rebuild. What outlives it is its journal, open
//! and locked ([`Estate`]), so that the next generation of the same instance begins at once and nobody
//! comes in between.

pub mod exit;
mod check;
pub mod checkup;
mod world;
mod genesis;
mod recovery;
mod attendance;
mod rebuild;
mod inquiries;
mod why;
mod line;
mod observer;
mod earlier_wallet;
mod housekeeping;
mod report;
mod catch_up;
mod lag;
mod stale;
mod past;
mod parts;
#[cfg(test)]
mod simulation;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::{
    attendance::Attendance,
    parts::{depth, fail, gateway, intakes, load_roots, open_ciphertexts, refuse, start},
    recovery::Recovery,
    report::Report,
    why::Why,
    world::Waits,
};
pub use self::{
    check::check,
    exit::Exit,
    inquiries::answer_stopped,
    rebuild::{RebuildError, rebuild},
};
use crate::{
    backoff::Backoff,
    config::Config,
    domain::{Address, BlockRef},
    flow::{
        Confirmation, Entrance, Flow, FlowOptions, Unproven,
        arrivals::{
            Arrivals,
            backfill::Backfill,
            ids::{Ids, SharedIds},
            lookout::{Lookout, Sight},
            suspects::Suspects,
        },
        ciphertexts::MemoryUse,
        depth::Line,
        kms_core::{self, KmsCore},
        submission::Submission,
    },
    gateway::{
        decryption::{DecryptionAdapter, Support},
        gateway_config::GatewayConfigAdapter,
        lane::{self, LaneOptions, Recovered, lane},
        provider::ArbitrumProvider,
        wallet::Wallet,
    },
    heart::{self, Hearts},
    journal::{
        self, Condition, Damage, Identity, Journal, JournalError, Kept, OpenError, Opened,
        Position, Predecessor, open_as,
    },
    observe::status::Reporter,
    tls::TlsRoots,
};

/// How long the journal may take to flush at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long tasks may take to be dropped: only one that blocks its thread takes longer.
const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// How long to look for the cause of a failure among the other tasks.
const CAUSE_DEADLINE: Duration = Duration::from_millis(100);
/// How long to wait for a journal that an earlier generation of this process is still closing.
const OWN_LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// The task name of an instance that failed before it ran.
pub const STARTING: &str = "start";
/// What an instance waits for whose journal cannot be written.
const ROOM: &str = "the disk of its journal";

/// What an instance gets from outside.
#[derive(Clone, Debug)]
pub struct Edges {
    /// The instance's name, written into its journal.
    pub name: String,
    /// Directory of the journals.
    pub state_dir: PathBuf,
    /// Where it tells how it is.
    pub reporter: Reporter,
    /// Where its rooms show that they turn.
    pub hearts: Hearts,
    /// Take no more, finish what is in hand. A child of `abort`.
    pub stop: CancellationToken,
    /// Drop what is in hand; the journal has it.
    pub abort: CancellationToken,
}

/// What one generation leaves to the next of the same instance: its journal, open and locked. The next
/// one uses it if its configuration is of the same chain and wallet.
///
/// Dropping it closes the journal and gives the lock back; that may block for a moment.
#[derive(Debug)]
pub struct Estate {
    kept: Kept,
}

impl Estate {
    /// Closes the journal and gives the lock back, without blocking the caller's thread.
    pub async fn close(self) {
        // Dropped in any case: the error only says that the runtime is ending.
        let _ = spawn_blocking(move || drop(self)).await;
    }
}

/// An instance that is over.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    /// Absent where the next generation has to open everything anew.
    pub estate: Option<Estate>,
}

/// Why a configuration should not replace the one that runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It contradicts the world.
    #[error("{0}")]
    Refused(String),
    /// Whether it could run is not known.
    #[error("{0}")]
    Unreachable(String),
}

/// Why an instance cannot be built.
enum BuildError {
    Refused(String),
    Failed(String),
}

/// The tasks of one instance, by name.
struct Tasks {
    set: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
}

impl Tasks {
    fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        use tracing::Instrument;
        let task = async move { task.await.map_err(|error| error.to_string()) };
        let handle = self.set.spawn(task.in_current_span());
        self.names.push((handle.id(), name));
    }

    /// The next task to end: its name and how.
    async fn ended(&mut self) -> Option<(&'static str, Exit)> {
        let ended = self.set.join_next_with_id().await?;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let position = self.names.iter().position(|(known, _)| *known == id);
        let task = position.map_or("a task", |position| self.names.swap_remove(position).1);
        Some((task, exit_of(task, ended.map(|(_, result)| result))))
    }
}

/// What the end of a task means.
fn exit_of<T, E: Display>(task: &'static str, ended: Result<Result<T, E>, JoinError>) -> Exit {
    match ended {
        Ok(Err(error)) => Exit::Failed { task, error: error.to_string() },
        Err(error) if error.is_panic() => Exit::Panicked { task },
        // It ended, or was dropped.
        Ok(Ok(_)) | Err(_) => Exit::Stopped,
    }
}

/// The wallet of those that have none, in the names of their journals.
const OBSERVER: Address = Address::ZERO;

/// Where an instance that only observes keeps its journal: apart from those that say what was
/// answered, so that neither is ever taken for the other.
#[must_use]
pub fn observe_dir(state_dir: &Path, name: &str) -> PathBuf {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    state_dir.join(format!("observe-{}", name.chars().map(plain).collect::<String>()))
}

/// Builds the instance and runs it to its end. `estate` is what the generation before left.
pub async fn run(config: Arc<Config>, edges: Edges, estate: Option<Estate>) -> Ended {
    let mut instance = Instance {
        tasks: Tasks { set: JoinSet::new(), names: Vec::new() },
        journal: JoinSet::new(),
        opening: None,
        estate,
        opened: None,
        edges,
        below: CancellationToken::new(),
        journal_stop: CancellationToken::new(),
    };
    let built = {
        let (stop, abort) = (instance.edges.stop.clone(), instance.edges.abort.clone());
        let hearts = instance.edges.hearts.clone();
        let building = Box::pin(instance.build(&config));
        tokio::select! {
            built = building => built.map(|()| None),
            () = stop.cancelled() => Ok(Some(Exit::Stopped)),
            () = abort.cancelled() => Ok(Some(Exit::Stopped)),
            task = hearts.stopped() => Ok(Some(Exit::Hung { task })),
        }
    };
    let exit = match built {
        Ok(None) => instance.watch().await,
        Ok(Some(exit)) => exit,
        Err(BuildError::Refused(why)) => Exit::Refused { why },
        Err(BuildError::Failed(error)) => Exit::Failed { task: STARTING, error },
    };
    instance.close(exit).await
}

struct Instance {
    tasks: Tasks,
    /// The journal's writer: it ends last, even after an abort.
    journal: JoinSet<Result<Kept, JournalError>>,
    /// The journal on its way to be opened.
    opening: Option<JoinHandle<Result<Opened, OpenError>>>,
    /// Until the journal is opened.
    estate: Option<Estate>,
    /// The journal that was opened.
    opened: Option<OpenJournal>,
    edges: Edges,
    /// Stops what the walk stands on, once the walk is done.
    below: CancellationToken,
    journal_stop: CancellationToken,
}

/// Which journal is open, and how its store is.
struct OpenJournal {
    dir: PathBuf,
    identity: Identity,
    contract: Address,
    condition: Condition,
}

/// What the rooms are made of.
struct Ground {
    roots: TlsRoots,
    provider: ArbitrumProvider,
    wallet: Arc<Wallet>,
    journal: Journal,
    decryption: DecryptionAdapter<ArbitrumProvider>,
    registry: GatewayConfigAdapter<ArbitrumProvider>,
    support: watch::Sender<Support>,
    core: KmsCore,
    left: LeftOver,
    /// Requests of earlier blocks may have been answered without this journal.
    maybe_answered_up_to: u64,
}

/// What stands around a walk is made of these.
struct Around {
    provider: ArbitrumProvider,
    journal: Journal,
    decryption: DecryptionAdapter<ArbitrumProvider>,
    support: watch::Sender<Support>,
    reading: Reading,
    /// Absent where only observed.
    core: Option<KmsCore>,
    /// Present where only observed: how many requests.
    observed: Option<watch::Receiver<u64>>,
    /// Absent where only observed, as is the memory of ciphertexts.
    wallet: Option<Address>,
    memory: Option<MemoryUse>,
}

/// The ways into a walk.
struct Ways {
    walk: Entrance,
    walk_again: Entrance,
    /// Up to which block.
    ripe: watch::Sender<Line>,
    /// Blocks the walk wants to be read again.
    suspects: Suspects,
}

/// Where an earlier run left the journal.
struct LeftOver {
    transactions: Recovered,
    reading: Reading,
}

/// Where an earlier run's reading stands.
struct Reading {
    cursor: Option<BlockRef>,
    begun_after: Option<u64>,
    read_twice: Option<u64>,
    unproven: Vec<Unproven>,
    /// Which ids of requests are known.
    ids: Ids,
    newest: Option<Position>,
}

impl Reading {
    async fn read(journal: &Journal) -> Result<Self, JournalError> {
        Ok(Self {
            cursor: journal.cursor().await?,
            begun_after: journal.begun_after().await?,
            read_twice: journal.read_twice().await?,
            unproven: journal.unproven().await?,
            ids: Ids::stored(&journal.seen_ids().await?, Instant::now())
                .in_blocks(&journal.newest_ids().await?),
            newest: journal.newest().await?,
        })
    }
}

impl LeftOver {
    async fn read(journal: &Journal) -> Result<Self, JournalError> {
        let mut open = journal.open_transactions().await?;
        // Mined, and the outcome not noted any more: the lane reads their receipts again, so that
        // the outcome is what it was.
        open.extend(journal.unsettled_transactions().await?);
        open.sort_by_key(|transaction| transaction.nonce);
        let mined = journal.recently_mined(lane::FOLLOWED).await?;
        let highest = journal.highest_nonce().await?;
        let stranded = journal.stranded_transactions().await?;
        Ok(Self {
            transactions: Recovered { open, mined, highest, stranded },
            reading: Reading::read(journal).await?,
        })
    }
}

impl Instance {
    /// Each dependency in turn: an outage is waited for and named, a contradiction refuses.
    async fn build(&mut self, config: &Config) -> Result<(), BuildError> {
        let roots = load_roots(config)?;
        let metrics = self.edges.reporter.metrics.clone();
        metrics.new_generation();
        let (provider, connections) = gateway(config, &roots, metrics.clone())?;
        let (hearts, stop) = (self.edges.hearts.clone(), self.below.clone());
        self.tasks.spawn(heart::GATEWAY_CONNECTION, async move {
            Box::pin(connections.run(hearts, stop)).await;
            Ok::<(), String>(())
        });
        let following = report::follow_endpoints(provider.clone(), self.edges.reporter.clone());
        let stop = self.below.clone();
        self.tasks.spawn("endpoint health", async move {
            stop.run_until_cancelled(following).await;
            Ok::<(), String>(())
        });
        let gateway = world::gateway_name(&provider);
        let waits = Waits::building(&self.edges.reporter);
        if let Err(error) = provider.first_attempt().await {
            waits.on(&gateway, &error.to_string());
        }
        waits.until_ready(&gateway, || world::ask_chain(&provider)).await?;
        waits.over();
        if config.observes {
            return self.build_observer(config, roots, provider).await;
        }
        let opening = waits.until_ready("AWS KMS", || world::ask_wallet(config));
        let wallet = Arc::new(opening.await?);
        wallet.count_with(&metrics);
        info!(wallet = %wallet.address(), "wallet ready");
        self.edges.reporter.gauges.send_modify(|gauges| {
            gauges.wallet = Some(wallet.address().to_string());
        });
        let journal = self.open_journal(config, wallet.address(), &provider).await?;

        let decryption = DecryptionAdapter::new(provider.clone());
        let domain = world::check_decryption(&waits, &gateway, &decryption, config).await?;
        let support = self.follow_support(&waits, &gateway, &decryption).await;
        let address = wallet.address();
        let registry = world::reach_registry(&waits, &gateway, &provider, address, config).await;
        world::check_wallet(&provider, address, &journal, config).await;
        let core = KmsCore::new(
            config.kms_core_endpoint.expose(),
            &roots,
            domain,
            kms_core::Options::default(),
            metrics,
        )
        .map_err(refuse)?;
        let left = LeftOver::read(&journal).await.map_err(fail)?;
        let (address, cursor) = (wallet.address(), left.reading.cursor);
        let maybe_answered_up_to =
            past::maybe_answered_up_to(&provider, &journal, address, cursor, &left.transactions)
                .await
                .map_err(fail)?;
        let ground = Ground {
            roots,
            provider,
            wallet,
            journal,
            decryption,
            registry,
            support,
            core,
            left,
            maybe_answered_up_to,
        };
        self.open_rooms(config, ground)?;
        info!("instance running");
        Ok(())
    }

    /// Which contract is deployed, now and later.
    async fn follow_support(
        &mut self,
        waits: &Waits,
        gateway: &str,
        decryption: &DecryptionAdapter<ArbitrumProvider>,
    ) -> watch::Sender<Support> {
        let (support, _) = watch::channel(world::watch_support(waits, gateway, decryption).await);
        let (name, adapter) = (gateway.to_owned(), decryption.clone());
        let following = housekeeping::follow_support(name, adapter, support.clone());
        let stop = self.below.clone();
        self.tasks.spawn("contract support", async move {
            stop.run_until_cancelled(following).await;
            Ok::<(), String>(())
        });
        support
    }

    /// Each room in a task of its own.
    fn open_rooms(&mut self, config: &Config, ground: Ground) -> Result<(), BuildError> {
        let Ground {
            roots,
            provider,
            wallet,
            journal,
            decryption,
            registry,
            support,
            core,
            left,
            maybe_answered_up_to,
        } = ground;
        let hearts = self.edges.hearts.clone();
        let metrics = self.edges.reporter.metrics.clone();
        let address = wallet.address();
        let ciphertexts = open_ciphertexts(config, &roots, registry.clone(), metrics.clone())?;
        let memory = ciphertexts.memory();
        let lane_options = LaneOptions {
            chain_id: config.chain_id,
            max_in_flight: config.max_transactions_in_flight,
            max_fee_per_gas: config.max_fee_per_gas,
        };
        let (lane, lane_task) = lane(
            provider.clone(),
            wallet,
            journal.clone(),
            lane_options,
            left.transactions,
            metrics.clone(),
        );
        let heart = hearts.heart(heart::LANE);
        self.tasks.spawn(heart::LANE, lane_task.run(heart, self.below.clone()));

        let (ripe, ripe_up_to) = watch::channel(depth(config).line(0, None));
        let suspects = Suspects::default();
        let flow = Flow {
            name: self.edges.name.clone(),
            ciphertexts,
            core: core.clone(),
            submission: Submission::new(
                lane,
                decryption.clone(),
                config.gas_limit,
                metrics.clone(),
            ),
            gateway_config: registry,
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            support: support.subscribe(),
            line: ripe_up_to,
            ledger: journal.clone(),
            metrics: metrics.clone(),
            repeats: Mutex::default(),
            options: FlowOptions {
                max_in_flight: config.max_requests_in_flight,
                public_decryption_timeout: config.public_decryption_timeout,
                user_decryption_timeout: config.user_decryption_timeout,
                retry_interval: config.retry_interval,
                request_expiry: config.request_expiry,
                maybe_answered_up_to,
            },
        };
        let (intakes, walk, walk_again) = intakes(config);
        let (heart, stop) = (hearts.heart(heart::WALK), self.edges.stop.clone());
        self.tasks.spawn(heart::WALK, Arc::new(flow).run(intakes, heart, stop));
        let (core, observed) = (Some(core), None);
        let ways = Ways { walk, walk_again, ripe, suspects };
        let reading = left.reading;
        let (wallet, memory) = (Some(address), Some(memory));
        let around = Around {
            provider,
            journal,
            decryption,
            support,
            reading,
            core,
            observed,
            wallet,
            memory,
        };
        self.open_around(config, around, ways);
        Ok(())
    }

    /// What stands around every walk: who brings it requests, who looks after its journal, who tells.
    fn open_around(&mut self, config: &Config, around: Around, ways: Ways) {
        let Around {
            provider,
            journal,
            decryption,
            support,
            reading,
            core,
            observed,
            wallet,
            memory,
        } = around;
        let Ways { walk, walk_again, ripe, suspects } = ways;
        let (hearts, ripe_up_to) = (self.edges.hearts.clone(), ripe.subscribe());
        if let Some(cursor) = reading.cursor {
            provider.begin_after(cursor);
        }
        let Reading { cursor, begun_after, read_twice, unproven, newest, ids } = reading;
        let (ledger, metrics) = (journal.clone(), self.edges.reporter.metrics.clone());
        let ids = SharedIds::new(ids);
        let backfill = Backfill::new(decryption.clone(), journal.clone()).knowing(ids.clone());
        let arrivals = Arrivals::new(
            decryption.clone(),
            ledger.clone(),
            walk,
            support,
            cursor,
            begun_after,
            metrics.clone(),
        )
        .suspecting(suspects)
        .resuming(unproven, read_twice)
        .only_from(depth(config), ripe)
        .knowing(ids.clone());
        let (progress, tag) = (arrivals.progress(), arrivals.tag());
        self.follow_reading(provider.clone(), progress.clone());
        let notes = arrivals.notes();
        let (sight, sighted) = watch::channel(Sight::default());
        let lookout = Lookout {
            adapter: decryption,
            ledger,
            ids,
            suspects: arrivals.suspects(),
            progress: progress.clone(),
            wallet,
            sight,
            metrics,
        };
        let stop = self.edges.stop.clone();
        self.tasks.spawn("lookout", async move {
            match stop.run_until_cancelled(lookout.run()).await {
                Some(Err(error)) => Err(error),
                None => Ok(()),
                Some(Ok(never)) => match never {},
            }
        });
        let why = Why::new(depth(config), &ripe_up_to, &tag, &walk_again);
        let (heart, stop) = (hearts.heart(heart::ARRIVALS), self.edges.stop.clone());
        self.tasks.spawn(heart::ARRIVALS, arrivals.run(start(config, cursor), heart, stop));

        let inquiries = inquiries::Running {
            journal: journal.clone(),
            backfill,
            walk: walk_again.clone(),
            progress: progress.clone(),
            why: why.clone(),
        };
        self.answer_inquiries(inquiries);

        let taken = self.attend(&journal, &walk_again, newest, &ripe_up_to);
        let recovery = Recovery {
            journal: journal.clone(),
            walk: walk_again,
            held_retry: config.held_retry,
            newest,
            taken,
            line: ripe_up_to,
            heart: hearts.heart(heart::RECOVERY),
        };
        let stop = self.edges.stop.clone();
        self.tasks.spawn(heart::RECOVERY, async move {
            stop.run_until_cancelled(recovery.run()).await.unwrap_or(Ok(()))
        });

        let (heart, retention) = (hearts.heart(heart::HOUSEKEEPING), config.journal_retention);
        let keeping =
            housekeeping::housekeeping(journal.clone(), provider.clone(), retention, heart);
        let stop = self.below.clone();
        self.tasks.spawn(heart::HOUSEKEEPING, async move {
            stop.run_until_cancelled(keeping).await.unwrap_or(Ok::<(), String>(()))
        });

        let reporter = self.edges.reporter.clone();
        let report = Report {
            reporter,
            provider,
            core,
            observed,
            journal,
            progress,
            why,
            notes,
            tag,
            sighted,
            wallet,
            memory,
        };
        let (heart, stop) = (hearts.heart(heart::REPORT), self.below.clone());
        self.tasks.spawn(heart::REPORT, async move {
            stop.run_until_cancelled(Box::pin(report.run(heart))).await.unwrap_or(Ok(()))
        });
    }

    /// Looks after requests that nobody has in hand. Recovery tells there how far it is.
    fn attend(
        &mut self,
        journal: &Journal,
        walk: &Entrance,
        newest: Option<Position>,
        line: &watch::Receiver<Line>,
    ) -> watch::Sender<Option<Position>> {
        let (taken, taken_up_to) = watch::channel(None);
        let attendance = Attendance {
            journal: journal.clone(),
            walk: walk.clone(),
            newest,
            taken: taken_up_to,
            line: line.clone(),
            metrics: self.edges.reporter.metrics.clone(),
        };
        let stop = self.edges.stop.clone();
        self.tasks.spawn("attendance", async move {
            stop.run_until_cancelled(attendance.run()).await.unwrap_or(Ok(()))
        });
        taken
    }

    /// By what was read nodes are told from those of other chains.
    fn follow_reading(
        &mut self,
        provider: ArbitrumProvider,
        mut progress: watch::Receiver<Option<BlockRef>>,
    ) {
        let stop = self.below.clone();
        self.tasks.spawn("known blocks", async move {
            let following = async {
                while progress.changed().await.is_ok() {
                    let read = *progress.borrow_and_update();
                    if let Some(block) = read {
                        provider.read_up_to(block).await;
                    }
                }
                // Nothing is read any more: the instance is about to end.
                std::future::pending::<()>().await;
            };
            stop.run_until_cancelled(following).await;
            Ok::<(), String>(())
        });
    }

    /// Who asks for requests is answered until the journal closes.
    fn answer_inquiries(&mut self, inquiries: inquiries::Running) {
        let (desks, stop) = (self.edges.reporter.desk.clone(), self.below.clone());
        self.tasks.spawn("inquiries", async move {
            stop.run_until_cancelled(Box::pin(inquiries.run(desks))).await;
            Ok::<(), String>(())
        });
    }

    /// Opens the journal, or goes on with the one left by the generation before, and starts its
    /// writer; follows what an earlier wallet of this instance has signed.
    async fn open_journal(
        &mut self,
        config: &Config,
        wallet: Address,
        provider: &ArbitrumProvider,
    ) -> Result<Journal, BuildError> {
        let dir = if config.observes {
            observe_dir(&self.edges.state_dir, &self.edges.name)
        } else {
            self.edges.state_dir.clone()
        };
        let (gateway, waits) =
            (world::gateway_name(provider), Waits::building(&self.edges.reporter));
        let name = &self.edges.name;
        let known = world::known_beginnings(config, dir.clone(), wallet, name).await?;
        let genesis =
            waits.until_ready(&gateway, || world::settle_genesis(provider, &known)).await?;
        waits.over();
        let identity = Identity { chain_id: config.chain_id, genesis, wallet };
        let mut kept = None;
        if let Some(estate) = self.estate.take() {
            if estate.kept.identity() == identity {
                kept = Some(estate.kept);
            } else {
                // Of another wallet: this one may inherit from it.
                estate.close().await;
            }
        }
        let begun = Instant::now();
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut last = None;
        let opened = loop {
            let (at, contract) = (dir.clone(), config.decryption_address);
            let (name, kept) = (self.edges.name.clone(), kept.take());
            let opening = spawn_blocking(move || open_as(&at, identity, contract, &name, kept));
            let opened = self.opening.insert(opening).await;
            self.opening = None;
            match opened {
                Ok(Ok(opened)) => {
                    if last.is_some() {
                        waits.over();
                    }
                    break opened;
                }
                Ok(Err(OpenError::Locked { pid: Some(pid), .. }))
                    if pid == std::process::id() && begun.elapsed() < OWN_LOCK_PATIENCE =>
                {
                    sleep(Duration::from_millis(100)).await;
                }
                Ok(Err(error)) if error.may_pass() => {
                    let why = Some(error.to_string());
                    if let Some(why) = why.as_deref().filter(|_| why != last) {
                        warn!(why, "waiting for {ROOM}");
                        waits.on(ROOM, why);
                    }
                    last = why;
                    sleep(pause.next_delay()).await;
                }
                Ok(Err(error)) if error.needs_rebuild() => return Err(refuse(error)),
                Ok(Err(error)) => return Err(fail(error)),
                Err(error) => return Err(fail(format!("opening the journal: {error}"))),
            }
        };
        let Opened { journal, writer, predecessor, left } = opened;
        let (contract, condition) = (config.decryption_address, journal.condition());
        self.opened = Some(OpenJournal { dir, identity, contract, condition });
        let heart = self.edges.hearts.heart(heart::JOURNAL);
        {
            use tracing::Instrument;
            let metrics = self.edges.reporter.metrics.clone();
            let writing = writer.run(heart, metrics, self.journal_stop.clone());
            self.journal.spawn(writing.in_current_span());
        }
        for warning in journal.warnings() {
            warn!("{warning}");
        }
        info!(path = %journal.path().display(), "journal open");
        if let Some(Predecessor { wallet, cursor, requests }) = predecessor {
            info!(
                earlier_wallet = %wallet,
                cursor = cursor.number,
                requests,
                "the wallet was changed: taking over what the earlier one left"
            );
        }
        // Who only observes sends nothing on for anybody.
        for left in left.into_iter().filter(|_| !config.observes) {
            match left {
                Ok(left) => {
                    let following =
                        earlier_wallet::follow(left, provider.clone(), self.below.clone());
                    self.tasks.spawn("earlier wallet", async move {
                        following.await;
                        Ok::<(), String>(())
                    });
                }
                Err(error) => warn!(
                    %error,
                    "the transactions of an earlier wallet are not followed any more"
                ),
            }
        }
        Ok(journal)
    }

    /// Runs until a task ends by itself or hangs, or the instance is told to end.
    async fn watch(&mut self) -> Exit {
        let (stop, abort) = (self.edges.stop.clone(), self.edges.abort.clone());
        let hearts = self.edges.hearts.clone();
        let condition = self.opened.as_ref().map(|opened| opened.condition.clone());
        let condition = condition.unwrap_or_default();
        let mut hanging = Box::pin(hearts.stopped());
        loop {
            let (task, exit) = tokio::select! {
                () = abort.cancelled() => return Exit::Stopped,
                task = &mut hanging => {
                    // Who waits for room on the disk does not hang.
                    if condition.waits().is_none() {
                        return Exit::Hung { task };
                    }
                    hanging = Box::pin(hearts.stopped());
                    continue;
                }
                damage = condition.damaged() => {
                    return Exit::Failed { task: heart::JOURNAL, error: damage.detail };
                }
                Some(ended) = self.tasks.ended() => ended,
                Some(ended) = self.journal.join_next() => {
                    (heart::JOURNAL, exit_of(heart::JOURNAL, ended))
                }
            };
            match exit {
                Exit::Stopped if stop.is_cancelled() => {
                    debug!(task, "task ended");
                    if task == heart::WALK {
                        return Exit::Stopped;
                    }
                }
                Exit::Stopped => {
                    let error = "it ended without being told".into();
                    return self.cause(Exit::Failed { task, error }).await;
                }
                exit @ (Exit::Refused { .. }
                | Exit::Failed { .. }
                | Exit::Panicked { .. }
                | Exit::Hung { .. }) => return self.cause(exit).await,
            }
        }
    }

    /// What a room stood on may be heard of later than the room: a panic, or the end of the journal, is
    /// the cause of what ends with it.
    async fn cause(&mut self, exit: Exit) -> Exit {
        if !matches!(exit, Exit::Failed { .. }) {
            return exit;
        }
        let looking = async {
            loop {
                let (task, other) = tokio::select! {
                    Some(ended) = self.tasks.ended() => ended,
                    Some(ended) = self.journal.join_next() => {
                        (heart::JOURNAL, exit_of(heart::JOURNAL, ended))
                    }
                    else => return None,
                };
                let panicked = matches!(other, Exit::Panicked { .. });
                if panicked || (task == heart::JOURNAL && other != Exit::Stopped) {
                    return Some(other);
                }
            }
        };
        timeout(CAUSE_DEADLINE, looking).await.ok().flatten().unwrap_or(exit)
    }

    /// Ends what is left, from the top down; the journal last.
    async fn close(mut self, exit: Exit) -> Ended {
        self.below.cancel();
        if exit == Exit::Stopped && !self.edges.abort.is_cancelled() {
            let ending = async { while self.tasks.ended().await.is_some() {} };
            if timeout(FLUSH_DEADLINE, ending).await.is_err() {
                warn!("some tasks did not end in time and are dropped");
            }
        }
        if timeout(DROP_DEADLINE, self.tasks.set.shutdown()).await.is_err() {
            warn!("a task blocks its thread and is left behind");
        }
        let kept = self.close_journal(&exit).await;
        let damage = self.opened.as_ref().and_then(|opened| opened.condition.damage());
        if let Some(damage) = damage {
            return Ended { exit: self.set_aside(damage, kept).await, estate: None };
        }
        Ended { exit, estate: kept.map(|kept| Estate { kept }).or(self.estate) }
    }

    /// A damaged journal is nothing to go on with.
    async fn set_aside(&mut self, damage: Damage, kept: Option<Kept>) -> Exit {
        let error = damage.detail.clone();
        let Some(OpenJournal { dir, identity, contract, .. }) = self.opened.take() else {
            return Exit::Failed { task: heart::JOURNAL, error };
        };
        let setting_aside = spawn_blocking(move || {
            drop(kept);
            journal::set_aside(&damage, &dir, identity, contract)
        });
        match setting_aside.await {
            Ok(Ok(told)) => Exit::Refused { why: told.to_string() },
            // The next generation finds it damaged, or in order.
            Ok(Err(error)) => Exit::Failed { task: heart::JOURNAL, error: error.to_string() },
            Err(_) => Exit::Failed { task: heart::JOURNAL, error },
        }
    }

    /// The journal for the next generation, with all that was noted.
    async fn close_journal(&mut self, exit: &Exit) -> Option<Kept> {
        self.journal_stop.cancel();
        let hangs = *exit == Exit::Hung { task: heart::JOURNAL };
        let limit = if hangs { DROP_DEADLINE } else { FLUSH_DEADLINE };
        if let Some(opening) = self.opening.take() {
            // Closed at its end if it takes longer.
            let opened = timeout(limit, opening).await.ok()?.ok()?.ok()?;
            return spawn_blocking(move || opened.writer.keep()).await.ok();
        }
        let Ok(flushed) = timeout(limit, self.journal.join_next()).await else {
            warn!("the journal did not close in time; what it had promised is on disk");
            return None;
        };
        match flushed?.ok()? {
            Ok(kept) => Some(kept),
            Err(error) => {
                error!(%error, "the journal failed while it was closed");
                None
            }
        }
    }
}
