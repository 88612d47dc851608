//! A transaction before its signature, and what is read back from signed bytes. [`UnsignedTransaction`]
//! is public only for the benchmarks.

use alloy::{
    consensus::{SignableTransaction, Transaction, TxEip1559, TxEnvelope},
    eips::{Decodable2718, Encodable2718},
    primitives::TxKind,
};

use super::{
    Payload, SignedTransaction,
    fee_market::{Fees, HIGHEST_TIP},
};
use crate::{
    chain::wallet::{Wallet, WalletError},
    domain::{Address, RequestKey},
};

/// Upper bound of the gas of any answer, from the bytes of its calldata. On Arbitrum the charge for the
/// parent chain is per byte and is paid in gas of this chain: where this chain is much cheaper than its
/// parent, that is most of it.
#[must_use]
pub fn most_gas(calldata: usize) -> u64 {
    const CALL: u64 = 50_000_000;
    const BYTE: u64 = 20_000;
    (calldata as u64).saturating_mul(BYTE).saturating_add(CALL)
}

/// Lower bound of the gas of any answer: a transaction with this calldata that checks one signature and
/// writes one new storage word. What else the contract does is unknown.
#[must_use]
pub fn least_gas(calldata: &[u8]) -> u64 {
    const CALL: u64 = 21_000;
    const SIGNATURE: u64 = 3_000;
    const WORD: u64 = 20_000;
    let byte = |byte: &u8| if *byte == 0 { 4 } else { 16 };
    calldata.iter().map(byte).sum::<u64>() + CALL + SIGNATURE + WORD
}

impl Fees {
    /// Fees with which a pool accepts a replacement of `old`: pools ask for 10 % more of both fees, this
    /// is at least 12.5 % more. The tip stays below the ceiling, even if a pool that has `old` then
    /// keeps it.
    fn replacing(old: &TxEnvelope, fees: Self) -> Self {
        let more = |fee: u128| fee.saturating_add(fee.div_ceil(8));
        let max = fees.max.max(more(old.max_fee_per_gas()));
        let tip = fees.tip.max(more(old.max_priority_fee_per_gas().unwrap_or(0)));
        Self { max, tip: tip.min(max).min(HIGHEST_TIP) }
    }
}

/// What all no-ops of a lane have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noop {
    pub chain_id: u64,
    pub sender: Address,
    pub gas_limit: u64,
}

/// A transaction with its nonce and without its signature.
#[derive(Clone, Debug)]
pub struct UnsignedTransaction {
    transaction: TxEip1559,
    /// The request whose answer it carries. `None`: a no-op.
    pub request: Option<RequestKey>,
    /// Replaces the bytes of a nonce that is already open.
    pub(super) is_replacement: bool,
}

impl UnsignedTransaction {
    pub(super) fn from_payload(chain_id: u64, nonce: u64, fees: Fees, payload: &Payload) -> Self {
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
        Self { transaction, request: Some(payload.request), is_replacement: false }
    }

    /// A transfer of zero to the wallet itself, so that the nonces behind it can be executed.
    pub(super) fn noop(noop: Noop, nonce: u64, fees: Fees) -> Self {
        let transaction = TxEip1559 {
            chain_id: noop.chain_id,
            nonce,
            gas_limit: noop.gas_limit,
            max_fee_per_gas: fees.max,
            max_priority_fee_per_gas: fees.tip,
            to: TxKind::Call(noop.sender),
            ..TxEip1559::default()
        };
        Self { transaction, request: None, is_replacement: false }
    }

    /// The same payload under the same nonce with these fees.
    pub(super) fn with_fees(current: &SignedTransaction, fees: Fees) -> Option<Self> {
        let old = decode(current)?;
        Self::replacement(current, &old, fees, old.gas_limit())
    }

    /// The same payload under the same nonce with higher fees. `None` if that exceeds the cap, or
    /// `times` what a new transaction pays.
    pub(super) fn fee_bump(
        current: &SignedTransaction,
        fees: Fees,
        times: u128,
        cap: u128,
    ) -> Option<Self> {
        let old = decode(current)?;
        let dearer = Fees::replacing(&old, fees);
        let limit = fees.max.saturating_mul(times).min(cap);
        if dearer.max > limit {
            return None;
        }
        Self::replacement(current, &old, dearer, old.gas_limit())
    }

    /// The same payload under the same nonce with present fees, and with at most the gas that an answer
    /// may cost or `gas`. Either version may be mined: both carry the same answer.
    pub(super) fn repriced(
        current: &SignedTransaction,
        fees: Fees,
        gas: Option<u64>,
    ) -> Option<Self> {
        let old = decode(current)?;
        let gas = gas.unwrap_or(u64::MAX).min(most_gas(old.input().len()));
        Self::replacement(current, &old, fees, old.gas_limit().min(gas))
    }

    fn replacement(
        current: &SignedTransaction,
        old: &TxEnvelope,
        fees: Fees,
        gas_limit: u64,
    ) -> Option<Self> {
        let transaction = TxEip1559 {
            chain_id: old.chain_id()?,
            nonce: current.nonce,
            gas_limit,
            max_fee_per_gas: fees.max,
            max_priority_fee_per_gas: fees.tip,
            to: old.kind(),
            value: old.value(),
            input: old.input().clone(),
            ..TxEip1559::default()
        };
        Some(Self { transaction, request: current.request, is_replacement: true })
    }

    /// A no-op in place of bytes that a node may or may not have: whichever is mined uses the nonce, and
    /// the payload is sent under no other nonce before. It pays more than the old bytes, up to `most`.
    pub(super) fn noop_replacing(
        current: &SignedTransaction,
        noop: Noop,
        (fees, most): (Fees, u128),
    ) -> Self {
        let dearer = decode(current).map(|old| Fees::replacing(&old, fees));
        // A node that has the old bytes keeps them; other nodes accept the no-op at ordinary fees.
        let fees = dearer.filter(|dearer| dearer.max <= most).unwrap_or(fees);
        Self::noop_with_fees(current, noop, fees)
    }

    /// A no-op in place of these bytes with these fees.
    pub(super) fn noop_with_fees(current: &SignedTransaction, noop: Noop, fees: Fees) -> Self {
        Self { is_replacement: true, ..Self::noop(noop, current.nonce, fees) }
    }

    pub fn nonce(&self) -> u64 {
        self.transaction.nonce
    }

    /// Signs it. Returns the bytes to broadcast.
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

/// Restores the payload that an earlier run sent from its signed bytes.
pub(super) fn recover_payload(
    request: RequestKey,
    transaction: &SignedTransaction,
) -> Option<Payload> {
    let decoded = decode(transaction)?;
    Some(Payload {
        request,
        to: decoded.to()?,
        data: decoded.input().clone(),
        gas_limit: decoded.gas_limit().min(most_gas(decoded.input().len())),
    })
}

/// Fees and gas limit of signed bytes. `None` if they do not decode; our own always do.
pub(super) fn fees_and_gas_of(transaction: &SignedTransaction) -> Option<(Fees, u64)> {
    let decoded = decode(transaction)?;
    let tip = decoded.max_priority_fee_per_gas().unwrap_or(0);
    Some((Fees { max: decoded.max_fee_per_gas(), tip }, decoded.gas_limit()))
}

/// Whether the gas limit is higher than any answer needs.
pub(super) fn is_too_much_gas(transaction: &SignedTransaction) -> bool {
    decode(transaction).is_some_and(|one| one.gas_limit() > most_gas(one.input().len()))
}

/// Gas limit of signed bytes; 0 if they do not decode, which our own always do.
pub(super) fn gas_limit_of(transaction: &SignedTransaction) -> u64 {
    decode(transaction).map_or(0, |decoded| decoded.gas_limit())
}

fn decode(transaction: &SignedTransaction) -> Option<TxEnvelope> {
    TxEnvelope::decode_2718(&mut transaction.raw.as_ref()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::fake_chain::SOURCE;
    use crate::domain::B256;

    #[test]
    fn a9b_no_replacement_tips_above_the_ceiling() {
        let request =
            RequestKey { source: SOURCE, id: crate::domain::U256::from(1), content: B256::ZERO };
        let payload =
            Payload { request, to: Address::ZERO, data: vec![1].into(), gas_limit: 100_000 };
        let wallet = Wallet::from_private_key(&[7; 32]).unwrap();
        let now = Fees { max: 2 * HIGHEST_TIP, tip: HIGHEST_TIP };
        for tip in [HIGHEST_TIP - 1, HIGHEST_TIP, 1000 * HIGHEST_TIP] {
            let old = Fees { max: tip, tip };
            let signed = futures_util::FutureExt::now_or_never(
                UnsignedTransaction::from_payload(1, 0, old, &payload).sign(&wallet),
            );
            let signed = signed.unwrap().unwrap();
            let bump = UnsignedTransaction::fee_bump(&signed, now, 10_000, u128::MAX).unwrap();
            let noop = Noop { chain_id: 1, sender: Address::ZERO, gas_limit: 21_000 };
            let noop = UnsignedTransaction::noop_replacing(&signed, noop, (now, u128::MAX));
            for draft in [bump, noop] {
                assert_eq!(draft.transaction.max_priority_fee_per_gas, HIGHEST_TIP);
                assert!(draft.transaction.max_fee_per_gas > tip, "it outbids what it replaces");
            }
        }
    }
}
