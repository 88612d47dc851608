use alloy::primitives::{U256, address};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::chain::fake_chain::SOURCE;
use crate::domain::{BlockRef, EventShape, HoldReason, Material, Operation, RequestKey};

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 54321,
        verifying_contract: address!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"),
    }
}

const HANDLE: B256 = B256::repeat_byte(2);

fn request(shape: EventShape, extra_data: &[u8]) -> (Request, PublicDecryption) {
    let operation = PublicDecryption::of_materials(
        vec![Material {
            handle: HANDLE,
            key_id: U256::from(1),
            digest: B256::ZERO,
            coprocessors: vec![],
        }],
        crate::domain::Bytes::copy_from_slice(extra_data),
    );
    let id = match shape {
        EventShape::G7 | EventShape::G8 => U256::from(5),
        EventShape::G9 | EventShape::G14 | EventShape::Head => {
            (U256::from(1) << 248) + U256::from(5)
        }
    };
    let request = Request {
        key: RequestKey { source: SOURCE, id, content: B256::ZERO },
        shape,
        block: BlockRef { number: 1, hash: B256::ZERO },
        transaction: B256::ZERO,
        operation: Operation::PublicDecryption(operation.clone()),
    };
    (request, operation)
}

fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[7; 32]).unwrap()
}

fn reply(
    encoding: ResultEncoding,
    signed_extra_data: Option<&[u8]>,
    echoed: Option<&[u8]>,
) -> PublicReply {
    let plaintexts = vec![v1::TypedPlaintext { bytes: Bytes::from_static(&[42]), fhe_type: 2 }];
    let result = wire::decrypted_result(encoding, &plaintexts).unwrap();
    let digest = public_digest(&domain(), &[HANDLE], &result, signed_extra_data);
    let signature = signer().sign_hash_sync(&digest).unwrap().as_bytes().to_vec();
    PublicReply {
        plaintexts,
        signature: signature.into(),
        extra_data: echoed.map(Bytes::copy_from_slice),
    }
}

fn answer(
    (request, operation): &(Request, PublicDecryption),
    reply: &PublicReply,
    registered: &[Address],
) -> Result<SignedResult, crate::domain::Hold> {
    let meaning = ExtraDataMeaning::Context { drops_zero: true };
    public_answer(&domain(), request, operation, meaning, reply, registered)
        .map_err(|error| error.hold())
}

#[test]
fn every_generation_has_its_form() {
    use ResultEncoding::{Legacy, Words};
    let registered = &[signer().address()];
    let g7 = answer(&request(EventShape::G7, &[]), &reply(Legacy, None, None), registered).unwrap();
    assert_eq!(g7.payload.len(), 64);
    assert!(g7.extra_data.is_empty());

    let g8 = reply(Legacy, Some(&[9, 9]), Some(&[9, 9]));
    let g8 = answer(&request(EventShape::G8, &[9, 9]), &g8, registered).unwrap();
    assert_eq!(g8.extra_data, vec![9, 9]);

    let g9 = reply(Words, Some(&[]), Some(&[]));
    let g9 = answer(&request(EventShape::G9, &[0]), &g9, registered).unwrap();
    assert_eq!(g9.payload.len(), 32);
    assert!(g9.extra_data.is_empty(), "one zero byte was sent as nothing");
}

#[test]
fn the_other_encoding_is_tried_before_anything_is_called_wrong() {
    let registered = &[signer().address()];
    for (shape, encoding) in
        [(EventShape::G8, ResultEncoding::Words), (EventShape::G9, ResultEncoding::Legacy)]
    {
        let reply = reply(encoding, Some(&[]), Some(&[]));
        let found = answer(&request(shape, &[]), &reply, registered).unwrap();
        let result = wire::decrypted_result(encoding, &reply.plaintexts).unwrap();
        assert_eq!(found.payload, result);
        // Without a registered signer nothing tells them apart, so the likelier one is taken.
        let likelier = answer(&request(shape, &[]), &reply, &[]).unwrap();
        assert_ne!(likelier.payload, found.payload);
    }
}

#[test]
fn what_the_core_signed_is_sent_back_even_if_it_was_not_asked_for() {
    let registered = &[signer().address()];
    let request = request(EventShape::G9, &[3, 3]);
    // The Core echoes another extraData, and signed it.
    let other = reply(ResultEncoding::Words, Some(&[4]), Some(&[4]));
    assert_eq!(answer(&request, &other, registered).unwrap().extra_data, vec![4]);
    // The Core echoes nothing, but signed what we sent.
    let silent = reply(ResultEncoding::Words, Some(&[3, 3]), Some(&[]));
    assert_eq!(answer(&request, &silent, registered).unwrap().extra_data, vec![3, 3]);
}

#[test]
fn a_wrong_signer_is_held_with_both_addresses() {
    let stranger = Address::repeat_byte(0xAB);
    let reply = reply(ResultEncoding::Words, Some(&[]), Some(&[]));
    let hold = answer(&request(EventShape::G9, &[]), &reply, &[stranger]).unwrap_err();
    assert_eq!(hold.reason, HoldReason::SignerMismatch);
    assert!(hold.detail.contains(&stranger.to_string()), "{hold}");
    assert!(hold.detail.contains(&signer().address().to_string()), "{hold}");
}

#[test]
fn a_core_of_another_generation_is_called_that() {
    let registered = &[signer().address()];
    let old = reply(ResultEncoding::Words, None, None);
    let hold = answer(&request(EventShape::G9, &[]), &old, registered).unwrap_err();
    assert_eq!(hold.reason, HoldReason::SignerMismatch);
    assert!(hold.detail.contains("too old"), "{hold}");

    let new = reply(ResultEncoding::Legacy, Some(&[]), Some(&[]));
    let hold = answer(&request(EventShape::G7, &[]), &new, registered).unwrap_err();
    assert!(hold.detail.contains("too new"), "{hold}");
}

#[test]
fn a_signature_is_read_as_strictly_as_by_the_contract() {
    let valid = reply(ResultEncoding::Words, Some(&[]), Some(&[])).signature;
    assert!(parse_signature(&valid).is_ok());
    assert_eq!(parse_signature(&[]), Err(SignatureError::Empty));
    assert_eq!(parse_signature(&valid[..64]), Err(SignatureError::Length(64)));
    let with_v = |v: u8| [&valid[..64], &[v]].concat();
    assert_eq!(parse_signature(&with_v(0)), Err(SignatureError::RecoveryId(0)));
    assert_eq!(parse_signature(&with_v(29)), Err(SignatureError::RecoveryId(29)));

    let order = alloy::primitives::uint!(
        0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256
    );
    let s = U256::from_be_slice(&valid[32..64]);
    let flipped = if valid[64] == 27 { 28 } else { 27 };
    let high = [&valid[..32], &(order - s).to_be_bytes::<32>(), &[flipped]].concat();
    assert_eq!(parse_signature(&high), Err(SignatureError::HighS));

    let zero = parse_signature(&[&[0; 64][..], &[27]].concat()).unwrap();
    assert_eq!(recover(&zero, B256::ZERO), Err(SignatureError::Unrecoverable));

    for broken in [&[][..], &valid[..64], &high, &[0xFF; 65]] {
        let reply = PublicReply {
            signature: Bytes::copy_from_slice(broken),
            ..reply(ResultEncoding::Words, Some(&[]), Some(&[]))
        };
        let hold = answer(&request(EventShape::G9, &[]), &reply, &[]).unwrap_err();
        assert_eq!(hold.reason, HoldReason::InvalidAnswer);
    }
}

#[test]
fn a_value_no_encoding_takes_is_an_invalid_answer() {
    let mut reply = reply(ResultEncoding::Words, Some(&[]), Some(&[]));
    reply.plaintexts[0].fhe_type = 83;
    let hold = answer(&request(EventShape::G9, &[]), &reply, &[]).unwrap_err();
    assert_eq!(hold.reason, HoldReason::InvalidAnswer);
}

#[test]
fn a_response_of_the_first_shape_becomes_an_answer() {
    let (request, operation) = request(EventShape::G7, &[]);
    let reply = reply(ResultEncoding::Legacy, None, None);
    let payload = v1::EarlyPublicDecryptionResponsePayload {
        plaintexts: reply.plaintexts,
        external_signature: Some(reply.signature.clone()),
        ..Default::default()
    };
    let response = v1::PublicDecryptionResponse {
        payload_or_external_signature: payload.encode_to_vec().into(),
        ..Default::default()
    };
    let registered = &[signer().address()];
    let meaning = ExtraDataMeaning::Opaque;
    let answer =
        decode_public_answer(&domain(), &request, &operation, meaning, response, registered)
            .unwrap();
    assert_eq!(answer.signature, reply.signature);
}

/// A user's request with one ciphertext, and its operation.
fn user_request() -> (Request, UserDecryption) {
    let (request, public) = request(EventShape::G9, &[0]);
    let operation = UserDecryption::of_materials(
        public.materials.unwrap(),
        address!("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359"),
        crate::domain::Bytes::from_static(b"key"),
        public.extra_data,
    );
    (Request { operation: Operation::UserDecryption(operation.clone()), ..request }, operation)
}

/// What Cores send: both shapes of the public response, and the user response.
fn responses() -> [Vec<u8>; 3] {
    let early = reply(ResultEncoding::Legacy, None, None);
    let payload = v1::EarlyPublicDecryptionResponsePayload {
        plaintexts: early.plaintexts,
        external_signature: Some(early.signature),
        ..Default::default()
    };
    let early = v1::PublicDecryptionResponse {
        payload_or_external_signature: payload.encode_to_vec().into(),
        ..Default::default()
    };
    let public = reply(ResultEncoding::Words, Some(&[]), Some(&[]));
    let payload = v1::PublicDecryptionResponsePayload {
        plaintexts: public.plaintexts,
        request_id: Some(wire::request_id(request(EventShape::G9, &[]).0.key.id)),
        ..Default::default()
    };
    let public = v1::PublicDecryptionResponse {
        signature: Bytes::from_static(&[1; 64]),
        payload_or_external_signature: public.signature,
        payload: Some(payload.encode_to_vec().into()),
        extra_data: Bytes::new(),
    };
    let share = v1::TypedSigncryptedCiphertext {
        fhe_type: 2,
        signcrypted_ciphertext: Bytes::from_static(b"for the user only"),
        external_handle: Bytes::copy_from_slice(HANDLE.as_slice()),
        packing_factor: 1,
    };
    let payload = v1::UserDecryptionResponsePayload {
        signcrypted_ciphertexts: vec![share],
        digest: Bytes::from_static(&[3; 32]),
        party_id: 4,
        degree: 1,
        ..Default::default()
    };
    let digest =
        user_digest(&domain(), b"key", &[HANDLE], &wire::user_decrypted_share(&payload), Some(&[]));
    let user = v1::UserDecryptionResponse {
        external_signature: signer().sign_hash_sync(&digest).unwrap().as_bytes().to_vec().into(),
        payload: Some(payload.encode_to_vec().into()),
        ..Default::default()
    };
    [early.encode_to_vec(), public.encode_to_vec(), user.encode_to_vec()]
}

/// Replaces response `shape` with these bytes. The result is no answer, or one that the contract takes,
/// computed here the same way. Returns whether there is an answer.
fn believed(shape: usize, bytes: &[u8]) -> bool {
    let meaning = ExtraDataMeaning::Context { drops_zero: true };
    let by = signer().address();
    let answered = if shape == 2 {
        let (request, operation) = user_request();
        let Ok(response) = v1::UserDecryptionResponse::decode(bytes) else { return false };
        let _ = user_answer(&domain(), &request, &operation, meaning, response.clone(), &[]);
        let answer = user_answer(&domain(), &request, &operation, meaning, response, &[by]);
        answer.map(|answer| {
            let digest = user_digest(
                &domain(),
                b"key",
                &[HANDLE],
                &answer.payload,
                Some(&answer.extra_data),
            );
            (answer, digest)
        })
    } else {
        let of = if shape == 0 { EventShape::G7 } else { EventShape::G9 };
        let (request, operation) = request(of, &[]);
        let Ok(response) = v1::PublicDecryptionResponse::decode(bytes) else { return false };
        let answer = |registered: &[Address]| {
            let response = response.clone();
            decode_public_answer(&domain(), &request, &operation, meaning, response, registered)
        };
        let _ = answer(&[]);
        answer(&[by]).map(|answer| {
            let extra_data = (shape == 1).then_some(&answer.extra_data[..]);
            let digest = public_digest(&domain(), &[HANDLE], &answer.payload, extra_data);
            (answer, digest)
        })
    };
    match answered {
        Ok((answer, digest)) => {
            let signature = Signature::from_raw(&answer.signature).unwrap();
            assert_eq!(signature.recover_address_from_prehash(&digest).unwrap(), by);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn what_a_core_sends_is_believed() {
    for (shape, bytes) in responses().iter().enumerate() {
        assert!(believed(shape, bytes), "{shape}");
    }
}

proptest! {
    /// Arbitrary bytes in place of the messages.
    #[test]
    fn noise_is_never_believed(
        shape in 0..3_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        prop_assert!(!believed(shape, &bytes));
    }

    /// Valid responses of every shape: cut, extended, with changed bytes, or swapped.
    #[test]
    fn a_damaged_response_is_believed_only_where_nobody_signed(
        shape in 0..3_usize,
        of in 0..3_usize,
        hits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        end in proptest::option::of(any::<proptest::sample::Index>()),
        more in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = responses()[of].clone();
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len() + 1));
        }
        bytes.extend(more);
        believed(shape, &bytes);
    }

    /// Well-formed messages with arbitrary values.
    #[test]
    fn any_values_are_no_answer(
        plaintexts in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..300), -2..90_i32),
            0..4,
        ),
        signature in proptest::collection::vec(any::<u8>(), 60..70),
        id in proptest::option::of("[0-9a-fA-Fx]{0,70}"),
        extra_data in proptest::collection::vec(any::<u8>(), 0..70),
        early in any::<bool>(),
    ) {
        let plaintexts = plaintexts
            .into_iter()
            .map(|(bytes, fhe_type)| v1::TypedPlaintext { bytes: bytes.into(), fhe_type })
            .collect();
        let request_id = id.map(|request_id| v1::RequestId { request_id });
        let (signature, extra_data) = (Bytes::from(signature), Bytes::from(extra_data));
        let response = if early {
            let payload = v1::EarlyPublicDecryptionResponsePayload {
                plaintexts,
                external_signature: Some(signature),
                request_id,
                ..Default::default()
            };
            v1::PublicDecryptionResponse {
                payload_or_external_signature: payload.encode_to_vec().into(),
                extra_data,
                ..Default::default()
            }
        } else {
            let payload = v1::PublicDecryptionResponsePayload {
                plaintexts,
                request_id,
                ..Default::default()
            };
            v1::PublicDecryptionResponse {
                payload_or_external_signature: signature,
                payload: Some(payload.encode_to_vec().into()),
                extra_data,
                ..Default::default()
            }
        };
        prop_assert!(!believed(usize::from(!early), &response.encode_to_vec()));
    }
}
