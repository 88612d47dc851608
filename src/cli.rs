//! The command line: arguments to actions, endings to exit codes.
//!
//! Results go to stdout and nothing else does; logs, warnings and problems go to stderr. The
//! environment comes in as a value. Nothing here ends the process: every command answers an
//! [`Exit`], and `main` returns it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};

use crate::config::{
    self, Config, Environment, Loaded, Mode, Place, Problem, Problems, Source, Wallet,
};
use crate::observe::logging;
use crate::supervisor::{Options, directory::Files};
use crate::{instance, supervisor};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success,
    Failure,
    /// The command line makes no sense.
    Usage,
    /// `EX_CONFIG` of sysexits.h: restarting does not help, mending the configuration does.
    BadConfiguration,
}

impl Exit {
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::BadConfiguration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

const AFTER_HELP: &str = "\
Environment:
  KMS_CONNECTOR_CONFIG_DIR  directory of configurations [default: ./config/environments]
  KMS_CONNECTOR_<KEY>       every key of a configuration (see config-base.toml)
  RUST_LOG                  what to log [default: info]

Exit codes: 0 success, 1 failure, 2 usage, 78 bad configuration";

/// Connects a KMS Core with the Gateway contracts of the Zama Protocol.
#[derive(Debug, Parser)]
#[command(name = "kms-connector", version = version(), after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
struct LogArgs {
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: logging::Format,
    /// Log what dependencies say, too. Their logs may show URLs with API keys.
    #[arg(long, global = true)]
    log_dependencies: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one connector, in the foreground.
    Start {
        /// The configuration; a relative path is also looked for in the configuration directory.
        /// Without it, the environment alone counts.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The instance's name [default: the file's name without .toml, else `service_name`].
        #[arg(short, long, value_parser = instance_name)]
        name: Option<String>,
        /// Where the journal is kept
        /// [default: `$KMS_CONNECTOR_STATE_DIR`, else `$STATE_DIRECTORY`, else ./state].
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// Run every configuration of the directory, watch the files, restart what fails.
    Supervise {
        #[arg(long, value_name = "DIR")]
        config_dir: Option<PathBuf>,
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// List the configurations in the configuration directory.
    List {
        /// Full paths instead of file names.
        #[arg(short, long)]
        full_path: bool,
        /// What each configuration says, as a table.
        #[arg(long)]
        long: bool,
        /// What each configuration says, as JSON.
        #[arg(long, conflicts_with = "long")]
        json: bool,
    },
    /// Check a configuration and tell everything that is wrong with it.
    Validate {
        /// The configuration; a relative path is also looked for in the configuration directory.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Version and commit.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("KMS_CONNECTOR_COMMIT").unwrap_or("unknown");
        format!("{} (commit {commit})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

fn instance_name(name: &str) -> Result<String, String> {
    let name = name.trim();
    if !config::is_instance_name(name) {
        return Err("a name has 1 to 128 printable characters".to_owned());
    }
    Ok(name.to_owned())
}

impl Cli {
    /// Reads the process's arguments. `Err` if that is the end already: help, version, or an
    /// error, each of which is printed.
    pub fn from_process() -> Result<Self, Exit> {
        Self::try_parse().map_err(|error| {
            // Help goes to stdout, errors to stderr; if either is closed there is no one to tell.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Success }
        })
    }

    /// What to log.
    #[must_use]
    pub fn log_settings(&self, environment: &Environment) -> logging::Settings {
        let filter = environment.get("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
        logging::Settings {
            format: self.log.log_format,
            dependencies: self.log.log_dependencies,
            filter,
            colours: logging::wants_colours(environment.get("NO_COLOR").is_some()),
        }
    }

    /// Does what was asked for.
    pub async fn run(self, environment: Environment) -> Exit {
        match self.command {
            Command::Start { config, name, state_dir } => {
                Box::pin(start(config.as_deref(), name.as_deref(), state_dir, environment)).await
            }
            Command::Supervise { config_dir: directory, state_dir, socket } => {
                let directory = directory.unwrap_or_else(|| config_dir(&environment));
                let state_dir = state_dir.unwrap_or_else(|| default_state_dir(&environment));
                let files = Files::Directory(directory);
                Box::pin(supervise(Options { files, state_dir, socket, environment })).await
            }
            Command::List { full_path, long, json } => {
                let form = match (json, long) {
                    (true, _) => Form::Json,
                    (false, true) => Form::Long,
                    (false, false) => Form::Plain,
                };
                list(&environment, full_path, form)
            }
            Command::Validate { config } => validate(&config, environment),
        }
    }
}

// ---- start

async fn start(
    file: Option<&Path>,
    name: Option<&str>,
    state_dir: Option<PathBuf>,
    environment: Environment,
) -> Exit {
    let state_dir = state_dir.unwrap_or_else(|| default_state_dir(&environment));
    let found = file.map(|file| find(file, &config_dir(&environment))).transpose();
    let file = match found {
        Ok(file) => file,
        Err(problems) => {
            log_problems(&problems);
            return Exit::BadConfiguration;
        }
    };
    let files = Files::One { file, name: name.map(str::to_owned) };
    supervise(Options { files, state_dir, socket: None, environment }).await
}

async fn supervise(options: Options) -> Exit {
    match supervisor::run(options).await {
        Ok(instance::Exit::Stopped) => Exit::Success,
        Ok(instance::Exit::Refused { .. }) => Exit::BadConfiguration,
        Ok(
            instance::Exit::Failed { .. }
            | instance::Exit::Panicked { .. }
            | instance::Exit::Hung { .. },
        ) => Exit::Failure,
        Err(supervisor::RunError::Configuration(problems)) => {
            log_problems(&problems);
            Exit::BadConfiguration
        }
        Err(error) => {
            tracing::error!(%error, "cannot start");
            Exit::Failure
        }
    }
}

/// systemd may give several state directories, parted by colons; the first is ours.
fn default_state_dir(environment: &Environment) -> PathBuf {
    if let Some(directory) = environment.get("KMS_CONNECTOR_STATE_DIR") {
        return directory.into();
    }
    let of_systemd = environment.get("STATE_DIRECTORY").map(|list| list.to_string_lossy());
    let first = of_systemd.as_deref().and_then(|list| list.split(':').next());
    PathBuf::from(first.filter(|first| !first.is_empty()).unwrap_or("./state"))
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

// ---- validate

fn validate(file: &Path, environment: Environment) -> Exit {
    let (file, loaded) = match find_and_load(Some(file), environment) {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(&problems);
            return Exit::BadConfiguration;
        }
    };
    for warning in &loaded.warnings {
        complain(format_args!("warning: {warning}"));
    }
    let config = &loaded.config;
    let name = config::instance_name(Mode::Start, None, file.as_deref(), config);
    let file = file.unwrap_or_default();
    let mut lines = vec![
        format!("{}: ok", file.display()),
        format!("name      {name}"),
        format!("chain id  {}", config.chain_id),
        format!("gateway   {}", config.gateway_url),
        format!("core      {}", config.kms_core_endpoint),
        format!("wallet    {}", describe(&config.wallet)),
    ];
    if !config.enabled {
        lines.push("enabled   false (a supervisor does not run it)".to_owned());
    }
    print(&(lines.join("\n") + "\n"))
}

fn describe(wallet: &Wallet) -> String {
    match wallet {
        Wallet::PrivateKey(key) => format!("private key, address {}", key.address()),
        Wallet::AwsKms { key_id, .. } => format!("AWS KMS, key {key_id}"),
    }
}

// ---- list

#[derive(Clone, Copy)]
enum Form {
    Plain,
    Long,
    Json,
}

fn list(environment: &Environment, full_path: bool, form: Form) -> Exit {
    let directory = config_dir(environment);
    let names = match config_names(&directory) {
        Ok(names) => names,
        Err(problems) => {
            complain(problems);
            return Exit::BadConfiguration;
        }
    };
    let full = |name: &str| {
        let path = directory.join(name);
        std::path::absolute(&path).unwrap_or(path)
    };
    let shown = |name: &str| {
        if full_path { full(name).display().to_string() } else { name.to_owned() }
    };
    match form {
        Form::Plain => print(&names.iter().map(|name| shown(name) + "\n").collect::<String>()),
        Form::Long => {
            let header = ["FILE", "NAME", "STATUS", "CHAIN", "GATEWAY", "WALLET"];
            let mut rows = vec![header.map(str::to_owned)];
            for name in &names {
                rows.push(long_row(shown(name), &directory.join(name), environment));
            }
            print(&table(&rows))
        }
        Form::Json => {
            let entries: Vec<_> =
                names.iter().map(|name| json_entry(name, &full(name), environment)).collect();
            print(&format!("{:#}\n", serde_json::Value::from(entries)))
        }
    }
}

/// The names of all `*.toml` in the directory, sorted; hidden files do not count.
fn config_names(directory: &Path) -> Result<Vec<String>, Problems> {
    let problem = |error: io::Error| {
        Problems::from(Problem {
            place: Place::File { path: directory.to_owned(), line: None, column: None },
            key: None,
            found: error.to_string(),
            allowed: "a readable directory of configurations".to_owned(),
            advice: "Set KMS_CONNECTOR_CONFIG_DIR to the right one".to_owned(),
        })
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(problem)? {
        let entry = entry.map_err(problem)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Editors leave `x.toml~` and `.x.toml.swp`; the suffix and the dot rule them out.
        let is_toml = name.strip_suffix(".toml").is_some_and(|stem| !stem.is_empty());
        let counts = is_toml && !name.starts_with('.');
        if counts && !entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn load_listed(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    config::load(&source(Some(path.to_owned()), environment.clone()))
}

fn status(loaded: &Result<Loaded, Problems>) -> String {
    match loaded {
        Ok(loaded) if loaded.config.enabled => "ok".to_owned(),
        Ok(_) => "disabled".to_owned(),
        Err(problems) if problems.as_slice().len() == 1 => "1 problem".to_owned(),
        Err(problems) => format!("{} problems", problems.as_slice().len()),
    }
}

fn long_row(shown: String, path: &Path, environment: &Environment) -> [String; 6] {
    let loaded = load_listed(path, environment);
    let of = |tell: fn(&Config) -> String| {
        loaded.as_ref().map_or_else(|_| "-".to_owned(), |loaded| tell(&loaded.config))
    };
    let name = loaded.as_ref().map_or_else(
        |_| "-".to_owned(),
        |loaded| config::instance_name(Mode::Start, None, Some(path), &loaded.config),
    );
    [
        shown,
        name,
        status(&loaded),
        of(|config| config.chain_id.to_string()),
        of(|config| config.gateway_url.to_string()),
        of(|config| describe(&config.wallet)),
    ]
}

fn json_entry(file: &str, path: &Path, environment: &Environment) -> serde_json::Value {
    let loaded = load_listed(path, environment);
    let status = match &loaded {
        Ok(loaded) if loaded.config.enabled => "ok",
        Ok(_) => "disabled",
        Err(_) => "bad",
    };
    let mut entry =
        serde_json::json!({ "file": file, "path": path.display().to_string(), "status": status });
    match loaded {
        Ok(Loaded { config, warnings }) => {
            entry["name"] = config::instance_name(Mode::Start, None, Some(path), &config).into();
            entry["chain_id"] = config.chain_id.into();
            entry["gateway"] = config.gateway_url.to_string().into();
            entry["kms_core"] = config.kms_core_endpoint.to_string().into();
            entry["decryption_address"] = config.decryption_address.to_string().into();
            entry["wallet"] = describe(&config.wallet).into();
            entry["warnings"] = warnings.iter().map(ToString::to_string).collect();
        }
        Err(problems) => {
            entry["problems"] = problems.as_slice().iter().map(ToString::to_string).collect();
        }
    }
    entry
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

// ---- what commands share

/// `KMS_CONNECTOR_CONFIG_DIR`, else `./config/environments`.
fn config_dir(environment: &Environment) -> PathBuf {
    let given = environment.get("KMS_CONNECTOR_CONFIG_DIR");
    given.map_or_else(|| PathBuf::from("./config/environments"), PathBuf::from)
}

fn source(file: Option<PathBuf>, environment: Environment) -> Source {
    let credentials_directory = environment.credentials_directory();
    Source { file, environment, credentials_directory, mode: Mode::Start }
}

fn find_and_load(
    file: Option<&Path>,
    environment: Environment,
) -> Result<(Option<PathBuf>, Loaded), Problems> {
    let file = match file {
        Some(file) => Some(find(file, &config_dir(&environment))?),
        None => None,
    };
    let loaded = config::load(&source(file.clone(), environment))?;
    Ok((file, loaded))
}

/// A relative file as given, then in the configuration directory.
fn find(file: &Path, directory: &Path) -> Result<PathBuf, Problems> {
    let candidates = [file.to_owned(), directory.join(file)];
    // What cannot be looked at counts as found: loading it tells why.
    let found = candidates.iter().find(|path| path.try_exists().unwrap_or(true));
    found.cloned().ok_or_else(|| {
        Problems::from(Problem {
            place: Place::File { path: file.to_owned(), line: None, column: None },
            key: None,
            found: if file.is_absolute() {
                "no such file".to_owned()
            } else {
                format!("no such file, here or in {}", directory.display())
            },
            allowed: "a configuration file".to_owned(),
            advice: "`kms-connector list` names those in the configuration directory".to_owned(),
        })
    })
}

/// A result to stdout. A reader that has seen enough (`list | head -1`) is no failure.
fn print(text: &str) -> Exit {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Exit::Success,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Success,
        Err(error) => {
            complain(format_args!("cannot write to stdout: {error}"));
            Exit::Failure
        }
    }
}

/// A line to stderr; if that is closed there is no one to tell.
fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
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
    fn the_state_directory_is_found() {
        let of = |variables: &[(&str, &str)]| {
            default_state_dir(&variables.iter().copied().collect::<Environment>())
        };
        let own = ("KMS_CONNECTOR_STATE_DIR", "/own");
        let systemd = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
        assert_eq!(of(&[own, systemd]), Path::new("/own"));
        assert_eq!(of(&[("KMS_CONNECTOR_STATE_DIR", ""), systemd]), Path::new("/var/lib/a"));
        assert_eq!(of(&[]), Path::new("./state"));
    }

    #[test]
    fn a_relative_file_is_looked_for_here_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("Cargo.toml"), "").unwrap();
        fs::write(directory.path().join("only-there.toml"), "").unwrap();
        let find = |file: &str| find(Path::new(file), directory.path());
        assert_eq!(find("Cargo.toml").unwrap(), Path::new("Cargo.toml"));
        assert_eq!(find("only-there.toml").unwrap(), directory.path().join("only-there.toml"));
        assert!(find("nowhere.toml").is_err());
        assert!(find("/nowhere.toml").is_err());
    }
}
