//! The supervisor's end of the control socket.
//!
//! A client can take one of a few places for a bounded time and nothing else. The loop sees only
//! complete, valid requests. Every connection is accepted; where no place is free, the oldest
//! connection of the user with the most connections is closed (`net::connection_limit`). A client that
//! hangs up frees its place at once. A status request needs no place, because the loop answers it
//! without waiting.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::{UnixListener, UnixSocket, UnixStream, unix::OwnedWriteHalf},
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    MAX_PATH_BYTES, PendingRequest, Request, Response, SocketCandidates,
    socket_file::{
        ListenError, SocketFile, file_identity, lock, remove_stale_socket, set_group_mode,
    },
};
use crate::net::connection_limit::{ConnectionLimit, ConnectionPermit, MaxConnections};

/// Connections that have not sent a request yet, and those whose request is being carried out. A
/// script may restart a hundred instances at once.
pub(super) const CONNECTION_LIMITS: MaxConnections = MaxConnections { silent: 128, served: 128 };
/// Connections that the kernel queues until they are accepted.
const BACKLOG: u32 = 256;
/// The largest request in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// How long a client may take to send its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long the loop may take to answer.
const RESPONSE_DEADLINE: Duration = Duration::from_mins(1);
/// How often a waiting client is checked for having hung up.
const HANGUP_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a client may take to read the answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait at startup for a socket in use: a process that was just killed may still hold
/// it.
const IN_USE_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two attempts to bind it.
const BIND_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// How often to check that the socket's path still leads to our socket.
const SOCKET_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long that check may take.
const SOCKET_CHECK_DEADLINE: Duration = Duration::from_secs(5);
/// How long to deliver the last answers after the loop has ended.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// A bound socket; its file is removed on drop.
#[derive(Debug)]
pub struct Listener {
    /// Dropped before the socket: while the socket is open, the kernel cannot reuse the file's
    /// inode.
    file: SocketFile,
    socket: UnixListener,
    /// Where the socket may be bound again.
    candidates: SocketCandidates,
    /// The warning that the socket is gone and cannot be bound again was logged.
    has_warned: bool,
}

impl Listener {
    /// Binds the first usable candidate. Replaces a stale socket. Waits [`IN_USE_LIMIT`] for one that
    /// is in use.
    pub async fn bind(candidates: &SocketCandidates) -> Result<Self, ListenError> {
        let begun = Instant::now();
        loop {
            match Self::bind_at_once(candidates).await {
                Err(ListenError::InUse { .. }) if begun.elapsed() < IN_USE_LIMIT => {
                    sleep(BIND_RETRY_INTERVAL).await;
                }
                bound => return bound,
            }
        }
    }

    /// [`Self::bind`] without waiting for a socket in use. Runs on a blocking thread: if its file
    /// system hangs, this returns only when that answers.
    pub(super) async fn bind_at_once(candidates: &SocketCandidates) -> Result<Self, ListenError> {
        let (runtime, there) = (Handle::current(), candidates.clone());
        let binding = spawn_blocking(move || runtime.block_on(Self::bind_blocking(&there)));
        match binding.await {
            Ok(bound) => bound,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ListenError::Ending),
            },
        }
    }

    async fn bind_blocking(candidates: &SocketCandidates) -> Result<Self, ListenError> {
        let path = candidates.to_listen_at();
        let is_in_state_dir = candidates.is_in_state_dir(path);
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(ListenError::TooLong { path });
        }
        let failed = |doing| {
            let path = path.clone();
            move |cause| ListenError::Io { path, doing, cause }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let failed_there = |doing| {
            let (path, directory) = (path.clone(), directory.to_owned());
            move |cause| {
                if is_in_state_dir {
                    ListenError::StateDirectory { directory, doing, cause }
                } else {
                    ListenError::Io { path, doing, cause }
                }
            }
        };
        if !candidates.is_named {
            // The state directory may not exist yet.
            let making = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            making.map_err(failed_there("making its directory"))?;
        }
        // No other supervisor may bind between the check and the bind.
        let _lock = lock(directory).await.map_err(failed_there("locking its directory"))?;
        remove_stale_socket(&path).await?;
        let socket = UnixSocket::new_stream().map_err(failed("making it"))?;
        socket.bind(&path).map_err(failed_there("binding it"))?;
        let made = fs::symlink_metadata(&path).map_err(failed("looking at it"))?;
        let file = SocketFile { path: path.clone(), identity: file_identity(&made) };
        // Nobody can connect before `listen`, so no connection sees another mode.
        set_group_mode(&path, &file).map_err(failed("setting its mode"))?;
        let socket = socket.listen(BACKLOG).map_err(failed("listening"))?;
        Ok(Self { file, socket, candidates: candidates.clone(), has_warned: false })
    }

    /// Binds again if the socket's file was removed or replaced: no command would find it.
    async fn rebind_if_removed(&mut self) {
        let (path, own) = (self.file.path.clone(), self.file.identity);
        let there =
            move || fs::symlink_metadata(path).is_ok_and(|found| file_identity(&found) == own);
        let looking = timeout(SOCKET_CHECK_DEADLINE, spawn_blocking(there)).await;
        // A disk that does not answer proves nothing.
        if !matches!(looking, Ok(Ok(false))) {
            self.has_warned &= !matches!(looking, Ok(Ok(true)));
            return;
        }
        match Self::bind_at_once(&self.candidates).await {
            Ok(again) => {
                *self = again;
                warn!(path = %self.path().display(), "the control socket was removed and is bound again");
            }
            Err(error) if !self.has_warned => {
                self.has_warned = true;
                warn!(
                    %error, again_in = ?SOCKET_CHECK_INTERVAL,
                    "the control socket was removed and cannot be bound again: commands do not reach this process"
                );
            }
            Err(_) => {}
        }
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves until `stop`. Clients that are still waiting get [`CLOSE_DEADLINE`] for their answer.
    pub async fn serve(mut self, commands: mpsc::Sender<PendingRequest>, stop: CancellationToken) {
        let crowd = ConnectionLimit::new(CONNECTION_LIMITS);
        let mut looks = interval(SOCKET_CHECK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connections = JoinSet::new();
        let mut accepting = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => log_failure(ended),
                _ = looks.tick() => self.rebind_if_removed().await,
                accepted = self.socket.accept() => {
                    match accepted {
                        Ok((stream, _)) => {
                            accepting = true;
                            let peer = Peer::of(&stream);
                            let place = crowd.admit(peer.uid);
                            connections.spawn(serve_connection(stream, peer, place, commands.clone()));
                        }
                        Err(error) => {
                            if accepting {
                                warn!(%error, "the control socket cannot accept, trying again each second");
                            }
                            accepting = false;
                            stop.run_until_cancelled(sleep(Duration::from_secs(1))).await;
                        }
                    }
                }
            }
        }
        drop(self);
        let ending = async {
            while let Some(ended) = connections.join_next().await {
                log_failure(ended);
            }
        };
        if timeout(CLOSE_DEADLINE, ending).await.is_err() {
            debug!("some control connections did not end in time and are dropped");
        }
    }
}

fn log_failure(ended: Result<(), tokio::task::JoinError>) {
    if let Err(cause) = ended {
        error!(%cause, "a control connection failed");
    }
}

/// User and process at the other end, as far as the kernel knows them.
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: Option<u32>,
    pid: Option<i32>,
}

impl Peer {
    fn of(stream: &UnixStream) -> Self {
        let peer = stream.peer_cred().ok();
        Self { uid: peer.map(|peer| peer.uid()), pid: peer.and_then(|peer| peer.pid()) }
    }
}

/// Serves one connection: reads a request line, writes an answer line.
async fn serve_connection(
    stream: UnixStream,
    peer: Peer,
    place: ConnectionPermit<Option<u32>>,
    commands: mpsc::Sender<PendingRequest>,
) {
    let Peer { uid, pid } = peer;
    let (reading, mut writing) = stream.into_split();
    let read = tokio::select! {
        read = timeout(REQUEST_DEADLINE, read_request(reading)) => read,
        () = place.evicted() => return debug!(uid, pid, "a silent control client has to leave"),
    };
    let answer = match read {
        // The client only tested the connection.
        Ok(Ok(None)) => return,
        Ok(Ok(Some(Request::Status))) => forward(Request::Status, &commands).await,
        Ok(Ok(Some(mut request))) => {
            place.mark_served();
            request.name_user(uid);
            // Questions come in many pages and are not worth a log line each.
            let is_question = |request: &Request| matches!(request, Request::Requests { inquiry, .. } if !inquiry.is_action());
            if !is_question(&request) {
                info!(%request, uid, pid, "control request");
            }
            tokio::select! {
                answer = forward(request, &commands) => answer,
                () = hung_up(&writing) => return debug!(uid, pid, "a control client hung up"),
                () = place.evicted() => Response::Silent {
                    why: "its place was given to a later request; the request may still be carried \
                          out: see the log"
                        .to_owned(),
                },
            }
        }
        Ok(Err(why)) => Response::Refused { why },
        Err(_) => {
            Response::Refused { why: format!("no whole request within {REQUEST_DEADLINE:?}") }
        }
    };
    if let Response::Refused { why } | Response::Silent { why } = &answer {
        info!(why, uid, pid, "control request not answered as asked");
    }
    let line = match serde_json::to_vec(&answer) {
        Ok(mut line) => {
            line.push(b'\n');
            line
        }
        Err(error) => {
            error!(%error, "an answer cannot be written as JSON");
            return;
        }
    };
    match timeout(WRITE_DEADLINE, writing.write_all(&line)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a control client did not wait for its answer"),
        Err(_) => debug!("a control client does not read its answer"),
    }
}

/// Waits until the other end is closed. A client that only shut down its writing side still
/// listens.
async fn hung_up(writing: &OwnedWriteHalf) {
    loop {
        sleep(HANGUP_CHECK_INTERVAL).await;
        match writing.ready(Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// `None`: the client closed without sending anything. `Err`: what is wrong with the request.
async fn read_request(reading: impl AsyncRead + Unpin) -> Result<Option<Request>, String> {
    let mut line = Vec::new();
    let mut reading = BufReader::new(reading.take(MAX_REQUEST_BYTES + 1));
    let read = reading.read_until(b'\n', &mut line).await;
    if read.is_err() || line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 > MAX_REQUEST_BYTES {
        return Err(format!("the request is longer than {MAX_REQUEST_BYTES} bytes"));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| format!("the request cannot be read: {error}"))
}

async fn forward(request: Request, commands: &mpsc::Sender<PendingRequest>) -> Response {
    let (reply, answer) = oneshot::channel();
    let asking = async {
        commands.send(PendingRequest { request, reply }).await.ok()?;
        Some(answer.await.ok()?.into_response().await)
    };
    match timeout(RESPONSE_DEADLINE, asking).await {
        Ok(Some(answer)) => answer,
        Ok(None) => Response::Silent { why: "the supervisor is ending".to_owned() },
        Err(_) => Response::Silent {
            why: format!(
                "the supervisor has not answered within {RESPONSE_DEADLINE:?}; it may still do what \
                 was asked: see its log"
            ),
        },
    }
}
