//! Key operations of this instance. Where the gateway asks for them, that contract is read beside the
//! Decryption contract, with a cursor of its own, and what it asks for goes to the same walk. Where Ethereum
//! does, there is a stack for that chain ([`super::second_chain`]), and `ProtocolConfig` is read beside
//! `KMSGeneration` in the same way.

use tokio::sync::watch;
use tracing::info;

use super::{
    Stack,
    report::BesideReading,
    stored_state::{InHand, ReadingPosition},
};
use crate::{
    chain::{lane::Lane, provider::ArbitrumProvider},
    config::{self, BesideContract, Config, KeyChain},
    contracts::{
        abi::{Deployment, Generation},
        decryption::{DeploymentSupport, RequestContract},
        kms_lifecycle::KmsLifecycle,
        protocol_config::ProtocolConfig,
    },
    domain::{Address, BlockRef, KeyRepresentation, LedgerError, RequestSource, SigningDomain},
    flow::{
        Confirmation, KeyManagement, KeyPolicy, KeyRooms, LifecycleRooms, RepresentationChoice,
        WalkSender,
        arrivals::{Arrivals, Start, suspects::SuspectBlocks},
        kms_core::KmsCore,
        submission::Submission,
    },
    journal::Journal,
    telemetry::{heartbeat, metrics::Metrics},
};

/// What key operations depend on beside their own contract.
#[derive(Clone, Debug)]
pub(super) struct KeyCircumstances {
    /// Where the KMS contexts that they name are checked. `None`: not configured.
    pub(super) contexts: Option<ProtocolConfig<ArbitrumProvider>>,
    /// The gateway's contracts.
    pub(super) gateway: watch::Receiver<DeploymentSupport>,
}

/// A contract that asks for key operations, how far it is read, and blocks of it that are read again.
#[derive(Clone)]
pub(super) struct KeyContract {
    adapter: RequestContract<ArbitrumProvider>,
    suspects: SuspectBlocks,
    reading: BesideReading,
}

/// Those that are read beside the first contract of a chain.
#[derive(Default)]
pub(super) struct ContractsBeside {
    /// `KMSGeneration`. `None`: nothing is asked for on this chain, or it is its first contract.
    pub(super) generation: Option<KeyContract>,
    /// `ProtocolConfig`, which asks for KMS contexts and epochs.
    pub(super) lifecycle: Option<KeyContract>,
}

impl ContractsBeside {
    /// `first`: the contract that names all requests of its chain.
    pub(super) fn of(config: &Config, first: &RequestContract<ArbitrumProvider>) -> Self {
        let mut found = Self::default();
        for contract in config.read_beside(first.source().chain_id) {
            match contract {
                BesideContract::KeyGeneration(at) => {
                    found.generation = Some(KeyContract::of(first.key_generation(at)));
                }
                BesideContract::ProtocolConfig(at) => {
                    found.lifecycle = Some(KeyContract::of(first.protocol_config(at)));
                }
            }
        }
        found
    }

    /// To be read.
    pub(super) fn into_list(self) -> Vec<KeyContract> {
        self.generation.into_iter().chain(self.lifecycle).collect()
    }
}

impl KeyContract {
    pub(super) fn of(adapter: RequestContract<ArbitrumProvider>) -> Self {
        let reading = BesideReading::new(adapter.name(), adapter.address());
        Self { adapter, suspects: SuspectBlocks::default(), reading }
    }

    /// How far it is read, where it is read beside another one.
    pub(super) fn reading(&self) -> BesideReading {
        self.reading.clone()
    }

    /// What reads blocks of it again, and the journal for what is found. `journal`: that of the chain.
    pub(super) fn reread(&self, journal: &Journal) -> (RequestContract<ArbitrumProvider>, Journal) {
        let source = RequestSource { contract: self.adapter.address(), ..self.adapter.source() };
        (self.adapter.clone(), journal.for_source(source))
    }

    /// Blocks of it that are read again.
    pub(super) fn suspects(&self) -> SuspectBlocks {
        self.suspects.clone()
    }

    /// What is done with what it asks for. `lane`, `gas_limit`: of its chain.
    fn rooms(
        &self,
        core: &KmsCore,
        (lane, gas_limit): (Lane, Option<u64>),
        metrics: &Metrics,
    ) -> KeyRooms<ArbitrumProvider> {
        let adapter = &self.adapter;
        let chain_id = adapter.source().chain_id;
        KeyRooms {
            contract: adapter.clone(),
            core: core.under(signing_domain(adapter.name(), chain_id, adapter.address())),
            submission: Submission::new(lane, adapter.clone(), gas_limit, metrics.clone()),
            confirmation: Confirmation::new(adapter.clone(), self.suspects.clone()),
        }
    }

    /// The stages of what `KMSGeneration` asks for, and `ProtocolConfig` beside it (`lifecycle`).
    pub(super) fn stages(
        &self,
        config: &Config,
        lifecycle: Option<&Self>,
        core: &KmsCore,
        (lane, gas_limit): (Lane, Option<u64>),
        (metrics, of): (&Metrics, KeyCircumstances),
    ) -> KeyManagement<ArbitrumProvider> {
        let key_generation = self.adapter.address();
        let of_lifecycle = |contract: &Self| LifecycleRooms {
            rooms: contract.rooms(core, (lane.clone(), gas_limit), metrics),
            history: KmsLifecycle::new(
                contract.adapter.provider().clone(),
                contract.adapter.address(),
                key_generation,
            ),
        };
        KeyManagement {
            generation: self.rooms(core, (lane.clone(), gas_limit), metrics),
            lifecycle: lifecycle.map(of_lifecycle),
            policy: match config.key_management {
                config::KeyConsent::Answer => KeyPolicy::Answer,
                config::KeyConsent::Hold => KeyPolicy::Hold,
            },
            representation: match config.key_representation {
                config::KeyRepresentation::Auto => RepresentationChoice::Auto,
                config::KeyRepresentation::Uncompressed => {
                    RepresentationChoice::Named(KeyRepresentation::Uncompressed)
                }
                config::KeyRepresentation::Compressed => {
                    RepresentationChoice::Named(KeyRepresentation::Compressed)
                }
            },
            contexts: of.contexts,
            gateway: of.gateway,
        }
    }
}

/// What the Core signs key material under (protocol: gateway-abi 10).
pub(super) fn key_signing_domain(chain_id: u64, verifying_contract: Address) -> SigningDomain {
    signing_domain("KMSGeneration", chain_id, verifying_contract)
}

fn signing_domain(name: &str, chain_id: u64, verifying_contract: Address) -> SigningDomain {
    let (name, version) = (name.to_owned(), "1".to_owned());
    SigningDomain { name, version, chain_id, verifying_contract }
}

/// Says what is not served of what goes with the deployed contracts. An observing instance serves nothing.
pub(super) fn log_what_is_not_served(config: &Config, deployed: &Deployment) {
    if let Some(lack) = key_lack(config, deployed).filter(|_| !config.observes()) {
        info!("key operations are not served: {lack}");
    }
}

/// Why key operations that go with this deployment are not served. `None`: they are.
pub(super) fn key_lack(config: &Config, deployment: &Deployment) -> Option<&'static str> {
    let are_on_ethereum = deployment.generation >= Generation::G13 || deployment.hybrid;
    let is_one_chain = config.ethereum.as_ref().is_some_and(|it| it.chain_id == config.chain_id);
    match (config.key_chain(), are_on_ethereum) {
        (Some(KeyChain::Gateway { .. }), true) if is_one_chain => None,
        (Some(KeyChain::Gateway { .. }), false) | (Some(KeyChain::Ethereum { .. }), true) => None,
        (None, false) => Some("kms_generation_address is not set"),
        (None, true) if config.ethereum.is_some() => Some(
            "these contracts ask for them on Ethereum, and ProtocolConfig is only asked which KMS contexts \
                 there are: new contexts and epochs are not confirmed; set kms_generation_address",
        ),
        (None | Some(KeyChain::Gateway { .. }), true) => Some(
            "these contracts ask for them on Ethereum: set ethereum_url, ethereum_chain_id and \
             kms_generation_address",
        ),
        (Some(KeyChain::Ethereum { .. }), false) => Some(
            "these contracts ask for them on the gateway, and with ethereum_url set \
             kms_generation_address is read on Ethereum: leave out ethereum_url until they are upgraded",
        ),
    }
}

/// Where reading of a contract begins if it was never read: with the one that it stands beside, unless the
/// operator names a block. `cursor`: up to where that one was read.
fn reading_start(starting_block: config::StartingBlock, cursor: Option<BlockRef>) -> Start {
    match (starting_block, cursor) {
        (config::StartingBlock::Number(number), _) => Start::Block(number),
        (config::StartingBlock::Latest, Some(cursor)) => Start::Block(cursor.number + 1),
        (config::StartingBlock::Latest, None) => Start::Latest,
    }
}

impl Stack {
    /// Reads what a contract asks for that stands beside the chain's first one, which names its requests.
    /// `cursor`: up to where that contract was read; `starting_block`: of the chain.
    pub(super) fn read_beside(
        &mut self,
        contract: KeyContract,
        (first, starting_block): (RequestSource, config::StartingBlock),
        journal: &Journal,
        walk: WalkSender,
        cursor: Option<BlockRef>,
    ) {
        let (adapter, journal) = contract.reread(journal);
        let KeyContract { suspects, reading: told, .. } = contract;
        let heart = self.supervision.heartbeats.heartbeat(heartbeat::KEY_ARRIVALS);
        let (stop, metrics) =
            (self.supervision.stop.clone(), self.supervision.reporter.metrics.clone());
        let (clock, dice) = (self.machine.clock, self.machine.dice.clone());
        let start = reading_start(starting_block, cursor);
        self.tasks.spawn(heartbeat::KEY_ARRIVALS, async move {
            journal.stand_beside(first).await?;
            let opened = InHand { journal: journal.clone(), begun_before: None };
            let reading = ReadingPosition::read(&opened).await.map_err(LedgerError::from)?;
            // Upgrades are logged. What is served is decided by the Decryption contract.
            let support = watch::channel(DeploymentSupport::Upgraded { block: 0 }).0;
            let (cursor, began_after) = (reading.cursor, reading.began_after);
            let arrivals =
                Arrivals::new(adapter, journal, walk, support, cursor, began_after, metrics)
                    .with_suspects(suspects)
                    .resuming(reading.unproven, reading.read_twice)
                    .with_clock(clock, dice);
            told.begin(arrivals.progress(), arrivals.state());
            Box::pin(arrivals.run(start, heart, stop)).await
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadMode, Source, load_bytes};

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
    fn which_keys_are_lacking_depends_on_where_the_contracts_ask() {
        let address = "kms_generation_address = '0xca2e8f1f656cd25c01f05d0b243ab1ecd4a8ffb6'\n";
        let chain = |id: u64| format!("ethereum_url = 'http://e'\nethereum_chain_id = {id}\n");
        let ethereum = config(&format!("{address}{}", chain(1)));
        let one_chain = config(&format!("chain_id = 7\n{address}{}", chain(7)));
        let half = address.replace("kms_generation", "protocol_config");
        let half = config(&format!("{half}{}", chain(1)));
        let (bare, gateway) = (config(""), config(address));
        let of = |generation, hybrid| Deployment { generation, version: "".into(), hybrid };
        let before = [of(Generation::UpToG10, false), of(Generation::G12, false)];
        let after =
            [of(Generation::G13, false), of(Generation::Head, false), of(Generation::G12, true)];
        for deployment in &before {
            let lack = |config| key_lack(config, deployment);
            assert_eq!(lack(&bare), Some("kms_generation_address is not set"));
            assert_eq!((lack(&gateway), lack(&one_chain)), (None, None));
            assert!(lack(&ethereum).unwrap().contains("leave out ethereum_url"));
        }
        for deployment in &after {
            let lack = |config| key_lack(config, deployment);
            assert!(lack(&bare).unwrap().contains("set ethereum_url"));
            assert!(lack(&gateway).unwrap().contains("set ethereum_url"));
            let half = lack(&half).unwrap();
            assert!(half.ends_with("set kms_generation_address"), "only what is not there: {half}");
            assert_eq!((lack(&ethereum), lack(&one_chain)), (None, None));
        }
    }
}
