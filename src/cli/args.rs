//! The arguments of every command. Their doc comments are the help texts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, Subcommand};

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
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT",
        help_heading = LOG)]
    pub(super) log_format: logging::Format,
    /// Log what dependencies say, too. Their logs may show URLs with API keys.
    #[arg(long, global = true, help_heading = LOG)]
    pub(super) log_dependencies: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one connector, in the foreground.
    Start {
        /// The configuration; a relative path is also looked for in the configuration directory.
        /// Without it, the environment alone counts.
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
        list: ListRequestsArgs,
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
        whose: RequestsArgs,
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
    pub(super) fn own_filter(&self) -> Option<&'static str> {
        // Its findings report everything; log lines in between would repeat them.
        matches!(self, Self::Check { .. }).then_some("off")
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum RequestsCommand {
    /// What is unfinished, and what ended without an answer in the last day.
    List(ListRequestsArgs),
    /// Everything about the requests of one id.
    Show {
        /// As the chain writes it: 0x and hex digits, or decimal.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: RequestsArgs,
    },
    /// Try the requests of one id again: held ones, and those that ended without an answer.
    Retry {
        /// As the chain writes it: 0x and hex digits, or decimal.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whose: RequestsArgs,
    },
    /// All there is about them as lines of JSON, to be looked at elsewhere.
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
    /// Show at most so many.
    #[arg(long, value_name = "COUNT", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: u32,
    /// As JSON.
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
pub(super) struct ConfigArgs {
    /// The configuration directory [default: `$KMS_CONNECTOR_CONFIG_DIR`, else ./config/environments;
    /// commands that only look take the running supervisor's before that, and /etc/kms-connector where
    /// there is no other].
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
    /// Where journals are kept [default: `$KMS_CONNECTOR_STATE_DIR`, else `$STATE_DIRECTORY`, else
    /// ./state; commands that only look take the running supervisor's before that, and
    /// /var/lib/kms-connector where there is no other].
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
    /// The control socket [default: control.sock in the first that will do of
    /// `$RUNTIME_DIRECTORY`, /run/kms-connector and the state directory].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    pub(super) state: StateArgs,
}

/// Where a supervisor shows itself.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    /// The HTTP listener (health, metrics, status page): an address, or none
    /// [default: `$KMS_CONNECTOR_LISTEN`, else 127.0.0.1:9478 under supervise, none under start].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<Listen>,
    /// A name by which browsers may look at it, beside its address, names without a dot, private ones
    /// (.internal, .local, .svc) and the machine's own [default: those of
    /// `$KMS_CONNECTOR_LISTEN_NAMES`, separated by commas].
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
    pub(super) async fn health(
        &self,
        instance: Option<String>,
        environment: Environment,
    ) -> ExitStatus {
        match self.address(&environment, DEFAULT_LISTEN) {
            Ok(Some(address)) => health::health(instance.as_deref(), address).await,
            Ok(None) => {
                print_error("the connector does not listen: give the one to ask as --listen");
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
