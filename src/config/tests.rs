//! The loader from outside: files in temporary directories, environments as values.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::raw::Key;
use super::*;
use crate::domain::PerKind;

const KEY: &str = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
const ADDRESS: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"; // an example of EIP-55
const WALLET: (&str, &str) = ("KMS_CONNECTOR_PRIVATE_KEY", KEY);

fn env<const N: usize>(variables: [(&str, &str); N]) -> Environment {
    variables.into_iter().collect()
}

fn source(environment: Environment) -> Source {
    Source { file: None, environment, credentials_directory: None, mode: Mode::Start }
}

/// Loads `text` as if it stood in a file called one.toml.
fn load_text(text: &str, environment: Environment, mode: Mode) -> Result<Loaded, Problems> {
    let path = PathBuf::from("one.toml");
    let source = Source { file: Some(path.clone()), mode, ..source(environment) };
    let (config, warnings, _) = assemble(Some((&path, text)), &source)?;
    Ok(Loaded { config, warnings })
}

fn good(text: &str) -> Loaded {
    load_text(text, env([WALLET]), Mode::Start).unwrap()
}

fn bad(text: &str) -> Vec<Problem> {
    load_text(text, env([WALLET]), Mode::Start).unwrap_err().as_slice().to_vec()
}

/// The one problem of `text`.
fn problem(text: &str) -> Problem {
    let problems = bad(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

fn line(place: &Place) -> Option<usize> {
    match place {
        Place::File { line, .. } => *line,
        Place::Configuration | Place::Variable(_) => None,
    }
}

fn warned(loaded: &Loaded, key: &str) -> bool {
    loaded.warnings.iter().any(|warning| warning.key.as_deref() == Some(key))
}

// ---- the seed

#[test]
fn defaults_are_the_seeds() {
    let config = load(&source(env([WALLET]))).unwrap().config;
    assert_eq!(config.gateway_url.expose().as_str(), "ws://localhost:8545/");
    assert_eq!(config.kms_core_endpoint.expose().as_str(), "http://[::1]:50052/");
    assert_eq!(config.chain_id, 31337);
    let hex = |address: alloy::primitives::Address| format!("{address:#x}");
    assert_eq!(hex(config.decryption_address), "0x5fbdb2315678afecb367f032d93f642f64180aa3");
    assert_eq!(hex(config.gateway_config_address), "0x0000000000000000000000000000000000000001");
    assert_eq!(config.channel_size, 1000);
    assert_eq!(config.service_name, "kms-connector");
    assert_eq!(config.answer_timeout, PerKind::all(Duration::from_mins(5)));
    assert_eq!(config.retry_interval, Duration::from_secs(5));
    assert_eq!(config.decryption_domain.name, "Decryption");
    assert_eq!(config.decryption_domain.version, "1");
    assert_eq!(config.gateway_config_domain.name, "GatewayConfig");
    assert_eq!(config.gateway_config_domain.version, "1");
    assert!(!config.verify_coprocessors);
    assert_eq!((config.s3, config.gas_limit), (None, None));
    // Beyond the seed.
    assert!(config.enabled);
    assert_eq!(config.starting_block, StartingBlock::Latest);
    assert_eq!(config.request_expiry, Duration::from_hours(24));
    assert_eq!(config.journal_retention, Duration::from_hours(7 * 24));
    assert_eq!(config.ciphertext_memory, 512 << 20);
    assert_eq!(config.max_requests_in_flight, 1000);
    assert_eq!(config.max_transactions_in_flight, 512);
    assert_eq!(config.held_retry, Duration::from_mins(5));
    assert_eq!((config.max_fee_per_gas, config.private_authorities), (1_000_000_000_000, None));
    assert_eq!(config.gateway_fallback_urls, []);
    assert_eq!(config.finality, Finality::Latest);
    assert_eq!(config.confirmations, PerKind::all(0));
}

#[test]
fn fallback_urls_are_a_list_or_stand_between_commas() {
    let urls = |config: &Config| -> Vec<String> {
        config.gateway_fallback_urls.iter().map(|url| url.expose().to_string()).collect()
    };
    let expected = ["wss://a.example/key", "http://b.example:1/?k=x%2Cy"];
    let list =
        good("gateway_fallback_urls = ['wss://a.example/key', 'http://b.example:1?k=x%2Cy']");
    assert_eq!(urls(&list.config), expected);
    let text = "wss://a.example/key , http://b.example:1?k=x%2Cy";
    let environment = env([WALLET, ("KMS_CONNECTOR_GATEWAY_FALLBACK_URLS", text)]);
    assert_eq!(urls(&load(&source(environment)).unwrap().config), expected);
    assert_eq!(list.config.gateways(), "ws://localhost:8545, wss://a.example, http://b.example:1");
    assert_eq!(urls(&good("gateway_fallback_urls = []").config), [""; 0]);
    let nine = (0..9).map(|n| format!("'ws://h{n}'")).collect::<Vec<_>>().join(",");
    for (bad, found) in [
        ("['tcp://x']", "a URL with tcp://"),
        ("['ws://a', 'ws://']", "a broken URL"),
        ("[1]", "a list with something else than texts"),
        ("7", "an integer"),
        ("'ws://a,,ws://b'", "without ://"),
        ("['ws://a', 'ws://a']", "the same URL twice"),
        ("['ws://localhost:8545']", "the same URL twice"),
        (&format!("[{nine}]"), "9 URLs"),
    ] {
        let problem = problem(&format!("gateway_fallback_urls = {bad}"));
        assert!(problem.found.contains(found), "{bad}: {}", problem.found);
    }
}

#[test]
fn confirmations_count_for_all_kinds_or_for_one() {
    let of = |text: &str| {
        let PerKind { public_decryption, user_decryption } = good(text).config.confirmations;
        (public_decryption, user_decryption)
    };
    assert_eq!(of("confirmations = 5"), (5, 5));
    assert_eq!(of("confirmations = 5\npublic_decryption_confirmations = 9"), (9, 5));
    assert_eq!(of("user_decryption_confirmations = 2"), (0, 2));
    assert_eq!(good("finality = 'finalized'").config.finality, Finality::Finalized);
    for bad in ["finality = 'final'", "finality = 1", "confirmations = -1"] {
        problem(bad);
    }
}

/// The seed's "Configuration Structure", to the letter.
const SEED_EXAMPLE: &str = include_str!("../../tests/world/documented-example.toml");

/// Field failure T32.
#[test]
fn the_seeds_example_loads_once_filled_in() {
    let problems = load_text(SEED_EXAMPLE, env([]), Mode::Supervise).unwrap_err();
    let found: Vec<_> = problems.as_slice().iter().map(|problem| line(&problem.place)).collect();
    assert_eq!(found, [Some(26), Some(29)], "{problems}");

    let filled = SEED_EXAMPLE.replacen("0x...", ADDRESS, 1).replacen(
        "0x...",
        "0x0000000000000000000000000000000000000001",
        1,
    );
    let loaded = load_text(&filled, env([]), Mode::Supervise).unwrap();
    let config = &loaded.config;
    assert_eq!(config.service_name, "my-connector");
    assert_eq!(config.kms_core_endpoint.to_string(), "http://localhost:50052");
    assert_eq!(config.gateway_url.to_string(), "ws://localhost:8757");
    assert_eq!(config.chain_id, 1337);
    assert_eq!(config.decryption_address.to_string(), ADDRESS);
    let Some(Wallet::PrivateKey(key)) = &config.wallet else {
        panic!("the private key comes first")
    };
    assert_eq!(key.expose()[31], 1);
    let s3 = config.s3.as_ref().unwrap();
    assert_eq!(s3.bucket, "my-ciphertext-bucket");
    assert_eq!(s3.region.as_deref(), Some("us-east-1"));
    assert_eq!(s3.endpoint.as_ref().unwrap().to_string(), "http://localhost:9876");
    let lifted: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|warning| warning.message.contains("[aws_kms_config]"))
        .map(|warning| (warning.key.as_deref().unwrap(), line(&warning.place).unwrap()))
        .collect();
    assert_eq!(
        lifted,
        [
            ("kms_core_endpoint", 17),
            ("gateway_url", 20),
            ("chain_id", 23),
            ("decryption_address", 26),
            ("gateway_config_address", 29),
            ("channel_size", 32),
        ]
    );
    assert!(warned(&loaded, "private_key"), "a publicly known key");
    assert!(warned(&loaded, "aws_kms_config.key_id"), "given and not used");
}

#[test]
fn the_seeds_environment_loads() {
    let loaded = load(&source(env([
        ("KMS_CONNECTOR_GATEWAY_URL", "ws://localhost:8547"),
        ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", "http://localhost:50052"),
        ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "alias/my-kms-key"),
        ("KMS_CONNECTOR_AWS_KMS_CONFIG__REGION", "us-east-1"),
        ("KMS_CONNECTOR_AWS_KMS_CONFIG__ENDPOINT", "http://localhost:4566"),
        ("KMS_CONNECTOR_CHAIN_ID", "31337"),
        ("KMS_CONNECTOR_DECRYPTION_ADDRESS", ADDRESS),
        ("KMS_CONNECTOR_GATEWAY_CONFIG_ADDRESS", "0000000000000000000000000000000000000001"),
        ("KMS_CONNECTOR_S3_CONFIG__REGION", "us-east-1"),
        ("KMS_CONNECTOR_S3_CONFIG__BUCKET", "my-ciphertext-bucket"),
        ("KMS_CONNECTOR_S3_CONFIG__ENDPOINT", "http://localhost:9876"),
        ("KMS_CONNECTOR_CONFIG_DIR", "/etc/kms-connector"),
    ])))
    .unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let Some(Wallet::AwsKms { key_id, region, endpoint }) = loaded.config.wallet else { panic!() };
    assert_eq!(key_id, "alias/my-kms-key");
    assert_eq!(region.as_deref(), Some("us-east-1"));
    assert_eq!(endpoint.unwrap().to_string(), "http://localhost:4566");
    assert_eq!(loaded.config.s3.unwrap().bucket, "my-ciphertext-bucket");
}

#[test]
fn the_environment_wins_over_the_file_over_the_defaults() {
    let environment = env([WALLET, ("KMS_CONNECTOR_CHAIN_ID", "3")]);
    let text = "chain_id = 2\nchannel_size = 9";
    let config = load_text(text, environment, Mode::Start).unwrap().config;
    assert_eq!((config.chain_id, config.channel_size, config.max_requests_in_flight), (3, 9, 1000));
}

// ---- every key

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
        Key::DecryptionAddress => ADDRESS.to_owned(),
        Key::GatewayConfigAddress => "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359".to_owned(),
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
        Key::Finality => "safe".to_owned(),
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

/// A block in the form of a certificate; what is in it is not this room's business.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// What a key needs beside it: a wallet, and for parts of a table the rest of it.
fn beside(key: Key) -> Environment {
    if matches!(key, Key::PrivateKeyText | Key::PrivateKeyFile | Key::AwsKeyId) {
        env([])
    } else if matches!(key, Key::AwsRegion | Key::AwsEndpoint) {
        env([("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "id")])
    } else if matches!(key, Key::S3Region | Key::S3Endpoint) {
        env([WALLET, ("KMS_CONNECTOR_S3_CONFIG__BUCKET", "b")])
    } else if key == Key::S3Bucket {
        env([WALLET, ("KMS_CONNECTOR_S3_CONFIG__REGION", "r")])
    } else {
        env([WALLET])
    }
}

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
            let by_file = load_text(&text, beside(key), Mode::Start);
            let by_file = by_file.unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(by_file.config, by_variable.config, "{text}");
        }

        let instance = format!("KMS_CONNECTOR_INSTANCE_ONE__{}", key.variable());
        let mut environment = beside(key);
        environment.0.insert(instance, value.into());
        let by_instance = load_text("", environment, Mode::Start).unwrap();
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

// ---- what is wrong, and where

#[test]
fn all_problems_come_at_once_with_their_lines() {
    let text = r#"
chain_id = 0
gatway_url = "ws://x"
kms_core_endpoint = "ws://x"
decryption_address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"
gas_limit = 6000
channel_size = "many"
ciphertext_memory_mib = 100
max_transactions_in_flight = 1025
starting_block = "earliest"
private_key = "0xabc"
request_expiry_secs = 100
[s3_config]
bucket = "a/b"
nonsense = 1
region = "r"
"#;
    let environment = env([("KMS_CONNECTOR_RETRY_INTERVAL_SECS", "0")]);
    let problems = load_text(text, environment, Mode::Start).unwrap_err();
    let found: Vec<_> = problems
        .as_slice()
        .iter()
        .map(|problem| (line(&problem.place).unwrap_or(0), problem.key.clone().unwrap()))
        .collect();
    let expected = [
        (2, "chain_id"),
        (3, "gatway_url"),
        (4, "kms_core_endpoint"),
        (5, "decryption_address"),
        (6, "gas_limit"),
        (7, "channel_size"),
        (8, "ciphertext_memory_mib"),
        (9, "max_transactions_in_flight"),
        (10, "starting_block"),
        (11, "private_key"),
        (12, "request_expiry_secs"),
        (14, "s3_config.bucket"),
        (15, "s3_config.nonsense"),
        (0, "retry_interval_secs"),
    ];
    let expected: Vec<_> = expected.map(|(line, key)| (line, key.to_owned())).into();
    assert_eq!(found, expected, "{problems}");

    let text = problems.to_string();
    for words in [
        "14 problems",
        "one.toml:3: gatway_url: found an unknown key",
        "Did you mean gateway_url?",
        "write 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "gas_limit: found 6000",
        "No answer fits into so little",
        "found 3 hex digits",
        "environment variable KMS_CONNECTOR_RETRY_INTERVAL_SECS",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn syntax_errors_have_line_and_column() {
    let problems = bad("chain_id = 1\nservice_name = \"a\" \"b\"\nchannel_size = = 2\n");
    let place = |line, column| Place::File {
        path: "one.toml".into(),
        line: Some(line),
        column: Some(column),
    };
    assert_eq!(problems[0].place, place(2, 20), "{problems:#?}");
    assert!(problems.iter().any(|problem| line(&problem.place) == Some(3)), "{problems:#?}");
    let twice = problem("chain_id = 1\nchain_id = 2\n");
    assert_eq!(line(&twice.place), Some(2), "{twice}");
}

/// Field failure T32.
#[test]
fn misplaced_keys_are_lifted_and_never_overwrite() {
    let loaded = good("[s3_config]\nbucket = 'b'\nregion = 'r'\nchain_id = 5\ngas_limit = 200000");
    assert_eq!((loaded.config.chain_id, loaded.config.gas_limit), (5, Some(200_000)));
    let warning =
        loaded.warnings.iter().find(|warning| warning.key.as_deref() == Some("chain_id")).unwrap();
    assert_eq!(line(&warning.place), Some(4));

    let twice = problem("chain_id = 4\n[s3_config]\nbucket = 'b'\nregion = 'r'\nchain_id = 5");
    assert_eq!(twice.key.as_deref(), Some("chain_id"));
    assert!(twice.found.contains("lines 1 and 5"), "{twice}");
    let in_both = problem(
        "[aws_kms_config]\nchain_id = 4\n[s3_config]\nbucket='b'\nregion='r'\nchain_id = 5",
    );
    assert!(in_both.found.contains("lines 2 and 6"), "{in_both}");

    // A key the table has itself stays there.
    let own = good("[s3_config]\nbucket = 'b'\nendpoint = 'http://e'\nregion = 'r'");
    assert!(own.warnings.iter().all(|warning| line(&warning.place).is_none()), "{own:?}");
    // So does a table below another's header.
    let table = good("[aws_kms_config]\ns3_config = { bucket = 'b', region = 'r' }").config;
    assert_eq!(table.s3.unwrap().bucket, "b");
}

#[test]
fn s3_needs_a_bucket_and_a_place() {
    assert_eq!(problem("s3_config.region = 'r'").key.as_deref(), Some("s3_config.bucket"));
    assert_eq!(problem("s3_config.bucket = 'b'").key.as_deref(), Some("s3_config.region"));
    assert_eq!(bad("s3_config.region = 'a.evil.example/'").len(), 2);
    assert_eq!(problem("s3_config = 1").key.as_deref(), Some("s3_config"));
}

#[test]
fn urls_are_checked() {
    for good_url in ["ws://x", "wss://x/key?a=b", "http://1.2.3.4:8545", "HTTPS://user:pw@x"] {
        good(&format!("gateway_url = {good_url:?}"));
    }
    for (key, url) in [
        ("gateway_url", "ftp://x"),
        ("gateway_url", "localhost:8545"),
        ("gateway_url", "ws://"),
        ("gateway_url", "ws://x:99999"),
        ("gateway_url", "ws://x:0"),
        ("gateway_url", ""),
        ("kms_core_endpoint", "grpc://x"),
        ("s3_config.endpoint", "s3://x"),
        ("aws_kms_config.endpoint", "ws://x"),
    ] {
        let problems = bad(&format!("{key} = {url:?}"));
        let of_key = |problem: &Problem| problem.key.as_deref() == Some(key);
        assert!(problems.iter().any(of_key), "{key} {url}: {problems:?}");
    }
}

#[test]
fn bounds_are_kept() {
    for text in [
        "chain_id = -1",
        "chain_id = 9223372036854775808",
        "chain_id = 1.5",
        "channel_size = 0",
        "public_decryption_timeout_secs = 0",
        "user_decryption_timeout_secs = 86401",
        "gas_limit = 99999",
        "starting_block = -1",
        "starting_block = true",
        "max_fee_per_gas_gwei = 0",
        "max_fee_per_gas_gwei = [1]",
        "ciphertext_memory_mib = 159",
        "max_transactions_in_flight = 1025",
        "max_requests_in_flight = 0",
        "journal_retention_days = 0",
        "held_retry_secs = 0",
        "verify_coprocessors = 1",
        "enabled = 'yes'",
        "service_name = ''",
        "service_name = \"a\\nb\"",
        "decryption_address = 0x0",
        "decryption_address = '0x5fbdb2315678afecb367f032d93f642f64180aa'",
        "decryption_address = '0x0000000000000000000000000000000000000000'",
        "gateway_config_address = '0x5fbdb2315678afecb367f032d93f642f64180aa3'",
        "private_key_file = ''",
        "ca_file = '/nonexistent/ca.pem'",
        "aws_kms_config.key_id = ' '",
    ] {
        let problems = bad_with_own_wallet(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
    }
    assert_eq!(good("gas_limit = 100_000").config.gas_limit, Some(100_000));
    assert_eq!(good("chain_id = 0x7a69").config.chain_id, 31337);
}

/// The problems of `text` beside a wallet in the file's own layer where the text has none.
fn bad_with_own_wallet(text: &str) -> Vec<Problem> {
    let environment = if text.starts_with("private_key") { env([]) } else { env([WALLET]) };
    load_text(text, environment, Mode::Start).unwrap_err().as_slice().to_vec()
}

#[test]
fn unreadable_files_are_problems() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| Source { file: Some(directory.path().join(name)), ..source(env([])) };
    let invalid = directory.path().join("invalid.toml");
    fs::write(&invalid, b"a = 1\nb = \"\xff\"").unwrap();
    let problems = load(&file("invalid.toml")).unwrap_err();
    assert_eq!(line(&problems.as_slice()[0].place), Some(2));
    assert!(load(&file("missing.toml")).unwrap_err().to_string().contains("missing.toml"));
    assert!(load(&file("")).unwrap_err().to_string().contains("a directory, not a file"));
    let pipe = directory.path().join("pipe.toml");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    let said = load(&file("pipe.toml")).unwrap_err().to_string();
    assert!(said.contains("a named pipe") && !said.contains("encoding"), "{said}");
    assert_eq!(said.matches("pipe.toml").count(), 1, "{said}");
    fs::write(directory.path().join("big.toml"), vec![b' '; 2 << 20]).unwrap();
    assert!(load(&file("big.toml")).is_err());
}

/// Somebody puts a log, or a key ring, where a configuration belongs: however long it is, it costs its
/// length and a few lines.
#[test]
fn d8_a_file_of_junk_is_told_in_a_few_problems_and_in_linear_time() {
    let lines = 20_000;
    let unknown: Vec<String> = (0..lines).map(|line| format!("x{line} = 1")).collect();
    let unknown = unknown.join("\n");
    for (text, what) in [("a\n".repeat(lines), "syntax errors"), (unknown, "unknown keys")] {
        let begun = std::time::Instant::now();
        let problems = bad(&text);
        assert_eq!(problems.len(), 21, "{}", problems.len());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let (first, last) = (&problems[0], &problems[20]);
        assert_eq!((line(&first.place), line(&last.place)), (Some(1), Some(21)));
        assert!(last.to_string().contains(&format!("19980 more {what}")), "{last}");
    }
}

/// Windows editors write it so, some of them without a mark at its beginning.
#[test]
fn d8_a_file_in_utf_16_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wide.toml");
    let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for text in ["chain_id = 1\n", "\u{feff}chain_id = 1\n", "# f\u{fc}r\nchain_id = 1\n"] {
        let bytes = little(text);
        fs::write(&path, bytes).unwrap();
        let problems = load(&Source { file: Some(path.clone()), ..source(env([WALLET])) });
        let problems = problems.unwrap_err();
        assert_eq!(problems.as_slice().len(), 1, "{problems}");
        assert!(problems.to_string().contains("UTF-16"), "{problems}");
    }
}

// ---- the environment

#[test]
fn unknown_variables_warn_and_empty_ones_do_not_count() {
    let loaded = load(&source(env([
        WALLET,
        ("KMS_CONNECTOR_S3_CONFIG_BUCKET", "b"),
        ("KMS_CONNECTOR_SERVICE_HOST", "10.0.0.1"),
        ("KMS_CONNECTOR_CHAIN_ID", " "),
        ("KMS_CONNECTOR_INSTANCE_OTHER__CHAIN_ID", "x"),
        ("SOMETHING_ELSE", "x"),
    ])))
    .unwrap();
    assert_eq!(loaded.config.chain_id, 31337);
    let variables: Vec<_> = loaded
        .warnings
        .iter()
        .filter_map(|warning| match &warning.place {
            Place::Variable(name) => Some((name.as_str(), warning.message.clone())),
            Place::Configuration | Place::File { .. } => None,
        })
        .collect();
    assert_eq!(variables.len(), 3, "{variables:?}");
    let of = |name| &variables.iter().find(|(variable, _)| *variable == name).unwrap().1;
    assert!(of("KMS_CONNECTOR_S3_CONFIG_BUCKET").contains("KMS_CONNECTOR_S3_CONFIG__BUCKET"));
    assert!(of("KMS_CONNECTOR_CHAIN_ID").contains("empty"));
    assert!(of("KMS_CONNECTOR_SERVICE_HOST").contains("Kubernetes"));
}

/// Nobody calls a Kubernetes service so that its variables look like those of one instance.
#[test]
fn a_mistyped_variable_of_one_instance_is_told_as_one() {
    let wrong = "KMS_CONNECTOR_INSTANCE_ONE__HELD_RETRY_SEC";
    let loaded = load_text("", env([WALLET, (wrong, "7")]), Mode::Start).unwrap();
    let place = Place::Variable(wrong.to_owned());
    let told = loaded.warnings.iter().find(|warning| warning.place == place).unwrap();
    assert!(told.message.contains("KMS_CONNECTOR_INSTANCE_ONE__HELD_RETRY_SECS?"), "{told}");
    assert!(!told.message.contains("Kubernetes"), "{told}");
}

#[test]
fn a_variable_that_is_not_text_is_a_problem() {
    use std::os::unix::ffi::OsStringExt;
    let mut environment = env([WALLET]);
    let value = OsString::from_vec(vec![0xff]);
    environment.0.insert("KMS_CONNECTOR_GATEWAY_URL".to_owned(), value);
    assert_eq!(load(&source(environment)).unwrap_err().as_slice().len(), 1);
}

#[test]
fn under_supervise_shared_variables_are_refused_and_required_keys_must_be_given() {
    let environment = env([
        WALLET,
        ("KMS_CONNECTOR_SERVICE_NAME", "x"),
        ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", "http://x"),
        ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "x"),
    ]);
    let text = load_text("", environment, Mode::Supervise).unwrap_err().to_string();
    for words in [
        "KMS_CONNECTOR_INSTANCE_ONE__PRIVATE_KEY",
        "KMS_CONNECTOR_INSTANCE_ONE__SERVICE_NAME",
        "KMS_CONNECTOR_INSTANCE_ONE__KMS_CORE_ENDPOINT",
        "KMS_CONNECTOR_INSTANCE_ONE__AWS_KMS_CONFIG__KEY_ID",
        "gateway_url: found nothing",
        "chain_id: found nothing",
        "decryption_address: found nothing",
        "gateway_config_address: found nothing",
        "no wallet",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }

    let text = format!(
        "kms_core_endpoint='http://a'\nchain_id=1\ndecryption_address='{ADDRESS}'\n\
         gateway_config_address='0x0000000000000000000000000000000000000001'"
    );
    let environment = env([
        ("KMS_CONNECTOR_INSTANCE_ONE__PRIVATE_KEY", KEY),
        ("KMS_CONNECTOR_INSTANCE_ONE__CHAIN_ID", "9"),
        ("KMS_CONNECTOR_CHAIN_ID", "8"),
        ("KMS_CONNECTOR_GATEWAY_URL", "ws://shared"),
    ]);
    let loaded = load_text(&text, environment, Mode::Supervise).unwrap();
    assert_eq!(loaded.config.chain_id, 9);
    assert_eq!(loaded.config.gateway_url.to_string(), "ws://shared");
}

// ---- the wallet

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn key_of(loaded: &Loaded) -> String {
    match &loaded.config.wallet {
        Some(Wallet::PrivateKey(key)) => alloy::hex::encode(key.expose()),
        Some(Wallet::AwsKms { .. }) | None => panic!("not a private key"),
    }
}

#[test]
fn who_only_observes_needs_no_wallet_and_keeps_no_key() {
    let observe = ("KMS_CONNECTOR_MODE", "observe");
    for variables in [vec![observe], vec![observe, WALLET]] {
        let config = load(&source(variables.into_iter().collect())).unwrap().config;
        assert!(config.observes(), "{:?}", config.wallet);
    }
    assert!(!load(&source(env([WALLET]))).unwrap().config.observes());
    let problems = load(&source(env([WALLET, ("KMS_CONNECTOR_MODE", "watch")]))).unwrap_err();
    assert!(problems.to_string().contains("\"answer\" or \"observe\""), "{problems}");
}

#[test]
fn no_wallet_is_a_problem_that_names_the_ways() {
    let problems = load(&source(env([]))).unwrap_err().to_string();
    assert!(problems.contains("KMS_CONNECTOR_PRIVATE_KEY"), "{problems}");
    assert!(problems.contains("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID"), "{problems}");
}

#[test]
fn c11_key_files_are_for_their_owner() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("one.toml");
    fs::write(&config, "private_key_file = 'one.key'").unwrap();
    let path = directory.path().join("one.key");
    let source = Source { file: Some(config), ..source(env([])) };

    write(&path, &format!("0x{KEY}\n"), 0o400);
    let loaded = load(&source).unwrap();
    assert_eq!(key_of(&loaded), KEY);
    assert!(!warned(&loaded, "private_key_file"));
    write(&path, &format!("\"{KEY}\"\n"), 0o400);
    let quoted = load(&source).unwrap_err().to_string();
    assert!(quoted.contains("stands in quotes"), "{quoted}");
    // Of root's, a group may read one, as in a Kubernetes secret.
    let is_root = rustix::process::geteuid().is_root();
    write(&path, KEY, 0o640);
    assert_eq!(warned(&load(&source).unwrap(), "private_key_file"), !is_root);
    write(&path, KEY, 0o660);
    assert!(warned(&load(&source).unwrap(), "private_key_file"));
    if is_root {
        write(&path, KEY, 0o400);
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(warned(&load(&source).unwrap(), "private_key_file"));
        fs::remove_file(&path).unwrap();
    }
    for mode in [0o644, 0o602] {
        write(&path, KEY, mode);
        assert!(load(&source).unwrap_err().to_string().contains("every user"));
    }
    write(&path, &KEY[1..], 0o600);
    assert!(load(&source).unwrap_err().to_string().contains("63 hex digits"));
    fs::remove_file(&path).unwrap();
    assert!(load(&source).unwrap_err().to_string().contains("one.key"));
}

#[test]
fn d8_an_editors_mark_before_a_key_is_no_digit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.key");
    let text = format!("private_key_file = '{}'", path.display());
    write(&path, &format!("\u{feff}{KEY}\r\n"), 0o600);
    assert_eq!(key_of(&load_text(&text, env([]), Mode::Start).unwrap()), KEY);
    let wide: Vec<u8> =
        format!("\u{feff}{KEY}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for wide in [&wide[..], &wide[2..]] {
        fs::write(&path, wide).unwrap();
        let problems = load_text(&text, env([]), Mode::Start).unwrap_err().to_string();
        assert!(problems.contains("UTF-16") && problems.contains("one.key"), "{problems}");
    }
}

#[test]
fn the_stronger_layer_has_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    write(&path, &"cd".repeat(32), 0o600);
    let path = path.to_str().unwrap();
    let file = ("KMS_CONNECTOR_PRIVATE_KEY_FILE", path);
    let text = format!("private_key = '{KEY}'");
    let loaded = load_text(&text, env([file]), Mode::Start).unwrap();
    assert_eq!(key_of(&loaded), "cd".repeat(32));
    let text = format!("private_key_file = '{path}'");
    assert_eq!(key_of(&load_text(&text, env([WALLET]), Mode::Start).unwrap()), KEY);
    assert!(load(&source(env([file, WALLET]))).is_err());
    // The seed's priority, across layers.
    let aws = ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "id");
    let text = format!("private_key = '{KEY}'");
    assert_eq!(key_of(&load_text(&text, env([aws]), Mode::Start).unwrap()), KEY);
}

#[test]
fn credentials_count_by_stem_and_under_start_without() {
    let config = tempfile::tempdir().unwrap();
    let credentials = tempfile::tempdir().unwrap();
    let file = config.path().join("one.toml");
    let text = format!(
        "gateway_url='ws://a'\nkms_core_endpoint='http://a'\nchain_id=1\n\
         decryption_address='{ADDRESS}'\n\
         gateway_config_address='0x0000000000000000000000000000000000000001'"
    );
    fs::write(&file, text).unwrap();
    let at = |mode, file: Option<&Path>| {
        load(&Source {
            file: file.map(Path::to_owned),
            environment: env([]),
            credentials_directory: Some(credentials.path().to_owned()),
            mode,
        })
    };
    assert!(at(Mode::Start, Some(&file)).is_err());
    // systemd's own protection counts there, so the mode does not.
    write(&credentials.path().join("private_key"), KEY, 0o444);
    assert_eq!(key_of(&at(Mode::Start, Some(&file)).unwrap()), KEY);
    assert_eq!(key_of(&at(Mode::Start, None).unwrap()), KEY);
    assert!(at(Mode::Supervise, Some(&file)).is_err());
    write(&credentials.path().join("one.private_key"), &"cd".repeat(32), 0o444);
    for mode in [Mode::Start, Mode::Supervise] {
        assert_eq!(key_of(&at(mode, Some(&file)).unwrap()), "cd".repeat(32));
    }
    write(&credentials.path().join("one.private_key"), "", 0o444);
    assert!(at(Mode::Supervise, Some(&file)).unwrap_err().to_string().contains("no text"));
}

#[test]
fn a_key_in_a_file_for_all_eyes_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one.toml");
    let source = Source { file: Some(file.clone()), ..source(env([])) };
    write(&file, &format!("private_key = '{KEY}'"), 0o644);
    assert!(warned(&load(&source).unwrap(), "private_key"));
    write(&file, &format!("private_key = '{KEY}'"), 0o600);
    assert!(!warned(&load(&source).unwrap(), "private_key"));
}

#[test]
fn authorities_must_be_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let text = format!("ca_file = {path:?}");
    for content in ["", "no pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
        fs::write(&path, content).unwrap();
        assert_eq!(problem(&text).key.as_deref(), Some("ca_file"));
    }
    fs::write(&path, PEM.repeat(2)).unwrap();
    let authorities = good(&text).config.private_authorities.unwrap();
    assert_eq!(authorities.certificates.len(), 2);
}

// ---- names

#[test]
fn names_follow_the_mode() {
    let config = good("service_name = 'service'").config;
    let file = Some(Path::new("/a/one.toml"));
    assert_eq!(instance_name(Mode::Start, Some("given"), file, &config), "given");
    assert_eq!(instance_name(Mode::Start, None, file, &config), "one");
    assert_eq!(instance_name(Mode::Start, None, None, &config), "service");
    assert_eq!(instance_name(Mode::Supervise, Some("given"), file, &config), "one");
}

// ---- the examples

#[test]
fn the_example_configs_load() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/environments");
    let at = |name: &str, environment| {
        let file = Some(directory.join(name));
        let source = Source { file, mode: Mode::Supervise, ..source(environment) };
        load(&source).unwrap_or_else(|error| panic!("{error}"))
    };

    let own_key = env([("KMS_CONNECTOR_INSTANCE_CONFIG_BASE__PRIVATE_KEY", KEY)]);
    let base = at("config-base.toml", own_key).config;
    let defaults = load(&source(env([WALLET]))).unwrap().config;
    assert!(!base.enabled);
    assert_eq!(Config { enabled: true, ..base }, defaults, "config-base.toml tells the defaults");
    let text = fs::read_to_string(directory.join("config-base.toml")).unwrap();
    for key in Key::ALL {
        let last = key.name().rsplit('.').next().unwrap();
        let stands = text.lines().any(|line| {
            let line = line.strip_prefix('#').unwrap_or(line);
            line.split_once('=').is_some_and(|(name, _)| name.trim() == last)
        });
        assert!(stands, "config-base.toml does not tell of {key}");
    }

    let parties: Vec<Config> = (1..=4)
        .map(|n| {
            let loaded = at(&format!("config-{n}.toml"), env([]));
            let odd: Vec<_> = loaded.warnings.iter().map(|w| w.key.as_deref()).collect();
            assert_eq!(odd, [Some("private_key")], "only: the key is publicly known");
            loaded.config
        })
        .collect();
    for (n, party) in parties.iter().enumerate() {
        assert_eq!(party.chain_id, 31337);
        assert_eq!(
            party.kms_core_endpoint.expose().port(),
            Some(50051 + u16::try_from(n).unwrap())
        );
        assert_eq!(party.gateway_url, parties[0].gateway_url);
        assert_eq!(party.decryption_address, parties[0].decryption_address);
        assert_eq!(party.s3, parties[0].s3);
        for other in &parties[n + 1..] {
            assert_ne!(party.wallet, other.wallet);
            assert_ne!(party.service_name, other.service_name);
        }
    }
}

// ---- secrets

const CANARY: &str = "cAnArY7351";

/// Everything an operator could see of an attempt to load `text`.
fn all_output(text: &str, environment: &Environment) -> String {
    let mut output = format!("{environment:?}");
    for mode in [Mode::Start, Mode::Supervise] {
        let seen = match load_text(text, environment.clone(), mode) {
            Ok(loaded) => format!("{loaded:?}{:#?}", loaded.warnings),
            Err(problems) => format!("{problems}{problems:?}"),
        };
        output.push_str(&seen);
    }
    output
}

#[test]
fn no_output_has_a_secret() {
    let url = |scheme: &str| format!("{scheme}://{CANARY}:{CANARY}@h/{CANARY}?{CANARY}#{CANARY}");
    let long_key = format!("{CANARY}{}", "ab".repeat(30));
    let values = [
        CANARY.to_owned(),
        format!("0x{CANARY}"),
        format!("{CANARY}://x"),
        format!("{CANARY}:8545"),
        format!("ws://{CANARY}@:99999/"),
        format!("ws://h:{CANARY}/"),
        format!("//{CANARY}@h"),
        url("ws"),
        url("http"),
        url("ftp"),
        long_key.clone(),
    ];
    let secret = [
        Key::PrivateKeyText,
        Key::GatewayUrl,
        Key::GatewayFallbackUrls,
        Key::KmsCoreEndpoint,
        Key::AwsEndpoint,
        Key::S3Endpoint,
    ];
    for key in secret {
        for value in &values {
            let variable = format!("KMS_CONNECTOR_{}", key.variable());
            let mut outputs = vec![
                all_output("", &env([(&variable, value), WALLET])),
                all_output("", &env([(&variable, value)])),
            ];
            for text in [
                format!("{} = {value:?}", key.name()),
                format!("{} = [{value:?}]", key.name()),
                format!("{}x = {value:?}", key.name()), // unknown
                format!("{} = {value}", key.name()),    // no TOML
                format!("{} = \"{value}", key.name()),  // an open quote
                format!("{} = {value:?} {value:?}", key.name()),
                format!("{}.x = {value:?}", key.name()),
            ] {
                outputs.push(all_output(&text, &env([])));
            }
            for output in outputs {
                assert!(!output.contains(CANARY) && !output.contains("ababab"), "{key}: {output}");
            }
        }
    }
    // In a key where no secret belongs: what could be a private key or a URL with one.
    for key in Key::ALL.iter().filter(|key| !secret.contains(key)) {
        // An ARN is longer than a private key, a path may be anything: these two are identifiers.
        if matches!(key, Key::AwsKeyId | Key::PrivateKeyFile | Key::CaFile) {
            continue;
        }
        for value in [url("wss"), long_key.clone()] {
            let text = format!("{} = {value:?}", key.name());
            if load_text(&text, env([WALLET]), Mode::Start).is_err() {
                let output = all_output(&text, &env([WALLET]));
                assert!(!output.contains(CANARY), "{key}: {output}");
            }
        }
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for text in ["[".repeat(100_000), format!("a = {}", "[".repeat(100_000)), "a.".repeat(50_000)] {
        assert!(load_text(&text, env([WALLET]), Mode::Start).is_err());
    }
}

fn any_line() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => proptest::sample::select(Key::ALL).prop_map(|key| key.name().to_owned()),
        1 => "[a-z_.\"]{0,12}",
    ];
    let value = prop_oneof![
        "\"[ -~]{0,70}\"",
        "-?[0-9_]{1,25}(\\.[0-9]{1,12})?",
        "true|false|\\[\\]|\\{\\}|1979-05-27|inf|nan|0x[0-9a-f]{1,40}",
        "\\PC{0,20}",
    ];
    prop_oneof![
        8 => (name, value).prop_map(|(name, value)| format!("{name} = {value}\n")),
        1 => Just("[s3_config]\n".to_owned()),
        1 => Just("[aws_kms_config]\n".to_owned()),
        1 => "\\PC{0,40}\n",
    ]
}

proptest! {
    #[test]
    fn any_text_loads_or_is_a_problem(text in proptest::collection::vec(any_line(), 0..12)) {
        let text = text.concat();
        for mode in [Mode::Start, Mode::Supervise] {
            if let Err(problems) = load_text(&text, env([WALLET]), mode) {
                prop_assert!(!problems.as_slice().is_empty());
                for problem in problems.as_slice() {
                    prop_assert!(!problem.found.is_empty() && !problem.allowed.is_empty());
                }
            }
        }
    }

    #[test]
    fn any_bytes_load_or_are_a_problem(text in "\\PC{0,200}", value in "\\PC{0,80}") {
        let _ = load_text(&text, env([WALLET]), Mode::Start);
        for key in Key::ALL {
            let name = format!("KMS_CONNECTOR_{}", key.variable());
            let _ = load(&source(env([(&name, &value)])));
        }
    }
}

/// A document with every secret there is, in its own words.
fn secretive_document() -> String {
    let key = secret_digits();
    format!(
        "gateway_url = \"wss://node.example/v3/{CANARY}\"\n\
         gateway_fallback_urls = [\"wss://u:{CANARY}@other.example/\", \"https://h/?{CANARY}\"]\n\
         kms_core_endpoint = \"https://{CANARY}:{CANARY}@core.example:50051\"\n\
         chain_id = 31337\ndecryption_address = \"{ADDRESS}\"\n\
         private_key = \"0x{key}\"\nretry_interval_secs = 5\nstarting_block = \"latest\"\n\
         [s3_config]\nbucket = \"b\"\nregion = \"r\"\n\
         endpoint = \"https://s3.example/{CANARY}?{CANARY}\"\n\
         [aws_kms_config]\nkey_id = \"k\"\nendpoint = \"https://{CANARY}@kms.example\"\n"
    )
}

fn secret_digits() -> String {
    "1f2e3d4c5b6a7988".repeat(4)
}

#[derive(Clone, Debug)]
enum Damage {
    Insert(String),
    Remove(usize),
    /// Swaps two lines.
    Swap(proptest::sample::Index),
    /// Puts a copy of a line there.
    Double(proptest::sample::Index),
}

fn some_damage() -> impl Strategy<Value = (proptest::sample::Index, Damage)> {
    let damage = prop_oneof![
        4 => "[\"'=\\[\\]{}#.,\\n 0-9a-z\\\\]{1,3}".prop_map(Damage::Insert),
        1 => "\\PC{1,5}".prop_map(Damage::Insert),
        4 => (1..4_usize).prop_map(Damage::Remove),
        1 => any::<proptest::sample::Index>().prop_map(Damage::Swap),
        1 => any::<proptest::sample::Index>().prop_map(Damage::Double),
    ];
    (any::<proptest::sample::Index>(), damage)
}

fn damaged(text: &str, at: proptest::sample::Index, damage: Damage) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut lines: Vec<&str> = text.lines().collect();
    match damage {
        Damage::Insert(what) => {
            let at = at.index(characters.len() + 1);
            let (before, after) = characters.split_at(at);
            before.iter().copied().chain(what.chars()).chain(after.iter().copied()).collect()
        }
        Damage::Remove(count) => {
            let at = at.index(characters.len() + 1);
            let rest = characters.iter().skip(at + count);
            characters[..at].iter().chain(rest).collect()
        }
        Damage::Swap(with) if !lines.is_empty() => {
            let (one, other) = (at.index(lines.len()), with.index(lines.len()));
            lines.swap(one, other);
            lines.join("\n")
        }
        Damage::Double(line) if !lines.is_empty() => {
            lines.insert(at.index(lines.len()), lines[line.index(lines.len())]);
            lines.join("\n")
        }
        Damage::Swap(_) | Damage::Double(_) => text.to_owned(),
    }
}

proptest! {
    /// T51: a valid document that was damaged loads, or is a problem that names its file; whoever
    /// reads it sees no secret.
    #[test]
    fn a_damaged_document_names_the_place_and_tells_no_secret(
        damage in proptest::collection::vec(some_damage(), 1..5),
    ) {
        let mut text = secretive_document();
        for (at, damage) in damage {
            text = damaged(&text, at, damage);
        }
        let output = all_output(&text, &env([]));
        prop_assert!(!output.contains(CANARY), "{output}");
        let digits = secret_digits();
        for from in 0..digits.len() - 16 {
            prop_assert!(!output.contains(&digits[from..from + 16]), "{output}");
        }
        if let Err(problems) = load_text(&text, env([]), Mode::Supervise) {
            for problem in problems.as_slice() {
                prop_assert!(!problem.found.is_empty() && !problem.allowed.is_empty());
                let file = matches!(&problem.place, Place::File { path, .. }
                    if path == Path::new("one.toml"));
                prop_assert!(file, "{}", problem);
                let syntax = matches!(&problem.place, Place::File { column: Some(_), .. });
                let text = problem.to_string();
                let named = Key::ALL.iter().any(|key| text.contains(key.name()));
                prop_assert!(problem.key.is_some() || named || syntax, "{}", text);
            }
        }
    }
}

// ---- config/README.md

/// Key and default of each row of the table in `config/README.md`; a default of `None` is none or not a value.
fn documented_keys() -> Vec<(String, Option<String>)> {
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let readme = include_str!("../../config/README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with("| key | default |")).skip(2);
    let mut keys = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (mut names, defaults) = (quoted(cells[1]), quoted(cells[2]));
        if let Some(table) = names[0].strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            names = names[1..].iter().map(|name| format!("{table}.{name}")).collect();
        }
        for (n, name) in names.into_iter().enumerate() {
            let word = cells[2].to_owned();
            let plain = word.parse::<i64>().is_ok() || word.parse::<bool>().is_ok();
            // One default for all keys of the row, or one for each.
            let default = defaults.get(n).or(defaults.first()).map(|text| format!("\"{text}\""));
            keys.push((name, default.or(plain.then_some(word))));
        }
    }
    keys
}

/// Field failure T26.
#[test]
fn the_documentation_tells_every_key_and_its_default() {
    let mut told: Vec<String> = documented_keys().into_iter().map(|(name, _)| name).collect();
    told.sort();
    let mut known: Vec<String> = Key::ALL.iter().map(|key| key.name().to_owned()).collect();
    known.sort();
    assert_eq!(told, known);

    let with_default =
        documented_keys().into_iter().filter_map(|(name, default)| Some((name, default?)));
    let with_default: Vec<_> = with_default.collect();
    let lines: Vec<String> =
        with_default.iter().map(|(name, default)| format!("{name} = {default}\n")).collect();
    let defaults = load(&source(env([WALLET]))).unwrap().config;
    assert_eq!(good(&lines.concat()).config, defaults);
    // Where the table names no default, config-base.toml has the key commented out.
    let base = include_str!("../../config/environments/config-base.toml");
    for key in Key::ALL {
        let last = key.name().rsplit('.').next().unwrap();
        let commented = base.lines().any(|line| line.starts_with(&format!("#{last} = ")));
        // enabled is true by default and false in this example.
        let told = with_default.iter().any(|(name, _)| name == key.name());
        assert_eq!(told, !commented, "{key}");
    }
}

// ---- many files

#[test]
fn variables_of_all_instances_are_refused_before_any_file_is_read() {
    let refused = env([
        WALLET,
        ("KMS_CONNECTOR_PRIVATE_KEY_FILE", "/key"),
        ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "x"),
        ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", "http://x"),
        ("KMS_CONNECTOR_SERVICE_NAME", "x"),
    ]);
    let problems = check_environment(&refused).unwrap_err();
    assert_eq!(problems.as_slice().len(), 5, "{problems}");
    let text = problems.to_string();
    assert!(text.contains("KMS_CONNECTOR_INSTANCE_<STEM>__KMS_CORE_ENDPOINT"), "{text}");
    assert!(!text.contains(KEY));

    let allowed = env([
        ("KMS_CONNECTOR_SERVICE_NAME", " "),
        ("KMS_CONNECTOR_GATEWAY_URL", "ws://shared"),
        ("KMS_CONNECTOR_AWS_KMS_CONFIG__REGION", "us-east-1"),
        ("KMS_CONNECTOR_INSTANCE_ONE__PRIVATE_KEY", KEY),
        ("KMS_CONNECTOR_PORT", "tcp://10.0.0.1:80"),
    ]);
    assert_eq!(check_environment(&allowed), Ok(()));
}

#[test]
fn bytes_at_hand_say_what_the_file_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.toml");
    let of_path = |environment| Source { file: Some(path.clone()), ..source(environment) };
    for content in [&b"channel_size = 7"[..], b"channel_size = 0", b"=", b"\n\xff", b""] {
        fs::write(&path, content).unwrap();
        let source = of_path(env([WALLET]));
        let (one, other) = (load(&source), load_bytes(&source, content));
        assert_eq!(
            one.map(|loaded| (loaded.config, loaded.warnings)),
            other.map(|loaded| (loaded.config, loaded.warnings))
        );
    }
}

#[test]
fn names_have_a_form_in_variables() {
    assert_eq!(variable_form("my-net.1"), "MY_NET_1");
    assert_eq!(variable_form("ä"), "_");
    let odd = env([
        ("KMS_CONNECTOR_INSTANCE_A_1__CHAIN_ID", "1"),
        ("KMS_CONNECTOR_INSTANCE_A_1_CHAIN_ID", "1"),
        ("KMS_CONNECTOR_INSTANCE_B__CHAIN_ID", "1"),
        ("KMS_CONNECTOR_CHAIN_ID", "1"),
    ]);
    let found = variables_of_no_instance(&odd, ["a-1", "c"].into_iter());
    let names: Vec<String> = found.iter().map(|warning| warning.place.to_string()).collect();
    assert_eq!(
        names,
        [
            "environment variable KMS_CONNECTOR_INSTANCE_A_1_CHAIN_ID",
            "environment variable KMS_CONNECTOR_INSTANCE_B__CHAIN_ID",
        ]
    );
}

#[test]
fn names_fit_a_line() {
    for good in ["a", "a b", "ä.1", &"x".repeat(128)] {
        assert!(is_instance_name(good), "{good}");
    }
    for bad in ["", " ", "a ", "\ta", "a\u{7}b", &"x".repeat(129)] {
        assert!(!is_instance_name(bad), "{bad:?}");
    }
}

// ---- the effective configuration

fn entries(source: &Source) -> Vec<Entry> {
    effective(source).unwrap().0
}

fn entry<'e>(entries: &'e [Entry], key: &str) -> (Option<&'e str>, &'e str) {
    let entry = entries.iter().find(|entry| entry.key == key).unwrap();
    (entry.value.as_deref(), &entry.source)
}

#[test]
fn each_value_is_told_with_its_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.toml");
    fs::write(&path, "chain_id = 7\nretry_interval_secs = 9\n\nmax_fee_per_gas_gwei = 0.10\n")
        .unwrap();
    let environment = env([
        WALLET,
        ("KMS_CONNECTOR_RETRY_INTERVAL_SECS", "3"),
        ("KMS_CONNECTOR_CONFIRMATIONS", "5"),
        ("KMS_CONNECTOR_INSTANCE_ONE__HELD_RETRY_SECS", "11"),
    ]);
    let found = entries(&Source { file: Some(path.clone()), ..source(environment) });
    let at = |line: usize| format!("{}:{line}", path.display());
    assert_eq!(entry(&found, "chain_id"), (Some("7"), at(1).as_str()));
    assert_eq!(entry(&found, "max_fee_per_gas_gwei"), (Some("0.1"), at(4).as_str()));
    let variable = "KMS_CONNECTOR_RETRY_INTERVAL_SECS";
    assert_eq!(entry(&found, "retry_interval_secs"), (Some("3"), variable));
    let variable = "KMS_CONNECTOR_INSTANCE_ONE__HELD_RETRY_SECS";
    assert_eq!(entry(&found, "held_retry_secs"), (Some("11"), variable));
    assert_eq!(entry(&found, "user_decryption_confirmations"), (Some("5"), "confirmations"));
    assert_eq!(entry(&found, "channel_size"), (Some("1000"), "default"));
    assert_eq!(entry(&found, "gas_limit"), (None, "default"));
    assert_eq!(found.len(), Key::ALL.len());
}

#[test]
fn a_wallet_that_is_given_beside_the_private_key_is_shown_as_unused() {
    let environment = env([WALLET, ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "alias/a")]);
    let (found, warnings) = effective(&source(environment)).unwrap();
    let (value, from) = entry(&found, "aws_kms_config.key_id");
    assert!(value.unwrap().starts_with("alias/a (not used"), "{value:?}");
    assert_eq!(from, "KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID");
    assert!(warnings.iter().any(|warning| warning.message.contains("not used")), "{warnings:?}");
    assert_eq!(entry(&found, "aws_kms_config.region").0, None);
}

/// The README's first configuration is all that is required.
#[test]
fn what_the_readme_begins_with_is_enough_for_a_supervisor() {
    let readme = include_str!("../../README.md");
    let (_, from) = readme.split_once("```toml\n").unwrap();
    let (text, _) = from.split_once("```").unwrap();
    let (path, key) = ("private_key_file = \"/etc/kms-connector/keys/node-1.private_key\"", KEY);
    assert!(text.contains(path), "{text}");
    let text = text.replace(path, &format!("private_key = \"{key}\""));
    let loaded = load_text(&text, env([]), Mode::Supervise).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_effective_configuration_shows_no_secret() {
    let url = "://CANARY:CANARY@h.example:81/CANARY?k=CANARY#CANARY";
    let (wss, https) = (format!("wss{url}"), format!("https{url}"));
    let fallbacks = format!("{wss}1, {wss}2");
    let mut variables = vec![
        WALLET,
        ("KMS_CONNECTOR_GATEWAY_URL", wss.as_str()),
        ("KMS_CONNECTOR_GATEWAY_FALLBACK_URLS", &fallbacks),
        ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", &https),
        ("KMS_CONNECTOR_S3_CONFIG__ENDPOINT", &https),
        ("KMS_CONNECTOR_S3_CONFIG__BUCKET", "b"),
    ];
    let with_key = entries(&source(variables.iter().copied().collect()));
    variables[0] = ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "alias/a");
    variables.push(("KMS_CONNECTOR_AWS_KMS_CONFIG__ENDPOINT", &https));
    let with_aws = entries(&source(variables.iter().copied().collect()));
    for found in [&with_key, &with_aws] {
        let text = format!("{found:?}");
        assert!(!text.contains("CANARY") && !text.contains(&KEY[..8]), "{text}");
        assert_eq!(entry(found, "gateway_url").0, Some("wss://h.example:81/…"));
        assert_eq!(entry(found, "s3_config.endpoint").0, Some("https://h.example:81/…"));
    }
    assert_eq!(entry(&with_aws, "aws_kms_config.endpoint").0, Some("https://h.example:81/…"));
    assert_eq!(entry(&with_aws, "aws_kms_config.key_id").0, Some("alias/a"));
    assert!(entry(&with_key, "private_key").0.unwrap().contains("hidden, of address 0x"));
}

/// Every key of the documentation's table is shown, and every key stands there.
#[test]
fn the_effective_configuration_has_the_documented_keys() {
    let readme = include_str!("../../config/README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with("| key | default |")).skip(2);
    let mut documented = std::collections::BTreeSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cell = row.trim_start_matches('|').split('|').next().unwrap_or_default();
        let names: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        match names.split_first() {
            Some((table, keys)) if table.starts_with('[') => {
                let table = table.trim_matches(['[', ']']);
                documented.extend(keys.iter().map(|key| format!("{table}.{key}")));
            }
            _ => documented.extend(names.iter().map(|name| (*name).to_owned())),
        }
    }
    let known = Key::ALL.iter().map(|key| key.name().to_owned());
    assert_eq!(documented, known.collect());
}

/// Docker's env files keep quotes as part of the value.
#[test]
fn c6_a_value_in_quotes_is_one_clear_problem() {
    let variables = [
        ("KMS_CONNECTOR_DECRYPTION_DOMAIN_NAME", "\"Decryption\""),
        ("KMS_CONNECTOR_GATEWAY_URL", "'ws://key@node.example'"),
        ("KMS_CONNECTOR_GATEWAY_FALLBACK_URLS", "\"ws://node.example\""),
        WALLET,
    ];
    let problems = load_text("", env(variables), Mode::Start).unwrap_err();
    assert_eq!(problems.as_slice().len(), 3, "{problems}");
    assert!(problems.to_string().matches("stands in quotes").count() == 3, "{problems}");
    assert!(!problems.to_string().contains("node.example"), "{problems}");
    let problems = bad("gateway_url = \"'ws://node.example'\"");
    assert!(problems[0].to_string().contains("stands in quotes"), "{problems:?}");

    let places =
        [("KMS_CONNECTOR_STATE_DIR", "\"/var/lib/x\""), ("KMS_CONNECTOR_CONFIG_DIR", "/etc")];
    let problems = check_places(&env(places)).unwrap_err();
    assert_eq!(problems.as_slice().len(), 1);
    assert!(problems.to_string().contains("KMS_CONNECTOR_STATE_DIR"), "{problems}");
}

/// The usual variables are read without our prefix, and say what they mean only without quotes.
#[test]
fn c6_usual_variables_in_quotes_are_one_clear_problem() {
    let quoted =
        [("HTTPS_PROXY", "\"http://proxy.example:3128\""), ("http_proxy", "'proxy.example:3128'")];
    for variable in quoted {
        let problems = load_text("", env([variable, WALLET]), Mode::Start).unwrap_err();
        assert_eq!(problems.as_slice().len(), 1, "{problems}");
        let said = problems.to_string();
        assert!(said.contains(variable.0) && said.contains("stands in quotes"), "{said}");
    }
    let no = ("NO_PROXY", "\"localhost,10.0.0.0/8\"");
    let warnings = load_text("", env([no, WALLET]), Mode::Start).unwrap().warnings;
    let told: Vec<_> = warnings.iter().filter(|it| it.to_string().contains("NO_PROXY")).collect();
    assert!(told.len() == 1 && told[0].message.contains("stands in quotes"), "{warnings:?}");

    let process = [
        ("RUST_LOG", "'debug'"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "\"http://collector:4318\""),
        ("OTEL_EXPORTER_OTLP_HEADERS", "'api-key=SECRET'"),
        ("OTEL_SERVICE_NAME", "connector"),
    ];
    let warnings = odd_variables(&env(process));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().all(|it| it.message.contains("stands in quotes")), "{warnings:?}");
    assert!(!format!("{warnings:?}").contains("SECRET"), "{warnings:?}");
}

/// The system keeps both apart, and nobody sees that it has no effect.
#[test]
fn c6_a_variable_in_lower_case_is_told() {
    let variables = [("kms_connector_gas_limit", "7"), ("KMS_CONNECTOR_CHAIN_ID", "1")];
    let warnings = odd_variables(&env(variables));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("KMS_CONNECTOR_GAS_LIMIT"), "{warnings:?}");
}

/// What a problem says to set is taken when it is set.
#[test]
fn c6_no_advice_is_refused_when_it_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let file = Some(directory.path().join("d-1.toml"));
    fs::write(directory.path().join("d-1.toml"), "").unwrap();
    let of =
        |environment| Source { file: file.clone(), mode: Mode::Supervise, ..source(environment) };
    let said = load(&of(env([]))).unwrap_err().to_string();
    let words = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let advised: Vec<&str> = words.filter(|word| word.starts_with("KMS_CONNECTOR_")).collect();
    assert!(advised.contains(&"KMS_CONNECTOR_INSTANCE_D_1__PRIVATE_KEY"), "{said}");
    for variable in advised {
        let refused = load(&of(env([(variable, "x")]))).unwrap_err().to_string();
        assert!(!refused.contains("would change every instance"), "{variable}: {refused}");
    }
}

/// Their variables alone would leave this program on its defaults for local development.
#[test]
fn c6_variables_of_the_three_services_are_told_what_they_are_here() {
    let theirs =
        [("KMS_CONNECTOR_GATEWAY_CHAIN_ID", "54321"), ("KMS_CONNECTOR_TASK_LIMIT", "7"), WALLET];
    let problems = load_text("", env(theirs), Mode::Start);
    // `load_text` names a file.
    let warnings: Vec<String> =
        problems.unwrap().warnings.iter().map(|warning| warning.message.clone()).collect();
    assert!(warnings.iter().any(|text| text.contains("it is chain_id")), "{warnings:?}");
    assert!(!warnings.iter().any(|text| text.contains("gas_limit")), "{warnings:?}");
    let source = Source {
        file: None,
        environment: env(theirs),
        credentials_directory: None,
        mode: Mode::Start,
    };
    let problems = load(&source).unwrap_err();
    assert_eq!(problems.as_slice().len(), 2, "{problems}");
    assert!(problems.to_string().contains("max_requests_in_flight"), "{problems}");
    let problems =
        bad("[decryption_contract]\naddress = \"0x1\"\n[tls_config]\nca_cert_path = \"x\"");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].advice.contains("decryption_address"), "{problems:?}");
}

#[test]
fn c5_what_no_proxy_does_not_understand_is_warned_about() {
    let variables = [
        ("HTTPS_PROXY", "proxy:3128"),
        ("NO_PROXY", "10.0.0.0/8,http://user:CANARY@a,a*b,127.0.0.01"),
        WALLET,
    ];
    let loaded = load_text("", env(variables), Mode::Start).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let odd = warnings.iter().filter(|text| text.contains("NO_PROXY")).count();
    assert_eq!(odd, 3, "{warnings:?}");
    assert!(!warnings.concat().contains("CANARY"), "{warnings:?}");
}

#[test]
fn c4_an_endpoint_that_names_the_bucket_is_warned_about() {
    for (endpoint, expected) in [
        ("https://my-bucket.s3.eu-west-1.amazonaws.com", true),
        ("http://minio:9000/my-bucket/", true),
        ("https://my-bucket-store.example", false),
        ("https://s3.eu-west-1.amazonaws.com", false),
        ("http://my-bucket:9000", false),
    ] {
        let text = format!("[s3_config]\nbucket = \"my-bucket\"\nendpoint = \"{endpoint}\"");
        assert_eq!(warned(&good(&text), "s3_config.endpoint"), expected, "{endpoint}");
    }
}
