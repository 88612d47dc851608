//! `validate`: one configuration as `start` reads it, or all as `supervise` does.

use std::path::{Path, PathBuf};

use super::{
    output::{ExitStatus, describe_wallet, print, print_error},
    paths,
    permissions::{self, Viewer},
    verdict::{ConfigDirCheck, Verdict},
};
use crate::{
    config::{self, Environment, LoadMode, Problems},
    supervisor::config_dir::snapshot::{self, ConfigFiles},
};

/// Validates one file and prints its summary, or all of its problems.
pub(super) fn one(
    file: &Path,
    config_dir: &Path,
    state_dir: &Path,
    environment: &Environment,
) -> ExitStatus {
    let found = paths::find_telling(file, config_dir);
    let loaded = found.map_err(|problems| vec![problems.to_string()]).and_then(|file| {
        let supervised = SupervisedFile::read(file, config_dir, state_dir, environment);
        let loaded = paths::load(Some(supervised.file.clone()), environment.clone());
        let loaded = loaded.map_err(|problems| supervised.all_problems(&problems))?;
        Ok((supervised, loaded))
    });
    let (supervised, loaded) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.iter().for_each(print_error);
            return ExitStatus::BadConfiguration;
        }
    };
    let file = &supervised.file;
    let unmatched = paths::unmatched_variables(Some(file), config_dir, environment);
    for warning in loaded.warnings.iter().chain(&unmatched) {
        print_error(format_args!("warning: {warning}"));
    }
    supervised.notes().iter().for_each(print_error);
    let files = ConfigFiles::One { file: Some(file.clone()), name: None };
    warn_about_surroundings(&files, state_dir, environment);
    let config = &loaded.config;
    let name = config::instance_name(LoadMode::Start, None, Some(file), config);
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

/// A file as `supervise` reads it: it takes no default for a required key, and no variable that all
/// instances share.
struct SupervisedFile {
    file: PathBuf,
    /// Unless it is disabled.
    problems: Option<Problems>,
    /// Its name, and all files of the configuration directory, if it is one of them.
    directory: Option<(String, ConfigDirCheck)>,
}

impl SupervisedFile {
    fn read(file: PathBuf, config_dir: &Path, state_dir: &Path, environment: &Environment) -> Self {
        let load = |file: &PathBuf| {
            paths::load_as(Some(file.clone()), environment.clone(), LoadMode::Supervise).err()
        };
        let is_enabled = |problems: &Problems| !problems.is_disabled();
        let (Some(name), true) = (file.file_name(), paths::is_in(&file, config_dir)) else {
            let problems = load(&file).filter(is_enabled);
            return Self { file, problems, directory: None };
        };
        // One spelling of its path, so that both readings tell the same places.
        let file = config_dir.join(name);
        let check = ConfigDirCheck::load(config_dir, environment, state_dir);
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let problems = match check.snapshot.files.get(&name) {
            Some(read) => read.as_ref().err().cloned(),
            None => load(&file),
        };
        Self { file, problems: problems.filter(is_enabled), directory: Some((name, check)) }
    }

    /// The problems of a file that `start` refuses: those of both readings, each once.
    fn all_problems(&self, started: &Problems) -> Vec<String> {
        let Some(supervised) = &self.problems else { return vec![started.to_string()] };
        // Variables with an instance's name, which are advised there, count under `start` too.
        let (first, command, other) = match self.directory {
            Some(_) => (supervised, "start", started),
            None => (started, "supervise", supervised),
        };
        let more = other.besides(first);
        let more = more.map(|more| format!("note: `{command}` refuses it also for {more}"));
        std::iter::once(first.to_string()).chain(more).collect()
    }

    /// What `supervise` makes of a file that `start` takes.
    fn notes(&self) -> Vec<String> {
        let refused = self.problems.iter().map(|problems| {
            format!("note: `start` takes this file, `supervise` refuses it: {problems}")
        });
        let mut notes: Vec<String> = refused.collect();
        let Some((own, check)) = &self.directory else { return notes };
        for (name, collision) in &check.conflicts {
            if name == own {
                notes.push(format!("note: `supervise` refuses this file: {collision}"));
            } else if collision.other == *own {
                notes.push(format!(
                    "note: `supervise` refuses {name} because of this file: {collision}"
                ));
            }
        }
        let shared = check.shared_cores.iter();
        let shared = shared.filter(|(name, shared)| *name == own || shared.other == *own);
        notes.extend(shared.map(|(name, shared)| format!("warning: {name}: {shared}")));
        notes
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
    let ConfigDirCheck { snapshot: look, settled, conflicts, shared_cores } =
        ConfigDirCheck::load(config_dir, environment, state_dir);
    if let Some(problem) = look.problem {
        print_error(problem.to_problems(config_dir));
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
    for (name, shared) in &shared_cores {
        print_error(format_args!("warning: {name}: {shared}"));
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WHOLE: &str = "gateway_url = \"ws://127.0.0.1:8545\"\nkms_core_endpoint = \"http://127.0.0.1:1\"\n\
        chain_id = 4242\ndecryption_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"\n\
        gateway_config_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa4\"\n";

    struct Home {
        configs: tempfile::TempDir,
        state: tempfile::TempDir,
    }

    impl Home {
        fn new() -> Self {
            let temporary = || tempfile::tempdir().unwrap();
            Self { configs: temporary(), state: temporary() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let file = self.configs.path().join(name);
            fs::write(&file, text).unwrap();
            file
        }

        /// All that is told of a file but for its warnings.
        fn told(&self, file: &Path, config_dir: &Path) -> Vec<String> {
            let (environment, state_dir) = (Environment::default(), self.state.path());
            let supervised =
                SupervisedFile::read(file.to_owned(), config_dir, state_dir, &environment);
            match paths::load(Some(supervised.file.clone()), environment) {
                Ok(_) => supervised.notes(),
                Err(problems) => supervised.all_problems(&problems),
            }
        }
    }

    fn with_wallet(wallet: u64) -> String {
        format!("{WHOLE}private_key = \"{wallet:064x}\"\n")
    }

    /// A slip, and a key that is not there, for which `start` has a default.
    #[test]
    fn a_file_that_does_not_load_is_told_with_what_supervise_finds_too() {
        let home = Home::new();
        let text = with_wallet(1).replace("gateway_url", "gatway_url");
        let file = home.write("a.toml", &text.replace("chain_id = 4242\n", ""));
        let told = home.told(&file, home.configs.path());
        let [problems] = &told[..] else { panic!("{told:?}") };
        for words in ["2 problems", "chain_id: found nothing", "gatway_url: found an unknown"] {
            assert!(problems.contains(words), "{words}: {problems}");
        }
        // Elsewhere it is a file for `start`.
        let told = home.told(&file, home.state.path());
        let [problems, note] = &told[..] else { panic!("{told:?}") };
        assert!(problems.contains("1 problem") && problems.contains("gatway_url"), "{told:?}");
        assert!(note.contains("`supervise` refuses it also for 1 problem"), "{told:?}");
        assert!(note.contains("chain_id: found nothing"), "{told:?}");
    }

    #[test]
    fn of_a_file_in_the_directory_the_variable_of_its_instance_is_advised() {
        let home = Home::new();
        let file = home.write("node-1.toml", WHOLE);
        let told = home.told(&file, home.configs.path()).concat();
        assert!(told.contains("KMS_CONNECTOR_INSTANCE_NODE_1__PRIVATE_KEY"), "{told}");
        assert!(!told.contains("KMS_CONNECTOR_PRIVATE_KEY"), "{told}");
        let told = home.told(&file, home.state.path()).concat();
        assert!(told.contains("KMS_CONNECTOR_PRIVATE_KEY"), "{told}");
    }

    #[test]
    fn a_file_is_judged_beside_the_others_of_its_directory() {
        let home = Home::new();
        let first = home.write("a.toml", &with_wallet(1));
        assert_eq!(home.told(&first, home.configs.path()), [""; 0]);
        let second = home.write("b.toml", &with_wallet(1));
        let told = |file: &Path| home.told(file, home.configs.path()).concat();
        assert!(told(&first).contains("refuses b because of this file: its wallet"));
        assert!(told(&second).contains("refuses this file: its wallet"));
        assert_eq!(home.told(&second, home.state.path()), [""; 0]);
        // Two wallets on one Core run, and one of them in vain.
        home.write("b.toml", &with_wallet(2));
        for file in [&first, &second] {
            assert!(told(file).contains("warning: b: its KMS Core at http://127.0.0.1:1 is that"));
        }
    }
}
