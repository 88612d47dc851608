//! An HTTP proxy that knows CONNECT and nothing else, and remembers who wanted to go where.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Error, Result};

/// The proxy. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _serving: JoinSet<()>,
}

/// One CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Host and port.
    pub target: String,
    /// What stood in `Proxy-Authorization`.
    pub authorization: String,
}

impl ConnectProxy {
    /// `wanted`: the only `Proxy-Authorization` it lets through; empty: any.
    pub async fn start(wanted: &str) -> Result<Self> {
        let failed = |e| Error::Io("connect proxy".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let asked = Arc::new(Mutex::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, wanted.to_owned(), Arc::clone(&asked)));
        Ok(Self { address, asked, _serving: serving })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All that were asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether anybody wanted to go to this local port.
    pub fn led_to(&self, port: u16) -> bool {
        let target = format!("127.0.0.1:{port}");
        self.asked().iter().any(|asked| asked.target == target)
    }
}

async fn serve(listener: TcpListener, wanted: String, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    let (wanted, asked) = (wanted.clone(), Arc::clone(&asked));
                    relays.spawn(async move {
                        let _left = relay(client, &wanted, &asked).await;
                    });
                }
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

async fn relay(
    mut client: TcpStream,
    wanted: &str,
    asked: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let Some(target) = target.map(str::to_owned) else {
        return client.write_all(b"HTTP/1.1 405 Only CONNECT\r\n\r\n").await;
    };
    let header = head.lines().filter_map(|line| line.split_once(": "));
    let mut header = header.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization"));
    let authorization = header.next().map(|(_, value)| value.to_owned()).unwrap_or_default();
    let is_welcome = wanted.is_empty() || authorization == wanted;
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Asked { target: target.clone(), authorization });
    if !is_welcome {
        return client.write_all(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n").await;
    }
    let mut server = TcpStream::connect(&target).await?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
