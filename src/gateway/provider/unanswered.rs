//! Why there is no answer, before anybody knows whose it was.

use std::time::Duration;

/// Why a message was not answered in a way that can be read. No secret is taken out of it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// No connection, or no answer on it.
    Lost(String),
    /// An HTTP status, and nothing to go with it.
    Status(u16),
    /// An HTTP status that says to come back later, when, and the node's words with it.
    Later { status: u16, back_in: Option<Duration>, said: Option<String> },
    /// More than so many bytes.
    TooLarge(usize),
}
