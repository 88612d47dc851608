//! The commands' end of the control socket.

use std::{
    fmt, fs, io,
    os::unix::{fs::FileTypeExt, net},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    task::spawn_blocking,
    time::timeout,
};

use super::{MAX_PATH_BYTES, Request, Response, SocketCandidates, denied};

/// How long connecting to one candidate may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Above every real answer: the status of thousands of instances fits.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// No supervisor answers at any candidate.
#[derive(Debug)]
pub struct NoSupervisor {
    /// Each candidate with the error.
    pub tried: Vec<(PathBuf, io::Error)>,
}

impl NoSupervisor {
    /// Returns whether a socket exists that this user may not open.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.tried.iter().any(|(_, error)| error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Explanations of the most common errors.
const KNOWN_REASONS: [(io::ErrorKind, &str); 3] = [
    (io::ErrorKind::NotFound, "there is no such socket"),
    (io::ErrorKind::ConnectionRefused, "no process listens (left behind by a killed process)"),
    (
        io::ErrorKind::TimedOut,
        "no answer (its file system hangs, or its supervisor accepts no connection)",
    ),
];

/// Returns whether another kind of file is at this path.
fn is_other_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

impl fmt::Display for NoSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no supervisor answers; tried:")?;
        for (path, error) in &self.tried {
            write!(f, "\n  {}: ", path.display())?;
            let known = KNOWN_REASONS.iter().find(|(kind, _)| *kind == error.kind());
            match known {
                // connect(2) fails with the same error for every file that is not a socket.
                Some((io::ErrorKind::ConnectionRefused, _)) if is_other_file(path) => {
                    f.write_str("that is no socket: --socket takes the path of a control.sock")?;
                }
                Some((_, words)) => f.write_str(words)?,
                None if error.kind() == io::ErrorKind::PermissionDenied => {
                    f.write_str(&denied::explain(path))?;
                }
                None => write!(f, "{error}")?,
            }
        }
        f.write_str("\nIs one running? If its socket is elsewhere, name it with --socket")
    }
}

impl std::error::Error for NoSupervisor {}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    NotFound(#[from] NoSupervisor),
    #[error("the supervisor at {} does not answer within {deadline:?}; see its log", path.display())]
    TimedOut { path: PathBuf, deadline: Duration },
    #[error("the supervisor at {} ended the connection without an answer: {cause}", path.display())]
    Lost { path: PathBuf, cause: io::Error },
    #[error("the answer of the supervisor at {} cannot be read ({cause}): is this command the same \
             version?", path.display())]
    Unreadable { path: PathBuf, cause: serde_json::Error },
}

/// A connection to a running supervisor.
#[derive(Debug)]
pub struct Connection {
    path: PathBuf,
    stream: UnixStream,
}

/// Connects to the first candidate that accepts.
pub async fn find(candidates: &SocketCandidates) -> Result<Connection, NoSupervisor> {
    let mut tried = Vec::new();
    for path in &candidates.paths {
        match timeout(CONNECT_DEADLINE, connect(path)).await {
            Ok(Ok(stream)) => return Ok(Connection { path: path.clone(), stream }),
            Ok(Err(error)) => tried.push((path.clone(), error)),
            Err(_) => tried.push((path.clone(), io::ErrorKind::TimedOut.into())),
        }
    }
    Err(NoSupervisor { tried })
}

/// Finds a supervisor and asks it.
pub async fn ask(
    candidates: &SocketCandidates,
    request: &Request,
    deadline: Duration,
) -> Result<Response, AskError> {
    find(candidates).await?.ask(request, deadline).await
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        let error = format!("a socket's path has at most {MAX_PATH_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    // On a blocking thread: a path lookup on a hanging mount never returns, and connecting waits
    // while the backlog is full. The caller's deadline ends the wait.
    let path = path.to_owned();
    let connecting = spawn_blocking(move || net::UnixStream::connect(path));
    let stream = connecting.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Connection {
    /// The path of the supervisor's socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sends the request and waits for the answer.
    pub async fn ask(self, request: &Request, deadline: Duration) -> Result<Response, AskError> {
        let path = self.path.clone();
        match timeout(deadline, self.exchange(request)).await {
            Ok(Ok(line)) => {
                serde_json::from_slice(&line).map_err(|cause| AskError::Unreadable { path, cause })
            }
            Ok(Err(cause)) => Err(AskError::Lost { path, cause }),
            Err(_) => Err(AskError::TimedOut { path, deadline }),
        }
    }

    async fn exchange(mut self, request: &Request) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        let mut answer = Vec::new();
        let mut reading = BufReader::new(self.stream.take(MAX_RESPONSE_BYTES));
        reading.read_until(b'\n', &mut answer).await?;
        if answer.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }
}
