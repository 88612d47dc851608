//! The names of a journal's files: whether they still refer to the files that were opened, and how files are
//! created, replaced and renamed so that a crash leaves no half of a journal under a name that counts.

mod set_aside;

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

pub(super) use self::set_aside::{is_log_of, latest_set_aside, move_log, set_aside, stem_of_aside};

/// Device and inode: the identity of a file, whatever its name.
pub(super) type FileId = (u64, u64);

/// The ending of a journal's name, after its identity.
pub(super) const ENDING: &str = ".sqlite3";

/// `path` with `ending` appended, as `SQLite` names its write-ahead log.
pub(super) fn with_suffix(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The file with this name. `None`: there is none.
pub(super) fn file_id(path: &Path) -> io::Result<Option<FileId>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files of an open journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JournalFiles {
    pub database: Option<FileId>,
    log: Option<FileId>,
    /// The device of their directory.
    device: Option<u64>,
}

/// Whether the names still refer to the open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameStatus {
    Unchanged,
    /// Deleted: what is written from now on is lost when the process ends.
    Deleted,
    /// Their file system was unmounted, or another one was mounted over it. The files are intact and come
    /// back with it.
    Unmounted,
    /// The name refers to another database.
    Replaced,
}

impl JournalFiles {
    pub(super) fn of(path: &Path) -> Self {
        let id = |path: &Path| file_id(path).ok().flatten();
        Self { database: id(path), log: id(&with_suffix(path, "-wal")), device: device(path) }
    }

    /// Compares the names with the open files. A directory that cannot be read counts as unchanged.
    pub(super) fn name_status(self, path: &Path) -> NameStatus {
        match file_id(path) {
            Ok(found) if found == self.database => match file_id(&with_suffix(path, "-wal")) {
                Ok(found) if found != self.log => NameStatus::Deleted,
                Ok(_) | Err(_) => NameStatus::Unchanged,
            },
            Ok(None) if device(path) != self.device => NameStatus::Unmounted,
            Ok(None) => NameStatus::Deleted,
            Ok(Some(_)) => NameStatus::Replaced,
            Err(_) => NameStatus::Unchanged,
        }
    }
}

/// The device of the directory of `path`, or of its closest existing ancestor. Directories only: on an
/// overlay, files may report another device.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().skip(1).find_map(|above| Some(fs::metadata(above).ok()?.dev()))
}

/// Creates the directory and its parents, with mode 0700.
pub(super) fn make_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Opens one of our files; a new one gets mode 0600. Never follows a link: whoever may write in the directory
/// must not choose the file we write to. Never opens a pipe, which would block.
pub(super) fn open_private(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(no_file()),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// The error for a name that refers to no regular file.
pub(super) fn no_file() -> io::Error {
    io::Error::other("it is a link or no regular file: remove it")
}

/// Returns whether there is a database. A link, or anything else that is no regular file, is an error.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(no_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether the database has a write-ahead log that is not empty. A journal that was closed properly
/// has none.
pub(super) fn has_log(path: &Path) -> io::Result<bool> {
    match fs::metadata(with_suffix(path, "-wal")) {
        Ok(log) => Ok(log.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates an empty file with mode 0600.
pub(super) fn create_new(path: &Path) -> io::Result<()> {
    open_private(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map(drop)
}

/// Syncs `dir` and its parent, so that new names are as durable as the files they refer to.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    File::open(&dir)?.sync_all()?;
    match dir.parent() {
        // A parent that this user may not read (a service's state directory) existed before.
        Some(parent) => File::open(parent).map_or(Ok(()), |parent| parent.sync_all()),
        None => Ok(()),
    }
}

/// Renames the complete, closed database `new` to `path`. After a power cut, `path` refers to either the old
/// or the new file.
pub(super) fn put_in_place(new: &Path, path: &Path) -> io::Result<()> {
    let file = open_private(new, OFlags::RDWR)?;
    file.sync_all()?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    give_to_owner(&file, path)?;
    // `SQLite` would take the log of another database for its own.
    remove_log(path)?;
    fs::rename(new, path)?;
    sync_names(directory(path))
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Gives the file, which is or will be at `path`, to the owner of its directory: a command run by root must
/// not lock out the service's own user.
pub(super) fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let (owner, found) = (fs::metadata(directory(path))?, file.metadata()?);
    if (owner.uid(), owner.gid()) != (found.uid(), found.gid()) {
        // Fails if this is not root: then the directory is writable for both users.
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
    Ok(())
}

/// Removes a database that was never put in place, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    remove_log(path)?;
    absent_is_fine(fs::remove_file(path))
}

fn remove_log(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(with_suffix(path, "-wal")))?;
    absent_is_fine(fs::remove_file(with_suffix(path, "-shm")))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
