//! Whether the KMS Core answers: probed now and then, for the log and the phase.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    dice::Dice,
    flow::kms_core::{CoreHealth, KmsCore},
    instance::errors::CoreProblem,
    telemetry::log_throttle::LogThrottle,
    time::backoff::Backoff,
};

/// How often a Core that answered is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Result of probing the Core; `None` before the first probe.
pub(super) type CoreStatus = Option<Result<(), CoreProblem>>;

pub(in crate::instance) fn core_name(core: &KmsCore) -> String {
    format!("the KMS Core at {}", core.address())
}

/// Returns the problem with the Core, if any.
pub(in crate::instance) async fn ask_core(core: &KmsCore) -> Result<(), CoreProblem> {
    match core.health().await? {
        CoreHealth::Serving | CoreHealth::Unknown => Ok(()),
        CoreHealth::NotServing => Err(CoreProblem::NotServing),
    }
}

/// Probes the Core periodically. Nothing waits for this: each request asks the Core by itself.
pub(super) async fn follow_core(core: &KmsCore, found: &watch::Sender<CoreStatus>, dice: &Dice) {
    let mut pause = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
    let mut repeats = LogThrottle::default();
    loop {
        let now = ask_core(core).await;
        let before = found.send_replace(Some(now.clone()));
        match &now {
            Ok(()) if before != Some(Ok(())) => {
                repeats.reset();
                info!(host = %core.address(), "KMS Core reached");
            }
            Ok(()) => {}
            Err(why) => {
                if let Some(times) = repeats.should_log(why.code(), Instant::now()) {
                    warn!(%why, times, "waiting for {}", core_name(core));
                }
            }
        }
        if now.is_ok() {
            pause.reset();
            sleep(PROBE_INTERVAL).await;
        } else {
            sleep(pause.next_delay(dice.roll())).await;
        }
    }
}
