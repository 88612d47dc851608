//! The rooms of an instance, each in a task of its own, and what stands around them.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{
    Instance, LeftOver, Reading,
    attendance::Attendance,
    housekeeping,
    inquiries::Inquiries,
    parts::{depth, flow_options, intakes, open_ciphertexts, start, whose},
    recovery::Recovery,
    report::{Mode, Report},
    why::Why,
};
use crate::{
    config::Config,
    domain::{BlockRef, Source},
    flow::{
        self, Confirmation, Entrance, Flow, Rooms,
        arrivals::{
            Arrivals,
            backfill::Backfill,
            ids::SharedIds,
            lookout::{Lookout, Sight},
            suspects::Suspects,
        },
        ciphertexts::{BucketClient, FallbackStore},
        depth::Line,
        finality::Finality,
        kms_core::KmsCore,
        submission::Submission,
    },
    gateway::{
        decryption::{DecryptionAdapter, Support},
        gateway_config::GatewayConfigAdapter,
        lane::{LaneOptions, lane},
        provider::ArbitrumProvider,
        wallet::Wallet,
    },
    heart,
    journal::{Journal, Position},
};

/// What the rooms are made of.
pub(super) struct Ground {
    pub provider: ArbitrumProvider,
    pub buckets: BucketClient,
    pub fallback: Option<FallbackStore>,
    pub wallet: Arc<Wallet>,
    pub journal: Journal,
    pub decryption: DecryptionAdapter<ArbitrumProvider>,
    pub registry: GatewayConfigAdapter<ArbitrumProvider>,
    pub support: watch::Sender<Support>,
    pub core: KmsCore,
    pub left: LeftOver,
    /// Requests of earlier blocks may have been answered without this journal.
    pub maybe_answered_up_to: u64,
}

/// What stands around a walk is made of these.
pub(super) struct Around {
    pub provider: ArbitrumProvider,
    pub journal: Journal,
    pub decryption: DecryptionAdapter<ArbitrumProvider>,
    pub support: watch::Sender<Support>,
    pub reading: Reading,
    pub mode: Mode,
}

/// The ways into a walk.
pub(super) struct Ways {
    pub walk: Entrance,
    pub walk_again: Entrance,
    /// Up to which block.
    pub ripe: watch::Sender<Line>,
    /// Blocks the walk wants to be read again.
    pub suspects: Suspects,
}

impl Instance {
    /// Each room in a task of its own.
    pub(super) fn open_rooms(&mut self, config: &Config, ground: Ground) {
        let Ground {
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
        } = ground;
        let hearts = self.supervision.hearts.clone();
        let metrics = self.supervision.reporter.metrics.clone();
        let address = wallet.address();
        let ciphertexts =
            open_ciphertexts(config, buckets, fallback, registry.clone(), metrics.clone());
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
        self.tasks.spawn(
            heart::LANE,
            lane_task.rolling(self.machine.dice.clone()).run(heart, self.below.clone()),
        );

        let (ripe, ripe_up_to) = watch::channel(depth(config).line(0, None));
        let suspects = Suspects::default();
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            ciphertexts,
            mode: flow::Mode::Answer(Box::new(Rooms {
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
            line: ripe_up_to,
            ledger: journal.clone(),
            metrics: metrics.clone(),
            dice: self.machine.dice.clone(),
            repeats: Mutex::default(),
            options: flow_options(config),
        };
        let (intakes, walk, walk_again) = intakes(config);
        let (heart, stop) = (hearts.heart(heart::WALK), self.supervision.stop.clone());
        self.tasks.spawn(heart::WALK, Arc::new(flow).run(intakes, heart, stop));
        let mode = Mode::Answer { wallet: address, core: Box::new(core), memory };
        let ways = Ways { walk, walk_again, ripe, suspects };
        let reading = left.reading;
        let around = Around { provider, journal, decryption, support, reading, mode };
        self.open_around(config, around, ways);
    }

    /// What stands around every walk: who brings it requests, who looks after its journal, who tells.
    pub(super) fn open_around(&mut self, config: &Config, around: Around, ways: Ways) {
        let Around { provider, journal, decryption, support, reading, mode } = around;
        let Ways { walk, walk_again, ripe, suspects } = ways;
        let (hearts, ripe_up_to) = (self.supervision.hearts.clone(), ripe.subscribe());
        let clock = self.machine.clock;
        if let Some(cursor) = reading.cursor {
            provider.begin_after(cursor);
        }
        let served = support.subscribe();
        let Reading { cursor, begun_after, begun_before, read_twice, unproven, newest, ids } =
            reading;
        let (ledger, metrics) = (journal.clone(), self.supervision.reporter.metrics.clone());
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
        .knowing(ids.clone())
        .by(clock, self.machine.dice.clone());
        let progress = arrivals.progress();
        let finality = Finality::new(provider.clone(), depth(config), ripe, clock);
        let tag = finality.tag();
        self.tasks.spawn_endless(&self.supervision.stop, "finality", finality.run());
        // It is built again then, with the journal of the chain that there is.
        let asked = provider.clone();
        self.tasks.spawn_until(&self.below, "chain", async move { Err(asked.made_anew().await) });
        self.follow_reading(provider.clone(), progress.clone());
        let notes = arrivals.notes();
        let (sight, sighted) = watch::channel(Sight::default());
        let lookout = Lookout {
            adapter: decryption,
            ledger,
            ids,
            suspects: arrivals.suspects(),
            progress: progress.clone(),
            wallet: mode.wallet(),
            sight,
            metrics,
        };
        let looking = async { lookout.run().await.map(|never| match never {}) };
        self.tasks.spawn_until(&self.supervision.stop, "lookout", looking);
        let (chain_id, contract) = (config.chain_id, config.decryption_address);
        let source = Source { chain_id, contract };
        let why = Why::new(source, depth(config), &ripe_up_to, &tag, &walk_again);
        let (heart, stop) = (hearts.heart(heart::ARRIVALS), self.supervision.stop.clone());
        let start = start(config, cursor, begun_before);
        self.tasks.spawn(heart::ARRIVALS, arrivals.run(start, heart, stop));

        let inquiries = Inquiries {
            journal: journal.clone(),
            backfill,
            walk: walk_again.clone(),
            progress: progress.clone(),
            why: why.clone(),
            clock,
        };
        // Who asks for requests is answered until the journal closes.
        let answering = inquiries.run(self.supervision.reporter.desk.clone());
        self.tasks.spawn_endless(&self.below, "inquiries", answering);

        let taken = self.attend(&journal, &walk_again, newest, &ripe_up_to);
        let recovery = Recovery {
            journal: journal.clone(),
            walk: walk_again,
            held_retry: config.held_retry,
            newest,
            taken,
            support: served,
            heart: hearts.heart(heart::RECOVERY),
        };
        self.tasks.spawn_until(&self.supervision.stop, heart::RECOVERY, recovery.run());

        let (heart, retention) = (hearts.heart(heart::HOUSEKEEPING), config.journal_retention);
        let keeping =
            housekeeping::housekeeping(journal.clone(), provider.clone(), retention, clock, heart);
        self.tasks.spawn_until(&self.below, heart::HOUSEKEEPING, keeping);

        let (reporter, dice) = (self.supervision.reporter.clone(), self.machine.dice.clone());
        let report = Report {
            reporter,
            clock,
            dice,
            provider,
            mode,
            journal,
            progress,
            why,
            notes,
            tag,
            sighted,
        };
        let reporting = report.run(hearts.heart(heart::REPORT));
        self.tasks.spawn_until(&self.below, heart::REPORT, reporting);
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
            metrics: self.supervision.reporter.metrics.clone(),
        };
        self.tasks.spawn_until(&self.supervision.stop, "attendance", attendance.run());
        taken
    }

    /// By what was read nodes are told from those of other chains.
    fn follow_reading(
        &mut self,
        provider: ArbitrumProvider,
        mut progress: watch::Receiver<Option<BlockRef>>,
    ) {
        let following = async move {
            while progress.changed().await.is_ok() {
                let read = *progress.borrow_and_update();
                if let Some(block) = read {
                    provider.read_up_to(block).await;
                }
            }
            // Nothing is read any more: the instance is about to end.
            std::future::pending::<()>().await;
        };
        self.tasks.spawn_endless(&self.below, "known blocks", following);
    }
}
