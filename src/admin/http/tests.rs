//! The listener under many connections, over real sockets.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
};

use super::*;
use crate::{
    admin::{
        snapshot::ProcessSnapshot,
        status::{ReloadStatus, Status},
    },
    telemetry::errors::LastErrors,
};

/// The longest that a client has to wait.
const SOON: Duration = Duration::from_secs(3);

struct World {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    /// A listener whose status has at least this many bytes.
    async fn new(bytes: usize, patience: ClientDeadlines) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let http = HttpListener::bind(any, vec!["node-7.example.com".to_owned()]).await.unwrap();
        let http = HttpListener { deadlines: patience, ..http };
        let status = Status {
            version: "x".repeat(bytes),
            pid: 7,
            started_at_ms: 0,
            listen: None,
            config_dir: None,
            state_dir: None,
            reload: ReloadStatus::default(),
            instances: Vec::new(),
        };
        let shown = ProcessSnapshot {
            at_ms: 0,
            status,
            metrics: Vec::new(),
            histories: Vec::new(),
            errors: LastErrors::default(),
        };
        let (board, view) = watch::channel(Arc::new(shown));
        let (address, stop, mut tasks) = (http.address(), CancellationToken::new(), JoinSet::new());
        let stopping = stop.clone();
        tasks.spawn(async move {
            http.serve(view, stopping).await;
            drop(board);
        });
        Self { address, stop, tasks }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, words: &str) -> TcpStream {
        let mut stream = self.connect().await;
        // The listener may close before it has read everything.
        let _ = stream.write_all(words.as_bytes()).await;
        stream
    }

    /// The status line of the response.
    async fn get(&self, path: &str, more: &str) -> String {
        let asking = async {
            let question = format!("GET {path} HTTP/1.1\r\n{more}\r\n");
            let mut stream = self.ask(&question).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
        };
        timeout(SOON, asking).await.unwrap_or_else(|_| "nothing".to_owned())
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

const HOST: &str = "Host: 127.0.0.1\r\n";
const FINE: &str = "HTTP/1.1 200 OK";

#[tokio::test]
async fn b8_whoever_sits_there_in_silence_or_drips_keeps_nobody_out() {
    let world = World::new(0, CLIENT_DEADLINES).await;
    let mut crowd = Vec::new();
    for index in 0..3 * CONNECTION_LIMITS.silent {
        let words = ["", "GET /met", "GET / HTTP/1.1\r\nX: "][index % 3];
        crowd.push(world.ask(words).await);
    }
    for _ in 0..10 {
        for path in ["/livez", "/metrics", "/status"] {
            assert_eq!(world.get(path, HOST).await, FINE, "{path}");
        }
    }
    // They keep sending slowly.
    for stream in &mut crowd {
        let _ = stream.write_all(b"x").await;
    }
    assert_eq!(world.get("/livez", HOST).await, FINE);
    world.end().await;
}

#[tokio::test]
async fn b8_answers_that_nobody_reads_keep_nobody_out() {
    let world = World::new(1 << 20, CLIENT_DEADLINES).await;
    let pipeline = format!("GET /status HTTP/1.1\r\n{HOST}\r\n").repeat(60);
    let mut crowd = Vec::new();
    for _ in 0..CONNECTION_LIMITS.served + 6 {
        crowd.push(world.ask(&pipeline).await);
    }
    for _ in 0..10 {
        for path in ["/livez", "/metrics", "/status"] {
            assert_eq!(world.get(path, HOST).await, FINE, "{path}");
        }
    }
    world.end().await;
}

#[tokio::test]
async fn b8_a_connection_is_one_answer_and_who_does_not_read_it_is_left() {
    let quick =
        ClientDeadlines { request: Duration::from_millis(200), whole: Duration::from_millis(600) };
    let world = World::new(8 << 20, quick).await;
    let lazy = world.ask(&format!("GET /status HTTP/1.1\r\n{HOST}\r\n")).await;
    let twice = format!("GET /livez HTTP/1.1\r\n{HOST}\r\n").repeat(2);
    let mut both = world.ask(&twice).await;
    let mut answer = Vec::new();
    let _ = timeout(SOON, both.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer).matches(FINE).count(), 1);
    let mut silent = world.connect().await;
    timeout(SOON, silent.read_to_end(&mut answer)).await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
    let mut read = Vec::new();
    let mut lazy = lazy;
    let _ = timeout(SOON, lazy.read_to_end(&mut read)).await.unwrap();
    assert!(read.len() < 8 << 20, "it was left with {} bytes", read.len());
    world.end().await;
}

#[tokio::test]
async fn b8_a_page_of_somewhere_else_reads_nothing_here() {
    let world = World::new(0, CLIENT_DEADLINES).await;
    let browser = |host: &str| format!("Host: {host}\r\nAccept-Language: de\r\n");
    let refused = "HTTP/1.1 421 Misdirected Request";
    for path in ["/", "/status", "/metrics", "/readyz", "/nothing"] {
        assert_eq!(world.get(path, &browser("evil.example:9478")).await, refused, "{path}");
    }
    assert_eq!(world.get("/livez", &browser("evil.example")).await, FINE);
    for host in ["127.0.0.1:9478", "localhost", "node-7.example.com"] {
        assert_eq!(world.get("/status", &browser(host)).await, FINE, "{host}");
    }
    assert_eq!(world.get("/metrics", "Host: scraped.by.name.example\r\n").await, FINE);
    world.end().await;
}

#[test]
fn an_address_stands_for_its_network() {
    let of = |text: &str| network_of(text.parse().unwrap()).to_string();
    assert_eq!(of("10.0.0.7"), "10.0.0.7");
    assert_eq!(of("::ffff:10.0.0.7"), "10.0.0.7");
    assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
}

/// The process that had the address was killed and has not quite ended.
#[tokio::test]
async fn c10_an_address_that_is_taken_for_a_moment_is_waited_for() {
    let before = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = before.local_addr().unwrap();
    let leaving = async {
        sleep(Duration::from_millis(300)).await;
        drop(before);
    };
    let (bound, ()) = tokio::join!(HttpListener::bind(address, Vec::new()), leaving);
    assert_eq!(bound.unwrap().address(), address);
}
