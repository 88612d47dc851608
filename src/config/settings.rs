//! The settings of one instance, each within its bounds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;
use rustls::pki_types::CertificateDer;

use super::secret::{PrivateKey, SecretUrl};
use crate::{
    domain::{Generation, PerKind},
    net::proxy::Proxies,
};

/// The configuration of one instance. Every value is within its bounds. `==` tells whether a reload
/// changes anything; `Debug` prints no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `false` keeps a supervisor from running this file.
    pub enabled: bool,
    /// Name in traces, and of the instance under `start`.
    pub service_name: String,
    /// Whether an operator chose the name. The default in a file is no choice: `config-base.toml` has
    /// it, and with it every copy. The same name in a variable is one.
    pub is_service_name_given: bool,
    /// The Gateway chain's node; ws, wss, http or https.
    pub gateway_url: SecretUrl,
    /// More nodes of the same chain, in order: each is read from when those before it cannot be used.
    /// Transactions are sent to all.
    pub gateway_fallback_urls: Vec<SecretUrl>,
    /// The KMS Core's gRPC endpoint; http or https.
    pub kms_core_endpoint: SecretUrl,
    pub chain_id: u64,
    pub decryption_address: Address,
    pub gateway_config_address: Address,
    /// No older contracts are believed to stand at `decryption_address`. `None`: than have stood there.
    pub minimum_generation: Option<Generation>,
    /// The contract that asks for key operations, on [`Config::key_chain`]. `None`: none are served.
    pub kms_generation_address: Option<Address>,
    /// What is done about them.
    pub key_management: KeyConsent,
    /// Which kind of key is made where the contracts leave that to the operators.
    pub key_representation: KeyRepresentation,
    /// The chains whose contracts own handles; no two of one id.
    pub host_chains: Vec<HostChain>,
    /// Calls (batches) to one host chain at the same time.
    pub host_chain_max_concurrent_calls: usize,
    /// Deadline of all calls for one request to one host chain.
    pub host_chain_call_timeout: Duration,
    /// Gas that a smart account may use to judge a signature (ERC-1271).
    pub erc1271_gas_limit: u64,
    /// Where contexts and epochs are checked (from G14 on), and key operations are asked for (from G13 on).
    pub ethereum: Option<Ethereum>,
    /// `None`: `mode = "observe"`. Requests are read and their ciphertexts fetched; nothing is asked,
    /// signed or sent, and no key is read.
    pub wallet: Option<Wallet>,
    /// Where ciphertexts are looked for when no coprocessor's bucket is known.
    pub s3: Option<S3>,
    /// Certificate authorities trusted besides the system's, for wss, https and gRPC over TLS.
    pub private_authorities: Option<PrivateAuthorities>,
    /// From `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, which are not configuration keys.
    pub proxies: Proxies,
    /// Events that may wait for a walk.
    pub channel_size: usize,
    /// How long the Core may take for an answer before it is polled again.
    pub answer_timeout: PerKind<Duration>,
    /// The upper limit of the poll back-off.
    pub retry_interval: Duration,
    /// The EIP-712 domain of the Decryption contract; compared with `eip712Domain()` at start.
    pub decryption_domain: Domain,
    /// Accepted for compatibility; nothing in the protocol is signed for this domain.
    pub gateway_config_domain: Domain,
    /// Skip buckets of coprocessors that `GatewayConfig` does not know.
    pub verify_coprocessors: bool,
    /// Gas of each transaction; learned from estimates if absent.
    pub gas_limit: Option<u64>,
    /// In wei. While the base fee is above it, requests are held instead of paying more.
    pub max_fee_per_gas: u128,
    /// Where an instance without a cursor begins to read.
    pub starting_block: StartingBlock,
    /// How final a request's block has to be before the Core is asked.
    pub finality: Finality,
    /// Blocks on top of a request's block before the Core is asked.
    pub confirmations: PerKind<u64>,
    /// Working time after which an unanswered request ends as expired.
    pub request_expiry: Duration,
    /// How often a held request is retried.
    pub held_retry: Duration,
    /// How long settled requests stay in the journal.
    pub journal_retention: Duration,
    /// Memory for ciphertexts, in bytes.
    pub ciphertext_memory: u64,
    pub max_requests_in_flight: usize,
    pub max_transactions_in_flight: usize,
}

impl Config {
    /// Returns whether the instance only observes.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.wallet.is_none()
    }

    /// Where key operations are asked for. `None`: none are served. An Ethereum that is the gateway's own
    /// chain is read with the gateway: a wallet has one owner on a chain.
    #[must_use]
    pub fn key_chain(&self) -> Option<KeyChain<'_>> {
        let contract = self.kms_generation_address?;
        let ethereum = self.ethereum.as_ref();
        Some(match ethereum.filter(|chain| chain.chain_id != self.chain_id) {
            Some(chain) => KeyChain::Ethereum { chain, contract },
            None => KeyChain::Gateway {
                contract,
                protocol_config: ethereum.and_then(|chain| chain.protocol_config_address),
            },
        })
    }

    /// What is read of this chain beside the contract that names its requests: on the gateway the Decryption
    /// contract, on Ethereum `KMSGeneration`. An observing instance reads nothing beside.
    #[must_use]
    pub fn read_beside(&self, chain_id: u64) -> Vec<BesideContract> {
        let of_chain = match self.key_chain().filter(|_| !self.observes()) {
            Some(KeyChain::Gateway { contract, protocol_config }) if chain_id == self.chain_id => {
                (Some(contract), protocol_config)
            }
            Some(KeyChain::Ethereum { chain, .. }) if chain_id == chain.chain_id => {
                (None, chain.protocol_config_address)
            }
            Some(_) | None => (None, None),
        };
        let (keys, contexts) = of_chain;
        let keys = keys.map(BesideContract::KeyGeneration);
        keys.into_iter().chain(contexts.map(BesideContract::ProtocolConfig)).collect()
    }

    /// The service name, if it was given.
    #[must_use]
    pub fn given_service_name(&self) -> Option<&str> {
        self.is_service_name_given.then_some(self.service_name.as_str())
    }

    /// The certificates of `ca_file`; empty without one.
    #[must_use]
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        self.private_authorities.as_ref().map_or(&[], |authorities| &authorities.certificates)
    }

    /// The Gateway's nodes, for messages.
    #[must_use]
    pub fn gateways(&self) -> String {
        let urls = std::iter::once(&self.gateway_url).chain(&self.gateway_fallback_urls);
        urls.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// A chain whose contracts own handles: one `[[host_chains]]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostChain {
    pub chain_id: u64,
    /// ws, wss, http or https.
    pub url: SecretUrl,
    /// More nodes of this chain, in order.
    pub fallback_urls: Vec<SecretUrl>,
    pub acl_address: Address,
    /// How many of its endpoints must give the same answer at one block; at most as many as there are
    /// URLs.
    pub agreement: usize,
    /// A head older than this, by its block's timestamp, is no answer.
    pub max_age: Duration,
}

impl HostChain {
    /// All URLs, in order of preference.
    pub fn urls(&self) -> impl Iterator<Item = &SecretUrl> {
        std::iter::once(&self.url).chain(&self.fallback_urls)
    }
}

/// The chain that has the contracts that ask for key operations. `contract`: `KMSGeneration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChain<'c> {
    Gateway {
        contract: Address,
        protocol_config: Option<Address>,
    },
    /// `KMSGeneration` names what is asked for there.
    Ethereum {
        chain: &'c Ethereum,
        contract: Address,
    },
}

/// A contract that is read beside another one of its chain, which names the requests of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BesideContract {
    KeyGeneration(Address),
    ProtocolConfig(Address),
}

impl BesideContract {
    #[must_use]
    pub fn address(self) -> Address {
        match self {
            Self::KeyGeneration(at) | Self::ProtocolConfig(at) => at,
        }
    }

    /// The contract's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyGeneration(_) => "KMSGeneration",
            Self::ProtocolConfig(_) => "ProtocolConfig",
        }
    }
}

/// The chain that has `ProtocolConfig`, `KMSGeneration`, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ethereum {
    /// ws, wss, http or https.
    pub url: SecretUrl,
    /// More nodes of this chain, in order.
    pub fallback_urls: Vec<SecretUrl>,
    pub chain_id: u64,
    /// `None`: contexts are not checked there.
    pub protocol_config_address: Option<Address>,
    /// Where reading of key operations begins without a cursor.
    pub starting_block: StartingBlock,
    /// How final the block of a key operation has to be before the Core is asked.
    pub finality: Finality,
    /// Blocks on top of an answer's block until the answer counts as settled.
    pub confirmations: u64,
    /// In wei. While the base fee is above it, answers are held instead of paying more.
    pub max_fee_per_gas: u128,
}

impl Ethereum {
    /// All URLs, in order of preference.
    pub fn urls(&self) -> impl Iterator<Item = &SecretUrl> {
        std::iter::once(&self.url).chain(&self.fallback_urls)
    }
}

/// What is done about a key operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyConsent {
    Answer,
    /// It waits until an operator approves it.
    Hold,
}

/// Which kind of key is made where the contracts leave that to the operators: from G13 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRepresentation {
    /// Uncompressed keys up to G14. Later contracts take both kinds: there it has to be named.
    Auto,
    Uncompressed,
    Compressed,
}

/// What signs the transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wallet {
    PrivateKey(PrivateKey),
    /// `key_id` is an id, an alias (`alias/...`) or an ARN.
    AwsKms {
        key_id: String,
        region: Option<String>,
        endpoint: Option<SecretUrl>,
    },
}

/// The fallback bucket: `{endpoint}/{bucket}`, or the region's AWS endpoint. At least one of region and
/// endpoint is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    pub region: Option<String>,
    pub bucket: String,
    pub endpoint: Option<SecretUrl>,
}

/// A PEM file's content when it was read: a changed content is a changed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateAuthorities {
    pub path: PathBuf,
    /// At least one certificate.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// Name and version of an EIP-712 domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    pub name: String,
    pub version: String,
}

/// The finality that a block must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// In the chain: the sequencer's promise.
    Latest,
    /// The node's tag `safe`.
    Safe,
    /// The node's tag `finalized`.
    Finalized,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartingBlock {
    /// The head at the time of the first start.
    Latest,
    Number(u64),
}
