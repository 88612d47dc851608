//! An instance that only observes (`mode = "observe"`): rooms 1 and 2 of the same house. No wallet is
//! opened, no lane and no KMS Core, so that nothing it meets can make it ask or send anything.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tracing::info;

use super::{
    Around, BuildError, Instance, OBSERVER, Reading, Ways,
    parts::{addresses, depth, flow_options, intakes, open_ciphertexts, whose},
    report::Mode,
    world::{self, Waits},
};
use crate::{
    config::Config,
    flow::{
        self, Confirmation, Flow,
        arrivals::suspects::Suspects,
        ciphertexts::{BucketClient, FallbackStore},
    },
    gateway::{decryption::DecryptionAdapter, provider::ArbitrumProvider},
    heart,
};

impl Instance {
    /// From where the chain is known on.
    pub(super) async fn build_observer(
        &mut self,
        config: &Config,
        provider: ArbitrumProvider,
        (buckets, fallback): (BucketClient, Option<FallbackStore>),
    ) -> Result<(), BuildError> {
        let (waits, gateway) = (
            Waits::building(&self.supervision.reporter, &self.machine.dice),
            world::gateway_name(&provider),
        );
        info!("mode = \"observe\": nothing is asked, signed or sent");
        let opened = self.open_journal(config, OBSERVER, &provider).await?;
        let journal = opened.journal.clone();
        let decryption = DecryptionAdapter::new(provider.clone(), addresses(config));
        world::check_decryption(&waits, &gateway, &decryption, config).await?;
        let support = self.follow_support(&waits, &gateway, &decryption).await;
        let registry = world::find_registry(&waits, &gateway, &provider, OBSERVER, config).await;
        let reading = waits.for_disk(journal.path(), Reading::read(&opened)).await?;

        let (ripe, ripe_up_to) = watch::channel(depth(config).line(0, None));
        let (observed, count) = watch::channel(0);
        let metrics = self.supervision.reporter.metrics.clone();
        let suspects = Suspects::default();
        let ciphertexts = open_ciphertexts(config, buckets, fallback, registry, metrics.clone());
        let flow = Flow {
            whose: whose(&self.supervision.name, config),
            ciphertexts,
            mode: flow::Mode::Observe { observed },
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            support: support.subscribe(),
            line: ripe_up_to,
            ledger: journal.clone(),
            metrics,
            options: flow_options(config),
            dice: self.machine.dice.clone(),
            repeats: Mutex::default(),
        };
        let (intakes, walk, walk_again) = intakes(config);
        let (heart, stop) =
            (self.supervision.hearts.heart(heart::WALK), self.supervision.stop.clone());
        self.tasks.spawn(heart::WALK, Arc::new(flow).run(intakes, heart, stop));
        let mode = Mode::Observe { observed: count };
        let around = Around { provider, journal, decryption, support, reading, mode };
        self.open_around(config, around, Ways { walk, walk_again, ripe, suspects });
        info!("instance running");
        Ok(())
    }
}
