//! What was given, before it is judged: one value per key, each with its place.
//!
//! Four sources, of which later ones win: the defaults, the [`file`](self::file), the variables
//! `KMS_CONNECTOR_<KEY>`, and `KMS_CONNECTOR_INSTANCE_<STEM>__<KEY>`, the form for one instance of many
//! ([`environment`]). The `config` crate merges them and keeps each value's origin. What it merges are
//! positions in a side table of [`Value`]s: any text may be a secret, in whatever key it stands, so the
//! crate has none to print or to convert, and its deserialiser, which ends at the first error, is not
//! used.

mod file;
mod environment;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use ::config::{ConfigError, Map, ValueKind};

use super::{
    keys::Key,
    problems::{Place, Problem, Warning},
    secret::SecretString,
    values::Value,
};

pub(super) use environment::{
    odd_variables, quoted_places, variable_for, variables_of_no_instance,
};

/// The origin of a value that nobody gave.
const DEFAULT: &str = "default";

/// From the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Default,
    File,
    Variable,
    InstanceVariable,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub value: Value,
    pub place: Place,
    pub layer: Layer,
}

/// What one source gives, by key.
#[derive(Clone, Debug, Default)]
struct Entries(Map<String, ::config::Value>);

impl ::config::Source for Entries {
    fn clone_into_box(&self) -> Box<dyn ::config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, ::config::Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// What the sources give, and what was noticed on the way.
#[derive(Debug, Default)]
pub(super) struct Sources {
    layers: BTreeMap<Layer, Entries>,
    /// The side table.
    values: Vec<(Value, Layer)>,
    /// The one whose lines are origins.
    file: PathBuf,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl Sources {
    /// The defaults, for others to go on top.
    pub fn new() -> Self {
        let mut sources = Self::default();
        for key in Key::ALL.iter().copied() {
            if let Some(text) = key.default() {
                let value = Value::Text(SecretString::new(text.to_owned()));
                sources.give(Layer::Default, key, value, DEFAULT);
            }
        }
        sources
    }

    fn give(&mut self, layer: Layer, key: Key, value: Value, origin: &str) {
        let index = u64::try_from(self.values.len()).unwrap_or(u64::MAX);
        self.values.push((value, layer));
        let value = ::config::Value::new(Some(&origin.to_owned()), index);
        self.layers.entry(layer).or_default().0.insert(key.name().to_owned(), value);
    }

    /// Where one source has this key already.
    fn origin(&self, layer: Layer, key: Key) -> Option<&str> {
        self.layers.get(&layer)?.0.get(key.name())?.origin()
    }

    /// Merges them.
    pub fn merged(self) -> RawConfig {
        let Self { layers, values, file, problems, warnings } = self;
        let mut builder = ::config::Config::builder();
        for entries in layers.into_values() {
            builder = builder.add_source(entries);
        }
        let merged =
            builder.build().expect("a source fails only where it reads, and ours have read");
        let given = Key::ALL.iter().filter_map(|key| {
            let found = at(&merged.cache, key.name())?;
            let ValueKind::U64(index) = found.kind else { return None };
            let (value, layer) = values.get(usize::try_from(index).ok()?)?.clone();
            Some((*key, Given { value, place: place(found.origin()?, layer, &file), layer }))
        });
        RawConfig { given: given.collect(), problems, warnings }
    }
}

/// The value of this name, whose parts are parted by dots.
fn at<'v>(root: &'v ::config::Value, name: &str) -> Option<&'v ::config::Value> {
    name.split('.').try_fold(root, |value, part| {
        let ValueKind::Table(table) = &value.kind else { return None };
        table.get(part)
    })
}

/// What an origin means.
fn place(origin: &str, layer: Layer, file: &Path) -> Place {
    match layer {
        Layer::Default => Place::Configuration,
        Layer::File => Place::File { path: file.to_owned(), line: line(origin), column: None },
        Layer::Variable | Layer::InstanceVariable => Place::Variable(origin.to_owned()),
    }
}

/// The line of an origin in the file.
fn line(origin: &str) -> Option<usize> {
    origin.rsplit_once(':')?.1.parse().ok()
}

/// All that was given, by key, and what was noticed on the way.
#[derive(Clone, Debug)]
pub(super) struct RawConfig {
    given: BTreeMap<Key, Given>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl RawConfig {
    /// Where nobody gave one, the default.
    pub fn get(&self, key: Key) -> Option<&Given> {
        self.given.get(&key)
    }

    /// What somebody gave.
    pub fn given(&self, key: Key) -> Option<&Given> {
        self.get(key).filter(|given| given.layer != Layer::Default)
    }
}
