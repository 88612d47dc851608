//! The status of the process and its instances as one value: the control socket sends it, `status`
//! and `list --long` print it.
//!
//! An instance reports through a [`Reporter`]. The supervisor adds what only it knows (state, restarts,
//! files). It contains no secret: URLs are reduced to hosts, wallets to addresses. Times are Unix
//! milliseconds.

mod gauges;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::gauges::{
    CatchUp, ChainState, ChainStatus, ContractPosition, Gauges, HiddenRequests, HostChainStatus,
    KeyOperationStatus, OtherContracts, ReadOnce, StaleNode, StaleTag, UnansweredRequests,
    UnprovenBlocks, UnsentAnswers, WaitingRequest,
};
use super::requests::Inbox;
use crate::telemetry::errors::LastError;
use crate::telemetry::metrics::Metrics;

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub started_at_ms: u64,
    /// The address of the HTTP listener, if there is one: `127.0.0.1:9478`.
    pub listen: Option<String>,
    /// `None` under `start`: nothing is watched.
    pub config_dir: Option<PathBuf>,
    /// The directory of the journals.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    pub reload: ReloadStatus,
    /// Ordered by name.
    pub instances: Vec<InstanceStatus>,
}

/// The result of the last reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When a change was last applied, or last failed.
    pub at_ms: u64,
    /// When all files were last valid and applied.
    pub succeeded_at_ms: Option<u64>,
    /// Why the files are not what runs: one line each, of an instance or of the directory.
    pub problems: Vec<String>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub name: String,
    pub file: Option<PathBuf>,
    #[serde(flatten)]
    pub state: InstanceState,
    /// When it entered this state.
    pub since_ms: u64,
    /// When the reason of this state became the one that it tells; `None`: the state has had no other.
    #[serde(default)]
    pub reason_since_ms: Option<u64>,
    /// The number of builds of this instance; 0 before the first.
    pub generation: u64,
    /// The number of builds after a failure.
    pub restarts: u64,
    pub last_error: Option<LastError>,
    /// Recent log entries at WARN or above: each message once, newest first.
    #[serde(default)]
    pub last_warnings: Vec<LastError>,
    /// Why the file's content does not run.
    pub reload_failed: Option<String>,
    /// The file is valid and is applied once its dependencies answer.
    #[serde(default)]
    pub reload_waits: bool,
    /// A new configuration is being checked or started.
    pub changing: bool,
    /// The beginning of the SHA-256 of the file whose content runs (compare with `sha256sum`).
    pub config_hash: Option<String>,
    pub chain_id: Option<u64>,
    pub decryption: Option<String>,
    /// Hosts, never whole URLs.
    pub gateway: Option<String>,
    pub kms_core: Option<String>,
    pub gauges: Gauges,
}

impl InstanceStatus {
    /// Since when it is in this state for the reason that it tells.
    #[must_use]
    pub fn this_since_ms(&self) -> u64 {
        self.reason_since_ms.unwrap_or(self.since_ms)
    }

    /// The recent warnings while it is up, without those that its state tells.
    pub fn untold_warnings(&self) -> impl Iterator<Item = &LastError> {
        let warnings = self.last_warnings.iter().filter(|_| self.state.is_up());
        warnings.filter(|warning| !self.state.is_told_by(&warning.text))
    }
}

/// The state of an instance as its supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum InstanceState {
    /// Being built.
    Starting,
    /// Running, but waiting for an outside dependency.
    Waiting {
        on: String,
        why: String,
    },
    Running,
    /// Asked to end; finishing what is answered.
    Draining,
    /// It failed and is built again at `until_ms`.
    BackingOff {
        until_ms: u64,
    },
    /// Not built again until its file changes, it is restarted, or `retry_at_ms`.
    Parked {
        why: String,
        retry_at_ms: Option<u64>,
    },
    /// Stopped on purpose.
    Stopped {
        by: StoppedBy,
    },
}

/// What stopped an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// The command `stop`.
    Operator,
    /// `enabled = false`.
    File,
}

impl StoppedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::File => "enabled = false",
        }
    }
}

impl InstanceState {
    /// Returns whether the text contains this state's reason.
    #[must_use]
    pub fn is_told_by(&self, text: &str) -> bool {
        match self {
            Self::Parked { why, .. } | Self::Waiting { why, .. } => {
                !why.is_empty() && text.contains(why.as_str())
            }
            Self::Starting
            | Self::Running
            | Self::Draining
            | Self::BackingOff { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// All values of [`Self::word`].
    pub const WORDS: [&str; 7] =
        ["starting", "waiting", "running", "draining", "backing-off", "parked", "stopped"];

    /// The state in one word, as shown.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting { .. } => "waiting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::BackingOff { .. } => "backing-off",
            Self::Parked { .. } => "parked",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// What tells one reason of a state from another: the dependency that is waited for, or why the
    /// instance is parked. What a dependency says may change while it is the same outage.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting { on, .. } => Some(on),
            Self::Parked { why, .. } => Some(why),
            Self::Starting
            | Self::Running
            | Self::Draining
            | Self::BackingOff { .. }
            | Self::Stopped { .. } => None,
        }
    }

    /// Returns whether its gauges are current.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match self {
            Self::Waiting { .. } | Self::Running | Self::Draining => true,
            Self::Starting
            | Self::BackingOff { .. }
            | Self::Parked { .. }
            | Self::Stopped { .. } => false,
        }
    }

    /// Returns whether it should be up and is not.
    #[must_use]
    pub fn is_down(&self) -> bool {
        match self {
            Self::BackingOff { .. } | Self::Parked { .. } => true,
            Self::Starting
            | Self::Waiting { .. }
            | Self::Running
            | Self::Draining
            | Self::Stopped { .. } => false,
        }
    }
}

/// The progress of an instance, as it reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Starting,
    /// An outage of a dependency: the supervisor cannot fix it.
    Waiting {
        /// `the KMS Core at core.example:50052`
        on: String,
        why: String,
    },
    Running,
}

/// How an instance reports to its supervisor.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub phase: watch::Sender<Phase>,
    pub gauges: watch::Sender<Gauges>,
    pub metrics: Metrics,
    /// The channel for questions about its requests, once it can answer.
    pub inbox: watch::Sender<Option<Inbox>>,
}

impl Reporter {
    /// `metrics`: include the counts of earlier generations.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let (phase, gauges, inbox) = Default::default();
        Self { phase, gauges, metrics, inbox }
    }
}
