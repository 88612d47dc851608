//! Watches the configuration files: when to read them again, and the reading.
//!
//! ```text
//! inotify --(debounce)--\
//! reload request -------+-> pace -> read until two readings agree -> snapshot -> the loop
//! every 30 s -----------/
//! ```
//!
//! An event carries no data: it only triggers a reading. So a lost event delays a change until the
//! next rescan and never loses a configuration. The rescan also covers what no event reports: key
//! and CA files, and the targets of links. All file work runs on blocking threads, one piece at a
//! time and with a deadline; all waiting is in tokio's time.

mod inotify;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::inotify::{DirectoryWatch, WatchStatus};
use crate::config::{Environment, Warning};
use crate::supervisor::config_dir::snapshot::{
    self, BoundedIo, ConfigFiles, ConfigSnapshot, DirectoryIdentity, FileListing, FileTask,
    SettledFiles, Settlement, Unlisted,
};

/// Events are followed by a reading after this long without another event.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// The longest time a burst of events may delay the reading.
const DEBOUNCE_LIMIT: Duration = Duration::from_secs(5);
/// The time between two readings that must agree.
const READ_INTERVAL: Duration = Duration::from_millis(500);
/// How long one unsettled file may delay all others.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// The minimum time between two snapshots.
const MIN_SNAPSHOT_INTERVAL: Duration = Duration::from_secs(2);
/// How often the files are read without any event.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);
/// How often a missing directory is looked for.
const MISSING_RETRY: Duration = Duration::from_secs(2);
/// How long one piece of file work may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Requests to read the files now. Each is followed by a snapshot whose reading began after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadRequests {
    /// The number of requests, which is the number of the last one.
    pub count: u64,
    /// The last request by which an operator who knew that the directory had vanished confirmed it.
    pub vanish_confirmed: Option<u64>,
}

/// Reads the files whenever they may have changed.
#[derive(Debug)]
pub struct Watcher {
    files: ConfigFiles,
    environment: Environment,
    settled: SettledFiles,
    wake: Arc<Notify>,
    directory_watch: Option<Arc<DirectoryWatch>>,
    /// One piece of file work at a time: a hanging disk blocks one thread, not all of them.
    file_work: Arc<Semaphore>,
    bounded_io: BoundedIo,
    /// The identity of the directory the files were last read in.
    last_identity: Option<DirectoryIdentity>,
    /// The directory's disappearance was reported.
    has_reported_vanish: bool,
    /// An operator confirmed the disappearance.
    is_vanish_confirmed: bool,
    /// Warnings that were logged.
    warned: BTreeSet<Warning>,
}

impl Watcher {
    /// Continues from what the first snapshot settled ([`super::snapshot::first_snapshot`]).
    #[must_use]
    pub fn new(files: ConfigFiles, environment: Environment, settled: SettledFiles) -> Self {
        let wake = Arc::new(Notify::new());
        let directory_watch = match &files {
            ConfigFiles::Directory(directory) => {
                Some(Arc::new(DirectoryWatch::new(directory, wake.clone())))
            }
            ConfigFiles::One { .. } => None,
        };
        Self { directory_watch, ..Self::with_wake(files, environment, settled, wake) }
    }

    /// [`Self::new`] that is woken by `wake` alone.
    #[must_use]
    pub fn with_wake(
        files: ConfigFiles,
        environment: Environment,
        settled: SettledFiles,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            files,
            environment,
            settled,
            wake,
            directory_watch: None,
            file_work: Arc::new(Semaphore::new(1)),
            bounded_io: BoundedIo::default(),
            last_identity: None,
            has_reported_vanish: false,
            is_vanish_confirmed: false,
            warned: BTreeSet::new(),
        }
    }

    /// Sends snapshots until `stop`, or until the receiver is gone. The first one follows at once,
    /// because the reading at startup was a single one. Every reload request has a higher number and is
    /// followed by a snapshot that began after it and carries its number; requests that wait together
    /// share one snapshot.
    pub async fn run(
        mut self,
        nudges: watch::Receiver<ReloadRequests>,
        looks: mpsc::Sender<ConfigSnapshot>,
        stop: CancellationToken,
    ) {
        stop.run_until_cancelled(self.watch_loop(nudges, looks)).await;
    }

    async fn watch_loop(
        &mut self,
        mut nudges: watch::Receiver<ReloadRequests>,
        looks: mpsc::Sender<ConfigSnapshot>,
    ) {
        let is_watched = matches!(self.files, ConfigFiles::Directory(_));
        // No watch reported changes since the first snapshot.
        let mut rescan_at = is_watched.then(Instant::now);
        let mut next_look_at = Instant::now();
        let mut asked = 0;
        loop {
            self.wait_until_due(&mut nudges, rescan_at).await;
            sleep_until(next_look_at).await;
            let ReloadRequests { count, vanish_confirmed: meant } = *nudges.borrow_and_update();
            self.is_vanish_confirmed =
                self.has_reported_vanish && meant.is_some_and(|number| number > asked);
            asked = count;
            let (mut look, again) = self.take_snapshot().await;
            look.reload_number = asked;
            if looks.send(look).await.is_err() {
                return;
            }
            if again {
                self.wake.notify_one();
            }
            next_look_at = Instant::now() + MIN_SNAPSHOT_INTERVAL;
            rescan_at = is_watched.then(|| Instant::now() + RESCAN_INTERVAL);
        }
    }

    // ---- when

    /// Waits until a snapshot is due.
    async fn wait_until_due(
        &self,
        nudges: &mut watch::Receiver<ReloadRequests>,
        rescan_at: Option<Instant>,
    ) {
        tokio::select! {
            biased;
            () = reload_requested(nudges) => return,
            () = sleep_until_some(rescan_at) => return,
            () = self.wake.notified() => {}
            () = self.directory_returned() => {}
        }
        let limit = Instant::now() + DEBOUNCE_LIMIT;
        loop {
            let quiet = limit.min(Instant::now() + DEBOUNCE);
            tokio::select! {
                biased;
                () = reload_requested(nudges) => return,
                () = sleep_until(quiet) => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// Waits for a missing directory; never returns if it is present.
    async fn directory_returned(&self) {
        match &self.directory_watch {
            Some(eye) if eye.is_missing.load(Ordering::Acquire) => loop {
                sleep(MISSING_RETRY).await;
                let eye = eye.clone();
                if matches!(self.run_blocking(move || eye.open()).await, Ok(WatchStatus::Watching))
                {
                    return;
                }
            },
            Some(_) | None => std::future::pending().await,
        }
    }

    // ---- what

    /// The content that two readings agree on, or what has settled when the limit is over; and
    /// whether some file has not settled.
    async fn take_snapshot(&mut self) -> (ConfigSnapshot, bool) {
        let limit = Instant::now() + SETTLE_LIMIT;
        let mut first = self.read_files().await;
        loop {
            sleep(READ_INTERVAL).await;
            let second = self.read_files().await;
            let Settlement { settled, is_unsettled: again, problem } =
                snapshot::settle(&self.settled, &first, &second);
            self.settled = settled;
            if again && Instant::now() < limit {
                first = second;
                continue;
            }
            if problem.is_some() {
                return (ConfigSnapshot { problem, ..ConfigSnapshot::default() }, again);
            }
            self.warn_about_unused_variables();
            let (settled, files) = (self.settled.clone(), self.files.clone());
            let environment = self.environment.clone();
            let patience = self.bounded_io.clone();
            let look =
                self.run_blocking(move || settled.snapshot(&files, &environment, &patience)).await;
            let failed =
                |problem| ConfigSnapshot { problem: Some(problem), ..ConfigSnapshot::default() };
            return (look.unwrap_or_else(failed), again);
        }
    }

    async fn read_files(&mut self) -> FileListing {
        let (files, eye, patience) =
            (self.files.clone(), self.directory_watch.clone(), self.bounded_io.clone());
        let (listing, home, misnamed) = self
            .run_blocking(move || {
                // Open the watch first: a change after the reading must cause another one.
                if let Some(eye) = eye {
                    let directory = eye.directory.clone();
                    let _late = patience.run_one(FileTask::Watch, &directory, move |_| eye.open());
                }
                let listing = snapshot::read(&files, &patience);
                let (home, misnamed) = match &files {
                    ConfigFiles::Directory(directory) => {
                        let look = |directory: &Path| {
                            (
                                snapshot::directory_identity(directory),
                                snapshot::misnamed_entries(directory),
                            )
                        };
                        patience.run_one(FileTask::Inspect, directory, look).unwrap_or_default()
                    }
                    ConfigFiles::One { .. } => (None, Vec::new()),
                };
                (listing, home, misnamed)
            })
            .await?;
        for warning in misnamed {
            self.warn_once(warning);
        }
        let listing = listing?;
        let is_elsewhere = self.last_identity.is_some() && self.last_identity != home;
        if listing.is_empty()
            && is_elsewhere
            && !self.settled.is_empty()
            && !self.is_vanish_confirmed
        {
            self.has_reported_vanish = true;
            return Err(Unlisted::Vanished);
        }
        self.has_reported_vanish = false;
        self.last_identity = home;
        Ok(listing)
    }

    /// Runs file work on a blocking thread, with a deadline.
    async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unlisted> {
        let done = async {
            // Nobody closes it.
            let turn = self.file_work.clone().acquire_owned().await.ok();
            let work = spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            work.await.map_err(|error| Unlisted::Unfinished(error.into()))
        };
        timeout(READ_LIMIT, done).await.unwrap_or(Err(Unlisted::Slow(READ_LIMIT)))
    }

    /// Logs each warning once.
    fn warn_about_unused_variables(&mut self) {
        if !matches!(self.files, ConfigFiles::Directory(_)) {
            return; // the environment of a single instance may be shared with other programs
        }
        for warning in self.settled.unused_variables(&self.environment) {
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

/// Waits for a reload request that no snapshot has covered. Does not mark it as seen.
async fn reload_requested(nudges: &mut watch::Receiver<ReloadRequests>) {
    if nudges.changed().await.is_err() {
        // The sender is gone: no request will come.
        std::future::pending::<()>().await;
    }
    nudges.mark_changed();
}

async fn sleep_until_some(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
