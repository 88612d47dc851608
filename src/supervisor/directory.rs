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

mod patience;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fmt, fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use alloy::hex;
use sha2::{Digest, Sha256};
use tokio::task::JoinError;
use zeroize::Zeroizing;

pub use self::patience::{Late, Patience, Work};
use crate::{
    config::{self, Config, Environment, Loaded, Mode, Place, Problem, Problems, Source, Warning},
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

// ---- reading

/// The content of a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// May contain a private key.
    Bytes(Arc<Zeroizing<Vec<u8>>>),
    /// The file exists and cannot be read.
    Unreadable(Problems),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Unreadable(problems) => write!(f, "Unreadable({problems})"),
        }
    }
}

/// Identifies a directory: device, inode and creation time, because inodes are reused.
pub type Identity = (u64, u64, Option<SystemTime>);

/// The identity of the directory at this path; `None`: there is none.
pub fn identity(directory: &Path) -> Option<Identity> {
    let meta = fs::metadata(directory).ok()?;
    Some((meta.dev(), meta.ino(), meta.created().ok()))
}

/// All files at one moment by name, or why the directory could not be listed.
pub type Listing = Result<BTreeMap<OsString, Content>, Unlisted>;

/// Why the files could not be listed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unlisted {
    #[error("{}: {cause}", directory.display())]
    Unreadable {
        directory: PathBuf,
        #[source]
        cause: Arc<io::Error>,
    },
    #[error("{}: {late}", directory.display())]
    Late { directory: PathBuf, late: Late },
    /// An unmounted or removed directory does not mean that all instances should end.
    #[error(
        "another directory stands there now (unmounted, or made anew), and it has no configuration: all run \
         on until files are there again, or until `kms-connector reload`, without a name, says that it is \
         meant"
    )]
    Vanished,
    #[error("reading the configurations takes longer than {0:?}")]
    Slow(Duration),
    /// The reading panicked, or the process is ending.
    #[error("reading the configurations: {0}")]
    Unfinished(#[source] Arc<JoinError>),
}

impl Unlisted {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "directory_unreadable",
            Self::Late { .. } => "directory_late",
            Self::Vanished => "directory_vanished",
            Self::Slow(_) => "reading_slow",
            Self::Unfinished(_) => "reading_unfinished",
        }
    }
}

/// Reads all files once. Blocks; each file has a deadline.
pub fn read(files: &Files, patience: &Patience) -> Listing {
    match files {
        Files::Directory(directory) => {
            let names = list(directory, patience)?;
            let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
            let contents = patience.each(Work::Read, &paths, |_, path| content(path));
            let read = names.into_iter().zip(&paths).zip(contents);
            Ok(read
                .filter_map(|((name, path), content)| {
                    let late = |late| Some(Content::Unreadable(is_late(path, late)));
                    Some((name, content.unwrap_or_else(late)?))
                })
                .collect())
        }
        Files::One { file: None, .. } => Ok(BTreeMap::new()),
        Files::One { file: Some(file), .. } => {
            let content = match patience.one(Work::Read, file, config::read) {
                Ok(Ok(bytes)) => Content::Bytes(Arc::new(bytes)),
                Ok(Err(problems)) => Content::Unreadable(problems),
                Err(late) => Content::Unreadable(is_late(file, late)),
            };
            Ok(BTreeMap::from([(file.as_os_str().to_owned(), content)]))
        }
    }
}

/// The names of the configurations in a directory, or why it cannot be listed. Blocks until its
/// deadline.
pub fn list(directory: &Path, patience: &Patience) -> Result<Vec<OsString>, Unlisted> {
    let of = || directory.to_owned();
    match patience.one(Work::List, directory, names) {
        Ok(listed) => {
            listed.map_err(|cause| Unlisted::Unreadable { directory: of(), cause: cause.into() })
        }
        Err(late) => Err(Unlisted::Late { directory: of(), late }),
    }
}

/// The configurations among the entries, by name alone.
fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if is_configuration(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Returns whether a file of this name is a configuration: `*.toml`, but not a hidden file. That
/// excludes the files of editors (`x.toml~`, `.x.toml.swp`, `.#x.toml`, `#x.toml#`) and of
/// Kubernetes (`..data`).
#[must_use]
pub fn is_configuration(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.strip_suffix(b".toml").is_some_and(|stem| !stem.is_empty()) && !name.starts_with(b".")
}

/// Entries that look like a configuration and are none: by their names, and directories. Empty for
/// a directory that cannot be listed: reading it reports that.
#[must_use]
pub fn misnamed(directory: &Path) -> Vec<Warning> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let odd = entries.filter_map(|entry| {
        let name = entry.file_name();
        let is_toml =
            Path::new(&name).extension().is_some_and(|of| of.eq_ignore_ascii_case("toml"));
        let is_hidden = name.as_bytes().starts_with(b".");
        // Of the entry itself: a link's target may be on a file system that does not answer.
        let is_directory = entry.file_type().is_ok_and(|of| of.is_dir());
        let message = match (is_toml && !is_hidden, is_configuration(&name)) {
            (true, true) if is_directory => {
                "is a directory, and no configuration: Docker makes one where the file that it is to \
                 mount is missing"
            }
            (true, false) => "is not read: the name of a configuration ends in .toml, in lower case",
            (true, true) | (false, _) => return None,
        };
        Some((entry.path(), message))
    });
    let mut odd: Vec<(PathBuf, &str)> = odd.collect();
    odd.sort();
    let warning = |(path, message): (PathBuf, &str)| Warning {
        place: at(&path),
        key: None,
        message: message.to_owned(),
    };
    odd.into_iter().map(warning).collect()
}

/// `None`: a directory, or a file that was removed after the listing. A dangling link is a problem,
/// not a removal: its target may be on a file system that is away for a while, and must not end the
/// instance.
fn content(path: &Path) -> Option<Content> {
    if path.is_dir() {
        return None;
    }
    let problems = match config::read(path) {
        Ok(bytes) => return Some(Content::Bytes(Arc::new(bytes))),
        Err(problems) => problems,
    };
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match (fs::metadata(path), fs::symlink_metadata(path)) {
        (_, Err(error)) if is_gone(&error) => None,
        (Err(error), Ok(_)) if is_gone(&error) => Some(Content::Unreadable(
            Problem {
                place: at(path),
                key: None,
                found: "a link that leads nowhere".to_owned(),
                allowed: "a readable TOML file".to_owned(),
                advice: "Mend the link, or remove it to stop its instance".to_owned(),
            }
            .into(),
        )),
        _ => Some(Content::Unreadable(problems)),
    }
}

fn is_late(path: &Path, late: Late) -> Problems {
    let found = match late {
        Late::Hangs => "a file whose reading does not end",
        Late::NoThread => "no thread to read it on",
    };
    Problem {
        place: at(path),
        key: None,
        found: found.to_owned(),
        allowed: "a readable TOML file".to_owned(),
        advice: format!("What to do: {}; the others are read meanwhile", late.remedy()),
    }
    .into()
}

/// The same where the file may be one that the configuration's keys name.
fn names_what_is_late(path: &Path, late: Late) -> Problems {
    let found = match late {
        Late::Hangs => {
            "a file, or one that its keys name (private_key_file, ca_file), whose reading does not end"
        }
        Late::NoThread => "no thread to read the files on that it names",
    };
    Problem {
        place: at(path),
        key: None,
        found: found.to_owned(),
        allowed: "readable files".to_owned(),
        advice: format!(
            "What to do: {}, or name another file; the others are read meanwhile",
            late.remedy()
        ),
    }
    .into()
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

fn at(path: &Path) -> Place {
    Place::File { path: path.to_owned(), line: None, column: None }
}

// ---- settling

/// The accepted content of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The content that two readings agreed on, by file name.
    contents: BTreeMap<OsString, Content>,
    /// Among files whose names map to the same environment variables, the one that has them.
    holders: BTreeSet<OsString>,
}

/// The result of two consecutive readings.
#[derive(Clone, Debug)]
pub struct Settlement {
    pub settled: Settled,
    /// The readings differ somewhere: a third one is needed.
    pub again: bool,
    /// A listing failed, so nothing was settled.
    pub problem: Option<Unlisted>,
}

/// Accepts what both readings agree on, and keeps the earlier content where they differ.
#[must_use]
pub fn settle(before: &Settled, first: &Listing, second: &Listing) -> Settlement {
    let (first, second) = match (first, second) {
        (Ok(first), Ok(second)) => (first, second),
        (first, second) => {
            let problem = second.as_ref().err().or(first.as_ref().err()).cloned();
            let again = first.is_ok() != second.is_ok();
            return Settlement { settled: before.clone(), again, problem };
        }
    };
    let mut settled = BTreeMap::new();
    let mut again = false;
    let names = [first, second, &before.contents].into_iter().flat_map(BTreeMap::keys);
    for name in names {
        let (one, other) = (first.get(name), second.get(name));
        let agreed = one == other;
        again |= !agreed;
        // A file that both readings lack is agreed on, too: it is removed.
        let believed = if agreed { other } else { before.contents.get(name) };
        if let Some(content) = believed {
            settled.insert(name.clone(), content.clone());
        }
    }
    let settled = Settled::new(settled, |file| before.holders.contains(file));
    Settlement { settled, again, problem: None }
}

// ---- looking

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
    fn new(contents: BTreeMap<OsString, Content>, had: impl Fn(&OsStr) -> bool) -> Self {
        let (mut forms, mut holders) = (BTreeSet::new(), BTreeSet::new());
        let (first, then): (Vec<_>, Vec<_>) = contents.keys().partition(|file| had(file));
        for file in first.into_iter().chain(then) {
            if let Ok(stem) = stem(file)
                && forms.insert(config::variable_form(stem))
            {
                holders.insert(file.clone());
            }
        }
        Self { contents, holders }
    }

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

fn bad_name(directory: &Path, file: &OsStr) -> Problems {
    Problem {
        place: at(directory),
        key: None,
        found: format!("a file called {:?}", file.to_string_lossy()),
        allowed: "before .toml 1 to 128 printable UTF-8 characters, with no space at either end"
            .to_owned(),
        advice: "Rename the file: its name is its instance's".to_owned(),
    }
    .into()
}

fn moving(path: &Path) -> Problems {
    Problem {
        place: at(path),
        key: None,
        found: "a file that changes while it is read".to_owned(),
        allowed: "a readable TOML file".to_owned(),
        advice: "Write it elsewhere and rename it into place".to_owned(),
    }
    .into()
}

fn doubled(path: &Path, first: &OsStr, form: &str) -> Problems {
    Problem {
        place: at(path),
        key: None,
        found: format!(
            "a name whose variables would be those of {} (KMS_CONNECTOR_INSTANCE_{form}__...)",
            first.to_string_lossy()
        ),
        allowed: "names that differ in more than case and punctuation".to_owned(),
        advice: "Rename one of the two files".to_owned(),
    }
    .into()
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
