//! Pure: what a single value means, or what is wrong with it. The place of the fault is the caller's.

use std::ops::RangeInclusive;

use alloy::primitives::Address;
use url::Url;

use super::super::{
    SecretString, SecretUrl,
    secret::strip_0x,
    values::{Value, show, show_shape},
};

/// Each is a connection that is kept open.
pub(super) const MAX_FALLBACK_URLS: usize = 8;

/// What is wrong with a value; becomes a [`Problem`](super::Problem).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub found: String,
    pub allowed: String,
    pub advice: String,
}

impl Fault {
    pub(super) fn new(found: impl Into<String>, allowed: impl Into<String>, advice: &str) -> Self {
        Self { found: found.into(), allowed: allowed.into(), advice: advice.to_owned() }
    }

    /// The same of one entry of a list. Entries are counted from 1.
    fn in_entry(self, index: usize, of: usize) -> Self {
        if of == 1 {
            return self;
        }
        Self { found: format!("{} as entry {} of {of}", self.found, index + 1), ..self }
    }
}

pub(super) fn number(value: &Value, range: RangeInclusive<u64>, unit: &str) -> Result<u64, Fault> {
    match value.integer().and_then(|number| u64::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let allowed = format!("an integer from {} to {} {unit}", range.start(), range.end());
            Err(Fault::new(show(value, &[]), allowed.trim_end(), ""))
        }
    }
}

pub(super) fn address(value: &Value) -> Result<Address, Fault> {
    let allowed = "40 hex digits, with or without 0x";
    let Value::Text(text) = value else {
        return Err(Fault::new(show_shape(value), allowed, "Put the address in quotes"));
    };
    let text = text.expose().trim();
    if text.contains("...") {
        let found = "the placeholder of the documentation";
        return Err(Fault::new(found, allowed, "Fill in the contract's address"));
    }
    let digits = strip_0x(text);
    let mut bytes = [0; 20];
    if alloy::hex::decode_to_slice(digits, &mut bytes).is_err() || digits.len() != 40 {
        let found = if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            format!("{} hex digits", digits.len())
        } else {
            show(value, &[])
        };
        return Err(Fault::new(found, allowed, ""));
    }
    let address = Address::from(bytes);
    let mixed = digits.bytes().any(|byte| byte.is_ascii_lowercase())
        && digits.bytes().any(|byte| byte.is_ascii_uppercase());
    let checksummed = address.to_checksum(None);
    if mixed && strip_0x(&checksummed) != digits {
        let advice = format!(
            "A digit or a letter's case is wrong. Compare it with the deployment; if the digits are \
             right, write {checksummed}"
        );
        return Err(Fault::new(
            format!("{text:?}, whose EIP-55 checksum is wrong"),
            "an address in lower case, or with its right checksum",
            &advice,
        ));
    }
    if address.is_zero() {
        return Err(Fault::new("the zero address", "a contract's address", ""));
    }
    Ok(address)
}

pub(super) fn url(value: &Value, schemes: &[&str]) -> Result<SecretUrl, Fault> {
    let Value::Text(text) = value else {
        let allowed = format!("a URL with {}", schemes.join(", "));
        return Err(Fault::new(show_shape(value), allowed, ""));
    };
    url_text(text.expose(), schemes)
}

/// A list of URLs, or a text with commas. All faults are told, each with its entry.
pub(super) fn urls(value: &Value, schemes: &[&str]) -> Result<Vec<SecretUrl>, Vec<Fault>> {
    let texts: Vec<SecretString> = match value {
        Value::Texts(texts) => texts.clone(),
        Value::Text(text) if text.expose().trim_start().starts_with('[') => {
            let allowed = "URLs with commas between them, without brackets and quotes";
            return Err(vec![Fault::new("a list in brackets".to_owned(), allowed, "")]);
        }
        Value::Text(text) => {
            let parts = text.expose().split(',').map(str::trim);
            parts.map(|part| SecretString::new(part.to_owned())).collect()
        }
        Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Tables(_)
        | Value::Other(_) => {
            let allowed = "a list of URLs, in a variable with commas between them";
            return Err(vec![Fault::new(show_shape(value), allowed, "")]);
        }
    };
    if texts.len() > MAX_FALLBACK_URLS {
        let allowed = format!("at most {MAX_FALLBACK_URLS} URLs");
        return Err(vec![Fault::new(format!("{} URLs", texts.len()), allowed, "")]);
    }
    let (mut urls, mut faults) = (Vec::new(), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        match url_text(text.expose(), schemes) {
            Ok(url) => urls.push(url),
            Err(fault) => faults.push(fault.in_entry(index, texts.len())),
        }
    }
    if faults.is_empty() { Ok(urls) } else { Err(faults) }
}

/// One URL given twice would count as two nodes. `first`: the key of the first URL, and that URL.
pub(super) fn repeated_url((key, first): (&str, &SecretUrl), more: &[SecretUrl]) -> Option<Fault> {
    let repeated = more.iter().enumerate().find_map(|(index, url)| {
        if url == first {
            return Some(format!("entry {} is {key}", index + 1));
        }
        let earlier = more[..index].iter().position(|other| other == url)?;
        Some(format!("entries {} and {}", earlier + 1, index + 1))
    })?;
    Some(Fault::new(
        format!("the same URL twice ({repeated})"),
        "URLs that differ from each other and from the first one",
        "Each one counts as a node of its own",
    ))
}

/// Only well-known schemes are shown, because anything else may be part of a secret.
const SHOWN_SCHEMES: [&str; 10] =
    ["http", "https", "ws", "wss", "grpc", "grpcs", "tcp", "ipc", "unix", "s3"];

fn shown_scheme(scheme: &str) -> Option<&'static str> {
    SHOWN_SCHEMES.into_iter().find(|known| known.eq_ignore_ascii_case(scheme))
}

fn url_text(text: &str, schemes: &[&str]) -> Result<SecretUrl, Fault> {
    let allowed = format!("a URL with {}", schemes.join(", "));
    let text = text.trim();
    let advice = format!("Begin with {}://", schemes[0]);
    let Some((scheme, _)) = text.split_once("://") else {
        let scheme = text.split_once(':').and_then(|(scheme, _)| shown_scheme(scheme));
        if let Some(scheme) = scheme.filter(|scheme| schemes.contains(scheme)) {
            let advice = format!("Write {scheme}:// and the host");
            return Err(Fault::new(format!("{scheme}: without //"), allowed, &advice));
        }
        let found = if text.is_empty() {
            "an empty text".to_owned()
        } else {
            format!("a text of {} characters without ://", text.chars().count())
        };
        return Err(Fault::new(found, allowed, &advice));
    };
    if !schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
        let found = match shown_scheme(scheme) {
            Some(scheme) => format!("a URL with {scheme}://"),
            None => "a URL with an unknown scheme".to_owned(),
        };
        return Err(Fault::new(found, allowed, &advice));
    }
    match Url::parse(text) {
        Ok(url) if url.port() == Some(0) => {
            Err(Fault::new("a URL with port 0", "a port from 1 to 65535", ""))
        }
        Ok(url) if url.has_host() => Ok(SecretUrl::new(url)),
        Ok(_) => Err(Fault::new("a URL without a host", allowed, "")),
        // The parser's errors are constant texts (`invalid port number`).
        Err(error) => Err(Fault::new(format!("a broken URL ({error})"), allowed, "")),
    }
}
