//! Whether an instance of a configuration could run, found without becoming one: no journal, no lock,
//! each question asked once. Another instance of the same wallet may run meanwhile.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    BuildError, CheckError,
    edges::Edges,
    report,
    world::{self, Unready},
};
use crate::{
    config::Config,
    flow::kms_core::{self, KmsCore},
    gateway::{
        decryption::DecryptionAdapter,
        provider::{Nodes, RpcError},
    },
    heart::Hearts,
    metrics::Metrics,
};

impl From<BuildError> for CheckError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Refused(why) => Self::Refused(why),
            BuildError::Failed(why) => Self::Unreachable(why),
        }
    }
}

impl CheckError {
    fn of(dependency: &str, unready: Unready) -> Self {
        match unready {
            Unready::Ever(why) => Self::Refused(why),
            Unready::Yet(why) => Self::Unreachable(format!("{dependency}: {why}")),
        }
    }
}

/// Whether an instance of this configuration could run: its wallet opens, the node serves its chain,
/// the contract signs under its domain, the Core answers. A contract that is not there yet, an empty
/// or unregistered wallet: the instance waits for those by itself.
///
/// Opens nothing exclusive: another instance may run meanwhile. The caller sets the deadline, and may
/// drop the future: nothing goes on.
pub async fn check(config: &Config) -> Result<(), CheckError> {
    let metrics = Metrics::default(); // nobody looks at them
    let Edges { gateway, connecting, core, .. } = Edges::real(config, metrics.clone())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connecting(Hearts::default(), CancellationToken::new()));
    let Some(configured) = &config.wallet else {
        let asked = ask_gateway(&gateway, config).await;
        tasks.shutdown().await;
        return asked;
    };
    let domain = world::configured_domain(config);
    let core = KmsCore::new(core, domain, kms_core::Options::default(), metrics);
    let wallet = async {
        let opened = world::ask_wallet(configured, &config.proxies).await;
        opened.map(drop).map_err(|unready| CheckError::of("AWS KMS", unready))
    };
    let answers = async {
        let asked = report::ask_core(&core).await;
        let name = report::core_name(&core);
        asked.map_err(|why| CheckError::of(&name, Unready::Yet(why.to_string())))
    };
    let (wallet, gateway, core) = tokio::join!(wallet, ask_gateway(&gateway, config), answers);
    tasks.shutdown().await;
    let mut unreachable = None;
    for found in [wallet, gateway, core] {
        match found {
            Ok(()) => {}
            Err(refused @ CheckError::Refused(_)) => return Err(refused),
            Err(error @ CheckError::Unreachable(_)) => unreachable = unreachable.or(Some(error)),
        }
    }
    unreachable.map_or(Ok(()), Err)
}

async fn ask_gateway(provider: &impl Nodes, config: &Config) -> Result<(), CheckError> {
    let asking = async {
        provider.first_attempt().await?;
        world::ask_chain(provider).await?;
        let decryption = DecryptionAdapter::new(provider.clone());
        let deployed =
            decryption.is_deployed().await.map_err(|error: RpcError| Unready::from(error))?;
        if deployed {
            world::ask_domain(&decryption, config).await?;
        }
        Ok(())
    };
    asking.await.map_err(|unready| CheckError::of(&world::gateway_name(provider), unready))
}
