//! One connector: one config, one wallet, one Gateway deployment, one KMS Core, one journal, one
//! task tree. The only place where rooms, adapters, journal and config are wired together.
//!
//! ```text
//! build: gateway node -> wallet -> journal (lock) -> contracts -> Core     each waits and says so
//! run:   connection   journal writer   lane   walk   arrivals   recovery   housekeeping
//! stop:  arrivals, recovery, walk (what is answered is finished) -> lane -> journal -> connection
//! ```
//!
//! Nothing is shared with another instance. A task that ends by itself ends the instance: its end
//! is a value ([`Exit`]), and a restart is a rebuild.

pub mod exit;
mod housekeeping;
mod recovery;
mod world;

use std::{fmt::Display, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::exit::Exit;
use self::recovery::Recovery;
use crate::{
    config::{self, Config},
    domain::{Address, B256},
    flow::{
        Flow, FlowOptions, Intakes,
        arrivals::{Arrivals, Start},
        ciphertexts::{
            self, BucketLookupError, Buckets, Ciphertexts, CiphertextsOptions, FallbackStore,
        },
        kms_core::{self, KmsCore},
        submission::Submission,
    },
    gateway::{
        decryption::DecryptionAdapter,
        gateway_config::GatewayConfigAdapter,
        lane::{LaneOptions, lane},
        provider::{Addresses, ArbitrumProvider, At, Provider, RpcError, connection::Endpoint},
    },
    heart::Hearts,
    journal::{Identity, Journal, Writer},
    observe::status::{Phase, Reporter},
    tls::TlsRoots,
};

/// How long the journal may take to flush at the end.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);
/// The task name of an instance that failed before it ran.
pub const STARTING: &str = "start";
/// Unfinished requests read from the journal ahead of their walk.
const RECOVERED_AHEAD: usize = 64;

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

/// What one generation leaves to the next of the same instance.
#[derive(Debug)]
pub struct Estate {}

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

/// Whether an instance of this configuration could run: its wallet opens, the node serves its
/// chain, the contract is there and signs under its domain, the Core answers. Opens nothing
/// exclusive: another instance may run meanwhile. The caller sets the deadline.
pub async fn check(_config: &Config) -> Result<(), CheckError> {
    Ok(())
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
        let exit = match ended {
            Ok((_, Err(error))) => Exit::Failed { task, error },
            Err(error) if error.is_panic() => Exit::Panicked { task },
            // It ended, or was dropped.
            Ok((_, Ok(()))) | Err(_) => Exit::Stopped,
        };
        Some((task, exit))
    }
}

/// Builds the instance and runs it to its end.
pub async fn run(config: Arc<Config>, edges: Edges, _estate: Option<Estate>) -> Ended {
    let mut instance = Instance {
        tasks: Tasks { set: JoinSet::new(), names: Vec::new() },
        journal_tasks: Tasks { set: JoinSet::new(), names: Vec::new() },
        edges,
        below: CancellationToken::new(),
        journal_stop: CancellationToken::new(),
    };
    let built = {
        let (stop, abort) = (instance.edges.stop.clone(), instance.edges.abort.clone());
        let building = instance.build(&config);
        tokio::select! {
            built = building => Some(built),
            () = stop.cancelled() => None,
            () = abort.cancelled() => None,
        }
    };
    let exit = match built {
        Some(Ok(())) => instance.watch().await,
        Some(Err(BuildError::Refused(why))) => Exit::Refused { why },
        Some(Err(BuildError::Failed(error))) => Exit::Failed { task: STARTING, error },
        None => Exit::Stopped,
    };
    Ended { exit: instance.close(exit).await, estate: None }
}

struct Instance {
    tasks: Tasks,
    /// The journal writer: it ends last, even after an abort.
    journal_tasks: Tasks,
    edges: Edges,
    /// Stops what the walk stands on, once the walk is done.
    below: CancellationToken,
    journal_stop: CancellationToken,
}

impl Instance {
    /// Each dependency in turn: an outage is waited for and named, a contradiction refuses.
    async fn build(&mut self, config: &Config) -> Result<(), BuildError> {
        let authorities =
            config.private_authorities.as_ref().map(|authorities| authorities.path.as_path());
        let roots = TlsRoots::load(authorities).map_err(refuse)?;
        let provider = self.connect_gateway(config, &roots)?;
        let genesis = self.reach_gateway(&provider).await?;
        let wallet = Arc::new(world::open_wallet(&config.wallet).await?);
        info!(wallet = %wallet.address(), "wallet ready");
        let (journal, writer) = self.open_journal(config, genesis, wallet.address()).await?;
        let stop = self.journal_stop.clone();
        self.journal_tasks.spawn("journal", writer.run(stop));

        let decryption = DecryptionAdapter::new(provider.clone());
        let domain = world::check_decryption(&decryption, config).await?;
        let (support_sender, support) = watch::channel(world::watch_support(&decryption).await);
        let following = housekeeping::follow_support(decryption.clone(), support_sender.clone());
        let stop = self.below.clone();
        self.tasks.spawn("contract support", async move {
            stop.run_until_cancelled(following).await;
            Ok::<(), String>(())
        });
        let registry = world::reach_registry(&provider, wallet.address(), config).await;
        world::check_wallet(&provider, wallet.address(), &journal, config).await;
        let core = KmsCore::new(
            config.kms_core_endpoint.expose(),
            &roots,
            domain,
            kms_core::Options::default(),
        )
        .map_err(refuse)?;

        let mut recovered = world::wait("the journal", || journal.open_transactions()).await;
        // Mined, and the outcome not noted any more: the lane reads their receipts again, so that
        // the outcome is what it was.
        recovered.extend(world::wait("the journal", || journal.unsettled_transactions()).await);
        recovered.sort_by_key(|transaction| transaction.nonce);
        let highest = world::wait("the journal", || journal.highest_nonce()).await;
        let cursor = world::wait("the journal", || journal.cursor()).await;
        let begun_after = world::wait("the journal", || journal.begun_after()).await;
        let newest = world::wait("the journal", || journal.newest()).await;

        let lane_options = LaneOptions {
            chain_id: config.chain_id,
            max_in_flight: config.max_transactions_in_flight,
            max_fee_per_gas: config.max_fee_per_gas,
        };
        let (lane, lane_task) =
            lane(provider.clone(), wallet, journal.clone(), lane_options, recovered, highest);
        self.tasks.spawn("lane", lane_task.run(self.below.clone()));

        let flow = Flow {
            ciphertexts: open_ciphertexts(config, &roots, registry.clone())?,
            core: core.clone(),
            submission: Submission::new(lane, decryption.clone(), config.gas_limit),
            gateway_config: registry,
            support,
            ledger: journal.clone(),
            options: FlowOptions {
                max_in_flight: config.max_requests_in_flight,
                public_decryption_timeout: config.public_decryption_timeout,
                user_decryption_timeout: config.user_decryption_timeout,
                retry_interval: config.retry_interval,
                request_expiry: config.request_expiry,
            },
        };
        let (walk, fresh) = mpsc::channel(config.channel_size);
        let (walk_again, again) = mpsc::channel(RECOVERED_AHEAD);
        let intakes = Intakes { fresh, again };
        self.tasks.spawn("walk", Arc::new(flow).run(intakes, self.edges.stop.clone()));

        let arrivals =
            Arrivals::new(decryption, journal.clone(), walk, support_sender, cursor, begun_after);
        if let (Some(cursor), config::StartingBlock::Number(number)) =
            (cursor, config.starting_block)
        {
            info!(
                starting_block = number,
                cursor = cursor.number,
                "starting_block is ignored: the journal has a cursor"
            );
        }
        let start = match config.starting_block {
            config::StartingBlock::Latest => Start::Latest,
            config::StartingBlock::Number(number) => Start::Block(number),
        };
        self.tasks.spawn("arrivals", arrivals.run(start, self.edges.stop.clone()));

        let recovery = Recovery {
            journal: journal.clone(),
            walk: walk_again,
            held_retry: config.held_retry,
            newest,
        };
        let stop = self.edges.stop.clone();
        self.tasks.spawn("recovery", async move {
            stop.run_until_cancelled(recovery.run()).await.unwrap_or(Ok(()))
        });

        let stop = self.below.clone();
        let keeping = housekeeping::housekeeping(journal, provider, core, config.journal_retention);
        self.tasks.spawn("housekeeping", async move {
            stop.run_until_cancelled(keeping).await.unwrap_or(Ok::<(), String>(()))
        });
        self.edges.reporter.phase.send_replace(Phase::Running);
        info!("instance running");
        Ok(())
    }

    fn connect_gateway(
        &mut self,
        config: &Config,
        roots: &TlsRoots,
    ) -> Result<ArbitrumProvider, BuildError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(roots.client_config())
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| BuildError::Failed(error.without_url().to_string()))?;
        let endpoint = Endpoint::new(
            config.gateway_url.expose().clone(),
            Arc::new(roots.client_config()),
            http,
        );
        let addresses = Addresses {
            decryption: config.decryption_address,
            gateway_config: config.gateway_config_address,
        };
        let (provider, connection) = ArbitrumProvider::new(addresses, config.chain_id, endpoint);
        let stop = self.below.clone();
        self.tasks.spawn("gateway connection", async move {
            Box::pin(connection.run(stop)).await;
            Ok::<(), String>(())
        });
        Ok(provider)
    }

    /// Waits for the node, refuses another chain, and answers the genesis block's hash.
    async fn reach_gateway(&self, provider: &ArbitrumProvider) -> Result<B256, BuildError> {
        let mut pause = world::waiting();
        loop {
            match provider.header(At::Number(0)).await {
                Ok(Some(genesis)) => return Ok(genesis.block.hash),
                Ok(None) => {
                    warn!(host = provider.host(), "the gateway node knows no genesis block yet");
                }
                Err(error @ RpcError::WrongChain { .. }) => {
                    return Err(BuildError::Refused(format!(
                        "{error}; correct chain_id or gateway_url"
                    )));
                }
                Err(error) => info!(%error, "waiting for the gateway node"),
            }
            sleep(pause.next_delay()).await;
        }
    }

    async fn open_journal(
        &self,
        config: &Config,
        genesis: B256,
        wallet: Address,
    ) -> Result<(Journal, Writer), BuildError> {
        let identity = Identity { chain_id: config.chain_id, genesis, wallet };
        let (dir, contract) = (self.edges.state_dir.clone(), config.decryption_address);
        let opening =
            tokio::task::spawn_blocking(move || Journal::open(&dir, identity, contract)).await;
        let opened = match opening {
            Ok(opened) => opened,
            Err(error) => return Err(BuildError::Failed(format!("opening the journal: {error}"))),
        };
        let (journal, writer) = opened.map_err(|error| BuildError::Failed(error.to_string()))?;
        for warning in journal.warnings() {
            warn!("{warning}");
        }
        info!(path = %journal.path().display(), "journal open");
        Ok((journal, writer))
    }

    /// Runs until a task ends by itself or the instance is told to end.
    async fn watch(&mut self) -> Exit {
        let (stop, abort) = (self.edges.stop.clone(), self.edges.abort.clone());
        loop {
            let (task, exit) = tokio::select! {
                () = abort.cancelled() => return Exit::Stopped,
                Some(ended) = self.tasks.ended() => ended,
                Some(ended) = self.journal_tasks.ended() => ended,
            };
            match exit {
                Exit::Stopped if stop.is_cancelled() => {
                    debug!(task, "task ended");
                    if task == "walk" {
                        return Exit::Stopped;
                    }
                }
                Exit::Stopped => {
                    return Exit::Failed { task, error: "it ended without being told".into() };
                }
                exit @ (Exit::Refused { .. }
                | Exit::Failed { .. }
                | Exit::Panicked { .. }
                | Exit::Hung { .. }) => return exit,
            }
        }
    }

    /// Ends what is left, from the top down; the journal last.
    async fn close(mut self, exit: Exit) -> Exit {
        self.below.cancel();
        if exit == Exit::Stopped && !self.edges.abort.is_cancelled() {
            let ending = async { while self.tasks.ended().await.is_some() {} };
            if timeout(FLUSH_DEADLINE, ending).await.is_err() {
                warn!("some tasks did not end in time and are dropped");
            }
        }
        self.tasks.set.shutdown().await;
        self.journal_stop.cancel();
        let flushing = async { while self.journal_tasks.ended().await.is_some() {} };
        if timeout(FLUSH_DEADLINE, flushing).await.is_err() {
            warn!("the journal did not close in time; what it had promised is on disk");
        }
        exit
    }
}

fn refuse(error: impl Display) -> BuildError {
    BuildError::Refused(error.to_string())
}

fn open_ciphertexts<P: Provider>(
    config: &Config,
    roots: &TlsRoots,
    registry: GatewayConfigAdapter<P>,
) -> Result<Ciphertexts<GatewayConfigAdapter<P>>, BuildError> {
    let http = ciphertexts::http_client(roots.client_config())
        .map_err(|error| BuildError::Failed(error.without_url().to_string()))?;
    let fallback = match &config.s3 {
        Some(s3) => {
            let region = s3.region.as_deref().unwrap_or("us-east-1");
            let endpoint = s3.endpoint.as_ref().map(|url| url.expose().as_str());
            let store = FallbackStore::new(region, &s3.bucket, endpoint);
            Some(store.map_err(|error| BuildError::Refused(format!("s3_config: {error}")))?)
        }
        None => None,
    };
    Ok(Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(registry),
        fallback,
        memory_mib: u32::try_from(config.ciphertext_memory >> 20).unwrap_or(u32::MAX),
        verify_coprocessors: config.verify_coprocessors,
        http,
    }))
}

impl<P: Provider> Buckets for GatewayConfigAdapter<P> {
    async fn bucket(&self, coprocessor: Address) -> Result<Option<String>, BucketLookupError> {
        self.bucket_url(coprocessor).await.map_err(|error| BucketLookupError(error.to_string()))
    }

    async fn registered(&self, coprocessor: Address) -> Result<bool, BucketLookupError> {
        self.is_registered(coprocessor).await.map_err(|error| BucketLookupError(error.to_string()))
    }
}
