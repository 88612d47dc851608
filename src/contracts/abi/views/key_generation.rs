//! Views of the `KMSGeneration` contract on Ethereum, from G14 on: what was made (gateway-abi 6.3).

use alloy::sol;
use alloy::sol_types::{self, SolCall};

use super::View;
use crate::contracts::abi::DECODER;
use crate::domain::{Bytes, CompletedKey, KeyParameters, U256};

sol! {
    struct KeyDigest {
        uint8 keyType;
        bytes digest;
    }
    struct KeyInfo {
        uint256 prepKeygenId;
        uint256 keyId;
        uint8 paramsType;
        KeyDigest[] keyDigests;
    }
    function getCompletedKeyIds() external view returns (uint256[] ids);
    function getCompletedCrsIds() external view returns (uint256[] ids);
    function getKeyInfo(uint256 keyId) external view returns (KeyInfo info);
    function getCrsMaterials(uint256 crsId) external view returns (string[] urls, bytes digest);
}

/// `getCompletedKeyIds`: in the order in which all nodes share them anew.
#[must_use]
pub fn completed_keys() -> View<Vec<U256>> {
    View::of(&getCompletedKeyIdsCall {}, |returned| {
        Ok(getCompletedKeyIdsCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getCompletedCrsIds`: likewise.
#[must_use]
pub fn completed_crs_list() -> View<Vec<U256>> {
    View::of(&getCompletedCrsIdsCall {}, |returned| {
        Ok(getCompletedCrsIdsCall::abi_decode_returns_with_config(returned, DECODER)?)
    })
}

/// `getKeyInfo`.
#[must_use]
pub fn key_info(key: U256) -> View<CompletedKey> {
    View::of(&getKeyInfoCall { keyId: key }, |returned| {
        let info = getKeyInfoCall::abi_decode_returns_with_config(returned, DECODER)?;
        let parameters = KeyParameters::from_number(info.paramsType);
        Ok(CompletedKey {
            id: info.keyId,
            preparation: info.prepKeygenId,
            parameters: parameters
                .ok_or_else(|| sol_types::Error::custom("no such set of parameters"))?,
            digests: info.keyDigests.into_iter().map(|one| (one.keyType, one.digest)).collect(),
        })
    })
}

/// The digest in `getCrsMaterials`.
#[must_use]
pub fn crs_digest(crs: U256) -> View<Bytes> {
    View::of(&getCrsMaterialsCall { crsId: crs }, |returned| {
        Ok(getCrsMaterialsCall::abi_decode_returns_with_config(returned, DECODER)?.digest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calldata_begins_as_in_the_tables() {
        let id = U256::from(1);
        for (calldata, selector) in [
            (completed_keys().calldata(), "e410117e"),
            (completed_crs_list().calldata(), "dabd732f"),
            (key_info(id).calldata(), "6294f462"),
            (crs_digest(id).calldata(), "c55b8724"),
        ] {
            assert_eq!(alloy::hex::encode(&calldata[..4]), selector);
        }
    }

    #[test]
    fn a_key_is_read_with_its_digests_in_their_order() {
        let digest = |key_type, byte: u8| KeyDigest {
            keyType: key_type,
            digest: Bytes::copy_from_slice(&[byte]),
        };
        let info = |parameters| KeyInfo {
            prepKeygenId: U256::from(3),
            keyId: U256::from(4),
            paramsType: parameters,
            keyDigests: vec![digest(1, 7), digest(0, 8)],
        };
        let read = |info: KeyInfo| {
            let returned = getKeyInfoCall::abi_encode_returns(&info);
            key_info(U256::from(4)).decode(&returned)
        };
        let key = read(info(1)).unwrap();
        assert_eq!((key.id, key.preparation), (U256::from(4), U256::from(3)));
        assert_eq!(key.digests.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 0]);
        read(info(2)).unwrap_err();
    }
}
