//! The effective configuration, key by key, with the source of each value: it shows which of file,
//! variable and default won.
//!
//! Secrets are masked here: private keys entirely, URLs except for scheme, host and port.

use serde::Serialize;

use super::{
    Config, Ethereum, Finality, HostChain, KeyConsent, KeyRepresentation, Place, Problems, Source,
    StartingBlock, Wallet, Warning, assemble_bytes, keys::Key, secret::SecretUrl,
    sources::RawConfig,
};
use crate::domain::PerKind;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Name in a file, with its table.
    pub key: &'static str,
    /// `None`: not set, and no default.
    pub value: Option<String>,
    /// `default`, `<file>:<line>`, or the name of an environment variable.
    pub source: String,
}

/// Every key, in the order of the documentation, and the warnings.
pub fn effective(source: &Source) -> Result<(Vec<Entry>, Vec<Warning>), Problems> {
    let bytes = source.file.as_deref().map(super::read).transpose()?;
    let (config, warnings, raw) =
        assemble_bytes(source, bytes.as_ref().map(|bytes| bytes.as_slice()))?;
    Ok((Key::ALL.iter().map(|key| entry(*key, &config, &raw, source)).collect(), warnings))
}

fn entry(key: Key, config: &Config, raw: &RawConfig, source: &Source) -> Entry {
    let mut value = masked_value(key, config);
    let mut from = raw.given(key).map(|given| source_of(&given.place));
    let is_of_both =
        key == Key::PublicDecryptionConfirmations || key == Key::UserDecryptionConfirmations;
    if is_of_both && from.is_none() && raw.given(Key::Confirmations).is_some() {
        from = Some(Key::Confirmations.name().to_owned());
    }
    if let Some(file) = key_file(raw) {
        if key == Key::PrivateKeyFile {
            value = Some(file.to_owned());
        } else if key == Key::PrivateKeyText {
            from = Some(Key::PrivateKeyFile.name().to_owned());
        }
    } else if key == Key::PrivateKeyText && value.is_some() && from.is_none() {
        from = Some(credential(source));
    }
    if value.is_none()
        && let Some(Wallet::PrivateKey(_)) = config.wallet
    {
        value = unused_value(key, raw);
    }
    Entry { key: key.name(), value, source: from.unwrap_or_else(|| "default".to_owned()) }
}

/// Marks values of the AWS KMS wallet that are given beside a private key and so have no effect.
fn unused_value(key: Key, raw: &RawConfig) -> Option<String> {
    let text = match (key, raw.get(key)?.value.text()?) {
        (Key::AwsKeyId | Key::AwsRegion, text) => text,
        (Key::AwsEndpoint, _) => "given",
        _ => return None,
    };
    Some(format!("{text} (not used: the private key comes first)"))
}

/// The path of the private key's file, if that source is in effect. A path that looks like a key is not
/// shown.
fn key_file(raw: &RawConfig) -> Option<&str> {
    let file = raw.get(Key::PrivateKeyFile)?;
    let inline = raw.get(Key::PrivateKeyText);
    inline.is_none_or(|inline| inline.layer < file.layer).then(|| file.value.text()).flatten()
}

fn source_of(place: &Place) -> String {
    match place {
        Place::Configuration => "default".to_owned(),
        Place::File { path, line: Some(line), .. } => format!("{}:{line}", path.display()),
        Place::File { path, line: None, .. } => path.display().to_string(),
        Place::Variable(name) => name.clone(),
    }
}

/// The location of a key that comes from the credentials directory.
fn credential(source: &Source) -> String {
    match &source.credentials_directory {
        Some(directory) => format!("a credential in {}", directory.display()),
        None => "default".to_owned(),
    }
}

/// The effective value as an operator would write it; secrets are masked.
fn masked_value(key: Key, config: &Config) -> Option<String> {
    let seconds = |duration: std::time::Duration| Some(duration.as_secs().to_string());
    let number = |number: usize| Some(number.to_string());
    match key {
        Key::Enabled => Some(config.enabled.to_string()),
        Key::Mode => Some(if config.observes() { "observe" } else { "answer" }.to_owned()),
        Key::ServiceName => Some(config.service_name.clone()),
        Key::GatewayUrl => Some(masked(&config.gateway_url)),
        Key::GatewayFallbackUrls => masked_list(&config.gateway_fallback_urls),
        Key::KmsCoreEndpoint => Some(masked(&config.kms_core_endpoint)),
        Key::ChainId => Some(config.chain_id.to_string()),
        Key::DecryptionAddress => Some(config.decryption_address.to_string()),
        Key::GatewayConfigAddress => Some(config.gateway_config_address.to_string()),
        Key::KmsGenerationAddress => {
            config.kms_generation_address.map(|address| address.to_string())
        }
        Key::ModeOfKeyManagement => Some(
            match config.key_management {
                KeyConsent::Answer => "answer",
                KeyConsent::Hold => "hold",
            }
            .to_owned(),
        ),
        Key::RepresentationOfKeys => Some(representation(config.key_representation).to_owned()),
        Key::HostChains => {
            let chains: Vec<String> = config.host_chains.iter().map(masked_host_chain).collect();
            (!chains.is_empty()).then(|| chains.join("; "))
        }
        Key::HostChainMaxConcurrentCalls => number(config.host_chain_max_concurrent_calls),
        Key::HostChainCallTimeoutSecs => seconds(config.host_chain_call_timeout),
        Key::Erc1271GasLimit => Some(config.erc1271_gas_limit.to_string()),
        Key::EthereumUrl => config.ethereum.as_ref().map(|ethereum| masked(&ethereum.url)),
        Key::EthereumFallbackUrls => {
            config.ethereum.as_ref().and_then(|ethereum| masked_list(&ethereum.fallback_urls))
        }
        Key::EthereumChainId => {
            config.ethereum.as_ref().map(|ethereum| ethereum.chain_id.to_string())
        }
        Key::ProtocolConfigAddress => {
            config.ethereum.as_ref()?.protocol_config_address.map(|address| address.to_string())
        }
        Key::EthereumStartingBlock => of_ethereum(key, config, |chain| block(chain.starting_block)),
        Key::EthereumFinality => {
            of_ethereum(key, config, |chain| finality(chain.finality).to_owned())
        }
        Key::EthereumConfirmations => {
            of_ethereum(key, config, |chain| chain.confirmations.to_string())
        }
        Key::EthereumMaxFeePerGasGwei => {
            of_ethereum(key, config, |chain| gwei(chain.max_fee_per_gas))
        }
        Key::PrivateKeyText
        | Key::PrivateKeyFile
        | Key::AwsKeyId
        | Key::AwsRegion
        | Key::AwsEndpoint => {
            config.wallet.as_ref().and_then(|wallet| masked_wallet_value(key, wallet))
        }
        Key::S3Region => config.s3.as_ref().and_then(|s3| s3.region.clone()),
        Key::S3Bucket => config.s3.as_ref().map(|s3| s3.bucket.clone()),
        Key::S3Endpoint => config.s3.as_ref().and_then(|s3| s3.endpoint.as_ref()).map(masked),
        Key::CaFile => config.private_authorities.as_ref().map(|authorities| {
            let count = authorities.certificates.len();
            format!("{} ({count} certificates)", authorities.path.display())
        }),
        Key::ChannelSize => number(config.channel_size),
        Key::PublicDecryptionTimeoutSecs => seconds(config.answer_timeout.public_decryption),
        Key::UserDecryptionTimeoutSecs => seconds(config.answer_timeout.user_decryption),
        Key::RetryIntervalSecs => seconds(config.retry_interval),
        Key::DecryptionDomainName => Some(config.decryption_domain.name.clone()),
        Key::DecryptionDomainVersion => Some(config.decryption_domain.version.clone()),
        Key::GatewayConfigDomainName => Some(config.gateway_config_domain.name.clone()),
        Key::GatewayConfigDomainVersion => Some(config.gateway_config_domain.version.clone()),
        Key::VerifyCoprocessors => Some(config.verify_coprocessors.to_string()),
        Key::GasLimit => config.gas_limit.map(|limit| limit.to_string()),
        Key::MaxFeePerGasGwei => Some(gwei(config.max_fee_per_gas)),
        Key::StartingBlock => Some(block(config.starting_block)),
        Key::MinimumGeneration => {
            config.minimum_generation.map(|generation| generation.name().to_owned())
        }
        Key::Finality => Some(finality(config.finality).to_owned()),
        // Takes effect through the two keys below.
        Key::Confirmations => {
            let PerKind { public_decryption: all, user_decryption: user, .. } =
                config.confirmations;
            (all == user).then(|| all.to_string())
        }
        Key::PublicDecryptionConfirmations => {
            Some(config.confirmations.public_decryption.to_string())
        }
        Key::UserDecryptionConfirmations => Some(config.confirmations.user_decryption.to_string()),
        Key::RequestExpirySecs => seconds(config.request_expiry),
        Key::HeldRetrySecs => seconds(config.held_retry),
        Key::JournalRetentionDays => {
            Some((config.journal_retention.as_secs() / 86_400).to_string())
        }
        Key::CiphertextMemoryMib => Some((config.ciphertext_memory >> 20).to_string()),
        Key::MaxRequestsInFlight => number(config.max_requests_in_flight),
        Key::MaxTransactionsInFlight => number(config.max_transactions_in_flight),
    }
}

/// The value of a key that has a default and is of use where Ethereum is configured.
fn of_ethereum(key: Key, config: &Config, value: impl Fn(&Ethereum) -> String) -> Option<String> {
    config.ethereum.as_ref().map(value).or_else(|| key.default().map(str::to_owned))
}

fn block(block: StartingBlock) -> String {
    match block {
        StartingBlock::Latest => "latest".to_owned(),
        StartingBlock::Number(block) => block.to_string(),
    }
}

fn finality(finality: Finality) -> &'static str {
    match finality {
        Finality::Latest => "latest",
        Finality::Safe => "safe",
        Finality::Finalized => "finalized",
    }
}

fn representation(representation: KeyRepresentation) -> &'static str {
    match representation {
        KeyRepresentation::Auto => "auto",
        KeyRepresentation::Uncompressed => "uncompressed",
        KeyRepresentation::Compressed => "compressed",
    }
}

/// One entry of `[[host_chains]]`.
fn masked_host_chain(chain: &HostChain) -> String {
    let urls: Vec<String> = chain.urls().map(masked).collect();
    format!(
        "chain_id {}, {}, acl_address {}, agreement {}, max_age_secs {}",
        chain.chain_id,
        urls.join(", "),
        chain.acl_address,
        chain.agreement,
        chain.max_age.as_secs()
    )
}

fn masked_wallet_value(key: Key, wallet: &Wallet) -> Option<String> {
    match (key, wallet) {
        (Key::PrivateKeyText, Wallet::PrivateKey(private)) => {
            Some(format!("(hidden, of address {})", private.address()))
        }
        (Key::AwsKeyId, Wallet::AwsKms { key_id, .. }) => Some(key_id.clone()),
        (Key::AwsRegion, Wallet::AwsKms { region, .. }) => region.clone(),
        (Key::AwsEndpoint, Wallet::AwsKms { endpoint, .. }) => endpoint.as_ref().map(masked),
        (_, Wallet::PrivateKey(_) | Wallet::AwsKms { .. }) => None,
    }
}

fn masked_list(urls: &[SecretUrl]) -> Option<String> {
    let urls: Vec<String> = urls.iter().map(masked).collect();
    (!urls.is_empty()).then(|| urls.join(", "))
}

/// Scheme, host and port; `…` stands for the rest.
fn masked(url: &SecretUrl) -> String {
    let whole = url.expose();
    let bare = whole.username().is_empty()
        && whole.password().is_none()
        && matches!(whole.path(), "" | "/")
        && whole.query().is_none()
        && whole.fragment().is_none();
    if bare { url.to_string() } else { format!("{url}/…") }
}

/// Exact, as it was given.
fn gwei(wei: u128) -> String {
    let (whole, rest) = (wei / 1_000_000_000, wei % 1_000_000_000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{rest:09}").trim_end_matches('0').to_owned()
}
