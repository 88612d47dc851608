//! Reports the running instance to the supervisor: what it waits for, its position, the progress of a
//! catch-up. Logs each change once.

mod phase;
mod core_probe;
mod progress;
mod resources;
mod nodes;
mod beside;

use std::time::Duration;

use tokio::sync::watch;

use self::core_probe::follow_core;
pub(super) use self::{
    beside::BesideReading,
    core_probe::{ask_core, core_name},
    nodes::follow_endpoints,
};
use super::wait_reasons::WaitReasons;
use crate::{
    admin::status::Reporter,
    chain::provider::ArbitrumProvider,
    dice::Dice,
    domain::{Address, BlockRef},
    flow::{
        arrivals::{completeness::CompletenessReport, reading_state::ReadingState},
        ciphertexts::MemoryUse,
        finality::rule::TagPosition,
        kms_core::KmsCore,
    },
    journal::{Journal, JournalError},
    telemetry::heartbeat::Heartbeat,
    time::clock::Clock,
};

const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The task.
#[derive(Debug)]
pub(super) struct Report {
    pub reporter: Reporter,
    pub clock: Clock,
    pub dice: Dice,
    pub provider: ArbitrumProvider,
    pub mode: ReportMode,
    pub journal: Journal,
    /// The cursor.
    pub progress: watch::Receiver<Option<BlockRef>>,
    /// Why requests wait.
    pub wait_reasons: WaitReasons,
    /// Doubtful reads: blocks whose logs are not certain.
    pub notes: ReadingState,
    /// Further contracts of the chain that are read.
    pub beside: Vec<BesideReading>,
    /// The finality tag, where one is waited for.
    pub tag: watch::Receiver<Option<TagPosition>>,
    /// Comparison of the contract's counters with the requests read.
    pub completeness: watch::Receiver<CompletenessReport>,
}

/// What the instance does with requests.
#[derive(Debug)]
pub(super) enum ReportMode {
    Answer {
        wallet: Address,
        core: Box<KmsCore>,
        /// Memory held by ciphertexts.
        memory: MemoryUse,
    },
    /// Key operations alone are answered, of a second chain. The Core is looked at with the first one.
    Keys { wallet: Address },
    Observe {
        /// Number of observed requests.
        observed: watch::Receiver<u64>,
    },
}

impl ReportMode {
    pub(super) fn wallet(&self) -> Option<Address> {
        match self {
            Self::Answer { wallet, .. } | Self::Keys { wallet } => Some(*wallet),
            Self::Observe { .. } => None,
        }
    }
}

impl Report {
    pub(super) async fn run(self, heart: Heartbeat) -> Result<(), JournalError> {
        let (sender, found) = watch::channel(None);
        let following = async {
            match &self.mode {
                ReportMode::Answer { core, .. } => follow_core(core, &sender, &self.dice).await,
                ReportMode::Observe { .. } | ReportMode::Keys { .. } => {
                    sender.send_replace(Some(Ok(())));
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            () = following => Ok(()),
            () = self.report_phase(found) => Ok(()),
            told = self.report_progress(heart) => told,
            () = self.report_resources() => Ok(()),
        }
    }
}
