//! `start`: one connector, in the foreground.

use std::path::{Path, PathBuf};

use super::{Exit, complain, places};
use crate::{
    config::{self, Environment, Loaded, Mode, Problem, Problems, Warning},
    instance, supervisor,
};

pub(super) async fn start(
    file: Option<&Path>,
    config_dir: &Path,
    name: Option<&str>,
    state_dir: PathBuf,
    environment: Environment,
) -> Exit {
    let found = file.map(|file| places::find(file, config_dir)).transpose();
    let loaded = found.and_then(|file| Ok((file.clone(), places::load(file, environment)?)));
    let (file, loaded) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            log_problems(&problems);
            return Exit::BadConfiguration;
        }
    };
    let Loaded { config, warnings } = loaded;
    for warning in &warnings {
        log_warning(warning);
    }
    if !config.enabled {
        tracing::warn!("enabled = false keeps only a supervisor from running this configuration");
    }
    let name = config::instance_name(Mode::Start, name, file.as_deref(), &config);
    match supervisor::start(name, config, state_dir).await {
        Ok(instance::Exit::Stopped) => Exit::Success,
        Ok(instance::Exit::Refused { .. }) => Exit::BadConfiguration,
        Ok(
            instance::Exit::Failed { .. }
            | instance::Exit::Panicked { .. }
            | instance::Exit::Hung { .. },
        ) => Exit::Failure,
        Err(error) => {
            tracing::error!(%error, "cannot catch signals");
            Exit::Failure
        }
    }
}

fn log_warning(warning: &Warning) {
    let Warning { place, key, message } = warning;
    tracing::warn!(%place, key, warning = message, "configuration warning");
}

/// One event per problem; where no one listens to errors, plain text, since a process that ends
/// without a word is no answer.
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
