//! The key in memory, and a scripted AWS KMS.

use std::io::{Read, Write};
use std::time::Duration;

use alloy::primitives::{U256, address, hex, keccak256};
use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_kms::error::SdkError;
use aws_sdk_kms::operation::get_public_key::GetPublicKeyOutput;
use aws_sdk_kms::operation::sign::SignOutput;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeySpec, KeyUsageType};
use k256::ecdsa::SigningKey;
use k256::ecdsa::signature::hazmat::PrehashSigner;

use super::aws_errors::{classify, classify_code};
use super::aws_kms::{call_with_retries, recoverable_signature, region_of_arn, usable_public_key};
use super::*;
use crate::net::aws::CredentialsProvider;

fn static_config(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("AKIDTEST", "not-a-secret", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

#[tokio::test]
async fn a_local_key_signs_for_its_address_and_never_prints() {
    let mut key = [0_u8; 32];
    key[31] = 1;
    let wallet = Wallet::from_private_key(&key).unwrap();
    // The address of private key 1.
    assert_eq!(wallet.address(), address!("7e5f4552091a69125d5dfcb7b8c2659029395bdf"));
    for index in 0..20_u8 {
        let hash = keccak256([index]);
        let signature = wallet.sign_hash(hash).await.unwrap();
        assert_eq!(signature.recover_address_from_prehash(&hash).unwrap(), wallet.address());
        assert!(signature.normalize_s().is_none(), "already low-s");
    }

    let canary = [0xab_u8; 32];
    let wallet = Wallet::from_private_key(&canary).unwrap();
    let printed = format!("{wallet:?}").to_lowercase();
    assert!(!printed.contains("abab") && !printed.contains("171, 171"), "{printed}");
    assert!(printed.contains("address"));
}

#[test]
fn bad_private_keys_are_refused_without_being_quoted() {
    for bad in [&[0_u8; 32][..], &[0xff; 32], &[1; 31], &[1; 33], &[]] {
        let error = Wallet::from_private_key(bad).unwrap_err();
        assert_eq!(error, WalletError::InvalidPrivateKey);
        assert!(!format!("{error:?} {error}").contains("ff"));
    }
}

#[test]
fn a_high_s_signature_is_brought_low_and_a_stranger_s_refused() {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let hash = keccak256(b"hash");
    let low: k256::ecdsa::Signature = key.sign_prehash(hash.as_slice()).unwrap();
    let low = low.normalize_s().unwrap_or(low);
    let high = k256::ecdsa::Signature::from_scalars(*low.r(), -*low.s()).unwrap();
    assert!(high.normalize_s().is_some());
    for form in [low, high] {
        let output = SignOutput::builder().signature(Blob::new(form.to_der().as_bytes())).build();
        let signature = recoverable_signature(&output, hash, key.verifying_key()).unwrap();
        assert_eq!(signature.s(), U256::from_be_slice(&low.s().to_bytes()));
        assert_eq!(
            signature.recover_address_from_prehash(&hash).unwrap(),
            Address::from_public_key(key.verifying_key())
        );
        let stranger = SigningKey::from_slice(&[8; 32]).unwrap();
        let refused = recoverable_signature(&output, hash, stranger.verifying_key());
        assert_eq!(refused, Err(WalletError::DifferentKey));
    }
    let garbage = SignOutput::builder().signature(Blob::new([1, 2, 3])).build();
    assert!(matches!(
        recoverable_signature(&garbage, hash, key.verifying_key()),
        Err(WalletError::InvalidAnswer(_))
    ));
}

#[test]
fn only_a_secp256k1_signing_key_is_usable() {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    // SubjectPublicKeyInfo of an uncompressed point on secp256k1, as AWS KMS encodes it.
    let mut der = hex!("3056301006072a8648ce3d020106052b8104000a034200").to_vec();
    der.extend_from_slice(key.verifying_key().to_encoded_point(false).as_bytes());
    let output = |spec: KeySpec, usage: KeyUsageType, der: &[u8]| {
        GetPublicKeyOutput::builder()
            .key_spec(spec)
            .key_usage(usage)
            .public_key(Blob::new(der))
            .build()
    };
    let good = output(KeySpec::EccSecgP256K1, KeyUsageType::SignVerify, &der);
    assert_eq!(usable_public_key(&good).unwrap(), *key.verifying_key());
    for bad in [
        output(KeySpec::Rsa2048, KeyUsageType::SignVerify, &der),
        output(KeySpec::EccSecgP256K1, KeyUsageType::KeyAgreement, &der),
        output(KeySpec::EccSecgP256K1, KeyUsageType::SignVerify, b"nonsense"),
    ] {
        let error = usable_public_key(&bad).unwrap_err();
        assert!(matches!(error, WalletError::UnsuitableKey { .. }), "{error}");
        assert!(matches!(error.remedy(), Remedy::Hold(_)));
    }
}

#[test]
fn the_region_of_an_arn_is_found() {
    assert_eq!(region_of_arn("arn:aws:kms:eu-west-3:1:key/x"), Some("eu-west-3"));
    assert_eq!(region_of_arn("arn:aws-cn:kms:cn-north-1:1:alias/x"), Some("cn-north-1"));
    assert_eq!(region_of_arn("arn:aws:kms::1:key/x"), None);
    assert_eq!(region_of_arn("alias/x"), None);
    assert_eq!(region_of_arn("1a57f5af-2319-481f-92fa-274d7e981de5"), None);
}

/// A client built without an HTTPS connector compiles, and fails only at the first signature.
///
/// Field failure T42.
#[tokio::test]
async fn the_aws_client_has_an_http_client() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for scheme in ["http", "https"] {
        let config = static_config(&format!("{scheme}://{address}"));
        let client = aws_sdk_kms::Client::from_conf(
            aws_sdk_kms::config::Builder::from(&config)
                .retry_config(RetryConfig::disabled())
                .build(),
        );
        let error = client.get_public_key().key_id("k").send().await.unwrap_err();
        let SdkError::DispatchFailure(failure) = &error else { panic!("{error:?}") };
        assert!(failure.is_io(), "{error:?}");
        let error = classify(&error);
        assert!(matches!(error, WalletError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
    }
}

/// A scripted AWS KMS: one canned answer per connection, the last one repeated.
fn scripted(answers: Vec<(u16, String)>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut seen = Vec::new();
            let mut buffer = [0_u8; 4096];
            // Bodies are small JSON objects: the closing brace ends the request.
            while !seen.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => seen.extend_from_slice(&buffer[..count]),
                }
            }
            let (status, body) = &answers[index.min(answers.len() - 1)];
            let text = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.1\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(text.as_bytes());
        }
    });
    format!("http://{address}")
}

fn refusal(code: &str) -> String {
    format!(r#"{{"__type":"{code}","message":"secret words of the service"}}"#)
}

#[tokio::test]
async fn throttling_is_waited_out_and_refusals_are_not() {
    let throttled = (400, refusal("ThrottlingException"));
    let internal = (500, refusal("KMSInternalException"));
    let denied = (400, refusal("AccessDeniedException"));
    let endpoint = scripted(vec![throttled.clone(), throttled, internal, denied]);
    let error = AwsKmsWallet::connect(&static_config(&endpoint), "k").await.unwrap_err();
    assert_eq!(error, WalletError::AccessDenied { code: "AccessDeniedException".into() });
    assert!(matches!(error.remedy(), Remedy::Hold(_)));
    assert!(!error.to_string().contains("secret words"));
}

#[test]
fn codes_are_told_apart() {
    let retried = |code| classify_code(Some(code)).remedy() == Remedy::Retry;
    for code in ["ThrottlingException", "KMSInternalException", "DependencyTimeoutException"] {
        assert!(retried(code), "{code}");
    }
    for code in ["DisabledException", "NotFoundException", "AccessDeniedException", "Novel"] {
        assert!(!retried(code), "{code}");
    }
    assert_eq!(classify_code(None).remedy(), Remedy::Retry);
    for code in ["ExpiredTokenException", "RequestTimeTooSkewed"] {
        let said = classify_code(Some(code)).to_string();
        assert!(retried(code) && said.contains(code), "{said}");
    }
    assert!(matches!(
        classify_code(Some("KMSInvalidStateException")),
        WalletError::KeyDisabled { .. }
    ));
}

/// Takes this long for each answer, and fails this many times first.
#[derive(Debug)]
struct Slow(Duration, std::sync::atomic::AtomicUsize);

impl ProvideCredentials for Slow {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use std::sync::atomic::Ordering;
        future::ProvideCredentials::new(async {
            tokio::time::sleep(self.0).await;
            if self
                .1
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
            {
                return Err(CredentialsError::provider_error("the agent is not up yet"));
            }
            Ok(Credentials::new("AKIDTEST", "not-a-secret", None, None, "test"))
        })
    }
}

fn config_with(endpoint: &str, provider: Slow) -> SdkConfig {
    let provider = SharedCredentialsProvider::new(provider);
    static_config(endpoint).into_builder().credentials_provider(provider).build()
}

/// A credentials provider that takes longer than a call may: the SDK's own cache would start again with
/// each call.
#[tokio::test]
async fn c4_a_wallets_credentials_may_be_late() {
    let endpoint = scripted(vec![(400, refusal("AccessDeniedException"))]);
    let slow = Slow(Duration::from_millis(2_500), 0.into());
    let error = AwsKmsWallet::connect(&config_with(&endpoint, slow), "k").await.unwrap_err();
    assert!(matches!(error, WalletError::AccessDenied { .. }), "{error}");
}

/// The provider's error is reported, and a failed lookup is not reported as missing credentials.
#[tokio::test]
async fn c4_what_a_wallets_credentials_lack_is_named() {
    let failing = Slow(Duration::ZERO, usize::MAX.into());
    let credentials = AwsCredentials::new(None, Some(SharedCredentialsProvider::new(failing)));
    let config = static_config("http://127.0.0.1:9");
    let config = aws_sdk_kms::config::Builder::from(&config)
        .credentials_provider(CredentialsProvider(Arc::new(credentials)))
        .identity_cache(IdentityCache::no_cache())
        .build();
    let client = aws_sdk_kms::Client::from_conf(config);
    let error = classify(&client.get_public_key().key_id("k").send().await.unwrap_err());
    assert!(
        matches!(&error, WalletError::NoCredentials(MissingCredentials::Failed(_))),
        "{error:?}"
    );
    assert!(error.to_string().contains("the agent is not up yet"), "{error}");
    assert_eq!(error.remedy(), Remedy::Retry);
}

/// An unreachable proxy is reported as such and not as AWS KMS.
#[tokio::test]
async fn c5_the_proxy_on_the_way_to_aws_kms_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    drop(listener);
    let calling = || async {
        let config = static_config("https://kms.example");
        let config = aws_sdk_kms::config::Builder::from(&config)
            .http_client(
                Proxies::new(crate::net::proxy::parse(&proxy).ok(), None, "")
                    .aws_client(&[])
                    .unwrap(),
            )
            .retry_config(RetryConfig::disabled())
            .build();
        aws_sdk_kms::Client::from_conf(config).get_public_key().key_id("k").send().await
    };
    let second = Duration::from_secs(1);
    let error = call_with_retries(second, second, Some(&proxy), |_| {}, calling).await.unwrap_err();
    assert!(error.to_string().contains(&format!("through the proxy {proxy}")), "{error}");
}

/// One connection over TLS, with a certificate of an authority that no system knows.
async fn refuse_over_tls(listener: tokio::net::TcpListener, tls: Arc<rustls::ServerConfig>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (stream, _) = listener.accept().await.unwrap();
    let Ok(mut stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { return };
    let _ = stream.read(&mut [0; 4096]).await;
    let body = refusal("AccessDeniedException");
    let head = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn c4_an_endpoint_of_a_private_authority_is_reached_with_its_ca_file() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let certificate = made.cert.der().clone();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let tls = Arc::new(tls);
    for authorities in [vec![certificate], Vec::new()] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut config = static_config(&format!("https://localhost:{port}")).into_builder();
        config.set_http_client(Proxies::default().aws_client(&authorities));
        let config = aws_sdk_kms::config::Builder::from(&config.build())
            .retry_config(RetryConfig::disabled())
            .build();
        let client = aws_sdk_kms::Client::from_conf(config);
        let calling = client.get_public_key().key_id("k").send();
        let (answer, ()) = tokio::join!(calling, refuse_over_tls(listener, tls.clone()));
        let error = classify(&answer.unwrap_err());
        let is_reached = matches!(error, WalletError::AccessDenied { .. });
        assert_eq!(is_reached, !authorities.is_empty(), "{error}");
    }
}
