//! The documents that pin the loader: the seed, the examples, the README.

use world::DOCUMENTED_EXAMPLE;

use super::*;

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
    let five_minutes = PerKind::all(Duration::from_mins(5));
    let key_operation = Duration::from_mins(10);
    assert_eq!(config.answer_timeout, PerKind { key_operation, ..five_minutes });
    assert_eq!(config.retry_interval, Duration::from_secs(5));
    assert_eq!(config.decryption_domain.name, "Decryption");
    assert_eq!(config.decryption_domain.version, "1");
    assert_eq!(config.gateway_config_domain.name, "GatewayConfig");
    assert_eq!(config.gateway_config_domain.version, "1");
    assert!(!config.verify_coprocessors);
    assert_eq!((config.s3, config.gas_limit), (None, None));
    // Keys the seed does not have.
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
        ("['ws://a', 'ws://']", "a broken URL (empty host) as entry 2 of 2"),
        ("[1]", "a list with something else than texts"),
        ("7", "an integer"),
        ("'[\"ws://a\", \"ws://b\"]'", "a list in brackets"),
        ("'ws://a,,ws://b'", "an empty text as entry 2 of 3"),
        ("['ws://b', 'ws://a', 'ws://a']", "the same URL twice (entries 2 and 3)"),
        ("['ws://localhost:8545']", "the same URL twice (entry 1 is gateway_url)"),
        (&format!("[{nine}]"), "9 URLs"),
    ] {
        let problem = problem(&format!("gateway_fallback_urls = {bad}"));
        assert!(problem.found.contains(found), "{bad}: {}", problem.found);
    }
}

#[test]
fn confirmations_count_for_all_kinds_or_for_one() {
    let of = |text: &str| {
        let PerKind { public_decryption, user_decryption, .. } = good(text).config.confirmations;
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

/// Field failure T32.
#[test]
fn the_seeds_example_loads_once_filled_in() {
    let problems = load_text(DOCUMENTED_EXAMPLE, env([]), LoadMode::Supervise).unwrap_err();
    let found: Vec<_> = problems.as_slice().iter().map(|problem| line(&problem.place)).collect();
    assert_eq!(found, [Some(26), Some(29)], "{problems}");

    let filled = DOCUMENTED_EXAMPLE.replacen("0x...", ADDRESS, 1).replacen(
        "0x...",
        "0x0000000000000000000000000000000000000001",
        1,
    );
    let loaded = load_text(&filled, env([]), LoadMode::Supervise).unwrap();
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
    let config = load_text(text, environment, LoadMode::Start).unwrap().config;
    assert_eq!((config.chain_id, config.channel_size, config.max_requests_in_flight), (3, 9, 1000));
}

#[test]
fn the_example_configs_load() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/environments");
    let at = |name: &str, environment| {
        let file = Some(directory.join(name));
        let source = Source { file, mode: LoadMode::Supervise, ..source(environment) };
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
                || line == format!("[[{last}]]")
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

/// They are no instances, and their addresses have right checksums.
#[test]
fn the_published_networks_load() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/networks");
    for (name, chain_id, hosts) in
        [("mainnet.toml", 261_131, [1, 137]), ("testnet.toml", 10_901, [11_155_111, 80_002])]
    {
        let file = Some(directory.join(name));
        let config = load(&Source { file, ..source(env([WALLET])) }).unwrap().config;
        assert!(!config.enabled);
        assert_eq!(config.chain_id, chain_id);
        let ids: Vec<u64> = config.host_chains.iter().map(|chain| chain.chain_id).collect();
        assert_eq!(ids, hosts);
    }
    assert_eq!(fs::read_dir(directory).unwrap().count(), 2, "each is named above");
}

/// Key and default of each row of the table in `config/README.md`; `None` for no default, or for one
/// that is not a value.
fn documented_keys() -> Vec<(String, Option<String>)> {
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let readme = include_str!("../../../config/README.md");
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
    // Where the table has no default, the key is commented out in config-base.toml.
    let base = include_str!("../../../config/environments/config-base.toml");
    for key in Key::ALL {
        let last = key.name().rsplit('.').next().unwrap();
        let commented = base
            .lines()
            .any(|line| line.starts_with(&format!("#{last} = ")) || line == format!("#[[{last}]]"));
        // `enabled` is true by default and false in this example.
        let told = with_default.iter().any(|(name, _)| name == key.name());
        assert_eq!(told, !commented, "{key}");
    }
}

#[test]
fn the_documentation_tells_every_key_of_a_host_chain_and_its_default() {
    let readme = include_str!("../../../config/README.md");
    let rows = readme.lines().skip_while(|line| !line.starts_with("| key of `[[host_chains]]` |"));
    let told = rows.skip(2).take_while(|line| line.starts_with('|')).map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`'), Some(cells[2]).filter(|default| !default.is_empty()))
    });
    let known = HostChainKey::ALL.iter().map(|key| (key.name(), key.default()));
    assert_eq!(told.collect::<Vec<_>>(), known.collect::<Vec<_>>());
}

/// The README's first configuration contains all required keys.
#[test]
fn what_the_readme_begins_with_is_enough_for_a_supervisor() {
    let readme = include_str!("../../../README.md");
    let (_, from) = readme.split_once("```toml\n").unwrap();
    let (text, _) = from.split_once("```").unwrap();
    let (path, key) = ("private_key_file = \"/etc/kms-connector/keys/node-1.private_key\"", KEY);
    assert!(text.contains(path), "{text}");
    let text = text.replace(path, &format!("private_key = \"{key}\""));
    let loaded = load_text(&text, env([]), LoadMode::Supervise).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}
