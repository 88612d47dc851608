//! Every key, in each of its places.

use super::*;

/// A value of each key that differs from its default.
fn sample(key: Key, directory: &Path) -> String {
    match key {
        Key::Enabled => "false".to_owned(),
        Key::Mode => "observe".to_owned(),
        Key::ServiceName => "sample".to_owned(),
        Key::GatewayUrl => "wss://gateway.example/path".to_owned(),
        Key::GatewayFallbackUrls => "wss://one.example/path, http://two.example".to_owned(),
        Key::KmsCoreEndpoint => "https://core.example:1".to_owned(),
        Key::ChainId => "7".to_owned(),
        Key::DecryptionAddress | Key::ProtocolConfigAddress => ADDRESS.to_owned(),
        Key::GatewayConfigAddress => "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359".to_owned(),
        Key::KmsGenerationAddress => "0xd1220a0cf47c7b9be7a2e6ba89f429762e7b9adb".to_owned(),
        Key::ModeOfKeyManagement => "hold".to_owned(),
        Key::RepresentationOfKeys => "compressed".to_owned(),
        Key::HostChains => format!(
            "[{{\"chainId\": 5, \"url\": \"https://host.example/k\", \"aclAddress\": \"{ADDRESS}\"}}]"
        ),
        Key::HostChainMaxConcurrentCalls => "9".to_owned(),
        Key::HostChainCallTimeoutSecs => "4".to_owned(),
        Key::Erc1271GasLimit => "30000".to_owned(),
        Key::EthereumUrl => "wss://ethereum.example/path".to_owned(),
        Key::EthereumFallbackUrls => "wss://ethereum.example/path, http://x.example".to_owned(),
        Key::EthereumChainId => "11155111".to_owned(),
        Key::EthereumStartingBlock => "8".to_owned(),
        Key::EthereumConfirmations => "12".to_owned(),
        Key::EthereumMaxFeePerGasGwei => "0.5".to_owned(),
        Key::PrivateKeyText => KEY.to_owned(),
        Key::PrivateKeyFile => {
            let path = directory.join("key");
            fs::write(&path, "ab".repeat(32)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path.to_str().unwrap().to_owned()
        }
        Key::AwsKeyId => "arn:aws:kms:us-east-1:111122223333:key/1234".to_owned(),
        Key::AwsRegion | Key::S3Region => "eu-west-3".to_owned(),
        Key::AwsEndpoint => "http://kms.example".to_owned(),
        Key::S3Bucket => "bucket.x".to_owned(),
        Key::S3Endpoint => "https://s3.example".to_owned(),
        Key::CaFile => {
            let path = directory.join("ca.pem");
            fs::write(&path, PEM).unwrap();
            path.to_str().unwrap().to_owned()
        }
        Key::ChannelSize => "17".to_owned(),
        Key::PublicDecryptionTimeoutSecs => "18".to_owned(),
        Key::UserDecryptionTimeoutSecs => "19".to_owned(),
        Key::RetryIntervalSecs => "20".to_owned(),
        Key::DecryptionDomainName => "D".to_owned(),
        Key::GatewayConfigDomainName => "G".to_owned(),
        Key::DecryptionDomainVersion | Key::GatewayConfigDomainVersion => "2".to_owned(),
        Key::VerifyCoprocessors => "true".to_owned(),
        Key::GasLimit => "500000".to_owned(),
        Key::MaxFeePerGasGwei => "0.25".to_owned(),
        Key::StartingBlock => "0".to_owned(),
        Key::MinimumGeneration => "G13".to_owned(),
        Key::Finality | Key::EthereumFinality => "safe".to_owned(),
        Key::Confirmations
        | Key::PublicDecryptionConfirmations
        | Key::UserDecryptionConfirmations => "3".to_owned(),
        Key::RequestExpirySecs => "7200".to_owned(),
        Key::HeldRetrySecs => "30".to_owned(),
        Key::JournalRetentionDays => "1".to_owned(),
        Key::CiphertextMemoryMib => "160".to_owned(),
        Key::MaxRequestsInFlight => "5".to_owned(),
        Key::MaxTransactionsInFlight => "1024".to_owned(),
    }
}

/// Other keys that a key needs: a wallet, and for members of a table the rest of it.
fn beside(key: Key) -> Environment {
    if matches!(key, Key::PrivateKeyText | Key::PrivateKeyFile | Key::AwsKeyId) {
        env([])
    } else if matches!(key, Key::AwsRegion | Key::AwsEndpoint) {
        env([("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "id")])
    } else if matches!(key, Key::S3Region | Key::S3Endpoint) {
        env([WALLET, ("KMS_CONNECTOR_S3_CONFIG__BUCKET", "b")])
    } else if key == Key::S3Bucket {
        env([WALLET, ("KMS_CONNECTOR_S3_CONFIG__REGION", "r")])
    } else if ETHEREUM.contains(&key) {
        let mut environment = env([
            WALLET,
            ("KMS_CONNECTOR_ETHEREUM_URL", "http://one.example"),
            ("KMS_CONNECTOR_ETHEREUM_CHAIN_ID", "1"),
            ("KMS_CONNECTOR_PROTOCOL_CONFIG_ADDRESS", ADDRESS),
        ]);
        environment.0.remove(&format!("KMS_CONNECTOR_{}", key.variable()));
        environment
    } else {
        env([WALLET])
    }
}

const ETHEREUM: [Key; 8] = [
    Key::EthereumUrl,
    Key::EthereumFallbackUrls,
    Key::EthereumChainId,
    Key::ProtocolConfigAddress,
    Key::EthereumStartingBlock,
    Key::EthereumFinality,
    Key::EthereumConfirmations,
    Key::EthereumMaxFeePerGasGwei,
];

#[test]
fn every_key_counts_in_file_and_environment() {
    let directory = tempfile::tempdir().unwrap();
    for key in Key::ALL.iter().copied() {
        let value = sample(key, directory.path());
        let without = load(&source(beside(key))).map(|loaded| loaded.config).ok();
        let mut environment = beside(key);
        environment.0.insert(format!("KMS_CONNECTOR_{}", key.variable()), value.clone().into());
        let by_variable = load(&source(environment)).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(Some(&by_variable.config), without.as_ref(), "{key} changes nothing");

        let quoted = [format!("{} = {value:?}", key.name())];
        let plain = (value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok())
            .then(|| format!("{} = {value}", key.name()));
        for text in quoted.into_iter().chain(plain) {
            let by_file = load_text(&text, beside(key), LoadMode::Start);
            let by_file = by_file.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(by_file.config, by_variable.config, "{text}");
        }

        let instance = format!("KMS_CONNECTOR_INSTANCE_ONE__{}", key.variable());
        let mut environment = beside(key);
        environment.0.insert(instance, value.into());
        let by_instance = load_text("", environment, LoadMode::Start).unwrap();
        assert_eq!(by_instance.config, by_variable.config, "{key}");
    }
}

#[test]
fn hex_with_and_without_prefix_and_in_any_case() {
    let address =
        |text: &str| good(&format!("decryption_address = {text:?}")).config.decryption_address;
    let plain = ADDRESS.strip_prefix("0x").unwrap();
    for text in [ADDRESS, plain, &plain.to_lowercase(), &plain.to_uppercase()] {
        assert_eq!(address(text).to_string(), ADDRESS);
    }
}
