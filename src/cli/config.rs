//! `config`: the effective configuration, each value with its source.

use std::path::PathBuf;

use super::{
    output::{Exit, complain, print},
    places,
    text::{printable, table},
};
use crate::{
    config::{self, Entry, Environment, Mode, Problems, Warning},
    supervisor::directory::patiently,
};

/// Which configuration, as for `check`.
#[derive(Debug)]
pub(super) enum Which {
    Instance(String),
    File(Option<PathBuf>),
}

/// Prints the configuration.
pub(super) fn config(
    which: Which,
    config_dir: &std::path::Path,
    environment: Environment,
    json: bool,
) -> Exit {
    let odd = config::odd_variables(&environment);
    let (entries, warnings) = match entries(which, config_dir, environment) {
        Ok(whole) => whole,
        Err(problems) => {
            complain(&problems);
            return Exit::BadConfiguration;
        }
    };
    for warning in warnings.into_iter().chain(odd) {
        complain(format_args!("warning: {warning}"));
    }
    if json {
        return print(&(serde_json::json!(entries).to_string() + "\n"), Exit::Success);
    }
    print(&as_text(&entries), Exit::Success)
}

fn entries(
    which: Which,
    config_dir: &std::path::Path,
    environment: Environment,
) -> Result<(Vec<Entry>, Vec<Warning>), Problems> {
    let (file, mode) = match which {
        Which::Instance(name) => (Some(config_dir.join(format!("{name}.toml"))), Mode::Supervise),
        Which::File(file) => {
            (file.map(|file| places::find_telling(&file, config_dir)).transpose()?, Mode::Start)
        }
    };
    let source = places::source(file, environment, mode);
    patiently(source.file.clone().as_deref(), move || config::effective(&source))
}

fn as_text(entries: &[Entry]) -> String {
    let heading = ["KEY", "VALUE", "SOURCE"].map(str::to_owned);
    let rows = entries.iter().map(|Entry { key, value, source }| {
        let value = value.as_deref().map_or_else(|| "-".to_owned(), printable);
        [(*key).to_owned(), value, printable(source)]
    });
    let rows: Vec<[String; 3]> = std::iter::once(heading).chain(rows).collect();
    table(&rows)
}
