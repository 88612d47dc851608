//! The program under measurement: the connector, or the reference that has only the rooms.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use world::{
    Error, Result,
    fleet::name,
    process::Process,
    procfs::Usage,
    supervised::{Supervised, running},
};

use crate::ground::Ground;

const STARTING: Duration = Duration::from_mins(2);
const STOPPING: Duration = Duration::from_secs(40);

/// Which program.
#[derive(Clone, Debug)]
pub enum Program {
    Connector(PathBuf),
    Responder(PathBuf),
}

impl Program {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Connector(_) => "connector",
            Self::Responder(_) => "reference",
        }
    }
}

/// The program with one configuration for each party. Dropping it kills it.
pub enum Running {
    Connector(Box<Supervised>, PathBuf),
    Responder { process: Option<Process>, program: PathBuf, dir: PathBuf },
}

impl Running {
    /// Not started yet.
    pub fn new(program: &Program, dir: &Path, ground: &Ground) -> Result<Self> {
        let configs = (0..ground.parties.len()).map(|index| (name(index), ground.config(index)));
        match program {
            Program::Connector(program) => {
                // From where the operator is: the path of a socket must be short.
                let here = std::env::current_dir().unwrap_or_default();
                let supervised = Supervised::new(dir.strip_prefix(&here).unwrap_or(dir))?;
                for (name, config) in configs {
                    supervised.configs.write(&name, &config)?;
                }
                Ok(Self::Connector(Box::new(supervised), program.clone()))
            }
            Program::Responder(program) => {
                let dir = dir.join("responder");
                let failed = |e| Error::Io("responder".into(), e);
                std::fs::create_dir_all(&dir).map_err(failed)?;
                for (name, config) in configs {
                    std::fs::write(dir.join(format!("{name}.toml")), config).map_err(failed)?;
                }
                Ok(Self::Responder { process: None, program: program.clone(), dir })
            }
        }
    }

    /// Starts the process; does not wait for it.
    pub fn spawn(&mut self) -> Result<()> {
        match self {
            Self::Connector(supervised, program) => supervised.start(program),
            Self::Responder { process, program, dir } => {
                let mut command = Command::new(&*program);
                let entries = std::fs::read_dir(&*dir).map_err(|e| Error::Io("configs".into(), e));
                for file in entries?.flatten().map(|entry| entry.path()) {
                    if file.extension().is_some_and(|extension| extension == "toml") {
                        command.arg("-c").arg(file);
                    }
                }
                *process = Some(Process::spawn("responder", dir, command)?);
                Ok(())
            }
        }
    }

    /// Waits until all instances run. The reference tells nothing: it is ready when it answers.
    pub async fn ready(&self, instances: usize) -> Result<()> {
        let Self::Connector(supervised, _) = self else { return Ok(()) };
        let all = |status: &_| running(status).len() == instances;
        supervised.until_within(STARTING, "all instances running", all).await.map(drop)
    }

    pub async fn stop(&mut self) -> Result<()> {
        let code = match self {
            Self::Connector(supervised, _) => supervised.stop().await?,
            Self::Responder { process, .. } => match process {
                Some(process) => process.stop(Signal::TERM, STOPPING).await?.code(),
                None => return Ok(()),
            },
        };
        if code == Some(0) { Ok(()) } else { Err(Error::other(format!("it ended with {code:?}"))) }
    }

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid()?)
    }

    pub fn pid(&self) -> Result<u32> {
        match self {
            Self::Connector(supervised, _) => supervised.pid(),
            Self::Responder { process, .. } => {
                process.as_ref().map(Process::pid).ok_or_else(|| Error::other("not started"))
            }
        }
    }

    /// An error if it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self {
            Self::Connector(supervised, _) => supervised.alive(),
            Self::Responder { process, .. } => process.as_mut().map_or(Ok(()), Process::check),
        }
    }

    /// Its metrics; the reference has none.
    pub async fn metrics(&self) -> Result<String> {
        match self {
            Self::Connector(supervised, _) => Ok(supervised.get("/metrics").await?.text().await?),
            Self::Responder { .. } => Ok(String::new()),
        }
    }
}
