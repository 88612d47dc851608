//! An observing instance (`mode = "observe"`): arrivals and ciphertexts only. It opens no wallet, no
//! lane and no KMS Core, so it can neither ask nor send anything.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tracing::info;

use super::{
    BuildError, Instance, OBSERVER_WALLET,
    dependencies::{self, Waits},
    host_chains::{self, Hosts},
    report::ReportMode,
    rooms::{
        CommonParts, WalkInputs, configured_finality, flow_options, open_access, open_ciphertexts,
        open_walk_queues, whose,
    },
    stored_state::ReadingPosition,
};
use crate::{
    chain::provider::ArbitrumProvider,
    config::Config,
    contracts::decryption::RequestContract,
    flow::{
        self, Confirmation, Flow,
        arrivals::suspects::SuspectBlocks,
        ciphertexts::{BucketClient, FallbackStore},
    },
    telemetry::heartbeat,
};

impl Instance {
    /// Builds the observing instance, once its chain is known.
    pub(super) async fn build_observer(
        &mut self,
        config: &Config,
        provider: ArbitrumProvider,
        (buckets, fallback): (BucketClient, Option<FallbackStore>),
        hosts: Hosts<ArbitrumProvider>,
    ) -> Result<(), BuildError> {
        let (waits, gateway) = (
            Waits::building(&self.supervision.reporter, &self.machine.dice),
            dependencies::gateway_name(&provider),
        );
        info!("mode = \"observe\": nothing is asked, signed or sent");
        let opened = self.open_journal(config, OBSERVER_WALLET, &provider).await?;
        let journal = opened.journal.clone();
        host_chains::report_last_deployment(&journal, &self.supervision.reporter).await;
        let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
        dependencies::check_decryption(&waits, &gateway, &decryption, config).await?;
        let support = self.follow_support(config, &waits, &decryption, &journal).await;
        let registry =
            dependencies::find_registry(&waits, &gateway, &provider, OBSERVER_WALLET, config).await;
        let reading = waits.for_disk(journal.path(), ReadingPosition::read(&opened)).await?;

        let (height_sender, final_height) =
            watch::channel(configured_finality(config).final_height(0, None));
        let (observed, count) = watch::channel(0);
        let metrics = self.supervision.reporter.metrics.clone();
        let suspects = SuspectBlocks::default();
        let access = open_access(
            config,
            hosts,
            (decryption.clone(), registry.clone()),
            (self.machine.clock, metrics.clone()),
        );
        let (ciphertexts, shadow) =
            open_ciphertexts(config, buckets, fallback, registry, metrics.clone());
        self.tasks.spawn_endless(&self.supervision.stop, "attestation shadow", shadow.run());
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            access,
            ciphertexts,
            mode: flow::Mode::Observe { observed },
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            support: support.subscribe(),
            final_height,
            ledger: journal.clone(),
            metrics,
            options: flow_options(config),
            dice: self.machine.dice.clone(),
            log_throttle: Mutex::default(),
        };
        let (intakes, walk, walk_again) = open_walk_queues(config);
        let (heart, stop) =
            (self.supervision.heartbeats.heartbeat(heartbeat::WALK), self.supervision.stop.clone());
        self.tasks.spawn(heartbeat::WALK, Arc::new(flow).run(intakes, heart, stop));
        let mode = ReportMode::Observe { observed: count };
        let parts = CommonParts { provider, journal, decryption, support, reading };
        self.open_support(
            config,
            parts,
            mode,
            WalkInputs { walk, walk_again, final_height: height_sender, suspects, keys: None },
        );
        info!("instance running");
        Ok(())
    }
}
