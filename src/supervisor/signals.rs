//! Signals, translated into what an operator or the service manager wants of the process.
//!
//! The first SIGTERM or SIGINT stops: the Core is asked nothing more, and what is answered is
//! finished. SIGPWR (power failure) does the same. A second signal, or the drain limit, aborts:
//! unfinished work stays in the journal. SIGHUP reads the files again.
//!
//! The default action of many other signals would end the process without a drain. Signals that
//! mean something to other programs (log rotation sends SIGUSR1) are logged once and ignored. So
//! are the signals of resource limits: a write beyond the file size limit then fails like one to a
//! full disk, and work beyond the CPU limit continues. The rest keeps its default action because
//! its sender wants the process to end: SIGKILL, SIGQUIT, SIGABRT, and the signals of a crash.

use std::{collections::BTreeSet, fmt, future, io, ops::RangeInclusive, time::Duration};

use futures_util::StreamExt;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGSYS, SIGTERM, SIGTRAP, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use tracing::warn;

/// Power failure: sent for an uninterruptible power supply, or by a container's host (LXC).
const SIGPWR: i32 = 30;
/// Coprocessor stack fault; no current kernel sends it.
const SIGSTKFLT: i32 = 16;
/// Real-time signals have no predefined meaning. glibc reserves the two below for itself.
const REAL_TIME: RangeInclusive<i32> = 34..=64;

const NO_MEANING: &str = "the signal means nothing here and is ignored";

/// Signals that are caught only to be ignored: number, name and log message.
const IGNORED: [(i32, &str, &str); 11] = [
    (SIGUSR1, "SIGUSR1", NO_MEANING),
    (SIGUSR2, "SIGUSR2", NO_MEANING),
    (SIGALRM, "SIGALRM", NO_MEANING),
    (SIGVTALRM, "SIGVTALRM", NO_MEANING),
    (SIGPROF, "SIGPROF", NO_MEANING),
    (SIGIO, "SIGIO", NO_MEANING),
    (SIGSTKFLT, "SIGSTKFLT", NO_MEANING),
    (SIGTRAP, "SIGTRAP", NO_MEANING),
    (
        SIGSYS,
        "SIGSYS",
        "this process may not make a system call (a seccomp filter?): whatever needs it fails",
    ),
    (
        SIGXFSZ,
        "SIGXFSZ",
        "a file has the largest size that this process may write: raise the limit (ulimit -f, \
         LimitFSIZE=)",
    ),
    (
        SIGXCPU,
        "SIGXCPU",
        "this process has used up its processor time, and the system will kill it: raise the limit \
         (ulimit -t, LimitCPU=)",
    ),
];

/// How long a drain may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// End the process; holds the signal's name.
    Terminate(&'static str),
    /// Read the files now.
    Reload,
}

/// The signals that this process handles.
pub struct Signals {
    caught: signal_hook_tokio::Signals,
    /// Ignored signals that were logged already.
    warned: BTreeSet<i32>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

impl Signals {
    /// Installs the handlers. Signals are caught from this call on.
    pub fn catch() -> io::Result<Self> {
        let ignored = IGNORED.iter().map(|(signal, ..)| *signal).chain(REAL_TIME);
        let all = [SIGTERM, SIGINT, SIGPWR, SIGHUP].into_iter().chain(ignored);
        let caught = signal_hook_tokio::Signals::new(all)?;
        Ok(Self { caught, warned: BTreeSet::new() })
    }

    /// The next signal. Cancel-safe. Two equal signals may be merged if they arrive together.
    pub async fn next(&mut self) -> Signal {
        loop {
            // The stream ends only when it is closed, and nothing closes it.
            let Some(signal) = self.caught.next().await else { return future::pending().await };
            let Some((name, word)) = ignored_signal(signal) else { return interpret(signal) };
            if self.warned.insert(signal) {
                warn!(signal = name, "{word}");
            }
        }
    }
}

/// The name and the log message of an ignored signal.
fn ignored_signal(signal: i32) -> Option<(String, &'static str)> {
    if REAL_TIME.contains(&signal) {
        return Some((format!("SIGRTMIN+{}", signal - REAL_TIME.start()), NO_MEANING));
    }
    let known = IGNORED.iter().find(|(ignored, ..)| *ignored == signal);
    known.map(|(_, name, word)| ((*name).to_owned(), *word))
}

fn interpret(signal: i32) -> Signal {
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
        assert_eq!(interpret(15), Signal::Terminate("SIGTERM"));
        assert_eq!(interpret(2), Signal::Terminate("SIGINT"));
        assert_eq!(interpret(1), Signal::Reload);
        assert_eq!(interpret(30), Signal::Terminate("SIGPWR"), "the power fails");
        assert!(ignored_signal(24).is_some_and(|(_, word)| word.contains("ulimit -t")), "SIGXCPU");
        assert!(ignored_signal(25).is_some_and(|(_, word)| word.contains("ulimit -f")), "SIGXFSZ");
        assert_eq!(ignored_signal(36), Some(("SIGRTMIN+2".to_owned(), NO_MEANING)));
    }

    /// Sends real signals to this process: one that is not caught ends the test.
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
