//! KMS contexts and epochs: what is sent, and the result of an epoch (protocol: kms-core-grpc 3.5 and 4).

use alloy::primitives::U256;

use super::{
    keys::{key_type_name, key_type_number, parameters_message},
    reply::{ReplyError, is_id},
    request::{RequestError, domain_message, mpc_threshold, request_id},
};
use crate::{
    domain::{
        Bytes, CompletedCrs, CompletedKey, EpochMaterial, EpochResult, KmsContext, KmsContextNode,
        PcrValues, SharedCrs, SharedKey, SigningDomain, UntrustedText,
    },
    flow::kms_core::proto::kms::v1,
};

pub fn context_request(
    id: U256,
    context: &KmsContext,
) -> Result<v1::NewMpcContextRequest, RequestError> {
    let pcr = |PcrValues { pcr0, pcr1, pcr2 }: &PcrValues| v1::PcrValues {
        pcr0: pcr0.0.clone(),
        pcr1: pcr1.0.clone(),
        pcr2: pcr2.0.clone(),
    };
    Ok(v1::NewMpcContextRequest {
        new_context: Some(v1::MpcContext {
            mpc_nodes: context.nodes.iter().map(node_message).collect(),
            context_id: Some(request_id(id)),
            software_version: context.software_version.clone(),
            threshold: mpc_threshold(context)?,
            pcr_values: context.pcr_values.iter().map(pcr).collect(),
        }),
    })
}

fn node_message(node: &KmsContextNode) -> v1::MpcNode {
    v1::MpcNode {
        mpc_identity: node.identity.clone(),
        party_id: node.party_id,
        signer_address: Some(node.signer.to_vec().into()),
        external_url: node.external_url.clone(),
        ca_cert: Some(node.ca_cert.0.clone()),
        public_storage_url: node.storage_url.clone(),
        public_storage_prefix: Some(node.storage_prefix.clone()),
        extra_signer_addresses: vec![node.tx_sender.to_vec().into()],
    }
}

/// A context and an epoch in it.
pub type EpochId = (U256, U256);

/// The keys are named in the order of the material: all nodes have to do the same.
pub fn epoch_request(
    (context, epoch): EpochId,
    (previous_context, previous_epoch): EpochId,
    material: &EpochMaterial,
    domain: &SigningDomain,
    extra_data: &Bytes,
) -> Result<v1::NewMpcEpochRequest, RequestError> {
    let crs = |CompletedCrs { id, digest }: &CompletedCrs| v1::CrsInfo {
        crs_id: Some(request_id(*id)),
        crs_digest: digest.0.clone(),
    };
    let keys: Result<Vec<_>, _> = material.keys.iter().map(key_message).collect();
    Ok(v1::NewMpcEpochRequest {
        context_id: Some(request_id(context)),
        epoch_id: Some(request_id(epoch)),
        previous_epoch: Some(v1::PreviousEpochInfo {
            context_id: Some(request_id(previous_context)),
            epoch_id: Some(request_id(previous_epoch)),
            keys_info: keys?,
            crs_info: material.crs_list.iter().map(crs).collect(),
        }),
        domain: Some(domain_message(domain)),
        extra_data: extra_data.0.clone(),
    })
}

fn key_message(key: &CompletedKey) -> Result<v1::KeyInfo, RequestError> {
    let CompletedKey { id, preparation, parameters, digests } = key;
    let digest = |(number, digest): &(u8, Bytes)| {
        let name = key_type_name(*number).ok_or(RequestError::KeyType { number: *number })?;
        Ok(v1::KeyDigest { key_type: name.to_owned(), digest: digest.0.clone() })
    };
    Ok(v1::KeyInfo {
        key_id: Some(request_id(*id)),
        preproc_id: Some(request_id(*preparation)),
        key_parameters: parameters_message(*parameters).into(),
        key_digests: digests.iter().map(digest).collect::<Result<_, _>>()?,
    })
}

/// All epochs of the context have to be named.
#[must_use]
pub fn context_end_request(context: U256, epochs: &[U256]) -> v1::DestroyMpcContextRequest {
    v1::DestroyMpcContextRequest {
        context_id: Some(request_id(context)),
        epoch_ids: epochs.iter().copied().map(request_id).collect(),
    }
}

#[must_use]
pub fn epoch_end_request(epoch: U256) -> v1::DestroyMpcEpochRequest {
    v1::DestroyMpcEpochRequest { epoch_id: Some(request_id(epoch)) }
}

/// The result of an epoch, its signatures unchecked.
pub fn read_epoch_result(reply: v1::EpochResultResponse) -> Result<EpochResult, ReplyError> {
    let v1::EpochResultResponse { reshare_responses, crs_responses } = reply;
    let keys = reshare_responses.into_iter().map(|key| {
        if key.key_digests.is_empty() {
            return Err(ReplyError::NoDigest);
        }
        let digests = key.key_digests.into_iter().map(|v1::KeyDigest { key_type, digest }| {
            let number = key_type_number(&key_type);
            let number = number.ok_or_else(|| ReplyError::KeyType(key_type.into()))?;
            Ok((number, Bytes(digest)))
        });
        Ok(SharedKey {
            id: read_id(key.request_id)?,
            preparation: read_id(key.preprocessing_id)?,
            digests: digests.collect::<Result<_, _>>()?,
            signature: Bytes(key.external_signature),
        })
    });
    let crs_list = crs_responses.into_iter().map(|crs| {
        if crs.crs_digest.is_empty() {
            return Err(ReplyError::NoDigest);
        }
        Ok(SharedCrs {
            id: read_id(crs.request_id)?,
            max_bits: U256::from(crs.max_num_bits),
            digest: Bytes(crs.crs_digest),
            signature: Bytes(crs.external_signature),
        })
    });
    Ok(EpochResult {
        keys: keys.collect::<Result<_, _>>()?,
        crs_list: crs_list.collect::<Result<_, _>>()?,
    })
}

/// An id that the Core wrote.
fn read_id(said: Option<v1::RequestId>) -> Result<U256, ReplyError> {
    let said = said.unwrap_or_default();
    let id = U256::from_str_radix(said.request_id.trim_start_matches("0x"), 16).ok();
    let id = id.filter(|id| is_id(&said, *id));
    id.ok_or_else(|| ReplyError::OtherRequest(UntrustedText::from(said.request_id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Address, KeyParameters};

    fn id(number: u64) -> U256 {
        U256::from(number)
    }

    fn context() -> KmsContext {
        let node = KmsContextNode {
            tx_sender: Address::repeat_byte(1),
            signer: Address::repeat_byte(2),
            external_url: "http://node".to_owned(),
            storage_url: "s3://bucket".to_owned(),
            party_id: 4,
            identity: "party-4".to_owned(),
            ca_cert: Bytes::from_static(b"cert"),
            storage_prefix: "PUB-p4".to_owned(),
        };
        let pcr = PcrValues {
            pcr0: Bytes::from_static(&[1]),
            pcr1: Bytes::from_static(&[2]),
            pcr2: Bytes::from_static(&[3]),
        };
        KmsContext {
            nodes: vec![node],
            mpc_threshold: id(1),
            software_version: "v0.14".to_owned(),
            pcr_values: vec![pcr],
        }
    }

    /// The table of kms-core-grpc 4.
    #[test]
    fn a_context_is_told_as_the_chain_defines_it() {
        let told = context_request(id(7), &context()).unwrap().new_context.unwrap();
        assert_eq!(told.context_id, Some(request_id(id(7))));
        assert_eq!((told.threshold, told.software_version.as_str()), (1, "v0.14"));
        assert_eq!(told.pcr_values[0].pcr2.as_ref(), [3]);
        let [node] = &told.mpc_nodes[..] else { panic!() };
        assert_eq!((node.party_id, node.mpc_identity.as_str()), (4, "party-4"));
        assert_eq!(node.signer_address.as_deref(), Some(&[2; 20][..]));
        assert_eq!(node.extra_signer_addresses, [bytes::Bytes::from_static(&[1; 20])]);
        assert_eq!(node.external_url, "http://node");
        assert_eq!(node.public_storage_url, "s3://bucket");
        assert_eq!(node.public_storage_prefix.as_deref(), Some("PUB-p4"));
        assert_eq!(node.ca_cert.as_deref(), Some(&b"cert"[..]));
        let too_many = KmsContext { mpc_threshold: U256::from(u64::MAX), ..context() };
        let refused = context_request(id(7), &too_many).unwrap_err();
        assert!(refused.to_string().contains("18446744073709551615"), "{refused}");
    }

    #[test]
    fn an_epoch_names_all_keys_in_the_order_of_the_chain() {
        let key = |number: u64, kinds: &[u8]| CompletedKey {
            id: id(number),
            preparation: id(number + 10),
            parameters: KeyParameters::Test,
            digests: kinds.iter().map(|kind| (*kind, Bytes::from_static(&[9]))).collect(),
        };
        let crs = CompletedCrs { id: id(5), digest: Bytes::from_static(&[6]) };
        let material =
            EpochMaterial { keys: vec![key(2, &[0, 1]), key(1, &[1, 3])], crs_list: vec![crs] };
        let domain = SigningDomain {
            name: "ProtocolConfig".to_owned(),
            version: "1".to_owned(),
            chain_id: 5,
            verifying_contract: Address::repeat_byte(7),
        };
        let extra_data = Bytes::from_static(&[2, 7]);
        let ask = |material: &EpochMaterial| {
            epoch_request((id(7), id(8)), (id(17), id(18)), material, &domain, &extra_data)
        };
        let asked = ask(&material).unwrap();
        assert_eq!(asked.epoch_id, Some(request_id(id(8))));
        assert_eq!(asked.extra_data, extra_data.0);
        assert_eq!(asked.domain.unwrap().name, "ProtocolConfig");
        let previous = asked.previous_epoch.unwrap();
        assert_eq!(previous.context_id, Some(request_id(id(17))));
        let keys: Vec<_> = previous.keys_info.iter().map(|key| key.key_id.clone()).collect();
        assert_eq!(keys, [Some(request_id(id(2))), Some(request_id(id(1)))]);
        assert_eq!(previous.keys_info[0].preproc_id, Some(request_id(id(12))));
        assert_eq!(previous.keys_info[0].key_parameters, 1);
        let named: Vec<_> = previous
            .keys_info
            .iter()
            .flat_map(|key| &key.key_digests)
            .map(|d| &d.key_type[..])
            .collect();
        assert_eq!(named, ["ServerKey", "PublicKey", "PublicKey", "CompressedXofKeySet"]);
        assert_eq!(previous.crs_info[0].crs_digest.as_ref(), [6]);
        let odd = EpochMaterial { keys: vec![key(1, &[2])], crs_list: Vec::new() };
        ask(&odd).unwrap_err();
    }

    #[test]
    fn a_result_is_read_whole_or_not_at_all() {
        let digest = |name: &str| v1::KeyDigest {
            key_type: name.to_owned(),
            digest: bytes::Bytes::from_static(&[1]),
        };
        let key = v1::KeyGenResult {
            request_id: Some(request_id(id(4))),
            preprocessing_id: Some(request_id(id(3))),
            key_digests: vec![digest("PublicKey"), digest("CompressedXofKeySet")],
            external_signature: bytes::Bytes::from_static(&[8]),
        };
        let crs = v1::CrsGenResult {
            request_id: Some(request_id(id(5))),
            crs_digest: bytes::Bytes::from_static(&[2]),
            max_num_bits: 2048,
            external_signature: bytes::Bytes::from_static(&[9]),
        };
        let whole =
            v1::EpochResultResponse { reshare_responses: vec![key], crs_responses: vec![crs] };
        let read = read_epoch_result(whole.clone()).unwrap();
        assert_eq!((read.keys[0].id, read.keys[0].preparation), (id(4), id(3)));
        assert_eq!(read.keys[0].digests.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((read.crs_list[0].id, read.crs_list[0].max_bits), (id(5), id(2048)));
        let changes: [fn(&mut v1::EpochResultResponse); 6] = [
            |one| one.reshare_responses[0].request_id = None,
            |one| one.reshare_responses[0].preprocessing_id.as_mut().unwrap().request_id.clear(),
            |one| one.reshare_responses[0].key_digests.clear(),
            |one| one.reshare_responses[0].key_digests[0].key_type = "Other".to_owned(),
            |one| one.crs_responses[0].crs_digest.clear(),
            |one| one.crs_responses[0].request_id.as_mut().unwrap().request_id = "x".to_owned(),
        ];
        for change in changes {
            let mut cut = whole.clone();
            change(&mut cut);
            read_epoch_result(cut).unwrap_err();
        }
        assert_eq!(
            read_epoch_result(v1::EpochResultResponse::default()),
            Ok(EpochResult::default())
        );
    }
}
