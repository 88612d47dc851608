//! A transaction before and after its signature: what goes into the bytes, and out of them again.
//! [`Draft`] is public for the benchmarks, as far as they need it.

use alloy::{
    consensus::{SignableTransaction, Transaction, TxEip1559, TxEnvelope},
    eips::{Decodable2718, Encodable2718},
    primitives::TxKind,
};

use super::{Payload, SignedTransaction};
use crate::{
    domain::{Address, RequestKey},
    gateway::wallet::{Wallet, WalletError},
};

/// Gas of a no-op: a plain transfer plus Arbitrum's share for the parent chain.
const NOOP_GAS: u64 = 500_000;

/// Fees of a transaction, wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fees {
    pub(super) max: u128,
    pub(super) tip: u128,
}

impl Fees {
    /// Room for the base fee to double; `None` while the chain is dearer than `cap`.
    pub(super) fn over(base: u128, tip: u128, cap: Option<u128>) -> Option<Self> {
        let cap = cap.unwrap_or(u128::MAX);
        if base > cap {
            return None;
        }
        let max = base.saturating_mul(2).saturating_add(tip).min(cap);
        Some(Self { max, tip: tip.min(max) })
    }

    /// What a pool takes in place of `old`: at least an eighth more of both, where 10 % is asked.
    fn instead_of(old: &TxEnvelope, fees: Self) -> Self {
        let more = |fee: u128| fee.saturating_add(fee.div_ceil(8));
        let max = fees.max.max(more(old.max_fee_per_gas()));
        let tip = fees.tip.max(more(old.max_priority_fee_per_gas().unwrap_or(0)));
        Self { max, tip: tip.min(max) }
    }
}

/// A transaction with its nonce, without its signature.
#[derive(Clone, Debug)]
pub struct Draft {
    transaction: TxEip1559,
    /// Whose answer it carries. `None`: a no-op.
    pub request: Option<RequestKey>,
    /// Other bytes for a nonce that is already open.
    pub(super) replaces: bool,
}

impl Draft {
    pub(super) fn of_payload(chain_id: u64, nonce: u64, fees: Fees, payload: &Payload) -> Self {
        let transaction = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: payload.gas_limit,
            max_fee_per_gas: fees.max,
            max_priority_fee_per_gas: fees.tip,
            to: TxKind::Call(payload.to),
            input: payload.data.clone(),
            ..TxEip1559::default()
        };
        Self { transaction, request: Some(payload.request), replaces: false }
    }

    /// Nothing, sent to ourselves, so that the nonces behind it can be executed.
    pub(super) fn noop(chain_id: u64, nonce: u64, fees: Fees, sender: Address) -> Self {
        let transaction = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: NOOP_GAS,
            max_fee_per_gas: fees.max,
            max_priority_fee_per_gas: fees.tip,
            to: TxKind::Call(sender),
            ..TxEip1559::default()
        };
        Self { transaction, request: None, replaces: false }
    }

    /// The same bytes under the same nonce for higher fees; `None` where that would be above the cap,
    /// or above `times` what a new transaction pays.
    pub(super) fn bump_of(
        current: &SignedTransaction,
        fees: Fees,
        times: u128,
        cap: Option<u128>,
    ) -> Option<Self> {
        let old = decode(current)?;
        let dearer = Fees::instead_of(&old, fees);
        let limit = fees.max.saturating_mul(times).min(cap.unwrap_or(u128::MAX));
        if dearer.max > limit {
            return None;
        }
        let transaction = TxEip1559 {
            chain_id: old.chain_id()?,
            nonce: current.nonce,
            gas_limit: old.gas_limit(),
            max_fee_per_gas: dearer.max,
            max_priority_fee_per_gas: dearer.tip,
            to: old.kind(),
            value: old.value(),
            input: old.input().clone(),
            ..TxEip1559::default()
        };
        Some(Self { transaction, request: current.request, replaces: true })
    }

    /// A no-op in place of bytes that a node may or may not have: whichever is mined, the nonce is
    /// used, and nothing else of the request under it.
    pub(super) fn noop_instead_of(
        current: &SignedTransaction,
        chain_id: u64,
        fees: Fees,
        sender: Address,
    ) -> Self {
        let fees = decode(current).map_or(fees, |old| Fees::instead_of(&old, fees));
        Self { replaces: true, ..Self::noop(chain_id, current.nonce, fees, sender) }
    }

    /// Under which nonce.
    pub fn nonce(&self) -> u64 {
        self.transaction.nonce
    }

    /// The bytes to be broadcast.
    pub async fn sign(&self, wallet: &Wallet) -> Result<SignedTransaction, WalletError> {
        let signature = wallet.sign_hash(self.transaction.signature_hash()).await?;
        let signed = self.transaction.clone().into_signed(signature);
        let hash = *signed.hash();
        let raw = TxEnvelope::from(signed).encoded_2718();
        Ok(SignedTransaction {
            nonce: self.transaction.nonce,
            hash,
            raw: raw.into(),
            request: self.request,
        })
    }
}

/// What an earlier run sent, out of its signed bytes.
pub(super) fn recover_payload(
    request: RequestKey,
    transaction: &SignedTransaction,
) -> Option<Payload> {
    let decoded = decode(transaction)?;
    Some(Payload {
        request,
        to: decoded.to()?,
        data: decoded.input().clone(),
        gas_limit: decoded.gas_limit(),
    })
}

/// 0 if the bytes cannot be decoded, which ours can.
pub(super) fn gas_limit_of(transaction: &SignedTransaction) -> u64 {
    decode(transaction).map_or(0, |decoded| decoded.gas_limit())
}

fn decode(transaction: &SignedTransaction) -> Option<TxEnvelope> {
    TxEnvelope::decode_2718(&mut transaction.raw.as_ref()).ok()
}
