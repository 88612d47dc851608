//! Room 2 against a real S3 emulator.

use std::sync::Arc;

use alloy::primitives::{Address, U256, keccak256};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use kms_connector::domain::{Ciphertext, CiphertextFormat, Material, Remedy};
use kms_connector::flow::ciphertexts::{
    BucketClient, BucketLookupError, BucketRegistry, Ciphertexts, CiphertextsOptions,
    FallbackStore, SMALLEST_MEMORY_MIB,
};
use kms_connector::telemetry::metrics::Metrics;
use world::ministack::Ministack;

struct OneUrl(Option<String>);

impl BucketRegistry for OneUrl {
    async fn bucket_url_of(&self, _: Address) -> Result<Option<String>, BucketLookupError> {
        Ok(self.0.clone())
    }

    async fn is_known_coprocessor(&self, _: Address) -> Result<bool, BucketLookupError> {
        Ok(true)
    }
}

fn room(url: Option<String>, fallback: Option<FallbackStore>) -> Ciphertexts<OneUrl> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has the default versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ciphertexts::new(CiphertextsOptions {
        buckets: Arc::new(OneUrl(url)),
        fallback,
        memory_mib: SMALLEST_MEMORY_MIB,
        verify_coprocessors: false,
        http: BucketClient::new(tls, &kms_connector::net::proxy::Proxies::default())
            .expect("a client"),
        metrics: Metrics::default(),
    })
}

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

    let registered = room(Some(format!("{}/", bucket.url())), None);
    check(&registered.fetch(&materials).await.unwrap().ciphertexts);
    let missing = registered.fetch(&[material(0, b"nobody put this")]).await.unwrap_err();
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
    let fallback = room(None, Some(store));
    check(&fallback.fetch(&materials).await.unwrap().ciphertexts);
    assert_eq!(fallback.reserved_kib(), 0);
}
