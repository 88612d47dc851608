//! No output contains a secret, in whatever key or form it was given.

use super::*;

const CANARY: &str = "cAnArY7351";

/// Everything that an operator could see when loading `text`.
fn all_output(text: &str, environment: &Environment) -> String {
    let mut output = format!("{environment:?}");
    for mode in [LoadMode::Start, LoadMode::Supervise] {
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
        Key::HostChains,
        Key::EthereumUrl,
        Key::EthereumFallbackUrls,
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
}

/// An operator puts a secret into a key where none belongs: a password, a token, a key, a URL.
#[test]
fn no_problem_shows_a_value_that_may_be_a_secret() {
    let url = format!("wss://{CANARY}:{CANARY}@h/{CANARY}");
    let token = format!("{CANARY}+wJalrXUtnFEMIbPxRfiCYEXAMPLE");
    let digits = "73517351735173517351735173517351735173";
    let (key, odd) = (format!("{CANARY}{}", "ab".repeat(30)), format!("{CANARY} {CANARY}"));
    let values = [CANARY, &odd, digits, &token, &key, &url];
    let mut seen = 0;
    for key in Key::ALL {
        for value in values {
            // A path is shown, so that it can be corrected: a short word is one.
            let is_path = matches!(key, Key::PrivateKeyFile | Key::CaFile);
            if is_path && value.len() < 32 {
                continue;
            }
            for text in [format!("{key} = {value:?}"), format!("{key} = {value}")] {
                if load_text(&text, env([WALLET]), LoadMode::Start).is_err() {
                    let output = all_output(&text, &env([WALLET]));
                    let shows = output.contains(CANARY) || output.contains(&digits[..21]);
                    assert!(!shows, "{key}: {output}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 200, "{seen}");
    // What is near an allowed word, or a number, helps and tells nothing.
    for (text, shown) in [
        ("mode = 'Observer'", "Observer"),
        ("verify_coprocessors = 'yes'", "yes"),
        ("finality = 'final'", "final"),
        ("channel_size = '0'", "0"),
        ("channel_size = -7", "-7"),
    ] {
        let found = bad(text)[0].found.clone();
        assert!(found.contains(shown), "{text}: {found}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for text in ["[".repeat(100_000), format!("a = {}", "[".repeat(100_000)), "a.".repeat(50_000)] {
        assert!(load_text(&text, env([WALLET]), LoadMode::Start).is_err());
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
        for mode in [LoadMode::Start, LoadMode::Supervise] {
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
        let _ = load_text(&text, env([WALLET]), LoadMode::Start);
        for key in Key::ALL {
            let name = format!("KMS_CONNECTOR_{}", key.variable());
            let _ = load(&source(env([(&name, &value)])));
        }
    }
}

/// A document with every secret there is.
fn secretive_document() -> String {
    let key = secret_digits();
    format!(
        "gateway_url = \"wss://node.example/v3/{CANARY}\"\n\
         gateway_fallback_urls = [\"wss://u:{CANARY}@other.example/\", \"https://h/?{CANARY}\"]\n\
         kms_core_endpoint = \"https://{CANARY}:{CANARY}@core.example:50051\"\n\
         chain_id = 31337\ndecryption_address = \"{ADDRESS}\"\n\
         private_key = \"0x{key}\"\nretry_interval_secs = 5\nstarting_block = \"latest\"\n\
         ethereum_url = \"wss://u:{CANARY}@ethereum.example/\"\nethereum_chain_id = 1\n\
         protocol_config_address = \"{ADDRESS}\"\n\
         [[host_chains]]\nchain_id = 1\nurl = \"https://{CANARY}@host.example/{CANARY}\"\n\
         fallback_urls = [\"https://h/?{CANARY}\"]\nacl_address = \"{ADDRESS}\"\n\
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
    /// Inserts a copy of a line.
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
    /// T51: a valid document that was damaged loads, or gives a problem that names its file; neither
    /// shows a secret.
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
        if let Err(problems) = load_text(&text, env([]), LoadMode::Supervise) {
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
