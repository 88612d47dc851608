//! Key operations: what is sent, and the digests that come back (protocol: kms-core-grpc 3.4 and 4).
//!
//! For contracts up to G12 neither context nor epoch is named, and no kind of key: a Core of their time makes
//! uncompressed keys then, as at the other nodes. One that does not is not asked. From G13 on `extraData` is
//! sent as it is, what it names goes beside it, and the kind of key is always said.

use alloy::primitives::U256;

use super::{
    reply::ReplyError,
    request::{
        ExtraDataMeaning, NamedContext, RequestError, domain_message, max_num_bits, request_id,
    },
};
use crate::{
    domain::{
        Bytes, COMPRESSED_KEY_SET, KeyOperation, KeyParameters, KeyRepresentation, SigningDomain,
    },
    flow::kms_core::proto::kms::v1,
};

/// What is the same in all requests of a key operation.
struct Common {
    domain: Option<v1::Eip712DomainMsg>,
    extra_data: bytes::Bytes,
    context_id: Option<v1::RequestId>,
    epoch_id: Option<v1::RequestId>,
}

fn common(domain: &SigningDomain, extra_data: Option<&Bytes>) -> Common {
    let meaning = ExtraDataMeaning::of_key_operation(extra_data);
    let extra_data = extra_data.map(|bytes| bytes.0.clone()).unwrap_or_default();
    let NamedContext { context, epoch } = meaning.named_context(&extra_data);
    Common {
        domain: Some(domain_message(domain)),
        context_id: context.map(request_id),
        epoch_id: epoch.map(request_id),
        extra_data,
    }
}

/// The kind of key, for Cores from v0.13.20 on. `None` is for earlier ones, whose numbers are others.
fn keyset_config(representation: Option<KeyRepresentation>) -> Option<v1::KeySetConfig> {
    let compressed_key_config = match representation? {
        KeyRepresentation::Compressed => 0,
        KeyRepresentation::Uncompressed => 1,
    };
    let standard = v1::StandardKeySetConfig {
        compute_key_type: v1::ComputeKeyType::Cpu.into(),
        secret_key_config: v1::KeyGenSecretKeyConfig::GenerateAll.into(),
        compressed_key_config,
    };
    Some(v1::KeySetConfig {
        keyset_type: v1::KeySetType::Standard.into(),
        standard_keyset_config: Some(standard),
    })
}

pub(super) fn parameters_message(parameters: KeyParameters) -> v1::FheParameter {
    match parameters {
        KeyParameters::Default => v1::FheParameter::Default,
        KeyParameters::Test => v1::FheParameter::Test,
    }
}

/// `representation`: as in [`keygen_request`], which has to say the same.
#[must_use]
pub fn preparation_request(
    (id, parameters): (U256, KeyParameters),
    domain: &SigningDomain,
    extra_data: Option<&Bytes>,
    representation: Option<KeyRepresentation>,
) -> v1::KeyGenPreprocRequest {
    let Common { domain, extra_data, context_id, epoch_id } = common(domain, extra_data);
    v1::KeyGenPreprocRequest {
        request_id: Some(request_id(id)),
        params: parameters_message(parameters).into(),
        keyset_config: keyset_config(representation),
        domain,
        context_id,
        epoch_id,
        extra_data,
    }
}

/// The parameters are those of the preparation. `representation`: `None` for contracts up to G12.
#[must_use]
pub fn keygen_request(
    (id, preparation): (U256, U256),
    domain: &SigningDomain,
    extra_data: Option<&Bytes>,
    representation: Option<KeyRepresentation>,
) -> v1::KeyGenRequest {
    let Common { domain, extra_data, context_id, epoch_id } = common(domain, extra_data);
    v1::KeyGenRequest {
        request_id: Some(request_id(id)),
        params: None,
        preproc_id: Some(request_id(preparation)),
        domain,
        keyset_config: keyset_config(representation),
        context_id,
        epoch_id,
        extra_data,
    }
}

pub fn crsgen_request(
    (id, parameters): (U256, KeyParameters),
    max_bits: U256,
    domain: &SigningDomain,
    extra_data: Option<&Bytes>,
) -> Result<v1::CrsGenRequest, RequestError> {
    let Common { domain, extra_data, context_id, epoch_id } = common(domain, extra_data);
    Ok(v1::CrsGenRequest {
        request_id: Some(request_id(id)),
        params: parameters_message(parameters).into(),
        max_num_bits: Some(max_num_bits(max_bits)?),
        domain,
        context_id,
        epoch_id,
        extra_data,
    })
}

/// For the default context of the Core: the contracts of that time name none.
#[must_use]
pub fn randomness_request(id: U256) -> v1::InitRequest {
    v1::InitRequest { request_id: Some(request_id(id)), context_id: None }
}

/// Neither context nor epoch is named, nor the digests of the key, as by the other nodes.
#[must_use]
pub fn resharing_request(
    (id, preparation, key): (U256, U256, U256),
    parameters: KeyParameters,
    domain: &SigningDomain,
) -> v1::InitiateResharingRequest {
    v1::InitiateResharingRequest {
        request_id: Some(request_id(id)),
        key_id: Some(request_id(key)),
        key_parameters: parameters_message(parameters).into(),
        domain: Some(domain_message(domain)),
        preproc_id: Some(request_id(preparation)),
        ..v1::InitiateResharingRequest::default()
    }
}

/// No id, so that a Core that has the call refuses it.
#[must_use]
pub fn malformed_id() -> v1::RequestId {
    v1::RequestId { request_id: "kms-connector asks for the version".to_owned() }
}

/// The digests by the contract's `KeyType`, in the order in which the Core signed them. Contracts up to G12 know
/// no compressed keys.
pub fn key_digests(
    operation: &KeyOperation,
    digests: Vec<v1::KeyDigest>,
) -> Result<Vec<(u8, Bytes)>, ReplyError> {
    if digests.is_empty() {
        return Err(ReplyError::NoDigest);
    }
    let is_known = |number: &u8| *number != COMPRESSED_KEY_SET || operation.extra_data().is_some();
    let typed =
        digests.into_iter().map(|v1::KeyDigest { key_type, digest }| {
            match key_type_number(&key_type).filter(is_known) {
                Some(number) => Ok((number, Bytes(digest))),
                None => Err(ReplyError::KeyType(key_type.into())),
            }
        });
    typed.collect()
}

/// The Core's names of the contract's `KeyType`.
const KEY_TYPES: [(&str, u8); 3] =
    [("ServerKey", 0), ("PublicKey", 1), ("CompressedXofKeySet", COMPRESSED_KEY_SET)];

pub(super) fn key_type_number(name: &str) -> Option<u8> {
    KEY_TYPES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

pub(super) fn key_type_name(number: u8) -> Option<&'static str> {
    KEY_TYPES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
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
        let prep = preparation_request((preparation, KeyParameters::Test), &domain(), None, None);
        assert_eq!(prep.request_id, Some(request_id(preparation)));
        assert_eq!(prep.params, i32::from(KeyParameters::Test.number()));
        assert_eq!(prep.domain.unwrap().name, "KMSGeneration");
        assert!(prep.keyset_config.is_none() && prep.context_id.is_none());
        let key = keygen_request((id, preparation), &domain(), None, None);
        assert_eq!(key.preproc_id, Some(request_id(preparation)));
        assert!(key.params.is_none() && key.keyset_config.is_none() && key.extra_data.is_empty());
        let max_bits = U256::from(u32::MAX);
        let crs = crsgen_request((id, KeyParameters::Default), max_bits, &domain(), None).unwrap();
        assert_eq!((crs.max_num_bits, crs.params), (Some(u32::MAX), 0));
        assert!(crs.context_id.is_none() && crs.extra_data.is_empty());
    }

    #[test]
    fn randomness_and_resharing_name_no_context() {
        let init = randomness_request(U256::ONE);
        assert_eq!((init.request_id, init.context_id), (Some(request_id(U256::ONE)), None));
        let ids = (U256::from(0x0602), U256::from(0x0301), U256::from(0x0401));
        let reshare = resharing_request(ids, KeyParameters::Test, &domain());
        assert_eq!(
            [reshare.request_id, reshare.preproc_id, reshare.key_id],
            [ids.0, ids.1, ids.2].map(|id| Some(request_id(id)))
        );
        assert_eq!((reshare.context_id, reshare.epoch_id, reshare.key_parameters), (None, None, 1));
        assert_eq!(reshare.domain.unwrap().name, "KMSGeneration");
    }

    fn named(version: u8, words: &[u64]) -> Bytes {
        let words = words.iter().flat_map(|word| U256::from(*word).to_be_bytes::<32>());
        std::iter::once(version).chain(words).collect()
    }

    /// kms-core-grpc 4: extraData unchanged, what it names beside it; 3.6: the numbers from v0.13.20 on.
    #[test]
    fn from_g13_on_extra_data_its_context_and_the_kind_of_key_are_sent() {
        use KeyRepresentation::{Compressed, Uncompressed};
        let (id, preparation) = (U256::from(0x0401), U256::from(0x0301));
        let word = |number: u64| Some(request_id(U256::from(number)));
        for (extra_data, context, epoch) in
            [(named(1, &[7]), word(7), None), (named(2, &[7, 8]), word(7), word(8))]
        {
            let some = Some(&extra_data);
            for (representation, number) in [(Compressed, 0), (Uncompressed, 1)] {
                let prep = preparation_request(
                    (preparation, KeyParameters::Default),
                    &domain(),
                    some,
                    Some(representation),
                );
                let key = keygen_request((id, preparation), &domain(), some, Some(representation));
                assert_eq!(prep.keyset_config, key.keyset_config, "the same in both");
                let config = prep.keyset_config.unwrap();
                let standard = config.standard_keyset_config.unwrap();
                assert_eq!(
                    [
                        config.keyset_type,
                        standard.compute_key_type,
                        standard.secret_key_config,
                        standard.compressed_key_config
                    ],
                    [0, 0, 0, number]
                );
                assert_eq!((prep.context_id, prep.epoch_id), (context.clone(), epoch.clone()));
                assert_eq!((key.context_id, key.epoch_id), (context.clone(), epoch.clone()));
                assert_eq!(
                    [prep.extra_data, key.extra_data],
                    [(); 2].map(|()| extra_data.0.clone())
                );
            }
            let of = (id, KeyParameters::Test);
            let crs = crsgen_request(of, U256::from(2048), &domain(), some).unwrap();
            assert_eq!((crs.context_id, crs.epoch_id), (context, epoch));
            assert_eq!(crs.extra_data, extra_data.0);
        }
    }

    /// The upstream connector cuts it to its low 32 bits.
    #[test]
    fn a_crs_that_no_core_can_make_is_refused_by_name() {
        let max_bits = U256::from(u32::MAX) + U256::from(1);
        let of = (U256::ONE, KeyParameters::Test);
        let refused = crsgen_request(of, max_bits, &domain(), None);
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
        let key = |extra_data| KeyOperation::Keygen { preparation: U256::ONE, extra_data };
        let (old, new) = (key(None), key(Some(Bytes::new())));
        let read = |of: &KeyOperation, types: [&str; 2]| {
            let read = key_digests(of, types.map(digest).to_vec());
            read.map(|digests| digests.into_iter().map(|(kind, _)| kind).collect::<Vec<_>>())
        };
        assert_eq!(read(&old, ["ServerKey", "PublicKey"]), Ok(vec![0, 1]));
        assert_eq!(read(&new, ["ServerKey", "PublicKey"]), Ok(vec![0, 1]));
        let compressed = ["PublicKey", "CompressedXofKeySet"];
        assert_eq!(read(&new, compressed), Ok(vec![1, 3]));
        let refused = read(&old, compressed).unwrap_err();
        assert!(refused.to_string().contains("CompressedXofKeySet"), "{refused}");
        read(&new, ["PublicKey", "SomethingElse"]).unwrap_err();
        assert_eq!(key_digests(&new, Vec::new()), Err(ReplyError::NoDigest));
    }
}
