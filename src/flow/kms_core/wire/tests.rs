use alloy::{
    hex,
    primitives::{Address, B256, U256, address, b256},
    sol_types::{SolType, sol_data},
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::{reply::is_id, *};
use crate::chain::fake_chain::SOURCE;
use crate::domain::{
    BlockRef, Ciphertext, CiphertextFormat, EventShape, HoldReason, Material, Operation,
    PublicDecryption, Refusal, Remedy, Request, RequestKey, SigningDomain, UserDecryption,
};
use crate::flow::kms_core::proto::kms::v1;

fn material(fhe_type: u8, key_id: u64) -> Material {
    let mut handle = B256::repeat_byte(0x11);
    handle[30] = fhe_type;
    Material { handle, key_id: U256::from(key_id), digest: B256::ZERO, coprocessors: vec![] }
}

fn request(operation: Operation) -> Request {
    Request {
        key: RequestKey {
            source: SOURCE,
            id: (U256::from(1) << 248) + U256::from(7),
            content: B256::ZERO,
        },
        shape: EventShape::G9,
        block: BlockRef { number: 1, hash: B256::ZERO },
        transaction: B256::ZERO,
        operation,
    }
}

fn public(materials: Vec<Material>) -> Request {
    let extra_data = crate::domain::Bytes::new();
    request(Operation::PublicDecryption(PublicDecryption::of_materials(materials, extra_data)))
}

fn user_operation(materials: Vec<Material>, extra_data: &[u8]) -> UserDecryption {
    UserDecryption::of_materials(
        materials,
        address!("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359"),
        crate::domain::Bytes::from_static(b"key"),
        crate::domain::Bytes::copy_from_slice(extra_data),
    )
}

fn domain() -> SigningDomain {
    SigningDomain {
        name: "Decryption".into(),
        version: "1".into(),
        chain_id: 0x1234,
        verifying_contract: address!("0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"),
    }
}

fn plaintext(fhe_type: i32, little_endian: &[u8]) -> v1::TypedPlaintext {
    v1::TypedPlaintext { bytes: Bytes::copy_from_slice(little_endian), fhe_type }
}

#[test]
fn an_event_that_contradicts_the_protocol_is_refused_and_an_unknown_type_held() {
    assert_eq!(check(&public(vec![material(0, 1), material(83, 1)])), Ok(()));

    let none = check(&public(vec![])).unwrap_err();
    assert!(matches!(none.remedy(), Remedy::Refuse(Refusal::Malformed(_))));

    let unknown = check(&public(vec![material(84, 1)])).unwrap_err();
    assert!(
        matches!(unknown.remedy(), Remedy::Hold(hold) if hold.reason == HoldReason::UnsupportedType)
    );
}

#[test]
fn ids_are_64_lower_case_digits() {
    let id = (U256::from(2) << 248) + U256::from(0xAB);
    let text = request_id(id).request_id;
    assert_eq!(text, format!("02{}ab", "0".repeat(60)));
    for same in [text.clone(), format!("0x{text}"), text.to_uppercase(), format!(" {text}\n")] {
        assert!(is_id(&v1::RequestId { request_id: same }, id));
    }
    assert!(!is_id(&v1::RequestId::default(), id));
}

#[test]
fn a_user_request_carries_everything_as_the_core_wants_it() {
    let materials = vec![material(8, 5), material(0, 5)];
    let ciphertexts = [b"one".as_slice(), b"two"]
        .iter()
        .zip([CiphertextFormat::BigCompressed, CiphertextFormat::BigExpanded])
        .zip(&materials)
        .map(|((body, format), material)| Ciphertext {
            handle: material.handle,
            format,
            body: crate::domain::Bytes::copy_from_slice(body),
        })
        .collect::<Vec<_>>();
    let pointer = ciphertexts[0].body.as_ptr();
    let operation = user_operation(materials, &[]);
    let typed = typed_ciphertexts(&operation.handles, ciphertexts).unwrap();
    assert_eq!(typed[0].ciphertext.as_ptr(), pointer, "the bytes are moved, not copied");

    let id = U256::from(3);
    let message =
        user_request(id, U256::from(5), &operation, typed, &domain(), ExtraDataMeaning::Opaque);
    assert_eq!(message.request_id, Some(request_id(id)));
    assert_eq!(message.key_id, Some(request_id(U256::from(5))));
    assert_eq!(message.client_address, "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359");
    assert_eq!(message.enc_key, &b"key"[..]);
    let domain = message.domain.unwrap();
    assert_eq!(domain.name, "Decryption");
    assert_eq!(domain.version, "1");
    assert_eq!(domain.chain_id, [[0; 30].as_slice(), &[0x12, 0x34]].concat());
    assert_eq!(domain.verifying_contract, "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed");
    assert_eq!(domain.salt, None);
    let [first, second] = &message.typed_ciphertexts[..] else { panic!("two ciphertexts") };
    assert_eq!((first.fhe_type, first.ciphertext_format), (8, 2));
    assert_eq!((second.fhe_type, second.ciphertext_format), (0, 3));
    assert_eq!(first.external_handle, operation.handles[0].as_slice());
    assert_eq!(second.ciphertext, &b"two"[..]);
}

#[test]
fn ciphertexts_of_another_request_or_in_part_are_not_sent() {
    let handles = [material(2, 1).handle, material(3, 1).handle];
    let ciphertext = |index: usize| Ciphertext {
        handle: handles[index],
        format: CiphertextFormat::BigExpanded,
        body: crate::domain::Bytes::new(),
    };
    assert!(typed_ciphertexts(&handles, vec![ciphertext(0), ciphertext(1)]).is_ok());
    assert!(typed_ciphertexts(&handles, vec![ciphertext(1), ciphertext(0)]).is_err());
    assert!(typed_ciphertexts(&handles, vec![ciphertext(0)]).is_err());
}

#[test]
fn extra_data_means_what_its_contract_says() {
    const OPAQUE: ExtraDataMeaning = ExtraDataMeaning::Opaque;
    const CONTEXT: ExtraDataMeaning = ExtraDataMeaning::Context { drops_zero: true };
    const KEEPING: ExtraDataMeaning = ExtraDataMeaning::Context { drops_zero: false };
    let zero = Bytes::from_static(&[0]);
    assert_eq!(OPAQUE.signed_bytes(&zero), zero);
    assert_eq!(CONTEXT.signed_bytes(&zero), Bytes::new());
    assert_eq!(KEEPING.signed_bytes(&zero), zero);
    for other in [&[][..], &[0, 0], &[1], &[2; 65]] {
        let other = Bytes::copy_from_slice(other);
        assert_eq!(CONTEXT.signed_bytes(&other), other);
    }

    let (context, epoch) = (U256::from_be_bytes([0xC7; 32]), U256::from_be_bytes([0xE8; 32]));
    let named = |context, epoch| NamedContext { context, epoch };
    let version_1 = [&[1][..], &[0xC7; 32]].concat();
    let version_2 = [&[2][..], &[0xC7; 32], &[0xE8; 32]].concat();
    for meaning in [CONTEXT, KEEPING] {
        assert_eq!(meaning.named_context(&version_1), named(Some(context), None));
        let longer = [&version_1[..], &[9]].concat();
        assert_eq!(meaning.named_context(&longer), named(Some(context), None));
        assert_eq!(meaning.named_context(&version_2), named(Some(context), Some(epoch)));
        for short in [&[][..], &[0], &version_1[..32], &[3; 65], &[0; 33]] {
            assert_eq!(meaning.named_context(short), NamedContext::default());
        }
    }
    assert_eq!(OPAQUE.named_context(&version_2), NamedContext::default());
    // As the Core writes it.
    assert_eq!(request_id(context).request_id, "c7".repeat(32));
}

/// The test vectors of the protocol sheets.
#[test]
fn the_legacy_result_is_an_abi_tuple_cut_at_both_ends() {
    let values = [
        plaintext(3, &[22, 0]),
        plaintext(4, &[42, 0, 0, 0]),
        plaintext(5, &[56]),
        plaintext(6, &[19]),
        plaintext(7, &[32]),
    ];
    let words: Vec<u8> = [0x16, 0x2a, 0x38, 0x13, 0x20, 0xe0]
        .iter()
        .flat_map(|value| U256::from(*value).to_be_bytes::<32>())
        .collect();
    assert_eq!(decrypted_result(ResultEncoding::Legacy, &values).unwrap(), words);

    let mut little = [0; 64];
    little[0] = 5;
    little[63] = 9;
    let result = decrypted_result(ResultEncoding::Legacy, &[plaintext(9, &little)]).unwrap();
    let mut expected: Vec<u8> = [0x60, 0xc0, 0x40]
        .iter()
        .flat_map(|value| U256::from(*value).to_be_bytes::<32>())
        .collect();
    little.reverse();
    expected.extend(little);
    assert_eq!(result, expected);
}

#[test]
fn the_new_result_is_words_only() {
    let values = [plaintext(0, &[1]), plaintext(7, &[0xAB; 20]), plaintext(8, &[0xCD; 32])];
    let result = decrypted_result(ResultEncoding::Words, &values).unwrap();
    assert_eq!(result.len(), 96);
    assert_eq!(result[31], 1);
    assert_eq!(result[32..44], [0; 12]);
    assert_eq!(result[44..64], [0xAB; 20]);
    assert_eq!(result[64..], [0xCD; 32]);
    for other in [1, 9, 10, 11, 12, 83, 84, -1] {
        assert_eq!(
            decrypted_result(ResultEncoding::Words, &[plaintext(other, &[1])]),
            Err(ReplyError::NoEncoding(other))
        );
    }
    assert_eq!(
        decrypted_result(ResultEncoding::Words, &[plaintext(8, &[1; 33])]),
        Err(ReplyError::TooLong { fhe_type: 8, length: 33, most: 32 })
    );
    assert_eq!(
        decrypted_result(ResultEncoding::Legacy, &[plaintext(9, &[1; 65])]),
        Err(ReplyError::TooLong { fhe_type: 9, length: 65, most: 64 })
    );
}

#[test]
fn the_ids_top_byte_says_which_encoding_is_likelier() {
    use ResultEncoding::{Legacy, Words};
    assert_eq!(ResultEncoding::by_likelihood(U256::from(17)), [Legacy, Words]);
    assert_eq!(ResultEncoding::by_likelihood(U256::from(1) << 248), [Words, Legacy]);
}

#[test]
fn the_share_is_bincode_to_the_byte() {
    let payload = v1::UserDecryptionResponsePayload {
        verification_key: Bytes::from_static(&[0xAA, 0xBB]),
        digest: Bytes::from_static(&[0xCC]),
        signcrypted_ciphertexts: vec![v1::TypedSigncryptedCiphertext {
            fhe_type: 8,
            signcrypted_ciphertext: Bytes::from_static(&[1, 2, 3]),
            external_handle: Bytes::from_static(&[0x11; 32]),
            packing_factor: 0x0102_0304,
        }],
        party_id: 4,
        degree: 1,
    };
    let expected = hex::decode(
        [
            "0200000000000000aabb",
            "0100000000000000cc",
            "0100000000000000",
            "08000000",
            "0300000000000000010203",
            "2000000000000000",
            &"11".repeat(32),
            "04030201",
            "04000000",
            "01000000",
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(user_decrypted_share(&payload), expected);
}

#[test]
fn both_shapes_of_the_public_reply_are_read() {
    let request = public(vec![material(2, 1)]);
    let id = Some(request_id(request.key.id));
    let plaintexts = vec![plaintext(2, &[42])];
    let modern = v1::PublicDecryptionResponse {
        signature: Bytes::from_static(b"internal"),
        payload_or_external_signature: Bytes::from_static(&[7; 65]),
        payload: Some(
            v1::PublicDecryptionResponsePayload {
                verification_key: Bytes::new(),
                plaintexts: plaintexts.clone(),
                request_id: id.clone(),
            }
            .encode_to_vec()
            .into(),
        ),
        extra_data: Bytes::from_static(&[1, 2]),
    };
    let reply = public_reply(&request, modern.clone()).unwrap();
    assert_eq!(reply.plaintexts, plaintexts);
    assert_eq!(reply.signature, &[7; 65][..]);
    assert_eq!(reply.extra_data.unwrap(), &[1, 2][..]);

    let payload = v1::EarlyPublicDecryptionResponsePayload {
        verification_key: Bytes::from_static(b"vk"),
        digest: Bytes::from_static(&[9; 32]),
        plaintexts: plaintexts.clone(),
        external_signature: Some(Bytes::from_static(&[7; 65])),
        request_id: None,
    };
    let early = |payload: &v1::EarlyPublicDecryptionResponsePayload| v1::PublicDecryptionResponse {
        payload_or_external_signature: payload.encode_to_vec().into(),
        ..Default::default()
    };
    let reply = public_reply(&request, early(&payload)).unwrap();
    assert_eq!(reply.plaintexts, plaintexts);
    assert_eq!(reply.signature, &[7; 65][..]);
    assert_eq!(reply.extra_data, None);

    // Not answers to this request.
    let other = Some(request_id(U256::from(99)));
    let stranger =
        v1::EarlyPublicDecryptionResponsePayload { request_id: other, ..payload.clone() };
    assert!(matches!(
        public_reply(&request, early(&stranger)),
        Err(ReplyError::OtherRequest(id)) if id.ends_with("63")
    ));
    let two = public(vec![material(2, 1), material(2, 1)]);
    assert_eq!(public_reply(&two, early(&payload)), Err(ReplyError::Count { got: 1, want: 2 }));

    // Not answers at all.
    let empty = v1::PublicDecryptionResponse::default();
    assert_eq!(public_reply(&request, empty), Err(ReplyError::NoPayload));
    let garbage = v1::PublicDecryptionResponse {
        payload: Some(Bytes::from_static(&[0xFF; 9])),
        ..modern.clone()
    };
    assert_eq!(public_reply(&request, garbage), Err(ReplyError::Undecodable));
    let signature_only = v1::PublicDecryptionResponse { payload: None, ..modern };
    assert!(public_reply(&request, signature_only).is_err());
}

#[test]
fn a_user_reply_must_be_about_the_same_handles() {
    let request = request(Operation::UserDecryption(user_operation(vec![material(2, 1)], &[])));
    let payload = |handle: &[u8]| v1::UserDecryptionResponsePayload {
        signcrypted_ciphertexts: vec![v1::TypedSigncryptedCiphertext {
            external_handle: Bytes::copy_from_slice(handle),
            ..Default::default()
        }],
        ..Default::default()
    };
    let own = request.handles()[0];
    let read = |payload: &v1::UserDecryptionResponsePayload| {
        user_payload(&request, Some(payload.encode_to_vec().into()))
    };
    assert!(read(&payload(own.as_slice())).is_ok());
    assert_eq!(read(&payload(&[0x99; 32])), Err(ReplyError::OtherHandle { index: 0 }));
    assert_eq!(
        read(&v1::UserDecryptionResponsePayload::default()),
        Err(ReplyError::Count { got: 0, want: 1 })
    );
    assert_eq!(user_payload(&request, None), Err(ReplyError::NoPayload));
    let garbage = Bytes::from_static(&[0xff; 9]);
    assert_eq!(user_payload(&request, Some(garbage)), Err(ReplyError::Undecodable));
}

/// Two bytes each, which would take twenty to forty times as much when decoded.
#[test]
fn b4_a_reply_of_a_million_results_is_counted_before_it_is_read() {
    let million = 1_000_000;
    let shares = Bytes::from([3 << 3 | 2, 0].repeat(million));
    let asked = request(Operation::UserDecryption(user_operation(vec![material(2, 1)], &[])));
    let too_many = ReplyError::Count { got: million, want: 1 };
    assert_eq!(user_payload(&asked, Some(shares.clone())), Err(too_many.clone()));
    let asked = public(vec![material(2, 1)]);
    let modern = v1::PublicDecryptionResponse {
        payload: Some(Bytes::from([2 << 3 | 2, 0].repeat(million))),
        ..Default::default()
    };
    assert_eq!(public_reply(&asked, modern), Err(too_many.clone()));
    let early = v1::PublicDecryptionResponse {
        payload_or_external_signature: shares,
        ..Default::default()
    };
    assert_eq!(public_reply(&asked, early), Err(too_many));
}

/// The legacy encoding according to its definition, by another implementation of the ABI.
fn legacy_by_alloy(plaintext: &v1::TypedPlaintext) -> Vec<u8> {
    type Word = sol_data::Uint<256>;
    type Strings = sol_data::Array<sol_data::Bytes>;
    let mut big: Vec<u8> = plaintext.bytes.to_vec();
    let encoded = if plaintext.fhe_type < 9 {
        big.reverse();
        let value = U256::from_be_slice(&big);
        let none: Vec<Vec<u8>> = vec![];
        <(Word, Word, Strings)>::abi_encode_params(&(U256::ZERO, value, none))
    } else {
        big.resize(64 << (plaintext.fhe_type - 9), 0);
        big.reverse();
        let none: Vec<Vec<u8>> = vec![];
        <(Word, sol_data::Bytes, Strings)>::abi_encode_params(&(U256::ZERO, big, none))
    };
    encoded[32..encoded.len() - 32].to_vec()
}

fn any_plaintext() -> impl Strategy<Value = v1::TypedPlaintext> {
    let small = (0..9_i32, proptest::collection::vec(any::<u8>(), 0..=32));
    let big = (9..12_i32).prop_flat_map(|fhe_type| {
        (Just(fhe_type), proptest::collection::vec(any::<u8>(), 0..=64 << (fhe_type - 9)))
    });
    prop_oneof![small, big].prop_map(|(fhe_type, bytes)| plaintext(fhe_type, &bytes))
}

proptest! {
    #[test]
    fn one_legacy_value_agrees_with_alloy(value in any_plaintext()) {
        prop_assert_eq!(
            decrypted_result(ResultEncoding::Legacy, std::slice::from_ref(&value)).unwrap(),
            legacy_by_alloy(&value)
        );
    }

    /// Every value is where the encoding says it is.
    #[test]
    fn legacy_values_can_be_read_back(
        values in proptest::collection::vec(any_plaintext(), 0..12)
    ) {
        let result = decrypted_result(ResultEncoding::Legacy, &values).unwrap();
        let word = |at: usize| U256::from_be_slice(&result[at..at + 32]);
        for (index, value) in values.iter().enumerate() {
            let mut little = if value.fhe_type < 9 {
                result[index * 32..index * 32 + 32].to_vec()
            } else {
                let at = word(index * 32).to::<usize>() - 32;
                let length = word(at).to::<usize>();
                prop_assert_eq!(length, 64 << (value.fhe_type - 9));
                result[at + 32..at + 32 + length].to_vec()
            };
            little.reverse();
            prop_assert_eq!(&little[..value.bytes.len()], value.bytes.as_ref());
            prop_assert!(little[value.bytes.len()..].iter().all(|byte| *byte == 0));
        }
        prop_assert_eq!(word(values.len() * 32).to::<usize>(), result.len() + 32);
    }

    /// T31: the whole id goes to the Core, and comes back from its text.
    #[test]
    fn any_id_is_64_digits_that_say_it(id in any::<[u8; 32]>()) {
        let id = U256::from_be_bytes(id);
        let text = request_id(id).request_id;
        prop_assert_eq!(text.len(), 64);
        prop_assert!(text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)));
        prop_assert_eq!(U256::from_str_radix(&text, 16).unwrap(), id);
    }

    /// Arbitrary bytes are an error or a value, never a panic.
    #[test]
    fn nonsense_does_no_harm(
        first in proptest::collection::vec(any::<u8>(), 0..100),
        second in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..100)),
        fhe_type in any::<i32>(),
    ) {
        let request = public(vec![material(2, 1)]);
        let response = v1::PublicDecryptionResponse {
            payload_or_external_signature: first.clone().into(),
            payload: second.map(Into::into),
            ..Default::default()
        };
        let _ = public_reply(&request, response);
        for encoding in [ResultEncoding::Legacy, ResultEncoding::Words] {
            let _ = decrypted_result(encoding, &[plaintext(fhe_type, &first)]);
        }
    }
}

#[test]
fn a_checksummed_address_is_what_the_core_parses() {
    // EIP-55's own example, so that a changed default of the library would be noticed.
    let address: Address = address!("0xdbf03b407c01e7cd3cbea99509d93f8dddc8c6fb");
    assert_eq!(address.to_checksum(None), "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB");
    assert_eq!(
        material(9, 1).handle,
        b256!("0x1111111111111111111111111111111111111111111111111111111111110911")
    );
}
