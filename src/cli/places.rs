//! Where configurations and journals are, and what is there.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    config::{self, Environment, Loaded, Mode, Place, Problem, Problems, Source},
    supervisor::directory::is_configuration,
};

/// systemd may give several state directories, parted by colons; the first is ours.
pub(super) fn state_dir(environment: &Environment) -> PathBuf {
    if let Some(directory) = environment.get("KMS_CONNECTOR_STATE_DIR") {
        return directory.into();
    }
    let of_systemd = environment.get("STATE_DIRECTORY").map(|list| list.to_string_lossy());
    let first = of_systemd.as_deref().and_then(|list| list.split(':').next());
    PathBuf::from(first.filter(|first| !first.is_empty()).unwrap_or("./state"))
}

/// The names of all `*.toml` in the directory, sorted; hidden files do not count.
pub(super) fn config_names(directory: &Path) -> Result<Vec<String>, Problems> {
    let problem = |error: io::Error| config::unusable_directory(directory, error.to_string());
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(problem)? {
        let entry = entry.map_err(problem)?;
        let name = entry.file_name();
        if is_configuration(&name) && !entry.path().is_dir() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// `KMS_CONNECTOR_CONFIG_DIR`, else `./config/environments`.
pub(super) fn config_dir(environment: &Environment) -> PathBuf {
    let given = environment.get("KMS_CONNECTOR_CONFIG_DIR");
    given.map_or_else(|| PathBuf::from("./config/environments"), PathBuf::from)
}

/// Without a file, the environment alone counts.
pub(super) fn load(file: Option<PathBuf>, environment: Environment) -> Result<Loaded, Problems> {
    let credentials_directory = environment.credentials_directory();
    config::load(&Source { file, environment, credentials_directory, mode: Mode::Start })
}

/// The file itself: a relative one as given, then in the configuration directory.
pub(super) fn find(file: &Path, directory: &Path) -> Result<PathBuf, Problems> {
    let candidates = [file.to_owned(), directory.join(file)];
    // What cannot be looked at counts as found: loading it tells why.
    let found = candidates.iter().find(|path| path.try_exists().unwrap_or(true));
    found.cloned().ok_or_else(|| {
        Problems::from(Problem {
            place: Place::File { path: file.to_owned(), line: None, column: None },
            key: None,
            found: if file.is_absolute() {
                "no such file".to_owned()
            } else {
                format!("no such file, here or in {}", directory.display())
            },
            allowed: "a configuration file".to_owned(),
            advice: "`kms-connector list` names those in the configuration directory".to_owned(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_relative_file_is_looked_for_here_first() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("Cargo.toml"), "").unwrap();
        fs::write(directory.path().join("only-there.toml"), "").unwrap();
        let find = |file: &str| find(Path::new(file), directory.path());
        assert_eq!(find("Cargo.toml").unwrap(), Path::new("Cargo.toml"));
        assert_eq!(find("only-there.toml").unwrap(), directory.path().join("only-there.toml"));
        assert!(find("nowhere.toml").is_err());
        assert!(find("/nowhere.toml").is_err());
    }
}
