//! The wallet's key and the private certificate authorities: files, modes, priorities.

use super::*;

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
    // A group may read root's file, as in a Kubernetes secret.
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
    assert_eq!(key_of(&load_text(&text, env([]), LoadMode::Start).unwrap()), KEY);
    let wide: Vec<u8> =
        format!("\u{feff}{KEY}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    for wide in [&wide[..], &wide[2..]] {
        fs::write(&path, wide).unwrap();
        let problems = load_text(&text, env([]), LoadMode::Start).unwrap_err().to_string();
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
    let loaded = load_text(&text, env([file]), LoadMode::Start).unwrap();
    assert_eq!(key_of(&loaded), "cd".repeat(32));
    let text = format!("private_key_file = '{path}'");
    assert_eq!(key_of(&load_text(&text, env([WALLET]), LoadMode::Start).unwrap()), KEY);
    assert!(load(&source(env([file, WALLET]))).is_err());
    // The seed's priority, across layers.
    let aws = ("KMS_CONNECTOR_AWS_KMS_CONFIG__KEY_ID", "id");
    let text = format!("private_key = '{KEY}'");
    assert_eq!(key_of(&load_text(&text, env([aws]), LoadMode::Start).unwrap()), KEY);
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
    assert!(at(LoadMode::Start, Some(&file)).is_err());
    // systemd protects this directory, so the mode is not checked.
    write(&credentials.path().join("private_key"), KEY, 0o444);
    assert_eq!(key_of(&at(LoadMode::Start, Some(&file)).unwrap()), KEY);
    assert_eq!(key_of(&at(LoadMode::Start, None).unwrap()), KEY);
    assert!(at(LoadMode::Supervise, Some(&file)).is_err());
    write(&credentials.path().join("one.private_key"), &"cd".repeat(32), 0o444);
    for mode in [LoadMode::Start, LoadMode::Supervise] {
        assert_eq!(key_of(&at(mode, Some(&file)).unwrap()), "cd".repeat(32));
    }
    write(&credentials.path().join("one.private_key"), "", 0o444);
    assert!(at(LoadMode::Supervise, Some(&file)).unwrap_err().to_string().contains("no text"));
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
