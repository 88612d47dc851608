//! `config`: the effective configuration, each value with its source.

use super::{
    output::{ExitStatus, print, print_error},
    paths,
    target::ConfigTarget,
    text::{printable, table},
};
use crate::{
    config::{self, Entry, Environment, Problems, Warning},
    supervisor::config_dir::snapshot::load_bounded,
};

/// Prints the configuration.
pub(super) fn config(
    which: &ConfigTarget,
    config_dir: &std::path::Path,
    environment: Environment,
    json: bool,
) -> ExitStatus {
    if let ConfigTarget::File(None) = which
        && let Some(note) = paths::note_environment_alone(config_dir)
    {
        print_error(format_args!("note: {note}: `--instance NAME` shows one of them"));
    }
    let odd = config::suspicious_variables(&environment);
    let (entries, warnings) = match entries(which, config_dir, environment) {
        Ok(whole) => whole,
        Err(problems) => {
            print_error(&problems);
            return ExitStatus::BadConfiguration;
        }
    };
    for warning in warnings.into_iter().chain(odd) {
        print_error(format_args!("warning: {warning}"));
    }
    if json {
        return print(&(serde_json::json!(entries).to_string() + "\n"), ExitStatus::Success);
    }
    print(&as_text(&entries), ExitStatus::Success)
}

fn entries(
    which: &ConfigTarget,
    config_dir: &std::path::Path,
    environment: Environment,
) -> Result<(Vec<Entry>, Vec<Warning>), Problems> {
    let (file, mode) = which.find(config_dir)?;
    let unmatched = paths::unmatched_variables(file.as_deref(), config_dir, &environment);
    let source = paths::source(file, environment, mode);
    let (entries, mut warnings) =
        load_bounded(source.file.clone().as_deref(), move || config::effective(&source))?;
    warnings.extend(unmatched);
    Ok((entries, warnings))
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
