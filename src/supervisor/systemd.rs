//! Notifies the service manager (systemd) with datagrams to `$NOTIFY_SOCKET`, see `sd_notify(3)`.
//! Does nothing without that variable.
//!
//! ```text
//! READY -> RELOADING -> READY -> ... -> STOPPING     with STATUS, also in between, one line
//! WATCHDOG=1 from begin to end
//! ```
//!
//! Only the supervisor's loop sends here, once per turn: a blocked loop feeds no watchdog, and the
//! service manager ends the process. For the same reason nothing here blocks. A message that the
//! service manager does not take (its queue is full, or it is restarting) is kept and sent before
//! the next one, in order: a lost READY would end the process, too.
//!
//! The `sd-notify` crate is deliberately absent: it does not support abstract sockets, its sends
//! may block, and it reads the process's environment itself.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tracing::{info, warn};

use crate::{config::Environment, domain::is_printable};

/// The longest status in bytes. systemd drops datagrams above 4096.
const MAX_STATUS_BYTES: usize = 1000;
/// The most messages kept for a service manager that does not listen. Older ones are outdated by
/// then.
const MAX_UNSENT: usize = 8;

/// The service manager that started this process, if there is one.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<NotifySocket>,
    watchdog: Option<Duration>,
    /// The current status, and whether it was sent or is part of a message that is still kept.
    status: String,
    is_status_sent: bool,
    unsent: VecDeque<String>,
    is_failing: bool,
}

/// Our socket and the service manager's address. Not connected: the other socket may be recreated.
#[derive(Debug)]
struct NotifySocket {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl NotifySocket {
    fn open(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                let why = "neither an absolute path nor an abstract name (@...)";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    fn send(&self, message: &str) -> io::Result<()> {
        self.socket.send_to_addr(message.as_bytes(), &self.address).map(drop)
    }
}

impl ServiceManager {
    /// The service manager that `$NOTIFY_SOCKET` names.
    #[must_use]
    pub fn from_environment(environment: &Environment) -> Self {
        let socket = environment.get("NOTIFY_SOCKET").and_then(|name| match NotifySocket::open(name) {
            Ok(line) => Some(line),
            Err(error) => {
                warn!(%error, socket = %name.to_string_lossy(), "cannot reach the service manager");
                None
            }
        });
        let watchdog = socket.as_ref().and_then(|_| watchdog_interval(environment));
        Self {
            socket,
            watchdog,
            status: String::new(),
            is_status_sent: true,
            unsent: VecDeque::new(),
            is_failing: false,
        }
    }

    /// Startup, or a reload, is complete.
    pub fn ready(&mut self, status: &str) {
        self.notify("READY=1".to_owned(), Some(status));
    }

    /// A reload begins; [`Self::ready`] ends it.
    pub fn reloading(&mut self) {
        // Type=notify-reload (systemd 253) requires this timestamp.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.notify(format!("RELOADING=1\nMONOTONIC_USEC={micros}"), None);
    }

    /// The process is going to end. The last message.
    pub fn stopping(&mut self, status: &str) {
        self.notify("STOPPING=1".to_owned(), Some(status));
    }

    /// The status for `systemctl status`: one line, sent when it differs from the last.
    pub fn status(&mut self, status: &str) {
        let status = one_line(status);
        if self.socket.is_some() && status != self.status {
            self.status = status;
            self.is_status_sent = false;
            self.flush();
        }
    }

    /// Sends what is kept, then feeds the watchdog if there is one. Must be called at least every
    /// [`Self::watchdog_interval`].
    pub fn feed_watchdog(&mut self) {
        if self.flush() && self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// How often [`Self::feed_watchdog`] is due: half of the watchdog's timeout.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Queues a message that must arrive.
    fn notify(&mut self, mut word: String, status: Option<&str>) {
        if self.socket.is_none() {
            return;
        }
        if let Some(status) = status {
            self.status = one_line(status);
            self.is_status_sent = true;
            word = format!("{word}\nSTATUS={}", self.status);
        }
        if self.unsent.len() == MAX_UNSENT {
            self.unsent.pop_front();
        }
        self.unsent.push_back(word);
        self.flush();
    }

    /// Sends what is kept, in order. Returns whether everything was sent.
    fn flush(&mut self) -> bool {
        while let Some(word) = self.unsent.pop_front() {
            if !self.send(&word) {
                self.unsent.push_front(word);
                return false;
            }
        }
        if !self.is_status_sent {
            self.is_status_sent = self.send(&format!("STATUS={}", self.status));
        }
        self.is_status_sent
    }

    fn send(&mut self, message: &str) -> bool {
        let Some(line) = &self.socket else { return true };
        match line.send(message) {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    info!("the service manager listens again");
                }
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!(%error, "the service manager does not accept notifications; trying again");
                }
                false
            }
        }
    }
}

/// Half of `$WATCHDOG_USEC`, unless that was meant for another process.
fn watchdog_interval(environment: &Environment) -> Option<Duration> {
    let number = |name| environment.get(name)?.to_str()?.parse::<u64>().ok();
    let ours = environment.get("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(process::id().into());
    let micros = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0)?;
    // tokio's interval panics for a period of zero.
    Some(Duration::from_micros(micros / 2).max(Duration::from_millis(1)))
}

/// A line break would begin another assignment of the protocol.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.trim().chars().map(|c| if is_printable(c) { c } else { ' ' }).collect();
    if line.len() > MAX_STATUS_BYTES {
        line.truncate(line.floor_char_boundary(MAX_STATUS_BYTES));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    /// A service manager's socket.
    struct FakeManager {
        socket: UnixDatagram,
        name: String,
        _dir: TempDir,
    }

    impl FakeManager {
        fn new(name: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let name = if name.starts_with('@') {
                name.to_owned()
            } else {
                dir.path().join(name).display().to_string()
            };
            Self { socket: bind(&name), name, _dir: dir }
        }

        fn manager(&self) -> ServiceManager {
            ServiceManager::from_environment(&environment(&[("NOTIFY_SOCKET", &self.name)]))
        }

        /// All datagrams that have arrived.
        fn received(&self) -> Vec<String> {
            let mut heard = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            }
            heard
        }
    }

    fn bind(name: &str) -> UnixDatagram {
        let socket = match name.strip_prefix('@') {
            Some(name) => {
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
            }
            None => UnixDatagram::bind(Path::new(name)).unwrap(),
        };
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().copied().collect()
    }

    fn monotonic_micros() -> i64 {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
    }

    #[test]
    fn a_life_is_told_on_both_kinds_of_socket() {
        let abstract_name = format!("@kms-connector-unit-test-{}", process::id());
        for name in ["notify.sock", &abstract_name] {
            let ear = FakeManager::new(name);
            let mut manager = ear.manager();
            manager.status("0 of 2 are up");
            manager.ready("2 running");
            assert_eq!(ear.received(), ["STATUS=0 of 2 are up", "READY=1\nSTATUS=2 running"]);

            let before = monotonic_micros();
            manager.reloading();
            let heard = ear.received();
            let micros = heard[0].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            let micros: i64 = micros.parse().unwrap();
            assert!((before..=monotonic_micros()).contains(&micros), "{heard:?}");

            manager.ready("3 running");
            manager.stopping("stopping (SIGTERM)");
            let expected = ["READY=1\nSTATUS=3 running", "STOPPING=1\nSTATUS=stopping (SIGTERM)"];
            assert_eq!(ear.received(), expected);
        }
    }

    #[test]
    fn a_status_is_told_once_and_is_one_short_line() {
        let ear = FakeManager::new("notify.sock");
        let mut manager = ear.manager();
        manager.ready("2 running");
        manager.status("2 running");
        manager.status("1 running,\n1 parked: config-3\nREADY=0");
        manager.status("1 running, 1 parked: config-3 READY=0");
        manager.status("2 running");
        let expected = [
            "READY=1\nSTATUS=2 running",
            "STATUS=1 running, 1 parked: config-3 READY=0",
            "STATUS=2 running",
        ];
        assert_eq!(ear.received(), expected);

        manager.status(&"ö".repeat(3000));
        let heard = ear.received();
        assert!(heard[0].len() < 4096 && heard[0].ends_with("ö…"), "{heard:?}");
    }

    #[test]
    fn without_a_service_manager_nothing_happens() {
        for name in ["", "relative.sock", "vsock:2:1234"] {
            let variables = [("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "1000000")];
            let mut manager = ServiceManager::from_environment(&environment(&variables));
            assert!(manager.socket.is_none(), "{name}");
            assert_eq!(manager.watchdog_interval(), None, "{name}");
            manager.ready("up");
            manager.feed_watchdog();
            assert!(manager.unsent.is_empty());
        }
    }

    #[test]
    fn the_watchdog_is_fed_if_it_is_ours() {
        let ear = FakeManager::new("notify.sock");
        let me = process::id().to_string();
        let other = (process::id() + 1).to_string();
        let of = |variables: &[(&str, &str)]| {
            let mut all = vec![("NOTIFY_SOCKET", ear.name.as_str())];
            all.extend_from_slice(variables);
            ServiceManager::from_environment(&environment(&all))
        };
        let usec = ("WATCHDOG_USEC", "30000000");
        for ours in [&[usec][..], &[usec, ("WATCHDOG_PID", &me)]] {
            let mut manager = of(ours);
            assert_eq!(manager.watchdog_interval(), Some(Duration::from_secs(15)));
            manager.feed_watchdog();
            assert_eq!(ear.received(), ["WATCHDOG=1"]);
        }
        for not in [
            &[][..],
            &[usec, ("WATCHDOG_PID", &other)],
            &[usec, ("WATCHDOG_PID", "x")],
            &[("WATCHDOG_USEC", "0")],
            &[("WATCHDOG_USEC", "soon")],
        ] {
            let mut manager = of(not);
            assert_eq!(manager.watchdog_interval(), None, "{not:?}");
            manager.feed_watchdog();
            assert!(ear.received().is_empty(), "{not:?}");
        }
    }

    #[test]
    fn what_was_not_taken_is_told_later_in_order() {
        let mut ear = FakeManager::new("notify.sock");
        let mut manager = ServiceManager::from_environment(&environment(&[
            ("NOTIFY_SOCKET", &ear.name),
            ("WATCHDOG_USEC", "1000000"),
        ]));
        std::fs::remove_file(&ear.name).unwrap();
        manager.reloading();
        manager.feed_watchdog();
        manager.ready("1 running");
        manager.status("2 running");
        assert!(manager.is_failing);
        ear.socket = bind(&ear.name);
        manager.feed_watchdog();
        let heard = ear.received();
        assert!(heard[0].starts_with("RELOADING=1\n"), "{heard:?}");
        assert_eq!(heard[1..], ["READY=1\nSTATUS=1 running", "STATUS=2 running", "WATCHDOG=1"]);
        assert!(!manager.is_failing);
    }

    #[test]
    fn a_full_queue_blocks_nobody_and_is_bounded() {
        let ear = FakeManager::new("notify.sock");
        let mut manager = ear.manager();
        let mut said = 0;
        while manager.unsent.len() < MAX_UNSENT {
            said += 1;
            assert!(said < 100_000, "this socket takes everything");
            manager.ready(&said.to_string());
        }
        manager.stopping("bye");
        assert_eq!(manager.unsent.len(), MAX_UNSENT);
        assert!(!ear.received().is_empty());
        while !manager.flush() {
            assert!(!ear.received().is_empty());
        }
        assert_eq!(ear.received().last().unwrap(), "STOPPING=1\nSTATUS=bye");
    }
}
