//! A header as nodes encode it, in `newHeads` and in blocks.

use std::time::Duration;

use alloy::primitives::{B256, Bloom, U64, U128};
use serde::Deserialize;

use super::raw::{Quantity, lenient};
use crate::{
    chain::reader::{Head, NodeId},
    domain::BlockRef,
    time::clock,
};

/// The fields of `newHeads` and `eth_getBlockBy…` that the connector needs. Optional ones may be missing
/// or unreadable.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawHead {
    number: Quantity,
    hash: B256,
    parent_hash: B256,
    #[serde(default, deserialize_with = "lenient")]
    logs_bloom: Option<Bloom>,
    #[serde(default, deserialize_with = "lenient")]
    base_fee_per_gas: Option<U128>,
    #[serde(default, deserialize_with = "lenient")]
    gas_limit: Option<U64>,
    /// Unix seconds.
    #[serde(default, deserialize_with = "lenient")]
    timestamp: Option<U64>,
}

impl RawHead {
    pub(super) fn block(&self) -> BlockRef {
        BlockRef { number: self.number.to(), hash: self.hash }
    }

    /// Age by this machine's clock. `None`: the node does not report a timestamp.
    pub(super) fn age(&self) -> Option<Duration> {
        let made_ms = self.timestamp?.to::<u64>().saturating_mul(1_000);
        Some(Duration::from_millis(clock::unix_millis().saturating_sub(made_ms)))
    }

    pub(super) fn has_same_hash(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    pub(super) fn into_head(self, connection: u64, by: NodeId) -> Head {
        Head {
            block: self.block(),
            parent: self.parent_hash,
            bloom: self.logs_bloom,
            base_fee: self.base_fee_per_gas.map(|fee| fee.to()),
            gas_limit: self.gas_limit.map(|gas| gas.to()),
            timestamp: self.timestamp.map(|timestamp| timestamp.to()),
            connection,
            node: by,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A6.
    #[test]
    fn a6_a_header_is_read_by_the_fields_that_are_needed() {
        let needed = json!({
            "number": "0x7", "hash": B256::repeat_byte(1), "parentHash": B256::repeat_byte(2),
        });
        let read = |more: &[(&str, serde_json::Value)]| {
            let mut header = needed.clone();
            for (key, value) in more {
                header[key] = value.clone();
            }
            let raw: RawHead = serde_json::from_value(header).unwrap();
            raw.into_head(3, NodeId(1))
        };
        let head = read(&[]);
        assert_eq!((head.block.number, head.parent), (7, B256::repeat_byte(2)));
        assert_eq!((head.bloom, head.base_fee, head.timestamp), (None, None, None));
        let odd = read(&[("logsBloom", json!("0x00")), ("baseFeePerGas", json!([1]))]);
        assert_eq!((odd.bloom, odd.base_fee), (None, None));
        let null = read(&[("logsBloom", json!(null)), ("baseFeePerGas", json!(null))]);
        assert_eq!((null.bloom, null.base_fee), (None, None));
        let absurd = json!({
            "number": "0xffffffffffffffff", "hash": B256::ZERO, "parentHash": B256::ZERO,
        });
        let error = serde_json::from_value::<RawHead>(absurd).unwrap_err();
        assert!(error.to_string().contains("no chain has reached"), "B11: {error}");
        let full = read(&[
            ("logsBloom", json!(Bloom::ZERO)),
            ("baseFeePerGas", json!("0x5")),
            ("timestamp", json!("0x6")),
        ]);
        assert_eq!((full.bloom, full.base_fee), (Some(Bloom::ZERO), Some(5)));
        assert_eq!(full.timestamp, Some(6));
    }
}
