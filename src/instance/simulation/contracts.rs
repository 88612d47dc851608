//! What the views of the two gateway contracts say, by the generation that stands there.

use alloy::{primitives::FixedBytes, sol_types::SolValue};

use super::{
    chain::domain,
    contexts::context,
    deployment::{
        COPROCESSORS, Coprocessor, DECRYPTION, GATEWAY_CONFIG, KMS_GENERATION, THRESHOLD,
    },
    world::WorldState,
};
use crate::{
    contracts::abi::{self, Generation},
    domain::{Address, B256, Bytes, Kind, SigningDomain, U256},
};

/// The version texts of the Decryption contract and of the registry.
fn versions(generation: Generation) -> (&'static str, &'static str) {
    match generation {
        Generation::UpToG10 => ("Decryption v0.3.0", "GatewayConfig v0.4.0"),
        Generation::G12 => ("Decryption v0.4.0", "GatewayConfig v0.5.0"),
        Generation::G13 => ("Decryption v0.5.0", "GatewayConfig v0.7.0"),
        Generation::G14 => ("Decryption v0.6.0", "GatewayConfig v0.7.0"),
        Generation::Head => ("Decryption v0.7.0", "GatewayConfig v0.8.0"),
    }
}

fn text(text: &str) -> Bytes {
    (text.to_owned(),).abi_encode_params().into()
}

/// As `eip712Domain` returns it.
fn told_domain(domain: SigningDomain) -> Bytes {
    let SigningDomain { name, version, chain_id, verifying_contract } = domain;
    let (fields, chain_id) = (FixedBytes::from([0x0f]), U256::from(chain_id));
    let (salt, extensions): (B256, Vec<U256>) = (B256::ZERO, Vec::new());
    (fields, name, version, chain_id, verifying_contract, salt, extensions)
        .abi_encode_params()
        .into()
}

impl WorldState {
    /// What a view returns after block `number`. `None`: this is no view of these contracts.
    pub fn gateway_view(
        &self,
        to: Address,
        data: &Bytes,
        wallet: Address,
        number: u64,
    ) -> Option<Bytes> {
        let generation = self.chain.generation(number);
        let (decryption, registry) = versions(generation);
        if to == DECRYPTION {
            return self.decryption_view(data, decryption, wallet, number);
        }
        if to == KMS_GENERATION {
            return self.key_generation_view(data, number);
        }
        if to != GATEWAY_CONFIG {
            return None;
        }
        if *data == abi::contract_version().calldata() {
            return Some(text(registry));
        }
        let node = || {
            let node = (wallet, self.core.address(), "node".to_owned(), String::new());
            Some(node.abi_encode().into())
        };
        if *data == abi::kms_node(wallet).calldata() {
            return node();
        }
        if *data == abi::coprocessor_majority_threshold().calldata() {
            return Some(U256::from(THRESHOLD).abi_encode().into());
        }
        if *data == abi::coprocessor_tx_senders().calldata() {
            return Some(COPROCESSORS.map(Coprocessor::tx_sender).to_vec().abi_encode().into());
        }
        let asked = COPROCESSORS
            .into_iter()
            .find(|one| *data == abi::coprocessor(one.tx_sender()).calldata());
        if let Some(one) = asked {
            let told = (one.tx_sender(), one.key().address(), one.bucket().to_owned());
            return Some(told.abi_encode().into());
        }
        if generation < Generation::G12 {
            return None;
        }
        let contexts = self.chain.contexts();
        if *data == abi::current_kms_context_id().calldata() {
            return Some(context(contexts.current(number)).abi_encode().into());
        }
        for (id, is_valid) in contexts.on_gateway(number) {
            if *data == abi::kms_node_for_context(id, wallet).calldata() {
                return node();
            }
            if *data == abi::kms_signers_for_context(id).calldata() {
                let signers = if is_valid { vec![self.core.address()] } else { Vec::new() };
                return Some(signers.abi_encode().into());
            }
            if generation >= Generation::G13 && *data == abi::is_valid_kms_context(id).calldata() {
                return Some(is_valid.abi_encode().into());
            }
        }
        None
    }

    fn key_generation_view(&self, data: &Bytes, number: u64) -> Option<Bytes> {
        let rules = self.chain.key_rules()?;
        if *data == abi::contract_version().calldata() {
            return Some(text("KMSGeneration v0.4.0"));
        }
        if *data == abi::signing_domain().calldata() {
            return Some(told_domain(rules.domain()));
        }
        let id = data.get(4..36).map(U256::from_be_slice)?;
        let senders = abi::consensus_tx_senders(Kind::Keygen, id);
        (*data == senders.calldata())
            .then(|| self.chain.keys(number).agreed(id).abi_encode().into())
    }

    fn decryption_view(
        &self,
        data: &Bytes,
        version: &'static str,
        wallet: Address,
        number: u64,
    ) -> Option<Bytes> {
        if *data == abi::contract_version().calldata() {
            return Some(text(version));
        }
        if *data == abi::signing_domain().calldata() {
            return Some(told_domain(domain()));
        }
        let id = data.get(4..36).map(U256::from_be_slice)?;
        (*data == abi::consensus_tx_senders(Kind::PublicDecryption, id).calldata()).then(|| {
            let answered = self.chain.is_answered(id, number);
            if answered { vec![wallet] } else { vec![] }.abi_encode().into()
        })
    }
}
