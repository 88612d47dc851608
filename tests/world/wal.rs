//! A database's write-ahead log as a file: its frames, and cutting it as a power cut would.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Error, Result};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The log of a database that nobody has open.
#[derive(Clone, Debug)]
pub struct Wal {
    path: PathBuf,
    bytes: Vec<u8>,
    frame: usize,
    frames: usize,
}

impl Wal {
    /// Reads the log beside `database`. No log is a log without frames.
    pub fn read(database: &Path) -> Result<Self> {
        let path = beside(database, "-wal");
        let bytes = fs::read(&path).unwrap_or_default();
        let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
            return Ok(Self { path, bytes: Vec::new(), frame: 0, frames: 0 });
        };
        let word = |at: usize| u32::from_be_bytes([at, at + 1, at + 2, at + 3].map(|i| header[i]));
        let page = usize::try_from(word(8)).map_err(|e| Error::other(e.to_string()))?;
        let frame = FRAME_HEADER + page;
        // A log that was begun anew still holds frames of its past behind the living ones.
        let salts = &header[16..24];
        let frames = rest.chunks_exact(frame).take_while(|one| one[8..16] == *salts).count();
        Ok(Self { path, bytes, frame, frames })
    }

    pub fn frames(&self) -> usize {
        self.frames
    }

    /// The first `frames` frames and `half` of the next one.
    pub fn head(&self, frames: usize, half: bool) -> &[u8] {
        if frames == 0 && !half {
            return &[];
        }
        let more = if half { self.frame / 2 } else { 0 };
        let end = HEADER + frames * self.frame + more;
        &self.bytes[..end.min(self.bytes.len())]
    }

    /// Takes the rest away, and the index that a power cut would not leave.
    pub fn cut(&self, frames: usize, half: bool) -> Result<()> {
        fs::write(&self.path, self.head(frames, half))
            .map_err(|e| Error::Io("cutting the log".into(), e))?;
        let shared = self.path.with_extension("sqlite3-shm");
        match fs::remove_file(shared) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Io("removing the index".into(), error))
            }
            _ => Ok(()),
        }
    }

    /// Copies the database with the head of its log to `to`.
    pub fn copy_cut(&self, database: &Path, to: &Path, frames: usize, half: bool) -> Result<()> {
        let copying = || {
            fs::copy(database, to)?;
            fs::write(beside(to, "-wal"), self.head(frames, half))
        };
        copying().map_err(|e| Error::Io("copying the database".into(), e))
    }
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
