//! The watch on the directory, and what its events mean.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::RESCAN_INTERVAL;
use crate::supervisor::config_dir::snapshot::{self, DirectoryIdentity};

/// An inotify watch on the directory. It ends with the directory, so it is opened again before a
/// reading if another directory is at the path.
#[derive(Debug)]
pub(super) struct DirectoryWatch {
    pub(super) directory: PathBuf,
    wake: Arc<Notify>,
    pub(super) is_missing: AtomicBool,
    /// Locked on blocking threads only.
    state: Mutex<DirectoryWatchState>,
}

#[derive(Debug, Default)]
struct DirectoryWatchState {
    watch: Option<InotifyWatch>,
    has_warned: bool,
}

#[derive(Debug)]
struct InotifyWatch {
    _watcher: RecommendedWatcher,
    /// The watched directory.
    id: DirectoryIdentity,
    /// The directory was removed or renamed, or events were lost.
    is_lost: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchStatus {
    Watching,
    /// There is no directory.
    Missing,
    /// The system refuses a watch; only the rescan remains.
    Unavailable,
}

impl DirectoryWatch {
    pub(super) fn new(directory: &Path, wake: Arc<Notify>) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Self { directory, wake, is_missing: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Watches the directory at the path unless that one is watched already. Blocks.
    pub(super) fn open(&self) -> WatchStatus {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let id = snapshot::directory_identity(&self.directory);
        self.is_missing.store(id.is_none(), Ordering::Release);
        let Some(id) = id else {
            state.watch = None;
            return WatchStatus::Missing;
        };
        let is_good =
            |watch: &InotifyWatch| watch.id == id && !watch.is_lost.load(Ordering::Acquire);
        if state.watch.as_ref().is_some_and(is_good) {
            return WatchStatus::Watching;
        }
        state.watch = None;
        match self.start_watch(id) {
            Ok(watch) => {
                state.watch = Some(watch);
                if std::mem::take(&mut state.has_warned) {
                    info!(directory = %self.directory.display(), "watching the directory again");
                }
                WatchStatus::Watching
            }
            Err(error) => {
                if !std::mem::replace(&mut state.has_warned, true) {
                    warn!(
                        directory = %self.directory.display(),
                        %error,
                        every = ?RESCAN_INTERVAL,
                        "cannot watch the directory, reading it from time to time instead; \
                         fs.inotify.max_user_watches and max_user_instances may be too low"
                    );
                }
                WatchStatus::Unavailable
            }
        }
    }

    fn start_watch(&self, id: DirectoryIdentity) -> notify::Result<InotifyWatch> {
        let is_lost = Arc::new(AtomicBool::new(false));
        let (wake, lost, directory) = (self.wake.clone(), is_lost.clone(), self.directory.clone());
        let mut watcher = RecommendedWatcher::new(
            move |event: notify::Result<Event>| match EventMeaning::of(
                &directory,
                event.as_ref().ok(),
            ) {
                EventMeaning::Nothing => {}
                EventMeaning::Change => wake.notify_one(),
                EventMeaning::Loss => {
                    lost.store(true, Ordering::Release);
                    wake.notify_one();
                }
            },
            notify::Config::default(),
        )?;
        watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
        Ok(InotifyWatch { _watcher: watcher, id, is_lost })
    }
}

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventMeaning {
    /// No configuration depends on it; above all our own reads.
    Nothing,
    Change,
    /// The watch has ended or is incomplete.
    Loss,
}

impl EventMeaning {
    /// `None`: an error of the watch.
    pub(super) fn of(directory: &Path, event: Option<&Event>) -> Self {
        let Some(event) = event else { return Self::Loss };
        let itself = event.paths.iter().any(|path| path == directory);
        // Whether content, or the set of files and links, may have changed. The latter matters for
        // any name: links may lead through `..data`, or through a name such as `current`.
        let (content, entries) = match event.kind {
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) if itself => {
                return Self::Loss;
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => (true, itself),
            EventKind::Access(_) => (false, false),
            EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Any | ModifyKind::Other)
            | EventKind::Any
            | EventKind::Other => (true, true),
        };
        let mut names = event.paths.iter().filter_map(|path| path.file_name());
        let is_change = event.need_rescan()
            || entries && (itself || names.clone().any(|name| !is_editor_file(name)))
            || content && names.any(snapshot::is_configuration);
        if is_change { Self::Change } else { Self::Nothing }
    }
}

/// Returns whether it is an editor's own file: `.x.toml.swp`, `.#x.toml`, `x.toml~`.
fn is_editor_file(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_hidden = name.starts_with(b".") && !name.starts_with(b"..");
    is_hidden || name.ends_with(b"~") || name.ends_with(b".swp")
}

#[cfg(test)]
mod tests;
