//! The host chains of an instance: built from its configuration, and looked at from time to time, so
//! that an operator reads of a chain that does not answer before a request needs it. Nothing waits for
//! them: the instance starts and runs without, and requests that need one are held.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use super::{
    dependencies::replace_if_changed, edges::HostEdges, key_requests::log_what_is_not_served,
};
use crate::{
    admin::status::{HostChainStatus, Reporter},
    chain::{provider::ArbitrumProvider, reader::ChainReader},
    config::{Config, HostChain as Configured},
    contracts::{
        abi::{ContextRule, Deployment},
        acl::{HostChain, HostChains},
        decryption::DeploymentSupport,
        pinned_reads::{
            ChainEndpoint, HostChainError, HostChainState, PinnedOptions, PinnedReader,
        },
        protocol_config::ProtocolConfig,
    },
    domain::Address,
    journal::{Journal, Query},
    telemetry::log_throttle::LogThrottle,
    time::clock::{self, Clock},
};

/// How often a chain is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(20);
const REPORTED_EVERY: Duration = Duration::from_secs(1);
/// At a start: a node is connected by then.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(1);
/// The oldest block by which a context is judged.
const ETHEREUM_MAX_AGE: Duration = Duration::from_mins(2);
/// One of the chain's endpoints is enough to judge a context.
const ETHEREUM_AGREEMENT: usize = 1;

/// Requests may have waited for the same contract as what reports it. They go on first, and always: the channel
/// wakes its waiters in no fixed order, and simulated runs repeat exactly.
const WALKS_GO_FIRST: Duration = Duration::from_millis(10);

/// What an instance asks on other chains than the gateway's.
#[derive(Clone, Debug)]
pub struct Hosts<P> {
    pub chains: HostChains<P>,
    /// `None`: not configured.
    pub protocol_config: Option<ProtocolConfig<P>>,
}

impl Hosts<ArbitrumProvider> {
    pub(super) fn new(config: &Config, edges: &HostEdges, clock: Clock) -> Self {
        let options = |chain_id, agreement, max_age| PinnedOptions {
            chain_id,
            agreement,
            max_age,
            deadline: config.host_chain_call_timeout,
            calls: config.host_chain_max_concurrent_calls,
            clock,
        };
        let chain = |host: &Configured| {
            let options = options(host.chain_id, host.agreement, host.max_age);
            let endpoints = edges.chains.get(&host.chain_id)?.clone();
            let reads = PinnedReader::new(options, endpoints);
            let chain = HostChain::new(reads, host.acl_address, config.erc1271_gas_limit);
            Some((host.chain_id, chain))
        };
        let protocol_config = config.ethereum.as_ref().and_then(|ethereum| {
            let options = options(ethereum.chain_id, ETHEREUM_AGREEMENT, ETHEREUM_MAX_AGE);
            let reads = PinnedReader::new(options, edges.ethereum.clone());
            Some(ProtocolConfig::new(reads, ethereum.protocol_config_address?))
        });
        Self { chains: config.host_chains.iter().filter_map(chain).collect(), protocol_config }
    }
}

/// A contract on another chain, whichever it is.
#[derive(Clone, Debug)]
pub(super) enum HostContract<P> {
    Acl(HostChain<P>),
    ProtocolConfig(ProtocolConfig<P>),
}

impl<P: ChainReader> HostContract<P> {
    pub(super) fn reads(&self) -> &PinnedReader<P> {
        match self {
            Self::Acl(chain) => chain.reads(),
            Self::ProtocolConfig(contexts) => contexts.reads(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Acl(_) => "ACL",
            Self::ProtocolConfig(_) => "ProtocolConfig",
        }
    }

    pub(super) fn address(&self) -> Address {
        match self {
            Self::Acl(chain) => chain.acl(),
            Self::ProtocolConfig(contexts) => contexts.address(),
        }
    }

    pub(super) fn state(&self) -> HostChainState {
        match self {
            Self::Acl(chain) => chain.state(),
            Self::ProtocolConfig(contexts) => contexts.state(),
        }
    }

    pub(super) async fn look(&self) -> Result<(), HostChainError> {
        match self {
            Self::Acl(chain) => chain.look().await,
            Self::ProtocolConfig(contexts) => contexts.look().await,
        }
    }

    fn chain_id(&self) -> u64 {
        self.reads().options().chain_id
    }

    /// Looks at it from time to time, for ever.
    async fn follow(self) {
        let (chain, mut repeats, mut is_lost) = (self.chain_id(), LogThrottle::default(), false);
        sleep(FIRST_LOOK_AFTER).await;
        loop {
            match self.look().await {
                Ok(()) if std::mem::take(&mut is_lost) => {
                    repeats.reset();
                    info!(chain, "the host chain answers again");
                }
                Ok(()) => {}
                Err(error) => {
                    is_lost = true;
                    if let Some(times) = repeats.should_log(error.code(), Instant::now()) {
                        warn!(chain, problem = %error, times, "a host chain gives no answer");
                    }
                }
            }
            sleep(LOOKED_AT_EVERY).await;
        }
    }

    fn status(&self, now: u64) -> HostChainStatus {
        let (state, endpoints) = (self.state(), self.reads().endpoints());
        let shown = newest(endpoints);
        HostChainStatus {
            chain_id: self.chain_id(),
            hosts: hosts(endpoints),
            contract: self.address().to_string(),
            version: state.version.as_deref().map(str::to_owned),
            is_reachable: state.newest.is_some() && state.error.is_none(),
            head: shown.map(|(number, _)| number),
            head_age_secs: shown.map(|(_, at)| now.saturating_sub(at)),
            problem: state.error.map(|error| error.to_string()),
        }
    }
}

impl<P: ChainReader> Hosts<P> {
    /// Every contract that is asked.
    pub(super) fn contracts(&self) -> Vec<HostContract<P>> {
        let chains = self.chains.iter().cloned().map(HostContract::Acl);
        chains
            .chain(self.protocol_config.iter().cloned().map(HostContract::ProtocolConfig))
            .collect()
    }
}

/// Looks at all chains and reports what they show, for ever.
pub(super) async fn follow<P: ChainReader>(
    contracts: Vec<HostContract<P>>,
    reporter: Reporter,
    clock: Clock,
) {
    let looks = join_all(contracts.iter().cloned().map(HostContract::follow));
    let reports = async {
        let mut tick = interval(REPORTED_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = clock.unix_millis() / 1_000;
            let told: Vec<_> = contracts.iter().map(|contract| contract.status(now)).collect();
            for (chain, (is_reachable, age)) in by_chain(&told) {
                reporter.metrics.host_chain(chain, is_reachable, age);
            }
            reporter
                .gauges
                .send_if_modified(|gauges| replace_if_changed(&mut gauges.host_chains, told));
        }
    };
    tokio::join!(looks, reports);
}

/// What the configuration lacks for this deployment, with the keys to set.
pub(super) fn lack_for(config: &Config, deployment: &Deployment) -> Option<String> {
    let generation = deployment.generation;
    let lacks_chains = deployment.checks_access() && config.host_chains.is_empty();
    let chains = lacks_chains.then(|| {
        format!(
            "contracts of {generation} check no access themselves and no host chain is configured, so \
             their requests are held: add a table [[host_chains]] for each chain whose handles are \
             decrypted"
        )
    });
    let needs_contexts = deployment.context_rule() == ContextRule::ProtocolConfig;
    let knows_contexts =
        config.ethereum.as_ref().is_some_and(|chain| chain.protocol_config_address.is_some());
    let contexts = (needs_contexts && !knows_contexts).then(|| {
        format!(
            "with contracts of {generation} requests that name a KMS context are held, and new contexts and \
             epochs are not confirmed: set ethereum_url, ethereum_chain_id and protocol_config_address"
        )
    });
    let lacks: Vec<_> = chains.into_iter().chain(contexts).collect();
    (!lacks.is_empty()).then(|| lacks.join("; "))
}

/// Reports the deployment that the journal noted last, until the nodes tell which one there is now.
pub(super) async fn report_last_deployment(journal: &Journal, reporter: &Reporter) {
    let last = match journal.ask(Query::Deployment).await {
        Ok(last) => last,
        Err(error) => {
            debug!(%error, "the last deployment is not known");
            None
        }
    };
    let Some((deployment, since_ms)) = last else { return };
    let since = clock::utc(since_ms);
    info!(deployment, %since, "the Decryption contract when it was looked at last");
    let contracts = format!("{deployment} since {since}, not looked at yet after this start");
    reporter.gauges.send_modify(|gauges| gauges.contracts = Some(contracts));
}

/// Reports and notes the deployment of now, and what the configuration lacks for it, for ever. Contracts are
/// upgraded under running instances.
pub(super) async fn follow_deployment(
    config: Config,
    mut support: watch::Receiver<DeploymentSupport>,
    journal: Journal,
    reporter: Reporter,
) {
    loop {
        let (contracts, is_known, lack) = match &*support.borrow_and_update() {
            DeploymentSupport::Served(deployment) => {
                (deployment.to_string(), true, lack_for(&config, deployment))
            }
            DeploymentSupport::Newer { version } => {
                (format!("newer than this version knows (\"{version}\"): held"), true, None)
            }
            DeploymentSupport::WentBack { told, known } => {
                (format!("told to be {told}, and {known} has stood there: held"), true, None)
            }
            DeploymentSupport::Upgraded { block } => {
                (format!("upgraded in block {block}, and being read again"), false, None)
            }
        };
        if let Some(lack) = &lack {
            warn!(lack, "the configuration lacks what these contracts need");
        }
        if let DeploymentSupport::Served(deployment) = &*support.borrow() {
            log_what_is_not_served(&config, deployment);
        }
        if is_known && let Err(error) = journal.note_deployment(contracts.clone()).await {
            // A failing journal ends the instance elsewhere.
            debug!(%error, "could not note the deployment");
        }
        reporter.gauges.send_if_modified(|gauges| {
            let is_new = replace_if_changed(&mut gauges.contracts, Some(contracts));
            replace_if_changed(&mut gauges.lack, lack) || is_new
        });
        if support.changed().await.is_err() {
            return std::future::pending().await;
        }
        sleep(WALKS_GO_FIRST).await;
    }
}

/// Whether all that is asked of a chain answers, and the age of its newest block, by chain id.
fn by_chain(told: &[HostChainStatus]) -> BTreeMap<u64, (bool, Option<u64>)> {
    let mut each = BTreeMap::new();
    for HostChainStatus { chain_id, is_reachable, head_age_secs, .. } in told {
        let (all, age) = each.entry(*chain_id).or_insert((true, None));
        *all &= is_reachable;
        *age = [*age, *head_age_secs].into_iter().flatten().min();
    }
    each
}

/// Number and time (Unix seconds) of the newest block that a connected endpoint shows.
fn newest<P: ChainReader>(endpoints: &[ChainEndpoint<P>]) -> Option<(u64, u64)> {
    let sound = endpoints.iter().filter(|endpoint| endpoint.is_sound());
    let heads = sound.filter_map(|endpoint| {
        let head = endpoint.head()?;
        Some((head.block.number, head.timestamp?))
    });
    heads.max()
}

fn hosts<P: ChainReader>(endpoints: &[ChainEndpoint<P>]) -> String {
    let hosts: Vec<String> = endpoints.iter().map(ChainEndpoint::host).collect();
    hosts.join(", ")
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        config::{LoadMode, Source, load_bytes},
        contracts::abi::Generation,
        domain::B256,
        journal::Identity,
        telemetry::{heartbeat::Heartbeat, metrics::Metrics},
    };

    fn config(text: &str) -> Config {
        let key = ("KMS_CONNECTOR_PRIVATE_KEY", "11".repeat(32));
        let source = Source {
            file: Some("one.toml".into()),
            environment: [key].into_iter().collect(),
            credentials_directory: None,
            mode: LoadMode::Start,
        };
        load_bytes(&source, text.as_bytes()).unwrap().config
    }

    #[test]
    fn what_a_deployment_needs_is_named_with_its_keys() {
        let of = |generation| Deployment { generation, version: "".into(), hybrid: false };
        let bare = config("");
        let hosts = config(
            "[[host_chains]]\nchain_id = 1\nurl = 'http://a.example'\n\
             acl_address = '0xca2e8f1f656cd25c01f05d0b243ab1ecd4a8ffb6'",
        );
        assert_eq!(lack_for(&bare, &of(Generation::UpToG10)), None);
        for generation in [Generation::G12, Generation::G13, Generation::G14, Generation::Head] {
            let lack = lack_for(&bare, &of(generation)).unwrap();
            assert!(
                lack.contains("[[host_chains]]") && lack.contains(generation.as_str()),
                "{lack}"
            );
        }
        // All that is lacking at once.
        let lack = lack_for(&bare, &of(Generation::G14)).unwrap();
        assert!(lack.contains("protocol_config_address"), "{lack}");
        assert_eq!(lack_for(&hosts, &of(Generation::G13)), None);
        let lack = lack_for(&hosts, &of(Generation::G14)).unwrap();
        assert!(lack.contains("protocol_config_address"), "{lack}");
    }

    async fn contracts(reporter: &Reporter, are: impl Fn(&str) -> bool) -> String {
        let mut gauges = reporter.gauges.subscribe();
        let told = gauges.wait_for(|now| now.contracts.as_deref().is_some_and(&are)).await;
        told.unwrap().contracts.clone().unwrap()
    }

    #[tokio::test]
    async fn the_last_deployment_is_told_until_the_nodes_tell_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { chain_id: 1, genesis: B256::ZERO, wallet: Address::ZERO };
        let (journal, writer) = Journal::open(dir.path(), identity, Address::ZERO).unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let writing = writer.run(Heartbeat::default(), Metrics::default(), stop.clone());
        tasks.spawn(async move { drop(writing.await) });
        let reporter = Reporter::new(Metrics::default());
        report_last_deployment(&journal, &reporter).await;
        assert_eq!(reporter.gauges.borrow().contracts, None);

        let (support, deployed) = watch::channel(DeploymentSupport::up_to_g10());
        let (noted, told) = (journal.clone(), reporter.clone());
        tasks.spawn(follow_deployment(config(""), deployed, noted, told));
        contracts(&reporter, |now| now.starts_with("G7 to G10")).await;
        let generation = Generation::G13;
        let g13 = Deployment { generation, version: "Decryption v0.5.0".into(), hybrid: false };
        for (now, is) in [
            (DeploymentSupport::Served(g13), "G13 (\"Decryption v0.5.0\")"),
            (DeploymentSupport::Upgraded { block: 7 }, "upgraded in block 7"),
        ] {
            support.send_replace(now);
            contracts(&reporter, |now| now.starts_with(is)).await;
        }
        journal.flush().await.unwrap();

        let after = Reporter::new(Metrics::default());
        report_last_deployment(&journal, &after).await;
        let last = contracts(&after, |_| true).await;
        assert!(last.starts_with("G13 (\"Decryption v0.5.0\") since 2"), "{last}");
        assert!(last.ends_with("not looked at yet after this start"), "{last}");
        stop.cancel();
        tasks.shutdown().await;
    }
}
