//! Diagnoses the environment of a configuration for an operator (`check`). Every dependency is tried
//! once, all at the same time, each with a deadline; one failure does not hide another.
//!
//! Changes nothing: sends no transaction, asks the Core for no decryption, creates or locks no journal.
//! It makes one wallet signature over a meaningless hash, and writes and removes one file in the state
//! directory. An instance of the same configuration may run meanwhile.
//!
//! [`super::preflight()`] decides whether an instance may replace another one and answers yes or no; this
//! module explains, and tries much more.

mod buckets;
mod contracts;
mod host_chains;
mod disk;
mod balance;
mod nodes;
mod node_reads;
mod wallet;
mod contexts;
mod core_health;
mod second_chain;

use std::{path::Path, time::Duration};

use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{core_health::diagnose_core, wallet::diagnose_wallet};
use super::{
    BuildError, OBSERVER_WALLET, dependencies,
    edges::{self, fallback_store, gateway_provider, load_roots},
    host_chains::Hosts,
};
use crate::{
    chain::{provider::ArbitrumProvider, wallet::Wallet},
    config::{Config, KeyChain},
    contracts::gateway_config::GatewayConfigAdapter,
    domain::Address,
    flow::{
        ciphertexts,
        kms_core::{self, KmsCore},
    },
    machine::Machine,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
    time::clock::Clock,
};

/// Deadline of each probe.
const DEADLINE: Duration = Duration::from_secs(15);
/// Deadline of the wallet: AWS KMS retries for up to 30 s before it returns its error, mostly about
/// credentials.
const WALLET_DEADLINE: Duration = Duration::from_secs(35);

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    /// It works, but an operator should know.
    Warn,
    /// It does not work.
    Fail,
}

/// Result of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub verdict: Severity,
    /// What was probed.
    pub subject: &'static str,
    pub found: String,
    /// What to do; empty if nothing needs to be done.
    pub remedy: String,
}

impl Finding {
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Severity::Ok, subject, found: found.into(), remedy: String::new() }
    }

    pub fn warn(
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: Severity::Warn, subject, found: found.into(), remedy: remedy.into() }
    }

    pub fn fail(
        subject: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { verdict: Severity::Fail, subject, found: found.into(), remedy: remedy.into() }
    }
}

/// All findings.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    pub findings: Vec<Finding>,
    /// Chain and wallet, if both are known. Two instances must not share them.
    pub wallet: Option<(u64, Address)>,
}

/// Probes everything that this configuration needs. `state_dir` is the directory of its journal; an
/// observing instance uses [`super::observe_dir`].
pub async fn diagnose(config: &Config, state_dir: &Path) -> Diagnosis {
    let mut tasks = JoinSet::new();
    let prepared = prepare(config, &mut tasks);
    let found = match prepared {
        Ok(tools) => run_all(config, state_dir, &tools).await,
        Err(error) => {
            let remedy = "correct the configuration";
            let findings = vec![Finding::fail("configuration", error.to_string(), remedy)];
            Diagnosis { findings, wallet: None }
        }
    };
    tasks.shutdown().await;
    found
}

/// Clients that the probes share.
struct Clients {
    nodes: Vec<node_reads::DiagnosedNode>,
    core: KmsCore,
    http: ciphertexts::BucketClient,
    fallback: Option<ciphertexts::FallbackStore>,
    hosts: Hosts<ArbitrumProvider>,
    /// Ethereum, if key operations are asked for there.
    key_chain: Option<ArbitrumProvider>,
}

fn prepare(config: &Config, tasks: &mut JoinSet<()>) -> Result<Clients, BuildError> {
    let roots = load_roots(config)?;
    let fallback = fallback_store(config)?;
    let (mut nodes, metrics) = (Vec::new(), Metrics::default()); // not exported
    for url in std::iter::once(&config.gateway_url).chain(&config.gateway_fallback_urls) {
        let (provider, connections) =
            gateway_provider(config, &roots, std::iter::once(url), &metrics)?;
        tasks.spawn(connections.run(Heartbeats::default(), CancellationToken::new()));
        let (shown, addresses) = (url.to_string(), dependencies::addresses(config));
        let proxy = config.proxies.proxy_name_for(url.expose());
        nodes.push(node_reads::DiagnosedNode { shown, proxy, provider, addresses });
    }
    let edges = edges::host_edges(config, &roots, None, &metrics)?;
    let hosts = Hosts::new(config, &edges, Clock::Wall);
    let key_chain = edges.key_chain;
    for connecting in edges.connecting {
        tasks.spawn(connecting(Heartbeats::default(), CancellationToken::new()));
    }
    let (transport, domain) =
        (edges::core_transport(config, &roots)?, dependencies::configured_domain(config));
    let core = KmsCore::new(transport, domain, kms_core::Options::default(), metrics);
    let http = edges::bucket_client(config, &roots)?;
    Ok(Clients { nodes, core, http, fallback, hosts, key_chain })
}

async fn run_all(config: &Config, state_dir: &Path, tools: &Clients) -> Diagnosis {
    let by_nodes = async {
        let Some(configured) = &config.wallet else {
            let seen = nodes::diagnose_nodes(&tools.nodes).await;
            let of_chain = Box::pin(diagnose_chain(config, state_dir, tools, &seen, None)).await;
            return (seen, Finding::ok("wallet", "none: it only observes"), None, of_chain);
        };
        let looking = diagnose_wallet(configured, config);
        let looking = within_limit(WALLET_DEADLINE, "wallet", looking);
        let (seen, wallet) = tokio::join!(nodes::diagnose_nodes(&tools.nodes), looking);
        let (of_wallet, wallet) = wallet.unwrap_or_else(|late| (late, None));
        let second = second_chain::SecondChainTarget {
            config,
            state_dir,
            provider: tools.key_chain.as_ref(),
            wallet: wallet.as_ref().map(Wallet::address),
        };
        let reader = match config.key_chain() {
            Some(KeyChain::Ethereum { .. }) => tools.key_chain.as_ref(),
            Some(KeyChain::Gateway { .. }) => seen.best.map(|best| &tools.nodes[best].provider),
            None => None,
        };
        let of_contexts = contexts::diagnose_contexts(
            tools.hosts.protocol_config.as_ref(),
            (config, reader),
            wallet.as_ref().map(Wallet::address),
        );
        let (mut of_chain, of_second, of_contexts) = tokio::join!(
            Box::pin(diagnose_chain(config, state_dir, tools, &seen, wallet.as_ref())),
            Box::pin(second_chain::diagnose_second_chain(second)),
            Box::pin(of_contexts),
        );
        of_chain.second = of_second.into_iter().chain(of_contexts).collect();
        (seen, of_wallet, wallet, of_chain)
    };
    let of_core = async {
        if config.observes() {
            return Finding::ok("KMS Core", "none: it only observes");
        }
        within_deadline("KMS Core", diagnose_core(&tools.core)).await.unwrap_or_else(|late| late)
    };
    let of_fallback = buckets::diagnose_fallback(&tools.http, tools.fallback.as_ref());
    let of_disk = disk::diagnose_directory(state_dir.to_owned());
    let of_hosts = Box::pin(host_chains::diagnose_host_chains(&tools.hosts));
    let (by_nodes, of_core, of_fallback, of_disk, of_hosts) =
        tokio::join!(Box::pin(by_nodes), of_core, of_fallback, of_disk, of_hosts);
    let (seen, of_wallet, wallet, of_chain) = by_nodes;
    let mut dates = of_chain.dates;
    let mut findings = seen.findings.clone();
    findings.extend(of_chain.contracts);
    findings.push(of_wallet);
    findings.extend(of_chain.wallet);
    findings.extend(of_hosts);
    findings.extend(of_chain.second);
    findings.push(of_core);
    findings.extend(of_chain.buckets);
    if let Some((finding, date)) = of_fallback {
        findings.push(finding);
        dates.extend(date);
    }
    findings.push(nodes::diagnose_clock(seen.newest, &dates));
    findings.extend(of_disk);
    findings.extend(of_chain.journal);
    Diagnosis { findings, wallet: wallet.map(|wallet| (config.chain_id, wallet.address())) }
}

/// What only a node can answer.
#[derive(Default)]
struct ChainFindings {
    contracts: Vec<Finding>,
    /// Registration and balance.
    wallet: Vec<Finding>,
    buckets: Vec<Finding>,
    dates: Vec<buckets::ServerDate>,
    journal: Vec<Finding>,
    /// Ethereum, if key operations are asked for there.
    second: Vec<Finding>,
}

async fn diagnose_chain(
    config: &Config,
    state_dir: &Path,
    tools: &Clients,
    seen: &nodes::NodesOverview,
    wallet: Option<&Wallet>,
) -> ChainFindings {
    let Some(best) = seen.best else {
        let (what, remedy) = if seen.elsewhere {
            (
                "not checked: no gateway node of the right chain answers",
                "see the gateway node first",
            )
        } else {
            ("not checked: no gateway node answers", "fix gateway_url first")
        };
        return ChainFindings {
            contracts: vec![Finding::warn("contracts, wallet on chain, journal", what, remedy)],
            ..ChainFindings::default()
        };
    };
    let provider = &tools.nodes[best].provider;
    let address = wallet.map(Wallet::address);
    let registry = async {
        let (at, wallet) = (config.gateway_config_address, address.unwrap_or_default());
        let connecting = GatewayConfigAdapter::connect(provider.clone(), at, wallet);
        let connected = timeout(DEADLINE, connecting).await.ok()?.ok()?;
        let registration = contracts::diagnose_registry(&connected, config, address);
        let source = contracts::ciphertext_source(provider, config).await;
        let looked =
            tokio::join!(registration, buckets::diagnose_buckets(&connected, &tools.http, source));
        Some(looked)
    };
    let balance = async {
        let Some(address) = address else { return Vec::new() };
        vec![
            within_deadline("balance", balance::diagnose_balance(provider, address, "Gateway"))
                .await
                .unwrap_or_else(|late| late),
        ]
    };
    let journal = async {
        let own = config.observes().then_some(OBSERVER_WALLET);
        let Some(address) = address.or(own) else { return Vec::new() };
        let chains = dependencies::ask_beginnings(
            &Machine::default(),
            config.chain_id,
            state_dir,
            address,
            "",
        )
        .await;
        let chains = chains.unwrap_or_default();
        match dependencies::settle_genesis(provider, &chains).await {
            Ok(genesis) => {
                let head = seen.newest.map(|(number, _)| number);
                let source = dependencies::request_source(config);
                let whose = disk::JournalTarget { source, genesis, wallet: address, head };
                disk::diagnose_journal(state_dir.to_owned(), &whose).await
            }
            Err(_) => Vec::new(),
        }
    };
    let of_contract = contracts::diagnose_decryption(provider, config);
    let of_tag =
        within_deadline("finality", nodes::diagnose_tag(provider, config.finality, seen.newest));
    let of_keys = async {
        // An observing instance answers nothing.
        if config.observes() {
            None
        } else {
            contracts::diagnose_key_generation(provider, config).await
        }
    };
    let (mut contracts, of_keys, registry, balance, journal, of_tag) =
        tokio::join!(of_contract, of_keys, registry, balance, journal, of_tag);
    contracts.extend(of_keys);
    contracts.extend(of_tag.unwrap_or_else(Some));
    let (of_registry, (buckets, dates)) = registry.unwrap_or_else(|| {
        let finding = Finding::fail(
            "GatewayConfig",
            "the node did not answer the question",
            "try again; another gateway_url if it stays so",
        );
        ((finding, None), Default::default())
    });
    let (of_registry, registration) = of_registry;
    contracts.push(of_registry);
    let wallet = registration.into_iter().chain(balance).collect();
    ChainFindings { contracts, wallet, buckets, dates, journal, second: Vec::new() }
}

/// The remedy where nobody answers and a proxy is on the way: it is the first suspect.
fn proxy_remedy(proxy: &str) -> String {
    format!(
        "check the proxy {proxy} first: is it up, and may it connect there? NO_PROXY names hosts that are \
         reached without"
    )
}

/// Runs one probe with its deadline.
async fn within_deadline<T>(
    subject: &'static str,
    look: impl Future<Output = T>,
) -> Result<T, Finding> {
    within_limit(DEADLINE, subject, look).await
}

async fn within_limit<T>(
    patience: Duration,
    subject: &'static str,
    look: impl Future<Output = T>,
) -> Result<T, Finding> {
    timeout(patience, look).await.map_err(|_| {
        let what = format!("no answer within {} s", patience.as_secs());
        Finding::fail(subject, what, "check that service, and the network between")
    })
}
