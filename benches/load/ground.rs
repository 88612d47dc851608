//! What a program under measurement talks to: a chain, the buckets, and a KMS Core for each instance.

use std::{path::Path, time::Duration};

use alloy::{
    primitives::{B256, Bytes},
    signers::local::PrivateKeySigner,
    sol_types::SolCall as _,
};
use serde_json::json;
use world::{
    Error, Result,
    anvil::{self, Anvil, AnvilOptions},
    contracts::{Decryption, Variant, lean_decryption_code},
    core_stub::{Behaviour, CoreOptions, CoreStub, CoreVersion},
    deployment::{self, Deployment, Thresholds},
    random_key,
    request::{Ask, Ciphertext, Kind, fhe},
    rpc::Call,
};

use crate::{node::MemoryNode, store::Store};

pub const BLOCK_TIME: Duration = Duration::from_millis(250);
/// Requests in one transaction.
const AT_ONCE: usize = 40;
/// What one request costs, and some more.
const GAS_EACH: u64 = 250_000;

/// What the ground is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub instances: usize,
    /// Bytes of a ciphertext.
    pub size: usize,
    /// Ciphertexts of one request.
    pub ciphertexts: usize,
    /// How long a Core takes. `None`: it never has an answer.
    pub core: Option<Duration>,
    /// Whether the chain is the node in memory.
    pub in_memory: bool,
    /// Lines of the configuration that differ from the defaults.
    pub settings: &'static str,
}

/// One KMS node.
#[derive(Debug)]
pub struct Party {
    pub wallet: PrivateKeySigner,
    pub core: CoreStub,
}

/// Dropping it ends all servers.
pub struct Ground {
    plan: Plan,
    pub node: Option<MemoryNode>,
    pub parties: Vec<Party>,
    pub store: Store,
    pub deployment: Deployment,
    pub anvil: Anvil,
}

impl Ground {
    pub async fn start(dir: &Path, plan: Plan) -> Result<Self> {
        let anvil = AnvilOptions {
            block_time: Some(BLOCK_TIME),
            durable: false,
            arguments: vec![anvil::NO_OLD_STATES.into()],
            ..AnvilOptions::default()
        };
        let anvil = Anvil::start(dir, anvil).await?;
        let store = Store::start(plan.size).await?;
        let keys: Vec<_> = (0..plan.instances).map(|_| (random_key(), random_key())).collect();
        let mut nodes = Vec::new();
        for (wallet, signer) in &keys {
            anvil.fund(wallet.address()).await?;
            nodes.push(deployment::Node { wallet: wallet.address(), signer: signer.address() });
        }
        let stores = [deployment::Store::new(store.bucket()?)];
        // Every answer is accepted, also after the last that a consensus needs.
        let all = plan.instances as u64;
        let thresholds = Thresholds { public: all, user: all };
        let chain = anvil.chain();
        let mut deployment =
            Deployment::deploy(chain, Variant::G10, &nodes, &stores, thresholds).await?;
        let code = lean_decryption_code(deployment.gateway_config)?;
        let receipt = chain.send(Call::create(code)).await?;
        let lean = receipt.contract_address.ok_or_else(|| Error::other("no contract"))?;
        deployment.decryption = lean;
        let mut parties = Vec::new();
        for (wallet, signer) in keys {
            let behaviour = Behaviour {
                latency: plan.core.unwrap_or_default(),
                never_finish: plan.core.is_none(),
                ..Behaviour::default()
            };
            let starting = CoreStub::start(CoreOptions {
                signer,
                capacity: usize::MAX,
                hashes: false,
                behaviour,
                ..CoreOptions::new(CoreVersion::V0_13, deployment.chain_id, lean)
            });
            parties.push(Party { wallet, core: starting.await });
        }
        let mut node = None;
        if plan.in_memory {
            let first = deployment.since_block;
            let coprocessor = deployment.stores[0].tx_sender;
            node = Some(MemoryNode::start(chain.clone(), lean, coprocessor, first).await?);
        }
        Ok(Self { plan, node, parties, store, deployment, anvil })
    }

    /// The configuration of one instance: nothing in it that has a default, but for the plan's.
    pub fn config(&self, index: usize) -> String {
        let Party { wallet, core } = &self.parties[index];
        let Deployment { chain_id, decryption, gateway_config, since_block, .. } = &self.deployment;
        let gateway_url =
            self.node.as_ref().map_or_else(|| self.anvil.ws_url(), MemoryNode::ws_url);
        format!(
            "gateway_url = \"{gateway_url}\"\nkms_core_endpoint = \"{}\"\nchain_id = {chain_id}\n\
             decryption_address = \"{decryption}\"\ngateway_config_address = \"{gateway_config}\"\n\
             private_key = \"{}\"\nstarting_block = {since_block}\n{}\n",
            core.endpoint(),
            wallet.to_bytes(),
            self.plan.settings,
        )
    }

    /// Public and user decryptions in turn, of what the buckets have.
    pub fn asks(&self, count: usize) -> Vec<Ask> {
        let digests = self.store.digests();
        let ciphertext = |number: usize| Ciphertext {
            bytes: Vec::new(),
            digest: digests[number % digests.len()],
            ..Ciphertext::random(fhe::UINT64, 1)
        };
        let ask = |number: usize| {
            let ask = if number.is_multiple_of(2) {
                Ask::public(&[fhe::UINT64])
            } else {
                Ask::user(&[fhe::UINT64])
            };
            let ciphertexts = (0..self.plan.ciphertexts).map(|n| ciphertext(number + n)).collect();
            Ask { ciphertexts, ..ask }
        };
        (0..count).map(ask).collect()
    }

    /// Puts them on chain, some in each transaction, without waiting for a block.
    pub async fn emit(&self, asks: &[Ask]) -> Result<()> {
        let chain = &self.deployment.chain;
        let coprocessors = [self.deployment.stores[0].tx_sender];
        for portion in asks.chunks(AT_ONCE) {
            let request = |ask: &Ask| Decryption::Request {
                user: ask.kind == Kind::User,
                materials: ask.materials(&coprocessors),
                userAddress: ask.user,
                publicKey: ask.public_key.clone(),
                extraData: ask.extra_data.clone(),
            };
            let requests: Vec<_> = portion.iter().map(request).collect();
            let gas = alloy::primitives::U64::from(GAS_EACH * (requests.len() as u64 + 1));
            let data = Bytes::from(Decryption::requestCall { requests }.abi_encode());
            // The gas is named: an estimate executes all of them, several times.
            let transaction = json!({
                "from": chain.admin(), "to": self.deployment.decryption, "data": data, "gas": gas,
            });
            let _hash: B256 = chain.rpc("eth_sendTransaction", json!([transaction])).await?;
        }
        Ok(())
    }

    /// Objects fetched, and polls of all Cores.
    pub fn counts(&self) -> (u64, usize) {
        let polls = self.parties.iter().map(|party| party.core.polls_of_all()).sum();
        (self.store.gets(), polls)
    }
}
