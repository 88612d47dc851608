//! The loop above the instances. (skeleton: the seam the command line calls)

use std::path::PathBuf;

use crate::config::Config;

/// One instance to run.
#[derive(Debug)]
pub struct StartArgs {
    pub config: Config,
    /// The instance's name.
    pub name: String,
    pub state_dir: PathBuf,
}

/// Why `start` ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts the world: only an operator can mend it.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Failed(String),
}

/// Runs one instance until it is asked to stop.
#[expect(clippy::unused_async, reason = "the body to come waits")]
pub async fn start(args: StartArgs) -> Result<(), StartError> {
    let StartArgs { name, state_dir, .. } = args;
    let state_dir = state_dir.display();
    Err(StartError::Failed(format!("not built yet: running {name} on the state in {state_dir}")))
}
