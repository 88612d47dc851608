//! Transactions of the connector's wallet, and the answers in them.

use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::Decodable2718,
    primitives::keccak256,
    sol,
    sol_types::SolCall,
};

use crate::{
    chain::{
        lane::{HIGHEST_FEE, unsigned::most_gas},
        reader,
    },
    domain::{Address, B256, Bytes, U256},
    instance::simulation::keys::events,
};

sol! {
    function publicDecryptionResponse(
        uint256 decryptionId, bytes decryptedResult, bytes signature, bytes extraData
    ) external;
    function userDecryptionResponse(
        uint256 decryptionId, bytes userDecryptedShare, bytes signature, bytes extraData
    ) external;
}

/// A transaction of the connector's wallet.
#[derive(Clone, Debug)]
pub(in crate::instance::simulation) struct Transaction {
    pub hash: B256,
    pub nonce: u64,
    pub max_fee: u128,
    pub(super) tip: u128,
    pub(super) gas_limit: u64,
    pub(super) to: Option<Address>,
    pub(super) input: Bytes,
    /// Of the same wallet, but not sent by this connector.
    pub foreign: bool,
}

/// Gas limit of a block.
pub(super) const BLOCK_GAS: u64 = 30_000_000;
/// Gas of an answer, of a transaction that does nothing, and of each byte of calldata.
const ANSWER_GAS: u64 = 130_000;
const PLAIN_GAS: u64 = 21_000;
const BYTE_GAS: u64 = 16;
/// Tips are always below this.
const HIGHEST_TIP: u128 = 100_000_000_000;

impl Transaction {
    pub fn read(raw: &Bytes) -> Self {
        let read = TxEnvelope::decode_2718(&mut raw.as_ref()).expect("the lane signs well");
        Self {
            hash: *read.tx_hash(),
            nonce: read.nonce(),
            max_fee: read.max_fee_per_gas(),
            tip: read.max_priority_fee_per_gas().unwrap_or(0),
            gas_limit: read.gas_limit(),
            to: read.to(),
            input: read.input().clone(),
            foreign: false,
        }
    }

    /// Returns why this transaction must not have been signed, whatever the nodes said.
    pub fn is_out_of_bounds(&self) -> Option<String> {
        let Self { max_fee, tip, gas_limit, .. } = *self;
        let fine = max_fee <= HIGHEST_FEE
            && tip <= HIGHEST_TIP
            && gas_limit <= BLOCK_GAS.min(most_gas(self.input.len()));
        (!fine).then(|| format!("{max_fee} wei per gas, a tip of {tip}, {gas_limit} gas"))
    }

    pub(super) fn intrinsic_gas(&self) -> u64 {
        PLAIN_GAS + BYTE_GAS * self.input.len() as u64
    }

    /// Gas that its complete execution uses.
    pub(super) fn gas(&self) -> u64 {
        let answers = if self.input.is_empty() { 0 } else { ANSWER_GAS };
        self.intrinsic_gas() + answers
    }

    /// A transaction of the same wallet that this connector did not send.
    pub fn foreign(nonce: u64, salt: u64) -> Self {
        let hash = keccak256([nonce.to_be_bytes(), salt.to_be_bytes()].concat());
        Self {
            hash,
            nonce,
            max_fee: u128::MAX,
            tip: 0,
            gas_limit: BLOCK_GAS,
            to: None,
            input: Bytes::new(),
            foreign: true,
        }
    }

    /// Returns whether it runs out of gas.
    pub fn runs_out(&self) -> bool {
        self.gas_limit < self.gas()
    }

    /// In the form a node returns.
    pub fn as_rpc(&self) -> reader::Transaction {
        reader::Transaction { hash: self.hash, to: self.to, input: self.input.clone(), block: None }
    }

    /// The answer to a key operation in it.
    pub fn vote(&self) -> Option<events::KeyResponse> {
        events::response(&self.input)
    }

    /// Id of the request it answers.
    pub fn answers(&self) -> Option<U256> {
        let decryption = response(&self.input).map(|response| response.id);
        decryption.or_else(|| events::response(&self.input).map(|answer| answer.id))
    }
}

pub(super) struct Response {
    pub(super) id: U256,
    pub(super) payload: Bytes,
    pub(super) signature: Bytes,
    pub(super) extra_data: Bytes,
}

pub(super) fn response(input: &[u8]) -> Option<Response> {
    if let Ok(call) = publicDecryptionResponseCall::abi_decode(input) {
        return Some(Response {
            id: call.decryptionId,
            payload: call.decryptedResult,
            signature: call.signature,
            extra_data: call.extraData,
        });
    }
    let call = userDecryptionResponseCall::abi_decode(input).ok()?;
    Some(Response {
        id: call.decryptionId,
        payload: call.userDecryptedShare,
        signature: call.signature,
        extra_data: call.extraData,
    })
}
