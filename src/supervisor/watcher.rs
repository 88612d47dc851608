//! Watches the configuration files: when to read them again, and the reading.
//!
//! ```text
//! inotify --(debounce)--\
//! nudge ----------------+-> pace -> read until two readings agree -> a look -> the loop
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

use self::inotify::{Eye, Sight};
use super::directory::{
    self, Files, Identity, Listing, Look, Patience, Settled, Settlement, Unlisted, Work,
};
use crate::config::{Environment, Warning};

/// Events are followed by a reading after this long without another event.
const QUIET: Duration = Duration::from_secs(1);
/// The longest time a burst of events may delay the reading.
const BURST_LIMIT: Duration = Duration::from_secs(5);
/// The time between two readings that must agree.
const BETWEEN_READINGS: Duration = Duration::from_millis(500);
/// How long one unsettled file may delay all others.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// The minimum time between two looks.
const PACE: Duration = Duration::from_secs(2);
/// How often the files are read without any event.
const RESCAN: Duration = Duration::from_secs(30);
/// How often a missing directory is looked for.
const MISSING_RETRY: Duration = Duration::from_secs(2);
/// How long one piece of file work may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// Requests to read the files now. Each is followed by a look that began after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nudges {
    /// The number of requests, which is the number of the last one.
    pub count: u64,
    /// The last request by which an operator who knew that the directory had vanished confirmed
    /// that.
    pub meant: Option<u64>,
}

/// Reads the files whenever they may have changed.
#[derive(Debug)]
pub struct Watcher {
    files: Files,
    environment: Environment,
    settled: Settled,
    wake: Arc<Notify>,
    eye: Option<Arc<Eye>>,
    /// One piece of file work at a time: a hanging disk blocks one thread, not all of them.
    desk: Arc<Semaphore>,
    patience: Patience,
    /// The identity of the directory the files were last read in.
    home: Option<Identity>,
    /// The directory's disappearance was reported.
    told: bool,
    /// An operator confirmed the disappearance.
    meant: bool,
    /// Warnings that were logged.
    warned: BTreeSet<Warning>,
}

impl Watcher {
    /// Continues from what the first look settled ([`directory::look_first`]).
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

    /// Sends looks until `stop`, or until the receiver is gone. The first look at a directory
    /// follows at once, because the reading at startup was a single one. Every nudge has a higher
    /// number and is followed by a look that began after it and carries its number; nudges that
    /// wait together share one look.
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
        // No watch reported changes since the first look.
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

    /// Waits until a look is due.
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

    /// Waits for a missing directory; never returns if it is present.
    async fn directory_is_back(&self) {
        match &self.eye {
            Some(eye) if eye.is_missing.load(Ordering::Acquire) => loop {
                sleep(MISSING_RETRY).await;
                let eye = eye.clone();
                if matches!(self.aside(move || eye.open()).await, Ok(Sight::Open)) {
                    return;
                }
            },
            Some(_) | None => std::future::pending().await,
        }
    }

    // ---- what

    /// The content that two readings agree on, or what has settled when the limit is over; and
    /// whether some file has not settled.
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
                // Open the watch first: a change after the reading must wake us.
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
            return Err(Unlisted::Vanished);
        }
        self.told = false;
        self.home = home;
        Ok(listing)
    }

    /// Runs file work on a blocking thread, with a deadline.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unlisted> {
        let done = async {
            // Nobody closes it.
            let turn = self.desk.clone().acquire_owned().await.ok();
            let work = spawn_blocking(move || {
                let _turn = turn;
                work()
            });
            work.await.map_err(|error| Unlisted::Unfinished(error.into()))
        };
        timeout(READ_LIMIT, done).await.unwrap_or(Err(Unlisted::Slow(READ_LIMIT)))
    }

    /// Logs each warning once.
    fn warn_of_odd_variables(&mut self) {
        if !matches!(self.files, Files::Directory(_)) {
            return; // the environment of a single instance may be shared with other programs
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

/// Waits for a nudge that no look has seen. Does not mark it as seen.
async fn nudged(nudges: &mut watch::Receiver<Nudges>) {
    if nudges.changed().await.is_err() {
        // The sender is gone: no nudge will come.
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

#[cfg(test)]
mod tests;
