//! The effective configuration, key by key.

use super::*;

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

#[test]
fn the_effective_configuration_shows_no_secret() {
    let url = "://CANARY:CANARY@h.example:81/CANARY?k=CANARY#CANARY";
    let (wss, https) = (format!("wss{url}"), format!("https{url}"));
    let fallbacks = format!("{wss}1, {wss}2");
    let hosts = format!(
        r#"[{{"chain_id": 7, "url": "{wss}", "fallback_urls": ["{https}"], "acl_address": "{ADDRESS}"}}]"#
    );
    let mut variables = vec![
        WALLET,
        ("KMS_CONNECTOR_GATEWAY_URL", wss.as_str()),
        ("KMS_CONNECTOR_GATEWAY_FALLBACK_URLS", &fallbacks),
        ("KMS_CONNECTOR_KMS_CORE_ENDPOINT", &https),
        ("KMS_CONNECTOR_S3_CONFIG__ENDPOINT", &https),
        ("KMS_CONNECTOR_S3_CONFIG__BUCKET", "b"),
        ("KMS_CONNECTOR_HOST_CHAINS", &hosts),
        ("KMS_CONNECTOR_ETHEREUM_URL", &https),
        ("KMS_CONNECTOR_ETHEREUM_FALLBACK_URLS", &fallbacks),
        ("KMS_CONNECTOR_ETHEREUM_CHAIN_ID", "1"),
        ("KMS_CONNECTOR_PROTOCOL_CONFIG_ADDRESS", ADDRESS),
    ];
    let with_key = entries(&source(variables.iter().copied().collect()));
    variables[0] = ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "alias/a");
    variables.push(("KMS_CONNECTOR_AWS_KMS_CONFIG__ENDPOINT", &https));
    let with_aws = entries(&source(variables.iter().copied().collect()));
    for found in [&with_key, &with_aws] {
        let text = format!("{found:?}");
        assert!(!text.contains("CANARY") && !text.contains(&KEY[..8]), "{text}");
        assert_eq!(entry(found, "gateway_url").0, Some("wss://h.example:81/…"));
        let hosts = format!(
            "chain_id 7, wss://h.example:81/…, https://h.example:81/…, acl_address {ADDRESS}, agreement \
             1, max_age_secs 120"
        );
        let variable = "KMS_CONNECTOR_HOST_CHAINS";
        assert_eq!(entry(found, "host_chains"), (Some(hosts.as_str()), variable));
        assert_eq!(entry(found, "ethereum_url").0, Some("https://h.example:81/…"));
        assert_eq!(entry(found, "s3_config.endpoint").0, Some("https://h.example:81/…"));
    }
    assert_eq!(entry(&with_aws, "aws_kms_config.endpoint").0, Some("https://h.example:81/…"));
    assert_eq!(entry(&with_aws, "aws_kms_config.key_id").0, Some("alias/a"));
    assert!(entry(&with_key, "private_key").0.unwrap().contains("hidden, of address 0x"));
}

/// The shown keys are exactly those of the documentation's table.
#[test]
fn the_effective_configuration_has_the_documented_keys() {
    let readme = include_str!("../../../config/README.md");
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
