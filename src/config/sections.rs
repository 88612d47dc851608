//! Turns the given values into a valid [`Config`], or into all problems at once.
//!
//! Each check notes its problem and goes on, so that one run reports them all. Ranges stand beside the
//! key they belong to. The only I/O is reading the files that keys name.

mod judged;
mod single;
mod host_chains;
mod network;
mod wallet;

use std::{ops::RangeInclusive, time::Duration};

use alloy::primitives::Address;

use self::{judged::Fault, single::gwei_to_wei};
use super::keys::Key;
use super::problems::{Place, Problem, Problems, Warning};
use super::settings::{
    Config, Domain, Ethereum, Finality, KeyConsent, KeyRepresentation, StartingBlock,
};
use super::sources::{Layer, RawConfig, variable_for};
use super::values::{Value, show};
use super::{LoadMode, Source};
use crate::domain::{Generation, PerKind};

/// EIP-2294 limits chain ids to 2^63 - 37; TOML and the journal hold no integer above 2^63 - 1.
const MAX_CHAIN_ID: u64 = i64::MAX.unsigned_abs();
/// No response costs less: 21,000 for the transaction itself, calldata, the recovery of a signature,
/// and several new storage slots at 22,100 each. The seed's documentation shows 6000.
const MIN_GAS_LIMIT: u64 = 100_000;
/// Memory for 1,024 Bools of 64 KiB, twice: as fetched and as encoded for the Core.
const MIN_CIPHERTEXT_MEMORY_MIB: u64 = 160;
/// A sequencer buffers this many transactions of one sender.
const MAX_TRANSACTIONS_IN_FLIGHT: u32 = 1024;
const DAY_SECS: u64 = 86_400;
/// A key operation runs for hours. After this time the log says that it still does.
const KEY_OPERATION_TIMEOUT_SECS: u64 = 600;
/// More blocks than the Gateway's chain has in an hour.
const MAX_CONFIRMATIONS: u64 = 20_000;
/// No answer is used that is older than this when the Core is asked.
const MAX_HOST_CHAIN_CALL_TIMEOUT_SECS: u64 = 10;
/// From a signature recovered in a contract's code, to what no node refuses to simulate.
const ERC1271_GAS_LIMIT: RangeInclusive<u64> = 30_000..=10_000_000;
const NODE_SCHEMES: [&str; 4] = ["ws", "wss", "http", "https"];

/// The generations as they are named to people, and which of them make a difference here.
const GENERATIONS: [(&str, Generation); 8] = [
    ("G7", Generation::UpToG10),
    ("G8", Generation::UpToG10),
    ("G9", Generation::UpToG10),
    ("G10", Generation::UpToG10),
    ("G12", Generation::G12),
    ("G13", Generation::G13),
    ("G14", Generation::G14),
    ("HEAD", Generation::Head),
];

/// The keys that the seed marks required. Under `start` its defaults stand in.
const REQUIRED: [Key; 5] = [
    Key::GatewayUrl,
    Key::KmsCoreEndpoint,
    Key::ChainId,
    Key::DecryptionAddress,
    Key::GatewayConfigAddress,
];

/// A problem was noted, so there is no value.
struct ProblemNoted;

/// A key's value; `None` if it was not given and has no default.
type CheckedValue<T> = Result<Option<T>, ProblemNoted>;

/// Unwraps the value of a key that has a default.
fn set<T>(found: CheckedValue<T>) -> Result<T, ProblemNoted> {
    Ok(found?.expect("the key has a default, which is given where nobody gives a value"))
}

/// Checks the given values.
pub(super) fn check(raw: RawConfig, source: &Source) -> Result<(Config, Vec<Warning>), Problems> {
    let mut check = Checker { raw, source };
    let config = check.config();
    let is_disabled = matches!(check.boolean(Key::Enabled), Ok(Some(false)));
    let RawConfig { problems, mut warnings, .. } = check.raw;
    match (config, Problems::collect(problems)) {
        (Ok(config), None) => {
            warnings.sort();
            warnings.dedup();
            Ok((config, warnings))
        }
        (_, Some(problems)) if is_disabled => Err(problems.mark_disabled()),
        (_, Some(problems)) => Err(problems),
        (Err(ProblemNoted), None) => unreachable!("Noted is made only where a problem is noted"),
    }
}

struct Checker<'a> {
    raw: RawConfig,
    source: &'a Source,
}

impl Checker<'_> {
    fn config(&mut self) -> Result<Config, ProblemNoted> {
        let observes = set(self.one_of(Key::Mode, &[("answer", false), ("observe", true)]));
        let observes_only = matches!(observes, Ok(true));
        self.require_keys(observes_only);
        let enabled = self.boolean(Key::Enabled);
        let service_name = self.line(Key::ServiceName, 128);
        let is_service_name_given = self.is_service_name_given();
        let gateway_url = self.url(Key::GatewayUrl, &NODE_SCHEMES);
        let gateway_fallback_urls = self.urls(Key::GatewayFallbackUrls, &NODE_SCHEMES);
        let kms_core_endpoint = self.url(Key::KmsCoreEndpoint, &["http", "https"]);
        let chain_id = self.number(Key::ChainId, 1..=MAX_CHAIN_ID, "");
        let addresses = self.addresses();
        let ethereum = self.ethereum();
        let key_management = self.key_management(
            addresses.as_ref().ok(),
            (chain_id.as_ref().ok().copied().flatten(), ethereum.as_ref().ok()),
        );
        let host_chains = self.host_chains();
        let host_calls = self.count(Key::HostChainMaxConcurrentCalls, 1..=10_000);
        let host_call_timeout = self.number(
            Key::HostChainCallTimeoutSecs,
            1..=MAX_HOST_CHAIN_CALL_TIMEOUT_SECS,
            "seconds",
        );
        let erc1271_gas_limit = self.number(Key::Erc1271GasLimit, ERC1271_GAS_LIMIT, "gas");
        let wallet = if observes_only { Ok(None) } else { self.wallet().map(Some) };
        let s3 = self.s3();
        let private_authorities = self.private_authorities();
        let proxies = self.proxies();
        let channel_size = self.count(Key::ChannelSize, 1..=1_000_000);
        let timeouts = self.timeouts();
        let retry_interval = self.number(Key::RetryIntervalSecs, 1..=3600, "seconds");
        let domains = self.domains();
        let verify_coprocessors = self.boolean(Key::VerifyCoprocessors);
        let gas_limit = self.gas_limit();
        let max_fee_per_gas = self.max_fee_per_gas(Key::MaxFeePerGasGwei);
        let starting_block = self.starting_block(Key::StartingBlock);
        let finality = self.finality(Key::Finality);
        let confirmations = self.confirmations();
        let minimum_generation = self.one_of(Key::MinimumGeneration, &GENERATIONS);
        let held_retry = self.number(Key::HeldRetrySecs, 1..=DAY_SECS, "seconds");
        let retention = self.number(Key::JournalRetentionDays, 1..=3650, "days");
        let memory = self.number(
            Key::CiphertextMemoryMib,
            MIN_CIPHERTEXT_MEMORY_MIB..=1 << 20,
            "MiB; less than the minimum cannot hold the largest legal request",
        );
        let requests = self.count(Key::MaxRequestsInFlight, 1..=100_000);
        let transactions = self.count(Key::MaxTransactionsInFlight, 1..=MAX_TRANSACTIONS_IN_FLIGHT);

        let (decryption_address, gateway_config_address) = addresses?;
        let (kms_generation_address, key_management, key_representation) = key_management?;
        let (answer_timeout, request_expiry) = timeouts?;
        let (decryption_domain, gateway_config_domain) = domains?;
        let gateway_url = set(gateway_url)?;
        let gateway_fallback_urls = gateway_fallback_urls?.unwrap_or_default();
        self.different_urls(
            (Key::GatewayUrl, &gateway_url),
            Key::GatewayFallbackUrls,
            &gateway_fallback_urls,
        )?;
        Ok(Config {
            enabled: set(enabled)?,
            service_name: set(service_name)?,
            is_service_name_given,
            gateway_url,
            gateway_fallback_urls,
            kms_core_endpoint: set(kms_core_endpoint)?,
            chain_id: set(chain_id)?,
            decryption_address,
            gateway_config_address,
            minimum_generation: minimum_generation?,
            kms_generation_address,
            key_management,
            key_representation,
            host_chains: host_chains?,
            host_chain_max_concurrent_calls: set(host_calls)?,
            host_chain_call_timeout: Duration::from_secs(set(host_call_timeout)?),
            erc1271_gas_limit: set(erc1271_gas_limit)?,
            ethereum: ethereum?,
            wallet: observes.and(wallet)?,
            s3: s3?,
            private_authorities: private_authorities?,
            proxies: proxies?,
            channel_size: set(channel_size)?,
            answer_timeout,
            retry_interval: Duration::from_secs(set(retry_interval)?),
            decryption_domain,
            gateway_config_domain,
            verify_coprocessors: set(verify_coprocessors)?,
            gas_limit: gas_limit?,
            max_fee_per_gas: set(max_fee_per_gas)?,
            starting_block: set(starting_block)?,
            finality: set(finality)?,
            confirmations: confirmations?,
            request_expiry,
            held_retry: Duration::from_secs(set(held_retry)?),
            journal_retention: Duration::from_secs(set(retention)? * DAY_SECS),
            ciphertext_memory: set(memory)? << 20,
            max_requests_in_flight: set(requests)?,
            max_transactions_in_flight: set(transactions)?,
        })
    }

    fn finality(&mut self, key: Key) -> CheckedValue<Finality> {
        self.one_of(
            key,
            &[
                ("latest", Finality::Latest),
                ("safe", Finality::Safe),
                ("finalized", Finality::Finalized),
            ],
        )
    }

    /// Requires the keys that the seed marks required. Under a supervisor each must be given, because
    /// an instance on default addresses is useless; `start` uses the seed's defaults and warns.
    fn require_keys(&mut self, observes: bool) {
        let missing = REQUIRED.into_iter().filter(|key| self.raw.given(*key).is_none());
        // An observing instance asks no Core.
        let missing = missing.filter(|key| !observes || *key != Key::KmsCoreEndpoint);
        let missing: Vec<Key> = missing.collect();
        match self.source.mode {
            LoadMode::Supervise => {
                for key in missing {
                    self.note_missing(key, "this key in the file or the environment", "");
                }
            }
            LoadMode::Start if missing.is_empty() => {}
            LoadMode::Start => {
                let names: Vec<&str> = missing.iter().map(|key| key.name()).collect();
                let message = format!("defaults for local development used: {}", names.join(", "));
                let warning = Warning { place: self.whole_file(), key: None, message };
                self.raw.warnings.push(warning);
            }
        }
    }

    /// Returns whether the name is an operator's choice: one from a variable, or from a file that does
    /// not only repeat the default.
    fn is_service_name_given(&self) -> bool {
        let key = Key::ServiceName;
        self.raw
            .given(key)
            .is_some_and(|given| given.layer != Layer::File || given.value.text() != key.default())
    }

    fn addresses(&mut self) -> Result<(Address, Address), ProblemNoted> {
        let decryption = self.address(Key::DecryptionAddress);
        let gateway_config = self.address(Key::GatewayConfigAddress);
        let decryption = set(decryption)?;
        let gateway_config = set(gateway_config)?;
        if decryption == gateway_config {
            return Err(self.note_bad(
                Key::GatewayConfigAddress,
                "the address of the Decryption contract".to_owned(),
                "another contract's address",
                "One of decryption_address and gateway_config_address is wrong",
            ));
        }
        Ok((decryption, gateway_config))
    }

    /// `gateway`: its Decryption and GatewayConfig contracts. `chains`: the gateway's id, and Ethereum.
    fn key_management(
        &mut self,
        gateway: Option<&(Address, Address)>,
        chains: (Option<u64>, Option<&Option<Ethereum>>),
    ) -> Result<(Option<Address>, KeyConsent, KeyRepresentation), ProblemNoted> {
        let contexts = self.protocol_config_is_another(gateway, chains);
        let address = self.kms_generation_address(gateway, chains);
        let mode = self.one_of(
            Key::ModeOfKeyManagement,
            &[("answer", KeyConsent::Answer), ("hold", KeyConsent::Hold)],
        );
        let representation = self.one_of(
            Key::RepresentationOfKeys,
            &[
                ("auto", KeyRepresentation::Auto),
                ("uncompressed", KeyRepresentation::Uncompressed),
                ("compressed", KeyRepresentation::Compressed),
            ],
        );
        contexts?;
        Ok((address?, set(mode)?, set(representation)?))
    }

    /// It is another contract than those that are named for the same chain.
    fn kms_generation_address(
        &mut self,
        gateway: Option<&(Address, Address)>,
        (gateway_id, ethereum): (Option<u64>, Option<&Option<Ethereum>>),
    ) -> CheckedValue<Address> {
        let key = Key::KmsGenerationAddress;
        let Some(address) = self.address(key)? else { return Ok(None) };
        // What else is wrong with these keys was noted before.
        let (Some(gateway_id), Some(ethereum)) = (gateway_id, ethereum) else {
            return Ok(Some(address));
        };
        let protocol_config = ethereum.as_ref().and_then(|chain| chain.protocol_config_address);
        let is_gateways = ethereum.as_ref().is_none_or(|chain| chain.chain_id == gateway_id);
        if let (Some(_), true) = (ethereum, is_gateways) {
            self.warn_of_unused_chain_keys();
        }
        let found = if protocol_config == Some(address) {
            "the address of the ProtocolConfig contract"
        } else if is_gateways
            && gateway
                .is_some_and(|(decryption, registry)| [*decryption, *registry].contains(&address))
        {
            "the address of the Decryption or GatewayConfig contract"
        } else {
            return Ok(Some(address));
        };
        let allowed = "another contract's address";
        Err(self.note_bad(key, found.to_owned(), allowed, "One of the addresses is wrong"))
    }

    /// `ProtocolConfig` is another contract than the gateway's, where its chain is the gateway's.
    fn protocol_config_is_another(
        &mut self,
        gateway: Option<&(Address, Address)>,
        (gateway_id, ethereum): (Option<u64>, Option<&Option<Ethereum>>),
    ) -> Result<(), ProblemNoted> {
        let chain = ethereum.and_then(Option::as_ref);
        let own = chain.filter(|chain| Some(chain.chain_id) == gateway_id);
        let (Some(at), Some((decryption, registry))) =
            (own.and_then(|chain| chain.protocol_config_address), gateway)
        else {
            return Ok(());
        };
        if ![*decryption, *registry].contains(&at) {
            return Ok(());
        }
        let found = "the address of the Decryption or GatewayConfig contract, on the same chain";
        let allowed = "another contract's address";
        let key = Key::ProtocolConfigAddress;
        Err(self.note_bad(key, found.to_owned(), allowed, "One of the addresses is wrong"))
    }

    /// Where `ethereum_chain_id` is the gateway's chain, key operations are read and answered with the gateway.
    fn warn_of_unused_chain_keys(&mut self) {
        for (unused, used) in [
            (Key::EthereumStartingBlock, Key::StartingBlock),
            (Key::EthereumFinality, Key::Finality),
            (Key::EthereumConfirmations, Key::Confirmations),
            (Key::EthereumMaxFeePerGasGwei, Key::MaxFeePerGasGwei),
        ] {
            let Some(place) = self.raw.given(unused).map(|given| given.place.clone()) else {
                continue;
            };
            let message = format!(
                "is not used: ethereum_chain_id is the gateway's chain, where key operations are read and answered \
                 with the gateway; {} counts",
                used.name()
            );
            let key = Some(unused.name().to_owned());
            self.raw.warnings.push(Warning { place, key, message });
        }
    }

    /// The two timeouts and the expiry, which must allow at least one attempt.
    fn timeouts(&mut self) -> Result<(PerKind<Duration>, Duration), ProblemNoted> {
        let public = self.number(Key::PublicDecryptionTimeoutSecs, 1..=DAY_SECS, "seconds");
        let user = self.number(Key::UserDecryptionTimeoutSecs, 1..=DAY_SECS, "seconds");
        let expiry = self.number(Key::RequestExpirySecs, 60..=30 * DAY_SECS, "seconds");
        let (public, user, expiry) = (set(public)?, set(user)?, set(expiry)?);
        if expiry < public.max(user) {
            return Err(self.note_bad(
                Key::RequestExpirySecs,
                format!("{expiry} seconds"),
                "at least as long as both decryption timeouts",
                "A request would expire during its first attempt",
            ));
        }
        let timeouts = PerKind {
            public_decryption: public,
            user_decryption: user,
            key_operation: KEY_OPERATION_TIMEOUT_SECS,
        };
        Ok((timeouts.map(Duration::from_secs), Duration::from_secs(expiry)))
    }

    /// Of Decryption and of GatewayConfig.
    fn domains(&mut self) -> Result<(Domain, Domain), ProblemNoted> {
        let decryption = self.domain(Key::DecryptionDomainName, Key::DecryptionDomainVersion);
        let gateway_config =
            self.domain(Key::GatewayConfigDomainName, Key::GatewayConfigDomainVersion);
        Ok((decryption?, gateway_config?))
    }

    fn domain(&mut self, name: Key, version: Key) -> Result<Domain, ProblemNoted> {
        let (name, version) = (self.line(name, 128), self.line(version, 128));
        Ok(Domain { name: set(name)?, version: set(version)? })
    }

    fn gas_limit(&mut self) -> CheckedValue<u64> {
        let limit = self.number(Key::GasLimit, 1..=1_000_000_000, "gas")?;
        let Some(gas) = limit.filter(|gas| *gas < MIN_GAS_LIMIT) else { return Ok(limit) };
        Err(self.note_bad(
            Key::GasLimit,
            gas.to_string(),
            "100000 to 1000000000 gas, or no such key",
            "Remove the key: the limit is then learned from estimates. No answer fits into so little, \
             so each transaction would fail and be paid for",
        ))
    }

    fn max_fee_per_gas(&mut self, key: Key) -> CheckedValue<u128> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        let text = match &given.value {
            Value::Text(text) | Value::Integer(text) | Value::Float(text) => text.expose(),
            Value::Boolean(_) | Value::Texts(_) | Value::Tables(_) | Value::Other(_) => "",
        };
        match gwei_to_wei(text.trim()) {
            Some(wei) => Ok(Some(wei)),
            None => Err(self.note_bad(
                key,
                show(&given.value, &[]),
                "a decimal number of gwei above 0 and up to 1000000, with at most 9 decimals",
                "",
            )),
        }
    }

    fn starting_block(&mut self, key: Key) -> CheckedValue<StartingBlock> {
        let Some(given) = self.raw.get(key) else { return Ok(None) };
        if given.value.text() == Some("latest") {
            return Ok(Some(StartingBlock::Latest));
        }
        match given.value.integer().and_then(|number| u64::try_from(number).ok()) {
            Some(number) if number <= i64::MAX.unsigned_abs() => {
                Ok(Some(StartingBlock::Number(number)))
            }
            _ => {
                let found = show(&given.value, &["latest", "earliest"]);
                Err(self.note_bad(key, found, "a block number or \"latest\"", ""))
            }
        }
    }

    /// For public and for user decryptions; key operations wait for the larger number.
    fn confirmations(&mut self) -> Result<PerKind<u64>, ProblemNoted> {
        let mut read = |key| self.number(key, 0..=MAX_CONFIRMATIONS, "blocks");
        let all = read(Key::Confirmations);
        let public = read(Key::PublicDecryptionConfirmations);
        let user = read(Key::UserDecryptionConfirmations);
        let all = set(all)?;
        let (public, user) = (public?.unwrap_or(all), user?.unwrap_or(all));
        let key_operation = public.max(user);
        Ok(PerKind { public_decryption: public, user_decryption: user, key_operation })
    }

    // ---- noting problems

    /// Notes a problem with a value that was given.
    fn note_bad(&mut self, key: Key, found: String, allowed: &str, advice: &str) -> ProblemNoted {
        let place =
            self.raw.given(key).map_or_else(|| self.whole_file(), |given| given.place.clone());
        self.raw.problems.push(Problem {
            place,
            key: Some(key.name().to_owned()),
            found,
            allowed: allowed.to_owned(),
            advice: advice.to_owned(),
        });
        ProblemNoted
    }

    fn note_fault(&mut self, key: Key, Fault { found, allowed, advice }: Fault) -> ProblemNoted {
        self.note_bad(key, found, &allowed, &advice)
    }

    /// Nothing if the key is there under a mistyped name, which is a problem already.
    fn note_missing(&mut self, key: Key, allowed: &str, advice: &str) {
        if self.raw.mistyped.contains(&key) {
            return;
        }
        let or = format!("or set {}", self.variable_for(key));
        let place = self.whole_file();
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

    /// The variable that sets this key.
    fn variable_for(&self, key: Key) -> String {
        variable_for(key, self.source.mode, self.source.stem().as_deref())
    }

    /// The place of a missing value: the whole file, or no place.
    fn whole_file(&self) -> Place {
        self.source.file.as_deref().map_or(Place::Configuration, Place::file)
    }
}
