//! Whether a node knows blocks by their hash where a call names one (EIP-1898).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Nodes are upgraded, and a URL may lead to another one tomorrow.
const RETRIED_AFTER: Duration = Duration::from_hours(1);

/// What is known of one node.
#[derive(Debug, Default)]
pub(super) struct BlockHashSupport(Mutex<Option<Instant>>);

impl BlockHashSupport {
    pub(super) fn is_supported(&self) -> bool {
        let refused_at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused_at.is_none_or(|at| at.elapsed() >= RETRIED_AFTER)
    }

    /// Returns whether this is the first refusal. One within the hour does not prolong it.
    pub(super) fn record_refusal(&self) -> bool {
        let mut refused_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = refused_at.is_some_and(|at| at.elapsed() < RETRIED_AFTER);
        if is_known {
            return false;
        }
        refused_at.replace(Instant::now()).is_none()
    }
}
