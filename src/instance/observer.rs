//! An observing instance (`mode = "observe"`): arrivals and ciphertexts only. It opens no wallet, no
//! lane and no KMS Core, so it can neither ask nor send anything.

use std::sync::Mutex;

use tokio::sync::watch;
use tracing::info;

use super::{
    BuildError, OBSERVER_WALLET, Stack,
    dependencies::{self, Expected, Waits},
    host_chains::{self, Hosts},
    journal_state::JournalPlace,
    observe_dir,
    report::ReportMode,
    rooms::{
        ChainRules, CommonParts, WalkInputs, flow_options, open_access, open_ciphertexts, whose,
    },
    stored_state::ReadingPosition,
};
use crate::{
    chain::{lane::ChainKind, provider::ArbitrumProvider},
    config::Config,
    contracts::decryption::RequestContract,
    flow::{
        self, Confirmation, DecryptionRooms, Flow, KnownSupport,
        arrivals::suspects::SuspectBlocks,
        ciphertexts::{BucketClient, FallbackStore},
    },
};

impl Stack {
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
            dependencies::node_name(&provider),
        );
        info!("mode = \"observe\": nothing is asked, signed or sent");
        let chain = ChainRules::of_gateway(config);
        let place = JournalPlace {
            dir: observe_dir(&self.supervision.state_dir, &self.supervision.name),
            keeper: self.supervision.name.clone(),
            source: chain.source,
            wallet: OBSERVER_WALLET,
            kind: ChainKind::Sequencer,
            sends: false,
        };
        let opened = self.open_journal(place, &provider).await?;
        let journal = opened.journal.clone();
        host_chains::report_last_deployment(&journal, &self.supervision.reporter).await;
        let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
        let contract = Expected::decryption(config);
        dependencies::find_contract(&waits, &gateway, &decryption, contract).await?;
        let support = self.follow_support(config, &waits, &decryption, &journal).await?;
        let registry =
            dependencies::find_registry(&waits, &gateway, &provider, OBSERVER_WALLET, config).await;
        let reading = waits.for_disk(journal.path(), ReadingPosition::read(&opened)).await?;

        let (height_sender, final_height) = watch::channel(chain.finality.final_height(0, None));
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
            decryptions: Some(Box::new(DecryptionRooms {
                access,
                ciphertexts,
                support: KnownSupport::new(support.subscribe()),
            })),
            mode: flow::Mode::Observe { observed },
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            final_height,
            ledger: journal.clone(),
            metrics,
            options: flow_options(config),
            dice: self.machine.dice.clone(),
            log_throttle: Mutex::default(),
        };
        let (walk, walk_again) = self.open_walk(config, flow);
        let mode = ReportMode::Observe { observed: count };
        let parts =
            CommonParts { chain, provider, journal, contract: decryption, support, reading };
        self.open_support(
            config,
            parts,
            mode,
            WalkInputs {
                walk,
                walk_again,
                final_height: height_sender,
                suspects,
                beside: Vec::new(),
            },
        );
        info!("instance running");
        Ok(())
    }
}
