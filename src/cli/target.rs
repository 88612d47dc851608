//! Which configuration a command is about: `check`, `config` and `journal rebuild` name it alike.

use std::path::{Path, PathBuf};

use super::paths;
use crate::config::{LoadMode, Problems};

/// A configuration as an operator names it.
#[derive(Debug)]
pub(super) enum ConfigTarget {
    /// An instance in the configuration directory, as `supervise` reads it.
    Instance(String),
    /// One configuration as `start` reads it; without a file, the environment alone.
    File(Option<PathBuf>),
}

impl ConfigTarget {
    /// From the options `--instance` and `--config`.
    pub(super) fn given(instance: Option<String>, file: Option<PathBuf>) -> Self {
        instance.map_or(Self::File(file), Self::Instance)
    }

    /// Its file, if it has one, and how it is read.
    pub(super) fn find(&self, config_dir: &Path) -> Result<(Option<PathBuf>, LoadMode), Problems> {
        Ok(match self {
            Self::Instance(name) => (Some(paths::file_of(name, config_dir)?), LoadMode::Supervise),
            Self::File(None) => (None, LoadMode::Start),
            Self::File(Some(file)) => {
                (Some(paths::find_telling(file, config_dir)?), LoadMode::Start)
            }
        })
    }
}
