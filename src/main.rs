//! Parse, log, runtime, run, exit code. Decides nothing.

use std::process::ExitCode;
use std::time::Duration;

use kms_connector::cli::{Cli, ExitStatus, enough_threads};
use kms_connector::config::Environment;
use kms_connector::telemetry::logging;

/// Returns memory some seconds after a burst. glibc keeps an arena for each thread at its largest size:
/// after one burst of four times a thousand requests the process would look as if it leaked memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long a thread for blocking work waits for more of it. Every instance looks at its journal's files
/// every two seconds: with the default of ten, or with as many, each instance would keep a thread.
const IDLE_THREAD_KEPT: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    let cli = match Cli::from_process() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let environment = Environment::of_process();
    let kept = match logging::init(&cli.log_settings(&environment)) {
        Ok(kept) => kept,
        Err(error) => {
            eprintln!("kms-connector: cannot log: {error}");
            return ExitStatus::Failure.into();
        }
    };
    if let Err(error) = enough_threads() {
        eprintln!("kms-connector: cannot start: {error}");
        return ExitStatus::Failure.into();
    }
    // The one TLS provider. An error would mean that it is installed already.
    kms_connector::net::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_keep_alive(IDLE_THREAD_KEPT)
        .build();
    match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(cli.run(environment, kept));
            // A file read on a hanging disk must not delay the exit.
            runtime.shutdown_timeout(Duration::from_secs(5));
            exit.into()
        }
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            ExitStatus::Failure.into()
        }
    }
}
