//! The rooms of an instance, each in a task of its own, and their supporting tasks.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{
    Instance, ReadingPosition, StoredState, housekeeping,
    operator_requests::OperatorRequests,
    parts::{
        configured_finality, flow_options, open_ciphertexts, open_walk_queues, reading_start, whose,
    },
    recovery::Recovery,
    report::{Report, ReportMode},
    unattended::UnattendedCheck,
    wait_reasons::WaitReasons,
};
use crate::{
    chain::{
        lane::{LaneOptions, lane},
        provider::ArbitrumProvider,
        wallet::Wallet,
    },
    config::Config,
    contracts::{
        decryption::{DecryptionAdapter, DeploymentSupport},
        gateway_config::GatewayConfigAdapter,
    },
    domain::{BlockRef, RequestSource},
    flow::{
        self, AnswerStages, Confirmation, Flow, WalkSender,
        arrivals::{
            Arrivals,
            backfill::Backfill,
            completeness::{CompletenessAudit, CompletenessReport},
            ids::SharedIds,
            suspects::SuspectBlocks,
        },
        ciphertexts::{BucketClient, FallbackStore},
        finality::{FinalityTracker, rule::FinalHeight},
        kms_core::KmsCore,
        submission::Submission,
    },
    journal::{Journal, Position},
    telemetry::heartbeat,
};

/// What the rooms are made of.
pub(super) struct RoomParts {
    pub provider: ArbitrumProvider,
    pub buckets: BucketClient,
    pub fallback: Option<FallbackStore>,
    pub wallet: Arc<Wallet>,
    pub journal: Journal,
    pub decryption: DecryptionAdapter<ArbitrumProvider>,
    pub registry: GatewayConfigAdapter<ArbitrumProvider>,
    pub support: watch::Sender<DeploymentSupport>,
    pub core: KmsCore,
    pub stored: StoredState,
    /// Requests up to this block may have been answered without this journal knowing.
    pub maybe_answered_up_to: u64,
}

/// What the supporting tasks of a walk are made of.
pub(super) struct SupportParts {
    pub provider: ArbitrumProvider,
    pub journal: Journal,
    pub decryption: DecryptionAdapter<ArbitrumProvider>,
    pub support: watch::Sender<DeploymentSupport>,
    pub reading: ReadingPosition,
    pub mode: ReportMode,
}

/// The channels into a walk.
pub(super) struct WalkInputs {
    pub walk: WalkSender,
    pub walk_again: WalkSender,
    /// The final height.
    pub final_height: watch::Sender<FinalHeight>,
    /// Blocks that the walk wants to have read again.
    pub suspects: SuspectBlocks,
}

impl Instance {
    /// Starts each room in a task of its own.
    pub(super) fn open_rooms(&mut self, config: &Config, parts: RoomParts) {
        let RoomParts {
            provider,
            buckets,
            fallback,
            wallet,
            journal,
            decryption,
            registry,
            support,
            core,
            stored: left,
            maybe_answered_up_to,
        } = parts;
        let hearts = self.supervision.heartbeats.clone();
        let metrics = self.supervision.reporter.metrics.clone();
        let address = wallet.address();
        let ciphertexts =
            open_ciphertexts(config, buckets, fallback, registry.clone(), metrics.clone());
        let memory = ciphertexts.memory_use();
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
        let heart = hearts.heartbeat(heartbeat::LANE);
        self.tasks.spawn(
            heartbeat::LANE,
            lane_task.rolling(self.machine.dice.clone()).run(heart, self.support_stop.clone()),
        );

        let (height_sender, final_height) =
            watch::channel(configured_finality(config).final_height(0, None));
        let suspects = SuspectBlocks::default();
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            ciphertexts,
            mode: flow::Mode::Answer(Box::new(AnswerStages {
                core: core.clone(),
                submission: Submission::new(
                    lane,
                    decryption.clone(),
                    config.gas_limit,
                    metrics.clone(),
                ),
                gateway_config: registry,
                maybe_answered_up_to,
            })),
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            support: support.subscribe(),
            final_height,
            ledger: journal.clone(),
            metrics: metrics.clone(),
            dice: self.machine.dice.clone(),
            log_throttle: Mutex::default(),
            options: flow_options(config),
        };
        let (intakes, walk, walk_again) = open_walk_queues(config);
        let (heart, stop) = (hearts.heartbeat(heartbeat::WALK), self.supervision.stop.clone());
        self.tasks.spawn(heartbeat::WALK, Arc::new(flow).run(intakes, heart, stop));
        let mode = ReportMode::Answer { wallet: address, core: Box::new(core), memory };
        let inputs = WalkInputs { walk, walk_again, final_height: height_sender, suspects };
        let reading = left.reading;
        let parts = SupportParts { provider, journal, decryption, support, reading, mode };
        self.open_support(config, parts, inputs);
    }

    /// Starts the supporting tasks of every walk: those that feed it, maintain its journal, and report.
    pub(super) fn open_support(
        &mut self,
        config: &Config,
        parts: SupportParts,
        inputs: WalkInputs,
    ) {
        let SupportParts { provider, journal, decryption, support, reading, mode } = parts;
        let WalkInputs { walk, walk_again, final_height, suspects } = inputs;
        let (hearts, line) = (self.supervision.heartbeats.clone(), final_height.subscribe());
        let clock = self.machine.clock;
        if let Some(cursor) = reading.cursor {
            provider.resume_after(cursor);
        }
        let served = support.subscribe();
        let ReadingPosition { cursor, began_after, begun_before, newest, .. } = reading;
        let (ledger, metrics) = (journal.clone(), self.supervision.reporter.metrics.clone());
        let ids = SharedIds::new(reading.ids);
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
            final_height,
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
        let (chain_id, contract) = (config.chain_id, config.decryption_address);
        let source = RequestSource { chain_id, contract };
        let why = WaitReasons::new(source, configured_finality(config), &line, &tag, &walk_again);
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
        let taken = self.start_unattended_check(&journal, &walk_again, newest, &line);
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
        line: &watch::Receiver<FinalHeight>,
    ) -> watch::Sender<Option<Position>> {
        let (taken, taken_up_to) = watch::channel(None);
        let attendance = UnattendedCheck {
            journal: journal.clone(),
            walk: walk.clone(),
            newest,
            recovered_up_to: taken_up_to,
            final_height: line.clone(),
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
