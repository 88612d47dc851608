//! What the operator sees of a running connector.

pub mod board;
pub mod build;
pub mod exposition;
pub mod http;
pub mod logging;
pub mod process;
pub mod readiness;
pub mod status;
pub mod requests;
