//! The rooms of an instance, each in a task of its own, and their supporting tasks.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tracing::debug;

use super::{
    Instance,
    dependencies::configured_domain,
    host_chains::Hosts,
    housekeeping,
    key_requests::KeyContract,
    operator_requests::OperatorRequests,
    recovery::Recovery,
    report::{Report, ReportMode},
    stored_state::ReadingPosition,
    unattended::UnattendedCheck,
    wait_reasons::WaitReasons,
};
use crate::{
    chain::{
        lane::{ChainKind, LaneOptions, Recovered, lane},
        provider::ArbitrumProvider,
        reader::ChainReader,
        wallet::Wallet,
    },
    config::{self, Config},
    contracts::{
        decryption::{DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
    },
    domain::{BlockRef, RequestSource},
    flow::{
        self, AnswerStages, Confirmation, Flow, FlowOptions, WalkReceivers, WalkSender,
        access::{Access, AccessOptions},
        arrivals::{
            Arrivals, Start,
            backfill::Backfill,
            completeness::{CompletenessAudit, CompletenessReport},
            ids::SharedIds,
            suspects::SuspectBlocks,
        },
        ciphertexts::{
            AttestationShadow, BucketClient, Ciphertexts, CiphertextsOptions, FallbackStore,
        },
        finality::{
            FinalityTracker,
            rule::{FinalHeight, FinalityRule, FinalityTag},
        },
        kms_core::KmsCore,
        submission::Submission,
        walk_channels,
    },
    journal::{Journal, Position},
    telemetry::{heartbeat, metrics::Metrics, trace_context::Whose},
    time::clock::Clock,
};

/// What an answering instance is made of.
pub(super) struct RoomParts {
    pub common: CommonParts,
    pub access: Access<ArbitrumProvider>,
    pub ciphertexts: Ciphertexts<GatewayConfigAdapter<ArbitrumProvider>>,
    pub registry: GatewayConfigAdapter<ArbitrumProvider>,
    pub core: KmsCore,
    pub wallet: Arc<Wallet>,
    /// Those that earlier runs have sent.
    pub transactions: Recovered,
    /// Requests up to this block may have been answered without this journal knowing.
    pub maybe_answered_up_to: u64,
}

/// What an instance of either mode is made of.
pub(super) struct CommonParts {
    pub provider: ArbitrumProvider,
    pub journal: Journal,
    pub decryption: RequestContract<ArbitrumProvider>,
    pub support: watch::Sender<DeploymentSupport>,
    pub reading: ReadingPosition,
}

/// The channels into a walk.
pub(super) struct WalkInputs {
    pub walk: WalkSender,
    pub walk_again: WalkSender,
    /// The final height.
    pub final_height: watch::Sender<FinalHeight>,
    /// Blocks that the walk wants to have read again.
    pub suspects: SuspectBlocks,
    /// The contract that asks for key operations, if they are served.
    pub keys: Option<KeyContract>,
}

impl Instance {
    /// Starts each room in a task of its own.
    pub(super) fn open_rooms(&mut self, config: &Config, parts: RoomParts) {
        let hearts = self.supervision.heartbeats.clone();
        let metrics = self.supervision.reporter.metrics.clone();
        let mode = ReportMode::Answer {
            wallet: parts.wallet.address(),
            core: Box::new(parts.core.clone()),
            memory: parts.ciphertexts.memory_use(),
        };
        let common = parts.common;
        let lane_options = LaneOptions {
            chain_id: config.chain_id,
            max_in_flight: config.max_transactions_in_flight,
            max_fee_per_gas: config.max_fee_per_gas,
            kind: ChainKind::Sequencer,
        };
        let (lane, lane_task) = lane(
            common.provider.clone(),
            parts.wallet,
            common.journal.clone(),
            lane_options,
            parts.transactions,
            metrics.clone(),
        );
        let heart = hearts.heartbeat(heartbeat::LANE);
        self.tasks.spawn(
            heartbeat::LANE,
            lane_task.rolling(self.machine.dice.clone()).run(heart, self.support_stop.clone()),
        );

        let keys = KeyContract::of(config, &common.decryption);
        let key_stages =
            keys.as_ref().map(|keys| keys.stages(config, &parts.core, lane.clone(), &metrics));
        let (height_sender, final_height) =
            watch::channel(configured_finality(config).final_height(0, None));
        let suspects = SuspectBlocks::default();
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            access: parts.access,
            ciphertexts: parts.ciphertexts,
            mode: flow::Mode::Answer(Box::new(AnswerStages {
                core: parts.core,
                submission: Submission::new(
                    lane,
                    common.decryption.clone(),
                    config.gas_limit,
                    metrics.clone(),
                ),
                gateway_config: parts.registry,
                maybe_answered_up_to: parts.maybe_answered_up_to,
                keys: key_stages.map(Box::new),
            })),
            confirmation: Confirmation::new(common.decryption.clone(), suspects.clone()),
            support: common.support.subscribe(),
            final_height,
            ledger: common.journal.clone(),
            metrics,
            dice: self.machine.dice.clone(),
            log_throttle: Mutex::default(),
            options: flow_options(config),
        };
        let (intakes, walk, walk_again) = open_walk_queues(config);
        let (heart, stop) = (hearts.heartbeat(heartbeat::WALK), self.supervision.stop.clone());
        self.tasks.spawn(heartbeat::WALK, Arc::new(flow).run(intakes, heart, stop));
        let inputs = WalkInputs { walk, walk_again, final_height: height_sender, suspects, keys };
        self.open_support(config, common, mode, inputs);
    }

    /// Starts the supporting tasks of every walk: those that feed it, maintain its journal, and report.
    pub(super) fn open_support(
        &mut self,
        config: &Config,
        parts: CommonParts,
        mode: ReportMode,
        inputs: WalkInputs,
    ) {
        let CommonParts { provider, journal, decryption, support, reading } = parts;
        let WalkInputs { walk, walk_again, final_height: height_sender, suspects, keys } = inputs;
        let hearts = self.supervision.heartbeats.clone();
        let final_height = height_sender.subscribe();
        let clock = self.machine.clock;
        if let Some(cursor) = reading.cursor {
            provider.resume_after(cursor);
        }
        let served = support.subscribe();
        let ReadingPosition { cursor, began_after, begun_before, newest, .. } = reading;
        let (ledger, metrics) = (journal.clone(), self.supervision.reporter.metrics.clone());
        let ids = SharedIds::new(reading.ids);
        if let Some(keys) = keys {
            let named_by = request_source(config);
            self.read_key_requests(config, keys, &journal, named_by, walk.clone(), cursor);
        }
        let backfill = Backfill::new(decryption.clone(), journal.clone()).with_ids(ids.clone());
        let arrivals = Arrivals::new(
            decryption.clone(),
            ledger.clone(),
            walk,
            support,
            cursor,
            began_after,
            metrics.clone(),
        )
        .with_suspects(suspects)
        .resuming(reading.unproven, reading.read_twice)
        .with_ids(ids.clone())
        .with_clock(clock, self.machine.dice.clone());
        let progress = arrivals.progress();
        let finality = FinalityTracker::new(
            provider.clone(),
            configured_finality(config),
            height_sender,
            clock,
        );
        let tag = finality.tag();
        self.tasks.spawn_endless(&self.supervision.stop, "finality", finality.run());
        self.follow_reading(provider.clone(), progress.clone());
        let notes = arrivals.state();
        let (sight, sighted) = watch::channel(CompletenessReport::default());
        let lookout = CompletenessAudit {
            adapter: decryption,
            ledger,
            ids,
            suspects: arrivals.suspects(),
            progress: progress.clone(),
            wallet: mode.wallet(),
            report: sight,
            metrics,
        };
        let looking = async { lookout.run().await.map(|never| match never {}) };
        self.tasks.spawn_until(&self.supervision.stop, "lookout", looking);
        let source = request_source(config);
        let why =
            WaitReasons::new(source, configured_finality(config), &final_height, &tag, &walk_again);
        let (heart, stop) = (hearts.heartbeat(heartbeat::ARRIVALS), self.supervision.stop.clone());
        let start = reading_start(config, cursor, begun_before);
        self.tasks.spawn(heartbeat::ARRIVALS, arrivals.run(start, heart, stop));

        self.start_operator_requests(OperatorRequests {
            journal: journal.clone(),
            backfill,
            walk: walk_again.clone(),
            progress: progress.clone(),
            wait_reasons: why.clone(),
            clock,
        });
        let taken = self.start_unattended_check(&journal, &walk_again, newest, &final_height);
        let recovery = Recovery {
            journal: journal.clone(),
            walk: walk_again,
            held_retry: config.held_retry,
            newest,
            recovered_up_to: taken,
            support: served,
            heart: hearts.heartbeat(heartbeat::RECOVERY),
        };
        self.tasks.spawn_until(&self.supervision.stop, heartbeat::RECOVERY, recovery.run());

        self.start_housekeeping(config, journal.clone(), provider.clone());

        let (reporter, dice) = (self.supervision.reporter.clone(), self.machine.dice.clone());
        let report = Report {
            reporter,
            clock,
            dice,
            provider,
            mode,
            journal,
            progress,
            wait_reasons: why,
            notes,
            tag,
            completeness: sighted,
        };
        let reporting = report.run(hearts.heartbeat(heartbeat::REPORT));
        self.tasks.spawn_until(&self.support_stop, heartbeat::REPORT, reporting);
    }

    /// Answers questions about requests until the journal closes.
    fn start_operator_requests(&mut self, requests: OperatorRequests<ArbitrumProvider>) {
        let answering = requests.run(self.supervision.reporter.inbox.clone());
        self.tasks.spawn_endless(&self.support_stop, "inquiries", answering);
    }

    /// Prunes the journal and does other slow chores.
    fn start_housekeeping(
        &mut self,
        config: &Config,
        journal: Journal,
        provider: ArbitrumProvider,
    ) {
        let heart = self.supervision.heartbeats.heartbeat(heartbeat::HOUSEKEEPING);
        let (retention, clock) = (config.journal_retention, self.machine.clock);
        let chores = housekeeping::housekeeping(journal, provider, retention, clock, heart);
        self.tasks.spawn_until(&self.support_stop, heartbeat::HOUSEKEEPING, chores);
    }

    /// Looks for unattended requests. Recovery reports its position to this task.
    fn start_unattended_check(
        &mut self,
        journal: &Journal,
        walk: &WalkSender,
        newest: Option<Position>,
        final_height: &watch::Receiver<FinalHeight>,
    ) -> watch::Sender<Option<Position>> {
        let (taken, taken_up_to) = watch::channel(None);
        let attendance = UnattendedCheck {
            journal: journal.clone(),
            walk: walk.clone(),
            newest,
            recovered_up_to: taken_up_to,
            final_height: final_height.clone(),
            metrics: self.supervision.reporter.metrics.clone(),
        };
        self.tasks.spawn_until(&self.supervision.stop, "attendance", attendance.run());
        taken
    }

    /// Uses the blocks read to distinguish nodes of this chain from nodes of other chains.
    fn follow_reading(
        &mut self,
        provider: ArbitrumProvider,
        mut progress: watch::Receiver<Option<BlockRef>>,
    ) {
        let following = async move {
            while progress.changed().await.is_ok() {
                let read = *progress.borrow_and_update();
                if let Some(block) = read {
                    provider.note_read_up_to(block).await;
                }
            }
            // Reading has ended: the instance is about to end.
            std::future::pending::<()>().await;
        };
        self.tasks.spawn_endless(&self.support_stop, "known blocks", following);
    }
}

/// Unfinished requests read from the journal ahead of their walk.
const RECOVERY_QUEUE: usize = 64;

/// The channels of a walk.
pub(super) fn open_walk_queues(config: &Config) -> (WalkReceivers, WalkSender, WalkSender) {
    walk_channels(config.channel_size, RECOVERY_QUEUE)
}

pub(super) fn flow_options(config: &Config) -> FlowOptions {
    FlowOptions {
        max_in_flight: config.max_requests_in_flight,
        answer_timeout: config.answer_timeout,
        retry_interval: config.retry_interval,
        request_expiry: config.request_expiry,
    }
}

/// Where reading begins if the journal does not say. `begun_before`: where an abandoned journal of the
/// same chain had begun.
fn reading_start(config: &Config, cursor: Option<BlockRef>, begun_before: Option<u64>) -> Start {
    if let (Some(cursor), config::StartingBlock::Number(number)) = (cursor, config.starting_block) {
        debug!(
            starting_block = number,
            cursor = cursor.number,
            "starting_block is ignored: the journal has a cursor"
        );
    }
    match config.starting_block {
        config::StartingBlock::Latest => {
            begun_before.map_or(Start::Latest, |block| Start::Block(block.saturating_add(1)))
        }
        config::StartingBlock::Number(number) => Start::Block(number),
    }
}

/// What names the requests of this configuration.
fn request_source(config: &Config) -> RequestSource {
    RequestSource { chain_id: config.chain_id, contract: config.decryption_address }
}

pub(super) fn configured_finality(config: &Config) -> FinalityRule {
    FinalityRule {
        finality: match config.finality {
            config::Finality::Latest => FinalityTag::Latest,
            config::Finality::Safe => FinalityTag::Safe,
            config::Finality::Finalized => FinalityTag::Finalized,
        },
        confirmations: config.confirmations,
    }
}

/// The access check.
pub(super) fn open_access<P>(
    config: &Config,
    hosts: Hosts<P>,
    (gateway, registry): (RequestContract<P>, GatewayConfigAdapter<P>),
    (clock, metrics): (Clock, Metrics),
) -> Access<P> {
    Access::new(AccessOptions {
        hosts: hosts.chains,
        protocol_config: hosts.protocol_config,
        gateway,
        registry,
        domain: configured_domain(config),
        clock,
        metrics,
    })
}

pub(super) fn open_ciphertexts<P: ChainReader>(
    config: &Config,
    http: BucketClient,
    fallback: Option<FallbackStore>,
    registry: GatewayConfigAdapter<P>,
    metrics: Metrics,
) -> (Ciphertexts<GatewayConfigAdapter<P>>, AttestationShadow<GatewayConfigAdapter<P>>) {
    Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(registry),
        fallback,
        memory_mib: u32::try_from(config.ciphertext_memory >> 20).unwrap_or(u32::MAX),
        verify_coprocessors: config.verify_coprocessors,
        http,
        metrics,
    })
    .shadowed()
}

/// The instance's identity in traces.
pub(super) fn whose(name: &str, config: &Config) -> Whose {
    let service_name = config.given_service_name().map(str::to_owned);
    Whose { instance: name.to_owned(), service_name }
}
