//! Logs and receipts as nodes encode them, reduced to what is needed. A missing or odd field elsewhere
//! does not matter.

use alloy::primitives::{U64, U128};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::{
    chain::reader::Receipt,
    domain::{Address, B256, BlockRef, Bytes, Event},
};

/// A block number, log index or gas amount. No chain has values above 2^53: a larger one is an invalid
/// answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quantity(u64);

impl Quantity {
    const HIGHEST: u64 = (1 << 53) - 1;

    pub(super) fn to<T: From<u64>>(self) -> T {
        self.0.into()
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number: u64 = U64::deserialize(deserializer)?.to();
        if number > Self::HIGHEST {
            let what = format!("{number}, a number that no chain has reached");
            return Err(serde::de::Error::custom(what));
        }
        Ok(Self(number))
    }
}

/// A log. Without a block it is pending.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawLog {
    pub address: Address,
    topics: Vec<B256>,
    data: Bytes,
    block_number: Option<Quantity>,
    block_hash: Option<B256>,
    transaction_hash: Option<B256>,
    log_index: Option<Quantity>,
    #[serde(default, deserialize_with = "lenient")]
    removed: Option<bool>,
}

impl RawLog {
    /// Its block left the chain.
    pub(super) fn is_removed(&self) -> bool {
        self.removed == Some(true)
    }

    pub(super) fn topic0(&self) -> Option<&B256> {
        self.topics.first()
    }

    /// `None`: it has no block or transaction.
    pub(super) fn into_event(self) -> Option<Event> {
        let block = BlockRef { number: self.block_number?.to(), hash: self.block_hash? };
        Some(Event {
            block,
            transaction: self.transaction_hash?,
            log_index: self.log_index?.to(),
            topics: self.topics,
            data: self.data,
        })
    }
}

/// Upper bound of a plausible gas price, in wei: keeps one wrong receipt from spoiling the counted
/// costs.
const HIGHEST_GAS_PRICE: u128 = 1_000_000_000_000_000_000;

/// A receipt. Receipts before Byzantium have no status, but no contract of ours existed then: without a
/// status it is invalid.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawReceipt {
    transaction_hash: B256,
    status: U64,
    block_number: Option<Quantity>,
    block_hash: Option<B256>,
    #[serde(default, deserialize_with = "lenient")]
    gas_used: Option<Quantity>,
    #[serde(default, deserialize_with = "lenient")]
    effective_gas_price: Option<U128>,
}

impl RawReceipt {
    /// `None`: pending.
    pub(super) fn into_receipt(self) -> Option<Receipt> {
        Some(Receipt {
            hash: self.transaction_hash,
            block: BlockRef { number: self.block_number?.to(), hash: self.block_hash? },
            success: self.status == U64::from(1),
            gas_used: self.gas_used.unwrap_or_default().to(),
            gas_price: self
                .effective_gas_price
                .map_or(0, |price| price.to::<u128>().min(HIGHEST_GAS_PRICE)),
        })
    }
}

/// For optional fields: missing or unreadable is `None`.
pub(super) fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn receipt(change: impl FnOnce(&mut Value)) -> Option<Receipt> {
        let mut value = json!({
            "transactionHash": B256::repeat_byte(1), "status": "0x1",
            "blockNumber": "0x7", "blockHash": B256::repeat_byte(2),
        });
        change(&mut value);
        serde_json::from_value::<RawReceipt>(value).ok()?.into_receipt()
    }

    #[test]
    fn a5_a_receipt_is_read_by_what_is_needed() {
        let expected = Receipt {
            hash: B256::repeat_byte(1),
            block: BlockRef { number: 7, hash: B256::repeat_byte(2) },
            success: true,
            gas_used: 0,
            gas_price: 0,
        };
        assert_eq!(
            receipt(|_| {}),
            Some(expected.clone()),
            "no logsBloom, no logs, no type, no gas"
        );
        let odd = receipt(|value| {
            value["logsBloom"] = json!("0x00");
            value["type"] = json!("0x6a");
            value["gasUsed"] = json!("0x5208");
            value["effectiveGasPrice"] = json!("many");
            value["cumulativeGasUsed"] = json!(null);
            value["logs"] = json!([{ "odd": true }]);
        });
        assert_eq!(odd, Some(Receipt { gas_used: 21_000, ..expected.clone() }));
        let failed = receipt(|value| value["status"] = json!("0x0"));
        assert_eq!(failed, Some(Receipt { success: false, ..expected }));
        assert_eq!(receipt(|value| value["blockHash"] = json!(null)), None, "pending");
        let early = receipt(|value| {
            value.as_object_mut().unwrap().remove("status");
            value["root"] = json!(B256::repeat_byte(3));
        });
        assert_eq!(early, None, "whether it succeeded is not said");
    }

    #[test]
    fn b11_numbers_that_no_chain_has_reached_are_unreadable() {
        let absurd = json!("0xffffffffffffffff");
        assert_eq!(receipt(|value| value["blockNumber"] = absurd.clone()), None);
        let costly = receipt(|value| {
            value["gasUsed"] = absurd.clone();
            value["effectiveGasPrice"] = json!("0xffffffffffffffffffffffffffffffff");
        });
        let costly = costly.unwrap();
        assert_eq!((costly.gas_used, costly.gas_price), (0, HIGHEST_GAS_PRICE));
        for key in ["blockNumber", "logIndex"] {
            let mut log = json!({
                "address": Address::repeat_byte(1), "topics": [], "data": "0x",
                "blockNumber": "0x1fffffffffffff", "blockHash": B256::repeat_byte(4),
                "transactionHash": B256::repeat_byte(5), "logIndex": "0x0",
            });
            serde_json::from_value::<RawLog>(log.clone()).unwrap();
            log[key] = absurd.clone();
            let error = serde_json::from_value::<RawLog>(log).unwrap_err();
            assert!(error.to_string().contains("no chain has reached"), "{error}");
        }
    }

    #[test]
    fn a5_a_log_is_read_by_what_is_needed() {
        let log = json!({
            "address": Address::repeat_byte(1), "topics": [B256::repeat_byte(2)], "data": "0x03",
            "blockNumber": "0x7", "blockHash": B256::repeat_byte(4),
            "transactionHash": B256::repeat_byte(5), "logIndex": "0x0", "removed": "no",
        });
        let log: RawLog = serde_json::from_value(log).unwrap();
        assert!(!log.is_removed());
        let event = log.into_event().unwrap();
        assert_eq!((event.block.number, event.log_index, event.data.len()), (7, 0, 1));
    }
}
