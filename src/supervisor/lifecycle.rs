//! Signals -> what an operator, or the service manager, wants of the process.
//!
//! The first SIGTERM or SIGINT stops: no new asks, what is answered is finished. A second one, or
//! the drain limit, aborts: the journal has whatever was in hand. SIGHUP reads the files again.
//!
//! Signals that mean something to other programs (log rotation sends SIGUSR1) would end this one at
//! once, without a drain: they are said once and ignored. So is the one of a file beyond its limit,
//! whose write then fails like one to a full disk.

use std::{collections::BTreeSet, fmt, future, io, time::Duration};

use futures_util::StreamExt;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXFSZ,
};
use tracing::warn;

/// Those that are caught to be ignored, by name.
const IGNORED: [(i32, &str); 7] = [
    (SIGUSR1, "SIGUSR1"),
    (SIGUSR2, "SIGUSR2"),
    (SIGALRM, "SIGALRM"),
    (SIGVTALRM, "SIGVTALRM"),
    (SIGPROF, "SIGPROF"),
    (SIGIO, "SIGIO"),
    (SIGXFSZ, "SIGXFSZ"),
];

/// How long a drain may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End, by the signal of this name.
    Terminate(&'static str),
    /// Look at the files now.
    Reload,
}

/// The signals this process answers to.
pub struct Signals {
    caught: signal_hook_tokio::Signals,
    /// Those that were said to be ignored.
    told: BTreeSet<i32>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

impl Signals {
    /// Catches them from the call on.
    pub fn catch() -> io::Result<Self> {
        let ignored = IGNORED.iter().map(|(signal, _)| *signal);
        let all = [SIGTERM, SIGINT, SIGHUP].into_iter().chain(ignored);
        let caught = signal_hook_tokio::Signals::new(all)?;
        Ok(Self { caught, told: BTreeSet::new() })
    }

    /// The next one. Cancel-safe. Two of a kind may come as one if they come at the same time.
    pub async fn next(&mut self) -> Signal {
        loop {
            // Only a closed stream ends, and nobody closes this one.
            let Some(signal) = self.caught.next().await else { return future::pending().await };
            match IGNORED.iter().find(|(ignored, _)| *ignored == signal) {
                None => return meaning(signal),
                Some((_, name)) if self.told.insert(signal) => {
                    warn!(signal = name, "the signal means nothing here and is ignored");
                }
                Some(_) => {}
            }
        }
    }
}

fn meaning(signal: i32) -> Signal {
    if signal == SIGHUP { Signal::Reload } else { Signal::Terminate(name(signal)) }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "another signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_mean_what_their_senders_mean() {
        assert_eq!(meaning(15), Signal::Terminate("SIGTERM"));
        assert_eq!(meaning(2), Signal::Terminate("SIGINT"));
        assert_eq!(meaning(1), Signal::Reload);
    }
}
