//! One network: a chain with its contracts, S3, and any number of KMS nodes.

use std::path::Path;

use alloy::{primitives::Address, signers::local::PrivateKeySigner};

use super::{
    Result,
    anvil::Anvil,
    contracts::Variant,
    core_stub::{CoreOptions, CoreStub},
    deployment::{Deployment, Node, Store, Thresholds},
    host::{HostChain, config as hosts_config, config_of, config_without_ethereum},
    key_generation::KeyGeneration,
    ministack::Ministack,
    random_key,
    scene::SceneOptions,
};

/// One KMS node: its wallet, and its Core with the signer it is registered with.
#[derive(Debug)]
pub struct Party {
    pub wallet: PrivateKeySigner,
    pub signer: PrivateKeySigner,
    pub core: CoreStub,
}

impl Party {
    /// The wallet's address.
    pub fn address(&self) -> Address {
        self.wallet.address()
    }
}

/// A network and its nodes. Dropping it ends every server.
#[derive(Debug)]
pub struct Parties {
    pub list: Vec<Party>,
    pub deployment: Deployment,
    /// The contract for keys: the gateway's, or from G13 on Ethereum's, on the first host chain.
    pub keys: Option<KeyGeneration>,
    pub anvil: Anvil,
    pub hosts: Vec<HostChain>,
    pub ministack: Ministack,
}

impl Parties {
    /// A fresh network of `count` parties, of which `thresholds` must agree, with its data in `dir`.
    pub async fn start(
        dir: &Path,
        options: &SceneOptions,
        count: usize,
        thresholds: Thresholds,
    ) -> Result<Self> {
        let (anvil, ministack) = tokio::try_join!(
            Anvil::start(dir, options.anvil.clone()),
            Ministack::start(dir, None)
        )?;
        let mut stores = Vec::new();
        for number in 0..options.buckets {
            stores.push(Store::new(ministack.bucket(&format!("ct128-{number}")).await?));
        }
        let keys: Vec<(PrivateKeySigner, PrivateKeySigner)> =
            (0..count).map(|_| (random_key(), random_key())).collect();
        let mut nodes = Vec::new();
        for (wallet, signer) in &keys {
            if options.funded {
                anvil.fund(wallet.address()).await?;
            }
            if options.registered && nodes.len() + options.newcomers < count {
                nodes.push(Node { wallet: wallet.address(), signer: signer.address() });
            }
        }
        let (chain, variant) = (anvil.chain(), options.variant);
        let deployment = Deployment::deploy(chain, variant, &nodes, &stores, thresholds).await?;
        let mut hosts = Vec::new();
        for host in &options.hosts {
            hosts.push(HostChain::start(dir, host.clone(), &nodes, thresholds).await?);
        }
        let contract = match (options.keys, hosts.first()) {
            (false, _) => None,
            (true, Some(HostChain { host, anvil })) if variant.since(Variant::G13) => {
                for (wallet, _) in &keys {
                    anvil.fund(wallet.address()).await?;
                }
                Some(KeyGeneration::on_ethereum(host).await?)
            }
            (true, _) => Some(KeyGeneration::on_gateway(&deployment).await?),
        };
        let protocol_config = match (&contract, hosts.first()) {
            (Some(_), Some(HostChain { host, .. })) => Some((host.chain_id, host.protocol_config)),
            _ => None,
        };
        let mut list = Vec::new();
        for (wallet, signer) in keys {
            let core = CoreStub::start(CoreOptions {
                signer: signer.clone(),
                tls: options.core_tls.clone(),
                key_generation: contract
                    .as_ref()
                    .map(|contract| (contract.chain_id, contract.address)),
                protocol_config,
                ..CoreOptions::new(options.core, deployment.chain_id, deployment.decryption)
            })
            .await;
            list.push(Party { wallet, signer, core });
        }
        Ok(Self { list, deployment, keys: contract, anvil, hosts, ministack })
    }

    /// The configuration of party `index`: keys it needs here, then `more` top-level lines.
    pub fn config(&self, index: usize, more: &str) -> String {
        let Party { wallet, core, .. } = &self.list[index];
        let more = format!("{more}\n{}", chains_config(self.keys.as_ref(), &self.hosts));
        connector_config(&self.anvil.ws_url(), &self.deployment, wallet, &core.endpoint(), &more)
    }

    /// [`Self::config`] with the pauses of an operator who set none.
    pub fn patient_config(&self, index: usize) -> String {
        let config = self.config(index, "");
        let ours = |line: &&str| IMPATIENCE.lines().any(|impatient| *line == impatient);
        config.lines().filter(|line| !ours(line)).flat_map(|line| [line, "\n"]).collect()
    }

    /// The signers the Cores of these parties sign with.
    pub fn signers(&self, indices: &[usize]) -> Vec<Address> {
        indices.iter().map(|index| self.list[*index].signer.address()).collect()
    }
}

/// What a configuration says of the contract for keys, and of the host chains.
pub fn chains_config(keys: Option<&KeyGeneration>, hosts: &[HostChain]) -> String {
    let Some(keys) = keys else { return hosts_config(hosts) };
    // Heads are told.
    let urls: Vec<String> = hosts.iter().map(|chain| chain.anvil.ws_url()).collect();
    let each: Vec<_> =
        urls.iter().map(String::as_str).zip(hosts.iter().map(|chain| &chain.host)).collect();
    if !keys.is_on_ethereum() {
        return format!("{}{}", keys.config(), config_without_ethereum(&each));
    }
    // A block is final soon here: nobody waits for 64 of them.
    format!(
        "{}ethereum_starting_block = {}\nethereum_confirmations = 3\n{}",
        keys.config(),
        keys.since_block,
        config_of(&each)
    )
}

/// Tests do not wait for a connector's pauses.
const IMPATIENCE: &str = "retry_interval_secs = 1\nheld_retry_secs = 2";

/// A configuration that asks often and reads everything.
pub fn connector_config(
    gateway_url: &str,
    deployment: &Deployment,
    wallet: &PrivateKeySigner,
    core_endpoint: &str,
    more: &str,
) -> String {
    format!(
        "gateway_url = \"{gateway_url}\"\nkms_core_endpoint = \"{core_endpoint}\"\n\
         chain_id = {}\ndecryption_address = \"{}\"\ngateway_config_address = \"{}\"\n\
         private_key = \"{}\"\nstarting_block = {}\n{IMPATIENCE}\n{more}\n",
        deployment.chain_id,
        deployment.decryption,
        deployment.gateway_config,
        wallet.to_bytes(),
        deployment.since_block,
    )
}
