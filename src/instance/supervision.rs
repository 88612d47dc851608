//! What a supervisor gives to an instance, and what it gets back at the end.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::exit::Exit;
use crate::{admin::status::Reporter, journal::IdleStore, telemetry::heartbeat::Heartbeats};

/// What the supervisor gives to an instance.
#[derive(Clone, Debug)]
pub struct Supervision {
    /// The instance's name, written into its journal.
    pub name: String,
    /// Directory of the journals.
    pub state_dir: PathBuf,
    /// Receives the instance's state.
    pub reporter: Reporter,
    /// Where its tasks register their heartbeats.
    pub heartbeats: Heartbeats,
    /// Take no new work, finish what is in hand. A child of `abort`.
    pub stop: CancellationToken,
    /// Drop what is in hand; the journal has it.
    pub abort: CancellationToken,
}

/// The journal, open and locked, that one generation leaves to the next of the same instance. The next
/// one uses it if its configuration has the same chain and wallet.
///
/// Dropping it closes the journal and releases the lock, which may block for a moment.
#[derive(Debug)]
pub struct JournalTenure {
    pub(super) store: IdleStore,
}

impl JournalTenure {
    /// Closes the journal and releases the lock without blocking the caller's thread.
    pub async fn close(self) {
        self.store.close().await;
    }
}

/// An instance that has ended.
#[derive(Debug)]
pub struct EndedInstance {
    pub exit: Exit,
    /// Absent if the next generation has to open everything anew.
    pub tenure: Option<JournalTenure>,
}
