//! The control socket: one request and one answer per connection, each a line of JSON.
//!
//! Who may connect may operate: the socket is 0660, and nothing secret goes through it.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::observe::status::Status;

/// What an operator asks of a running supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    Status,
    /// Read the files again, now; answered once what they say is applied or has failed. With a
    /// name: try that instance's file again even if it failed unchanged.
    Reload {
        name: Option<String>,
    },
    /// End the instance's generation and build the next, out of a pause or parking too.
    Restart {
        name: String,
    },
    /// Drain the instance and keep it down until its file changes, a restart of it or of the
    /// supervisor.
    Stop {
        name: String,
    },
}

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Status {
        status: Box<Status>,
    },
    /// One line per instance concerned; `failed` if one of them is not as asked for.
    Done {
        lines: Vec<String>,
        failed: bool,
    },
    /// Nothing was done.
    Refused {
        why: String,
    },
}

/// A request on its way into the supervisor's loop.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub reply: oneshot::Sender<Answer>,
}
