//! A TCP relay between a connector and one of its servers, to break the connection on demand.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use super::{Error, Result};

/// What the relay does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Bytes go both ways.
    Clear,
    /// Open connections are closed, new ones are closed at once.
    Cut,
    /// Connections stay open and nothing goes through: a network that swallows packets.
    Silent,
    /// What goes through takes so long, each way.
    Slow(Duration),
    /// From the server comes a byte now and then.
    Dripping(Duration),
    /// The server's side ends, as if it had said all; what the client sends still goes through.
    HalfClosed,
    /// Whatever is asked, and the server does not hear it, is answered by a page of some other
    /// server, as by a load balancer whose route is wrong.
    Wrong,
}

/// Well-formed HTTP, so that a client has to look at what it says; to one that expects HTTP/2 or
/// frames of a WebSocket it is noise.
const WRONG: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 22\r\n\
    connection: close\r\n\r\n<html>It works!</html>";

/// The weather, and since when older connections hang.
#[derive(Clone, Copy, Debug)]
struct Sky {
    weather: Weather,
    frozen: Option<Instant>,
}

/// The relay. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    sky: watch::Sender<Sky>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Relays a free local port to `127.0.0.1:upstream`.
    pub async fn start(upstream: u16) -> Result<Self> {
        let failed = |e| Error::Io("proxy".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (sky, seen) = watch::channel(Sky { weather: Weather::Clear, frozen: None });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, upstream, seen));
        Ok(Self { address, sky, _accepting: accepting })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the weather for open and coming connections.
    pub fn set(&self, weather: Weather) {
        self.sky.send_modify(|sky| sky.weather = weather);
    }

    /// Connections that are open now stay open and carry nothing any more, as behind a router that
    /// lost its table. New ones go through.
    pub fn freeze(&self) {
        self.sky.send_modify(|sky| sky.frozen = Some(Instant::now()));
    }

    /// Closes the connections that are open now; new ones go through at once.
    pub async fn cut(&self) {
        self.set(Weather::Cut);
        // Every relay sees the change before the next one overwrites it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.set(Weather::Clear);
    }
}

async fn accept(listener: TcpListener, upstream: u16, sky: watch::Receiver<Sky>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    relays.spawn(relay(client, upstream, sky.clone()));
                }
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// One connection from its first byte to its last.
async fn relay(mut client: TcpStream, upstream: u16, mut sky: watch::Receiver<Sky>) {
    let born = Instant::now();
    // The server may be down or restarting: the client then sees its connection closed.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    loop {
        let now = *sky.borrow_and_update();
        let frozen = now.frozen.is_some_and(|since| born <= since);
        match now.weather {
            Weather::Cut => return,
            Weather::Clear if !frozen => {
                tokio::select! {
                    // Bytes the relay had read and not yet written are lost when the weather
                    // turns: a connection that was silent is therefore closed afterwards.
                    _ended = copy_bidirectional(&mut client, &mut server) => return,
                    _changed = sky.changed() => {
                        let now = *sky.borrow();
                        let frozen = now.frozen.is_some_and(|since| born <= since);
                        if frozen {
                            continue;
                        }
                        if now.weather == Weather::Silent {
                            let _dropped = sky.changed().await;
                        }
                        return;
                    }
                }
            }
            Weather::Slow(_) | Weather::Dripping(_) | Weather::HalfClosed | Weather::Wrong
                if !frozen =>
            {
                tokio::select! {
                    _ended = carry_badly(&mut client, &mut server, now.weather) => return,
                    // What was under way is lost with the connection.
                    _changed = sky.changed() => return,
                }
            }
            Weather::Clear
            | Weather::Silent
            | Weather::Slow(_)
            | Weather::Dripping(_)
            | Weather::HalfClosed
            | Weather::Wrong => {
                if sky.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Carries bytes both ways until either side ends.
async fn carry_badly(
    client: &mut TcpStream,
    server: &mut TcpStream,
    weather: Weather,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    match weather {
        Weather::Slow(pause) => {
            tokio::try_join!(
                late(&mut from_client, &mut to_server, pause),
                late(&mut from_server, &mut to_client, pause)
            )?;
        }
        Weather::Dripping(pause) => {
            let there = async { copy(&mut from_client, &mut to_server).await.map(drop) };
            tokio::try_join!(there, drip(&mut from_server, &mut to_client, pause))?;
        }
        Weather::HalfClosed => {
            to_client.shutdown().await?;
            copy(&mut from_client, &mut to_server).await?;
        }
        Weather::Wrong => {
            let mut asked = vec![0; 1 << 16];
            if from_client.read(&mut asked).await? > 0 {
                to_client.write_all(WRONG).await?;
                to_client.shutdown().await?;
                // Closed with bytes unread, the connection would be reset and the page lost.
                while from_client.read(&mut asked).await? > 0 {}
            }
        }
        Weather::Clear | Weather::Cut | Weather::Silent => {}
    }
    Ok(())
}

/// Byte by byte.
async fn drip(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    pause: Duration,
) -> std::io::Result<()> {
    loop {
        let byte = from.read_u8().await?;
        sleep(pause).await;
        to.write_u8(byte).await?;
    }
}

/// Each piece later by `pause`.
async fn late(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    pause: Duration,
) -> std::io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        sleep(pause).await;
        to.write_all(&piece[..read]).await?;
    }
}
