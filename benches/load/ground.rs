//! What a program under measurement talks to: a chain, the buckets, and a KMS Core for each instance.

use std::{path::Path, time::Duration};

use alloy::{
    primitives::{B256, Bytes, U64},
    signers::local::PrivateKeySigner,
    sol_types::SolCall as _,
};
use serde_json::json;
use world::{
    Error, Result,
    anvil::{self, Anvil, AnvilOptions},
    contracts::{Decryption, Variant, lean_decryption_code, lean_gated_decryption_code},
    core_stub::{Behaviour, CoreOptions, CoreStub, CoreVersion},
    deployment::{self, Deployment, Thresholds},
    random_key,
    request::{Ask, Ciphertext, Kind, fhe},
    rpc::Call,
};

use crate::{
    gated::{self, Gate, Gated},
    host::Asked,
    node::MemoryNode,
    store::Store,
};

pub const BLOCK_TIME: Duration = Duration::from_millis(250);
/// Requests in one transaction.
const AT_ONCE: usize = 40;
/// What one request costs, and some more.
const GAS_EACH: u64 = 250_000;
/// The same by the protocol's own function.
const GATED_GAS: u64 = 1_000_000;

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
    /// Requests that a host chain has to grant, of a later generation. `None`: the gateway checks access.
    pub gate: Option<Gate>,
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
    gated: Option<Gated>,
}

impl Ground {
    pub async fn start(dir: &Path, plan: Plan) -> Result<Self> {
        let old_states = plan.gate.map_or(anvil::NO_OLD_STATES, |_| gated::FEW_OLD_STATES);
        let anvil = AnvilOptions {
            block_time: Some(BLOCK_TIME),
            durable: false,
            arguments: vec![old_states.into()],
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
        let (variant, version) = match plan.gate {
            Some(_) => (gated::VARIANT, CoreVersion::V0_13_20),
            None => (Variant::G10, CoreVersion::V0_13),
        };
        let mut deployment =
            Deployment::deploy(chain, variant, &nodes, &stores, thresholds).await?;
        let code = match plan.gate {
            Some(_) => lean_gated_decryption_code(deployment.gateway_config)?,
            None => lean_decryption_code(deployment.gateway_config)?,
        };
        let receipt = chain.send(Call::create(code)).await?;
        let lean = receipt.contract_address.ok_or_else(|| Error::other("no contract"))?;
        deployment.decryption = lean;
        let mut gated = None;
        if let Some(gate) = plan.gate {
            let parties = (&nodes[..], thresholds);
            let started = Gated::start(dir, gate, plan.ciphertexts, &store, parties).await?;
            started.commit(&deployment, &store).await?;
            gated = Some(started);
        }
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
                ..CoreOptions::new(version, deployment.chain_id, lean)
            });
            parties.push(Party { wallet, core: starting.await });
        }
        let mut node = None;
        if plan.in_memory {
            let first = deployment.since_block;
            let coprocessor = deployment.stores[0].tx_sender;
            node = Some(MemoryNode::start(chain.clone(), lean, coprocessor, first).await?);
        }
        Ok(Self { plan, node, parties, store, deployment, anvil, gated })
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
             private_key = \"{}\"\nstarting_block = {since_block}\n{}\n{}",
            core.endpoint(),
            wallet.to_bytes(),
            self.plan.settings,
            self.gated.as_ref().map(Gated::config).unwrap_or_default(),
        )
    }

    /// Public and user decryptions in turn, of what the buckets have.
    pub fn asks(&self, count: usize) -> Vec<Ask> {
        if let Some(gated) = &self.gated {
            return gated.asks(count);
        }
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

    /// Puts them on chain without waiting for a block: some in each transaction, where no connector looks at
    /// the calldata.
    pub async fn emit(&self, asks: &[Ask]) -> Result<()> {
        if self.gated.is_some() {
            for ask in asks {
                self.send(ask.calldata(self.deployment.domain())?, GATED_GAS).await?;
            }
            return Ok(());
        }
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
            let gas = GAS_EACH * (requests.len() as u64 + 1);
            self.send(Decryption::requestCall { requests }.abi_encode().into(), gas).await?;
        }
        Ok(())
    }

    /// The gas is named: an estimate executes everything, several times.
    async fn send(&self, data: Bytes, gas: u64) -> Result<()> {
        let chain = &self.deployment.chain;
        let transaction = json!({
            "from": chain.admin(), "to": self.deployment.decryption, "data": data, "gas": U64::from(gas),
        });
        let _hash: B256 = chain.rpc("eth_sendTransaction", json!([transaction])).await?;
        Ok(())
    }

    /// What was asked of the host chain so far, if there is one.
    pub fn asked(&self) -> Option<Asked> {
        self.gated.as_ref().map(Gated::asked)
    }

    /// Objects fetched, and polls of all Cores.
    pub fn counts(&self) -> (u64, usize) {
        let polls = self.parties.iter().map(|party| party.core.polls_of_all()).sum();
        (self.store.gets(), polls)
    }
}
