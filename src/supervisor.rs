//! The loop above the instances: event -> decide -> act.
//!
//! ```text
//! signals ------\
//! files --------+-> the loop: what should run (plan) against what runs (slots), instance by instance
//! control ------+      |
//! exits, phases-/      +-> check, start, replace, drain, back off (restart), park
//! ```
//!
//! Instances share nothing: each runs in a task of its own under its own tokens, and its end is a
//! value that comes back here. The loop never waits on the outside world: reading files, checking a
//! configuration and running an instance are tasks whose results are events. `start` is the same
//! loop with one file that is not watched.

pub mod lifecycle;
pub mod service_manager;
pub mod control;
pub mod directory;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};

use self::{lifecycle::Lifecycle, service_manager::ServiceManager};
use crate::{
    backoff::Backoff,
    config::{Config, Environment},
    heart::Hearts,
    instance::{self, CheckError, Edges, Ended, Estate, Exit},
    observe::status::{Phase, Reporter},
};

/// An instance that ran this long was healthy: the next pause is the first one again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// What a supervisor runs: [`Earnest`] instances, or a test's.
pub trait Instances: Send + Sync + 'static {
    /// What one generation leaves to the next.
    type Estate: Send + 'static;

    /// Whether this configuration could run. Opens nothing exclusive.
    fn check(
        &self,
        config: Arc<Config>,
    ) -> impl Future<Output = Result<(), CheckError>> + Send + 'static;

    /// Builds and runs one generation to its end.
    fn run(
        &self,
        config: Arc<Config>,
        edges: Edges,
        estate: Option<Self::Estate>,
    ) -> impl Future<Output = (Exit, Option<Self::Estate>)> + Send + 'static;
}

/// Real connectors.
#[derive(Clone, Copy, Debug)]
pub struct Earnest;

impl Instances for Earnest {
    type Estate = Estate;

    fn check(
        &self,
        config: Arc<Config>,
    ) -> impl Future<Output = Result<(), CheckError>> + Send + 'static {
        async move { instance::check(&config).await }
    }

    fn run(
        &self,
        config: Arc<Config>,
        edges: Edges,
        estate: Option<Estate>,
    ) -> impl Future<Output = (Exit, Option<Estate>)> + Send + 'static {
        async move {
            let Ended { exit, estate } = instance::run(config, edges, estate).await;
            (exit, estate)
        }
    }
}

/// One instance under a supervisor of its own, until a signal or an end that no rebuild mends.
///
/// Errors: the process cannot catch signals.
pub async fn start(name: String, config: Config, state_dir: PathBuf) -> io::Result<Exit> {
    let lifecycle = Lifecycle::new();
    let mut signals = JoinSet::new();
    signals.spawn(lifecycle.clone().listen()?);
    info!(
        instance = name,
        version = env!("CARGO_PKG_VERSION"),
        chain_id = config.chain_id,
        decryption = %config.decryption_address,
        "starting"
    );
    let config = Arc::new(config);
    let reporter = Reporter::new();
    let manager = ServiceManager::of(&Environment::of_process());
    signals.spawn(tell(manager, reporter.phase.subscribe(), lifecycle.stop.clone()));
    let mut pause = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
    for generation in 1u64.. {
        let begun = Instant::now();
        let edges = Edges {
            name: name.clone(),
            state_dir: state_dir.clone(),
            reporter: reporter.clone(),
            hearts: Hearts::default(),
            stop: lifecycle.stop.clone(),
            abort: lifecycle.abort.clone(),
        };
        let span = info_span!("instance", name, generation);
        let ended = Box::pin(instance::run(config.clone(), edges, None)).instrument(span).await;
        let exit = ended.exit;
        match exit {
            Exit::Stopped => info!(instance = name, "stopped"),
            Exit::Refused { .. } => error!(instance = name, %exit, "instance ended"),
            // At the first start somebody is looking; later it is an instance to be kept alive.
            Exit::Failed { task: instance::STARTING, .. } if generation == 1 => {
                error!(instance = name, %exit, "instance ended");
            }
            Exit::Failed { .. } | Exit::Panicked { .. } | Exit::Hung { .. } => {
                if begun.elapsed() >= HEALTHY_AFTER {
                    pause.reset();
                }
                let delay = pause.next_delay();
                error!(instance = name, %exit, restart_in = ?delay, "instance ended, building it again");
                if lifecycle.stop.run_until_cancelled(sleep(delay)).await.is_some() {
                    continue;
                }
                // Told to stop while nothing ran: that is a stop like any other.
                return Ok(Exit::Stopped);
            }
        }
        return Ok(exit);
    }
    Ok(Exit::Stopped)
}

/// Tells the service manager how the one instance is, until it stops.
async fn tell(
    mut manager: ServiceManager,
    mut phase: watch::Receiver<Phase>,
    stop: CancellationToken,
) {
    let mut feeding = interval(manager.watchdog_interval().unwrap_or(Duration::from_mins(1)));
    let mut ready = false;
    loop {
        let status = match &*phase.borrow_and_update() {
            Phase::Starting => "starting".to_owned(),
            Phase::Waiting { on, .. } => format!("waiting for {on}"),
            Phase::Running => "running".to_owned(),
        };
        if ready || status == "starting" {
            manager.status(&status);
        } else {
            ready = true;
            manager.ready(&status);
        }
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = phase.changed() => {}
            _ = feeding.tick() => manager.feed(),
        }
    }
    manager.stopping("stopping: finishing what is in hand");
    loop {
        feeding.tick().await;
        manager.feed();
    }
}
