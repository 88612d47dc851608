//! The connections of the node: http, and web sockets with subscriptions, on one port.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use super::{Answer, Error, Result, Shared};

/// How often the real node is asked for its head on behalf of subscribers.
const HEAD_EVERY: Duration = Duration::from_millis(50);
/// A message over a WebSocket that is too large, in bytes.
const FLOOD: usize = 40 << 20;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        // The client may leave at any moment.
                        let _left = connection(stream, &shared).await;
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    stream.set_nodelay(true).map_err(|e| Error::Io("nodelay".into(), e))?;
    let mut method = [0; 4];
    loop {
        match stream.peek(&mut method).await.map_err(|e| Error::Io("peek".into(), e))? {
            // It left without a word.
            0 => return Ok(()),
            1..4 => sleep(Duration::from_millis(1)).await,
            _ => break,
        }
    }
    if &method == b"GET " {
        web_socket(stream, shared).await
    } else {
        http(stream, shared).await.map_err(|e| Error::Io("http".into(), e))
    }
}

/// Told of the subscription's name.
pub(super) type Subscriber = mpsc::Sender<Value>;

async fn web_socket(mut stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let no_upgrade = {
        let mut script = shared.script();
        script.upgrades.push(Instant::now());
        script.lies.no_upgrade
    };
    if let Some((status, seconds)) = no_upgrade {
        let head = format!(
            "HTTP/1.1 {status} Told\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n"
        );
        let mut question = [0; 4096];
        let refusing = async {
            let _part = stream.read(&mut question).await?;
            stream.write_all(head.as_bytes()).await
        };
        return refusing.await.map_err(|e| Error::Io("an upgrade".into(), e));
    }
    let failed = |e: tokio_tungstenite::tungstenite::Error| Error::other(e.to_string());
    let socket = tokio_tungstenite::accept_async(stream).await.map_err(failed)?;
    let (mut writer, mut reader) = socket.split();
    let (subscriber, mut names) = mpsc::channel(8);
    let mut answering = JoinSet::new();
    let mut tick = interval(HEAD_EVERY);
    let (mut subscription, mut told) = (None, Value::Null);
    loop {
        let out = tokio::select! {
            message = reader.next() => {
                let Some(Ok(message)) = message else { return Ok(()) };
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(&text)?;
                let (shared, subscriber) = (shared.clone(), subscriber.clone());
                answering.spawn(async move { shared.answer(message, Some(&subscriber)).await });
                continue;
            }
            Some(Ok(answer)) = answering.join_next() => match answer {
                Answer::Json(answer) => answer.to_string(),
                Answer::Malformed => "{this is no JSON".to_owned(),
                Answer::Nothing => continue,
                Answer::Status(_) | Answer::Later(..) | Answer::Failed(..) => return Ok(()),
                Answer::Flood => format!("\"{}\"", " ".repeat(FLOOD)),
            },
            Some(name) = names.recv() => {
                subscription = Some(name);
                continue;
            }
            _ = tick.tick(), if subscription.is_some() => {
                let Some(head) = shared.head().await else { continue };
                if head["hash"] == told {
                    continue;
                }
                told = head["hash"].clone();
                json!({"jsonrpc": "2.0", "method": "eth_subscription",
                    "params": {"subscription": subscription, "result": head}})
                .to_string()
            }
        };
        writer.send(Message::text(out)).await.map_err(failed)?;
    }
}

/// Writes until nobody takes it.
async fn flood(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 Told\r\ncontent-type: application/json\r\n\r\n").await?;
    let water = vec![b' '; 1 << 16];
    loop {
        stream.write_all(&water).await?;
        shared.script().flooded += water.len();
    }
}

/// Requests one after the other on one connection.
async fn http(mut stream: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let message = serde_json::from_slice(&body).map_err(std::io::Error::other)?;
        let mut more = String::new();
        let (status, body) = match shared.answer(message, None).await {
            Answer::Later(status, seconds) => {
                more = format!("retry-after: {seconds}\r\n");
                (status, String::new())
            }
            Answer::Json(answer) => (200, answer.to_string()),
            Answer::Malformed => (200, "{this is no JSON".to_owned()),
            Answer::Status(status) => (status, String::new()),
            Answer::Failed(status, answer) => (status, answer.to_string()),
            Answer::Flood => return flood(stream, shared).await,
            // Until the client has had enough.
            Answer::Nothing => {
                let mut more = [0; 64];
                while stream.read(&mut more).await? > 0 {}
                return Ok(());
            }
        };
        let head = format!(
            "HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
    }
}
