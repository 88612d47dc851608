//! The given values before they are checked: one value per key, each with its place.
//!
//! Four sources, of which later ones win: the defaults, the [`file`](self::file), the variables
//! `KMS_CONNECTOR_<KEY>`, and `KMS_CONNECTOR_INSTANCE_<STEM>__<KEY>` for one instance of many
//! ([`environment`]). The `config` crate merges them and keeps each value's origin. It merges positions
//! in a side table of [`Value`]s, because any text may be a secret, in whatever key it stands: the
//! crate has no text to print or to convert. Its deserialiser is not used, because it ends at the first
//! error.

mod file;
mod environment;
mod json;

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

/// The origin of a default.
const DEFAULT: &str = "default";

/// From the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    Default,
    File,
    Variable,
    InstanceVariable,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub value: Value,
    pub place: Place,
    pub layer: Layer,
}

/// The values of one source, by key.
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

/// The values of all sources, and the problems and warnings found while reading them.
#[derive(Debug, Default)]
pub(super) struct Sources {
    layers: BTreeMap<Layer, Entries>,
    /// The side table.
    values: Vec<(Value, Layer)>,
    /// The file that line numbers refer to.
    file: PathBuf,
    /// The keys that unknown ones seem to mean.
    pub mistyped: Vec<Key>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl Sources {
    /// The defaults, as the lowest layer.
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

    /// The value of a list of tables that was given as JSON text; any other value as it is. `None`: a
    /// problem was noted.
    fn read_tables(&mut self, key: Key, value: Value, place: &Place) -> Option<Value> {
        let Value::Text(text) = &value else { return Some(value) };
        if !key.is_list_of_tables() {
            return Some(value);
        }
        match json::tables(text.expose()) {
            Ok(tables) => Some(tables),
            Err(found) => {
                self.problems.push(Problem {
                    place: place.clone(),
                    key: Some(key.name().to_owned()),
                    found,
                    allowed: "a JSON list of objects".to_owned(),
                    advice: "Write [{\"chain_id\": 1, \"url\": \"wss://node.example\", \
                             \"acl_address\": \"0x...\"}], or in a file [[host_chains]]"
                        .to_owned(),
                });
                None
            }
        }
    }

    /// The origin of this key in one layer, if that has it.
    fn origin(&self, layer: Layer, key: Key) -> Option<&str> {
        self.layers.get(&layer)?.0.get(key.name())?.origin()
    }

    /// Merges all layers.
    pub fn merged(self) -> RawConfig {
        let Self { layers, values, file, mistyped, problems, warnings } = self;
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
        RawConfig { given: given.collect(), mistyped, problems, warnings }
    }
}

/// The value at this dotted name.
fn at<'v>(root: &'v ::config::Value, name: &str) -> Option<&'v ::config::Value> {
    name.split('.').try_fold(root, |value, part| {
        let ValueKind::Table(table) = &value.kind else { return None };
        table.get(part)
    })
}

/// Translates an origin to a place.
fn place(origin: &str, layer: Layer, file: &Path) -> Place {
    match layer {
        Layer::Default => Place::Configuration,
        Layer::File => Place::File { path: file.to_owned(), line: line(origin), column: None },
        Layer::Variable | Layer::InstanceVariable => Place::Variable(origin.to_owned()),
    }
}

/// The file's line in an origin.
fn line(origin: &str) -> Option<usize> {
    origin.rsplit_once(':')?.1.parse().ok()
}

/// All given values by key, and the problems and warnings found while reading them.
#[derive(Clone, Debug)]
pub(super) struct RawConfig {
    given: BTreeMap<Key, Given>,
    /// The keys that unknown ones seem to mean: they are not missing, they are mistyped.
    pub mistyped: Vec<Key>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl RawConfig {
    /// The given value, else the default.
    pub fn get(&self, key: Key) -> Option<&Given> {
        self.given.get(&key)
    }

    /// The given value, without the default.
    pub fn given(&self, key: Key) -> Option<&Given> {
        self.get(key).filter(|given| given.layer != Layer::Default)
    }
}
