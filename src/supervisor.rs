//! The loop above the instance: build, run, read its end, build again.
//!
//! `start` runs one instance and watches no files. An end that a rebuild may mend is answered by a
//! rebuild after a growing pause; one that contradicts the world ends the process, so that whoever
//! started it sees why.

pub mod lifecycle;

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{Instrument, error, info, info_span};

use self::lifecycle::Lifecycle;
use crate::{
    backoff::Backoff,
    config::Config,
    instance::{self, Edges, Exit},
};

/// An instance that ran this long was healthy: the next pause is the first one again.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

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
    let mut pause = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
    for generation in 1u64.. {
        let begun = Instant::now();
        let edges = Edges {
            state_dir: state_dir.clone(),
            stop: lifecycle.stop.clone(),
            abort: lifecycle.abort.clone(),
        };
        let span = info_span!("instance", name, generation);
        let exit = Box::pin(instance::run(config.clone(), edges)).instrument(span).await;
        match exit {
            Exit::Stopped => info!(instance = name, "stopped"),
            Exit::Refused { .. } => error!(instance = name, %exit, "instance ended"),
            // At the first start somebody is looking; later it is an instance to be kept alive.
            Exit::Failed { task: instance::STARTING, .. } if generation == 1 => {
                error!(instance = name, %exit, "instance ended");
            }
            Exit::Failed { .. } | Exit::Panicked { .. } => {
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
