//! Waits for dependencies, and says what is waited for.

use std::{fmt::Display, path::Path, pin::pin, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{DISK_DEADLINE, ask::find_beginnings};
use crate::{
    admin::status::{Phase, Reporter},
    dice::Dice,
    domain::Address,
    instance::{BuildError, JOURNAL_DISK, Unready},
    journal,
    machine::Machine,
    telemetry::log_throttle::LogThrottle,
    time::backoff::Backoff,
};

/// A dependency that has not answered for this long is waited for, whatever was waited for before.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Waits for dependencies and reports each wait: in the log, once per cause, and in the instance's
/// phase.
#[derive(Clone, Debug)]
pub(in crate::instance) struct Waits {
    reporter: Option<Reporter>,
    pub(super) dice: Dice,
}

impl Waits {
    /// For the build: the instance's phase names the dependency.
    pub(in crate::instance) fn building(reporter: &Reporter, dice: &Dice) -> Self {
        Self { reporter: Some(reporter.clone()), dice: dice.clone() }
    }

    /// For a running instance: the wait blocks nothing else, so the phase stays as it is.
    pub(in crate::instance) fn beside(dice: Dice) -> Self {
        Self { reporter: None, dice }
    }

    pub(in crate::instance) fn waiting_for(&self, on: &str, why: &str) {
        if let Some(reporter) = &self.reporter {
            let waiting = Phase::Waiting { on: on.to_owned(), why: why.to_owned() };
            reporter.phase.send_if_modified(|phase| replace_if_changed(phase, waiting));
        }
    }

    pub(in crate::instance) fn done_waiting(&self) {
        if let Some(reporter) = &self.reporter {
            reporter.phase.send_replace(Phase::Starting);
        }
    }

    /// Retries until the dependency answers. `code` is the key by which errors are throttled in the
    /// log.
    pub(in crate::instance) async fn retry_until_answered<T, E, F>(
        &self,
        on: &str,
        code: impl Fn(&E) -> &'static str,
        mut ask: impl FnMut() -> F,
    ) -> T
    where
        E: Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut pause = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut repeats = LogThrottle::default();
        let mut waited = false;
        loop {
            let mut asking = pin!(ask());
            let answered = match timeout(SILENT_AFTER, &mut asking).await {
                Ok(answered) => answered,
                Err(_silent) => {
                    self.waiting_for(on, &format!("no answer for {SILENT_AFTER:?}"));
                    waited = true;
                    asking.await
                }
            };
            match answered {
                Ok(answer) => {
                    if waited {
                        self.done_waiting();
                    }
                    return answer;
                }
                Err(error) => {
                    let why = error.to_string();
                    if let Some(times) = repeats.should_log(code(&error), Instant::now()) {
                        warn!(why, times, "waiting for {on}");
                    }
                    self.waiting_for(on, &why);
                    waited = true;
                }
            }
            sleep(pause.next_delay(self.dice.roll())).await;
        }
    }

    /// Waits for `work` on the disk of the journals in `dir` and reports when it takes longer than
    /// [`DISK_DEADLINE`]. The work is not restarted: a hanging disk costs one thread.
    pub(in crate::instance) async fn for_disk<T>(
        &self,
        dir: &Path,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = pin!(work);
        if let Ok(done) = timeout(DISK_DEADLINE, &mut work).await {
            return done;
        }
        let why = Unready::DiskTimedOut { dir: dir.to_owned() }.to_string();
        warn!(why, "waiting for {JOURNAL_DISK}");
        self.waiting_for(JOURNAL_DISK, &why);
        let done = work.await;
        info!("the disk answers again");
        self.done_waiting();
        done
    }

    /// Reads what the journals in `dir` know of the chain; waits until the directory can be read.
    pub(in crate::instance) async fn known_beginnings(
        &self,
        machine: &Machine,
        chain_id: u64,
        dir: &Path,
        wallet: Address,
        name: &str,
    ) -> Vec<journal::JournalChain> {
        let ask = || self.for_disk(dir, find_beginnings(machine, chain_id, dir, wallet, name));
        self.retry_until_answered(JOURNAL_DISK, Unready::code, ask).await
    }

    /// Retries until the dependency is ready, or returns the contradiction that makes it never ready.
    pub(in crate::instance) async fn retry_until_ready<T, F>(
        &self,
        on: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T, BuildError>
    where
        F: Future<Output = Result<T, Unready>>,
    {
        let ask = || {
            let asking = ask();
            async {
                match asking.await {
                    Ok(answer) => Ok(Ok(answer)),
                    Err(why) if why.is_contradiction() => Ok(Err(why.into())),
                    Err(why) => Err(why),
                }
            }
        };
        self.retry_until_answered(on, Unready::code, ask).await
    }
}

/// Returns whether the value changed.
pub(in crate::instance) fn replace_if_changed<T: PartialEq>(current: &mut T, new: T) -> bool {
    let changed = *current != new;
    *current = new;
    changed
}
