//! Key operations: what is sent, and the digests that come back (protocol: kms-core-grpc 3.4 and 4).
//!
//! For contracts up to G12 neither context nor epoch is named, and no kind of key: a Core of their time makes
//! uncompressed keys then, as at the other nodes. One that does not is not asked.

use alloy::primitives::U256;

use super::{
    reply::ReplyError,
    request::{RequestError, domain_message, max_num_bits, request_id},
};
use crate::{
    domain::{Bytes, KeyParameters, SigningDomain},
    flow::kms_core::proto::kms::v1,
};

fn parameters_message(parameters: KeyParameters) -> v1::FheParameter {
    match parameters {
        KeyParameters::Default => v1::FheParameter::Default,
        KeyParameters::Test => v1::FheParameter::Test,
    }
}

#[must_use]
pub fn preparation_request(
    id: U256,
    parameters: KeyParameters,
    domain: &SigningDomain,
) -> v1::KeyGenPreprocRequest {
    v1::KeyGenPreprocRequest {
        request_id: Some(request_id(id)),
        params: parameters_message(parameters).into(),
        domain: Some(domain_message(domain)),
        ..v1::KeyGenPreprocRequest::default()
    }
}

/// The parameters are those of the preparation.
#[must_use]
pub fn keygen_request(id: U256, preparation: U256, domain: &SigningDomain) -> v1::KeyGenRequest {
    v1::KeyGenRequest {
        request_id: Some(request_id(id)),
        preproc_id: Some(request_id(preparation)),
        domain: Some(domain_message(domain)),
        ..v1::KeyGenRequest::default()
    }
}

pub fn crsgen_request(
    id: U256,
    max_bits: U256,
    parameters: KeyParameters,
    domain: &SigningDomain,
) -> Result<v1::CrsGenRequest, RequestError> {
    Ok(v1::CrsGenRequest {
        request_id: Some(request_id(id)),
        params: parameters_message(parameters).into(),
        max_num_bits: Some(max_num_bits(max_bits)?),
        domain: Some(domain_message(domain)),
        ..v1::CrsGenRequest::default()
    })
}

/// No id, so that a Core that has the call refuses it.
#[must_use]
pub fn malformed_id() -> v1::RequestId {
    v1::RequestId { request_id: "kms-connector asks for the version".to_owned() }
}

/// The digests by the contract's `KeyType`, in the order in which the Core signed them.
pub fn key_digests(digests: Vec<v1::KeyDigest>) -> Result<Vec<(u8, Bytes)>, ReplyError> {
    if digests.is_empty() {
        return Err(ReplyError::NoDigest);
    }
    let typed = digests.into_iter().map(|v1::KeyDigest { key_type, digest }| {
        let number = match key_type.as_str() {
            "ServerKey" => 0,
            "PublicKey" => 1,
            _ => return Err(ReplyError::KeyType(key_type.into())),
        };
        Ok((number, Bytes(digest)))
    });
    typed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Address, Remedy};

    fn domain() -> SigningDomain {
        SigningDomain {
            name: "KMSGeneration".to_owned(),
            version: "1".to_owned(),
            chain_id: 5,
            verifying_contract: Address::repeat_byte(0xab),
        }
    }

    #[test]
    fn ids_parameters_and_domain_are_sent_and_nothing_else() {
        let (id, preparation) = (U256::from(0x0401), U256::from(0x0301));
        let prep = preparation_request(preparation, KeyParameters::Test, &domain());
        assert_eq!(prep.request_id, Some(request_id(preparation)));
        assert_eq!(prep.params, i32::from(KeyParameters::Test.number()));
        assert_eq!(prep.domain.unwrap().name, "KMSGeneration");
        assert!(prep.keyset_config.is_none() && prep.context_id.is_none());
        let key = keygen_request(id, preparation, &domain());
        assert_eq!(key.preproc_id, Some(request_id(preparation)));
        assert!(key.params.is_none() && key.keyset_config.is_none() && key.extra_data.is_empty());
        let max_bits = U256::from(u32::MAX);
        let crs = crsgen_request(id, max_bits, KeyParameters::Default, &domain()).unwrap();
        assert_eq!((crs.max_num_bits, crs.params), (Some(u32::MAX), 0));
    }

    /// The upstream connector cuts it to its low 32 bits.
    #[test]
    fn a_crs_that_no_core_can_make_is_refused_by_name() {
        let max_bits = U256::from(u32::MAX) + U256::from(1);
        let refused = crsgen_request(U256::ONE, max_bits, KeyParameters::Test, &domain());
        let refused = refused.unwrap_err();
        assert!(matches!(refused.remedy(), Remedy::Refuse(_)), "{refused}");
        assert!(refused.to_string().contains("4294967296"), "{refused}");
    }

    #[test]
    fn only_key_types_of_these_contracts_are_known() {
        let digest = |key_type: &str| v1::KeyDigest {
            key_type: key_type.to_owned(),
            digest: bytes::Bytes::from_static(&[1]),
        };
        let read = |types: [&str; 2]| key_digests(types.map(digest).to_vec());
        let types = read(["ServerKey", "PublicKey"]).unwrap().into_iter().map(|(kind, _)| kind);
        assert_eq!(types.collect::<Vec<_>>(), [0, 1]);
        let refused = read(["PublicKey", "CompressedXofKeySet"]).unwrap_err();
        assert!(refused.to_string().contains("CompressedXofKeySet"), "{refused}");
        assert_eq!(key_digests(Vec::new()), Err(ReplyError::NoDigest));
    }
}
