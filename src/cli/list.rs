//! `list`: the configurations of a directory, and the state of those that a supervisor runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    output::{ExitStatus, describe_wallet, print, print_error},
    paths,
    status::{self, StatusError},
    text::{ago, short, table},
    verdict::{ConfigDirCheck, Verdict},
};
use crate::{
    admin::status::InstanceStatus,
    config::{Config, Environment, Problems},
    supervisor::{
        claims::Collision,
        config_dir::snapshot::{self, DesiredInstance},
        control::{AskError, SocketCandidates},
    },
    time::clock,
};

/// Where configurations and journals are.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListDirs<'a> {
    pub(super) config_dir: &'a Path,
    /// The journals say which of two instances keeps a wallet.
    pub(super) state_dir: &'a Path,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ListFormat {
    Plain,
    Long,
    Json,
}

pub(super) async fn list(
    dirs: ListDirs<'_>,
    environment: &Environment,
    candidates: &SocketCandidates,
    full_path: bool,
    form: ListFormat,
) -> ExitStatus {
    let ListDirs { config_dir, state_dir } = dirs;
    for odd in snapshot::misnamed_entries(config_dir) {
        print_error(format_args!("warning: {odd}"));
    }
    if let ListFormat::Plain = form {
        return list_names(config_dir, full_path);
    }
    let check = ConfigDirCheck::load(config_dir, environment, state_dir);
    if let Some(problem) = &check.snapshot.problem {
        print_error(problem.to_problems(config_dir));
        return ExitStatus::BadConfiguration;
    }
    let running = RunningInstances::ask(candidates).await;
    let files = judged_files(config_dir, &check);
    if let ListFormat::Json = form {
        let entries: Vec<_> =
            files.iter().map(|file| json_entry(file, running.of(&file.path))).collect();
        return print(&format!("{:#}\n", serde_json::Value::from(entries)), ExitStatus::Success);
    }
    let header =
        ["FILE", "NAME", "STATUS", "CHAIN", "GATEWAY", "WALLET", "STATE", "SINCE", "RESTARTS"];
    let mut rows = vec![header.map(str::to_owned)];
    for file in &files {
        let shown =
            if full_path { file.path.display().to_string() } else { short(&file.file_name()) };
        rows.push(long_row(shown, file, running.of(&file.path)));
        match &file.verdict {
            Verdict::Bad(problems) => print_error(problems),
            Verdict::Conflict(collision) => {
                print_error(format_args!("{}: conflict: {collision}", file.name));
            }
            Verdict::Ok | Verdict::Disabled | Verdict::DisabledAndBad(_) => {}
        }
        if let Some(shared) = file.shared_core {
            print_error(format_args!("warning: {}: {shared}", file.name));
        }
    }
    print(&table(&rows), ExitStatus::Success)
}

/// Lists names only: no file is read.
fn list_names(config_dir: &Path, full_path: bool) -> ExitStatus {
    let names = match paths::config_names(config_dir) {
        Ok(names) => names,
        Err(problems) => {
            print_error(problems);
            return ExitStatus::BadConfiguration;
        }
    };
    if names.is_empty() {
        print_error(format_args!("warning: there is no configuration in {}", config_dir.display()));
    }
    let shown = |name: &String| {
        if full_path {
            absolute(&config_dir.join(name)).display().to_string()
        } else {
            name.clone()
        }
    };
    let text: String = names.iter().map(|name| shown(name) + "\n").collect();
    print(&text, ExitStatus::Success)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A file, and what a supervisor makes of it.
struct JudgedFile<'a> {
    name: &'a str,
    path: PathBuf,
    loaded: &'a Result<DesiredInstance, Problems>,
    verdict: Verdict<'a>,
    /// Another instance has its KMS Core, too.
    shared_core: Option<&'a Collision>,
}

impl JudgedFile<'_> {
    fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// In the order of their file names.
fn judged_files<'a>(config_dir: &Path, check: &'a ConfigDirCheck) -> Vec<JudgedFile<'a>> {
    let judged = check.snapshot.files.iter().map(|(name, loaded)| JudgedFile {
        name,
        path: absolute(&config_dir.join(format!("{name}.toml"))),
        loaded,
        verdict: Verdict::of(loaded, check.conflicts.get(name)),
        shared_core: check.shared_cores.get(name),
    });
    let mut judged: Vec<_> = judged.collect();
    judged.sort_by(|one, other| one.path.cmp(&other.path));
    judged
}

/// The instances of the running supervisor; empty if none answers.
struct RunningInstances(Vec<(PathBuf, InstanceStatus)>);

impl RunningInstances {
    async fn ask(candidates: &SocketCandidates) -> Self {
        let instances = match status::ask(candidates).await {
            Ok(status) => status.instances,
            // No supervisor runs: nothing to report. Any other error is worth a message.
            Err(StatusError::Ask(AskError::NotFound(miss))) if !miss.is_forbidden() => Vec::new(),
            Err(error) => {
                print_error(format_args!("the states are not known: {error}"));
                Vec::new()
            }
        };
        let with_file = |instance: InstanceStatus| {
            let file = instance.file.as_deref().map(canonical)?;
            Some((file, instance))
        };
        Self(instances.into_iter().filter_map(with_file).collect())
    }

    /// The instance with this file. A name alone may belong to another directory.
    fn of(&self, file: &Path) -> Option<&InstanceStatus> {
        let file = canonical(file);
        self.0.iter().find(|(known, _)| *known == file).map(|(_, instance)| instance)
    }
}

/// One path per file, however links lead to its directory. Links inside the directory stay: two of
/// them are two configurations.
fn canonical(file: &Path) -> PathBuf {
    let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else {
        return file.to_owned();
    };
    fs::canonicalize(directory).map_or_else(|_| file.to_owned(), |directory| directory.join(name))
}

fn long_row(shown: String, file: &JudgedFile<'_>, running: Option<&InstanceStatus>) -> [String; 9] {
    let of = |tell: fn(&Config) -> String| {
        file.loaded.as_ref().map_or_else(|_| "-".to_owned(), |wanted| tell(&wanted.config))
    };
    let now = clock::unix_millis();
    let state =
        |tell: &dyn Fn(&InstanceStatus) -> String| running.map_or_else(|| "-".to_owned(), tell);
    let verdict = match &file.verdict {
        // Its reason is a sentence, which is printed beside the table.
        verdict @ (Verdict::Disabled | Verdict::DisabledAndBad(_) | Verdict::Conflict(_)) => {
            verdict.word().to_owned()
        }
        verdict @ (Verdict::Ok | Verdict::Bad(_)) => verdict.to_string(),
    };
    [
        shown,
        short(file.name),
        verdict,
        of(|config| config.chain_id.to_string()),
        of(|config| config.gateway_url.to_string()),
        of(|config| describe_wallet(config.wallet.as_ref())),
        state(&|running| running.state.word().to_owned()),
        state(&|running| ago(now, running.since_ms)),
        state(&|running| running.restarts.to_string()),
    ]
}

fn json_entry(file: &JudgedFile<'_>, running: Option<&InstanceStatus>) -> serde_json::Value {
    let mut entry = serde_json::json!({
        "file": file.file_name(),
        "name": file.name,
        "path": file.path.display().to_string(),
        "status": file.verdict.word(),
    });
    match file.loaded {
        Ok(DesiredInstance { config, warnings, .. }) => {
            entry["chain_id"] = config.chain_id.into();
            entry["gateway"] = config.gateways().into();
            entry["kms_core"] =
                (!config.observes()).then(|| config.kms_core_endpoint.to_string()).into();
            entry["decryption_address"] = config.decryption_address.to_string().into();
            entry["mode"] = if config.observes() { "observe" } else { "answer" }.into();
            entry["wallet"] = describe_wallet(config.wallet.as_ref()).into();
            let warnings = warnings.iter().map(ToString::to_string);
            let shared = file.shared_core.map(ToString::to_string);
            entry["warnings"] = warnings.chain(shared).collect();
        }
        Err(problems) => {
            entry["problems"] = problems.as_slice().iter().map(ToString::to_string).collect();
        }
    }
    if let Verdict::Conflict(collision) = &file.verdict {
        entry["problems"] = vec![collision.to_string()].into();
    }
    if let Some(running) = running {
        entry["state"] = running.state.word().into();
        entry["since_ms"] = running.since_ms.into();
        entry["generation"] = running.generation.into();
        entry["restarts"] = running.restarts.into();
        entry["reload_failed"] = running.reload_failed.clone().into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that clash in their variables, and one wallet of two files: `list` shows what `validate
    /// --all` and a supervisor make of them.
    #[test]
    fn files_are_judged_together() {
        let (configs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = |wallet: u64| {
            format!(
                "gateway_url = \"ws://127.0.0.1:8545\"\nkms_core_endpoint = \"http://127.0.0.1:1\"\n\
                 chain_id = 4242\ndecryption_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa3\"\n\
                 gateway_config_address = \"0x5fbdb2315678afecb367f032d93f642f64180aa4\"\n\
                 private_key = \"{wallet:064x}\"\n"
            )
        };
        let files = [("a.1", text(1)), ("a", text(2)), ("a-1", text(3)), ("b", text(2))];
        for (name, text) in files {
            std::fs::write(configs.path().join(format!("{name}.toml")), text).unwrap();
        }
        std::fs::write(configs.path().join("c.toml"), "enabled = false\n").unwrap();
        let check = ConfigDirCheck::load(configs.path(), &Environment::default(), state.path());
        let judged = judged_files(configs.path(), &check);
        let words: Vec<(&str, &str)> =
            judged.iter().map(|file| (file.name, file.verdict.word())).collect();
        let expected =
            [("a-1", "ok"), ("a.1", "bad"), ("a", "ok"), ("b", "conflict"), ("c", "disabled")];
        assert_eq!(words, expected);
        let entry = json_entry(&judged[3], None);
        assert_eq!(entry["status"], "conflict");
        assert!(entry["problems"][0].as_str().unwrap().contains("instance a"), "{entry}");
        assert_eq!(long_row("b".to_owned(), &judged[3], None)[2], "conflict");
        // One Core for two wallets of one deployment runs, with a warning.
        let shared = judged.iter().filter(|file| file.shared_core.is_some());
        assert_eq!(shared.map(|file| file.name).collect::<Vec<_>>(), ["a-1"]);
        let warnings = json_entry(&judged[0], None)["warnings"].to_string();
        assert!(warnings.contains("is that of instance a too"), "{warnings}");
    }
}
