//! The loader from outside: files in temporary directories, environments as values.

mod documents;
mod keys;
mod problems;
mod environment;
mod wallet;
mod secrets;
mod effective;
mod host_chains;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::keys::{HostChainKey, Key};
use super::*;
use crate::domain::PerKind;

const KEY: &str = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
const ADDRESS: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"; // an example of EIP-55
const WALLET: (&str, &str) = ("KMS_CONNECTOR_PRIVATE_KEY", KEY);

fn env<const N: usize>(variables: [(&str, &str); N]) -> Environment {
    variables.into_iter().collect()
}

fn source(environment: Environment) -> Source {
    Source { file: None, environment, credentials_directory: None, mode: LoadMode::Start }
}

/// Loads `text` as if it were a file called one.toml.
fn load_text(text: &str, environment: Environment, mode: LoadMode) -> Result<Loaded, Problems> {
    let path = PathBuf::from("one.toml");
    let source = Source { file: Some(path.clone()), mode, ..source(environment) };
    let (config, warnings, _) = assemble_text(Some((&path, text)), &source)?;
    Ok(Loaded { config, warnings })
}

fn good(text: &str) -> Loaded {
    load_text(text, env([WALLET]), LoadMode::Start).unwrap()
}

fn bad(text: &str) -> Vec<Problem> {
    load_text(text, env([WALLET]), LoadMode::Start).unwrap_err().as_slice().to_vec()
}

/// The only problem of `text`.
fn problem(text: &str) -> Problem {
    let problems = bad(text);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

fn line(place: &Place) -> Option<usize> {
    match place {
        Place::File { line, .. } => *line,
        Place::Configuration | Place::Variable(_) => None,
    }
}

fn warned(loaded: &Loaded, key: &str) -> bool {
    loaded.warnings.iter().any(|warning| warning.key.as_deref() == Some(key))
}

/// A block in the form of a certificate; its content does not matter here.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
