//! An HTTP server for tests that misbehaves as told. Written by hand, because no HTTP library lies about a
//! length.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(super) enum ServerAction {
    Serve {
        body: Vec<u8>,
        format: Option<&'static str>,
    },
    /// Serves the body with one more header line, to a HEAD without the body.
    Attested {
        body: Vec<u8>,
        header: Option<String>,
    },
    /// Serves the body after a pause.
    Late {
        body: Vec<u8>,
        after: Duration,
    },
    Status(u16),
    /// A status, one more header line and a body.
    Refuse {
        status: u16,
        header: &'static str,
        body: String,
    },
    Redirect(String),
    /// Never answers.
    BlackHole,
    /// Not HTTP at all.
    Garbage,
    /// Announces `announced` bytes, sends `body`, then does `then`.
    Announce {
        announced: u64,
        body: Vec<u8>,
        then: AfterBody,
    },
    /// Sends the body in pieces with pauses.
    Drip {
        body: Vec<u8>,
        piece: usize,
        pause: Duration,
    },
    Chunked {
        body: Vec<u8>,
    },
    /// Chunks up to `total` bytes, without an announced length.
    Flood {
        total: u64,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum AfterBody {
    Close,
    Silence,
}

pub(super) struct Server {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub requests: AtomicUsize,
    /// Calls being answered, and their highest number so far.
    pub live: AtomicUsize,
    pub peak: AtomicUsize,
    /// Heads of the requests as received.
    pub heads: Mutex<Vec<String>>,
}

struct LiveCall(Arc<Counters>);

impl LiveCall {
    fn new(counters: &Arc<Counters>) -> Self {
        let live = counters.live.fetch_add(1, Ordering::SeqCst) + 1;
        counters.peak.fetch_max(live, Ordering::SeqCst);
        Self(Arc::clone(counters))
    }
}

impl Drop for LiveCall {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    /// Answers each request according to its last path segment.
    pub(super) async fn start<F>(script: F) -> Self
    where
        F: Fn(&str) -> ServerAction + Send + Sync + 'static,
    {
        Self::by_path(move |path| script(path.rsplit('/').next().unwrap_or_default())).await
    }

    /// Answers each request according to its path.
    pub(super) async fn by_path<F>(script: F) -> Self
    where
        F: Fn(&str) -> ServerAction + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let script: Arc<dyn Fn(&str) -> ServerAction + Send + Sync> = Arc::new(script);
        let mut tasks = JoinSet::new();
        let for_accept = Arc::clone(&counters);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&for_accept)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, counters, _tasks: tasks }
    }

    pub(super) async fn always(act: ServerAction) -> Self {
        Self::start(move |_| act.clone()).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/ct128", self.address)
    }

    pub(super) fn requests(&self) -> usize {
        self.counters.requests.load(Ordering::SeqCst)
    }

    /// Requests with this method.
    pub(super) fn calls(&self, method: &str) -> usize {
        let heads = self.counters.heads.lock().unwrap();
        heads.iter().filter(|head| head.split(' ').next() == Some(method)).count()
    }

    pub(super) fn live(&self) -> usize {
        self.counters.live.load(Ordering::SeqCst)
    }
}

async fn serve(
    stream: TcpStream,
    script: Arc<dyn Fn(&str) -> ServerAction + Send + Sync>,
    counters: Arc<Counters>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match stream.read_line(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        counters.requests.fetch_add(1, Ordering::SeqCst);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let act = script(path.split('?').next().unwrap_or_default());
        let is_head = head.starts_with("HEAD ");
        counters.heads.lock().unwrap().push(head);
        let live = LiveCall::new(&counters);
        let again = act_on(&mut stream, act, is_head).await;
        drop(live);
        if !matches!(again, Ok(true)) {
            return;
        }
    }
}

/// Waits until the client gives up.
async fn silence(stream: &mut BufReader<TcpStream>) -> std::io::Result<bool> {
    let mut sink = [0_u8; 64];
    while stream.read(&mut sink).await? > 0 {}
    Ok(false)
}

/// Returns whether the connection can take another request.
async fn act_on(
    stream: &mut BufReader<TcpStream>,
    act: ServerAction,
    is_head: bool,
) -> std::io::Result<bool> {
    match act {
        ServerAction::Attested { body, header } => {
            let header = header.map_or_else(String::new, |line| line + "\r\n");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{header}\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            if !is_head {
                stream.write_all(&body).await?;
            }
            Ok(true)
        }
        ServerAction::Serve { body, format } => {
            let format =
                format.map_or_else(String::new, |it| format!("X-Amz-Meta-Ct-Format: {it}\r\n"));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{format}\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
            Ok(true)
        }
        ServerAction::Late { body, after } => {
            sleep(after).await;
            let act = ServerAction::Serve { body, format: None };
            Box::pin(act_on(stream, act, is_head)).await
        }
        ServerAction::Status(code) => {
            let body = if is_head { "" } else { "no" };
            let head = format!("HTTP/1.1 {code} X\r\ncontent-length: 2\r\n\r\n{body}");
            stream.write_all(head.as_bytes()).await?;
            Ok(true)
        }
        ServerAction::Refuse { status, header, body } => {
            let head = format!(
                "HTTP/1.1 {status} X\r\n{header}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(body.as_bytes()).await?;
            Ok(true)
        }
        ServerAction::Redirect(to) => {
            let head = format!("HTTP/1.1 307 X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            Ok(true)
        }
        ServerAction::BlackHole => silence(stream).await,
        ServerAction::Garbage => {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await?;
            Ok(false)
        }
        ServerAction::Announce { announced, body, then } => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {announced}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await?;
            match then {
                AfterBody::Close => Ok(false),
                AfterBody::Silence => silence(stream).await,
            }
        }
        ServerAction::Drip { body, piece, pause } => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            for piece in body.chunks(piece) {
                stream.write_all(piece).await?;
                stream.flush().await?;
                sleep(pause).await;
            }
            Ok(true)
        }
        ServerAction::Chunked { body } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            for piece in body.chunks(10_000) {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                stream.write_all(piece).await?;
                stream.write_all(b"\r\n").await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
            Ok(true)
        }
        ServerAction::Flood { total } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            let piece = vec![7_u8; 1 << 20];
            for _ in 0..total >> 20 {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                stream.write_all(&piece).await?;
                stream.write_all(b"\r\n").await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
            Ok(true)
        }
    }
}
