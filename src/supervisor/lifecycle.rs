//! Signals -> stop and abort tokens.
//!
//! The first SIGTERM or SIGINT stops: no new asks, what is answered is finished. A second one, or
//! the drain limit, aborts: the journal has whatever was in hand.

use std::{io, time::Duration};

use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long a drain may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// The two tokens everything below listens to. *Stop* is a child of *abort*.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    pub stop: CancellationToken,
    pub abort: CancellationToken,
}

impl Lifecycle {
    #[must_use]
    pub fn new() -> Self {
        let abort = CancellationToken::new();
        Self { stop: abort.child_token(), abort }
    }

    /// Turns signals into tokens, until aborted. Signals are caught from the call on.
    pub fn listen(self) -> io::Result<impl Future<Output = ()>> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        Ok(async move {
            let Some(signal) = signals.next().await else { return };
            info!(signal = name(signal), limit = ?DRAIN_LIMIT, "stopping: finishing what is in hand");
            self.stop.cancel();
            tokio::select! {
                second = signals.next() => {
                    warn!(signal = second.map(name), "aborting: what is in hand stays in the journal");
                }
                () = sleep(DRAIN_LIMIT) => {
                    warn!("the drain limit has passed: what is in hand stays in the journal");
                }
            }
            self.abort.cancel();
        })
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "another signal",
    }
}
