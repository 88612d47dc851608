//! `start` and `supervise`: the same supervisor, with one configuration or a directory of them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
};

use tokio::task::spawn_blocking;
use tracing::warn;

use super::{
    output::{ExitStatus, print_error},
    paths,
    permissions::{self, Exposure, Viewer},
    process::open_files,
};
use crate::{
    config::{self, Environment, LoadMode, Place, Problem, Problems, Warning},
    instance,
    supervisor::{self, ConnectorRunner, Options, RunError, config_dir::snapshot::ConfigFiles},
    telemetry::logging::LogHandles,
};

/// The options of a supervisor.
#[derive(Debug)]
pub(super) struct ServiceOptions {
    pub(super) state_dir: PathBuf,
    pub(super) socket: Option<PathBuf>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) listen_names: Vec<String>,
    pub(super) environment: Environment,
}

/// The one configuration of `start`.
#[derive(Debug)]
pub(super) struct StartOptions {
    pub(super) config: Option<PathBuf>,
    pub(super) config_dir: PathBuf,
    pub(super) name: Option<String>,
}

pub(super) async fn start(
    start: StartOptions,
    places: ServiceOptions,
    kept: LogHandles,
) -> ExitStatus {
    let StartOptions { config, config_dir, name } = start;
    let is_alone = config.is_none();
    match config.map(|file| paths::find_telling(&file, &config_dir)).transpose() {
        Ok(file) => {
            let file = file.map(absolute);
            let unmatched =
                paths::unmatched_variables(file.as_deref(), &config_dir, &places.environment);
            log_warnings(unmatched);
            // Fixed for the life of the process: a reload does not rename the instance of `start`.
            let name = name_of(file.as_deref(), name, &places.environment);
            let ended = run(ConfigFiles::One { file, name }, places, kept).await;
            if is_alone && ended == ExitStatus::BadConfiguration {
                warn_environment_alone(&config_dir);
            }
            ended
        }
        Err(problems) => refuse(&problems),
    }
}

/// The name of the one instance. `None`: only its configuration gives one, and cannot be read.
pub(super) fn name_of(
    file: Option<&Path>,
    given: Option<String>,
    environment: &Environment,
) -> Option<String> {
    given.or_else(|| {
        let loaded = paths::load(file.map(Path::to_owned), environment.clone()).ok()?;
        Some(config::instance_name(LoadMode::Start, None, file, &loaded.config))
    })
}

pub(super) async fn supervise(
    config_dir: PathBuf,
    places: ServiceOptions,
    kept: LogHandles,
) -> ExitStatus {
    run(ConfigFiles::Directory(absolute(config_dir)), places, kept).await
}

/// A client that asks for the status may have another working directory.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

async fn run(files: ConfigFiles, places: ServiceOptions, kept: LogHandles) -> ExitStatus {
    if let Err(error) = open_files::raise() {
        return cannot_start(&error);
    }
    let ServiceOptions { state_dir, socket, listen, listen_names, environment } = places;
    log_warnings(config::suspicious_variables(&environment));
    let telling = warn_about_exposures(files.clone(), state_dir.clone());
    let options =
        Options { files, state_dir, socket, listen, listen_names, environment, log_handles: kept };
    let mut supervising = pin!(supervisor::run(ConnectorRunner, options));
    // Runs beside the supervisor: a file system that does not answer must not delay start or stop.
    let ended = tokio::select! {
        ended = &mut supervising => ended,
        () = telling => supervising.await,
    };
    match ended {
        Ok(instance::Exit::Stopped) => ExitStatus::Success,
        Ok(instance::Exit::Refused { .. }) => ExitStatus::BadConfiguration,
        Ok(
            instance::Exit::Failed { .. }
            | instance::Exit::Panicked { .. }
            | instance::Exit::Hung { .. },
        ) => ExitStatus::Failure,
        Err(RunError::Configuration(problems)) => refuse(&problems),
        Err(
            error @ (RunError::ConfigDirStalled { .. }
            | RunError::Signals(_)
            | RunError::Control(_)
            | RunError::Http(_)),
        ) => cannot_start(&error),
    }
}

/// A file may have been meant.
fn warn_environment_alone(config_dir: &Path) {
    let Some(note) = paths::note_environment_alone(config_dir) else { return };
    let message = format!("{note}: `start -c FILE` runs one of them, `supervise` all");
    log_warnings(vec![Warning { place: Place::Configuration, key: None, message }]);
}

fn log_warnings(warnings: Vec<Warning>) {
    for Warning { place, key, message } in warnings {
        warn!(%place, key, warning = message, "configuration warning");
    }
}

fn cannot_start(error: &dyn std::error::Error) -> ExitStatus {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(%error, "cannot start");
    } else {
        print_error(format_args!("cannot start: {error}"));
    }
    ExitStatus::Failure
}

async fn warn_about_exposures(files: ConfigFiles, state_dir: PathBuf) {
    let look = move || permissions::find_exposures(&files, &state_dir, Viewer::Service);
    // A panic was logged by the hook.
    let odd = spawn_blocking(look).await.unwrap_or_default();
    for Exposure { path, why, remedy } in odd {
        warn!(path = %path.display(), why, remedy, "other users can change what is trusted here");
    }
}

pub(super) fn refuse(problems: &Problems) -> ExitStatus {
    log_problems(problems);
    ExitStatus::BadConfiguration
}

/// Logs one event per problem. If errors are not logged, prints text: a process must not end
/// without a reason.
fn log_problems(problems: &Problems) {
    if !tracing::enabled!(tracing::Level::ERROR) {
        print_error(problems);
        return;
    }
    for problem in problems.as_slice() {
        let Problem { place, key, found, allowed, .. } = problem;
        let advice = problem.advice();
        tracing::error!(%place, key, found, allowed, advice, "configuration problem");
    }
}
