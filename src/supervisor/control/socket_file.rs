//! The file of the control socket: its lock, its mode, the removal of a stale one, and why it cannot be opened.

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::MAX_PATH_BYTES;

/// How long to wait for another supervisor that is binding in the same directory.
const LOCK_DEADLINE: Duration = Duration::from_secs(2);

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{} is in use by {}: stop that one, or choose another place with --socket", path.display(), process_text(*pid))]
    InUse { path: PathBuf, pid: Option<i32> },
    #[error("{} is there and no socket: remove it, or choose another place with --socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("{} has {} bytes, a socket's path at most {MAX_PATH_BYTES}: choose a shorter one with --socket", path.display(), path.as_os_str().len())]
    TooLong { path: PathBuf },
    #[error("the process is ending")]
    Ending,
    /// The socket is in the state directory unless another place is named.
    #[error(
        "{doing} in the state directory {}: {cause}; let this user make it and write there, or name \
         another one with KMS_CONNECTOR_STATE_DIR or --state-dir",
        directory.display()
    )]
    StateDirectory { directory: PathBuf, doing: &'static str, cause: io::Error },
    #[error("{}: {doing}: {cause}", path.display())]
    Io { path: PathBuf, doing: &'static str, cause: io::Error },
}

fn process_text(pid: Option<i32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The socket's file. Removed on drop if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path)
            .is_ok_and(|found| file_identity(&found) == self.identity)
        {
            // Another process may have removed it first. A file left behind is replaced at the next
            // start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn file_identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Locks the directory against other supervisors until the file is dropped. Any user who can read
/// the directory can hold this lock, so it gives up after [`LOCK_DEADLINE`] and returns `None`.
pub(super) async fn lock(directory: &Path) -> io::Result<Option<File>> {
    let file = File::open(directory)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_DEADLINE => {
                sleep(Duration::from_millis(20)).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                warn!(directory = %directory.display(), "another process keeps the control \
                                                         socket's directory locked");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes a socket that a killed supervisor left behind.
pub(super) async fn remove_stale_socket(path: &Path) -> Result<(), ListenError> {
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
        // Its backlog is full, so its owner is alive.
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(in_use(None)),
        Ok(Err(error)) => Err(failed("finding out which process listens there")(error)),
        Err(_) => Err(in_use(None)),
    }
}

/// Sets the mode of the socket we made, and of no file that replaced it meanwhile.
pub(super) fn set_group_mode(path: &Path, made: &SocketFile) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    if file_identity(&file.metadata()?) != made.identity {
        return Err(io::Error::other("another file replaced it"));
    }
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(itself, Permissions::from_mode(0o660))
}
