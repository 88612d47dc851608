//! `status`: prints the supervisor's status, once or every second.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use tokio::time::sleep;

use super::{
    output::{ExitStatus, print, print_error, write_stdout},
    status_text::{self, Style},
    text::printable,
};
use crate::{
    admin::status::{InstanceStatus, Status},
    supervisor::control::{self, AskError, Request, Response, SocketCandidates},
    time::clock,
};

/// The supervisor's loop answers at once unless it hangs.
const DEADLINE: Duration = Duration::from_secs(10);
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// What to show.
#[derive(Debug)]
pub(super) struct StatusOptions {
    /// One instance instead of all.
    pub(super) name: Option<String>,
    pub(super) json: bool,
    pub(super) watch: bool,
    pub(super) colours: bool,
}

/// Prints the status, once or until the output is closed.
pub(super) async fn status(wish: StatusOptions, candidates: &SocketCandidates) -> ExitStatus {
    let view = match render_status(&wish, candidates).await {
        Ok(view) => view,
        Err(why) => {
            print_error(why);
            return ExitStatus::Failure;
        }
    };
    if wish.watch {
        return watch(&wish, candidates, view.text).await;
    }
    print(&view.text, if view.is_well { ExitStatus::Success } else { ExitStatus::Failure })
}

/// Ends when stdout is closed; Ctrl-C ends the process.
async fn watch(wish: &StatusOptions, candidates: &SocketCandidates, first: String) -> ExitStatus {
    let clears = io::stdout().is_terminal() && !wish.json;
    let mut text = first;
    loop {
        let shown = match (clears, wish.json) {
            (true, _) => write_stdout(&format!("\u{1b}[H\u{1b}[2J{text}")),
            (false, true) => write_stdout(&text),
            (false, false) => write_stdout(&format!("{text}\n")),
        };
        match shown {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitStatus::Success,
            Err(error) => {
                print_error(format_args!("cannot write to stdout: {error}"));
                return ExitStatus::Failure;
            }
        }
        sleep(REFRESH_INTERVAL).await;
        text = match render_status(wish, candidates).await {
            Ok(view) => view.text,
            // The supervisor may come back, and the user watches for that, too.
            Err(why) if wish.json => {
                print_error(why);
                String::new()
            }
            Err(why) => format!("{why}\n"),
        };
    }
}

/// The text to print.
struct Rendered {
    text: String,
    is_well: bool,
}

async fn render_status(
    wish: &StatusOptions,
    candidates: &SocketCandidates,
) -> Result<Rendered, String> {
    let status = ask(candidates).await.map_err(|error| printable(&error.to_string()))?;
    let StatusOptions { name, json, watch, colours } = wish;
    let style = Style { now_ms: clock::unix_millis(), colours: *colours };
    let Some(name) = name else {
        let text =
            if *json { to_json(&status, *watch) } else { status_text::overview(&status, style) };
        return Ok(Rendered { text, is_well: status_text::is_well(&status) });
    };
    let Some(instance) = status.instances.iter().find(|instance| instance.name == *name) else {
        return Err(unknown_instance(name, &status.instances));
    };
    let text = if *json { to_json(instance, *watch) } else { status_text::detail(instance, style) };
    Ok(Rendered { text, is_well: status_text::instance_is_well(instance) })
}

/// One JSON value; on one line if more follow.
fn to_json(value: &impl serde::Serialize, one_line: bool) -> String {
    let text =
        if one_line { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    text.expect("maps with text keys only") + "\n"
}

fn unknown_instance(name: &str, instances: &[InstanceStatus]) -> String {
    let known: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    match known.as_slice() {
        [] => format!("there is no instance {name}, and no other instance"),
        known => format!("there is no instance {name}; there are: {}", known.join(", ")),
    }
}

/// The status of the first supervisor that answers.
pub(super) async fn ask(candidates: &SocketCandidates) -> Result<Status, StatusError> {
    match control::ask(candidates, &Request::Status, DEADLINE).await? {
        Response::Status { status } => Ok(*status),
        Response::Refused { why } | Response::Silent { why } => Err(StatusError::Refused(why)),
        Response::Done { .. } | Response::Told { .. } | Response::Absent { .. } => {
            Err(StatusError::Refused("it gave an unexpected answer".to_owned()))
        }
    }
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub(super) enum StatusError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the supervisor did not send its status: {0}")]
    Refused(String),
}
