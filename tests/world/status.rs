//! What a supervisor says of itself, as its JSON has it: of all that it says what tests look at.

use serde::Deserialize;

/// The process.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub pid: u32,
    /// Where its HTTP listener is, if it listens.
    pub listen: Option<String>,
    pub reload: ReloadStatus,
    pub instances: Vec<InstanceStatus>,
}

/// The result of the last reload.
#[derive(Clone, Debug, Deserialize)]
pub struct ReloadStatus {
    pub problems: Vec<String>,
}

/// One instance. Times are Unix milliseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct InstanceStatus {
    pub name: String,
    /// `running`, `backing_off` and so on.
    pub state: String,
    /// What a waiting one waits for.
    pub on: Option<String>,
    /// Why one is waiting or parked.
    pub why: Option<String>,
    pub since_ms: u64,
    pub generation: u64,
    pub restarts: u64,
    pub last_error: Option<LastError>,
    pub reload_failed: Option<String>,
    pub changing: bool,
    pub config_hash: Option<String>,
    pub gauges: Gauges,
}

#[derive(Clone, Debug, Deserialize)]
pub struct LastError {
    pub at_ms: u64,
    pub text: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Gauges {
    pub wallet: Option<String>,
    pub observed: Option<u64>,
    /// A second chain.
    #[serde(default)]
    pub chains: Vec<ChainStatus>,
}

/// A second chain of an instance.
#[derive(Clone, Debug, Deserialize)]
pub struct ChainStatus {
    pub chain_id: u64,
    /// `starting`, `waiting` or `running`.
    pub state: String,
    /// What a waiting one waits for, and why.
    pub on: Option<String>,
    pub why: Option<String>,
}
