//! The command line: maps arguments to actions and results to exit codes.
//!
//! Only results go to stdout; logs, warnings and problems go to stderr. The environment comes in as
//! a value. Nothing here ends the process: every command returns an [`ExitStatus`], and `main` returns
//! it.
//!
//! The doc comments of commands and options are the help texts.

mod args;
mod output;
mod paths;
mod target;
mod permissions;
mod process;
mod run;
mod list;
mod validate;
mod verdict;
mod status;
mod status_text;
mod operate;
mod journal;
mod requests;
mod health;
mod text;
mod check;
mod config;
mod guide;
mod explain;
mod manual;

use std::{path::PathBuf, sync::LazyLock};

use clap::Parser;

use self::{
    args::{
        Command, DEFAULT_LISTEN, JournalCommand, ListRequestsArgs, Listen, ListenArgs, LogArgs,
        RequestsArgs, RequestsCommand, StateArgs,
    },
    output::colours,
    target::ConfigTarget,
};
pub use self::{
    output::ExitStatus,
    process::{TooFewThreads, enough_threads},
};
use crate::{
    admin::build::COMMIT,
    config::Environment,
    supervisor::control::{self, Request, SocketCandidates},
    telemetry::{logging, traces},
};

const AFTER_HELP: &str = "\
Environment:
  KMS_CONNECTOR_CONFIG_DIR  configuration directory [default: see --config-dir]
  KMS_CONNECTOR_STATE_DIR   directory of the journals [default: see --state-dir]
  KMS_CONNECTOR_LISTEN      HTTP listener: health, metrics, status page [default: see --listen]
  KMS_CONNECTOR_LISTEN_NAMES
                            host names of the status page, separated by commas
  KMS_CONNECTOR_<KEY>       every key of a configuration (see config-base.toml)
  RUNTIME_DIRECTORY, STATE_DIRECTORY, CREDENTIALS_DIRECTORY
                            set by systemd: control socket, journals, private keys
  RUST_LOG                  log filter [default: info]
  OTEL_EXPORTER_OTLP_ENDPOINT
                            collector of traces, over HTTP [default: none]
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                            proxies for nodes, buckets and AWS; none is used for the KMS Core
  NO_COLOR                  no colours on a terminal

Exit codes: 0 success, 1 failure (status: an operator should act), 2 usage, 78 invalid configuration";

/// Connects a KMS Core with the Gateway contracts of the Zama Protocol.
#[derive(Debug, Parser)]
#[command(name = "kms-connector", version = version(), after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

/// Version and commit.
fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{} (commit {COMMIT})", env!("CARGO_PKG_VERSION")));
    &VERSION
}

/// The trace export from the environment. `name`: that of the one instance.
fn traced(
    environment: &Environment,
    name: impl FnOnce() -> Option<String>,
) -> Option<Result<traces::Settings, String>> {
    let get = |name: &str| environment.get(name).map(|text| text.to_string_lossy().into_owned());
    traces::Settings::read(get, name).transpose()
}

impl Cli {
    /// Parses the process's arguments. `Err`: help, version or an error, which is printed already.
    pub fn from_process() -> Result<Self, ExitStatus> {
        Self::try_parse().map_err(|error| {
            // Help goes to stdout, errors to stderr. A closed stream is no reason to fail.
            let _ = error.print();
            if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Success }
        })
    }

    /// The settings of the log.
    #[must_use]
    pub fn log_settings(&self, environment: &Environment) -> logging::Settings {
        let filter = environment.get("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
        let filter = filter.or_else(|| self.command.own_filter().map(str::to_owned));
        logging::Settings {
            format: self.log.log_format,
            dependencies: self.log.log_dependencies,
            filter,
            colours: logging::wants_colours(environment.get("NO_COLOR").is_some()),
            traces: match &self.command {
                Command::Start { config, name, .. } => traced(environment, || {
                    let config_dir = paths::config_dir(environment);
                    let found = |file: &PathBuf| paths::find_file(file, &config_dir).ok();
                    let file = config.as_ref().and_then(found);
                    run::name_of(file.as_deref(), name.clone(), environment)
                }),
                Command::Supervise { .. } => traced(environment, || None),
                Command::List { .. }
                | Command::Validate { .. }
                | Command::Status { .. }
                | Command::Reload { .. }
                | Command::Restart { .. }
                | Command::Stop { .. }
                | Command::Journal { .. }
                | Command::Requests { .. }
                | Command::Backfill { .. }
                | Command::Check { .. }
                | Command::Config { .. }
                | Command::Completions { .. }
                | Command::Health { .. }
                | Command::Explain { .. }
                | Command::Man { .. } => None,
            },
        }
    }

    /// Runs the command. `kept`: handles of the log.
    pub async fn run(self, environment: Environment, kept: logging::LogHandles) -> ExitStatus {
        process::core_dumps::forbid();
        if let Err(problems) = crate::config::check_directory_variables(&environment) {
            return run::refuse(&problems);
        }
        match self.command {
            Command::Start { config, name, listen, supervisor } => {
                let config_dir = paths::config_dir(&environment);
                let start = run::StartOptions { config, config_dir, name };
                match supervisor.service_options(&listen, Listen::Nowhere, environment) {
                    Ok(places) => Box::pin(run::start(start, places, kept)).await,
                    Err(problems) => run::refuse(&problems),
                }
            }
            Command::Supervise { configs, listen, supervisor } => {
                let config_dir = configs.config_dir(&environment);
                match supervisor.service_options(&listen, DEFAULT_LISTEN, environment) {
                    Ok(places) => Box::pin(run::supervise(config_dir, places, kept)).await,
                    Err(problems) => run::refuse(&problems),
                }
            }
            Command::List { full_path, long, json, configs, supervisor } => {
                let form = match (json, long) {
                    (true, _) => list::ListFormat::Json,
                    (false, true) => list::ListFormat::Long,
                    (false, false) => list::ListFormat::Plain,
                };
                let candidates = supervisor.candidates(&environment);
                let config_dir = configs.find(&environment, &candidates).await;
                let state_dir = supervisor.state.find(&environment, &candidates).await;
                let dirs = list::ListDirs { config_dir: &config_dir, state_dir: &state_dir };
                list::list(dirs, &environment, &candidates, full_path, form).await
            }
            Command::Validate { config, all: _, configs } => {
                let candidates = default_candidates(&environment);
                let config_dir = configs.find(&environment, &candidates).await;
                let state = StateArgs { state_dir: None };
                let state_dir = state.find(&environment, &candidates).await;
                match config {
                    Some(file) => validate::one(&file, &config_dir, &state_dir, &environment),
                    None => validate::all(&config_dir, &state_dir, &environment),
                }
            }
            Command::Status { name, json, watch, supervisor } => {
                let colours = colours(&environment);
                let wish = status::StatusOptions { name, json, watch, colours };
                status::status(wish, &supervisor.candidates(&environment)).await
            }
            Command::Reload { name, supervisor } => {
                let request = Request::Reload { name };
                operate::operate(request, &supervisor.candidates(&environment)).await
            }
            Command::Restart { name, supervisor } => {
                let request = Request::Restart { name };
                operate::operate(request, &supervisor.candidates(&environment)).await
            }
            Command::Stop { name, supervisor } => {
                let request = Request::Stop { name };
                operate::operate(request, &supervisor.candidates(&environment)).await
            }
            Command::Journal { command } => command.run(environment).await,
            Command::Health { instance, listen } => {
                ListenArgs { listen, listen_name: Vec::new() }.health(instance, environment).await
            }
            Command::Requests { command: Some(command), .. } => {
                Box::pin(command.run(&environment)).await
            }
            Command::Requests { command: None, list } => {
                Box::pin(RequestsCommand::List(list).run(&environment)).await
            }
            Command::Backfill { from, to, chain, whose } => {
                requests::backfill(whose.target(&environment), (from, to), chain).await
            }
            Command::Check { config, all, instance, json, configs, state } => {
                let which = (!all).then(|| ConfigTarget::given(instance, config));
                let form = check::OutputOptions { json, colours: colours(&environment) };
                let candidates = default_candidates(&environment);
                let places = check::CheckContext {
                    config_dir: configs.find(&environment, &candidates).await,
                    state_dir: state.find(&environment, &candidates).await,
                    environment,
                };
                Box::pin(check::check(which, places, form)).await
            }
            Command::Config { config, instance, json, configs } => {
                let candidates = default_candidates(&environment);
                let config_dir = configs.find(&environment, &candidates).await;
                let which = ConfigTarget::given(instance, config);
                config::config(&which, &config_dir, environment, json)
            }
            Command::Completions { shell } => manual::completions(shell),
            Command::Explain { words } => explain::explain(&words),
            Command::Man { section } => manual::page(section),
        }
    }
}

/// The default candidates for the control socket.
fn default_candidates(environment: &Environment) -> SocketCandidates {
    control::candidates(None, environment, &paths::state_dir(environment))
}

impl JournalCommand {
    async fn run(self, environment: Environment) -> ExitStatus {
        let Self::Rebuild { from, chain, instance, config, configs, supervisor } = self;
        let whose = ConfigTarget::given(instance, config);
        let candidates = supervisor.candidates(&environment);
        let places = journal::RebuildContext {
            config_dir: configs.find(&environment, &candidates).await,
            state_dir: supervisor.state.find(&environment, &candidates).await,
            candidates,
            environment,
        };
        journal::rebuild(whose, (from, chain), places).await
    }
}

impl RequestsCommand {
    async fn run(self, environment: &Environment) -> ExitStatus {
        match self {
            Self::List(ListRequestsArgs { which, limit, json, instance, supervisor }) => {
                let Some(instance) = instance else { return ExitStatus::Usage };
                let whose = RequestsArgs { instance, supervisor }.target(environment);
                requests::list(whose, which.filter(), limit, json).await
            }
            Self::Show { id, json, whose } => {
                requests::show_one(whose.target(environment), id, json).await
            }
            Self::Retry { id, json, whose } => {
                requests::retry(whose.target(environment), id, json).await
            }
            Self::Approve { id, json, whose } => {
                requests::approve(whose.target(environment), id, json).await
            }
            Self::Export { which, whose } => {
                requests::export(whose.target(environment), which.filter()).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn validate_wants_one_file_or_all() {
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        let told = parse("kms-connector validate").map(drop).unwrap_err().to_string();
        assert!(told.contains("--config <FILE>") && told.contains("--all"), "{told}");
        assert!(parse("kms-connector validate --all -c a.toml").is_err());
        for one in ["--all", "-c a.toml"] {
            parse(&format!("kms-connector validate {one}")).unwrap();
        }
    }

    #[test]
    fn requests_lists_unless_told_otherwise() {
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        for line in ["--instance a --held", "list --instance a --held"] {
            let command = parse(&format!("kms-connector requests {line}")).unwrap().command;
            let Command::Requests { command, list } = command else { panic!("{command:?}") };
            let list = match command {
                None => list,
                Some(RequestsCommand::List(list)) => list,
                Some(other) => panic!("{other:?}"),
            };
            assert_eq!((list.instance.as_deref(), list.limit), (Some("a"), 100));
            assert_eq!(list.which.filter(), requests::ListFilter::Held);
        }
        parse("kms-connector requests show 0x7 --instance a --json").unwrap();
        parse("kms-connector requests export --all --instance a").unwrap();
        for wrong in [
            "requests",
            "requests list",
            "requests show 7",
            "requests --instance a --held --all",
            "requests --instance a --limit 0",
            "backfill --instance a",
            "backfill --from 7",
        ] {
            let error = parse(&format!("kms-connector {wrong}")).map(drop).unwrap_err();
            assert!(error.use_stderr(), "{wrong}");
        }
    }
}
