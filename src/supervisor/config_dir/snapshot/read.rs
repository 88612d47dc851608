//! The content of the files at one moment, and what is wrong with a file that cannot be read.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::task::JoinError;
use zeroize::Zeroizing;

use super::ConfigFiles;
use crate::config::{self, Place, Problem, Problems, Warning};
use crate::supervisor::config_dir::bounded_io::{BoundedIo, FileTask, IoStall};

/// The content of a file.
#[derive(Clone, PartialEq, Eq)]
pub enum FileContent {
    /// May contain a private key.
    Bytes(Arc<Zeroizing<Vec<u8>>>),
    /// The file exists and cannot be read.
    Unreadable(Problems),
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Unreadable(problems) => write!(f, "Unreadable({problems})"),
        }
    }
}

/// Identifies a directory: device, inode and creation time, because inodes are reused.
pub type DirectoryIdentity = (u64, u64, Option<SystemTime>);

/// The identity of the directory at this path; `None`: there is none.
pub fn directory_identity(directory: &Path) -> Option<DirectoryIdentity> {
    let meta = fs::metadata(directory).ok()?;
    Some((meta.dev(), meta.ino(), meta.created().ok()))
}

/// All files at one moment by name, or why the directory could not be listed.
pub type FileListing = Result<BTreeMap<OsString, FileContent>, Unlisted>;

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
    Late { directory: PathBuf, late: IoStall },
    /// An unmounted or removed directory does not mean that all instances should end.
    #[error(
        "the directory was replaced by another one without configurations (unmounted, or \
         recreated): all instances continue until files are back. If this is intended, run \
         `kms-connector reload` without a name"
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

    /// The same as a problem of the configuration, with what to do. `directory`: the one that was to be
    /// read.
    #[must_use]
    pub fn to_problems(&self, directory: &Path) -> Problems {
        let (found, advice) = match self {
            Self::Unreadable { cause, .. } => describe(cause),
            Self::Late { late, .. } => (late.to_string(), late.remedy().to_owned()),
            Self::Vanished | Self::Slow(_) | Self::Unfinished(_) => {
                (self.to_string(), String::new())
            }
        };
        Problem {
            place: place_of(directory),
            key: None,
            found,
            allowed: "a readable directory of configurations".to_owned(),
            advice,
        }
        .into()
    }
}

/// What is wrong with a directory that cannot be listed, and what to do.
fn describe(cause: &io::Error) -> (String, String) {
    const NAME: &str = "name the right one with KMS_CONNECTOR_CONFIG_DIR or --config-dir";
    let kind = cause.kind();
    if kind == io::ErrorKind::NotFound {
        ("no such directory".to_owned(), format!("Make it, or {NAME}"))
    } else if kind == io::ErrorKind::NotADirectory {
        (format!("no directory ({cause})"), format!("Put a directory there, or {NAME}"))
    } else if kind == io::ErrorKind::PermissionDenied {
        let user = rustix::process::geteuid().as_raw();
        let advice = "Let this user read it and enter those above it (owner, group, mode), or run this as \
                      a user who may";
        (format!("a directory that user {user} may not read ({cause})"), advice.to_owned())
    } else {
        (format!("a directory that cannot be read ({cause})"), String::new())
    }
}

/// Reads all files once. Blocks; each file has a deadline.
pub fn read(files: &ConfigFiles, patience: &BoundedIo) -> FileListing {
    match files {
        ConfigFiles::Directory(directory) => {
            let names = list(directory, patience)?;
            let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
            let contents = patience.run_each(FileTask::Read, &paths, |_, path| read_content(path));
            let read = names.into_iter().zip(&paths).zip(contents);
            Ok(read
                .filter_map(|((name, path), content)| {
                    let late = |late| Some(FileContent::Unreadable(stalled_file(path, late)));
                    Some((name, content.unwrap_or_else(late)?))
                })
                .collect())
        }
        ConfigFiles::One { file: None, .. } => Ok(BTreeMap::new()),
        ConfigFiles::One { file: Some(file), .. } => {
            let content = match patience.run_one(FileTask::Read, file, config::read) {
                Ok(Ok(bytes)) => FileContent::Bytes(Arc::new(bytes)),
                Ok(Err(problems)) => FileContent::Unreadable(problems),
                Err(late) => FileContent::Unreadable(stalled_file(file, late)),
            };
            Ok(BTreeMap::from([(file.as_os_str().to_owned(), content)]))
        }
    }
}

/// The names of the configurations in a directory, or why it cannot be listed. Blocks until its
/// deadline.
pub fn list(directory: &Path, patience: &BoundedIo) -> Result<Vec<OsString>, Unlisted> {
    let of = || directory.to_owned();
    match patience.run_one(FileTask::List, directory, configuration_names) {
        Ok(listed) => {
            listed.map_err(|cause| Unlisted::Unreadable { directory: of(), cause: cause.into() })
        }
        Err(late) => Err(Unlisted::Late { directory: of(), late }),
    }
}

/// The configurations among the entries, by name alone.
pub(super) fn configuration_names(directory: &Path) -> io::Result<Vec<OsString>> {
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

/// Entries that look like a configuration but are not: files with similar names, and directories. Empty
/// for a directory that cannot be listed, because reading it reports that.
#[must_use]
pub fn misnamed_entries(directory: &Path) -> Vec<Warning> {
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
                "is a directory, not a configuration: Docker creates one if the file to mount is \
                 missing"
            }
            (true, false) => {
                "is not read: the name of a configuration ends in .toml, in lower case"
            }
            (true, true) | (false, _) => return None,
        };
        Some((entry.path(), message))
    });
    let mut odd: Vec<(PathBuf, &str)> = odd.collect();
    odd.sort();
    let warning = |(path, message): (PathBuf, &str)| Warning {
        place: place_of(&path),
        key: None,
        message: message.to_owned(),
    };
    odd.into_iter().map(warning).collect()
}

/// `None`: a directory, or a file that was removed after the listing. A dangling link is a problem,
/// not a removal: its target may be on a file system that is away for a while, and must not end the
/// instance.
fn read_content(path: &Path) -> Option<FileContent> {
    if path.is_dir() {
        return None;
    }
    let problems = match config::read(path) {
        Ok(bytes) => return Some(FileContent::Bytes(Arc::new(bytes))),
        Err(problems) => problems,
    };
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match (fs::metadata(path), fs::symlink_metadata(path)) {
        (_, Err(error)) if is_gone(&error) => None,
        (Err(error), Ok(_)) if is_gone(&error) => Some(FileContent::Unreadable(
            Problem {
                place: place_of(path),
                key: None,
                found: "a broken link".to_owned(),
                allowed: "a readable TOML file".to_owned(),
                advice: "Fix the link, or remove it to stop its instance".to_owned(),
            }
            .into(),
        )),
        _ => Some(FileContent::Unreadable(problems)),
    }
}

fn stalled_file(path: &Path, late: IoStall) -> Problems {
    let found = match late {
        IoStall::Hangs => "a file that cannot be read to its end",
        IoStall::NoThread => "no thread to read it on",
    };
    Problem {
        place: place_of(path),
        key: None,
        found: found.to_owned(),
        allowed: "a readable TOML file".to_owned(),
        advice: format!("{}; the other files are read meanwhile", late.remedy()),
    }
    .into()
}

/// The same where the file may be one that the configuration's keys name.
pub(super) fn stalled_reference(path: &Path, late: IoStall) -> Problems {
    let found = match late {
        IoStall::Hangs => {
            "a file, or one that its keys name (private_key_file, ca_file), that cannot be read to \
             its end"
        }
        IoStall::NoThread => "no thread to read the files that it names",
    };
    Problem {
        place: place_of(path),
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

pub(super) fn place_of(path: &Path) -> Place {
    Place::File { path: path.to_owned(), line: None, column: None }
}

pub(super) fn invalid_name(directory: &Path, file: &OsStr) -> Problems {
    Problem {
        place: place_of(directory),
        key: None,
        found: format!("a file called {:?}", file.to_string_lossy()),
        allowed: "before .toml 1 to 128 printable UTF-8 characters, with no space at either end"
            .to_owned(),
        advice: "Rename the file: its name is its instance's".to_owned(),
    }
    .into()
}

pub(super) fn unstable_file(path: &Path) -> Problems {
    Problem {
        place: place_of(path),
        key: None,
        found: "a file that changes while it is read".to_owned(),
        allowed: "a readable TOML file".to_owned(),
        advice: "Write it elsewhere and rename it into place".to_owned(),
    }
    .into()
}

pub(super) fn duplicate_form(path: &Path, first: &OsStr, form: &str) -> Problems {
    Problem {
        place: place_of(path),
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
