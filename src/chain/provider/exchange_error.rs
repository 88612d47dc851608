//! Transport failures, before they are attributed to a node.

use std::time::Duration;

/// Why a message got no readable answer. Not yet scrubbed of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExchangeError {
    /// No connection, or no answer on it.
    NoAnswer(String),
    /// An HTTP status without a JSON-RPC answer.
    Status(u16),
    /// An HTTP status that says to come back later, when, and the node's message.
    RetryLater { status: u16, retry_after: Option<Duration>, message: Option<String> },
    /// More than this many bytes.
    TooLarge(usize),
}
