//! What the operator sees of a running connector.

pub mod logging;
pub mod status;
