//! What counts as an attestation, and every way in which a text is none.

use alloy::signers::{SignerSync as _, local::PrivateKeySigner};
use proptest::prelude::*;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::*;

pub(in crate::flow::ciphertexts) const HANDLE: B256 = B256::repeat_byte(0xAA);

pub(in crate::flow::ciphertexts) fn signer(number: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(number)).unwrap()
}

pub(in crate::flow::ciphertexts) fn material() -> AttestedMaterial {
    AttestedMaterial {
        key_id: U256::from(69),
        ciphertext_digest: B256::repeat_byte(0x11),
        sns_ciphertext_digest: B256::repeat_byte(0x22),
        serialisation: Serialisation::UncompressedOnCpu,
    }
}

fn name(serialisation: Serialisation) -> &'static str {
    match serialisation {
        Serialisation::UncompressedOnCpu => "uncompressed_on_cpu",
        Serialisation::CompressedOnCpu => "compressed_on_cpu",
        Serialisation::UncompressedOnGpu => "uncompressed_on_gpu",
        Serialisation::CompressedOnGpu => "compressed_on_gpu",
    }
}

/// The text of an attestation about this handle.
pub(in crate::flow::ciphertexts) fn text(
    material: &AttestedMaterial,
    handle: &B256,
    key: &PrivateKeySigner,
) -> Value {
    let signature = key.sign_hash_sync(&keccak256(material.message(handle))).unwrap();
    json!({
        "version": 1,
        "key_id": material.key_id,
        "ciphertext_digest": material.ciphertext_digest,
        "sns_ciphertext_digest": material.sns_ciphertext_digest,
        "format": name(material.serialisation),
        "signer": key.address(),
        "signature": hex::encode_prefixed(signature.as_bytes()),
    })
}

pub(in crate::flow::ciphertexts) fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("X-Amz-Meta-Ct-Attestation", HeaderValue::from_str(text).unwrap());
    headers
}

fn read_text(text: &Value) -> Result<Attestation, AttestationError> {
    read(&headers(&text.to_string()), &HANDLE)
}

/// The signed message byte by byte, put together here by other code.
#[test]
fn the_signed_message_is_that_of_the_protocol() {
    let expected = [
        "464845564d435441",
        "01",
        &"aa".repeat(32),
        &format!("{:064x}", 69),
        &format!("{:064x}", 1),
        &"11".repeat(32),
        &"22".repeat(32),
        "0a",
    ];
    assert_eq!(hex::encode(material().message(&HANDLE)), expected.concat());
    for (serialisation, number) in [
        (Serialisation::UncompressedOnCpu, 10),
        (Serialisation::CompressedOnCpu, 11),
        (Serialisation::UncompressedOnGpu, 20),
        (Serialisation::CompressedOnGpu, 21),
    ] {
        let message = AttestedMaterial { serialisation, ..material() }.message(&HANDLE);
        assert_eq!(message[169], number);
        assert_eq!(Serialisation::from_name(name(serialisation)), Some(serialisation));
    }
}

#[test]
fn g1_a_signed_text_is_an_attestation_of_its_signer() {
    let key = signer(7);
    let expected = Attestation { material: material(), signer: key.address() };
    let honest = text(&material(), &HANDLE, &key);
    assert_eq!(read_text(&honest), Ok(expected));
    // The key id in decimal, the signature without its prefix and with its last byte counted from 0, and a
    // field of a later time.
    let mut other = honest.clone();
    other["key_id"] = json!("69");
    let mut signature = hex::decode(honest["signature"].as_str().unwrap()).unwrap();
    signature[64] -= 27;
    other["signature"] = json!(hex::encode(signature));
    other["colour"] = json!("blue");
    assert_eq!(read_text(&other), Ok(expected));
    assert_eq!(format_in(&headers(&honest.to_string())), Some(CiphertextFormat::BigExpanded));
}

/// Every part that is signed, and every part that is not what it should be.
#[test]
fn g1_whatever_is_changed_is_no_attestation() {
    let key = signer(7);
    let honest = text(&material(), &HANDLE, &key);
    let with = |field: &str, value: Value| {
        let mut changed = honest.clone();
        changed[field] = value;
        read_text(&changed).unwrap_err()
    };
    let is_foreign =
        |error: &AttestationError| matches!(error, AttestationError::OtherSigner { .. });
    for (field, value) in [
        ("key_id", json!("0x46")),
        ("ciphertext_digest", json!(B256::repeat_byte(0x12))),
        ("sns_ciphertext_digest", json!(B256::ZERO)),
        ("format", json!("compressed_on_cpu")),
        ("signer", json!(signer(8).address())),
    ] {
        assert!(is_foreign(&with(field, value)), "{field}");
    }
    let about_another = text(&material(), &B256::repeat_byte(0xAB), &key);
    assert!(is_foreign(&read_text(&about_another).unwrap_err()));

    assert_eq!(with("version", json!(2)), AttestationError::UnknownVersion { version: 2 });
    let folded = AttestationError::UnknownFormat { name: "folded_on_paper".into() };
    assert_eq!(with("format", json!("folded_on_paper")), folded);
    let short = with("signature", json!(&honest["signature"].as_str().unwrap()[..130]));
    assert_eq!(short, AttestationError::SignatureLength { bytes: 64 });
    assert_eq!(
        with("signature", json!("0".repeat(130))),
        AttestationError::Unrecoverable,
        "r and s of zero"
    );
    for (field, value) in [
        ("signature", json!("none")),
        ("signature", json!(7)),
        ("signer", json!("0x12")),
        ("key_id", json!(format!("0x{}", "1".repeat(65)))),
        ("key_id", Value::Null),
        ("ciphertext_digest", json!("0x11")),
        ("version", json!("1")),
        ("version", json!(-1)),
        ("format", json!(10)),
    ] {
        let error = with(field, value.clone());
        assert!(matches!(error, AttestationError::Malformed { .. }), "{field} {value}: {error}");
    }
    for field in honest.as_object().unwrap().keys() {
        let mut missing = honest.clone();
        missing.as_object_mut().unwrap().remove(field);
        assert_eq!(read_text(&missing).unwrap_err().code(), "attestation_malformed", "{field}");
    }
    assert_eq!(read(&HeaderMap::new(), &HANDLE), Err(AttestationError::Missing));
    let twice = honest.to_string().replacen('{', "{\"version\":1,", 1);
    for odd in ["", "null", "[]", "{\"version\": 1", &twice] {
        assert_eq!(
            read(&headers(odd), &HANDLE).unwrap_err().code(),
            "attestation_malformed",
            "{odd}"
        );
    }
    let long = format!("{honest}{}", " ".repeat(LONGEST));
    assert_eq!(
        read(&headers(&long), &HANDLE).unwrap_err(),
        AttestationError::TooLong { bytes: long.len() }
    );

    // Honestly signed: there is no such ciphertext.
    let none = AttestedMaterial { sns_ciphertext_digest: B256::ZERO, ..material() };
    assert_eq!(read_text(&text(&none, &HANDLE, &key)), Err(AttestationError::NoCiphertext));
}

#[test]
fn a_difference_is_named_by_the_part_that_matters_most() {
    let other = |change: &dyn Fn(&mut AttestedMaterial)| {
        let mut other = material();
        change(&mut other);
        material().difference(&other)
    };
    assert_eq!(other(&|_| {}), None);
    assert_eq!(other(&|of| of.key_id = U256::ONE), Some(Difference::KeyId));
    assert_eq!(
        other(&|of| of.sns_ciphertext_digest = B256::ZERO),
        Some(Difference::SnsCiphertextDigest)
    );
    assert_eq!(other(&|of| of.ciphertext_digest = B256::ZERO), Some(Difference::CiphertextDigest));
    let format = other(&|of| of.serialisation = Serialisation::CompressedOnGpu);
    assert_eq!(format, Some(Difference::Format));
}

proptest! {
    /// No text makes the reader fail, and what it says of a text is one short line.
    #[test]
    fn g1_any_text_is_read(text in "[ -~]{0,300}|\\{\"version\":1,[ -~]{0,200}\\}") {
        let headers = headers(&text);
        let _ = format_in(&headers);
        if let Err(error) = read(&headers, &HANDLE) {
            prop_assert!(error.to_string().chars().count() < 420, "{error}");
        }
    }

    /// One flipped bit in what is signed, and the attestation is another's or none.
    #[test]
    fn g1_no_changed_text_is_believed(place in 0..96_usize, bit in 0..8_u8, key in 1..50_u8) {
        let key = signer(key);
        let mut changed = text(&material(), &HANDLE, &key);
        let field = ["key_id", "ciphertext_digest", "sns_ciphertext_digest"][place / 32];
        let mut word = match field {
            "key_id" => material().key_id.to_be_bytes::<32>(),
            "ciphertext_digest" => material().ciphertext_digest.0,
            _ => material().sns_ciphertext_digest.0,
        };
        word[place % 32] ^= 1 << bit;
        changed[field] = json!(hex::encode_prefixed(word));
        let error = read_text(&changed).unwrap_err();
        prop_assert_eq!(error.code(), "attestation_signature");
    }
}
