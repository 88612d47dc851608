//! `reload`, `restart`, `stop`: requests to a running supervisor.

use std::time::Duration;

use super::{
    output::{Exit, complain, print},
    text::printable,
};
use crate::supervisor::control::{self, Answer, Candidates, Request};

/// A little longer than the supervisor's own deadline.
const DEADLINE: Duration = Duration::from_secs(70);

/// Sends the request and prints a line for each instance concerned.
pub(super) async fn operate(request: Request, candidates: &Candidates) -> Exit {
    match control::ask(candidates, &request, DEADLINE).await {
        Ok(Answer::Done { lines, failed }) => {
            let text: String = lines.iter().map(|line| printable(line) + "\n").collect();
            print(&text, if failed { Exit::Failure } else { Exit::Success })
        }
        Ok(Answer::Refused { why } | Answer::Silent { why }) => {
            complain(why);
            Exit::Failure
        }
        Ok(Answer::Status { .. } | Answer::Told { .. } | Answer::Absent { .. }) => {
            complain(
                "the supervisor answered another question: it may be of another version; restart it \
                 with this program",
            );
            Exit::Failure
        }
        Err(error) => {
            complain(error);
            Exit::Failure
        }
    }
}
