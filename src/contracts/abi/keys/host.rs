//! The requests of the `KMSGeneration` on Ethereum, from G13 on (gateway-abi 6.3).

use alloy::sol;
use alloy::sol_types::SolEvent;

use super::{DECODER, KeyEventShape, read_parameters};
use crate::domain::{KeyOperation, abort_id};

sol! {
    event PrepKeygenRequest(uint256 prepKeygenId, uint8 paramsType, bytes extraData);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId, bytes extraData);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType, bytes extraData);
    event AbortKeygen(uint256 prepKeygenId);
    event AbortCrsgen(uint256 crsId);
}

pub(super) const KEY_ABORT: KeyEventShape = KeyEventShape {
    topic0: AbortKeygen::SIGNATURE_HASH,
    event: AbortKeygen::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (preparation,) = AbortKeygen::abi_decode_data_with_config(data, DECODER)?;
        Ok((abort_id(preparation), KeyOperation::AbortKeygen { preparation }))
    },
};

pub(super) const CRS_ABORT: KeyEventShape = KeyEventShape {
    topic0: AbortCrsgen::SIGNATURE_HASH,
    event: AbortCrsgen::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (crs,) = AbortCrsgen::abi_decode_data_with_config(data, DECODER)?;
        Ok((abort_id(crs), KeyOperation::AbortCrsgen { crs }))
    },
};

pub(super) const PREPARATION_REQUEST: KeyEventShape = KeyEventShape {
    topic0: PrepKeygenRequest::SIGNATURE_HASH,
    event: PrepKeygenRequest::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (id, parameters, extra_data) =
            PrepKeygenRequest::abi_decode_data_with_config(data, DECODER)?;
        let (parameters, extra_data) = (read_parameters(parameters)?, Some(extra_data));
        Ok((id, KeyOperation::PrepKeygen { parameters, extra_data }))
    },
};

/// Emitted once enough nodes have answered the preparation.
pub(super) const KEY_REQUEST: KeyEventShape = KeyEventShape {
    topic0: KeygenRequest::SIGNATURE_HASH,
    event: KeygenRequest::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (preparation, id, extra_data) =
            KeygenRequest::abi_decode_data_with_config(data, DECODER)?;
        Ok((id, KeyOperation::Keygen { preparation, extra_data: Some(extra_data) }))
    },
};

pub(super) const CRS_REQUEST: KeyEventShape = KeyEventShape {
    topic0: CrsgenRequest::SIGNATURE_HASH,
    event: CrsgenRequest::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (id, max_bits, parameters, extra_data) =
            CrsgenRequest::abi_decode_data_with_config(data, DECODER)?;
        let (parameters, extra_data) = (read_parameters(parameters)?, Some(extra_data));
        Ok((id, KeyOperation::Crsgen { max_bits, parameters, extra_data }))
    },
};
