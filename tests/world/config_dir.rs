//! A directory of configurations, and the ways in which people and tools change one.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Error, Result};

/// The directory. It stays when this is dropped.
#[derive(Clone, Debug)]
pub struct ConfigDir {
    path: PathBuf,
}

impl ConfigDir {
    /// Makes the directory if it is not there.
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).map_err(|e| failed(&path, e))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `<name>.toml`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.toml"))
    }

    /// The careful way: a hidden draft, then a rename over the file.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let draft = self.path.join(format!(".{name}.toml.draft"));
        write_private(&draft, text.as_bytes())?;
        fs::rename(&draft, self.file(name)).map_err(|e| failed(&self.file(name), e))
    }

    /// The plain way: truncated and written in place.
    pub fn overwrite(&self, name: &str, text: &str) -> Result<()> {
        write_private(&self.file(name), text.as_bytes())
    }

    /// A slow network or a slow typist: in place, `pieces` with a `pause` before each.
    pub async fn write_slowly(
        &self,
        name: &str,
        text: &str,
        pieces: usize,
        pause: Duration,
    ) -> Result<()> {
        let bytes = text.as_bytes();
        for piece in 1..=pieces {
            write_private(&self.file(name), &bytes[..bytes.len() * piece / pieces])?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Some editors: the old file goes to `<name>.toml~`, a new one is made, the old one deleted.
    pub async fn edit(&self, name: &str, text: &str, pause: Duration) -> Result<()> {
        let (file, backup) = (self.file(name), self.path.join(format!("{name}.toml~")));
        fs::rename(&file, &backup).map_err(|e| failed(&file, e))?;
        tokio::time::sleep(pause).await;
        write_private(&file, text.as_bytes())?;
        tokio::time::sleep(pause).await;
        fs::remove_file(&backup).map_err(|e| failed(&backup, e))
    }

    /// As a tool that keeps every version: the file becomes a link to one of them, in one step.
    pub fn link(&self, name: &str, text: &str) -> Result<()> {
        let versions = self.path.with_extension("versions");
        fs::create_dir_all(&versions).map_err(|e| failed(&versions, e))?;
        let count = fs::read_dir(&versions).map_err(|e| failed(&versions, e))?.count();
        let (version, draft) = (versions.join(count.to_string()), self.path.join(".link"));
        write_private(&version, text.as_bytes())?;
        symlink(&version, &draft).map_err(|e| failed(&draft, e))?;
        fs::rename(&draft, self.file(name)).map_err(|e| failed(&self.file(name), e))
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.file(name)).map_err(|e| failed(&self.file(name), e))
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.file(from), self.file(to)).map_err(|e| failed(&self.file(from), e))
    }

    /// The whole directory is elsewhere for a while: a volume that is mounted again.
    pub async fn vanish(&self, pause: Duration) -> Result<()> {
        let aside = self.path.with_extension("aside");
        fs::rename(&self.path, &aside).map_err(|e| failed(&self.path, e))?;
        tokio::time::sleep(pause).await;
        fs::rename(&aside, &self.path).map_err(|e| failed(&aside, e))
    }

    /// As a kubelet fills a mounted `ConfigMap`: a new folder, `..data` swapped to it in one step, a
    /// link for every file. Links that are no longer wanted go, and so does the old folder.
    pub fn publish(&self, files: &[(&str, &str)]) -> Result<()> {
        let io = |e| failed(&self.path, e);
        let old = fs::read_link(self.path.join("..data")).ok();
        let number: u64 = old
            .as_ref()
            .and_then(|name| name.to_str()?.strip_prefix("..")?.parse().ok())
            .unwrap_or(0);
        let fresh = format!("..{}", number + 1);
        fs::create_dir(self.path.join(&fresh)).map_err(io)?;
        for (name, text) in files {
            write_private(&self.path.join(&fresh).join(format!("{name}.toml")), text.as_bytes())?;
        }
        symlink(&fresh, self.path.join("..data_tmp")).map_err(io)?;
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).map_err(io)?;
        for (name, _) in files {
            match symlink(format!("..data/{name}.toml"), self.file(name)) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io(e)),
                _ => {}
            }
        }
        for entry in fs::read_dir(&self.path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let dangling = path.is_symlink() && !path.exists();
            if dangling {
                fs::remove_file(&path).map_err(io)?;
            }
        }
        old.map_or(Ok(()), |old| fs::remove_dir_all(self.path.join(old)).map_err(io))
    }
}

/// Writes a file only its owner can read: it holds a key.
fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(|e| failed(path, e))
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::Io(path.display().to_string(), error)
}
