//! What others can change around the program, and what a crash of it would leave behind.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use world::program;

/// Endpoints that nobody serves: it waits for them.
const CONFIG: &str = r#"
gateway_url = "ws://127.0.0.1:1"
kms_core_endpoint = "http://127.0.0.1:1"
chain_id = 4242
decryption_address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
gateway_config_address = "0x0000000000000000000000000000000000000001"
private_key = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
"#;

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .env_clear()
        .env("KMS_CONNECTOR_CONFIG_DIR", home.join("configs"))
        .env("KMS_CONNECTOR_STATE_DIR", home.join("state"))
        .env("KMS_CONNECTOR_LISTEN", "127.0.0.1:0")
        .current_dir(home);
    command
}

/// Ends with its test.
struct Running(Child);

impl Running {
    fn new(home: &Path, arguments: &[&str]) -> Self {
        let log = File::create(home.join("log")).unwrap();
        let mut command = command(home, arguments);
        Self(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed().as_secs() < 60, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn make(home: &Path, mode: u32) -> [PathBuf; 2] {
    ["configs", "state"].map(|name| {
        let directory = home.join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        directory
    })
}

#[test]
fn b12_what_everybody_can_write_is_told_by_check_by_validate_and_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let odd = make(home.path(), 0o777).map(|path| path.display().to_string());
    for arguments in [["validate", "--all"], ["check", "--all"]] {
        let ended = command(home.path(), &arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "it works all the same: {ended:?}");
        let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        for path in &odd {
            assert!(said.contains(path) && said.contains("chmod"), "{arguments:?}: {said}");
        }
    }
    let _running = Running::new(home.path(), &["supervise"]);
    until("what the log says", || {
        let log = fs::read_to_string(home.path().join("log")).unwrap();
        odd.iter().all(|path| log.lines().any(|line| line.contains(path) && line.contains("chmod")))
    });
}

#[test]
fn b12_no_way_of_starting_leaves_core_dumps() {
    let home = tempfile::tempdir().unwrap();
    let [configs, _] = make(home.path(), 0o700);
    fs::write(configs.join("one.toml"), CONFIG).unwrap();
    for arguments in [&["supervise"][..], &["start", "-c", "one.toml"]] {
        let running = Running::new(home.path(), arguments);
        let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", running.0.id()));
        until("no limit for core dumps", || {
            let limits = of("limits").unwrap();
            let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
            line.unwrap().split_whitespace().take(2).eq(["0", "0"])
                && of("coredump_filter").unwrap().trim().bytes().all(|digit| digit == b'0')
        });
    }
}

#[test]
fn d8_too_few_open_files_are_no_problem_of_a_configuration() {
    let home = tempfile::tempdir().unwrap();
    let [configs, _] = make(home.path(), 0o700);
    fs::write(configs.join("one.toml"), CONFIG).unwrap();
    let kc = program().display();
    for limit in [12, 16, 100] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("ulimit -n {limit}; exec {kc} supervise")]).env_clear();
        shell.env("KMS_CONNECTOR_CONFIG_DIR", &configs).current_dir(home.path());
        let ended = shell.output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains("ulimit") && !said.contains("configuration problem"), "{said}");
    }
}
