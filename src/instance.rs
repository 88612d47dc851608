//! One connector: one config, one wallet, one Gateway deployment, one KMS Core, one journal, one
//! task tree. The only place where rooms, adapters, journal and config are wired together.
//!
//! ```text
//! build: gateway node -> wallet -> journal (lock) -> contracts -> Core     each waits and says so
//! run:   connection   journal writer   lane   walk   arrivals   recovery   housekeeping   report
//! stop:  arrivals, recovery, walk (what is answered is finished) -> lane -> journal -> connection
//! ```
//!
//! Whatever it meets outside of itself comes in as [`Edges`]: the tests' world goes through the same
//! [`run`].
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
mod edges;
mod errors;
mod rooms;
mod keeping;
mod tasks;
#[cfg(test)]
mod simulation;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::{
    check::check,
    edges::{Connecting, Edges},
    errors::{BuildError, CheckError, Failure, RebuildError, Unready},
    exit::Exit,
    inquiries::answer_stopped,
    rebuild::rebuild,
};
use self::{
    keeping::Keeping,
    parts::addresses,
    rooms::{Around, Ground, Ways},
    tasks::{Tasks, failure},
    world::Waits,
};
use crate::{
    config::Config,
    domain::{Address, BlockRef},
    flow::{
        Unproven,
        arrivals::ids::Ids,
        kms_core::{self, KmsCore},
    },
    gateway::{
        decryption::{DecryptionAdapter, Support},
        lane::{self, Recovered},
        provider::{ArbitrumProvider, ChainReader},
    },
    heart::{self, Hearts},
    journal::{Journal, JournalError, Kept, Position, Query},
    machine::Machine,
    observe::status::Reporter,
};

/// How long the journal may take to flush at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// How long tasks may take to be dropped: only one that blocks its thread takes longer.
const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// How long to look for the cause of a failure among the other tasks.
const CAUSE_DEADLINE: Duration = Duration::from_millis(100);
/// The task name of an instance that failed before it ran.
pub const STARTING: &str = "start";
/// What an instance waits for whose journal cannot be written.
const ROOM: &str = "the disk of its journal";

/// What an instance gets from whoever supervises it.
#[derive(Clone, Debug)]
pub struct Supervision {
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
        self.kept.close().await;
    }
}

/// An instance that is over.
#[derive(Debug)]
pub struct Ended {
    pub exit: Exit,
    /// Absent where the next generation has to open everything anew.
    pub estate: Option<Estate>,
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

/// [`run`] in the real world.
pub async fn run_real(
    config: Arc<Config>,
    supervision: Supervision,
    estate: Option<Estate>,
) -> Ended {
    match Edges::real(&config, supervision.reporter.metrics.clone()) {
        Ok(edges) => Box::pin(run(config, supervision, edges, estate)).await,
        Err(error) => Ended { exit: error.into(), estate },
    }
}

/// Builds the instance and runs it to its end. `estate` is what the generation before left.
pub async fn run(
    config: Arc<Config>,
    supervision: Supervision,
    edges: Edges,
    estate: Option<Estate>,
) -> Ended {
    let mut instance = Instance {
        tasks: Tasks::default(),
        keeping: Keeping::Before(estate),
        supervision,
        machine: edges.machine.clone(),
        below: CancellationToken::new(),
    };
    let built = {
        let Supervision { stop, abort, hearts, .. } = instance.supervision.clone();
        let tasks = instance.tasks.clone();
        let building = Box::pin(instance.build(&config, edges));
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Some(Exit::Stopped)),
            () = abort.cancelled() => Ok(Some(Exit::Stopped)),
            built = building => built.map(|()| None),
            failed = tasks.failed() => Ok(Some(failed)),
            task = hearts.stopped() => Ok(Some(Exit::Hung { task })),
        }
    };
    let exit = match built {
        Ok(None) => instance.watch().await,
        Ok(Some(exit)) => exit,
        Err(error) => error.into(),
    };
    instance.close(exit).await
}

struct Instance {
    tasks: Tasks,
    keeping: Keeping,
    supervision: Supervision,
    machine: Machine,
    /// Stops what the walk stands on, once the walk is done.
    below: CancellationToken,
}

/// The journal that the instance writes.
struct InHand {
    journal: Journal,
    begun_before: Option<u64>,
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
    /// Where it began by the journal of a block 0 that was given up, on this very chain.
    begun_before: Option<u64>,
    read_twice: Option<u64>,
    unproven: Vec<Unproven>,
    /// Which ids of requests are known.
    ids: Ids,
    newest: Option<Position>,
}

impl Reading {
    async fn read(InHand { journal, begun_before }: &InHand) -> Result<Self, JournalError> {
        Ok(Self {
            cursor: journal.ask(Query::Cursor).await?,
            begun_after: journal.ask(Query::BegunAfter).await?,
            begun_before: *begun_before,
            read_twice: journal.ask(Query::ReadTwice).await?,
            unproven: journal.ask(Query::Unproven).await?,
            ids: Ids::stored(&journal.ask(Query::SeenIds).await?, Instant::now())
                .in_blocks(&journal.newest_ids().await?),
            newest: journal.ask(Query::Newest).await?,
        })
    }
}

impl LeftOver {
    async fn read(opened: &InHand) -> Result<Self, JournalError> {
        let journal = &opened.journal;
        let mut transactions = sent_before(journal).await?;
        // Mined, and the outcome not noted any more: the lane reads their receipts again, so that
        // the outcome is what it was.
        transactions.open.extend(journal.ask(Query::UnsettledTransactions).await?);
        transactions.open.sort_by_key(|transaction| transaction.nonce);
        Ok(Self { transactions, reading: Reading::read(opened).await? })
    }
}

/// What a journal tells of transactions that earlier runs have sent.
async fn sent_before(journal: &Journal) -> Result<Recovered, JournalError> {
    Ok(Recovered {
        open: journal.ask(Query::OpenTransactions).await?,
        mined: journal.recently_mined(lane::FOLLOWED).await?,
        highest: journal.ask(Query::HighestNonce).await?,
        stranded: journal.ask(Query::StrandedTransactions).await?,
    })
}

impl Instance {
    /// Each dependency in turn: an outage is waited for and named, a contradiction refuses.
    async fn build(&mut self, config: &Config, edges: Edges) -> Result<(), BuildError> {
        let Edges { gateway: provider, connecting, core, buckets, fallback, machine: _ } = edges;
        let metrics = self.supervision.reporter.metrics.clone();
        metrics.new_generation();
        self.connect(&provider, connecting);
        let gateway = world::gateway_name(&provider);
        let dice = &self.machine.dice.clone();
        let waits = Waits::building(&self.supervision.reporter, dice);
        if let Err(error) = provider.first_attempt().await {
            waits.on(&gateway, &error.to_string());
        }
        waits.until_ready(&gateway, || world::ask_chain(&provider)).await?;
        waits.over();
        let Some(configured) = &config.wallet else {
            return self.build_observer(config, provider, (buckets, fallback)).await;
        };
        let opening = waits.until_ready("AWS KMS", || world::ask_wallet(configured, config));
        let wallet = Arc::new(opening.await?);
        wallet.count_with(&metrics);
        info!(wallet = %wallet.address(), "wallet ready");
        self.supervision.reporter.gauges.send_modify(|gauges| {
            gauges.wallet = Some(wallet.address().to_string());
        });
        let opened = self.open_journal(config, wallet.address(), &provider).await?;
        let journal = opened.journal.clone();

        let decryption = DecryptionAdapter::new(provider.clone(), addresses(config));
        let domain = world::check_decryption(&waits, &gateway, &decryption, config).await?;
        let support = self.follow_support(&waits, &gateway, &decryption).await;
        let address = wallet.address();
        let registry = world::reach_registry(&waits, &gateway, &provider, address, config).await;
        world::check_wallet(&provider, address, &journal, config).await;
        let core =
            KmsCore::new(core, domain, kms_core::Options::default(), metrics).rolling(dice.clone());
        let left = waits.for_disk(journal.path(), LeftOver::read(&opened)).await?;
        let (address, cursor) = (wallet.address(), left.reading.cursor);
        let sent = &left.transactions;
        let maybe_answered_up_to =
            past::maybe_answered_up_to(&provider, &journal, address, cursor, sent, dice).await?;
        let ground = Ground {
            provider,
            buckets,
            fallback,
            wallet,
            journal,
            decryption,
            registry,
            support,
            core,
            left,
            maybe_answered_up_to,
        };
        self.open_rooms(config, ground);
        info!("instance running");
        Ok(())
    }

    /// Has the nodes connected, and told how they are.
    fn connect(&mut self, provider: &ArbitrumProvider, connecting: Connecting) {
        let connecting = connecting(self.supervision.hearts.clone(), self.below.clone());
        self.tasks.spawn(heart::GATEWAY_CONNECTION, async move {
            connecting.await;
            Ok::<(), Infallible>(())
        });
        let reporter = self.supervision.reporter.clone();
        let following = report::follow_endpoints(provider.clone(), reporter, self.machine.clock);
        self.tasks.spawn_endless(&self.below, "endpoint health", following);
    }

    /// Which contract is deployed, now and later.
    async fn follow_support<P: ChainReader>(
        &mut self,
        waits: &Waits,
        gateway: &str,
        decryption: &DecryptionAdapter<P>,
    ) -> watch::Sender<Support> {
        let (support, _) = watch::channel(world::watch_support(waits, gateway, decryption).await);
        let (name, adapter) = (gateway.to_owned(), decryption.clone());
        let following =
            housekeeping::follow_support(name, adapter, support.clone(), self.machine.dice.clone());
        self.tasks.spawn_endless(&self.below, "contract support", following);
        support
    }

    /// Runs until a task ends by itself or hangs, or the instance is told to end.
    async fn watch(&mut self) -> Exit {
        let (stop, abort) = (self.supervision.stop.clone(), self.supervision.abort.clone());
        let hearts = self.supervision.hearts.clone();
        let condition = self.keeping.condition();
        let mut hanging = Box::pin(hearts.stopped());
        loop {
            let (task, exit) = tokio::select! {
                biased;
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
                    return Exit::failed(heart::JOURNAL, damage.cause);
                }
                Some(ended) = self.tasks.ended() => ended,
                ended = self.keeping.ended() => ended,
            };
            match exit {
                Exit::Stopped if stop.is_cancelled() => {
                    debug!(task, "task ended");
                    if task == heart::WALK {
                        return Exit::Stopped;
                    }
                }
                exit @ (Exit::Stopped
                | Exit::Refused { .. }
                | Exit::Failed { .. }
                | Exit::Panicked { .. }
                | Exit::Hung { .. }) => return self.cause(failure(task, exit)).await,
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
                    biased;
                    Some(ended) = self.tasks.ended() => ended,
                    ended = self.keeping.ended() => ended,
                };
                let panicked = matches!(other, Exit::Panicked { .. });
                if panicked || (task == heart::JOURNAL && !other.is_stopped()) {
                    return other;
                }
            }
        };
        timeout(CAUSE_DEADLINE, looking).await.unwrap_or(exit)
    }

    /// Ends what is left, from the top down; the journal last.
    async fn close(self, exit: Exit) -> Ended {
        self.below.cancel();
        if exit.is_stopped() && !self.supervision.abort.is_cancelled() {
            let ending = async { while self.tasks.ended().await.is_some() {} };
            if timeout(FLUSH_DEADLINE, ending).await.is_err() {
                warn!("some tasks did not end in time and are dropped");
            }
        }
        if !self.tasks.drop_within(DROP_DEADLINE).await {
            warn!("a task blocks its thread and is left behind");
        }
        self.keeping.close(exit, &self.machine).await
    }
}
