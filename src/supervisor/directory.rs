//! What the files say: which instances should run, and which files are wrong.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use crate::config::{Config, Problems, Warning};

/// Where configurations come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// Every `*.toml` in it; watched.
    Directory(PathBuf),
    /// One configuration, or the environment alone; read again only when asked.
    One { file: Option<PathBuf>, name: Option<String> },
}

/// An instance that should be.
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
    /// The directory is missing or unreadable: `files` says nothing then, and nothing changes.
    pub problem: Option<String>,
    /// Somebody asked for it (SIGHUP, `reload`).
    pub asked: bool,
}
