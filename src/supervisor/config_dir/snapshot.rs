//! The content of the configuration files: which instances should run, and which files are invalid.
//!
//! ```text
//! read, 500 ms, read  ->  settle  ->  snapshot
//! ```
//!
//! Files are written while they are read, and half a file may be valid TOML. So [`read`] only returns
//! the current content. [`settle`], a pure function, accepts content that two consecutive readings
//! agree on. [`SettledFiles::snapshot`] turns the accepted content into instances. Contents are
//! compared, never modification times: a file that is touched, or rewritten with the same content, has
//! not changed. A writer that pauses for longer than two readings cannot be detected; slow writers
//! should write elsewhere and rename into place.
//!
//! Invariants: except at startup no content is accepted from a single reading. A file counts as removed
//! only if two successful directory listings lack it. A directory that cannot be listed changes
//! nothing. If two file names map to the same environment variables, the instance that had them keeps
//! them; over a restart, the one whose name is in its journal.

mod read;
mod settle;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy::hex;
use sha2::{Digest, Sha256};

use self::read::{duplicate_form, invalid_name, stalled_reference, unstable_file};
pub use self::{
    read::{
        DirectoryIdentity, FileContent, FileListing, Unlisted, directory_identity,
        is_configuration, list, misnamed_entries, read,
    },
    settle::{SettledFiles, Settlement, settle},
};
pub use crate::supervisor::config_dir::bounded_io::{BoundedIo, FileTask, IoStall};
use crate::{
    config::{self, Config, Environment, LoadMode, Loaded, Problems, Source, Warning},
    journal::Keeper,
};

/// Where configurations come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigFiles {
    /// Every `*.toml` in this directory; watched.
    Directory(PathBuf),
    /// One configuration, or the environment alone; read again only on request.
    One { file: Option<PathBuf>, name: Option<String> },
}

/// An instance that should exist.
#[derive(Clone, Debug)]
pub struct DesiredInstance {
    pub name: String,
    pub file: Option<PathBuf>,
    pub config: Arc<Config>,
    /// The SHA-256 of the file's content, in hex.
    pub hash: Option<String>,
    pub warnings: Vec<Warning>,
}

/// One reading of all files, by instance name.
#[derive(Clone, Debug, Default)]
pub struct ConfigSnapshot {
    pub files: BTreeMap<String, Result<DesiredInstance, Problems>>,
    /// The directory is missing or unreadable. `files` is empty then, and nothing changes.
    pub problem: Option<Unlisted>,
    /// The number of readings that had been requested (SIGHUP, `reload`) when this one began.
    pub reload_number: u64,
}

/// Runs `load` for one configuration with a deadline, on a thread of its own. Blocks until then.
pub fn load_bounded<T: Send + 'static>(
    file: Option<&Path>,
    load: impl Fn() -> Result<T, Problems> + Send + Sync + 'static,
) -> Result<T, Problems> {
    let file = file.unwrap_or(Path::new("")).to_owned();
    let loaded = BoundedIo::default().run_one(FileTask::Load, &file, move |_| load());
    loaded.unwrap_or_else(|late| Err(stalled_reference(&file, late)))
}

/// Reads all files once and accepts the result: at startup, where it can disturb no running instance,
/// and for commands that only show something. Returns what a watcher continues from. `keepers`: the
/// instances that last wrote the journals, as far as the caller knows. Blocks.
#[must_use]
pub fn first_snapshot(
    files: &ConfigFiles,
    environment: &Environment,
    keepers: &[Keeper],
) -> (ConfigSnapshot, SettledFiles) {
    let patience = BoundedIo::default();
    match read(files, &patience) {
        Ok(contents) => {
            let keeps = |file: &OsStr| {
                instance_stem(file)
                    .is_ok_and(|stem| keepers.iter().any(|keeper| keeper.name == stem))
            };
            let settled = SettledFiles::new(contents, keeps);
            (settled.snapshot(files, environment, &patience), settled)
        }
        Err(problem) => (
            ConfigSnapshot { problem: Some(problem), ..ConfigSnapshot::default() },
            SettledFiles::default(),
        ),
    }
}

/// [`first_snapshot`] for a caller that does not watch.
#[must_use]
pub fn snapshot_once(files: &ConfigFiles, environment: &Environment) -> ConfigSnapshot {
    first_snapshot(files, environment, &[]).0
}

impl SettledFiles {
    /// The instances that the accepted contents describe. Reads the key and CA files that they
    /// name, so it blocks; each configuration has a deadline.
    #[must_use]
    pub fn snapshot(
        &self,
        files: &ConfigFiles,
        environment: &Environment,
        patience: &BoundedIo,
    ) -> ConfigSnapshot {
        let looked = match files {
            ConfigFiles::Directory(directory) => {
                self.load_directory(directory, environment, patience)
            }
            ConfigFiles::One { file, name } => {
                let (settled, environment) = (self.clone(), environment.clone());
                let (of, given) = (file.clone(), name.clone());
                let place = file.clone().unwrap_or_default();
                let looked = patience.run_one(FileTask::Load, &place, move |_| {
                    settled.load_single(of.as_deref(), given.as_deref(), &environment)
                });
                let late = |late| {
                    let problems = stalled_reference(&place, late);
                    (fallback_name(file.as_deref(), name.as_deref()), Err(problems))
                };
                BTreeMap::from([looked.unwrap_or_else(late)])
            }
        };
        ConfigSnapshot { files: looked, problem: None, reload_number: 0 }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Environment variables for instances that none of these files defines.
    #[must_use]
    pub fn unused_variables(&self, environment: &Environment) -> Vec<Warning> {
        let stems = self.contents.keys().filter_map(|name| instance_stem(name).ok());
        config::unmatched_variables(environment, stems)
    }

    fn load_directory(
        &self,
        directory: &Path,
        environment: &Environment,
        patience: &BoundedIo,
    ) -> BTreeMap<String, Result<DesiredInstance, Problems>> {
        let mut looked = BTreeMap::new();
        let form = |file: &OsStr| instance_stem(file).ok().map(config::variable_form);
        let holders = self.form_owners.iter().filter_map(|file| Some((form(file)?, file)));
        let holders: BTreeMap<String, &OsString> = holders.collect();
        let (mut paths, mut loads) = (Vec::new(), Vec::new());
        for (file, content) in &self.contents {
            let path = directory.join(file);
            let stem = match instance_stem(file) {
                Ok(stem) => stem,
                Err(shown) => {
                    looked.insert(shown, Err(invalid_name(directory, file)));
                    continue;
                }
            };
            let form = config::variable_form(stem);
            if let Some(holder) = holders.get(&form).filter(|holder| **holder != file) {
                looked.insert(stem.to_owned(), Err(duplicate_form(&path, holder, &form)));
                continue;
            }
            paths.push(path.clone());
            let source = source(Some(path), environment, LoadMode::Supervise);
            loads.push((stem.to_owned(), source, content.clone()));
        }
        let names: Vec<String> = loads.iter().map(|(name, ..)| name.clone()).collect();
        let loaded = patience.run_each(FileTask::Load, &paths, move |index, _| {
            let (name, source, content) = &loads[index];
            load(source, content, |_| name.clone())
        });
        for ((name, path), wanted) in names.into_iter().zip(&paths).zip(loaded) {
            let late = |late| Err(stalled_reference(path, late));
            looked.insert(name, wanted.unwrap_or_else(late));
        }
        looked
    }

    fn load_single(
        &self,
        file: Option<&Path>,
        name: Option<&str>,
        environment: &Environment,
    ) -> (String, Result<DesiredInstance, Problems>) {
        let source = source(file.map(Path::to_owned), environment, LoadMode::Start);
        let named = |config: &Config| config::instance_name(LoadMode::Start, name, file, config);
        let wanted = match file.map(|file| (file, self.contents.get(file.as_os_str()))) {
            None => load(&source, &FileContent::Bytes(Arc::default()), named),
            Some((_, Some(content))) => load(&source, content, named),
            // It must not run on the defaults without its content.
            Some((file, None)) => Err(unstable_file(file)),
        };
        let name = match &wanted {
            Ok(wanted) => wanted.name.clone(),
            Err(_) => fallback_name(file, name),
        };
        (name, wanted)
    }
}

/// The name of an instance whose configuration could not be loaded.
fn fallback_name(file: Option<&Path>, given: Option<&str>) -> String {
    let stem = || Some(file?.file_stem()?.to_string_lossy().into_owned());
    given.map(str::to_owned).or_else(stem).unwrap_or_else(|| "kms-connector".to_owned())
}

/// The instance's name, or a printable form of a file name that is not a valid one.
fn instance_stem(file: &OsStr) -> Result<&str, String> {
    let stem = Path::new(file).file_stem().unwrap_or(file);
    match stem.to_str() {
        Some(stem) if config::is_instance_name(stem) => Ok(stem),
        _ => Err(stem.to_string_lossy().escape_debug().to_string()),
    }
}

fn source(file: Option<PathBuf>, environment: &Environment, mode: LoadMode) -> Source {
    Source {
        file,
        credentials_directory: environment.credentials_directory(),
        environment: environment.clone(),
        mode,
    }
}

fn load(
    source: &Source,
    content: &FileContent,
    name: impl FnOnce(&Config) -> String,
) -> Result<DesiredInstance, Problems> {
    let bytes = match content {
        FileContent::Bytes(bytes) => bytes,
        FileContent::Unreadable(problems) => return Err(problems.clone()),
    };
    let Loaded { config, warnings } = config::load_bytes(source, bytes)?;
    Ok(DesiredInstance {
        name: name(&config),
        hash: source.file.is_some().then(|| hex::encode(Sha256::digest(bytes.as_slice()))),
        file: source.file.clone(),
        config: Arc::new(config),
        warnings,
    })
}

#[cfg(test)]
pub(super) mod tests;
