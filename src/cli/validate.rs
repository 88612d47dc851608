//! `validate`: one configuration as `start` reads it, or all as `supervise` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    Exit, complain, describe, places, print,
    surroundings::{self, Eyes},
};
use crate::{
    config::{self, Environment, Mode, Problems},
    journal::Keeper,
    supervisor::{
        directory::{self, Files, Look, Wanted},
        plan::{Configs, Desired, plan},
    },
};

/// One file: what it says, or everything that is wrong with it.
pub(super) fn one(file: &Path, config_dir: &Path, environment: &Environment) -> Exit {
    let loaded = places::find(file, config_dir)
        .and_then(|file| Ok((file.clone(), places::load(Some(file), environment.clone())?)));
    let (file, loaded) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(&problems);
            return Exit::BadConfiguration;
        }
    };
    for warning in &loaded.warnings {
        complain(format_args!("warning: {warning}"));
    }
    warn_of_the_rest(&Files::One { file: Some(file.clone()), name: None }, environment);
    let config = &loaded.config;
    let name = config::instance_name(Mode::Start, None, Some(&file), config);
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
        format!("wallet    {}", describe(config.wallet.as_ref())),
    ];
    if config.observes() {
        lines.push("mode      observe (nothing is asked, signed or sent)".to_owned());
    }
    if !config.enabled {
        lines.push("enabled   false (a supervisor does not run it)".to_owned());
    }
    print(&(lines.join("\n") + "\n"), Exit::Success)
}

/// A verdict per file on stdout, what is wrong on stderr.
pub(super) fn all(config_dir: &Path, environment: &Environment) -> Exit {
    let mut is_bad = false;
    if let Err(problems) = config::check_environment(environment) {
        is_bad = true;
        complain(problems);
    }
    let files = Files::Directory(config_dir.to_owned());
    let (look, settled) = directory::look_first(&files, environment, &[]);
    if let Some(problem) = look.problem {
        complain(config::unusable_directory(config_dir, problem));
        return Exit::BadConfiguration;
    }
    for warning in
        settled.odd_variables(environment).into_iter().chain(directory::misnamed(config_dir))
    {
        complain(format_args!("warning: {warning}"));
    }
    warn_of_the_rest(&files, environment);
    if look.files.is_empty() {
        complain(format_args!("warning: there is no configuration in {}", config_dir.display()));
    }
    let conflicts = conflicts(&look, &[]);
    let mut verdicts = String::new();
    for (name, file) in &look.files {
        let conflict = conflicts.get(name);
        is_bad |= file.is_err() || conflict.is_some();
        let verdict = verdict(file, conflict);
        verdicts.extend([name, ": ", &verdict, "\n"]);
        match file {
            Ok(wanted) => {
                for warning in &wanted.warnings {
                    complain(format_args!("warning: {warning}"));
                }
            }
            Err(problems) => complain(problems),
        }
    }
    print(&verdicts, if is_bad { Exit::BadConfiguration } else { Exit::Success })
}

/// Of what no file says: the process's variables, and who else can change what is trusted.
fn warn_of_the_rest(files: &Files, environment: &Environment) {
    for odd in config::odd_variables(environment) {
        complain(format_args!("warning: {odd}"));
    }
    for odd in surroundings::look(files, &places::state_dir(environment), Eyes::Command) {
        complain(format_args!("warning: {odd}"));
    }
}

fn verdict(file: &Result<Wanted, Problems>, conflict: Option<&String>) -> String {
    match (file, conflict) {
        (Err(problems), _) => match problems.as_slice().len() {
            1 => "1 problem".to_owned(),
            many => format!("{many} problems"),
        },
        (Ok(_), Some(conflict)) => format!("conflict: {conflict}"),
        (Ok(wanted), None) if !wanted.config.enabled => "ok (disabled)".to_owned(),
        (Ok(_), None) => "ok".to_owned(),
    }
}

/// Files that a supervisor which starts now would refuse for the sake of another.
pub(super) fn conflicts(look: &Look, keepers: &[Keeper]) -> BTreeMap<String, String> {
    let in_order = look.files.iter().filter_map(|(name, file)| Some((name, file.as_ref().ok()?)));
    let enabled = in_order.filter(|(_, wanted)| wanted.config.enabled);
    let files = enabled.map(|(name, wanted)| (name.clone(), wanted.config.clone())).collect();
    let desired = Desired { files, kept: Configs::new() };
    plan(&Configs::new(), &desired, &BTreeSet::new(), keepers).refused
}
