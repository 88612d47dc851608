//! From a configuration to the parts that the rooms of an instance are made of. Nothing here waits.

use std::{fmt::Display, sync::Arc, time::Duration};

use tracing::info;

use super::BuildError;
use crate::{
    config::{self, Config, SecretUrl},
    domain::{Address, BlockRef, OutsideText},
    flow::{
        Entrance, Intakes,
        arrivals::Start,
        ciphertexts::{
            self, BucketLookupError, Buckets, Ciphertexts, CiphertextsOptions, FallbackStore,
        },
        depth::{Depth, Finality},
        entrances,
    },
    gateway::{
        gateway_config::GatewayConfigAdapter,
        provider::{
            Addresses, ArbitrumProvider, Provider, endpoint::Endpoint, endpoints::Connections,
        },
    },
    metrics::Metrics,
    tls::TlsRoots,
};

/// Unfinished requests read from the journal ahead of their walk.
pub(super) const RECOVERED_AHEAD: usize = 64;
/// To a gateway node over http, when nothing is asked.
const IDLE_CONNECTIONS: usize = 16;

/// The channels of a walk.
pub(super) fn intakes(config: &Config) -> (Intakes, Entrance, Entrance) {
    entrances(config.channel_size, RECOVERED_AHEAD)
}

/// Where reading begins if the journal does not say.
pub(super) fn start(config: &Config, cursor: Option<BlockRef>) -> Start {
    if let (Some(cursor), config::StartingBlock::Number(number)) = (cursor, config.starting_block) {
        info!(
            starting_block = number,
            cursor = cursor.number,
            "starting_block is ignored: the journal has a cursor"
        );
    }
    match config.starting_block {
        config::StartingBlock::Latest => Start::Latest,
        config::StartingBlock::Number(number) => Start::Block(number),
    }
}

pub(super) fn depth(config: &Config) -> Depth {
    Depth {
        finality: match config.finality {
            config::Finality::Latest => Finality::Latest,
            config::Finality::Safe => Finality::Safe,
            config::Finality::Finalized => Finality::Finalized,
        },
        public_decryption: config.public_decryption_confirmations,
        user_decryption: config.user_decryption_confirmations,
    }
}

pub(super) fn load_roots(config: &Config) -> Result<TlsRoots, BuildError> {
    let authorities = config.private_authorities.as_ref();
    TlsRoots::load(authorities.map(|authorities| authorities.path.as_path())).map_err(refuse)
}

/// The provider of all gateway nodes, and the tasks that connect it.
pub(super) fn gateway(
    config: &Config,
    roots: &TlsRoots,
    metrics: Metrics,
) -> Result<(ArbitrumProvider, Connections), BuildError> {
    let urls = std::iter::once(&config.gateway_url).chain(&config.gateway_fallback_urls);
    gateway_at(config, roots, urls, metrics)
}

/// [`gateway`] of these nodes only.
pub(super) fn gateway_at<'u>(
    config: &Config,
    roots: &TlsRoots,
    urls: impl Iterator<Item = &'u SecretUrl>,
    metrics: Metrics,
) -> Result<(ArbitrumProvider, Connections), BuildError> {
    let proxies = &config.proxies;
    let http = proxies
        .of_client(reqwest::Client::builder())
        .tls_backend_preconfigured(roots.client_config())
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        // Each transaction under way has a connection; after a burst some are enough.
        .pool_idle_timeout(Duration::from_secs(15))
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| fail(error.without_url()))?;
    let tls = Arc::new(roots.client_config());
    let endpoint = |url: &SecretUrl| {
        let endpoint = Endpoint::new(url.expose().clone(), tls.clone(), http.clone());
        endpoint.through(proxies.clone())
    };
    let endpoints = urls.map(endpoint).collect();
    let addresses = Addresses {
        decryption: config.decryption_address,
        gateway_config: config.gateway_config_address,
    };
    Ok(ArbitrumProvider::new(addresses, config.chain_id, endpoints, metrics))
}

pub(super) fn fail(error: impl Display) -> BuildError {
    BuildError::Failed(error.to_string())
}

pub(super) fn refuse(error: impl Display) -> BuildError {
    BuildError::Refused(error.to_string())
}

pub(super) fn fallback_store(config: &Config) -> Result<Option<FallbackStore>, BuildError> {
    let Some(s3) = &config.s3 else { return Ok(None) };
    let region = s3.region.as_deref().unwrap_or("us-east-1");
    let endpoint = s3.endpoint.as_ref().map(|url| url.expose().as_str());
    let store = FallbackStore::new(region, &s3.bucket, endpoint);
    let store = store.map(|store| Some(store.through(&config.proxies)));
    store.map_err(|error| BuildError::Refused(format!("s3_config: {error}")))
}

pub(super) fn open_ciphertexts<P: Provider>(
    config: &Config,
    roots: &TlsRoots,
    registry: GatewayConfigAdapter<P>,
    metrics: Metrics,
) -> Result<Ciphertexts<GatewayConfigAdapter<P>>, BuildError> {
    let http = ciphertexts::BucketClient::new(roots.client_config(), &config.proxies)
        .map_err(|error| fail(error.without_url()))?;
    let fallback = fallback_store(config)?;
    Ok(Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(registry),
        fallback,
        memory_mib: u32::try_from(config.ciphertext_memory >> 20).unwrap_or(u32::MAX),
        verify_coprocessors: config.verify_coprocessors,
        http,
        metrics,
    }))
}

impl<P: Provider> Buckets for GatewayConfigAdapter<P> {
    async fn bucket(&self, coprocessor: Address) -> Result<Option<String>, BucketLookupError> {
        self.bucket_url(coprocessor)
            .await
            .map_err(|error| BucketLookupError(OutsideText::of(error)))
    }

    async fn registered(&self, coprocessor: Address) -> Result<bool, BucketLookupError> {
        self.is_registered(coprocessor)
            .await
            .map_err(|error| BucketLookupError(OutsideText::of(error)))
    }
}
