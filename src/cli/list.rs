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
    validate::count_problems,
};
use crate::{
    admin::status::InstanceStatus,
    config::{self, Config, Environment, LoadMode, Loaded, Problems},
    supervisor::{
        config_dir::snapshot,
        control::{AskError, SocketCandidates},
    },
    time::clock,
};

#[derive(Clone, Copy, Debug)]
pub(super) enum ListFormat {
    Plain,
    Long,
    Json,
}

pub(super) async fn list(
    config_dir: &Path,
    environment: &Environment,
    candidates: &SocketCandidates,
    full_path: bool,
    form: ListFormat,
) -> ExitStatus {
    let names = match paths::config_names(config_dir) {
        Ok(names) => names,
        Err(problems) => {
            print_error(problems);
            return ExitStatus::BadConfiguration;
        }
    };
    let full = |name: &str| {
        let path = config_dir.join(name);
        std::path::absolute(&path).unwrap_or(path)
    };
    let shown = |name: &str| {
        if full_path { full(name).display().to_string() } else { name.to_owned() }
    };
    let paths: Vec<PathBuf> = names.iter().map(|name| full(name)).collect();
    let loaded = || paths::load_all(&paths, environment, LoadMode::Supervise);
    for odd in snapshot::misnamed_entries(config_dir) {
        print_error(format_args!("warning: {odd}"));
    }
    match form {
        ListFormat::Plain => print(
            &names.iter().map(|name| shown(name) + "\n").collect::<String>(),
            ExitStatus::Success,
        ),
        ListFormat::Long => {
            let running = RunningInstances::ask(candidates).await;
            let header = [
                "FILE", "NAME", "STATUS", "CHAIN", "GATEWAY", "WALLET", "STATE", "SINCE",
                "RESTARTS",
            ];
            let mut rows = vec![header.map(str::to_owned)];
            for ((name, path), loaded) in names.iter().zip(&paths).zip(loaded()) {
                let file = if full_path { shown(name) } else { short(name) };
                rows.push(long_row(file, path, &loaded, running.of(path)));
                if let Err(problems) = loaded.as_ref()
                    && !problems.is_disabled()
                {
                    print_error(problems);
                }
            }
            print(&table(&rows), ExitStatus::Success)
        }
        ListFormat::Json => {
            let running = RunningInstances::ask(candidates).await;
            let files = names.iter().zip(&paths).zip(loaded());
            let entries: Vec<_> = files
                .map(|((name, path), loaded)| json_entry(name, path, loaded, running.of(path)))
                .collect();
            print(&format!("{:#}\n", serde_json::Value::from(entries)), ExitStatus::Success)
        }
    }
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

fn verdict(loaded: &Result<Loaded, Problems>) -> String {
    match loaded {
        Ok(loaded) if loaded.config.enabled => "ok".to_owned(),
        Ok(_) => "disabled".to_owned(),
        Err(problems) if problems.is_disabled() => "disabled".to_owned(),
        Err(problems) => count_problems(problems),
    }
}

fn long_row(
    shown: String,
    path: &Path,
    loaded: &Result<Loaded, Problems>,
    running: Option<&InstanceStatus>,
) -> [String; 9] {
    let of = |tell: fn(&Config) -> String| {
        loaded.as_ref().map_or_else(|_| "-".to_owned(), |loaded| tell(&loaded.config))
    };
    let name = loaded.as_ref().map_or_else(
        |_| "-".to_owned(),
        |loaded| {
            short(&config::instance_name(LoadMode::Supervise, None, Some(path), &loaded.config))
        },
    );
    let now = clock::unix_millis();
    let state =
        |tell: &dyn Fn(&InstanceStatus) -> String| running.map_or_else(|| "-".to_owned(), tell);
    [
        shown,
        name,
        verdict(loaded),
        of(|config| config.chain_id.to_string()),
        of(|config| config.gateway_url.to_string()),
        of(|config| describe_wallet(config.wallet.as_ref())),
        state(&|running| running.state.word().to_owned()),
        state(&|running| ago(now, running.since_ms)),
        state(&|running| running.restarts.to_string()),
    ]
}

fn json_entry(
    file: &str,
    path: &Path,
    loaded: Result<Loaded, Problems>,
    running: Option<&InstanceStatus>,
) -> serde_json::Value {
    let status = match &loaded {
        Ok(loaded) if loaded.config.enabled => "ok",
        Ok(_) => "disabled",
        Err(problems) if problems.is_disabled() => "disabled",
        Err(_) => "bad",
    };
    let mut entry =
        serde_json::json!({ "file": file, "path": path.display().to_string(), "status": status });
    match loaded {
        Ok(Loaded { config, warnings }) => {
            entry["name"] =
                config::instance_name(LoadMode::Supervise, None, Some(path), &config).into();
            entry["chain_id"] = config.chain_id.into();
            entry["gateway"] = config.gateways().into();
            entry["kms_core"] =
                (!config.observes()).then(|| config.kms_core_endpoint.to_string()).into();
            entry["decryption_address"] = config.decryption_address.to_string().into();
            entry["mode"] = if config.observes() { "observe" } else { "answer" }.into();
            entry["wallet"] = describe_wallet(config.wallet.as_ref()).into();
            entry["warnings"] = warnings.iter().map(ToString::to_string).collect();
        }
        Err(problems) => {
            entry["problems"] = problems.as_slice().iter().map(ToString::to_string).collect();
        }
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
