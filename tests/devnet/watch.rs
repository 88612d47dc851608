//! What it takes to look while requests flow: the time of metrics and page with one instance, and
//! with many, each with a wallet, a journal and a KMS Core of its own, that all answer each request.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::time::{Instant, sleep};
use world::{
    Result,
    anvil::AnvilOptions,
    deployment::Thresholds,
    fleet::{Fleet, name},
    http_client,
    scene::SceneOptions,
};

use crate::{
    idle::{all_running, counted, tell},
    quickstart::connector_program,
};

/// All that the page and Prometheus ask for; `/` is the page itself, which is loaded once.
const PATHS: [&str; 5] = ["/metrics", "/status", "/history", "/readyz", "/"];
/// Far more than an answer takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// The listener ends a connection after a minute: another one is made before.
const KEPT: Duration = Duration::from_secs(30);
/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests flow for so long before anybody looks.
const WARM_UP: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct Options {
    /// The connector's program [default: the one built beside this program].
    #[arg(long, value_name = "FILE")]
    connector: Option<PathBuf>,
    /// Looked at after one alone.
    #[arg(long, default_value_t = 50, value_name = "N")]
    instances: usize,
    /// Milliseconds from one request to the next; each waits for its block.
    #[arg(long, default_value_t = 250, value_name = "MILLISECONDS")]
    every: u64,
    /// How long to look at each.
    #[arg(long, default_value_t = 40, value_name = "SECONDS")]
    seconds: u64,
}

/// The answers of one path.
#[derive(Debug, Default)]
struct Looks {
    times: Vec<Duration>,
    /// The longest.
    bytes: usize,
}

/// Prints how long each path takes with one instance and with all, and how much longer.
pub async fn run(options: &Options) -> Result<ExitCode> {
    let program = connector_program(options.connector.as_deref())?;
    println!("program      {}", program.display());
    println!("requests     one every {} ms, answered by every instance", options.every);
    let one = look(&program, options, 1).await?;
    let many = look(&program, options, options.instances).await?;
    println!(
        "{:<10}{:>12}{:>12}{:>10}{:>12}{:>12}{:>10}{:>8}",
        "", "1: median", "slowest", "bytes", "all: median", "slowest", "bytes", "ratio"
    );
    for ((path, one), many) in PATHS.iter().zip(one).zip(many) {
        let ratio = many.median().as_secs_f64() / one.median().as_secs_f64();
        println!(
            "{path:<10}{}{:>10}{}{:>10}{ratio:>8.1}",
            one.shown(),
            one.bytes,
            many.shown(),
            many.bytes
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings up so many instances, has requests flow, and looks.
async fn look(program: &Path, options: &Options, instances: usize) -> Result<[Looks; PATHS.len()]> {
    let anvil = AnvilOptions { durable: false, ..AnvilOptions::default() };
    let scene = SceneOptions { anvil, ..SceneOptions::default() };
    let mut fleet = Fleet::with(&scene, instances, Thresholds::ONE).await?;
    for index in fleet.all() {
        fleet.supervisor.configs.write(&name(index), &fleet.parties.patient_config(index))?;
    }
    fleet.supervisor.start(program)?;
    all_running(&fleet).await?;
    let looking = async {
        sleep(WARM_UP).await;
        let time = Duration::from_secs(options.seconds);
        tokio::try_join!(ask(&fleet, time), counted(&fleet, time))
    };
    let every = Duration::from_millis(options.every);
    let (requests, (looks, usage)) = fleet.under_load(every, looking).await?;
    tell(&instances.to_string(), &usage);
    let answered = match fleet.answered_by(&fleet.all(), &requests).await {
        Ok(()) => "all answered by each instance within a minute of the last".to_owned(),
        Err(error) => format!("NOT all answered: {error}"),
    };
    println!("{:<12} {} requests, {answered}", "", requests.len());
    fleet.supervisor.stop().await?;
    Ok(looks)
}

/// Asks for everything in turn, over connections that are kept, as a browser or Prometheus does.
async fn ask(fleet: &Fleet, time: Duration) -> Result<[Looks; PATHS.len()]> {
    let base = format!("http://{}", fleet.supervisor.listener().await?);
    let mut looks: [Looks; PATHS.len()] = Default::default();
    let begun = Instant::now();
    let (mut client, mut connected) = (http_client(PATIENCE)?, begun);
    while begun.elapsed() < time {
        if connected.elapsed() > KEPT {
            (client, connected) = (http_client(PATIENCE)?, Instant::now());
        }
        for (path, looks) in PATHS.iter().zip(&mut looks) {
            let asked = Instant::now();
            let body = client.get(format!("{base}{path}")).send().await?.bytes().await?;
            looks.times.push(asked.elapsed());
            looks.bytes = looks.bytes.max(body.len());
        }
        sleep(PAUSE).await;
    }
    Ok(looks)
}

impl Looks {
    fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    /// The median and the slowest.
    fn shown(&self) -> String {
        let millis = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1_000.0);
        let slowest = self.times.iter().max().copied().unwrap_or_default();
        format!("{:>12}{:>12}", millis(self.median()), millis(slowest))
    }
}
