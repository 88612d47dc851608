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

use super::RESCAN;
use crate::supervisor::directory::{self, Identity};

/// An inotify watch on the directory. It ends with the directory, so it is opened again before a
/// reading if another directory is at the path.
#[derive(Debug)]
pub(super) struct Eye {
    pub(super) directory: PathBuf,
    wake: Arc<Notify>,
    pub(super) is_missing: AtomicBool,
    /// Locked on blocking threads only.
    state: Mutex<EyeState>,
}

#[derive(Debug, Default)]
struct EyeState {
    watch: Option<Watch>,
    complained: bool,
}

#[derive(Debug)]
struct Watch {
    _watcher: RecommendedWatcher,
    /// The watched directory.
    id: Identity,
    /// The directory was removed or renamed, or events were lost.
    is_lost: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    Open,
    /// There is no directory.
    Missing,
    /// The system refuses a watch; only the rescan remains.
    Refused,
}

impl Eye {
    pub(super) fn new(directory: &Path, wake: Arc<Notify>) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Self { directory, wake, is_missing: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Watches the directory at the path unless that one is watched already. Blocks.
    pub(super) fn open(&self) -> Sight {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let id = directory::identity(&self.directory);
        self.is_missing.store(id.is_none(), Ordering::Release);
        let Some(id) = id else {
            state.watch = None;
            return Sight::Missing;
        };
        let is_good = |watch: &Watch| watch.id == id && !watch.is_lost.load(Ordering::Acquire);
        if state.watch.as_ref().is_some_and(is_good) {
            return Sight::Open;
        }
        state.watch = None;
        match self.watch(id) {
            Ok(watch) => {
                state.watch = Some(watch);
                if std::mem::take(&mut state.complained) {
                    info!(directory = %self.directory.display(), "watching the directory again");
                }
                Sight::Open
            }
            Err(error) => {
                if !std::mem::replace(&mut state.complained, true) {
                    warn!(
                        directory = %self.directory.display(),
                        %error,
                        every = ?RESCAN,
                        "cannot watch the directory, reading it from time to time instead; \
                         fs.inotify.max_user_watches and max_user_instances may be too low"
                    );
                }
                Sight::Refused
            }
        }
    }

    fn watch(&self, id: Identity) -> notify::Result<Watch> {
        let is_lost = Arc::new(AtomicBool::new(false));
        let (wake, lost, directory) = (self.wake.clone(), is_lost.clone(), self.directory.clone());
        let mut watcher = RecommendedWatcher::new(
            move |event: notify::Result<Event>| match Sign::of(&directory, event.as_ref().ok()) {
                Sign::Nothing => {}
                Sign::Change => wake.notify_one(),
                Sign::Loss => {
                    lost.store(true, Ordering::Release);
                    wake.notify_one();
                }
            },
            notify::Config::default(),
        )?;
        watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
        Ok(Watch { _watcher: watcher, id, is_lost })
    }
}

/// What an event means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// No configuration depends on it; above all our own reads.
    Nothing,
    Change,
    /// The watch has ended or is incomplete.
    Loss,
}

impl Sign {
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
            || entries && (itself || names.clone().any(|name| !is_scratch(name)))
            || content && names.any(directory::is_configuration);
        if is_change { Self::Change } else { Self::Nothing }
    }
}

/// Returns whether it is an editor's own file: `.x.toml.swp`, `.#x.toml`, `x.toml~`.
fn is_scratch(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_hidden = name.starts_with(b".") && !name.starts_with(b"..");
    is_hidden || name.ends_with(b"~") || name.ends_with(b".swp")
}

#[cfg(test)]
mod tests;
