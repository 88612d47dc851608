//! Key operations of this instance: the contract that asks for them is read beside the Decryption contract,
//! with a cursor of its own; what it asks for goes to the same walk.

use tracing::info;

use super::{
    Instance,
    stored_state::{InHand, ReadingPosition},
};
use crate::{
    chain::{lane::Lane, provider::ArbitrumProvider},
    config::{self, Config},
    contracts::{
        abi::Generation,
        decryption::{DeploymentSupport, RequestContract},
    },
    domain::{Address, BlockRef, LedgerError, RequestSource, SigningDomain},
    flow::{
        Confirmation, KeyManagement, KeyPolicy, WalkSender,
        arrivals::{Arrivals, Start, suspects::SuspectBlocks},
        kms_core::KmsCore,
        submission::Submission,
    },
    journal::Journal,
    telemetry::{heartbeat, metrics::Metrics},
};

/// The contract that asks for key operations, and blocks of it that are read again.
#[derive(Clone)]
pub(super) struct KeyContract {
    adapter: RequestContract<ArbitrumProvider>,
    suspects: SuspectBlocks,
}

impl KeyContract {
    /// `None`: the configuration names none.
    pub(super) fn of(
        config: &Config,
        decryption: &RequestContract<ArbitrumProvider>,
    ) -> Option<Self> {
        let adapter = decryption.key_generation(config.kms_generation_address?);
        Some(Self { adapter, suspects: SuspectBlocks::default() })
    }

    /// The stages of what it asks for.
    pub(super) fn stages(
        &self,
        config: &Config,
        core: &KmsCore,
        lane: Lane,
        metrics: &Metrics,
    ) -> KeyManagement<ArbitrumProvider> {
        let adapter = &self.adapter;
        KeyManagement {
            contract: adapter.clone(),
            core: core.under(key_signing_domain(config.chain_id, adapter.address())),
            submission: Submission::new(lane, adapter.clone(), config.gas_limit, metrics.clone()),
            confirmation: Confirmation::new(adapter.clone(), self.suspects.clone()),
            policy: match config.key_management {
                config::KeyManagement::Answer => KeyPolicy::Answer,
                config::KeyManagement::Hold => KeyPolicy::Hold,
            },
        }
    }
}

/// What the Core signs key material under (protocol: gateway-abi 10).
pub(super) fn key_signing_domain(chain_id: u64, verifying_contract: Address) -> SigningDomain {
    let (name, version) = ("KMSGeneration".to_owned(), "1".to_owned());
    SigningDomain { name, version, chain_id, verifying_contract }
}

/// Says once what is not served, where the deployed contracts ask for it on this chain.
pub(super) fn log_what_is_not_served(config: &Config, support: &DeploymentSupport) {
    if config.kms_generation_address.is_none()
        && support.answered().is_some_and(|deployed| deployed.generation <= Generation::G12)
    {
        info!("key operations are not served: kms_generation_address is not set");
    }
}

/// Where reading of key operations begins if they were never read: with the Decryption contract, unless the
/// operator names a block. `cursor`: up to where that one was read.
fn key_reading_start(config: &Config, cursor: Option<BlockRef>) -> Start {
    match (config.starting_block, cursor) {
        (config::StartingBlock::Number(number), _) => Start::Block(number),
        (config::StartingBlock::Latest, Some(cursor)) => Start::Block(cursor.number + 1),
        (config::StartingBlock::Latest, None) => Start::Latest,
    }
}

impl Instance {
    /// Reads what the contract asks for. `decryption`: names its requests. `cursor`: up to where that contract
    /// was read.
    pub(super) fn read_key_requests(
        &mut self,
        config: &Config,
        contract: KeyContract,
        journal: &Journal,
        decryption: RequestSource,
        walk: WalkSender,
        cursor: Option<BlockRef>,
    ) {
        let KeyContract { adapter, suspects } = contract;
        let source = RequestSource { contract: adapter.address(), ..decryption };
        let journal = journal.for_source(source);
        let heart = self.supervision.heartbeats.heartbeat(heartbeat::KEY_ARRIVALS);
        let (stop, metrics) =
            (self.supervision.stop.clone(), self.supervision.reporter.metrics.clone());
        let (clock, dice) = (self.machine.clock, self.machine.dice.clone());
        let start = key_reading_start(config, cursor);
        self.tasks.spawn(heartbeat::KEY_ARRIVALS, async move {
            journal.stand_beside(decryption).await?;
            let opened = InHand { journal: journal.clone(), begun_before: None };
            let reading = ReadingPosition::read(&opened).await.map_err(LedgerError::from)?;
            // Upgrades are logged. What is served is decided by the Decryption contract.
            let support = tokio::sync::watch::channel(DeploymentSupport::Upgraded { block: 0 }).0;
            let (cursor, began_after) = (reading.cursor, reading.began_after);
            let arrivals =
                Arrivals::new(adapter, journal, walk, support, cursor, began_after, metrics)
                    .with_suspects(suspects)
                    .resuming(reading.unproven, reading.read_twice)
                    .with_clock(clock, dice);
            Box::pin(arrivals.run(start, heart, stop)).await
        });
    }
}
