//! A disk that a test fills and empties, for any program that is linked dynamically.
//!
//! Mounting a small filesystem takes rights that not every machine gives, and a limit of the process
//! (`ulimit -f`) is one for all of its files. So a small library stands before the program's writes
//! (`full_disk.c`, compiled here) and refuses with `ENOSPC` those that make a file larger.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Error, Result};

/// The library, and what it reads. Programs on it see the disk fill and empty while they run.
#[derive(Clone, Debug)]
pub struct FullDisk {
    library: PathBuf,
    full: PathBuf,
}

impl FullDisk {
    /// With room, to begin with. Its files stand in `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let disk = Self { library: dir.join("full_disk.so"), full: dir.join("full_disk") };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("full_disk.c");
        let mut compiling = Command::new("cc");
        compiling.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&disk.library).arg(source);
        let compiled = compiling.output().map_err(|e| Error::Io("cc".into(), e))?;
        if compiled.status.success() {
            Ok(disk)
        } else {
            Err(Error::other(String::from_utf8_lossy(&compiled.stderr)))
        }
    }

    /// Has this command, which is not started yet, write to it.
    pub fn under(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("FULL_DISK", &self.full);
    }

    /// No file grows whose path begins with this one.
    pub fn fill(&self, path: &Path) -> Result<()> {
        let failed = |e| Error::Io(format!("filling {}", path.display()), e);
        // The kernel tells paths without links; the file itself may not be there yet.
        let (dir, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        let path = dir.canonicalize().map_err(failed)?.join(name);
        fs::write(&self.full, path.as_os_str().as_encoded_bytes()).map_err(failed)
    }

    /// There is room again.
    pub fn empty(&self) -> Result<()> {
        fs::remove_file(&self.full).map_err(|e| Error::Io("making room".into(), e))
    }
}
