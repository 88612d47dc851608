//! Checks the dependencies of an instance before it runs, one after the other. An outage is waited for
//! and reported; a contradiction refuses the instance; unusual findings are logged once. Each `ask_…`
//! function asks once, so that `preflight` and `check` reuse them.

mod wait;
mod ask;
mod wallet_use;

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

pub(super) use self::{
    ask::{
        addresses, ask_beginnings, ask_chain, ask_domain, ask_support, ask_wallet, began_after,
        configured_domain, node_name, request_source, settle_genesis,
    },
    wait::{Waits, replace_if_changed},
    wallet_use::check_wallet,
};
use super::{BuildError, key_requests::key_signing_domain};
use crate::{
    chain::{reader::ChainReader, rpc_error::RpcError},
    config::Config,
    contracts::{
        decryption::{DeploymentSupport, RequestContract},
        gateway_config::GatewayConfigAdapter,
    },
    domain::{Address, SigningDomain},
    time::backoff::Backoff,
};

/// How long the disk may take before the wait is reported. A busy disk is faster.
pub(super) const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// The longest pause between two looks for a contract: a node that is lost meanwhile shows that soon.
const CONTRACT_PAUSE: Duration = Duration::from_secs(3);

/// The contract that emits the requests of a chain, as the configuration says it is.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) name: &'static str,
    /// The configuration key of its address.
    pub(super) key: &'static str,
    pub(super) domain: SigningDomain,
    /// What to correct if the contract signs under another domain.
    pub(super) correct: &'static str,
}

impl Expected {
    pub(super) fn decryption(config: &Config) -> Self {
        let domain = configured_domain(config);
        let correct =
            "decryption_domain_name, decryption_domain_version, chain_id or decryption_address";
        Self { name: "Decryption", key: "decryption_address", domain, correct }
    }

    pub(super) fn key_generation(chain_id: u64, address: Address) -> Self {
        Self {
            name: "KMSGeneration",
            key: "kms_generation_address",
            domain: key_signing_domain(chain_id, address),
            correct: "kms_generation_address or ethereum_chain_id",
        }
    }
}

/// Waits for the contract; refuses a signing domain that contradicts the configuration.
pub(super) async fn find_contract<P: ChainReader>(
    waits: &Waits,
    nodes: &str,
    contract: &RequestContract<P>,
    expected: Expected,
) -> Result<SigningDomain, BuildError> {
    let (address, name, key) = (contract.address(), expected.name, expected.key);
    let mut pause = Backoff::new(Duration::from_millis(200), CONTRACT_PAUSE);
    let mut has_warned = false;
    while !waits.retry_until_answered(nodes, RpcError::code, || contract.is_deployed()).await {
        if !has_warned {
            has_warned = true;
            warn!(%address, "waiting for the {name} contract: there is no code at {key}");
        }
        let why = format!("there is no code there: correct {key}, unless it comes yet");
        waits.waiting_for(&format!("the {name} contract at {address}"), &why);
        sleep(pause.next_delay(waits.dice.roll())).await;
    }
    if has_warned {
        waits.done_waiting();
    }
    waits.retry_until_ready(nodes, || ask_domain(contract, &expected)).await
}

/// Detects the deployed contract. `upgraded_in`: the block of an upgrade that was read.
pub(super) async fn find_support<P: ChainReader>(
    waits: &Waits,
    gateway: &str,
    decryption: &RequestContract<P>,
    upgraded_in: Option<u64>,
) -> DeploymentSupport {
    let ask = || ask_support(decryption, upgraded_in);
    waits.retry_until_answered(gateway, RpcError::code, ask).await
}

/// Logs what was found at the contract's address.
pub(super) fn log_support(support: &DeploymentSupport) {
    match support {
        DeploymentSupport::Served(deployment) => {
            info!(%deployment, "Decryption contract found");
        }
        DeploymentSupport::Newer { version } => warn!(
            %version,
            "this contract is newer than this version knows: its requests are held"
        ),
        DeploymentSupport::WentBack { told, known } => warn!(
            %told,
            %known,
            "this contract is older than what has stood there: its requests are held"
        ),
        DeploymentSupport::Upgraded { .. } => {}
    }
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
    let registration = registry.registration().await;
    let context = registration.as_ref().ok().and_then(|found| found.context);
    let context = context.map(|context| format!("{context:#066x}"));
    match registration.map(|found| found.signer) {
        Ok(Some(signer)) => info!(%signer, context, "this node's Core is registered"),
        Ok(None) => warn!(
            %wallet,
            context,
            "the wallet is not registered as a KMS transaction sender: answers will be held until it is"
        ),
        Err(error) => warn!(%error, "could not read this node's registration"),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use alloy::{
        primitives::{Bytes, FixedBytes, U256},
        sol_types::SolValue as _,
    };
    use tokio::time::Instant;

    use super::{
        ask::{another_contract, deployed_domain},
        wallet_use::{UnexpectedUse, unexpected_use},
        *,
    };
    use crate::{
        admin::status::{Phase, Reporter},
        chain::fake_chain::{ADDRESSES, FakeChain, NodeFaults},
        contracts::abi,
        dice::Dice,
        domain::B256,
        instance::JOURNAL_DISK,
        machine::Machine,
    };

    /// A contract about which the first of two nodes gives a wrong answer.
    fn told_by_one(call: Bytes, told: Bytes) -> (FakeChain, RequestContract<FakeChain>) {
        let chain = FakeChain::new(1);
        let lies = NodeFaults { views: vec![(call, told)], ..NodeFaults::default() };
        chain.state().faults = vec![lies, NodeFaults::default()];
        chain.state().answer_history.version = Some("Decryption v0.2.0");
        (chain.clone(), RequestContract::new(chain, ADDRESSES))
    }

    /// Hostile input B1.
    #[tokio::test(start_paused = true)]
    async fn g4_one_node_alone_can_neither_hide_a_deployment_nor_invent_one_that_nobody_knows() {
        let said = |text: &str| -> Bytes { text.to_owned().abi_encode().into() };
        let version = |text: &str| (abi::contract_version().calldata(), said(text));
        let told_by = |texts: [&str; 2]| {
            let (chain, decryption) = told_by_one(Bytes::new(), Bytes::new());
            for (node, text) in texts.into_iter().enumerate() {
                chain.state().faults[node].views = vec![version(text)];
            }
            async move { ask_support(&decryption, None).await.unwrap().version().to_owned() }
        };
        let (old, g13, newer) = ("Decryption v0.3.0", "Decryption v0.5.0", "Decryption v0.8.0");
        for (texts, counts) in [
            ([old, old], old),
            ([old, g13], g13),
            ([g13, old], g13),
            ([g13, newer], g13),
            ([newer, newer], newer),
        ] {
            assert_eq!(told_by(texts).await, counts, "{texts:?}");
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_contract_that_calls_itself_another_one_is_one_if_every_node_says_so() {
        let said = |text: &str| -> Bytes { text.to_owned().abi_encode().into() };
        let call = abi::contract_version().calldata();
        let (chain, decryption) = told_by_one(call.clone(), said("GatewayConfig v0.8.0"));
        assert_eq!(
            another_contract(&decryption, "Decryption").await.unwrap(),
            None,
            "one node alone says so"
        );
        chain.state().faults[1].views = vec![(call, said("GatewayConfig v0.8.0"))];
        let found = another_contract(&decryption, "Decryption").await.unwrap();
        assert_eq!(found.as_deref(), Some("GatewayConfig v0.8.0"));
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

    /// Something else was waited for until then.
    #[tokio::test(start_paused = true)]
    async fn d8_a_dependency_that_does_not_answer_any_more_is_named_within_seconds() {
        let reporter = Reporter::new(crate::telemetry::metrics::Metrics::default());
        let waits = Waits::building(&reporter, &Dice::default());
        waits.waiting_for("the contract", "there is no code");
        let ask = || async {
            sleep(Duration::from_secs(10)).await;
            Err::<(), _>("connection refused")
        };
        let asking = waits.retry_until_answered("the node", |_| "lost", ask);
        let is_of_node =
            |phase: &Phase| matches!(phase, Phase::Waiting { on, .. } if on == "the node");
        let begun = Instant::now();
        let watching = async {
            phase(&reporter, is_of_node).await;
            assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());
            let told = phase(
                &reporter,
                |phase| matches!(phase, Phase::Waiting { why, .. } if why.contains("refused")),
            );
            told.await;
        };
        tokio::select! {
            () = asking => panic!("it has not answered"),
            () = watching => {}
        }
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
