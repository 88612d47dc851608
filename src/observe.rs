//! What the operator sees of a running connector.

pub mod board;
pub mod http;
pub mod logging;
pub mod status;
pub mod requests;
