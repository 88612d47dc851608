//! Problems of a configuration, described so that one reading is enough to fix it: all together, each
//! with its place, its key, what was found, what is allowed, what to do.
//!
//! `found` is written by `sources`, `sections` and `values`, which decide how much of a value may be
//! shown.

use std::fmt;
use std::path::{Path, PathBuf};

/// The origin of a value, or of its absence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// No particular place: missing in file and environment.
    Configuration,
    /// A file; lines and columns count from 1.
    File { path: PathBuf, line: Option<usize>, column: Option<usize> },
    /// An environment variable.
    Variable(String),
}

impl Place {
    pub(super) fn file(path: &Path) -> Self {
        Self::File { path: path.to_owned(), line: None, column: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration => f.write_str("configuration"),
            Self::File { path, line, column } => {
                write!(f, "{}", path.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if let Some(column) = column {
                    write!(f, ":{column}")?;
                }
                Ok(())
            }
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// A problem that must be fixed before the instance can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// The key as written in a file, with its table: `s3_config.region`.
    pub key: Option<String>,
    /// What was found. Never a secret: of those only the shape.
    pub found: String,
    pub allowed: String,
    /// What to do; empty if `allowed` is enough.
    pub advice: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message())
    }
}

impl Problem {
    /// What to do, where `allowed` is not enough.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        (!self.advice.is_empty()).then_some(&self.advice)
    }

    /// The message without its place.
    fn message(&self) -> String {
        let Self { found, allowed, .. } = self;
        let advice = self.advice().map_or_else(String::new, |advice| format!(". {advice}"));
        format!("found {found}; allowed: {allowed}{advice}")
    }
}

/// Every problem of one configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    is_of_disabled: bool,
}

impl Problems {
    /// Sorts by file, line and variable. `None` if there is none.
    pub(super) fn collect(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by(|a, b| (&a.place, &a.key).cmp(&(&b.place, &b.key)));
        problems.dedup();
        (!problems.is_empty()).then_some(Self { list: problems, is_of_disabled: false })
    }

    /// Records that the configuration says `enabled = false`.
    pub(super) fn mark_disabled(self) -> Self {
        Self { is_of_disabled: true, ..self }
    }

    /// Returns whether the configuration is disabled: then its problems are not errors yet.
    #[must_use]
    pub fn is_disabled(&self) -> bool {
        self.is_of_disabled
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Problem] {
        &self.list
    }

    /// Those that `known` does not have. What is advised is not compared.
    #[must_use]
    pub fn besides(&self, known: &Self) -> Option<Self> {
        let is_known = |one: &&Problem| {
            known.list.iter().any(|other| {
                (&other.place, &other.key, &other.found) == (&one.place, &one.key, &one.found)
            })
        };
        Self::collect(self.list.iter().filter(|one| !is_known(one)).cloned().collect())
    }

    /// The problems as warnings.
    pub fn as_warnings(&self) -> impl Iterator<Item = Warning> {
        self.list.iter().map(|problem| Warning {
            place: problem.place.clone(),
            key: problem.key.clone(),
            message: problem.message(),
        })
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { list: vec![problem], is_of_disabled: false }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_slice() {
            [one] => write!(f, "1 problem in the configuration:\n  {one}"),
            many => {
                write!(f, "{} problems in the configuration:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

/// A suspicious value that does not prevent the instance from running.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    pub place: Place,
    pub key: Option<String>,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}
