//! What each dependency is asked, once and without waiting.

use std::{path::Path, time::Duration};

use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{DISK_DEADLINE, Expected};
use crate::{
    chain::{
        provider::{ArbitrumProvider, ChainRole},
        reader::{BlockId, ChainReader},
        rpc_error::RpcError,
        wallet::Wallet,
    },
    config::{self, Config},
    contracts::decryption::{Addresses, DeploymentSupport, RequestContract},
    domain::{Address, B256, RequestSource, SigningDomain, UntrustedText},
    instance::{Unready, genesis::decide},
    journal,
    machine::Machine,
};

/// How long the nodes may take to say whether they have a block.
const BLOCK_DEADLINE: Duration = Duration::from_secs(5);

/// Name of the chain's node, or of all its nodes, for messages.
pub(in crate::instance) fn node_name(provider: &ArbitrumProvider) -> String {
    format!("the {} node at {}", provider.role(), provider.hosts())
}

/// Checks that a node serves the configured chain id.
pub(in crate::instance) async fn ask_chain(provider: &ArbitrumProvider) -> Result<(), Unready> {
    match provider.chain_id().await {
        Ok(_) => Ok(()),
        Err(error @ RpcError::WrongChain { .. }) if provider.role() != ChainRole::Gateway => {
            Err(Unready::WrongEthereum(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads what the journals in `dir` know of the chain. The disk has to answer within [`DISK_DEADLINE`].
pub(in crate::instance) async fn ask_beginnings(
    machine: &Machine,
    chain_id: u64,
    dir: &Path,
    wallet: Address,
    name: &str,
) -> Result<Vec<journal::JournalChain>, Unready> {
    let looking = find_beginnings(machine, chain_id, dir, wallet, name);
    let late = |_| Err(Unready::DiskTimedOut { dir: dir.to_owned() });
    timeout(DISK_DEADLINE, looking).await.unwrap_or_else(late)
}

pub(super) async fn find_beginnings(
    machine: &Machine,
    chain_id: u64,
    dir: &Path,
    wallet: Address,
    name: &str,
) -> Result<Vec<journal::JournalChain>, Unready> {
    let (at, name) = (dir.to_owned(), name.to_owned());
    let looking = machine.run(move || journal::journal_chains(&at, chain_id, wallet, &name));
    let chains = looking.await.ok_or(Unready::Ending)?;
    chains.map_err(|cause| Unready::Directory { dir: dir.to_owned(), cause })
}

/// Decides which chain of this id is meant, from what all nodes say and the journals know (`chains`).
/// Nodes of other chains are not used from then on.
pub(in crate::instance) async fn settle_genesis(
    provider: &ArbitrumProvider,
    chains: &[journal::JournalChain],
) -> Result<B256, Unready> {
    if let Some(error) = provider.connection_error() {
        return Err(error.into());
    }
    let genesis = decide(chains, &provider.genesis_statuses())?;
    provider.settle_genesis(genesis).await;
    Ok(genesis)
}

/// The block at which reading began according to the newest journal with another block 0, if that
/// journal read this chain. In that case only its genesis hash was wrong, and nothing has been read
/// since.
pub(in crate::instance) async fn began_after(
    provider: &impl ChainReader,
    chains: &[journal::JournalChain],
    genesis: B256,
) -> Option<u64> {
    let newest = chains.first().filter(|newest| !newest.has_genesis(genesis))?;
    let (begun_after, read) = newest.read?;
    let asking = timeout(BLOCK_DEADLINE, provider.header(BlockId::Hash(read.hash)));
    let found = asking.await.ok()?.ok()??;
    (found.block == read).then_some(begun_after)
}

pub(in crate::instance) async fn ask_wallet(
    configured: &config::Wallet,
    config: &Config,
) -> Result<Wallet, Unready> {
    let opened = match configured {
        config::Wallet::PrivateKey(key) => Wallet::from_private_key(key.expose()),
        config::Wallet::AwsKms { key_id, region, endpoint } => {
            let endpoint = endpoint.as_ref().map(|url| url.expose().clone());
            let region = region.as_deref();
            let (proxies, trusted) = (&config.proxies, config.authorities());
            Box::pin(Wallet::aws_kms_through(key_id, region, endpoint.as_ref(), proxies, trusted))
                .await
        }
    };
    Ok(opened?)
}

/// Before one node's answer stops an instance, all sound nodes are asked again after this delay.
const RECHECK_DELAY: Duration = Duration::from_secs(2);

/// Detects the deployed contracts: every sound node is asked, and what they tell is weighed. A deployment
/// of which every request would be held counts only if the nodes tell the same after [`RECHECK_DELAY`].
/// `upgraded_in`: nodes that do not have this block yet are not heard.
pub(in crate::instance) async fn ask_support<P: ChainReader>(
    decryption: &RequestContract<P>,
    upgraded_in: Option<u64>,
) -> Result<DeploymentSupport, RpcError> {
    let told = decryption.told_support(upgraded_in).await?.support;
    if told.answered().is_some() {
        return Ok(told);
    }
    sleep(RECHECK_DELAY).await;
    Ok(decryption.told_support(upgraded_in).await?.support)
}

/// The contract's EIP-712 domain. The configured domain wins if any sound node confirms it after
/// [`RECHECK_DELAY`].
pub(super) async fn deployed_domain<P: ChainReader>(
    decryption: &RequestContract<P>,
    configured: &SigningDomain,
) -> Result<Option<SigningDomain>, RpcError> {
    let first = decryption.signing_domain().await?;
    if first.as_ref().is_none_or(|deployed| deployed == configured) {
        return Ok(first);
    }
    sleep(RECHECK_DELAY).await;
    let replies = decryption.hearing(|one| async move { one.signing_domain().await }).await.replies;
    let mut others = replies.into_iter().map(|(_, other)| other);
    Ok(others.find(|other| other.as_ref() == Some(configured)).unwrap_or(first))
}

/// The configured EIP-712 domain, unless the contract contradicts it.
pub(in crate::instance) async fn ask_domain<P: ChainReader>(
    contract: &RequestContract<P>,
    Expected { name, key, domain, correct }: &Expected,
) -> Result<SigningDomain, Unready> {
    match deployed_domain(contract, domain).await? {
        Some(deployed) if deployed != *domain => Err(Unready::OtherDomain {
            deployed: deployed.into(),
            configured: domain.clone().into(),
            correct,
        }),
        Some(_) => Ok(domain.clone()),
        None => {
            let address = domain.verifying_contract;
            if let Some(version) = another_contract(contract, name).await? {
                return Err(Unready::AnotherContract { address, version, key });
            }
            warn!(%address, "the contract at {key} does not report its EIP-712 domain: is it the \
                             {name} contract?");
            Ok(domain.clone())
        }
    }
}

/// What names the gateway's requests.
pub(in crate::instance) fn request_source(config: &Config) -> RequestSource {
    RequestSource { chain_id: config.chain_id, contract: config.decryption_address }
}

/// What the contract calls itself, if every sound node shows the version of another contract than `name`,
/// also after [`RECHECK_DELAY`].
pub(super) async fn another_contract<P: ChainReader>(
    contract: &RequestContract<P>,
    name: &str,
) -> Result<Option<UntrustedText>, RpcError> {
    let all_say_so = async || {
        let said = contract.hearing(|one| async move { one.support().await }).await;
        let said = said.into_answers(contract.provider())?;
        let so = said.iter().all(|one| one.is_of_another_contract(name));
        Ok::<_, RpcError>(
            said.first().filter(|_| so).map(|first| UntrustedText::from(first.version())),
        )
    };
    if all_say_so().await?.is_none() {
        return Ok(None);
    }
    sleep(RECHECK_DELAY).await;
    all_say_so().await
}

pub(in crate::instance) fn addresses(config: &Config) -> Addresses {
    Addresses {
        chain_id: config.chain_id,
        decryption: config.decryption_address,
        gateway_config: config.gateway_config_address,
    }
}

pub(in crate::instance) fn configured_domain(config: &Config) -> SigningDomain {
    SigningDomain {
        name: config.decryption_domain.name.clone(),
        version: config.decryption_domain.version.clone(),
        chain_id: config.chain_id,
        verifying_contract: config.decryption_address,
    }
}
