//! The environment's values: `KMS_CONNECTOR_<KEY>` for all instances,
//! `KMS_CONNECTOR_INSTANCE_<STEM>__<KEY>` for one; and variables that do not have the intended effect.

use std::ffi::{OsStr, OsString};

use super::super::{
    Environment, LoadMode,
    keys::{Key, nearest},
    other_connectors,
    problems::{Place, Problem, Warning},
    secret::SecretString,
    values::{QUOTES, Value, has_quotes, quoted_problem},
    variable_form,
};
use super::{Layer, Sources};

/// The prefix of all our environment variables.
const PREFIX: &str = "KMS_CONNECTOR_";
const INSTANCE: &str = "INSTANCE_";

/// Variables with our prefix that are not configuration keys.
const PROCESS_VARIABLES: [&str; 5] =
    ["CONFIG_DIR", "STATE_DIR", "LISTEN", "LISTEN_NAMES", "COMMIT"];

impl Sources {
    /// Reads the shared variables, and those of the instance whose file has this stem.
    pub fn add_environment(
        &mut self,
        environment: &Environment,
        stem: Option<&str>,
        mode: LoadMode,
    ) {
        let own = stem.map(instance_prefix);
        for (name, value) in environment.iter() {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if PROCESS_VARIABLES.contains(&rest) {
                continue;
            }
            let (rest, layer) = if rest.starts_with(INSTANCE) {
                match own.as_deref().and_then(|own| rest.strip_prefix(own)) {
                    Some(rest) => (rest, Layer::InstanceVariable),
                    None => continue, // another instance's
                }
            } else {
                (rest, Layer::Variable)
            };
            let Some(key) = Key::from_variable(rest) else {
                // Without a file, unknown variables would leave the program running on its defaults.
                let alone = mode == LoadMode::Start && stem.is_none();
                self.unknown_variable(name, rest, alone);
                continue;
            };
            // An empty variable counts as not set, as elsewhere.
            let is_shared = layer == Layer::Variable && key.is_one_instance_only();
            if mode == LoadMode::Supervise && is_shared && !is_blank(value) {
                self.shared_variable(name, key, own.as_deref());
                continue;
            }
            self.variable(name, value, key, layer);
        }
    }

    fn variable(&mut self, name: &str, value: &OsString, key: Key, layer: Layer) {
        let place = Place::Variable(name.to_owned());
        let Some(text) = value.to_str() else {
            self.problems.push(Problem {
                place,
                key: Some(key.name().to_owned()),
                found: "bytes that are not UTF-8".to_owned(),
                allowed: "text".to_owned(),
                advice: "Set the variable again".to_owned(),
            });
            return;
        };
        let text = text.trim();
        if text.is_empty() {
            self.warnings.push(Warning {
                place,
                key: Some(key.name().to_owned()),
                message: "is empty and counts as not set".to_owned(),
            });
            return;
        }
        if has_quotes(text) {
            self.problems.push(quoted_problem(place, Some(key.name().to_owned())));
            return;
        }
        let value = Value::Text(SecretString::new(text.to_owned()));
        let Some(value) = self.read_tables(key, value, &place) else { return };
        self.give(layer, key, value, name);
    }

    fn shared_variable(&mut self, name: &str, key: Key, own: Option<&str>) {
        self.problems.push(Problem {
            place: Place::Variable(name.to_owned()),
            key: Some(key.name().to_owned()),
            found: "a variable that would change every instance".to_owned(),
            allowed: "this key only in a file or in a variable of one instance".to_owned(),
            advice: match own {
                Some(own) => format!("Rename the variable to {PREFIX}{own}{}", key.variable()),
                None => format!(
                    "Rename the variable to {PREFIX}{INSTANCE}<STEM>__{}; <STEM> is the name of \
                     the instance's file without .toml, in upper case, with _ for all but letters \
                     and digits",
                    key.variable()
                ),
            },
        });
    }

    /// `alone`: there is no file, so the variables are the whole configuration.
    fn unknown_variable(&mut self, name: &str, rest: &str, alone: bool) {
        let place = Place::Variable(name.to_owned());
        if let Some(told) = other_connectors::hint_for(&rest.replace("__", ".")) {
            if alone {
                self.problems.push(Problem {
                    place,
                    key: None,
                    found: "a key of another connector".to_owned(),
                    allowed: "the keys of config-base.toml".to_owned(),
                    advice: told,
                });
            } else {
                let message = format!("has no effect. {told}");
                self.warnings.push(Warning { place, key: None, message });
            }
            return;
        }
        let variables = Key::ALL.iter().map(|key| key.variable());
        // The prefix of one instance, or of all.
        let before = name.strip_suffix(rest).unwrap_or(PREFIX);
        let guess = if before == PREFIX && is_of_kubernetes(rest) {
            " (Kubernetes sets such names for a service called kms-connector)".to_owned()
        } else {
            nearest(rest, variables)
                .map(|variable| format!("; did you mean {before}{variable}?"))
                .unwrap_or_default()
        };
        let message = format!("is no key of this program and has no effect{guess}");
        self.warnings.push(Warning { place, key: None, message });
    }
}

/// The variable that sets this key. `stem`: that of the instance's file.
pub(in crate::config) fn variable_for(key: Key, mode: LoadMode, stem: Option<&str>) -> String {
    match stem {
        Some(stem) if mode == LoadMode::Supervise && key.is_one_instance_only() => {
            format!("{PREFIX}{}{}", instance_prefix(stem), key.variable())
        }
        Some(_) | None => format!("{PREFIX}{}", key.variable()),
    }
}

/// Returns whether Kubernetes injects such a name: `SERVICE_HOST`, `SERVICE_PORT_HTTP`, `PORT`,
/// `PORT_9478_TCP_ADDR`.
fn is_of_kubernetes(rest: &str) -> bool {
    rest == "PORT"
        || ["SERVICE_HOST", "SERVICE_PORT", "PORT_"].iter().any(|begin| rest.starts_with(begin))
}

/// The [`PROCESS_VARIABLES`] whose values are in quotes.
pub(in crate::config) fn quoted_places(environment: &Environment) -> Vec<Problem> {
    let ours = PROCESS_VARIABLES.iter().map(|name| format!("{PREFIX}{name}"));
    let is_quoted = |name: &String| {
        environment
            .get(name)
            .and_then(|value| value.to_str())
            .is_some_and(|text| has_quotes(text.trim()))
    };
    ours.filter(is_quoted).map(|name| quoted_problem(Place::Variable(name), None)).collect()
}

/// Process-wide variables that do not have the intended effect: those of logs and traces whose values
/// are in quotes, and any with our prefix in another case.
pub(in crate::config) fn odd_variables(environment: &Environment) -> Vec<Warning> {
    let odd = environment.iter().filter_map(|(name, value)| {
        let is_plain = name == "RUST_LOG" || name.starts_with("OTEL_");
        let message = if is_plain {
            let is_quoted = value.to_str().is_some_and(|text| has_quotes(text.trim()));
            is_quoted.then(|| format!("stands in quotes. {QUOTES}"))?
        } else {
            let begins = name.get(..PREFIX.len())?;
            let is_other_case = begins != PREFIX && begins.eq_ignore_ascii_case(PREFIX);
            let right = name.to_uppercase();
            is_other_case.then(|| format!("has no effect: names are in upper case, {right}"))?
        };
        Some(Warning { place: Place::Variable(name.to_owned()), key: None, message })
    });
    odd.collect()
}

/// `INSTANCE_<STEM>__`
fn instance_prefix(stem: &str) -> String {
    format!("{INSTANCE}{}__", variable_form(stem))
}

/// Returns whether the value is blank. Bytes that are not UTF-8 are not.
fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}

pub(in crate::config) fn variables_of_no_instance<'a>(
    environment: &Environment,
    stems: impl Iterator<Item = &'a str>,
) -> Vec<Warning> {
    let own: Vec<String> = stems.map(instance_prefix).collect();
    let of_an_instance = environment.iter().filter_map(|(name, _)| {
        let rest = name.strip_prefix(PREFIX)?;
        rest.starts_with(INSTANCE).then_some((name, rest))
    });
    of_an_instance
        .filter(|(_, rest)| !own.iter().any(|own| rest.starts_with(own)))
        .map(|(name, _)| Warning {
            place: Place::Variable(name.to_owned()),
            key: None,
            message:
                "names an instance that has no file, and has no effect; after INSTANCE_ comes \
                      the file's name without .toml, in upper case, with _ for all but letters and \
                      digits, then __"
                    .to_owned(),
        })
        .collect()
}
