//! The value of one key, and how much of it may be shown.

use super::{
    problems::{Place, Problem},
    secret::SecretString,
};

/// A value as found. Its text may be a secret, in whatever key it stands.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(SecretString),
    /// Decimal text; TOML's other radixes are already converted. Numbers too large stay too large.
    Integer(SecretString),
    /// As written.
    Float(SecretString),
    Boolean(bool),
    /// A list that contains only texts.
    Texts(Vec<SecretString>),
    /// A list of tables: `[[name]]`.
    Tables(Vec<TableValue>),
    /// The name of a TOML type that no key accepts.
    Other(&'static str),
}

/// One table of a list.
#[derive(Clone, Debug)]
pub(super) struct TableValue {
    /// Of its header, in a file.
    pub line: Option<usize>,
    pub members: Vec<Member>,
}

/// A key in a [`TableValue`].
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub name: String,
    pub value: Value,
    pub line: Option<usize>,
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.expose()),
            Self::Integer(_)
            | Self::Float(_)
            | Self::Boolean(_)
            | Self::Texts(_)
            | Self::Tables(_)
            | Self::Other(_) => None,
        }
    }

    /// Also parses a quoted number, because variables are always text.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Self::Text(text) | Self::Integer(text) => text.expose().trim().parse().ok(),
            Self::Float(_)
            | Self::Boolean(_)
            | Self::Texts(_)
            | Self::Tables(_)
            | Self::Other(_) => None,
        }
    }
}

/// Returns whether the value is in quotes. Docker's env files and other tools without a shell keep them
/// as part of the value.
pub(super) fn has_quotes(text: &str) -> bool {
    ['"', '\'']
        .iter()
        .any(|quote| text.len() > 1 && text.starts_with(*quote) && text.ends_with(*quote))
}

/// Advice for quoted values.
pub(super) const QUOTES: &str = "Remove the quotes: Docker's env files keep them as part of the \
                                 value, a shell and systemd do not";

pub(super) fn quoted_problem(place: Place, key: Option<String>) -> Problem {
    Problem {
        place,
        key,
        found: "a value that stands in quotes".to_owned(),
        allowed: "the value itself".to_owned(),
        advice: QUOTES.to_owned(),
    }
}

/// Longer numbers than any key accepts may be a secret.
const LONGEST_NUMBER: usize = 20;

/// The part of a value that may be shown: numbers, booleans, and texts that read like one of the
/// `expected` words. All other texts may be a secret that stands in the wrong key.
pub(super) fn show(value: &Value, expected: &[&str]) -> String {
    match value {
        Value::Text(text) => show_text(text.expose(), expected),
        Value::Integer(number) | Value::Float(number)
            if number.expose().len() <= LONGEST_NUMBER =>
        {
            number.expose().to_owned()
        }
        Value::Integer(number) | Value::Float(number) => {
            format!("a number of {} characters", number.expose().len())
        }
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Texts(_) => "a list".to_owned(),
        Value::Tables(_) => "a list of tables".to_owned(),
        Value::Other(name) => (*name).to_owned(),
    }
}

fn show_text(text: &str, expected: &[&str]) -> String {
    let plain = text.trim().to_lowercase();
    let is_number = plain.len() <= LONGEST_NUMBER && plain.parse::<f64>().is_ok();
    let is_near = |word: &&str| strsim::damerau_levenshtein(&plain, word) <= word.len() / 2;
    let length = text.chars().count();
    if text.is_empty() {
        "an empty text".to_owned()
    } else if is_number || (length <= LONGEST_NUMBER && expected.iter().any(is_near)) {
        format!("{text:?}")
    } else {
        format!("a text of {length} character{}", if length == 1 { "" } else { "s" })
    }
}

/// Returns whether a text could be a key or a token. A path has a slash or an extension.
pub(super) fn looks_like_key(text: &str) -> bool {
    text.chars().count() >= 32 && !text.contains(['/', '.'])
}

/// A key's name, unless it must be a mistake or may be a secret.
pub(super) fn show_name(name: &str) -> String {
    let is_hex = name.len() >= 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.chars().count() <= 60 && !is_hex && name.chars().all(|c| !c.is_control()) {
        name.to_owned()
    } else {
        format!("(a name of {} characters)", name.chars().count())
    }
}

/// The shape of a value in a secret key, without a character of it.
pub(super) fn show_shape(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a decimal number",
        Value::Boolean(_) => "true or false",
        Value::Texts(_) => "a list",
        Value::Tables(_) => "a list of tables",
        Value::Other(name) => name,
    }
}
