//! The arguments of every command. Their doc comments are the help texts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{ArgGroup, Args, Subcommand};

use super::{
    health, manual,
    output::{ExitStatus, print_error},
    paths, requests, run,
};
use crate::{
    config::{Environment, Place, Problem, Problems, is_instance_name},
    supervisor::control::{self, SocketCandidates},
    telemetry::logging,
};

/// The heading that separates log options from those of a command.
const LOG: &str = "Log options";

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Format of log lines.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT",
        help_heading = LOG)]
    pub(super) log_format: logging::Format,
    /// Log dependencies too. Their logs may show URLs with API keys.
    #[arg(long, global = true, help_heading = LOG)]
    pub(super) log_dependencies: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one connector, in the foreground.
    Start {
        /// The configuration file. A relative path is also looked up in the configuration directory.
        /// Without it, the environment alone is the configuration.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The instance's name [default: `service_name`, else the file's name without .toml].
        #[arg(short, long, value_parser = instance_name)]
        name: Option<String>,
        #[command(flatten)]
        listen: ListenArgs,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Run every configuration of the configuration directory, in the foreground.
    ///
    /// Files are watched: a new file starts an instance, a changed file replaces its instance, a removed
    /// file ends it. An instance that fails is started again. A file with problems changes nothing.
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
        /// Print full paths instead of file names.
        #[arg(short, long)]
        full_path: bool,
        /// Print a table: what each file contains, whether it would run, and the state of its instance.
        #[arg(long)]
        long: bool,
        /// Print the same as JSON.
        #[arg(long, conflicts_with = "long")]
        json: bool,
        #[command(flatten)]
        configs: ConfigArgs,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Validate configurations and print every problem.
    #[command(group(ArgGroup::new("which").args(["config", "all"]).required(true)))]
    Validate {
        /// Validate this file as `start` reads it, and note what `supervise` would refuse, also because of
        /// another file. A relative path is also looked up in the configuration directory.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Validate all files of the configuration directory together, as `supervise` reads them.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        configs: ConfigArgs,
    },
    /// Show the state of the running supervisor and its instances.
    ///
    /// Exits with 1 if an instance that should be up is parked or backing off, if a file could not be
    /// applied, or if no supervisor answers. With a name, only that instance counts.
    Status {
        /// Show everything about this instance [default: an overview of all].
        #[arg(value_parser = instance_name)]
        name: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Repeat every second until Ctrl-C.
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Read the configuration files now.
    Reload {
        /// Also retry this instance's file if it failed and has not changed.
        #[arg(value_parser = instance_name)]
        name: Option<String>,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Stop an instance and start it again, whatever its state is.
    ///
    /// Prints its state when the outcome is known. Waits up to 20 s for a node or Core that does not
    /// answer yet.
    Restart {
        /// The instance: its file's name without .toml.
        #[arg(value_parser = instance_name)]
        name: String,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Drain an instance and keep it stopped until it is restarted, its file changes, or the supervisor
    /// restarts.
    Stop {
        /// The instance: its file's name without .toml.
        #[arg(value_parser = instance_name)]
        name: String,
        #[command(flatten)]
        supervisor: SupervisorArgs,
    },
    /// Repair the journal of an instance that does not run.
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Check whether the connector on this machine is ready, for a container's health check.
    ///
    /// Asks the HTTP listener. Exits with 1 and prints why if the connector is not ready or does not
    /// answer.
    Health {
        /// Check this instance only [default: all that should run].
        #[arg(long, value_name = "NAME", value_parser = instance_name)]
        instance: Option<String>,
        /// Address of the connector's HTTP listener
        /// [default: `$KMS_CONNECTOR_LISTEN`, else 127.0.0.1:9478].
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<Listen>,
    },
    /// List, show, retry, approve and export the requests of an instance.
    ///
    /// A running instance answers over the control socket. If the instance does not run, its journal is
    /// read. Without a subcommand: list.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Requests {
        #[command(subcommand)]
        command: Option<RequestsCommand>,
        #[command(flatten)]
        list: ListRequestsArgs,
    },
    /// Make a running instance read blocks again.
    ///
    /// Unknown requests are stored and answered, known requests stay as they are. The command can be
    /// interrupted and called again at any time.
    Backfill {
        /// First block.
        #[arg(long, value_name = "BLOCK")]
        from: u64,
        /// Last block [default: the last block that was read].
        #[arg(long, value_name = "BLOCK")]
        to: Option<u64>,
        /// The second chain's id, to read its blocks [default: the gateway's chain].
        #[arg(long, value_name = "ID")]
        chain: Option<u64>,
        #[command(flatten)]
        whose: RequestsArgs,
    },
    /// Test everything that a configuration depends on, and print what to fix.
    ///
    /// Sends nothing and changes nothing; an instance of the same configuration may run meanwhile.
    /// Exits with 1 if something does not work, with 78 if a configuration is invalid.
    Check {
        /// Check this file as `start` reads it. A relative path is also looked up in the configuration
        /// directory. Without -c, --all and --instance, the environment alone is the configuration.
        #[arg(short, long, value_name = "FILE", conflicts_with_all = ["all", "instance"])]
        config: Option<PathBuf>,
        /// Check all files of the configuration directory together, as `supervise` reads them.
        #[arg(long, conflicts_with = "instance")]
        all: bool,
        /// Check the instance of this name in the configuration directory, as `supervise` reads it.
        #[arg(long, value_name = "NAME", value_parser = instance_name)]
        instance: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        configs: ConfigArgs,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Print the effective configuration: each value with its source. Secrets are masked.
    Config {
        /// The configuration file, as `start` reads it. A relative path is also looked up in the
        /// configuration directory. Without -c and --instance, the environment alone is the
        /// configuration.
        #[arg(short, long, value_name = "FILE", conflicts_with = "instance")]
        config: Option<PathBuf>,
        /// The instance of this name in the configuration directory, as `supervise` reads it.
        #[arg(long, value_name = "NAME", value_parser = instance_name)]
        instance: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        configs: ConfigArgs,
    },
    /// Print a completion script for a shell.
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Explain a hold reason, outcome, state, code, alert, word or log message.
    ///
    /// Prints what it means, what is lost and what to do. Without words: a list. Exits with 2 if nothing
    /// has that name.
    Explain {
        /// The name or message, as `requests`, `status`, metrics or the log show it.
        words: Vec<String>,
    },
    /// Print a manual page: 1 describes the commands, 7 is the troubleshooting guide.
    Man {
        #[arg(value_enum, default_value_t = manual::Section::Commands)]
        section: manual::Section,
    },
}

impl Command {
    /// The log filter unless `RUST_LOG` is set; `None`: the default.
    pub(super) fn own_filter(&self) -> Option<&'static str> {
        // Its findings report everything; log lines in between would repeat them.
        matches!(self, Self::Check { .. }).then_some("off")
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum RequestsCommand {
    /// List unfinished requests, and those of the last day that ended without an answer.
    List(ListRequestsArgs),
    /// Show everything about the requests of one id.
    Show {
        /// The id as on chain: 0x and hex digits, or decimal.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: RequestsArgs,
    },
    /// Retry the requests of one id: held ones, and those that ended without an answer.
    Retry {
        /// The id as on chain: 0x and hex digits, or decimal.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: RequestsArgs,
    },
    /// Have a key operation answered that waits for an operator (`key_management = "hold"`). The journal
    /// keeps who approved it, and when.
    Approve {
        /// The id as on chain: 0x and hex digits, or decimal.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: RequestsArgs,
    },
    /// Print all data of the requests that `list` shows with the same options, one line of JSON each.
    Export {
        #[command(flatten)]
        which: FilterArgs,
        #[command(flatten)]
        whose: RequestsArgs,
    },
}

/// What `requests list` takes.
#[derive(Debug, Args)]
pub(super) struct ListRequestsArgs {
    #[command(flatten)]
    pub(super) which: FilterArgs,
    /// Show at most this many.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// The instance.
    // Optional here because clap parses this struct for the other subcommands, too.
    #[arg(long, value_name = "NAME", value_parser = instance_name, required = true)]
    pub(super) instance: Option<String>,
    #[command(flatten)]
    pub(super) supervisor: SupervisorArgs,
}

/// Which requests.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only held requests.
    #[arg(long, conflicts_with_all = ["refused", "all"])]
    held: bool,
    /// Only requests that ended without an answer (refused, expired, orphaned), of any age.
    #[arg(long, conflicts_with = "all")]
    refused: bool,
    /// All requests in the journal, including answered ones.
    #[arg(long)]
    all: bool,
}

impl FilterArgs {
    pub(super) fn filter(&self) -> requests::ListFilter {
        match (self.held, self.refused, self.all) {
            (true, ..) => requests::ListFilter::Held,
            (_, true, _) => requests::ListFilter::Refused,
            (_, _, true) => requests::ListFilter::All,
            (false, false, false) => requests::ListFilter::Open,
        }
    }
}

/// Whose requests.
#[derive(Debug, Args)]
pub(super) struct RequestsArgs {
    /// The instance.
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub(super) instance: String,
    #[command(flatten)]
    pub(super) supervisor: SupervisorArgs,
}

impl RequestsArgs {
    pub(super) fn target(self, environment: &Environment) -> requests::RequestsTarget {
        let state_dir = self.supervisor.state.named(environment);
        let candidates = self.supervisor.candidates(environment);
        requests::RequestsTarget { name: self.instance, state_dir, candidates }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Rebuild a damaged or lost journal from the chain.
    ///
    /// Reads the chain again from a block on. What was answered already is not answered again. A damaged
    /// journal is kept under another name, and what it proves is taken over. An intact journal keeps
    /// everything. A journal that is open is refused: stop its instance first.
    Rebuild {
        /// First block to read: one before the oldest unanswered request.
        #[arg(long, value_name = "BLOCK")]
        from: u64,
        /// The second chain's id, to rebuild its journal [default: the gateway's chain].
        #[arg(long, value_name = "ID")]
        chain: Option<u64>,
        /// The instance, by its file in the configuration directory, as `supervise` reads it.
        #[arg(long, value_name = "NAME", value_parser = instance_name, conflicts_with = "config")]
        instance: Option<String>,
        /// The configuration file, as `start` reads it. Without -c and --instance, the environment alone
        /// is the configuration.
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
pub(super) struct ConfigArgs {
    /// Configuration directory [default: `$KMS_CONNECTOR_CONFIG_DIR`, else ./config/environments.
    /// Commands that only read prefer the running supervisor's directory to the latter, and use
    /// /etc/kms-connector if there is no other].
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
}

impl ConfigArgs {
    pub(super) fn config_dir(self, environment: &Environment) -> PathBuf {
        self.config_dir.unwrap_or_else(|| paths::config_dir(environment))
    }

    /// The directory for commands that only read.
    pub(super) async fn find(
        self,
        environment: &Environment,
        candidates: &SocketCandidates,
    ) -> PathBuf {
        let named = self.config_dir.or_else(|| paths::named_config_dir(environment));
        paths::resolve_config_dir(named, candidates).await
    }
}

/// Where journals are.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// Directory of the journals [default: `$KMS_CONNECTOR_STATE_DIR`, else `$STATE_DIRECTORY`, else
    /// ./state. Commands that only read prefer the running supervisor's directory to the latter, and use
    /// /var/lib/kms-connector if there is no other].
    #[arg(long, value_name = "DIR")]
    pub(super) state_dir: Option<PathBuf>,
}

impl StateArgs {
    pub(super) fn state_dir(&self, environment: &Environment) -> PathBuf {
        self.state_dir.clone().unwrap_or_else(|| paths::state_dir(environment))
    }

    fn named(&self, environment: &Environment) -> Option<PathBuf> {
        self.state_dir.clone().or_else(|| paths::named_state_dir(environment))
    }

    /// The directory for commands that only read.
    pub(super) async fn find(
        &self,
        environment: &Environment,
        candidates: &SocketCandidates,
    ) -> PathBuf {
        paths::resolve_state_dir(self.named(environment), candidates).await
    }
}

/// What a supervisor has outside its files, and how it is found.
#[derive(Debug, Args)]
pub(super) struct SupervisorArgs {
    /// Control socket [default: control.sock in the first usable directory of `$RUNTIME_DIRECTORY`,
    /// /run/kms-connector and the state directory].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    pub(super) state: StateArgs,
}

/// Where a supervisor shows itself.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    /// HTTP listener for health, metrics and the status page: an address, or none
    /// [default: `$KMS_CONNECTOR_LISTEN`, else 127.0.0.1:9478 under supervise, none under start].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<Listen>,
    /// Host name under which browsers may open the status page; may be repeated. Always allowed are the
    /// listener's address, names without a dot, private names (.internal, .local, .svc) and the
    /// machine's own [default: `$KMS_CONNECTOR_LISTEN_NAMES`, separated by commas].
    #[arg(long, value_name = "NAME")]
    pub(super) listen_name: Vec<String>,
}

/// The value of `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
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
    pub(super) fn address(
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
                found: format!("a text of {} characters", text.to_string_lossy().chars().count()),
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
    pub(super) async fn health(
        &self,
        instance: Option<String>,
        environment: Environment,
    ) -> ExitStatus {
        match self.address(&environment, DEFAULT_LISTEN) {
            Ok(Some(address)) => health::health(instance.as_deref(), address).await,
            Ok(None) => {
                print_error("there is no HTTP listener: name the connector's with --listen");
                ExitStatus::Failure
            }
            Err(problems) => run::refuse(&problems),
        }
    }

    pub(super) fn names(&self, environment: &Environment) -> Vec<String> {
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
pub(super) const DEFAULT_LISTEN: Listen =
    Listen::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9478));

impl SupervisorArgs {
    pub(super) fn service_options(
        self,
        listen: &ListenArgs,
        default: Listen,
        environment: Environment,
    ) -> Result<run::ServiceOptions, Problems> {
        let state_dir = self.state.state_dir(&environment);
        let listen_names = listen.names(&environment);
        let listen = listen.address(&environment, default)?;
        Ok(run::ServiceOptions {
            state_dir,
            socket: self.socket,
            listen,
            listen_names,
            environment,
        })
    }

    pub(super) fn candidates(&self, environment: &Environment) -> SocketCandidates {
        let state_dir = self.state.state_dir(environment);
        control::candidates(self.socket.as_deref(), environment, &state_dir)
    }
}

pub(super) fn instance_name(name: &str) -> Result<String, String> {
    let name = name.trim();
    if !is_instance_name(name) {
        return Err("a name has 1 to 128 printable characters".to_owned());
    }
    Ok(name.to_owned())
}
