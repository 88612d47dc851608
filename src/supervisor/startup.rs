//! From options to a running loop: catches signals, reads the files, binds the control socket, opens the HTTP
//! listener, and starts the tasks beside the loop.

use std::{
    fmt,
    fs::read_dir,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use super::{
    InstanceRunner, Supervisor,
    control::{self, ListenError, Listener, PendingRequest, SocketCandidates},
    event_loop::Inputs,
    signals::{Signal, Signals},
    systemd::ServiceManager,
};
use crate::supervisor::config_dir::{
    snapshot::{self, BoundedIo, ConfigFiles, ConfigSnapshot, FileTask, IoStall, SettledFiles},
    watch::{ReloadRequests, Watcher},
};
use crate::{
    admin::http::{BindError, HttpListener},
    config::{self, Environment, Problems},
    instance::Exit,
    journal::{self, Keeper},
    telemetry::logging::LogHandles,
};

/// How long startup waits for the names in the journals of the state directory.
const KEEPERS_DEADLINE: Duration = Duration::from_secs(5);
/// How long startup waits for the control socket to be bound.
const BIND_DEADLINE: Duration = Duration::from_secs(5);
/// Capacity of the queue of control requests.
const REQUEST_QUEUE: usize = 32;

/// What to supervise.
#[derive(Debug)]
pub struct Options {
    pub files: ConfigFiles,
    /// Directory of the journals.
    pub state_dir: PathBuf,
    /// The control socket's path; `None`: the default candidates.
    pub socket: Option<PathBuf>,
    /// The address of the HTTP listener; `None`: no listener.
    pub listen: Option<SocketAddr>,
    /// Host names that browsers may use for the listener.
    pub listen_names: Vec<String>,
    pub environment: Environment,
    /// The recent errors and the trace exporter of the process's log.
    pub log_handles: LogHandles,
}

/// Why the supervisor could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Configuration(#[from] Problems),
    #[error("{}: {late}", path.display())]
    ConfigDirStalled { path: PathBuf, late: IoStall },
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    #[error("cannot open the control socket: {0}")]
    Control(#[from] control::ListenError),
    #[error(transparent)]
    Http(#[from] BindError),
}

/// Supervises until a signal ends it. Under [`ConfigFiles::One`] it also ends on an exit that no
/// rebuild can fix, and on a failure of the first start, because an operator is watching the command
/// then.
pub async fn run<I: InstanceRunner>(instances: I, options: Options) -> Result<Exit, RunError> {
    let Options { files, state_dir, socket, listen, listen_names, environment, log_handles: kept } =
        options;
    let LogHandles { errors, traces } = kept;
    let mut signals = Signals::catch().map_err(RunError::Signals)?;
    let manager = ServiceManager::from_environment(&environment);
    let candidates = control::candidates(socket.as_deref(), &environment, &state_dir);
    let prepared = {
        // File systems may block this for some seconds.
        let told_to_end = async { while signals.next().await == Signal::Reload {} };
        let preparing = async {
            let keepers = match &files {
                ConfigFiles::Directory(_) => read_keepers(&state_dir).await,
                ConfigFiles::One { .. } => Vec::new(),
            };
            let looked = take_first_snapshot(&files, &environment, &keepers).await?;
            let socket =
                ControlSocket::bind(candidates, matches!(files, ConfigFiles::Directory(_))).await?;
            Ok::<_, RunError>((keepers, looked, socket))
        };
        tokio::select! {
            prepared = preparing => prepared,
            () = told_to_end => return Ok(Exit::Stopped),
        }
    };
    let (keepers, (first, settled), socket) = prepared?;
    let http = match listen {
        Some(address) => Some(HttpListener::bind(address, listen_names).await?),
        None => None,
    };

    let stop = CancellationToken::new();
    let (nudges, towards_watcher) = watch::channel(ReloadRequests::default());
    let (looks_sender, looks) = mpsc::channel(1);
    let (commands, asked) = mpsc::channel(REQUEST_QUEUE);
    let mut beside = JoinSet::new();
    let watcher = Watcher::new(files.clone(), environment, settled);
    beside.spawn(watcher.run(towards_watcher, looks_sender, stop.clone()).in_current_span());
    if let Some(traces) = traces {
        beside.spawn(traces.run(stop.clone()));
    }
    beside.spawn(socket.serve(commands, stop.clone()).in_current_span());
    let directory = match files {
        ConfigFiles::Directory(directory) => Some(directory),
        ConfigFiles::One { .. } => None,
    };
    let mut supervisor = Supervisor::new(instances, state_dir, directory, manager);
    supervisor.keepers = keepers;
    if let Some(http) = http {
        info!(address = %http.address(), "HTTP listener open");
        let view = supervisor.start_publishing(http.address(), errors);
        beside.spawn(http.serve(view, stop.clone()).in_current_span());
    }
    supervisor.log_start(&first);
    supervisor.apply(first);
    let inputs =
        Inputs { signals, snapshots: looks, control_requests: asked, reload_requests: nudges };
    let exit = supervisor.run(inputs).await;
    stop.cancel();
    let ending = async { while beside.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(5), ending).await.is_err() {
        debug!("a task beside the loop did not end in time and is dropped");
    }
    Ok(exit)
}

/// The control socket, bound or still being bound.
enum ControlSocket {
    Bound(Box<Listener>),
    /// Its file system has not answered yet.
    Late(JoinSet<Result<Listener, ListenError>>),
    None,
}

impl ControlSocket {
    /// Waits [`BIND_DEADLINE`] for the socket. `is_needed`: an error aborts startup. A file system
    /// that does not answer never does.
    pub(super) async fn bind(
        candidates: SocketCandidates,
        is_needed: bool,
    ) -> Result<Self, ListenError> {
        let mut binding = JoinSet::new();
        binding.spawn(async move { Listener::bind(&candidates).await });
        match timeout(BIND_DEADLINE, binding.join_next()).await {
            Ok(Some(Ok(Ok(listener)))) => Ok(Self::Bound(Box::new(listener))),
            Ok(Some(Ok(Err(error)))) if is_needed => Err(error),
            Ok(Some(Ok(Err(error)))) => {
                warn_no_socket(&error);
                Ok(Self::None)
            }
            Ok(Some(Err(panic))) => std::panic::resume_unwind(panic.into_panic()),
            Ok(None) | Err(_) => {
                let path = "its directory does not answer (a network mount that hangs?)";
                warn_no_socket(&path);
                Ok(Self::Late(binding))
            }
        }
    }

    /// Serves requests until `stop`, as soon as the socket is bound.
    pub(super) async fn serve(
        self,
        commands: mpsc::Sender<PendingRequest>,
        stop: CancellationToken,
    ) {
        let listener = match self {
            Self::Bound(listener) => *listener,
            Self::Late(mut binding) => match stop.run_until_cancelled(binding.join_next()).await {
                Some(Some(Ok(Ok(listener)))) => listener,
                Some(Some(Ok(Err(error)))) => return warn_no_socket(&error),
                Some(Some(Err(_)) | None) | None => return,
            },
            Self::None => return,
        };
        info!(path = %listener.path().display(), "control socket open");
        listener.serve(commands, stop).await;
    }
}

fn warn_no_socket(why: &dyn fmt::Display) {
    warn!(%why, "no control socket: status and other commands cannot reach this process");
}

/// The instances whose names are in the journals. Empty if the disk does not answer: each instance
/// reports that itself.
async fn read_keepers(state_dir: &Path) -> Vec<Keeper> {
    let dir = state_dir.to_owned();
    let reading = spawn_blocking(move || journal::keepers(&dir));
    timeout(KEEPERS_DEADLINE, reading).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Reads the files for the first time. Fails where nothing could run at all.
pub(super) async fn take_first_snapshot(
    files: &ConfigFiles,
    environment: &Environment,
    keepers: &[Keeper],
) -> Result<(ConfigSnapshot, SettledFiles), RunError> {
    if let ConfigFiles::Directory(path) = files {
        config::check_environment(environment)?;
        // A hanging mount is not a configuration error (exit 78): a restart helps once the mount is
        // back.
        let at = path.clone();
        let list = |directory: &Path| read_dir(directory).map(drop);
        let listing =
            spawn_blocking(move || BoundedIo::default().run_one(FileTask::List, &at, list));
        if let Ok(Err(late)) = listing.await {
            return Err(RunError::ConfigDirStalled { path: path.clone(), late });
        }
    }
    let (of, with, known) = (files.clone(), environment.clone(), keepers.to_vec());
    let reading = spawn_blocking(move || snapshot::first_snapshot(&of, &with, &known)).await;
    let (mut look, settled) = match reading {
        Ok(first) => first,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    match files {
        ConfigFiles::Directory(path) => match look.problem {
            Some(problem) => Err(problem.to_problems(path).into()),
            None => Ok((look, settled)),
        },
        ConfigFiles::One { .. } => {
            let bad = look.files.iter().find(|(_, file)| file.is_err());
            match bad.map(|(name, _)| name.clone()).and_then(|name| look.files.remove(&name)) {
                Some(Err(problems)) => Err(problems.into()),
                Some(Ok(_)) | None => Ok((look, settled)),
            }
        }
    }
}

impl<I: InstanceRunner> Supervisor<I> {
    fn log_start(&self, look: &ConfigSnapshot) {
        let version = env!("CARGO_PKG_VERSION");
        let state_dir = std::path::absolute(&self.state_dir);
        let state_dir = state_dir.as_deref().unwrap_or(&self.state_dir).display();
        if let Some(directory) = &self.directory {
            let config_dir = directory.display();
            let files = look.files.len();
            info!(version, %config_dir, %state_dir, files, "supervising");
        }
        for (instance, wanted) in &look.files {
            if let (None, Ok(wanted)) = (&self.directory, wanted) {
                let config = &wanted.config;
                info!(
                    instance,
                    version,
                    chain_id = config.chain_id,
                    decryption = %config.decryption_address,
                    "starting"
                );
            }
        }
        if look.files.is_empty() {
            warn!("there is no configuration: nothing runs until a *.toml file appears");
        }
    }
}
