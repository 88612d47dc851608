//! The command line: what goes to which stream, and with which exit code it ends.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const CONFIG: &str = r#"
gateway_url = "wss://user:CANARY@gateway.example/CANARY?key=CANARY"
kms_core_endpoint = "http://127.0.0.1:1"
chain_id = 4242
decryption_address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
gateway_config_address = "0x0000000000000000000000000000000000000001"
private_key = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
"#;
const ADDRESS: &str = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"; // of that key
const KEY_PART: &str = "4c0883a6";

/// A configuration directory of its own, in a working directory of its own.
struct World {
    directory: TempDir,
}

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = Self { directory };
        fs::create_dir(world.configs()).unwrap();
        for (name, text) in files {
            fs::write(world.configs().join(name), text).unwrap();
        }
        world
    }

    fn configs(&self) -> std::path::PathBuf {
        self.directory.path().join("configs")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kms-connector"));
        command
            .args(arguments)
            .env_clear()
            .env("KMS_CONNECTOR_CONFIG_DIR", self.configs())
            .current_dir(self.directory.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

#[test]
fn usage_errors_end_with_2() {
    let world = World::new(&[]);
    for arguments in [
        &[][..],
        &["nonsense"],
        &["validate"],
        &["start", "--name", " "],
        &["list", "--log-format", "xml"],
        &["list", "--long", "--json"],
    ] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?} {ended:?}");
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{arguments:?} {ended:?}");
    }
}

#[test]
fn version_tells_version_and_commit() {
    let ended = World::new(&[]).run(&["--version"]);
    assert_eq!(ended.code, Some(0));
    let start = format!("kms-connector {} (commit ", env!("CARGO_PKG_VERSION"));
    assert!(ended.stdout.starts_with(&start), "{ended:?}");
}

#[test]
fn list_prints_sorted_names_and_nothing_else() {
    let files =
        ["b.toml", "a.toml", ".hidden.toml", "a.toml~", ".a.toml.swp", "c.swp", "readme.md"];
    let world = World::new(&files.map(|name| (name, "broken =")));
    fs::create_dir(world.configs().join("directory.toml")).unwrap();
    let ended = world.run(&["list"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "a.toml\nb.toml\n"), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");

    let path = |name: &str| world.configs().join(name).display().to_string();
    let expected = format!("{}\n{}\n", path("a.toml"), path("b.toml"));
    for flag in ["-f", "--full-path"] {
        assert_eq!(world.run(&["list", flag]).stdout, expected);
    }
}

#[test]
fn list_looks_below_the_working_directory_by_default() {
    let world = World::new(&[]);
    let directory = world.directory.path().join("config/environments");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("x.toml"), "").unwrap();
    let output = world.command(&["list"]).env_remove("KMS_CONNECTOR_CONFIG_DIR").output().unwrap();
    assert_eq!(Ended::from(output).stdout, "x.toml\n");
}

#[test]
fn list_can_tell_more() {
    let disabled = format!("enabled = false\n{CONFIG}");
    let world = World::new(&[("a.toml", CONFIG), ("b.toml", "x = 1"), ("c.toml", &disabled)]);
    let long = world.run(&["list", "--long"]);
    assert_eq!(long.code, Some(0));
    let lines: Vec<Vec<&str>> =
        long.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{long:?}");
    assert_eq!(lines[1][..5], ["a.toml", "a", "ok", "4242", "wss://gateway.example"]);
    assert_eq!(lines[2][..4], ["b.toml", "-", "2", "problems"]);
    assert_eq!(lines[3][..3], ["c.toml", "c", "disabled"]);

    let json = world.run(&["list", "--json"]);
    let entries: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(entries[0]["file"], "a.toml");
    assert_eq!(entries[0]["path"], world.configs().join("a.toml").display().to_string());
    assert_eq!(entries[0]["chain_id"], 4242);
    assert_eq!(entries[1]["status"], "bad");
    assert_eq!(entries[1]["problems"].as_array().unwrap().len(), 2);
    for output in [long.stdout, json.stdout] {
        assert!(!output.contains("CANARY") && !output.contains(KEY_PART), "{output}");
    }
}

#[test]
fn a_missing_config_directory_is_said_with_78() {
    let world = World::new(&[]);
    fs::remove_dir(world.configs()).unwrap();
    let ended = world.run(&["list"]);
    assert_eq!(ended.code, Some(78));
    assert!(ended.stdout.is_empty());
    assert!(ended.stderr.contains(&world.configs().display().to_string()), "{ended:?}");
    assert!(ended.stderr.contains("KMS_CONNECTOR_CONFIG_DIR"), "{ended:?}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let names: Vec<String> = (0..20_000).map(|n| format!("{n:0200}.toml")).collect();
    let world = World::new(&[]);
    // 20,000 names of 200 bytes do not fit into any pipe's buffer.
    for name in &names {
        fs::File::create(world.configs().join(name)).unwrap();
    }
    let mut child = world.command(&["list"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn validate_says_ok_on_stdout_and_warnings_on_stderr() {
    let world = World::new(&[("one.toml", CONFIG)]);
    let path = world.configs().join("one.toml");
    for file in ["one.toml", "configs/one.toml", path.to_str().unwrap()] {
        let output = world
            .command(&["validate", "-c", file])
            .env("KMS_CONNECTOR_CHIAN_ID", "1")
            .output()
            .unwrap();
        let ended = Ended::from(output);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for words in ["ok", "one", "4242", "wss://gateway.example", "private key", ADDRESS] {
            assert!(ended.stdout.contains(words), "{words}: {ended:?}");
        }
        assert!(ended.stderr.contains("KMS_CONNECTOR_CHIAN_ID"), "{ended:?}");
        let all = ended.stdout + &ended.stderr;
        assert!(!all.contains("CANARY") && !all.contains(KEY_PART), "{all}");
    }
}

#[test]
fn bad_configurations_end_with_78_and_every_problem() {
    let bad = format!("{CONFIG}gas_limit = 6000\nnonsense = 1\n");
    let world = World::new(&[("bad.toml", &bad), ("syntax.toml", "chain_id = \"CANARY")]);
    for arguments in [&["validate", "-c", "bad.toml"][..], &["start", "-c", "bad.toml"]] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
        for words in ["bad.toml:8", "gas_limit", "bad.toml:9", "nonsense"] {
            assert!(ended.stderr.contains(words), "{words}: {ended:?}");
        }
    }
    let ended = world.run(&["validate", "-c", "syntax.toml"]);
    assert_eq!(ended.code, Some(78));
    assert!(ended.stderr.contains("syntax.toml:1:"), "{ended:?}");
    assert!(!ended.stderr.contains("CANARY"), "{ended:?}");
}

#[test]
fn a_missing_file_names_both_places() {
    let world = World::new(&[]);
    for command in ["validate", "start"] {
        let ended = world.run(&[command, "-c", "none.toml"]);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stderr.contains("none.toml"), "{ended:?}");
        assert!(ended.stderr.contains(&world.configs().display().to_string()), "{ended:?}");
    }
}

#[test]
fn start_without_a_wallet_says_so_whatever_the_logging() {
    let world = World::new(&[]);
    for filter in ["info", "off", "nonsense=nonsense=nonsense", "hyper=trace"] {
        for format in ["text", "json"] {
            let output = world
                .command(&["start", "--log-format", format])
                .env("RUST_LOG", filter)
                .output()
                .unwrap();
            let ended = Ended::from(output);
            assert_eq!(ended.code, Some(78), "{ended:?}");
            assert!(ended.stderr.contains("KMS_CONNECTOR_PRIVATE_KEY"), "{filter}: {ended:?}");
            assert!(ended.stdout.is_empty(), "{ended:?}");
        }
    }
}

#[test]
fn logs_are_json_if_asked() {
    let ended = World::new(&[]).run(&["--log-format", "json", "start"]);
    assert_eq!(ended.code, Some(78));
    for line in ended.stderr.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
    assert!(!ended.stderr.is_empty());
}

#[test]
fn the_shipped_examples_are_valid() {
    let world = World::new(&[]);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/environments");
    for n in 1..=4 {
        let file = directory.join(format!("config-{n}.toml"));
        let ended = world.run(&["validate", "-c", file.to_str().unwrap()]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("PUBLICLY KNOWN"), "{ended:?}");
    }
    let base = directory.join("config-base.toml");
    let ended = world.run(&["validate", "-c", base.to_str().unwrap()]);
    assert_eq!(ended.code, Some(78), "without a wallet: {ended:?}");
}
