//! A supervisor as a process of its own, with its directory of configurations, its state and its
//! control socket.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use rustix::process::Signal;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    Error, PATIENCE, Result,
    config_dir::ConfigDir,
    full_disk::FullDisk,
    http_client,
    process::Process,
    procfs::{self, Usage},
    scene::tail,
    status::{InstanceStatus, Status},
    until,
};

/// The supervisor gives itself a minute.
const ANSWER: Duration = Duration::from_secs(65);
/// Its HTTP listener waits for nothing.
const HTTP_ANSWER: Duration = PATIENCE;
const POLL: Duration = Duration::from_millis(50);
/// More than the drain limit.
const STOPPING: Duration = Duration::from_secs(40);

/// The folder of a supervisor, and the supervisor while it runs. Dropping it kills the process.
#[derive(Debug)]
pub struct Supervised {
    // Locked for a moment only: waits look whether it still runs.
    process: Mutex<Option<Process>>,
    dir: PathBuf,
    pub configs: ConfigDir,
    /// The disk the supervisor writes to, if a test made one.
    pub disk: Option<FullDisk>,
}

impl Supervised {
    /// Everything but the process, below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let configs = ConfigDir::new(dir.join("config"))?;
        Ok(Self { process: Mutex::default(), dir: dir.into(), configs, disk: None })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// `program supervise` on this folder.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_remove(super::PROGRAM).arg("supervise");
        command.arg("--config-dir").arg(self.configs.path());
        command.arg("--state-dir").arg(self.state_dir()).arg("--socket").arg(self.socket());
        command
    }

    /// A command of `program` that talks to this supervisor.
    pub fn client(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        without_settings(&mut command);
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    pub fn start(&mut self, program: &Path) -> Result<()> {
        self.spawn(self.command(program))
    }

    /// Starts a supervisor by this command, away from the environment of whoever runs the tests.
    pub fn spawn(&mut self, mut command: Command) -> Result<()> {
        self.kill();
        without_settings(&mut command);
        if let Some(disk) = &self.disk {
            disk.under(&mut command);
        }
        *self.process() = Some(Process::spawn("supervisor", &self.dir, command)?);
        Ok(())
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().expect("no panic while locked")
    }

    fn with<T>(&self, doing: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        doing(self.process().as_mut().ok_or_else(|| Error::other("no supervisor"))?)
    }

    pub fn pid(&self) -> Result<u32> {
        self.with(|process| Ok(process.pid()))
    }

    /// An error if the supervisor has ended by itself, or is not running.
    pub fn alive(&self) -> Result<()> {
        self.with(Process::check)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.with(|process| process.signal(signal))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        *self.process() = None;
    }

    /// SIGTERM, and the end of the drain. Answers the exit code.
    pub async fn stop(&self) -> Result<Option<i32>> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Waits for the end. Answers the exit code; none if a signal ended it.
    pub async fn ended(&self) -> Result<Option<i32>> {
        let status =
            until("end of the supervisor", STOPPING, POLL, async || self.with(Process::exited));
        Ok(status.await?.code())
    }

    /// What all supervisors of this folder logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.join("supervisor.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // What it says.

    /// One request over the control socket, and its answer.
    pub async fn ask(&self, request: &Value) -> Result<Value> {
        let failed = |e| Error::Io(format!("asking for {request}"), e);
        let asking = async {
            let mut stream = UnixStream::connect(self.socket()).await.map_err(failed)?;
            stream.write_all(format!("{request}\n").as_bytes()).await.map_err(failed)?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await.map_err(failed)?;
            Ok(serde_json::from_str(&line)?)
        };
        let late = |_| Error::other(format!("no answer to {request} within {ANSWER:?}"));
        timeout(ANSWER, asking).await.map_err(late)?
    }

    /// A request that must be done. Answers the lines it was answered with.
    pub async fn told(&self, request: &Value) -> Result<Vec<String>> {
        let answer = self.ask(request).await?;
        if answer["answer"] == "done" && answer["failed"] == false {
            return Ok(Vec::deserialize(&answer["lines"])?);
        }
        Err(Error::other(format!("{request}: {answer}\n{}", tail(&self.log()))))
    }

    /// `restart`, `stop` or `reload` of one instance.
    pub async fn operate(&self, request: &str, name: &str) -> Result<Vec<String>> {
        self.told(&json!({"request": request, "name": name})).await
    }

    pub async fn status(&self) -> Result<Status> {
        let answer = self.ask(&json!({"request": "status"})).await?;
        if answer["answer"] == "status" {
            return Ok(Status::deserialize(&answer["status"])?);
        }
        Err(Error::other(format!("status: {answer}")))
    }

    /// What it says of one instance.
    pub async fn instance(&self, name: &str) -> Result<InstanceStatus> {
        let status = self.status().await?;
        find(&status, name).cloned().ok_or_else(|| Error::other(format!("no instance {name}")))
    }

    /// Waits until the status is as wanted.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&Status) -> bool) -> Result<Status> {
        self.until_within(PATIENCE, what, wanted).await
    }

    pub async fn until_within(
        &self,
        deadline: Duration,
        what: &str,
        mut wanted: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = Err(Error::other("never asked"));
        let found = until(what, deadline, POLL, async || {
            self.alive()?;
            // A supervisor that was just started listens in a moment.
            last = self.status().await;
            Ok(last.as_ref().ok().filter(|status| wanted(status)).cloned())
        });
        found.await.map_err(|error| {
            Error::other(format!("{error}; it is {last:#?}\n{}", tail(&self.log())))
        })
    }

    /// Waits until `name` is in this state.
    pub async fn until_state(&self, name: &str, state: &str) -> Result<InstanceStatus> {
        let what = format!("{name} {state}");
        let is = |one: &InstanceStatus| one.state == state && !one.changing;
        let status = self.until(&what, |status| find(status, name).is_some_and(is)).await?;
        find(&status, name).cloned().ok_or_else(|| Error::other(what))
    }

    /// Waits until exactly `names` run, and nothing is being changed.
    pub async fn until_running(&self, names: &[impl AsRef<str>]) -> Result<Status> {
        let mut names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        names.sort_unstable();
        self.until(&format!("{names:?} running"), |status| {
            running(status) == names && !status.instances.iter().any(|one| one.changing)
        })
        .await
    }

    // What its HTTP listener says.

    /// Where that is.
    pub async fn listener(&self) -> Result<String> {
        self.status().await?.listen.ok_or_else(|| Error::other("it does not listen"))
    }

    /// A GET of this path.
    pub async fn get(&self, path: &str) -> Result<reqwest::Response> {
        let url = format!("http://{}{path}", self.listener().await?);
        Ok(http_client(HTTP_ANSWER)?.get(url).send().await?)
    }

    // What the kernel says.

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid()?)
    }

    /// The open connections of the process to a local port.
    pub fn connections(&self, port: u16) -> Result<BTreeSet<u64>> {
        procfs::connections(self.pid()?, port)
    }
}

/// What `status` says of one instance.
pub fn find<'a>(status: &'a Status, name: &str) -> Option<&'a InstanceStatus> {
    status.instances.iter().find(|one| one.name == name)
}

/// The names of the instances that run, in order.
pub fn running(status: &Status) -> Vec<&str> {
    let running = status.instances.iter().filter(|one| one.state == "running");
    running.map(|one| one.name.as_str()).collect()
}

/// The operator's own settings are for another connector.
fn without_settings(command: &mut Command) {
    let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = text.starts_with("KMS_CONNECTOR_")
            || text.to_uppercase().ends_with("_PROXY")
            || ["RUST_LOG", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"]
                .contains(&text.as_ref());
        if ours && !given.contains(&name) {
            command.env_remove(&name);
        }
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    // Supervisors run beside each other: none has the usual port.
    if !given.iter().any(|name| name == "KMS_CONNECTOR_LISTEN") {
        command.env("KMS_CONNECTOR_LISTEN", "127.0.0.1:0");
    }
}
