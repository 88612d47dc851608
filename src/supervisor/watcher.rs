//! When to look at the files again, and the looking.
//!
//! ```text
//! inotify --(debounce)--\
//! nudge ----------------+-> pace -> read until two readings agree -> a look -> the loop
//! every 30 s -----------/
//! ```
//!
//! An event carries no data: it only wakes, and what counts is what the files say then. So a lost
//! event costs the time until the next rescan, never a configuration. The rescan also sees what no
//! event tells of: key and authority files, and what links lead to. All file work is done beside
//! the async threads, one at a time and with a limit; all waiting is tokio's time.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::directory::{self, Files, Identity, Listing, Look, Patience, Settled, Settlement, Work};
use crate::config::{Environment, Warning};

/// What happens in bursts is looked at once it has been quiet for so long.
const QUIET: Duration = Duration::from_secs(1);
/// How long a burst may put that off.
const BURST_LIMIT: Duration = Duration::from_secs(5);
/// Between two readings that must agree.
const BETWEEN_READINGS: Duration = Duration::from_millis(500);
/// How long one unsettled file may put off what all others say.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Looks are at least this far apart.
const PACE: Duration = Duration::from_secs(2);
/// The net below the events.
const RESCAN: Duration = Duration::from_secs(30);
/// How often a missing directory is looked for.
const MISSING_RETRY: Duration = Duration::from_secs(2);
/// What an unmounted or removed directory leaves is no wish of anybody.
const VANISHED: &str = "another directory stands there now (unmounted, or made anew), and it has no \
                        configuration: all run on until files are there again, or until \
                        `kms-connector reload`, without a name, says that it is meant";
/// How long the disk may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How often somebody asked for the files to be read now. Each asks for a look of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nudges {
    /// All of them: the number of the last.
    pub count: u64,
    /// The last one by which an operator, who had been told that the directory vanished, said that it is
    /// meant.
    pub meant: Option<u64>,
}

/// Looks at the files whenever they may have changed.
#[derive(Debug)]
pub struct Watcher {
    files: Files,
    environment: Environment,
    settled: Settled,
    wake: Arc<Notify>,
    eye: Option<Arc<Eye>>,
    /// One piece of file work at a time: a disk that hangs takes one thread, not all of them.
    desk: Arc<Semaphore>,
    patience: Patience,
    /// The directory that the files were last seen in.
    home: Option<Identity>,
    /// That it vanished was told.
    told: bool,
    /// And somebody said that it is meant.
    meant: bool,
    /// Variables and files that were warned of.
    warned: BTreeSet<Warning>,
}

impl Watcher {
    /// Goes on from what a first look settled ([`directory::look_first`]).
    #[must_use]
    pub fn new(files: Files, environment: Environment, settled: Settled) -> Self {
        let wake = Arc::new(Notify::new());
        let eye = match &files {
            Files::Directory(directory) => Some(Arc::new(Eye::new(directory, wake.clone()))),
            Files::One { .. } => None,
        };
        Self { eye, ..Self::woken_by(files, environment, settled, wake) }
    }

    /// [`Self::new`] that learns of changes from `wake` alone.
    #[must_use]
    pub fn woken_by(
        files: Files,
        environment: Environment,
        settled: Settled,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            files,
            environment,
            settled,
            wake,
            eye: None,
            desk: Arc::new(Semaphore::new(1)),
            patience: Patience::default(),
            home: None,
            told: false,
            meant: false,
            warned: BTreeSet::new(),
        }
    }

    /// Sends looks until told to stop, or nobody takes them: of a directory the first one at once,
    /// since a first reading alone is not to be believed for long. Every nudge, each a higher number, is
    /// followed by a look that began after it and tells its number; those that wait together get one.
    pub async fn run(
        mut self,
        nudges: watch::Receiver<Nudges>,
        looks: mpsc::Sender<Look>,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(self.keep_looking(nudges, looks)).await;
    }

    async fn keep_looking(
        &mut self,
        mut nudges: watch::Receiver<Nudges>,
        looks: mpsc::Sender<Look>,
    ) {
        let is_watched = matches!(self.files, Files::Directory(_));
        // What happened since the first look had no one to tell of it.
        let mut rescan_at = is_watched.then(Instant::now);
        let mut next_look_at = Instant::now();
        let mut asked = 0;
        loop {
            self.turn(&mut nudges, rescan_at).await;
            sleep_until(next_look_at).await;
            let Nudges { count, meant } = *nudges.borrow_and_update();
            self.meant = self.told && meant.is_some_and(|number| number > asked);
            asked = count;
            let (mut look, again) = self.look().await;
            look.asked = asked;
            if looks.send(look).await.is_err() {
                return;
            }
            if again {
                self.wake.notify_one();
            }
            next_look_at = Instant::now() + PACE;
            rescan_at = is_watched.then(|| Instant::now() + RESCAN);
        }
    }

    // ---- when

    /// Until it is time to look.
    async fn turn(&self, nudges: &mut watch::Receiver<Nudges>, rescan_at: Option<Instant>) {
        tokio::select! {
            biased;
            () = nudged(nudges) => return,
            () = until(rescan_at) => return,
            () = self.wake.notified() => {}
            () = self.directory_is_back() => {}
        }
        let limit = Instant::now() + BURST_LIMIT;
        loop {
            let quiet = limit.min(Instant::now() + QUIET);
            tokio::select! {
                biased;
                () = nudged(nudges) => return,
                () = sleep_until(quiet) => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// Never, unless the directory is missing.
    async fn directory_is_back(&self) {
        match &self.eye {
            Some(eye) if eye.is_missing.load(Ordering::Acquire) => loop {
                sleep(MISSING_RETRY).await;
                let eye = eye.clone();
                if self.aside(move || eye.open()).await == Ok(Sight::Open) {
                    return;
                }
            },
            Some(_) | None => std::future::pending().await,
        }
    }

    // ---- what

    /// What the files say once two readings agree, or as far as they have when the limit is over.
    /// And whether some file is not settled yet.
    async fn look(&mut self) -> (Look, bool) {
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut first = self.read().await;
        loop {
            sleep(BETWEEN_READINGS).await;
            let second = self.read().await;
            let Settlement { settled, again, problem } =
                directory::settle(&self.settled, &first, &second);
            self.settled = settled;
            if again && Instant::now() < limit {
                first = second;
                continue;
            }
            if problem.is_some() {
                return (Look { problem, ..Look::default() }, again);
            }
            self.warn_of_odd_variables();
            let (settled, files) = (self.settled.clone(), self.files.clone());
            let environment = self.environment.clone();
            let patience = self.patience.clone();
            let look = self.aside(move || settled.look(&files, &environment, &patience)).await;
            let failed = |problem| Look { problem: Some(problem), ..Look::default() };
            return (look.unwrap_or_else(failed), again);
        }
    }

    async fn read(&mut self) -> Listing {
        let (files, eye, patience) = (self.files.clone(), self.eye.clone(), self.patience.clone());
        let (listing, home, misnamed) = self
            .aside(move || {
                // First the watch: what changes after the reading must wake.
                if let Some(eye) = eye {
                    let directory = eye.directory.clone();
                    let _late = patience.one(Work::Watch, &directory, move |_| eye.open());
                }
                let listing = directory::read(&files, &patience);
                let (home, misnamed) = match &files {
                    Files::Directory(directory) => {
                        let look = |directory: &Path| {
                            (directory::identity(directory), directory::misnamed(directory))
                        };
                        patience.one(Work::Look, directory, look).unwrap_or_default()
                    }
                    Files::One { .. } => (None, Vec::new()),
                };
                (listing, home, misnamed)
            })
            .await?;
        for warning in misnamed {
            self.warn_once(warning);
        }
        let listing = listing?;
        let is_elsewhere = self.home.is_some() && self.home != home;
        if listing.is_empty() && is_elsewhere && !self.settled.is_empty() && !self.meant {
            self.told = true;
            return Err(VANISHED.to_owned());
        }
        self.told = false;
        self.home = home;
        Ok(listing)
    }

    /// Does file work on a thread where it may block.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let done = async {
            let turn =
                self.desk.clone().acquire_owned().await.map_err(|error| error.to_string())?;
            let work = spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            work.await.map_err(|error| error.to_string())
        };
        let late = |_| Err(format!("reading the configurations takes longer than {READ_LIMIT:?}"));
        timeout(READ_LIMIT, done).await.unwrap_or_else(late)
    }

    /// Each once.
    fn warn_of_odd_variables(&mut self) {
        if !matches!(self.files, Files::Directory(_)) {
            return; // one file's process may share its environment with others
        }
        for warning in self.settled.odd_variables(&self.environment) {
            self.warn_once(warning);
        }
    }

    fn warn_once(&mut self, warning: Warning) {
        if self.warned.insert(warning.clone()) {
            let Warning { place, key, message } = warning;
            warn!(%place, key, warning = message, "configuration warning");
        }
    }
}

/// Until a reading is asked for that has not begun. Marks nothing as seen.
async fn nudged(nudges: &mut watch::Receiver<Nudges>) {
    if nudges.changed().await.is_err() {
        // Nobody can ask any more.
        std::future::pending::<()>().await;
    }
    nudges.mark_changed();
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

// ---- inotify

/// A watch on the directory itself. It dies with the directory, so it is opened again before each
/// reading if another directory stands in its place.
#[derive(Debug)]
struct Eye {
    directory: PathBuf,
    wake: Arc<Notify>,
    is_missing: AtomicBool,
    /// Locked beside the async threads only.
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
    /// Of what is watched.
    id: Identity,
    /// It saw its directory go, or missed events.
    is_lost: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Open,
    /// There is no directory.
    Missing,
    /// The system gives no watch; the rescan has to do.
    Refused,
}

impl Eye {
    fn new(directory: &Path, wake: Arc<Notify>) -> Self {
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Self { directory, wake, is_missing: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Watches the directory that stands there now, if it is not watched already. Blocks.
    fn open(&self) -> Sight {
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

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Nothing a configuration depends on; above all not that we read a file ourselves.
    Nothing,
    Change,
    /// The watch is over, or incomplete.
    Loss,
}

impl Sign {
    /// `None` is an error of the watch.
    fn of(directory: &Path, event: Option<&Event>) -> Self {
        let Some(event) = event else { return Self::Loss };
        let itself = event.paths.iter().any(|path| path == directory);
        // What a file says, and which files and links there are. The latter counts for any name:
        // links lead through `..data`, or through whatever somebody calls `current`.
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

/// Whether it is an editor's own: `.x.toml.swp`, `.#x.toml`, `x.toml~`.
fn is_scratch(name: &std::ffi::OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_hidden = name.starts_with(b".") && !name.starts_with(b"..");
    is_hidden || name.ends_with(b"~") || name.ends_with(b".swp")
}

#[cfg(test)]
mod tests;
