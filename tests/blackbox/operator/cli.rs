//! The command line: what goes to which stream, and with which exit code it ends.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use kms_connector::{
    admin::status::{Gauges, InstanceState, InstanceStatus, ReloadStatus, Status},
    config::Environment,
    supervisor::control::{self, Listener, Request, Response},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;
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
fn list_prints_sorted_names_and_nothing_else() {
    let files =
        ["b.toml", "a.toml", ".hidden.toml", "a.toml~", ".a.toml.swp", "c.swp", "readme.md"];
    let world = World::new(&files.map(|name| (name, "broken =")));
    fs::create_dir(world.configs().join("directory.toml")).unwrap();
    let ended = world.run(&["list"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "a.toml\nb.toml\n"), "{ended:?}");
    // Whoever mounted a file that is missing has a directory there, and wants to know.
    assert!(ended.stderr.contains("directory.toml"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");

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
    // As a supervisor sees it, for which the required keys are missing.
    assert_eq!(lines[2][..4], ["b.toml", "b", "7", "problems"]);
    assert_eq!(lines[3][..3], ["c.toml", "c", "disabled"]);

    let json = world.run(&["list", "--json"]);
    let entries: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(entries[0]["file"], "a.toml");
    assert_eq!(entries[0]["path"], world.configs().join("a.toml").display().to_string());
    assert_eq!(entries[0]["chain_id"], 4242);
    assert_eq!(entries[1]["status"], "bad");
    assert_eq!(entries[1]["problems"].as_array().unwrap().len(), 7);
    for output in [long.stdout, json.stdout] {
        assert!(!output.contains("CANARY") && !output.contains(KEY_PART), "{output}");
    }
}

#[test]
fn a_missing_config_directory_is_said_with_78() {
    let world = World::new(&[]);
    fs::remove_dir(world.configs()).unwrap();
    for arguments in [&["list"][..], &["validate", "--all"], &["supervise"]] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stdout.is_empty());
        assert!(ended.stderr.contains(&world.configs().display().to_string()), "{ended:?}");
        assert!(ended.stderr.contains("KMS_CONNECTOR_CONFIG_DIR"), "{ended:?}");
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

/// `start` has defaults for what `supervise` wants to be told.
#[test]
fn validate_of_one_file_notes_what_supervise_refuses() {
    let bare =
        "private_key = \"0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\"\n";
    let world = World::new(&[("one.toml", CONFIG), ("bare.toml", bare)]);
    let bare = world.run(&["validate", "-c", "bare.toml"]);
    assert_eq!(bare.code, Some(0), "{bare:?}");
    for words in ["`supervise` refuses it", "gateway_url", "decryption_address"] {
        assert!(bare.stderr.contains(words), "{words}: {bare:?}");
    }
    let whole = world.run(&["validate", "-c", "one.toml"]);
    assert!(!whole.stderr.contains("supervise"), "{whole:?}");
    let nobody = world.run(&["config", "--instance", "nope"]);
    assert_eq!(nobody.code, Some(78), "{nobody:?}");
    assert!(nobody.stderr.contains("there are: bare, one"), "{nobody:?}");
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

// ---- with a supervisor that says what a test wants it to

/// The real socket in front of one fixed status.
struct Supervisor {
    /// What was asked, but for the status.
    asked: Arc<Mutex<Vec<Request>>>,
    _runtime: Runtime,
}

impl Supervisor {
    fn new(socket: &Path, status: Status) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let candidates =
            control::candidates(Some(socket), &Environment::default(), Path::new("/nowhere"));
        let listener = runtime.block_on(Listener::bind(&candidates)).unwrap();
        let (commands, mut received) = mpsc::channel::<control::PendingRequest>(1);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        runtime.handle().spawn(listener.serve(commands, CancellationToken::new()));
        runtime.handle().spawn(async move {
            while let Some(control::PendingRequest { request, reply }) = received.recv().await {
                let answer = match &request {
                    Request::Status => Response::Status { status: Box::new(status.clone()) },
                    Request::Restart { name } if name == "unknown" => {
                        Response::Refused { why: "there is no instance unknown".to_owned() }
                    }
                    Request::Stop { name } if name == "stuck" => {
                        Response::Silent { why: "it may still do it".to_owned() }
                    }
                    Request::Reload { name: Some(name) } => Response::Done {
                        lines: vec![format!("{name}: running; reload failed: bad file")],
                        failed: true,
                    },
                    Request::Reload { name: None }
                    | Request::Restart { .. }
                    | Request::Stop { .. } => Response::Done {
                        lines: vec!["a: running".to_owned(), "b: running".to_owned()],
                        failed: false,
                    },
                    Request::Requests { .. } => continue,
                };
                if request != Request::Status {
                    seen.lock().unwrap().push(request);
                }
                let _ = reply.send(answer.into());
            }
        });
        Self { asked, _runtime: runtime }
    }
}

fn instance(file: &Path, state: InstanceState) -> InstanceStatus {
    InstanceStatus {
        name: file.file_stem().unwrap().to_str().unwrap().to_owned(),
        file: Some(file.to_owned()),
        state,
        since_ms: 1_789_401_912_000,
        reason_since_ms: None,
        generation: 2,
        restarts: 1,
        last_error: None,
        last_warnings: Vec::new(),
        reload_failed: None,
        reload_waits: false,
        changing: false,
        config_hash: None,
        chain_id: Some(4242),
        decryption: None,
        gateway: Some("gateway.example".to_owned()),
        kms_core: Some("core.example:50052".to_owned()),
        gauges: Gauges { wallet: Some(ADDRESS.to_owned()), ..Gauges::default() },
    }
}

fn status_of(instances: Vec<InstanceStatus>) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 4711,
        listen: None,
        started_at_ms: 1_789_401_912_000,
        config_dir: Some("/etc/kms-connector".into()),
        state_dir: None,
        reload: ReloadStatus::default(),
        instances,
    }
}

fn parked() -> InstanceState {
    InstanceState::Parked { why: "it contradicts the world".to_owned(), retry_at_ms: None }
}

#[test]
fn status_tells_and_its_exit_code_says_whether_all_is_well() {
    let world = World::new(&[]);
    let socket = world.directory.path().join("s.sock");
    let ask = |arguments: &[&str]| {
        let socket = ["--socket", socket.to_str().unwrap()];
        world.run(&[&["status"], arguments, &socket].concat())
    };
    let both = status_of(vec![
        instance(Path::new("/x/a.toml"), InstanceState::Running),
        instance(Path::new("/x/b.toml"), parked()),
    ]);
    let _supervisor = Supervisor::new(&socket, both.clone());

    let all = ask(&[]);
    assert_eq!(all.code, Some(1), "{all:?}");
    for words in ["pid 4711", "/etc/kms-connector", "running", "parked", "contradicts", ADDRESS] {
        assert!(all.stdout.contains(words), "{words}: {all:?}");
    }
    assert!(all.stderr.is_empty() && !all.stdout.contains('\u{1b}'), "{all:?}");

    let json = ask(&["--json"]);
    assert_eq!(json.code, Some(1));
    assert_eq!(serde_json::from_str::<Status>(&json.stdout).unwrap(), both);
    let json = ask(&["a", "--json"]);
    assert_eq!(json.code, Some(0));
    assert_eq!(serde_json::from_str::<InstanceStatus>(&json.stdout).unwrap(), both.instances[0]);

    let one = ask(&["a"]);
    assert_eq!(one.code, Some(0), "{one:?}");
    assert!(one.stdout.contains("core.example:50052") && !one.stdout.contains("parked"), "{one:?}");
    assert_eq!(ask(&["b"]).code, Some(1));

    let unknown = ask(&["c"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), ""), "{unknown:?}");
    assert!(unknown.stderr.contains("there are: a, b"), "{unknown:?}");
}

#[test]
fn without_a_supervisor_every_place_is_named() {
    let world = World::new(&[]);
    for command in [&["status"][..], &["status", "--watch"], &["reload"], &["stop", "a"]] {
        let output = world
            .command(&[command, &["--state-dir", "of-a-test"]].concat())
            .env("RUNTIME_DIRECTORY", "/nonexistent/runtime")
            .output()
            .unwrap();
        let ended = Ended::from(output);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        for place in [
            "/nonexistent/runtime/control.sock: ",
            "/run/kms-connector/control.sock: ",
            "of-a-test/control.sock: ",
            "--socket",
        ] {
            assert!(ended.stderr.contains(place), "{place}: {ended:?}");
        }
    }
}

#[test]
fn a_supervisor_is_found_in_the_state_directory() {
    let world = World::new(&[]);
    let state = world.directory.path().join("state");
    fs::create_dir(&state).unwrap();
    let well = status_of(vec![instance(Path::new("/x/a.toml"), InstanceState::Running)]);
    let _supervisor = Supervisor::new(&state.join("control.sock"), well);
    for arguments in [&["status"][..], &["status", "--state-dir", state.to_str().unwrap()]] {
        let ended = world.run(arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[test]
fn watching_goes_on_through_a_restart_and_ends_with_its_reader() {
    let world = World::new(&[]);
    let socket = world.directory.path().join("s.sock");
    let status = |name: &str| {
        status_of(vec![instance(Path::new(&format!("/x/{name}.toml")), InstanceState::Running)])
    };
    let first = Supervisor::new(&socket, status("before"));
    let mut child = world
        .command(&["status", "--watch", "--socket", socket.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |words: &str| {
        let found = lines.find(|line| line.as_ref().unwrap().contains(words));
        assert!(found.is_some(), "no line says {words}");
    };
    until("before");
    drop(first);
    until("no supervisor answers");
    let _second = Supervisor::new(&socket, status("after"));
    until("after");
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn operators_ask_and_hear() {
    let world = World::new(&[]);
    let socket = world.directory.path().join("s.sock");
    let supervisor = Supervisor::new(&socket, status_of(vec![]));
    let name = |name: &str| name.to_owned();
    for (arguments, request, code, words) in [
        (&["reload"][..], Request::Reload { name: None }, 0, "a: running\nb: running\n"),
        (
            &["reload", "x"],
            Request::Reload { name: Some(name("x")) },
            1,
            "x: running; reload failed",
        ),
        (&["restart", "a"], Request::Restart { name: name("a") }, 0, "a: running"),
        (
            &["restart", "unknown"],
            Request::Restart { name: name("unknown") },
            1,
            "no instance unknown",
        ),
        (&["stop", "a"], Request::Stop { name: name("a") }, 0, "a: running"),
        (&["stop", "stuck"], Request::Stop { name: name("stuck") }, 1, "it may still do it"),
    ] {
        let ended = world.run(&[arguments, &["--socket", socket.to_str().unwrap()]].concat());
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!((ended.stdout + &ended.stderr).contains(words), "{arguments:?}: {words}");
        assert_eq!(supervisor.asked.lock().unwrap().pop(), Some(request));
    }
}

#[test]
fn list_tells_the_states_of_its_own_files_only() {
    let other = whole("2319", "core-2.example:1");
    let world = World::new(&[("a.toml", CONFIG), ("b.toml", &other)]);
    let socket = world.directory.path().join("s.sock");
    let socket_argument = ["--socket", socket.to_str().unwrap()];
    let list = |arguments: &[&str]| world.run(&[&["list"], arguments, &socket_argument].concat());
    // Nobody answers: no state, and no complaint.
    let alone = list(&["--long"]);
    assert_eq!((alone.code, alone.stderr.as_str()), (Some(0), ""), "{alone:?}");

    let elsewhere = world.directory.path().join("b.toml");
    let _supervisor = Supervisor::new(
        &socket,
        status_of(vec![
            instance(&world.configs().join("a.toml"), InstanceState::Running),
            instance(&elsewhere, parked()),
        ]),
    );
    let long = list(&["--long"]);
    let rows: Vec<&str> = long.stdout.lines().collect();
    assert!(rows[0].ends_with("RESTARTS") && rows[0].contains("STATE"), "{long:?}");
    assert!(rows[1].contains("running") && rows[1].ends_with('1'), "{long:?}");
    assert!(!rows[2].contains("parked") && rows[2].ends_with('-'), "{long:?}");
    let json = list(&["--json"]);
    let entries: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(entries[0]["state"], "running");
    assert_eq!(entries[0]["since_ms"], 1_789_401_912_000_u64);
    assert_eq!(entries[0]["restarts"], 1);
    assert!(entries[1].get("state").is_none(), "{json:?}");
}

#[test]
fn the_configuration_directory_can_be_given() {
    let world = World::new(&[("a.toml", CONFIG)]);
    let other = world.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("o.toml"), CONFIG).unwrap();
    for directory in [other.to_str().unwrap(), "other"] {
        assert_eq!(world.run(&["list", "--config-dir", directory]).stdout, "o.toml\n");
        let ended = world.run(&["validate", "--config-dir", directory, "-c", "o.toml"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

/// Ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_supervisor_answers_until_it_is_told_to_end() {
    let world = World::new(&[]);
    let state = world.directory.path().join("state");
    let supervisor = world.command(&["supervise"]).stderr(Stdio::null()).spawn().unwrap();
    let mut supervisor = Running(supervisor);
    let begun = std::time::Instant::now();
    let status = loop {
        let ended = world.run(&["status", "--json"]);
        if ended.code == Some(0) {
            break serde_json::from_str::<Status>(&ended.stdout).unwrap();
        }
        assert!(begun.elapsed().as_secs() < 60, "{ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(status.pid, supervisor.0.id());
    assert_eq!(status.config_dir.as_ref(), Some(&world.configs()));
    assert!(status.instances.is_empty(), "{status:?}");
    let second = world.run(&["supervise"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", supervisor.0.id())), "{second:?}");
    assert!(state.join("control.sock").exists());

    let pid = Pid::from_raw(i32::try_from(supervisor.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(supervisor.0.wait().unwrap().code(), Some(0));
    assert!(!state.join("control.sock").exists());
}

/// As a supervisor wants it: nothing left to defaults.
fn whole(key_end: &str, core: &str) -> String {
    CONFIG.replace("d01a3f362318", &format!("d01a3f36{key_end}")).replace("127.0.0.1:1", core)
}

#[test]
fn validate_all_judges_every_file() {
    let good = whole("2318", "core-1.example:1");
    let other = format!("enabled = false\n{}", whole("2319", "core-2.example:1"));
    let world = World::new(&[("a.toml", &good), ("b.toml", &other), (".c.toml", "x = 1")]);
    // As in a fresh checkout: what it lacks is told, and is no problem.
    let idle = world.configs().join("idle.toml");
    fs::write(&idle, "enabled = false").unwrap();
    let well = world.run(&["validate", "--all"]);
    assert_eq!(well.code, Some(0), "{well:?}");
    assert_eq!(well.stdout, "a: ok\nb: ok (disabled)\nidle: disabled (6 problems)\n");
    assert!(well.stderr.contains("warning") && well.stderr.contains("wallet"), "{well:?}");
    fs::remove_file(idle).unwrap();

    // One wallet cannot have two owners; a disabled one has none.
    fs::write(world.configs().join("c.toml"), whole("2318", "core-3.example:1")).unwrap();
    fs::write(world.configs().join("d.toml"), whole("2319", "core-4.example:1")).unwrap();
    let conflict = world.run(&["validate", "--all"]);
    assert_eq!(conflict.code, Some(78), "{conflict:?}");
    let lines: Vec<&str> = conflict.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[3]), (4, "a: ok", "d: ok"), "{conflict:?}");
    for words in ["c: conflict", "wallet", ADDRESS, "of instance a"] {
        assert!(lines[2].contains(words), "{words}: {conflict:?}");
    }
    fs::remove_file(world.configs().join("c.toml")).unwrap();
    fs::remove_file(world.configs().join("d.toml")).unwrap();

    // What all instances would share makes them one.
    let shared =
        world.command(&["validate", "--all"]).env("KMS_CONNECTOR_SERVICE_NAME", "x").output();
    let shared = Ended::from(shared.unwrap());
    assert_eq!(shared.code, Some(78), "{shared:?}");
    assert!(shared.stderr.contains("KMS_CONNECTOR_SERVICE_NAME"), "{shared:?}");

    // `start` would take defaults for it.
    fs::write(world.configs().join("empty.toml"), "").unwrap();
    fs::write(world.configs().join("syntax.toml"), "chain_id = \"CANARY").unwrap();
    let bad = world.run(&["validate", "--all"]);
    assert_eq!(bad.code, Some(78), "{bad:?}");
    let lines: Vec<&str> = bad.stdout.lines().collect();
    assert_eq!(lines[..2], ["a: ok", "b: ok (disabled)"]);
    assert!(lines[2].starts_with("empty: ") && lines[2].ends_with(" problems"), "{bad:?}");
    assert_eq!(lines[3], "syntax: 1 problem");
    for words in ["empty.toml", "decryption_address", "syntax.toml:1:"] {
        assert!((bad.stdout.clone() + &bad.stderr).contains(words), "{words}: {bad:?}");
    }
    let all = bad.stdout + &bad.stderr;
    assert!(!all.contains("CANARY") && !all.contains(KEY_PART), "{all}");
}

#[test]
fn validate_all_of_nothing_warns_and_of_no_directory_fails() {
    let world = World::new(&[]);
    let empty = world.run(&["validate", "--all"]);
    assert_eq!((empty.code, empty.stdout.as_str()), (Some(0), ""), "{empty:?}");
    assert!(empty.stderr.contains("warning") && empty.stderr.contains("configs"), "{empty:?}");
    let missing = world.run(&["validate", "--all", "--config-dir", "none"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(78), ""), "{missing:?}");
    assert!(missing.stderr.contains("none") && missing.stderr.contains("--config-dir"));
}

#[test]
fn config_tells_what_counts_and_where_from() {
    let world = World::new(&[("one.toml", CONFIG), ("bad.toml", "chain_id = \"CANARY\"\n")]);
    let run = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("KMS_CONNECTOR_INSTANCE_ONE__CHAIN_ID", "7");
        Ended::from(command.output().unwrap())
    };
    let path = world.configs().join("one.toml").display().to_string();
    for arguments in [&["config", "-c", "one.toml"][..], &["config", "--instance", "one"]] {
        let ended = run(arguments);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let line = |key: &str| {
            let words = ended.stdout.lines().map(|line| line.split_whitespace());
            let mut words = words.filter(|words| words.clone().next() == Some(key));
            words.next().unwrap().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("gateway_url"), format!("wss://gateway.example/… {path}:2"));
        assert_eq!(line("chain_id"), "7 KMS_CONNECTOR_INSTANCE_ONE__CHAIN_ID");
        assert_eq!(line("channel_size"), "1000 default");
        assert!(line("private_key").contains(ADDRESS), "{ended:?}");
        let all = ended.stdout.clone() + &ended.stderr;
        assert!(!all.contains("CANARY") && !all.contains(KEY_PART), "{all}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&run(&["config", "-c", "one.toml", "--json"]).stdout).unwrap();
    let keys = json.as_array().unwrap();
    assert!(keys.iter().any(|one| one["key"] == "gas_limit" && one["value"].is_null()), "{json}");
    let bad = run(&["config", "-c", "bad.toml"]);
    assert_eq!((bad.code, bad.stdout.as_str()), (Some(78), ""), "{bad:?}");
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
