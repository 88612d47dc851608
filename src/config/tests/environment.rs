//! The environment's values and warnings.

use super::*;

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

/// No Kubernetes service has a name that makes its variables look like those of one instance.
#[test]
fn a_mistyped_variable_of_one_instance_is_told_as_one() {
    let wrong = "KMS_CONNECTOR_INSTANCE_ONE__HELD_RETRY_SEC";
    let loaded = load_text("", env([WALLET, (wrong, "7")]), LoadMode::Start).unwrap();
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
    let text = load_text("", environment, LoadMode::Supervise).unwrap_err().to_string();
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
    let loaded = load_text(&text, environment, LoadMode::Supervise).unwrap();
    assert_eq!(loaded.config.chain_id, 9);
    assert_eq!(loaded.config.gateway_url.to_string(), "ws://shared");
}

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
    let found = unmatched_variables(&odd, ["a-1", "c"].into_iter());
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

#[test]
fn names_follow_the_mode() {
    let config = good("service_name = 'service'").config;
    let file = Some(Path::new("/a/one.toml"));
    assert_eq!(instance_name(LoadMode::Start, Some("given"), file, &config), "given");
    assert_eq!(instance_name(LoadMode::Start, None, file, &config), "service");
    assert_eq!(instance_name(LoadMode::Start, None, None, &config), "service");
    assert_eq!(instance_name(LoadMode::Supervise, Some("given"), file, &config), "one");
    // The default does not count as given, even where an example spells it out.
    let config = good("service_name = 'kms-connector'").config;
    assert_eq!(instance_name(LoadMode::Start, None, file, &config), "one");
    assert_eq!(instance_name(LoadMode::Start, None, None, &config), "kms-connector");
    // In a variable it is a choice, and wins over the file.
    let variable = ("KMS_CONNECTOR_SERVICE_NAME", "kms-connector");
    for text in ["service_name = 'service'", "service_name = 'kms-connector'", ""] {
        let loaded = load_text(text, env([WALLET, variable]), LoadMode::Start).unwrap();
        let name = instance_name(LoadMode::Start, None, file, &loaded.config);
        assert_eq!(name, "kms-connector", "{text}");
    }
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
    let problems = load_text("", env(variables), LoadMode::Start).unwrap_err();
    assert_eq!(problems.as_slice().len(), 3, "{problems}");
    assert!(problems.to_string().matches("stands in quotes").count() == 3, "{problems}");
    assert!(!problems.to_string().contains("node.example"), "{problems}");
    let problems = bad("gateway_url = \"'ws://node.example'\"");
    assert!(problems[0].to_string().contains("stands in quotes"), "{problems:?}");

    let places =
        [("KMS_CONNECTOR_STATE_DIR", "\"/var/lib/x\""), ("KMS_CONNECTOR_CONFIG_DIR", "/etc")];
    let problems = check_directory_variables(&env(places)).unwrap_err();
    assert_eq!(problems.as_slice().len(), 1);
    assert!(problems.to_string().contains("KMS_CONNECTOR_STATE_DIR"), "{problems}");
}

/// The usual variables are read without our prefix, and work only without quotes.
#[test]
fn c6_usual_variables_in_quotes_are_one_clear_problem() {
    let quoted =
        [("HTTPS_PROXY", "\"http://proxy.example:3128\""), ("http_proxy", "'proxy.example:3128'")];
    for variable in quoted {
        let problems = load_text("", env([variable, WALLET]), LoadMode::Start).unwrap_err();
        assert_eq!(problems.as_slice().len(), 1, "{problems}");
        let said = problems.to_string();
        assert!(said.contains(variable.0) && said.contains("stands in quotes"), "{said}");
    }
    let no = ("NO_PROXY", "\"localhost,10.0.0.0/8\"");
    let warnings = load_text("", env([no, WALLET]), LoadMode::Start).unwrap().warnings;
    let told: Vec<_> = warnings.iter().filter(|it| it.to_string().contains("NO_PROXY")).collect();
    assert!(told.len() == 1 && told[0].message.contains("stands in quotes"), "{warnings:?}");

    let process = [
        ("RUST_LOG", "'debug'"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "\"http://collector:4318\""),
        ("OTEL_EXPORTER_OTLP_HEADERS", "'api-key=SECRET'"),
        ("OTEL_SERVICE_NAME", "connector"),
    ];
    let warnings = suspicious_variables(&env(process));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().all(|it| it.message.contains("stands in quotes")), "{warnings:?}");
    assert!(!format!("{warnings:?}").contains("SECRET"), "{warnings:?}");
}

/// The system distinguishes case, and nothing else shows that the variable has no effect.
#[test]
fn c6_a_variable_in_lower_case_is_told() {
    let variables = [("kms_connector_gas_limit", "7"), ("KMS_CONNECTOR_CHAIN_ID", "1")];
    let warnings = suspicious_variables(&env(variables));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("KMS_CONNECTOR_GAS_LIMIT"), "{warnings:?}");
}

/// The variable that a problem recommends works when it is set.
#[test]
fn c6_no_advice_is_refused_when_it_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let file = Some(directory.path().join("d-1.toml"));
    fs::write(directory.path().join("d-1.toml"), "").unwrap();
    let of = |environment| Source {
        file: file.clone(),
        mode: LoadMode::Supervise,
        ..source(environment)
    };
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
    let problems = load_text("", env(theirs), LoadMode::Start);
    // `load_text` names a file.
    let warnings: Vec<String> =
        problems.unwrap().warnings.iter().map(|warning| warning.message.clone()).collect();
    assert!(warnings.iter().any(|text| text.contains("it is chain_id")), "{warnings:?}");
    assert!(!warnings.iter().any(|text| text.contains("gas_limit")), "{warnings:?}");
    let source = Source {
        file: None,
        environment: env(theirs),
        credentials_directory: None,
        mode: LoadMode::Start,
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
    let loaded = load_text("", env(variables), LoadMode::Start).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let odd = warnings.iter().filter(|text| text.contains("NO_PROXY")).count();
    assert_eq!(odd, 3, "{warnings:?}");
    assert!(!warnings.concat().contains("CANARY"), "{warnings:?}");
}
