//! A whole local network to try a connector on: the quickstart's devnet.
//!
//! ```text
//! devnet up     --dir D              chain, S3, contracts; D/devnet.json tells where; until Ctrl-C
//! devnet emit   --dir D --public N --user N     requests on chain, noted in D/requests.jsonl
//! devnet status --dir D [--json] [--wait S]     which of them are answered, and rightly
//! ```
//!
//! `status` exits 0 only if every request has exactly one answer of the registered signer and the
//! answer is what the ciphertexts decrypt to.

#[expect(dead_code, reason = "the devnet and the tests each use a part of the world")]
#[path = "world/mod.rs"]
mod world;

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use clap::{Parser, Subcommand};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use world::{
    Error, Result,
    anvil::{Anvil, AnvilOptions},
    contracts::Variant,
    deployment::{Deployment, Node, Store, Thresholds},
    ministack::{Bucket, Ministack},
    random_key,
    request::{Ask, Issued, Kind},
    rpc::Chain,
};

#[derive(Parser)]
#[command(name = "devnet", about = "A local Gateway chain with contracts and S3")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings a fresh network up and keeps it until SIGINT or SIGTERM.
    Up {
        #[arg(long)]
        dir: PathBuf,
        /// Milliseconds between blocks.
        #[arg(long, default_value_t = 250)]
        block_time: u64,
    },
    /// Puts requests on chain.
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

/// `devnet.json`: all that a connector, a Core and the other subcommands need. Holds the keys of a
/// network that lives on this machine only.
#[derive(Debug, Serialize, Deserialize)]
struct Network {
    http_url: String,
    ws_url: String,
    chain_id: u64,
    variant: Variant,
    decryption: Address,
    gateway_config: Address,
    since_block: u64,
    s3_endpoint: String,
    s3_bucket: String,
    coprocessor: Address,
    bucket_url: String,
    /// The connector's wallet: funded and registered.
    wallet_address: Address,
    wallet_private_key: B256,
    /// The signer a Core must have to be this node's.
    signer_address: Address,
    signer_private_key: B256,
    anvil_pid: Option<u32>,
    ministack_pid: Option<u32>,
}

const NETWORK: &str = "devnet.json";
const REQUESTS: &str = "requests.jsonl";
const BUCKET: &str = "ct128";

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up { dir, block_time } => up(&dir, Duration::from_millis(block_time)).await,
        Command::Emit { dir, public, user } => emit(&dir, public, user).await,
        Command::Status { dir, json, wait } => status(&dir, json, Duration::from_secs(wait)).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("devnet: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn up(dir: &Path, block_time: Duration) -> Result<ExitCode> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|e| io("signals", e))?;
    forget_the_last(dir)?;
    let options = AnvilOptions { block_time: Some(block_time), ..AnvilOptions::default() };
    let mut anvil = Anvil::start(dir, options).await?;
    let mut ministack = Ministack::start(dir, None).await?;
    let store = Store::new(ministack.bucket(BUCKET).await?);

    let (wallet, signer): (PrivateKeySigner, PrivateKeySigner) = (random_key(), random_key());
    anvil.fund(wallet.address()).await?;
    let node = Node { wallet: wallet.address(), signer: signer.address() };
    let stores = [store];
    let deployment =
        Deployment::deploy(anvil.chain(), Variant::G10, &[node], &stores, Thresholds::ONE).await?;
    // A Core stub with the key `signer` belongs here, and its URL into the file below.

    let network = Network {
        http_url: anvil.http_url(),
        ws_url: anvil.ws_url(),
        chain_id: anvil.chain_id(),
        variant: deployment.variant,
        decryption: deployment.decryption,
        gateway_config: deployment.gateway_config,
        since_block: deployment.since_block,
        s3_endpoint: ministack.url(),
        s3_bucket: BUCKET.into(),
        coprocessor: stores[0].tx_sender,
        bucket_url: stores[0].bucket.url().into(),
        wallet_address: wallet.address(),
        wallet_private_key: wallet.to_bytes(),
        signer_address: signer.address(),
        signer_private_key: signer.to_bytes(),
        anvil_pid: anvil.pid(),
        ministack_pid: ministack.pid(),
    };
    write_network(dir, &network)?;
    println!("{}", serde_json::to_string_pretty(&network)?);

    loop {
        let watch = tokio::time::sleep(Duration::from_millis(500));
        tokio::select! {
            _signal = signals.next() => return Ok(ExitCode::SUCCESS),
            () = watch => {
                anvil.check()?;
                ministack.check()?;
            }
        }
    }
}

/// Removes what an earlier network left in the folder: every `up` is a fresh one.
fn forget_the_last(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| io("creating the folder", e))?;
    for name in [NETWORK, REQUESTS, "anvil-state.json", "anvil.log", "ministack.log"] {
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(name, e)),
            _ => {}
        }
    }
    match fs::remove_dir_all(dir.join("ministack")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("ministack", e)),
        _ => Ok(()),
    }
}

/// Written whole or not at all: whoever sees the file may use the network.
fn write_network(dir: &Path, network: &Network) -> Result<()> {
    let (draft, file) = (dir.join("devnet.json.draft"), dir.join(NETWORK));
    let write = || {
        let mut out =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        out.write_all(serde_json::to_string_pretty(network)?.as_bytes())?;
        fs::rename(&draft, &file)
    };
    write().map_err(|e| io(NETWORK, e))
}

/// The network in `dir` as `up` described it.
fn attach(dir: &Path) -> Result<(Network, Deployment)> {
    let text = fs::read(dir.join(NETWORK))
        .map_err(|e| Error::Io(format!("no running devnet in {}", dir.display()), e))?;
    let network: Network = serde_json::from_slice(&text)?;
    let bucket = Bucket::new(&network.bucket_url)?;
    let deployment = Deployment {
        chain: Chain::new(&network.http_url, world::anvil::ADMIN)?,
        chain_id: network.chain_id,
        variant: network.variant,
        decryption: network.decryption,
        gateway_config: network.gateway_config,
        since_block: network.since_block,
        stores: vec![Store { tx_sender: network.coprocessor, bucket }],
    };
    Ok((network, deployment))
}

async fn emit(dir: &Path, public: usize, user: usize) -> Result<ExitCode> {
    let (_, deployment) = attach(dir)?;
    let requests = deployment.request(Ask::mixed(public, user)).await?;
    let mut lines = String::new();
    for request in &requests {
        lines.push_str(&serde_json::to_string(request)?);
        lines.push('\n');
    }
    File::options()
        .append(true)
        .create(true)
        .open(dir.join(REQUESTS))
        .and_then(|mut out| out.write_all(lines.as_bytes()))
        .map_err(|e| io(REQUESTS, e))?;
    for request in requests {
        println!("{:#x}", request.id);
    }
    Ok(ExitCode::SUCCESS)
}

/// One request and what became of it.
#[derive(Debug, Serialize)]
struct Row {
    id: U256,
    kind: Kind,
    request_block: u64,
    answered: bool,
    content_ok: bool,
    /// What is wrong with the answer.
    problem: Option<String>,
    answer_block: Option<u64>,
    transaction: Option<B256>,
}

impl Row {
    fn good(&self) -> bool {
        self.answered && self.content_ok
    }
}

async fn status(dir: &Path, json: bool, wait: Duration) -> Result<ExitCode> {
    let (network, deployment) = attach(dir)?;
    let requests = issued(dir)?;
    if !wait.is_zero() {
        let ids = requests.iter().map(|request| request.id);
        // Who is missing stands in the table.
        let _incomplete = deployment.wait_answered(ids, wait).await;
    }
    let answers = deployment.answers().await?;
    let rows: Vec<Row> = requests
        .iter()
        .map(|request| {
            let mine: Vec<_> = answers
                .iter()
                .filter(|a| a.id == request.id && a.signer == network.signer_address)
                .collect();
            let problem = match mine.as_slice() {
                [] => Some("no answer".into()),
                [answer] => request.check(&answer.payload).err(),
                several => Some(format!("{} answers", several.len())),
            };
            Row {
                id: request.id,
                kind: request.kind,
                request_block: request.block,
                answered: !mine.is_empty(),
                content_ok: problem.is_none(),
                problem,
                answer_block: mine.first().map(|a| a.block),
                transaction: mine.first().map(|a| a.transaction),
            }
        })
        .collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for row in &rows {
            let transaction = row.transaction.map_or_else(String::new, |hash| hash.to_string());
            let result = row.problem.as_deref().unwrap_or("ok");
            println!("{:#x} {:?} {result} {transaction}", row.id, row.kind);
        }
        let good = rows.iter().filter(|row| row.good()).count();
        println!("{good} of {} answered rightly", rows.len());
    }
    Ok(if rows.iter().all(Row::good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn issued(dir: &Path) -> Result<Vec<Issued>> {
    let text = match fs::read_to_string(dir.join(REQUESTS)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|e| io(REQUESTS, e))?,
    };
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn io(what: &str, error: std::io::Error) -> Error {
    Error::Io(what.into(), error)
}
