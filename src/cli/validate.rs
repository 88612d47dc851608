//! `validate`: one configuration as `start` reads it, or all as `supervise` does.

use std::path::Path;

use super::{
    output::{ExitStatus, describe_wallet, print, print_error},
    paths,
    permissions::{self, Viewer},
    verdict::{ConfigDirCheck, Verdict},
};
use crate::{
    config::{self, Environment, LoadMode},
    supervisor::config_dir::snapshot::{self, ConfigFiles},
};

/// Validates one file and prints its summary, or all of its problems.
pub(super) fn one(
    file: &Path,
    config_dir: &Path,
    state_dir: &Path,
    environment: &Environment,
) -> ExitStatus {
    let loaded = paths::find_telling(file, config_dir)
        .and_then(|file| Ok((file.clone(), paths::load(Some(file), environment.clone())?)));
    let (file, loaded) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            print_error(&problems);
            return ExitStatus::BadConfiguration;
        }
    };
    let unmatched = paths::unmatched_variables(Some(&file), config_dir, environment);
    for warning in loaded.warnings.iter().chain(&unmatched) {
        print_error(format_args!("warning: {warning}"));
    }
    note_what_supervise_refuses(&file, environment);
    let files = ConfigFiles::One { file: Some(file.clone()), name: None };
    warn_about_surroundings(&files, state_dir, environment);
    let config = &loaded.config;
    let name = config::instance_name(LoadMode::Start, None, Some(&file), config);
    let core = if config.observes() {
        "none: it only observes".to_owned()
    } else {
        config.kms_core_endpoint.to_string()
    };
    let mut lines = vec![
        format!("{}: ok", file.display()),
        format!("name      {name}"),
        format!("chain id  {}", config.chain_id),
        format!("gateway   {}", config.gateways()),
        format!("core      {core}"),
        format!("wallet    {}", describe_wallet(config.wallet.as_ref())),
    ];
    if config.observes() {
        lines.push("mode      observe (nothing is asked, signed or sent)".to_owned());
    }
    if !config.enabled {
        lines.push("enabled   false (a supervisor does not run it)".to_owned());
    }
    print(&(lines.join("\n") + "\n"), ExitStatus::Success)
}

/// `supervise` takes no default for a required key, and no variable that all instances share.
fn note_what_supervise_refuses(file: &Path, environment: &Environment) {
    let file = Some(file.to_owned());
    let loaded = paths::load_as(file, environment.clone(), LoadMode::Supervise);
    if let Some(problems) = loaded.err().filter(|problems| !problems.is_disabled()) {
        print_error(format_args!(
            "note: `start` takes this file, `supervise` refuses it: {problems}"
        ));
    }
}

/// Validates all files. Prints a verdict per file to stdout, problems to stderr.
pub(super) fn all(config_dir: &Path, state_dir: &Path, environment: &Environment) -> ExitStatus {
    let mut is_bad = false;
    if let Err(problems) = config::check_environment(environment) {
        is_bad = true;
        print_error(problems);
    }
    let files = ConfigFiles::Directory(config_dir.to_owned());
    let ConfigDirCheck { snapshot: look, settled, conflicts } =
        ConfigDirCheck::load(config_dir, environment, state_dir);
    if let Some(problem) = look.problem {
        print_error(config::unusable_directory(config_dir, problem.to_string()));
        return ExitStatus::BadConfiguration;
    }
    for warning in settled
        .unused_variables(environment)
        .into_iter()
        .chain(snapshot::misnamed_entries(config_dir))
    {
        print_error(format_args!("warning: {warning}"));
    }
    warn_about_surroundings(&files, state_dir, environment);
    if look.files.is_empty() {
        print_error(format_args!("warning: there is no configuration in {}", config_dir.display()));
    }
    let mut verdicts = String::new();
    for (name, file) in &look.files {
        let verdict = Verdict::of(file, conflicts.get(name));
        is_bad |= verdict.is_bad();
        verdicts.extend([name, ": ", &verdict.to_string(), "\n"]);
        match file {
            Ok(wanted) => {
                for warning in &wanted.warnings {
                    print_error(format_args!("warning: {warning}"));
                }
            }
            Err(problems) if problems.is_disabled() => {
                for warning in problems.as_warnings() {
                    print_error(format_args!("warning: {warning}"));
                }
            }
            Err(problems) => print_error(problems),
        }
    }
    print(&verdicts, if is_bad { ExitStatus::BadConfiguration } else { ExitStatus::Success })
}

/// Warns about what is in no file: the process's variables, and paths that others can change.
fn warn_about_surroundings(files: &ConfigFiles, state_dir: &Path, environment: &Environment) {
    for odd in config::suspicious_variables(environment) {
        print_error(format_args!("warning: {odd}"));
    }
    for odd in permissions::find_exposures(files, state_dir, Viewer::Command) {
        print_error(format_args!("warning: {odd}"));
    }
}
