//! A server that repeats what it was told: the question's first lines, with its path, query and
//! credentials, come back in every error. Real nodes and proxies do so, and a client that logs
//! their words logs its own keys.
//!
//! It also stands between a connector and a server that takes no path (anvil), and remembers how
//! it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{Error, PATIENCE, Result, http_client};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tale {
    /// Relays the connection to this local port as it is.
    Relay(u16),
    /// Relays JSON-RPC over HTTP or WebSocket to this local port, at `/`. Over HTTP, calls of
    /// `refused` are answered with an error that repeats the question.
    Node { port: u16, refused: Option<&'static str> },
    /// This HTTP status with the question as its body, to a WebSocket handshake too.
    Status(u16),
    /// A redirect to the question's own URL with more behind it.
    Redirect,
    /// Every JSON-RPC call, over HTTP or WebSocket, fails with an error that repeats the question.
    RpcErrors,
    /// AWS's way of saying no, with this code and the question as its message.
    Aws(&'static str),
    /// The question comes back as the answer: no JSON, no ciphertext, no gRPC.
    Echo,
}

/// The server. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct Gossip {
    address: SocketAddr,
    tale: watch::Sender<Tale>,
    heads: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Gossip {
    pub async fn start(tale: Tale) -> Result<Self> {
        let failed = |e| Error::Io("gossip".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (tale, seen) = watch::channel(tale);
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, seen, Arc::clone(&heads)));
        Ok(Self { address, tale, heads, _serving: serving })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes what is open and answers like this from now on.
    pub fn set(&self, tale: Tale) {
        self.tale.send_replace(tale);
    }

    /// The first lines of each question: of relayed connections only the first question's.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, tale: watch::Receiver<Tale>, heads: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (mut changed, heads) = (tale.clone(), Arc::clone(&heads));
                let now = *changed.borrow_and_update();
                connections.spawn(async move {
                    tokio::select! {
                        // Clients leave when they like.
                        _left = converse(stream, now, &heads) => {}
                        _changed = changed.changed() => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

type Stream = BufReader<TcpStream>;

async fn converse(
    stream: TcpStream,
    tale: Tale,
    heads: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let socket = field(&head, "sec-websocket-key");
        match (tale, socket) {
            (Tale::Relay(port), _) => return relay(stream, &head, port).await,
            (Tale::Node { port, .. }, Some(_)) => {
                let rest = head.split_once("\r\n").map_or("", |(_, rest)| rest);
                return relay(stream, &format!("GET / HTTP/1.1\r\n{rest}"), port).await;
            }
            (Tale::RpcErrors, Some(key)) => return rpc_errors(stream, &head, &key).await,
            (Tale::Node { port, refused }, None) => {
                let body = body(&mut stream, &head).await?;
                let answer = match serde_json::from_slice::<Value>(&body) {
                    Ok(call) if refused.is_some_and(|method| call["method"] == method) => {
                        refusal(&call, &head).to_string().into_bytes()
                    }
                    _ => forward(port, body).await?,
                };
                respond(&mut stream, "200 OK", &answer).await?;
            }
            (Tale::RpcErrors, None) => {
                let body = body(&mut stream, &head).await?;
                let call = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let answer = refusal(&call, &head).to_string();
                respond(&mut stream, "200 OK", answer.as_bytes()).await?;
            }
            (Tale::Status(status), _) => {
                body(&mut stream, &head).await?;
                respond(&mut stream, &format!("{status} {}", one_line(&head)), head.as_bytes())
                    .await?;
            }
            (Tale::Redirect, _) => {
                body(&mut stream, &head).await?;
                let target = head.split(' ').nth(1).unwrap_or_default();
                let status = format!("307 Temporary Redirect\r\nlocation: {target}again");
                respond(&mut stream, &status, head.as_bytes()).await?;
            }
            (Tale::Aws(code), _) => {
                body(&mut stream, &head).await?;
                let answer = json!({ "__type": code, "message": one_line(&head) }).to_string();
                respond(&mut stream, "400 Bad Request", answer.as_bytes()).await?;
            }
            (Tale::Echo, _) => {
                body(&mut stream, &head).await?;
                respond(&mut stream, "200 OK", head.as_bytes()).await?;
            }
        }
    }
}

fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The head where only one line may stand.
fn one_line(head: &str) -> String {
    head.trim_end().replace("\r\n", " | ")
}

async fn body(stream: &mut Stream, head: &str) -> std::io::Result<Vec<u8>> {
    let length = field(head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn respond(stream: &mut Stream, status: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.flush().await
}

async fn relay(mut client: Stream, head: &str, port: u16) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(head.as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

async fn forward(port: u16, body: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let sending = async {
        let client = http_client(PATIENCE)?;
        let request = client.post(format!("http://127.0.0.1:{port}/"));
        let request = request.header("content-type", "application/json").body(body);
        Ok::<_, Error>(request.send().await?.bytes().await?.to_vec())
    };
    sending.await.map_err(std::io::Error::other)
}

/// The error for one call, or for each of a batch.
fn refusal(call: &Value, head: &str) -> Value {
    if let Value::Array(calls) = call {
        return calls.iter().map(|call| refusal(call, head)).collect();
    }
    let message = format!("refused: {}", one_line(head));
    json!({ "jsonrpc": "2.0", "id": call["id"], "error": { "code": -32000, "message": message } })
}

async fn rpc_errors(mut stream: Stream, head: &str, key: &str) -> std::io::Result<()> {
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await?;
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let call = serde_json::from_str(text.as_str()).unwrap_or(Value::Null);
        let answer = refusal(&call, head).to_string();
        if socket.send(Message::text(answer)).await.is_err() {
            break;
        }
    }
    Ok(())
}
