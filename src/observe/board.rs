//! What everybody who looks from outside sees: put up by the supervisor at least once a second, read
//! by the listener, so that no answer waits for the supervisor or for anything it supervises.

use std::sync::Arc;

use tokio::sync::watch;

use super::{errors::LastErrors, history::LastHour, status::Status};
use crate::metrics::Metrics;

/// The process at one moment.
#[derive(Clone, Debug)]
pub struct Shown {
    /// When it was put up.
    pub at_ms: u64,
    pub status: Status,
    /// What each instance counts, by its name; ordered like the instances of the status.
    pub metrics: Vec<(String, Metrics)>,
    /// The last hour of each instance, in the same order.
    pub histories: Vec<(String, LastHour)>,
    /// What went wrong lately.
    pub errors: LastErrors,
}

/// The supervisor's end.
pub type Board = watch::Sender<Arc<Shown>>;

/// The end of whoever looks.
pub type View = watch::Receiver<Arc<Shown>>;
