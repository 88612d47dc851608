//! The published state of the process. The supervisor publishes it at least once a second and the
//! HTTP listener reads it, so that no HTTP response waits for the supervisor or an instance.

use std::sync::Arc;

use tokio::sync::watch;

use super::{history::LastHour, status::Status};
use crate::telemetry::errors::LastErrors;
use crate::telemetry::metrics::Metrics;

/// The process at one moment.
#[derive(Clone, Debug)]
pub struct ProcessSnapshot {
    /// When it was published.
    pub at_ms: u64,
    pub status: Status,
    /// The metrics of each instance by name, in the order of the status.
    pub metrics: Vec<(String, Metrics)>,
    /// The last hour of each instance, in the same order.
    pub histories: Vec<(String, LastHour)>,
    /// Recent warnings and errors.
    pub errors: LastErrors,
}

/// The supervisor's end.
pub type SnapshotSender = watch::Sender<Arc<ProcessSnapshot>>;

/// The readers' end.
pub type SnapshotReceiver = watch::Receiver<Arc<ProcessSnapshot>>;
