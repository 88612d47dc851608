//! The whole product once, for an operator to watch: servers, one `kms-connector supervise` that
//! serves two KMS nodes, requests, a configuration that is changed meanwhile, and a verdict on every
//! answer that rests on the chain and not on the connector's word.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use alloy::primitives::U256;
use clap::Args;
use tokio::time::{Instant, sleep};
use world::{
    Error, Result,
    contracts::Variant,
    folders::Run,
    journal::{self, Entry},
    key_generation::KeyRequest,
    request::Ask,
    run::Interrupts,
    status::{InstanceStatus, Status},
    supervised::{Supervised, find},
    until,
};

use crate::{
    ceremony,
    network::{Servers, emit, generation},
    verdict::{self, Verdict},
};

const BLOCK_TIME: Duration = Duration::from_millis(250);
const NODES: u16 = 2;
/// From a change of a file to the instance that runs by it.
const RELOADING: Duration = Duration::from_secs(30);
pub const POLL: Duration = Duration::from_millis(100);
/// Lines of the connector's log that a failure shows.
const TAIL: usize = 40;

#[derive(Args)]
pub struct Options {
    /// The connector's program [default: the one built beside this program].
    #[arg(long, value_name = "FILE")]
    connector: Option<PathBuf>,
    /// What the contracts are: G7 to HEAD. From G12 on there is a host chain, where access is checked.
    #[arg(long, value_name = "NAME", default_value = "HEAD", value_parser = generation)]
    generation: Variant,
    /// First have the nodes make a key and a CRS, and ask for the decryptions under that key. From G9 on; from
    /// G13 on the host chain asks for them, as Ethereum does.
    #[arg(long)]
    ceremony: bool,
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
pub async fn run(options: &Options, interrupts: &mut Interrupts) -> Result<ExitCode> {
    let run = Run::begin(&options.dir)?;
    let walked = tokio::select! {
        walked = walk(options, &run) => walked,
        signal = interrupts.next() => return Ok(interrupted(signal)),
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
        scene.show_status();
        tell_what_runs(&scene);
        kept = tokio::select! {
            ended = scene.watch() => ended,
            _signal = interrupts.next() => Ok(()),
        };
    }
    let stopped = tokio::select! {
        stopped = scene.stop() => stopped,
        signal = interrupts.next() => return Ok(interrupted(signal)),
    };
    match kept.and(stopped) {
        Err(error) => Ok(failed(&run, Some(&error))),
        Ok(()) if good => {
            println!(
                "\nLogs, journals and configurations of this run: {}\n\
                 Everything it started is stopped. To look around: scripts/quickstart --keep",
                near(&run.dir)
            );
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) => Ok(ExitCode::FAILURE),
    }
}

fn interrupted(signal: i32) -> ExitCode {
    eprintln!("\nquickstart: interrupted; everything it started is stopped");
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// Brings everything up, has the requests answered by both nodes while one's configuration changes,
/// and tells how each went.
async fn walk(options: &Options, run: &Run) -> Result<(Scene, bool)> {
    let program = connector_program(options.connector.as_deref())?;
    let log = Progress::start();
    log.say("starting", "chains (anvil), S3 (ministack), a KMS Core stub for each node");
    let variant = options.generation;
    if options.ceremony && !variant.since(Variant::V0_9_0) {
        return Err(Error::other(format!(
            "contracts of {variant:?} ask for no keys: G9 and later do"
        )));
    }
    let servers = if options.ceremony {
        Servers::with_keys(&run.dir, variant, BLOCK_TIME, NODES).await?
    } else {
        Servers::start(&run.dir, variant, BLOCK_TIME, NODES).await?
    };
    tell_the_network(&log, &servers);

    let network = &servers.network;
    // From where the operator is: the path of a socket must be short.
    let mut supervisor = Supervised::new(Path::new(&near(&run.dir)))?;
    for node in &network.nodes {
        supervisor.configs.write(&node.name, &network.connector_config(node)?)?;
    }
    supervisor.start(&program)?;
    let mut scene = Scene { supervisor, servers, program };
    let names: Vec<String> = scene.servers.network.nodes.iter().map(|n| n.name.clone()).collect();
    let before = scene.supervisor.until_running(&names).await?;
    log.say("kms-connector", format!("one process, {}, runs both nodes", before.pid));
    scene.show_status();

    let (deployment, host) = (scene.servers.deployment().clone(), scene.servers.network.host()?);
    let contracts = (&deployment, host.as_ref());
    let deadline = Duration::from_secs(options.wait);
    let made = scene.hold_ceremony(&log, deadline).await?;
    // A part of them before the change, a part while it is applied, a part after it.
    let mut asks = Ask::mixed_of(variant, options.public, options.user);
    if let Some([_, key, _]) = &made {
        for ask in &mut asks {
            ask.key_id = key.id;
        }
    }
    let all = asks.len();
    let after = asks.split_off(all - all / 3);
    let meanwhile = asks.split_off(all - 2 * (all / 3));
    let mut requests = emit(&run.dir, contracts, asks).await?;
    log.say("emitted", format!("{} of {all} decryption requests", requests.len()));

    let changed = &names[1];
    let edited = Instant::now();
    scene.edit(changed, "retry_interval_secs = 2")?;
    let file = near(&scene.supervisor.configs.file(changed));
    log.say("edited", format!("{file}: retry_interval_secs = 2 (it was the default, 5)"));
    log.say("emitted", format!("{} more, while that is applied", meanwhile.len()));
    requests.extend(emit(&run.dir, contracts, meanwhile).await?);
    let reloaded = scene.reloaded(changed, &before).await?;
    log.say("reloaded", format!("{changed}, {} ms after the edit", edited.elapsed().as_millis()));
    let mut good = true;
    for name in &names {
        let (then, now) = (find(&before, name), find(&reloaded, name));
        let (text, right) = compared(then, now, name == changed);
        log.say("", format!("{name}: {text}"));
        good &= right;
    }
    log.say("emitted", format!("{} more, after it", after.len()));
    requests.extend(emit(&run.dir, contracts, after).await?);

    let ids: Vec<U256> = requests.iter().map(|request| request.id).collect();
    // Who is late stands in the table.
    let _late = until("outcomes", deadline, POLL, async || {
        scene.check()?;
        Ok(scene.settled(deployment.chain_id, &ids)?.then_some(()))
    })
    .await;
    scene.check()?;
    log.say("checking", "every answer of every node on chain");
    let answers = deployment.answers().await?;
    let mut verdicts = Vec::new();
    let journals = scene.journals(deployment.chain_id)?;
    for (node, entries) in scene.servers.network.nodes.iter().zip(journals) {
        for request in &requests {
            let entry = entries.iter().find(|entry| entry.id == request.id);
            verdicts.push(Verdict::of(request, node, entry, &answers, &deployment).await?);
        }
    }
    if let Some(made) = &made {
        good &= scene.ceremony_is_settled(&log, made, deadline).await?;
    }
    println!("\n{}", verdict::table(&verdicts));
    let failed = deployment.failed_transactions().await?.len();
    println!("\n{}", verdict::totals(&verdicts, failed));
    good &= verdicts.iter().all(Verdict::is_good);
    Ok((scene, good))
}

/// What a reload did to an instance, and whether it is what it should have done.
fn compared(
    before: Option<&InstanceStatus>,
    after: Option<&InstanceStatus>,
    changed: bool,
) -> (String, bool) {
    let (Some(before), Some(after)) = (before, after) else {
        return ("WRONG: is gone".into(), false);
    };
    let (old, new) = (before.generation, after.generation);
    let same = old == new && before.since_ms == after.since_ms;
    match (changed, same) {
        (true, false) => (format!("generation {old} -> {new}"), true),
        (false, true) => (format!("untouched: generation {new}, running since its start"), true),
        (true, true) => (format!("WRONG: still generation {new}"), false),
        (false, false) => (format!("WRONG: touched, generation {old} -> {new}"), false),
    }
}

/// What runs, in the order in which it is dropped: the connector before what it talks to.
struct Scene {
    supervisor: Supervised,
    servers: Servers,
    program: PathBuf,
}

impl Scene {
    /// An error if something has ended that should run.
    fn check(&mut self) -> Result<()> {
        self.supervisor.alive()?;
        self.servers.check()
    }

    /// Answers only when something has ended that should run.
    async fn watch(&mut self) -> Result<()> {
        loop {
            self.check()?;
            sleep(POLL).await;
        }
    }

    /// Has a key and a CRS made, if there is a contract for that.
    async fn hold_ceremony(
        &self,
        log: &Progress,
        deadline: Duration,
    ) -> Result<Option<[KeyRequest; 3]>> {
        let Some(keys) = self.servers.keys() else { return Ok(None) };
        let nodes = self.servers.network.nodes.iter();
        let nodes: Vec<_> = nodes.map(|node| (node.name.clone(), node.signer_address)).collect();
        ceremony::hold(log, keys, &nodes, deadline).await.map(Some)
    }

    /// Whether the journal of every node says that its answers were accepted; tells what is wrong.
    async fn ceremony_is_settled(
        &self,
        log: &Progress,
        made: &[KeyRequest; 3],
        deadline: Duration,
    ) -> Result<bool> {
        let Some(keys) = self.servers.keys() else { return Ok(true) };
        let ids = made.each_ref().map(|request| request.id);
        // An answer counts once it is deep enough; who is late is told below.
        let _late = until("outcomes of the ceremony", deadline, POLL, async || {
            Ok(self.settled(keys.chain_id, &ids)?.then_some(()))
        })
        .await;
        let mut good = true;
        let journals = self.journals(keys.chain_id)?;
        for (node, entries) in self.servers.network.nodes.iter().zip(journals) {
            for problem in ceremony::problems(&node.name, made, &entries) {
                log.say("WRONG", problem);
                good = false;
            }
        }
        Ok(good)
    }

    async fn stop(&mut self) -> Result<()> {
        match self.supervisor.stop().await? {
            Some(0) => Ok(()),
            code => Err(Error::other(format!("kms-connector did not end in order: {code:?}"))),
        }
    }

    /// As an operator does it with an editor: in front of all tables.
    fn edit(&self, name: &str, line: &str) -> Result<()> {
        let file = self.supervisor.configs.file(name);
        let text = fs::read_to_string(&file).map_err(|e| Error::Io(near(&file), e))?;
        self.supervisor.configs.overwrite(name, &format!("{line}\n{text}"))
    }

    /// Waits for the next generation of an instance.
    async fn reloaded(&self, name: &str, before: &Status) -> Result<Status> {
        let old = find(before, name).map_or(0, |one| one.generation);
        let running =
            |one: &InstanceStatus| one.generation > old && one.state == "running" && !one.changing;
        let what = format!("a new generation of {name}");
        let wanted = |status: &Status| find(status, name).is_some_and(running);
        self.supervisor.until_within(RELOADING, &what, wanted).await
    }

    /// Every node's journal of a chain.
    fn journals(&self, chain_id: u64) -> Result<Vec<Vec<Entry>>> {
        let state = self.supervisor.state_dir();
        let nodes = self.servers.network.nodes.iter();
        let entries =
            nodes.map(|node| match journal::of_chain(&state, chain_id, node.wallet_address) {
                Some(file) => journal::entries(&file),
                None => Ok(Vec::new()),
            });
        entries.collect()
    }

    /// Whether every node's journal of a chain has an outcome for every one of these requests.
    fn settled(&self, chain_id: u64, ids: &[U256]) -> Result<bool> {
        let all = |entries: &Vec<Entry>| {
            ids.iter()
                .all(|id| entries.iter().any(|entry| entry.id == *id && entry.outcome.is_some()))
        };
        Ok(self.journals(chain_id)?.iter().all(all))
    }

    /// What `kms-connector status` shows. Only for who watches: nothing here rests on it.
    fn show_status(&self) {
        println!();
        let mut command = self.supervisor.client(&self.program, &["status"]);
        if let Err(error) = command.status() {
            eprintln!("kms-connector status: {error}");
        }
        println!();
    }
}

/// The program that was given, or the one built beside this one.
pub fn connector_program(given: Option<&Path>) -> Result<PathBuf> {
    let beside = || {
        let devnet = std::env::current_exe().ok()?;
        Some(devnet.parent()?.parent()?.join("kms-connector"))
    };
    let program = given.map(Path::to_owned).or_else(beside).unwrap_or_default();
    if program.is_file() {
        return Ok(program);
    }
    let program = program.display();
    Err(Error::other(format!(
        "{program} does not exist; build it: cargo build --bin kms-connector"
    )))
}

// What the operator reads.

/// Lines with the time since the start.
pub struct Progress(Instant);

impl Progress {
    fn start() -> Self {
        Self(Instant::now())
    }

    pub fn say(&self, what: &str, text: impl AsRef<str>) {
        println!("{:6.1} s  {what:<14} {}", self.0.elapsed().as_secs_f64(), text.as_ref());
    }
}

fn tell_the_network(log: &Progress, servers: &Servers) {
    let network = &servers.network;
    log.say("Gateway chain", format!("{} (chain id {})", network.ws_url, network.chain_id));
    log.say("contracts", format!("Decryption {} ({:?})", network.decryption, network.variant));
    log.say("", format!("GatewayConfig {}", network.gateway_config));
    if let Some(host) = &network.host_chain {
        log.say("host chain", format!("{} (chain id {})", host.ws_url, host.chain_id));
        log.say("contracts", format!("ACL {}", host.acl));
        log.say("", format!("ProtocolConfig {}", host.protocol_config));
    }
    if let Some(keys) = &network.keys {
        log.say(
            "keys",
            format!("KMSGeneration {} on chain {}", keys.kms_generation, keys.chain_id),
        );
    }
    log.say("S3 bucket", &network.bucket_url);
    for node in &network.nodes {
        let (core, wallet) = (&node.core_endpoint, node.wallet_address);
        log.say(&node.name, format!("KMS Core stub {core}, wallet {wallet}"));
    }
}

fn tell_what_runs(scene: &Scene) {
    let network = &scene.servers.network;
    let devnet = std::env::current_exe().unwrap_or_else(|_| "devnet".into());
    let supervisor = &scene.supervisor;
    let (devnet, program) = (near(&devnet), near(&scene.program));
    let (configs, state) = (near(supervisor.configs.path()), near(&supervisor.state_dir()));
    let (socket, dir) = (near(&supervisor.socket()), near(supervisor.dir()));
    println!(
        "\nEverything keeps running until Ctrl-C.\n\
         \x20 Gateway chain   {} and {}\n\
         \x20 S3 bucket       {}\n\
         \x20 configurations  {configs}: edit, add or remove one and see what becomes of it\n\
         \x20 journals        {state}\n\
         \x20 log             {dir}/supervisor.log\n\
         What runs:         {program} status --watch --socket {socket}\n\
         More requests:     {devnet} emit --dir {dir} --public 5 --user 5\n\
         Are they answered: {devnet} status --dir {dir} --wait 30",
        network.ws_url, network.http_url, network.bucket_url,
    );
}

/// Says what went wrong, and what the connector said last.
fn failed(run: &Run, error: Option<&Error>) -> ExitCode {
    if let Some(error) = error {
        eprintln!("\nquickstart: {error}");
    }
    let log = fs::read(run.dir.join("supervisor.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    if !lines.is_empty() {
        eprintln!("\nThe end of the connector's log:");
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            eprintln!("  {line}");
        }
    }
    let dir = near(&run.dir);
    eprintln!("\nFAILED. Logs: {dir}/supervisor.log, {dir}/anvil.log, {dir}/ministack.log");
    ExitCode::FAILURE
}

/// The path from where the operator is, if it is below.
pub fn near(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
