//! `journal rebuild`: rebuilds a damaged or lost journal from the chain.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    output::{Exit, complain, print},
    places,
    text::printable,
};
use crate::{
    config::{self, Environment, Loaded, Mode, Problems},
    instance::{self, RebuildError},
    journal::{OpenError, Rebuilt, Way},
    supervisor::control::{self, Answer, AskError, Candidates, Request},
};

/// A little longer than the supervisor's own deadline.
const DEADLINE: Duration = Duration::from_secs(70);

/// Printed before the problems of the environment.
const NOBODY: &str = "neither --instance NAME nor --config FILE says whose journal it is, so the environment \
                      alone counts:";

/// The instance whose journal is rebuilt.
#[derive(Debug)]
pub(super) enum Whose {
    /// An instance in the configuration directory, as `supervise` reads it.
    Instance(String),
    /// One configuration as `start` reads it; without a file, the environment alone.
    File(Option<PathBuf>),
}

/// Directories, control socket and environment of the command.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) config_dir: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) candidates: Candidates,
    pub(super) environment: Environment,
}

/// Rebuilds the journal, prints the result, and has a running supervisor try the instance again.
pub(super) async fn rebuild(whose: Whose, from: u64, places: Places) -> Exit {
    let Places { config_dir, state_dir, candidates, environment } = places;
    let is_of_nobody = matches!(whose, Whose::File(None));
    let (name, loaded) = match load(whose, &config_dir, environment) {
        Ok(loaded) => loaded,
        Err(problems) => {
            if is_of_nobody {
                complain(NOBODY);
            }
            complain(&problems);
            return Exit::BadConfiguration;
        }
    };
    let state_dir =
        if loaded.config.observes() { instance::observe_dir(&state_dir, &name) } else { state_dir };
    let rebuilding = instance::rebuild(&loaded.config, state_dir, from);
    let rebuilt = match Box::pin(rebuilding).await {
        Ok(rebuilt) => rebuilt,
        Err(error) => {
            complain(refused(&name, &error));
            return if error.is_refusal() { Exit::BadConfiguration } else { Exit::Failure };
        }
    };
    let mut text = report(&rebuilt, from);
    if let Way::NotThere { .. } = rebuilt.way {
        return print(&text, Exit::Failure);
    }
    text += &go_on(&name, &candidates).await;
    print(&text, Exit::Success)
}

fn load(
    whose: Whose,
    config_dir: &Path,
    environment: Environment,
) -> Result<(String, Loaded), Problems> {
    let (file, mode) = match whose {
        Whose::Instance(name) => (Some(places::file_of(&name, config_dir)?), Mode::Supervise),
        Whose::File(file) => {
            (file.map(|file| places::find_telling(&file, config_dir)).transpose()?, Mode::Start)
        }
    };
    let loaded = places::load_as(file.clone(), environment, mode)?;
    let name = config::instance_name(mode, None, file.as_deref(), &loaded.config);
    Ok((name, loaded))
}

/// Why nothing was done, and what to do.
fn refused(name: &str, error: &RebuildError) -> String {
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
        | RebuildError::Late { .. }
        | RebuildError::NoSuchBlock { .. }
        | RebuildError::Journal(_) => error.to_string(),
    }
}

/// The result, line by line.
fn report(rebuilt: &Rebuilt, from: u64) -> String {
    let Rebuilt { path, cursor, way } = rebuilt;
    let path = path.display();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match way {
        Way::Anew => writeln!(text, "{path}: begun anew"),
        Way::Salvaged { aside, requests, transactions, .. } => writeln!(
            text,
            "{path}: begun anew; the damaged one is kept as {}\n\
             taken over: {requests} unanswered requests, {transactions} signed transactions",
            aside.display()
        ),
        Way::ReadAgain { before } => {
            let before = before.map_or_else(|| "none".to_owned(), |block| block.number.to_string());
            writeln!(
                text,
                "{path}: in order, and keeps all it has; the last block read was {before}"
            )
        }
        Way::NotThere { before } => writeln!(
            text,
            "{path}: in order, and read up to block {}: it reads block {from} in its turn, and \
             nothing was changed",
            before.number
        ),
    };
    if let Way::NotThere { .. } = way {
        return text;
    }
    let _ = writeln!(text, "the chain is read again from block {} on", cursor.number + 1);
    if let Way::Salvaged { at_most: Some(at_most), .. } = way
        && *at_most < from
    {
        let _ = writeln!(
            text,
            "warning: by the damaged journal the first block to be read again is {at_most}; what of \
             the blocks before {from} could not be taken over is read by nobody: rebuild again with \
             --from {at_most}"
        );
    }
    text
}

/// Has a running supervisor restart the instance now: a parked one would be tried only after
/// minutes.
async fn go_on(name: &str, candidates: &Candidates) -> String {
    let request = Request::Restart { name: name.to_owned() };
    match control::ask(candidates, &request, DEADLINE).await {
        Ok(Answer::Done { lines, .. }) => lines.iter().map(|line| printable(line) + "\n").collect(),
        Ok(Answer::Refused { why } | Answer::Silent { why }) => {
            format!("the supervisor that runs does not start {name}: {}\n", printable(&why))
        }
        Ok(Answer::Status { .. } | Answer::Told { .. } | Answer::Absent { .. })
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
        let told = refused("a", &OpenError::Locked { path, pid: Some(7) }.into());
        assert!(told.contains("process 7") && told.contains("`kms-connector stop a`"), "{told}");
    }
}
