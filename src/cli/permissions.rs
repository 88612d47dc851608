//! Finds files and directories that other users can change although this process trusts them: those
//! with configurations and journals. It works all the same, so this only warns. Modes are never
//! changed: they may be intended.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::supervisor::config_dir::snapshot::{BoundedIo, ConfigFiles, FileTask, is_configuration};

/// A path that others can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exposure {
    pub path: PathBuf,
    pub why: String,
    pub remedy: &'static str,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, why, remedy } = self;
        write!(f, "{} {why}; {remedy}", path.display())
    }
}

/// What a path is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Journals: a user who can write there can replace a journal.
    State,
    /// Configurations: a user who can write there decides what runs, and with which wallet.
    Configuration,
    /// An ancestor of one of these: a user who can write there can replace the directory.
    Ancestor,
}

/// Mode, owner and mount of a path.
#[derive(Clone, Copy, Debug)]
struct FileAccess {
    mode: u32,
    owner: u32,
    /// On a read-only mount, such as a `ConfigMap`: the mode does not matter.
    read_only: bool,
}

/// The process that examines the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Viewer {
    /// The process that reads and writes there.
    Service,
    /// A command. If it runs as root, the files may belong to the service's user.
    Command,
}

/// Examines the files and directories with their ancestors. Paths that are missing or cannot be
/// examined are reported where they are used. Blocks; each path has a deadline.
pub(super) fn find_exposures(files: &ConfigFiles, state_dir: &Path, eyes: Viewer) -> Vec<Exposure> {
    let mut trusted = vec![(state_dir.to_owned(), Trust::State)];
    match files {
        ConfigFiles::Directory(directory) => {
            trusted.push((directory.clone(), Trust::Configuration));
            trusted.extend(files_in(directory).map(|file| (file, Trust::Configuration)));
        }
        ConfigFiles::One { file: Some(file), .. } => {
            let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
            let directory = directory.unwrap_or(Path::new("."));
            trusted.push((directory.to_owned(), Trust::Configuration));
            trusted.push((file.clone(), Trust::Configuration));
        }
        ConfigFiles::One { file: None, .. } => {}
    }
    let (paths, trusts): (Vec<_>, Vec<_>) = trusted.into_iter().unzip();
    let looked = BoundedIo::default().run_each(FileTask::Inspect, &paths, {
        let state_dir = state_dir.to_owned();
        move |index, path| exposures_around(path, trusts[index], service_user(&state_dir, eyes))
    });
    let mut odd: Vec<Exposure> = Vec::new();
    for found in looked.into_iter().flatten().flatten() {
        if odd.iter().all(|known| known.path != found.path) {
            odd.push(found);
        }
    }
    odd
}

fn service_user(state_dir: &Path, eyes: Viewer) -> u32 {
    let own = rustix::process::geteuid().as_raw();
    match eyes {
        Viewer::Command if own == 0 => fs::metadata(state_dir).map_or(own, |found| found.uid()),
        Viewer::Command | Viewer::Service => own,
    }
}

/// Examines the target of the path and its ancestors; for a missing path, its existing ancestors.
fn exposures_around(path: &Path, trust: Trust, user: u32) -> Vec<Exposure> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = |above: &Path| Some((above.canonicalize().ok()?, above == path));
    let Some((real, is_itself)) = path.ancestors().find_map(there) else { return Vec::new() };
    let trust = if is_itself { trust } else { Trust::Ancestor };
    let above = real.ancestors().skip(1).map(|above| (above, Trust::Ancestor));
    let all = [(real.as_path(), trust)].into_iter().chain(above);
    let odd = |(path, trust): (&Path, Trust)| {
        let (why, remedy) = assess(file_access(path).ok()?, trust, user)?;
        Some(Exposure { path: path.to_owned(), why, remedy })
    };
    all.filter_map(odd).collect()
}

fn files_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| is_configuration(&entry.file_name())).map(|entry| entry.path())
}

fn file_access(path: &Path) -> io::Result<FileAccess> {
    let metadata = fs::metadata(path)?;
    let read_only = statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    Ok(FileAccess { mode: metadata.mode(), owner: metadata.uid(), read_only })
}

/// Why users other than root and `user` can change it, and what to do.
fn assess(found: FileAccess, trust: Trust, user: u32) -> Option<(String, &'static str)> {
    let FileAccess { mode, owner, read_only } = found;
    if read_only {
        return None;
    }
    let sticky = mode & 0o1000 != 0;
    let stakes = match trust {
        Trust::State => "can replace a journal",
        Trust::Configuration => "can change what runs here, and with which wallet",
        Trust::Ancestor if sticky => return None,
        Trust::Ancestor => "can replace a trusted directory",
    };
    if mode & 0o002 != 0 {
        let why = format!("can be written by every user (mode {:03o}), who {stakes}", mode & 0o777);
        return Some((why, "run chmod o-w on it"));
    }
    if trust != Trust::Ancestor && owner != 0 && owner != user {
        let why =
            format!("belongs to user {owner}, who is neither root nor user {user} and {stakes}");
        return Some((why, "chown it to the service's user"));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn is_odd(mode: u32, owner: u32, trust: Trust, user: u32) -> bool {
        assess(FileAccess { mode, owner, read_only: false }, trust, user).is_some()
    }

    #[test]
    fn b12_what_others_can_write_or_have_is_told() {
        for trust in [Trust::State, Trust::Configuration] {
            for mode in [0o777, 0o1777, 0o702] {
                assert!(is_odd(mode, 7, trust, 7), "{mode:o}");
            }
            for mode in [0o700, 0o755, 0o775, 0o2775] {
                assert!(!is_odd(mode, 7, trust, 7), "{mode:o}");
                assert!(!is_odd(mode, 0, trust, 7), "{mode:o}");
                assert!(is_odd(mode, 8, trust, 7), "{mode:o}");
                assert!(is_odd(mode, 8, trust, 0), "{mode:o}");
            }
            let mounted = FileAccess { mode: 0o777, owner: 8, read_only: true };
            assert_eq!(assess(mounted, trust, 7), None);
        }
        assert!(is_odd(0o777, 0, Trust::Ancestor, 7));
        assert!(!is_odd(0o1777, 0, Trust::Ancestor, 7), "/tmp");
        assert!(!is_odd(0o755, 8, Trust::Ancestor, 7));
    }

    #[test]
    fn b12_directories_files_and_what_is_above_them_are_looked_at() {
        let home = tempfile::tempdir().unwrap();
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        };
        let [state, configs] = ["a/state", "configs"].map(|name| home.path().join(name));
        fs::create_dir_all(&state).unwrap();
        fs::create_dir(&configs).unwrap();
        for name in ["one.toml", "notes.txt"] {
            fs::write(configs.join(name), "").unwrap();
        }
        symlink(&configs, home.path().join("link")).unwrap();
        let look = |files: &ConfigFiles, state: &Path| {
            super::find_exposures(files, state, Viewer::Service)
        };
        let files = ConfigFiles::Directory(home.path().join("link"));
        assert_eq!(look(&files, &state), []);
        assert_eq!(look(&files, &home.path().join("not there")), []);

        open(&home.path().join("a"));
        open(&configs.join("one.toml"));
        open(&configs.join("notes.txt"));
        let names = |odd: Vec<Exposure>| -> Vec<String> {
            let name =
                |odd: &Exposure| odd.path.file_name().unwrap().to_string_lossy().into_owned();
            odd.iter().map(name).collect()
        };
        assert_eq!(names(look(&files, &state)), ["a", "one.toml"]);
        assert_eq!(names(look(&files, &home.path().join("a/to/be/made"))), ["a", "one.toml"]);
        open(&configs);
        let one = ConfigFiles::One { file: Some(configs.join("one.toml")), name: None };
        assert_eq!(names(look(&one, &state)), ["a", "configs", "one.toml"]);
        let none = ConfigFiles::One { file: None, name: None };
        let told = look(&none, &configs);
        assert_eq!(names(told.clone()), ["configs"]);
        assert!(told[0].to_string().contains("replace a journal"), "{}", told[0]);
    }
}
