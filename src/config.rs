//! `load(source)`: a configuration that cannot be wrong, or every problem at once.
//!
//! Values come from defaults, then a TOML file, then the environment; later ones win. [`sources`]
//! collects them with their place, and the `config` crate merges them; [`sections`] checks them and
//! makes the [`settings`]; [`problems`] describes errors to the operator; [`secret`] holds what must
//! never be printed. The environment is an argument: only [`Environment::of_process`] reads the
//! process's own.

mod keys;
mod sources;
mod sections;
mod values;
mod files;
mod effective;
mod other_connectors;
mod problems;
mod secret;
mod settings;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use files::FileError;
use sources::{RawConfig, Sources};

pub use effective::{Entry, effective};
pub use problems::{Place, Problem, Problems, Warning};
pub use secret::{InvalidPrivateKey, PrivateKey, SecretString, SecretUrl};
pub use settings::{
    BesideContract, Config, Domain, Ethereum, Finality, HostChain, KeyChain, KeyConsent,
    KeyRepresentation, PrivateAuthorities, S3, StartingBlock, Wallet,
};

/// Configuration files above this size are refused.
const FILE_LIMIT: u64 = 1 << 20;

/// What to load.
#[derive(Clone, Debug)]
pub struct Source {
    /// The TOML file; `None`: the environment alone.
    pub file: Option<PathBuf>,
    pub environment: Environment,
    /// systemd's `$CREDENTIALS_DIRECTORY`.
    pub credentials_directory: Option<PathBuf>,
    pub mode: LoadMode,
}

impl Source {
    /// The file's name without its extension.
    fn stem(&self) -> Option<String> {
        self.file.as_deref().and_then(stem)
    }
}

/// Whether this is the only instance of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMode {
    /// The only instance: the seed's defaults stand in for missing keys.
    Start,
    /// One of many: required keys must be given, and variables shared by all instances must not give
    /// two instances the same identity.
    Supervise,
}

/// A valid configuration and its warnings.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Warning>,
}

/// Environment variables by name. `Debug` prints names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// The environment of the process.
    #[must_use]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().map(|(name, value)| (lossy(name), value)).collect())
    }

    /// The value, unless it is empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// systemd's `$CREDENTIALS_DIRECTORY`.
    #[must_use]
    pub fn credentials_directory(&self) -> Option<PathBuf> {
        self.get("CREDENTIALS_DIRECTORY").map(PathBuf::from)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &OsString)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

fn lossy(name: OsString) -> String {
    name.into_string().unwrap_or_else(|name| name.to_string_lossy().into_owned())
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Loads a configuration. All problems are returned together. If the file is not TOML, only its syntax
/// errors are, because nothing can be said about the rest.
pub fn load(source: &Source) -> Result<Loaded, Problems> {
    match &source.file {
        Some(path) => load_bytes(source, &read(path)?),
        None => load_bytes(source, &[]),
    }
}

/// [`load`] with the content of `source.file` in memory. Files that its keys name are read now.
pub fn load_bytes(source: &Source, bytes: &[u8]) -> Result<Loaded, Problems> {
    let (config, warnings, _) = assemble_bytes(source, Some(bytes))?;
    Ok(Loaded { config, warnings })
}

/// A configuration, its warnings, and the values it was made of.
fn assemble_bytes(
    source: &Source,
    bytes: Option<&[u8]>,
) -> Result<(Config, Vec<Warning>, RawConfig), Problems> {
    let (Some(path), Some(bytes)) = (source.file.as_deref(), bytes) else {
        return assemble_text(None, source);
    };
    match files::text_of(bytes) {
        Ok(text) => assemble_text(Some((path, text)), source),
        Err((error, at)) => {
            let line = bytes[..at].split(|byte| *byte == b'\n').count();
            let place = Place::File { path: path.to_owned(), line: Some(line), column: None };
            Err(unreadable(place, &error))
        }
    }
}

/// The content of a configuration file, which may hold a key.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Problems> {
    files::read_small_file(path, FILE_LIMIT).map_err(|error| unreadable(Place::file(path), &error))
}

fn unreadable(place: Place, error: &FileError) -> Problems {
    Problems::from(Problem {
        place,
        key: None,
        found: error.to_string(),
        allowed: "a readable TOML file".to_owned(),
        advice: error.advice().to_owned(),
    })
}

/// Checks the environment of a process that runs many instances, whatever its files say: above all,
/// variables shared by all instances that would give two of them the same identity.
pub fn check_environment(environment: &Environment) -> Result<(), Problems> {
    let mut sources = Sources::default();
    sources.add_environment(environment, None, LoadMode::Supervise);
    Problems::collect(sources.problems).map_or(Ok(()), Err)
}

/// Checks the variables that name directories and the listener of the process. Commands that continue
/// use them unchanged.
pub fn check_directory_variables(environment: &Environment) -> Result<(), Problems> {
    Problems::collect(sources::quoted_places(environment)).map_or(Ok(()), Err)
}

/// Variables of the process that do not have the intended effect.
#[must_use]
pub fn suspicious_variables(environment: &Environment) -> Vec<Warning> {
    sources::odd_variables(environment)
}

/// Variables of instances that no file defines: most likely the names of a file and a variable do not
/// match. `stems`: the names of all files without their extension.
#[must_use]
pub fn unmatched_variables<'a>(
    environment: &Environment,
    stems: impl Iterator<Item = &'a str>,
) -> Vec<Warning> {
    sources::variables_of_no_instance(environment, stems)
}

/// The form of a stem in its instance's variables: `KMS_CONNECTOR_INSTANCE_<this>__`. Two stems may
/// have the same form.
#[must_use]
pub fn variable_form(stem: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    stem.chars().map(plain).collect()
}

/// Returns whether this is a valid instance name: one that fits into a log line and into an argument.
#[must_use]
pub fn is_instance_name(name: &str) -> bool {
    !name.is_empty()
        && name.trim() == name
        && name.chars().count() <= 128
        && !name.chars().any(char::is_control)
}

/// [`load`] with the file's text in memory.
fn assemble_text(
    text: Option<(&Path, &str)>,
    source: &Source,
) -> Result<(Config, Vec<Warning>, RawConfig), Problems> {
    let mut sources = Sources::new();
    let is_toml = text.is_none_or(|(path, text)| sources.add_file(path, text));
    if !is_toml && let Some(problems) = Problems::collect(std::mem::take(&mut sources.problems)) {
        return Err(problems);
    }
    sources.add_environment(&source.environment, source.stem().as_deref(), source.mode);
    let raw = sources.merged();
    let given = raw.clone();
    let (config, warnings) = sections::check(raw, source)?;
    Ok((config, warnings, given))
}

/// The instance's name. Under `supervise`: the file's stem. Under `start`: `-n`, else a given
/// `service_name`, else the stem.
#[must_use]
pub fn instance_name(
    mode: LoadMode,
    given: Option<&str>,
    file: Option<&Path>,
    config: &Config,
) -> String {
    let chosen = given.or_else(|| config.given_service_name());
    let chosen = chosen.filter(|_| mode == LoadMode::Start).map(str::to_owned);
    chosen.or_else(|| file.and_then(stem)).unwrap_or_else(|| config.service_name.clone())
}

fn stem(file: &Path) -> Option<String> {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
