//! An instance that only observes (`mode = "observe"`): rooms 1 and 2 of the same house. No wallet is
//! opened, no lane and no KMS Core, so that nothing it meets can make it ask or send anything.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tracing::info;

use super::{
    Around, BuildError, Instance, OBSERVER, Reading, Ways,
    parts::{depth, fail, intakes, open_ciphertexts},
    world::{self, Waits},
};
use crate::{
    config::Config,
    flow::{Confirmation, arrivals::suspects::Suspects, observation::Observation},
    gateway::{decryption::DecryptionAdapter, provider::ArbitrumProvider},
    heart,
    tls::TlsRoots,
};

impl Instance {
    /// From where the chain is known on.
    pub(super) async fn build_observer(
        &mut self,
        config: &Config,
        roots: TlsRoots,
        provider: ArbitrumProvider,
    ) -> Result<(), BuildError> {
        let (waits, gateway) =
            (Waits::building(&self.edges.reporter), world::gateway_name(&provider));
        info!("mode = \"observe\": nothing is asked, signed or sent");
        let journal = self.open_journal(config, OBSERVER, &provider).await?;
        let decryption = DecryptionAdapter::new(provider.clone());
        world::check_decryption(&waits, &gateway, &decryption, config).await?;
        let support = self.follow_support(&waits, &gateway, &decryption).await;
        let registry = world::find_registry(&waits, &gateway, &provider, OBSERVER, config).await;
        let reading = Reading::read(&journal).await.map_err(fail)?;

        let (ripe, _) = watch::channel(depth(config).line(0, None));
        let (observed, count) = watch::channel(0);
        let metrics = self.edges.reporter.metrics.clone();
        let suspects = Suspects::default();
        let observation = Observation {
            confirmation: Confirmation::new(decryption.clone(), suspects.clone()),
            ciphertexts: open_ciphertexts(config, &roots, registry, metrics.clone())?,
            support: support.subscribe(),
            ledger: journal.clone(),
            max_in_flight: config.max_requests_in_flight,
            retry_interval: config.retry_interval,
            metrics,
            repeats: Mutex::default(),
            observed,
        };
        let (intakes, walk, walk_again) = intakes(config);
        let (heart, stop) = (self.edges.hearts.heart(heart::WALK), self.edges.stop.clone());
        self.tasks.spawn(heart::WALK, Arc::new(observation).run(intakes, heart, stop));
        let (core, observed) = (None, Some(count));
        let (wallet, memory) = (None, None);
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
        self.open_around(config, around, Ways { walk, walk_again, ripe, suspects });
        info!("instance running");
        Ok(())
    }
}
