//! Signals -> what an operator, or the service manager, wants of the process.
//!
//! The first SIGTERM or SIGINT stops: no new asks, what is answered is finished. A second one, or
//! the drain limit, aborts: the journal has whatever was in hand. SIGHUP reads the files again.

use std::{fmt, future, io, time::Duration};

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

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
pub struct Signals(signal_hook_tokio::Signals);

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

impl Signals {
    /// Catches them from the call on.
    pub fn catch() -> io::Result<Self> {
        signal_hook_tokio::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self)
    }

    /// The next one. Cancel-safe. Two of a kind may come as one if they come at the same time.
    pub async fn next(&mut self) -> Signal {
        match self.0.next().await {
            Some(signal) => meaning(signal),
            // Only a closed stream ends, and nobody closes this one.
            None => future::pending().await,
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
