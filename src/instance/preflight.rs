//! Checks whether an instance of a configuration could run, without building one: no journal, no lock,
//! each question asked once. Another instance of the same wallet may run meanwhile.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    PreflightError, Unready,
    dependencies::{self, Expected},
    edges::Edges,
    host_chains::{HostContract, Hosts},
    report,
};
use crate::{
    chain::provider::ArbitrumProvider,
    config::Config,
    contracts::{decryption::RequestContract, pinned_reads::HostChainError},
    flow::kms_core::{self, KmsCore},
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
    time::clock::Clock,
};

/// How long the nodes of a host chain may take to be connected, and then to show its contract. Both are
/// shorter than the whole check, which a chain without an answer does not fail.
const HOST_CHAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Checks whether an instance of this configuration could run: its wallet opens, the node serves its
/// chain, the contract has the configured EIP-712 domain, the Core answers, no host chain contradicts it.
/// An absent Decryption contract, an empty or unregistered wallet and host chains that do not answer pass,
/// because a running instance waits for those by itself.
///
/// `running`: the configuration that it would replace. A host chain that this one has likewise keeps no
/// change out. A change of the Decryption contract waits until there is one.
///
/// Opens nothing exclusive, so another instance may run meanwhile. The caller sets the deadline and may
/// drop the future; nothing keeps running.
pub async fn preflight(config: &Config, running: Option<&Config>) -> Result<(), PreflightError> {
    let metrics = Metrics::default(); // not exported
    let Edges { gateway, connecting, mut hosts, core, .. } = Edges::for_config(config, &metrics)?;
    let mut tasks = JoinSet::new();
    for connecting in std::iter::once(connecting).chain(std::mem::take(&mut hosts.connecting)) {
        tasks.spawn(connecting(Heartbeats::default(), CancellationToken::new()));
    }
    let mut contracts = Hosts::new(config, &hosts, Clock::Wall).contracts();
    contracts
        .retain(|contract| running.is_none_or(|running| is_changed(contract, config, running)));
    let chains = async {
        let hosts = async {
            let asked = ask_host_chains(&contracts).await;
            asked.map_err(|cause| outside("a host chain".to_owned(), cause))
        };
        let (gateway, hosts) = tokio::join!(ask_gateway(&gateway, config, running), hosts);
        [gateway, hosts]
    };
    let Some(configured) = &config.wallet else {
        let asked = chains.await;
        tasks.shutdown().await;
        return most_specific(asked);
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
    let (wallet, [gateway, hosts], core) = tokio::join!(wallet, chains, answers);
    tasks.shutdown().await;
    most_specific([wallet, gateway, hosts, core])
}

/// A contradiction is more specific than a dependency that does not answer.
fn most_specific(
    asked: impl IntoIterator<Item = Result<(), PreflightError>>,
) -> Result<(), PreflightError> {
    let found = asked.into_iter().filter_map(Result::err);
    found.max_by_key(PreflightError::is_refusal).map_or(Ok(()), Err)
}

fn outside(on: String, cause: Unready) -> PreflightError {
    PreflightError::Outside { on, cause }
}

async fn ask_gateway(
    provider: &ArbitrumProvider,
    config: &Config,
    running: Option<&Config>,
) -> Result<(), PreflightError> {
    let asking = async {
        provider.first_attempt().await?;
        dependencies::ask_chain(provider).await?;
        let decryption = RequestContract::new(provider.clone(), dependencies::addresses(config));
        let address = config.decryption_address;
        if decryption.is_deployed().await? {
            dependencies::ask_domain(&decryption, &Expected::decryption(config)).await?;
        } else if running.is_some_and(|running| running.decryption_address != address) {
            return Err(Unready::NoContract { address });
        }
        Ok(())
    };
    asking.await.map_err(|cause: Unready| outside(dependencies::node_name(provider), cause))
}

/// Returns whether the two configurations say different things of this contract's chain.
fn is_changed(contract: &HostContract<ArbitrumProvider>, one: &Config, other: &Config) -> bool {
    match contract {
        HostContract::Acl(chain) => {
            let id = chain.chain_id();
            let of = |config: &Config| {
                config.host_chains.iter().find(|host| host.chain_id == id).cloned()
            };
            of(one) != of(other)
        }
        HostContract::ProtocolConfig(_) => one.ethereum != other.ethereum,
    }
}

/// Finds a host chain that contradicts the configuration: a node of another chain, or no contract at its
/// address. One that does not answer contradicts nothing, because an instance runs without it.
async fn ask_host_chains(contracts: &[HostContract<ArbitrumProvider>]) -> Result<(), Unready> {
    let asked = join_all(contracts.iter().map(ask_host_chain)).await;
    let mut errors = asked.into_iter().filter_map(Result::err);
    let contradiction = errors.find(HostChainError::is_contradiction);
    contradiction.map_or(Ok(()), |error| Err(Unready::HostChain(error.into())))
}

async fn ask_host_chain(contract: &HostContract<ArbitrumProvider>) -> Result<(), HostChainError> {
    let chain_id = contract.reads().options().chain_id;
    let endpoints = contract.reads().endpoints().iter();
    let attempts = endpoints
        .map(|endpoint| timeout(HOST_CHAIN_DEADLINE, endpoint.reader.attempt(endpoint.node)));
    let attempts = join_all(attempts).await;
    let refused = attempts.into_iter().flatten().filter_map(Result::err);
    let mut refused = refused.map(|error| HostChainError::of(chain_id, error));
    match refused.find(HostChainError::is_contradiction) {
        Some(error) => Err(error),
        // Only a connected node is asked.
        None => timeout(HOST_CHAIN_DEADLINE, contract.look()).await.unwrap_or(Ok(())),
    }
}
