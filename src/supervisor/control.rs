//! The control socket: one request and one answer per connection, each a line of JSON.
//!
//! Every user who may connect may operate the supervisor: the socket's mode is 0660, and no secret goes
//! through it. [`listener`] is the supervisor's end, [`client`] the commands' end. Both use the same
//! [`SocketCandidates`].

mod listener;
mod socket_file;
mod denied;
mod client;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::{
    client::{AskError, Connection, NoSupervisor, ask, find},
    listener::Listener,
    socket_file::ListenError,
};
use crate::{
    admin::{
        requests::{Inquiry, InquiryAnswer},
        status::{InstanceState, Status},
    },
    config::Environment,
};

const FILE_NAME: &str = "control.sock";
/// The runtime directory of an installed service.
const SYSTEM_DIRECTORY: &str = "/run/kms-connector";
/// The size of `sun_path` (108 bytes) without its terminating zero, see unix(7).
const MAX_PATH_BYTES: usize = 107;

/// A request of an operator to a running supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    Status,
    /// Read the files again now. Answered once their content is applied or has failed. With a name:
    /// also try that instance's file again if it failed and has not changed.
    Reload {
        name: Option<String>,
    },
    /// End the instance's generation and build the next one. Also ends a back-off and parking.
    Restart {
        name: String,
    },
    /// Drain the instance and keep it down until its file changes, it is restarted, or the
    /// supervisor restarts.
    Stop {
        name: String,
    },
    /// A question about the requests of an instance. The instance answers itself; the loop does not
    /// wait.
    Requests {
        name: String,
        inquiry: Inquiry,
    },
}

impl Request {
    /// Writes who asks into what is stored with the user: no client can name another one.
    fn name_user(&mut self, uid: Option<u32>) {
        if let Self::Requests { inquiry: Inquiry::Approve { by, .. }, .. } = self {
            *by = uid.map_or("unknown user".to_owned(), |uid| format!("uid {uid}"));
        }
    }
}

/// The form used in the log.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status => f.write_str("status"),
            Self::Reload { name: None } => f.write_str("reload"),
            Self::Reload { name: Some(name) } => write!(f, "reload {name}"),
            Self::Restart { name } => write!(f, "restart {name}"),
            Self::Stop { name } => write!(f, "stop {name}"),
            Self::Requests { name, inquiry } => match inquiry {
                Inquiry::Retry { id } => write!(f, "requests retry {id} of {name}"),
                Inquiry::Approve { id, by } => write!(f, "requests approve {id} of {name} by {by}"),
                Inquiry::Backfill { from, .. } => write!(f, "backfill from {from} of {name}"),
                Inquiry::List { .. } | Inquiry::Show { .. } | Inquiry::Export { .. } => {
                    write!(f, "requests of {name}")
                }
            },
        }
    }
}

/// The supervisor's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    Status {
        status: Box<Status>,
    },
    /// One line per instance concerned. `failed`: at least one is not in the state that was asked
    /// for.
    Done {
        lines: Vec<String>,
        failed: bool,
    },
    /// The answer of an instance about its requests.
    Told {
        told: Box<InquiryAnswer>,
    },
    /// There is no such instance, or it does not run. Its journal may still answer.
    Absent {
        why: String,
        /// The instance's state. `None`: there is no such instance.
        #[serde(default)]
        state: Option<InstanceState>,
    },
    /// Nothing was done.
    Refused {
        why: String,
    },
    /// The supervisor's loop did not answer in time. The request may have been carried out, or
    /// still be.
    Silent {
        why: String,
    },
}

/// A request on its way to the supervisor's loop.
#[derive(Debug)]
pub struct PendingRequest {
    pub request: Request,
    pub reply: oneshot::Sender<LoopReply>,
}

/// The loop's reply to a request.
#[derive(Debug)]
pub enum LoopReply {
    Now(Response),
    /// The instance will answer. The channel closes if the instance ends first.
    Later(oneshot::Receiver<Result<InquiryAnswer, String>>),
}

impl LoopReply {
    pub(super) async fn into_response(self) -> Response {
        let told = match self {
            Self::Now(answer) => return answer,
            Self::Later(told) => told.await,
        };
        match told {
            Ok(Ok(told)) => Response::Told { told: Box::new(told) },
            Ok(Err(why)) => Response::Refused { why },
            Err(_) => Response::Refused {
                why: "the instance ended before it answered: ask again".to_owned(),
            },
        }
    }
}

impl From<Response> for LoopReply {
    fn from(answer: Response) -> Self {
        Self::Now(answer)
    }
}

/// The paths of the control socket: `given` alone, else those in the first of `$RUNTIME_DIRECTORY`,
/// `/run/kms-connector` and the state directory.
#[must_use]
pub fn candidates(
    given: Option<&Path>,
    environment: &Environment,
    state_dir: &Path,
) -> SocketCandidates {
    SocketCandidates::among(given, environment, Path::new(SYSTEM_DIRECTORY), state_dir)
}

/// The paths where the control socket may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketCandidates {
    /// In the order in which they are tried; never empty.
    paths: Vec<PathBuf>,
    /// The first path was named explicitly: a supervisor listens there or nowhere.
    is_named: bool,
}

impl SocketCandidates {
    fn among(
        given: Option<&Path>,
        environment: &Environment,
        system: &Path,
        state_dir: &Path,
    ) -> Self {
        if let Some(given) = given {
            return Self { paths: vec![given.to_owned()], is_named: true };
        }
        let runtime = environment.get("RUNTIME_DIRECTORY").map(|list| list.to_string_lossy());
        // systemd separates several directories by colons; the first one is ours.
        let runtime = runtime.as_deref().and_then(|list| list.split(':').next());
        let runtime = runtime.filter(|first| !first.is_empty()).map(PathBuf::from);
        let named = runtime.is_some();
        let directories = runtime.into_iter().chain([system.to_owned(), state_dir.to_owned()]);
        Self {
            paths: directories.map(|directory| directory.join(FILE_NAME)).collect(),
            is_named: named,
        }
    }

    /// The path to listen on: the named one, else the first whose directory is writable, else the
    /// last.
    fn to_listen_at(&self) -> &Path {
        let (last, before) = self.paths.split_last().expect("there is always one");
        let usable = |path: &&PathBuf| {
            let parent = path.parent().unwrap_or(Path::new("."));
            self.is_named || access(parent, Access::WRITE_OK | Access::EXEC_OK).is_ok()
        };
        before.iter().find(usable).unwrap_or(last)
    }

    /// Returns whether this candidate is the one in the state directory.
    fn is_in_state_dir(&self, path: &Path) -> bool {
        !self.is_named && self.paths.last().is_some_and(|last| last == path)
    }
}

#[cfg(test)]
mod tests;
