//! From a configuration to the parts of an instance. Nothing here waits.

use std::sync::Arc;

use tracing::debug;

use crate::{
    chain::reader::ChainReader,
    config::{self, Config},
    contracts::{
        decryption::Addresses,
        gateway_config::{GatewayConfigAdapter, RegistryError},
    },
    domain::{Address, BlockRef},
    flow::{
        FlowOptions, WalkReceivers, WalkSender,
        arrivals::Start,
        ciphertexts::{
            BucketClient, BucketLookupError, BucketRegistry, Ciphertexts, CiphertextsOptions,
            FallbackStore,
        },
        finality::rule::{FinalityRule, FinalityTag},
        walk_channels,
    },
    telemetry::{metrics::Metrics, trace_context::Whose},
};

/// Unfinished requests read from the journal ahead of their walk.
pub(super) const RECOVERY_QUEUE: usize = 64;

/// The channels of a walk.
pub(super) fn open_walk_queues(config: &Config) -> (WalkReceivers, WalkSender, WalkSender) {
    walk_channels(config.channel_size, RECOVERY_QUEUE)
}

pub(super) fn addresses(config: &Config) -> Addresses {
    Addresses {
        chain_id: config.chain_id,
        decryption: config.decryption_address,
        gateway_config: config.gateway_config_address,
    }
}

pub(super) fn flow_options(config: &Config) -> FlowOptions {
    FlowOptions {
        max_in_flight: config.max_requests_in_flight,
        answer_timeout: config.answer_timeout,
        retry_interval: config.retry_interval,
        request_expiry: config.request_expiry,
    }
}

/// Where reading begins if the journal does not say. `begun_before`: where an abandoned journal of the
/// same chain had begun.
pub(super) fn reading_start(
    config: &Config,
    cursor: Option<BlockRef>,
    begun_before: Option<u64>,
) -> Start {
    if let (Some(cursor), config::StartingBlock::Number(number)) = (cursor, config.starting_block) {
        debug!(
            starting_block = number,
            cursor = cursor.number,
            "starting_block is ignored: the journal has a cursor"
        );
    }
    match config.starting_block {
        config::StartingBlock::Latest => {
            begun_before.map_or(Start::Latest, |block| Start::Block(block.saturating_add(1)))
        }
        config::StartingBlock::Number(number) => Start::Block(number),
    }
}

pub(super) fn configured_finality(config: &Config) -> FinalityRule {
    FinalityRule {
        finality: match config.finality {
            config::Finality::Latest => FinalityTag::Latest,
            config::Finality::Safe => FinalityTag::Safe,
            config::Finality::Finalized => FinalityTag::Finalized,
        },
        confirmations: config.confirmations,
    }
}

pub(super) fn open_ciphertexts<P: ChainReader>(
    config: &Config,
    http: BucketClient,
    fallback: Option<FallbackStore>,
    registry: GatewayConfigAdapter<P>,
    metrics: Metrics,
) -> Ciphertexts<GatewayConfigAdapter<P>> {
    Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(registry),
        fallback,
        memory_mib: u32::try_from(config.ciphertext_memory >> 20).unwrap_or(u32::MAX),
        verify_coprocessors: config.verify_coprocessors,
        http,
        metrics,
    })
}

fn lookup_error(error: RegistryError) -> BucketLookupError {
    BucketLookupError { code: error.code(), source: Arc::new(error) }
}

impl<P: ChainReader> BucketRegistry for GatewayConfigAdapter<P> {
    async fn bucket_url_of(
        &self,
        coprocessor: Address,
    ) -> Result<Option<String>, BucketLookupError> {
        self.bucket_url(coprocessor).await.map_err(lookup_error)
    }

    async fn is_known_coprocessor(&self, coprocessor: Address) -> Result<bool, BucketLookupError> {
        self.is_registered(coprocessor).await.map_err(lookup_error)
    }
}

/// The instance's identity in traces.
pub(super) fn whose(name: &str, config: &Config) -> Whose {
    let service_name = config.given_service_name().map(str::to_owned);
    Whose { instance: name.to_owned(), service_name }
}
