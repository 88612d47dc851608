//! A whole local network to try a connector on.
//!
//! ```text
//! devnet quickstart              a Gateway chain, a host chain, S3, two KMS nodes and one kms-connector
//!                                that serves both; ten requests, a configuration changed meanwhile; a
//!                                verdict
//! devnet up     --dir D [--nodes N]             the same without connector and requests, until Ctrl-C
//! devnet emit   --dir D --public N --user N     requests on chain, noted in D/requests.jsonl
//! devnet status --dir D [--json] [--wait S]     which of them are answered, and rightly
//! devnet idle   [--instances N]  what instances with nothing to do cost
//! devnet watch  [--instances N]  what it takes to look at instances at work
//! ```
//!
//! `D/devnet.json` tells where everything is. `status` exits 0 only if every request has exactly
//! one answer of each node's registered signer and the answer is what the ciphertexts decrypt to.
//! `scripts/quickstart` and `scripts/measure` build what is needed.

mod ceremony;
mod idle;
mod network;
mod quickstart;
mod verdict;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use alloy::primitives::{B256, U256};
use clap::{Parser, Subcommand};
use serde::Serialize;
use world::{
    Result,
    contracts::Variant,
    request::{Ask, Kind},
    run::run,
};

use network::{Network, Servers, generation};

#[derive(Parser)]
#[command(name = "devnet", about = "A local Gateway chain with contracts, S3 and a KMS Core stub")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings everything up, has a connector answer requests, and checks the answers on chain.
    Quickstart(quickstart::Options),
    /// Runs instances that have nothing to do, and tells what they cost.
    Idle(idle::Options),
    /// Times metrics and page while requests flow, with one instance and with many.
    Watch(watch::Options),
    /// Brings a fresh network up and keeps it until SIGINT or SIGTERM.
    Up {
        #[arg(long)]
        dir: PathBuf,
        /// Milliseconds between blocks.
        #[arg(long, default_value_t = 250)]
        block_time: u64,
        /// KMS nodes; all of them must answer.
        #[arg(long, default_value_t = 1)]
        nodes: u16,
        /// What the contracts are: G7 to HEAD.
        #[arg(long, value_name = "NAME", default_value = "HEAD", value_parser = generation)]
        generation: Variant,
    },
    /// Has the host chain grant requests, and puts them on chain.
    Emit {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long, default_value_t = 0)]
        public: usize,
        #[arg(long, default_value_t = 0)]
        user: usize,
    },
    /// Tells which requests are answered.
    Status {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        json: bool,
        /// Seconds to wait for missing answers.
        #[arg(long, default_value_t = 0)]
        wait: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    run("devnet", async |interrupts| match command {
        Command::Quickstart(options) => quickstart::run(&options, interrupts).await,
        Command::Idle(options) => interrupts.or(idle::run(&options)).await,
        Command::Watch(options) => interrupts.or(watch::run(&options)).await,
        Command::Up { dir, block_time, nodes, generation } => {
            let block_time = Duration::from_millis(block_time);
            tokio::select! {
                ended = up(&dir, generation, block_time, nodes) => ended,
                _signal = interrupts.next() => Ok(ExitCode::SUCCESS),
            }
        }
        Command::Emit { dir, public, user } => interrupts.or(emit(&dir, public, user)).await,
        Command::Status { dir, json, wait } => {
            interrupts.or(status(&dir, json, Duration::from_secs(wait))).await
        }
    })
    .await
}

async fn up(dir: &Path, variant: Variant, block_time: Duration, nodes: u16) -> Result<ExitCode> {
    let mut servers = Servers::start(dir, variant, block_time, nodes).await?;
    println!("{}", serde_json::to_string_pretty(&servers.network)?);
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        servers.check()?;
    }
}

async fn emit(dir: &Path, public: usize, user: usize) -> Result<ExitCode> {
    let (network, deployment) = Network::attach(dir)?;
    let (asks, host) = (Ask::mixed_of(network.variant, public, user), network.host()?);
    for request in network::emit(dir, (&deployment, host.as_ref()), asks).await? {
        println!("{:#066x}", request.id);
    }
    Ok(ExitCode::SUCCESS)
}

/// One request and what became of it at one node.
#[derive(Debug, Serialize)]
struct Row {
    id: U256,
    kind: Kind,
    node: String,
    request_block: u64,
    /// What is wrong with the answer, if anything is.
    problem: Option<String>,
    answer_block: Option<u64>,
    transaction: Option<B256>,
}

async fn status(dir: &Path, json: bool, wait: Duration) -> Result<ExitCode> {
    let (network, deployment) = Network::attach(dir)?;
    let requests = network::emitted(dir)?;
    if !wait.is_zero() {
        let signers: Vec<_> = network.nodes.iter().map(|node| node.signer_address).collect();
        // Who is missing stands in the table.
        let _incomplete = deployment.answered_by(&requests, &signers, wait).await;
    }
    let answers = deployment.answers().await?;
    let each = |request| network.nodes.iter().map(move |node| (request, node));
    let rows: Vec<Row> = requests
        .iter()
        .flat_map(each)
        .map(|(request, node)| {
            let (answer, problem) = node.judge(request, &answers);
            Row {
                id: request.id,
                kind: request.kind,
                node: node.name.clone(),
                request_block: request.block,
                problem,
                answer_block: answer.map(|a| a.block),
                transaction: answer.map(|a| a.transaction),
            }
        })
        .collect();
    let good = rows.iter().filter(|row| row.problem.is_none()).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for row in &rows {
            let transaction = row.transaction.map_or_else(String::new, |hash| hash.to_string());
            let result = row.problem.as_deref().unwrap_or("ok");
            let (kind, node) = (row.kind.as_str(), &row.node);
            println!("{:#066x} {kind:6} {node} {result} {transaction}", row.id);
        }
        println!("{good} of {} answers are there and right", rows.len());
    }
    Ok(if good == rows.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
