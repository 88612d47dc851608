//! `validate`: one configuration as `start` reads it, or all as `supervise` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{
    output::{ExitStatus, describe_wallet, print, print_error},
    paths,
    permissions::{self, Viewer},
};
use crate::{
    config::{self, Environment, LoadMode, Problems},
    journal::Keeper,
    supervisor::{
        config_dir::snapshot::{self, ConfigFiles, ConfigSnapshot, DesiredInstance, SettledFiles},
        plan::{Collision, Configs, Desired, plan},
    },
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
    for warning in &loaded.warnings {
        print_error(format_args!("warning: {warning}"));
    }
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
        let conflict = conflicts.get(name);
        is_bad |= conflict.is_some();
        let verdict = verdict(file, conflict);
        verdicts.extend([name, ": ", &verdict, "\n"]);
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
            Err(problems) => {
                is_bad = true;
                print_error(problems);
            }
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

/// For example `2 problems`.
pub(super) fn count_problems(problems: &Problems) -> String {
    match problems.as_slice().len() {
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    }
}

fn verdict(file: &Result<DesiredInstance, Problems>, conflict: Option<&Collision>) -> String {
    match (file, conflict) {
        (Err(problems), _) if problems.is_disabled() => {
            format!("disabled ({})", count_problems(problems))
        }
        (Err(problems), _) => count_problems(problems),
        (Ok(_), Some(conflict)) => format!("conflict: {conflict}"),
        (Ok(wanted), None) if !wanted.config.enabled => "ok (disabled)".to_owned(),
        (Ok(_), None) => "ok".to_owned(),
    }
}

/// All files of a directory, as a supervisor that starts now would read them.
pub(super) struct ConfigDirCheck {
    pub(super) snapshot: ConfigSnapshot,
    pub(super) settled: SettledFiles,
    /// Instances that would be refused because of another one, and why.
    pub(super) conflicts: BTreeMap<String, Collision>,
}

impl ConfigDirCheck {
    /// Reads the files. An instance that had a name or a wallet before keeps it, according to the
    /// journals. Blocks.
    pub(super) fn load(config_dir: &Path, environment: &Environment, state_dir: &Path) -> Self {
        let files = ConfigFiles::Directory(config_dir.to_owned());
        let keepers = paths::read_keepers(state_dir);
        let (snapshot, settled) = snapshot::first_snapshot(&files, environment, &keepers);
        let conflicts = conflicts(&snapshot, &keepers);
        Self { snapshot, settled, conflicts }
    }
}

fn conflicts(look: &ConfigSnapshot, keepers: &[Keeper]) -> BTreeMap<String, Collision> {
    let in_order = look.files.iter().filter_map(|(name, file)| Some((name, file.as_ref().ok()?)));
    let enabled = in_order.filter(|(_, wanted)| wanted.config.enabled);
    let files = enabled.map(|(name, wanted)| (name.clone(), wanted.config.clone())).collect();
    let is_bad = |file: &Result<DesiredInstance, Problems>| {
        file.as_ref().is_err_and(|problems| !problems.is_disabled())
    };
    let bad = look.files.iter().filter(|(_, file)| is_bad(file));
    let broken = bad.map(|(name, _)| name.clone()).collect();
    let desired = Desired { files, broken, ..Desired::default() };
    plan(&Configs::new(), &desired, &BTreeSet::new(), keepers).refused
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn d3_who_kept_the_wallets_journal_is_not_the_one_to_be_refused() {
        let (configs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = "gateway_url = \"ws://127.0.0.1:8545\"\nkms_core_endpoint = \"http://127.0.0.1:1\"\n\
             chain_id = 4242\ndecryption_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"\n\
             gateway_config_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa4\"\n\
             private_key = \"4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318\"\n";
        for name in ["0b.toml", "b.toml"] {
            fs::write(configs.path().join(name), text).unwrap();
        }
        let refused = || {
            let look = ConfigDirCheck::load(configs.path(), &Environment::default(), state.path());
            look.conflicts.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(refused(), ["b"]);
        let wallet = "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23";
        let lock = state.path().join(format!("4242-{}-{wallet}.lock", "0".repeat(16)));
        fs::write(lock, "4711\nb\n").unwrap();
        assert_eq!(refused(), ["0b"]);
        fs::write(configs.path().join("b.toml"), "a slip").unwrap();
        assert_eq!(refused(), ["0b"]);
    }
}
