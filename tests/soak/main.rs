//! A long run under load in which something breaks every ten seconds: four KMS nodes under one
//! `kms-connector supervise`, mixed requests at a steady rate, faults drawn from a seed, and in the
//! end an audit of the chain, not of what the connector says of itself.
//!
//! kill -9 happens in the first third only: the process that is started last then lives long enough
//! to show whether its memory and its open files grow.

mod faults;
mod ground;
mod load;
mod usage;
mod verdict;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use clap::Parser;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use world::{Error, Result, folders::Run, procfs::Usage, run::run};

use faults::Deck;
use ground::Ground;
use load::{Load, whole};
use usage::{SAMPLE_EVERY, Samples};
use verdict::Verdict;

const FAULT_EVERY: Duration = Duration::from_secs(10);
/// From the last fault to the last answer.
const DRAIN: Duration = Duration::from_mins(7);

#[derive(Parser)]
#[command(
    name = "soak",
    about = "Requests under faults for a long time, and an audit of the chain"
)]
struct Cli {
    /// How long requests come and things break.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Requests a second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Decides which faults come when [default: a random one, which is printed].
    #[arg(long)]
    seed: Option<u64>,
    /// Only faults with this text in their name, as they are printed ("kill", "reorg", "Core(" …).
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// No faults with this text in their name. The empty text: none at all.
    #[arg(long, value_name = "TEXT")]
    without: Option<String>,
    /// The connector's program.
    #[arg(long, value_name = "FILE")]
    connector: PathBuf,
    /// The folder that gets a folder for every run.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.soak"))]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    run("soak", async |interrupts| {
        let folder = Run::begin(&cli.dir)?;
        println!("folder       {}", folder.dir.display());
        let good = interrupts.or(soak(&cli, &folder.dir)).await?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
    .await
}

/// Whether all is well.
async fn soak(cli: &Cli, dir: &Path) -> Result<bool> {
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let lasts = Duration::from_secs_f64(cli.minutes * 60.0);
    println!("seed         {seed}, {} minutes, {} requests a second", cli.minutes, cli.rate);
    let mut ground = Ground::start(dir).await?;
    ground.supervisor.start(&cli.connector)?;
    ground.running().await?;

    let load = Load::new(ground.parties.deployment.clone()).await?;
    tokio::select! {
        judged = judge(cli, seed, lasts, dir, &mut ground, &load) => judged,
        failed = load.mine() => failed.map(|never| match never {}),
    }
}

/// Load and faults, and then the audit.
async fn judge(
    cli: &Cli,
    seed: u64,
    lasts: Duration,
    dir: &Path,
    ground: &mut Ground,
    load: &Load,
) -> Result<bool> {
    let (over, pid) = (CancellationToken::new(), AtomicU32::new(ground.supervisor.pid()?));
    let (mut samples, buckets) = (Samples::new(), ground.store.port());
    let breaking = async {
        let _over = over.clone().drop_guard();
        let mut deck = Deck::new(seed, cli.only.as_deref(), cli.without.as_deref());
        breaking(&mut deck, ground, load, &cli.connector, lasts, &pid).await
    };
    let sampling = async {
        let mut turn = interval(SAMPLE_EVERY);
        while !over.is_cancelled() {
            turn.tick().await;
            samples.take(pid.load(Ordering::Relaxed), buckets);
        }
        Ok(())
    };
    let counts = tokio::try_join!(breaking, load.run(cli.rate, over.clone()), sampling);
    let csv = dir.join("usage.csv");
    std::fs::write(&csv, samples.csv()).map_err(|e| Error::Io(csv.display().to_string(), e))?;
    let (faults, missing, ()) = counts?;

    // An id that went to another request after a reorganisation: a Core that starts anew takes it.
    ground.restart_cores().await;
    let verdict = Verdict::of(&ground.parties, ground.supervisor.state_dir(), DRAIN).await?;
    ground.check()?;
    let growth = samples.verdict()?;
    println!("\nfaults       {faults}");
    println!(
        "emitted      {}, of which {} left the chain for good",
        load.emitted(),
        load.dropped()
    );
    println!("{verdict}");
    println!("resources    {growth}");
    let broken = ground.unbroken();
    if let Err(error) = &broken {
        println!("panics       {error}");
    }
    let stopped = ground.supervisor.stop().await?;
    println!("stop         exit code {stopped:?}");
    if !growth.is_telling() {
        println!("             (too short a run to judge its growth)");
    }
    // A portion may always be missing, and what a reorganisation delays.
    let in_time = missing <= whole(cli.rate * 10.0);
    if !in_time {
        println!("             {missing} less than the rate: this machine is too slow for it");
    }
    let flat = growth.is_flat() || !growth.is_telling();
    let good = verdict.is_good() && in_time && flat && broken.is_ok() && stopped == Some(0);
    println!("soak         {}", if good { "good" } else { "FAILED" });
    Ok(good)
}

/// A fault every ten seconds. Answers how many there were.
async fn breaking(
    deck: &mut Deck,
    ground: &mut Ground,
    load: &Load,
    program: &Path,
    lasts: Duration,
    pid: &AtomicU32,
) -> Result<usize> {
    let begun = Instant::now();
    let (mut count, mut next) = (0, begun + FAULT_EVERY);
    while next < begun + lasts {
        sleep_until(next).await;
        next += FAULT_EVERY;
        ground.check()?;
        let Some(fault) = deck.draw(begun.elapsed() < lasts / 3) else { continue };
        let told = deck.play(&fault, ground, load, program).await?;
        pid.store(ground.supervisor.pid()?, Ordering::Relaxed);
        count += 1;
        println!(
            "{:>6.0} s  {fault}  {told}  {}",
            begun.elapsed().as_secs_f64(),
            standing(ground, load).await?
        );
    }
    sleep_until(begun + lasts).await;
    Ok(count)
}

/// How far each wallet is, and what the chain's node takes.
async fn standing(ground: &Ground, load: &Load) -> Result<String> {
    let mut sent = Vec::new();
    for party in &ground.parties.list {
        sent.push(ground.parties.deployment.chain.nonce(party.address()).await?.to_string());
    }
    let node = ground.parties.anvil.pid().and_then(|pid| Usage::of(pid).ok());
    let node = node.map_or(0, |usage| usage.rss_kib / 1024);
    let emitted = load.emitted();
    Ok(format!("| {emitted} emitted, {} mined, chain {node} MiB", sent.join(" ")))
}
