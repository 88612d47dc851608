//! Checks the dependencies of an instance before it runs, one after the other. An outage is waited for
//! and reported; a contradiction refuses the instance; unusual findings are logged once. Each `ask_…`
//! function asks once, so that `preflight` and `check` reuse them.

use std::{fmt::Display, path::Path, pin::pin, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{BuildError, JOURNAL_DISK, Unready, genesis::decide};
use crate::{
    admin::status::{Phase, Reporter},
    chain::{
        provider::ArbitrumProvider,
        reader::{BlockId, ChainReader},
        rpc_error::RpcError,
        sender::TransactionSender,
        wallet::Wallet,
    },
    config::{self, Config},
    contracts::{
        decryption::{DecryptionAdapter, DeploymentSupport},
        gateway_config::GatewayConfigAdapter,
    },
    dice::Dice,
    domain::{Address, B256, SigningDomain, UntrustedText},
    journal::{self, Journal, Query},
    machine::Machine,
    telemetry::log_throttle::LogThrottle,
    time::backoff::Backoff,
};

/// How long the disk may take before the wait is reported. A busy disk is faster.
pub(super) const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// How long the nodes may take to say whether they have a block.
const BLOCK_DEADLINE: Duration = Duration::from_secs(5);

/// Waits for dependencies and reports each wait: in the log, once per cause, and in the instance's
/// phase.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    reporter: Option<Reporter>,
    dice: Dice,
}

impl Waits {
    /// For the build: the instance's phase names the dependency.
    pub(super) fn building(reporter: &Reporter, dice: &Dice) -> Self {
        Self { reporter: Some(reporter.clone()), dice: dice.clone() }
    }

    /// For a running instance: the wait blocks nothing else, so the phase stays as it is.
    pub(super) fn beside(dice: Dice) -> Self {
        Self { reporter: None, dice }
    }

    pub(super) fn waiting_for(&self, on: &str, why: &str) {
        if let Some(reporter) = &self.reporter {
            let waiting = Phase::Waiting { on: on.to_owned(), why: why.to_owned() };
            reporter.phase.send_if_modified(|phase| replace_if_changed(phase, waiting));
        }
    }

    pub(super) fn done_waiting(&self) {
        if let Some(reporter) = &self.reporter {
            reporter.phase.send_replace(Phase::Starting);
        }
    }

    /// Retries until the dependency answers. `code` is the key by which errors are throttled in the
    /// log.
    pub(super) async fn retry_until_answered<T, E, F>(
        &self,
        on: &str,
        code: impl Fn(&E) -> &'static str,
        mut ask: impl FnMut() -> F,
    ) -> T
    where
        E: Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut repeats = LogThrottle::default();
        let mut waited = false;
        loop {
            match ask().await {
                Ok(answer) => {
                    if waited {
                        self.done_waiting();
                    }
                    return answer;
                }
                Err(error) => {
                    let why = error.to_string();
                    if let Some(times) = repeats.should_log(code(&error), Instant::now()) {
                        warn!(why, times, "waiting for {on}");
                    }
                    self.waiting_for(on, &why);
                    waited = true;
                }
            }
            sleep(pause.next_delay(self.dice.roll())).await;
        }
    }

    /// Waits for `work` on the disk of the journals in `dir` and reports when it takes longer than
    /// [`DISK_DEADLINE`]. The work is not restarted: a hanging disk costs one thread.
    pub(super) async fn for_disk<T>(&self, dir: &Path, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(DISK_DEADLINE, &mut work).await {
            return done;
        }
        let why = Unready::DiskTimedOut { dir: dir.to_owned() }.to_string();
        warn!(why, "waiting for {JOURNAL_DISK}");
        self.waiting_for(JOURNAL_DISK, &why);
        let done = work.await;
        info!("the disk answers again");
        self.done_waiting();
        done
    }

    /// Reads what the journals in `dir` know of the chain; waits until the directory can be read.
    pub(super) async fn known_beginnings(
        &self,
        machine: &Machine,
        chain_id: u64,
        dir: &Path,
        wallet: Address,
        name: &str,
    ) -> Vec<journal::JournalChain> {
        let ask = || self.for_disk(dir, find_beginnings(machine, chain_id, dir, wallet, name));
        self.retry_until_answered(JOURNAL_DISK, Unready::code, ask).await
    }

    /// Retries until the dependency is ready, or returns the contradiction that makes it never ready.
    pub(super) async fn retry_until_ready<T, F>(
        &self,
        on: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, BuildError>
    where
        F: Future<Output = Result<T, Unready>>,
    {
        let ask = || {
            let asking = ask();
            async {
                match asking.await {
                    Ok(answer) => Ok(Ok(answer)),
                    Err(why) if why.is_final() => Ok(Err(why.into())),
                    Err(why) => Err(why),
                }
            }
        };
        self.retry_until_answered(on, Unready::code, ask).await
    }
}

/// Returns whether the value changed.
pub(super) fn replace_if_changed<T: PartialEq>(current: &mut T, new: T) -> bool {
    let changed = *current != new;
    *current = new;
    changed
}

/// Name of the gateway node, or of all gateway nodes, for messages.
pub(super) fn gateway_name(provider: &ArbitrumProvider) -> String {
    format!("the gateway node at {}", provider.hosts())
}

/// Checks that a node serves the configured chain id.
pub(super) async fn ask_chain(provider: &ArbitrumProvider) -> Result<(), Unready> {
    Ok(provider.chain_id().await.map(drop)?)
}

/// Reads what the journals in `dir` know of the chain. The disk has to answer within [`DISK_DEADLINE`].
pub(super) async fn ask_beginnings(
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

async fn find_beginnings(
    machine: &Machine,
    chain_id: u64,
    dir: &Path,
    wallet: Address,
    name: &str,
) -> Result<Vec<journal::JournalChain>, Unready> {
    let (at, name) = (dir.to_owned(), name.to_owned());
    let looking = machine.run(move || journal::journal_chains(&at, chain_id, wallet, &name));
    let known = looking.await.ok_or(Unready::Ending)?;
    known.map_err(|cause| Unready::Directory { dir: dir.to_owned(), cause })
}

/// Decides which chain of this id is meant, from what all nodes say and the journals know (`known`).
/// Nodes of other chains are not used from then on.
pub(super) async fn settle_genesis(
    provider: &ArbitrumProvider,
    known: &[journal::JournalChain],
) -> Result<B256, Unready> {
    if let Some(error) = provider.connection_error() {
        return Err(error.into());
    }
    let genesis = decide(known, &provider.genesis_statuses())?;
    provider.settle_genesis(genesis).await;
    Ok(genesis)
}

/// The block at which reading began according to the newest journal with another block 0, if that
/// journal read this chain. In that case only its genesis hash was wrong, and nothing has been read
/// since.
pub(super) async fn began_after(
    provider: &impl ChainReader,
    known: &[journal::JournalChain],
    genesis: B256,
) -> Option<u64> {
    let newest = known.first().filter(|newest| !newest.has_genesis(genesis))?;
    let (begun_after, read) = newest.read?;
    let asking = timeout(BLOCK_DEADLINE, provider.header(BlockId::Hash(read.hash)));
    let found = asking.await.ok()?.ok()??;
    (found.block == read).then_some(begun_after)
}

pub(super) async fn ask_wallet(
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

/// Detects the deployed contract. A deployment of which every request would be held counts only if no
/// sound node contradicts it after [`RECHECK_DELAY`].
pub(super) async fn ask_support<P: ChainReader>(
    decryption: &DecryptionAdapter<P>,
) -> Result<(DeploymentSupport, Option<UntrustedText>), RpcError> {
    let first = decryption.support().await?;
    if !matches!(first.0, DeploymentSupport::FromG12 { .. }) {
        return Ok(first);
    }
    sleep(RECHECK_DELAY).await;
    let said = decryption.hearing(|one| async move { one.support().await }).await.replies;
    let mut others = said.into_iter().map(|(_, other)| other);
    Ok(others.find(|other| matches!(other, (DeploymentSupport::Served, _))).unwrap_or(first))
}

/// The contract's EIP-712 domain. The configured domain wins if any sound node confirms it after
/// [`RECHECK_DELAY`].
async fn deployed_domain<P: ChainReader>(
    decryption: &DecryptionAdapter<P>,
    configured: &SigningDomain,
) -> Result<Option<SigningDomain>, RpcError> {
    let first = decryption.signing_domain().await?;
    if first.as_ref().is_none_or(|deployed| deployed == configured) {
        return Ok(first);
    }
    sleep(RECHECK_DELAY).await;
    let said = decryption.hearing(|one| async move { one.signing_domain().await }).await.replies;
    let mut others = said.into_iter().map(|(_, other)| other);
    Ok(others.find(|other| other.as_ref() == Some(configured)).unwrap_or(first))
}

/// The configured EIP-712 domain, unless the contract contradicts it.
pub(super) async fn ask_domain<P: ChainReader>(
    decryption: &DecryptionAdapter<P>,
    config: &Config,
) -> Result<SigningDomain, Unready> {
    let configured = configured_domain(config);
    match deployed_domain(decryption, &configured).await? {
        Some(deployed) if deployed != configured => {
            Err(Unready::OtherDomain { deployed: deployed.into(), configured: configured.into() })
        }
        Some(_) => Ok(configured),
        None => {
            let address = configured.verifying_contract;
            warn!(%address, "the contract at decryption_address does not tell its EIP-712 domain: \
                is it the Decryption contract?");
            Ok(configured)
        }
    }
}

pub(super) fn configured_domain(config: &Config) -> SigningDomain {
    SigningDomain {
        name: config.decryption_domain.name.clone(),
        version: config.decryption_domain.version.clone(),
        chain_id: config.chain_id,
        verifying_contract: config.decryption_address,
    }
}

/// Waits for the contract; refuses a signing domain that contradicts the configuration.
pub(super) async fn check_decryption<P: ChainReader>(
    waits: &Waits,
    gateway: &str,
    decryption: &DecryptionAdapter<P>,
    config: &Config,
) -> Result<SigningDomain, BuildError> {
    let address = decryption.address();
    let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut said = false;
    while !waits.retry_until_answered(gateway, RpcError::code, || decryption.is_deployed()).await {
        if !said {
            said = true;
            warn!(%address, "waiting for the Decryption contract: there is no code at decryption_address");
        }
        let why = "there is no code there: correct decryption_address, unless it comes yet";
        waits.waiting_for(&format!("the Decryption contract at {address}"), why);
        sleep(pause.next_delay(waits.dice.roll())).await;
    }
    if said {
        waits.done_waiting();
    }
    waits.retry_until_ready(gateway, || ask_domain(decryption, config)).await
}

/// Detects the deployed contract and keeps watching it.
pub(super) async fn watch_support<P: ChainReader>(
    waits: &Waits,
    gateway: &str,
    decryption: &DecryptionAdapter<P>,
) -> DeploymentSupport {
    let (support, version) =
        waits.retry_until_answered(gateway, RpcError::code, || ask_support(decryption)).await;
    match &support {
        DeploymentSupport::Served => {
            info!(version = version.as_deref(), "Decryption contract found");
        }
        DeploymentSupport::FromG12 { version } => warn!(
            %version,
            "this contract is from G12 on and cannot be served: its requests are held"
        ),
        DeploymentSupport::Upgraded { .. } => {}
    }
    support
}

/// Finds the registry of buckets and nodes, and this node's registration in it.
pub(super) async fn find_registry_and_registration<P: ChainReader>(
    waits: &Waits,
    gateway: &str,
    provider: &P,
    wallet: Address,
    config: &Config,
) -> GatewayConfigAdapter<P> {
    let registry = find_registry(waits, gateway, provider, wallet, config).await;
    if !registry.is_deployed() {
        return registry;
    }
    match registry.core_signers().await.map(|signers| signers.first().copied()) {
        Ok(Some(signer)) => info!(%signer, "this node's Core is registered"),
        Ok(None) => warn!(
            %wallet,
            "the wallet is not registered as a KMS transaction sender: answers will be held until it is"
        ),
        Err(error) => warn!(%error, "could not ask who this node is"),
    }
    registry
}

/// Finds the registry of buckets and nodes (GatewayConfig).
pub(super) async fn find_registry<P: ChainReader>(
    waits: &Waits,
    gateway: &str,
    provider: &P,
    wallet: Address,
    config: &Config,
) -> GatewayConfigAdapter<P> {
    let address = config.gateway_config_address;
    let connect = || GatewayConfigAdapter::connect(provider.clone(), address, wallet);
    let registry = waits.retry_until_answered(gateway, RpcError::code, connect).await;
    if !registry.is_deployed() {
        if config.s3.is_some() {
            warn!(%address, "no code at gateway_config_address: ciphertexts come from [s3_config] alone");
        } else {
            warn!(%address, "no code at gateway_config_address and no [s3_config]: \
                no ciphertext can be found until one of them is set");
        }
    }
    registry
}

/// Logs what an operator should know about the wallet before the first answer is sent.
pub(super) async fn check_wallet<P: TransactionSender>(
    provider: &P,
    wallet: Address,
    journal: &Journal,
    config: &Config,
) {
    match provider.balance(wallet).await {
        Ok(balance) if balance.is_zero() => {
            warn!(%wallet, "the wallet has no funds: answers will wait until it has");
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "could not ask for the wallet's balance"),
    }
    let fresh = journal.ask(Query::IsEmpty).await.unwrap_or(false);
    let Ok(used @ 1..) = provider.transaction_count(wallet, BlockId::Latest).await else { return };
    let known = journal
        .ask(Query::HighestNonce)
        .await
        .ok()
        .flatten()
        .map_or(0, |highest| highest.saturating_add(1));
    match unexpected_use(fresh, used, known, config.starting_block) {
        None => {}
        Some(UnexpectedUse::NotRead) => warn!(
            %wallet,
            transactions = used,
            "the journal is empty and the wallet was used before: requests emitted before now are \
             not read; `kms-connector backfill --from BLOCK` has them read. Does another \
             kms-connector, with another state directory, use the wallet?"
        ),
        Some(UnexpectedUse::Before) => warn!(
            %wallet,
            transactions = used,
            "the journal is empty and the wallet was used before: what was answered already is not \
             answered again. Does another kms-connector, with another state directory, use the wallet?"
        ),
        Some(UnexpectedUse::Unknown(unknown)) => warn!(
            %wallet,
            unknown,
            "the chain has transactions of the wallet that the journal does not know: it was restored \
             from a backup or rebuilt, or the wallet is used elsewhere; what was answered already is \
             not answered again"
        ),
    }
}

/// Unusual use of the wallet before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnexpectedUse {
    /// The journal is new, the wallet has sent transactions, and reading begins at the head.
    NotRead,
    /// The same, but reading begins at an earlier block.
    Before,
    /// Number of nonces that the journal does not know.
    Unknown(u64),
}

/// `used` is the transaction count on chain, `known` the count that the journal expects.
fn unexpected_use(
    fresh: bool,
    used: u64,
    known: u64,
    starting_block: config::StartingBlock,
) -> Option<UnexpectedUse> {
    match (fresh, starting_block) {
        (true, _) if used == 0 => None,
        (true, config::StartingBlock::Latest) => Some(UnexpectedUse::NotRead),
        (true, config::StartingBlock::Number(_)) => Some(UnexpectedUse::Before),
        (false, _) => {
            used.checked_sub(known).filter(|unknown| *unknown > 0).map(UnexpectedUse::Unknown)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{Bytes, FixedBytes, U256},
        sol_types::SolValue as _,
    };

    use super::*;
    use crate::{
        chain::fake_chain::{ADDRESSES, FakeChain, NodeFaults},
        contracts::abi,
    };

    /// A contract about which the first of two nodes gives a wrong answer.
    fn told_by_one(call: Bytes, told: Bytes) -> (FakeChain, DecryptionAdapter<FakeChain>) {
        let chain = FakeChain::new(1);
        let lies = NodeFaults { views: vec![(call, told)], ..NodeFaults::default() };
        chain.state().faults = vec![lies, NodeFaults::default()];
        chain.state().answer_history.version = Some("Decryption v0.2.0");
        (chain.clone(), DecryptionAdapter::new(chain, ADDRESSES))
    }

    #[tokio::test(start_paused = true)]
    async fn b1_a_contract_that_one_node_alone_tells_of_holds_nothing() {
        let (chain, decryption) = told_by_one(
            abi::decryption_version().calldata(),
            "Decryption v0.4.0".to_owned().abi_encode().into(),
        );
        assert_eq!(ask_support(&decryption).await.unwrap().0, DeploymentSupport::Served);
        let lies = chain.state().faults[0].clone();
        chain.state().faults[1] = lies;
        let (support, _) = ask_support(&decryption).await.unwrap();
        assert!(matches!(support, DeploymentSupport::FromG12 { .. }), "{support:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn b1_a_signing_domain_that_one_node_alone_tells_of_refuses_nothing() {
        let domain = |name: &str| SigningDomain {
            name: name.to_owned(),
            version: "1".to_owned(),
            chain_id: 1,
            verifying_contract: Address::ZERO,
        };
        let told = |name: &str| -> Bytes {
            let (fields, of) = (FixedBytes([0x0f]), domain(name));
            let (salt, extensions) = (B256::ZERO, Vec::<U256>::new());
            let contract = of.verifying_contract;
            let told = (fields, of.name, of.version, U256::ONE, contract, salt, extensions);
            told.abi_encode_params().into()
        };
        let call = abi::signing_domain().calldata();
        let (chain, decryption) = told_by_one(call.clone(), told("Another"));
        chain.state().faults[1].views = vec![(call.clone(), told("Decryption"))];
        let configured = domain("Decryption");
        assert_eq!(
            deployed_domain(&decryption, &configured).await.unwrap(),
            Some(configured.clone())
        );
        chain.state().faults[1].views = vec![(call, told("Another"))];
        let told = deployed_domain(&decryption, &configured).await.unwrap();
        assert_eq!(told, Some(domain("Another")));
    }

    #[test]
    fn d7_a_new_journal_and_a_used_wallet_are_odd_wherever_reading_begins() {
        use crate::config::StartingBlock::{Latest, Number};
        assert_eq!(unexpected_use(true, 0, 0, Latest), None);
        assert_eq!(unexpected_use(true, 3, 0, Latest), Some(UnexpectedUse::NotRead));
        assert_eq!(unexpected_use(true, 3, 0, Number(7)), Some(UnexpectedUse::Before));
        for starting_block in [Latest, Number(7)] {
            assert_eq!(unexpected_use(false, 3, 3, starting_block), None);
            assert_eq!(unexpected_use(false, 2, 3, starting_block), None);
            assert_eq!(
                unexpected_use(false, 5, 3, starting_block),
                Some(UnexpectedUse::Unknown(2))
            );
        }
    }

    async fn phase(reporter: &Reporter, is: impl FnMut(&Phase) -> bool) -> Phase {
        reporter.phase.subscribe().wait_for(is).await.unwrap().clone()
    }

    /// The state directory is a file or is not readable: the instance waits, names the cause, and
    /// continues by itself.
    #[tokio::test]
    async fn d8_a_state_directory_that_cannot_be_read_is_waited_for_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::write(&state, "").unwrap();
        let reporter = Reporter::new(crate::telemetry::metrics::Metrics::default());
        let waits = Waits::building(&reporter, &Dice::default());
        let machine = Machine::default();
        let asking = waits.known_beginnings(&machine, 1, &state, Address::ZERO, "a");
        let fixing = async {
            let waiting = phase(&reporter, |phase| matches!(phase, Phase::Waiting { .. })).await;
            let Phase::Waiting { on, why } = waiting else { panic!("{waiting:?}") };
            assert_eq!(on, JOURNAL_DISK);
            assert!(why.contains(&state.display().to_string()) && why.contains("owner"), "{why}");
            std::fs::remove_file(&state).unwrap();
            std::fs::create_dir(&state).unwrap();
            phase(&reporter, |phase| matches!(phase, Phase::Starting)).await;
        };
        let (known, ()) = tokio::join!(asking, fixing);
        assert_eq!(known, []);
    }

    /// Work under way is waited for and not restarted.
    #[tokio::test(start_paused = true)]
    async fn d1_a_disk_that_does_not_answer_is_waited_for_by_name() {
        let reporter = Reporter::new(crate::telemetry::metrics::Metrics::default());
        let waits = Waits::building(&reporter, &Dice::default());
        let disk = waits.for_disk(Path::new("/state"), sleep(Duration::from_mins(1)));
        let begun = Instant::now();
        let watching = async {
            let waiting = phase(&reporter, |phase| matches!(phase, Phase::Waiting { .. })).await;
            assert_eq!(begun.elapsed().as_secs(), DISK_DEADLINE.as_secs());
            assert!(
                matches!(waiting, Phase::Waiting { on, why } if on == JOURNAL_DISK && why.contains("/state"))
            );
            phase(&reporter, |phase| matches!(phase, Phase::Starting)).await;
        };
        tokio::join!(disk, watching);
        assert_eq!(begun.elapsed().as_secs(), 60);
        // A busy disk is not reported.
        waits.for_disk(Path::new("/state"), sleep(DISK_DEADLINE / 2)).await;
        assert_eq!(*reporter.phase.borrow(), Phase::Starting);
    }
}
