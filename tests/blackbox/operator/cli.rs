//! The command line: what goes to which stream, and with which exit code it ends.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod files;
mod control;

use std::{
    fs,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;
use world::program;

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
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env_clear()
            .env("KMS_CONNECTOR_CONFIG_DIR", self.configs())
            .env("KMS_CONNECTOR_LISTEN", "127.0.0.1:0")
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

/// As a supervisor wants it: nothing left to defaults.
fn whole(key_end: &str, core: &str) -> String {
    CONFIG.replace("d01a3f362318", &format!("d01a3f36{key_end}")).replace("127.0.0.1:1", core)
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
        &["validate", "--all", "-c", "x.toml"],
        &["restart"],
        &["stop"],
        &["status", "a", "b"],
        &["reload", "\n"],
    ] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?} {ended:?}");
        assert!(ended.stdout.is_empty() && !ended.stderr.is_empty(), "{arguments:?} {ended:?}");
    }
}

#[test]
fn explain_tells_a_reason_and_names_what_is_near_an_unknown_one() {
    let world = World::new(&[]);
    let known = world.run(&["explain", "no_funds"]);
    assert_eq!(known.code, Some(0), "{known:?}");
    assert!(known.stdout.contains("  to do  fund the wallet"), "{known:?}");
    let all = world.run(&["explain"]);
    assert!(all.code == Some(0) && all.stdout.contains("  wallet_not_registered  "), "{all:?}");
    let unknown = world.run(&["explain", "nofund"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""), "{unknown:?}");
    assert!(unknown.stderr.contains("no_funds"), "{unknown:?}");
}

#[test]
fn version_tells_version_and_commit() {
    let ended = World::new(&[]).run(&["--version"]);
    assert_eq!(ended.code, Some(0));
    let start = format!("kms-connector {} (commit ", env!("CARGO_PKG_VERSION"));
    assert!(ended.stdout.starts_with(&start), "{ended:?}");
}

#[test]
fn the_program_describes_itself_for_shells_and_man() {
    let world = World::new(&[]);
    for arguments in [&["completions", "bash"][..], &["completions", "zsh"], &["man"]] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("supervise") && ended.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let names: Vec<String> = (0..20_000).map(|n| format!("{n:0200}.toml")).collect();
    let world = World::new(&[]);
    // 20,000 names of 200 bytes do not fit into any pipe's buffer.
    for name in &names {
        fs::File::create(world.configs().join(name)).unwrap();
    }
    let mut child = world.command(&["list"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Field failure T51.
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
