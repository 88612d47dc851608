//! The instance's phase: what it waits for.

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{
    REPORT_INTERVAL, Report, ReportMode,
    core_probe::{CoreStatus, core_name},
};
use crate::{
    admin::status::Phase,
    instance::{JOURNAL_DISK, dependencies},
};

impl Report {
    /// Runs beside [`Self::report_progress`], which reads the journal: a disk that does not answer must
    /// not block the phase.
    pub(super) async fn report_phase(&self, found: watch::Receiver<CoreStatus>) {
        let mut tick = interval(REPORT_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(phase) = self.phase(&found.borrow()) {
                self.reporter
                    .phase
                    .send_if_modified(|current| dependencies::replace_if_changed(current, phase));
            }
        }
    }

    /// The phase; `None` if unknown yet.
    fn phase(&self, found: &CoreStatus) -> Option<Phase> {
        if let Some(why) = self.journal.condition().waiting_reason() {
            return Some(Phase::Waiting { on: JOURNAL_DISK.to_owned(), why: why.to_string() });
        }
        if let Some(error) = self.provider.connection_error() {
            let on = dependencies::node_name(&self.provider);
            return Some(Phase::Waiting { on, why: error.to_string() });
        }
        Some(match found.as_ref()? {
            Ok(()) => Phase::Running,
            Err(why) => {
                let on = match &self.mode {
                    ReportMode::Answer { core, .. } => core_name(core),
                    ReportMode::Observe { .. } | ReportMode::Keys { .. } => String::new(),
                };
                Phase::Waiting { on, why: why.to_string() }
            }
        })
    }
}
