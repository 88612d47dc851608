//! The node of random worlds, which plays gateway and host chains: its contracts, the requests that are made
//! there, and the access room's way to it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use kms_connector::{
    chain::{
        provider::{ArbitrumProvider, ChainRole, endpoint::Endpoint},
        reader::NodeId,
    },
    contracts::{
        abi::decode,
        acl::{HostChain, HostChains},
        decryption::{Addresses, RequestContract},
        gateway_config::GatewayConfigAdapter,
        pinned_reads::{ChainEndpoint, PinnedOptions, PinnedReader},
    },
    dice::Dice,
    domain::{BlockRef, Event, Request, RequestSource, SigningDomain},
    flow::access::{Access, AccessOptions},
    net::tls::TlsRoots,
    telemetry::{heartbeat::Heartbeats, metrics::Metrics},
    time::clock::Clock,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::{
    Error, Result,
    access::Path,
    anvil::{Anvil, AnvilOptions},
    contracts::{Decryption, G14, Variant, raw},
    deployment::{Deployment, Node, Thresholds, create},
    faulty_rpc::FaultyRpc,
    host::{EVERY_CONTRACT, Host},
    host_contracts::{Mood, Wallet, wallet_code},
    http_client, random_address,
    request::{Ask, Ciphertext},
    rpc::{Call, Chain, Log, Receipt},
    signing::sign,
    until,
};

use super::drawn::{self, Grant, Question, Signed, Twist, Way, Who};

/// The host chains that are configured: the node's own id, and another one under which it is known too.
pub(super) const CHAINS: [u64; 2] = [12_345, 77];
/// One that is not.
pub(super) const NOBODYS: u64 = 4_242;
/// The gas limit for smart accounts.
pub(super) const ACCOUNT_GAS: u64 = 100_000;
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const POLL: Duration = Duration::from_millis(2);
/// What smart accounts say of signatures.
pub(super) const MOODS: [Mood; 9] = [
    Mood::OfOwner,
    Mood::Accepts,
    Mood::Refuses,
    Mood::Reverts,
    Mood::BurnsGas,
    Mood::BurnsSome(50_000),
    Mood::BurnsSome(90_000),
    Mood::AnswersShort,
    Mood::AnswersDirt,
];

/// A node that plays gateway and host chains, and the room's way to it.
pub(super) struct Ground {
    pub(super) deployment: Deployment,
    pub(super) readers: [PinnedReader<ArbitrumProvider>; 2],
    gateway: ArbitrumProvider,
    registry: GatewayConfigAdapter<ArbitrumProvider>,
    /// One in each mood.
    wallets: Vec<Address>,
    /// Calls other contracts.
    relay: Address,
    /// How often each decision was made, and whether grants were known.
    pub(super) seen: Mutex<BTreeMap<&'static str, usize>>,
    _other_name: FaultyRpc,
    _anvil: Anvil,
    _running: JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// A request as it was made, and as the gateway tells it.
pub(super) struct Asked {
    /// What stands in the calldata.
    pub(super) ask: Ask,
    /// What the event says.
    pub(super) told: Ask,
    /// The ciphertexts that the event lists.
    pub(super) materials: Vec<B256>,
    /// The contract that the transaction calls.
    pub(super) to: Address,
}

pub(super) fn refused(error: impl std::fmt::Display) -> Error {
    Error::other(error.to_string())
}

/// The room's way to a chain of this id.
fn connect(id: u64, url: &str, running: &mut JoinSet<()>) -> Result<ArbitrumProvider> {
    let roots = TlsRoots::load(None).map_err(refused)?;
    let url = url.parse().map_err(|_| Error::other("a URL"))?;
    let client = http_client(Duration::from_mins(1))?;
    let endpoint = Endpoint::new(url, Arc::new(roots.client_config()), client);
    let endpoints = vec![endpoint.with_role(ChainRole::Host)];
    let (provider, connections) =
        ArbitrumProvider::new(id, endpoints, Metrics::default(), &Dice::default());
    running.spawn(connections.run(Heartbeats::default(), CancellationToken::new()));
    Ok(provider)
}

impl Ground {
    pub(super) async fn start() -> Result<Self> {
        let dir = tempfile::tempdir().map_err(|e| Error::Io("a folder".into(), e))?;
        let options = AnvilOptions {
            chain_id: CHAINS[0],
            // Blocks are made when they are asked for.
            block_time: Some(Duration::from_hours(10)),
            durable: false,
            arguments: vec!["--slots-in-an-epoch".into(), "1".into()],
            ..AnvilOptions::default()
        };
        let anvil = Anvil::start(dir.path(), options).await?;
        let chain = anvil.chain();
        let node = Node { wallet: random_address(), signer: random_address() };
        let deployment =
            Deployment::deploy(chain, Variant::G14, &[node], &[], Thresholds::ONE).await?;
        let mut wallets = Vec::new();
        for mood in MOODS {
            let owner = drawn::key(Who::User(0)).address();
            wallets.push(create(chain, wallet_code(mood, owner)?).await?);
        }
        let relay = create(chain, wallet_code(Mood::Accepts, random_address())?).await?;
        let other_name = FaultyRpc::start(&anvil.http_url()).await?;
        other_name.lie(|lies| lies.chain_id = Some(CHAINS[1]));
        let mut running = JoinSet::new();
        let gateway = connect(CHAINS[0], &anvil.ws_url(), &mut running)?;
        let other = connect(CHAINS[1], &other_name.ws_url(), &mut running)?;
        let reader = |provider, chain_id| {
            let options = PinnedOptions {
                chain_id,
                agreement: 1,
                max_age: Duration::from_hours(24),
                deadline: Duration::from_secs(10),
                calls: 8,
                clock: Clock::Wall,
            };
            PinnedReader::new(options, vec![ChainEndpoint::of(provider, NodeId(0))])
        };
        let readers = [reader(&gateway, CHAINS[0]), reader(&other, CHAINS[1])];
        until("the gateway", SOON, POLL, async || Ok(readers[0].endpoints()[0].head().map(drop)))
            .await?;
        let registry =
            GatewayConfigAdapter::connect(gateway.clone(), deployment.gateway_config, node.wallet)
                .await
                .map_err(refused)?;
        Ok(Self {
            deployment,
            readers,
            gateway,
            registry,
            wallets,
            relay,
            seen: Mutex::default(),
            _other_name: other_name,
            _anvil: anvil,
            _running: running,
            _dir: dir,
        })
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.deployment.chain
    }

    fn address(&self, who: Who) -> Address {
        match who {
            Who::User(_) | Who::Owner(_) => drawn::key(who).address(),
            Who::Contract(number) => Address::repeat_byte(0xc0 + number),
            Who::Wallet(number) => self.wallets[usize::from(number) % self.wallets.len()],
        }
    }

    /// The key that signs for a user: a smart account's is that of its owner.
    fn key(who: Who) -> PrivateKeySigner {
        match who {
            Who::User(_) | Who::Owner(_) => drawn::key(who),
            Who::Contract(_) | Who::Wallet(_) => drawn::key(Who::User(0)),
        }
    }

    pub(super) async fn now(&self) -> Result<u64> {
        let block: Value =
            self.chain().rpc("eth_getBlockByNumber", json!(["latest", false])).await?;
        let time = block["timestamp"].as_str().and_then(|time| time.strip_prefix("0x"));
        let time = time.and_then(|time| u64::from_str_radix(time, 16).ok());
        time.ok_or_else(|| Error::other("no time"))
    }

    /// The calls that make a grant, which times are relative to `now`, on the ACLs.
    pub(super) fn call(&self, grant: &Grant, acls: [Address; 2], now: u64) -> Vec<Call> {
        let host = |index: usize| Host {
            chain: self.chain().clone(),
            chain_id: CHAINS[index],
            acl: acls[index],
            acl_variant: Variant::G14,
            protocol_config: Address::ZERO,
            protocol_variant: Variant::G14,
        };
        let of = |handle: &drawn::Handle| (handle.chain < 2).then(|| host(handle.chain));
        let both = [host(0), host(1)];
        match grant {
            Grant::Public(handle) => of(handle)
                .map(|host| host.allow_for_decryption(handle.bytes(), true))
                .into_iter()
                .collect(),
            Grant::Allowed(handle, who) => of(handle)
                .map(|host| host.allow(handle.bytes(), self.address(*who), true))
                .into_iter()
                .collect(),
            Grant::Delegated { from, to, contract, until } => {
                let [from, to] = [*from, *to].map(|who| self.address(who));
                let contract = contract
                    .map_or(EVERY_CONTRACT, |contract| self.address(Who::Contract(contract)));
                let until = now.saturating_add_signed(*until);
                both.iter().map(|host| host.delegate(from, to, contract, until)).collect()
            }
            Grant::Invalidated { who, before } => {
                let (who, before) = (self.address(*who), now.saturating_add_signed(*before));
                both.iter().map(|host| host.invalidate_before(who, before)).collect()
            }
            Grant::Denied(who) => {
                both.iter().map(|host| host.deny(self.address(*who), true)).collect()
            }
        }
    }

    /// The request, made by its user.
    fn ask(&self, question: &Question, now: u64) -> Result<Ask> {
        let types = vec![2; question.entries.len()];
        let public = question.way == Way::Public;
        let mut ask = if public { Ask::public(&types) } else { Ask::user(&types) };
        for (ciphertext, entry) in ask.ciphertexts.iter_mut().zip(&question.entries) {
            ciphertext.handle = entry.handle.bytes();
        }
        if question.zero {
            ask = ask.extra_data(vec![0]);
        }
        if public {
            return Ok(ask);
        }
        ask.user = self.address(question.user);
        let access = &mut ask.access;
        access.path = match question.way {
            Way::Public | Way::Direct => Path::Direct,
            Way::Delegated => Path::Delegated,
            Way::Unified => Path::Unified,
        };
        access.key = Self::key(question.user);
        let entries = &question.entries;
        access.contracts =
            entries.iter().map(|entry| self.address(Who::Contract(entry.contract))).collect();
        access.owners = entries.iter().map(|entry| self.address(entry.owner)).collect();
        if question.way == Way::Delegated {
            access.owners = vec![access.owners[0]; entries.len()];
        }
        let named = question.named.as_ref();
        access.allowed = named.map(|named| named.iter().map(|who| self.address(*who)).collect());
        access.start = now.saturating_add_signed(question.begins);
        access.seconds = question.lasts;
        let digest = ask.user_digest(self.deployment.domain());
        ask.access.signature = Some(match question.signed {
            Signed::ByUser => sign(&Self::key(question.user), digest)?,
            Signed::ByAnother => sign(&drawn::key(Who::Owner(9)), digest)?,
            Signed::Nothing => Vec::new().into(),
            Signed::Nonsense => vec![7; 65].into(),
            Signed::Long => vec![7; 200].into(),
        });
        Ok(ask)
    }

    /// What the gateway makes of it.
    pub(super) fn asked(&self, question: &Question, now: u64) -> Result<Asked> {
        let ask = self.ask(question, now)?;
        let (mut told, to) = (ask.clone(), self.deployment.decryption);
        let mut asked = Asked { materials: ask.handles(), told: ask.clone(), ask, to };
        if question.way == Way::Public {
            return Ok(asked);
        }
        match question.twist {
            Twist::None => {}
            Twist::OtherKey => {
                told.public_key = vec![9; 32].into();
                asked.told = told;
            }
            Twist::OtherMaterials => {
                let other = drawn::Handle { chain: 0, number: 9 }.bytes();
                asked.materials[0] = other;
            }
            Twist::ThroughAnotherContract => asked.to = self.relay,
        }
        Ok(asked)
    }

    /// The event, where it is not what was asked for.
    fn log(&self, asked: &Asked, id: U256) -> Result<Option<Decryption::RawLog>> {
        let (told, domain) = (&asked.told, self.deployment.domain());
        let lists = |handle: &B256| Ciphertext { handle: *handle, ..told.ciphertexts[0].clone() };
        let listed =
            Ask { ciphertexts: asked.materials.iter().map(lists).collect(), ..told.clone() };
        if asked.materials == asked.ask.handles() && told.public_key == asked.ask.public_key {
            return Ok(None);
        }
        if told.access.path != Path::Unified {
            let [log, _] = self.deployment.told(&listed, id)?;
            return Ok(Some(log));
        }
        Ok(Some(raw(&G14::UserDecryptionRequest {
            decryptionId: id,
            snsCtMaterials: self.deployment.materials(&listed),
            handles: told.entries(),
            payload: told.payload(domain)?,
        })))
    }

    /// Makes the requests, in one block; their first logs.
    pub(super) async fn make(&self, asked: &[Asked]) -> Result<Vec<Receipt>> {
        let deployment = &self.deployment;
        let asks: Vec<Ask> = asked.iter().map(|one| one.ask.clone()).collect();
        let mut calls = deployment.commits(&asks);
        let (mut requests, mut ids) = (Vec::new(), BTreeMap::new());
        for one in asked {
            let kind = one.ask.kind;
            let id = match ids.get(kind.as_str()) {
                Some(last) => *last + U256::ONE,
                None => deployment.next_id(kind).await?,
            };
            ids.insert(kind.as_str(), id);
            let log = self.log(one, id)?;
            calls.extend(log.map(|log| deployment.tell_next_as(vec![log])));
            let mut request = deployment.request_call(&one.ask)?;
            if one.to == self.relay {
                let (to, data) = (deployment.decryption, request.data.clone());
                let call = Wallet::executeCall { to, data };
                request = Call { gas: request.gas, ..Call::new(self.relay, &call) };
            }
            requests.push(calls.len());
            calls.push(request);
        }
        let receipts = self.chain().send_all(calls).await?;
        Ok(requests.into_iter().map(|index| receipts[index].clone()).collect())
    }

    pub(super) fn request(&self, log: &Log) -> Result<Request> {
        let source = RequestSource { chain_id: CHAINS[0], contract: self.deployment.decryption };
        let event = Event {
            block: BlockRef { number: log.block_number.to(), hash: log.block_hash },
            transaction: log.transaction_hash,
            log_index: log.index.to(),
            topics: log.topics.clone(),
            data: log.data.clone(),
        };
        decode(source, &event).map_err(refused)
    }

    /// The room, with these ACLs.
    pub(super) async fn room(&self, acls: [Address; 2]) -> Result<Access<ArbitrumProvider>> {
        let mut hosts = Vec::new();
        for (reader, acl) in self.readers.iter().zip(acls) {
            let host = HostChain::new(reader.clone(), acl, ACCOUNT_GAS);
            host.look().await.map_err(refused)?;
            hosts.push((host.chain_id(), host));
        }
        let deployment = &self.deployment;
        let addresses = Addresses {
            chain_id: CHAINS[0],
            decryption: deployment.decryption,
            gateway_config: deployment.gateway_config,
        };
        let hosts: HostChains<ArbitrumProvider> = hosts.into_iter().collect();
        Ok(Access::new(AccessOptions {
            hosts,
            protocol_config: None,
            gateway: RequestContract::new(self.gateway.clone(), addresses),
            registry: self.registry.clone(),
            domain: SigningDomain {
                name: "Decryption".into(),
                version: "1".into(),
                chain_id: CHAINS[0],
                verifying_contract: deployment.decryption,
            },
            clock: Clock::Wall,
            metrics: Metrics::default(),
        }))
    }
}
