//! The command line: maps arguments to actions and results to exit codes.
//!
//! Only results go to stdout; logs, warnings and problems go to stderr. The environment comes in as
//! a value. Nothing here ends the process: every command returns an [`Exit`], and `main` returns
//! it.
//!
//! The doc comments of commands and options are the help texts.

mod places;
mod surroundings;
mod limits;
mod dumps;
mod open_files;
mod threads;
mod run;
mod list;
mod validate;
mod status;
mod report;
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

use std::{
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::LazyLock,
};

use clap::{Args, Parser, Subcommand};

pub use self::threads::{TooFewThreads, enough_threads};
use crate::{
    config::{Environment, Place, Problem, Problems, Wallet, is_instance_name},
    observe::{logging, traces},
    supervisor::control::{self, Candidates, Request},
};

/// The exit status of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success,
    Failure,
    /// The command line is invalid.
    Usage,
    /// `EX_CONFIG` of sysexits.h: a restart does not help, fixing the configuration does.
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
  KMS_CONNECTOR_CONFIG_DIR  directory of configurations [default: see --config-dir]
  KMS_CONNECTOR_STATE_DIR   where journals are kept [default: see --state-dir]
  KMS_CONNECTOR_LISTEN      where health, metrics and the status page are [default: see --listen]
  KMS_CONNECTOR_LISTEN_NAMES
                            names by which browsers may look at the page, parted by commas
  KMS_CONNECTOR_<KEY>       every key of a configuration (see config-base.toml)
  RUNTIME_DIRECTORY, STATE_DIRECTORY, CREDENTIALS_DIRECTORY
                            set by systemd: control socket, journals, private keys
  RUST_LOG                  what to log [default: info]
  OTEL_EXPORTER_OTLP_ENDPOINT
                            where traces go, over HTTP [default: nowhere]
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                            the way out to nodes, buckets and AWS; not to the KMS Core
  NO_COLOR                  no colours on a terminal

Exit codes: 0 success, 1 failure (status: something is not well), 2 usage, 78 bad configuration";

/// Connects a KMS Core with the Gateway contracts of the Zama Protocol.
#[derive(Debug, Parser)]
#[command(name = "kms-connector", version = version(), after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

/// The heading that separates log options from those of a command.
const LOG: &str = "Log options";

/// Options of every command.
#[derive(Debug, Args)]
struct LogArgs {
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT",
        help_heading = LOG)]
    log_format: logging::Format,
    /// Log what dependencies say, too. Their logs may show URLs with API keys.
    #[arg(long, global = true, help_heading = LOG)]
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
        #[command(flatten)]
        listen: ListenArgs,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Run every configuration of the configuration directory, in the foreground.
    ///
    /// Files are watched: a new one is an instance more, a changed one replaces its instance, a
    /// removed one ends it. What fails is started again; a bad file leaves what ran before.
    Supervise {
        #[command(flatten)]
        configs: ConfigArgs,
        #[command(flatten)]
        listen: ListenArgs,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// List the configurations in the configuration directory.
    List {
        /// Full paths instead of file names.
        #[arg(short, long)]
        full_path: bool,
        /// What each configuration says and how its instance is, as a table.
        #[arg(long)]
        long: bool,
        /// The same as JSON.
        #[arg(long, conflicts_with = "long")]
        json: bool,
        #[command(flatten)]
        configs: ConfigArgs,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Check configurations and tell everything that is wrong with them.
    Validate {
        /// One configuration, as `start` reads it; a relative path is also looked for in the
        /// configuration directory.
        #[arg(short, long, value_name = "FILE", required_unless_present = "all")]
        config: Option<PathBuf>,
        /// All in the configuration directory, together, as `supervise` reads them.
        #[arg(long, conflicts_with = "config")]
        all: bool,
        #[command(flatten)]
        configs: ConfigArgs,
    },
    /// Tell how the running supervisor and its instances are.
    ///
    /// Ends with 1 if an instance that should be up is parked or backing off, if files could not be
    /// applied, or if no supervisor answers. With a name, only that instance counts.
    Status {
        /// Everything about this instance [default: all of them at a glance].
        #[arg(value_parser = instance_name)]
        name: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Again every second, until Ctrl-C.
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Have the files read again, now.
    Reload {
        /// Try this instance's file again even if it failed and has not changed.
        #[arg(value_parser = instance_name)]
        name: Option<String>,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// End an instance and start it again, also one that is parked, backing off or stopped.
    Restart {
        /// The instance: its file's name without .toml.
        #[arg(value_parser = instance_name)]
        name: String,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Drain an instance and keep it down until it is restarted, its file changes, or the supervisor
    /// restarts.
    Stop {
        /// The instance: its file's name without .toml.
        #[arg(value_parser = instance_name)]
        name: String,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// What can be done to the journal of an instance that does not run.
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Tell whether the connector that listens here is ready, for a container's health check.
    ///
    /// Asks the HTTP listener. Ends with 1 if it is not ready or does not answer, and says why.
    Health {
        /// This instance alone [default: all that should run].
        #[arg(long, value_name = "NAME", value_parser = instance_name)]
        instance: Option<String>,
        /// Where the connector listens
        /// [default: `$KMS_CONNECTOR_LISTEN`, else 127.0.0.1:9478].
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<Listen>,
    },
    /// Tell what an instance has in hand, holds or refused; try one again.
    ///
    /// A running instance answers over the control socket; of one that does not run the journal is
    /// read. Without a subcommand: list.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Requests {
        #[command(subcommand)]
        command: Option<RequestsCommand>,
        #[command(flatten)]
        list: ListRequests,
    },
    /// Have a running instance read blocks again.
    ///
    /// Requests that it does not know are stored and answered, known ones stay as they are. May be
    /// ended at any time and called again.
    Backfill {
        /// The first block.
        #[arg(long, value_name = "BLOCK")]
        from: u64,
        /// The last block [default: the last one that was read].
        #[arg(long, value_name = "BLOCK")]
        to: Option<u64>,
        #[command(flatten)]
        whose: WhoseRequests,
    },
    /// Look at all that a configuration needs in the world, and say what to do about it.
    ///
    /// Sends nothing and changes nothing; an instance of the same configuration may run meanwhile.
    /// Ends with 1 if something does not work, with 78 if a configuration is bad.
    Check {
        /// One configuration, as `start` reads it; a relative path is also looked for in the
        /// configuration directory. With none of these three, the environment alone counts.
        #[arg(short, long, value_name = "FILE", conflicts_with_all = ["all", "instance"])]
        config: Option<PathBuf>,
        /// All in the configuration directory, together, as `supervise` reads them.
        #[arg(long, conflicts_with = "instance")]
        all: bool,
        /// The instance of this name in the configuration directory, as `supervise` reads it.
        #[arg(long, value_name = "NAME", value_parser = instance_name)]
        instance: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        configs: ConfigArgs,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Print the effective configuration, each value with its source; secrets are masked.
    Config {
        /// The configuration, as `start` reads it; a relative path is also looked for in the
        /// configuration directory. With neither, the environment alone counts.
        #[arg(short, long, value_name = "FILE", conflicts_with = "instance")]
        config: Option<PathBuf>,
        /// The instance of this name in the configuration directory, as `supervise` reads it.
        #[arg(long, value_name = "NAME", value_parser = instance_name)]
        instance: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        configs: ConfigArgs,
    },
    /// Print what a shell needs to complete these commands.
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Explain a reason to hold a request, an outcome, a state, a code, or a message of the log.
    ///
    /// Says what it means, what is lost, and what to do. Without words: a list. Ends with 2 if nothing
    /// has that name.
    Explain {
        /// As `requests`, `status`, metrics or the log show it.
        words: Vec<String>,
    },
    /// Print a manual page: 1 is this command line, 7 is what is wrong and what to do.
    Man {
        #[arg(value_enum, default_value_t = manual::Section::Commands)]
        section: manual::Section,
    },
}

impl Command {
    /// The log filter unless `RUST_LOG` is set; `None`: the default.
    fn own_filter(&self) -> Option<&'static str> {
        // Its findings report everything; log lines in between would repeat them.
        matches!(self, Self::Check { .. }).then_some("off")
    }
}

#[derive(Debug, Subcommand)]
enum RequestsCommand {
    /// What is unfinished, and what ended without an answer in the last day.
    List(ListRequests),
    /// Everything about the requests of one id.
    Show {
        /// As the chain writes it: 0x and hex digits, or decimal.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: WhoseRequests,
    },
    /// Try the requests of one id again: held ones, and those that ended without an answer.
    Retry {
        /// As the chain writes it: 0x and hex digits, or decimal.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: WhoseRequests,
    },
    /// All there is about them as lines of JSON, to be looked at elsewhere.
    Export {
        #[command(flatten)]
        which: WhichRequests,
        #[command(flatten)]
        whose: WhoseRequests,
    },
}

/// What `requests list` takes.
#[derive(Debug, Args)]
struct ListRequests {
    #[command(flatten)]
    which: WhichRequests,
    /// Show at most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// The instance.
    // Optional here because clap parses this struct for the other subcommands, too.
    #[arg(long, value_name = "NAME", value_parser = instance_name, required = true)]
    instance: Option<String>,
    #[command(flatten)]
    supervisor: SupervisorArgs,
}

/// Which requests.
#[derive(Debug, Args)]
struct WhichRequests {
    /// Only held ones.
    #[arg(long, conflicts_with_all = ["refused", "all"])]
    held: bool,
    /// Only those that ended without an answer (refused, expired, orphaned), however long ago.
    #[arg(long, conflicts_with = "all")]
    refused: bool,
    /// All that the journal has, answered ones included.
    #[arg(long)]
    all: bool,
}

impl WhichRequests {
    fn which(&self) -> requests::Which {
        match (self.held, self.refused, self.all) {
            (true, ..) => requests::Which::Held,
            (_, true, _) => requests::Which::Refused,
            (_, _, true) => requests::Which::All,
            (false, false, false) => requests::Which::Open,
        }
    }
}

/// Whose requests.
#[derive(Debug, Args)]
struct WhoseRequests {
    /// The instance.
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    instance: String,
    #[command(flatten)]
    supervisor: SupervisorArgs,
}

impl WhoseRequests {
    fn places(self, environment: &Environment) -> requests::Whose {
        let state_dir = self.supervisor.state.named(environment);
        let candidates = self.supervisor.candidates(environment);
        requests::Whose { name: self.instance, state_dir, candidates }
    }
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// Make a damaged or lost journal anew from the chain.
    ///
    /// Reads the chain again from a block on; what was answered already is not answered again. A
    /// damaged journal is kept under another name, and what it proves is taken over. One that is in
    /// order keeps all it has. One that is open is refused: stop its instance first.
    Rebuild {
        /// The first block to be read: one before the oldest unanswered request.
        #[arg(long, value_name = "BLOCK")]
        from: u64,
        /// The instance, by its file in the configuration directory, as `supervise` reads it.
        #[arg(long, value_name = "NAME", value_parser = instance_name, conflicts_with = "config")]
        instance: Option<String>,
        /// The configuration, as `start` reads it. With neither, the environment alone counts.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        configs: ConfigArgs,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
}

/// Where configurations are.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration directory [default: `$KMS_CONNECTOR_CONFIG_DIR`, else ./config/environments;
    /// commands that only look take the running supervisor's before that, and /etc/kms-connector where
    /// there is no other].
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

impl ConfigArgs {
    fn config_dir(self, environment: &Environment) -> PathBuf {
        self.config_dir.unwrap_or_else(|| places::config_dir(environment))
    }

    /// The directory for commands that only read.
    async fn find(self, environment: &Environment, candidates: &Candidates) -> PathBuf {
        let named = self.config_dir.or_else(|| places::named_config_dir(environment));
        places::find_config_dir(named, candidates).await
    }
}

/// Where journals are.
#[derive(Debug, Args)]
struct StateArgs {
    /// Where journals are kept [default: `$KMS_CONNECTOR_STATE_DIR`, else `$STATE_DIRECTORY`, else
    /// ./state; commands that only look take the running supervisor's before that, and
    /// /var/lib/kms-connector where there is no other].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    fn state_dir(&self, environment: &Environment) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| places::state_dir(environment))
    }

    fn named(&self, environment: &Environment) -> Option<PathBuf> {
        self.state_dir.clone().or_else(|| places::named_state_dir(environment))
    }

    /// The directory for commands that only read.
    async fn find(&self, environment: &Environment, candidates: &Candidates) -> PathBuf {
        places::find_state_dir(self.named(environment), candidates).await
    }
}

/// What a supervisor has outside its files, and how it is found.
#[derive(Debug, Args)]
struct SupervisorArgs {
    /// The control socket [default: control.sock in the first that will do of
    /// `$RUNTIME_DIRECTORY`, /run/kms-connector and the state directory].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

/// Where a supervisor shows itself.
#[derive(Debug, Args)]
struct ListenArgs {
    /// The HTTP listener (health, metrics, status page): an address, or none
    /// [default: `$KMS_CONNECTOR_LISTEN`, else 127.0.0.1:9478 under supervise, none under start].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<Listen>,
    /// A name by which browsers may look at it, beside its address, names without a dot, private ones
    /// (.internal, .local, .svc) and the machine's own [default: those of
    /// `$KMS_CONNECTOR_LISTEN_NAMES`, parted by commas].
    #[arg(long, value_name = "NAME")]
    listen_name: Vec<String>,
}

/// The value of `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    At(SocketAddr),
    Nowhere,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "none" => Ok(Self::Nowhere),
            address => address.parse().map(Self::At).map_err(|_| ADDRESSES.to_owned()),
        }
    }
}

const ADDRESSES: &str = "an address with a port, like 127.0.0.1:9478, or none";

impl ListenArgs {
    fn address(
        &self,
        environment: &Environment,
        default: Listen,
    ) -> Result<Option<SocketAddr>, Problems> {
        let listen = match (self.listen, environment.get("KMS_CONNECTOR_LISTEN")) {
            (Some(given), _) => given,
            (None, None) => default,
            (None, Some(text)) => text.to_string_lossy().parse().map_err(|_| Problem {
                place: Place::Variable("KMS_CONNECTOR_LISTEN".to_owned()),
                key: None,
                found: text.to_string_lossy().into_owned(),
                allowed: ADDRESSES.to_owned(),
                advice: String::new(),
            })?,
        };
        Ok(match listen {
            Listen::At(address) => Some(address),
            Listen::Nowhere => None,
        })
    }
}

impl ListenArgs {
    /// Asks the connector that listens there.
    async fn health(&self, instance: Option<String>, environment: Environment) -> Exit {
        match self.address(&environment, SERVICE_LISTENS) {
            Ok(Some(address)) => health::health(instance.as_deref(), address).await,
            Ok(None) => {
                complain("the connector does not listen: give the one to ask as --listen");
                Exit::Failure
            }
            Err(problems) => run::refuse(&problems),
        }
    }

    fn names(&self, environment: &Environment) -> Vec<String> {
        if !self.listen_name.is_empty() {
            return self.listen_name.clone();
        }
        let given = environment.get("KMS_CONNECTOR_LISTEN_NAMES");
        let given = given.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
        let names = given.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    }
}

/// The default listener of a service: reachable from its own machine only.
const SERVICE_LISTENS: Listen = Listen::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9478));

impl SupervisorArgs {
    fn at(
        self,
        listen: &ListenArgs,
        default: Listen,
        environment: Environment,
    ) -> Result<run::Places, Problems> {
        let state_dir = self.state.state_dir(&environment);
        let listen_names = listen.names(&environment);
        let listen = listen.address(&environment, default)?;
        Ok(run::Places { state_dir, socket: self.socket, listen, listen_names, environment })
    }

    fn candidates(&self, environment: &Environment) -> Candidates {
        let state_dir = self.state.state_dir(environment);
        control::candidates(self.socket.as_deref(), environment, &state_dir)
    }
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
    if !is_instance_name(name) {
        return Err("a name has 1 to 128 printable characters".to_owned());
    }
    Ok(name.to_owned())
}

impl Cli {
    /// Parses the process's arguments. `Err`: help, version or an error, which is printed already.
    pub fn from_process() -> Result<Self, Exit> {
        Self::try_parse().map_err(|error| {
            // Help goes to stdout, errors to stderr. If that is closed there is nobody to tell.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Success }
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
            traces: match self.command {
                Command::Start { .. } | Command::Supervise { .. } => {
                    traces::Settings::read(|name| {
                        environment.get(name).map(|text| text.to_string_lossy().into_owned())
                    })
                    .transpose()
                }
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

    /// Runs the command. `kept`: what the log provides.
    pub async fn run(self, environment: Environment, kept: logging::Kept) -> Exit {
        dumps::forbid();
        if let Err(problems) = crate::config::check_places(&environment) {
            return run::refuse(&problems);
        }
        match self.command {
            Command::Start { config, name, listen, supervisor } => {
                let config_dir = places::config_dir(&environment);
                let start = run::Start { config, config_dir, name };
                match supervisor.at(&listen, Listen::Nowhere, environment) {
                    Ok(places) => Box::pin(run::start(start, places, kept)).await,
                    Err(problems) => run::refuse(&problems),
                }
            }
            Command::Supervise { configs, listen, supervisor } => {
                let config_dir = configs.config_dir(&environment);
                match supervisor.at(&listen, SERVICE_LISTENS, environment) {
                    Ok(places) => Box::pin(run::supervise(config_dir, places, kept)).await,
                    Err(problems) => run::refuse(&problems),
                }
            }
            Command::List { full_path, long, json, configs, supervisor } => {
                let form = match (json, long) {
                    (true, _) => list::Form::Json,
                    (false, true) => list::Form::Long,
                    (false, false) => list::Form::Plain,
                };
                let candidates = supervisor.candidates(&environment);
                let config_dir = configs.find(&environment, &candidates).await;
                list::list(&config_dir, &environment, &candidates, full_path, form).await
            }
            Command::Validate { config, all: _, configs } => {
                let candidates = usual_candidates(&environment);
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
                let wish = status::Wish { name, json, watch, colours };
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
            Command::Backfill { from, to, whose } => {
                requests::backfill(whose.places(&environment), from, to).await
            }
            Command::Check { config, all, instance, json, configs, state } => {
                let which = match (all, instance) {
                    (true, _) => check::Which::All,
                    (false, Some(name)) => check::Which::Instance(name),
                    (false, None) => check::Which::File(config),
                };
                let form = check::Form { json, colours: colours(&environment) };
                let candidates = usual_candidates(&environment);
                let places = check::Places {
                    config_dir: configs.find(&environment, &candidates).await,
                    state_dir: state.find(&environment, &candidates).await,
                    environment,
                };
                Box::pin(check::check(which, places, form)).await
            }
            Command::Config { config, instance, json, configs } => {
                let candidates = usual_candidates(&environment);
                let config_dir = configs.find(&environment, &candidates).await;
                let which = match instance {
                    Some(name) => config::Which::Instance(name),
                    None => config::Which::File(config),
                };
                config::config(which, &config_dir, environment, json)
            }
            Command::Completions { shell } => manual::completions(shell),
            Command::Explain { words } => explain::explain(&words),
            Command::Man { section } => manual::page(section),
        }
    }
}

/// The default candidates for the control socket.
fn usual_candidates(environment: &Environment) -> Candidates {
    control::candidates(None, environment, &places::state_dir(environment))
}

/// Returns whether results may use colours.
fn colours(environment: &Environment) -> bool {
    io::stdout().is_terminal() && environment.get("NO_COLOR").is_none()
}

impl JournalCommand {
    async fn run(self, environment: Environment) -> Exit {
        let Self::Rebuild { from, instance, config, configs, supervisor } = self;
        let whose = match instance {
            Some(name) => journal::Whose::Instance(name),
            None => journal::Whose::File(config),
        };
        let candidates = supervisor.candidates(&environment);
        let places = journal::Places {
            config_dir: configs.find(&environment, &candidates).await,
            state_dir: supervisor.state.find(&environment, &candidates).await,
            candidates,
            environment,
        };
        journal::rebuild(whose, from, places).await
    }
}

impl RequestsCommand {
    async fn run(self, environment: &Environment) -> Exit {
        match self {
            Self::List(ListRequests { which, limit, json, instance, supervisor }) => {
                let Some(instance) = instance else { return Exit::Usage };
                let whose = WhoseRequests { instance, supervisor }.places(environment);
                requests::list(whose, which.which(), limit, json).await
            }
            Self::Show { id, json, whose } => {
                requests::show_one(whose.places(environment), id, json).await
            }
            Self::Retry { id, json, whose } => {
                requests::retry(whose.places(environment), id, json).await
            }
            Self::Export { which, whose } => {
                requests::export(whose.places(environment), which.which()).await
            }
        }
    }
}

/// Describes the signer, never its key.
fn describe(wallet: Option<&Wallet>) -> String {
    match wallet {
        Some(Wallet::PrivateKey(key)) => format!("private key, address {}", key.address()),
        Some(Wallet::AwsKms { key_id, .. }) => format!("AWS KMS, key {key_id}"),
        None => "none: it only observes".to_owned(),
    }
}

/// Writes a result to stdout and returns `ending`. A reader that closes the pipe early (`list |
/// head -1`) is no failure.
fn print(text: &str, ending: Exit) -> Exit {
    match show(text) {
        Ok(()) => ending,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ending,
        Err(error) => {
            complain(format_args!("cannot write to stdout: {error}"));
            Exit::Failure
        }
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes lines to stderr. If that is closed there is nobody to tell.
fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{}", text::printable(&text.to_string()));
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
            assert_eq!(list.which.which(), requests::Which::Held);
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
