//! The whole product once, for an operator to watch: servers, a connector as a process of its own,
//! requests, and a verdict on every answer that rests on the chain and not on the connector's word.
//!
//! Every run has a folder of its own, numbered, below `.quickstart`: data, configuration, journal
//! and logs. It stays until two later runs are over. A lock file in it is held as long as the run
//! lives, so that runs may overlap and none removes what another needs.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use alloy::primitives::U256;
use clap::Args;
use futures_util::StreamExt as _;
use rustix::process::Signal;
use signal_hook_tokio::Signals;
use tokio::time::{Instant, sleep};

use crate::{
    network::{Servers, emit, write_private},
    world::{
        Error, Result,
        deployment::Answer,
        journal::{self, Entry},
        process::Process,
        request::{Issued, Kind},
        until,
    },
};

const BLOCK_TIME: Duration = Duration::from_millis(250);
/// From the connector's start to its journal.
const STARTING: Duration = Duration::from_secs(30);
/// The connector gives itself 20 s.
const STOPPING: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// Finished runs that are kept for who wants to read their logs.
const KEPT_RUNS: usize = 2;
/// Lines of the connector's log that a failure shows.
const TAIL: usize = 40;

#[derive(Args)]
pub struct Options {
    /// The connector's program [default: the one built beside this program].
    #[arg(long, value_name = "FILE")]
    connector: Option<PathBuf>,
    /// Public decryption requests to emit.
    #[arg(long, default_value_t = 5, value_name = "N")]
    public: usize,
    /// User decryption requests to emit.
    #[arg(long, default_value_t = 5, value_name = "N")]
    user: usize,
    /// Leave everything running until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Seconds to wait for the answers.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
    /// The folder that gets a folder for every run.
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.quickstart"))]
    dir: PathBuf,
}

/// Runs to the verdict, and with `--keep` until a signal. Success: every request was answered once
/// and rightly, and everything ended in order.
pub async fn run(options: &Options, signals: &mut Signals) -> Result<ExitCode> {
    let run = Run::begin(&options.dir)?;
    let walked = tokio::select! {
        walked = walk(options, &run) => walked,
        Some(signal) = signals.next() => return Ok(interrupted(signal)),
    };
    let (mut scene, good) = match walked {
        Ok(walked) => walked,
        Err(error) => return Ok(failed(&run, Some(&error))),
    };
    if !good {
        failed(&run, None);
    }
    let mut kept = Ok(());
    if options.keep {
        tell_what_runs(&scene, &run);
        kept = tokio::select! {
            ended = scene.watch() => ended,
            _signal = signals.next() => Ok(()),
        };
    }
    let stopped = tokio::select! {
        stopped = scene.stop() => stopped,
        Some(signal) = signals.next() => return Ok(interrupted(signal)),
    };
    match kept.and(stopped) {
        Err(error) => Ok(failed(&run, Some(&error))),
        Ok(()) if good => {
            println!("Logs, journal and configuration of this run: {}", near(&run.dir));
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) => Ok(ExitCode::FAILURE),
    }
}

fn interrupted(signal: i32) -> ExitCode {
    eprintln!("\nquickstart: interrupted; everything it started is stopped");
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// Brings everything up, has the requests answered and tells how each went.
async fn walk(options: &Options, run: &Run) -> Result<(Scene, bool)> {
    let program = connector_program(options)?;
    let log = Progress::start();
    log.say("starting", "a Gateway chain (anvil), S3 (ministack) and a KMS Core stub");
    let servers = Servers::start(&run.dir, BLOCK_TIME).await?;
    let network = &servers.network;
    log.say("Gateway chain", format!("{} (chain id {})", network.ws_url, network.chain_id));
    log.say("contracts", format!("Decryption {}", network.decryption));
    log.say("", format!("GatewayConfig {}", network.gateway_config));
    log.say("S3 bucket", &network.bucket_url);
    log.say("KMS Core stub", &network.core_endpoint);

    write_private(&run.config(), &network.connector_config())?;
    let connector = start_connector(&program, run)?;
    let mut scene = Scene { connector, servers };
    let state = run.state();
    // A file that is just being made is no journal yet.
    let ready = async || Ok(journal::entries(&state).ok().map(drop));
    let ready = until("the connector's journal", STARTING, POLL, ready);
    tokio::select! {
        ready = ready => ready?,
        failed = scene.watch() => failed?,
    }
    log.say("kms-connector", format!("running, process {}", scene.connector.pid()));

    let deployment = scene.servers.deployment.clone();
    let requests = emit(&run.dir, &deployment, options.public, options.user).await?;
    let of = format!("{} public and {} user decryption requests", options.public, options.user);
    log.say("emitted", of);
    let deadline = Duration::from_secs(options.wait);
    let settled = until("outcomes", deadline, POLL, async || {
        let entries = journal::entries(&state)?;
        let settled = |request: &Issued| {
            entries.iter().any(|entry| entry.id == request.id && entry.outcome.is_some())
        };
        Ok(requests.iter().all(settled).then_some(()))
    });
    tokio::select! {
        // Who is late stands in the table.
        _late = settled => {}
        failed = scene.watch() => failed?,
    }
    log.say("checking", "every answer on chain");
    let entries = journal::entries(&state)?;
    let answers = deployment.answers().await?;
    let mut verdicts = Vec::new();
    for request in &requests {
        let entry = entries.iter().find(|entry| entry.id == request.id);
        verdicts.push(Verdict::of(request, entry, &answers, &scene).await?);
    }
    println!("\n{}", table(&verdicts));
    let failed = deployment.failed_transactions().await?.len();
    println!("\n{}", totals(&verdicts, failed));
    let good = verdicts.iter().all(|verdict| verdict.problem.is_none());
    Ok((scene, good))
}

/// What runs, in the order in which it is dropped: the connector before what it talks to.
struct Scene {
    connector: Process,
    servers: Servers,
}

impl Scene {
    /// Answers only when something has ended that should run.
    async fn watch(&mut self) -> Result<()> {
        loop {
            if let Some(status) = self.connector.exited()? {
                return Err(Error::other(format!("kms-connector ended by itself: {status}")));
            }
            self.servers.check()?;
            sleep(POLL).await;
        }
    }

    async fn stop(&mut self) -> Result<()> {
        let status = self.connector.stop(Signal::TERM, STOPPING).await?;
        if status.success() {
            return Ok(());
        }
        Err(Error::other(format!("kms-connector did not end in order: {status}")))
    }
}

fn connector_program(options: &Options) -> Result<PathBuf> {
    let beside = || {
        let devnet = std::env::current_exe().ok()?;
        Some(devnet.parent()?.parent()?.join("kms-connector"))
    };
    let program = options.connector.clone().or_else(beside).unwrap_or_default();
    if program.is_file() {
        return Ok(program);
    }
    let program = program.display();
    Err(Error::other(format!(
        "{program} does not exist; build it: cargo build --bin kms-connector"
    )))
}

fn start_connector(program: &Path, run: &Run) -> Result<Process> {
    let mut command = Command::new(program);
    command.arg("start").arg("-c").arg(run.config()).args(["-n", "quickstart"]);
    command.arg("--state-dir").arg(run.state());
    // The file counts, whatever the operator's shell has set for another connector.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KMS_CONNECTOR_") {
            command.env_remove(name);
        }
    }
    Process::spawn("connector", &run.dir, command)
}

// The folders of the runs.

/// One run's folder, ours as long as this lives.
struct Run {
    dir: PathBuf,
    _lock: File,
}

impl Run {
    /// A fresh folder below `base`. Removes those of finished runs but the newest.
    fn begin(base: &Path) -> Result<Self> {
        let failed = |e: io::Error| Error::Io(base.display().to_string(), e);
        fs::create_dir_all(base).map_err(failed)?;
        // One at a time: between a folder and its lock nobody must take it for a finished run's.
        let gate = File::create(base.join("lock")).map_err(failed)?;
        gate.lock().map_err(failed)?;
        let mut numbers: Vec<u32> = Vec::new();
        for entry in fs::read_dir(base).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        let folder = |number: u32| base.join(number.to_string());
        let finished = numbers.iter().map(|n| folder(*n)).filter(|dir| is_finished(dir));
        let finished: Vec<PathBuf> = finished.collect();
        for old in &finished[..finished.len().saturating_sub(KEPT_RUNS)] {
            fs::remove_dir_all(old).map_err(failed)?;
        }
        let dir = folder(numbers.last().map_or(1, |newest| newest + 1));
        fs::create_dir(&dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { dir, _lock: lock })
    }

    fn config(&self) -> PathBuf {
        self.dir.join("connector.toml")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("connector.log")
    }
}

/// Whether nobody holds the folder's lock.
fn is_finished(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => true,
    }
}

// The verdict.

/// How one request went.
struct Verdict {
    id: U256,
    kind: Kind,
    entry: Option<Entry>,
    answer: Option<Answer>,
    /// What is wrong, if anything is.
    problem: Option<String>,
}

impl Verdict {
    /// The chain decides; the journal must say the same.
    async fn of(
        request: &Issued,
        entry: Option<&Entry>,
        answers: &[Answer],
        scene: &Scene,
    ) -> Result<Self> {
        let Servers { network, deployment, .. } = &scene.servers;
        let (answer, mut problem) = network.judge(request, answers);
        let accepted = deployment.accepted_by(request.id, network.signer_address).await?;
        if problem.is_none() && accepted != 1 {
            problem = Some(format!("the contract counts {accepted} answers"));
        }
        if problem.is_none() {
            problem = match entry {
                None => Some("not in the journal".into()),
                Some(entry) if entry.outcome.as_deref() != Some("accepted") => {
                    Some(format!("the journal says {}", entry.outcome.as_deref().unwrap_or("open")))
                }
                Some(entry) if entry.transaction != answer.map(|a| a.transaction) => {
                    Some("the journal names another transaction".into())
                }
                Some(_) => None,
            };
        } else {
            let why = entry.map_or_else(|| "not in the journal".into(), standing);
            problem = problem.map(|problem| format!("{problem}; {why}"));
        }
        let (entry, answer) = (entry.cloned(), answer.cloned());
        Ok(Self { id: request.id, kind: request.kind, entry, answer, problem })
    }

    fn result(&self) -> String {
        match (&self.problem, self.kind) {
            (Some(problem), _) => format!("WRONG: {problem}"),
            (None, Kind::Public) => "value matches".into(),
            (None, Kind::User) => "share matches".into(),
        }
    }
}

/// Where the journal has a request, and why it is not further.
fn standing(entry: &Entry) -> String {
    match (&entry.outcome, &entry.held, &entry.last_error) {
        (Some(outcome), _, _) => format!("the journal says {outcome}"),
        (None, Some((reason, detail)), _) => format!("{}, held, {reason}: {detail}", entry.stage),
        (None, None, Some(error)) => format!("{}, last error: {error}", entry.stage),
        (None, None, None) => format!("{} so far", entry.stage),
    }
}

/// Stage times count from the arrival.
fn table(verdicts: &[Verdict]) -> String {
    let header = [
        "id",
        "kind",
        "arrived (UTC)",
        "asked",
        "answered",
        "submitted",
        "settled",
        "result",
        "transaction",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    for verdict in verdicts {
        let entry = verdict.entry.as_ref();
        let arrived = entry.map(|entry| entry.arrived_at);
        let after = |at: fn(&Entry) -> Option<i64>| {
            let passed = entry.and_then(|entry| Some(at(entry)? - arrived?));
            passed.map_or_else(|| "-".into(), |millis| format!("+{millis} ms"))
        };
        let transaction = verdict.answer.as_ref().map(|answer| answer.transaction.to_string());
        rows.push([
            short(verdict.id),
            verdict.kind.as_str().into(),
            arrived.map_or_else(|| "-".into(), time_of_day),
            after(|entry| entry.asked_at),
            after(|entry| entry.answered_at),
            after(|entry| entry.submitted_at),
            after(|entry| entry.settled_at),
            verdict.result(),
            transaction.unwrap_or_else(|| "-".into()),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 9] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // Times end under each other.
            if (3..=6).contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn totals(verdicts: &[Verdict], failed_transactions: usize) -> String {
    let good = verdicts.iter().filter(|verdict| verdict.problem.is_none()).count();
    let mut millis: Vec<i64> = verdicts
        .iter()
        .filter_map(|verdict| {
            let entry = verdict.entry.as_ref()?;
            Some(entry.settled_at? - entry.arrived_at)
        })
        .collect();
    millis.sort_unstable();
    let times = match (millis.get(millis.len() / 2), millis.last()) {
        (Some(median), Some(slowest)) => {
            format!(" Arrival to settled: median {median} ms, slowest {slowest} ms.")
        }
        _ => String::new(),
    };
    let of = verdicts.len();
    format!(
        "{good} of {of} requests answered exactly once and verified on chain.{times} \
         Failed transactions: {failed_transactions}."
    )
}

/// The id as the connector's log writes it, without its middle: a tag, zeros and a counter.
fn short(id: U256) -> String {
    let hex = format!("{id:#x}");
    if hex.len() <= 12 { hex } else { format!("{}..{}", &hex[..4], &hex[hex.len() - 4..]) }
}

fn time_of_day(unix_millis: i64) -> String {
    let (seconds, millis) = (unix_millis / 1000 % 86_400, unix_millis % 1000);
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{millis:03}", seconds % 60)
}

// What the operator reads.

/// Lines with the time since the start.
struct Progress(Instant);

impl Progress {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn say(&self, what: &str, text: impl AsRef<str>) {
        println!("{:6.1} s  {what:<14} {}", self.0.elapsed().as_secs_f64(), text.as_ref());
    }
}

fn tell_what_runs(scene: &Scene, run: &Run) {
    let network = &scene.servers.network;
    let devnet = std::env::current_exe().unwrap_or_else(|_| "devnet".into());
    let (devnet, dir) = (near(&devnet), near(&run.dir));
    println!(
        "\nEverything keeps running until Ctrl-C.\n\
         \x20 Gateway chain   {} and {}\n\
         \x20 S3 bucket       {}\n\
         \x20 KMS Core stub   {}\n\
         \x20 wallet          {}\n\
         \x20 configuration   {}\n\
         \x20 journal         {}\n\
         \x20 log             {}\n\
         More requests:     {devnet} emit --dir {dir} --public 5 --user 5\n\
         Are they answered: {devnet} status --dir {dir} --wait 30",
        network.ws_url,
        network.http_url,
        network.bucket_url,
        network.core_endpoint,
        network.wallet_address,
        near(&run.config()),
        near(&journal::file(&run.state()).unwrap_or_else(|| run.state())),
        near(&run.log()),
    );
}

/// Says what went wrong, and what the connector said last.
fn failed(run: &Run, error: Option<&Error>) -> ExitCode {
    if let Some(error) = error {
        eprintln!("\nquickstart: {error}");
    }
    let log = fs::read(run.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    if !lines.is_empty() {
        eprintln!("\nThe end of the connector's log:");
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            eprintln!("  {line}");
        }
    }
    let dir = near(&run.dir);
    eprintln!("\nFAILED. Logs: {dir}/connector.log, {dir}/anvil.log, {dir}/ministack.log");
    ExitCode::FAILURE
}

/// The path from where the operator is, if it is below.
fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
