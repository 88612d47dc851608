//! The configuration of the connector in a simulated world.

use std::time::Duration;

use super::{
    KEY,
    deployment::{
        ACL, CHAIN_ID, DECRYPTION, GATEWAY_CONFIG, HOST_ID, KMS_GENERATION, PROTOCOL_CONFIG,
    },
    grants::MAX_AGE,
    plan::Plan,
};
use crate::{
    chain::lane::HIGHEST_FEE,
    config::{self, Config, Environment, HostChain, SecretUrl, Source},
    contracts::abi::Generation,
    domain::PerKind,
    flow::{
        ciphertexts::SMALLEST_MEMORY_MIB,
        finality::rule::{FinalityRule, FinalityTag},
    },
};

/// Deeper than any reorganisation.
const CONFIRMATIONS: u64 = 20;

/// The configuration as a file could give it, with bounds too narrow for any file, so that they are
/// reached.
pub(super) fn config(plan: &Plan) -> Config {
    // With an Ethereum, that is where key operations are asked for.
    let has_gateway_keys = plan.keys_on_gateway().is_some();
    let FinalityRule { finality, confirmations, .. } = plan.depth;
    let key = alloy::hex::encode(KEY);
    let source = Source {
        file: None,
        environment: [("KMS_CONNECTOR_PRIVATE_KEY", key)].into_iter().collect::<Environment>(),
        credentials_directory: None,
        mode: config::LoadMode::Start,
    };
    Config {
        chain_id: CHAIN_ID,
        decryption_address: DECRYPTION,
        gateway_config_address: GATEWAY_CONFIG,
        starting_block: config::StartingBlock::Number(1),
        finality: match finality {
            FinalityTag::Latest => config::Finality::Latest,
            FinalityTag::Safe => config::Finality::Safe,
            FinalityTag::Finalized => config::Finality::Finalized,
        },
        confirmations,
        channel_size: 4,
        max_requests_in_flight: 12,
        max_transactions_in_flight: 16,
        max_fee_per_gas: HIGHEST_FEE,
        answer_timeout: PerKind::all(Duration::from_secs(30)),
        retry_interval: Duration::from_secs(2),
        key_representation: if plan.path.last() == Some(&Generation::Head) {
            config::KeyRepresentation::Uncompressed
        } else {
            config::KeyRepresentation::Auto
        },
        request_expiry: Duration::from_hours(240),
        held_retry: Duration::from_mins(1),
        ciphertext_memory: u64::from(SMALLEST_MEMORY_MIB) << 20,
        host_chains: plan.host_ids().iter().map(|id| host_chain(*id, plan)).collect(),
        ethereum: (plan.has_hosts() && !has_gateway_keys).then(ethereum),
        kms_generation_address: plan.keys.rules.map(|_| KMS_GENERATION),
        ..config::load(&source).unwrap().config
    }
}

/// The URLs stand for the endpoints of [`hosts::rpc`], which are not reached by them.
fn host_url() -> SecretUrl {
    SecretUrl::new("http://host".parse().unwrap())
}

fn host_chain(chain_id: u64, plan: &Plan) -> HostChain {
    HostChain {
        chain_id,
        url: host_url(),
        fallback_urls: Vec::new(),
        acl_address: ACL,
        agreement: plan.hosts.agreement,
        max_age: MAX_AGE,
    }
}

/// Contexts are told by the same chain.
fn ethereum() -> config::Ethereum {
    config::Ethereum {
        url: host_url(),
        fallback_urls: Vec::new(),
        chain_id: HOST_ID,
        protocol_config_address: Some(PROTOCOL_CONFIG),
        starting_block: config::StartingBlock::Number(1),
        finality: config::Finality::Finalized,
        confirmations: CONFIRMATIONS,
        max_fee_per_gas: HIGHEST_FEE,
    }
}
