//! What an operator sees of a running connector.

pub mod advice;
pub mod board;
pub mod build;
pub mod exposition;
pub mod errors;
pub mod history;
pub mod http;
pub mod logging;
pub mod process;
pub mod readiness;
pub mod status;
pub mod requests;
pub mod traces;
