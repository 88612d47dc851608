//! Room 2 against a real S3 emulator.

use alloy::primitives::{Address, U256, keccak256};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use kms_connector::{
    contracts::abi::CiphertextSource,
    domain::{Ciphertext, CiphertextFormat, Material, Remedy},
    flow::ciphertexts::FallbackStore,
};

use super::room::{Table, request_of, room};
use world::ministack::Ministack;

fn material(fhe_type: u8, body: &[u8]) -> Material {
    let mut handle = keccak256(body);
    handle.0[30] = fhe_type;
    Material {
        handle,
        key_id: U256::from(1),
        digest: keccak256(body),
        coprocessors: vec![Address::with_last_byte(1)],
    }
}

#[tokio::test]
async fn brings_ciphertexts_from_s3() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Ministack::start(dir.path(), None).await.unwrap();
    let bucket = stack.bucket("ct128").await.unwrap();
    let mut materials = Vec::new();
    let mut bodies = Vec::new();
    // Bool, Uint64 and Uint256 at their uncompressed sizes.
    for (index, (fhe_type, length)) in
        [(0, 65_600), (5, 1_049_000), (8, 4_195_500)].into_iter().enumerate()
    {
        let body: Vec<u8> =
            (0..length).map(|at: usize| ((at + index) % 251).to_le_bytes()[0]).collect();
        let format = ["compressed_on_cpu", "uncompressed_on_cpu"].get(index).copied();
        bucket.put_ciphertext(&body, format).await.unwrap();
        materials.push(material(fhe_type, &body));
        bodies.push(body);
    }
    let check = |ciphertexts: &[Ciphertext]| {
        for (ciphertext, body) in ciphertexts.iter().zip(&bodies) {
            assert_eq!(ciphertext.body, *body);
        }
        let formats: Vec<_> = ciphertexts.iter().map(|ciphertext| ciphertext.format).collect();
        assert_eq!(
            formats,
            [
                CiphertextFormat::BigCompressed,
                CiphertextFormat::BigExpanded,
                CiphertextFormat::BigExpanded
            ]
        );
    };

    let (request, digest) = (request_of(materials), CiphertextSource::Digest);
    let registered = room(Table::of_url(Some(format!("{}/", bucket.url()))), None);
    let fetched = registered.fetch(&request, digest).await.unwrap();
    assert_eq!(fetched.key_id, U256::from(1));
    check(&fetched.ciphertexts);
    let missing = request_of(vec![material(0, b"nobody put this")]);
    let missing = registered.fetch(&missing, digest).await.unwrap_err();
    assert_eq!(missing.remedy(std::time::Duration::MAX), Remedy::Retry, "{missing}");
    assert!(missing.to_string().contains("404"), "{missing}");

    let credentials = Credentials::new("test", "test", None, None, "test");
    let store = FallbackStore::with_credentials(
        "us-east-1",
        "ct128",
        Some(&stack.url()),
        Some(SharedCredentialsProvider::new(credentials)),
    )
    .unwrap();
    let fallback = room(Table::of_url(None), Some(store));
    check(&fallback.fetch(&request, digest).await.unwrap().ciphertexts);
    assert_eq!(fallback.reserved_kib(), 0);
}
