//! Problems and their places.

use super::*;

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
    let problems = load_text(text, environment, LoadMode::Start).unwrap_err();
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

/// The name is wrong, the key is not missing: one problem to mend.
#[test]
fn a_mistyped_key_is_told_once() {
    let text = "gatway_url = \"ws://h:1\"\ndecryption_addres = \"0x00\"\n";
    let problems = load_text(text, env([]), LoadMode::Supervise).unwrap_err().to_string();
    for key in ["gateway_url", "decryption_address"] {
        assert_eq!(problems.matches(key).count(), 1, "{key}\n{problems}");
    }
    assert!(problems.contains("chain_id: found nothing"), "{problems}");
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
}

#[test]
fn what_is_given_twice_is_named_with_both_lines() {
    let host = |chain_id: &str| format!("[[host_chains]]\n{chain_id}\nurl = 'http://a'\n");
    for (text, key, at, found) in [
        ("gas_limit = 1\nchain_id = 1\n\nchain_id = 2\n", "chain_id", 4, "lines 2 and 4"),
        ("'chain_id' = 1\n\"chain_id\" = 2\n", "chain_id", 2, "lines 1 and 2"),
        ("[s3_config]\nbucket = 'a'\nbucket = 'b'\n", "bucket", 3, "lines 2 and 3"),
        ("[s3_config]\nbucket = 'a'\n[s3_config]\n", "s3_config", 3, "a table that is given twice"),
        (
            &(host("chain_id = 5") + &host("chain_id = 6\nchain_id = 7")),
            "chain_id",
            6,
            "lines 5 and 6",
        ),
    ] {
        let twice = problem(text);
        assert_eq!((twice.key.as_deref(), line(&twice.place)), (Some(key), Some(at)), "{twice}");
        assert!(twice.found.contains("given twice") && twice.found.contains(found), "{twice}");
    }
    let secret = "ab".repeat(32);
    let twice = problem(&format!("{secret} = 1\n{secret} = 2\n"));
    assert!(!twice.to_string().contains(&secret), "{twice}");
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

    // A key that the table has itself keeps its value.
    let own = good("[s3_config]\nbucket = 'b'\nendpoint = 'http://e'\nregion = 'r'");
    assert!(own.warnings.iter().all(|warning| line(&warning.place).is_none()), "{own:?}");
    // So does a table below another table's header.
    let table = good("[aws_kms_config]\ns3_config = { bucket = 'b', region = 'r' }").config;
    assert_eq!(table.s3.unwrap().bucket, "b");
}

#[test]
fn s3_needs_a_bucket_and_a_place() {
    assert_eq!(problem("s3_config.region = 'r'").key.as_deref(), Some("s3_config.bucket"));
    assert_eq!(problem("s3_config.bucket = 'b'").key.as_deref(), Some("s3_config.region"));
    assert_eq!(bad("s3_config.region = 'a.evil.example/'").len(), 2);
    assert_eq!(problem("s3_config = 1").key.as_deref(), Some("s3_config"));
    for bucket in [".", "..", "-", "a..b", ".a", "a.", "_a", "a/b", ""] {
        let found = problem(&format!("s3_config = {{ region = 'r', bucket = '{bucket}' }}"));
        assert_eq!(found.key.as_deref(), Some("s3_config.bucket"), "{bucket}");
    }
    for bucket in ["b", "a.b-c_d", "9"] {
        good(&format!("s3_config = {{ region = 'r', bucket = '{bucket}' }}"));
    }
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
fn a_url_without_both_slashes_is_told_by_its_own_scheme() {
    for (url, found, advice) in [
        ("wss:/x", "wss: without //", "Write wss://"),
        ("WS:x", "ws: without //", "Write ws://"),
        ("grpc:x", "6 characters without ://", "Begin with ws://"),
        ("token:secret", "12 characters without ://", "Begin with ws://"),
        ("", "an empty text", "Begin with ws://"),
    ] {
        let told = problem(&format!("gateway_url = {url:?}"));
        assert!(told.found.contains(found) && told.advice.starts_with(advice), "{url}: {told}");
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

/// The problems of `text` with a wallet, which goes into the file where the text has none.
fn bad_with_own_wallet(text: &str) -> Vec<Problem> {
    let environment = if text.starts_with("private_key") { env([]) } else { env([WALLET]) };
    load_text(text, environment, LoadMode::Start).unwrap_err().as_slice().to_vec()
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

/// A log file or a key ring is in the place of a configuration: reading it takes linear time and
/// reports a few lines.
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

/// Windows editors write UTF-16, some of them without a byte order mark.
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
