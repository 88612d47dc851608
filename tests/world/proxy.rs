//! A TCP relay between a connector and one of its servers, to break the connection on demand.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
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
}

/// The relay. Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Relays a free local port to `127.0.0.1:upstream`.
    pub async fn start(upstream: u16) -> Result<Self> {
        let failed = |e| Error::Io("proxy".into(), e);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (weather, seen) = watch::channel(Weather::Clear);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, upstream, seen));
        Ok(Self { address, weather, _accepting: accepting })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the weather for open and coming connections.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Closes the connections that are open now; new ones go through at once.
    pub async fn cut(&self) {
        self.set(Weather::Cut);
        // Every relay sees the change before the next one overwrites it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.set(Weather::Clear);
    }
}

async fn accept(listener: TcpListener, upstream: u16, weather: watch::Receiver<Weather>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    relays.spawn(relay(client, upstream, weather.clone()));
                }
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// One connection from its first byte to its last.
async fn relay(mut client: TcpStream, upstream: u16, mut weather: watch::Receiver<Weather>) {
    // The server may be down or restarting: the client then sees its connection closed.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Cut => return,
            Weather::Silent => {
                if weather.changed().await.is_err() {
                    return;
                }
            }
            Weather::Clear => {
                tokio::select! {
                    // Bytes the relay had read and not yet written are lost when the weather
                    // turns: a connection that was silent is therefore closed afterwards.
                    _ended = copy_bidirectional(&mut client, &mut server) => return,
                    _changed = weather.changed() => {
                        if *weather.borrow() == Weather::Silent {
                            let _dropped = weather.changed().await;
                        }
                        return;
                    }
                }
            }
        }
    }
}
