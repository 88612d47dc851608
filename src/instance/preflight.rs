//! Checks whether an instance of a configuration could run, without building one: no journal, no lock,
//! each question asked once. Another instance of the same wallet may run meanwhile.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{PreflightError, Unready, dependencies, edges::Edges, report};
use crate::{
    chain::provider::ArbitrumProvider,
    config::Config,
    contracts::decryption::DecryptionAdapter,
    flow::kms_core::{self, KmsCore},
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
};

/// Checks whether an instance of this configuration could run: its wallet opens, the node serves its
/// chain, the contract has the configured EIP-712 domain, the Core answers. An absent contract and an
/// empty or unregistered wallet pass, because a running instance waits for those by itself.
///
/// Opens nothing exclusive, so another instance may run meanwhile. The caller sets the deadline and may
/// drop the future; nothing keeps running.
pub async fn preflight(config: &Config) -> Result<(), PreflightError> {
    let metrics = Metrics::default(); // not exported
    let Edges { gateway, connecting, core, .. } = Edges::for_config(config, &metrics)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connecting(Heartbeats::default(), CancellationToken::new()));
    let Some(configured) = &config.wallet else {
        let asked = ask_gateway(&gateway, config).await;
        tasks.shutdown().await;
        return asked;
    };
    let domain = dependencies::configured_domain(config);
    let core = KmsCore::new(core, domain, kms_core::Options::default(), metrics);
    let wallet = async {
        let opened = dependencies::ask_wallet(configured, config).await;
        opened.map(drop).map_err(|cause| outside("AWS KMS".to_owned(), cause))
    };
    let answers = async {
        let asked = report::ask_core(&core).await;
        asked.map_err(|cause| outside(report::core_name(&core), cause.into()))
    };
    let (wallet, gateway, core) = tokio::join!(wallet, ask_gateway(&gateway, config), answers);
    tasks.shutdown().await;
    let found = [wallet, gateway, core].map(Result::err).into_iter().flatten();
    // A contradiction is more specific than a dependency that does not answer.
    found.max_by_key(PreflightError::is_refusal).map_or(Ok(()), Err)
}

fn outside(on: String, cause: Unready) -> PreflightError {
    PreflightError::Outside { on, cause }
}

async fn ask_gateway(provider: &ArbitrumProvider, config: &Config) -> Result<(), PreflightError> {
    let asking = async {
        provider.first_attempt().await?;
        dependencies::ask_chain(provider).await?;
        let decryption = DecryptionAdapter::new(provider.clone(), dependencies::addresses(config));
        if decryption.is_deployed().await? {
            dependencies::ask_domain(&decryption, config).await?;
        }
        Ok(())
    };
    asking.await.map_err(|cause: Unready| outside(dependencies::gateway_name(provider), cause))
}
