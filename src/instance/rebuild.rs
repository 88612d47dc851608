//! Recreates the journal of a configuration without building an instance: the node tells which chain
//! (and so which journal) is meant and where the head is; the journal does the rest.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{BuildError, OBSERVER_WALLET, RebuildError, Unready, dependencies, edges::Edges};
use crate::{
    chain::{
        provider::ArbitrumProvider,
        reader::{BlockId, ChainReader as _},
    },
    config::{BesideContract, Config, KeyChain},
    domain::{BlockRef, RequestSource},
    journal::{self, Identity, ReadContracts, Rebuilt},
    machine::Machine,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
};

/// Deadline for node and wallet.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two questions to the nodes.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Recreates the journal of this configuration, so that the chain is read from block `from` on. `chain`: the
/// second chain's id, if it is that one.
pub async fn rebuild(
    config: &Config,
    state_dir: PathBuf,
    from: u64,
    chain: Option<u64>,
) -> Result<Rebuilt, RebuildError> {
    let Edges { gateway, connecting, hosts, machine, .. } =
        Edges::for_config(config, &Metrics::default())?;
    let (provider, source) = match (chain, config.key_chain(), hosts.key_chain) {
        (Some(wanted), Some(KeyChain::Ethereum { chain, contract }), Some(provider))
            if wanted == chain.chain_id =>
        {
            (provider, RequestSource { chain_id: wanted, contract })
        }
        (Some(wanted), _, _) if wanted != config.chain_id => {
            return Err(RebuildError::NoSuchChain { chain: wanted });
        }
        _ => {
            let (chain_id, contract) = (config.chain_id, config.decryption_address);
            (gateway, RequestSource { chain_id, contract })
        }
    };
    let mut tasks = JoinSet::new();
    for connecting in std::iter::once(connecting).chain(hosts.connecting) {
        tasks.spawn(connecting(Heartbeats::default(), CancellationToken::new()));
    }
    let name = dependencies::node_name(&provider);
    let asking = ask(&provider, &machine, config, source.chain_id, &state_dir, from);
    let asked = timeout(DEADLINE, asking).await;
    tasks.shutdown().await;
    let late = |_| RebuildError::TimedOut { on: name.clone(), limit: DEADLINE };
    let (identity, cursor) = asked.map_err(late)?.map_err(|refused| match refused {
        RebuildRefusal::Unready(on, cause) => {
            RebuildError::Outside { on: on.unwrap_or(&name).to_owned(), cause }
        }
        RebuildRefusal::NoSuchBlock { head } => RebuildError::NoSuchBlock { from, head },
    })?;
    let beside = config.read_beside(source.chain_id).into_iter().map(BesideContract::address);
    let contracts = ReadContracts { first: source.contract, beside: beside.collect() };
    let rebuilding =
        machine.run(move || journal::rebuild(&state_dir, identity, &contracts, cursor));
    Ok(rebuilding.await.ok_or(BuildError::Ending)??)
}

/// Why it cannot be decided what to rebuild.
enum RebuildRefusal {
    /// A dependency is not ready; named if it is not the gateway node.
    Unready(Option<&'static str>, Unready),
    NoSuchBlock {
        head: u64,
    },
}

impl<E: Into<Unready>> From<E> for RebuildRefusal {
    fn from(error: E) -> Self {
        Self::Unready(None, error.into())
    }
}

/// The journal's identity, and the block before the first one to read.
async fn ask(
    provider: &ArbitrumProvider,
    machine: &Machine,
    config: &Config,
    chain_id: u64,
    state_dir: &Path,
    from: u64,
) -> Result<(Identity, BlockRef), RebuildRefusal> {
    let wallet = match &config.wallet {
        None => OBSERVER_WALLET,
        Some(configured) => {
            let opened = dependencies::ask_wallet(configured, config).await;
            let refused = |unready| RebuildRefusal::Unready(Some("the wallet"), unready);
            opened.map_err(refused)?.address()
        }
    };
    let begun = Instant::now();
    provider.first_attempt().await?;
    let chains = dependencies::ask_beginnings(machine, chain_id, state_dir, wallet, "").await;
    let chains =
        chains.map_err(|unready| RebuildRefusal::Unready(Some("the state directory"), unready))?;
    let genesis = loop {
        match dependencies::settle_genesis(provider, &chains).await {
            Ok(genesis) => break genesis,
            Err(why) if !why.is_contradiction() && begun.elapsed() < DEADLINE / 2 => {
                sleep(RETRY_DELAY).await;
            }
            Err(why) => return Err(why.into()),
        }
    };
    let identity = Identity { chain_id, genesis, wallet };
    let before = from.saturating_sub(1);
    let Some(cursor) = provider.header(BlockId::Number(before)).await? else {
        let head = provider.header(BlockId::Latest).await?.map_or(0, |head| head.block.number);
        return Err(RebuildRefusal::NoSuchBlock { head });
    };
    Ok((identity, cursor.block))
}
