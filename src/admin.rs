//! What an operator sees and asks of a running connector.

pub mod advice;
pub mod snapshot;
pub mod build;
pub mod exposition;
pub mod history;
pub mod http;
pub mod readiness;
pub mod status;
pub mod requests;
