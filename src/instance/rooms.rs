//! The rooms of a chain's stack, each in a task of its own, and their supporting tasks.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;
use tracing::debug;

use super::{
    Stack,
    dependencies::{configured_domain, request_source},
    host_chains::Hosts,
    housekeeping,
    key_requests::{ContractsBeside, KeyCircumstances, KeyContract},
    operator_requests::OperatorRequests,
    recovery::Recovery,
    report::{Report, ReportMode},
    stored_state::ReadingPosition,
    unattended::UnattendedCheck,
    wait_reasons::WaitReasons,
};
use crate::{
    chain::{
        lane::{ChainKind, Lane, LaneOptions, Recovered, lane},
        provider::ArbitrumProvider,
        reader::ChainReader,
        wallet::Wallet,
    },
    config::{self, Config},
    contracts::{
        decryption::{DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
    },
    domain::{Address, BlockRef, PerKind, RequestSource},
    flow::{
        self, AnswerStages, Confirmation, DecryptionRooms, Flow, FlowOptions, KnownSupport,
        WalkSender,
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

/// What the gateway's stack of an answering instance is made of.
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

/// What the configuration says of a chain whose requests are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainRules {
    /// What names the requests.
    pub source: RequestSource,
    pub starting_block: config::StartingBlock,
    /// The key of that value.
    pub starting_key: &'static str,
    pub finality: FinalityRule,
    /// How often its nodes are asked for their finality tag, at most.
    pub tag_interval: Duration,
    /// Whether its contract counts the requests, so that one that no node shows is noticed.
    pub has_counters: bool,
}

impl ChainRules {
    pub(super) fn of_gateway(config: &Config) -> Self {
        Self {
            source: request_source(config),
            starting_block: config.starting_block,
            starting_key: "starting_block",
            finality: finality_rule(config.finality, config.confirmations),
            tag_interval: Duration::from_secs(1),
            has_counters: true,
        }
    }

    /// `contract`: the one that asks for key operations.
    pub(super) fn of_ethereum(chain: &config::Ethereum, contract: Address) -> Self {
        Self {
            source: RequestSource { chain_id: chain.chain_id, contract },
            starting_block: chain.starting_block,
            starting_key: "ethereum_starting_block",
            finality: finality_rule(chain.finality, PerKind::all(0)),
            tag_interval: ETHEREUM_TAG_INTERVAL,
            has_counters: false,
        }
    }
}

/// The tag moves once in 6.4 minutes there.
const ETHEREUM_TAG_INTERVAL: Duration = Duration::from_secs(12);

/// What a stack is made of, whatever is asked for on its chain.
pub(super) struct CommonParts {
    pub chain: ChainRules,
    pub provider: ArbitrumProvider,
    pub journal: Journal,
    /// The contract that the chain is read for.
    pub contract: RequestContract<ArbitrumProvider>,
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
    /// Further contracts of the chain that are read: the one that asks for key operations, and the one that asks
    /// for KMS contexts and epochs.
    pub beside: Vec<KeyContract>,
}

impl Stack {
    /// Starts each room in a task of its own.
    pub(super) fn open_rooms(&mut self, config: &Config, parts: RoomParts) {
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
        let lane = self.open_lane(&common, parts.wallet, lane_options, parts.transactions);
        let beside = ContractsBeside::of(config, &common.contract);
        let key_stages = beside.generation.as_ref().map(|keys| {
            let sending = (lane.clone(), config.gas_limit);
            let agreed = KeyCircumstances {
                contexts: parts.access.options.protocol_config.clone(),
                gateway: common.support.subscribe(),
            };
            let of_core = (&metrics, agreed);
            let lifecycle = beside.lifecycle.as_ref();
            keys.stages(config, lifecycle, &parts.core, sending, of_core)
        });
        let (height_sender, final_height) =
            watch::channel(common.chain.finality.final_height(0, None));
        let suspects = SuspectBlocks::default();
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            decryptions: Some(Box::new(DecryptionRooms {
                access: parts.access,
                ciphertexts: parts.ciphertexts,
                support: KnownSupport::new(common.support.subscribe()),
            })),
            mode: flow::Mode::Answer(Box::new(AnswerStages {
                core: parts.core,
                submission: Some(Submission::new(
                    lane,
                    common.contract.clone(),
                    config.gas_limit,
                    metrics.clone(),
                )),
                gateway_config: parts.registry,
                maybe_answered_up_to: parts.maybe_answered_up_to,
                keys: key_stages.map(Box::new),
            })),
            confirmation: Confirmation::new(common.contract.clone(), suspects.clone()),
            final_height,
            ledger: common.journal.clone(),
            metrics,
            dice: self.machine.dice.clone(),
            log_throttle: Mutex::default(),
            options: flow_options(config),
        };
        let (walk, walk_again) = self.open_walk(config, flow);
        let final_height = height_sender;
        let beside = beside.into_list();
        let inputs = WalkInputs { walk, walk_again, final_height, suspects, beside };
        self.open_support(config, common, mode, inputs);
    }

    /// Starts the lane of the chain's wallet.
    pub(super) fn open_lane(
        &mut self,
        common: &CommonParts,
        wallet: Arc<Wallet>,
        options: LaneOptions,
        transactions: Recovered,
    ) -> Lane {
        let (lane, task) = lane(
            common.provider.clone(),
            wallet,
            common.journal.clone(),
            options,
            transactions,
            self.supervision.reporter.metrics.clone(),
        );
        let heart = self.supervision.heartbeats.heartbeat(heartbeat::LANE);
        let task = task.rolling(self.machine.dice.clone());
        self.tasks.spawn(heartbeat::LANE, task.run(heart, self.support_stop.clone()));
        lane
    }

    /// Starts the walks: for new requests, and for those from the journal.
    pub(super) fn open_walk(
        &mut self,
        config: &Config,
        flow: Flow<ArbitrumProvider, GatewayConfigAdapter<ArbitrumProvider>, Journal>,
    ) -> (WalkSender, WalkSender) {
        let (intakes, walk, walk_again) = walk_channels(config.channel_size, RECOVERY_QUEUE);
        let heart = self.supervision.heartbeats.heartbeat(heartbeat::WALK);
        let stop = self.supervision.stop.clone();
        self.tasks.spawn(heartbeat::WALK, Arc::new(flow).run(intakes, heart, stop));
        (walk, walk_again)
    }

    /// Starts the supporting tasks of every walk: those that feed it, maintain its journal, and report.
    pub(super) fn open_support(
        &mut self,
        config: &Config,
        parts: CommonParts,
        mode: ReportMode,
        inputs: WalkInputs,
    ) {
        let CommonParts { chain, provider, journal, contract, support, reading } = parts;
        let WalkInputs { walk, walk_again, final_height: height_sender, suspects, beside } = inputs;
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
        let mut backfill = Backfill::new(contract.clone(), journal.clone()).with_ids(ids.clone());
        let readings = beside.iter().map(KeyContract::reading).collect();
        for contract in beside {
            let (adapter, stored) = contract.reread(&journal);
            backfill = backfill.beside(adapter, stored);
            let of_chain = (chain.source, chain.starting_block);
            self.read_beside(contract, of_chain, &journal, walk.clone(), cursor);
        }
        let arrivals = Arrivals::new(
            contract.clone(),
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
        let finality = FinalityTracker::new(provider.clone(), chain.finality, height_sender, clock)
            .asking_every(chain.tag_interval);
        let tag = finality.tag();
        self.tasks.spawn_endless(&self.supervision.stop, "finality", finality.run());
        self.follow_reading(provider.clone(), progress.clone());
        let notes = arrivals.state();
        let (sight, sighted) = watch::channel(CompletenessReport::default());
        if chain.has_counters {
            let lookout = CompletenessAudit {
                adapter: contract,
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
        }
        let why = WaitReasons::new(chain.source, chain.finality, &final_height, &tag, &walk_again);
        let (heart, stop) = (hearts.heartbeat(heartbeat::ARRIVALS), self.supervision.stop.clone());
        let start = reading_start(&chain, cursor, begun_before);
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
            beside: readings,
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
fn reading_start(chain: &ChainRules, cursor: Option<BlockRef>, begun_before: Option<u64>) -> Start {
    if let (Some(cursor), config::StartingBlock::Number(number)) = (cursor, chain.starting_block) {
        debug!(
            starting_block = number,
            cursor = cursor.number,
            "{} is ignored: the journal has a cursor",
            chain.starting_key
        );
    }
    match chain.starting_block {
        config::StartingBlock::Latest => {
            begun_before.map_or(Start::Latest, |block| Start::Block(block.saturating_add(1)))
        }
        config::StartingBlock::Number(number) => Start::Block(number),
    }
}

fn finality_rule(finality: config::Finality, confirmations: PerKind<u64>) -> FinalityRule {
    let finality = match finality {
        config::Finality::Latest => FinalityTag::Latest,
        config::Finality::Safe => FinalityTag::Safe,
        config::Finality::Finalized => FinalityTag::Finalized,
    };
    FinalityRule { finality, confirmations }
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
