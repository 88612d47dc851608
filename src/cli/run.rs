//! `start` and `supervise`: the same supervisor, with one configuration or a directory of them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
};

use tokio::task::spawn_blocking;
use tracing::warn;

use super::{
    output::{Exit, complain},
    places,
    process::open_files,
    surroundings::{self, Eyes, Odd},
};
use crate::{
    config::{self, Environment, Mode, Problem, Problems, Warning},
    instance,
    observe::logging::Kept,
    supervisor::{self, Connectors, Options, RunError, directory::Files},
};

/// The options of a supervisor.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) state_dir: PathBuf,
    pub(super) socket: Option<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) listen_names: Vec<String>,
    pub(super) environment: Environment,
}

/// The one configuration of `start`.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) config: Option<PathBuf>,
    pub(super) config_dir: PathBuf,
    pub(super) name: Option<String>,
}

pub(super) async fn start(start: Start, places: Places, kept: Kept) -> Exit {
    let Start { config, config_dir, name } = start;
    match config.map(|file| places::find_telling(&file, &config_dir)).transpose() {
        Ok(file) => {
            let file = file.map(absolute);
            // For as long as the process lives: a reload does not give its instance another name.
            let name = name_of(file.as_deref(), name, &places.environment);
            run(Files::One { file, name }, places, kept).await
        }
        Err(problems) => refuse(&problems),
    }
}

/// The name of the one instance. `None`: only its configuration has one, and cannot be read.
pub(super) fn name_of(
    file: Option<&Path>,
    given: Option<String>,
    environment: &Environment,
) -> Option<String> {
    given.or_else(|| {
        let loaded = places::load(file.map(Path::to_owned), environment.clone()).ok()?;
        Some(config::instance_name(Mode::Start, None, file, &loaded.config))
    })
}

pub(super) async fn supervise(config_dir: PathBuf, places: Places, kept: Kept) -> Exit {
    run(Files::Directory(absolute(config_dir)), places, kept).await
}

/// A client that asks for the status may have another working directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

async fn run(files: Files, places: Places, kept: Kept) -> Exit {
    if let Err(error) = open_files::raise() {
        return cannot_start(&error);
    }
    let Places { state_dir, socket, listen, listen_names, environment } = places;
    for Warning { place, key, message } in config::odd_variables(&environment) {
        warn!(%place, key, warning = message, "configuration warning");
    }
    let telling = tell_who_else_writes(files.clone(), state_dir.clone());
    let options = Options { files, state_dir, socket, listen, listen_names, environment, kept };
    let mut supervising = pin!(supervisor::run(Connectors, options));
    // Runs beside the supervisor: a file system that does not answer must not delay start or stop.
    let ended = tokio::select! {
        ended = &mut supervising => ended,
        () = telling => supervising.await,
    };
    match ended {
        Ok(instance::Exit::Stopped) => Exit::Success,
        Ok(instance::Exit::Refused { .. }) => Exit::BadConfiguration,
        Ok(
            instance::Exit::Failed { .. }
            | instance::Exit::Panicked { .. }
            | instance::Exit::Hung { .. },
        ) => Exit::Failure,
        Err(RunError::Configuration(problems)) => refuse(&problems),
        Err(
            error @ (RunError::Late { .. }
            | RunError::Signals(_)
            | RunError::Control(_)
            | RunError::Http(_)),
        ) => cannot_start(&error),
    }
}

fn cannot_start(error: &dyn std::error::Error) -> Exit {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(%error, "cannot start");
    } else {
        complain(format_args!("cannot start: {error}"));
    }
    Exit::Failure
}

async fn tell_who_else_writes(files: Files, state_dir: PathBuf) {
    let look = move || surroundings::look(&files, &state_dir, Eyes::Service);
    // A panic was logged by the hook.
    let odd = spawn_blocking(look).await.unwrap_or_default();
    for Odd { path, why, remedy } in odd {
        warn!(path = %path.display(), why, remedy, "others can change what is trusted here");
    }
}

pub(super) fn refuse(problems: &Problems) -> Exit {
    log_problems(problems);
    Exit::BadConfiguration
}

/// Logs one event per problem. If errors are not logged, prints text: a process must not end
/// without a reason.
fn log_problems(problems: &Problems) {
    if !tracing::enabled!(tracing::Level::ERROR) {
        complain(problems);
        return;
    }
    for problem in problems.as_slice() {
        let Problem { place, key, found, allowed, advice } = problem;
        tracing::error!(%place, key, found, allowed, advice, "configuration problem");
    }
}
