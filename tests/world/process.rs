//! A server process that cannot outlive its user.
//!
//! The process leads its own group, and the whole group is killed when the guard is dropped. If
//! this process dies without dropping (kill -9, Ctrl-C, an abort), its end of a pipe closes, and a
//! small shell waiting on the other end kills the group.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{Error, Result, until};

/// A running child with its output in a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    reaper: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; both its output streams are appended to `<dir>/<name>.log`.
    pub fn spawn(name: &str, dir: &Path, mut command: Command) -> Result<Self> {
        let failed = |e: io::Error| Error::Io(format!("starting {name}"), e);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let reaper = Command::new("sh")
            .args(["-c", "read _; kill -s KILL -- -$1", "reaper", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match reaper {
            Ok(reaper) => Ok(Self { name: name.into(), child, reaper, log, ended: None }),
            Err(error) => {
                let _gone = child.kill();
                let _reaped = child.wait();
                Err(failed(error))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the output stands.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The output so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map_or_else(
            |e| format!("({}: {e})", self.log.display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Closes our end of the reaper's pipe, as the kernel does when this process dies.
    pub fn abandon(&mut self) {
        self.reaper.stdin = None;
    }

    /// How the process ended, if it did.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .map_err(|e| Error::Io(format!("waiting for {}", self.name), e))?;
        }
        Ok(self.ended)
    }

    /// An error with the last output if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => {
                Err(Error::other(format!("{} ended ({status}):\n{}", self.name, self.tail())))
            }
        }
    }

    /// Waits until `probe` says yes. An early end of the process is an error with its last output.
    pub async fn ready(
        &mut self,
        deadline: Duration,
        mut probe: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let start = tokio::time::Instant::now();
        loop {
            self.check()?;
            if probe().await {
                return Ok(());
            }
            if start.elapsed() > deadline {
                return Err(Error::other(format!(
                    "{} not ready within {deadline:?}:\n{}",
                    self.name,
                    self.tail()
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Sends a signal to the process itself (not to its group).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid(&self.child), signal)
            .map_err(|e| Error::Io(format!("signalling {}", self.name), e.into()))
    }

    /// Waits for the end.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let name = format!("end of {}", self.name);
        until(&name, deadline, Duration::from_millis(5), async || self.exited()).await
    }

    /// Sends `signal` and waits for the end.
    pub async fn stop(&mut self, signal: Signal, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.signal(signal)?;
        self.wait(deadline).await
    }

    /// kill -9, without any wait for good manners.
    pub fn kill(&mut self) {
        // The reaper first: after the wait below the group's number may belong to somebody else.
        let _gone = self.reaper.kill();
        let _reaped = self.reaper.wait();
        if self.ended.is_none() {
            let _gone = kill_process_group(pid(&self.child), Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid(child: &Child) -> Pid {
    let raw = i32::try_from(child.id()).expect("a process id fits its own type");
    Pid::from_raw(raw).expect("a child's process id is not zero")
}
