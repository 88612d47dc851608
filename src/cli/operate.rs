//! `reload`, `restart`, `stop`: requests to a running supervisor.

use std::time::Duration;

use super::{
    output::{ExitStatus, print, print_error},
    text::printable,
};
use crate::supervisor::control::{self, Request, Response, SocketCandidates};

/// A little longer than the supervisor's own deadline.
const DEADLINE: Duration = Duration::from_secs(70);

/// Sends the request and prints a line for each instance concerned.
pub(super) async fn operate(request: Request, candidates: &SocketCandidates) -> ExitStatus {
    match control::ask(candidates, &request, DEADLINE).await {
        Ok(Response::Done { lines, failed }) => {
            let text: String = lines.iter().map(|line| printable(line) + "\n").collect();
            print(&text, if failed { ExitStatus::Failure } else { ExitStatus::Success })
        }
        Ok(Response::Refused { why } | Response::Silent { why }) => {
            print_error(why);
            ExitStatus::Failure
        }
        Ok(Response::Status { .. } | Response::Told { .. } | Response::Absent { .. }) => {
            print_error(
                "the supervisor gave an unexpected answer: it may be another version; restart it \
                 with this program",
            );
            ExitStatus::Failure
        }
        Err(error) => {
            print_error(error);
            ExitStatus::Failure
        }
    }
}
