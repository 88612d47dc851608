//! The supervisor's end of the control socket.
//!
//! Whatever a client does, it costs one of a few places for a bounded time, and nothing else: the loop
//! sees whole, readable requests only. Everybody is let in; where there is no place, the oldest of
//! whoever has most leaves ([`crate::crowd`]), and one that hangs up leaves at once. The status, which
//! the loop tells without waiting for anything, takes no place of those who wait for its deeds.

use std::{
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
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

use super::{Answer, Asked, Candidates, LONGEST_PATH, Request};
use crate::crowd::{Crowd, Most, Place};

/// Connections that have not said yet what they want, and those whose wish is being done. A script may
/// well restart a hundred instances at once.
pub(super) const PLACES: Most = Most { silent: 128, served: 128 };
/// Connections the kernel keeps for us until they are let in.
const BACKLOG: u32 = 256;
/// No request is longer.
const LONGEST_REQUEST: u64 = 64 << 10;
/// How long a client may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long the loop may take to do it.
const ANSWER_DEADLINE: Duration = Duration::from_mins(1);
/// How often it is looked whether who waits for an answer is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a client may take to hear the answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long one supervisor waits for another that binds in the same directory.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);
/// How long a socket that is in use is waited for at a start: a process that was killed may not be gone yet.
const TAKEN_FOR: Duration = Duration::from_secs(3);
/// How often it is tried meanwhile.
const TRIED_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked whether the socket is still where commands look for it: as often as the files
/// are read.
const THERE_EVERY: Duration = Duration::from_secs(30);
/// How long that may take.
const THERE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last answers may take once the loop has ended.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Why nobody can ask this supervisor anything.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{} is in use by {}: stop that one, or choose another place with --socket", path.display(), describe(*pid))]
    InUse { path: PathBuf, pid: Option<i32> },
    #[error("{} is there and no socket: remove it, or choose another place with --socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("{} has {} bytes, a socket's path at most {LONGEST_PATH}: choose a shorter one with --socket", path.display(), path.as_os_str().len())]
    TooLong { path: PathBuf },
    #[error("the process is ending")]
    Ending,
    #[error("{}: {doing}: {cause}", path.display())]
    Io { path: PathBuf, doing: &'static str, cause: io::Error },
}

fn describe(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A bound socket; removed when dropped.
#[derive(Debug)]
pub struct Listener {
    /// Goes before the socket, which keeps its inode from being another's.
    file: SocketFile,
    socket: UnixListener,
    /// Where it may be bound again.
    candidates: Candidates,
    /// That it is gone and cannot be bound again was told.
    complained: bool,
}

/// The socket's file, as long as it is the one we made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // Somebody else may be quicker; a file left behind is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl Listener {
    /// Binds at the first place that will do. A socket that nobody answers on is replaced; one that is in
    /// use is waited for, for some seconds.
    pub async fn bind(candidates: &Candidates) -> Result<Self, ListenError> {
        let begun = Instant::now();
        loop {
            match Self::bind_at_once(candidates).await {
                Err(ListenError::InUse { .. }) if begun.elapsed() < TAKEN_FOR => {
                    sleep(TRIED_EVERY).await;
                }
                bound => return bound,
            }
        }
    }

    /// The same, but waits for nobody. Done on a thread where it may block: its file system may hang, and
    /// then this ends when that does.
    pub(super) async fn bind_at_once(candidates: &Candidates) -> Result<Self, ListenError> {
        let (runtime, there) = (Handle::current(), candidates.clone());
        let binding = spawn_blocking(move || runtime.block_on(Self::bind_here(&there)));
        match binding.await {
            Ok(bound) => bound,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ListenError::Ending),
            },
        }
    }

    async fn bind_here(candidates: &Candidates) -> Result<Self, ListenError> {
        let path = candidates.to_listen_at();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(ListenError::TooLong { path });
        }
        let failed = |doing| {
            let path = path.clone();
            move |cause| ListenError::Io { path, doing, cause }
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !candidates.named {
            // The state directory, which nobody may have needed yet.
            let making = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            making.map_err(failed("making its directory"))?;
        }
        // Between looking and binding nobody else may do the same.
        let _lock = lock(directory).await.map_err(failed("locking its directory"))?;
        make_way(&path).await?;
        let socket = UnixSocket::new_stream().map_err(failed("making it"))?;
        socket.bind(&path).map_err(failed("binding it"))?;
        let made = fs::symlink_metadata(&path).map_err(failed("looking at it"))?;
        let file = SocketFile { path: path.clone(), identity: identity(&made) };
        // Nobody can connect before `listen`: the mode holds from the first connection on.
        open_to_group(&path, &file).map_err(failed("setting its mode"))?;
        let socket = socket.listen(BACKLOG).map_err(failed("listening"))?;
        Ok(Self { file, socket, candidates: candidates.clone(), complained: false })
    }

    /// Binds again if somebody removed the socket, or put something else in its place: no command finds
    /// it then.
    async fn look_after_itself(&mut self) {
        let (path, own) = (self.file.path.clone(), self.file.identity);
        let there = move || fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == own);
        let looking = timeout(THERE_DEADLINE, spawn_blocking(there)).await;
        // A disk that does not answer says nothing.
        if !matches!(looking, Ok(Ok(false))) {
            self.complained &= !matches!(looking, Ok(Ok(true)));
            return;
        }
        match Self::bind_at_once(&self.candidates).await {
            Ok(again) => {
                *self = again;
                warn!(path = %self.path().display(), "the control socket was removed and is bound again");
            }
            Err(error) if !self.complained => {
                self.complained = true;
                warn!(
                    %error, again_in = ?THERE_EVERY,
                    "the control socket was removed and cannot be bound again: commands do not reach this process"
                );
            }
            Err(_) => {}
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Serves until `stop`. Whoever waits for an answer then gets it if it comes at once.
    pub async fn serve(mut self, commands: mpsc::Sender<Asked>, stop: CancellationToken) {
        let crowd = Crowd::new(PLACES);
        let mut looks = interval(THERE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connections = JoinSet::new();
        let mut accepting = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => note(ended),
                _ = looks.tick() => self.look_after_itself().await,
                accepted = self.socket.accept() => {
                    match accepted {
                        Ok((stream, _)) => {
                            accepting = true;
                            let peer = Peer::of(&stream);
                            let place = crowd.enter(peer.uid);
                            connections.spawn(converse(stream, peer, place, commands.clone()));
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
                note(ended);
            }
        };
        if timeout(CLOSE_DEADLINE, ending).await.is_err() {
            debug!("some control connections did not end in time and are dropped");
        }
    }
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(cause) = ended {
        error!(%cause, "a control connection failed");
    }
}

/// Holds others off the directory until dropped. Whoever can read it can lock it for ever: `None`
/// after a while.
async fn lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::open(directory)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_DEADLINE => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                warn!(directory = %directory.display(), "somebody keeps the control socket's directory locked");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes what a supervisor left behind that could not remove it itself.
async fn make_way(path: &Path) -> Result<(), ListenError> {
    let failed = |doing| move |cause| ListenError::Io { path: path.to_owned(), doing, cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at it")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let in_use = |pid| ListenError::InUse { path: path.to_owned(), pid };
    match timeout(Duration::from_secs(1), UnixStream::connect(path)).await {
        Ok(Ok(stream)) => {
            let peer = stream.peer_cred().ok();
            Err(in_use(peer.and_then(|peer| peer.pid())))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("removing a stale one"))
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its backlog is full.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(None)),
        Ok(Err(error)) => Err(failed("asking who listens there")(error)),
        Err(_) => Err(in_use(None)),
    }
}

/// The mode of the socket we made, and of nothing that was put in its place meanwhile.
fn open_to_group(path: &Path, made: &SocketFile) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if identity(&file.metadata()?) != made.identity {
        return Err(io::Error::other("another file was put in its place"));
    }
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(itself, Permissions::from_mode(0o660))
}

/// Who is at the other end, as far as the kernel tells.
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

/// One connection: a line in, a line out.
async fn converse(
    stream: UnixStream,
    peer: Peer,
    place: Place<Option<u32>>,
    commands: mpsc::Sender<Asked>,
) {
    let Peer { uid, pid } = peer;
    let (reading, mut writing) = stream.into_split();
    let read = tokio::select! {
        read = timeout(REQUEST_DEADLINE, read_request(reading)) => read,
        () = place.wanted() => return debug!(uid, pid, "a silent control client has to leave"),
    };
    let answer = match read {
        // Somebody looked whether we are here.
        Ok(Ok(None)) => return,
        Ok(Ok(Some(Request::Status))) => pass_on(Request::Status, &commands).await,
        Ok(Ok(Some(request))) => {
            place.serve();
            // A question in many pages is no news.
            let is_question = |request: &Request| matches!(request, Request::Requests { inquiry, .. } if !inquiry.is_wish());
            if !is_question(&request) {
                info!(%request, uid, pid, "control request");
            }
            tokio::select! {
                answer = pass_on(request, &commands) => answer,
                () = gone(&writing) => return debug!(uid, pid, "a control client hung up"),
                () = place.wanted() => Answer::Silent {
                    why: "others who asked later are served in its place; what was asked may still \
                          be done: see the log"
                        .to_owned(),
                },
            }
        }
        Ok(Err(why)) => Answer::Refused { why },
        Err(_) => Answer::Refused { why: format!("no whole request within {REQUEST_DEADLINE:?}") },
    };
    if let Answer::Refused { why } | Answer::Silent { why } = &answer {
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

/// Until nobody is at the other end. Who has only said all it has to say still listens.
async fn gone(writing: &OwnedWriteHalf) {
    loop {
        sleep(LOOK_EVERY).await;
        match writing.ready(Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// `None` if the client went without a word; `Err` says what is wrong with its words.
async fn read_request(reading: impl AsyncRead + Unpin) -> Result<Option<Request>, String> {
    let mut line = Vec::new();
    let mut reading = BufReader::new(reading.take(LONGEST_REQUEST + 1));
    let read = reading.read_until(b'\n', &mut line).await;
    if read.is_err() || line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 > LONGEST_REQUEST {
        return Err(format!("the request is longer than {LONGEST_REQUEST} bytes"));
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|error| format!("the request cannot be read: {error}"))
}

async fn pass_on(request: Request, commands: &mpsc::Sender<Asked>) -> Answer {
    let (reply, answer) = oneshot::channel();
    let asking = async {
        commands.send(Asked { request, reply }).await.ok()?;
        Some(answer.await.ok()?.answer().await)
    };
    match timeout(ANSWER_DEADLINE, asking).await {
        Ok(Some(answer)) => answer,
        Ok(None) => Answer::Silent { why: "the supervisor is ending".to_owned() },
        Err(_) => Answer::Silent {
            why: format!(
                "the supervisor has not answered within {ANSWER_DEADLINE:?}; it may still do what \
                 was asked: see its log"
            ),
        },
    }
}
