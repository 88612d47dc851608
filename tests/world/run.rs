//! How the programs that stand on the world run: devnet, soak, bench.

use std::process::ExitCode;

use futures_util::StreamExt as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use super::{Error, Result};

/// The signals that ask the program to end.
#[expect(missing_debug_implementations, reason = "the signals of the library have none")]
pub struct Interrupts(Signals);

impl Interrupts {
    /// Waits for the next one. Answers its number.
    pub async fn next(&mut self) -> i32 {
        match self.0.next().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// Does `work` until its end, or until the next one: then it is dropped, and with it every child.
    pub async fn or<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            ended = work => ended,
            _signal = self.next() => Err(Error::other("interrupted")),
        }
    }
}

/// The whole of the program `name`. What goes wrong is told on the error stream.
pub async fn run(
    name: &str,
    work: impl AsyncFnOnce(&mut Interrupts) -> Result<ExitCode>,
) -> ExitCode {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let ended = match signals.map_err(|e| Error::Io("signals".into(), e)) {
        Ok(signals) => work(&mut Interrupts(signals)).await,
        Err(error) => Err(error),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        ExitCode::FAILURE
    })
}
