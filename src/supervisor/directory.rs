//! What the configuration files say: which instances should run, and which files are invalid.
//!
//! ```text
//! read, 500 ms, read  ->  settle  ->  look
//! ```
//!
//! Files are written while they are read, and half a file may be valid TOML. So [`read`] only
//! returns the current content. [`settle`], a pure function, accepts content that two consecutive
//! readings agree on. [`Settled::look`] turns the accepted content into instances. Contents are
//! compared, never modification times: a file that is touched, or rewritten with the same content,
//! has not changed. A writer that pauses for longer than two readings cannot be detected; slow
//! writers should write elsewhere and rename into place.
//!
//! Invariants: except at startup no content is accepted from a single reading. A file counts as
//! removed only if two successful directory listings lack it. A directory that cannot be listed
//! changes nothing. If two file names map to the same environment variables, the instance that had
//! them keeps them, over a restart the one that kept its journal.

mod read;
mod settle;
mod patience;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use alloy::hex;
use sha2::{Digest, Sha256};

use self::read::{bad_name, doubled, moving, names_what_is_late};
pub use self::{
    patience::{Late, Patience, Work},
    read::{
        Content, Identity, Listing, Unlisted, identity, is_configuration, list, misnamed, read,
    },
    settle::{Settled, Settlement, settle},
};
use crate::{
    config::{self, Config, Environment, Loaded, Mode, Problems, Source, Warning},
    journal::Keeper,
};

/// Where configurations come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// Every `*.toml` in this directory; watched.
    Directory(PathBuf),
    /// One configuration, or the environment alone; read again only on request.
    One { file: Option<PathBuf>, name: Option<String> },
}

/// An instance that should exist.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub file: Option<PathBuf>,
    pub config: Arc<Config>,
    /// The SHA-256 of the file's content, in hex.
    pub hash: Option<String>,
    pub warnings: Vec<Warning>,
}

/// One reading of all files, by instance name.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub files: BTreeMap<String, Result<Wanted, Problems>>,
    /// The directory is missing or unreadable. `files` is empty then, and nothing changes.
    pub problem: Option<Unlisted>,
    /// The number of readings that had been requested (SIGHUP, `reload`) when this one began.
    pub asked: u64,
}

/// Loads configurations for a command, with the files that they name. Blocks; each has a deadline.
pub fn load_all(sources: Vec<Source>) -> Vec<Result<Loaded, Problems>> {
    let paths: Vec<PathBuf> =
        sources.iter().map(|source| source.file.clone().unwrap_or_default()).collect();
    let loaded =
        Patience::default().each(Work::Load, &paths, move |index, _| config::load(&sources[index]));
    let late = |(path, late): (&PathBuf, _)| match late {
        Ok(loaded) => loaded,
        Err(late) => Err(names_what_is_late(path, late)),
    };
    paths.iter().zip(loaded).map(late).collect()
}

/// Runs `load` for one configuration with a deadline, on a thread of its own. Blocks until then.
pub fn patiently<T: Send + 'static>(
    file: Option<&Path>,
    load: impl Fn() -> Result<T, Problems> + Send + Sync + 'static,
) -> Result<T, Problems> {
    let file = file.unwrap_or(Path::new("")).to_owned();
    let loaded = Patience::default().one(Work::Load, &file, move |_| load());
    loaded.unwrap_or_else(|late| Err(names_what_is_late(&file, late)))
}

/// Reads all files once and accepts the result: at startup, where nothing runs that it could break,
/// and for commands that only show something. Returns what a watcher continues from. `keepers`: who
/// kept the journals, as far as the caller knows. Blocks.
#[must_use]
pub fn look_first(files: &Files, environment: &Environment, keepers: &[Keeper]) -> (Look, Settled) {
    let patience = Patience::default();
    match read(files, &patience) {
        Ok(contents) => {
            let keeps = |file: &OsStr| {
                stem(file).is_ok_and(|stem| keepers.iter().any(|keeper| keeper.name == stem))
            };
            let settled = Settled::new(contents, keeps);
            (settled.look(files, environment, &patience), settled)
        }
        Err(problem) => (Look { problem: Some(problem), ..Look::default() }, Settled::default()),
    }
}

/// [`look_first`] for a caller that does not watch.
#[must_use]
pub fn look_once(files: &Files, environment: &Environment) -> Look {
    look_first(files, environment, &[]).0
}

impl Settled {
    /// The instances that the accepted contents describe. Reads the key and CA files that they
    /// name, so it blocks; each configuration has a deadline.
    #[must_use]
    pub fn look(&self, files: &Files, environment: &Environment, patience: &Patience) -> Look {
        let looked = match files {
            Files::Directory(directory) => self.many(directory, environment, patience),
            Files::One { file, name } => {
                let (settled, environment) = (self.clone(), environment.clone());
                let (of, given) = (file.clone(), name.clone());
                let place = file.clone().unwrap_or_default();
                let looked = patience.one(Work::Load, &place, move |_| {
                    settled.one(of.as_deref(), given.as_deref(), &environment)
                });
                let late = |late| {
                    let problems = names_what_is_late(&place, late);
                    (unloaded_name(file.as_deref(), name.as_deref()), Err(problems))
                };
                BTreeMap::from([looked.unwrap_or_else(late)])
            }
        };
        Look { files: looked, problem: None, asked: 0 }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Environment variables for instances that none of these files defines.
    #[must_use]
    pub fn odd_variables(&self, environment: &Environment) -> Vec<Warning> {
        let stems = self.contents.keys().filter_map(|name| stem(name).ok());
        config::variables_of_no_instance(environment, stems)
    }

    fn many(
        &self,
        directory: &Path,
        environment: &Environment,
        patience: &Patience,
    ) -> BTreeMap<String, Result<Wanted, Problems>> {
        let mut looked = BTreeMap::new();
        let form = |file: &OsStr| stem(file).ok().map(config::variable_form);
        let holders = self.holders.iter().filter_map(|file| Some((form(file)?, file)));
        let holders: BTreeMap<String, &OsString> = holders.collect();
        let (mut paths, mut loads) = (Vec::new(), Vec::new());
        for (file, content) in &self.contents {
            let path = directory.join(file);
            let stem = match stem(file) {
                Ok(stem) => stem,
                Err(shown) => {
                    looked.insert(shown, Err(bad_name(directory, file)));
                    continue;
                }
            };
            let form = config::variable_form(stem);
            if let Some(holder) = holders.get(&form).filter(|holder| **holder != file) {
                looked.insert(stem.to_owned(), Err(doubled(&path, holder, &form)));
                continue;
            }
            paths.push(path.clone());
            let source = source(Some(path), environment, Mode::Supervise);
            loads.push((stem.to_owned(), source, content.clone()));
        }
        let names: Vec<String> = loads.iter().map(|(name, ..)| name.clone()).collect();
        let loaded = patience.each(Work::Load, &paths, move |index, _| {
            let (name, source, content) = &loads[index];
            load(source, content, |_| name.clone())
        });
        for ((name, path), wanted) in names.into_iter().zip(&paths).zip(loaded) {
            let late = |late| Err(names_what_is_late(path, late));
            looked.insert(name, wanted.unwrap_or_else(late));
        }
        looked
    }

    fn one(
        &self,
        file: Option<&Path>,
        name: Option<&str>,
        environment: &Environment,
    ) -> (String, Result<Wanted, Problems>) {
        let source = source(file.map(Path::to_owned), environment, Mode::Start);
        let named = |config: &Config| config::instance_name(Mode::Start, name, file, config);
        let wanted = match file.map(|file| (file, self.contents.get(file.as_os_str()))) {
            None => load(&source, &Content::Bytes(Arc::default()), named),
            Some((_, Some(content))) => load(&source, content, named),
            // It must not run on the defaults without its content.
            Some((file, None)) => Err(moving(file)),
        };
        let name = match &wanted {
            Ok(wanted) => wanted.name.clone(),
            Err(_) => unloaded_name(file, name),
        };
        (name, wanted)
    }
}

/// The name of an instance whose configuration could not be loaded.
fn unloaded_name(file: Option<&Path>, given: Option<&str>) -> String {
    let stem = || Some(file?.file_stem()?.to_string_lossy().into_owned());
    given.map(str::to_owned).or_else(stem).unwrap_or_else(|| "kms-connector".to_owned())
}

/// The instance's name, or a printable form of a file name that is not a valid one.
fn stem(file: &OsStr) -> Result<&str, String> {
    let stem = Path::new(file).file_stem().unwrap_or(file);
    match stem.to_str() {
        Some(stem) if config::is_instance_name(stem) => Ok(stem),
        _ => Err(stem.to_string_lossy().escape_debug().to_string()),
    }
}

fn source(file: Option<PathBuf>, environment: &Environment, mode: Mode) -> Source {
    Source {
        file,
        credentials_directory: environment.credentials_directory(),
        environment: environment.clone(),
        mode,
    }
}

fn load(
    source: &Source,
    content: &Content,
    name: impl FnOnce(&Config) -> String,
) -> Result<Wanted, Problems> {
    let bytes = match content {
        Content::Bytes(bytes) => bytes,
        Content::Unreadable(problems) => return Err(problems.clone()),
    };
    let Loaded { config, warnings } = config::load_bytes(source, bytes)?;
    Ok(Wanted {
        name: name(&config),
        hash: source.file.is_some().then(|| hex::encode(Sha256::digest(bytes.as_slice()))),
        file: source.file.clone(),
        config: Arc::new(config),
        warnings,
    })
}

#[cfg(test)]
pub(super) mod tests;
