//! The answers to key operations. Up to G12 no `extraData` is signed, from G13 on it is: a Core that does the
//! other one is of another time than the contract, and is named.

use bytes::Bytes;

use super::{
    AnswerError, SignatureError, WrongSigner, WrongSignerCause,
    epochs::{epoch_answer, signer_of_epoch},
    parse_signature, recover,
};
use crate::{
    contracts::abi,
    domain::{
        Address, B256, KeyOperation, Request, SignedResult, SigningDomain, U256, UntrustedText,
    },
    flow::kms_core::{
        eip712::{crs_digest, key_digest, preparation_digest},
        proto::kms::v1,
        wire::{self, ReplyError},
    },
};

/// The Core's result of a key operation.
#[derive(Clone, Debug)]
pub enum KeyReply {
    Preparation(v1::KeyGenPreprocResult),
    Key(v1::KeyGenResult),
    Crs(v1::CrsGenResult),
    Epoch(v1::EpochResultResponse),
}

/// Checks the reply to a key operation and returns its answer. `registered`: the signers registered for this
/// node. Without any, the signature must only recover to some address.
pub fn key_answer(
    domain: &SigningDomain,
    (id, operation): (U256, &KeyOperation),
    reply: KeyReply,
    registered: &[Address],
) -> Result<SignedResult, AnswerError> {
    let reply = match (operation, reply) {
        (KeyOperation::NewKmsEpoch { extra_data, .. }, KeyReply::Epoch(reply)) => {
            return epoch_answer(domain, extra_data, reply, registered);
        }
        (_, reply) => reply,
    };
    let (payload, signature) = read(id, operation, reply).map_err(AnswerError::invalid)?;
    let signer = |extra_data: Option<&[u8]>| {
        let parsed = parse_signature(&signature)?;
        let digest = digest(domain, (id, operation), &payload, extra_data);
        recover(&parsed, digest.ok_or(SignatureError::Unrecoverable)?)
    };
    let extra_data = operation.extra_data().map(|bytes| &bytes[..]);
    let said = signer(extra_data).map_err(AnswerError::invalid)?;
    if let Some(expected) = registered.first()
        && !registered.contains(&said)
    {
        let (other, of_other_age) = match extra_data {
            None => (Some(&[][..]), WrongSignerCause::CoreTooNew),
            Some(_) => (None, WrongSignerCause::CoreTooOld),
        };
        let is_of_other_age = signer(other).is_ok_and(|signer| registered.contains(&signer));
        let cause = if is_of_other_age { of_other_age } else { WrongSignerCause::Unknown };
        return Err(WrongSigner { expected: *expected, signer: said, cause }.into());
    }
    Ok(SignedResult { payload, signature: signature.into(), ..SignedResult::default() })
}

/// The signer of this answer. `None`: of nothing that it can be.
pub fn signer_of_key(
    domain: &SigningDomain,
    request: &Request,
    operation: &KeyOperation,
    answer: &SignedResult,
) -> Result<Address, SignatureError> {
    if let KeyOperation::NewKmsEpoch { extra_data, .. } = operation {
        return signer_of_epoch(domain, extra_data, &answer.payload);
    }
    let extra_data = operation.extra_data().map(|bytes| &bytes[..]);
    let digest = digest(domain, (request.key.id, operation), &answer.payload, extra_data);
    let signature = parse_signature(&answer.signature)?;
    recover(&signature, digest.ok_or(SignatureError::Unrecoverable)?)
}

/// Payload and signature of a reply that belongs to the request.
fn read(
    id: U256,
    operation: &KeyOperation,
    reply: KeyReply,
) -> Result<(crate::domain::Bytes, Bytes), ReplyError> {
    let belongs = |said: Option<v1::RequestId>, id: U256| match said {
        Some(said) if !wire::is_id(&said, id) => {
            Err(ReplyError::OtherRequest(UntrustedText::from(said.request_id)))
        }
        Some(_) | None => Ok(()),
    };
    match (operation, reply) {
        (KeyOperation::PrepKeygen { .. }, KeyReply::Preparation(reply)) => {
            belongs(reply.preprocessing_id, id)?;
            Ok((crate::domain::Bytes::new(), reply.external_signature))
        }
        (KeyOperation::Keygen { preparation, .. }, KeyReply::Key(reply)) => {
            belongs(reply.request_id, id)?;
            belongs(reply.preprocessing_id, *preparation)?;
            let digests = wire::key_digests(operation, reply.key_digests)?;
            Ok((abi::key_digests_payload(digests), reply.external_signature))
        }
        (KeyOperation::Crsgen { .. }, KeyReply::Crs(reply)) => {
            belongs(reply.request_id, id)?;
            if reply.crs_digest.is_empty() {
                return Err(ReplyError::NoDigest);
            }
            Ok((reply.crs_digest.into(), reply.external_signature))
        }
        _ => Err(ReplyError::Undecodable),
    }
}

/// What is signed. `None`: such an answer has no such payload.
fn digest(
    domain: &SigningDomain,
    (id, operation): (U256, &KeyOperation),
    payload: &[u8],
    extra_data: Option<&[u8]>,
) -> Option<B256> {
    Some(match operation {
        KeyOperation::PrepKeygen { .. } => preparation_digest(domain, id, extra_data),
        KeyOperation::Keygen { preparation, .. } => {
            let digests = abi::key_digests(payload)?;
            key_digest(domain, *preparation, id, &digests, extra_data)
        }
        KeyOperation::Crsgen { max_bits, .. } => {
            crs_digest(domain, id, *max_bits, payload, extra_data)
        }
        KeyOperation::AbortKeygen { .. }
        | KeyOperation::AbortCrsgen { .. }
        | KeyOperation::PrssInit
        | KeyOperation::KeyReshare { .. }
        | KeyOperation::NewKmsContext { .. }
        | KeyOperation::NewKmsEpoch { .. }
        | KeyOperation::ContextDestroyed { .. }
        | KeyOperation::EpochDestroyed { .. }
        | KeyOperation::RecordedEvent { .. }
        | KeyOperation::UnsupportedEvent { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use alloy::signers::{SignerSync as _, local::PrivateKeySigner};

    use super::*;
    use crate::domain::{HoldReason, KeyParameters};

    const ID: U256 = U256::ONE;

    fn domain() -> SigningDomain {
        SigningDomain {
            name: "KMSGeneration".to_owned(),
            version: "1".to_owned(),
            chain_id: 5,
            verifying_contract: Address::repeat_byte(6),
        }
    }

    fn signed(signer: &PrivateKeySigner, digest: B256) -> Bytes {
        signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec().into()
    }

    fn key_reply(signer: &PrivateKeySigner, extra_data: Option<&[u8]>) -> v1::KeyGenResult {
        let digests = [(0, crate::domain::Bytes::from_static(&[1; 32])), (1, [2; 32].into())];
        let digest = key_digest(&domain(), U256::from(7), ID, &digests, extra_data);
        let [server, public] = digests.map(|(_, digest)| digest.0);
        let named =
            |key_type: &str, digest| v1::KeyDigest { key_type: key_type.to_owned(), digest };
        v1::KeyGenResult {
            request_id: Some(wire::request_id(ID)),
            preprocessing_id: Some(wire::request_id(U256::from(7))),
            key_digests: vec![named("ServerKey", server), named("PublicKey", public)],
            external_signature: signed(signer, digest),
        }
    }

    fn keygen() -> KeyOperation {
        KeyOperation::Keygen { preparation: U256::from(7), extra_data: None }
    }

    fn read_key(reply: v1::KeyGenResult, of: &[Address]) -> Result<SignedResult, AnswerError> {
        key_answer(&domain(), (ID, &keygen()), KeyReply::Key(reply), of)
    }

    #[test]
    fn a_key_is_signed_over_its_digests_in_their_order() {
        let core = PrivateKeySigner::random();
        let answer = read_key(key_reply(&core, None), &[core.address()]).unwrap();
        let digests = abi::key_digests(&answer.payload).unwrap();
        assert_eq!(digests.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [0, 1]);
        let mut swapped = key_reply(&core, None);
        swapped.key_digests.swap(0, 1);
        let refused = read_key(swapped, &[core.address()]).unwrap_err();
        assert_eq!(refused.hold().reason, HoldReason::SignerMismatch);
        let other = read_key(key_reply(&core, None), &[Address::repeat_byte(1)]).unwrap_err();
        assert_eq!(other.hold().reason, HoldReason::SignerMismatch);
        read_key(key_reply(&core, None), &[]).unwrap();
    }

    #[test]
    fn a_core_that_signs_extra_data_is_named() {
        let core = PrivateKeySigner::random();
        let refused = read_key(key_reply(&core, Some(&[])), &[core.address()]).unwrap_err();
        let AnswerError::WrongSigner(wrong) = refused else { panic!("{refused}") };
        assert_eq!(wrong.cause, WrongSignerCause::CoreTooNew);
    }

    /// From G13 on the very bytes of the event are signed.
    #[test]
    fn extra_data_is_signed_where_the_contract_has_it() {
        let core = PrivateKeySigner::random();
        let extra_data = crate::domain::Bytes::from_static(&[1, 2, 3]);
        let preparation = U256::from(7);
        let operation = KeyOperation::Keygen { preparation, extra_data: Some(extra_data) };
        let read = |signed: Option<&[u8]>| {
            let reply = KeyReply::Key(key_reply(&core, signed));
            key_answer(&domain(), (ID, &operation), reply, &[core.address()])
        };
        read(Some(&[1, 2, 3])).unwrap();
        for (signed, expected) in [
            (None, WrongSignerCause::CoreTooOld),
            (Some(&[1, 2][..]), WrongSignerCause::Unknown),
            (Some(&[]), WrongSignerCause::Unknown),
        ] {
            let AnswerError::WrongSigner(wrong) = read(signed).unwrap_err() else { panic!() };
            assert_eq!(wrong.cause, expected, "{signed:?}");
        }
    }

    #[test]
    fn what_belongs_to_another_request_or_has_no_digest_is_refused() {
        let core = PrivateKeySigner::random();
        let reply = key_reply(&core, None);
        let mut all = vec![reply.clone(); 5];
        all[0].request_id = Some(wire::request_id(U256::from(9)));
        all[1].preprocessing_id = Some(wire::request_id(U256::from(9)));
        all[2].key_digests.clear();
        all[3].key_digests[1].key_type = "CompressedXofKeySet".to_owned();
        all[4].external_signature = Bytes::new();
        for reply in all {
            let refused = read_key(reply, &[core.address()]).unwrap_err();
            assert_eq!(refused.hold().reason, HoldReason::InvalidAnswer, "{refused}");
        }
        let reply = KeyReply::Crs(v1::CrsGenResult::default());
        let (max_bits, parameters) = (U256::from(2048), KeyParameters::Test);
        let crs = KeyOperation::Crsgen { max_bits, parameters, extra_data: None };
        for operation in [keygen(), crs] {
            let refused = key_answer(&domain(), (ID, &operation), reply.clone(), &[]).unwrap_err();
            assert_eq!(refused.hold().reason, HoldReason::InvalidAnswer);
        }
    }

    #[test]
    fn preparation_and_crs_are_checked_as_the_contract_checks_them() {
        let (core, domain) = (PrivateKeySigner::random(), domain());
        let parameters = KeyParameters::Test;
        let prep = KeyOperation::PrepKeygen { parameters, extra_data: None };
        let signature = signed(&core, preparation_digest(&domain, ID, None));
        let reply =
            v1::KeyGenPreprocResult { preprocessing_id: None, external_signature: signature };
        let of = [core.address()];
        let answer = key_answer(&domain, (ID, &prep), KeyReply::Preparation(reply), &of).unwrap();
        assert!(answer.payload.is_empty());
        let max_bits = U256::from(2048);
        let crs = KeyOperation::Crsgen { max_bits, parameters, extra_data: None };
        let external_signature = signed(&core, crs_digest(&domain, ID, max_bits, &[5], None));
        let reply = v1::CrsGenResult {
            crs_digest: Bytes::from_static(&[5]),
            external_signature,
            ..v1::CrsGenResult::default()
        };
        let answer = key_answer(&domain, (ID, &crs), KeyReply::Crs(reply.clone()), &of).unwrap();
        assert_eq!(answer.payload.as_ref(), [5]);
        // Of another length it would be another CRS.
        let max_bits = U256::from(4096);
        let other = KeyOperation::Crsgen { max_bits, parameters, extra_data: None };
        key_answer(&domain, (ID, &other), KeyReply::Crs(reply), &of).unwrap_err();
    }
}
