//! Signals -> what an operator, or the service manager, wants of the process.
//!
//! The first SIGTERM or SIGINT stops: no new asks, what is answered is finished. So does SIGPWR: the
//! power fails. A second one, or the drain limit, aborts: the journal has whatever was in hand. SIGHUP
//! reads the files again.
//!
//! Signals that mean something to other programs (log rotation sends SIGUSR1) would end this one at
//! once, without a drain: they are said once and ignored. So are those of a limit that is reached: the
//! write of a file beyond its limit fails like one to a full disk, and work beyond the limit of
//! processor time goes on. What is left ends the process because whoever sends it wants that: SIGKILL,
//! SIGQUIT, SIGABRT, and those of a program that is broken.

use std::{collections::BTreeSet, fmt, future, io, ops::RangeInclusive, time::Duration};

use futures_util::StreamExt;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGSYS, SIGTERM, SIGTRAP, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use tracing::warn;

/// The power fails: of an uninterruptible supply, or of a container's host (LXC).
const SIGPWR: i32 = 30;
/// Of a coprocessor that no machine has any more.
const SIGSTKFLT: i32 = 16;
/// Real-time signals mean nothing by themselves. glibc keeps two before them.
const REAL_TIME: RangeInclusive<i32> = 34..=64;

const NOTHING: &str = "the signal means nothing here and is ignored";

/// Those that are caught to be ignored, by name, and what is said of them.
const IGNORED: [(i32, &str, &str); 11] = [
    (SIGUSR1, "SIGUSR1", NOTHING),
    (SIGUSR2, "SIGUSR2", NOTHING),
    (SIGALRM, "SIGALRM", NOTHING),
    (SIGVTALRM, "SIGVTALRM", NOTHING),
    (SIGPROF, "SIGPROF", NOTHING),
    (SIGIO, "SIGIO", NOTHING),
    (SIGSTKFLT, "SIGSTKFLT", NOTHING),
    (SIGTRAP, "SIGTRAP", NOTHING),
    (
        SIGSYS,
        "SIGSYS",
        "a system call is not allowed to this process (a seccomp filter?): what needs it fails",
    ),
    (
        SIGXFSZ,
        "SIGXFSZ",
        "a file is as large as this process may make one: raise the limit (ulimit -f, LimitFSIZE=)",
    ),
    (
        SIGXCPU,
        "SIGXCPU",
        "this process has used the processor time that it may use, and the system will kill it: raise \
         the limit (ulimit -t, LimitCPU=)",
    ),
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
        let ignored = IGNORED.iter().map(|(signal, ..)| *signal).chain(REAL_TIME);
        let all = [SIGTERM, SIGINT, SIGPWR, SIGHUP].into_iter().chain(ignored);
        let caught = signal_hook_tokio::Signals::new(all)?;
        Ok(Self { caught, told: BTreeSet::new() })
    }

    /// The next one. Cancel-safe. Two of a kind may come as one if they come at the same time.
    pub async fn next(&mut self) -> Signal {
        loop {
            // Only a closed stream ends, and nobody closes this one.
            let Some(signal) = self.caught.next().await else { return future::pending().await };
            let Some((name, word)) = ignored(signal) else { return meaning(signal) };
            if self.told.insert(signal) {
                warn!(signal = name, "{word}");
            }
        }
    }
}

/// The name of one that is ignored, and what is said of it.
fn ignored(signal: i32) -> Option<(String, &'static str)> {
    if REAL_TIME.contains(&signal) {
        return Some((format!("SIGRTMIN+{}", signal - REAL_TIME.start()), NOTHING));
    }
    let known = IGNORED.iter().find(|(ignored, ..)| *ignored == signal);
    known.map(|(_, name, word)| ((*name).to_owned(), *word))
}

fn meaning(signal: i32) -> Signal {
    if signal == SIGHUP { Signal::Reload } else { Signal::Terminate(name(signal)) }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        SIGPWR => "SIGPWR",
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
        assert_eq!(meaning(30), Signal::Terminate("SIGPWR"), "the power fails");
        assert!(ignored(24).is_some_and(|(_, word)| word.contains("ulimit -t")), "SIGXCPU");
        assert!(ignored(25).is_some_and(|(_, word)| word.contains("ulimit -f")), "SIGXFSZ");
        assert_eq!(ignored(36), Some(("SIGRTMIN+2".to_owned(), NOTHING)));
    }

    /// A real one of each, to this process: who is not caught ends the test.
    #[tokio::test]
    async fn d5_no_signal_without_a_meaning_ends_the_process() {
        let mut signals = Signals::catch().unwrap();
        let us = std::process::id().to_string();
        for signal in ["-16", "-31", "-5", "-24", "-25", "-34", "-41", "-64", "-30"] {
            let sent = std::process::Command::new("kill").args([signal, &us]).status();
            assert!(sent.unwrap().success(), "{signal}");
        }
        assert_eq!(signals.next().await, Signal::Terminate("SIGPWR"));
    }
}
