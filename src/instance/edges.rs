//! The edges of an instance, made here and nowhere else: the nodes of the gateway and of host chains, the
//! KMS Core, the coprocessors' buckets, the machine. Tests pass simulated edges to the same wiring.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::BuildError;
use crate::{
    chain::{
        provider::{ArbitrumProvider, ChainRole, endpoint::Endpoint, endpoint_pool::Connections},
        reader::NodeId,
    },
    config::{Config, KeyChain, SecretUrl},
    contracts::pinned_reads::ChainEndpoint,
    dice::Dice,
    flow::{
        ciphertexts::{BucketClient, FallbackStore},
        kms_core::Transport,
    },
    machine::Machine,
    net::tls::TlsRoots,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
};

/// Idle HTTP connections kept per gateway node.
const IDLE_CONNECTIONS: usize = 16;

/// The task that keeps nodes connected until its token is cancelled.
pub type ConnectTask =
    Box<dyn FnOnce(Heartbeats, CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// The nodes of host chains, and of the chain that has `ProtocolConfig`.
#[derive(Default)]
pub struct HostEdges {
    /// By chain id, each in order of preference.
    pub chains: BTreeMap<u64, Vec<ChainEndpoint<ArbitrumProvider>>>,
    /// In order of preference; empty if it is not configured.
    pub ethereum: Vec<ChainEndpoint<ArbitrumProvider>>,
    /// All nodes of that chain, where key operations are asked for there.
    pub key_chain: Option<ArbitrumProvider>,
    pub connecting: Vec<ConnectTask>,
}

impl fmt::Debug for HostEdges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostEdges").field("chains", &self.chains).finish_non_exhaustive()
    }
}

/// The edges of one instance. Nothing connects before the instance is built.
pub struct Edges {
    /// The gateway's nodes.
    pub gateway: ArbitrumProvider,
    pub connecting: ConnectTask,
    pub hosts: HostEdges,
    /// The KMS Core; unused by an observing instance.
    pub core: Transport,
    pub buckets: BucketClient,
    /// Where ciphertexts are looked for when no coprocessor's bucket is known.
    pub fallback: Option<FallbackStore>,
    pub machine: Machine,
}

impl fmt::Debug for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edges").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl Edges {
    /// The real edges of a configuration. Calls are counted in `metrics`.
    pub(super) fn for_config(config: &Config, metrics: &Metrics) -> Result<Self, BuildError> {
        let roots = load_roots(config)?;
        let urls = std::iter::once(&config.gateway_url).chain(&config.gateway_fallback_urls);
        let (gateway, connections) = gateway_provider(config, &roots, urls, metrics)?;
        Ok(Self {
            hosts: host_edges(config, &roots, Some(&gateway), metrics)?,
            gateway,
            connecting: Box::new(|hearts, stop| Box::pin(connections.run(hearts, stop))),
            core: core_transport(config, &roots)?,
            buckets: bucket_client(config, &roots)?,
            fallback: fallback_store(config)?,
            machine: Machine::default(),
        })
    }
}

pub(super) fn load_roots(config: &Config) -> Result<TlsRoots, BuildError> {
    let authorities = config.private_authorities.as_ref();
    Ok(TlsRoots::load(authorities.map(|authorities| authorities.path.as_path()))?)
}

/// The provider of these gateway nodes, and the tasks that connect it.
pub(super) fn gateway_provider<'u>(
    config: &Config,
    roots: &TlsRoots,
    urls: impl Iterator<Item = &'u SecretUrl>,
    metrics: &Metrics,
) -> Result<(ArbitrumProvider, Connections), BuildError> {
    provider_of((config.chain_id, ChainRole::Gateway), config, roots, urls, metrics)
}

/// The nodes of the configured host chains. There is one connection for each chain and URL of an
/// instance, whatever the chain is besides: the nodes of `gateway` are taken where they are named.
pub(super) fn host_edges(
    config: &Config,
    roots: &TlsRoots,
    gateway: Option<&ArbitrumProvider>,
    metrics: &Metrics,
) -> Result<HostEdges, BuildError> {
    let gateway_urls: Vec<&SecretUrl> =
        std::iter::once(&config.gateway_url).chain(&config.gateway_fallback_urls).collect();
    let is_gateways = |chain: u64, url: &SecretUrl| {
        gateway.is_some() && chain == config.chain_id && gateway_urls.contains(&url)
    };
    let hosts = config.host_chains.iter().map(|host| (host.chain_id, host.urls().collect()));
    let ethereum =
        config.ethereum.iter().map(|ethereum| (ethereum.chain_id, ethereum.urls().collect()));
    // Key operations prefer the nodes that are named for them.
    let named: Vec<(u64, Vec<&SecretUrl>)> = ethereum.chain(hosts).collect();
    let mut urls = BTreeMap::<u64, Vec<&SecretUrl>>::new();
    for (chain, named) in &named {
        let known = urls.entry(*chain).or_default();
        for url in named.iter().filter(|url| !is_gateways(*chain, url)) {
            if !known.contains(url) {
                known.push(url);
            }
        }
    }
    let (mut providers, mut edges) = (BTreeMap::new(), HostEdges::default());
    for (chain, urls) in urls.iter().filter(|(_, urls)| !urls.is_empty()) {
        let is_host = config.host_chains.iter().any(|host| host.chain_id == *chain);
        let of = (*chain, if is_host { ChainRole::Host } else { ChainRole::Ethereum });
        let (provider, connections) =
            provider_of(of, config, roots, urls.iter().copied(), metrics)?;
        providers.insert(*chain, provider);
        edges.connecting.push(Box::new(|hearts, stop| Box::pin(connections.run(hearts, stop))));
    }
    let endpoint = |chain: u64, url: &&SecretUrl| {
        let (provider, known) = if is_gateways(chain, url) {
            (gateway?, &gateway_urls)
        } else {
            (providers.get(&chain)?, urls.get(&chain)?)
        };
        let node = known.iter().position(|known| known == url)?;
        Some(ChainEndpoint::of(provider, NodeId(node)))
    };
    let endpoints = |chain: u64, urls: Vec<&SecretUrl>| {
        urls.iter().filter_map(|url| endpoint(chain, url)).collect::<Vec<_>>()
    };
    for host in &config.host_chains {
        edges.chains.insert(host.chain_id, endpoints(host.chain_id, host.urls().collect()));
    }
    if let Some(ethereum) = &config.ethereum {
        edges.ethereum = endpoints(ethereum.chain_id, ethereum.urls().collect());
    }
    if let Some(KeyChain::Ethereum { chain, .. }) = config.key_chain() {
        edges.key_chain = providers.get(&chain.chain_id).cloned();
    }
    Ok(edges)
}

fn provider_of<'u>(
    (chain_id, role): (u64, ChainRole),
    config: &Config,
    roots: &TlsRoots,
    urls: impl Iterator<Item = &'u SecretUrl>,
    metrics: &Metrics,
) -> Result<(ArbitrumProvider, Connections), BuildError> {
    let proxies = &config.proxies;
    let http = proxies
        .apply_to(reqwest::Client::builder())
        .tls_backend_preconfigured(roots.client_config())
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        // Each transaction in flight has a connection; after a burst a few are enough.
        .pool_idle_timeout(Duration::from_secs(15))
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let tls = Arc::new(roots.client_config());
    let endpoint = |url: &SecretUrl| {
        let endpoint = Endpoint::new(url.expose().clone(), tls.clone(), http.clone());
        endpoint.with_proxies(proxies.clone()).with_role(role)
    };
    let endpoints = urls.map(endpoint).collect();
    Ok(ArbitrumProvider::new(chain_id, endpoints, metrics.clone(), &Dice::default()))
}

pub(super) fn core_transport(config: &Config, roots: &TlsRoots) -> Result<Transport, BuildError> {
    Ok(Transport::to(config.kms_core_endpoint.expose(), roots)?)
}

pub(super) fn bucket_client(config: &Config, roots: &TlsRoots) -> Result<BucketClient, BuildError> {
    Ok(BucketClient::new(roots.client_config(), &config.proxies)?)
}

pub(super) fn fallback_store(config: &Config) -> Result<Option<FallbackStore>, BuildError> {
    let Some(s3) = &config.s3 else { return Ok(None) };
    let region = s3.region.as_deref().unwrap_or("us-east-1");
    let endpoint = s3.endpoint.as_ref().map(|url| url.expose().as_str());
    let store = FallbackStore::new(region, &s3.bucket, endpoint)?;
    Ok(Some(store.with_proxies(config.proxies.aws_client(config.authorities()))))
}
