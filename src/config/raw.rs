//! What was given, before it is judged: TOML text and environment variables become one value per
//! known key, each with its place. TOML is understood here and nowhere else.
//!
//! Later layers win: file, then `KMS_CONNECTOR_<KEY>`, then
//! `KMS_CONNECTOR_INSTANCE_<STEM>__<KEY>`, the form for one instance of many.

mod reader;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

use toml::de::DeTable;

use self::reader::{Lines, Reader};
use super::problems::{Place, Problem, Warning};
use super::secret::SecretString;
use super::{Environment, Mode, foreign, variable_form};

/// What the name of every environment variable of ours begins with.
pub(super) const PREFIX: &str = "KMS_CONNECTOR_";

/// Variables with our prefix that are no configuration keys.
const OTHER_VARIABLES: [&str; 5] = ["CONFIG_DIR", "STATE_DIR", "LISTEN", "LISTEN_NAMES", "COMMIT"];

macro_rules! keys {
    ($($variant:ident = $name:literal,)+) => {
        /// A configuration key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) enum Key { $($variant,)+ }

        impl Key {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As written in a file, with its table.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

keys! {
    Enabled = "enabled",
    Mode = "mode",
    ServiceName = "service_name",
    GatewayUrl = "gateway_url",
    GatewayFallbackUrls = "gateway_fallback_urls",
    KmsCoreEndpoint = "kms_core_endpoint",
    ChainId = "chain_id",
    DecryptionAddress = "decryption_address",
    GatewayConfigAddress = "gateway_config_address",
    PrivateKeyText = "private_key",
    PrivateKeyFile = "private_key_file",
    AwsKeyId = "aws_kms_config.key_id",
    AwsRegion = "aws_kms_config.region",
    AwsEndpoint = "aws_kms_config.endpoint",
    S3Region = "s3_config.region",
    S3Bucket = "s3_config.bucket",
    S3Endpoint = "s3_config.endpoint",
    CaFile = "ca_file",
    ChannelSize = "channel_size",
    PublicDecryptionTimeoutSecs = "public_decryption_timeout_secs",
    UserDecryptionTimeoutSecs = "user_decryption_timeout_secs",
    RetryIntervalSecs = "retry_interval_secs",
    DecryptionDomainName = "decryption_domain_name",
    DecryptionDomainVersion = "decryption_domain_version",
    GatewayConfigDomainName = "gateway_config_domain_name",
    GatewayConfigDomainVersion = "gateway_config_domain_version",
    VerifyCoprocessors = "verify_coprocessors",
    GasLimit = "gas_limit",
    MaxFeePerGasGwei = "max_fee_per_gas_gwei",
    StartingBlock = "starting_block",
    Finality = "finality",
    Confirmations = "confirmations",
    PublicDecryptionConfirmations = "public_decryption_confirmations",
    UserDecryptionConfirmations = "user_decryption_confirmations",
    RequestExpirySecs = "request_expiry_secs",
    HeldRetrySecs = "held_retry_secs",
    JournalRetentionDays = "journal_retention_days",
    CiphertextMemoryMib = "ciphertext_memory_mib",
    MaxRequestsInFlight = "max_requests_in_flight",
    MaxTransactionsInFlight = "max_transactions_in_flight",
}

/// The tables a file may have.
const TABLES: [&str; 2] = ["aws_kms_config", "s3_config"];

impl Key {
    /// The part after `KMS_CONNECTOR_`: upper case, `__` between table and key.
    pub(super) fn variable(self) -> String {
        self.name().replace('.', "__").to_uppercase()
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.name() == name)
    }

    fn from_variable(rest: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.variable() == rest)
    }

    /// Keys that make two instances one when they come from a variable all instances share.
    fn is_one_instance_only(self) -> bool {
        matches!(
            self,
            Self::PrivateKeyText
                | Self::PrivateKeyFile
                | Self::AwsKeyId
                | Self::KmsCoreEndpoint
                | Self::ServiceName
        )
    }
}

/// A value as found. Its text may be a secret, in whatever key it stands.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(SecretString),
    /// Decimal text; TOML's other radixes are already translated. Too large ones stay too large.
    Integer(SecretString),
    /// As written.
    Float(SecretString),
    Boolean(bool),
    /// A list of texts only.
    Texts(Vec<SecretString>),
    /// A TOML type no key takes, by name.
    Other(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
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

/// All that was given, by key, and what was noticed on the way.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    given: BTreeMap<Key, Given>,
    pub problems: Vec<Problem>,
    pub warnings: Vec<Warning>,
}

impl Raw {
    pub fn get(&self, key: Key) -> Option<&Given> {
        self.given.get(&key)
    }

    /// Reads a file's text. Syntax errors are noted together, the first [`MOST_OF_A_KIND`] of them; a
    /// table with one is not read further, since what is missing from it says nothing. Answers whether
    /// the text was TOML. Takes time in proportion to the text's length, whatever it is.
    pub fn add_file(&mut self, path: &Path, text: &str) -> bool {
        let lines = Lines::of(text);
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            Reader::read(self, path, lines, root.get_ref());
            return true;
        }
        let at = |error: &toml::de::Error| error.span().map_or(text.len(), |span| span.start);
        let place = |error: &toml::de::Error| {
            let (line, column) = lines.position(at(error));
            Place::File { path: path.to_owned(), line: Some(line), column: Some(column) }
        };
        for error in errors.iter().take(MOST_OF_A_KIND) {
            self.problems.push(Problem {
                place: place(error),
                key: None,
                // The parser's message names what it expected, never the text it read.
                found: format!("a syntax error ({})", error.message()),
                allowed: "TOML".to_owned(),
                advice: "Texts stand in quotes, numbers do not, tables begin with [name]"
                    .to_owned(),
            });
        }
        if let Some(next) = errors.get(MOST_OF_A_KIND) {
            let more = errors.len() - MOST_OF_A_KIND;
            self.problems.push(and_more(place(next), more, "syntax errors", "TOML"));
        }
        false
    }

    /// Reads the variables: the plain ones, and those of the instance whose file has this stem.
    pub fn add_environment(&mut self, environment: &Environment, stem: Option<&str>, mode: Mode) {
        let own = stem.map(instance_prefix);
        for (name, value) in environment.iter() {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if OTHER_VARIABLES.contains(&rest) {
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
                // Without a file, a program that runs on its defaults would not be what they meant.
                let alone = mode == Mode::Start && stem.is_none();
                self.unknown_variable(name, rest, alone);
                continue;
            };
            // An empty one counts as not set, here as elsewhere.
            let is_shared = layer == Layer::Variable && key.is_one_instance_only();
            if mode == Mode::Supervise && is_shared && !is_blank(value) {
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
        if stands_in_quotes(text) {
            self.problems.push(quoted(place, Some(key.name().to_owned())));
            return;
        }
        let value = Value::Text(SecretString::new(text.to_owned()));
        let stronger = self.given.get(&key).is_none_or(|given| given.layer < layer);
        if stronger {
            self.given.insert(key, Given { value, place, layer });
        }
    }

    /// A variable that would be taken for this key. `stem`: of the instance's file.
    pub(super) fn variable_for(key: Key, mode: Mode, stem: Option<&str>) -> String {
        match stem {
            Some(stem) if mode == Mode::Supervise && key.is_one_instance_only() => {
                format!("{PREFIX}{}{}", instance_prefix(stem), key.variable())
            }
            Some(_) | None => format!("{PREFIX}{}", key.variable()),
        }
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

    /// `alone`: there is no file, so the variables are all there is.
    fn unknown_variable(&mut self, name: &str, rest: &str, alone: bool) {
        let place = Place::Variable(name.to_owned());
        if let Some(told) = foreign::told(&rest.replace("__", ".")) {
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
        // Of one instance, or of all.
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

/// `SERVICE_HOST`, `SERVICE_PORT_HTTP`, `PORT`, `PORT_9478_TCP_ADDR`.
fn is_of_kubernetes(rest: &str) -> bool {
    rest == "PORT"
        || ["SERVICE_HOST", "SERVICE_PORT", "PORT_"].iter().any(|begin| rest.starts_with(begin))
}

const INSTANCE: &str = "INSTANCE_";

/// Of syntax errors and of unknown keys so many are told one by one: a file that is no configuration
/// at all has one on each line.
const MOST_OF_A_KIND: usize = 20;

/// What stands for those that are not told one by one. `place`: of the first of them.
fn and_more(place: Place, more: usize, what: &str, allowed: &str) -> Problem {
    Problem {
        place,
        key: None,
        found: format!("{more} more {what} from here on"),
        allowed: allowed.to_owned(),
        advice: "Mend the first ones, or look whether this is the right file".to_owned(),
    }
}

/// Docker's env files, and others that are no shell, keep the quotes around a value as part of it.
pub(super) fn stands_in_quotes(text: &str) -> bool {
    ['"', '\'']
        .iter()
        .any(|quote| text.len() > 1 && text.starts_with(*quote) && text.ends_with(*quote))
}

/// What to do about them.
pub(super) const QUOTES: &str = "Remove the quotes: Docker's env files keep them as part of the \
                                 value, a shell and systemd do not";

pub(super) fn quoted(place: Place, key: Option<String>) -> Problem {
    Problem {
        place,
        key,
        found: "a value that stands in quotes".to_owned(),
        allowed: "the value itself".to_owned(),
        advice: QUOTES.to_owned(),
    }
}

/// Those of [`OTHER_VARIABLES`] that stand in quotes.
pub(super) fn quoted_places(environment: &Environment) -> Vec<Problem> {
    let ours = OTHER_VARIABLES.iter().map(|name| format!("{PREFIX}{name}"));
    let is_quoted = |name: &String| {
        environment
            .get(name)
            .and_then(|value| value.to_str())
            .is_some_and(|text| stands_in_quotes(text.trim()))
    };
    ours.filter(is_quoted).map(|name| quoted(Place::Variable(name), None)).collect()
}

/// Variables of the whole process that do not do what was meant: of logs and traces those that stand
/// in quotes, and any with our prefix in another case.
pub(super) fn odd_variables(environment: &Environment) -> Vec<Warning> {
    let odd = environment.iter().filter_map(|(name, value)| {
        let is_plain = name == "RUST_LOG" || name.starts_with("OTEL_");
        let message = if is_plain {
            let is_quoted = value.to_str().is_some_and(|text| stands_in_quotes(text.trim()));
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

/// Bytes that are not UTF-8 are not blank.
fn is_blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}

pub(super) fn variables_of_no_instance<'a>(
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
            message: "names an instance that no file makes and has no effect; after INSTANCE_ \
                      comes the file's name without .toml, in upper case, with _ for all but \
                      letters and digits, then __"
                .to_owned(),
        })
        .collect()
}

/// A key's name, unless it is of a length that only a mistake, or a secret, has.
fn show_name(name: &str) -> String {
    if name.chars().count() <= 60 && name.chars().all(|c| !c.is_control()) {
        name.to_owned()
    } else {
        format!("(a name of {} characters)", name.chars().count())
    }
}

/// The candidate most like `name`, if it is like it at all. Case and dashes do not count, nor
/// does the table: `region` is like `s3_config.region`.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace("__", "_").replace(['-', '.'], "_");
    let last = |text: &str| plain(text.rsplit('.').next().unwrap_or(text));
    if name.len() > 200 {
        return None; // no key is near, and the distance is quadratic
    }
    candidates
        .map(|candidate| {
            let whole = strsim::damerau_levenshtein(&plain(name), &plain(&candidate));
            let part = strsim::damerau_levenshtein(&last(name), &last(&candidate)) + 1;
            (whole.min(part), candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + last(candidate).len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// What of a value may be shown. Secrets find their way into the wrong key, so nothing is shown
/// that is as long as a key or looks like a URL.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => show_text(text.expose()),
        Value::Integer(number) | Value::Float(number) if number.expose().len() <= 40 => {
            number.expose().to_owned()
        }
        Value::Integer(number) | Value::Float(number) => {
            format!("a number of {} characters", number.expose().len())
        }
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Texts(_) => "a list".to_owned(),
        Value::Other(name) => (*name).to_owned(),
    }
}

fn show_text(text: &str) -> String {
    let length = text.chars().count();
    let looks_secret = text.contains("://") || text.contains('@');
    if text.is_empty() {
        "an empty text".to_owned()
    } else if length <= 42 && !looks_secret {
        format!("{text:?}")
    } else {
        format!("a text of {length} characters")
    }
}

/// What a value in a key that holds secrets looks like, without a character of it.
pub(super) fn show_shape(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a decimal number",
        Value::Boolean(_) => "true or false",
        Value::Texts(_) => "a list",
        Value::Other(name) => name,
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let find = |name| nearest(name, Key::ALL.iter().map(|key| key.name().to_owned()));
        assert_eq!(find("gateway-url").as_deref(), Some("gateway_url"));
        assert_eq!(find("kms_core_endpoints").as_deref(), Some("kms_core_endpoint"));
        assert_eq!(find("chainid").as_deref(), Some("chain_id"));
        assert_eq!(find("bucket").as_deref(), Some("s3_config.bucket"));
        assert_eq!(find("s3_config_bucket").as_deref(), Some("s3_config.bucket"));
        assert_eq!(find("colour"), None);
    }
}
