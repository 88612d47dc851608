//! Both ends of the control socket, over real files.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    AskError, ListenError, Listener, PendingRequest, Request, Response, SocketCandidates,
    candidates, client, listener::CONNECTION_LIMITS,
};
use crate::{
    admin::requests::{Inquiry, InquiryFilter},
    config::Environment,
};

const SOON: Duration = Duration::from_secs(20);

fn at(path: &Path) -> SocketCandidates {
    candidates(Some(path), &Environment::default(), Path::new("/nowhere"))
}

/// A supervisor that answers a restart with the instance's name and never answers a stop.
struct World {
    directory: TempDir,
    candidates: SocketCandidates,
    asked: Arc<AtomicUsize>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let candidates = at(&directory.path().join("control.sock"));
        let listener = Listener::bind(&candidates).await.unwrap();
        let (commands, mut received) = mpsc::channel::<PendingRequest>(1);
        let (stop, asked) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(listener.serve(commands, stop.clone()));
        let count = asked.clone();
        tasks.spawn(async move {
            let mut unanswered = Vec::new();
            while let Some(PendingRequest { request, reply }) = received.recv().await {
                count.fetch_add(1, Ordering::SeqCst);
                match request {
                    Request::Restart { name } => {
                        // The client may have gone.
                        let _ = reply.send(done(&name).into());
                    }
                    Request::Status
                    | Request::Reload { .. }
                    | Request::Stop { .. }
                    | Request::Requests { .. } => {
                        unanswered.push(reply);
                    }
                }
            }
        });
        Self { directory, candidates, asked, stop, tasks }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("control.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    async fn restart(&self, name: &str) -> Result<Response, AskError> {
        client::ask(&self.candidates, &Request::Restart { name: name.to_owned() }, SOON).await
    }

    /// Sends these bytes, which may exceed the limit, and returns the answer.
    async fn answer_to(&self, bytes: &[u8]) -> Response {
        let (reading, mut writing) = self.connect().await.into_split();
        let _ = writing.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut reading = BufReader::new(reading);
        timeout(SOON, reading.read_until(b'\n', &mut answer)).await.unwrap().unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}

fn done(name: &str) -> Response {
    Response::Done { lines: vec![name.to_owned()], failed: false }
}

fn refusal(answer: Response) -> String {
    let Response::Refused { why } = answer else { panic!("not refused: {answer:?}") };
    why
}

#[tokio::test]
async fn the_socket_is_for_its_group_and_goes_with_its_listener() {
    let mut world = World::new().await;
    let found = fs::symlink_metadata(world.path()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    assert_eq!(world.restart("a").await.unwrap(), done("a"));
    world.stop.cancel();
    world.tasks.join_next().await.unwrap().unwrap();
    assert!(!world.path().exists());
    let error = world.restart("a").await.unwrap_err().to_string();
    assert!(error.contains(world.path().to_str().unwrap()), "{error}");
    assert!(error.contains("no such socket") && error.contains("--socket"), "{error}");
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = client::find(&at(&path)).await.unwrap_err().to_string();
    assert!(error.contains("no process listens"), "{error}");
    let listener = Listener::bind(&at(&path)).await.unwrap();
    assert_eq!(listener.path(), path);
    assert!(client::find(&at(&path)).await.is_ok());
}

#[tokio::test]
async fn d8_what_is_no_socket_is_not_taken_for_one_that_was_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.toml");
    fs::write(&file, "").unwrap();
    for path in [directory.path(), &file] {
        let error = client::find(&at(path)).await.unwrap_err().to_string();
        assert!(error.contains("no socket") && !error.contains("left behind"), "{error}");
    }
}

#[tokio::test]
async fn a_second_supervisor_is_told_of_the_first() {
    let world = World::new().await;
    let error = Listener::bind(&world.candidates).await.unwrap_err();
    let ours = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(&error, ListenError::InUse { pid: Some(pid), .. } if *pid == ours), "{error}");
    assert_eq!(world.restart("still there").await.unwrap(), done("still there"));
}

/// A process that was killed a moment ago may still hold the socket.
#[tokio::test]
async fn c10_a_socket_that_is_in_use_for_a_moment_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let dying = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let candidates = at(&path);
    let going = async {
        sleep(Duration::from_millis(300)).await;
        drop(dying);
    };
    let (bound, ()) = tokio::join!(Listener::bind(&candidates), going);
    assert_eq!(bound.unwrap().path(), path);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_bind_at_once_one_does() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..25 {
        let path = directory.path().join(format!("{round}.sock"));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut binding = JoinSet::new();
        for _ in 0..4 {
            let candidates = at(&path);
            binding.spawn(async move { Listener::bind_at_once(&candidates).await });
        }
        let bound = binding.join_all().await;
        let (bound, refused): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
        assert_eq!((bound.len(), refused.len()), (1, 3), "{refused:?}");
        for refused in refused {
            assert!(matches!(refused, Err(ListenError::InUse { .. })), "{refused:?}");
        }
        assert!(client::find(&at(&path)).await.is_ok());
    }
}

/// Any user who can read a directory can lock it.
#[tokio::test]
async fn b12_a_directory_that_somebody_keeps_locked_keeps_nobody_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let held = fs::File::open(directory.path()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let path = directory.path().join("control.sock");
    let listener = Listener::bind(&at(&path)).await.unwrap();
    assert_eq!(listener.path(), path);
}

/// Asks repeatedly until a supervisor answers; fails after a minute of test time.
async fn until_reached(candidates: &SocketCandidates) {
    let reached = async {
        while client::find(candidates).await.is_err() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_mins(1), reached).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn d4_a_socket_that_was_removed_is_bound_again() {
    let mut world = World::new().await;
    for _ in 0..2 {
        fs::remove_file(world.path()).unwrap();
        until_reached(&world.candidates).await;
        assert_eq!(world.restart("a").await.unwrap(), done("a"));
        assert_eq!(fs::metadata(world.path()).unwrap().permissions().mode() & 0o777, 0o660);
    }
    // Replaced by a stale socket.
    fs::remove_file(world.path()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(world.path()).unwrap());
    until_reached(&world.candidates).await;
    // A file of somebody else is not removed.
    fs::remove_file(world.path()).unwrap();
    fs::write(world.path(), "precious").unwrap();
    sleep(Duration::from_mins(2)).await;
    assert_eq!(fs::read(world.path()).unwrap(), b"precious");
    fs::remove_file(world.path()).unwrap();
    until_reached(&world.candidates).await;
    world.stop.cancel();
    world.tasks.join_next().await.unwrap().unwrap();
    assert!(!world.path().exists());
}

/// The directory was removed too: it is created again, or the next candidate is used.
#[tokio::test(start_paused = true)]
async fn d4_a_directory_that_was_removed_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let nobody = Environment::default();
    let candidates = SocketCandidates::among(None, &nobody, &home.path().join("run"), &state);
    let listener = Listener::bind(&candidates).await.unwrap();
    let (commands, _asked) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(listener.serve(commands, stop.clone()));
    fs::remove_dir_all(&state).unwrap();
    until_reached(&candidates).await;
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_socket_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = Listener::bind(&at(&path)).await.unwrap_err();
    assert!(matches!(error, ListenError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn anothers_socket_stays_when_the_listener_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = Listener::bind(&at(&path)).await.unwrap();
    fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

#[tokio::test]
async fn a_path_that_cannot_be_is_said_with_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x".repeat(108));
    let listening = Listener::bind(&at(&path)).await.unwrap_err().to_string();
    let finding = client::find(&at(&path)).await.unwrap_err().to_string();
    for error in [listening, finding] {
        assert!(error.contains("107") && error.contains("--socket"), "{error}");
    }
    let nowhere = at(&directory.path().join("none/control.sock"));
    let error = Listener::bind(&nowhere).await.unwrap_err().to_string();
    assert!(error.contains("none/control.sock") && error.contains("directory"), "{error}");
}

#[tokio::test]
async fn nonsense_is_refused_by_name_and_never_reaches_the_loop() {
    let world = World::new().await;
    let long = [vec![b'x'; 65 << 10], b"\n".to_vec()].concat();
    for (bytes, words) in [
        (&b"status\n"[..], "cannot be read"),
        (b"{\"request\":\"explode\"}\n", "explode"),
        (b"{\"request\":\"restart\"}\n", "name"),
        (b"\xff\xfe\n", "cannot be read"),
        (b"\n", "cannot be read"),
        (&long, "65536"),
    ] {
        let why = refusal(world.answer_to(bytes).await);
        assert!(why.contains(words), "{words}: {why}");
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 0);
    assert_eq!(world.restart("a").await.unwrap(), done("a"));
}

#[tokio::test]
async fn a_request_may_be_as_long_as_the_limit() {
    let world = World::new().await;
    let frame = "{\"request\":\"restart\",\"name\":\"\"}\n".len();
    let name = "x".repeat((64 << 10) - frame);
    assert_eq!(world.restart(&name).await.unwrap(), done(&name));
    let why = refusal(world.restart(&(name + "x")).await.unwrap());
    assert!(why.contains("65536"), "{why}");
}

#[tokio::test]
async fn a_slow_client_is_refused_and_costs_nobody_else() {
    let world = World::new().await;
    let mut slow = world.connect().await;
    slow.write_all(b"{\"request\":").await.unwrap();
    assert_eq!(world.restart("meanwhile").await.unwrap(), done("meanwhile"));
    let mut answer = Vec::new();
    timeout(SOON, slow.read_to_end(&mut answer)).await.unwrap().unwrap();
    let why = refusal(serde_json::from_slice(&answer).unwrap());
    assert!(why.contains("5s"), "{why}");
    assert_eq!(world.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_goes_early_frees_the_place() {
    let world = World::new().await;
    for _ in 0..50 {
        drop(world.connect().await);
        let mut half = world.connect().await;
        half.write_all(b"{\"request\":").await.unwrap();
        drop(half);
        let mut unread = world.connect().await;
        unread.write_all(b"{\"request\":\"restart\",\"name\":\"gone\"}\n").await.unwrap();
        drop(unread);
    }
    assert_eq!(world.restart("a").await.unwrap(), done("a"));
}

#[tokio::test]
async fn a_hundred_clients_each_get_their_own_answer() {
    let world = World::new().await;
    let mut clients = JoinSet::new();
    for n in 0..100 {
        let candidates = world.candidates.clone();
        clients.spawn(async move {
            let name = format!("client {n}");
            let answer =
                client::ask(&candidates, &Request::Restart { name: name.clone() }, SOON).await;
            assert_eq!(answer.unwrap(), done(&name));
        });
    }
    clients.join_all().await;
    assert_eq!(world.asked.load(Ordering::SeqCst), 100);
}

/// Connections whose request is never carried out.
async fn wishers(world: &World, count: usize) -> Vec<UnixStream> {
    let mut waiting = Vec::new();
    let before = world.asked.load(Ordering::SeqCst);
    for number in 1..=count {
        let mut stream = world.connect().await;
        stream.write_all(b"{\"request\":\"stop\",\"name\":\"x\"}\n").await.unwrap();
        waiting.push(stream);
        while world.asked.load(Ordering::SeqCst) < before + number {
            sleep(Duration::from_millis(1)).await;
        }
    }
    waiting
}

#[tokio::test]
async fn so_many_wishes_wait_and_the_oldest_gives_way() {
    let world = World::new().await;
    let mut waiting = wishers(&world, CONNECTION_LIMITS.served).await;
    assert_eq!(world.restart("one more").await.unwrap(), done("one more"));
    let mut answer = Vec::new();
    let mut oldest = waiting.remove(0);
    timeout(SOON, oldest.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer: Response = serde_json::from_slice(&answer).unwrap();
    assert!(matches!(&answer, Response::Silent { why } if why.contains("later")), "{answer:?}");
    // The others still wait.
    for stream in &mut waiting {
        let heard = timeout(Duration::from_millis(2), stream.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test]
async fn b8_whoever_sits_there_in_silence_keeps_no_operator_out() {
    let world = World::new().await;
    let mut silent = Vec::new();
    for index in 0..257 {
        let mut stream = world.connect().await;
        if index % 2 == 0 {
            stream.write_all(b"{\"request\":").await.unwrap();
        }
        silent.push(stream);
    }
    for name in ["a", "b", "c"] {
        let request = Request::Restart { name: name.to_owned() };
        let asking = client::ask(&world.candidates, &request, Duration::from_secs(2));
        assert_eq!(asking.await.unwrap(), done(name));
    }
}

/// C11: it held its place for a minute.
#[tokio::test]
async fn b8_who_hangs_up_leaves_and_who_has_said_all_is_answered() {
    let world = World::new().await;
    drop(wishers(&world, CONNECTION_LIMITS.served).await);
    sleep(Duration::from_secs(1)).await;
    // All places are free again: none of these has to wait or to leave.
    let waiting = wishers(&world, CONNECTION_LIMITS.served - 1);
    let mut waiting = timeout(Duration::from_secs(10), waiting).await.unwrap();
    let (mut heard, mut said) = world.connect().await.into_split();
    said.write_all(b"{\"request\":\"restart\",\"name\":\"half\"}\n").await.unwrap();
    said.shutdown().await.unwrap();
    drop(said);
    let mut answer = String::new();
    timeout(SOON, heard.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Response>(&answer).unwrap(), done("half"));
    for stream in &mut waiting {
        let heard = timeout(Duration::from_millis(2), stream.read_u8()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test]
async fn b8_who_has_said_all_and_waits_is_not_taken_for_gone() {
    let world = World::new().await;
    let mut waiting = wishers(&world, 1).await.remove(0);
    waiting.shutdown().await.unwrap();
    let heard = timeout(Duration::from_secs(1), waiting.read_u8()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_answer_is_told_as_such() {
    let world = World::new().await;
    let request = Request::Stop { name: "x".to_owned() };
    let answer = client::ask(&world.candidates, &request, Duration::from_mins(2)).await.unwrap();
    let Response::Silent { why } = answer else { panic!("{answer:?}") };
    assert!(why.contains("60s"), "{why}");
}

#[tokio::test]
async fn whoever_waits_hears_of_the_end() {
    let mut world = World::new().await;
    let mut waiting = world.connect().await;
    waiting.write_all(b"{\"request\":\"stop\",\"name\":\"x\"}\n").await.unwrap();
    while world.asked.load(Ordering::SeqCst) < 1 {
        sleep(Duration::from_millis(5)).await;
    }
    world.stop.cancel();
    world.tasks.shutdown().await;
    let mut answer = Vec::new();
    timeout(SOON, waiting.read_to_end(&mut answer)).await.unwrap().unwrap();
    // Closed without an answer: the client reports that.
    assert!(answer.is_empty());
}

#[tokio::test]
async fn a_loop_that_is_gone_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let candidates = at(&directory.path().join("control.sock"));
    let listener = Listener::bind(&candidates).await.unwrap();
    let (commands, received) = mpsc::channel(1);
    drop(received);
    let mut tasks = JoinSet::new();
    tasks.spawn(listener.serve(commands, CancellationToken::new()));
    let answer = client::ask(&candidates, &Request::Status, SOON).await.unwrap();
    assert!(matches!(answer, Response::Silent { .. }), "{answer:?}");
}

#[tokio::test]
async fn an_answer_of_another_version_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for answer in [&b"{\"answer\":\"later\"}\n"[..], b"{\"answer\":"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 100];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
    });
    let error = client::ask(&at(&path), &Request::Status, SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Unreadable { .. }), "{error}");
    let error = client::ask(&at(&path), &Request::Status, SOON).await.unwrap_err();
    assert!(matches!(error, AskError::Lost { .. }), "{error}");
}

#[test]
fn the_places_are_tried_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let [runtime, system, state] =
        ["runtime", "system", "state"].map(|name| directory.path().join(name));
    let environment = |value: &str| [("RUNTIME_DIRECTORY", value)].into_iter().collect();
    let among = |given: Option<&Path>, environment: &Environment| {
        SocketCandidates::among(given, environment, &system, &state)
    };
    let none = Environment::default();
    let listed = format!("{}:/run/other", runtime.display());
    let listed: Environment = environment(&listed);
    let socket = |directory: &Path| directory.join("control.sock");

    let given = among(Some(Path::new("/x.sock")), &listed);
    assert_eq!((given.paths.clone(), given.is_named), (vec!["/x.sock".into()], true));
    let of_systemd = among(None, &listed);
    assert_eq!(of_systemd.paths, [socket(&runtime), socket(&system), socket(&state)]);
    assert_eq!((of_systemd.to_listen_at(), of_systemd.is_named), (&*socket(&runtime), true));

    // The system's directory does not exist.
    let default = among(None, &none);
    assert_eq!(default.paths, [socket(&system), socket(&state)]);
    assert_eq!((default.to_listen_at(), default.is_named), (&*socket(&state), false));
    fs::create_dir(&system).unwrap();
    assert_eq!(default.to_listen_at(), socket(&system));
    assert_eq!(among(None, &environment("")), default);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_made_is_told_with_its_variable() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let (none, state) = (home.path().join("none"), file.join("state"));
    let unnamed = SocketCandidates::among(None, &Environment::default(), &none, &state);
    let told = async |candidates| Listener::bind(candidates).await.unwrap_err().to_string();
    let of_state = told(&unnamed).await;
    assert!(of_state.contains("KMS_CONNECTOR_STATE_DIR"), "{of_state}");
    assert!(of_state.contains(&state.display().to_string()), "{of_state}");
    let of_socket = told(&at(&file.join("control.sock"))).await;
    assert!(!of_socket.contains("KMS_CONNECTOR_STATE_DIR"), "{of_socket}");
}

#[tokio::test]
async fn the_state_directory_is_made_and_the_first_that_answers_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let [system, state] = ["system", "state"].map(|name| directory.path().join(name));
    let candidates = SocketCandidates::among(None, &Environment::default(), &system, &state);
    let listener = Listener::bind(&candidates).await.unwrap();
    assert_eq!(listener.path(), state.join("control.sock"));
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    fs::create_dir(&system).unwrap();
    drop(std::os::unix::net::UnixListener::bind(system.join("control.sock")).unwrap());
    let found = client::find(&candidates).await.unwrap();
    assert_eq!(found.path(), state.join("control.sock"));
}

#[test]
fn requests_are_lines_a_person_can_write() {
    for (text, request) in [
        (r#"{"request":"status"}"#, Request::Status),
        (r#"{"request":"reload"}"#, Request::Reload { name: None }),
        (r#"{"request":"stop","name":"a"}"#, Request::Stop { name: "a".to_owned() }),
        (
            r#"{"request":"requests","name":"a","inquiry":{"ask":"list","which":"held"}}"#,
            Request::Requests {
                name: "a".to_owned(),
                inquiry: Inquiry::List { which: InquiryFilter::Held, after: None },
            },
        ),
        (
            r#"{"request":"requests","name":"a","inquiry":{"ask":"backfill","from":7}}"#,
            Request::Requests {
                name: "a".to_owned(),
                inquiry: Inquiry::Backfill { from: 7, to: None, chain: None },
            },
        ),
    ] {
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
    }
}
