//! Commands that ask a running supervisor, in front of one that says what a test wants it to, and of a
//! real one.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use kms_connector::{
    admin::status::{Gauges, InstanceState, InstanceStatus, ReloadStatus, Status},
    config::Environment,
    supervisor::control::{self, Listener, Request, Response},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{ADDRESS, CONFIG, Ended, World, whole};

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
