//! The requests of the gateway's `KMSGeneration`, from G9 to G12 (gateway-abi 6.2).

use alloy::sol;
use alloy::sol_types::SolEvent;

use super::{DECODER, KeyEventShape, read_parameters};
use crate::domain::{KeyOperation, prss_init_id};

sol! {
    event PrepKeygenRequest(uint256 prepKeygenId, uint256 epochId, uint8 paramsType);
    event KeygenRequest(uint256 prepKeygenId, uint256 keyId);
    event CrsgenRequest(uint256 crsId, uint256 maxBitLength, uint8 paramsType);
    /// From v0.9.7 on, like the next one.
    event PRSSInit();
    event KeyReshareSameSet(
        uint256 prepKeygenId, uint256 keyId, uint256 keyReshareId, uint8 paramsType
    );
}

pub(super) const RANDOMNESS: KeyEventShape = KeyEventShape {
    topic0: PRSSInit::SIGNATURE_HASH,
    event: PRSSInit::SIGNATURE,
    topics: 1,
    read: |_, _| Ok((prss_init_id(), KeyOperation::PrssInit)),
};

pub(super) const RESHARING: KeyEventShape = KeyEventShape {
    topic0: KeyReshareSameSet::SIGNATURE_HASH,
    event: KeyReshareSameSet::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (preparation, key, id, parameters) =
            KeyReshareSameSet::abi_decode_data_with_config(data, DECODER)?;
        let parameters = read_parameters(parameters)?;
        Ok((id, KeyOperation::KeyReshare { preparation, key, parameters }))
    },
};

pub(super) const PREPARATION_REQUEST: KeyEventShape = KeyEventShape {
    topic0: PrepKeygenRequest::SIGNATURE_HASH,
    event: PrepKeygenRequest::SIGNATURE,
    topics: 1,
    read: |_, data| {
        // The epoch is always 0 in these generations.
        let (id, _, parameters) = PrepKeygenRequest::abi_decode_data_with_config(data, DECODER)?;
        let parameters = read_parameters(parameters)?;
        Ok((id, KeyOperation::PrepKeygen { parameters, extra_data: None }))
    },
};

pub(super) const KEY_REQUEST: KeyEventShape = KeyEventShape {
    topic0: KeygenRequest::SIGNATURE_HASH,
    event: KeygenRequest::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (preparation, id) = KeygenRequest::abi_decode_data_with_config(data, DECODER)?;
        Ok((id, KeyOperation::Keygen { preparation, extra_data: None }))
    },
};

pub(super) const CRS_REQUEST: KeyEventShape = KeyEventShape {
    topic0: CrsgenRequest::SIGNATURE_HASH,
    event: CrsgenRequest::SIGNATURE,
    topics: 1,
    read: |_, data| {
        let (id, max_bits, parameters) = CrsgenRequest::abi_decode_data_with_config(data, DECODER)?;
        let parameters = read_parameters(parameters)?;
        Ok((id, KeyOperation::Crsgen { max_bits, parameters, extra_data: None }))
    },
};
