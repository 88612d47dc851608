//! From what was given to a [`Config`] that cannot be wrong, or to every problem at once.
//!
//! Each check notes its problem and goes on, so that one run names them all. Defaults and ranges
//! stand here, beside the key they belong to. The only I/O is reading the files that keys name.

use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, address};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::files::{Guard, Verdict, read_key_file, read_small_file};
use super::problems::{Place, Problem, Problems, Warning};
use super::raw::{
    Given, Key, Layer, QUOTES, Raw, Value, quoted, show, show_shape, stands_in_quotes,
};
use super::secret::{InvalidPrivateKey, PrivateKey, SecretString, SecretUrl, strip_0x};
use super::settings::{Config, Domain, Finality, PrivateAuthorities, S3, StartingBlock, Wallet};
use super::{Mode, Source};
use crate::{
    domain::PerKind,
    proxy::{self, Proxies},
};

/// EIP-2294 sets a lower bound of this size; TOML and the journal hold no larger integers.
const MAX_CHAIN_ID: u64 = i64::MAX.unsigned_abs();
/// No response costs less: 21,000 for being a transaction, calldata, the recovery of a signature,
/// and several new storage slots at 22,100 each. The seed's documentation shows 6000.
const MIN_GAS_LIMIT: u64 = 100_000;
/// 1,024 Bools of 64 KiB, twice: as fetched and as encoded for the Core.
const MIN_CIPHERTEXT_MEMORY_MIB: u64 = 160;
/// A sequencer buffers this many transactions of one sender.
const MAX_TRANSACTIONS_IN_FLIGHT: u32 = 1024;
/// 1,000 gwei: no chain of the Gateway's kind comes near.
const MAX_FEE_PER_GAS: u128 = 1_000_000_000_000;
const DAY_SECS: u64 = 86_400;
/// More blocks than an hour has on the Gateway's chain.
const MAX_CONFIRMATIONS: u64 = 20_000;
const GATEWAY_SCHEMES: [&str; 4] = ["ws", "wss", "http", "https"];
/// So many entries of `NO_PROXY` that are not understood are told.
const MOST_ODD: usize = 10;
/// Each is a connection that is kept open.
const MAX_FALLBACK_URLS: usize = 8;

const DEFAULT_GATEWAY_URL: &str = "ws://localhost:8545";
const DEFAULT_KMS_CORE_ENDPOINT: &str = "http://[::1]:50052";
const DEFAULT_CHAIN_ID: u64 = 31337;
const DEFAULT_DECRYPTION_ADDRESS: Address = address!("5fbdb2315678afecb367f032d93f642f64180aa3");
const DEFAULT_GATEWAY_CONFIG_ADDRESS: Address =
    address!("0000000000000000000000000000000000000001");

/// What the seed marks as required. Under `start` its defaults stand in.
const REQUIRED: [Key; 5] = [
    Key::GatewayUrl,
    Key::KmsCoreEndpoint,
    Key::ChainId,
    Key::DecryptionAddress,
    Key::GatewayConfigAddress,
];

/// A problem was noted, and there is no value.
struct Noted;

/// A key's value, `None` if it was not given.
type Found<T> = Result<Option<T>, Noted>;

/// Judges what was given.
pub(super) fn check(raw: Raw, source: &Source) -> Result<(Config, Vec<Warning>), Problems> {
    let mut check = Check { raw, source };
    let config = check.config();
    let is_disabled = matches!(check.boolean(Key::Enabled), Ok(Some(false)));
    let Raw { problems, mut warnings, .. } = check.raw;
    match (config, Problems::collect(problems)) {
        (Ok(config), None) => {
            warnings.sort();
            warnings.dedup();
            Ok((config, warnings))
        }
        (_, Some(problems)) if is_disabled => Err(problems.of_disabled()),
        (_, Some(problems)) => Err(problems),
        (Err(Noted), None) => unreachable!("Noted is made only where a problem is noted"),
    }
}

struct Check<'a> {
    raw: Raw,
    source: &'a Source,
}

impl Check<'_> {
    fn config(&mut self) -> Result<Config, Noted> {
        let observes = self.observes();
        self.required(matches!(observes, Ok(true)));
        let enabled = self.boolean(Key::Enabled);
        let service_name = self.line(Key::ServiceName, 128);
        let gateway_url = self.url(Key::GatewayUrl, &GATEWAY_SCHEMES);
        let gateway_fallback_urls = self.urls(Key::GatewayFallbackUrls, &GATEWAY_SCHEMES);
        let kms_core_endpoint = self.url(Key::KmsCoreEndpoint, &["http", "https"]);
        let chain_id = self.number(Key::ChainId, 1..=MAX_CHAIN_ID, "");
        let addresses = self.addresses();
        let observes_only = matches!(observes, Ok(true));
        let wallet = if observes_only { Ok(None) } else { self.wallet().map(Some) };
        let s3 = self.s3();
        let private_authorities = self.private_authorities();
        let proxies = self.proxies();
        let channel_size = self.count(Key::ChannelSize, 1..=1_000_000);
        let timeouts = self.timeouts();
        let retry_interval = self.number(Key::RetryIntervalSecs, 1..=3600, "seconds");
        let decryption_domain_name = self.line(Key::DecryptionDomainName, 128);
        let decryption_domain_version = self.line(Key::DecryptionDomainVersion, 128);
        let gateway_config_domain_name = self.line(Key::GatewayConfigDomainName, 128);
        let gateway_config_domain_version = self.line(Key::GatewayConfigDomainVersion, 128);
        let verify_coprocessors = self.boolean(Key::VerifyCoprocessors);
        let gas_limit = self.gas_limit();
        let max_fee_per_gas = self.max_fee_per_gas();
        let starting_block = self.starting_block();
        let finality = self.finality();
        let confirmations = self.confirmations();
        let held_retry = self.number(Key::HeldRetrySecs, 1..=DAY_SECS, "seconds");
        let retention = self.number(Key::JournalRetentionDays, 1..=3650, "days");
        let memory = self.number(
            Key::CiphertextMemoryMib,
            MIN_CIPHERTEXT_MEMORY_MIB..=1 << 20,
            "MiB; less than the minimum cannot hold the largest legal request",
        );
        let requests = self.count(Key::MaxRequestsInFlight, 1..=100_000);
        let transactions = self.count(Key::MaxTransactionsInFlight, 1..=MAX_TRANSACTIONS_IN_FLIGHT);

        let default_url = |text| Url::parse(text).map(SecretUrl::new).map_err(|_| Noted);
        let or_text = |given: Option<String>, default: &str| given.unwrap_or(default.to_owned());
        let (decryption_address, gateway_config_address) = addresses?;
        let (answer_timeout, request_expiry) = timeouts?;
        let gateway_url = gateway_url?.map_or_else(|| default_url(DEFAULT_GATEWAY_URL), Ok)?;
        let gateway_fallback_urls = gateway_fallback_urls?.unwrap_or_default();
        self.different_urls(&gateway_url, &gateway_fallback_urls)?;
        Ok(Config {
            enabled: enabled?.unwrap_or(true),
            service_name: or_text(service_name?, "kms-connector"),
            gateway_url,
            gateway_fallback_urls,
            kms_core_endpoint: kms_core_endpoint?
                .map_or_else(|| default_url(DEFAULT_KMS_CORE_ENDPOINT), Ok)?,
            chain_id: chain_id?.unwrap_or(DEFAULT_CHAIN_ID),
            decryption_address,
            gateway_config_address,
            wallet: observes.and(wallet)?,
            s3: s3?,
            private_authorities: private_authorities?,
            proxies: proxies?,
            channel_size: channel_size?.unwrap_or(1000),
            answer_timeout,
            retry_interval: Duration::from_secs(retry_interval?.unwrap_or(5)),
            decryption_domain: Domain {
                name: or_text(decryption_domain_name?, "Decryption"),
                version: or_text(decryption_domain_version?, "1"),
            },
            gateway_config_domain: Domain {
                name: or_text(gateway_config_domain_name?, "GatewayConfig"),
                version: or_text(gateway_config_domain_version?, "1"),
            },
            verify_coprocessors: verify_coprocessors?.unwrap_or(false),
            gas_limit: gas_limit?,
            max_fee_per_gas: max_fee_per_gas?.unwrap_or(MAX_FEE_PER_GAS),
            starting_block: starting_block?.unwrap_or(StartingBlock::Latest),
            finality: finality?.unwrap_or(Finality::Latest),
            confirmations: confirmations?,
            request_expiry,
            held_retry: Duration::from_secs(held_retry?.unwrap_or(300)),
            journal_retention: Duration::from_secs(retention?.unwrap_or(7) * DAY_SECS),
            ciphertext_memory: memory?.unwrap_or(512) << 20,
            max_requests_in_flight: requests?.unwrap_or(1000),
            max_transactions_in_flight: transactions?.unwrap_or(512),
        })
    }

    /// The keys the seed marks required: under a supervisor each must be given, since an instance
    /// on default addresses helps nobody; `start` takes the seed's defaults and says so.
    fn required(&mut self, observes: bool) {
        let missing = REQUIRED.into_iter().filter(|key| self.raw.get(*key).is_none());
        // Who only observes asks no Core.
        let missing = missing.filter(|key| !observes || *key != Key::KmsCoreEndpoint);
        let missing: Vec<Key> = missing.collect();
        match self.source.mode {
            Mode::Supervise => {
                for key in missing {
                    self.missing(key, "this key in the file or the environment", "");
                }
            }
            Mode::Start if missing.is_empty() => {}
            Mode::Start => {
                let names: Vec<&str> = missing.iter().map(|key| key.name()).collect();
                let message = format!("defaults for local development used: {}", names.join(", "));
                let warning = Warning { place: self.whole(), key: None, message };
                self.raw.warnings.push(warning);
            }
        }
    }

    fn addresses(&mut self) -> Result<(Address, Address), Noted> {
        let decryption = self.address(Key::DecryptionAddress);
        let gateway_config = self.address(Key::GatewayConfigAddress);
        let decryption = decryption?.unwrap_or(DEFAULT_DECRYPTION_ADDRESS);
        let gateway_config = gateway_config?.unwrap_or(DEFAULT_GATEWAY_CONFIG_ADDRESS);
        if decryption == gateway_config {
            return Err(self.bad(
                Key::GatewayConfigAddress,
                "the address of the Decryption contract".to_owned(),
                "another contract's address",
                "One of decryption_address and gateway_config_address is wrong",
            ));
        }
        Ok((decryption, gateway_config))
    }

    /// The two timeouts and the expiry, which must leave room for at least one attempt.
    fn timeouts(&mut self) -> Result<(PerKind<Duration>, Duration), Noted> {
        let public = self.number(Key::PublicDecryptionTimeoutSecs, 1..=DAY_SECS, "seconds");
        let user = self.number(Key::UserDecryptionTimeoutSecs, 1..=DAY_SECS, "seconds");
        let expiry = self.number(Key::RequestExpirySecs, 60..=30 * DAY_SECS, "seconds");
        let (public, user) = (public?.unwrap_or(300), user?.unwrap_or(300));
        let expiry = expiry?.unwrap_or(DAY_SECS);
        if expiry < public.max(user) {
            return Err(self.bad(
                Key::RequestExpirySecs,
                format!("{expiry} seconds"),
                "at least as long as both decryption timeouts",
                "A request would expire during its first attempt",
            ));
        }
        let timeouts = PerKind { public_decryption: public, user_decryption: user };
        Ok((timeouts.map(Duration::from_secs), Duration::from_secs(expiry)))
    }

    fn gas_limit(&mut self) -> Found<u64> {
        let limit = self.number(Key::GasLimit, 1..=1_000_000_000, "gas")?;
        let Some(gas) = limit.filter(|gas| *gas < MIN_GAS_LIMIT) else { return Ok(limit) };
        Err(self.bad(
            Key::GasLimit,
            gas.to_string(),
            "100000 to 1000000000 gas, or no such key",
            "Remove the key: the limit is then learned from estimates. No answer fits into so little, \
             so each transaction would fail and be paid for",
        ))
    }

    fn max_fee_per_gas(&mut self) -> Found<u128> {
        let key = Key::MaxFeePerGasGwei;
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let text = match &given.value {
            Value::Text(text) | Value::Integer(text) | Value::Float(text) => text.expose(),
            Value::Boolean(_) | Value::Texts(_) | Value::Other(_) => "",
        };
        match gwei_to_wei(text.trim()) {
            Some(wei) => Ok(Some(wei)),
            None => Err(self.bad(
                key,
                show(&given.value),
                "a decimal number of gwei above 0 and up to 1000000, with at most 9 decimals",
                "",
            )),
        }
    }

    fn starting_block(&mut self) -> Found<StartingBlock> {
        let key = Key::StartingBlock;
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        if let Value::Text(text) = &given.value
            && text.expose() == "latest"
        {
            return Ok(Some(StartingBlock::Latest));
        }
        match integer(&given.value).and_then(|number| u64::try_from(number).ok()) {
            Some(number) if number <= i64::MAX.unsigned_abs() => {
                Ok(Some(StartingBlock::Number(number)))
            }
            _ => Err(self.bad(key, show(&given.value), "a block number or \"latest\"", "")),
        }
    }

    /// Whether the instance only observes.
    fn observes(&mut self) -> Result<bool, Noted> {
        let key = Key::Mode;
        let Some(given) = self.raw.get(key) else { return Ok(false) };
        let text = match &given.value {
            Value::Text(text) => text.expose().trim(),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Texts(_)
            | Value::Other(_) => "",
        };
        match text {
            "answer" => Ok(false),
            "observe" => Ok(true),
            _ => Err(self.bad(key, show(&given.value), "\"answer\" or \"observe\"", "")),
        }
    }

    fn finality(&mut self) -> Found<Finality> {
        let key = Key::Finality;
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let text = match &given.value {
            Value::Text(text) => text.expose().trim(),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Texts(_)
            | Value::Other(_) => "",
        };
        match text {
            "latest" => Ok(Some(Finality::Latest)),
            "safe" => Ok(Some(Finality::Safe)),
            "finalized" => Ok(Some(Finality::Finalized)),
            _ => {
                let allowed = "\"latest\", \"safe\" or \"finalized\"";
                Err(self.bad(key, show(&given.value), allowed, ""))
            }
        }
    }

    /// For public and for user decryptions.
    fn confirmations(&mut self) -> Result<PerKind<u64>, Noted> {
        let mut read = |key| self.number(key, 0..=MAX_CONFIRMATIONS, "blocks");
        let all = read(Key::Confirmations);
        let public = read(Key::PublicDecryptionConfirmations);
        let user = read(Key::UserDecryptionConfirmations);
        let all = all?.unwrap_or(0);
        Ok(PerKind { public_decryption: public?, user_decryption: user? }
            .map(|own| own.unwrap_or(all)))
    }

    fn s3(&mut self) -> Found<S3> {
        let given = |check: &Self, key| check.raw.get(key).is_some();
        let region_given = given(self, Key::S3Region);
        let endpoint_given = given(self, Key::S3Endpoint);
        let bucket_given = given(self, Key::S3Bucket);
        if !(region_given || endpoint_given || bucket_given) {
            return Ok(None);
        }
        if !bucket_given {
            self.missing(Key::S3Bucket, "the bucket's name", "[s3_config] needs it");
        }
        if !(region_given || endpoint_given) {
            self.missing(
                Key::S3Region,
                "region or endpoint in [s3_config]",
                "Without both it is unknown where the bucket is",
            );
        }
        let region = self.region(Key::S3Region);
        let bucket = self.word(
            Key::S3Bucket,
            255,
            "a bucket's name: letters, digits, dots, dashes and underscores",
            |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'),
        );
        let endpoint = self.url(Key::S3Endpoint, &["http", "https"]);
        match (region?, bucket?, endpoint?) {
            (None, _, None) | (_, None, _) => Err(Noted), // noted as missing above
            (region, Some(bucket), endpoint) => {
                if let Some(endpoint) = &endpoint {
                    self.warn_of_bucket_twice(&bucket, endpoint);
                }
                Ok(Some(S3 { region, bucket, endpoint }))
            }
        }
    }

    /// The bucket's name is added to the endpoint as its path: it should not stand there already.
    fn warn_of_bucket_twice(&mut self, bucket: &str, endpoint: &SecretUrl) {
        let url = endpoint.expose();
        let host = url.host_str().unwrap_or_default();
        let in_host = host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'));
        let in_path = url.path().trim_end_matches('/').rsplit('/').next() == Some(bucket);
        let message = match (in_host, in_path) {
            (true, _) => {
                "its host begins with the bucket's name, which is added as the path once more: \
                          write the endpoint without the bucket (https://s3.REGION.amazonaws.com)"
            }
            (false, true) => {
                "it ends in the bucket's name, which is added once more: write the \
                              endpoint without the bucket"
            }
            (false, false) => return,
        };
        let key = Key::S3Endpoint;
        let place = self.raw.get(key).map(|given| given.place.clone());
        self.raw.warnings.push(Warning {
            place: place.unwrap_or_else(|| self.whole()),
            key: Some(key.name().to_owned()),
            message: message.to_owned(),
        });
    }

    fn private_authorities(&mut self) -> Found<PrivateAuthorities> {
        let key = Key::CaFile;
        let Some(path) = self.path(key)? else { return Ok(None) };
        let allowed = "a readable PEM file with at least one certificate";
        let bytes = match read_small_file(&path, 16 << 20) {
            Ok(bytes) => bytes,
            Err(error) => {
                let found = format!("{}: {error}", path.display());
                return Err(self.bad(key, found, allowed, error.advice()));
            }
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => {
                Ok(Some(PrivateAuthorities { path, certificates: Arc::new(certificates) }))
            }
            Ok(_) => Err(self.bad(key, "a file without a certificate".to_owned(), allowed, "")),
            Err(_) => Err(self.bad(key, "a file that is not valid PEM".to_owned(), allowed, "")),
        }
    }

    /// The one thing of the environment that is read without our prefix: everybody calls it so.
    fn proxies(&mut self) -> Result<Proxies, Noted> {
        let https = self.proxy("HTTPS_PROXY");
        let http = self.proxy("HTTP_PROXY");
        let (name, no) = self.usual_variable("NO_PROXY").unwrap_or_default();
        let proxies = Proxies::new(https?, http?, &no);
        if stands_in_quotes(no.trim()) {
            self.raw.warnings.push(Warning {
                place: Place::Variable(name),
                key: None,
                message: format!(
                    "stands in quotes: its first and last entry have no effect. {QUOTES}"
                ),
            });
            return Ok(proxies);
        }
        for odd in proxies.odd().iter().take(MOST_ODD) {
            // A whole URL may hold a password.
            let shown =
                if odd.contains(['@', '/']) { "an entry".to_owned() } else { format!("{odd:?}") };
            self.raw.warnings.push(Warning {
                place: Place::Variable(name.clone()),
                key: None,
                message: format!(
                    "holds {shown} that is no name, domain, address or network and has no effect; \
                     write host, host:port, .example.com, 10.0.0.0/8 or *"
                ),
            });
        }
        Ok(proxies)
    }

    fn proxy(&mut self, name: &str) -> Found<Url> {
        let Some((name, text)) = self.usual_variable(name) else { return Ok(None) };
        if stands_in_quotes(text.trim()) {
            self.raw.problems.push(quoted(Place::Variable(name), None));
            return Err(Noted);
        }
        if let Some(odd) = proxy::oddity(&text) {
            self.raw.warnings.push(Warning {
                place: Place::Variable(name.clone()),
                key: None,
                message: format!("{odd}; write it like http://proxy.example:3128"),
            });
        }
        proxy::parse(&text).map(Some).map_err(|error| {
            self.raw.problems.push(Problem {
                place: Place::Variable(name),
                key: None,
                found: error.to_string(),
                allowed: "an HTTP proxy such as http://proxy.example:3128".to_owned(),
                advice:
                    "Other proxies (https, SOCKS) are not supported; NO_PROXY names hosts that \
                         are reached without"
                        .to_owned(),
            });
            Noted
        })
    }

    /// A variable that is written in either case: the upper one counts.
    fn usual_variable(&self, name: &str) -> Option<(String, String)> {
        let names = [name.to_owned(), name.to_lowercase()];
        names.into_iter().find_map(|name| {
            let text = self.source.environment.get(&name)?.to_string_lossy().into_owned();
            (!text.trim().is_empty()).then_some((name, text))
        })
    }

    // ---- the wallet

    /// The seed's priority: a private key, else AWS KMS. Of private keys: `private_key` or
    /// `private_key_file`, whichever comes from the stronger layer, else the credential.
    fn wallet(&mut self) -> Result<Wallet, Noted> {
        let aws = self.aws_kms();
        let private_key = self.private_key();
        let aws_given = self.raw.get(Key::AwsKeyId).map(|given| given.place.clone());
        match (private_key?, aws?) {
            (Some(key), _) => {
                if let Some(place) = aws_given {
                    self.raw.warnings.push(Warning {
                        place,
                        key: Some(Key::AwsKeyId.name().to_owned()),
                        message: "is not used: a private key is given too, and comes first"
                            .to_owned(),
                    });
                }
                Ok(Wallet::PrivateKey(key))
            }
            (None, Some(wallet)) => Ok(wallet),
            (None, None) => {
                let place = self.whole();
                self.raw.problems.push(Problem {
                    place,
                    key: None,
                    found: "no wallet".to_owned(),
                    allowed: "one of private_key, private_key_file, a systemd credential, \
                              aws_kms_config.key_id"
                        .to_owned(),
                    advice: format!(
                        "Set {} or {}, or the key in a file",
                        self.variable_for(Key::PrivateKeyText),
                        self.variable_for(Key::AwsKeyId)
                    ),
                });
                Err(Noted)
            }
        }
    }

    fn aws_kms(&mut self) -> Found<Wallet> {
        let key_id = self.word(Key::AwsKeyId, 2048, "a key's id, alias/name or ARN", |c| {
            c.is_ascii_alphanumeric() || matches!(c, '/' | ':' | '-' | '_' | '.' | '+' | '=' | '@')
        });
        let region = self.region(Key::AwsRegion);
        let endpoint = self.url(Key::AwsEndpoint, &["http", "https"]);
        let (key_id, region, endpoint) = (key_id?, region?, endpoint?);
        Ok(key_id.map(|key_id| Wallet::AwsKms { key_id, region, endpoint }))
    }

    fn private_key(&mut self) -> Found<PrivateKey> {
        let inline = self.raw.get(Key::PrivateKeyText).map(|given| given.layer);
        let file = self.raw.get(Key::PrivateKeyFile).map(|given| given.layer);
        match (inline, file) {
            (Some(inline), Some(file)) if inline == file => Err(self.bad(
                Key::PrivateKeyFile,
                "private_key beside private_key_file".to_owned(),
                "one of the two",
                "Keep private_key_file; a file of its own is easier to protect",
            )),
            (Some(inline), file) if file.is_none_or(|file| file < inline) => self.inline_key(),
            (_, Some(_)) => self.key_file(),
            (_, None) => self.credential(),
        }
    }

    fn inline_key(&mut self) -> Found<PrivateKey> {
        let Some(given) = self.raw.get(Key::PrivateKeyText).cloned() else { return Ok(None) };
        let Value::Text(text) = &given.value else {
            let found = show_shape(&given.value).to_owned();
            return Err(self.bad(
                Key::PrivateKeyText,
                found,
                "64 hex digits in quotes, with or without 0x",
                "",
            ));
        };
        let key = self.judge_key(text.expose(), &given.place, Key::PrivateKeyText.name())?;
        if let (Layer::File, Place::File { path, .. }) = (given.layer, &given.place)
            && !key.is_publicly_known()
            && fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
        {
            self.raw.warnings.push(Warning {
                place: given.place.clone(),
                key: Some(Key::PrivateKeyText.name().to_owned()),
                message:
                    "stands in a file that every user of this machine can read; chmod 600 it, \
                          or use private_key_file"
                        .to_owned(),
            });
        }
        Ok(Some(key))
    }

    fn key_file(&mut self) -> Found<PrivateKey> {
        let key = Key::PrivateKeyFile;
        let Some(path) = self.path(key)? else { return Ok(None) };
        let (text, guard) = match read_key_file(&path) {
            Ok(read) => read,
            Err(error) => {
                let found = format!("{}: {error}", path.display());
                let allowed = "a readable file with 64 hex digits, with or without 0x";
                return Err(self.bad(key, found, allowed, error.advice()));
            }
        };
        let in_credentials =
            self.source.credentials_directory.as_deref().is_some_and(|dir| path.starts_with(dir));
        // systemd guards those.
        if !in_credentials {
            self.key_guard(&path, guard)?;
        }
        let place = Place::file(&path);
        self.judge_key(&text, &place, key.name()).map(Some)
    }

    /// A key file is for its owner, who is root or the service's user.
    fn key_guard(&mut self, path: &Path, guard: Guard) -> Result<(), Noted> {
        match guard.judge(rustix::process::geteuid().as_raw()) {
            Verdict::Fine => Ok(()),
            Verdict::Odd(message) => {
                self.raw.warnings.push(Warning {
                    place: Place::file(path),
                    key: Some(Key::PrivateKeyFile.name().to_owned()),
                    message,
                });
                Ok(())
            }
            Verdict::Refused { found, allowed, advice } => {
                Err(self.bad(Key::PrivateKeyFile, found, allowed, advice))
            }
        }
    }

    /// `$CREDENTIALS_DIRECTORY/<stem>.private_key`; under `start` also the bare `private_key`.
    fn credential(&mut self) -> Found<PrivateKey> {
        let Some(directory) = &self.source.credentials_directory else { return Ok(None) };
        let own = self.source.stem().map(|stem| directory.join(format!("{stem}.private_key")));
        let bare = (self.source.mode == Mode::Start).then(|| directory.join("private_key"));
        // `exists` is false for what cannot be looked at; such a credential must not be skipped.
        let present = |path: &PathBuf| path.try_exists().unwrap_or(true);
        let Some(path) = own.into_iter().chain(bare).find(present) else { return Ok(None) };
        let place = Place::file(&path);
        match read_key_file(&path) {
            Ok((text, _)) => self.judge_key(&text, &place, "private_key").map(Some),
            Err(error) => {
                self.raw.problems.push(Problem {
                    place,
                    key: Some("private_key".to_owned()),
                    found: error.to_string(),
                    allowed: "a readable credential with 64 hex digits".to_owned(),
                    advice: "Check LoadCredential= of the unit and the file it names".to_owned(),
                });
                Err(Noted)
            }
        }
    }

    fn judge_key(&mut self, text: &str, place: &Place, name: &str) -> Result<PrivateKey, Noted> {
        if stands_in_quotes(text.trim()) {
            self.raw.problems.push(Problem {
                place: place.clone(),
                key: Some(name.to_owned()),
                found: "a key that stands in quotes".to_owned(),
                allowed: "the key itself".to_owned(),
                advice: "Remove the quotes".to_owned(),
            });
            return Err(Noted);
        }
        match PrivateKey::parse(text) {
            Ok(key) => {
                if key.is_publicly_known() {
                    self.raw.warnings.push(Warning {
                        place: place.clone(),
                        key: Some(name.to_owned()),
                        message: format!(
                            "is a PUBLICLY KNOWN development key (address {}): anyone can spend \
                             its funds and sign as this node; never use it outside a local test",
                            key.address()
                        ),
                    });
                }
                Ok(key)
            }
            Err(error) => {
                let advice = match error {
                    InvalidPrivateKey::Placeholder | InvalidPrivateKey::Empty => "Fill in the key",
                    InvalidPrivateKey::NotHex(_) | InvalidPrivateKey::Length(_) => {
                        "Compare it with the key's source: digits may be lost or doubled"
                    }
                    InvalidPrivateKey::Zero | InvalidPrivateKey::NotBelowOrder => {
                        "No such key exists; make a new one"
                    }
                };
                self.raw.problems.push(Problem {
                    place: place.clone(),
                    key: Some(name.to_owned()),
                    found: error.to_string(),
                    allowed: "64 hex digits, with or without 0x, of a number from 1 to the order \
                              of secp256k1 - 1"
                        .to_owned(),
                    advice: advice.to_owned(),
                });
                Err(Noted)
            }
        }
    }

    // ---- one value each

    fn boolean(&mut self, key: Key) -> Found<bool> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        match &given.value {
            Value::Boolean(boolean) => Ok(Some(*boolean)),
            Value::Text(text) if text.expose().eq_ignore_ascii_case("true") => Ok(Some(true)),
            Value::Text(text) if text.expose().eq_ignore_ascii_case("false") => Ok(Some(false)),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Texts(_)
            | Value::Other(_) => Err(self.bad(key, show(&given.value), "true or false", "")),
        }
    }

    fn number(&mut self, key: Key, range: RangeInclusive<u64>, unit: &str) -> Found<u64> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        match integer(&given.value).and_then(|number| u64::try_from(number).ok()) {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let allowed =
                    format!("an integer from {} to {} {unit}", range.start(), range.end());
                Err(self.bad(key, show(&given.value), allowed.trim_end(), ""))
            }
        }
    }

    fn count(&mut self, key: Key, range: RangeInclusive<u32>) -> Found<usize> {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        let number = self.number(key, range, "")?;
        Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    /// One line of text that is not blank. Numbers count as their text (`version = 1`).
    fn line(&mut self, key: Key, longest: usize) -> Found<String> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        if let Value::Text(text) | Value::Integer(text) = &given.value {
            let text = text.expose().trim();
            if !text.is_empty()
                && text.chars().count() <= longest
                && !text.chars().any(char::is_control)
            {
                return Ok(Some(text.to_owned()));
            }
        }
        Err(self.bad(key, show(&given.value), &format!("a line of 1 to {longest} characters"), ""))
    }

    /// A text of certain characters only.
    fn word(
        &mut self,
        key: Key,
        longest: usize,
        allowed: &str,
        permitted: impl Fn(char) -> bool,
    ) -> Found<String> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        if let Value::Text(text) = &given.value {
            let text = text.expose().trim();
            if !text.is_empty() && text.len() <= longest && text.chars().all(permitted) {
                return Ok(Some(text.to_owned()));
            }
        }
        Err(self.bad(key, show(&given.value), allowed, ""))
    }

    fn region(&mut self, key: Key) -> Found<String> {
        self.word(key, 64, "an AWS region such as us-east-1", |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
        })
    }

    /// A path. In a file it is relative to that file's directory, in a variable to the process's.
    fn path(&mut self, key: Key) -> Found<PathBuf> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let Value::Text(text) = &given.value else {
            return Err(self.bad(key, show(&given.value), "a path in quotes", ""));
        };
        if text.expose().trim().is_empty() || text.expose().contains('\0') {
            return Err(self.bad(key, "no path".to_owned(), "a path", ""));
        }
        // A path is repeated when its file cannot be read. A key in its place must not be.
        let digits = strip_0x(text.expose().trim());
        let is_key = digits.len() >= 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_key || text.expose().contains("://") {
            let found = show_shape(&given.value).to_owned();
            let advice =
                "This looks like a key or a URL; write ./ before it if it is a file's name";
            return Err(self.bad(key, found, "a path", advice));
        }
        let path = Path::new(text.expose());
        Ok(Some(match &given.place {
            Place::File { path: file, .. } => {
                file.parent().map_or(path.to_owned(), |directory| directory.join(path))
            }
            Place::Variable(_) | Place::Configuration => path.to_owned(),
        }))
    }

    fn address(&mut self, key: Key) -> Found<Address> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let allowed = "40 hex digits, with or without 0x";
        let Value::Text(text) = &given.value else {
            let advice = "Put the address in quotes";
            return Err(self.bad(key, show_shape(&given.value).to_owned(), allowed, advice));
        };
        let text = text.expose().trim();
        if text.contains("...") {
            let found = "the placeholder of the documentation".to_owned();
            return Err(self.bad(key, found, allowed, "Fill in the contract's address"));
        }
        let digits = strip_0x(text);
        let mut bytes = [0; 20];
        if alloy::hex::decode_to_slice(digits, &mut bytes).is_err() || digits.len() != 40 {
            let found = if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                format!("{} hex digits", digits.len())
            } else {
                show(&given.value)
            };
            return Err(self.bad(key, found, allowed, ""));
        }
        let address = Address::from(bytes);
        let mixed = digits.bytes().any(|byte| byte.is_ascii_lowercase())
            && digits.bytes().any(|byte| byte.is_ascii_uppercase());
        let checksummed = address.to_checksum(None);
        if mixed && strip_0x(&checksummed) != digits {
            let advice = format!(
                "A digit or a letter's case is wrong. Compare it with the deployment; if the \
                 digits are right, write {checksummed}"
            );
            return Err(self.bad(
                key,
                format!("{text:?}, whose EIP-55 checksum is wrong"),
                "an address in lower case, or with its right checksum",
                &advice,
            ));
        }
        if address.is_zero() {
            return Err(self.bad(key, "the zero address".to_owned(), "a contract's address", ""));
        }
        Ok(Some(address))
    }

    fn url(&mut self, key: Key, schemes: &[&str]) -> Found<SecretUrl> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let Value::Text(text) = &given.value else {
            let allowed = format!("a URL with {}", schemes.join(", "));
            return Err(self.bad(key, show_shape(&given.value).to_owned(), &allowed, ""));
        };
        let text = text.clone();
        self.judge_url(key, schemes, text.expose()).map(Some)
    }

    /// A list, or in a variable a text with commas. A comma within a URL is written %2C.
    fn urls(&mut self, key: Key, schemes: &[&str]) -> Found<Vec<SecretUrl>> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let texts: Vec<SecretString> = match &given.value {
            Value::Texts(texts) => texts.clone(),
            Value::Text(text) => {
                let parts = text.expose().split(',').map(str::trim);
                parts.map(|part| SecretString::new(part.to_owned())).collect()
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Other(_) => {
                let found = show_shape(&given.value).to_owned();
                let allowed = "a list of URLs, in a variable with commas between them";
                return Err(self.bad(key, found, allowed, ""));
            }
        };
        if texts.len() > MAX_FALLBACK_URLS {
            let found = format!("{} URLs", texts.len());
            let allowed = format!("at most {MAX_FALLBACK_URLS} URLs");
            return Err(self.bad(key, found, &allowed, ""));
        }
        // All are judged before the first that is wrong ends it.
        let judged: Vec<_> =
            texts.iter().map(|text| self.judge_url(key, schemes, text.expose())).collect();
        judged.into_iter().collect::<Result<_, _>>().map(Some)
    }

    /// One URL given twice would count as two nodes.
    fn different_urls(&mut self, first: &SecretUrl, more: &[SecretUrl]) -> Result<(), Noted> {
        let repeated =
            more.iter().enumerate().any(|(index, url)| url == first || more[..index].contains(url));
        if !repeated {
            return Ok(());
        }
        Err(self.bad(
            Key::GatewayFallbackUrls,
            "the same URL twice".to_owned(),
            "URLs that differ from each other and from gateway_url",
            "Each one counts as a node of its own",
        ))
    }

    fn judge_url(&mut self, key: Key, schemes: &[&str], text: &str) -> Result<SecretUrl, Noted> {
        let allowed = format!("a URL with {}", schemes.join(", "));
        let text = text.trim();
        let Some((scheme, _)) = text.split_once("://") else {
            let found = format!("a text of {} characters without ://", text.chars().count());
            return Err(self.bad(key, found, &allowed, &format!("Begin with {}://", schemes[0])));
        };
        let scheme = scheme.to_ascii_lowercase();
        if !schemes.contains(&scheme.as_str()) {
            // Only schemes are repeated that cannot be a secret.
            let known = ["http", "https", "ws", "wss", "grpc", "grpcs", "tcp", "ipc", "unix", "s3"];
            let found = if known.contains(&scheme.as_str()) {
                format!("a URL with {scheme}://")
            } else {
                "a URL with an unknown scheme".to_owned()
            };
            return Err(self.bad(key, found, &allowed, &format!("Begin with {}://", schemes[0])));
        }
        match Url::parse(text) {
            Ok(url) if url.port() == Some(0) => {
                Err(self.bad(key, "a URL with port 0".to_owned(), "a port from 1 to 65535", ""))
            }
            Ok(url) if url.has_host() => Ok(SecretUrl::new(url)),
            Ok(_) => Err(self.bad(key, "a URL without a host".to_owned(), &allowed, "")),
            // The parser's errors are constant texts (`invalid port number`).
            Err(error) => Err(self.bad(key, format!("a broken URL ({error})"), &allowed, "")),
        }
    }

    // ---- noting problems

    /// Notes a problem with a value that was given.
    fn bad(&mut self, key: Key, found: String, allowed: &str, advice: &str) -> Noted {
        let place = match self.raw.get(key) {
            Some(Given { place, .. }) => place.clone(),
            None => self.whole(),
        };
        self.raw.problems.push(Problem {
            place,
            key: Some(key.name().to_owned()),
            found,
            allowed: allowed.to_owned(),
            advice: advice.to_owned(),
        });
        Noted
    }

    fn missing(&mut self, key: Key, allowed: &str, advice: &str) {
        let or = format!("or set {}", self.variable_for(key));
        let place = self.whole();
        self.raw.problems.push(Problem {
            place,
            key: Some(key.name().to_owned()),
            found: "nothing".to_owned(),
            allowed: allowed.to_owned(),
            advice: match advice {
                "" => format!("Add it, {or}"),
                advice => format!("{advice}; add it, {or}"),
            },
        });
    }

    /// A variable that would be taken for this key.
    fn variable_for(&self, key: Key) -> String {
        Raw::variable_for(key, self.source.mode, self.source.stem().as_deref())
    }

    /// The place of what is missing: the file as a whole, or no place.
    fn whole(&self) -> Place {
        self.source.file.as_deref().map_or(Place::Configuration, Place::file)
    }
}

/// An integer, also one in quotes, since variables are always text.
fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Text(text) | Value::Integer(text) => text.expose().trim().parse().ok(),
        Value::Float(_) | Value::Boolean(_) | Value::Texts(_) | Value::Other(_) => None,
    }
}

/// Exact: no binary fraction comes between the operator's decimals and the chain's wei.
fn gwei_to_wei(text: &str) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 7 || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let fraction: u128 = format!("{fraction:0<9}").parse().ok()?;
    let wei = whole * 1_000_000_000 + fraction;
    (1..=1_000_000_000_000_000).contains(&wei).then_some(wei)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gwei_are_exact() {
        assert_eq!(gwei_to_wei("0.1"), Some(100_000_000));
        assert_eq!(gwei_to_wei("30"), Some(30_000_000_000));
        assert_eq!(gwei_to_wei("0.000000001"), Some(1));
        assert_eq!(gwei_to_wei("1000000"), Some(1_000_000_000_000_000));
        for bad in ["0", "-1", "1e3", "", ".5", "5.", "1000000.1", "0.0000000001", "nan", "1_0"] {
            assert_eq!(gwei_to_wei(bad), None, "{bad}");
        }
    }
}
