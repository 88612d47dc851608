//! Journals that were set aside because they are damaged. Only a rebuild begins a new journal in their place.

use std::path::{Path, PathBuf};

use super::{files, keepers::keeper_of, salvage};
use crate::{domain::Address, journal::OpenError};

/// Sets the closed journal at `path` aside. The caller holds its lock. Returns the error to report.
pub(super) fn set_aside(
    path: &Path,
    contract: Address,
    detail: &str,
) -> Result<OpenError, OpenError> {
    let aside = files::set_aside(path).map_err(OpenError::io(path, "setting it aside"))?;
    log_set_aside(path, &aside, detail);
    Ok(set_aside_error(path, aside, contract))
}

fn log_set_aside(path: &Path, aside: &Path, detail: &str) {
    let (path, aside) = (path.display(), aside.display());
    tracing::error!(%path, %aside, detail, "the journal is damaged and set aside");
}

/// Returns the error that forbids a new journal at `path`: a damaged one was set aside and not rebuilt yet.
/// `None`: a new journal may begin.
pub(super) fn check_none_set_aside(
    path: &Path,
    contract: Address,
) -> Result<Option<OpenError>, OpenError> {
    let io = OpenError::io(path, "looking for it");
    if path.try_exists().map_err(&io)? {
        return Ok(None);
    }
    let aside = finish_set_aside(path).map_err(&io)?;
    Ok(aside.map(|aside| set_aside_error(path, aside, contract)))
}

/// The damage reported for a write-ahead log whose database file is gone.
pub(super) const NO_DATABASE: &str = "its log is there, and the file itself is gone";

/// Returns the journal that was set aside last, where there is no journal at `path`. A write-ahead log
/// without its database is set aside first: its contents were stored, and the next database would not have
/// them.
pub(super) fn finish_set_aside(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let aside = files::latest_set_aside(path)?;
    let is_anothers = match &aside {
        Some(aside) => files::has_log(path)? && !files::is_log_of(path, aside)?,
        None => files::has_log(path)?,
    };
    if is_anothers {
        let aside = files::set_aside(path)?;
        log_set_aside(path, &aside, NO_DATABASE);
        return Ok(Some(aside));
    }
    if let Some(aside) = &aside {
        files::move_log(path, aside)?;
    }
    Ok(aside)
}

/// The error to report for a journal that was set aside.
pub(super) fn set_aside_error(path: &Path, aside: PathBuf, contract: Address) -> OpenError {
    let at_most = salvage::first_block(&aside, contract);
    let keeper = keeper_of(path);
    OpenError::SetAside { path: path.to_owned(), aside, at_most, keeper }
}
