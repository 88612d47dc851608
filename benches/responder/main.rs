//! The bare reference responder: the four rooms and nothing else, as fast as is reasonable. Where the
//! connector needs more than this program beside it on the same machine, that is what its journal,
//! its checks and its supervision cost.
//!
//! ```text
//! log (eth_subscribe) -> GET, first bucket -> Core: ask, long poll -> sign -> eth_sendRawTransaction
//! ```
//!
//! Left out, on purpose: the journal; every check (a ciphertext's digest, the Core's signature, the
//! contract's version, whether a block stays in the chain); retries, deadlines, other buckets and
//! nodes; gas estimates, receipts and fee bumps (gas limit, fees and nonce are read once and then
//! counted); reconnecting, reloading, supervision, metrics and logs. What fails is printed and not
//! tried again: a lost transaction stops all nonces behind it. TLS is left out, too: `ws` and `http`.
//!
//! Decoding, the Core's messages and calldata are the library's, so that both programs do the same
//! work there. The way to the node is not: one WebSocket, each message read in one pass.
//!
//! It takes the files that `kms-connector start` takes, several of them as instances of one process.
//! With a `starting_block` it begins with what was requested since, answered or not: what it answers
//! twice reverts.

mod instance;
mod kms_core;
mod node;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::Parser;
use futures_util::StreamExt as _;
use kms_connector::config::{self, Config, Environment, LoadMode, Source};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::{runtime::Builder, task::JoinSet};

/// The connector's, so that allocators do not differ.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const THREADS: usize = 2;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "responder", about = "The four rooms alone: what the connector is compared with")]
struct Cli {
    /// A configuration of `kms-connector start`; again for each further instance.
    #[arg(short, long, required = true, value_name = "FILE")]
    config: Vec<PathBuf>,
}

/// What all instances together did.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    /// Transactions that the node took. Whether they were mined, nobody looks.
    sent: AtomicU64,
    failures: AtomicU64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    kms_connector::net::tls::install_provider();
    let counts = Arc::new(Counts::default());
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let ended =
        runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(run(cli, &counts)));
    println!(
        "responder: {} requests, {} transactions sent, {} failures",
        counts.requests.load(Ordering::Relaxed),
        counts.sent.load(Ordering::Relaxed),
        counts.failures.load(Ordering::Relaxed),
    );
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("responder: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Until a signal, or until one instance can go no further.
async fn run(cli: Cli, counts: &Arc<Counts>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut instances = JoinSet::new();
    for path in cli.config {
        let config = read(&path)?;
        instances.spawn(instance::run(path, config, Arc::clone(counts)));
    }
    tokio::select! {
        _signal = signals.next() => Ok(()),
        Some(ended) = instances.join_next() => match ended {
            Ok(Ok(never)) => match never {},
            Ok(Err(error)) => Err(error),
            Err(panicked) => Err(panicked.into()),
        },
    }
}

/// The file alone: no environment changes what is compared.
fn read(path: &Path) -> Result<Config> {
    let source = Source {
        file: Some(path.to_owned()),
        environment: Environment::default(),
        credentials_directory: None,
        mode: LoadMode::Start,
    };
    Ok(config::load(&source)?.config)
}
