//! The AWS KMS wallet against a real emulator.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::process::Command;

use alloy::primitives::keccak256;
use kms_connector::chain::wallet::{Wallet, WalletError};
use kms_connector::domain::Remedy;
use serde_json::json;
use url::Url;
use world::ministack::Ministack;

/// Credentials come from the environment alone, and a test may not change its own: the checks run
/// in a second process of this test binary.
#[tokio::test]
async fn signs_with_a_key_in_aws_kms() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Ministack::start(dir.path(), None).await.unwrap();
    let key = stack.create_key("alias/connector").await.unwrap();
    let rsa = json!({ "KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY" });
    let rsa = stack.kms("CreateKey", &rsa).await.unwrap();
    let disabled = stack.create_key("alias/to-be-disabled").await.unwrap();

    let environment = [
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("TEST_ENDPOINT", stack.url()),
        ("TEST_KEY_ID", key.id),
        ("TEST_KEY_ARN", key.arn),
        ("TEST_RSA_KEY", rsa["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()),
        ("TEST_DISABLED_KEY", disabled.id),
    ];
    run_apart("chain::wallet::inside", environment.to_vec()).await;
}

#[tokio::test]
async fn without_credentials_the_wallet_says_so() {
    let environment = vec![
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_CONFIG_FILE", "/nonexistent/config".to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials".to_owned()),
    ];
    run_apart("chain::wallet::inside_without_credentials", environment).await;
}

#[tokio::test]
#[ignore = "run by without_credentials_the_wallet_says_so"]
async fn inside_without_credentials() {
    let endpoint: Url = "http://127.0.0.1:9".parse().unwrap();
    let error = Wallet::aws_kms("alias/x", None, Some(&endpoint)).await.unwrap_err();
    assert_eq!(
        error,
        WalletError::NoCredentials(kms_connector::net::aws::MissingCredentials::None)
    );
    assert!(matches!(error.remedy(), Remedy::Hold(_)));
    let error = Wallet::aws_kms("alias/x", None, None).await.unwrap_err();
    assert_eq!(error, WalletError::NoRegion);
}

/// Runs one ignored test of this binary with nothing of AWS in its environment but `environment`.
async fn run_apart(test: &'static str, environment: Vec<(&'static str, String)>) {
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--exact", test, "--ignored", "--nocapture"])
            .envs(environment)
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[expect(clippy::disallowed_methods, reason = "a test reads what its parent passed")]
fn variable(name: &str) -> String {
    std::env::var(name).expect("started by signs_with_a_key_in_aws_kms")
}

#[tokio::test]
#[ignore = "run by signs_with_a_key_in_aws_kms with credentials in the environment"]
async fn inside() {
    let endpoint: Url = variable("TEST_ENDPOINT").parse().unwrap();
    let arn = variable("TEST_KEY_ARN");
    let alias_arn = format!("{}:alias/connector", arn.split(":key/").next().unwrap());
    let mut wallets = Vec::new();
    for (name, region) in [
        (variable("TEST_KEY_ID").as_str(), Some("us-east-1")),
        (arn.as_str(), None),
        ("alias/connector", None),
        (alias_arn.as_str(), None),
    ] {
        wallets.push(Wallet::aws_kms(name, region, Some(&endpoint)).await.unwrap());
    }
    let address = wallets[0].address();
    assert!(wallets.iter().all(|wallet| wallet.address() == address));

    // More at once than the wallet lets through at a time.
    let mut signing = tokio::task::JoinSet::new();
    for index in 0..60_u32 {
        let wallet = wallets[index as usize % wallets.len()].clone();
        let hash = keccak256((u64::from(index) ^ fastrand::u64(..)).to_be_bytes());
        signing.spawn(async move { (hash, wallet.sign_hash(hash).await) });
    }
    while let Some(joined) = signing.join_next().await {
        let (hash, signature) = joined.unwrap();
        let signature = signature.unwrap();
        assert_eq!(signature.recover_address_from_prehash(&hash).unwrap(), address);
        assert!(signature.normalize_s().is_none(), "low-s");
    }

    let rsa = Wallet::aws_kms(&variable("TEST_RSA_KEY"), None, Some(&endpoint)).await.unwrap_err();
    assert!(matches!(rsa, WalletError::UnsuitableKey { .. }), "{rsa}");
    assert!(rsa.to_string().contains("RSA_2048"), "{rsa}");

    let unknown = Wallet::aws_kms("alias/nobody", None, Some(&endpoint)).await.unwrap_err();
    assert!(matches!(unknown, WalletError::NotFound { .. }), "{unknown}");

    // A key that is disabled while in use.
    let key = variable("TEST_DISABLED_KEY");
    let wallet = Wallet::aws_kms(&key, None, Some(&endpoint)).await.unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let disabled = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .post(endpoint)
        .header("X-Amz-Target", "TrentService.DisableKey")
        .header("Content-Type", "application/x-amz-json-1.1")
        .body(json!({ "KeyId": key }).to_string())
        .send()
        .await
        .unwrap();
    assert!(disabled.status().is_success());
    let error = wallet.sign_hash(keccak256(b"x")).await.unwrap_err();
    assert!(matches!(error, WalletError::KeyDisabled { .. }), "{error}");
    assert!(matches!(error.remedy(), Remedy::Hold(_)));
}
