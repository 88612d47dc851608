//! What instances cost that have nothing to do: one process, any number of them, each with a wallet,
//! a journal and a KMS Core of its own.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use tokio::time::{Instant, sleep};
use world::{
    Error, Result,
    anvil::AnvilOptions,
    deployment::Thresholds,
    fleet::{Fleet, name},
    procfs::Usage,
    scene::SceneOptions,
    supervised::running,
};

use crate::quickstart::connector_program;

/// From the supervisor's start to the last instance running.
const STARTING: Duration = Duration::from_mins(3);

#[derive(Args)]
pub struct Options {
    /// The connector's program [default: the one built beside this program].
    #[arg(long, value_name = "FILE")]
    connector: Option<PathBuf>,
    #[arg(long, default_value_t = 100, value_name = "N")]
    instances: usize,
    /// Milliseconds between the chain's blocks.
    #[arg(long, default_value_t = 250, value_name = "MILLISECONDS")]
    block_time: u64,
    /// How long to look at them before counting begins, and how long to count.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    seconds: u64,
}

/// Prints what the process takes with no instance and with all of them.
pub async fn run(options: &Options) -> Result<ExitCode> {
    let program = connector_program(options.connector.as_deref())?;
    let block_time = Duration::from_millis(options.block_time);
    let anvil = AnvilOptions { block_time: Some(block_time), ..AnvilOptions::default() };
    let scene = SceneOptions { anvil, ..SceneOptions::default() };
    println!("program      {}", program.display());
    println!("instances    {}, a block every {} ms", options.instances, options.block_time);

    let mut fleet = Fleet::with(&scene, options.instances, Thresholds::ONE).await?;
    fleet.supervisor.start(&program)?;
    fleet.supervisor.until("a supervisor without instances", |_| true).await?;
    tell("none", &counted(&fleet, Duration::from_secs(5)).await?);
    fleet.supervisor.stop().await?;

    for index in fleet.all() {
        fleet.supervisor.configs.write(&name(index), &fleet.parties.patient_config(index))?;
    }
    let started = Instant::now();
    fleet.supervisor.start(&program)?;
    all_running(&fleet).await?;
    println!("start-up     {:.1} s until all run", started.elapsed().as_secs_f64());
    let while_looking = Duration::from_secs(options.seconds);
    sleep(while_looking).await;
    tell("all", &counted(&fleet, while_looking).await?);

    let stopping = Instant::now();
    let code = fleet.supervisor.stop().await?;
    println!("stop         {:.1} s", stopping.elapsed().as_secs_f64());
    if code == Some(0) {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Error::other(format!("it ended with {code:?}\n{}", fleet.supervisor.log())))
    }
}

/// Waits until every party's instance runs.
pub async fn all_running(fleet: &Fleet) -> Result<()> {
    let all = |status: &_| running(status).len() == fleet.all().len();
    fleet.supervisor.until_within(STARTING, "all instances running", all).await.map(drop)
}

/// What it took in the end, and of one processor meanwhile.
pub async fn counted(fleet: &Fleet, seconds: Duration) -> Result<(Usage, f64)> {
    let (before, since) = (fleet.supervisor.usage()?, Instant::now());
    sleep(seconds).await;
    let after = fleet.supervisor.usage()?;
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64() / since.elapsed().as_secs_f64();
    Ok((after, cpu))
}

pub fn tell(which: &str, (usage, cpu): &(Usage, f64)) {
    let Usage { rss_kib, threads, files, sockets, .. } = usage;
    println!(
        "{which:<12} resident {:.1} MiB, {threads} threads, {files} descriptors ({sockets} sockets), \
         {:.1} % of one processor",
        f64::from(u32::try_from(*rss_kib).unwrap_or(u32::MAX)) / 1024.0,
        cpu * 100.0,
    );
}
