//! Names of a journal's files: whether they still are those that were opened, and how they come and
//! go so that no crash in between leaves half of them under a name that counts.
//!
//! A damaged journal is *set aside*: renamed, never deleted. As long as there is no journal and one
//! that was set aside, nobody begins a new one: that is the marker a restart finds.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::clock;

/// Device and number of a file: its own, whatever it is called.
pub(super) type FileId = (u64, u64);

/// How the name of a journal ends, behind its identity.
pub(super) const ENDING: &str = ".sqlite3";
/// What stands between a journal's name and the time at which it was set aside.
const ASIDE: &str = ".damaged-";

/// `path` with `ending` behind its name: `SQLite`'s own way to name a log.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The file that stands under this name. `None`: there is none.
pub(super) fn id(path: &Path) -> io::Result<Option<FileId>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files of an open journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Files {
    pub database: Option<FileId>,
    log: Option<FileId>,
    /// The device of their directory.
    device: Option<u64>,
}

/// What became of the names of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    Ours,
    /// Deleted: what is written from now on is gone with the process.
    Gone,
    /// Their file system was unmounted, or another one over it: they are whole, and come back with it.
    Unmounted,
    /// Another database stands there.
    Anothers,
}

impl Files {
    pub(super) fn of(path: &Path) -> Self {
        let id = |path: &Path| id(path).ok().flatten();
        Self { database: id(path), log: id(&beside(path, "-wal")), device: device(path) }
    }

    /// Looks again. A directory that cannot be looked into says nothing.
    pub(super) fn names(self, path: &Path) -> Names {
        match id(path) {
            Ok(found) if found == self.database => match id(&beside(path, "-wal")) {
                Ok(found) if found != self.log => Names::Gone,
                Ok(_) | Err(_) => Names::Ours,
            },
            Ok(None) if device(path) != self.device => Names::Unmounted,
            Ok(None) => Names::Gone,
            Ok(Some(_)) => Names::Anothers,
            Err(_) => Names::Ours,
        }
    }
}

/// The device of the directory of `path`, or of what would hold that. Of directories only: the files of an
/// overlay may tell another one.
fn device(path: &Path) -> Option<u64> {
    path.ancestors().skip(1).find_map(|above| Some(fs::metadata(above).ok()?.dev()))
}

/// The directory, 0700 if it is made here.
pub(super) fn make_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Opens a file that is ours, of mode 0600 if it is made here. Never through a link: who may write in
/// the directory does not choose what we write to. Nor a pipe, which would have us wait.
pub(super) fn open_own(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(no_file()),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// What stands under the name of a file of ours is none.
pub(super) fn no_file() -> io::Error {
    io::Error::other("what stands there is a link, or no file: remove it")
}

/// Whether there is a database. A link, or what else may stand there and is no file, is refused.
pub(super) fn is_there(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(no_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a log of this database holds anything. Who closes a journal leaves none.
pub(super) fn has_log(path: &Path) -> io::Result<bool> {
    match fs::metadata(beside(path, "-wal")) {
        Ok(log) => Ok(log.len() > 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An empty file of mode 0600, made here.
pub(super) fn create_new(path: &Path) -> io::Result<()> {
    open_own(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map(drop)
}

/// Makes new names in `dir`, and its own, as durable as what will be written under them.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    File::open(&dir)?.sync_all()?;
    match dir.parent() {
        // A parent we may not read (a service's state directory) existed before us.
        Some(parent) => File::open(parent).map_or(Ok(()), |parent| parent.sync_all()),
        None => Ok(()),
    }
}

/// Puts the whole, closed database `new` in the place of `path`: either the old name or the new
/// file, whenever the power fails.
pub(super) fn put_in_place(new: &Path, path: &Path) -> io::Result<()> {
    let file = open_own(new, OFlags::RDWR)?;
    file.sync_all()?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    give_to_owner(&file, path)?;
    // A log of another database would be taken for its own.
    remove_log(path)?;
    fs::rename(new, path)?;
    sync_names(directory(path))
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// A command of root must not lock a service's own user out: the file, which is or will be at `path`,
/// goes to whoever has its directory.
pub(super) fn give_to_owner(file: &File, path: &Path) -> io::Result<()> {
    let (owner, found) = (fs::metadata(directory(path))?, file.metadata()?);
    if (owner.uid(), owner.gid()) != (found.uid(), found.gid()) {
        // Not root, then: the directory is writable for both.
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
    absent_is_fine(fs::remove_file(beside(path, "-wal")))?;
    absent_is_fine(fs::remove_file(beside(path, "-shm")))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Renames the closed journal `path` with its log; of a log alone, whose database somebody removed, an
/// empty one has its place. Answers its new name.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = free_name(path, clock::unix_millis())?;
    // The database first: from here on there is no journal, and one that was set aside.
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create_new(&aside)?,
        renamed => renamed?,
    }
    move_log(path, &aside)?;
    sync_names(directory(path))?;
    Ok(aside)
}

/// Ends a setting-aside that was interrupted: what is left of a log belongs to `aside`.
pub(super) fn move_log(path: &Path, aside: &Path) -> io::Result<()> {
    for ending in ["-wal", "-shm"] {
        let to = beside(aside, ending);
        if !to.try_exists()? {
            absent_is_fine(fs::rename(beside(path, ending), to))?;
        }
    }
    Ok(())
}

/// Whether the log at `path` may be what an interrupted setting-aside left of `aside`: that one has none yet,
/// and was still called `path` when the log was written last (both times are the file system's).
pub(super) fn is_log_of(path: &Path, aside: &Path) -> io::Result<bool> {
    if has_log(aside)? {
        return Ok(false);
    }
    let (log, aside) = (fs::metadata(beside(path, "-wal"))?, fs::metadata(aside)?);
    Ok((log.mtime(), log.mtime_nsec()) <= (aside.ctime(), aside.ctime_nsec()))
}

fn free_name(path: &Path, now_ms: u64) -> io::Result<PathBuf> {
    let time = clock::utc(now_ms);
    let name = |more: &str| beside(path, &format!("{ASIDE}{}{more}", time.compact()));
    let mut found = name("");
    for count in 2.. {
        if !found.try_exists()? {
            break;
        }
        found = name(&format!("-{count}"));
    }
    Ok(found)
}

/// The journal of this name that was set aside last.
pub(super) fn aside_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let Some(prefix) = path.file_name().map(|name| format!("{}{ASIDE}", name.to_string_lossy()))
    else {
        return Ok(None);
    };
    let mut last: Option<PathBuf> = None;
    for entry in fs::read_dir(directory(path))? {
        let found = entry?.path();
        let name = found.file_name().unwrap_or_default().to_string_lossy();
        let is_database = name
            .strip_prefix(&prefix)
            .is_some_and(|time| !time.ends_with("-wal") && !time.ends_with("-shm"));
        if is_database {
            last = last.max(Some(found));
        }
    }
    Ok(last)
}

/// Whose journal was set aside under this name: what stands before its [`ENDING`]. `None`: none was.
pub(super) fn stem_of_aside(name: &str) -> Option<&str> {
    let (journal, time) = name.split_once(ASIDE)?;
    let is_log = time.ends_with("-wal") || time.ends_with("-shm");
    journal.strip_suffix(ENDING).filter(|_| !is_log)
}
