//! The result of an epoch: every key and CRS is signed anew, each signature by itself, under the domain of
//! `ProtocolConfig` (protocol: gateway-abi 7.3). The contract checks each, and so is each checked here.

use super::{AnswerError, SignatureError, WrongSigner, WrongSignerCause, parse_signature, recover};
use crate::{
    contracts::abi,
    domain::{
        Address, B256, Bytes, EpochResult, SharedCrs, SharedKey, SignedResult, SigningDomain,
    },
    flow::kms_core::{
        eip712::{crs_digest, key_digest},
        proto::kms::v1,
        wire,
    },
};

/// Checks the reply to an epoch and returns its answer. `registered`: as for a key.
pub(super) fn epoch_answer(
    domain: &SigningDomain,
    extra_data: &Bytes,
    reply: v1::EpochResultResponse,
    registered: &[Address],
) -> Result<SignedResult, AnswerError> {
    let result = wire::read_epoch_result(reply).map_err(AnswerError::invalid)?;
    for signed in signatures(domain, extra_data, &result) {
        let signer = signed.signer().map_err(AnswerError::invalid)?;
        if let Some(expected) = registered.first()
            && !registered.contains(&signer)
        {
            let cause = WrongSignerCause::Unknown;
            return Err(WrongSigner { expected: *expected, signer, cause }.into());
        }
    }
    Ok(SignedResult { payload: abi::epoch_payload(result), ..SignedResult::default() })
}

/// The signer of the first of an answer's results: they all are of one.
pub(super) fn signer_of_epoch(
    domain: &SigningDomain,
    extra_data: &Bytes,
    payload: &[u8],
) -> Result<Address, SignatureError> {
    let result = abi::epoch_result(payload).ok_or(SignatureError::Unrecoverable)?;
    let first = signatures(domain, extra_data, &result).next();
    first.ok_or(SignatureError::Empty)?.signer()
}

/// What is signed, and the signature.
struct Signed<'a> {
    digest: B256,
    signature: &'a [u8],
}

impl Signed<'_> {
    fn signer(&self) -> Result<Address, SignatureError> {
        recover(&parse_signature(self.signature)?, self.digest)
    }
}

fn signatures<'a>(
    domain: &'a SigningDomain,
    extra_data: &'a Bytes,
    result: &'a EpochResult,
) -> impl Iterator<Item = Signed<'a>> {
    let key = move |SharedKey { id, preparation, digests, signature }: &'a SharedKey| Signed {
        digest: key_digest(domain, *preparation, *id, digests, Some(extra_data)),
        signature,
    };
    let crs = move |SharedCrs { id, max_bits, digest, signature }: &'a SharedCrs| Signed {
        digest: crs_digest(domain, *id, *max_bits, digest, Some(extra_data)),
        signature,
    };
    result.keys.iter().map(key).chain(result.crs_list.iter().map(crs))
}

#[cfg(test)]
mod tests {
    use alloy::signers::{SignerSync as _, local::PrivateKeySigner};

    use super::*;
    use crate::domain::{HoldReason, U256};

    fn domain() -> SigningDomain {
        SigningDomain {
            name: "ProtocolConfig".to_owned(),
            version: "1".to_owned(),
            chain_id: 5,
            verifying_contract: Address::repeat_byte(6),
        }
    }

    fn id(number: u64) -> U256 {
        U256::from(number)
    }

    fn reply(signer: &PrivateKeySigner, extra_data: &[u8]) -> v1::EpochResultResponse {
        let sign = |digest: B256| {
            bytes::Bytes::from(signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec())
        };
        let digests = [(0, Bytes::from_static(&[1])), (1, Bytes::from_static(&[2]))];
        let key = |number: u64| v1::KeyGenResult {
            request_id: Some(wire::request_id(id(number))),
            preprocessing_id: Some(wire::request_id(id(3))),
            key_digests: ["ServerKey", "PublicKey"]
                .iter()
                .zip(&digests)
                .map(|(name, (_, digest))| v1::KeyDigest {
                    key_type: (*name).to_owned(),
                    digest: digest.0.clone(),
                })
                .collect(),
            external_signature: sign(key_digest(
                &domain(),
                id(3),
                id(number),
                &digests,
                Some(extra_data),
            )),
        };
        let crs = v1::CrsGenResult {
            request_id: Some(wire::request_id(id(5))),
            crs_digest: bytes::Bytes::from_static(&[9]),
            max_num_bits: 2048,
            external_signature: sign(crs_digest(
                &domain(),
                id(5),
                id(2048),
                &[9],
                Some(extra_data),
            )),
        };
        v1::EpochResultResponse {
            reshare_responses: vec![key(4), key(5)],
            crs_responses: vec![crs],
        }
    }

    #[test]
    fn each_key_and_crs_is_of_the_registered_signer() {
        let (core, other) = (PrivateKeySigner::random(), PrivateKeySigner::random());
        let extra_data = Bytes::from_static(&[2, 7]);
        let read = |reply| epoch_answer(&domain(), &extra_data, reply, &[core.address()]);
        let answer = read(reply(&core, &[2, 7])).unwrap();
        assert_eq!(abi::epoch_result(&answer.payload).unwrap().keys.len(), 2);
        let signer = signer_of_epoch(&domain(), &extra_data, &answer.payload);
        assert_eq!(signer, Ok(core.address()));
        let mut odd = vec![reply(&core, &[2, 7]); 3];
        let foreign = reply(&other, &[2, 7]);
        odd[0].reshare_responses[1] = foreign.reshare_responses[1].clone();
        odd[1].crs_responses = foreign.crs_responses;
        odd[2].crs_responses[0].max_num_bits = 4096;
        odd.push(reply(&core, &[2]));
        for reply in odd {
            let refused = read(reply).unwrap_err();
            assert_eq!(refused.hold().reason, HoldReason::SignerMismatch, "{refused}");
        }
        let mut unsigned = reply(&core, &[2, 7]);
        unsigned.crs_responses[0].external_signature.clear();
        let refused = read(unsigned).unwrap_err();
        assert_eq!(refused.hold().reason, HoldReason::InvalidAnswer);
    }
}
