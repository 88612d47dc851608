//! What the process reports by itself: metrics, logs, recent errors, traces, heartbeats.

pub mod errors;
pub mod logging;
pub mod traces;
pub mod process;
pub mod heartbeat;
pub mod log_throttle;
pub mod metrics;
pub mod trace_context;
