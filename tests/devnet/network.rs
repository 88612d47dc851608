//! The network: its servers while they run, and its description for who comes later.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use world::{
    Error, Result,
    anvil::{self, AnvilOptions},
    attestation::Layout,
    contracts::Variant,
    deployment::{Answer, Deployment, Store, Thresholds},
    host::{self, Host, HostChain, HostOptions},
    key_generation::KeyGeneration,
    ministack::Bucket,
    parties::{Parties, Party},
    request::{Ask, Issued},
    rpc::Chain,
    scene::SceneOptions,
};

const NETWORK: &str = "devnet.json";
const REQUESTS: &str = "requests.jsonl";
const HOST_BLOCK_TIME: Duration = Duration::from_secs(1);
/// A connector asks for the state of a block that may be some seconds old.
const HOST_STATES: &str = "64";

/// The generations by the names that the documentation uses.
const GENERATIONS: [(&str, Variant); 8] = [
    ("G7", Variant::G7),
    ("G8", Variant::G8),
    ("G9", Variant::V0_9_7),
    ("G10", Variant::G10),
    ("G12", Variant::G12),
    ("G13", Variant::G13),
    ("G14", Variant::G14),
    ("HEAD", Variant::Head),
];

/// The generation of this name.
pub fn generation(name: &str) -> Result<Variant, String> {
    let found = GENERATIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, variant)| *variant).ok_or_else(|| {
        let names = GENERATIONS.map(|(known, _)| known);
        format!("there are {}", names.join(", "))
    })
}

/// `devnet.json`: all that connectors and the other subcommands need. Holds the keys of a network
/// that lives on this machine only.
#[derive(Debug, Serialize, Deserialize)]
pub struct Network {
    pub http_url: String,
    pub ws_url: String,
    pub chain_id: u64,
    pub variant: Variant,
    pub decryption: Address,
    pub gateway_config: Address,
    pub since_block: u64,
    pub s3_endpoint: String,
    pub s3_bucket: String,
    pub coprocessor: Address,
    pub bucket_url: String,
    pub nodes: Vec<Node>,
    /// From G12 on: the chain whose contracts own the handles.
    pub host_chain: Option<HostNetwork>,
    /// The contract for keys, if there is one.
    pub keys: Option<Keys>,
    pub anvil_pid: Option<u32>,
    pub ministack_pid: Option<u32>,
}

/// The contract for keys: the gateway's, or from G13 on that of the host chain.
#[derive(Debug, Serialize, Deserialize)]
pub struct Keys {
    pub chain_id: u64,
    pub kms_generation: Address,
    pub since_block: u64,
    pub is_on_ethereum: bool,
}

impl Keys {
    fn of(keys: &KeyGeneration) -> Self {
        Self {
            chain_id: keys.chain_id,
            kms_generation: keys.address,
            since_block: keys.since_block,
            is_on_ethereum: keys.is_on_ethereum(),
        }
    }

    /// What a configuration says of it. On a chain that nobody else uses every block is as good as final.
    fn config(&self, variant: Variant) -> String {
        let contract = format!("kms_generation_address = \"{}\"\n", self.kms_generation);
        let since = self.since_block;
        let of_ethereum = format!(
            "ethereum_starting_block = {since}\nethereum_finality = \"latest\"\nethereum_confirmations = 2\n"
        );
        let of_head = "key_representation = \"compressed\"\n";
        [
            contract.as_str(),
            if self.is_on_ethereum { &of_ethereum } else { "" },
            if variant.since(Variant::Head) { of_head } else { "" },
        ]
        .concat()
    }
}

/// The host chain.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostNetwork {
    pub http_url: String,
    pub ws_url: String,
    pub chain_id: u64,
    pub acl: Address,
    pub protocol_config: Address,
    pub anvil_pid: Option<u32>,
}

impl HostNetwork {
    fn of(HostChain { anvil, host }: &HostChain) -> Self {
        Self {
            http_url: anvil.http_url(),
            ws_url: anvil.ws_url(),
            chain_id: host.chain_id,
            acl: host.acl,
            protocol_config: host.protocol_config,
            anvil_pid: anvil.pid(),
        }
    }

    fn host(&self, variant: Variant) -> Result<Host> {
        Ok(Host {
            chain: Chain::new(&self.http_url, anvil::ADMIN)?,
            chain_id: self.chain_id,
            acl: self.acl,
            acl_variant: variant,
            protocol_config: self.protocol_config,
            protocol_variant: variant,
        })
    }
}

/// One KMS node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub core_endpoint: String,
    /// Its connector's wallet: funded and registered.
    pub wallet_address: Address,
    pub wallet_private_key: B256,
    /// The signer a Core must have to be this node's; the stub has it.
    pub signer_address: Address,
    pub signer_private_key: B256,
}

/// The running network. Dropping it ends every server.
#[derive(Debug)]
pub struct Servers {
    pub network: Network,
    parties: Parties,
}

impl Servers {
    /// A fresh network of `nodes` KMS nodes with its data in `dir`. All of them must agree.
    pub async fn start(
        dir: &Path,
        variant: Variant,
        block_time: Duration,
        nodes: u16,
    ) -> Result<Self> {
        Self::start_with(dir, variant, block_time, nodes, false).await
    }

    /// The same with the contract for keys.
    pub async fn with_keys(
        dir: &Path,
        variant: Variant,
        block_time: Duration,
        nodes: u16,
    ) -> Result<Self> {
        Self::start_with(dir, variant, block_time, nodes, true).await
    }

    async fn start_with(
        dir: &Path,
        variant: Variant,
        block_time: Duration,
        nodes: u16,
        keys: bool,
    ) -> Result<Self> {
        forget_the_last(dir)?;
        // It may be left running for days: whatever it keeps of each block would fill memory and disk.
        let anvil = AnvilOptions {
            block_time: Some(block_time),
            durable: false,
            arguments: vec![anvil::NO_OLD_STATES.to_owned()],
            ..AnvilOptions::default()
        };
        let mut hosts = Vec::new();
        if variant.since(Variant::G12) {
            let mut host = HostOptions::of(variant).block_time(Some(HOST_BLOCK_TIME));
            host.anvil.durable = false;
            host.anvil.arguments.extend([anvil::NO_OLD_STATES.to_owned(), HOST_STATES.to_owned()]);
            hosts.push(host);
        }
        let options = SceneOptions { anvil, hosts, keys, ..SceneOptions::of(variant) };
        let thresholds = Thresholds { public: nodes.into(), user: nodes.into() };
        let parties = Parties::start(dir, &options, nodes.into(), thresholds).await?;
        let Parties { list, deployment, keys, anvil, ministack, hosts } = &parties;
        let node = |(index, party): (usize, &Party)| Node {
            name: format!("node-{}", index + 1),
            core_endpoint: party.core.endpoint(),
            wallet_address: party.address(),
            wallet_private_key: party.wallet.to_bytes(),
            signer_address: party.signer.address(),
            signer_private_key: party.signer.to_bytes(),
        };
        let store = &deployment.stores[0];
        let bucket_url = store.bucket.url();
        let network = Network {
            http_url: anvil.http_url(),
            ws_url: anvil.ws_url(),
            chain_id: anvil.chain_id(),
            variant: deployment.variant,
            decryption: deployment.decryption,
            gateway_config: deployment.gateway_config,
            since_block: deployment.since_block,
            s3_endpoint: ministack.url(),
            s3_bucket: bucket_url.rsplit('/').next().unwrap_or_default().into(),
            coprocessor: store.tx_sender,
            bucket_url: bucket_url.into(),
            nodes: list.iter().enumerate().map(node).collect(),
            host_chain: hosts.first().map(HostNetwork::of),
            keys: keys.as_ref().map(Keys::of),
            anvil_pid: anvil.pid(),
            ministack_pid: ministack.pid(),
        };
        network.write(dir)?;
        Ok(Self { network, parties })
    }

    pub fn deployment(&self) -> &Deployment {
        &self.parties.deployment
    }

    /// The contract for keys, if there is one.
    pub fn keys(&self) -> Option<&KeyGeneration> {
        self.parties.keys.as_ref()
    }

    /// An error with the last output of a server that has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        self.parties.anvil.check()?;
        for host in &mut self.parties.hosts {
            host.anvil.check()?;
        }
        self.parties.ministack.check()
    }
}

impl Network {
    /// The network in `dir` as [`Servers::start`] described it.
    pub fn attach(dir: &Path) -> Result<(Self, Deployment)> {
        let text = fs::read(dir.join(NETWORK))
            .map_err(|e| Error::Io(format!("no running devnet in {}", dir.display()), e))?;
        let network: Self = serde_json::from_slice(&text)?;
        let bucket = Bucket::new(&network.bucket_url)?;
        let deployment = Deployment {
            chain: Chain::new(&network.http_url, anvil::ADMIN)?,
            chain_id: network.chain_id,
            variant: network.variant,
            decryption: network.decryption,
            gateway_config: network.gateway_config,
            since_block: network.since_block,
            layout: Layout::of(network.variant),
            stores: vec![Store { tx_sender: network.coprocessor, bucket }],
        };
        Ok((network, deployment))
    }

    fn write(&self, dir: &Path) -> Result<()> {
        // Whoever sees the file may use the network: it appears whole or not at all.
        let draft = dir.join("devnet.json.draft");
        write_private(&draft, &serde_json::to_string_pretty(self)?)?;
        fs::rename(&draft, dir.join(NETWORK)).map_err(|e| io(NETWORK, e))
    }

    /// The contracts of the host chain.
    pub fn host(&self) -> Result<Option<Host>> {
        self.host_chain.as_ref().map(|network| network.host(self.variant)).transpose()
    }

    /// The configuration of the connector of one node.
    pub fn connector_config(&self, node: &Node) -> Result<String> {
        let host = self.host()?;
        let chain = self.host_chain.as_ref().zip(host.as_ref());
        let keys_on_gateway = self.keys.as_ref().is_some_and(|keys| !keys.is_on_ethereum);
        let of_chains =
            if keys_on_gateway { host::config_without_ethereum } else { host::config_of };
        let chain = chain.map(|(network, host)| of_chains(&[(&network.ws_url, host)]));
        let keys = self.keys.as_ref().map(|keys| keys.config(self.variant));
        Ok(format!(
            "# A connector of a network that lives on this machine only.\n\
             # config/environments/config-base.toml documents every key.\n\
             gateway_url = \"{}\"\n\
             chain_id = {}\n\
             decryption_address = \"{}\"\n\
             gateway_config_address = \"{}\"\n\
             starting_block = {}\n\
             kms_core_endpoint = \"{}\"\n\
             private_key = \"{}\"\n\
             {}{}",
            self.ws_url,
            self.chain_id,
            self.decryption,
            self.gateway_config,
            self.since_block,
            node.core_endpoint,
            node.wallet_private_key,
            keys.unwrap_or_default(),
            chain.unwrap_or_default(),
        ))
    }
}

impl Node {
    /// This node's answer to `request` among `answers`, and what is wrong with it. Right is: there
    /// is exactly one, and it is what the ciphertexts decrypt to.
    pub fn judge<'a>(
        &self,
        request: &Issued,
        answers: &'a [Answer],
    ) -> (Option<&'a Answer>, Option<String>) {
        let mine = answers.iter().filter(|a| a.id == request.id && a.signer == self.signer_address);
        match mine.collect::<Vec<_>>().as_slice() {
            [] => (None, Some("no answer".into())),
            [answer] => (Some(answer), request.check(&answer.payload).err()),
            [first, others @ ..] => (Some(first), Some(format!("{} answers", others.len() + 1))),
        }
    }
}

/// Has the host chain grant requests, puts them on chain, and notes them in `dir`.
pub async fn emit(
    dir: &Path,
    (deployment, host): (&Deployment, Option<&Host>),
    asks: Vec<Ask>,
) -> Result<Vec<Issued>> {
    if let Some(host) = host {
        host.grant(&asks).await?;
    }
    let requests = deployment.request(asks).await?;
    let mut lines = String::new();
    for request in &requests {
        lines.push_str(&serde_json::to_string(request)?);
        lines.push('\n');
    }
    File::options()
        .append(true)
        .create(true)
        .open(dir.join(REQUESTS))
        .and_then(|mut out| out.write_all(lines.as_bytes()))
        .map_err(|e| io(REQUESTS, e))?;
    Ok(requests)
}

/// Every request that [`emit`] noted in `dir`.
pub fn emitted(dir: &Path) -> Result<Vec<Issued>> {
    let text = match fs::read_to_string(dir.join(REQUESTS)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|e| io(REQUESTS, e))?,
    };
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Writes a file that only its owner can read: it holds keys.
fn write_private(path: &Path, text: &str) -> Result<()> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|e| io(&path.display().to_string(), e))
}

/// Removes what an earlier network left in the folder: every network is a fresh one.
fn forget_the_last(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| io("creating the folder", e))?;
    for name in [NETWORK, REQUESTS, "anvil.log", "ministack.log"] {
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(name, e)),
            _ => {}
        }
    }
    match fs::remove_dir_all(dir.join("ministack")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("ministack", e)),
        _ => Ok(()),
    }
}

fn io(what: &str, error: std::io::Error) -> Error {
    Error::Io(what.into(), error)
}
