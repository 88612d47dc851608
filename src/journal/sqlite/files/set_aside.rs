//! A damaged journal is *set aside*: renamed with its log, never deleted. As long as there is one that
//! was set aside and no journal, no process creates a new one. A restart recognises the situation by
//! these names.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{ENDING, absent_is_fine, create_new, directory, has_log, sync_names, with_suffix};
use crate::time::clock;

/// Separates a journal's name from the time at which it was set aside.
const ASIDE: &str = ".damaged-";

/// Renames the closed journal `path` and its write-ahead log. If only the log exists (the database was
/// removed), an empty file takes the place of the database. Returns the new name.
pub(in crate::journal::sqlite) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = free_name(path, clock::unix_millis())?;
    // The database first: from here on there is one set aside and no journal.
    match fs::rename(path, &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create_new(&aside)?,
        renamed => renamed?,
    }
    move_log(path, &aside)?;
    sync_names(directory(path))?;
    Ok(aside)
}

/// Completes a setting-aside that was interrupted: moves the rest of the log to `aside`.
pub(in crate::journal::sqlite) fn move_log(path: &Path, aside: &Path) -> io::Result<()> {
    for ending in ["-wal", "-shm"] {
        let to = with_suffix(aside, ending);
        if !to.try_exists()? {
            absent_is_fine(fs::rename(with_suffix(path, ending), to))?;
        }
    }
    Ok(())
}

/// Returns whether the log at `path` may be the rest of an interrupted setting-aside of `aside`: `aside` has
/// no log yet, and was renamed after the log was last written (both times are the file system's).
pub(in crate::journal::sqlite) fn is_log_of(path: &Path, aside: &Path) -> io::Result<bool> {
    if has_log(aside)? {
        return Ok(false);
    }
    let (log, aside) = (fs::metadata(with_suffix(path, "-wal"))?, fs::metadata(aside)?);
    Ok((log.mtime(), log.mtime_nsec()) <= (aside.ctime(), aside.ctime_nsec()))
}

fn free_name(path: &Path, now_ms: u64) -> io::Result<PathBuf> {
    let time = clock::utc(now_ms);
    let name = |more: &str| with_suffix(path, &format!("{ASIDE}{}{more}", time.compact()));
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
pub(in crate::journal::sqlite) fn latest_set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
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

/// The part before [`ENDING`] in the name of a journal that was set aside. `None`: `name` is no such name.
pub(in crate::journal::sqlite) fn stem_of_aside(name: &str) -> Option<&str> {
    let (journal, time) = name.split_once(ASIDE)?;
    let is_log = time.ends_with("-wal") || time.ends_with("-shm");
    journal.strip_suffix(ENDING).filter(|_| !is_log)
}
