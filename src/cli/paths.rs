//! Finds configurations, journals and their directories. A hanging file system delays a command by
//! some seconds at most.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::output::print_error;
use crate::{
    admin::status::Status,
    config::{self, Environment, LoadMode, Loaded, Place, Problem, Problems, Source, Warning},
    journal::{self, Keeper},
    supervisor::{
        config_dir::snapshot::{self, BoundedIo, FileTask, load_bounded},
        control::{self, Request, Response, SocketCandidates},
    },
};

/// Below the working directory, and of an installed service.
const CONFIG_DIRS: [&str; 2] = ["./config/environments", "/etc/kms-connector"];
/// The same for journals.
const STATE_DIRS: [&str; 2] = ["./state", "/var/lib/kms-connector"];
/// For asking a running supervisor for its directories.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// `KMS_CONNECTOR_CONFIG_DIR`.
pub(super) fn named_config_dir(environment: &Environment) -> Option<PathBuf> {
    environment.get("KMS_CONNECTOR_CONFIG_DIR").map(PathBuf::from)
}

/// `KMS_CONNECTOR_STATE_DIR`, else systemd's `STATE_DIRECTORY`. systemd separates several
/// directories by colons; the first one is ours.
pub(super) fn named_state_dir(environment: &Environment) -> Option<PathBuf> {
    if let Some(directory) = environment.get("KMS_CONNECTOR_STATE_DIR") {
        return Some(directory.into());
    }
    let of_systemd = environment.get("STATE_DIRECTORY").map(|list| list.to_string_lossy());
    let first = of_systemd.as_deref().and_then(|list| list.split(':').next());
    first.filter(|first| !first.is_empty()).map(PathBuf::from)
}

/// The directory for commands that run instances: the named one, else the one below the working
/// directory.
pub(super) fn config_dir(environment: &Environment) -> PathBuf {
    named_config_dir(environment).unwrap_or_else(|| CONFIG_DIRS[0].into())
}

/// The same for journals.
pub(super) fn state_dir(environment: &Environment) -> PathBuf {
    named_state_dir(environment).unwrap_or_else(|| STATE_DIRS[0].into())
}

/// The directory for commands that only read: the named one, else that of the running supervisor,
/// else the one below the working directory, or that of an installed service if only that exists.
pub(super) async fn resolve_config_dir(
    named: Option<PathBuf>,
    candidates: &SocketCandidates,
) -> PathBuf {
    match named {
        Some(named) => named,
        None => running_status(candidates)
            .await
            .and_then(|status| status.config_dir)
            .unwrap_or_else(|| usual_dir(CONFIG_DIRS.map(Path::new))),
    }
}

/// The same for journals.
pub(super) async fn resolve_state_dir(
    named: Option<PathBuf>,
    candidates: &SocketCandidates,
) -> PathBuf {
    match named {
        Some(named) => named,
        None => running_status(candidates)
            .await
            .and_then(|status| status.state_dir)
            .unwrap_or_else(|| usual_dir(STATE_DIRS.map(Path::new))),
    }
}

async fn running_status(candidates: &SocketCandidates) -> Option<Status> {
    match control::ask(candidates, &Request::Status, ASK_DEADLINE).await {
        Ok(Response::Status { status }) => Some(*status),
        Ok(_) | Err(_) => None,
    }
}

fn usual_dir([here, installed]: [&Path; 2]) -> PathBuf {
    // A directory that does not answer exists.
    let is_there = |path: &Path| {
        BoundedIo::default().run_one(FileTask::Inspect, path, Path::is_dir).unwrap_or(true)
    };
    if !is_there(here) && is_there(installed) { installed.into() } else { here.into() }
}

/// The names of all `*.toml` in the directory, sorted, without hidden files.
pub(super) fn config_names(directory: &Path) -> Result<Vec<String>, Problems> {
    let patience = BoundedIo::default();
    let names =
        snapshot::list(directory, &patience).map_err(|problem| problem.to_problems(directory))?;
    let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
    // An entry that does not answer is kept: reading it reports that.
    let is_directory = patience.run_each(FileTask::Inspect, &paths, |_, path| path.is_dir());
    let files = names.iter().zip(is_directory).filter(|(_, is_one)| *is_one != Ok(true));
    Ok(files.map(|(name, _)| OsStr::to_string_lossy(name).into_owned()).collect())
}

/// The instances that last wrote the journals. Empty if the directory does not answer: writing there
/// reports that.
pub(super) fn read_keepers(state_dir: &Path) -> Vec<Keeper> {
    BoundedIo::default().run_one(FileTask::Inspect, state_dir, journal::keepers).unwrap_or_default()
}

/// At most this many files are named where there are others.
const MAX_NAMED: usize = 5;

/// Says that the environment alone is the configuration, if the directory has files that may have been
/// meant.
pub(super) fn note_environment_alone(directory: &Path) -> Option<String> {
    let files = config_names(directory).ok().filter(|files| !files.is_empty())?;
    let stems = files.iter().map(|file| file.strip_suffix(".toml").unwrap_or(file));
    let mut there: Vec<String> = stems.take(MAX_NAMED).map(str::to_owned).collect();
    if files.len() > MAX_NAMED {
        there.push(format!("{} more", files.len() - MAX_NAMED));
    }
    Some(format!(
        "no file or instance is named, so the environment alone is the configuration; in {} there are \
         {}",
        directory.display(),
        there.join(", ")
    ))
}

/// Returns whether a supervisor of this directory reads the file: its name is one of the directory's.
pub(super) fn is_in(file: &Path, directory: &Path) -> bool {
    let above = file.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new(".")).to_owned();
    let is_same = move |directory: &Path| {
        let (above, directory) = (above.canonicalize(), directory.canonicalize());
        matches!((above, directory), (Ok(above), Ok(directory)) if above == directory)
    };
    file.file_name().is_some_and(snapshot::is_configuration)
        // A directory that does not answer is reported when its files are read.
        && BoundedIo::default().run_one(FileTask::Inspect, directory, is_same).unwrap_or(false)
}

/// Loads a configuration as `start` does; without a file, the environment alone.
pub(super) fn load(file: Option<PathBuf>, environment: Environment) -> Result<Loaded, Problems> {
    load_as(file, environment, LoadMode::Start)
}

/// Loads a configuration as `start` or as `supervise` does.
pub(super) fn load_as(
    file: Option<PathBuf>,
    environment: Environment,
    mode: LoadMode,
) -> Result<Loaded, Problems> {
    let source = source(file, environment, mode);
    load_bounded(source.file.clone().as_deref(), move || config::load(&source))
}

pub(super) fn source(file: Option<PathBuf>, environment: Environment, mode: LoadMode) -> Source {
    let credentials_directory = environment.credentials_directory();
    Source { file, environment, credentials_directory, mode }
}

/// Variables of instances that neither this file nor one of the directory makes: most likely the names
/// of a file and a variable do not match.
pub(super) fn unmatched_variables(
    file: Option<&Path>,
    directory: &Path,
    environment: &Environment,
) -> Vec<Warning> {
    let stem = |name: &Path| name.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = file.and_then(stem);
    let unmatched = config::unmatched_variables(environment, own.as_deref().into_iter());
    if unmatched.is_empty() {
        return unmatched;
    }
    // A directory that cannot be read names nobody.
    let others = config_names(directory).unwrap_or_default();
    let stems: Vec<String> =
        others.iter().filter_map(|name| stem(Path::new(name))).chain(own).collect();
    config::unmatched_variables(environment, stems.iter().map(String::as_str))
}

/// Finds a file: a relative path as given, then in the configuration directory.
pub(super) fn find_file(file: &Path, directory: &Path) -> Result<PathBuf, Problems> {
    let (whole, directory) = (file.to_owned(), directory.to_owned());
    load_bounded(Some(file), move || look_for(&whole, &directory))
}

/// [`find_file`] that warns if the configuration directory has another file of this name.
pub(super) fn find_telling(file: &Path, directory: &Path) -> Result<PathBuf, Problems> {
    let found = find_file(file, directory)?;
    let (here, there) = (file.to_owned(), directory.join(file));
    // A file that does not answer is reported when the found one is read.
    let look = move |there: &Path| are_two(&here, there);
    if found == file
        && BoundedIo::default().run_one(FileTask::Inspect, &there, look).unwrap_or(false)
    {
        let (read, other) = (found.display(), there.display());
        if tracing::enabled!(tracing::Level::WARN) {
            tracing::warn!(%read, %other, "two configurations of one name");
        } else {
            print_error(format_args!(
                "warning: two configurations of one name: {read} is read, not {other}; give the whole \
                 path of the one that is meant"
            ));
        }
    }
    Ok(found)
}

/// Returns whether both exist and are not the same file.
fn are_two(one: &Path, other: &Path) -> bool {
    let (one, other) = (one.canonicalize(), other.canonicalize());
    matches!((one, other), (Ok(one), Ok(other)) if one != other)
}

fn look_for(file: &Path, directory: &Path) -> Result<PathBuf, Problems> {
    let candidates = [file.to_owned(), directory.join(file)];
    // A file that cannot be examined counts as found: loading it reports the reason.
    let is_there = |path: &&PathBuf| path.try_exists().unwrap_or(true);
    if let Some(found) = candidates.iter().find(is_there) {
        return Ok(found.clone());
    }
    let complete = candidates.map(|path| {
        let mut name = path.into_os_string();
        name.push(".toml");
        PathBuf::from(name)
    });
    let advice = complete.iter().find(is_there).map_or_else(
        || "`kms-connector list` names those in the configuration directory".to_owned(),
        |meant| format!("Did you mean {}?", meant.display()),
    );
    Err(Problems::from(Problem {
        place: Place::File { path: file.to_owned(), line: None, column: None },
        key: None,
        found: if file.is_absolute() {
            "no such file".to_owned()
        } else {
            format!("no such file, here or in {}", directory.display())
        },
        allowed: "a configuration file".to_owned(),
        advice,
    }))
}

/// The file of this instance in the configuration directory. If it is missing, the error lists the
/// existing ones.
pub(super) fn file_of(instance: &str, directory: &Path) -> Result<PathBuf, Problems> {
    let path = directory.join(format!("{instance}.toml"));
    // A file that cannot be examined counts as found: loading it reports the reason.
    let is_there = |path: &Path| path.try_exists().unwrap_or(true) || path.is_symlink();
    if BoundedIo::default().run_one(FileTask::Inspect, &path, is_there).unwrap_or(true) {
        return Ok(path);
    }
    let there = config_names(directory)?;
    let there: Vec<&str> = there.iter().filter_map(|name| name.strip_suffix(".toml")).collect();
    let found = match there.as_slice() {
        [] => "no instance of this name, and no other instance".to_owned(),
        there => format!("no instance of this name; there are: {}", there.join(", ")),
    };
    let problem = Problem {
        place: Place::File { path, line: None, column: None },
        key: None,
        found,
        allowed: "the name of a file in the configuration directory, without .toml".to_owned(),
        advice: match instance.strip_suffix(".toml").filter(|stem| there.contains(stem)) {
            Some(stem) => format!("Did you mean {stem}?"),
            None => "--config-dir names another directory".to_owned(),
        },
    };
    Err(problem.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tokio::{sync::mpsc, task::JoinSet};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::status::ReloadStatus;

    #[test]
    fn the_state_directory_is_found() {
        let of = |variables: &[(&str, &str)]| {
            state_dir(&variables.iter().copied().collect::<Environment>())
        };
        let own = ("KMS_CONNECTOR_STATE_DIR", "/own");
        let systemd = ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
        assert_eq!(of(&[own, systemd]), Path::new("/own"));
        assert_eq!(of(&[("KMS_CONNECTOR_STATE_DIR", ""), systemd]), Path::new("/var/lib/a"));
        assert_eq!(of(&[]), Path::new("./state"));
    }

    #[test]
    fn where_nothing_is_here_an_installed_service_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path();
        let (none, other) = (there.join("none"), there.join("other"));
        assert_eq!(usual_dir([&none, there]), there);
        assert_eq!(usual_dir([there, &none]), there);
        assert_eq!(usual_dir([&none, &other]), none);
    }

    #[tokio::test]
    async fn what_is_not_named_is_where_the_supervisor_that_runs_has_it() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("control.sock");
        let candidates =
            control::candidates(Some(&socket), &Environment::default(), Path::new("state"));
        let listener = control::Listener::bind(&candidates).await.unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (commands, mut asked) = mpsc::channel::<control::PendingRequest>(1);
        tasks.spawn(listener.serve(commands, stop));
        tasks.spawn(async move {
            while let Some(asked) = asked.recv().await {
                let status = Status {
                    version: "1".to_owned(),
                    pid: 1,
                    started_at_ms: 0,
                    listen: None,
                    config_dir: Some("/its/configs".into()),
                    state_dir: Some("/its/state".into()),
                    reload: ReloadStatus::default(),
                    instances: Vec::new(),
                };
                asked.reply.send(Response::Status { status: Box::new(status) }.into()).unwrap();
            }
        });
        assert_eq!(resolve_config_dir(None, &candidates).await, Path::new("/its/configs"));
        assert_eq!(resolve_state_dir(None, &candidates).await, Path::new("/its/state"));
        let named = Some(PathBuf::from("named"));
        assert_eq!(resolve_state_dir(named, &candidates).await, Path::new("named"));
    }

    #[test]
    fn d8_an_instance_without_a_file_is_told_with_those_that_have_one() {
        let directory = tempfile::tempdir().unwrap();
        let told = || file_of("zz", directory.path()).unwrap_err().to_string();
        assert!(told().contains("no other instance"), "{}", told());
        for name in ["a.toml", "b.toml"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert!(told().contains("there are: a, b"), "{}", told());
        let told_of_file = file_of("b.toml", directory.path()).unwrap_err().to_string();
        assert!(told_of_file.ends_with("Did you mean b?"), "{told_of_file}");
        assert_eq!(file_of("a", directory.path()).unwrap(), directory.path().join("a.toml"));
        std::os::unix::fs::symlink("nowhere", directory.path().join("zz.toml")).unwrap();
        assert!(
            file_of("zz", directory.path()).is_ok(),
            "what is wrong with it is told by loading it"
        );
    }

    #[test]
    fn variables_of_no_instance_are_told_for_one_file_too() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("b.toml"), "").unwrap();
        let variable = |stem: &str| (format!("KMS_CONNECTOR_INSTANCE_{stem}__CHAIN_ID"), "1");
        let environment: Environment = ["A_1", "B", "C"].map(variable).into_iter().collect();
        let told = |file: Option<&str>, directory: &Path| {
            let told = unmatched_variables(file.map(Path::new), directory, &environment);
            told.iter().map(|warning| warning.place.to_string()).collect::<Vec<_>>().join(" ")
        };
        let own = told(Some("elsewhere/a.1.toml"), directory.path());
        assert!(own.ends_with("INSTANCE_C__CHAIN_ID") && !own.contains("INSTANCE_B"), "{own}");
        assert_eq!(told(None, directory.path()).matches("INSTANCE_").count(), 2);
        assert_eq!(told(None, Path::new("/nonexistent")).matches("INSTANCE_").count(), 3);
    }

    #[test]
    fn two_configurations_of_one_name_are_told_from_one_in_two_ways() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |directory: &tempfile::TempDir| directory.path().join("a.toml");
        fs::write(at(&here), "").unwrap();
        assert!(!are_two(&at(&here), &at(&there)), "there is one");
        assert!(!are_two(&at(&here), &here.path().join("./a.toml")), "it is the same");
        fs::write(at(&there), "").unwrap();
        assert!(are_two(&at(&here), &at(&there)));
    }

    #[test]
    fn a_relative_file_is_looked_for_here_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("Cargo.toml"), "").unwrap();
        fs::write(directory.path().join("only-there.toml"), "").unwrap();
        let find = |file: &str| find_file(Path::new(file), directory.path());
        assert_eq!(find("Cargo.toml").unwrap(), Path::new("Cargo.toml"));
        assert_eq!(find("only-there.toml").unwrap(), directory.path().join("only-there.toml"));
        assert!(find("nowhere.toml").is_err());
        assert!(find("/nowhere.toml").is_err());
        // A name without its ending, as of an instance.
        let meant = directory.path().join("only-there.toml");
        for name in ["only-there", meant.with_extension("").to_str().unwrap()] {
            let told = find(name).unwrap_err().to_string();
            assert!(told.ends_with(&format!("Did you mean {}?", meant.display())), "{told}");
        }
    }

    #[test]
    fn what_the_directory_has_is_named_where_nothing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let told = || note_environment_alone(directory.path());
        assert_eq!(told(), None);
        for n in 1..=7 {
            fs::write(directory.path().join(format!("node-{n}.toml")), "").unwrap();
        }
        let told = told().unwrap();
        assert!(told.ends_with("node-4, node-5, 2 more") && !told.contains(".toml"), "{told}");
        assert_eq!(note_environment_alone(Path::new("/nonexistent")), None);
    }

    /// A link to a file that blocks readers for ever simulates a hung mount.
    #[test]
    fn d1_no_command_waits_for_a_file_that_hangs() {
        const KERNEL_LOG: &str = "/proc/kmsg";
        if fs::File::open(KERNEL_LOG).is_err() {
            return; // it may not be opened everywhere
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::os::unix::fs::symlink(KERNEL_LOG, path("a.toml")).unwrap();
        fs::write(path("b.toml"), format!("private_key = '{}'\n", "1".repeat(64))).unwrap();
        fs::write(path("c.toml"), "private_key_file = '/proc/kmsg'\n").unwrap();
        let files = [path("a.toml"), path("b.toml"), path("c.toml")];
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let load = |file: &PathBuf| load(Some(file.clone()), Environment::default());
            sender.send(files.iter().map(load).collect::<Vec<_>>())
        });
        let all = done.recv_timeout(std::time::Duration::from_secs(20)).expect("it ends");
        let is_good: Vec<bool> = all.iter().map(Result::is_ok).collect();
        assert_eq!(is_good, [false, true, false]);
        let said = all[2].as_ref().unwrap_err().to_string();
        assert!(said.contains("does not answer"), "{said}");
        assert_eq!(config_names(directory.path()).unwrap(), ["a.toml", "b.toml", "c.toml"]);
    }
}
