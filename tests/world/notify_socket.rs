//! The service manager's end of `sd_notify(3)`: a datagram socket that remembers what it was told,
//! in order, and when.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram as StdDatagram},
    },
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::UnixDatagram, task::JoinSet, time::Instant};

use super::{Error, Result, random, until};

/// One datagram: words of the protocol, a line each.
#[derive(Clone, Debug)]
pub struct Message {
    pub at: Instant,
    pub text: String,
}

impl Message {
    /// Whether this is one of its lines: `READY=1`.
    pub fn says(&self, line: &str) -> bool {
        self.text.lines().any(|said| said == line)
    }

    /// What stands behind `key=`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }
}

/// The socket. Dropping it closes it.
#[derive(Debug)]
pub struct NotifySocket {
    name: String,
    heard: Arc<Mutex<Vec<Message>>>,
    _listening: JoinSet<()>,
}

impl NotifySocket {
    /// `notify.sock` in this folder.
    pub fn in_folder(dir: &Path) -> Result<Self> {
        let path = dir.join("notify.sock");
        Self::listen(SocketAddr::from_pathname(&path), path.display().to_string())
    }

    /// A name without a file, as a service manager in a container may use it.
    pub fn without_file() -> Result<Self> {
        let name = format!("kms-connector-test-{:016x}", u64::from_ne_bytes(random()));
        Self::listen(SocketAddr::from_abstract_name(&name), format!("@{name}"))
    }

    fn listen(address: std::io::Result<SocketAddr>, name: String) -> Result<Self> {
        let failed = |error| Error::Io(format!("listening on {name}"), error);
        let socket = StdDatagram::bind_addr(&address.map_err(failed)?).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = UnixDatagram::from_std(socket).map_err(failed)?;
        let heard = Arc::<Mutex<Vec<Message>>>::default();
        let mut listening = JoinSet::new();
        listening.spawn(remember(socket, Arc::clone(&heard)));
        Ok(Self { name, heard, _listening: listening })
    }

    /// Makes the command's process one that this service manager started, with a watchdog of this
    /// length or none.
    pub fn manage(&self, command: &mut Command, watchdog: Option<Duration>) {
        command.env("NOTIFY_SOCKET", &self.name);
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<Message> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first message from number `from` on that is as wanted, and its number.
    pub async fn hear(
        &self,
        from: usize,
        what: &str,
        wanted: impl Fn(&Message) -> bool,
    ) -> Result<(usize, Message)> {
        let found = until(what, super::scene::PATIENCE, Duration::from_millis(10), async || {
            let mut heard = self.heard().into_iter().enumerate().skip(from);
            Ok(heard.find(|(_, message)| wanted(message)))
        });
        found.await.map_err(|error| Error::other(format!("{error}; heard {:#?}", self.heard())))
    }

    /// The first message from number `from` on with this line, and its number.
    pub async fn hear_line(&self, from: usize, line: &str) -> Result<(usize, Message)> {
        self.hear(from, line, |message| message.says(line)).await
    }
}

async fn remember(socket: UnixDatagram, heard: Arc<Mutex<Vec<Message>>>) {
    // systemd takes no longer ones.
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let message = Message { at: Instant::now(), text };
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }
}
