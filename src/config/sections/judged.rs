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

/// A list of URLs, or a text with commas. All faults are told.
pub(super) fn urls(value: &Value, schemes: &[&str]) -> Result<Vec<SecretUrl>, Vec<Fault>> {
    let texts: Vec<SecretString> = match value {
        Value::Texts(texts) => texts.clone(),
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
    for text in &texts {
        match url_text(text.expose(), schemes) {
            Ok(url) => urls.push(url),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(urls) } else { Err(faults) }
}

/// One URL given twice would count as two nodes.
pub(super) fn repeated_url(first: &SecretUrl, more: &[SecretUrl]) -> Option<Fault> {
    let repeated =
        more.iter().enumerate().any(|(index, url)| url == first || more[..index].contains(url));
    repeated.then(|| {
        Fault::new(
            "the same URL twice",
            "URLs that differ from each other and from the first one",
            "Each one counts as a node of its own",
        )
    })
}

fn url_text(text: &str, schemes: &[&str]) -> Result<SecretUrl, Fault> {
    let allowed = format!("a URL with {}", schemes.join(", "));
    let text = text.trim();
    let advice = format!("Begin with {}://", schemes[0]);
    let Some((scheme, _)) = text.split_once("://") else {
        let found = format!("a text of {} characters without ://", text.chars().count());
        return Err(Fault::new(found, allowed, &advice));
    };
    let scheme = scheme.to_ascii_lowercase();
    if !schemes.contains(&scheme.as_str()) {
        // Only well-known schemes are shown, because anything else may be part of a secret.
        let known = ["http", "https", "ws", "wss", "grpc", "grpcs", "tcp", "ipc", "unix", "s3"];
        let found = if known.contains(&scheme.as_str()) {
            format!("a URL with {scheme}://")
        } else {
            "a URL with an unknown scheme".to_owned()
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
