//! The world as it must be before an instance runs: each dependency is asked in turn. An outage is
//! waited for and named; a contradiction refuses; what an operator should know is said once.

use std::{fmt::Display, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{BuildError, refuse};
use crate::{
    backoff::Backoff,
    config::{self, Config},
    domain::{Address, SigningDomain},
    gateway::{
        decryption::{DecryptionAdapter, Support},
        gateway_config::GatewayConfigAdapter,
        provider::Provider,
        wallet::{Wallet, WalletError},
    },
    journal::Journal,
};

pub(super) fn waiting() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(10))
}

/// Asks again until there is an answer, saying once per cause what is waited for.
pub(super) async fn wait<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut pause = waiting();
    let mut last = String::new();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                let why = error.to_string();
                if why != last {
                    warn!(why, "waiting for {what}");
                    last = why;
                }
            }
        }
        sleep(pause.next_delay()).await;
    }
}

pub(super) async fn open_wallet(wallet: &config::Wallet) -> Result<Wallet, BuildError> {
    match wallet {
        config::Wallet::PrivateKey(key) => Wallet::from_private_key(key.expose()).map_err(refuse),
        config::Wallet::AwsKms { key_id, region, endpoint } => {
            let mut pause = waiting();
            loop {
                let endpoint = endpoint.as_ref().map(|url| url.expose().clone());
                match Wallet::aws_kms(key_id, region.as_deref(), endpoint.as_ref()).await {
                    Ok(wallet) => return Ok(wallet),
                    // Another key or configuration is needed: waiting cannot help.
                    Err(
                        error @ (WalletError::UnsuitableKey { .. }
                        | WalletError::NoRegion
                        | WalletError::InvalidPrivateKey),
                    ) => return Err(refuse(error)),
                    Err(error) => warn!(%error, "waiting for AWS KMS"),
                }
                sleep(pause.next_delay()).await;
            }
        }
    }
}

/// Waits for the contract; refuses a signing domain that the configuration contradicts.
pub(super) async fn check_decryption<P: Provider>(
    decryption: &DecryptionAdapter<P>,
    config: &Config,
) -> Result<SigningDomain, BuildError> {
    let address = decryption.address();
    let mut pause = waiting();
    let mut said = false;
    while !wait("the gateway node", || decryption.is_deployed()).await {
        if !said {
            said = true;
            warn!(%address, "waiting for the Decryption contract: there is no code at decryption_address");
        }
        sleep(pause.next_delay()).await;
    }
    let configured = SigningDomain {
        name: config.decryption_domain.name.clone(),
        version: config.decryption_domain.version.clone(),
        chain_id: config.chain_id,
        verifying_contract: address,
    };
    match wait("the gateway node", || decryption.signing_domain()).await {
        Some(deployed) if deployed != configured => Err(BuildError::Refused(format!(
            "the contract at {address} signs under {deployed:?}, the configuration says \
             {configured:?}; correct decryption_domain_name, decryption_domain_version, chain_id \
             or decryption_address"
        ))),
        Some(_) => Ok(configured),
        None => {
            warn!(%address, "the contract at decryption_address does not tell its EIP-712 domain: \
                is it the Decryption contract?");
            Ok(configured)
        }
    }
}

/// Which contract is deployed.
pub(super) async fn watch_support<P: Provider>(decryption: &DecryptionAdapter<P>) -> Support {
    let (support, version) = wait("the gateway node", || decryption.support()).await;
    match &support {
        Support::Served => info!(version, "Decryption contract found"),
        Support::FromG12 { version } => warn!(
            version,
            "this contract is from G12 on and cannot be served: its requests are held"
        ),
        Support::Upgraded { .. } => {}
    }
    support
}

/// The registry of buckets and nodes, and what it says of this node.
pub(super) async fn reach_registry<P: Provider>(
    provider: &P,
    wallet: Address,
    config: &Config,
) -> GatewayConfigAdapter<P> {
    let registry =
        wait("the gateway node", || GatewayConfigAdapter::connect(provider.clone(), wallet)).await;
    let address = config.gateway_config_address;
    if !registry.is_deployed() {
        if config.s3.is_some() {
            warn!(%address, "no code at gateway_config_address: ciphertexts come from [s3_config] alone");
        } else {
            warn!(%address, "no code at gateway_config_address and no [s3_config]: \
                no ciphertext can be found until one of them is set");
        }
        return registry;
    }
    match registry.core_signer().await {
        Ok(Some(signer)) => info!(%signer, "this node's Core is registered"),
        Ok(None) => warn!(
            %wallet,
            "the wallet is not registered as a KMS transaction sender: answers will be held until it is"
        ),
        Err(error) => warn!(%error, "could not ask who this node is"),
    }
    registry
}

/// What an operator should hear about the wallet before the first answer.
pub(super) async fn check_wallet<P: Provider>(
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
    let fresh = journal.is_empty().await.unwrap_or(false);
    if fresh
        && config.starting_block == config::StartingBlock::Latest
        && let Ok(used @ 1..) = provider.transaction_count(wallet).await
    {
        warn!(
            %wallet,
            transactions = used,
            "the journal is empty and the wallet was used before: requests emitted before now are \
             not read; set starting_block to read them"
        );
    }
}
