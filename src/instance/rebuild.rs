//! A journal made anew for a configuration, found without becoming an instance: the node tells which
//! journal it is and where the chain stands, the journal does the rest.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    BuildError, OBSERVER,
    edges::Edges,
    world::{self, Unready},
};
use crate::{
    config::Config,
    domain::BlockRef,
    gateway::provider::{At, Nodes, RpcError},
    heart::Hearts,
    journal::{self, Identity, OpenError, Rebuilt},
    machine::Machine,
    metrics::Metrics,
};

/// How long node and wallet are asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what the nodes say of the chain.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Why nothing was rebuilt. What was there before is there still.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("{0}")]
    Configuration(String),
    #[error("{0}; nothing was changed")]
    Unreachable(String),
    #[error("the chain has no block {from} yet, its last one is {head}; nothing was changed")]
    NoSuchBlock { from: u64, head: u64 },
    #[error(transparent)]
    Journal(#[from] OpenError),
}

impl From<BuildError> for RebuildError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Refused(why) => Self::Configuration(why),
            BuildError::Failed(why) => Self::Unreachable(why),
        }
    }
}

/// Makes the journal of this configuration anew, so that the chain is read from block `from` on.
pub async fn rebuild(
    config: &Config,
    state_dir: PathBuf,
    from: u64,
) -> Result<Rebuilt, RebuildError> {
    let Edges { gateway: provider, connecting, machine, .. } =
        Edges::real(config, Metrics::default())?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connecting(Hearts::default(), CancellationToken::new()));
    let name = world::gateway_name(&provider);
    let asked = timeout(PATIENCE, ask(&provider, &machine, config, &state_dir, from)).await;
    tasks.shutdown().await;
    let late = |_| RebuildError::Unreachable(format!("{name}: no answer in {PATIENCE:?}"));
    let (identity, cursor) = asked.map_err(late)?.map_err(|refused| match refused {
        Refused::Unready(on, Unready::Ever(why)) => {
            RebuildError::Configuration(format!("{}: {why}", on.unwrap_or(name)))
        }
        Refused::Unready(on, Unready::Yet(why)) => {
            RebuildError::Unreachable(format!("{}: {why}", on.unwrap_or(name)))
        }
        Refused::NoSuchBlock { head } => RebuildError::NoSuchBlock { from, head },
    })?;
    let contract = config.decryption_address;
    let rebuilding = machine.run(move || journal::rebuild(&state_dir, identity, contract, cursor));
    let ending = || RebuildError::Unreachable("the process is ending".to_owned());
    Ok(rebuilding.await.ok_or_else(ending)??)
}

/// Why it is not known what to rebuild.
enum Refused {
    /// By another than the gateway node, if named.
    Unready(Option<String>, Unready),
    NoSuchBlock {
        head: u64,
    },
}

impl From<RpcError> for Refused {
    fn from(error: RpcError) -> Self {
        Self::Unready(None, error.into())
    }
}

impl From<Unready> for Refused {
    fn from(unready: Unready) -> Self {
        Self::Unready(None, unready)
    }
}

/// Whose journal it is, and the block before the first one to be read.
async fn ask(
    provider: &impl Nodes,
    machine: &Machine,
    config: &Config,
    state_dir: &Path,
    from: u64,
) -> Result<(Identity, BlockRef), Refused> {
    let wallet = match &config.wallet {
        None => OBSERVER,
        Some(configured) => {
            let opened = world::ask_wallet(configured, &config.proxies).await;
            let refused = |unready| Refused::Unready(Some("the wallet".to_owned()), unready);
            opened.map_err(refused)?.address()
        }
    };
    let begun = Instant::now();
    provider.first_attempt().await?;
    let known = world::ask_beginnings(machine, config.chain_id, state_dir, wallet, "").await;
    let known = known.map_err(|why| {
        Refused::Unready(Some("the state directory".to_owned()), Unready::Yet(why))
    })?;
    let genesis = loop {
        match world::settle_genesis(provider, &known).await {
            Ok(genesis) => break genesis,
            Err(Unready::Yet(_)) if begun.elapsed() < PATIENCE / 2 => sleep(AGAIN_AFTER).await,
            Err(unready) => return Err(unready.into()),
        }
    };
    let identity = Identity { chain_id: config.chain_id, genesis, wallet };
    let before = from.saturating_sub(1);
    let Some(cursor) = provider.header(At::Number(before)).await? else {
        let head = provider.header(At::Latest).await?.map_or(0, |head| head.block.number);
        return Err(Refused::NoSuchBlock { head });
    };
    Ok((identity, cursor.block))
}
