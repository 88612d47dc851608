//! The folders of the runs of quickstart, soak and bench.
//!
//! Every run has a folder of its own, numbered, below `.quickstart` for example: data, configurations,
//! journals and logs. It stays until two later runs are over. A lock file in it is held as long as the run
//! lives, so that runs may overlap and none removes what another needs.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{Error, Result};

/// Finished runs that are kept for who wants to read their logs.
const KEPT_RUNS: usize = 2;

/// One run's folder, ours as long as this lives.
#[derive(Debug)]
pub struct Run {
    pub dir: PathBuf,
    _lock: File,
}

impl Run {
    /// A fresh folder below `base`. Removes those of finished runs but the newest.
    pub fn begin(base: &Path) -> Result<Self> {
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
}

/// Whether nobody holds the folder's lock.
fn is_finished(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => true,
    }
}
