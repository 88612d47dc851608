//! `journal rebuild`: rebuilds a damaged or lost journal from the chain.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    output::{ExitStatus, print, print_error},
    paths,
    target::ConfigTarget,
    text::printable,
};
use crate::{
    config::{self, Environment, Loaded, Problems},
    instance::{self, RebuildError},
    journal::{OpenError, RebuildKind, Rebuilt},
    supervisor::control::{self, AskError, Request, Response, SocketCandidates},
};

/// A little longer than the supervisor's own deadline.
const DEADLINE: Duration = Duration::from_secs(70);

/// Printed before the problems of the environment.
const NO_TARGET: &str = "neither --instance NAME nor --config FILE is given, so the environment \
                         alone is the configuration:";

/// Directories, control socket and environment of the command.
#[derive(Debug)]
pub(super) struct RebuildContext {
    pub(super) config_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) candidates: SocketCandidates,
    pub(super) environment: Environment,
}

/// Rebuilds the journal, prints the result, and has a running supervisor try the instance again.
/// `chain`: the second chain, if it is that one's.
pub(super) async fn rebuild(
    whose: ConfigTarget,
    (from, chain): (u64, Option<u64>),
    places: RebuildContext,
) -> ExitStatus {
    let RebuildContext { config_dir, state_dir, candidates, environment } = places;
    let is_of_nobody = matches!(whose, ConfigTarget::File(None));
    let (name, loaded) = match load(&whose, &config_dir, environment) {
        Ok(loaded) => loaded,
        Err(problems) => {
            if is_of_nobody {
                print_error(NO_TARGET);
            }
            print_error(&problems);
            return ExitStatus::BadConfiguration;
        }
    };
    let state_dir =
        if loaded.config.observes() { instance::observe_dir(&state_dir, &name) } else { state_dir };
    let rebuilding = instance::rebuild(&loaded.config, state_dir, from, chain);
    let rebuilt = match Box::pin(rebuilding).await {
        Ok(rebuilt) => rebuilt,
        Err(error) => {
            print_error(explain_refusal(&name, &error));
            return if error.is_refusal() {
                ExitStatus::BadConfiguration
            } else {
                ExitStatus::Failure
            };
        }
    };
    let mut text = report(&rebuilt, from);
    if chain.is_none() && loaded.config.minimum_generation.is_none() && forgot_contracts(&rebuilt) {
        text += FORGOT_CONTRACTS;
    }
    if let RebuildKind::CursorNotReached { .. } = rebuilt.kind {
        return print(&text, ExitStatus::Failure);
    }
    text += &restart_instance(&name, &candidates).await;
    print(&text, ExitStatus::Success)
}

fn load(
    whose: &ConfigTarget,
    config_dir: &Path,
    environment: Environment,
) -> Result<(String, Loaded), Problems> {
    let (file, mode) = whose.find(config_dir)?;
    let loaded = paths::load_as(file.clone(), environment, mode)?;
    let name = config::instance_name(mode, None, file.as_deref(), &loaded.config);
    Ok((name, loaded))
}

/// Why nothing was done, and what to do.
fn explain_refusal(name: &str, error: &RebuildError) -> String {
    match error {
        RebuildError::Journal(OpenError::Locked { path, pid }) => {
            let by =
                pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            format!(
                "journal {} is in use by {by}: `kms-connector stop {name}` first (or end that process, \
                 under `start`); after the rebuild it goes on",
                path.display()
            )
        }
        RebuildError::Build(_)
        | RebuildError::Outside { .. }
        | RebuildError::TimedOut { .. }
        | RebuildError::NoSuchBlock { .. }
        | RebuildError::NoSuchChain { .. }
        | RebuildError::Journal(_) => error.to_string(),
    }
}

/// Said where [`forgot_contracts`].
const FORGOT_CONTRACTS: &str = "\
which contracts have stood there is not remembered: if one gateway node alone is read from, set
minimum_generation before the start, so that it cannot switch the access check off
";

/// Whether the journal remembers no more which contracts have stood at the address.
fn forgot_contracts(rebuilt: &Rebuilt) -> bool {
    match &rebuilt.kind {
        RebuildKind::Anew => true,
        RebuildKind::Salvaged { generation, .. } => generation.is_none(),
        RebuildKind::CursorMovedBack { .. } | RebuildKind::CursorNotReached { .. } => false,
    }
}

/// The result, line by line.
fn report(rebuilt: &Rebuilt, from: u64) -> String {
    let Rebuilt { path, cursor, kind: way } = rebuilt;
    let path = path.display();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match way {
        RebuildKind::Anew => writeln!(text, "{path}: recreated"),
        RebuildKind::Salvaged { aside, requests, transactions, .. } => writeln!(
            text,
            "{path}: recreated; the damaged one is kept as {}\ntaken over: {requests} unanswered \
             requests, {transactions} signed transactions",
            aside.display()
        ),
        RebuildKind::CursorMovedBack { before } => {
            let before = before.map_or_else(|| "none".to_owned(), |block| block.number.to_string());
            writeln!(
                text,
                "{path}: in order, and keeps all it has; the last block read was {before}"
            )
        }
        RebuildKind::CursorNotReached { before } => writeln!(
            text,
            "{path}: in order, and read up to block {}: it reads block {from} in its turn, and \
             nothing was changed",
            before.number
        ),
    };
    if let RebuildKind::CursorNotReached { .. } = way {
        return text;
    }
    let _ = writeln!(text, "the chain is read again from block {} on", cursor.number + 1);
    if let RebuildKind::Salvaged { at_most: Some(at_most), .. } = way
        && *at_most < from
    {
        let _ = writeln!(
            text,
            "warning: the damaged journal shows that the chain must be read again from block \
             {at_most}; requests before block {from} that could not be taken over are not read: \
             rebuild again with --from {at_most}"
        );
    }
    text
}

/// Has a running supervisor restart the instance now: a parked one would be tried only after
/// minutes.
async fn restart_instance(name: &str, candidates: &SocketCandidates) -> String {
    let request = Request::Restart { name: name.to_owned() };
    match control::ask(candidates, &request, DEADLINE).await {
        Ok(Response::Done { lines, .. }) => {
            lines.iter().map(|line| printable(line) + "\n").collect()
        }
        Ok(Response::Refused { why } | Response::Silent { why }) => {
            format!("the running supervisor did not start {name}: {}\n", printable(&why))
        }
        Ok(Response::Status { .. } | Response::Told { .. } | Response::Absent { .. })
        | Err(AskError::NotFound(_)) => {
            format!("no supervisor answers: {name} goes on when it is started\n")
        }
        Err(error) => format!(
            "{}\n`kms-connector restart {name}` has it go on at once\n",
            printable(&error.to_string())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_a_journal_in_use_is_told_with_the_command_that_ends_it() {
        let path = PathBuf::from("a.sqlite3");
        let told = explain_refusal("a", &OpenError::Locked { path, pid: Some(7) }.into());
        assert!(told.contains("process 7") && told.contains("`kms-connector stop a`"), "{told}");
    }
}
