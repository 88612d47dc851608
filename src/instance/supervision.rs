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

/// The journals, open and locked, that one generation leaves to the next of the same instance: one for each
/// of its chains. The next one uses each that is of the chain and the wallet of its configuration.
///
/// Dropping it closes the journals and releases their locks, which may block for a moment.
#[derive(Debug, Default)]
pub struct JournalTenure {
    pub(super) gateway: Option<IdleStore>,
    pub(super) ethereum: Option<IdleStore>,
}

impl JournalTenure {
    /// `None`: nothing is left.
    pub(super) fn of(gateway: Option<IdleStore>, ethereum: Option<IdleStore>) -> Option<Self> {
        (gateway.is_some() || ethereum.is_some()).then_some(Self { gateway, ethereum })
    }

    /// Closes the journals and releases their locks without blocking the caller's thread.
    pub async fn close(self) {
        for store in self.gateway.into_iter().chain(self.ethereum) {
            store.close().await;
        }
    }
}

/// An instance that has ended.
#[derive(Debug)]
pub struct EndedInstance {
    pub exit: Exit,
    /// Absent if the next generation has to open everything anew.
    pub tenure: Option<JournalTenure>,
}
