//! `[[host_chains]]` and the Ethereum keys.

use super::*;

const GOOD: &str = r#"
[[host_chains]]
chain_id = 1
url = "wss://node.example/key"
fallback_urls = ["https://other.example", "wss://third.example"]
acl_address = "0xcA2E8f1F656CD25C01F05d0b243Ab1ecd4a8ffb6"
agreement = 2
max_age_secs = 60

[[host_chains]]
chain_id = 31337
url = "http://localhost:8546"
acl_address = "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"
"#;

/// Line, key and what was found of each problem.
fn faults(text: &str) -> Vec<(usize, String, String)> {
    let told = |problem: Problem| {
        (line(&problem.place).unwrap_or_default(), problem.key.unwrap(), problem.found)
    };
    bad(text).into_iter().map(told).collect()
}

/// The key and what was found of the only problem.
fn fault(text: &str) -> (usize, String, String) {
    let faults = faults(text);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults[0].clone()
}

#[test]
fn a_list_of_tables_loads_in_its_order() {
    // The second one is the gateway's own chain, with another node.
    let config = good(GOOD).config;
    let [first, second] = &config.host_chains[..] else { panic!("{:?}", config.host_chains) };
    assert_eq!((first.chain_id, first.agreement, first.max_age.as_secs()), (1, 2, 60));
    assert_eq!(first.acl_address.to_string(), "0xcA2E8f1F656CD25C01F05d0b243Ab1ecd4a8ffb6");
    let urls: Vec<String> = first.urls().map(ToString::to_string).collect();
    assert_eq!(urls, ["wss://node.example", "https://other.example", "wss://third.example"]);
    assert_eq!((second.chain_id, second.agreement, second.max_age.as_secs()), (31337, 1, 120));
    assert_eq!(config.chain_id, second.chain_id);
    assert_eq!(good("host_chains = []").config.host_chains, []);
    assert_eq!(good("").config.host_chains, []);

    let path = PathBuf::from("one.toml");
    let with = |text| Source { file: Some(path.clone()), ..source(env([WALLET])) }.text(text);
    let entries = with(GOOD);
    let entry = entries.iter().find(|entry| entry.key == "host_chains").unwrap();
    assert_eq!(entry.source, "one.toml:2");
    assert!(entry.value.as_deref().unwrap().contains("chain_id 31337, http://localhost:8546"));
}

impl Source {
    /// The effective entries of a file with this text.
    fn text(&self, text: &str) -> Vec<Entry> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(self.file.as_deref().unwrap());
        fs::write(&path, text).unwrap();
        let source = Self { file: Some(path), ..self.clone() };
        let mut entries = effective(&source).unwrap().0;
        let begin = format!("{}/", directory.path().display());
        for entry in &mut entries {
            entry.source = entry.source.replace(&begin, "");
        }
        entries
    }
}

#[test]
fn a_variable_takes_what_other_connectors_take() {
    let json = format!(
        r#"[{{"url": "http://a.example", "chainId": 1, "aclAddress": "{ADDRESS}"}},
            {{"url": "http://b.example", "chain_id": "2", "acl_address": "{ADDRESS}",
              "fallbackUrls": ["http://c.example"], "agreement": 2, "maxAgeSecs": 7}}]"#
    );
    let loaded = load(&source(env([WALLET, ("KMS_CONNECTOR_HOST_CHAINS", &json)]))).unwrap();
    let chains = &loaded.config.host_chains;
    assert_eq!([chains[0].chain_id, chains[1].chain_id], [1, 2]);
    assert_eq!((chains[1].agreement, chains[1].max_age.as_secs()), (2, 7));
    // It replaces the file's list.
    let environment = env([WALLET, ("KMS_CONNECTOR_INSTANCE_ONE__HOST_CHAINS", "[]")]);
    assert_eq!(load_text(GOOD, environment, LoadMode::Start).unwrap().config.host_chains, []);

    for (json, word) in [
        ("[{]", "no JSON (line 1, column 3)"),
        ("{}", "JSON that is no list"),
        ("[1]", "something else than objects"),
    ] {
        let problems = load(&source(env([WALLET, ("KMS_CONNECTOR_HOST_CHAINS", json)])));
        let problems = problems.unwrap_err();
        let [problem] = problems.as_slice() else { panic!("{problems}") };
        assert!(problem.found.contains(word), "{problem}");
        assert_eq!(problem.place, Place::Variable("KMS_CONNECTOR_HOST_CHAINS".to_owned()));
    }
    let twice = r#"[{"chainId": 1, "chain_id": 1, "url": "http://a", "aclAddress": "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"}]"#;
    let problems = load(&source(env([WALLET, ("KMS_CONNECTOR_HOST_CHAINS", twice)]))).unwrap_err();
    let told = problems.to_string();
    assert!(
        told.contains(
            "KMS_CONNECTOR_HOST_CHAINS: host_chains[0].chain_id: found the key given twice"
        )
    );
}

#[test]
fn every_problem_of_every_entry_is_told_with_its_place() {
    let text = r#"
[[host_chains]]
chain_id = 0
url = "ftp://x"
fallback_urls = ["nothing", 'http://ok.example', "https://:0"]
acl_address = "0xabc"
agreement = 10
max_age_secs = 0
chainid = 5

[[host_chains]]
chain_id = 7
url = "http://a.example"
fallback_urls = ["http://a.example"]
acl_address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"

[[host_chains]]
chain_id = 7
gateway_url = "ws://x"
"#;
    let told: Vec<(usize, String)> =
        faults(text).into_iter().map(|(line, key, _)| (line, key)).collect();
    let told: Vec<(usize, &str)> = told.iter().map(|(line, key)| (*line, key.as_str())).collect();
    assert_eq!(
        told,
        [
            (3, "host_chains[0].chain_id"),
            (4, "host_chains[0].url"),
            (5, "host_chains[0].fallback_urls"),
            (5, "host_chains[0].fallback_urls"),
            (6, "host_chains[0].acl_address"),
            (7, "host_chains[0].agreement"),
            (8, "host_chains[0].max_age_secs"),
            (9, "host_chains[0].chainid"),
            (14, "host_chains[1].fallback_urls"),
            (15, "host_chains[1].acl_address"),
            (18, "host_chains[2].acl_address"),
            (18, "host_chains[2].chain_id"),
            (18, "host_chains[2].url"),
            (19, "host_chains[2].gateway_url"),
        ]
    );
    let problems = load_text(text, env([WALLET]), LoadMode::Start).unwrap_err().to_string();
    for words in [
        "one.toml:9: host_chains[0].chainid: found an unknown key",
        "Did you mean chain_id?",
        "found chain 7, which host_chains[1] is; allowed: each chain once",
        "fallback_urls: found a text of 7 characters without :// as entry 1 of 3",
        "fallback_urls: found a broken URL (empty host) as entry 3 of 3",
        "fallback_urls: found the same URL twice (entry 1 is url)",
        "one.toml:19: host_chains[2].gateway_url: found an unknown key",
        "move it above the first [table]",
        "one.toml:18: host_chains[2].url: found nothing",
    ] {
        assert!(problems.contains(words), "{words}\n{problems}");
    }
}

#[test]
fn an_agreement_needs_as_many_urls() {
    let (line, key, found) = fault(&GOOD.replace("agreement = 2", "agreement = 4"));
    assert_eq!((line, key.as_str()), (7, "host_chains[0].agreement"));
    assert_eq!(found, "4 endpoints that must agree, of 3");
    good(&GOOD.replace("agreement = 2", "agreement = 3"));
}

#[test]
fn one_table_is_no_list_of_tables() {
    let told = problem("[host_chains]\nchain_id = 1");
    assert!(told.found.contains("a table") && told.advice.contains("[[host_chains]]"), "{told}");
    assert_eq!(line(&told.place), Some(1));
    problem("host_chains = 7");
    let one =
        |id| format!("[[host_chains]]\nchain_id={id}\nurl='http://a'\nacl_address='{ADDRESS}'\n");
    let many = (1..=33).map(one).collect::<Vec<_>>().concat();
    assert!(problem(&many).found.contains("33 chains"));
    // Tools without a shell keep quotes.
    let quoted = GOOD.replace("\"http://localhost:8546\"", "'\"http://localhost:8546\"'");
    assert!(problem(&quoted).found.contains("in quotes"));
}

#[test]
fn the_ethereum_keys_need_each_other() {
    let all = format!(
        "ethereum_url = 'http://e'\nethereum_chain_id = 1\nprotocol_config_address = '{ADDRESS}'\n"
    );
    let ethereum = good(&all).config.ethereum.unwrap();
    assert_eq!((ethereum.chain_id, ethereum.fallback_urls.len()), (1, 0));
    assert_eq!(good("").config.ethereum, None);
    for left_out in ["ethereum_url", "ethereum_chain_id", "protocol_config_address"] {
        let rest: String = all
            .lines()
            .filter(|line| !line.starts_with(left_out))
            .fold(String::new(), |text, line| text + line + "\n");
        let told = problem(&rest);
        assert_eq!(told.key.as_deref(), Some(left_out), "{told}");
        assert!(told.advice.contains("is given, and needs it"), "{told}");
    }
    let told = bad("ethereum_fallback_urls = ['http://e']");
    assert_eq!(told.len(), 3, "{told:?}");
    let twice = format!("ethereum_fallback_urls = ['http://e']\n{all}");
    assert_eq!(problem(&twice).key.as_deref(), Some("ethereum_fallback_urls"));
}

/// Either of its two contracts is enough.
#[test]
fn ethereum_may_be_there_for_key_operations_alone() {
    let chain = "ethereum_url = 'http://e'\nethereum_chain_id = 1\n";
    let key = format!("kms_generation_address = '{ADDRESS}'\n");
    let config = good(&format!("{chain}{key}")).config;
    assert_eq!(config.ethereum.as_ref().unwrap().protocol_config_address, None);
    assert!(matches!(
        config.key_chain(),
        Some(KeyChain::Ethereum { chain: Ethereum { chain_id: 1, .. }, .. })
    ));
    assert!(matches!(good(&key).config.key_chain(), Some(KeyChain::Gateway { .. })));
    let both = format!("{chain}{key}protocol_config_address = '{ADDRESS}'");
    let told = problem(&both);
    assert_eq!(told.key.as_deref(), Some("kms_generation_address"), "{told}");
    let contexts = good(&format!("{chain}protocol_config_address = '{ADDRESS}'")).config;
    assert_eq!(contexts.key_chain(), None);
}

/// The gateway's contracts are read beside Decryption, those of Ethereum beside `KMSGeneration`.
#[test]
fn what_is_read_beside_a_chains_first_contract_depends_on_where_it_stands() {
    const OTHER: &str = "0xca2e8f1f656cd25c01f05d0b243ab1ecd4a8ffb6";
    let names = |text: &str, chain: u64| -> Vec<&str> {
        good(text).config.read_beside(chain).into_iter().map(BesideContract::name).collect()
    };
    let keys = format!("chain_id = 7\nkms_generation_address = '{OTHER}'\n");
    let chain = |id: u64| {
        format!(
            "ethereum_url = 'http://e'\nethereum_chain_id = {id}\nprotocol_config_address = '{ADDRESS}'\n"
        )
    };
    let ethereum = format!("{keys}{}", chain(1));
    assert_eq!((names(&ethereum, 7), names(&ethereum, 1)), (vec![], vec!["ProtocolConfig"]));
    let one_chain = format!("{keys}{}", chain(7));
    assert_eq!(names(&one_chain, 7), ["KMSGeneration", "ProtocolConfig"]);
    assert_eq!(names(&keys, 7), ["KMSGeneration"]);
    // Contexts alone are looked up there, and nothing is asked for.
    let contexts = format!("chain_id = 7\n{}", chain(1));
    assert_eq!((names(&contexts, 7), names(&contexts, 1)), (vec![], vec![]));
    assert_eq!(names(&format!("mode = 'observe'\n{ethereum}"), 1), [""; 0]);
}

/// A wallet has one owner on a chain, and addresses repeat from chain to chain.
#[test]
fn an_ethereum_that_is_the_gateways_chain_is_read_with_the_gateway() {
    let decryption = "0x5fbdb2315678afecb367f032d93f642f64180aa3";
    let chains = |gateway: u64, address: &str| {
        format!(
            "chain_id = {gateway}\nethereum_url = 'http://e'\nethereum_chain_id = 7\n\
             kms_generation_address = '{address}'"
        )
    };
    assert!(matches!(good(&chains(7, ADDRESS)).config.key_chain(), Some(KeyChain::Gateway { .. })));
    let told = problem(&chains(7, decryption));
    assert_eq!(told.key.as_deref(), Some("kms_generation_address"), "{told}");
    good(&chains(8, decryption));
    // The same of ProtocolConfig.
    let contexts = |chain| {
        let keys = chains(chain, ADDRESS);
        format!(
            "{keys}\nprotocol_config_address = '{decryption}'\ndecryption_address = '{decryption}'"
        )
    };
    let told = problem(&contexts(7));
    assert_eq!(told.key.as_deref(), Some("protocol_config_address"), "{told}");
    good(&contexts(8));
}

/// The gateway's keys say how its chain is read and paid.
#[test]
fn keys_of_ethereum_that_its_chain_does_not_need_are_warned_about() {
    let of = |chain: u64| {
        let text = format!(
            "chain_id = 7\nethereum_url = 'http://e'\nethereum_chain_id = {chain}\nethereum_finality = 'latest'\n\
             kms_generation_address = '{ADDRESS}'"
        );
        let warned = good(&text).warnings.into_iter();
        warned.filter_map(|warning| warning.key).collect::<Vec<_>>()
    };
    assert_eq!((of(7), of(8)), (vec!["ethereum_finality".to_owned()], Vec::new()));
}

#[test]
fn how_ethereum_is_read_and_answered_has_defaults() {
    let of = |text: &str| {
        let chain = "ethereum_url = 'http://e'\nethereum_chain_id = 1\n";
        let key = format!("kms_generation_address = '{ADDRESS}'\n");
        good(&format!("{chain}{key}{text}")).config.ethereum.unwrap()
    };
    let chain = of("");
    assert_eq!(
        (chain.starting_block, chain.finality),
        (StartingBlock::Latest, Finality::Finalized)
    );
    assert_eq!((chain.confirmations, chain.max_fee_per_gas), (64, 500_000_000_000));
    let chain = of("ethereum_starting_block = 7\nethereum_finality = 'safe'\n\
                    ethereum_confirmations = 0\nethereum_max_fee_per_gas_gwei = 0.5");
    assert_eq!((chain.starting_block, chain.finality), (StartingBlock::Number(7), Finality::Safe));
    assert_eq!((chain.confirmations, chain.max_fee_per_gas), (0, 500_000_000));
    // Also where they have no effect.
    for bad in [
        "ethereum_starting_block = 'first'",
        "ethereum_finality = 'final'",
        "ethereum_confirmations = 20001",
        "ethereum_max_fee_per_gas_gwei = 0",
    ] {
        let key = bad.split_once(' ').unwrap().0;
        assert_eq!(problem(bad).key.as_deref(), Some(key));
    }
}
